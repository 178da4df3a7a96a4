//! Runs that wait for delivery: one order, the oldest perhaps on disk alone, the newest in memory.
//!
//! A run that is delivered at once never sees a disk. One that has waited for [`HOLD`] is written, and stays in memory
//! beside that, so that it need not be read back; when memory is over its budget, the oldest that are on disk leave it.
//! Read back they come before all else, so the order is that of arrival throughout. Without a state directory, or while
//! it cannot be written to, memory is all there is, and over its budget the oldest go.
//!
//! [`state`] decides who is next. [`Queue::push`] may be called from anywhere and never waits. One
//! `sender` takes batches off the front, and `settle` notes what became of them; one
//! [`writer`] brings to disk what waits. The disk's lock is always taken before the state's, and
//! only on threads that may wait.

mod dead_letters;
#[cfg(any(test, fuzzing))]
pub mod fuzzed;
mod lines;
mod load;
mod segment;
mod segment_files;
mod settle;
mod spool;
mod state;
pub(super) mod writer;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use imaptrace_record::Run;
use tokio::{sync::watch, time::timeout};

pub use self::lines::{BadLine, Lines};
pub(super) use self::load::Load;
use self::{
    spool::{Place, Spool},
    state::{BATCH_SPANS, Entry, State, Told},
};
use super::{
    backoff::Backoff,
    log_throttle::Repeats,
    report::{Report, Status},
};
use crate::{
    blocking, clock,
    state::StateDir,
    telemetry::{Metrics, names::DropReason},
};

/// How long the first run of a batch waits for others: no longer than leaves time for an answer before [`HOLD`].
const LINGER: Duration = Duration::from_millis(30);

/// A run that was not delivered after this is written to disk, which has the rest of 200 ms for it. On a machine that is
/// busy the rest is needed: with 50 ms one run of 13,803 came too late for one of 200 kills.
const HOLD: Duration = Duration::from_millis(110);

/// How long the next batch waits until what became of the one before is noted on disk. A disk that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(1);

/// The pause after a failed attempt while somebody drains.
const HURRIED_PAUSE: Duration = Duration::from_millis(250);

/// Failed attempts after which [`Queue::drain`] gives up.
const HURRIED_ATTEMPTS: u32 = 3;

/// Kept of a drain's deadline for writing what could not be delivered, and at most this part of it.
const LAST_WRITE: Duration = Duration::from_millis(700);
const LAST_WRITE_PART: u32 = 3;

/// The queue; clones share it.
#[derive(Clone)]
pub(super) struct Queue(Arc<Inner>);

struct Inner {
    // Everybody who waits for something in here waits on this one channel.
    state: watch::Sender<State>,
    memory_budget: usize,
    disk_budget: u64,
    /// Somebody takes runs off.
    open: bool,
    disk: Option<Mutex<Spool>>,
    metrics: Metrics,
}

impl Queue {
    /// A queue within these budgets, over a backlog on disk if there is one. One that is not `open` takes nothing: nobody
    /// would send it.
    pub(super) fn new(memory_budget: usize, disk: Option<(StateDir, u64)>, open: bool, metrics: Metrics) -> Self {
        let disk_budget = disk.as_ref().map_or(0, |(_, budget)| *budget);
        let disk = disk.map(|(state, budget)| Spool::new(state, budget));
        if open {
            metrics.queue_limit(signed(memory_budget));
        }
        // The agent has said so: the writer need not.
        let disk_failure = disk.as_ref().and_then(Spool::unanswered);
        let disk = disk.map(Mutex::new);
        let state = State { disk_works: disk.is_some() && disk_failure.is_none(), disk_failure, ..State::default() };
        let state = watch::Sender::new(state);
        Self(Arc::new(Inner { state, memory_budget, disk_budget, open, disk, metrics }))
    }

    /// Whether there is a disk to write to.
    pub(super) fn has_disk(&self) -> bool {
        self.0.disk.is_some()
    }

    /// Takes a run in. Over the budget, the oldest that wait go; what is on its way stays.
    pub(super) fn push(&self, run: Run) {
        if !self.0.open {
            return;
        }
        let load = Load::of(&run);
        let (run, arrived) = (Arc::new(run), clock::now());
        let mut full = false;
        self.0.state.send_if_modified(|state| {
            // Somebody may be waiting for the first of its kind, or for a batch to be full; else waking them costs more
            // than all of this.
            let first = state.recent.is_empty() || state.fresh == 0;
            let was_urgent = state.urgent;
            state.recent.push_back(Entry { number: state.next, run, load, arrived, place: None });
            state.next += 1;
            state.load.add(load);
            state.recent_spans += load.spans;
            state.fresh += 1;
            let dropped = state.shrink(self.0.memory_budget);
            full = self.drop_over_budget(state, dropped);
            self.tell_size(state);
            first || state.is_ready() || (state.urgent && !was_urgent)
        });
        if full {
            self.tell_full();
        }
    }

    /// The next runs in order: a full batch, or what came within [`LINGER`], or what there is when somebody drains.
    /// They are on their way until [`Queue::delivered`] or [`Queue::refused`].
    pub(super) async fn batch(&self) -> Vec<Arc<Run>> {
        let mut watch = self.0.state.subscribe();
        let mut pauses = Backoff::default();
        loop {
            // The sender half lives in `self`, so waiting cannot fail.
            let (ahead, unread) =
                watch.wait_for(State::has_some).await.map_or((0, None), |state| (state.ahead.len(), state.unread));
            if ahead == 0 && unread.is_some() {
                if let Some(problem) = self.on_disk(Self::read_back).await.unwrap_or_else(|| Some("a panic".to_owned()))
                {
                    let reason = format!("the state directory cannot be read: {problem}");
                    self.pause(reason, pauses.next()).await;
                }
                continue;
            }
            if ahead == 0 {
                let _full = timeout(LINGER, watch.wait_for(State::is_ready)).await.is_ok();
            }
            let mut batch = Vec::new();
            self.0.state.send_if_modified(|state| {
                batch = state.take_off();
                false
            });
            if !batch.is_empty() {
                return batch;
            }
        }
    }

    /// The batch on its way arrived, except for so many spans of it.
    ///
    /// Which they were nobody says, so all of it is put aside, and as many runs count as refused as have as many spans on
    /// the average.
    pub(super) async fn delivered(&self, refused_spans: u64) {
        let mut landed = None;
        self.0.state.send_modify(|state| {
            let spans: usize = state.flying.iter().map(|entry| entry.load.spans).sum();
            let runs = state.flying.len() as u64;
            let refused = (refused_spans.saturating_mul(runs)).div_ceil(spans.max(1) as u64).min(runs);
            landed = Some(state.land());
            self.tell_size(state);
            state.delivered += runs - refused;
            state.failure = None;
            state.failed_in_hurry = 0;
            state.told.full = false;
            self.drop_refused(state, refused);
        });
        if let Some((runs, places, through)) = landed {
            self.note_end((refused_spans > 0).then_some(runs), places, through).await;
        }
    }

    /// The batch on its way was refused for good: it is counted and put aside.
    pub(super) async fn refused(&self, reason: String) {
        let mut landed = None;
        self.0.state.send_modify(|state| {
            let landed = landed.insert(state.land());
            self.tell_size(state);
            self.drop_refused(state, landed.0.len() as u64);
            state.failure = Some(reason.clone());
            state.refusal = Some(reason);
        });
        if let Some((runs, places, through)) = landed {
            self.note_end(Some(runs), places, through).await;
        }
    }

    /// The batch on its way was too much at once: the half of it that goes instead.
    pub(super) fn halve(&self) -> Vec<Arc<Run>> {
        let mut half = Vec::new();
        self.0.state.send_if_modified(|state| {
            half = state.halve();
            false
        });
        half
    }

    /// An attempt failed; the batch stays on its way. Returns when it is time for the next: after `pause`, or sooner
    /// when somebody drains.
    pub(super) async fn pause(&self, reason: String, pause: Duration) {
        let mut hurry = false;
        self.0.state.send_modify(|state| {
            state.failure = Some(reason);
            hurry = state.draining > 0;
            state.failed_in_hurry += u32::from(hurry);
        });
        if hurry {
            tokio::time::sleep(HURRIED_PAUSE).await;
        } else {
            let mut watch = self.0.state.subscribe();
            let _woken = timeout(pause, watch.wait_for(|state| state.draining > 0)).await.is_ok();
        }
    }

    /// Sends without lingering until nothing is left, the receiver failed three times, or the deadline passed; then
    /// writes to disk what is still here.
    pub(super) async fn drain(&self, deadline: Duration) -> Report {
        let hurry = Hurry::begin(self);
        let mut watch = self.0.state.subscribe();
        let over = |state: &State| state.is_empty() || state.failed_in_hurry >= HURRIED_ATTEMPTS;
        let last_write = if self.has_disk() { LAST_WRITE.min(deadline / LAST_WRITE_PART) } else { Duration::ZERO };
        let in_time = timeout(deadline.saturating_sub(last_write), watch.wait_for(over)).await.is_ok();
        if self.has_disk() {
            let writing = self.on_disk(|queue, spool| {
                queue.0.state.send_modify(State::resettle);
                queue.write_and_log(spool).is_ok()
            });
            let _in_time = timeout(last_write, writing).await.is_ok();
        }
        drop(hurry);
        let state = self.0.state.borrow();
        let late = || format!("no answer within {:.1} s", deadline.as_secs_f64());
        Report {
            delivered_runs: state.delivered,
            stored_runs: state.stored.runs,
            undelivered_runs: state.homeless().count() as u64,
            undelivered_spans: state.homeless().map(|entry| entry.load.spans as u64).sum(),
            dropped: state.dropped,
            refusal: state.refusal.clone(),
            refused_in: state.refused_in.clone(),
            metrics_delivered: false,
            reason: state.failure.clone().or_else(|| (!in_time).then(late)),
        }
    }

    /// Lets go of the folder for state. Nothing is written any more.
    pub(super) async fn close(&self) {
        self.on_disk(|_, spool| spool.close()).await.unwrap_or_default();
    }

    /// How it stands.
    pub(super) fn status(&self) -> Status {
        let state = self.0.state.borrow();
        let first = [&state.flying, &state.ahead, &state.recent].into_iter().find_map(VecDeque::front);
        let in_memory = first.map(|entry| clock::now().saturating_duration_since(entry.arrived));
        let on_disk = state.stored.oldest.and_then(|written| clock::wall().duration_since(written).ok());
        Status {
            queued_runs: state.stored.runs + state.homeless().count() as u64,
            stored_runs: state.stored.runs,
            memory_bytes: state.load.bytes as u64,
            memory_limit: self.0.memory_budget as u64,
            disk_bytes: state.stored.bytes,
            disk_limit: self.has_disk().then_some(self.0.disk_budget),
            delivered_runs: state.delivered,
            dropped: state.dropped,
            oldest_age: in_memory.max(on_disk),
            failure: state.failure.clone(),
            disk_failure: state.disk_failure.clone(),
        }
    }

    // === The disk ===

    /// Does something on a thread where waiting for a disk holds nobody up. Never comes back once the folder was let go:
    /// whoever still wants something from it then ends with the runtime.
    async fn on_disk<T: Send + 'static>(
        &self,
        what: impl FnOnce(&Self, &mut Spool) -> T + Send + 'static,
    ) -> Option<T> {
        let this = self.clone();
        let done = blocking::work(move || {
            let Some(mut spool) = this.spool() else { return Some(None) };
            (!spool.closed).then(|| Some(what(&this, &mut spool)))
        });
        // It ends with an error only when it panicked, which has been told, or when the runtime ends.
        match done.await {
            Ok(Some(done)) => done,
            Ok(None) => std::future::pending().await,
            Err(_) => None,
        }
    }

    fn spool(&self) -> Option<MutexGuard<'_, Spool>> {
        Some(self.0.disk.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes up what an earlier process left. It is older than all that is here.
    fn load(&self, spool: &mut Spool) -> std::io::Result<()> {
        let first = !spool.is_loaded();
        let found = spool.load()?;
        if first {
            self.0.metrics.queue_limit(signed(0).saturating_add_unsigned(self.0.disk_budget));
        }
        let damage = spool.take_damage();
        let corrupt = damage.as_ref().map_or(0, |(runs, _)| *runs);
        self.0.state.send_modify(|state| {
            state.unread = found.or(state.unread);
            self.drop_corrupt(state, corrupt);
            state.stored = spool.figures();
            self.tell_size(state);
        });
        if let Some((runs, damage)) = damage {
            tell_damage(runs, &damage);
        }
        Ok(())
    }

    /// Writes all runs that are not on disk, and logs it when the disk takes no more, and when it does again.
    fn write_and_log(&self, spool: &mut Spool) -> std::io::Result<()> {
        let outcome = self.write(spool);
        let mut news = false;
        self.0.state.send_modify(|state| news = state.note_disk(&outcome));
        match &outcome {
            Err(error) if news => tracing::warn!(
                %error,
                "runs cannot be written to the state directory: they wait in memory alone and would be lost with the agent; \
                 is it there, writable, and is there room on the disk?"
            ),
            Ok(()) if news => tracing::info!("runs are written to the state directory again"),
            _ => {}
        }
        outcome
    }

    /// Writes all runs that are not on disk, or the oldest of them, as many as fit.
    fn write(&self, spool: &mut Spool) -> std::io::Result<()> {
        self.load(spool)?;
        let (numbers, runs): (Vec<_>, Vec<_>) = {
            let state = self.0.state.borrow();
            let first = state.recent.partition_point(|entry| entry.place.is_some());
            let waiting = state.flying.iter().chain(&state.ahead).chain(state.recent.range(first..));
            waiting.filter(|entry| entry.place.is_none()).map(|entry| (entry.number, entry.run.clone())).unzip()
        };
        let written = spool.append(&runs, clock::wall());
        let mut left = (BTreeMap::new(), None);
        self.0.state.send_if_modified(|state| {
            left = state.place(numbers.into_iter().zip(written.places).collect());
            false
        });
        let (gone, through) = left;
        if !gone.is_empty() {
            spool.settle(&gone, through);
        }
        let mut full = false;
        self.0.state.send_modify(|state| {
            let lost: u64 = written.dropped.iter().map(|(segment, left)| state.forget(*segment, *left)).sum();
            let dropped = state.shrink(self.0.memory_budget);
            full = self.drop_over_budget(state, lost + dropped);
            state.stored = spool.figures();
            self.tell_size(state);
        });
        if full {
            self.tell_full();
        }
        written.failure.map_or(Ok(()), Err)
    }

    /// Reads the oldest runs back. Gives why none can be read at present, if so.
    fn read_back(&self, spool: &mut Spool) -> Option<String> {
        let (from, until) = {
            let state = self.0.state.borrow();
            (state.unread, state.recent.front().and_then(|oldest| oldest.place))
        };
        let back = spool.read(from?, until, BATCH_SPANS);
        let stuck = back.failure.filter(|_| back.runs.is_empty()).map(|error| error.to_string());
        let (mut corrupt, mut news) = (back.corrupt, false);
        self.0.state.send_modify(|state| {
            news = std::mem::replace(&mut state.told.stuck, stuck.is_some()) != stuck.is_some();
            for (segment, left) in &back.gone {
                let read = back.runs.iter().filter(|(place, _)| place.segment == *segment).count();
                corrupt += state.lost(*segment, *left).saturating_sub(read as u64);
            }
            for (place, run) in back.runs {
                let load = Load::of(&run);
                state.load.add(load);
                let (run, arrived) = (Arc::new(run), clock::now());
                state.ahead.push_back(Entry { number: state.next, run, load, arrived, place: Some(place) });
                state.next += 1;
            }
            back.gone.keys().for_each(|segment| state.unplace(*segment));
            // Meanwhile more may have left memory.
            let oldest = state.recent.front().and_then(|oldest| oldest.place);
            let end = || oldest.unwrap_or_else(|| spool.end());
            state.unread = Some(back.next).filter(|next| stuck.is_some() || *next < end());
            self.drop_corrupt(state, corrupt);
            state.stored = spool.figures();
            self.tell_size(state);
        });
        if let Some(damage) = &back.damage
            && self.pass(|told| &mut told.damaged).is_some()
        {
            tell_damage(corrupt, damage);
        }
        match &stuck {
            Some(error) if news => tracing::warn!(
                %error,
                "runs in the state directory cannot be read at present; delivery waits for them and goes on trying"
            ),
            None if news => tracing::info!("runs in the state directory can be read again"),
            _ => {}
        }
        stuck
    }

    /// Whether a line of this kind may be logged now, and how many were left out before it.
    fn pass(&self, of: impl FnOnce(&mut Told) -> &mut Repeats) -> Option<u64> {
        let mut passed = None;
        self.0.state.send_if_modified(|state| {
            passed = of(&mut state.told).pass(clock::now());
            false
        });
        passed
    }

    // === Counting ===

    /// Gives whether the log has to be told.
    fn drop_over_budget(&self, state: &mut State, runs: u64) -> bool {
        if runs == 0 {
            return false;
        }
        state.dropped.budget += runs;
        self.0.metrics.delivery_dropped(DropReason::Budget, runs);
        !std::mem::replace(&mut state.told.full, true)
    }

    /// Not under the lock: whoever reads the log may be slow.
    fn tell_full(&self) {
        let budget = self.0.memory_budget.saturating_add(usize::try_from(self.0.disk_budget).unwrap_or(usize::MAX));
        tracing::warn!(budget, "the queue of runs is full: until they can be delivered the oldest are dropped");
    }

    fn drop_corrupt(&self, state: &mut State, runs: u64) {
        if runs > 0 {
            state.dropped.corrupt += runs;
            self.0.metrics.delivery_dropped(DropReason::Corrupt, runs);
        }
    }

    fn drop_refused(&self, state: &mut State, runs: u64) {
        if runs > 0 {
            state.dropped.refused += runs;
            self.0.metrics.delivery_dropped(DropReason::Refused, runs);
        }
    }

    /// Measures what has changed. Under the lock, so that the size is never negative.
    fn tell_size(&self, state: &mut State) {
        let size = signed(state.load.bytes).saturating_add_unsigned(state.stored.bytes);
        let change = size - std::mem::replace(&mut state.told_size, size);
        if change != 0 {
            self.0.metrics.queue_size(change);
        }
    }
}

fn tell_damage(runs: u64, damage: &str) {
    tracing::warn!(
        runs,
        "runs in the state directory cannot be read and are left out: {damage}; what is there of the file is put aside in \
         refused/"
    );
}

/// While it lives, the sender hurries. A drain may be given up at any point, so it ends by dropping.
struct Hurry<'a>(&'a Queue);

impl<'a> Hurry<'a> {
    fn begin(queue: &'a Queue) -> Self {
        queue.0.state.send_modify(|state| {
            state.draining += 1;
            state.failed_in_hurry = 0;
        });
        Self(queue)
    }
}

impl Drop for Hurry<'_> {
    fn drop(&mut self) {
        self.0.0.state.send_modify(|state| state.draining -= 1);
    }
}

/// A number of bytes as a change of it.
fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
