//! The interface to the code that runs a slot's work and receives the reports about it. `agent` implements it.

use std::{future::Future, sync::Arc, time::Duration};

use imaptrace_record::SkipReason;

/// How a run got lost by a fault of its own code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// It panicked.
    Panicked,
    /// It took longer than its slot's `max_run_time`. Its place is free; its slot waits until it has really ended.
    Overran,
}

/// Runs the work of slots.
pub trait Runner: Send + Sync + 'static {
    /// What a slot starts.
    type Work: Send + Sync + 'static;

    /// One run of this work; `lag` is the time from its planned start to the real one.
    fn run(&self, work: Arc<Self::Work>, lag: Duration) -> impl Future<Output = ()> + Send + 'static;

    /// Whether work that is due now is in a maintenance window.
    fn is_in_maintenance(&self, work: &Self::Work) -> bool;

    /// Reports planned starts that did not happen.
    fn skipped(&self, work: &Self::Work, reason: SkipReason, count: u64);

    /// Reports a run that did not end by itself.
    fn lost(&self, work: &Self::Work, how: Lost);
}
