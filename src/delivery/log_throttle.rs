//! Limits log lines that may repeat to one a minute, and counts those between. Logs nothing and reads no clock.

use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_secs(60);

/// When the last line was logged, and how many were left out since.
#[derive(Debug, Default)]
pub(super) struct LogThrottle {
    last: Option<Instant>,
    left_out: u64,
}

impl LogThrottle {
    /// If a line may be logged now, how many were left out since the last one.
    pub(super) fn pass(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < INTERVAL) {
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
    fn one_line_a_minute_has_the_number_of_lines_left_out() {
        let mut throttle = LogThrottle::default();
        let begun = clock::now();
        let lines: Vec<_> = (0..180).filter_map(|second| throttle.pass(begun + Duration::from_secs(second))).collect();
        assert_eq!(lines, [0, 59, 59]);
    }
}
