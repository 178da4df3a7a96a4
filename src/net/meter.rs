//! Counts and stamps the bytes of a TCP connection, below TLS if there is any.
//!
//! A stamp is taken at the read or write itself. Acknowledgements are asked for at once after every receive. The meter
//! changes no byte and waits for nothing.

use std::{
    io,
    os::fd::AsFd as _,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Instant,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{LastRecord, ServerHello, TcpInfo, hello::Records, linux::acknowledge_now};
use crate::clock;

/// Bytes on the wire, TLS included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Given to the kernel.
    pub sent: u64,
    /// Taken from the kernel.
    pub received: u64,
}

/// A handle on a TCP connection with a meter. It can be copied: the TLS library swallows the stream that it is given,
/// also when it fails, and what was seen on the wire must outlive that. One task uses it, so the lock is never waited for.
#[derive(Debug, Clone)]
pub struct Meter(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    stream: TcpStream,
    counts: Counts,
    first_write: Option<Instant>,
    last_read: Option<Instant>,
    quickack: bool,
    tls: Option<Box<Tls>>,
}

/// What is there only under TLS: OpenSSL reads a record in two pieces, which here costs one system call.
#[derive(Debug)]
struct Tls {
    records: Records,
    buffer: Vec<u8>,
    from: usize,
}

const BUFFER: usize = 16 << 10;

impl Meter {
    /// Puts a meter on a connection.
    pub fn new(stream: TcpStream) -> Self {
        let quickack = acknowledge_now(stream.as_fd());
        let counts = Counts::default();
        Self(Arc::new(Mutex::new(Inner { stream, counts, first_write: None, last_read: None, quickack, tls: None })))
    }

    /// From here on the bytes are TLS records.
    pub fn begin_tls(&self) {
        self.inner().tls = Some(Box::new(Tls { records: Records::default(), buffer: Vec::new(), from: 0 }));
    }

    /// Bytes so far.
    pub fn counts(&self) -> Counts {
        self.inner().counts
    }

    /// Forgets the first write, so that the next one is the first.
    pub fn mark(&self) {
        self.inner().first_write = None;
    }

    /// When the first byte since [`Meter::mark`] was handed to the kernel.
    pub fn first_write(&self) -> Option<Instant> {
        self.inner().first_write
    }

    /// When the bytes last read arrived.
    pub fn last_read(&self) -> Option<Instant> {
        self.inner().last_read
    }

    /// Whether the kernel took the wish to acknowledge at once.
    pub fn quickack(&self) -> bool {
        self.inner().quickack
    }

    /// What the kernel knows of the connection.
    pub fn tcp_info(&self) -> Option<TcpInfo> {
        TcpInfo::of(self.inner().stream.as_fd())
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
    pub fn stranger(&self) -> Option<Vec<u8>> {
        self.inner().tls.as_ref()?.records.stranger().map(<[u8]>::to_vec)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn received(&mut self, count: usize) {
        self.last_read = Some(clock::now());
        self.counts.received += count as u64;
        if self.quickack {
            acknowledge_now(self.stream.as_fd());
        }
    }
}

impl AsyncRead for Meter {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, target: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner();
        let Some(mut tls) = inner.tls.take() else {
            let before = target.filled().len();
            ready!(Pin::new(&mut inner.stream).poll_read(context, target))?;
            inner.received(target.filled().len() - before);
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
        inner: &mut Inner,
        context: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.from == self.buffer.len() {
            self.buffer.resize(BUFFER, 0);
            self.from = BUFFER;
            let mut arrived = ReadBuf::new(&mut self.buffer);
            let polled = Pin::new(&mut inner.stream).poll_read(context, &mut arrived);
            let count = arrived.filled().len();
            if !matches!(polled, Poll::Ready(Ok(()))) {
                // Nothing to hold: a connection that waits keeps no buffer.
                self.buffer = Vec::new();
                self.from = 0;
                return polled;
            }
            self.buffer.truncate(count);
            self.from = 0;
            self.records.push(&self.buffer);
            inner.received(count);
        }
        let rest = self.buffer.get(self.from..).unwrap_or_default();
        let part = rest.get(..rest.len().min(target.remaining())).unwrap_or_default();
        target.put_slice(part);
        self.from += part.len();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Meter {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut inner = self.inner();
        if inner.first_write.is_none() && !bytes.is_empty() {
            inner.first_write = Some(clock::now());
        }
        let count = ready!(Pin::new(&mut inner.stream).poll_write(context, bytes))?;
        inner.counts.sent += count as u64;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    async fn pair() -> (Meter, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Meter::new(ours), listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn bytes_are_counted_and_the_first_write_since_the_mark_is_stamped() {
        let (mut meter, mut server) = pair().await;
        assert_eq!(meter.first_write(), None);
        meter.write_all(b"abc").await.unwrap();
        let first = meter.first_write().unwrap();
        meter.write_all(b"d").await.unwrap();
        assert_eq!(meter.first_write(), Some(first));
        meter.mark();
        meter.write_all(b"e").await.unwrap();
        assert!(meter.first_write().unwrap() > first);
        server.write_all(b"xyz").await.unwrap();
        meter.read_exact(&mut [0; 3]).await.unwrap();
        assert_eq!(meter.counts(), Counts { sent: 5, received: 3 });
        assert!(meter.last_read().unwrap() > first);
    }

    #[tokio::test]
    async fn under_tls_nothing_is_lost_between_small_reads() {
        let (mut meter, mut server) = pair().await;
        meter.begin_tls();
        let record = [&[23u8, 3, 3, 0x10, 0][..], &[7; 4096]].concat();
        server.write_all(&record).await.unwrap();
        let mut got = vec![0; record.len()];
        meter.read_exact(&mut got[..5]).await.unwrap();
        meter.read_exact(&mut got[5..]).await.unwrap();
        assert_eq!(got, record);
        assert_eq!(meter.last_record(), Some(LastRecord { kind: 23, length: 4096, whole: true }));
    }
}
