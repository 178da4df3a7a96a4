//! An HTTP proxy that serves CONNECT and nothing else: it opens a tunnel, always to the one server, or refuses.
//!
//! Whatever host is asked for, so that a test can name one that does not exist. It keeps each request's head.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use super::otlp::listener;

/// What a request for a tunnel meets.
#[derive(Debug, Clone, Copy)]
pub enum Reception {
    /// A tunnel to this server.
    Open(SocketAddr),
    /// These bytes, and the end.
    Answer(&'static str),
}

/// The proxy; it accepts until the process ends.
pub struct Tunnel {
    pub address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Tunnel {
    /// The first requests meet these, and all others the last of them.
    pub fn start(receptions: &[Reception]) -> Self {
        let listener = listener();
        let address = listener.local_addr().unwrap();
        let (receptions, heads) = (receptions.to_vec(), Arc::<Mutex<Vec<String>>>::default());
        let kept = Arc::clone(&heads);
        thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                let (receptions, kept) = (receptions.clone(), Arc::clone(&kept));
                // A client that goes away in the middle is no news here.
                thread::spawn(move || drop(serve(client, &receptions, &kept)));
            }
        });
        Self { address, heads }
    }

    /// The heads of all requests, in order of arrival.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

fn serve(mut client: TcpStream, receptions: &[Reception], kept: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut head = String::new();
    // Byte by byte: what comes behind the head is not the proxy's.
    let mut reader = BufReader::with_capacity(1, client.try_clone()?);
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            break;
        }
    }
    let number = {
        let mut kept = kept.lock().unwrap();
        kept.push(head);
        kept.len() - 1
    };
    match receptions.get(number).or_else(|| receptions.last()).unwrap() {
        Reception::Answer(bytes) => client.write_all(bytes.as_bytes()),
        Reception::Open(server) => {
            let server = TcpStream::connect(server)?;
            client.write_all(b"HTTP/1.1 200 Connection established\r\nVia: a test\r\n\r\n")?;
            let (from, to) = (client.try_clone()?, server.try_clone()?);
            let up = thread::spawn(move || pass(from, to));
            pass(server, client);
            drop(up.join());
            Ok(())
        }
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    drop(to.shutdown(Shutdown::Write));
}
