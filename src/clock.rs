//! The only file that reads a clock.
//!
//! A run takes one [`Anchor`] at its start; every stamp after that is monotonic, and every exported time is the anchor
//! plus a difference of stamps. So a step of the wall clock inside a run bends nothing.

#![expect(clippy::disallowed_methods, reason = "the one place where clocks may be read")]

use std::time::{Duration, Instant, SystemTime};

/// The monotonic clock, for every duration. In tests it follows a paused tokio clock.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The wall clock, only for anchors and for the age of things outside this process.
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// One moment by both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Anchor {
    mono: Instant,
    wall: SystemTime,
}

impl Anchor {
    /// This moment.
    pub fn now() -> Self {
        Self { wall: wall(), mono: now() }
    }

    /// The moment by the wall clock.
    pub fn wall(self) -> SystemTime {
        self.wall
    }

    /// The moment by the monotonic clock.
    pub fn mono(self) -> Instant {
        self.mono
    }

    /// How long after the anchor `at` is; zero when it is before.
    pub fn since(self, at: Instant) -> Duration {
        at.saturating_duration_since(self.mono)
    }
}
