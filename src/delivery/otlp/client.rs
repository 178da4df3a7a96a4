//! The HTTP client of opentelemetry-otlp's exporters: it carries one request of theirs, over gRPC or HTTP/protobuf, and keeps what
//! came of it.
//!
//! The exporters make the request of spans and metrics; their result is Ok or a text, so the outcome is kept here, where
//! `wire` takes it. An exporter for HTTP serves both protocols: what gRPC adds to the same message is a path, a frame and three
//! headers. Retrying is left to the queue. `connect` and `transport` carry the request, `answer` reads what came back, `failure`
//! knows the statuses. Must be used inside delivery's runtime.

use std::{
    fmt,
    io::Write as _,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use flate2::{Compression, write::GzEncoder};
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri,
    header::{CONTENT_ENCODING, CONTENT_TYPE, TE, USER_AGENT},
};
use hyper::body::Bytes;
use native_tls::{Certificate, Identity, TlsConnector};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{RetryPolicy, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::error::OTelSdkResult;
use zeroize::Zeroizing;

use super::{
    connect::{ConnectError, Connector, MakeTls, PeerBytes, PeerProtocol},
    error::ExportError,
    response::{self, Accepted, WANTS_TLS},
    signal::{Protocol, Signal},
    transport::{Transport, TransportError},
};

/// Settings of a signal that cannot work.
#[derive(Debug, thiserror::Error)]
pub enum SignalError {
    /// The endpoint is no URL with `http` or `https`.
    #[error("the OTLP endpoint {endpoint:?} cannot be used: {problem}; write it like http://localhost:4317")]
    Endpoint {
        /// The endpoint, without a password.
        endpoint: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A PEM file cannot be read.
    #[error("cannot read the OTLP {what} {path}: {source}", path = path.display())]
    File {
        /// Which of the three.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A PEM file does not hold what it should.
    #[error("the OTLP {what} {path} cannot be used: {problem}", path = path.display())]
    Pem {
        /// Which of the three.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// A certificate without a key, or a key without a certificate.
    #[error("an OTLP client certificate and its key go together: give both or none")]
    HalfIdentity,
    /// A header that HTTP cannot carry.
    #[error("the OTLP header {name:?} cannot be sent: a name is letters, digits and dashes, a value visible ASCII")]
    Header {
        /// Its name.
        name: String,
    },
    /// The exporter does not take its settings.
    #[error("cannot build the OTLP exporter for {endpoint}: {problem}")]
    Build {
        /// The endpoint, without a password.
        endpoint: String,
        /// What the exporter says.
        problem: String,
    },
    /// The TLS library cannot be set up.
    #[error("cannot set up TLS for OTLP to {endpoint}: {problem}")]
    Tls {
        /// The endpoint, without a password.
        endpoint: String,
        /// What the library says.
        problem: String,
    },
}

/// The outcome of one export.
#[derive(Debug)]
pub(in crate::delivery) struct ExportOutcome {
    /// Whether it was accepted, and what the receiver says of it.
    pub(in crate::delivery) result: Result<Accepted, ExportError>,
    /// How long the receiver asks to wait before the next request.
    pub(in crate::delivery) retry_after: Option<Duration>,
}

impl From<ExportError> for ExportOutcome {
    fn from(error: ExportError) -> Self {
        Self { result: Err(error), retry_after: None }
    }
}

/// See the module's head.
pub(in crate::delivery) struct OtlpClient {
    endpoint: String,
    protocol: Protocol,
    gzip: bool,
    timeout: Duration,
    grpc_path: &'static str,
    send_state: Mutex<SendState>,
    /// Whether a port that did not answer as a receiver in clear text speaks TLS; none before it was asked.
    speaks_tls: Mutex<Option<bool>>,
    /// Of the last request, until it is taken.
    outcome: Mutex<Option<ExportOutcome>>,
}

/// How a request gets there, which changes with the files that the operator named.
struct SendState {
    transport: Arc<Transport>,
    /// Why nothing can be sent yet.
    unready: Option<Arc<str>>,
}

impl fmt::Debug for OtlpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OtlpClient({})", self.endpoint)
    }
}

impl HttpClient for OtlpClient {
    /// Sends the body alone: the headers here are our own, some of them secret, and the exporter has read others out of the
    /// environment.
    fn send_bytes<'a: 'b, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        Self: 'b,
    {
        Box::pin(async move {
            let outcome = self.export(request.body()).await;
            let delivered = outcome.result.is_ok();
            *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
            // The exporter needs no more than this: it logs what it makes of a body.
            if delivered { Ok(Response::new(Bytes::new())) } else { Err("not delivered".into()) }
        })
    }
}

impl OtlpClient {
    /// A client for one receiver; `grpc_path` names the service and its method, in place of the endpoint's path.
    pub(super) fn new(signal: &Signal, grpc_path: &'static str) -> Result<Self, SignalError> {
        Ok(Self {
            endpoint: shown(&signal.endpoint),
            protocol: signal.protocol,
            gzip: signal.gzip,
            timeout: signal.timeout,
            grpc_path,
            send_state: Mutex::new(SendState::new(signal, grpc_path)?),
            speaks_tls: Mutex::default(),
            outcome: Mutex::default(),
        })
    }

    /// Takes the headers and what the files hold from `signal`, which is for the same receiver, for the next request on. One
    /// that is under way ends as it began.
    pub(in crate::delivery) fn replace(&self, signal: &Signal) -> Result<(), SignalError> {
        let send_state = SendState::new(signal, self.grpc_path)?;
        *self.send_state.lock().unwrap_or_else(PoisonError::into_inner) = send_state;
        Ok(())
    }

    fn transport(&self) -> Arc<Transport> {
        self.send_state.lock().unwrap_or_else(PoisonError::into_inner).transport.clone()
    }

    /// Where requests go, for people.
    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// An exporter that could not be built, without the endpoint's password.
    pub(super) fn build_error(&self, signal: &Signal, error: &dyn std::error::Error) -> SignalError {
        let problem = error.to_string().replace(&signal.endpoint, &self.endpoint);
        SignalError::Build { endpoint: self.endpoint.clone(), problem }
    }

    /// An exporter's builder that sends through this client, once.
    pub(super) fn configure<B: WithExportConfig + WithHttpConfig>(self: &Arc<Self>, builder: B, signal: &Signal) -> B {
        builder
            .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
            .with_shared_http_client(Arc::<Self>::clone(self))
            .with_endpoint(&signal.endpoint)
            .with_timeout(signal.timeout)
            .with_retry_policy(RetryPolicy::disabled())
    }

    /// Runs an export of the exporter, and returns the outcome of the request that it made through this client.
    pub(super) async fn outcome_of(&self, export: impl Future<Output = OTelSdkResult>) -> ExportOutcome {
        let result = export.await;
        let outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
        outcome.unwrap_or_else(|| {
            // Nothing was sent: the batch itself is at fault.
            let reason = result.err().map_or_else(|| "the exporter sent nothing".to_owned(), |error| error.to_string());
            ExportError::Permanent(reason).into()
        })
    }

    /// One request to its end or to the timeout, unless something that goes with it is missing: what came of it, and how long
    /// the receiver asks to be left alone.
    async fn export(&self, message: &[u8]) -> ExportOutcome {
        let unready = self.send_state.lock().unwrap_or_else(PoisonError::into_inner).unready.clone();
        if let Some(why) = unready {
            return ExportError::Retryable(why.to_string()).into();
        }
        let transport = self.transport();
        let body = match self.body(message) {
            Ok(body) => body,
            Err(error) => return ExportError::Permanent(format!("it cannot be compressed: {error}")).into(),
        };
        let late = || format!("no answer within {:.1} s", self.timeout.as_secs_f64());
        let reason = match tokio::time::timeout(self.timeout, transport.exchange(body)).await {
            Ok(Ok(reply)) => {
                let outcome = match self.protocol {
                    Protocol::Grpc => response::grpc(&reply),
                    Protocol::HttpProtobuf => response::http(&reply),
                };
                let outcome = match outcome {
                    // A server that requires TLS answers so, too, and not all in a wording that is known here.
                    Err(ExportError::Permanent(reason)) if reply.status == StatusCode::BAD_REQUEST => {
                        let mistake = self.tls_after_all().await;
                        let reason = explained(reason, mistake);
                        Err(if mistake.is_some() {
                            ExportError::Retryable(reason)
                        } else {
                            ExportError::Permanent(reason)
                        })
                    }
                    outcome => outcome,
                };
                if outcome.is_ok() {
                    *self.speaks_tls.lock().unwrap_or_else(PoisonError::into_inner) = None;
                }
                let result = outcome.map_err(|error| error.map(|reason| self.by_way_of(reason)));
                return ExportOutcome { result, retry_after: response::retry_after(&reply) };
            }
            Ok(Err(TransportError::Connect(ConnectError::Proxy(reason)))) => {
                return ExportError::Retryable(reason).into();
            }
            Ok(Err(TransportError::Connect(ConnectError::Host(reason)))) => reason,
            Ok(Err(TransportError::Connect(ConnectError::Tls(reason, seen)))) => explained(reason, self.mistake(&seen)),
            Ok(Err(TransportError::Exchange { reason, seen })) => {
                let mistake = match self.mistake(&seen) {
                    Some(WANTS_TLS) => Some(WANTS_TLS),
                    mistake => self.tls_after_all().await.or(mistake),
                };
                explained(reason, mistake)
            }
            Err(_) => late(),
        };
        ExportError::Retryable(self.by_way_of(reason)).into()
    }

    /// What is most likely wrong when the other side began to speak another protocol.
    fn mistake(&self, seen: &PeerBytes) -> Option<&'static str> {
        let wire = seen.wire();
        if !self.transport().connector().has_tls() {
            if wire == Some(PeerProtocol::Tls) {
                return Some(WANTS_TLS);
            }
        } else if matches!(wire, Some(PeerProtocol::Http1 | PeerProtocol::Http2)) {
            return Some("the port speaks no TLS: write http:// in the endpoint");
        } else if wire == Some(PeerProtocol::Text) {
            return Some("the port speaks no TLS: write http:// in the endpoint if it is the right one");
        }
        match (self.protocol, seen.plain()) {
            (Protocol::HttpProtobuf, Some(PeerProtocol::Http2)) => Some("it may speak gRPC (protocol = \"grpc\")"),
            (Protocol::Grpc, Some(PeerProtocol::Http1)) => Some("it may speak HTTP (protocol = \"http/protobuf\")"),
            (Protocol::Grpc, Some(PeerProtocol::Text)) => {
                Some("it does not speak gRPC: check the endpoint's port, or write protocol = \"http/protobuf\"")
            }
            (Protocol::HttpProtobuf, Some(PeerProtocol::Text)) => {
                Some("it does not speak HTTP: check the endpoint's port")
            }
            _ => None,
        }
    }

    /// The same of one that ended a connection in clear text, or refused what it got: a port for TLS does either, and its words
    /// may be lost with the connection. It is asked once, until something is delivered.
    async fn tls_after_all(&self) -> Option<&'static str> {
        let transport = self.transport();
        let connector = transport.connector();
        if connector.has_tls() {
            return None;
        }
        let known = *self.speaks_tls.lock().unwrap_or_else(PoisonError::into_inner);
        let speaks_tls = match known {
            Some(known) => known,
            None => connector.speaks_tls().await,
        };
        *self.speaks_tls.lock().unwrap_or_else(PoisonError::into_inner) = Some(speaks_tls);
        speaks_tls.then_some(WANTS_TLS)
    }

    /// A reason, with the proxy on the way to the receiver.
    fn by_way_of(&self, reason: String) -> String {
        match self.transport().connector().proxy() {
            Some(proxy) => format!("{reason} (by way of the proxy {proxy})"),
            None => reason,
        }
    }

    /// The body of a request.
    fn body(&self, message: &[u8]) -> std::io::Result<Bytes> {
        let mut body = Vec::with_capacity(message.len() + 5);
        if self.protocol == Protocol::Grpc {
            // "Length-Prefixed-Message" (gRPC over HTTP/2); the length is known afterwards.
            body.extend_from_slice(&[u8::from(self.gzip), 0, 0, 0, 0]);
        }
        if self.gzip {
            let mut gzip = GzEncoder::new(body, Compression::default());
            gzip.write_all(message)?;
            body = gzip.finish()?;
        } else {
            body.extend_from_slice(message);
        }
        if self.protocol == Protocol::Grpc {
            let length = u32::try_from(body.len() - 5).map_err(|_| std::io::ErrorKind::FileTooLarge)?;
            if let Some(place) = body.get_mut(1..5) {
                place.copy_from_slice(&length.to_be_bytes());
            }
        }
        Ok(body.into())
    }
}

fn explained(reason: String, mistake: Option<&str>) -> String {
    match mistake {
        Some(mistake) => format!("{reason}: {mistake}"),
        None => reason,
    }
}

const CA: &str = "CA file";
const CERTIFICATE: &str = "client certificate";
const KEY: &str = "client key";

impl Signal {
    /// Whether an exporter can be built of it.
    pub fn check(&self) -> Result<(), SignalError> {
        SendState::new(self, "/").map(drop)
    }
}

impl SendState {
    fn new(signal: &Signal, grpc_path: &str) -> Result<Self, SignalError> {
        let endpoint = shown(&signal.endpoint);
        let wrong = |problem: &str| SignalError::Endpoint { endpoint: endpoint.clone(), problem: problem.to_owned() };
        let uri = signal.endpoint.parse::<Uri>().map_err(|error| wrong(&error.to_string()))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong("it needs http:// or https:// in front")),
        };
        if signal.client_cert.is_some() != signal.client_key.is_some() {
            return Err(SignalError::HalfIdentity);
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| wrong("it names no host"))?.to_owned();
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let mut headers = headers(signal)?;
        let uri = match signal.protocol {
            Protocol::HttpProtobuf => uri,
            Protocol::Grpc => {
                headers.insert(TE, HeaderValue::from_static("trailers"));
                let mut parts = uri.into_parts();
                parts.path_and_query = grpc_path.parse().ok();
                Uri::from_parts(parts).map_err(|error| wrong(&error.to_string()))?
            }
        };
        // Without what the files hold nothing is sent, so nothing is set up either.
        let tls = if tls && signal.unready.is_none() { Some(tls_connector(signal)?) } else { None };
        let connector = Connector::new(&host, port, tls, signal.proxy.clone());
        let transport = Arc::new(Transport::new(connector, signal.protocol, uri, headers));
        Ok(Self { transport, unready: signal.unready.clone() })
    }
}

fn tls_connector(signal: &Signal) -> Result<MakeTls, SignalError> {
    let pem = signal.pem.as_deref();
    let mut roots = None;
    if let Some(path) = &signal.ca_file {
        let bad = |problem| SignalError::Pem { what: CA, path: path.clone(), problem };
        let read = content(CA, path, pem.and_then(|pem| pem.ca.as_deref()))?;
        let found = Certificate::stack_from_pem(&read).map_err(|error| bad(error.to_string()))?;
        if found.is_empty() {
            return Err(bad("it holds no certificate".to_owned()));
        }
        roots = Some(found);
    }
    let mut identity = None;
    if let (Some(certificate), Some(key)) = (&signal.client_cert, &signal.client_key) {
        let chain = content(CERTIFICATE, certificate, pem.and_then(|pem| pem.cert.as_deref()))?;
        let given = pem.and_then(|pem| pem.key.as_ref()).map(|key| key.as_slice());
        let key = pkcs8(&content(KEY, key, given)?);
        identity = Some(Identity::from_pkcs8(&chain, &key).map_err(|error| SignalError::Pem {
            what: CERTIFICATE,
            path: certificate.clone(),
            problem: format!("{error}; the key must be an unencrypted one, PKCS #8 (BEGIN PRIVATE KEY)"),
        })?);
    }
    let protocol = signal.protocol;
    let make = move || {
        let mut builder = TlsConnector::builder();
        builder.request_alpns(match protocol {
            Protocol::Grpc => &["h2"],
            Protocol::HttpProtobuf => &["http/1.1"],
        });
        if let Some(roots) = &roots {
            builder.disable_built_in_roots(true);
            for root in roots {
                builder.add_root_certificate(root.clone());
            }
        }
        if let Some(identity) = &identity {
            builder.identity(identity.clone());
        }
        builder.build()
    };
    // Tried at once, so that what is wrong is known before anything is sent.
    make().map_err(|error| SignalError::Tls { endpoint: shown(&signal.endpoint), problem: error.to_string() })?;
    Ok(Box::new(make))
}

/// What a file holds: as it was given, or read now.
#[expect(
    clippy::disallowed_methods,
    reason = "at the start of a command that probes nothing; the agent hands over what it has read"
)]
fn content(what: &'static str, path: &Path, given: Option<&[u8]>) -> Result<Zeroizing<Vec<u8>>, SignalError> {
    if let Some(given) = given {
        return Ok(Zeroizing::new(given.to_vec()));
    }
    let read = std::fs::read(path).map(Zeroizing::new);
    read.map_err(|source| SignalError::File { what, path: path.to_owned(), source })
}

/// The key in the one form that the TLS library takes; as it is where it cannot be made so.
#[cfg(target_os = "linux")]
fn pkcs8(pem: &[u8]) -> Zeroizing<Vec<u8>> {
    // An encrypted one must not make OpenSSL ask for its passphrase on the terminal.
    let key = openssl::pkey::PKey::private_key_from_pem_callback(pem, |_| Ok(0));
    Zeroizing::new(key.and_then(|key| key.private_key_to_pem_pkcs8()).unwrap_or_else(|_| pem.to_vec()))
}

#[cfg(not(target_os = "linux"))]
fn pkcs8(pem: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(pem.to_vec())
}

/// Those of the protocol, and the operator's, which come last.
fn headers(signal: &Signal) -> Result<HeaderMap, SignalError> {
    let mut all = HeaderMap::new();
    all.insert(USER_AGENT, HeaderValue::from_static(concat!("imaptrace/", env!("CARGO_PKG_VERSION"))));
    match signal.protocol {
        Protocol::Grpc => {
            all.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            all.insert("grpc-accept-encoding", HeaderValue::from_static("gzip"));
            if signal.gzip {
                all.insert("grpc-encoding", HeaderValue::from_static("gzip"));
            }
        }
        Protocol::HttpProtobuf => {
            all.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
            if signal.gzip {
                all.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            }
        }
    }
    for header in &signal.headers {
        let name = HeaderName::from_bytes(header.name.as_bytes()).ok();
        let value = HeaderValue::from_str(header.expose()).ok().map(|mut value| {
            // It is in no library's log then.
            value.set_sensitive(true);
            value
        });
        let pair = name.zip(value).ok_or_else(|| SignalError::Header { name: header.name.clone() })?;
        all.insert(pair.0, pair.1);
    }
    Ok(all)
}

/// The endpoint without user and password.
fn shown(endpoint: &str) -> String {
    match (endpoint.split_once("://"), endpoint.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://{rest}"),
        (None, Some((_, rest))) => rest.to_owned(),
        (_, None) => endpoint.to_owned(),
    }
}

#[cfg(test)]
mod tests;
