//! The exporter of metrics: opentelemetry-otlp's, with our client, and the outcome as a value.
//!
//! An export is one attempt; the next collection has newer values. Must be used inside delivery's runtime. Called by
//! [`periodic`](super::periodic).

use std::{
    num::NonZeroU64,
    sync::{Arc, Mutex, PoisonError},
};

use opentelemetry_otlp::MetricExporter;
use opentelemetry_sdk::metrics::{Temporality, data::ResourceMetrics, exporter::PushMetricExporter as _};

use super::{
    client::{OtlpClient, SignalError},
    error::ExportError,
    response::Accepted,
    signal::Signal,
};
use crate::{clock, delivery::log_throttle::LogThrottle};

/// The exporter of metrics.
pub(in crate::delivery) struct MetricsExporter {
    exporter: MetricExporter,
    client: Arc<OtlpClient>,
    /// What the receiver last said of metrics that it took: said once, and what differs once a minute.
    told: Mutex<(Accepted, LogThrottle)>,
}

impl MetricsExporter {
    /// Builds the exporter.
    pub(in crate::delivery) fn new(signal: &Signal, temporality: Temporality) -> Result<Self, SignalError> {
        let client = OtlpClient::new(signal, "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export")?;
        let client = Arc::new(client);
        let builder = client.configure(MetricExporter::builder().with_http(), signal).with_temporality(temporality);
        let exporter = builder.build().map_err(|error| client.build_error(signal, &error))?;
        Ok(Self { exporter, client, told: Mutex::default() })
    }

    /// What it sends by, to be given other headers and files.
    pub(in crate::delivery) fn client(&self) -> Arc<OtlpClient> {
        self.client.clone()
    }

    /// One attempt to send these metrics.
    pub(in crate::delivery) async fn export(&self, metrics: &ResourceMetrics) -> Result<(), ExportError> {
        match self.client.outcome_of(self.exporter.export(metrics)).await.result {
            Ok(accepted) => {
                self.log(accepted);
                Ok(())
            }
            // It stops no other message, and the next round has newer values anyhow.
            Err(ExportError::TooLarge(reason)) => Err(ExportError::Permanent(reason)),
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
    pub(in crate::delivery) fn endpoint(&self) -> &str {
        self.client.endpoint()
    }
}
