//! Runs that wait for delivery, in memory, within a budget of bytes.
//!
//! Holds runs and not spans, so that what waits is what is printed and replayed. One [`sender`](super::sender) takes
//! batches off the front; [`Queue::push`] may be called from anywhere and never waits.

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use tokio::{sync::watch, time::timeout};

use super::Report;
use crate::{
    record::{Run, StepOutcome},
    telemetry::{Metrics, names::DropReason},
};

/// A batch is full with this many spans.
const BATCH_SPANS: usize = 512;

/// How long the first run of a batch waits for others.
const LINGER: Duration = Duration::from_secs(1);

/// Failed attempts after which [`Queue::drain`] gives up.
const HURRIED_ATTEMPTS: u32 = 3;

/// The queue; clones share it.
#[derive(Clone)]
pub(super) struct Queue(Arc<Inner>);

struct Inner {
    // Everybody who waits for something in here waits on this one channel.
    state: watch::Sender<State>,
    budget: usize,
    /// Somebody takes runs off.
    open: bool,
    metrics: Metrics,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Entry>,
    waiting_load: Load,
    in_flight: Load,
    draining: u32,
    failed_in_hurry: u32,
    delivered: u64,
    dropped: u64,
    failure: Option<String>,
    /// It was logged that runs are dropped.
    told_full: bool,
}

struct Entry {
    run: Run,
    load: Load,
}

#[derive(Clone, Copy, Default)]
struct Load {
    runs: usize,
    spans: usize,
    bytes: usize,
}

impl Load {
    fn of(run: &Run) -> Self {
        let mut counter = Counter(0);
        // Writing to a counter cannot fail, and a run always has a JSON form.
        serde_json::to_writer(&mut counter, run).unwrap_or_default();
        let steps = run.steps.iter().filter(|step| step.outcome != StepOutcome::Skipped && step.span_id.is_some());
        Self { runs: 1, spans: 1 + steps.count(), bytes: counter.0 }
    }

    fn add(&mut self, other: Self) {
        self.runs += other.runs;
        self.spans += other.spans;
        self.bytes += other.bytes;
    }

    fn remove(&mut self, other: Self) {
        self.runs -= other.runs;
        self.spans -= other.spans;
        self.bytes -= other.bytes;
    }
}

impl State {
    fn is_ready(&self) -> bool {
        !self.waiting.is_empty() && (self.draining > 0 || self.waiting_load.spans >= BATCH_SPANS)
    }

    fn pop(&mut self) -> Option<Entry> {
        let entry = self.waiting.pop_front()?;
        self.waiting_load.remove(entry.load);
        Some(entry)
    }

    fn is_empty(&self) -> bool {
        self.waiting_load.runs + self.in_flight.runs == 0
    }
}

impl Queue {
    /// A queue of at most `budget` bytes. One that is not `open` takes nothing: nobody would send it.
    pub(super) fn new(budget: usize, open: bool, metrics: Metrics) -> Self {
        Self(Arc::new(Inner { state: watch::Sender::default(), budget, open, metrics }))
    }

    /// Takes a run in. Over the budget, the oldest that wait go; what is in flight stays.
    pub(super) fn push(&self, run: Run) {
        if !self.0.open {
            return;
        }
        let load = Load::of(&run);
        let (mut dropped, mut first) = (0, false);
        self.0.state.send_modify(|state| {
            state.waiting.push_back(Entry { run, load });
            state.waiting_load.add(load);
            while state.waiting_load.bytes + state.in_flight.bytes > self.0.budget && state.pop().is_some() {
                dropped += 1;
            }
            state.dropped += dropped;
            first = dropped > 0 && !state.told_full;
            state.told_full |= first;
        });
        if first {
            let budget = self.0.budget;
            tracing::warn!(budget, "the queue of runs is full: until they can be delivered the oldest are dropped");
        }
        if dropped > 0 {
            self.0.metrics.delivery_dropped(DropReason::Budget, dropped);
        }
    }

    /// The next runs in order: a full batch, or what came within a second, or what there is when somebody drains.
    /// They are in flight until [`Queue::delivered`] or [`Queue::refused`].
    pub(super) async fn batch(&self) -> Vec<Run> {
        let mut watch = self.0.state.subscribe();
        // The sender half lives in `self`, so waiting cannot fail.
        drop(watch.wait_for(|state| !state.waiting.is_empty()).await);
        let _full = timeout(LINGER, watch.wait_for(State::is_ready)).await.is_ok();
        let mut batch = Vec::new();
        self.0.state.send_modify(|state| {
            let fits = |state: &State| {
                state.waiting.front().is_some_and(|next| {
                    state.in_flight.runs == 0 || state.in_flight.spans + next.load.spans <= BATCH_SPANS
                })
            };
            while fits(state) {
                let Some(entry) = state.pop() else { break };
                state.in_flight.add(entry.load);
                batch.push(entry.run);
            }
        });
        batch
    }

    /// The batch in flight arrived.
    pub(super) fn delivered(&self) {
        self.0.state.send_modify(|state| {
            state.delivered += state.in_flight.runs as u64;
            state.in_flight = Load::default();
            state.failure = None;
            state.failed_in_hurry = 0;
            state.told_full = false;
        });
    }

    /// The batch in flight was refused for good.
    pub(super) fn refused(&self, reason: String) {
        let mut runs = 0;
        self.0.state.send_modify(|state| {
            runs = state.in_flight.runs as u64;
            state.dropped += runs;
            state.in_flight = Load::default();
            state.failure = Some(reason);
        });
        self.0.metrics.delivery_dropped(DropReason::Refused, runs);
    }

    /// An attempt failed; the batch stays in flight. Returns when it is time for the next: after `pause`, or sooner
    /// when somebody drains.
    pub(super) async fn pause(&self, reason: String, pause: Duration, hurried: Duration) {
        let mut hurry = false;
        self.0.state.send_modify(|state| {
            state.failure = Some(reason);
            hurry = state.draining > 0;
            state.failed_in_hurry += u32::from(hurry);
        });
        if hurry {
            tokio::time::sleep(hurried).await;
        } else {
            let mut watch = self.0.state.subscribe();
            let _woken = timeout(pause, watch.wait_for(|state| state.draining > 0)).await.is_ok();
        }
    }

    /// Sends without lingering until nothing is left, the receiver failed three times, or the deadline passed.
    pub(super) async fn drain(&self, deadline: Duration) -> Report {
        self.0.state.send_modify(|state| {
            state.draining += 1;
            state.failed_in_hurry = 0;
        });
        let mut watch = self.0.state.subscribe();
        let over = |state: &State| state.is_empty() || state.failed_in_hurry >= HURRIED_ATTEMPTS;
        let in_time = timeout(deadline, watch.wait_for(over)).await.is_ok();
        let mut report = Report::default();
        self.0.state.send_modify(|state| {
            state.draining -= 1;
            let late = || format!("no answer within {:.1} s", deadline.as_secs_f64());
            report = Report {
                delivered_runs: state.delivered,
                undelivered_runs: (state.waiting_load.runs + state.in_flight.runs) as u64,
                undelivered_spans: (state.waiting_load.spans + state.in_flight.spans) as u64,
                dropped_runs: state.dropped,
                metrics_delivered: false,
                reason: state.failure.clone().or_else(|| (!in_time).then(late)),
            };
        });
        report
    }
}

/// Counts what is written to it.
struct Counter(usize);

impl io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
