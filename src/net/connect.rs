//! TCP connections as mail programs make them: attempts to all addresses, raced (RFC 8305 §5). Every attempt is recorded, since a
//! probe must not hide a half-dead service.

use std::{
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd as _,
    sync::atomic::{AtomicBool, Ordering},
    task::Poll,
    time::{Duration, Instant},
};

use futures_util::{FutureExt as _, future::select_all};
use socket2::{Domain, Socket, Type};
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    time::{sleep, sleep_until, timeout_at},
};

use super::{StampedStream, errno::is_exhausted, linux, proxy};
use crate::{
    clock::{self, Deadline},
    plan::{ProxyProtocol, Timing},
};

/// How to connect.
#[derive(Debug, Clone, Copy)]
pub struct ConnectOptions {
    /// The local address to bind.
    pub source: Option<IpAddr>,
    /// Header to send first.
    pub proxy: Option<ProxyProtocol>,
    /// How stamps are taken.
    pub timing: Timing,
    /// The deadline of all attempts.
    pub deadline: Deadline,
}

/// Why an attempt failed. Ordered by what it means: a local fault, then an answer, then silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConnectCause {
    /// This process or machine has no file descriptor left, or no memory for sockets.
    Exhausted,
    /// No local port left.
    NoPort,
    /// The local address in the options is not one of this host.
    Source,
    /// RST in answer to SYN.
    Refused,
    /// RST after the connection was established.
    Reset,
    /// No answer.
    Timeout,
    /// No route, or an ICMP error.
    Unreachable,
    /// Another fault of the local system.
    Local,
}

/// One attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionAttempt {
    /// The address.
    pub peer: SocketAddr,
    /// Just before SYN.
    pub start: Instant,
    /// Established, failed or cancelled.
    pub end: Instant,
    /// None for one that was cancelled because another succeeded.
    pub result: Option<Result<(), ConnectCause>>,
}

/// A connection, or why there is none, and all attempts.
#[derive(Debug)]
pub struct Connected {
    /// The addresses of the peer and of this end.
    pub result: Result<(SocketAddr, SocketAddr), ConnectCause>,
    /// In the order of their starts.
    pub attempts: Vec<ConnectionAttempt>,
}

/// Connection Attempt Delay (RFC 8305 §5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// RFC 8305 has no limit; a name with a thousand addresses must not open a thousand sockets.
const MOST_ATTEMPTS: usize = 8;

/// Connects to the first of `addresses` that answers, and puts `wire` on it.
pub async fn connect(wire: &StampedStream, addresses: &[SocketAddr], options: ConnectOptions) -> Connected {
    let mut attempts: Vec<ConnectionAttempt> = Vec::new();
    // Set at the deadline: the timer may fire before the runtime reports what the kernel already holds.
    let due = AtomicBool::new(false);
    let mut pending = Vec::new();
    let mut waiting = addresses.iter().take(MOST_ATTEMPTS).peekable();
    let timer = sleep_until(options.deadline.end().into());
    tokio::pin!(timer);
    let mut begin = |attempts: &mut Vec<ConnectionAttempt>, pending: &mut Vec<_>| {
        let Some(peer) = waiting.next() else { return false };
        let start = clock::now();
        attempts.push(ConnectionAttempt { peer: *peer, start, end: start, result: None });
        let number = attempts.len() - 1;
        pending.push(Box::pin(attempt(*peer, options, &due).map(move |result| (number, result))));
        waiting.peek().is_some()
    };
    let mut more = begin(&mut attempts, &mut pending);
    let winner = loop {
        if pending.is_empty() {
            break None;
        }
        let next = sleep(ATTEMPT_DELAY);
        let ended = tokio::select! {
            biased;
            ended = first_end(&mut pending) => Some(ended),
            () = &mut timer => {
                let end = options.deadline.lengthened();
                if clock::now() < end {
                    timer.as_mut().reset(end.into());
                    continue;
                }
                due.store(true, Ordering::Relaxed);
                let Some(ended) = first_end(&mut pending).now_or_never() else { break None };
                Some(ended)
            }
            () = next, if more => None,
        };
        let Some(((number, result), at)) = ended else {
            more = begin(&mut attempts, &mut pending);
            continue;
        };
        drop(pending.remove(at));
        let Some(entry): Option<&mut ConnectionAttempt> = attempts.get_mut(number) else { break None };
        entry.end = clock::now();
        entry.result = Some(result.as_ref().map(|_| ()).map_err(|cause| *cause));
        match result {
            Ok(stream) => break Some((entry.peer, entry.start, stream)),
            Err(_) => more = begin(&mut attempts, &mut pending),
        }
    };
    drop(pending);
    let now = clock::now();
    for entry in attempts.iter_mut().filter(|entry| entry.result.is_none()) {
        entry.end = now;
        if winner.is_none() {
            entry.result = Some(Err(ConnectCause::Timeout));
        }
    }
    let result = match winner {
        None => {
            let causes = attempts.iter().filter_map(|entry| entry.result?.err());
            Err(causes.min().unwrap_or(ConnectCause::Unreachable))
        }
        Some((peer, start, (stream, stamped))) => match prepare(wire, stream, (start, stamped), peer, options).await {
            Ok(local) => Ok((peer, local)),
            Err(error) => Err(cause(&error)),
        },
    };
    Connected { result, attempts }
}

/// The output of the first future that ends, and its place. Polls all of them each time: nothing wakes an attempt that reads the
/// kernel's state.
fn first_end<F: Future + Unpin>(pending: &mut [F]) -> impl Future<Output = (F::Output, usize)> {
    select_all(pending).map(|(output, at, _)| (output, at))
}

/// The connection, and whether the kernel stamps its arrivals.
async fn attempt(
    peer: SocketAddr,
    options: ConnectOptions,
    due: &AtomicBool,
) -> Result<(TcpStream, bool), ConnectCause> {
    let kind = Type::STREAM.nonblocking();
    let socket = Socket::new(Domain::for_address(peer), kind, None).map_err(|error| cause(&error))?;
    socket.set_tcp_nodelay(true).map_err(|error| cause(&error))?;
    if let Some(source) = options.source {
        socket.bind(&SocketAddr::new(source, 0).into()).map_err(|error| match error.raw_os_error() {
            Some(libc::EADDRNOTAVAIL | libc::EINVAL | libc::EACCES) => ConnectCause::Source,
            _ => cause(&error),
        })?;
    }
    // Before the first packet arrives, which may be the greeting.
    let stamped = options.timing.kernel_stamps && linux::stamp(socket.as_fd());
    let stream = start(socket, peer).map_err(|error| cause(&error))?;
    established(&stream, due).await.map_err(|error| cause(&error))?;
    Ok((stream, stamped))
}

fn start(socket: Socket, peer: SocketAddr) -> io::Result<TcpStream> {
    match socket.connect(&peer.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    TcpStream::from_std(socket.into())
}

/// Waits for the end of a connection attempt. Once `due`, reads the kernel's state.
async fn established(stream: &TcpStream, due: &AtomicBool) -> io::Result<()> {
    poll_fn(|context| {
        let is_due = due.load(Ordering::Relaxed);
        match stream.poll_write_ready(context) {
            Poll::Pending if is_due && stream.peer_addr().is_ok() => Poll::Ready(Ok(())),
            Poll::Pending if is_due => {
                stream.take_error().transpose().map_or(Poll::Pending, |error| Poll::Ready(error.and_then(Err)))
            }
            ready => ready,
        }
    })
    .await?;
    stream.take_error()?.map_or(Ok(()), Err)
}

async fn prepare(
    wire: &StampedStream,
    stream: TcpStream,
    (begun, stamped): (Instant, bool),
    peer: SocketAddr,
    options: ConnectOptions,
) -> io::Result<SocketAddr> {
    let local = stream.local_addr()?;
    wire.attach(stream.into_std()?, begun, stamped, options.timing)?;
    if let Some(version) = options.proxy {
        let header = proxy::header(version, local, peer);
        let mut line = wire.clone();
        // A kernel without memory for sockets accepts no bytes.
        let written = timeout_at(options.deadline.lengthened().into(), line.write_all(&header)).await;
        written.unwrap_or_else(|_| Err(io::Error::from_raw_os_error(libc::ETIMEDOUT)))?;
    }
    Ok(local)
}

fn cause(error: &io::Error) -> ConnectCause {
    match error.raw_os_error() {
        Some(number) if is_exhausted(number) => ConnectCause::Exhausted,
        // From connect or bind: no port is free.
        Some(libc::EADDRNOTAVAIL | libc::EADDRINUSE) => ConnectCause::NoPort,
        Some(libc::ETIMEDOUT) => ConnectCause::Timeout,
        Some(libc::ECONNREFUSED) => ConnectCause::Refused,
        Some(libc::ECONNRESET | libc::ECONNABORTED | libc::EPIPE) => ConnectCause::Reset,
        Some(
            libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN | libc::EACCES | libc::EPERM | libc::EAFNOSUPPORT,
        ) => ConnectCause::Unreachable,
        _ => ConnectCause::Local,
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn options(limit: Duration) -> ConnectOptions {
        ConnectOptions {
            source: None,
            proxy: None,
            timing: Timing::default(),
            deadline: Deadline::after(clock::now(), limit),
        }
    }

    async fn closed() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
    }

    #[tokio::test]
    async fn a_refused_address_is_on_record_and_the_next_one_wins() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (dead, alive) = (closed().await, listener.local_addr().unwrap());
        let connected = connect(&StampedStream::default(), &[dead, alive], options(Duration::from_secs(5))).await;
        let (peer, local) = connected.result.unwrap();
        assert_eq!(peer, alive);
        assert!(local.ip().is_loopback());
        let results: Vec<_> = connected.attempts.iter().map(|entry| entry.result).collect();
        assert_eq!(results, [Some(Err(ConnectCause::Refused)), Some(Ok(()))]);
    }

    #[tokio::test]
    async fn a_source_address_of_another_host_has_a_cause_of_its_own() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let source = Some("192.0.2.1".parse().unwrap());
        let options = ConnectOptions { source, ..options(Duration::from_secs(5)) };
        let connected = connect(&StampedStream::default(), &[listener.local_addr().unwrap()], options).await;
        assert_eq!(connected.result.map(|_| ()), Err(ConnectCause::Source));
    }

    #[tokio::test]
    async fn refused_everywhere_is_refused() {
        let connected = connect(&StampedStream::default(), &[closed().await], options(Duration::from_secs(5))).await;
        assert_eq!(connected.result.map(|_| ()), Err(ConnectCause::Refused));
    }

    #[tokio::test]
    async fn no_address_at_all_ends_at_once() {
        let connected = connect(&StampedStream::default(), &[], options(Duration::from_secs(3600))).await;
        assert_eq!((connected.result.map(|_| ()), connected.attempts.len()), (Err(ConnectCause::Unreachable), 0));
    }
}
