//! The streams under a script: a TCP connection that keeps every byte that it receives, and TLS over it by two libraries.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};

use super::script::Pem;

/// A connection, with or without TLS.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {
    /// What is below it.
    fn tcp(&mut self) -> &mut Tcp;
    /// Changes the keys of TLS 1.3 and reports it.
    fn rekey(&mut self) -> io::Result<()> {
        panic!("only `tls 1.3` can change its keys")
    }
}

/// What came over a connection as an eavesdropper sees it.
pub(super) type Heard = Arc<Mutex<Vec<u8>>>;

/// A TCP connection.
pub(super) struct Tcp {
    pub(super) stream: TcpStream,
    pub(super) heard: Heard,
    /// Read in place of what comes.
    noise: Vec<u8>,
    /// Every byte in a write of its own.
    pub(super) drips: bool,
}

/// A record of application data that no key made.
const NOISE: &[u8] = b"\x17\x03\x03\x00\x20thirty-two bytes that say nothing";

impl Tcp {
    pub(super) fn new(stream: TcpStream, heard: Heard) -> Self {
        stream.set_nodelay(true).unwrap();
        Self { stream, heard, noise: Vec::new(), drips: false }
    }

    /// What is read next is no TLS record of the client's.
    pub(super) fn spoil(&mut self) {
        self.noise = NOISE.to_vec();
    }
}

impl AsyncRead for Tcp {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.noise.is_empty() {
            let count = buf.remaining().min(self.noise.len());
            buf.put_slice(&self.noise[..count]);
            self.noise.drain(..count);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buf);
        self.heard.lock().unwrap().extend_from_slice(&buf.filled()[before..]);
        polled
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let bytes = if self.drips { &bytes[..bytes.len().min(1)] } else { bytes };
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Stream for Tcp {
    fn tcp(&mut self) -> &mut Tcp {
        self
    }
}

/// TLS 1.2 by the library that imaptrace has, too.
struct Native(async_native_tls::TlsStream<Box<dyn Stream>>);
/// TLS 1.3.
struct Rustls(Box<tokio_rustls::server::TlsStream<Box<dyn Stream>>>);

macro_rules! through {
    ($name:ident) => {
        impl AsyncRead for $name {
            fn poll_read(
                mut self: Pin<&mut Self>,
                context: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                Pin::new(&mut self.0).poll_read(context, buf)
            }
        }
        impl AsyncWrite for $name {
            fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.0).poll_write(context, buf)
            }
            fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.0).poll_flush(context)
            }
            fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.0).poll_shutdown(context)
            }
        }
    };
}
through!(Native);
through!(Rustls);

impl Stream for Native {
    fn tcp(&mut self) -> &mut Tcp {
        self.0.get_mut().tcp()
    }
}

impl Stream for Rustls {
    fn tcp(&mut self) -> &mut Tcp {
        self.0.get_mut().0.tcp()
    }

    fn rekey(&mut self) -> io::Result<()> {
        self.0.get_mut().1.refresh_traffic_keys().map_err(io::Error::other)
    }
}

/// Shakes hands as a server. `how` is nothing (TLS 1.2), `alpn` (1.2, and ALPN chooses `imap`), `1.3`, or `demand` (1.3, and the
/// client has to have a certificate).
pub(super) async fn accept(stream: Box<dyn Stream>, pem: &Pem, how: &str) -> Result<Box<dyn Stream>, String> {
    if how.is_empty() {
        let identity = async_native_tls::Identity::from_pkcs8(pem.certificate.as_bytes(), pem.key.as_bytes()).unwrap();
        let acceptor = async_native_tls::TlsAcceptor::from(native_tls::TlsAcceptor::new(identity).unwrap());
        let accepted = acceptor.accept(stream).await.map_err(|error| error.to_string())?;
        return Ok(Box::new(Native(accepted)));
    }
    let certificate = CertificateDer::from_pem_slice(pem.certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes()).unwrap();
    let version = if how == "alpn" { &TLS12 } else { &TLS13 };
    let builder = ServerConfig::builder_with_protocol_versions(&[version]);
    let builder = match how {
        "1.3" | "alpn" => builder.with_no_client_auth(),
        "demand" => {
            let mut roots = RootCertStore::empty();
            roots.add(certificate.clone()).unwrap();
            builder.with_client_cert_verifier(WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap())
        }
        other => panic!("no such way of TLS: {other:?}"),
    };
    let mut config = builder.with_single_cert(vec![certificate], key).unwrap();
    if how == "alpn" {
        config.alpn_protocols.push(b"imap".to_vec());
    }
    let accepted = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(stream).await;
    Ok(Box::new(Rustls(Box::new(accepted.map_err(|error| error.to_string())?))))
}

/// Reads a whole TLS record without understanding it.
pub(super) async fn record(stream: &mut Box<dyn Stream>) -> io::Result<()> {
    let mut head = [0; 5];
    stream.read_exact(&mut head).await?;
    stream.read_exact(&mut vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))]).await?;
    Ok(())
}

/// Sends below TLS what looks like a record of it.
pub(super) async fn noise(stream: &mut Box<dyn Stream>) -> bool {
    stream.tcp().stream.write_all(NOISE).await.is_ok()
}

/// Writes and makes sure that it is under way.
pub(super) async fn send(stream: &mut Box<dyn Stream>, bytes: &[u8]) -> bool {
    stream.write_all(bytes).await.is_ok() && stream.flush().await.is_ok()
}
