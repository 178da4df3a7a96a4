//! Which senders are silent: nothing has come from them while runs of their targets ended. Called by `store`.

/// After so many runs in a row without an event, the sender is silent.
const RUNS: u32 = 10;

/// By the position of the sender: runs of its targets since its last event.
#[derive(Debug)]
pub(super) struct Silence(Vec<u32>);

impl Silence {
    pub(super) fn new(senders: usize) -> Self {
        Self(vec![0; senders])
    }

    /// An event of this sender has arrived.
    pub(super) fn heard(&mut self, sender: usize) {
        if let Some(runs) = self.0.get_mut(sender) {
            *runs = 0;
        }
    }

    /// A run of a target of this sender has waited in vain for any sender. Returns whether the sender is silent from now on.
    pub(super) fn missed(&mut self, sender: usize) -> bool {
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
    fn a_sender_is_silent_after_ten_runs_which_is_said_once_and_over_with_its_next_event() {
        let mut silence = Silence::new(2);
        let said = (0..25).filter(|_| silence.missed(1)).count();
        assert_eq!((said, silence.is_silent(1), silence.is_silent(0)), (1, true, false));
        silence.heard(1);
        assert!(!silence.is_silent(1));
        assert_eq!((0..9).filter(|_| silence.missed(1)).count(), 0);
        silence.heard(1);
        assert_eq!((0..10).filter(|_| silence.missed(1)).count(), 1);
    }
}
