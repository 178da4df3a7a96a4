//! One question to one name server: over UDP, and over TCP when the answer did not fit (RFC 1035 §4.2, RFC 7766 §5).
//!
//! Says what an answer means for the question and nothing of other servers; which is asked next is the matter of `ask`,
//! which calls this. Each question has a socket of its own, which is connected: a port that the kernel draws, answers of
//! this server alone, and the ICMP messages that came back.

use std::{
    future::{Future as _, pending, poll_fn},
    io::{self, Read as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd,
    pin::{Pin, pin},
    sync::atomic::{AtomicBool, Ordering},
    task::Poll,
    time::Instant,
};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, RecordType},
};
use tokio::{
    io::{AsyncRead as _, AsyncWriteExt as _, ReadBuf},
    net::{TcpStream, UdpSocket},
    time::timeout_at,
};

use crate::net::{Trouble, trouble};

/// How a question is put.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    /// With EDNS (RFC 6891), unless the server does not understand it.
    pub(super) edns: bool,
    /// Over TCP at once.
    pub(super) tcp: bool,
}

/// An answer that settles the question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DnsAnswer {
    /// Addresses of the family asked for, and for how many seconds they hold.
    Addresses(Vec<IpAddr>, u32),
    /// The name is another's alias, which has to be asked for.
    Alias(Name, u32),
    /// The name exists and has no such address. For how many seconds, if the server says it (RFC 2308 §5).
    NoData(Option<u32>),
    /// The name does not exist. For how many seconds, likewise.
    NxDomain(Option<u32>),
}

/// Why a server did not settle the question.
#[derive(Debug)]
pub(super) enum Unsettled {
    /// Its answer was this code.
    Code(ResponseCode),
    /// Its answer breaks the format of a message.
    Malformed,
    /// It refers to other servers, though it was asked to resolve the name itself.
    Referral,
    /// No answer in time.
    Silent,
    /// The network says that nothing listens there, or that it has no route there.
    Unreachable(io::Error),
    /// This host has no such address family or interface.
    Unusable(io::Error),
    /// This host has no port left for the question.
    NoPort(io::Error),
    /// This process or machine has no file descriptor left, or no memory for sockets.
    Exhausted(io::Error),
    /// Another fault of this machine.
    Local(io::Error),
}

/// What a message over UDP may hold when the question says so (RFC 6891 §6.2.5), as the DNS flag day of 2020 has it.
const PAYLOAD: u16 = 1232;
/// What is read of a message over UDP; servers may send more than the question allows.
const RECEIVED: usize = 4096;
/// Aliases of aliases that are followed within one answer.
const ALIASES: usize = 16;

/// Asks `server` for the records of this type that `name` has.
pub(super) async fn ask(
    server: SocketAddr,
    name: &Name,
    kind: RecordType,
    how: How,
    until: Instant,
) -> Result<DnsAnswer, Unsettled> {
    let look = AtomicBool::new(false);
    let mut exchange = pin!(exchange(server, name, kind, how, &look));
    if let Ok(answer) = timeout_at(until.into(), exchange.as_mut()).await {
        return answer;
    }
    // The timer may come before what the kernel has held for long.
    look.store(true, Ordering::Relaxed);
    match poll_fn(|context| Poll::Ready(exchange.as_mut().poll(context))).await {
        Poll::Ready(answer) => answer,
        Poll::Pending => Err(Unsettled::Silent),
    }
}

async fn exchange(
    server: SocketAddr,
    name: &Name,
    kind: RecordType,
    how: How,
    look: &AtomicBool,
) -> Result<DnsAnswer, Unsettled> {
    let How { mut edns, mut tcp } = how;
    loop {
        let question = Question::new(name, kind, edns)?;
        let answer =
            if tcp { over_tcp(server, &question, look).await? } else { over_udp(server, &question, look).await? };
        match answer {
            ReceivedAnswer::Truncated if !tcp => tcp = true,
            ReceivedAnswer::Truncated | ReceivedAnswer::Malformed => return Err(Unsettled::Malformed),
            ReceivedAnswer::Whole(message) => match message.metadata.response_code {
                // An old server answers by these codes what it does not understand (RFC 6891 §7).
                ResponseCode::FormErr | ResponseCode::NotImp | ResponseCode::BADVERS if edns => edns = false,
                _ => return read(&message, name, kind),
            },
        }
    }
}

/// A question as it goes over the wire.
struct Question {
    query: Query,
    id: u16,
    bytes: Vec<u8>,
}

/// What came under the question's id.
enum ReceivedAnswer {
    Whole(Box<Message>),
    /// It did not fit.
    Truncated,
    Malformed,
}

impl Question {
    fn new(name: &Name, kind: RecordType, edns: bool) -> Result<Self, Unsettled> {
        let query = Query::query(name.clone(), kind);
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(query.clone());
        if edns {
            let mut options = Edns::new();
            options.set_max_payload(PAYLOAD).set_version(0);
            message.set_edns(options);
        }
        let bytes = message.to_vec().map_err(|error| Unsettled::Local(io::Error::other(error)))?;
        Ok(Self { query, id: message.metadata.id, bytes })
    }

    /// Whether a message is the answer to this question, and what of it came. None for one that is not: it may be forged,
    /// and the right one may still come.
    fn answered_by(&self, bytes: &[u8]) -> Option<ReceivedAnswer> {
        let [high, low, flags, ..] = *bytes else { return None };
        // RFC 1035 §4.1.1: QR says that it is an answer, TC that not all of it is here.
        if u16::from_be_bytes([high, low]) != self.id || flags & 0x80 == 0 {
            return None;
        }
        let Ok(message) = Message::from_vec(bytes) else {
            return Some(if flags & 2 == 0 { ReceivedAnswer::Malformed } else { ReceivedAnswer::Truncated });
        };
        let metadata = &message.metadata;
        if metadata.message_type != MessageType::Response || metadata.op_code != OpCode::Query {
            return None;
        }
        // A server that does not understand a question need not repeat it.
        let failed = !matches!(metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain);
        let same = message.queries == [self.query.clone()] || failed && message.queries.is_empty();
        let truncated = metadata.truncation;
        same.then(|| if truncated { ReceivedAnswer::Truncated } else { ReceivedAnswer::Whole(Box::new(message)) })
    }
}

async fn over_udp(server: SocketAddr, question: &Question, look: &AtomicBool) -> Result<ReceivedAnswer, Unsettled> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await.map_err(without_port)?;
    socket.connect(server).await.map_err(unsettled)?;
    socket.send(&question.bytes).await.map_err(unsettled)?;
    let mut buffer = vec![0; RECEIVED];
    loop {
        let received = {
            // Not `poll_recv`: that is not woken by an error, such as a port that nobody listens on.
            let mut receiving = pin!(socket.recv(&mut buffer));
            poll_fn(|context| {
                if look.load(Ordering::Relaxed) {
                    return Poll::Ready(None);
                }
                receiving.as_mut().poll(context).map(Some)
            })
            .await
        };
        let received = received.or_else(|| held(&socket, look, &mut buffer));
        let Some(received) = received else { return pending().await };
        let length = received.map_err(unsettled)?;
        if let Some(answer) = question.answered_by(buffer.get(..length).unwrap_or_default()) {
            return Ok(answer);
        }
    }
}

/// Each message has its length before it (RFC 1035 §4.2.2).
async fn over_tcp(server: SocketAddr, question: &Question, look: &AtomicBool) -> Result<ReceivedAnswer, Unsettled> {
    let length = u16::try_from(question.bytes.len()).map_err(|error| Unsettled::Local(io::Error::other(error)))?;
    let mut stream = TcpStream::connect(server).await.map_err(without_port)?;
    let mut message = length.to_be_bytes().to_vec();
    message.extend(&question.bytes);
    stream.write_all(&message).await.map_err(unsettled)?;
    loop {
        let mut length = [0; 2];
        read_exact(&mut stream, &mut length, look).await.map_err(unsettled)?;
        message.resize(u16::from_be_bytes(length).into(), 0);
        read_exact(&mut stream, &mut message, look).await.map_err(unsettled)?;
        if let Some(answer) = question.answered_by(&message) {
            return Ok(answer);
        }
    }
}

async fn read_exact(stream: &mut TcpStream, target: &mut [u8], look: &AtomicBool) -> io::Result<()> {
    let mut filled = 0;
    while let Some(rest) = target.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let count = poll_fn(|context| {
            if let Some(count) = held(&*stream, look, rest) {
                return Poll::Ready(count);
            }
            let mut rest = ReadBuf::new(rest);
            Pin::new(&mut *stream).poll_read(context, &mut rest).map_ok(|()| rest.filled().len())
        })
        .await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += count;
    }
    Ok(())
}

/// With `look`, what the kernel holds for a socket, bytes or an error, whatever the runtime knows of it. None when that is
/// nothing.
fn held(socket: &impl AsFd, look: &AtomicBool, target: &mut [u8]) -> Option<io::Result<usize>> {
    let read = look.load(Ordering::Relaxed).then(|| (&*socket2::SockRef::from(socket)).read(target))?;
    Some(read).filter(|read| !matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock))
}

/// Of a call that takes a port, any that is free.
fn without_port(error: io::Error) -> Unsettled {
    match error.raw_os_error() {
        Some(libc::EADDRINUSE | libc::EADDRNOTAVAIL) => Unsettled::NoPort(error),
        _ => unsettled(error),
    }
}

fn unsettled(error: io::Error) -> Unsettled {
    match error.raw_os_error() {
        // No address of this host leads there.
        Some(libc::EADDRNOTAVAIL) => Unsettled::Unreachable(error),
        Some(libc::EAFNOSUPPORT | libc::EINVAL | libc::ENODEV | libc::ENXIO) => Unsettled::Unusable(error),
        _ => match trouble(&error) {
            Some(Trouble::Exhausted) => Unsettled::Exhausted(error),
            Some(Trouble::Local) => Unsettled::Local(error),
            // What is not the kernel's is a stream that ended.
            Some(Trouble::Line) | None => Unsettled::Unreachable(error),
        },
    }
}

/// What an answer says of the name.
fn read(message: &Message, name: &Name, kind: RecordType) -> Result<DnsAnswer, Unsettled> {
    match message.metadata.response_code {
        ResponseCode::NXDomain => return Ok(DnsAnswer::NxDomain(negative(message))),
        ResponseCode::NoError => {}
        code => return Err(Unsettled::Code(code)),
    }
    let mut end = name;
    let mut ttl = u32::MAX;
    for _ in 0..=ALIASES {
        let own = || message.answers.iter().filter(|record| record.dns_class == DNSClass::IN && record.name == *end);
        let mut addresses = Vec::new();
        let mut alias = None;
        for record in own() {
            match &record.data {
                RData::A(address) if kind == RecordType::A => addresses.push(IpAddr::V4(address.0)),
                RData::AAAA(address) if kind == RecordType::AAAA => addresses.push(IpAddr::V6(address.0)),
                RData::CNAME(target) => alias = Some(&target.0),
                _ => continue,
            }
            ttl = ttl.min(record.ttl);
        }
        if !addresses.is_empty() {
            return Ok(DnsAnswer::Addresses(addresses, ttl));
        }
        match alias {
            Some(target) => end = target,
            None => break,
        }
    }
    let metadata = &message.metadata;
    let negative = negative(message);
    // A server that has looked for the alias's end and found nothing there says so by a zone's head (RFC 2308 §2.2).
    if end != name && negative.is_none() {
        return Ok(DnsAnswer::Alias(end.clone(), ttl));
    }
    let hollow = message.answers.is_empty() && message.additionals.is_empty() && message.edns.is_none();
    if hollow && !metadata.authoritative && !metadata.recursion_available {
        return Err(Unsettled::Referral);
    }
    Ok(DnsAnswer::NoData(negative))
}

/// For how long a negative answer holds (RFC 2308 §5).
fn negative(message: &Message) -> Option<u32> {
    message.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(zone) => Some(record.ttl.min(zone.minimum)),
        _ => None,
    })
}
