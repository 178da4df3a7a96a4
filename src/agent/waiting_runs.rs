//! Finished runs that wait for the events of their sessions, in the order in which they ended.
//!
//! Only the report of a run waits: its place in flight, its baselines and its back-off do not. The first run is complete when its
//! session and all its commands have ended, as its server reports, or when its time is over; the others wait behind it, no
//! longer than their own time. `runner` adds runs and completes them.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use imaptrace_record::Run;
use tokio::{sync::Notify, time::sleep};

use super::target_set::AccountWork;
use crate::{
    clock,
    delivery::HeldRun,
    net::Family,
    server_events::{EventStore, RunKeys},
};

/// The interval between two checks of the next run. A wake-up for each event of hundreds of runs a second would cost more CPU
/// than the rest of the work.
const CHECK: Duration = Duration::from_millis(20);

/// A finished run.
pub(super) struct WaitingRun {
    pub(super) run: Arc<Run>,
    pub(super) keys: Arc<RunKeys>,
    /// Its place in the queue of delivery; none when that is closed.
    pub(super) held: Option<HeldRun>,
    pub(super) family: Family,
    pub(super) work: Arc<AccountWork>,
    /// When it has waited long enough.
    pub(super) until: Instant,
}

/// The runs that wait.
pub(super) struct WaitingRuns {
    pub(super) store: Arc<EventStore>,
    wait: Duration,
    state: Mutex<WaitState>,
    changed: Notify,
}

#[derive(Default)]
struct WaitState {
    runs: VecDeque<WaitingRun>,
    /// The agent is stopping: no run waits any more.
    is_over: bool,
}

impl WaitingRuns {
    pub(super) fn new(store: Arc<EventStore>, wait: Duration) -> Self {
        Self { store, wait, state: Mutex::default(), changed: Notify::new() }
    }

    /// When a run that has ended now has waited long enough.
    pub(super) fn until(&self, keys: &RunKeys, now: Instant) -> Instant {
        if keys.has_session() && self.store.should_wait(keys) { now + self.wait } else { now }
    }

    /// Adds a run, or returns it when no run waits any more.
    pub(super) fn add(&self, run: WaitingRun) -> Option<WaitingRun> {
        let mut state = self.state();
        if state.is_over {
            return Some(run);
        }
        state.runs.push_back(run);
        drop(state);
        self.changed.notify_one();
        None
    }

    /// The next run that is complete.
    pub(super) async fn next(&self) -> WaitingRun {
        loop {
            let first = self.state().runs.front().map(|first| (first.until, first.keys.clone()));
            let Some((until, keys)) = first else {
                self.changed.notified().await;
                continue;
            };
            let until = self.store.complete_at(&keys).map_or(until, |complete| until.min(complete));
            if self.state().is_over || clock::now() >= until {
                if let Some(run) = self.state().runs.pop_front() {
                    return run;
                }
                continue;
            }
            sleep(CHECK.min(until.saturating_duration_since(clock::now()))).await;
        }
    }

    /// From now on no run waits. Returns those that did.
    pub(super) fn end(&self) -> VecDeque<WaitingRun> {
        let mut state = self.state();
        state.is_over = true;
        std::mem::take(&mut state.runs)
    }

    fn state(&self) -> MutexGuard<'_, WaitState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
