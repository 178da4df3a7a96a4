//! The exporter of traces: opentelemetry-otlp's, with our client.
//!
//! An export is one attempt: one request with the spans of the agent, and of each host of servers under a resource of its own. Must be used inside delivery's runtime. Called by the sender and by
//! [`Replay`](crate::delivery::Replay).

use std::{collections::BTreeMap, num::NonZeroU64, sync::Arc};

use imaptrace_record::Run;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{SpanData, SpanExporter as _},
};

use super::{
    client::{ExportOutcome, OtlpClient},
    error::ExportError,
    response::Accepted,
    send_state::SignalError,
    signal::Signal,
};
use crate::{
    clock,
    delivery::log_throttle::LogThrottle,
    telemetry::{server_resource, server_spans, spans},
};

pub(in crate::delivery) struct TracesExporter {
    exporter: SpanExporter,
    /// The agent's.
    resource: Resource,
    /// `service.name` of the spans of servers.
    server_service_name: String,
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
    /// `resource` is the agent's, `server_service_name` the name of the service whose spans mail servers reported.
    pub(in crate::delivery) fn new(
        signal: &Signal,
        resource: Resource,
        server_service_name: String,
    ) -> Result<Self, SignalError> {
        let client = Arc::new(OtlpClient::new(signal, "/opentelemetry.proto.collector.trace.v1.TraceService/Export")?);
        let built = client.configure(SpanExporter::builder().with_http(), signal).build();
        let exporter = built.map_err(|error| client.build_error(signal, &error))?;
        Ok(Self { exporter, resource, server_service_name, client })
    }

    /// One attempt to send the traces of these runs.
    pub(in crate::delivery) async fn export(&mut self, runs: &[Arc<Run>]) -> ExportOutcome {
        let client = self.client.clone();
        let mut outcome = client.send_exports(self.export_all(runs)).await;
        // A delay means an overloaded receiver, not a large batch (OTLP specification, "OTLP/gRPC Throttling").
        if let (Err(ExportError::TooLarge(reason)), Some(_)) = (&mut outcome.result, outcome.retry_after) {
            outcome.result = Err(ExportError::Retryable(std::mem::take(reason)));
        }
        outcome
    }

    /// Hands all spans to the client, one message for each resource.
    async fn export_all(&mut self, runs: &[Arc<Run>]) -> OTelSdkResult {
        self.exporter.set_resource(&self.resource);
        self.exporter.export(runs.iter().flat_map(|run| spans(run)).collect()).await?;
        let mut hosts: BTreeMap<&str, Vec<SpanData>> = BTreeMap::new();
        for run in runs {
            for (host, span) in server_spans(run) {
                hosts.entry(host).or_default().push(span);
            }
        }
        for (host, spans) in hosts {
            self.exporter.set_resource(&server_resource(&self.server_service_name, host));
            self.exporter.export(spans).await?;
        }
        Ok(())
    }
}
