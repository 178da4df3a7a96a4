//! What Dovecot itself says of each command: a receiver for its event exporter, which posts one event at a time.

use std::{
    collections::HashMap,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use serde_json::Value;

/// Listens for events, outside the runtime that is measured. What comes is kept as it is until it is asked for.
pub struct Witness {
    port: u16,
    bodies: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Witness {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let bodies: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let kept = Arc::clone(&bodies);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let kept = Arc::clone(&kept);
                // A connection ends when Dovecot does.
                thread::spawn(move || drop(receive(&stream.unwrap(), &kept)));
            }
        });
        Self { port, bodies }
    }

    /// What Dovecot's configuration needs to send events here.
    pub fn settings(&self) -> String {
        format!(
            "event_exporter truth {{\n  format = json\n  format_args = time-rfc3339\n  transport = http-post\n  \
             transport_args = http://127.0.0.1:{}/\n}}\nmetric commands {{\n  exporter = truth\n  \
             exporter_include = name fields\n  filter = event=imap_command_finished\n}}\n",
            self.port
        )
    }

    /// Waits until no more events come, and takes them: how long each command ran, in nanoseconds, by its tag.
    pub fn take(&self) -> HashMap<String, i64> {
        let count = || self.bodies.lock().unwrap().len();
        let mut before = count();
        for _ in 0..20 {
            thread::sleep(Duration::from_millis(700));
            let now = count();
            if now == before {
                break;
            }
            before = now;
        }
        let bodies = std::mem::take(&mut *self.bodies.lock().unwrap());
        let details = bodies.iter().filter_map(|body| {
            let event: Value = serde_json::from_slice(body).ok()?;
            let fields = event.get("fields")?;
            let tag = fields.get("cmd_tag")?.as_str()?.to_owned();
            Some((tag, fields.get("running_usecs")?.as_i64()? * 1_000))
        });
        details.collect()
    }
}

/// HTTP/1.1 as far as Dovecot speaks it: POST with a Content-Length, one after the other.
fn receive(stream: &TcpStream, bodies: &Mutex<Vec<Vec<u8>>>) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut answering = stream;
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        bodies.lock().unwrap().push(body);
        answering.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
    }
}
