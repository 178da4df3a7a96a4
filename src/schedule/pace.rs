//! How much may be under way, and how fast it may begin: for all slots together, and for those of one server.
//!
//! Logins stand at an even distance, without a burst: no second ever sees more than its limit. The time is an argument.

use std::{
    collections::VecDeque,
    num::NonZeroU32,
    time::{Duration, Instant},
};

/// Distance between beginnings.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    /// None: at once.
    free: Option<Instant>,
}

impl Pace {
    /// When the next may begin, if that is later than now.
    pub(super) fn blocked(self, now: Instant) -> Option<Instant> {
        self.free.filter(|free| *free > now)
    }

    /// Something with so many logins begins.
    pub(super) fn take(&mut self, now: Instant, logins: u32, per_second: Option<NonZeroU32>) {
        self.free = per_second.map(|limit| now + Duration::from_secs(1) * logins / limit.get());
    }
}

/// What is known of a server.
#[derive(Debug, Default)]
pub(super) struct Server {
    pub(super) in_flight: usize,
    pub(super) pace: Pace,
    /// Slots that wait for their turn, the first of them first.
    pub(super) queue: VecDeque<u64>,
    /// Its place among the servers that could start something, by the planned start of the first in the queue.
    pub(super) offered: Option<Instant>,
}
