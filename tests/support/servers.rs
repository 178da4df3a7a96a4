//! A real Cyrus, Courier or Dovecot 2.4 with ports, certificates and mail of its own, ended when it is dropped or this process dies.
//!
//! They have the users of `dovecot`, with empty mailboxes: [`Client`] puts mail there. After a wrong password Cyrus and Courier
//! wait some seconds before they report it, and delay no other connection.

use std::{
    fmt::Write as _,
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use imaptrace::plan::{AddressChoice, Host, Security, Target};

use super::{
    program::free_port,
    run::{account, target},
};

/// Nobody else uses it: for tests that put mail into INBOX.
pub const FULL: (&str, &str) = ("full", "full");

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/servers.sh");

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Cyrus,
    Courier,
    Dovecot24,
}

/// Those that are no Dovecot.
pub const KINDS: [Kind; 2] = [Kind::Cyrus, Kind::Courier];

/// A server that has greeted.
pub struct Server {
    pub kind: Kind,
    /// The port for clear text and STARTTLS.
    pub plain: u16,
    /// The port for TLS.
    pub tls: u16,
    /// The CA that signed its certificate, which is for `localhost` and 127.0.0.1.
    pub ca: PathBuf,
    directory: tempfile::TempDir,
    process: Child,
}

impl Server {
    /// Starts one, and fails the test with the script's own words if that cannot be. `settings` as in `SERVER_EXTRA`.
    pub fn start(kind: Kind, settings: &str) -> Self {
        Self::start_with(kind, settings, Path::new(""))
    }

    /// The same with a file that settings of Dovecot can name as `/etc/extra-ca.pem`.
    pub fn start_with(kind: Kind, settings: &str, ca: &Path) -> Self {
        let name = match kind {
            Kind::Cyrus => "cyrus",
            Kind::Courier => "courier",
            Kind::Dovecot24 => "dovecot24",
        };
        let mut complaint = String::new();
        // Another program may take a port between our look and the server's start.
        for _ in 0..3 {
            let directory = tempfile::Builder::new().prefix(&format!("{name}-")).tempdir().unwrap();
            let (extra, errors) = (directory.path().join("settings"), directory.path().join("errors"));
            std::fs::write(&extra, settings).unwrap();
            let (plain, tls) = (free_port(), free_port());
            let mut process = Command::new(SCRIPT)
                .args(["run", name])
                .arg(directory.path())
                .args([plain.to_string(), tls.to_string()])
                .env("SERVER_EXTRA", &extra)
                .env("SERVER_CA", ca)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(File::create(&errors).unwrap())
                .spawn()
                .unwrap();
            // The script gives up by itself: then there is no line.
            let mut said = String::new();
            BufReader::new(process.stdout.take().unwrap()).read_line(&mut said).unwrap();
            if said == "ready\n" {
                return Self { kind, plain, tls, ca: directory.path().join("tls/ca.pem"), directory, process };
            }
            process.wait().unwrap();
            complaint = said + &std::fs::read_to_string(&errors).unwrap();
            if !complaint.contains("Address already in use") {
                break;
            }
        }
        panic!("no real {name} to test against:\n{complaint}");
    }

    /// What it has logged up to now.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.directory.path().join("server.log")).unwrap()).into_owned()
    }

    /// A run against it, by name and with its CA.
    pub fn target(&self, security: Security, (user, password): (&str, &str)) -> Target {
        let port = if security == Security::Tls { self.tls } else { self.plain };
        let mut target = target(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port), security);
        target.endpoint.host = Host::parse("localhost").unwrap();
        target.address = AddressChoice::V4;
        target.tls.ca_file = Some(self.ca.clone());
        target.accounts = vec![account(user, password)];
        target
    }

    /// Logs in, for tests that look at the mailboxes or put something there.
    pub fn client(&self, (user, password): (&str, &str)) -> Client {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.plain)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client = Client { stream: BufReader::new(stream) };
        client.line();
        client.ok(&format!("LOGIN {user} {password}"));
        client
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The end of its input is the end of it.
        drop(self.process.stdin.take());
        let ended = self.process.wait();
        // A second panic while a first one unwinds would hide it.
        if !std::thread::panicking() {
            assert!(ended.unwrap().success(), "{:?} could not be ended", self.kind);
        }
    }
}

/// A client that shares no code with imaptrace. Blocking, in clear text, literals by the oldest rule.
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Sends a command and gives all lines of its answer, the tagged one last.
    pub fn say(&mut self, command: &str) -> Vec<String> {
        self.send(&format!("t {command}\r\n"));
        self.answer()
    }

    /// The same, where anything but OK fails the test.
    pub fn ok(&mut self, command: &str) -> Vec<String> {
        let lines = self.say(command);
        assert!(lines.last().unwrap().starts_with("t OK"), "{command}: {lines:#?}");
        lines
    }

    /// Puts this number of messages into a mailbox, whose name is as on the wire.
    pub fn append(&mut self, mailbox: &str, messages: u32) {
        for number in 1..=messages {
            let mut message = format!("From: someone@example.org\r\nSubject: number {number}\r\n");
            write!(message, "Message-ID: <{number}@example.org>\r\n\r\nhello\r\n").unwrap();
            self.send(&format!("t APPEND \"{mailbox}\" {{{}}}\r\n", message.len()));
            let go = self.line();
            assert!(go.starts_with('+'), "{go}");
            self.send(&format!("{message}\r\n"));
            let lines = self.answer();
            assert!(lines.last().unwrap().starts_with("t OK"), "{lines:#?}");
        }
    }

    /// In one piece: Nagle's algorithm would hold the rest back.
    fn send(&mut self, text: &str) {
        self.stream.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn answer(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let line = self.line();
            let (tagged, literal) = (line.starts_with("t "), literal(&line));
            lines.push(line);
            if let Some(length) = literal {
                let mut bytes = vec![0; length];
                self.stream.read_exact(&mut bytes).unwrap();
            } else if tagged {
                return lines;
            }
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.stream.read_line(&mut line).unwrap() > 0, "the server hung up");
        line.trim_end().to_owned()
    }
}

/// Length of the literal that follows a line.
fn literal(line: &str) -> Option<usize> {
    line.strip_suffix('}')?.rsplit_once('{')?.1.parse().ok()
}
