//! The events that have arrived and belong to no finished run yet, in memory, and which of them belong to a run.
//!
//! A run finds its events by the tags that it sent, by the name that it gave its session, by the sessions that these events
//! name, and by the addresses and ports of its connection. Only senders that may report about its target count. Memory is
//! bounded, and so is the age of events. Filled by `receiver`; the agent takes the events of finished runs.

use std::{
    collections::{BTreeSet, HashSet},
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    SenderSettings,
    dovecot_event::ReportedEvent,
    event_counts::EventCounts,
    process_report::ReportedUsage,
    run_keys::RunKeys,
    sessions::{Added, ReportedItem, Sessions},
    silence::Silence,
    taken::TakenKeys,
};
use crate::telemetry::names::EventOutcome;

/// The most bytes of memory of all events.
const BYTES: usize = 16 << 20;
/// The most events of a run: those of a session, and as many again. Sessions over this are dropped as full, so that one sender
/// cannot occupy the threads that probe.
const EVENTS_OF_A_RUN: usize = 2_048;
/// The most reports of samples of a run.
const REPORTS_OF_A_RUN: usize = 128;
/// How long the end of a session waits for events of its commands that come after it. Dovecot may send that of LOGOUT last,
/// and it sends an event when the one before was answered: a round trip later.
const AFTER_END: Duration = Duration::from_millis(250);

/// The store.
pub struct EventStore {
    counts: EventCounts,
    hasher: RandomState,
    state: Mutex<StoreState>,
}

struct StoreState {
    senders: Vec<SenderSettings>,
    sessions: Sessions,
    taken: TakenKeys,
    silence: Silence,
    /// How long an event is kept.
    age: Duration,
    most_bytes: usize,
}

/// What arrived about a run.
#[derive(Debug, Default)]
pub struct RunReport {
    /// The events, in the order of their arrival.
    pub events: Vec<ReportedEvent>,
    /// What processes used, as other agents reported it.
    pub usage: Vec<ReportedUsage>,
}

impl RunReport {
    /// The server's names of the session.
    pub fn session_names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.events.iter().filter_map(|event| event.session.clone()).collect();
        names.sort();
        names.dedup();
        names
    }
}

impl std::fmt::Debug for EventStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventStore").finish_non_exhaustive()
    }
}

impl EventStore {
    /// An empty store for events of these senders, which adds what becomes of them to `counts`. Events are kept for `age`: the
    /// longest run and its wait.
    pub fn new(senders: Vec<SenderSettings>, counts: EventCounts, age: Duration) -> Self {
        let state = StoreState {
            senders,
            sessions: Sessions::default(),
            taken: TakenKeys::default(),
            silence: Silence::default(),
            age,
            most_bytes: BYTES,
        };
        Self { counts, hasher: RandomState::new(), state: Mutex::new(state) }
    }

    /// Keeps events for this long from now on.
    pub fn keep_for(&self, age: Duration) {
        self.state().age = age;
    }

    /// Replaces the senders. Events of one that is gone join no run any more; one that has changed is waited for again.
    pub fn set_senders(&self, senders: Vec<SenderSettings>) {
        let mut state = self.state();
        let known = std::mem::replace(&mut state.senders, senders);
        let StoreState { senders, silence, .. } = &mut *state;
        silence.retain(|name| known.iter().any(|sender| sender.name == name && senders.contains(sender)));
    }

    // === Events that arrive ===

    /// Takes the body of a request of a sender.
    pub(super) fn receive(&self, sender: &Arc<str>, body: &[u8], now: Instant) {
        let Some(report) = ReportedItem::parse(body) else { return self.refused(Some(sender)) };
        let keys = report.keys();
        if keys.session.is_none() && keys.tag.is_none() && keys.ends.is_none() {
            return self.refused(Some(sender));
        }
        self.counts.received(sender);
        let mut state = self.state();
        if state.silence.event_arrived(sender) {
            tracing::info!(sender = &**sender, "events from this sender resumed; runs wait for them again");
        }
        self.expire(&mut state, now);
        // Tags and session name of a run are taken for all senders; any other session name only for the sender that reported it.
        let is_taken = |key: &&str| state.taken.contains(self.hasher.hash_one(key));
        let is_taken_of_sender = |name: &&str| state.taken.contains(self.hasher.hash_one((sender, name)));
        if keys.session.iter().chain(&keys.tag).any(is_taken) || keys.session.iter().any(is_taken_of_sender) {
            drop(state);
            return self.count(Some(sender), EventOutcome::Late, 1);
        }
        let added = state.sessions.add(sender, report, self.hasher.hash_one(body), now);
        while state.sessions.bytes > state.most_bytes {
            let Some((oldest, _)) = state.sessions.oldest() else { break };
            self.drop_session(&mut state, oldest, EventOutcome::Full);
        }
        drop(state);
        match added {
            Added::Kept => {}
            Added::Repeated => self.refused(Some(sender)),
            Added::Full => self.count(Some(sender), EventOutcome::Full, 1),
        }
    }

    /// A request was refused, or its body cannot be used.
    pub(super) fn refused(&self, sender: Option<&str>) {
        self.count(sender, EventOutcome::Rejected, 1);
    }

    /// An event was dropped unread: too many arrive.
    pub(super) fn over_rate(&self, sender: &str) {
        self.count(Some(sender), EventOutcome::Full, 1);
    }

    // === Runs that ended ===

    /// Whether any sender may report about this target.
    pub fn is_for(&self, target: &str) -> bool {
        self.state().senders.iter().any(|sender| sender.may_report(target))
    }

    /// Whether a run should wait for events: not all senders that may report about its target are silent.
    pub fn should_wait(&self, run: &RunKeys) -> bool {
        let state = self.state();
        let mut senders = state.senders.iter();
        senders.any(|sender| sender.may_report(&run.target) && !state.silence.is_silent(&sender.name))
    }

    /// From when on the report of a run is complete, as far as its server reports: the end of its session, if each command
    /// after the login has its event, else a moment later. None while the session has not ended.
    pub fn complete_at(&self, run: &RunKeys) -> Option<Instant> {
        let state = self.state();
        let ids = of_run(&state, run).0;
        let sessions: Vec<_> = ids.into_iter().filter_map(|id| state.sessions.get(id)).collect();
        let finished = sessions.iter().filter_map(|session| session.finished_at).min()?;
        let commands: HashSet<_> = sessions.iter().flat_map(|session| session.finished_commands()).collect();
        let is_reported = |tags: &[String; 2]| tags.iter().any(|tag| commands.contains(tag.as_str()));
        Some(if run.after_login.iter().all(is_reported) { finished } else { finished + AFTER_END })
    }

    /// Takes the events of a run. What arrives for it from now on is late.
    pub fn take(&self, run: &RunKeys, now: Instant) -> RunReport {
        let mut state = self.state();
        self.expire(&mut state, now);
        let (own, forged) = of_run(&state, run);
        for id in forged {
            self.drop_session(&mut state, id, EventOutcome::Rejected);
        }
        let mut report = RunReport::default();
        for id in own {
            let Some(session) = state.sessions.remove(id) else { continue };
            if let Some(name) = &session.session {
                state.taken.add(self.hasher.hash_one((&session.sender, name)), now);
            }
            let is_full = report.events.len() + session.events.len() > EVENTS_OF_A_RUN
                || report.usage.len() + session.usage.len() > REPORTS_OF_A_RUN;
            let outcome = if is_full { EventOutcome::Full } else { EventOutcome::Joined };
            self.count(Some(&session.sender), outcome, session.count());
            if !is_full {
                report.events.extend(session.events);
                report.usage.extend(session.usage);
            }
        }
        for key in run.tags.iter().chain(&run.session) {
            state.taken.add(self.hasher.hash_one(key), now);
        }
        let silent = if report.events.is_empty() && run.is_reported {
            let StoreState { senders, silence, .. } = &mut *state;
            let senders = senders.iter().filter(|sender| sender.may_report(&run.target));
            senders.filter(|sender| silence.run_without_event(&sender.name)).map(|sender| sender.name.clone()).collect()
        } else {
            Vec::new()
        };
        drop(state);
        for sender in silent {
            tracing::warn!(
                sender,
                "no event of this sender arrived for ten runs of its targets in a row: until one does, runs do not wait for it; \
                 does its server send events of the probes' users to this address, with this name and secret, and from an address in its \
                 `from`?"
            );
        }
        report
    }

    /// Rejects sessions with keys of a run about which no sender may report.
    pub fn reject(&self, run: &RunKeys, now: Instant) {
        let mut state = self.state();
        self.expire(&mut state, now);
        for id in of_run(&state, run).1 {
            self.drop_session(&mut state, id, EventOutcome::Rejected);
        }
    }

    // === Events that leave ===

    fn expire(&self, state: &mut StoreState, now: Instant) {
        let age = state.age;
        while let Some((id, session)) = state.sessions.oldest()
            && now.saturating_duration_since(session.began) > age
        {
            self.drop_session(state, id, EventOutcome::Unmatched);
        }
        state.taken.expire(now, age);
    }

    fn drop_session(&self, state: &mut StoreState, id: u64, outcome: EventOutcome) {
        if let Some(session) = state.sessions.remove(id) {
            self.count(Some(&session.sender), outcome, session.count());
        }
    }

    fn count(&self, sender: Option<&str>, outcome: EventOutcome, events: usize) {
        self.counts.add(sender, outcome, events as u64);
    }

    fn state(&self) -> MutexGuard<'_, StoreState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sessions of a run, and those with one of its tags or its name whose sender may not report about its target.
fn of_run(state: &StoreState, run: &RunKeys) -> (BTreeSet<u64>, BTreeSet<u64>) {
    let may_report =
        |name: &str| state.senders.iter().any(|sender| sender.name == name && sender.may_report(&run.target));
    let may = |id: &u64| state.sessions.get(*id).is_some_and(|session| may_report(&session.sender));
    let mut found = state.sessions.with_tag(run);
    found.extend(run.session.iter().flat_map(|session| state.sessions.named(session)));
    let (mut own, forged): (BTreeSet<u64>, BTreeSet<u64>) = found.into_iter().partition(may);
    own.extend(state.sessions.over_connection(run).filter(may));
    let sessions = own.iter().filter_map(|id| state.sessions.get(*id)?.session.as_deref());
    let beside: Vec<_> = sessions.flat_map(|session| state.sessions.named(session)).filter(may).collect();
    own.extend(beside);
    (own, forged)
}

#[cfg(test)]
mod tests;
