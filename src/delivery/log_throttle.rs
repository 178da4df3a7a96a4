//! Lines of one kind that would come again and again: one a minute, which says how many it stands for.
//!
//! Reads no clock. Used for what a receiver says of what it took, and for what the disk does.

use std::time::{Duration, Instant};

/// Between two lines at least.
const APART: Duration = Duration::from_secs(60);

/// When the last line came, and what has been left out since.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    last: Option<Instant>,
    left_out: u64,
}

impl Repeats {
    /// Whether a line may be logged now: if so, how many were left out since the last one.
    pub(super) fn pass(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < APART) {
            self.left_out += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn one_line_a_minute_says_how_many_it_stands_for() {
        let mut repeats = Repeats::default();
        let begun = clock::now();
        let lines: Vec<_> = (0..180).filter_map(|second| repeats.pass(begun + Duration::from_secs(second))).collect();
        assert_eq!(lines, [0, 59, 59]);
    }
}
