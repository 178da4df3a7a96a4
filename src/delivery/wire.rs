//! The exporters of traces and metrics: runs and metric data go through opentelemetry-otlp, and what came of it is a verdict.
//!
//! Retrying is left to the queue, which forgets nothing, so an export is one attempt. What matters of a failure is whether
//! the same batch can be sent again, and a sentence for the log without any header's value; `otlp_client`, which the exporters
//! send by, has both. Must be used inside delivery's runtime. Called by `sender`, `meter` and `replay`.

use std::{
    num::NonZeroU64,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use opentelemetry_otlp::{MetricExporter, RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    metrics::{Temporality, data::ResourceMetrics, exporter::PushMetricExporter as _},
    trace::SpanExporter as _,
};

pub use super::otlp_client::WireError;
use imaptrace_record::Run;

use super::{
    answer::Accepted,
    failure::Failure,
    otlp_client::{ExportOutcome, OtlpClient},
    repeats::Repeats,
    settings::Signal,
};
use crate::{clock, telemetry::spans};

/// The exporter of traces.
pub(super) struct Traces {
    exporter: SpanExporter,
    client: Arc<OtlpClient>,
}

/// The exporter of metrics.
pub(super) struct MetricsWire {
    exporter: MetricExporter,
    client: Arc<OtlpClient>,
    /// What the receiver last said of metrics that it took: said once, and what differs once a minute.
    told: Mutex<(Accepted, Repeats)>,
}

/// Builds the exporter of traces.
pub(super) fn traces(signal: &Signal, resource: &Resource) -> Result<Traces, WireError> {
    let client = OtlpClient::new(signal, "/opentelemetry.proto.collector.trace.v1.TraceService/Export")?;
    let client = Arc::new(client);
    let built = over(SpanExporter::builder().with_http(), signal, &client).build();
    let mut exporter = built.map_err(|error| client.build_error(signal, &error))?;
    exporter.set_resource(resource);
    Ok(Traces { exporter, client })
}

/// Builds the exporter of metrics.
pub(super) fn metrics(signal: &Signal, temporality: Temporality) -> Result<MetricsWire, WireError> {
    let client = OtlpClient::new(signal, "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export")?;
    let client = Arc::new(client);
    let built = over(MetricExporter::builder().with_http(), signal, &client).with_temporality(temporality).build();
    let exporter = built.map_err(|error| client.build_error(signal, &error))?;
    Ok(MetricsWire { exporter, client, told: Mutex::default() })
}

/// An exporter's builder that sends by this client, once.
fn over<B: WithExportConfig + WithHttpConfig>(builder: B, signal: &Signal, client: &Arc<OtlpClient>) -> B {
    builder
        .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
        .with_shared_http_client(Arc::<OtlpClient>::clone(client))
        .with_endpoint(&signal.endpoint)
        .with_timeout(signal.timeout)
        .with_retry_policy(RetryPolicy::disabled())
}

/// Runs an export to its end and takes what the client keeps of it.
async fn outcome(client: &OtlpClient, export: impl Future<Output = OTelSdkResult>) -> ExportOutcome {
    let result = export.await;
    client.take_outcome().unwrap_or_else(|| {
        // Never sent: the batch itself is at fault.
        let reason = result.err().map_or_else(|| "the exporter sent nothing".to_owned(), |error| error.to_string());
        (Err(Failure::Refused(reason)), None)
    })
}

/// What came of one attempt to send traces.
#[derive(Debug)]
pub(super) struct Answer {
    /// Whether they arrived, and what the receiver said of it.
    pub(super) outcome: Result<Accepted, Failure>,
    /// How long the receiver asks to be left alone.
    pub(super) retry_after: Option<Duration>,
}

impl Accepted {
    /// Logs what the receiver said of a batch of traces that it took, once a minute.
    pub(super) fn log(&self, endpoint: &str, repeats: &mut Repeats) {
        let (rejected_spans, told) = (self.rejected, self.message.as_str());
        if *self == Self::default() {
            return;
        }
        let Some(repeated) = repeats.pass(clock::now()) else { return };
        if rejected_spans > 0 {
            tracing::warn!(
                rejected_spans,
                told,
                repeated = NonZeroU64::new(repeated),
                "{endpoint} took a batch of traces and refused some of its spans"
            );
        } else if !told.is_empty() {
            tracing::warn!(
                told,
                repeated = NonZeroU64::new(repeated),
                "{endpoint} accepted a batch of traces with a warning"
            );
        }
    }
}

impl Traces {
    /// What it sends by, to be given other headers and files.
    pub(super) fn client(&self) -> Arc<OtlpClient> {
        self.client.clone()
    }

    /// One attempt to send the traces of these runs.
    pub(super) async fn export(&self, runs: &[Arc<Run>]) -> Answer {
        let spans = runs.iter().flat_map(|run| spans(run)).collect();
        let (outcome, retry_after) = outcome(&self.client, self.exporter.export(spans)).await;
        let outcome = match outcome {
            // Only a delay says that it is the receiver that has too much (OTLP specification, "OTLP/gRPC Throttling").
            Err(Failure::TooMuch(reason)) if retry_after.is_some() => Err(Failure::Later(reason)),
            outcome => outcome,
        };
        Answer { outcome, retry_after }
    }

    /// Where they go, for people.
    pub(super) fn endpoint(&self) -> &str {
        self.client.endpoint()
    }
}

impl MetricsWire {
    /// What it sends by, to be given other headers and files.
    pub(super) fn client(&self) -> Arc<OtlpClient> {
        self.client.clone()
    }

    /// One attempt to send these metrics.
    pub(super) async fn export(&self, metrics: &ResourceMetrics) -> Result<(), Failure> {
        match outcome(&self.client, self.exporter.export(metrics)).await.0 {
            Ok(accepted) => {
                self.log(accepted);
                Ok(())
            }
            // It stops no other message, and the next round has newer values anyhow.
            Err(Failure::TooMuch(reason)) => Err(Failure::Refused(reason)),
            Err(failure) => Err(failure),
        }
    }

    fn log(&self, accepted: Accepted) {
        let mut last = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if accepted == Accepted::default() || accepted == last.0 {
            return;
        }
        let Some(repeated) = last.1.pass(clock::now()) else { return };
        let (rejected_data_points, told) = (accepted.rejected, accepted.message.as_str());
        let endpoint = self.client.endpoint();
        tracing::warn!(
            rejected_data_points,
            told,
            repeated = NonZeroU64::new(repeated),
            "{endpoint} took metrics and refused some of them"
        );
        last.0 = accepted;
    }

    /// Where they go, for people.
    pub(super) fn endpoint(&self) -> &str {
        self.client.endpoint()
    }
}
