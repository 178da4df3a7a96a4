//! 120 mail servers that send events: what one Dovecot posts is passed on with a host name of each. Two share a connection, since
//! all come from one address, which may have 64.
//!
//! The events of a session go one way, as they would from the one host that served it.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use crate::support::event_posts;

/// Hosts that send.
pub const HOSTS: usize = 120;

const CONNECTIONS: usize = 60;

const SECRET: &str = "bench";

/// Where an agent takes events, as long as there is one.
type Receiver = Arc<Mutex<Option<Vec<TcpStream>>>>;

/// What Dovecot posts to, and who passes it on.
pub struct Senders {
    address: SocketAddr,
    receiver: Receiver,
    passed: Arc<AtomicU64>,
}

impl Senders {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (receiver, passed) = (Receiver::default(), Arc::<AtomicU64>::default());
        let (of_thread, counted) = (Arc::clone(&receiver), Arc::clone(&passed));
        thread::spawn(move || {
            while let Ok((dovecot, _)) = listener.accept() {
                let (receiver, passed) = (Arc::clone(&of_thread), Arc::clone(&counted));
                // It ends with Dovecot's connection.
                thread::spawn(move || drop(pass_on(dovecot, &receiver, &passed)));
            }
        });
        Self { address, receiver, passed }
    }

    /// The settings with which Dovecot posts what is documented for the probes' users.
    pub fn settings(&self) -> String {
        let shipped =
            fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/dovecot/events-2.3.conf")).unwrap();
        let lines = shipped.lines().filter(|line| !line.starts_with("ssl_client_ca_file"));
        let lines = lines.map(|line| {
            if line.trim_start().starts_with("transport_args") {
                format!("  transport_args = http://{}/dovecot", self.address)
            } else {
                line.replace("user=probe*", "user=load*")
            }
        });
        lines.map(|line| line + "\n").collect()
    }

    /// The agent's settings, with their secret in `directory`.
    pub fn of_agent(directory: &Path, port: u16) -> String {
        use std::os::unix::fs::PermissionsExt as _;
        let secret = directory.join("events-secret");
        fs::write(&secret, SECRET).unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        format!(
            "[server_events]\nlisten = \"127.0.0.1:{port}\"\n[[server_events.senders]]\nname = \"all\"\n\
             secret = {{ file = {:?} }}\ntargets = [\"*\"]\n",
            secret.display().to_string()
        )
    }

    /// Passes events on to the agent at this port from now on.
    pub fn connect(&self, port: u16) {
        let each = || TcpStream::connect(("127.0.0.1", port)).unwrap();
        let all: Vec<TcpStream> = (0..CONNECTIONS).map(|_| each()).collect();
        for stream in &all {
            stream.set_nodelay(true).unwrap();
        }
        *self.receiver.lock().unwrap() = Some(all);
    }

    /// Passes nothing on any more.
    pub fn disconnect(&self) {
        *self.receiver.lock().unwrap() = None;
    }

    /// Events that were passed on so far.
    pub fn passed(&self) -> u64 {
        self.passed.load(Relaxed)
    }
}

fn pass_on(dovecot: TcpStream, receiver: &Receiver, passed: &AtomicU64) -> std::io::Result<()> {
    event_posts::receive(dovecot, |body| {
        if let Some(streams) = receiver.lock().unwrap().as_mut() {
            let text = String::from_utf8_lossy(body);
            let host = host_of(&text);
            send(&mut streams[host % CONNECTIONS], &with_host(&text, host))?;
            passed.fetch_add(1, Relaxed);
        }
        Ok(())
    })
}

/// The host that serves the session of an event.
fn host_of(event: &str) -> usize {
    let session = event.split("\"session\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
    session.bytes().fold(0_usize, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into())) % HOSTS
}

fn with_host(event: &str, host: usize) -> String {
    let Some((before, rest)) = event.split_once("\"hostname\":\"") else { return event.to_owned() };
    let rest = rest.split_once('"').map_or("", |(_, rest)| rest);
    format!("{before}\"hostname\":\"mail{host:03}.example.org\"{rest}")
}

fn send(stream: &mut TcpStream, event: &str) -> std::io::Result<()> {
    // `all:bench`
    let head = format!(
        "POST /dovecot HTTP/1.1\r\nHost: agent\r\nAuthorization: Basic YWxsOmJlbmNo\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        event.len()
    );
    stream.write_all(&[head.as_bytes(), event.as_bytes()].concat())?;
    // The answers are read so that the connection does not fill up.
    stream.set_nonblocking(true)?;
    let mut answers = [0; 4096];
    let read = loop {
        match stream.read(&mut answers) {
            Ok(0) => break Err(std::io::Error::new(ErrorKind::UnexpectedEof, "the agent has closed a connection")),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    stream.set_nonblocking(false)?;
    read
}
