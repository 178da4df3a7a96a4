//! What all runs of the process share, what one run has to do, and how it is watched and cancelled. `journey` and `fill` run it.

use std::time::{Duration, Instant};

use imaptrace_imap::Secret;
use imaptrace_record::{ErrorType, SpanId, StepName, TraceId};
use tokio::sync::watch;

use super::{target_context::TargetContext, transcript::LineSink};
use crate::{
    net::{Family, Resolver},
    plan::{Account, Dns},
    secret::SecretError,
};

/// Cancels running probes: `true` once.
pub type Cancel = watch::Receiver<bool>;

/// The current step of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CurrentStep {
    /// As in the record.
    pub name: StepName,
    /// When it began.
    pub since: Instant,
}

/// The ids of one run, from the live root.
#[derive(Debug, Clone, Copy)]
pub struct Ids {
    /// The trace.
    pub trace: TraceId,
    /// The root span.
    pub root: SpanId,
    /// The span that the root hangs under.
    pub parent: Option<SpanId>,
}

/// Runs journeys. One for the life of the process.
#[derive(Debug)]
pub struct Prober {
    pub(super) resolver: Resolver,
    pub(super) line_sink: Option<LineSink>,
    pub(super) steps: Option<watch::Sender<Option<CurrentStep>>>,
}

impl Prober {
    /// A prober that resolves names as configured.
    pub fn new(dns: Dns) -> Self {
        Self { resolver: Resolver::new(dns), line_sink: None, steps: None }
    }

    /// Passes every line of its conversations to `sink`, redacted: for a person at a terminal, not for an agent.
    #[must_use]
    pub fn with_line_sink(self, sink: LineSink) -> Self {
        Self { line_sink: Some(sink), ..self }
    }

    /// Has each run report its current step. For a process that makes one run at a time and shows it.
    #[must_use]
    pub fn watched(self, steps: watch::Sender<Option<CurrentStep>>) -> Self {
        Self { steps: Some(steps), ..self }
    }
}

/// What to run.
#[derive(Debug)]
pub struct Job<'a> {
    /// The server.
    pub target: &'a TargetContext,
    /// The user who logs in.
    pub account: &'a Account,
    /// The address family.
    pub family: Family,
    /// The ids of its spans.
    pub ids: Ids,
    /// Planned start to now, for runs that a schedule started.
    pub start_lag: Option<Duration>,
    /// The account's password, or why there is none.
    pub secret: Result<Secret, SecretError>,
    /// The usual number of messages in the mailbox, where a history has one.
    pub usual_messages: Option<u64>,
    /// LOGIN is not sent, since the last one ended with this class.
    pub hold_login: Option<ErrorType>,
}
