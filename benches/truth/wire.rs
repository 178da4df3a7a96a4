//! What was on the wire, by tcpdump and tshark: when each command left and when its answer came.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Read as _},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Stdio},
    time::Duration,
};

use nix::{sys::signal::Signal, unistd::Pid};

/// A capture under way, of what is said to and from one port of loopback.
pub struct Capture {
    tcpdump: Child,
    stderr: BufReader<ChildStderr>,
    file: PathBuf,
    port: u16,
}

/// A packet with data.
#[derive(Debug, Clone, Copy)]
pub struct Packet {
    /// Nanoseconds since 1970.
    pub at: i64,
    /// The client's.
    pub sent: bool,
    pub bytes: u32,
}

/// A connection's packets, in order.
#[derive(Debug, Default)]
pub struct Connection {
    /// The client's SYN, in nanoseconds since 1970.
    pub opened: i64,
    pub packets: Vec<Packet>,
    /// What both ends have said so far.
    said: Vec<Part>,
}

/// The connections of each of the client's ports, in order.
pub type Connections = HashMap<SocketAddr, Vec<Connection>>;

/// What tcpdump does not hand out before it is full, or this old (its timeout of one second and a bit).
const FLUSH: Duration = Duration::from_millis(1_500);

impl Capture {
    /// Begins to capture; returns when tcpdump listens.
    pub fn start(directory: &Path, port: u16) -> Self {
        let file = directory.join("capture.pcap");
        // What has data, and SYN. Acknowledgements are half of all packets, and prove nothing here.
        let details =
            "(((ip[2:2] - ((ip[0] & 0xf) << 2)) - ((tcp[12] & 0xf0) >> 2)) != 0 or tcp[tcpflags] & tcp-syn != 0)";
        let mut tcpdump = Command::new("tcpdump")
            .args(["-i", "lo", "-s", "200", "-B", "16384", "--time-stamp-precision=nano", "-Z", "root", "-w"])
            .arg(&file)
            .arg(format!("tcp port {port} and {details}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("tcpdump is missing: scripts/need.sh truth installs it");
        let mut stderr = BufReader::new(tcpdump.stderr.take().unwrap());
        let mut said = String::new();
        while !said.contains("listening on") {
            let before = said.len();
            stderr.read_line(&mut said).unwrap();
            assert!(
                said.len() > before,
                "tcpdump cannot capture on lo; it needs root, or the right to capture:\n{said}"
            );
        }
        Self { tcpdump, stderr, file, port }
    }

    /// Ends it. Returns what was captured, and how many packets tcpdump lost.
    pub fn finish(mut self) -> (Connections, u64) {
        std::thread::sleep(FLUSH);
        let pid = Pid::from_raw(self.tcpdump.id().try_into().unwrap());
        nix::sys::signal::kill(pid, Signal::SIGINT).unwrap();
        let mut said = String::new();
        self.stderr.read_to_string(&mut said).unwrap();
        assert!(self.tcpdump.wait().unwrap().success(), "tcpdump failed:\n{said}");
        let count = |what: &str| -> u64 {
            let line = said.lines().find(|line| line.contains(what));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            number.unwrap_or_else(|| panic!("tcpdump did not tell its {what}:\n{said}"))
        };
        (read(&self.file, self.port), count("dropped by kernel"))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // One that has ended already cannot be ended, which is as well.
        drop(self.tcpdump.kill());
        drop(self.tcpdump.wait());
        drop(std::fs::remove_file(&self.file));
    }
}

/// The packets of a capture, as tshark reads them.
fn read(file: &Path, port: u16) -> Connections {
    let mut tshark = Command::new("tshark")
        .args(["-n", "-o", "tcp.analyze_sequence_numbers:FALSE", "-o", "tcp.desegment_tcp_streams:FALSE", "-r"])
        .arg(file)
        .args(["-T", "fields", "-e", "frame.time_epoch", "-e", "ip.src", "-e", "tcp.srcport", "-e", "ip.dst"])
        .args(["-e", "tcp.dstport", "-e", "tcp.len", "-e", "tcp.seq_raw"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("tshark is missing: scripts/need.sh truth installs it");
    let mut connections = Connections::new();
    for line in BufReader::new(tshark.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let (client, packet, sequence) = parse(&line, port).unwrap_or_else(|| panic!("tshark wrote {line:?}"));
        let earlier = connections.entry(client).or_default();
        if packet.bytes == 0 && packet.sent {
            earlier.push(Connection { opened: packet.at, ..Connection::default() });
        }
        let piece = Part { sent: packet.sent, sequence, bytes: packet.bytes };
        if let Some(connection) = earlier.last_mut()
            && packet.bytes > 0
            && !connection.said.iter().any(|other| other.holds(piece))
        {
            connection.said.push(piece);
            connection.packets.push(packet);
        }
    }
    assert!(tshark.wait().unwrap().success(), "tshark cannot read the capture");
    // Two processors capture at once, so the file's order is not quite that of time.
    for connection in connections.values_mut().flatten() {
        connection.packets.sort_by_key(|packet| packet.at);
    }
    connections
}

/// A part of what one end says. TCP may send it again, which is neither a command nor an answer.
#[derive(Debug, Clone, Copy)]
struct Part {
    sent: bool,
    sequence: u32,
    bytes: u32,
}

impl Part {
    fn holds(self, other: Self) -> bool {
        let offset = other.sequence.wrapping_sub(self.sequence);
        self.sent == other.sent && u64::from(offset) + u64::from(other.bytes) <= u64::from(self.bytes)
    }
}

/// The client's end, the packet, and its sequence number.
fn parse(line: &str, port: u16) -> Option<(SocketAddr, Packet, u32)> {
    let fields: Vec<&str> = line.split('\t').collect();
    let [at, source, source_port, destination, destination_port, bytes, sequence] = fields[..] else { return None };
    let (seconds, nanos) = at.split_once('.')?;
    let at = seconds.parse::<i64>().ok()? * 1_000_000_000 + format!("{nanos:0<9}").parse::<i64>().ok()?;
    let end = |address: &str, port: &str| -> Option<SocketAddr> {
        Some(SocketAddr::new(address.parse::<IpAddr>().ok()?, port.parse().ok()?))
    };
    let (from, to) = (end(source, source_port)?, end(destination, destination_port)?);
    let sent = to.port() == port;
    let packet = Packet { at, sent, bytes: bytes.parse().ok()? };
    Some((if sent { from } else { to }, packet, sequence.parse().ok()?))
}

/// A command on the wire, in nanoseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// Its packet left.
    pub start: i64,
    /// The first packet of the answer.
    pub first_byte: i64,
    /// The last one.
    pub end: i64,
}

/// What a client sends before its first command under TLS: ClientHello, and the end of the handshake.
const HANDSHAKE: usize = 2;
/// A TLS record that holds an alert alone is no longer than this (RFC 8446 §6), and no command or answer is as short.
const ALERT: u32 = 31;

/// The `count` commands of a connection. None when the packets do not come out even: then nobody can say which is whose.
pub fn commands(packets: &[Packet], tls: bool, count: usize) -> Option<Vec<Seen>> {
    // close_notify is no answer and no command, from either side.
    let packets: Vec<_> = packets.iter().filter(|packet| !tls || packet.bytes > ALERT).collect();
    let sent: Vec<usize> =
        (0..packets.len()).filter(|at| packets[*at].sent).skip(if tls { HANDSHAKE } else { 0 }).collect();
    if sent.len() != count {
        return None;
    }
    let ends = sent.iter().skip(1).copied().chain([packets.len()]);
    let seen = sent.iter().zip(ends).map(|(from, to)| {
        let answer = packets.get(from + 1..to)?;
        Some(Seen { start: packets[*from].at, first_byte: answer.first()?.at, end: answer.last()?.at })
    });
    seen.collect()
}
