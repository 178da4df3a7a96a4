//! Resolve, connect and TLS, with a stamp of every byte below TLS.
//!
//! Not here: IMAP. Durations are measured here, at the read or write, and nowhere else. A failure is one of a closed set of
//! causes, which `probe`, the caller of this module, maps to classes.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead as _, AsyncWriteExt as _, ReadBuf};

mod buffer;
mod certificate;
mod chain;
mod connect;
mod descriptors;
mod errno;
mod hello;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
#[path = "portable.rs"]
mod linux;
mod proxy;
mod resolve;
mod roots;
mod server_tls;
mod stamped_stream;
mod tcp;
mod tls;
mod tls_error;
mod tls_files;

pub use buffer::Buffer;
pub use certificate::Certificate;
pub use chain::{Chain, RefusedCertificate};
pub use connect::{ConnectCause, ConnectOptions, Connected, ConnectionAttempt, connect};
pub use descriptors::can_open;
pub use errno::{ErrnoKind, errno_kind};
pub use hello::{LastRecord, ServerHello};
pub use linux::tick;
pub use resolve::{Family, ResolveCause, Resolver, ServiceAnswer, ServiceHost};
pub use roots::{Roots, RootsError, remove_roots, roots_are_ready};
pub use server_tls::{check_server_pair, load_server_pair};
pub use stamped_stream::{ByteCounts, LATE, StampedStream, Traffic, WireEvent, kept_waiting};
pub use tcp::TcpInfo;
pub use tls::{Handshake, NotReady, Shown, TlsContext, TlsFiles, init_openssl, shown};
pub use tls_error::{TlsCause, TlsFailure};
pub use tls_files::{TlsContextError, TlsFileFault, TlsMaterial, TlsPaths, TlsPem};

/// A connection in clear text, or with TLS above the same stamped stream.
#[derive(Debug)]
pub enum MaybeTlsStream {
    /// Clear text.
    Plain(StampedStream),
    /// TLS.
    Tls(Box<async_native_tls::TlsStream<StampedStream>>),
}

impl MaybeTlsStream {
    /// Reads into `target`; 0 at the end of the stream.
    pub fn poll_read(&mut self, context: &mut Context<'_>, target: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut target = ReadBuf::new(target);
        let polled = match self {
            Self::Plain(wire) => Pin::new(wire).poll_read(context, &mut target),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_read(context, &mut target),
        };
        polled.map_ok(|()| target.filled().len())
    }

    /// Writes all of `bytes`.
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(wire) => wire.write_all(bytes).await,
            Self::Tls(stream) => stream.write_all(bytes).await,
        }
    }

    /// Ends sending: `close_notify` under TLS (RFC 8446 §6.1), and FIN.
    pub async fn close(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(wire) => wire.shutdown().await,
            Self::Tls(stream) => stream.shutdown().await,
        }
    }
}
