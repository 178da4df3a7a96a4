//! Which measurements are kept, and how.
//!
//! Values only; built by the configuration and the command line.

use std::collections::BTreeSet;

#[cfg(doc)]
use crate::telemetry::names;

/// How measurements are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsSettings {
    /// Keys of the labels that become attributes (`[metrics] labels`).
    pub labels: BTreeSet<String>,
    /// Exponential histograms in place of [`names::BUCKETS`]; more exact, and about three times the memory.
    pub exponential: bool,
    /// Series kept in all, beside the agent's own few. What comes above it is not kept: it is logged and counted by
    /// [`names::METRICS_OVERFLOW`]. The configuration is to count before.
    pub series_limit: u64,
    /// Whether [`names::TIMING_DURATION`] is kept: three series more for each command.
    pub timing: bool,
    /// The process makes some runs and ends: each series bears [`names::ONE_SHOT`], and those that describe an agent
    /// (schedule, queue, configuration) are not exported. Alert rules look at agents only.
    pub one_shot: bool,
}

impl Default for MetricsSettings {
    fn default() -> Self {
        Self { labels: BTreeSet::new(), exponential: false, series_limit: 100_000, timing: false, one_shot: false }
    }
}
