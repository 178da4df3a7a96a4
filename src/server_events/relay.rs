//! Events that go to another agent: reads each by the closed list of fields, adds what the session's processes used, and
//! queues it. Filled by `receiver`, in place of the store; the agent calls it at intervals for sessions whose last event has
//! not come.

use std::{fmt, sync::Arc, time::Duration};

use imaptrace_record::ServerText;

use super::{
    dovecot_event::{ConnectionEnds, parse},
    event_counts::EventCounts,
    forward::EventForwarder,
    process_report::ReportedUsage,
};
use crate::{
    process_accounting::{EndedSession, ProcessAccounting},
    telemetry::names::EventOutcome,
};

/// A session whose last event has not come for this long after its process has ended is reported without that event.
const LAST_EVENT: Duration = Duration::from_secs(1);
/// The most processes of a session that are reported: its own, and those of its login that used the most.
const PROCESSES: usize = 9;

/// See the module's head.
pub struct EventRelay {
    counts: EventCounts,
    forwarder: EventForwarder,
    accounting: Option<Arc<ProcessAccounting>>,
    /// The name of this host.
    host: ServerText,
}

impl fmt::Debug for EventRelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventRelay").finish_non_exhaustive()
    }
}

impl EventRelay {
    /// A relay to `forwarder`. What `accounting` has of a session goes with the session's events, as of this `host`.
    pub fn new(
        counts: EventCounts,
        forwarder: EventForwarder,
        accounting: Option<Arc<ProcessAccounting>>,
        host: ServerText,
    ) -> Self {
        Self { counts, forwarder, accounting, host }
    }

    /// Takes the body of a request of a sender.
    pub(super) fn receive(&self, sender: &Arc<str>, body: &[u8]) {
        let name = Some(sender.clone());
        let Some(event) = parse(body) else {
            // Of an agent on another mail server.
            let Some(usage) = ReportedUsage::parse(body) else { return self.refused(Some(sender)) };
            self.counts.received(sender);
            return usage.bodies().into_iter().for_each(|body| self.forwarder.send(name.clone(), body));
        };
        self.counts.received(sender);
        let keys = event.keys();
        // A run waits until its session has ended: what is to join it goes before.
        if keys.finishes
            && let Some(accounting) = &self.accounting
            && let Some(session) = keys.session.and_then(|session| accounting.of_session(session))
        {
            self.send_usage(session, keys.ends);
        }
        if let Some(body) = event.to_json() {
            self.forwarder.send(name, body);
        }
    }

    /// A request was refused, or its body cannot be used.
    pub(super) fn refused(&self, sender: Option<&str>) {
        self.count(sender, EventOutcome::Rejected);
    }

    /// An event was dropped unread: too many arrive.
    pub(super) fn over_rate(&self, sender: &str) {
        self.count(Some(sender), EventOutcome::Full);
    }

    /// Sends what the processes of sessions used that ended, and whose last event has not come.
    pub fn send_ended(&self) {
        while let Some(session) = self.accounting.as_ref().and_then(|accounting| accounting.ended_session(LAST_EVENT)) {
            self.send_usage(session, None);
        }
    }

    fn send_usage(&self, session: EndedSession, ends: Option<ConnectionEnds>) {
        let logged = session.ends.map(|(server, client)| ConnectionEnds::new(server, client));
        let ends = ends.or(logged);
        if session.session.is_none() && ends.is_none() {
            // No key to join it by.
            return;
        }
        // Its own process is the last one.
        let mut of_login = session.processes;
        let own = of_login.pop();
        let all = own.into_iter().chain(of_login).filter(|usage| usage.samples.len() > 1);
        for usage in all.take(PROCESSES) {
            let report = ReportedUsage { host: self.host.clone(), session: session.session.clone(), ends, usage };
            report.bodies().into_iter().for_each(|body| self.forwarder.send(None, body));
        }
    }

    fn count(&self, sender: Option<&str>, outcome: EventOutcome) {
        self.counts.add(sender, outcome, 1);
    }
}
