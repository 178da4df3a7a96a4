//! Which senders are silent: none of their events arrived while runs of their targets ended. Called by `store`.

/// The number of runs in a row without an event after which a sender is silent.
const RUNS: u32 = 10;

/// By the position of the sender: runs of its targets since its last event.
#[derive(Debug)]
pub(super) struct Silence(Vec<u32>);

impl Silence {
    pub(super) fn new(senders: usize) -> Self {
        Self(vec![0; senders])
    }

    /// An event of this sender has arrived.
    pub(super) fn event_arrived(&mut self, sender: usize) {
        if let Some(runs) = self.0.get_mut(sender) {
            *runs = 0;
        }
    }

    /// A run of a target of this sender has ended without an event of any sender. Returns whether the sender is silent from
    /// now on.
    pub(super) fn run_without_event(&mut self, sender: usize) -> bool {
        let Some(runs) = self.0.get_mut(sender) else { return false };
        *runs = runs.saturating_add(1);
        *runs == RUNS
    }

    pub(super) fn is_silent(&self, sender: usize) -> bool {
        self.0.get(sender).is_some_and(|runs| *runs >= RUNS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_is_silent_after_ten_runs_which_is_returned_once_and_no_longer_after_its_next_event() {
        let mut silence = Silence::new(2);
        let times = (0..25).filter(|_| silence.run_without_event(1)).count();
        assert_eq!((times, silence.is_silent(1), silence.is_silent(0)), (1, true, false));
        silence.event_arrived(1);
        assert!(!silence.is_silent(1));
        assert_eq!((0..9).filter(|_| silence.run_without_event(1)).count(), 0);
        silence.event_arrived(1);
        assert_eq!((0..10).filter(|_| silence.run_without_event(1)).count(), 1);
    }
}
