//! When each run starts, and how many runs are in flight at once.
//!
//! Every slot has its own phase, a stable hash of its name spread over its interval, and starts on a fixed grid from there;
//! a reload does not move it. Runs of one slot never overlap. A start that cannot happen waits for a short time, then is
//! skipped and reported; missed starts are never made up for in a burst.
//!
//! `planner` makes every decision, `scheduler` is the task that carries them out, and a [`Runner`] probes: a panic or a hang in
//! it affects no other slot. Called by `agent`.

mod grid;
mod planner;
mod rate_limiter;
mod runner;
mod scheduler;
mod slot;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::mpsc::{UnboundedSender, unbounded_channel},
    task::JoinHandle,
};

use self::scheduler::{ScheduleRequest, Scheduler};
pub use self::{
    runner::{Lost, Runner},
    scheduler::SchedulerHeartbeat,
    slot::Slot,
};
use crate::{clock, plan::RunLimits};

/// A running schedule, without slots at first.
#[derive(Debug)]
pub struct Schedule<T> {
    requests: UnboundedSender<ScheduleRequest<T>>,
    task: JoinHandle<()>,
    heartbeat: SchedulerHeartbeat,
}

impl<T: Send + Sync + 'static> Schedule<T> {
    /// Starts the scheduler task. All grids begin now.
    pub fn start<R: Runner<Work = T>>(runner: Arc<R>) -> Self {
        let (requests, received) = unbounded_channel();
        let heartbeat = SchedulerHeartbeat { origin: clock::now(), last: Arc::default() };
        let scheduler = Scheduler::new(runner, RunLimits::default(), heartbeat.clone());
        Self { requests, task: tokio::spawn(scheduler.run(received)), heartbeat }
    }

    /// Replaces the slots and limits. A slot with the same work (the same `Arc`, not an equal value), interval and server
    /// continues unchanged; a removed one ends with its run; a changed one takes the new work from its next start on.
    ///
    /// Returns at once. The scheduler applies the change in steps and starts what is due in between.
    pub fn apply(&self, slots: Vec<Slot<T>>, limits: RunLimits) {
        self.apply_and_drop(slots, limits, ());
    }

    /// Like [`apply`](Self::apply), and then drops `replaced`, data of the replaced slots, on a thread that starts nothing.
    pub fn apply_and_drop(&self, slots: Vec<Slot<T>>, limits: RunLimits, replaced: impl Send + 'static) {
        // Fails only after a panic of the task, which the heartbeat shows.
        drop(self.requests.send(ScheduleRequest::Apply(slots, limits, Box::new(replaced))));
    }

    /// Shows whether the scheduler task is alive.
    pub fn heartbeat(&self) -> SchedulerHeartbeat {
        self.heartbeat.clone()
    }

    /// Starts no more runs, waits for those in flight, and drops them after this time. Returns whether all ended.
    pub async fn stop(self, within: Duration) -> bool {
        drop(self.requests.send(ScheduleRequest::Stop));
        let mut task = self.task;
        let ended = tokio::time::timeout(within, &mut task).await.is_ok();
        task.abort();
        ended
    }
}

#[cfg(test)]
mod property;
#[cfg(test)]
mod tests;
