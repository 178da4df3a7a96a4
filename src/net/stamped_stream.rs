//! Counts and stamps the bytes of a TCP connection, below TLS if there is any.
//!
//! A stamp is the kernel's, of the packet's arrival or departure, or taken at the read or write itself where the kernel
//! gives none. What crossed the line, and when, is kept for one step at a time. Acknowledgements that are due are sent
//! before every wait. Not here: what the bytes mean, deadlines. The stream changes no byte. Called by `connect` and `tls`, which
//! put it on a connection, and by `probe`.

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
use super::{Buffer, LastRecord, ServerHello, TcpInfo, hello::Records, linux};
use crate::{
    clock::{self, Kernel},
    plan::Timing,
};

/// Bytes on the wire, TLS included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ByteCounts {
    /// Given to the kernel.
    pub sent: u64,
    /// Taken from the kernel.
    pub received: u64,
}

/// A handle on a TCP connection whose bytes are counted and stamped. It can be copied: the TLS library swallows the stream that it is given,
/// also when it fails, and what was seen on the wire must outlive that. One task uses it, so the lock is never waited for.
///
/// It is there before the connection: what is written meanwhile waits.
#[derive(Debug, Clone, Default)]
pub struct StampedStream(Arc<Mutex<StreamState>>);

#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about one connection")]
struct StreamState {
    socket: Option<Socket>,
    counts: ByteCounts,
    first_write: Option<Instant>,
    /// Since when bytes wait for room in the peer's window, none of which has been taken yet.
    no_room_since: Option<Instant>,
    /// First arrival since [`StampedStream::begin_read`], or [`StampedStream::ignore_tls_records`].
    first_read: Option<Instant>,
    last_read: Option<Instant>,
    /// Nothing has come since we wrote: the first byte of what comes is wanted with a stamp of its own.
    asked: bool,
    /// Bytes have come that may not have been acknowledged.
    unacknowledged: bool,
    quickack: bool,
    events: Vec<WireEvent>,
    /// Since the mark, imaptrace had to stamp an arrival itself.
    stamped_here: bool,
    /// See [`Traffic::closed`].
    closed: bool,
    /// Segments sent again or received out of order, as of the last look.
    lost: u64,
    /// See [`StampedStream::look`].
    looking: bool,
    /// When we last read something.
    read_at: Option<Instant>,
    /// See [`StampedStream::watch_unread`].
    unread_limit: Option<Duration>,
    unread: Vec<(Instant, Instant)>,
    tls: Option<Box<Tls>>,
}

#[derive(Debug)]
struct Socket {
    /// Registered for reading alone: a departure's stamp is an event too, and must not wake the task.
    stream: AsyncFd<TcpStream>,
    /// A second registration, made when the kernel first takes no more bytes.
    writable: Option<AsyncFd<OwnedFd>>,
    /// How the clocks stand, when the kernel stamps.
    kernel: Option<Kernel>,
    /// Nothing that is read from now on came before this.
    earliest: Instant,
    /// The kernel's stamp of the last bytes read, if it was believed.
    last_stamp: Option<Duration>,
    /// What the next read has to tell.
    broken: Option<io::Error>,
}

/// What is there only under TLS: OpenSSL reads a record in two pieces, which here costs one system call.
#[derive(Debug)]
struct Tls {
    records: Records,
    /// What has come and is not yet taken.
    waiting: Option<Buffer>,
    from: usize,
}

impl StampedStream {
    /// Takes over a connection that was begun at `begun`. With `stamped` its socket was asked for stamps, and gives
    /// them.
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

    /// Begins a step: forgets what has crossed the line, and the first write, so that the next one is the first.
    pub fn begin_step(&self) {
        let mut inner = self.inner();
        (inner.first_write, inner.no_room_since) = (None, None);
        inner.events.clear();
        (inner.stamped_here, inner.closed) = (false, false);
    }

    /// When the first byte since [`StampedStream::begin_step`] left, or was handed to the kernel.
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

    /// What came since [`StampedStream::begin_read`] was TLS's own, such as session tickets, unless half a record is there: from
    /// outside they look like data, and only who waited for data in vain knows. What comes next is the first.
    pub fn ignore_tls_records(&self) {
        let mut inner = self.inner();
        let between = inner.tls.as_ref().is_some_and(|tls| tls.records.is_between());
        if between && inner.first_read.take().is_some() {
            inner.asked = true;
        }
    }

    /// When the first and the last of the bytes arrived that were read since [`StampedStream::begin_read`]. A read that was served
    /// from what had been read before gives the moment of that.
    pub fn last_arrival(&self) -> Option<(Instant, Instant)> {
        let inner = self.inner();
        let last = inner.last_read?;
        Some((inner.first_read.unwrap_or(last), last))
    }

    /// Takes what has crossed the line since [`StampedStream::begin_step`].
    pub fn traffic(&self) -> Traffic {
        let mut inner = self.inner();
        let events = std::mem::take(&mut inner.events);
        let kernel = !inner.stamped_here && events.iter().any(|event| !event.sent);
        Traffic { events, kernel, closed: inner.closed }
    }

    /// Until the kernel holds nothing more, a read gets what it holds, also what the runtime has not reported: its
    /// timer may come before it.
    pub fn look(&self) {
        self.inner().looking = true;
    }

    /// From here on notes when bytes lay unread for longer than this, while we read nothing.
    pub fn watch_unread(&self, limit: Duration) {
        let mut inner = self.inner();
        inner.unread_limit = Some(limit);
        inner.unread.clear();
    }

    /// When the peer owed nothing since [`StampedStream::begin_step`], as far as the line shows it: for longer than
    /// [`StampedStream::watch_unread`] was given, bytes lay unread, or it was our turn, between an arrival and what we sent next. Short
    /// turns do not count: who makes us answer again and again, and never ends, owes the end all the time.
    pub fn not_owed(&self) -> Vec<(Instant, Instant)> {
        let inner = self.inner();
        let limit = inner.unread_limit.unwrap_or_default();
        let is_long = |(from, to): &(Instant, Instant)| to.saturating_duration_since(*from) > limit;
        let turns = wire_event::own_turns(&inner.events).map(|turn| (turn.from, turn.answered)).filter(is_long);
        inner.unread.iter().copied().chain(turns).collect()
    }

    /// When bytes last crossed the line since [`StampedStream::begin_step`].
    pub fn last_event(&self) -> Option<Instant> {
        self.inner().events.last().map(|last| last.at)
    }

    /// Whether the kernel took the wish to acknowledge at once.
    pub fn quickack(&self) -> bool {
        self.inner().quickack
    }

    /// The kernel's figures of the connection (`TCP_INFO`).
    pub fn tcp_info(&self) -> Option<TcpInfo> {
        let mut inner = self.inner();
        let info = TcpInfo::of(inner.socket.as_ref()?.stream.as_fd())?;
        inner.lost = lost(&info);
        Some(info)
    }

    /// Whether bytes have come that TLS has not taken yet.
    pub fn has_waiting(&self) -> bool {
        self.inner().tls.as_ref().is_some_and(|tls| tls.waiting.is_some())
    }

    /// The server's choice, once it has passed.
    pub fn server_hello(&self) -> Option<ServerHello> {
        self.inner().tls.as_ref()?.records.hello()
    }

    /// The last TLS record that came.
    pub fn last_record(&self) -> Option<LastRecord> {
        self.inner().tls.as_ref()?.records.last()
    }

    /// The first bytes that came where TLS records should, when they are none.
    pub fn non_tls_prefix(&self) -> Option<Vec<u8>> {
        self.inner().tls.as_ref()?.records.non_tls_prefix().map(<[u8]>::to_vec)
    }

    /// The server's certificates, as DER, its own first, where they passed in clear text (up to TLS 1.2); to be had once.
    pub(super) fn take_chain(&self) -> Vec<Vec<u8>> {
        self.inner().tls.as_mut().map(|tls| tls.records.take_chain()).unwrap_or_default()
    }

    /// The server's certificates are of no interest any more.
    pub(super) fn drop_chain(&self) {
        if let Some(tls) = &mut self.inner().tls {
            tls.records.drop_chain();
        }
    }

    fn inner(&self) -> MutexGuard<'_, StreamState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StreamState {
    /// Reads what is there. None while there is nothing.
    fn poll_receive(&mut self, context: &mut Context<'_>, target: &mut [u8]) -> Poll<io::Result<usize>> {
        let Some(socket) = &mut self.socket else { return Poll::Pending };
        if let Some(error) = socket.broken.take() {
            return Poll::Ready(Err(error));
        }
        if self.looking
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
                Ok(linux::Received { pieces, then }) => {
                    socket.broken = then;
                    let count = pieces.iter().map(|piece| piece.bytes).sum();
                    // The end of the stream leaves its stamp on the bytes that it comes to lie beside.
                    self.closed |= count > 0 && ready.ready().is_read_closed();
                    // The socket is empty now: what comes later is told anew.
                    if 0 < count && count < target.len() {
                        ready.clear_ready();
                    }
                    drop(ready);
                    self.received(pieces, None);
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Reads what the kernel holds, whatever the runtime knows. None when that is nothing.
    fn receive_now(&mut self, target: &mut [u8]) -> Option<io::Result<usize>> {
        let socket = self.socket.as_mut()?;
        // Without a stamp the age of the last data shows when it came.
        let age = TcpInfo::of(socket.stream.as_fd()).map(|info| Duration::from_millis(info.data_age_ms.into()));
        let came = age.and_then(|age| clock::now().checked_sub(age));
        loop {
            match linux::receive(socket.stream.as_fd(), usize::from(self.asked), target) {
                Ok(linux::Received { pieces, then }) => {
                    socket.broken = then;
                    self.received(pieces, came);
                    return Some(Ok(pieces.iter().map(|piece| piece.bytes).sum()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.looking = false;
                    return None;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Notes what was just read. `came` is when the last of it did, where the kernel gives no stamp; none is now.
    fn received(&mut self, pieces: [linux::StampedBytes; 2], came: Option<Instant>) {
        let Some(socket) = &mut self.socket else { return };
        let look = socket.kernel.as_mut().map(Kernel::look);
        let now = look.map_or_else(clock::now, |look| look.moment());
        self.asked = false;
        self.unacknowledged = true;
        for piece in pieces.into_iter().filter(|piece| piece.bytes > 0) {
            let at = match (self.last_read, piece.stamp) {
                // The rest of what came together with the bytes before it.
                (Some(last), Some(stamp)) if socket.last_stamp == Some(stamp) => Some(last),
                (_, Some(stamp)) => look.and_then(|look| look.place(stamp, socket.earliest)),
                (_, None) => None,
            };
            socket.last_stamp = piece.stamp.filter(|_| at.is_some());
            self.stamped_here |= at.is_none();
            let at = at.unwrap_or_else(|| came.unwrap_or(now).max(socket.earliest).min(now));
            // Of what comes without end something always lies there: only while we do not read at all is it left unread.
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
            let lay_us = u32::try_from(now.saturating_duration_since(at).as_micros()).unwrap_or(u32::MAX);
            let lost = std::mem::replace(&mut self.lost, now_lost) != now_lost;
            keep(&mut self.events, WireEvent { lay_us, lost, ..WireEvent::new(at, piece.bytes, false) });
        }
        self.read_at = Some(now);
        // The end of the stream has a moment too.
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
                    // It rides on what was sent.
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
                    // Tried at this moment, for a step that ends over it.
                    self.first_write.get_or_insert(before);
                    return Poll::Ready(Err(error));
                }
            }
        }
    }
}

/// Has the runtime watch a descriptor.
#[expect(unsafe_code, reason = "tokio asks for a promise that its type cannot hold")]
fn register<T: AsRawFd + Into<OwnedFd>>(owned: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: whatever turns into an `OwnedFd` owns one descriptor, the same and open, for as long as it lives.
    Ok(unsafe { AsyncFd::register_with_interest(owned, interest) }?)
}

impl Socket {
    /// When the bytes left that were just sent, by the kernel.
    fn departure(&mut self, before: Instant) -> Option<Instant> {
        let kernel = self.kernel.as_mut()?;
        // One that comes too late to be told at once is still there when the next is asked for.
        while let Some(stamp) = linux::departure(self.stream.as_fd()) {
            if let Some(at) = kernel.look().place(stamp, before) {
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
        // A stamp that comes late is an error to epoll, and with it the runtime holds the socket for closed, for good: so
        // late stamps go, and the next wait begins with a registration of its own.
        while linux::departure(self.stream.as_fd()).is_some() {}
        self.writable = None;
        Poll::Ready(ready)
    }
}

/// Segments that were sent again, or came out of order.
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
        // The caller closes the connection next, which ends the stream.
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
