//! The exporter of traces: opentelemetry-otlp's, with our client.
//!
//! An export is one attempt. Must be used inside delivery's runtime. Called by the sender and by
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

pub(in crate::delivery) struct TracesExporter {
    exporter: SpanExporter,
    pub(in crate::delivery) client: Arc<OtlpClient>,
}

impl Accepted {
    /// Logs the receiver's message about a batch of traces, at most once a minute.
    pub(in crate::delivery) fn log(&self, endpoint: &str, repeats: &mut LogThrottle) {
        let (rejected_spans, reason) = (self.rejected, self.message.as_str());
        if *self == Self::default() {
            return;
        }
        let Some(repeated) = repeats.pass(clock::now()) else { return };
        let repeated = NonZeroU64::new(repeated);
        if rejected_spans > 0 {
            let what = "accepted a batch of traces and rejected some of its spans";
            tracing::warn!(rejected_spans, reason, repeated, "{endpoint} {what}");
        } else {
            tracing::warn!(reason, repeated, "{endpoint} accepted a batch of traces with a warning");
        }
    }
}

impl TracesExporter {
    pub(in crate::delivery) fn new(signal: &Signal, resource: &Resource) -> Result<Self, SignalError> {
        let client = Arc::new(OtlpClient::new(signal, "/opentelemetry.proto.collector.trace.v1.TraceService/Export")?);
        let built = client.configure(SpanExporter::builder().with_http(), signal).build();
        let mut exporter = built.map_err(|error| client.build_error(signal, &error))?;
        exporter.set_resource(resource);
        Ok(Self { exporter, client })
    }

    /// One attempt to send the traces of these runs.
    pub(in crate::delivery) async fn export(&self, runs: &[Arc<Run>]) -> ExportOutcome {
        let spans = runs.iter().flat_map(|run| spans(run)).collect();
        let mut outcome = self.client.outcome_of(self.exporter.export(spans)).await;
        // A delay means an overloaded receiver, not a large batch (OTLP specification, "OTLP/gRPC Throttling").
        if let (Err(ExportError::TooLarge(reason)), Some(_)) = (&mut outcome.result, outcome.retry_after) {
            outcome.result = Err(ExportError::Retryable(std::mem::take(reason)));
        }
        outcome
    }
}
