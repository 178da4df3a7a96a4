//! Maps a run to spans and metrics; and the live root span of a run, with the log beside it.
//!
//! [`spans()`] and [`Metrics`] read a finished `Run` and nothing else, so a trace that waited on disk is the same as one that
//! is sent at once. [`LiveRoot`] exists while a run is in progress: it provides the ids and collects the notes. It is never
//! exported.
//!
//! Sends nothing (that is `delivery`), reads no clock and no environment. Called by `delivery`, the agent and the command line.

mod live;
pub mod logs;
mod metrics;
pub mod names;
mod resource;
mod server_spans;
mod spans;

pub use live::{LiveRoot, RemoteParent};
pub use metrics::{
    AgentMetrics, Collection, MOST_SOURCES, Metrics, MetricsDetail, MetricsSettings, ProbeState, SourceReport,
    SourceReports, Subject,
};
pub use resource::{ResourceSettings, resource, server_resource};
pub use server_spans::server_spans;
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
