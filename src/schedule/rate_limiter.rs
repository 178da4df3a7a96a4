//! How fast logins may begin: at an even distance, without a burst, so that no second ever has more than its limit.
//!
//! The time is an argument. Called by `planner`, with one limiter for all slots and one for each server.

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

/// Keeps the distance between starts.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RateLimiter {
    /// When the next start is allowed; none: at once.
    next_start: Option<Instant>,
}

impl RateLimiter {
    /// When the next start is allowed, if that is later than now.
    pub(super) fn blocked_until(self, now: Instant) -> Option<Instant> {
        self.next_start.filter(|next| *next > now)
    }

    /// Records a start with this number of logins.
    pub(super) fn record(&mut self, now: Instant, logins: u32, per_second: Option<NonZeroU32>) {
        self.next_start = per_second.map(|limit| now + Duration::from_secs(1) * logins / limit.get());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_start_delays_the_next_one_by_its_share_of_a_second_for_each_login() {
        let now = clock::now();
        for (logins, per_second, millis) in [(1, 4, 250), (2, 4, 500), (3, 1, 3_000), (2, 1_000, 2)] {
            let mut limiter = RateLimiter::default();
            assert_eq!(limiter.blocked_until(now), None);
            limiter.record(now, logins, NonZeroU32::new(per_second));
            let next = now + Duration::from_millis(millis);
            assert_eq!(limiter.blocked_until(now), Some(next), "{logins} logins at {per_second} a second");
            assert_eq!(limiter.blocked_until(next), None);
        }
    }

    #[test]
    fn without_a_limit_nothing_is_delayed() {
        let now = clock::now();
        let mut limiter = RateLimiter::default();
        limiter.record(now, 2, None);
        assert_eq!(limiter.blocked_until(now), None);
    }
}
