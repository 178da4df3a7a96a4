//! The settings of metrics, which the configuration reads.

use std::collections::{BTreeMap, BTreeSet};

#[cfg(doc)]
use crate::telemetry::names;

/// The metrics of runs that are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsDetail {
    /// First Loading Latency, and the commands that a mail program waits for (LOGIN or AUTHENTICATE, LIST, SELECT or EXAMINE,
    /// FETCH), with [`names::BUCKETS`]; the whole run and the setup phases by count and sum alone; the gauges.
    Standard,
    /// All commands, bytes, and buckets for every histogram.
    Full,
}

/// Which series are kept, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsSettings {
    /// Keys of the labels that become attributes (`[metrics] labels`).
    pub labels: BTreeSet<String>,
    /// Exponential histograms in place of [`names::BUCKETS`]: more exact, about three times the memory.
    pub exponential: bool,
    /// The most series of all accounts, as Prometheus counts them: each bucket is one. Measurements above it are logged and
    /// counted by [`names::METRICS_OVERFLOW`].
    pub series_limit: u64,
    /// The metrics of runs that are kept.
    pub detail: MetricsDetail,
    /// Whether [`names::TIMING_DURATION`] is kept: three more histograms for each command that has one.
    pub timing: bool,
    /// The labels of the agent's own series (`[agent] labels`).
    pub agent_labels: BTreeMap<String, String>,
    /// The process makes some runs and ends: each series has [`names::ONE_SHOT`], and those of an agent (schedule, queue,
    /// configuration) are not exported.
    pub one_shot: bool,
}

impl Default for MetricsSettings {
    fn default() -> Self {
        Self {
            labels: BTreeSet::new(),
            exponential: false,
            series_limit: 1_000_000,
            detail: MetricsDetail::Standard,
            timing: false,
            agent_labels: BTreeMap::new(),
            one_shot: false,
        }
    }
}
