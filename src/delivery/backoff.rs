//! Exponential back-off: the pause before the next attempt at something that failed.
//!
//! Does not sleep. Used for exports, for the disk, by [`Replay`](super::Replay), and for events that are forwarded.

use std::time::Duration;

/// The longest pause that a receiver may ask for; the shortest is our own first one.
const LONGEST_REQUEST: Duration = Duration::from_secs(300);

/// Each pause is twice as long as the one before, up to a limit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Default for Backoff {
    /// From one second to a minute.
    fn default() -> Self {
        Self::new(Duration::from_secs(1), Duration::from_secs(60))
    }
}

impl Backoff {
    /// The first pause, and the longest one.
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// The next pause.
    pub(crate) fn next(&mut self) -> Duration {
        let longer = (self.next * 2).min(self.longest);
        std::mem::replace(&mut self.next, longer)
    }

    /// The pause that the receiver asks for, else the next one.
    pub(crate) fn next_or(&mut self, requested: Option<Duration>) -> Duration {
        match requested {
            Some(requested) => requested.clamp(self.first, LONGEST_REQUEST),
            None => self.next(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute_and_a_receiver_may_ask_for_five() {
        let mut backoff = Backoff::default();
        let seconds: Vec<_> = (0..8).map(|_| backoff.next().as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60]);
        for (requested, waited) in [(0, 1), (7, 7), (299, 299), (3600, 300)] {
            assert_eq!(backoff.next_or(Some(Duration::from_secs(requested))).as_secs(), waited);
        }
        assert_eq!(backoff.next().as_secs(), 60);
        assert_eq!(Backoff::default().next_or(None).as_secs(), 1);
    }
}
