//! How much may be under way, and how fast it may begin: for all slots together, and for those of one server.
//!
//! Logins stand at an even distance, without a burst: no second ever sees more than its limit. The time is an argument.

use std::{
    collections::VecDeque,
    num::NonZeroU32,
    time::{Duration, Instant},
};

/// What may be under way, and how fast it may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Runs under way at once, over all slots; at least 1.
    pub in_flight: usize,
    /// The same of one server; at least 1. Less than `in_flight`, so that a dead server, whose runs all hang to their
    /// timeout, leaves places to the others.
    pub in_flight_per_server: usize,
    /// Logins that may begin within a second, over all slots; none is no limit.
    pub logins_per_second: Option<NonZeroU32>,
    /// The same on one server.
    pub logins_per_second_per_server: Option<NonZeroU32>,
    /// How long a start that is due waits for its turn before it is skipped, and half its interval at most.
    pub wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            in_flight: 256,
            in_flight_per_server: 8,
            logins_per_second: None,
            logins_per_second_per_server: NonZeroU32::new(10),
            wait: Duration::from_secs(1),
        }
    }
}

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
