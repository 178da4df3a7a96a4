//! A receiver of the events that Dovecot posts: it takes and keeps every body, and answers 200.

use std::{
    fmt::Write as _,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use serde_json::Value;

/// The receiver; it accepts until the process ends.
pub struct EventSink {
    address: SocketAddr,
    events: Arc<Mutex<Vec<Value>>>,
}

/// The events of which a verdict makes use.
const EVENTS: [&str; 6] = [
    "imap_command_finished",
    "auth_passdb_request_finished",
    "auth_request_finished",
    "auth_client_request_finished",
    "mail_user_session_finished",
    "mail_opened",
];

impl EventSink {
    /// Takes events from this listener.
    pub fn start(listener: TcpListener) -> Self {
        let address = listener.local_addr().unwrap();
        let events = Arc::<Mutex<Vec<Value>>>::default();
        let kept = Arc::clone(&events);
        thread::spawn(move || {
            while let Ok((sender, _)) = listener.accept() {
                let kept = Arc::clone(&kept);
                thread::spawn(move || drop(take(sender, &kept)));
            }
        });
        Self { address, events }
    }

    /// The settings with which a Dovecot 2.3 posts its events here.
    pub fn settings(&self) -> String {
        let mut text = format!(
            "event_exporter causes {{\n  format = json\n  format_args = time-rfc3339\n  transport = http-post\n  \
             transport_args = http://{}/dovecot\n  transport_timeout = 2s\n}}\n",
            self.address
        );
        for event in EVENTS {
            write!(
                text,
                "metric causes_{event} {{\n  exporter = causes\n  exporter_include = name hostname timestamps categories \
                 fields\n  filter = event={event}\n}}\n"
            )
            .unwrap();
        }
        text
    }

    /// All that has come since the last call.
    pub fn take(&self) -> Vec<Value> {
        std::mem::take(&mut self.events.lock().unwrap())
    }
}

fn take(sender: TcpStream, kept: &Mutex<Vec<Value>>) -> std::io::Result<()> {
    let mut answers = sender.try_clone()?;
    let mut reader = BufReader::new(sender);
    loop {
        let mut length = 0;
        let mut line = String::new();
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if line == "\r\n" {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        answers.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
        kept.lock().unwrap().push(serde_json::from_slice(&body).expect("an event of Dovecot is JSON"));
    }
}
