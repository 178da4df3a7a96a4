//! The exporter of traces: opentelemetry-otlp's, with our client, and the outcome as a value.
//!
//! An export is one attempt; the queue retries. Must be used inside delivery's runtime. Called by the sender and by
//! [`Replay`](crate::delivery::Replay).

use std::{num::NonZeroU64, sync::Arc};

use imaptrace_record::Run;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::{Resource, trace::SpanExporter as _};

use super::{
    client::{ExportOutcome, OtlpClient},
    error::ExportError,
    response::Accepted,
    send_state::SignalError,
    signal::Signal,
};
use crate::{clock, delivery::log_throttle::LogThrottle, telemetry::spans};

/// The exporter of traces.
pub(in crate::delivery) struct TracesExporter {
    exporter: SpanExporter,
    client: Arc<OtlpClient>,
}

impl Accepted {
    /// Logs what the receiver says of an accepted batch of traces, at most once a minute.
    pub(in crate::delivery) fn log(&self, endpoint: &str, repeats: &mut LogThrottle) {
        let (rejected_spans, reason) = (self.rejected, self.message.as_str());
        if *self == Self::default() {
            return;
        }
        let Some(repeated) = repeats.pass(clock::now()) else { return };
        if rejected_spans > 0 {
            tracing::warn!(
                rejected_spans,
                reason,
                repeated = NonZeroU64::new(repeated),
                "{endpoint} accepted a batch of traces and rejected some of its spans"
            );
        } else if !reason.is_empty() {
            tracing::warn!(
                reason,
                repeated = NonZeroU64::new(repeated),
                "{endpoint} accepted a batch of traces with a warning"
            );
        }
    }
}

impl TracesExporter {
    /// Builds the exporter.
    pub(in crate::delivery) fn new(signal: &Signal, resource: &Resource) -> Result<Self, SignalError> {
        let client = OtlpClient::new(signal, "/opentelemetry.proto.collector.trace.v1.TraceService/Export")?;
        let client = Arc::new(client);
        let built = client.configure(SpanExporter::builder().with_http(), signal).build();
        let mut exporter = built.map_err(|error| client.build_error(signal, &error))?;
        exporter.set_resource(resource);
        Ok(Self { exporter, client })
    }

    /// The client, to replace headers and files.
    pub(in crate::delivery) fn client(&self) -> Arc<OtlpClient> {
        self.client.clone()
    }

    /// One attempt to send the traces of these runs.
    pub(in crate::delivery) async fn export(&self, runs: &[Arc<Run>]) -> ExportOutcome {
        let spans = runs.iter().flat_map(|run| spans(run)).collect();
        let mut outcome = self.client.outcome_of(self.exporter.export(spans)).await;
        // A delay means that the receiver is overloaded, not that the batch is too large (OTLP specification, "OTLP/gRPC
        // Throttling").
        if let (Err(ExportError::TooLarge(reason)), Some(_)) = (&mut outcome.result, outcome.retry_after) {
            outcome.result = Err(ExportError::Retryable(std::mem::take(reason)));
        }
        outcome
    }

    /// The receiver, for messages.
    pub(in crate::delivery) fn endpoint(&self) -> &str {
        self.client.endpoint()
    }
}
