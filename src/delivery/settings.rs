//! Where telemetry goes, and how. Filled by the agent from configuration and OTEL_* variables.

use std::{fmt, path::PathBuf, time::Duration};

use zeroize::Zeroizing;

use super::state::StateDir;

/// All of delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where traces go; without it none are queued.
    pub traces: Option<Signal>,
    /// Where metrics go; without it none are kept.
    pub metrics: Option<Signal>,
    /// Between two exports of metrics.
    pub metric_interval: Duration,
    /// Where runs wait that cannot be delivered at once; without it they wait in memory alone.
    pub state: Option<StateDir>,
    /// Budget of the queue: bytes of memory that its runs hold.
    pub queue_memory: usize,
    /// Budget of the queue: bytes of its files in `state`. A quarter as much comes on top for what was put aside.
    pub queue_disk: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            traces: None,
            metrics: None,
            metric_interval: Duration::from_secs(15),
            state: None,
            queue_memory: 32 << 20,
            queue_disk: 128 << 20,
        }
    }
}

/// One receiver for one signal.
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
    /// PEM file with its key (PKCS #8).
    pub client_key: Option<PathBuf>,
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
        }
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

/// A header. Its value is taken for a secret: it has no printable form.
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

    /// The value, for the wire.
    pub(super) fn expose(&self) -> &str {
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
        signal.headers.push(Header::new("authorization", "canary"));
        let text = format!("{signal:?}");
        assert!(text.contains("authorization: [secret]") && !text.contains("canary"), "{text}");
    }
}
