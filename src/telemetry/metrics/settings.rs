//! The settings of metrics, which the configuration reads.

use std::collections::BTreeSet;

#[cfg(doc)]
use crate::telemetry::names;

/// Which series are kept, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsSettings {
    /// Keys of the labels that become attributes (`[metrics] labels`).
    pub labels: BTreeSet<String>,
    /// Exponential histograms in place of [`names::BUCKETS`]: more exact, about three times the memory.
    pub exponential: bool,
    /// The most series of all accounts. Measurements above it are logged and counted by [`names::METRICS_OVERFLOW`].
    pub series_limit: u64,
    /// Whether [`names::TIMING_DURATION`] is kept: three more series for each command.
    pub timing: bool,
    /// The process makes some runs and ends: each series has [`names::ONE_SHOT`], and those of an agent (schedule, queue,
    /// configuration) are not exported.
    pub one_shot: bool,
}

impl Default for MetricsSettings {
    fn default() -> Self {
        Self { labels: BTreeSet::new(), exponential: false, series_limit: 100_000, timing: false, one_shot: false }
    }
}
