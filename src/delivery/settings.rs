//! The settings of delivery: receivers, intervals and budgets. Built by the agent from the configuration.

use std::time::Duration;

use opentelemetry_sdk::metrics::Temporality;

use super::otlp::Signal;
use crate::state::StateDir;

/// The settings of delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliverySettings {
    /// The receiver of traces; without it none are queued.
    pub traces: Option<Signal>,
    /// The receiver of metrics; without it none are kept.
    pub metrics: Option<Signal>,
    /// The `service.name` of spans that mail servers reported.
    pub server_service_name: String,
    /// The time between two exports of metrics.
    pub metric_interval: Duration,
    /// Whether metrics are sums since the start, or since the last export.
    pub temporality: Temporality,
    /// Where runs are stored that cannot be delivered at once; without it they wait in memory alone.
    pub state: Option<StateDir>,
    /// The most bytes of memory that queued runs hold.
    pub queue_memory: usize,
    /// The most bytes of segments in `state`; dead letters may take a quarter of this in addition.
    pub queue_disk: u64,
}

impl Default for DeliverySettings {
    fn default() -> Self {
        Self {
            traces: None,
            metrics: None,
            server_service_name: "dovecot".to_owned(),
            metric_interval: Duration::from_secs(15),
            temporality: Temporality::Cumulative,
            state: None,
            queue_memory: 32 << 20,
            queue_disk: 128 << 20,
        }
    }
}
