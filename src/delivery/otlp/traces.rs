//! The exporter of traces: opentelemetry-otlp's, with our client, and the outcome as a value.
//!
//! An export is one attempt; the queue retries. Must be used inside delivery's runtime. Called by the sender and by
//! [`Replay`](crate::delivery::Replay).

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use imaptrace_record::Run;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::{Resource, trace::SpanExporter as _};

use super::{
    client::{OtlpClient, WireError},
    error::Failure,
    response::Accepted,
    signal::Signal,
};
use crate::{clock, delivery::log_throttle::LogThrottle, telemetry::spans};

/// The exporter of traces.
pub(in crate::delivery) struct Traces {
    exporter: SpanExporter,
    client: Arc<OtlpClient>,
}

/// What came of one attempt to send traces.
#[derive(Debug)]
pub(in crate::delivery) struct Answer {
    /// Whether they arrived, and what the receiver said of it.
    pub(in crate::delivery) outcome: Result<Accepted, Failure>,
    /// How long the receiver asks to be left alone.
    pub(in crate::delivery) retry_after: Option<Duration>,
}

impl Accepted {
    /// Logs what the receiver said of a batch of traces that it took, once a minute.
    pub(in crate::delivery) fn log(&self, endpoint: &str, repeats: &mut LogThrottle) {
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
    /// Builds the exporter.
    pub(in crate::delivery) fn new(signal: &Signal, resource: &Resource) -> Result<Self, WireError> {
        let client = OtlpClient::new(signal, "/opentelemetry.proto.collector.trace.v1.TraceService/Export")?;
        let client = Arc::new(client);
        let built = client.configure(SpanExporter::builder().with_http(), signal).build();
        let mut exporter = built.map_err(|error| client.build_error(signal, &error))?;
        exporter.set_resource(resource);
        Ok(Self { exporter, client })
    }

    /// What it sends by, to be given other headers and files.
    pub(in crate::delivery) fn client(&self) -> Arc<OtlpClient> {
        self.client.clone()
    }

    /// One attempt to send the traces of these runs.
    pub(in crate::delivery) async fn export(&self, runs: &[Arc<Run>]) -> Answer {
        let spans = runs.iter().flat_map(|run| spans(run)).collect();
        let (outcome, retry_after) = self.client.outcome_of(self.exporter.export(spans)).await;
        let outcome = match outcome {
            // Only a delay says that it is the receiver that has too much (OTLP specification, "OTLP/gRPC Throttling").
            Err(Failure::TooMuch(reason)) if retry_after.is_some() => Err(Failure::Later(reason)),
            outcome => outcome,
        };
        Answer { outcome, retry_after }
    }

    /// Where they go, for people.
    pub(in crate::delivery) fn endpoint(&self) -> &str {
        self.client.endpoint()
    }
}
