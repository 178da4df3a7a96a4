//! The settings of one receiver of one signal: address, protocol, headers, certificates, proxy. Built by the agent and the
//! command line from the configuration.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

/// The receiver of one signal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signal {
    /// The whole URL, with `http` or `https`; over HTTP with its path. Nothing is appended to it.
    pub endpoint: String,
    /// How OTLP is carried.
    pub protocol: Protocol,
    /// Sent with every request.
    pub headers: Vec<Header>,
    /// For one export, connecting included.
    pub timeout: Duration,
    /// Compress requests.
    pub gzip: bool,
    /// PEM file with the only roots to trust, in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM file with our own certificate and its chain; with `client_key`.
    pub client_cert: Option<PathBuf>,
    /// PEM file with its key, unencrypted; on systems other than Linux in PKCS #8.
    pub client_key: Option<PathBuf>,
    /// Content of the three files; without it they are read when needed.
    pub pem: Option<Arc<PemFiles>>,
    /// Why nothing can be sent yet: a header or a file is missing.
    pub unready: Option<Arc<str>>,
    /// The HTTP proxy; without one the connection is direct, whatever the environment has.
    pub proxy: Option<HttpProxy>,
}

impl Signal {
    /// A receiver without headers, certificates and compression, 10 s for each export.
    pub fn new(endpoint: &str, protocol: Protocol) -> Self {
        Self {
            endpoint: endpoint.to_owned(),
            protocol,
            headers: Vec::new(),
            timeout: Duration::from_secs(10),
            gzip: false,
            ca_file: None,
            client_cert: None,
            client_key: None,
            pem: None,
            unready: None,
            proxy: None,
        }
    }
}

/// Content of the files of a [`Signal`].
#[derive(Clone, PartialEq, Eq, Default)]
pub struct PemFiles {
    /// `ca_file`.
    pub ca: Option<Vec<u8>>,
    /// `client_cert`.
    pub cert: Option<Vec<u8>>,
    /// `client_key`.
    pub key: Option<Zeroizing<Vec<u8>>>,
}

impl fmt::Debug for PemFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PemFiles(…)")
    }
}

/// How OTLP is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC over HTTP/2.
    Grpc,
    /// Protobuf over HTTP/1.1 or 2.
    HttpProtobuf,
}

impl Protocol {
    /// The word in configuration and flags, and in OpenTelemetry's variables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::HttpProtobuf => "http/protobuf",
        }
    }
}

/// An HTTP proxy that opens tunnels (CONNECT). Its credentials have no printable form.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpProxy {
    pub(super) host: String,
    pub(super) port: u16,
    credentials: Option<Zeroizing<String>>,
}

impl HttpProxy {
    /// The proxy there, an IPv6 address in brackets; `credentials` is `USER:PASSWORD`.
    pub fn new(host: &str, port: u16, credentials: Option<&str>) -> Self {
        let credentials = credentials.map(|both| Zeroizing::new(STANDARD.encode(both)));
        Self { host: host.to_owned(), port, credentials }
    }

    /// The credentials of Basic authentication (RFC 7617 §2).
    pub(super) fn credentials(&self) -> Option<&str> {
        self.credentials.as_ref().map(|credentials| credentials.as_str())
    }
}

impl fmt::Display for HttpProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for HttpProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpProxy({self})")
    }
}

/// A header. Its value is treated as a secret: it has no printable form.
#[derive(Clone, PartialEq, Eq)]
pub struct Header {
    /// Its name.
    pub name: String,
    value: Zeroizing<String>,
}

impl Header {
    /// A header with this value.
    pub fn new(name: &str, value: &str) -> Self {
        Self { name: name.to_owned(), value: Zeroizing::new(value.to_owned()) }
    }

    /// The value.
    pub fn expose(&self) -> &str {
        &self.value
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: [secret]", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_value_is_never_printed() {
        let mut signal = Signal::new("http://localhost:4317", Protocol::Grpc);
        signal.headers.push(Header::new("authorization", "planted"));
        let text = format!("{signal:?}");
        assert!(text.contains("authorization: [secret]") && !text.contains("planted"), "{text}");
    }

    #[test]
    fn a_proxy_is_printed_without_its_credentials() {
        let proxy = HttpProxy::new("[::1]", 3128, Some("me:planted"));
        assert_eq!(proxy.credentials(), Some("bWU6cGxhbnRlZA=="));
        assert_eq!(format!("{proxy} {proxy:?}"), "http://[::1]:3128 HttpProxy(http://[::1]:3128)");
    }
}
