//! The exporter of metrics: opentelemetry-otlp's, with our client.
//!
//! An export is one attempt. Must be used inside delivery's runtime. Called by [`periodic`](super::periodic).

use std::{
    num::NonZeroU64,
    sync::{Arc, Mutex, PoisonError},
};

use opentelemetry_otlp::MetricExporter;
use opentelemetry_sdk::metrics::{Temporality, data::ResourceMetrics, exporter::PushMetricExporter as _};

use super::{client::OtlpClient, error::ExportError, response::Accepted, send_state::SignalError, signal::Signal};
use crate::{clock, delivery::log_throttle::LogThrottle};

pub(in crate::delivery) struct MetricsExporter {
    exporter: MetricExporter,
    pub(in crate::delivery) client: Arc<OtlpClient>,
    /// The receiver's last warning, which is logged once, and another one at most once a minute.
    last_accepted: Mutex<(Accepted, LogThrottle)>,
}

impl MetricsExporter {
    pub(in crate::delivery) fn new(signal: &Signal, temporality: Temporality) -> Result<Self, SignalError> {
        let client =
            Arc::new(OtlpClient::new(signal, "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export")?);
        let builder = client.configure(MetricExporter::builder().with_http(), signal).with_temporality(temporality);
        let exporter = builder.build().map_err(|error| client.build_error(signal, &error))?;
        Ok(Self { exporter, client, last_accepted: Mutex::default() })
    }

    /// One attempt to send these metrics.
    pub(in crate::delivery) async fn export(&self, metrics: &ResourceMetrics) -> Result<(), ExportError> {
        match self.client.send_exports(self.exporter.export(metrics)).await.result {
            Ok(accepted) => {
                self.log(accepted);
                Ok(())
            }
            // It does not end the round; the next one has newer values.
            Err(ExportError::TooLarge(reason)) => Err(ExportError::Permanent(reason)),
            Err(failure) => Err(failure),
        }
    }

    fn log(&self, accepted: Accepted) {
        let mut last = self.last_accepted.lock().unwrap_or_else(PoisonError::into_inner);
        if accepted == Accepted::default() || accepted == last.0 {
            return;
        }
        let Some(repeated) = last.1.pass(clock::now()) else { return };
        let (rejected_data_points, reason) = (accepted.rejected, accepted.message.as_str());
        let (endpoint, repeated) = (&self.client.endpoint, NonZeroU64::new(repeated));
        let what = "accepted metrics and rejected some data points";
        tracing::warn!(rejected_data_points, reason, repeated, "{endpoint} {what}");
        last.0 = accepted;
    }
}
