//! The HTTP client of opentelemetry-otlp's exporters: collects what they export and sends it as one request, over gRPC or
//! HTTP/protobuf.
//!
//! An exporter has one resource and sends a message for each export; its result is Ok or a text. So an export only adds its
//! message here: messages one behind the other are one message with the resources of all (Protobuf encoding, "Last One Wins").
//! The outcome is that of the one request. The exporter for HTTP serves both protocols: gRPC adds a path, a frame and three
//! headers. Does not retry. Must be used inside delivery's runtime. Called by `traces` and `metrics`.

use std::{
    fmt,
    io::Write as _,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use flate2::{Compression, write::GzEncoder};
use http::{Request, Response, StatusCode};
use hyper::body::Bytes;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{RetryPolicy, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::error::OTelSdkResult;

use super::{
    connect::{PeerBytes, PeerProtocol, ReceiverError},
    error::ExportError,
    response::{self, Accepted, WANTS_TLS},
    retry_after::retry_after,
    send_state::{SendState, SignalError, shown},
    signal::{Protocol, Signal},
    transport::Transport,
};

#[derive(Debug)]
pub(in crate::delivery) struct ExportOutcome {
    /// Whether it was accepted, and the receiver's message.
    pub(in crate::delivery) result: Result<Accepted, ExportError>,
    /// How long the receiver asks to wait before the next request.
    pub(in crate::delivery) retry_after: Option<Duration>,
}

impl From<ExportError> for ExportOutcome {
    fn from(error: ExportError) -> Self {
        Self { result: Err(error), retry_after: None }
    }
}

/// The client of one receiver.
pub struct OtlpClient {
    /// Without a password.
    pub(in crate::delivery) endpoint: String,
    protocol: Protocol,
    gzip: bool,
    timeout: Duration,
    grpc_path: &'static str,
    send_state: Mutex<SendState>,
    /// Whether the port speaks TLS, if that was checked after a failed request in clear text.
    speaks_tls: Mutex<Option<bool>>,
    /// The messages of the exports since the last request.
    message: Mutex<Vec<u8>>,
}

impl fmt::Debug for OtlpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OtlpClient({})", self.endpoint)
    }
}

impl HttpClient for OtlpClient {
    /// Keeps the body for `send_exports`; the headers of the exporter come from the environment and are not used.
    fn send_bytes<'a: 'b, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        Self: 'b,
    {
        self.message().extend_from_slice(request.body());
        Box::pin(async { Ok(Response::new(Bytes::new())) })
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
            message: Mutex::default(),
        })
    }

    /// Uses the headers and files of `signal`, which is for the same receiver, from the next request on.
    pub fn replace(&self, signal: &Signal) -> Result<(), SignalError> {
        let send_state = SendState::new(signal, self.grpc_path)?;
        *self.send_state.lock().unwrap_or_else(PoisonError::into_inner) = send_state;
        Ok(())
    }

    fn transport(&self) -> Arc<Transport> {
        self.send_state.lock().unwrap_or_else(PoisonError::into_inner).transport.clone()
    }

    /// An exporter that could not be built, without the endpoint's password.
    pub(super) fn build_error(&self, signal: &Signal, error: &dyn std::error::Error) -> SignalError {
        let problem = error.to_string().replace(&signal.endpoint, &self.endpoint);
        SignalError(format!("cannot build the OTLP exporter for {}: {problem}", self.endpoint))
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

    /// Awaits the exports of exporters that use this client, and sends what they export as one request.
    pub(super) async fn send_exports(&self, exports: impl Future<Output = OTelSdkResult>) -> ExportOutcome {
        // A cancelled call may have left some.
        self.message().clear();
        let result = exports.await;
        let message = std::mem::take(&mut *self.message());
        match result {
            Ok(()) if !message.is_empty() => self.export(&message).await,
            // The batch is at fault.
            Ok(()) => ExportError::Permanent("the exporter sent nothing".to_owned()).into(),
            Err(error) => ExportError::Permanent(error.to_string()).into(),
        }
    }

    fn message(&self) -> MutexGuard<'_, Vec<u8>> {
        self.message.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends one request, unless a header or a file is missing.
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
        let reason = match tokio::time::timeout(self.timeout, transport.exchange(body)).await {
            Ok(Ok(reply)) => {
                let outcome = match self.protocol {
                    Protocol::Grpc => response::grpc(&reply),
                    Protocol::HttpProtobuf => response::http(&reply),
                };
                let outcome = match outcome {
                    // A server that requires TLS may send this status with an unknown text.
                    Err(ExportError::Permanent(reason)) if reply.status == StatusCode::BAD_REQUEST => {
                        let mistake = self.missing_https().await;
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
                return ExportOutcome { result, retry_after: retry_after(&reply) };
            }
            Ok(Err(ReceiverError::Proxy(reason))) => {
                return ExportError::Retryable(reason).into();
            }
            Ok(Err(ReceiverError::Host(reason))) => reason,
            Ok(Err(ReceiverError::Tls(reason, seen))) => explained(reason, self.mistake(&seen)),
            Ok(Err(ReceiverError::Exchange(reason, seen))) => {
                let mistake = match self.mistake(&seen) {
                    Some(WANTS_TLS) => Some(WANTS_TLS),
                    mistake => self.missing_https().await.or(mistake),
                };
                explained(reason, mistake)
            }
            Err(_) => format!("no answer within {:.1} s", self.timeout.as_secs_f64()),
        };
        ExportError::Retryable(self.by_way_of(reason)).into()
    }

    /// The likely mistake in the settings when the peer speaks another protocol.
    fn mistake(&self, seen: &PeerBytes) -> Option<&'static str> {
        let has_tls = self.transport().connector.tls.is_some();
        match seen.wire() {
            Some(PeerProtocol::Tls) if !has_tls => return Some(WANTS_TLS),
            Some(PeerProtocol::Http1 | PeerProtocol::Http2) if has_tls => {
                return Some("the port speaks no TLS: write http:// in the endpoint");
            }
            Some(PeerProtocol::Text) if has_tls => {
                return Some("the port speaks no TLS: write http:// in the endpoint if it is the right one");
            }
            _ => {}
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

    /// Whether `https://` is probably missing: a TLS port may close a connection in clear text, or refuse the request with an
    /// unknown text. The port is checked once, until a request is accepted.
    async fn missing_https(&self) -> Option<&'static str> {
        let transport = self.transport();
        let connector = &transport.connector;
        if connector.tls.is_some() {
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

    /// Adds the proxy on the way to a reason.
    fn by_way_of(&self, reason: String) -> String {
        match &self.transport().connector.proxy {
            Some(proxy) => format!("{reason} (by way of the proxy {proxy})"),
            None => reason,
        }
    }

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

#[cfg(test)]
mod tests;
