//! opentelemetry-otlp's exporters, built from our settings, and what their failures mean.
//!
//! Retrying is left to the queue, which forgets nothing, so the exporters make one attempt each. Their errors are text;
//! what matters is whether the same batch can be sent again, and a sentence for the log without any header's value.
//! Must be built and run inside delivery's runtime.

use std::{
    error::Error as StdError,
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use ::time::{OffsetDateTime, format_description::well_known::Rfc2822};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{
    Compression, MetricExporter, RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig,
    tonic_types::{
        metadata::MetadataMap,
        transport::{Certificate, ClientTlsConfig, Identity},
    },
};
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    metrics::{Temporality, data::ResourceMetrics, exporter::PushMetricExporter as _},
    trace::SpanExporter as _,
};
use reqwest::{
    Url,
    header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
};
use zeroize::Zeroizing;

use super::{
    failure::{Failure, grpc_failure, http_failure, mistaken},
    settings::{Protocol, Signal},
};
use crate::{
    clock,
    record::Run,
    telemetry::{exports, spans},
};

/// Settings of a signal that cannot work.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
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
    /// Everything else that the exporter finds wrong.
    #[error("cannot set up OTLP to {endpoint}: {problem}")]
    Build {
        /// The endpoint, without a password.
        endpoint: String,
        /// What the exporter says.
        problem: String,
    },
}

/// The exporter of traces.
pub(super) struct Traces {
    exporter: SpanExporter,
    line: Line,
}

/// The exporter of metrics.
pub(super) struct MetricsWire {
    exporter: MetricExporter,
    line: Line,
}

/// What both need besides.
struct Line {
    endpoint: String,
    protocol: Protocol,
    timeout: Duration,
    answer: LastAnswer,
}

/// What the last HTTP request met: a status, or why there was none.
type LastAnswer = Arc<Mutex<Option<Result<u16, String>>>>;

/// Builds the exporter of traces.
pub(super) fn traces(signal: &Signal, resource: &Resource) -> Result<Traces, WireError> {
    let line = Line::new(signal)?;
    let built = match signal.protocol {
        Protocol::Grpc => grpc(SpanExporter::builder().with_tonic(), signal)?.build(),
        Protocol::HttpProtobuf => line.http(SpanExporter::builder().with_http(), signal)?.build(),
    };
    let mut exporter = built.map_err(|error| line.build_error(signal, &error))?;
    exporter.set_resource(resource);
    Ok(Traces { exporter, line })
}

/// Builds the exporter of metrics.
pub(super) fn metrics(signal: &Signal) -> Result<MetricsWire, WireError> {
    let line = Line::new(signal)?;
    let built = match signal.protocol {
        Protocol::Grpc => grpc(MetricExporter::builder().with_tonic(), signal)?.build(),
        Protocol::HttpProtobuf => line.http(MetricExporter::builder().with_http(), signal)?.build(),
    };
    let exporter = built.map_err(|error| line.build_error(signal, &error))?;
    Ok(MetricsWire { exporter, line })
}

fn grpc<B: WithExportConfig + WithTonicConfig>(builder: B, signal: &Signal) -> Result<B, WireError> {
    let mut builder = builder
        .with_endpoint(&signal.endpoint)
        .with_timeout(signal.timeout)
        .with_metadata(MetadataMap::from_headers(headers(signal)?))
        .with_retry_policy(RetryPolicy::disabled());
    if let Some(tls) = grpc_tls(signal)? {
        builder = builder.with_tls_config(tls);
    }
    Ok(if signal.gzip { builder.with_compression(Compression::Gzip) } else { builder })
}

/// What came of one attempt to send traces.
#[derive(Debug)]
pub(super) struct Answer {
    /// Whether they arrived.
    pub(super) outcome: Result<(), Failure>,
    /// What else the receiver said.
    pub(super) heard: exports::Heard,
}

impl Answer {
    /// Logs what the receiver said of a batch that it took.
    pub(super) fn tell_partial_success(&self, endpoint: &str) {
        let (rejected_spans, told) = (self.heard.rejected_spans, self.heard.message.as_str());
        if rejected_spans > 0 {
            tracing::warn!(rejected_spans, told, "{endpoint} took a batch of traces and refused some of its spans");
        } else if !told.is_empty() {
            tracing::warn!(told, "{endpoint} took a batch of traces and has something to say");
        }
    }
}

impl Traces {
    /// One attempt to send the traces of these runs.
    pub(super) async fn export(&self, runs: &[Arc<Run>]) -> Answer {
        let spans = runs.iter().flat_map(|run| spans(run)).collect();
        let (outcome, heard) = exports::listen(self.line.judge(self.exporter.export(spans))).await;
        let outcome = match outcome {
            // Only a delay says that it is the receiver that has too much (OTLP specification, "OTLP/gRPC Throttling").
            Err(Failure::TooMuch(reason)) if heard.retry_after.is_some() => Err(Failure::Later(reason)),
            outcome => outcome,
        };
        Answer { outcome, heard }
    }

    /// Where they go, for people.
    pub(super) fn endpoint(&self) -> &str {
        &self.line.endpoint
    }
}

impl MetricsWire {
    /// One attempt to send these metrics.
    pub(super) async fn export(&self, metrics: &ResourceMetrics) -> Result<(), Failure> {
        self.line.judge(self.exporter.export(metrics)).await.map_err(|failure| match failure {
            // It stops no other message, and the next round has newer values anyhow.
            Failure::TooMuch(reason) => Failure::Refused(reason),
            failure => failure,
        })
    }

    /// Where they go, for people.
    pub(super) fn endpoint(&self) -> &str {
        &self.line.endpoint
    }

    /// Cumulative unless `OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE` says otherwise.
    pub(super) fn temporality(&self) -> Temporality {
        self.exporter.temporality()
    }
}

impl Line {
    fn new(signal: &Signal) -> Result<Self, WireError> {
        let wrong =
            |problem: &str| WireError::Endpoint { endpoint: shown(&signal.endpoint), problem: problem.to_owned() };
        let url = Url::parse(&signal.endpoint).map_err(|error| wrong(&error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong("it needs http:// or https:// in front"));
        }
        if signal.client_cert.is_some() != signal.client_key.is_some() {
            return Err(WireError::HalfIdentity);
        }
        Ok(Self {
            endpoint: shown(&signal.endpoint),
            protocol: signal.protocol,
            timeout: signal.timeout,
            answer: LastAnswer::default(),
        })
    }

    fn build_error(&self, signal: &Signal, error: &dyn StdError) -> WireError {
        let problem = chain(error).replace(&signal.endpoint, &self.endpoint);
        WireError::Build { endpoint: self.endpoint.clone(), problem }
    }

    /// Runs one export to its end or to the timeout, and says what its failure means.
    async fn judge(&self, export: impl Future<Output = OTelSdkResult>) -> Result<(), Failure> {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let error = match tokio::time::timeout(self.timeout, export).await {
            Ok(Ok(())) => return Ok(()),
            Err(_) | Ok(Err(OTelSdkError::Timeout(_))) => {
                return Err(Failure::Later(format!("no answer within {:.1} s", self.timeout.as_secs_f64())));
            }
            Ok(Err(error)) => error.to_string(),
        };
        let answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner).take();
        Err(match (self.protocol, answer) {
            (Protocol::Grpc, _) => grpc_failure(&error),
            (Protocol::HttpProtobuf, Some(Ok(status))) => http_failure(status),
            (Protocol::HttpProtobuf, Some(Err(reason))) => Failure::Later(mistaken(reason)),
            // Never sent: the batch itself is at fault.
            (Protocol::HttpProtobuf, None) => Failure::Refused(error),
        })
    }

    fn http<B>(&self, builder: B, signal: &Signal) -> Result<B, WireError>
    where
        B: WithExportConfig + WithHttpConfig,
    {
        let builder = builder
            .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
            .with_http_client(self.http_client(signal)?)
            .with_endpoint(&signal.endpoint)
            .with_timeout(signal.timeout)
            .with_retry_policy(RetryPolicy::disabled());
        Ok(if signal.gzip { builder.with_compression(Compression::Gzip) } else { builder })
    }

    fn http_client(&self, signal: &Signal) -> Result<Witness, WireError> {
        let mut builder =
            reqwest::Client::builder().timeout(signal.timeout).redirect(reqwest::redirect::Policy::none());
        if let Some(path) = &signal.ca_file {
            let bad = |problem| WireError::Pem { what: CA, path: path.clone(), problem };
            let roots = reqwest::Certificate::from_pem_bundle(&read(CA, path)?).map_err(|error| bad(chain(&error)))?;
            if roots.is_empty() {
                return Err(bad("it holds no certificate".to_owned()));
            }
            builder = builder.tls_certs_only(roots);
        }
        if let Some([certificate, key]) = identity(signal)? {
            let identity = reqwest::Identity::from_pkcs8_pem(&certificate, &key).map_err(|error| WireError::Pem {
                what: CERTIFICATE,
                path: signal.client_cert.clone().unwrap_or_default(),
                problem: format!("{}; the key must be PKCS #8 (BEGIN PRIVATE KEY)", chain(&error)),
            })?;
            builder = builder.identity(identity);
        }
        let client = builder.build().map_err(|error| self.build_error(signal, &error))?;
        Ok(Witness { client, headers: headers(signal)?, answer: Arc::clone(&self.answer) })
    }
}

/// reqwest, with a note of what it met: the exporter's error text tells too little.
#[derive(Debug)]
struct Witness {
    client: reqwest::Client,
    /// Put on here and marked as secret: the exporter would hold them as plain text, and nobody who logs would know.
    headers: HeaderMap,
    answer: LastAnswer,
}

impl HttpClient for Witness {
    fn send_bytes<'a: 'b, 'b>(
        &'a self,
        mut request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        Self: 'b,
    {
        for (name, value) in &self.headers {
            request.headers_mut().insert(name, value.clone());
        }
        Box::pin(async move {
            let result = self.exchange(request).await;
            if let Err(error) = &result {
                self.note(Err(innermost(error.as_ref())));
            }
            result
        })
    }
}

impl Witness {
    fn note(&self, met: Result<u16, String>) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(met);
    }

    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let mut response = self.client.execute(request.try_into()?).await?;
        let status = response.status();
        self.note(Ok(status.as_u16()));
        response.headers().get(RETRY_AFTER).and_then(asked).into_iter().for_each(exports::retry_after);
        let mut body = Vec::new();
        // A refusal is one by its first line: its words, which may have no end, are not waited for. Those of an acceptance
        // tell what was left out of it.
        while status.is_success()
            && let Some(piece) = response.chunk().await?
        {
            if body.len() + piece.len() > LARGEST_ANSWER {
                body.clear();
                break;
            }
            body.extend_from_slice(&piece);
        }
        let mut answer = Response::builder().status(status).body(Bytes::from(body))?;
        *answer.headers_mut() = std::mem::take(response.headers_mut());
        Ok(answer)
    }
}

/// No receiver has more to say of what it took.
const LARGEST_ANSWER: usize = 1 << 20;

/// How long a Retry-After asks to be left alone (RFC 9110 §10.2.3): a number of seconds, or until a point in time.
fn asked(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    let until = || OffsetDateTime::parse(text, &Rfc2822).ok();
    let left = || Some(SystemTime::from(until()?).duration_since(clock::wall()).unwrap_or_default());
    text.parse().map(Duration::from_secs).ok().or_else(left)
}

const CA: &str = "CA file";
const CERTIFICATE: &str = "client certificate";
const KEY: &str = "client key";

/// A bare `ClientTlsConfig` trusts nobody, so roots are always named.
fn grpc_tls(signal: &Signal) -> Result<Option<ClientTlsConfig>, WireError> {
    if !signal.endpoint.starts_with("https://") {
        return Ok(None);
    }
    let mut tls = match &signal.ca_file {
        Some(path) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(CA, path)?)),
        None => ClientTlsConfig::new().with_enabled_roots(),
    };
    if let Some([certificate, key]) = identity(signal)? {
        tls = tls.identity(Identity::from_pem(&*certificate, &*key));
    }
    Ok(Some(tls))
}

/// The PEM of certificate and key. What the TLS libraries make of the key, only they can wipe.
fn identity(signal: &Signal) -> Result<Option<[Zeroizing<Vec<u8>>; 2]>, WireError> {
    match (&signal.client_cert, &signal.client_key) {
        (Some(certificate), Some(key)) => {
            Ok(Some([read(CERTIFICATE, certificate)?, read(KEY, key)?].map(Zeroizing::new)))
        }
        _ => Ok(None),
    }
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, WireError> {
    std::fs::read(path).map_err(|source| WireError::File { what, path: path.to_owned(), source })
}

fn headers(signal: &Signal) -> Result<HeaderMap, WireError> {
    let pairs = signal.headers.iter().map(|header| {
        let name = HeaderName::from_bytes(header.name.as_bytes()).ok();
        let value = HeaderValue::from_str(header.expose()).ok().map(|mut value| {
            value.set_sensitive(true);
            value
        });
        name.zip(value).ok_or_else(|| WireError::Header { name: header.name.clone() })
    });
    pairs.collect()
}

/// The endpoint without user and password.
fn shown(endpoint: &str) -> String {
    match (endpoint.split_once("://"), endpoint.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://{rest}"),
        (None, Some((_, rest))) => rest.to_owned(),
        (_, None) => endpoint.to_owned(),
    }
}

fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// The last cause: `Connection refused`, and not what led to it.
fn innermost(error: &(dyn StdError + 'static)) -> String {
    let mut inner = error;
    while let Some(cause) = inner.source() {
        inner = cause;
    }
    inner.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_after_is_a_number_of_seconds_or_a_point_in_time() {
        let asked = |text: &str| asked(&HeaderValue::from_str(text).unwrap());
        assert_eq!(asked("120"), Some(Duration::from_secs(120)));
        assert_eq!(asked("Fri, 31 Dec 1999 23:59:59 GMT"), Some(Duration::ZERO));
        let far = asked("Fri, 31 Dec 2049 23:59:59 GMT").unwrap();
        assert!(far > Duration::from_secs(86_400), "{far:?}");
        assert_eq!(asked("soon"), None);
    }

    #[test]
    fn an_endpoint_is_shown_without_its_password() {
        assert_eq!(shown("https://me:canary@otlp.example:4318/x"), "https://otlp.example:4318/x");
        assert_eq!(shown("http://localhost:4317"), "http://localhost:4317");
    }
}
