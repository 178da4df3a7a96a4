//! What the agent tells of itself beside its runs: plain data, filled anew for each request.

use std::collections::BTreeMap;

use imaptrace_record::{Seconds, Timestamp};
use serde::Serialize;

/// What does not change while the agent runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// imaptrace's version.
    pub version: &'static str,
    /// `service.instance.id` of all telemetry, if the configuration sets it.
    pub instance: Option<String>,
    /// When the agent started, by the wall clock.
    pub started_at: Timestamp,
}

/// What is so at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// The moment, by the wall clock.
    pub at: Timestamp,
    /// Since the start, by the monotonic clock.
    pub uptime: Seconds,
    /// Why the agent does not live: which of its loops has stopped turning. None when all turn.
    pub not_live: Vec<String>,
    /// Why the agent is not ready, beside not living. None when it is.
    pub not_ready: Vec<String>,
    /// What is wrong with the agent or its machine while it goes on: too little CPU.
    pub warnings: Vec<String>,
    /// Runs under way.
    pub in_flight: u64,
    /// What it goes by.
    pub config: Config,
    /// How delivery is, when there is somewhere to deliver to.
    pub delivery: Option<Delivery>,
}

/// The configuration that is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Config {
    /// Its file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// When it was taken up.
    pub loaded_at: Timestamp,
    /// The last attempt to take up another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_reload: Option<Reload>,
}

/// One attempt to take up a changed configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reload {
    /// When.
    pub at: Timestamp,
    /// Whether it is in force now; else the one before still is.
    pub success: bool,
    /// How many things were wrong with it. The log has each.
    pub problems: u64,
}

/// How delivery is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Delivery {
    /// Runs that wait or are on their way, each counted once.
    pub queued_runs: u64,
    /// Of these, runs that are on disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored_runs: Option<u64>,
    /// What they take in memory.
    pub memory_bytes: u64,
    /// What they may take there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit_bytes: Option<u64>,
    /// What they take on disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// What they may take there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_limit_bytes: Option<u64>,
    /// How long the oldest has waited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_s: Option<Seconds>,
    /// Runs that the receiver took since the start.
    pub delivered_runs: u64,
    /// Runs that were given up since the start, by reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub dropped_runs: BTreeMap<String, u64>,
    /// Why the last attempt failed. None when it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Why nothing can be written to the disk. None when it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_failure: Option<String>,
}
