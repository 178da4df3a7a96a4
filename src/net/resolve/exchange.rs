//! One question to one name server: over UDP, and over TCP when the answer did not fit (RFC 1035 §4.2, RFC 7766 §5).
//!
//! Each question has a connected socket of its own: a port that the kernel draws, answers of this server alone, and errors
//! that came by ICMP. Called by `ask`, which chooses the server.

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

use futures_util::FutureExt as _;
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, RecordType},
};
use tokio::{
    io::{AsyncRead as _, AsyncWriteExt as _, ReadBuf},
    net::{TcpStream, UdpSocket},
    time::timeout_at,
};

use super::{cause::ResolveCause, conf::ResolvConf};
use crate::net::{ErrnoKind, errno_kind};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resolved {
    pub(super) result: Result<Vec<IpAddr>, ResolveCause>,
    /// Seconds for which it may be kept; none when nothing was settled, or no time was given.
    pub(super) ttl: Option<u32>,
}

impl Resolved {
    pub(super) fn none(cause: ResolveCause, ttl: Option<u32>) -> Self {
        Self { result: Err(cause), ttl }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DnsAnswer {
    /// It settles the question: addresses of the family asked for, `NoData` or `NxDomain`.
    Settled(Resolved),
    /// The name is an alias of this one, which has to be asked for; the seconds for which that may be kept.
    Alias(Name, u32),
}

#[derive(Debug)]
pub(super) struct Unsettled {
    pub(super) kind: UnsettledKind,
    pub(super) text: String,
}

/// Ordered by what it means for the look-up: a fault of this machine, then an answer or an error of the network, then
/// silence. A server that this host can never reach is no evidence about the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum UnsettledKind {
    /// This process or machine has no file descriptor left, or no memory for sockets.
    Exhausted,
    /// This host has no port left for the question.
    NoPort,
    /// Another fault of this machine.
    Local,
    /// Its answer is an error code, malformed, or a referral to other servers.
    Failed,
    /// Nothing listens there, or there is no route to it.
    Unreachable,
    /// No answer in time.
    Silent,
    /// This host has no such address family or interface.
    Unusable,
}

const SERVFAIL: &str = "SERVFAIL";

impl Unsettled {
    pub(super) fn new(kind: UnsettledKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    pub(super) fn is_servfail(&self) -> bool {
        self.text == SERVFAIL
    }

    fn malformed() -> Self {
        Self::new(UnsettledKind::Failed, "malformed answer")
    }

    pub(super) fn code(code: ResponseCode) -> Self {
        let text = match code {
            ResponseCode::ServFail => SERVFAIL.to_owned(),
            ResponseCode::Refused => "REFUSED".to_owned(),
            ResponseCode::NotImp => "NOTIMP".to_owned(),
            ResponseCode::FormErr => "FORMERR".to_owned(),
            other => format!("RCODE {}", u16::from(other)),
        };
        Self::new(UnsettledKind::Failed, text)
    }
}

/// The UDP payload size that EDNS announces (RFC 6891 §6.2.5), as the DNS flag day of 2020 recommends.
const PAYLOAD: u16 = 1232;
/// Bytes that are read of a message over UDP; servers may send more than was announced.
const RECEIVED: usize = 4096;
/// Aliases of aliases that are followed within one answer.
const ALIASES: usize = 16;

/// Asks `server` for the addresses of this type that `name` has.
pub(super) async fn ask(
    server: SocketAddr,
    name: &Name,
    kind: RecordType,
    conf: &ResolvConf,
    until: Instant,
) -> Result<DnsAnswer, Unsettled> {
    read(&*message(server, name, kind, conf, until).await?, name, kind)
}

/// The answer of `server` to a question, whatever its response code; with EDNS or over TCP at once if `conf` requires it.
pub(super) async fn message(
    server: SocketAddr,
    name: &Name,
    kind: RecordType,
    conf: &ResolvConf,
    until: Instant,
) -> Result<Box<Message>, Unsettled> {
    let due = AtomicBool::new(false);
    let mut exchange = pin!(exchange(server, name, kind, conf, &due));
    if let Ok(answer) = timeout_at(until.into(), exchange.as_mut()).await {
        return answer;
    }
    // The timer may fire before the runtime reports what the kernel already holds.
    due.store(true, Ordering::Relaxed);
    let late = exchange.now_or_never();
    late.unwrap_or_else(|| Err(Unsettled::new(UnsettledKind::Silent, "no answer in time")))
}

async fn exchange(
    server: SocketAddr,
    name: &Name,
    kind: RecordType,
    conf: &ResolvConf,
    due: &AtomicBool,
) -> Result<Box<Message>, Unsettled> {
    let (mut edns, mut tcp) = (conf.options.edns0, conf.options.use_vc);
    loop {
        let question = Question::new(name, kind, edns)?;
        let answer =
            if tcp { over_tcp(server, &question, due).await? } else { over_udp(server, &question, due).await? };
        match answer {
            ReceivedAnswer::Truncated if !tcp => tcp = true,
            ReceivedAnswer::Truncated | ReceivedAnswer::Malformed => return Err(Unsettled::malformed()),
            ReceivedAnswer::Whole(message) => match message.metadata.response_code {
                // The answers of a server without EDNS (RFC 6891 §7).
                ResponseCode::FormErr | ResponseCode::NotImp | ResponseCode::BADVERS if edns => edns = false,
                _ => return Ok(message),
            },
        }
    }
}

struct Question {
    query: Query,
    id: u16,
    bytes: Vec<u8>,
}

/// A message with the question's id.
enum ReceivedAnswer {
    Whole(Box<Message>),
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
        let bytes = message.to_vec().map_err(|error| Unsettled::new(UnsettledKind::Local, error.to_string()))?;
        Ok(Self { query, id: message.metadata.id, bytes })
    }

    /// Parses a message. None for one that does not answer this question: it may be forged, and the answer may still come.
    fn answered_by(&self, bytes: &[u8]) -> Option<ReceivedAnswer> {
        let [high, low, flags, ..] = *bytes else { return None };
        // RFC 1035 §4.1.1: QR marks an answer, TC a truncated one.
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

async fn over_udp(server: SocketAddr, question: &Question, due: &AtomicBool) -> Result<ReceivedAnswer, Unsettled> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await.map_err(without_port)?;
    socket.connect(server).await.map_err(unsettled)?;
    socket.send(&question.bytes).await.map_err(unsettled)?;
    let mut buffer = vec![0; RECEIVED];
    loop {
        let received = {
            // Not `poll_recv`: an error, such as a closed port, does not wake that.
            let mut receiving = pin!(socket.recv(&mut buffer));
            poll_fn(|context| {
                let is_due = due.load(Ordering::Relaxed);
                if is_due { Poll::Ready(None) } else { receiving.as_mut().poll(context).map(Some) }
            })
            .await
        };
        let received = received.or_else(|| held(&socket, due, &mut buffer));
        let Some(received) = received else { return pending().await };
        let length = received.map_err(unsettled)?;
        if let Some(answer) = question.answered_by(buffer.get(..length).unwrap_or_default()) {
            return Ok(answer);
        }
    }
}

/// Each message is preceded by its length (RFC 1035 §4.2.2).
async fn over_tcp(server: SocketAddr, question: &Question, due: &AtomicBool) -> Result<ReceivedAnswer, Unsettled> {
    let length =
        u16::try_from(question.bytes.len()).map_err(|error| Unsettled::new(UnsettledKind::Local, error.to_string()))?;
    let mut stream = TcpStream::connect(server).await.map_err(without_port)?;
    let mut message = length.to_be_bytes().to_vec();
    message.extend(&question.bytes);
    stream.write_all(&message).await.map_err(unsettled)?;
    loop {
        let mut length = [0; 2];
        read_exact(&mut stream, &mut length, due).await.map_err(unsettled)?;
        message.resize(u16::from_be_bytes(length).into(), 0);
        read_exact(&mut stream, &mut message, due).await.map_err(unsettled)?;
        if let Some(answer) = question.answered_by(&message) {
            return Ok(answer);
        }
    }
}

async fn read_exact(stream: &mut TcpStream, target: &mut [u8], due: &AtomicBool) -> io::Result<()> {
    let mut filled = 0;
    while let Some(rest) = target.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let count = poll_fn(|context| {
            if let Some(count) = held(&*stream, due, rest) {
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

/// Once `due`, what the kernel holds for a socket, bytes or an error, whether or not the runtime has reported it. None when
/// that is nothing.
fn held(socket: &impl AsFd, due: &AtomicBool, target: &mut [u8]) -> Option<io::Result<usize>> {
    let read = due.load(Ordering::Relaxed).then(|| (&*socket2::SockRef::from(socket)).read(target))?;
    Some(read).filter(|read| !matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock))
}

/// The error of a call that binds a socket to any free port.
fn without_port(error: io::Error) -> Unsettled {
    match error.raw_os_error() {
        Some(libc::EADDRINUSE | libc::EADDRNOTAVAIL) => Unsettled::new(UnsettledKind::NoPort, error.to_string()),
        _ => unsettled(error),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn unsettled(error: io::Error) -> Unsettled {
    let kind = match error.raw_os_error() {
        // No address of this host leads there.
        Some(libc::EADDRNOTAVAIL) => UnsettledKind::Unreachable,
        Some(libc::EAFNOSUPPORT | libc::EINVAL | libc::ENODEV | libc::ENXIO) => UnsettledKind::Unusable,
        _ => match errno_kind(&error) {
            Some(ErrnoKind::Exhausted) => UnsettledKind::Exhausted,
            Some(ErrnoKind::Local) => UnsettledKind::Local,
            // An error that is not the kernel's is a stream that ended.
            Some(ErrnoKind::Network) | None => UnsettledKind::Unreachable,
        },
    };
    Unsettled::new(kind, error.to_string())
}

fn read(message: &Message, name: &Name, kind: RecordType) -> Result<DnsAnswer, Unsettled> {
    match message.metadata.response_code {
        ResponseCode::NXDomain => {
            return Ok(DnsAnswer::Settled(Resolved::none(ResolveCause::NxDomain, negative(message))));
        }
        ResponseCode::NoError => {}
        code => return Err(Unsettled::code(code)),
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
            return Ok(DnsAnswer::Settled(Resolved { result: Ok(addresses), ttl: Some(ttl) }));
        }
        match alias {
            Some(target) => end = target,
            None => break,
        }
    }
    let metadata = &message.metadata;
    let negative = negative(message);
    // A server that has followed the alias and found no record sends the SOA of the zone (RFC 2308 §2.2).
    if end != name && negative.is_none() {
        return Ok(DnsAnswer::Alias(end.clone(), ttl));
    }
    let is_empty = message.answers.is_empty() && message.additionals.is_empty() && message.edns.is_none();
    if is_empty && !metadata.authoritative && !metadata.recursion_available {
        return Err(Unsettled::new(UnsettledKind::Failed, "referral in place of an answer"));
    }
    Ok(DnsAnswer::Settled(Resolved::none(ResolveCause::NoData, negative)))
}

/// Seconds for which a negative answer may be kept (RFC 2308 §5).
fn negative(message: &Message) -> Option<u32> {
    message.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(zone) => Some(record.ttl.min(zone.minimum)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a question makes of a header with its id, these flags, and nothing that its counts announce.
    fn answer(flags: u8, id_of_another: bool) -> Option<&'static str> {
        let name = Name::from_ascii("mail.example.test.").unwrap();
        let question = Question::new(&name, RecordType::A, false).unwrap();
        let [high, low] = (question.id ^ u16::from(id_of_another)).to_be_bytes();
        let header = [high, low, flags, 0, 0, 1, 0, 1, 0, 0, 0, 0];
        question.answered_by(&header).map(|answer| match answer {
            ReceivedAnswer::Whole(_) => "whole",
            ReceivedAnswer::Truncated => "truncated",
            ReceivedAnswer::Malformed => "malformed",
        })
    }

    /// RFC 1035 section 4.1.1: QR 0x80, AA 0x04, TC 0x02, RD 0x01.
    #[test]
    fn a_cut_answer_is_truncated_only_if_it_says_so() {
        assert_eq!(answer(0x81, false), Some("malformed"));
        assert_eq!(answer(0x85, false), Some("malformed"));
        assert_eq!(answer(0x83, false), Some("truncated"));
        assert_eq!(answer(0x82, false), Some("truncated"));
        // No answer, and none to this question.
        assert_eq!((answer(0x03, false), answer(0x83, true), answer(0x81, true)), (None, None, None));
    }
}
