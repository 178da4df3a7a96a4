//! Other clients of the server: sessions that stay, and wrong passwords.

use std::{
    io::{BufRead as _, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use super::background::Stop;

const PATIENCE: Duration = Duration::from_secs(20);

/// A client's stream, in clear text or not.
pub trait Conversation: Read + Write + Send {}
impl<T: Read + Write + Send> Conversation for T {}

/// Opens a connection and reads the greeting; none if the server has none for us.
pub fn connect(server: SocketAddr, tls: bool) -> Option<Box<dyn Conversation>> {
    let stream = TcpStream::connect(server).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut conversation: Box<dyn Conversation> = if tls {
        let connector = native_tls::TlsConnector::builder().danger_accept_invalid_certs(true).build().unwrap();
        Box::new(connector.connect("localhost", stream).ok()?)
    } else {
        Box::new(stream)
    };
    line(&mut conversation)?;
    Some(conversation)
}

/// Logs in; the tagged response, or none without one.
pub fn log_in(conversation: &mut Box<dyn Conversation>, user: &str, password: &str) -> Option<String> {
    conversation.write_all(format!("a LOGIN {user} \"{password}\"\r\n").as_bytes()).ok()?;
    loop {
        let line = line(conversation)?;
        if line.starts_with("a ") {
            return Some(line);
        }
    }
}

/// Byte by byte: nothing behind the line is taken.
fn line(conversation: &mut Box<dyn Conversation>) -> Option<String> {
    let mut text = String::new();
    let length = BufReader::with_capacity(1, conversation).read_line(&mut text).ok()?;
    (length > 0).then_some(text)
}

/// Sessions that are logged in.
pub fn sessions(count: usize, server: SocketAddr, tls: bool, user: &str, password: &str) -> Vec<Box<dyn Conversation>> {
    let session = |_| {
        let mut session = connect(server, tls)?;
        log_in(&mut session, user, password)?.starts_with("a OK").then_some(session)
    };
    (0..count).filter_map(session).collect()
}

/// Wrong passwords, one after the other.
pub fn wrong_passwords(server: SocketAddr, every: Duration, stop: &Stop) {
    let mut number = 0;
    loop {
        number += 1;
        if let Some(mut client) = connect(server, false) {
            log_in(&mut client, "nobody", &format!("guess {number}"));
        }
        if !stop.pause(every) {
            return;
        }
    }
}
