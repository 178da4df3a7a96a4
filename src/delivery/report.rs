//! The result of delivery at its end, as a sentence, and the state of the queue. The queue fills in the values; the agent, the
//! command line and `status` show them.

use std::{fmt, path::PathBuf};

use imaptrace_record::{Seconds, escape};
use serde::{Serialize, Serializer};

use crate::telemetry::names::DropReason;

/// The result of delivery up to now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Runs that the receiver accepted since the start.
    pub delivered_runs: u64,
    /// Runs on disk, which are sent after the next start.
    pub stored_runs: u64,
    /// Runs that are in memory only, and lost with the process.
    pub undelivered_runs: u64,
    /// Their spans.
    pub undelivered_spans: u64,
    /// Runs that were dropped since the start.
    pub dropped: Dropped,
    /// The receiver's reason when it last refused some permanently.
    pub refusal: Option<String>,
    /// The directory of the dead letters; none when there are none.
    pub refused_in: Option<PathBuf>,
    /// The last metrics were delivered, or there were none.
    pub metrics_delivered: bool,
    /// Why something was not delivered.
    pub reason: Option<String>,
}

impl Report {
    /// Everything arrived.
    pub fn is_complete(&self) -> bool {
        self.undelivered_runs + self.stored_runs + self.dropped.total() == 0 && self.metrics_delivered
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
        if self.dropped.total() > 0 {
            missing.push(format!("{} dropped before ({})", count(self.dropped.total(), "run"), self.dropped));
        }
        if !self.metrics_delivered {
            missing.push("the last metrics".to_owned());
        }
        write!(f, "not delivered: {}", missing.join(", "))?;
        if let Some(reason) = &self.reason {
            write!(f, ": {reason}")?;
        }
        if self.dropped.refused > 0 {
            if let Some(refusal) = self.refusal.as_ref().filter(|refusal| self.reason.as_ref() != Some(refusal)) {
                write!(f, "; the last refusal: {refusal}")?;
            }
            if let Some(directory) = &self.refused_in {
                let directory = escape(&directory.display().to_string());
                write!(f, "; refused runs are in {directory}, and `imaptrace replay` sends them again")?;
            }
        }
        Ok(())
    }
}

pub(super) fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// The state of the queue of runs, as `/status.json` shows it. What is about the disk is none without a state directory.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Status {
    /// Runs that wait or are being sent, each counted once.
    pub queued_runs: u64,
    /// Of these, runs that are on disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored_runs: Option<u64>,
    /// Memory that runs use.
    pub memory_bytes: u64,
    /// Memory that they may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit_bytes: Option<u64>,
    /// Size of the segments on disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// Size that they may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_limit_bytes: Option<u64>,
    /// How long the oldest run has waited, to the second for one on disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_s: Option<Seconds>,
    /// Runs that the receiver accepted since the start.
    pub delivered_runs: u64,
    /// Runs that were dropped since the start.
    #[serde(skip_serializing_if = "Dropped::is_empty")]
    pub dropped_runs: Dropped,
    /// Why the last attempt failed; none after a success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Why nothing can be written to the state directory; none when it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_failure: Option<String>,
}

/// Numbers of dropped runs, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dropped {
    /// The queue was over its budget.
    pub budget: u64,
    /// The receiver refused them permanently.
    pub refused: u64,
    /// They could not be read back from disk.
    pub corrupt: u64,
}

impl Dropped {
    /// All of them.
    pub fn total(self) -> u64 {
        self.budget + self.refused + self.corrupt
    }

    fn is_empty(&self) -> bool {
        self.total() == 0
    }
}

impl Serialize for Dropped {
    /// A map without the reasons that did not occur.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use DropReason::{Budget, Corrupt, Refused};
        let all = [(Budget, self.budget), (Corrupt, self.corrupt), (Refused, self.refused)];
        serializer.collect_map(all.iter().filter(|(_, runs)| *runs > 0).map(|(reason, runs)| (reason.as_str(), runs)))
    }
}

impl fmt::Display for Dropped {
    /// The reasons that occurred: `3 refused, 1 unreadable on disk`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reasons =
            [(self.budget, "over the budget"), (self.refused, "refused"), (self.corrupt, "unreadable on disk")];
        let mut found = reasons.iter().filter(|(runs, _)| *runs > 0);
        found.next().map_or(Ok(()), |(runs, reason)| write!(f, "{runs} {reason}"))?;
        found.try_for_each(|(runs, reason)| write!(f, ", {runs} {reason}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_contains_why_runs_were_dropped_and_where_refused_ones_are() {
        let dropped = Dropped { budget: 0, refused: 3, corrupt: 1 };
        let report = Report {
            dropped,
            refusal: Some("HTTP 400".to_owned()),
            refused_in: Some(PathBuf::from("/state/refused\n")),
            metrics_delivered: true,
            ..Report::default()
        };
        let text = "not delivered: 4 runs dropped before (3 refused, 1 unreadable on disk); the last refusal: HTTP 400; \
                    refused runs are in /state/refused\\x0a, and `imaptrace replay` sends them again";
        assert_eq!(report.to_string(), text);
        let again = Report { reason: report.refusal.clone(), refused_in: None, ..report };
        let text = "not delivered: 4 runs dropped before (3 refused, 1 unreadable on disk): HTTP 400";
        assert_eq!(again.to_string(), text, "the same words once");
    }
}
