//! A slot of the schedule: what is started, how often, and which limits it counts towards.

use std::{sync::Arc, time::Duration};

/// Work that is started again and again.
#[derive(Debug)]
pub struct Slot<T> {
    /// Identifies the slot over reloads, and determines its phase. Unique.
    pub name: Arc<str>,
    /// The server whose limits it counts towards.
    pub server: Arc<str>,
    /// From one planned start to the next.
    pub interval: Duration,
    /// A run that takes longer is given up.
    pub max_run_time: Duration,
    /// How often a run logs in; at least 1.
    pub logins: u32,
    /// What to start.
    pub work: Arc<T>,
}
