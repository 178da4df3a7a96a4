//! The queue of runs that wait for delivery, in the order of arrival: the oldest may be on disk only, the newest are in memory.
//!
//! A run that is delivered at once is never written to disk. A run that has waited for [`HOLD`] is written, and stays in
//! memory until that is over its budget. Without a state directory, or while it cannot be written to, the oldest runs over the
//! memory budget are dropped.
//!
//! ```text
//! state          which run is next, which may leave memory; no I/O
//! writer         the task that writes runs that wait too long
//! settle         records the end of a batch on disk
//! spool          the backlog on disk; recovery reads what an earlier process left
//! segment_files  the files of the backlog
//! segment        the bytes of a segment: gzip members of JSON lines
//! dead_letters   refused and damaged runs, kept for the operator
//! lines          runs of any file, for replay and show
//! kept_files     the files with runs in a state directory, for show
//! ```
//!
//! Sends nothing. [`Queue::push`] never waits; the sender takes batches off the front. The disk's lock is always taken before
//! that of the state, and only on threads that may wait.

mod dead_letters;
#[cfg(any(test, fuzzing))]
pub mod fuzzed;
mod kept_files;
mod lines;
mod load;
mod segment;
mod segment_files;
mod settle;
mod spool;
mod state;
pub(super) mod writer;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use imaptrace_record::Run;
use tokio::{sync::watch, time::timeout};

pub(super) use self::state::BATCH_SPANS;
pub use self::{
    kept_files::{KeptFile, KeptFiles},
    lines::{BadLine, Lines},
};
use self::{
    load::Load,
    spool::Spool,
    state::{Completed, Logged, QueueState},
};
use super::{
    backoff::Backoff,
    log_throttle::LogThrottle,
    report::{Report, Status},
};
use crate::{
    blocking, clock,
    state::StateDir,
    telemetry::{Metrics, names::DropReason},
};

/// How long the first run of a batch waits for others: short enough for a response before [`HOLD`].
const LINGER: Duration = Duration::from_millis(30);

/// A run that is not delivered after this time is written to disk, in the rest of 200 ms. A busy machine needs that rest: with
/// 50 ms, one run of 13,803 was written too late in 200 kills.
const HOLD: Duration = Duration::from_millis(110);

/// How long the next batch waits until the end of the previous one is recorded on disk. A disk that takes longer hangs.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(1);

/// The pause after a failed attempt while the queue is drained.
const DRAIN_PAUSE: Duration = Duration::from_millis(250);

/// Failed attempts after which [`Queue::drain`] gives up.
const DRAIN_ATTEMPTS: u32 = 3;

/// Reserved of a drain's deadline for writing undelivered runs, and at most this part of it.
const LAST_WRITE: Duration = Duration::from_millis(700);
const LAST_WRITE_PART: u32 = 3;

/// A run in the queue that is held until it is released.
#[derive(Debug)]
pub struct HeldRun(u64);

/// The queue; clones share it.
#[derive(Clone)]
pub(super) struct Queue(Arc<QueueCore>);

struct QueueCore {
    // Tasks wait for a change on this channel.
    state: watch::Sender<QueueState>,
    memory_budget: usize,
    disk_budget: u64,
    /// The queue accepts runs: a task takes them from it.
    open: bool,
    disk: Option<Mutex<Spool>>,
    metrics: Metrics,
}

impl Queue {
    pub(super) fn new(memory_budget: usize, disk: Option<(StateDir, u64)>, open: bool, metrics: Metrics) -> Self {
        let disk_budget = disk.as_ref().map_or(0, |(_, budget)| *budget);
        let disk = disk.map(|(state, budget)| Spool::new(state, budget));
        if open {
            metrics.agent().queue_capacity(i64::try_from(memory_budget).unwrap_or(i64::MAX));
        }
        // The agent has logged this failure.
        let disk_failure = disk.as_ref().and_then(Spool::pending_error);
        let state = watch::Sender::new(QueueState::new(disk.is_some(), disk_failure));
        let disk = disk.map(Mutex::new);
        Self(Arc::new(QueueCore { state, memory_budget, disk_budget, open, disk, metrics }))
    }

    /// Changes the state, and wakes all waiting tasks.
    fn update<T: Default>(&self, change: impl FnOnce(&mut QueueState) -> T) -> T {
        self.update_if(|state| (change(state), true))
    }

    /// Changes the state, and wakes no task.
    fn update_silently<T: Default>(&self, change: impl FnOnce(&mut QueueState) -> T) -> T {
        self.update_if(|state| (change(state), false))
    }

    /// Changes the state; `change` returns whether to wake waiting tasks.
    fn update_if<T: Default>(&self, change: impl FnOnce(&mut QueueState) -> (T, bool)) -> T {
        let mut result = T::default();
        self.0.state.send_if_modified(|state| {
            let (value, wake) = change(state);
            result = value;
            wake
        });
        result
    }

    /// Adds a run. Over the budget, the oldest runs that are not in flight are dropped.
    pub(super) fn push(&self, run: impl Into<Arc<Run>>) {
        self.add(run.into(), false);
    }

    /// Adds a run that may be replaced. It, and with it what comes behind, is not delivered before [`Queue::release`]; in all else
    /// it is as any other.
    pub(super) fn push_held(&self, run: Arc<Run>) -> HeldRun {
        HeldRun(self.add(run, true))
    }

    fn add(&self, run: Arc<Run>, is_held: bool) -> u64 {
        if !self.0.open {
            return 0;
        }
        let (load, now) = (Load::of(&run), clock::now());
        // Waking a task costs more than all else here.
        let (number, is_full) = self.update_if(|state| {
            let (dropped, wake) = state.push(run, load, now, self.0.memory_budget, is_held);
            let is_full = self.drop_over_budget(state, dropped);
            self.measure_size(state);
            ((state.last_number(), is_full), wake)
        });
        if is_full {
            self.log_full();
        }
        number
    }

    /// Ends the hold of a run, and replaces it by `run` if that is given and the run is still in memory.
    pub(super) fn release(&self, HeldRun(number): HeldRun, run: Option<Arc<Run>>) {
        if !self.0.open {
            return;
        }
        let run = run.map(|run| {
            let load = Load::of(&run);
            (run, load)
        });
        let is_full = self.update_if(|state| {
            let (dropped, wake) = state.release(number, run, self.0.memory_budget);
            let is_full = self.drop_over_budget(state, dropped);
            self.measure_size(state);
            (is_full, wake)
        });
        if is_full {
            self.log_full();
        }
    }

    /// The next runs: a full batch, or those that arrived within [`LINGER`], or all when the queue is drained. They are in flight
    /// until [`Queue::delivered`] or [`Queue::refused`].
    pub(super) async fn batch(&self) -> Vec<Arc<Run>> {
        let mut watch = self.0.state.subscribe();
        let mut backoff = Backoff::default();
        loop {
            // `self` has the sender half, so waiting cannot fail.
            let next =
                watch.wait_for(QueueState::has_next).await.map(|state| (state.must_read(), state.reread.is_empty()));
            let (must_read, is_recent_next) = next.unwrap_or_default();
            if must_read {
                if let Some(problem) = self.on_disk(Self::read_back).await.unwrap_or_else(|| Some("a panic".to_owned()))
                {
                    let reason = format!("the state directory cannot be read: {problem}");
                    self.pause(reason, backoff.next()).await;
                }
                continue;
            }
            if is_recent_next {
                let _ = timeout(LINGER, watch.wait_for(QueueState::is_ready)).await;
            }
            let batch = self.update_silently(QueueState::dispatch);
            if !batch.is_empty() {
                return batch;
            }
        }
    }

    /// The batch in flight was accepted. If some spans were refused, all of it is also kept as a dead letter.
    pub(super) async fn delivered(&self, refused_spans: u64) {
        let completed = self.update(|state| self.count(state, |state| state.delivered(refused_spans)));
        self.settle(completed, refused_spans > 0).await;
    }

    /// The batch in flight was refused permanently: it is counted and kept as a dead letter.
    pub(super) async fn refused(&self, reason: String) {
        let completed = self.update(|state| self.count(state, |state| state.refused(reason)));
        self.settle(completed, true).await;
    }

    fn count(&self, state: &mut QueueState, complete: impl FnOnce(&mut QueueState) -> Completed) -> Completed {
        let completed = complete(state);
        self.measure_size(state);
        self.drop_runs(state, DropReason::Refused, completed.refused);
        completed
    }

    /// The batch in flight was too large: returns the half to send instead.
    pub(super) fn halve(&self) -> Vec<Arc<Run>> {
        self.update_silently(QueueState::halve)
    }

    /// An attempt failed; the batch stays in flight. Returns after `pause`, or sooner when the queue is drained.
    pub(super) async fn pause(&self, reason: String, pause: Duration) {
        if self.update(|state| state.failed(reason)) {
            tokio::time::sleep(DRAIN_PAUSE).await;
        } else {
            let _ = timeout(pause, self.0.state.subscribe().wait_for(|state| state.draining > 0)).await;
        }
    }

    /// Waits until all runs are sent, [`DRAIN_ATTEMPTS`] have failed, or the deadline is near; then writes the rest to disk.
    pub(super) async fn drain(&self, deadline: Duration) -> Report {
        self.update(QueueState::begin_drain);
        let guard = DrainGuard(self);
        let mut watch = self.0.state.subscribe();
        let last_write =
            if self.0.disk.is_some() { LAST_WRITE.min(deadline / LAST_WRITE_PART) } else { Duration::ZERO };
        let over = watch.wait_for(|state| state.is_drained(DRAIN_ATTEMPTS));
        let in_time = timeout(deadline.saturating_sub(last_write), over).await.is_ok();
        if self.0.disk.is_some() {
            let writing = self.on_disk(|queue, spool| {
                queue.update(QueueState::rewrite_lost);
                queue.write_and_log(spool).is_ok()
            });
            let _ = timeout(last_write, writing).await;
        }
        drop(guard);
        let late = (!in_time).then(|| format!("no answer within {:.1} s", deadline.as_secs_f64()));
        self.0.state.borrow().report(late)
    }

    /// Releases the state directory.
    pub(super) async fn close(&self) {
        self.on_disk(|_, spool| spool.close()).await.unwrap_or_default();
    }

    pub(super) fn status(&self) -> Status {
        let (memory, disk) = (self.0.memory_budget as u64, self.0.disk.is_some().then_some(self.0.disk_budget));
        self.0.state.borrow().status(memory, disk, clock::now(), clock::wall())
    }

    // === The disk ===

    /// Runs `work` on a thread that may wait for a disk. Never returns once the state directory is released: the task ends with the
    /// runtime.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self, &mut Spool) -> T + Send + 'static,
    ) -> Option<T> {
        let this = self.clone();
        let done = blocking::work(move || {
            let Some(mut spool) = this.spool() else { return Some(None) };
            (!spool.closed).then(|| Some(work(&this, &mut spool)))
        });
        // An error is a panic, which was logged, or the end of the runtime.
        match done.await {
            Ok(Some(done)) => done,
            Ok(None) => std::future::pending().await,
            Err(_) => None,
        }
    }

    fn spool(&self) -> Option<MutexGuard<'_, Spool>> {
        Some(self.0.disk.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Recovers the runs of an earlier process, which are older than all others.
    fn recover(&self, spool: &mut Spool) -> std::io::Result<()> {
        let first = !spool.loaded;
        let found = spool.load()?;
        if first {
            self.0.metrics.agent().queue_capacity(0_i64.saturating_add_unsigned(self.0.disk_budget));
        }
        let damage = spool.damage.take();
        let corrupt = damage.as_ref().map_or(0, |(runs, _)| *runs);
        self.update(|state| {
            state.unread = found.or(state.unread);
            self.drop_runs(state, DropReason::Corrupt, corrupt);
            self.measure_disk(state, spool);
        });
        if let Some((runs, damage)) = damage {
            log_damage(runs, &damage);
        }
        Ok(())
    }

    /// Writes all runs that are not on disk, and logs when that begins to fail or works again.
    fn write_and_log(&self, spool: &mut Spool) -> std::io::Result<()> {
        let outcome = self.write(spool);
        let changed = self.update(|state| state.note_disk(&outcome));
        match &outcome {
            Err(error) if changed => tracing::warn!(
                %error,
                "runs cannot be written to the state directory: they wait in memory alone and would be lost with the agent; \
                 is it there, writable, and is there room on the disk?"
            ),
            Ok(()) if changed => tracing::info!("runs are written to the state directory again"),
            _ => {}
        }
        outcome
    }

    /// Writes all runs that are not on disk, or as many of the oldest as fit.
    fn write(&self, spool: &mut Spool) -> std::io::Result<()> {
        self.recover(spool)?;
        let (numbers, runs) = self.0.state.borrow().unwritten();
        let written = spool.append(&runs, clock::wall());
        let gone = self.update_silently(|state| state.place(numbers.into_iter().zip(written.places).collect()));
        if !gone.runs.is_empty() {
            spool.settle(&gone.runs, gone.through);
        }
        let is_full = self.update(|state| {
            let lost: u64 = written.dropped.iter().map(|(segment, left)| state.forget(*segment, *left)).sum();
            let dropped = state.shrink(self.0.memory_budget);
            let is_full = self.drop_over_budget(state, lost + dropped);
            self.measure_disk(state, spool);
            is_full
        });
        if is_full {
            self.log_full();
        }
        written.failure.map_or(Ok(()), Err)
    }

    /// Reads the oldest runs back. Returns why none can be read now.
    fn read_back(&self, spool: &mut Spool) -> Option<String> {
        let (from, until) = self.0.state.borrow().next_read()?;
        let mut back = spool.read(from, until, BATCH_SPANS);
        let stuck = back.failure.take().filter(|_| back.runs.is_empty()).map(|error| error.to_string());
        let damage = back.damage.take();
        let (changed, corrupt) = self.update(|state| {
            let changed = std::mem::replace(&mut state.logged.stuck, stuck.is_some()) != stuck.is_some();
            let corrupt = state.read_back(back, stuck.is_some(), spool.end(), clock::now());
            self.drop_runs(state, DropReason::Corrupt, corrupt);
            self.measure_disk(state, spool);
            (changed, corrupt)
        });
        if let Some(damage) = &damage
            && self.may_log(|logged| &mut logged.damaged).is_some()
        {
            log_damage(corrupt, damage);
        }
        match &stuck {
            Some(error) if changed => tracing::warn!(
                %error,
                "runs in the state directory cannot be read at present; delivery waits for them and goes on trying"
            ),
            None if changed => tracing::info!("runs in the state directory can be read again"),
            _ => {}
        }
        stuck
    }

    /// If a line of this kind may be logged now, how many were left out before it.
    fn may_log(&self, of: impl FnOnce(&mut Logged) -> &mut LogThrottle) -> Option<u64> {
        self.update_silently(|state| of(&mut state.logged).pass(clock::now()))
    }

    // === Counting ===

    fn drop_runs(&self, state: &mut QueueState, reason: DropReason, runs: u64) {
        if runs > 0 {
            state.count_dropped(reason, runs);
            self.0.metrics.agent().delivery_dropped(reason, runs);
        }
    }

    /// Returns whether to call [`Queue::log_full`] after the lock is released: writing the log may be slow.
    fn drop_over_budget(&self, state: &mut QueueState, runs: u64) -> bool {
        self.drop_runs(state, DropReason::Budget, runs);
        runs > 0 && !std::mem::replace(&mut state.logged.full, true)
    }

    fn log_full(&self) {
        let budget = self.0.memory_budget.saturating_add(usize::try_from(self.0.disk_budget).unwrap_or(usize::MAX));
        tracing::warn!(budget, "the queue of runs is full: until they can be delivered the oldest are dropped");
    }

    fn measure_disk(&self, state: &mut QueueState, spool: &Spool) {
        state.stored = spool.figures();
        self.measure_size(state);
    }

    /// Records a change of the size. Under the lock, so that the size is never negative.
    fn measure_size(&self, state: &mut QueueState) {
        let change = state.size_change();
        if change != 0 {
            self.0.metrics.agent().queue_size(change);
        }
    }
}

fn log_damage(runs: u64, damage: &str) {
    tracing::warn!(
        runs,
        "runs in the state directory cannot be read and are left out: {damage}; the file, if it exists, is kept in \
         refused/"
    );
}

/// Drains the queue until it is dropped: the future of a drain may be cancelled.
struct DrainGuard<'a>(&'a Queue);

impl Drop for DrainGuard<'_> {
    fn drop(&mut self) {
        self.0.update(|state| state.draining -= 1);
    }
}

#[cfg(test)]
mod tests;
