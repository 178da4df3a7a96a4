//! A connection to a receiver: TCP, through a proxy or not, with TLS or not; and the first bytes that the peer sent.
//!
//! A proxy opens a tunnel (CONNECT, RFC 9110 §9.3.6) whatever the endpoint's scheme, so its response cannot be taken for the
//! receiver's. The first bytes show which protocol the peer speaks. Sends no telemetry. Called by `transport`.

use std::{
    error::Error as StdError,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use http::Uri;
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
#[cfg(target_os = "linux")]
use openssl::error::ErrorStack;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
};
use tower_service::Service as _;

use super::signal::HttpProxy;

/// The largest head of a proxy's response.
const LARGEST_HEAD: usize = 16 << 10;
/// Number of first bytes that show the protocol.
const PREFIX: usize = 16;
/// How long the check for TLS waits for a silent port.
const TLS_CHECK: Duration = Duration::from_secs(2);

/// Sets up TLS for one connection: OpenSSL caches roots, and would trust one that the system has removed.
pub(super) type MakeTls = Box<dyn Fn() -> Result<native_tls::TlsConnector, native_tls::Error> + Send + Sync>;

pub(super) struct Connector {
    /// An IPv6 address is in brackets.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Option<MakeTls>,
    /// The proxy on the way.
    pub(super) proxy: Option<HttpProxy>,
}

pub(super) trait ReceiverStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ReceiverStream for T {}

/// A connection that is ready for requests, and the first bytes of the peer.
pub(super) type Connection = (Box<dyn ReceiverStream>, PeerBytes);

/// The first bytes received, on the wire and inside TLS.
#[derive(Debug, Clone, Default)]
pub(super) struct PeerBytes {
    wire: FirstBytes,
    plain: FirstBytes,
}

/// Why there is no response.
#[derive(Debug)]
pub(super) enum ReceiverError {
    /// The proxy: it cannot be reached, or refuses. Names it.
    Proxy(String),
    /// The receiver's host: no address, or no connection.
    Host(String),
    /// The handshake; the bytes received before it failed.
    Tls(String, PeerBytes),
    /// The connection ended, or the response is not HTTP.
    Exchange(String, PeerBytes),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PeerProtocol {
    Tls,
    Http1,
    Http2,
    /// Text other than HTTP: another service, or an HTTP server that sends no status line.
    Text,
}

impl Connector {
    /// Opens a connection. Has no timeout: the caller has one for the whole exchange.
    pub(super) async fn connect(&self) -> Result<Connection, ReceiverError> {
        let seen = PeerBytes::default();
        let stream = self.reach(&seen.wire).await?;
        let stream: Box<dyn ReceiverStream> = match &self.tls {
            None => Box::new(stream),
            Some(make) => {
                let connected = match make() {
                    Ok(tls) => tokio_native_tls::TlsConnector::from(tls).connect(self.name(), stream).await,
                    Err(error) => Err(error),
                };
                Box::new(connected.map_err(|error| ReceiverError::Tls(tls_problem(&error), seen.clone()))?)
            }
        };
        Ok((Box::new(PrefixStream { stream, ahead: Vec::new(), first: seen.plain.clone() }), seen))
    }

    /// Whether the port responds to a TLS handshake. Verifies nothing, and sends nothing over it.
    pub(super) async fn speaks_tls(&self) -> bool {
        let seen = PeerBytes::default();
        let handshake = async {
            let stream = self.reach(&seen.wire).await.ok()?;
            let mut tls = native_tls::TlsConnector::builder();
            let tls = tls.danger_accept_invalid_certs(true).danger_accept_invalid_hostnames(true).build().ok()?;
            tokio_native_tls::TlsConnector::from(tls).connect(self.name(), stream).await.ok()
        };
        // Only the first bytes matter: the server may refuse us because we send no certificate.
        let _ = tokio::time::timeout(TLS_CHECK, handshake).await;
        seen.wire() == Some(PeerProtocol::Tls)
    }

    fn name(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// TCP to the receiver, or through the proxy.
    async fn reach(&self, first: &FirstBytes) -> Result<PrefixStream<TcpStream>, ReceiverError> {
        let kept = |stream, ahead| PrefixStream { stream, ahead, first: first.clone() };
        let Some(proxy) = &self.proxy else {
            return Ok(kept(tcp(&self.host, self.port).await.map_err(ReceiverError::Host)?, Vec::new()));
        };
        let problem = |what: String| ReceiverError::Proxy(format!("the proxy {proxy} {what}"));
        let mut stream =
            tcp(&proxy.host, proxy.port).await.map_err(|it| problem(format!("cannot be reached: {it}")))?;
        let no_http = || problem("answers CONNECT with something else than HTTP: is it an HTTP proxy?".to_owned());
        let broken = |error: io::Error| problem(format!("does not answer CONNECT: {error}"));
        let to = format!("{}:{}", self.host, self.port);
        let mut request = zeroize::Zeroizing::new(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n"));
        if let Some(credentials) = proxy.credentials() {
            request.push_str("Proxy-Authorization: Basic ");
            request.push_str(credentials);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await.map_err(broken)?;
        let mut response = Vec::new();
        let end = loop {
            if let Some(end) = response.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            let read = stream.read_buf(&mut response).await.map_err(broken)?;
            let is_http = response.starts_with(b"HTTP/1.") || b"HTTP/1.".starts_with(&response);
            if !is_http || response.len() > LARGEST_HEAD {
                return Err(no_http());
            }
            if read == 0 {
                return Err(problem("closes the connection after CONNECT".to_owned()));
            }
        };
        let ahead = response.split_off(end);
        // "HTTP/1.1 200 …"
        let status = response.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<u16>().ok());
        match status {
            Some(200..=299) => Ok(kept(stream, ahead)),
            Some(407) if proxy.credentials().is_some() => Err(problem(
                "does not accept the user and password of its URL (HTTP 407): check them in [otlp] proxy".to_owned(),
            )),
            Some(407) => Err(problem(
                "asks for a user and a password (HTTP 407): write them into its URL, http://USER:PASSWORD@HOST:PORT"
                    .to_owned(),
            )),
            Some(status) => Err(problem(format!(
                "refuses to connect to {to}: HTTP {status}, which is the proxy's answer and not the receiver's"
            ))),
            None => Err(no_http()),
        }
    }
}

/// Opens a connection, to the first address that answers (RFC 8305).
async fn tcp(host: &str, port: u16) -> Result<TcpStream, String> {
    let uri = format!("http://{host}:{port}").parse::<Uri>().map_err(|error| error.to_string())?;
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.call(uri).await.map(TokioIo::into_inner).map_err(|error| innermost(&error))
}

/// The last cause, such as `Connection refused`.
pub(super) fn innermost(error: &(dyn StdError + 'static)) -> String {
    let mut inner = error;
    while let Some(cause) = inner.source() {
        inner = cause;
    }
    inner.to_string()
}

/// OpenSSL's text without codes and places, or the result of a failed verification.
#[cfg(target_os = "linux")]
fn tls_problem(error: &native_tls::Error) -> String {
    /// `ERR_LIB_SSL` and `SSL_R_CERTIFICATE_VERIFY_FAILED` (`openssl/err.h`, `openssl/sslerr.h`).
    const SSL: i32 = 20;
    const VERIFY_FAILED: i32 = 134;
    let text = error.to_string();
    let Some(stack) = error.source().and_then(|source| source.downcast_ref::<ErrorStack>()) else {
        return format!("the TLS handshake failed: {text}");
    };
    if stack.errors().iter().any(|error| error.library_code() == SSL && error.reason_code() == VERIFY_FAILED) {
        // native-tls appends OpenSSL's text for the result in parentheses.
        let result = text.strip_prefix(&stack.to_string()).map(|rest| rest.trim_matches([' ', '(', ')']));
        let result = result.filter(|result| !result.is_empty()).unwrap_or("no reason is given");
        return format!("the receiver's certificate is not accepted: {result}; give the roots to trust in ca_file");
    }
    let reason = stack.errors().iter().find_map(openssl::error::Error::reason);
    format!("the TLS handshake failed: {}", reason.unwrap_or(&text))
}

#[cfg(not(target_os = "linux"))]
fn tls_problem(error: &native_tls::Error) -> String {
    format!("the TLS handshake failed: {error}")
}

impl PeerBytes {
    pub(super) fn wire(&self) -> Option<PeerProtocol> {
        peer(&self.wire.get())
    }

    /// The protocol inside TLS, or on the wire without it.
    pub(super) fn plain(&self) -> Option<PeerProtocol> {
        peer(&self.plain.get())
    }
}

fn peer(first: &[u8]) -> Option<PeerProtocol> {
    match first {
        // A record of TLS (RFC 8446 §5.1): its type, and the version.
        [0x14..=0x17, 3, ..] => Some(PeerProtocol::Tls),
        // A frame of HTTP/2 (RFC 9113 §4.1) on stream 0: SETTINGS, which comes first, or GOAWAY.
        [0, _, _, 4 | 7, _, stream @ ..] if stream.iter().take(4).all(|byte| *byte == 0) => Some(PeerProtocol::Http2),
        _ if first.starts_with(b"HTTP/") => Some(PeerProtocol::Http1),
        _ if first.len() >= 5 && first.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\r' | b'\n' | b'\t')) => {
            Some(PeerProtocol::Text)
        }
        _ => None,
    }
}

#[derive(Debug, Clone, Default)]
struct FirstBytes(Arc<Mutex<Vec<u8>>>);

impl FirstBytes {
    fn get(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn add(&self, bytes: &[u8]) {
        let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = PREFIX.saturating_sub(first.len());
        first.extend(bytes.iter().take(room));
    }
}

/// A stream that keeps its first bytes; `ahead` was read before.
struct PrefixStream<S> {
    stream: S,
    ahead: Vec<u8>,
    first: FirstBytes,
}

impl<S: AsyncRead + Unpin> AsyncRead for PrefixStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if self.ahead.is_empty() {
            ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        } else {
            let size = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead.drain(..size).collect::<Vec<_>>());
        }
        self.first.add(buf.filled().get(before..).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for PrefixStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = ready!(Pin::new(&mut self.stream).poll_write(cx, buf));
        if outcome.is_err() && self.first.get().is_empty() {
            // The peer may have sent a response before it closed the connection.
            let mut rest = [0; PREFIX];
            let _ = self.as_mut().poll_read(cx, &mut ReadBuf::new(&mut rest));
        }
        Poll::Ready(outcome)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_show_the_protocol() {
        for (bytes, expected) in [
            (&b"\x15\x03\x01\x00\x02\x02\x46"[..], Some(PeerProtocol::Tls)),
            (b"\x16\x03\x03\x00\x7a", Some(PeerProtocol::Tls)),
            (b"HTTP/1.0 400 Bad", Some(PeerProtocol::Http1)),
            (b"\0\0\x18\x04\0\0\0\0\0\0\x05", Some(PeerProtocol::Http2)),
            (b"\0\0\x08\x07\0\0\0\0\0", Some(PeerProtocol::Http2)),
            // OpenSSL reads no more of what is no record.
            (b"HTTP/", Some(PeerProtocol::Http1)),
            (b"\0\0\x18\x04\0", Some(PeerProtocol::Http2)),
            (b"\0\0\x08\x04\0\0\0\0\x01", None),
            (b"* OK ready", Some(PeerProtocol::Text)),
            (b"<!DOCTYPE HTML P", Some(PeerProtocol::Text)),
            (b"220 ", None),
            (b"\xff\xfb\x01\xff\xfb", None),
            (b"\x15", None),
            (b"", None),
        ] {
            assert_eq!(peer(bytes), expected, "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn bytes_after_a_proxys_response_are_read_first_and_few_are_kept() {
        let first = FirstBytes::default();
        let mut stream =
            PrefixStream { stream: &b"efghijklmnopqrstuvwxyz"[..], ahead: b"abcd".to_vec(), first: first.clone() };
        let mut all = String::new();
        stream.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "abcdefghijklmnopqrstuvwxyz");
        assert_eq!(first.get(), b"abcdefghijklmnop");
    }
}
