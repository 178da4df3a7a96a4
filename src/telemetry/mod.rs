//! Run to spans and metrics: pure mapping. And the live root span of a run, with the log beside it.
//!
//! [`spans()`] and [`Metrics`] read a finished `Run` and nothing else, so a trace that waited on disk is the trace
//! that would have been sent at once. [`LiveRoot`] exists while a run is under way: it gives the ids, every log line
//! of the run bears them, and what was logged becomes the run's notes. The spans that users see are never the live one.
//!
//! Sends nothing (that is `delivery`), reads no clock and no environment. Called by `delivery`, by the agent and by
//! the command line.

mod live;
pub mod logs;
mod metrics;
pub mod names;
mod resource;
mod spans;

pub use live::{LiveRoot, RemoteParent};
pub use metrics::{Collection, Metrics, MetricsSettings, Subject};
pub use resource::{ResourceSettings, resource};
pub use spans::spans;

#[cfg(test)]
mod samples {
    use imaptrace_record::Run;

    /// A run that passed, with nearly every field.
    pub(super) fn passed() -> Run {
        serde_json::from_str(imaptrace_testkit::PASSED_RUN).unwrap()
    }

    /// A run that ended at LOGIN.
    pub(super) fn failed() -> Run {
        serde_json::from_str(imaptrace_testkit::FAILED_RUN).unwrap()
    }
}
