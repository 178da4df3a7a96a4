//! Counts what became of the events of each sender, in the metric and for `/status.json`. Called by `store`, `relay` and `forward`;
//! the agent reads it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use imaptrace_record::Timestamp;

use super::SenderSettings;
use crate::{
    clock,
    telemetry::{
        Metrics,
        names::{self, EventOutcome},
    },
};

/// The counts; clones share them.
#[derive(Clone)]
pub struct EventCounts(Arc<EventCountsInner>);

struct EventCountsInner {
    metrics: Metrics,
    by_sender: Mutex<BTreeMap<String, SenderCounts>>,
}

/// What became of the events of one sender since the start of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SenderCounts {
    /// When its last event was received, by the wall clock.
    pub last_event_at: Option<Timestamp>,
    /// Events by outcome, without those that are 0.
    pub events: BTreeMap<&'static str, u64>,
}

impl std::fmt::Debug for EventCounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventCounts").finish_non_exhaustive()
    }
}

impl EventCounts {
    /// Counts of these senders, which also go to `metrics`.
    pub fn new(senders: &[SenderSettings], metrics: Metrics) -> Self {
        let counts = Self(Arc::new(EventCountsInner { metrics, by_sender: Mutex::default() }));
        counts.set_senders(senders);
        counts
    }

    /// Removes the counts of senders that are not listed.
    pub fn set_senders(&self, senders: &[SenderSettings]) {
        let mut by_sender = self.by_sender();
        let mut known = std::mem::take(&mut *by_sender);
        let others = known.contains_key(names::OTHER).then_some(names::OTHER);
        let names = senders.iter().map(|sender| sender.name.as_str()).chain(others);
        *by_sender = names.map(|name| (name.to_owned(), known.remove(name).unwrap_or_default())).collect();
    }

    /// An event of this sender was received.
    pub(super) fn received(&self, sender: &str) {
        if let Some(counts) = self.by_sender().get_mut(sender) {
            counts.last_event_at = Some(clock::wall().into());
        }
    }

    /// Counts events. An unknown `sender` has no name.
    pub(super) fn add(&self, sender: Option<&str>, outcome: EventOutcome, events: u64) {
        self.0.metrics.agent().server_events(sender, outcome, events);
        let sender = sender.unwrap_or(names::OTHER);
        let mut by_sender = self.by_sender();
        let counts = match by_sender.get_mut(sender) {
            Some(counts) => counts,
            // Events of a sender that the configuration no longer has are in the metric alone.
            None if sender != names::OTHER => return,
            None => by_sender.entry(sender.to_owned()).or_default(),
        };
        let count = counts.events.entry(outcome.as_str()).or_default();
        *count = count.saturating_add(events);
    }

    /// The counts of each sender, and of requests of no sender as `_OTHER`.
    pub fn report(&self) -> BTreeMap<String, SenderCounts> {
        self.by_sender().clone()
    }

    fn by_sender(&self) -> MutexGuard<'_, BTreeMap<String, SenderCounts>> {
        self.0.by_sender.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::SecretSource;

    fn sender(name: &str) -> SenderSettings {
        SenderSettings { name: name.into(), secret: SecretSource::Nowhere, from: Vec::new(), targets: Vec::new() }
    }

    #[test]
    fn each_configured_sender_has_counts_and_unknown_ones_share_one() {
        let counts = EventCounts::new(&[sender("one"), sender("two")], Metrics::off());
        counts.received("one");
        counts.received("gone");
        counts.add(Some("one"), EventOutcome::Joined, 11);
        counts.add(Some("one"), EventOutcome::Joined, 2);
        counts.add(Some("gone"), EventOutcome::Late, 1);
        let events = |name: &str| counts.report().get(name).map(|counts| counts.events.clone());
        assert_eq!(counts.report().into_keys().collect::<Vec<_>>(), ["one", "two"]);
        assert_eq!(events("one"), Some(BTreeMap::from([("joined", 13)])));
        assert!(counts.report()["one"].last_event_at.is_some() && counts.report()["two"].last_event_at.is_none());
        counts.add(None, EventOutcome::Rejected, 1);
        counts.set_senders(&[sender("one"), sender("three")]);
        assert_eq!(counts.report().into_keys().collect::<Vec<_>>(), ["_OTHER", "one", "three"]);
        assert_eq!(
            (events("one"), events("_OTHER")),
            (Some(BTreeMap::from([("joined", 13)])), Some(BTreeMap::from([("rejected", 1)])))
        );
    }
}
