//! A name server with the answers of a test, over UDP and TCP at one port.
//!
//! It implements the format of a message (RFC 1035 §4) and nothing of names: what a question gets, rightly or not, is made by
//! the test out of the question's own bytes.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

use imaptrace::plan::Dns;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinHandle,
};

/// RCODE 0: no error.
pub const NO_ERROR: u8 = 0;
/// RCODE 1.
pub const FORMERR: u8 = 1;
/// RCODE 2.
pub const SERVFAIL: u8 = 2;
/// RCODE 3.
pub const NXDOMAIN: u8 = 3;
/// RCODE 4.
pub const NOTIMP: u8 = 4;
/// RCODE 5.
pub const REFUSED: u8 = 5;

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
const SRV: u16 = 33;

/// What was asked.
#[derive(Debug, Clone)]
pub struct Question {
    /// The name, in small letters, without the dot at its end.
    pub name: String,
    /// Over TCP and not UDP.
    pub tcp: bool,
    /// With an additional record, which is EDNS (RFC 6891 §6.1.1).
    pub edns: bool,
    /// A or AAAA, by number.
    kind: u16,
    /// Header and question as they came, nothing behind them.
    bytes: Vec<u8>,
}

impl Question {
    fn parse(message: &[u8]) -> Self {
        let mut labels = Vec::new();
        let mut at = 12;
        while message[at] != 0 {
            let length = usize::from(message[at]);
            labels.push(String::from_utf8_lossy(&message[at + 1..=at + length]).to_ascii_lowercase());
            at += length + 1;
        }
        let kind = u16::from_be_bytes([message[at + 1], message[at + 2]]);
        let edns = message[10..12] != [0, 0];
        Self { name: labels.join("."), tcp: false, edns, kind, bytes: message[..at + 5].to_vec() }
    }

    /// Asks for IPv4 addresses.
    pub fn is_v4(&self) -> bool {
        self.kind == A
    }

    /// An answer with this RCODE and the addresses of the family asked for, all of the name asked for.
    pub fn answer(&self, code: u8, addresses: &[IpAddr]) -> Vec<u8> {
        let wanted = addresses.iter().filter(|address| address.is_ipv4() == self.is_v4());
        // A pointer to the question's name (RFC 1035 §4.1.4).
        self.message(code, wanted.map(|address| record(&[0xc0, 12], *address)).collect())
    }

    /// Asks for the hosts of a service.
    pub fn is_srv(&self) -> bool {
        self.kind == SRV
    }

    /// An answer with these hosts and ports of the service that was asked for (RFC 2782); "" is the root.
    pub fn services(&self, hosts: &[(&str, u16)]) -> Vec<u8> {
        let service = |(host, port): &(&str, u16)| {
            let host = if host.is_empty() { vec![0] } else { encoded(host) };
            let mut record = vec![0xc0, 12];
            record.extend(SRV.to_be_bytes());
            record.extend([0, 1, 0, 0, 0, 60]);
            record.extend(u16::try_from(6 + host.len()).unwrap().to_be_bytes());
            // Priority and weight.
            record.extend([0, 10, 0, 5]);
            record.extend(port.to_be_bytes());
            record.extend(host);
            record
        };
        self.message(NO_ERROR, hosts.iter().map(service).collect())
    }

    /// An answer that sends the asker from the name asked for to another, and has nothing more to say.
    pub fn alias(&self, to: &str) -> Vec<u8> {
        let to = encoded(to);
        let mut record = vec![0xc0, 12];
        record.extend(CNAME.to_be_bytes());
        record.extend([0, 1, 0, 0, 0, 60]);
        record.extend(u16::try_from(to.len()).unwrap().to_be_bytes());
        record.extend(to);
        self.message(NO_ERROR, vec![record])
    }

    /// An answer with addresses of a name that was not asked for, under the question asked.
    pub fn answer_of(&self, name: &str, addresses: &[IpAddr]) -> Vec<u8> {
        let wanted = addresses.iter().filter(|address| address.is_ipv4() == self.is_v4());
        self.message(NO_ERROR, wanted.map(|address| record(&encoded(name), *address)).collect())
    }

    fn message(&self, code: u8, records: Vec<Vec<u8>>) -> Vec<u8> {
        let mut message = self.bytes.clone();
        // An answer, recursion desired and available.
        (message[2], message[3]) = (0x81, 0x80 | code);
        message[6..8].copy_from_slice(&u16::try_from(records.len()).unwrap().to_be_bytes());
        message[8..12].fill(0);
        message.extend(records.into_iter().flatten());
        message
    }
}

/// The same answer under another id.
pub fn with_wrong_id(mut answer: Vec<u8>) -> Vec<u8> {
    answer[0] ^= 0x55;
    answer
}

/// The same answer to another question: the first letter of its name is another.
pub fn with_wrong_name(mut answer: Vec<u8>) -> Vec<u8> {
    answer[13] = if answer[13].eq_ignore_ascii_case(&b'q') { b'z' } else { b'q' };
    answer
}

/// The head of an answer that did not fit, with no record in it (RFC 1035 §4.1.1, TC).
pub fn truncated(question: &Question) -> Vec<u8> {
    let mut message = question.answer(NO_ERROR, &[]);
    message[2] |= 2;
    message
}

fn record(owner: &[u8], address: IpAddr) -> Vec<u8> {
    let (kind, bytes) = match address {
        IpAddr::V4(address) => (A, address.octets().to_vec()),
        IpAddr::V6(address) => (AAAA, address.octets().to_vec()),
    };
    let mut record = owner.to_vec();
    record.extend(kind.to_be_bytes());
    record.extend([0, 1, 0, 0, 0, 60]);
    record.extend(u16::try_from(bytes.len()).unwrap().to_be_bytes());
    record.extend(bytes);
    record
}

fn encoded(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes
}

type Answering = dyn Fn(&Question) -> Vec<Vec<u8>> + Send + Sync;

/// A name server; it answers until it is dropped.
pub struct NameServer {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Question>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl NameServer {
    /// Starts one. `answering` gives the messages that a question gets, in their order; none is silence.
    pub async fn start(answering: impl Fn(&Question) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), answering).await
    }

    /// The same at this address; port 0 is one that is free.
    pub async fn start_at(
        address: SocketAddr,
        answering: impl Fn(&Question) -> Vec<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        // A port that is free for both.
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind(address).await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<Question>>> = Arc::default();
        let answering: Arc<Answering> = Arc::new(answering);
        let tasks = vec![
            tokio::spawn(over_udp(udp, Arc::clone(&asked), Arc::clone(&answering))),
            tokio::spawn(over_tcp(tcp, Arc::clone(&asked), answering)),
        ];
        Self { address, asked, tasks }
    }

    /// Asks this one only.
    pub fn dns(&self) -> Dns {
        Dns { servers: vec![self.address], ..Dns::default() }
    }

    /// All questions up to now.
    pub fn asked(&self) -> Vec<Question> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn over_udp(socket: UdpSocket, asked: Arc<Mutex<Vec<Question>>>, answering: Arc<Answering>) {
    let mut buffer = [0; 4096];
    while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
        let question = Question::parse(&buffer[..length]);
        asked.lock().unwrap().push(question.clone());
        for message in answering(&question) {
            socket.send_to(&message, peer).await.unwrap();
        }
    }
}

async fn over_tcp(listener: TcpListener, asked: Arc<Mutex<Vec<Question>>>, answering: Arc<Answering>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (asked, answering) = (Arc::clone(&asked), Arc::clone(&answering));
        drop(tokio::spawn(async move {
            // Whoever has its answer hangs up, whenever it likes.
            drop(converse(stream, &asked, &*answering).await);
        }));
    }
}

/// Each message has its length before it (RFC 1035 §4.2.2).
async fn converse(mut stream: TcpStream, asked: &Mutex<Vec<Question>>, answering: &Answering) -> std::io::Result<()> {
    loop {
        let mut message = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut message).await?;
        let question = Question { tcp: true, ..Question::parse(&message) };
        asked.lock().unwrap().push(question.clone());
        for message in answering(&question) {
            stream.write_u16(u16::try_from(message.len()).unwrap()).await?;
            stream.write_all(&message).await?;
        }
    }
}
