//! What delivery does: where telemetry goes, how often, and what may wait for it.
//!
//! Values only. Built by the agent from configuration and OTEL_* variables.

use std::time::Duration;

use opentelemetry_sdk::metrics::Temporality;

use super::otlp::Signal;
use crate::state::StateDir;

/// All of delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliverySettings {
    /// Where traces go; without it none are queued.
    pub traces: Option<Signal>,
    /// Where metrics go; without it none are kept.
    pub metrics: Option<Signal>,
    /// Between two exports of metrics.
    pub metric_interval: Duration,
    /// Whether metrics are sums since the start, or since the last export.
    pub temporality: Temporality,
    /// Where runs wait that cannot be delivered at once; without it they wait in memory alone.
    pub state: Option<StateDir>,
    /// Budget of the queue: bytes of memory that its runs hold.
    pub queue_memory: usize,
    /// Budget of the queue: bytes of its files in `state`. A quarter as much comes on top for what was put aside.
    pub queue_disk: u64,
}

impl Default for DeliverySettings {
    fn default() -> Self {
        Self {
            traces: None,
            metrics: None,
            metric_interval: Duration::from_secs(15),
            temporality: Temporality::Cumulative,
            state: None,
            queue_memory: 32 << 20,
            queue_disk: 128 << 20,
        }
    }
}
