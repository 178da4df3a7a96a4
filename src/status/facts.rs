//! The state of the agent beside its runs, made by `agent` for each request; `page` and `server` show it.

use std::collections::BTreeMap;

use imaptrace_record::{Seconds, Timestamp};
use serde::Serialize;

use crate::{delivery, server_events::SenderCounts};

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

/// The state of the agent at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// By the wall clock.
    pub at: Timestamp,
    /// Since the start, by the monotonic clock.
    pub uptime: Seconds,
    /// Why the agent is not live: the tasks that have stopped. Empty when it is live.
    pub not_live: Vec<String>,
    /// Why the agent is not ready, besides not being live. Empty when it is.
    pub not_ready: Vec<String>,
    /// Faults that do not stop the agent: too little CPU.
    pub warnings: Vec<String>,
    /// Runs in flight.
    pub in_flight: u64,
    /// The configuration in force.
    pub config: ConfigStatus,
    /// The state of delivery, if there is a receiver of traces.
    pub delivery: Option<delivery::Status>,
    /// What became of the events of each sender, if events are received.
    pub server_events: Option<BTreeMap<String, SenderCounts>>,
}

/// The configuration that is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConfigStatus {
    /// Its file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// When it was loaded.
    pub loaded_at: Timestamp,
    /// The last attempt to load another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_reload: Option<LastReload>,
}

/// One attempt to load a changed configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LastReload {
    /// When it was made.
    pub at: Timestamp,
    /// Whether it is in force; otherwise the previous one is.
    pub success: bool,
    /// The number of problems, which the log lists.
    pub problems: u64,
}
