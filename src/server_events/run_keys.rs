//! The keys by which events are joined with a run. Called by the agent for a finished run; `store` looks events up by it.

use std::time::Instant;

use imaptrace_record::{CommandState, Run, SpanId, Step};

use super::dovecot_event::ConnectionEnds;
use crate::plan::Propagation;

/// The keys of a finished run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunKeys {
    pub(super) target: String,
    /// The tags that were sent, in either form.
    pub(super) tags: Vec<String>,
    /// Of them, those of each command that was sent after the login: these have events of their own.
    pub(super) after_login: Vec<[String; 2]>,
    /// The name that the server was asked to give the session.
    pub(super) session: Option<String>,
    pub(super) ends: Option<ConnectionEnds>,
    /// When it began, at the earliest.
    pub(super) began: Instant,
    /// A mailbox was opened, so a server that sends events has sent some about this run.
    pub(super) is_reported: bool,
}

impl RunKeys {
    /// The keys of a run that has ended at `ended`, whose target sends the server this of the trace.
    ///
    /// A trace id is a key for such a target alone. It is as good a one as the tags are: random, and sent to this server
    /// only.
    pub fn of(run: &Run, propagate: Propagation, ended: Instant) -> Self {
        let commands = || run.steps.iter().filter(|step| step.is_command() && step.was_started());
        let logged_in = commands().any(|step| step.mailbox_messages.is_some());
        let is_after_login = |step: &&Step| {
            matches!(step.state, Some(CommandState::Authenticated | CommandState::Selected | CommandState::Logout))
        };
        let (peer, local) = (run.server.peer, run.server.local);
        Self {
            target: run.target.clone(),
            tags: commands().filter_map(|step| step.span_id).flat_map(tags).collect(),
            after_login: commands().filter(is_after_login).filter_map(|step| step.span_id).map(tags).collect(),
            session: (propagate == Propagation::SessionId).then(|| run.trace_id.to_string()),
            ends: peer.zip(local).map(|(peer, local)| ConnectionEnds::new(peer, local)),
            began: ended.checked_sub(run.duration_s.to_duration()).unwrap_or(ended),
            is_reported: logged_in,
        }
    }

    /// Whether events of its session can exist: a connection was opened and a command sent.
    pub fn has_session(&self) -> bool {
        self.ends.is_some() && !self.tags.is_empty()
    }
}

/// The tags that a step with this id may have had: `tag = "span_id"` and `tag = "short"`.
fn tags(id: SpanId) -> [String; 2] {
    let long = id.to_string();
    let short = format!("T{}", long.get(..6).unwrap_or_default());
    [long, short]
}
