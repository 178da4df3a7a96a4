//! How many runs there may be at once and how fast they may log in.

use std::{num::NonZeroU32, time::Duration};

/// How many runs there may be at once and how fast they may log in. Two targets are on one server when they have the
/// same host and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunLimits {
    /// Runs under way at once, over all targets; at least 1.
    pub in_flight: usize,
    /// The same on one server; at least 1. Less than `in_flight`, so that a dead server, whose runs all hang to their
    /// timeout, leaves places to the others.
    pub in_flight_per_server: usize,
    /// Runs that may start within a second, over all targets; none is no limit.
    pub logins_per_second: Option<NonZeroU32>,
    /// The same on one server.
    pub logins_per_second_per_server: Option<NonZeroU32>,
    /// How long a run that is due waits for its turn before it is skipped, and half its interval at most.
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
