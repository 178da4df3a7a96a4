//! Limits on runs in flight and on logins.

use std::{num::NonZeroU32, time::Duration};

/// Limits on runs in flight and on logins. Targets with the same host and port are on one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunLimits {
    /// Runs in flight over all targets; at least 1.
    pub in_flight: usize,
    /// The same on one server; at least 1. Less than `in_flight`, so that a dead server, whose runs all last until their
    /// timeout, leaves capacity for the others.
    pub in_flight_per_server: usize,
    /// Runs that start within a second over all targets; none is no limit.
    pub logins_per_second: Option<NonZeroU32>,
    /// The same on one server.
    pub logins_per_second_per_server: Option<NonZeroU32>,
    /// How long a due run waits for a place before it is skipped; at most half its interval.
    pub wait: Duration,
}

impl Default for RunLimits {
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
