//! Counts and stamps the bytes of a TCP connection, below TLS if there is any.
//!
//! A stamp is the kernel's, of the packet's arrival or departure, or taken at the read or write if there is none. Events are
//! kept for one step. Pending acknowledgements are sent before every wait. Not here: the meaning of bytes, deadlines. Called
//! by `connect` and `tls`, which set it up, and by `probe`.

use std::{
    io,
    net::TcpStream,
    os::fd::{AsFd as _, AsRawFd, OwnedFd},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, unix::AsyncFd};

mod wire_event;

use self::wire_event::keep;
pub use self::wire_event::{LATE, Traffic, WireEvent, kept_waiting};
use super::{
    Buffer, LastRecord, ServerHello, TcpInfo,
    hello::Records,
    linux,
    tcp::{Received, StampedBytes},
};
use crate::{
    clock::{self, Kernel},
    plan::Timing,
};

/// Bytes on the wire, TLS included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ByteCounts {
    /// Passed to the kernel.
    pub sent: u64,
    /// Read from the kernel.
    pub received: u64,
}

/// A handle on a TCP connection whose bytes are counted and stamped. The TLS library consumes the handle that it is given, also
/// when it fails; a clone outlives that. One task uses it, so the lock is never waited for.
///
/// It exists before the connection: reads and writes wait for that.
#[derive(Debug, Clone, Default)]
pub struct StampedStream(Arc<Mutex<StreamState>>);

#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about one connection")]
struct StreamState {
    socket: Option<Socket>,
    counts: ByteCounts,
    first_write: Option<Instant>,
    /// Since when bytes wait for room in the peer's window and none has been sent.
    no_room_since: Option<Instant>,
    /// First arrival since [`StampedStream::begin_read`], or [`StampedStream::ignore_tls_records`].
    first_read: Option<Instant>,
    last_read: Option<Instant>,
    /// Nothing has arrived since we wrote: the next byte needs a stamp of its own.
    asked: bool,
    /// Bytes have arrived that may not have been acknowledged.
    unacknowledged: bool,
    quickack: bool,
    events: Vec<WireEvent>,
    /// An arrival of this step has no stamp of the kernel.
    stamped_here: bool,
    /// See [`Traffic::closed`].
    closed: bool,
    /// Segments retransmitted or received out of order, when last read.
    lost: u64,
    /// See [`StampedStream::read_unreported`].
    reads_unreported: bool,
    read_at: Option<Instant>,
    /// See [`StampedStream::watch_unread`].
    unread_limit: Option<Duration>,
    unread: Vec<(Instant, Instant)>,
    tls: Option<Box<Tls>>,
}

#[derive(Debug)]
struct Socket {
    /// Registered for reading only: a departure's stamp is an event too, and must not wake the task.
    stream: AsyncFd<TcpStream>,
    /// A second registration, made when the kernel first accepts no more bytes.
    writable: Option<AsyncFd<OwnedFd>>,
    /// Both clocks, if the kernel stamps.
    kernel: Option<Kernel>,
    /// Lower bound of the next arrivals.
    earliest: Instant,
    /// The kernel's stamp of the last bytes read, if it was accepted.
    last_stamp: Option<Duration>,
    /// The error that the next read returns.
    broken: Option<io::Error>,
}

/// State under TLS: OpenSSL reads a record in two pieces, which here is one system call.
#[derive(Debug)]
struct Tls {
    records: Records,
    /// Bytes that OpenSSL has not read yet.
    waiting: Option<Buffer>,
    from: usize,
}

impl StampedStream {
    /// Takes over a connection that was begun at `begun`. With `stamped` the kernel stamps its arrivals.
    pub fn attach(&self, stream: TcpStream, begun: Instant, stamped: bool, timing: Timing) -> io::Result<()> {
        let mut inner = self.inner();
        inner.quickack = timing.quickack && linux::acknowledge_now(stream.as_fd());
        inner.socket = Some(Socket {
            stream: register(stream, Interest::READABLE)?,
            writable: None,
            kernel: stamped.then(Kernel::new),
            earliest: begun,
            last_stamp: None,
            broken: None,
        });
        Ok(())
    }

    /// From here on the bytes are TLS records.
    pub fn begin_tls(&self) {
        self.inner().tls = Some(Box::new(Tls { records: Records::default(), waiting: None, from: 0 }));
    }

    /// Bytes so far.
    pub fn counts(&self) -> ByteCounts {
        self.inner().counts
    }

    /// Begins a step: drops the events and the first write of the last one.
    pub fn begin_step(&self) {
        let mut inner = self.inner();
        (inner.first_write, inner.no_room_since) = (None, None);
        inner.events.clear();
        (inner.stamped_here, inner.closed) = (false, false);
    }

    /// When the first byte since [`StampedStream::begin_step`] left, or was passed to the kernel.
    pub fn first_write(&self) -> Option<Instant> {
        self.inner().first_write
    }

    /// When the peer's turn began since [`StampedStream::begin_step`]: our first byte left, or found no room in its window.
    pub fn asked_at(&self) -> Option<Instant> {
        let inner = self.inner();
        inner.first_write.or(inner.no_room_since)
    }

    /// Begins a read: [`StampedStream::last_arrival`] then has the times of its bytes.
    pub fn begin_read(&self) {
        self.inner().first_read = None;
    }

    /// The caller got no data: the bytes since [`StampedStream::begin_read`] were records of TLS itself, such as session tickets,
    /// unless a record is incomplete. They are not the first arrival.
    pub fn ignore_tls_records(&self) {
        let mut inner = self.inner();
        let between = inner.tls.as_ref().is_some_and(|tls| tls.records.is_between());
        if between && inner.first_read.take().is_some() {
            inner.asked = true;
        }
    }

    /// When the first and the last byte read since [`StampedStream::begin_read`] arrived. For a read from a buffer, when its bytes
    /// arrived.
    pub fn last_arrival(&self) -> Option<(Instant, Instant)> {
        let inner = self.inner();
        let last = inner.last_read?;
        Some((inner.first_read.unwrap_or(last), last))
    }

    /// Takes the events since [`StampedStream::begin_step`].
    pub fn traffic(&self) -> Traffic {
        let mut inner = self.inner();
        let events = std::mem::take(&mut inner.events);
        let kernel = !inner.stamped_here && events.iter().any(|event| !event.sent);
        Traffic { events, kernel, closed: inner.closed }
    }

    /// Lets reads return bytes that the runtime has not reported yet, until the kernel has none: a timer may fire before the
    /// report.
    pub fn read_unreported(&self) {
        self.inner().reads_unreported = true;
    }

    /// From here on records when bytes stay unread for longer than this, while nothing is read.
    pub fn watch_unread(&self, limit: Duration) {
        let mut inner = self.inner();
        inner.unread_limit = Some(limit);
        inner.unread.clear();
    }

    /// When the peer owed nothing since [`StampedStream::begin_step`]: bytes were unread, or it was our turn, between an arrival and
    /// the next departure, for longer than the limit of [`StampedStream::watch_unread`]. Shorter turns do not count: a peer that
    /// makes us answer without end owes the end.
    pub fn not_owed(&self) -> Vec<(Instant, Instant)> {
        let inner = self.inner();
        let limit = inner.unread_limit.unwrap_or_default();
        let is_long = |(from, to): &(Instant, Instant)| to.saturating_duration_since(*from) > limit;
        let turns = wire_event::own_turns(&inner.events).map(|turn| (turn.from, turn.answered)).filter(is_long);
        inner.unread.iter().copied().chain(turns).collect()
    }

    /// The last arrival or departure since [`StampedStream::begin_step`].
    pub fn last_event(&self) -> Option<Instant> {
        self.inner().events.last().map(|last| last.at)
    }

    /// Whether the kernel accepts `TCP_QUICKACK`.
    pub fn quickack(&self) -> bool {
        self.inner().quickack
    }

    /// The kernel's statistics of the connection (`TCP_INFO`).
    pub fn tcp_info(&self) -> Option<TcpInfo> {
        let mut inner = self.inner();
        let info = TcpInfo::of(inner.socket.as_ref()?.stream.as_fd())?;
        inner.lost = lost(&info);
        Some(info)
    }

    /// Whether there are bytes that TLS has not read yet.
    pub fn has_waiting(&self) -> bool {
        self.inner().tls.as_ref().is_some_and(|tls| tls.waiting.is_some())
    }

    /// The version and cipher suite that the server chose, once they are known.
    pub fn server_hello(&self) -> Option<ServerHello> {
        self.inner().tls.as_ref()?.records.hello
    }

    /// The last TLS record received.
    pub fn last_record(&self) -> Option<LastRecord> {
        self.inner().tls.as_ref()?.records.last
    }

    /// The first bytes received, if they are no TLS record.
    pub fn non_tls_prefix(&self) -> Option<Vec<u8>> {
        self.inner().tls.as_ref()?.records.non_tls_prefix().map(<[u8]>::to_vec)
    }

    /// Takes the server's certificates, as DER, its own first, if they were in clear text (up to TLS 1.2).
    pub(super) fn take_chain(&self) -> Vec<Vec<u8>> {
        self.inner().tls.as_mut().map(|tls| tls.records.take_chain()).unwrap_or_default()
    }

    pub(super) fn drop_chain(&self) {
        if let Some(tls) = &mut self.inner().tls {
            tls.records.chain = None;
        }
    }

    fn inner(&self) -> MutexGuard<'_, StreamState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StreamState {
    fn poll_receive(&mut self, context: &mut Context<'_>, target: &mut [u8]) -> Poll<io::Result<usize>> {
        let Some(socket) = &mut self.socket else { return Poll::Pending };
        if let Some(error) = socket.broken.take() {
            return Poll::Ready(Err(error));
        }
        if self.reads_unreported
            && let Some(result) = self.receive_now(target)
        {
            return Poll::Ready(result);
        }
        let Some(socket) = &mut self.socket else { return Poll::Pending };
        loop {
            let Poll::Ready(ready) = socket.stream.poll_read_ready(context) else {
                if std::mem::take(&mut self.unacknowledged) && self.quickack {
                    linux::acknowledge_now(socket.stream.as_fd());
                }
                return Poll::Pending;
            };
            let mut ready = ready?;
            match linux::receive(ready.get_inner().as_fd(), usize::from(self.asked), target) {
                Ok(Received { pieces, then }) => {
                    socket.broken = then;
                    let count = pieces.iter().map(|piece| piece.bytes).sum();
                    // The stamp of these bytes may be that of the end of the stream.
                    self.closed |= count > 0 && ready.ready().is_read_closed();
                    // The socket is empty now: the next arrival is reported again.
                    if 0 < count && count < target.len() {
                        ready.clear_ready();
                    }
                    drop(ready);
                    self.received(pieces, None);
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Reads the bytes in the kernel, whether or not the runtime has reported them. None if there are none.
    fn receive_now(&mut self, target: &mut [u8]) -> Option<io::Result<usize>> {
        let socket = self.socket.as_mut()?;
        // In place of a missing stamp: the age of the last data.
        let age = TcpInfo::of(socket.stream.as_fd()).map(|info| Duration::from_millis(info.data_age_ms.into()));
        let came = age.and_then(|age| clock::now().checked_sub(age));
        match linux::receive(socket.stream.as_fd(), usize::from(self.asked), target) {
            Ok(Received { pieces, then }) => {
                socket.broken = then;
                self.received(pieces, came);
                Some(Ok(pieces.iter().map(|piece| piece.bytes).sum()))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.reads_unreported = false;
                None
            }
            Err(error) => Some(Err(error)),
        }
    }

    /// Records a read. `came` replaces a missing stamp; without it, the present time does.
    fn received(&mut self, pieces: [StampedBytes; 2], came: Option<Instant>) {
        let Some(socket) = &mut self.socket else { return };
        let reading = socket.kernel.as_mut().map(Kernel::read);
        let now = reading.map_or_else(clock::now, |reading| reading.moment());
        self.asked = false;
        self.unacknowledged = true;
        for piece in pieces.into_iter().filter(|piece| piece.bytes > 0) {
            let at = match (self.last_read, piece.stamp) {
                // The rest of a packet.
                (Some(last), Some(stamp)) if socket.last_stamp == Some(stamp) => Some(last),
                (_, Some(stamp)) => reading.and_then(|reading| reading.place(stamp, socket.earliest)),
                (_, None) => None,
            };
            socket.last_stamp = piece.stamp.filter(|_| at.is_some());
            self.stamped_here |= at.is_none();
            let at = at.unwrap_or_else(|| came.unwrap_or(now).max(socket.earliest).min(now));
            // In an endless stream some bytes always wait: they count as unread only since the last read.
            let since = self.read_at.map_or(at, |read| at.max(read));
            if self.unread_limit.is_some_and(|limit| now.saturating_duration_since(since) > limit) {
                wire_event::note_unread(&mut self.unread, since, now);
            }
            socket.earliest = at;
            let waited = self.events.last().is_some_and(|last| now.saturating_duration_since(last.at) > LATE);
            let info = if waited { TcpInfo::of(socket.stream.as_fd()) } else { None };
            let now_lost = info.map_or(self.lost, |info| lost(&info));
            self.first_read.get_or_insert(at);
            self.last_read = Some(at);
            self.counts.received += piece.bytes as u64;
            let unread_us = u32::try_from(now.saturating_duration_since(at).as_micros()).unwrap_or(u32::MAX);
            let lost = std::mem::replace(&mut self.lost, now_lost) != now_lost;
            keep(&mut self.events, WireEvent { unread_us, lost, ..WireEvent::new(at, piece.bytes, false) });
        }
        self.read_at = Some(now);
        // The end of the stream has a time too.
        if self.last_read.is_none() || pieces.iter().all(|piece| piece.bytes == 0) {
            self.last_read = Some(now);
        }
    }

    fn poll_send(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Some(socket) = &mut self.socket else { return Poll::Pending };
        loop {
            let before = clock::now();
            match linux::send(socket.stream.as_fd(), bytes, socket.kernel.is_some()) {
                Ok(count) => {
                    let at = socket.departure(before).unwrap_or(before);
                    self.first_write.get_or_insert(at);
                    self.asked = true;
                    // The segment carries the acknowledgement.
                    self.unacknowledged = false;
                    self.counts.sent += count as u64;
                    keep(&mut self.events, WireEvent::new(at, count, true));
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.no_room_since.get_or_insert(before);
                    ready!(socket.poll_writable(context))?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // The time of a step that ends with this error.
                    self.first_write.get_or_insert(before);
                    return Poll::Ready(Err(error));
                }
            }
        }
    }
}

/// Registers a descriptor with the runtime.
#[expect(unsafe_code, reason = "the type does not prove tokio's requirement")]
fn register<T: AsRawFd + Into<OwnedFd>>(owned: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: a type that converts into an `OwnedFd` owns one open descriptor as long as it lives.
    Ok(unsafe { AsyncFd::register_with_interest(owned, interest) }?)
}

impl Socket {
    /// When the bytes just sent left, by the kernel's stamp.
    fn departure(&mut self, before: Instant) -> Option<Instant> {
        let kernel = self.kernel.as_mut()?;
        // The queue may start with late stamps of earlier bytes.
        while let Some(stamp) = linux::departure(self.stream.as_fd()) {
            if let Some(at) = kernel.read().place(stamp, before) {
                return Some(at);
            }
        }
        None
    }

    fn poll_writable(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let writable = match &mut self.writable {
            Some(writable) => writable,
            none => none.insert(register(self.stream.as_fd().try_clone_to_owned()?, Interest::WRITABLE)?),
        };
        let ready = ready!(writable.poll_write_ready(context)).map(|mut ready| ready.clear_ready());
        // A late stamp is an error event of epoll, after which the runtime considers the socket closed for good: so late stamps
        // are dropped, and the next wait makes a new registration.
        while linux::departure(self.stream.as_fd()).is_some() {}
        self.writable = None;
        Poll::Ready(ready)
    }
}

fn lost(info: &TcpInfo) -> u64 {
    u64::from(info.retransmits) + u64::from(info.out_of_order.unwrap_or_default())
}

impl AsyncRead for StampedStream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, target: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner();
        let Some(mut tls) = inner.tls.take() else {
            let count = ready!(inner.poll_receive(context, target.initialize_unfilled()))?;
            target.advance(count);
            return Poll::Ready(Ok(()));
        };
        let done = tls.poll_read(&mut inner, context, target);
        inner.tls = Some(tls);
        done
    }
}

impl Tls {
    fn poll_read(
        &mut self,
        inner: &mut StreamState,
        context: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let buffer = match &mut self.waiting {
            Some(buffer) => buffer,
            none => {
                let mut buffer = Buffer::take();
                let count = ready!(inner.poll_receive(context, buffer.room()))?;
                buffer.fill(count);
                self.records.push(buffer.filled());
                self.from = 0;
                none.insert(buffer)
            }
        };
        let rest = buffer.filled().get(self.from..).unwrap_or_default();
        let part = rest.get(..rest.len().min(target.remaining())).unwrap_or_default();
        target.put_slice(part);
        self.from += part.len();
        if self.from == buffer.filled().len() {
            self.waiting = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for StampedStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.inner().poll_send(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The caller closes the connection next.
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
