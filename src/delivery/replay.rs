//! Sends the traces of runs that are read from files, for `imaptrace replay`.
//!
//! Sends no metrics: they were exported when the run was new. [`Lines`](super::Lines) reads the files. Called by the command
//! line.

use std::{sync::Arc, time::Duration};

use imaptrace_record::Run;

use super::{
    backoff::Backoff,
    otlp::{ExportError, Signal, SignalError, TracesExporter},
    queue::BATCH_SPANS,
};
use crate::telemetry::{ResourceSettings, resource};

/// Attempts at one batch.
const ATTEMPTS: u32 = 5;
/// The pause after the first failure.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest delay that a receiver may ask for.
const LONGEST_REQUEST: Duration = Duration::from_secs(300);

/// Sends runs that are read from files.
pub struct Replay {
    traces: TracesExporter,
}

/// The outcome of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplayOutcome {
    /// It was accepted, except for some spans.
    Delivered {
        /// Spans that the receiver refused.
        refused_spans: u64,
    },
    /// The receiver refuses it permanently.
    Refused(String),
    /// The receiver could not be reached, or asks to retry later.
    Unreachable(String),
}

impl Replay {
    /// A batch is full with this many spans.
    pub const BATCH_SPANS: usize = BATCH_SPANS;

    /// To be made and used inside one runtime.
    /// `server_service_name` is the `service.name` of spans that mail servers reported.
    pub fn new(signal: &Signal, who: &ResourceSettings, server_service_name: String) -> Result<Self, SignalError> {
        Ok(Self { traces: TracesExporter::new(signal, resource(who), server_service_name)? })
    }

    /// The receiver, for messages.
    pub fn endpoint(&self) -> &str {
        &self.traces.client.endpoint
    }

    /// Sends a batch, in at most five attempts.
    pub async fn send(&mut self, runs: &[Arc<Run>]) -> ReplayOutcome {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_REQUEST);
        let mut attempt = 1;
        loop {
            let outcome = self.traces.export(runs).await;
            match outcome.result {
                Ok(accepted) => return ReplayOutcome::Delivered { refused_spans: accepted.rejected },
                Err(ExportError::Permanent(reason) | ExportError::TooLarge(reason)) => {
                    return ReplayOutcome::Refused(reason);
                }
                Err(ExportError::Retryable(reason)) => {
                    let asked = outcome.retry_after.unwrap_or_default();
                    if attempt == ATTEMPTS || asked > LONGEST_REQUEST {
                        return ReplayOutcome::Unreachable(reason);
                    }
                    tokio::time::sleep(backoff.next().max(asked)).await;
                    attempt += 1;
                }
            }
        }
    }
}
