//! Which senders are silent: none of their events arrived while runs of their targets ended. Called by `store`.

use std::{collections::HashMap, sync::Arc};

/// The number of runs in a row without an event after which a sender is silent.
const RUNS: u32 = 10;

/// By the name of the sender: runs of its targets since its last event, if there was any.
#[derive(Debug, Default)]
pub(super) struct Silence(HashMap<Arc<str>, u32>);

impl Silence {
    /// An event of this sender has arrived. Returns whether the sender was silent.
    pub(super) fn event_arrived(&mut self, sender: &str) -> bool {
        self.0.remove(sender).is_some_and(|runs| runs >= RUNS)
    }

    /// A run of a target of this sender has ended without an event of any sender. Returns whether the sender is silent from
    /// now on.
    pub(super) fn run_without_event(&mut self, sender: &str) -> bool {
        let runs = match self.0.get_mut(sender) {
            Some(runs) => runs,
            None => self.0.entry(sender.into()).or_default(),
        };
        *runs = runs.saturating_add(1);
        *runs == RUNS
    }

    pub(super) fn is_silent(&self, sender: &str) -> bool {
        self.0.get(sender).is_some_and(|runs| *runs >= RUNS)
    }

    /// Forgets all senders but these.
    pub(super) fn retain(&mut self, is_same: impl Fn(&str) -> bool) {
        self.0.retain(|sender, _| is_same(sender));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_is_silent_after_ten_runs_which_is_returned_once_and_no_longer_after_its_next_event() {
        let mut silence = Silence::default();
        let times = (0..25).filter(|_| silence.run_without_event("b")).count();
        assert_eq!((times, silence.is_silent("b"), silence.is_silent("a")), (1, true, false));
        assert!(silence.event_arrived("b") && !silence.event_arrived("b"));
        assert!(!silence.is_silent("b"));
        assert_eq!((0..9).filter(|_| silence.run_without_event("b")).count(), 0);
        assert!(!silence.event_arrived("b"));
        assert_eq!((0..10).filter(|_| silence.run_without_event("b")).count(), 1);
        silence.retain(|sender| sender != "b");
        assert!(!silence.is_silent("b"));
    }
}
