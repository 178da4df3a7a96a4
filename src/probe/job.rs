//! What one run is asked to do, and how it is watched and cancelled.

use std::time::{Duration, Instant};

use imaptrace_imap::Secret;
use imaptrace_record::{ErrorType, SpanId, StepName, TraceId};
use tokio::sync::watch;

use super::target_context::TargetContext;
use crate::{net::Family, plan::Account, secret::SecretError};

/// Tells running probes to end: `true` once.
pub type Cancel = watch::Receiver<bool>;

/// The step that a run is at.
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

/// What to run.
#[derive(Debug)]
pub struct Job<'a> {
    /// Where.
    pub target: &'a TargetContext,
    /// As whom.
    pub account: &'a Account,
    /// Over which addresses.
    pub family: Family,
    /// Under which ids.
    pub ids: Ids,
    /// Planned start to now, for runs that a schedule started.
    pub start_lag: Option<Duration>,
    /// The account's password, or why there is none.
    pub secret: Result<Secret, SecretError>,
    /// LOGIN is not sent, since the last one ended so.
    pub hold_login: Option<ErrorType>,
}
