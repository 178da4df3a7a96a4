//! What came of delivery: at its end, in a sentence, and at any moment, in figures.

use std::{fmt, time::Duration};

/// What came of delivery up to now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Runs that the receiver took since the start.
    pub delivered_runs: u64,
    /// Runs that wait on disk and are sent after the next start.
    pub stored_runs: u64,
    /// Runs that are nowhere but here, and end with the process.
    pub undelivered_runs: u64,
    /// Their spans.
    pub undelivered_spans: u64,
    /// Runs that were given up since the start: over the budget, refused for good, or damaged on disk.
    pub dropped_runs: u64,
    /// The last collection of metrics arrived, or there were none to send.
    pub metrics_delivered: bool,
    /// Why something was not delivered.
    pub reason: Option<String>,
}

impl Report {
    /// Everything arrived.
    pub fn is_complete(&self) -> bool {
        self.undelivered_runs + self.stored_runs + self.dropped_runs == 0 && self.metrics_delivered
    }
}

impl fmt::Display for Report {
    /// One sentence: what was not delivered, and why.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_complete() {
            return write!(f, "all telemetry was delivered ({})", count(self.delivered_runs, "run"));
        }
        let mut missing = Vec::new();
        if self.undelivered_runs > 0 {
            missing.push(format!(
                "{} ({}) lost",
                count(self.undelivered_runs, "run"),
                count(self.undelivered_spans, "span")
            ));
        }
        if self.stored_runs > 0 {
            missing.push(format!("{} kept on disk for the next start", count(self.stored_runs, "run")));
        }
        if self.dropped_runs > 0 {
            missing.push(format!("{} given up before", count(self.dropped_runs, "run")));
        }
        if !self.metrics_delivered {
            missing.push("the last metrics".to_owned());
        }
        write!(f, "not delivered: {}", missing.join(", "))?;
        self.reason.iter().try_for_each(|reason| write!(f, ": {reason}"))
    }
}

pub(super) fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// How the queue of runs stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// Runs that wait or are on their way, each counted once.
    pub queued_runs: u64,
    /// Of these, runs that are on disk.
    pub stored_runs: u64,
    /// Bytes of memory that runs hold.
    pub memory_bytes: u64,
    /// How many they may hold.
    pub memory_limit: u64,
    /// Bytes of the segments on disk.
    pub disk_bytes: u64,
    /// How many there may be; none without a state directory.
    pub disk_limit: Option<u64>,
    /// Runs that the receiver took since the start.
    pub delivered_runs: u64,
    /// Runs that were given up since the start.
    pub dropped: Dropped,
    /// How long the oldest run has waited, to the second for one on disk.
    pub oldest_age: Option<Duration>,
    /// Why the last attempt failed; none after one that did not.
    pub failure: Option<String>,
    /// Why nothing can be written to the state directory; none when it can.
    pub disk_failure: Option<String>,
}

/// Runs that were given up, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dropped {
    /// The queue was over its budget.
    pub budget: u64,
    /// The receiver refused them for good.
    pub refused: u64,
    /// They could not be read back from disk.
    pub corrupt: u64,
}

impl Dropped {
    /// All of them.
    pub fn total(self) -> u64 {
        self.budget + self.refused + self.corrupt
    }
}
