//! Runs that wait for delivery, in memory, within a budget of bytes.
//!
//! Holds runs and not spans, so that what waits is what is printed and replayed. One [`sender`](super::sender) takes
//! batches off the front; [`Queue::push`] may be called from anywhere and never waits.

use std::{collections::VecDeque, sync::Arc, time::Duration};

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
        let steps = run.steps.iter().filter(|step| step.outcome != StepOutcome::Skipped && step.span_id.is_some());
        Self { runs: 1, spans: 1 + steps.count(), bytes: run.held_bytes() }
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
        if open {
            metrics.queue_limit(signed(budget));
        }
        Self(Arc::new(Inner { state: watch::Sender::default(), budget, open, metrics }))
    }

    /// Takes a run in. Over the budget, the oldest that wait go; what is in flight stays.
    pub(super) fn push(&self, run: Run) {
        if !self.0.open {
            return;
        }
        let load = Load::of(&run);
        // Before anybody can take it off, so that the size is never negative.
        self.0.metrics.queue_size(signed(load.bytes));
        let (mut dropped, mut freed, mut first) = (0, 0, false);
        self.0.state.send_if_modified(|state| {
            let was_empty = state.waiting.is_empty();
            state.waiting.push_back(Entry { run, load });
            state.waiting_load.add(load);
            while state.waiting_load.bytes + state.in_flight.bytes > self.0.budget {
                let Some(oldest) = state.pop() else { break };
                dropped += 1;
                freed += oldest.load.bytes;
            }
            state.dropped += dropped;
            first = dropped > 0 && !state.told_full;
            state.told_full |= first;
            // Nobody waits for anything in between, and waking the sender costs more than all of this.
            was_empty || state.is_ready()
        });
        if first {
            let budget = self.0.budget;
            tracing::warn!(budget, "the queue of runs is full: until they can be delivered the oldest are dropped");
        }
        if dropped > 0 {
            self.0.metrics.queue_size(-signed(freed));
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
        self.leaves();
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
        let runs = self.leaves();
        self.0.metrics.delivery_dropped(DropReason::Refused, runs);
        self.0.state.send_modify(|state| {
            state.dropped += runs;
            state.in_flight = Load::default();
            state.failure = Some(reason);
        });
    }

    /// Measures that the batch in flight goes, and tells its runs. Before it goes: who sees the queue empty may read the
    /// metrics at once.
    fn leaves(&self) -> u64 {
        let in_flight = self.0.state.borrow().in_flight;
        self.0.metrics.queue_size(-signed(in_flight.bytes));
        in_flight.runs as u64
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
        let hurry = Hurry::begin(self);
        let mut watch = self.0.state.subscribe();
        let over = |state: &State| state.is_empty() || state.failed_in_hurry >= HURRIED_ATTEMPTS;
        let in_time = timeout(deadline, watch.wait_for(over)).await.is_ok();
        drop(hurry);
        let state = self.0.state.borrow();
        let late = || format!("no answer within {:.1} s", deadline.as_secs_f64());
        Report {
            delivered_runs: state.delivered,
            undelivered_runs: (state.waiting_load.runs + state.in_flight.runs) as u64,
            undelivered_spans: (state.waiting_load.spans + state.in_flight.spans) as u64,
            dropped_runs: state.dropped,
            metrics_delivered: false,
            reason: state.failure.clone().or_else(|| (!in_time).then(late)),
        }
    }
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
mod tests {
    use opentelemetry_sdk::metrics::{
        InMemoryMetricExporter, SdkMeterProvider,
        data::{AggregatedMetrics, MetricData, ScopeMetrics},
    };

    use super::*;
    use crate::{
        record::Step,
        telemetry::{
            names::{self, Metric},
            spans,
        },
    };

    fn passed() -> Run {
        serde_json::from_str(include_str!("../../tests/support/runs/passed.json")).unwrap()
    }

    fn queue(budget: usize) -> Queue {
        Queue::new(budget, true, Metrics::off())
    }

    #[test]
    fn the_load_of_a_run_is_that_of_its_spans_and_of_what_it_holds() {
        let run = passed();
        let load = Load::of(&run);
        assert_eq!(load.spans, spans(&run).len());
        let steps = run.steps.len() * size_of::<Step>();
        assert!((steps..2 * steps).contains(&load.bytes), "{} for {steps}", load.bytes);
        let longer = Run { target: "x".repeat(run.target.len() + 1_000), ..run };
        assert_eq!(Load::of(&longer).bytes, load.bytes + 1_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_holds_512_spans_in_the_order_of_arrival_and_the_rest_waits() {
        let queue = queue(usize::MAX);
        for number in 0..60 {
            queue.push(Run { target: number.to_string(), ..passed() });
        }
        let first = queue.batch().await;
        assert_eq!(first.len(), 512 / 9);
        queue.delivered();
        let second = queue.batch().await;
        assert_eq!(second.len(), 60 - 512 / 9);
        let order: Vec<_> = first.iter().chain(&second).map(|run| run.target.clone()).collect();
        assert_eq!(order, (0..60).map(|number| number.to_string()).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn over_the_budget_the_oldest_that_wait_go_and_what_is_in_flight_stays() {
        let queue = queue(3 * Load::of(&passed()).bytes);
        let named = |name: &str| Run { target: name.to_owned(), ..passed() };
        queue.push(named("mail01"));
        let in_flight = queue.batch().await;
        for name in ["mail02", "mail03", "mail04"] {
            queue.push(named(name));
        }
        assert_eq!(in_flight[0].target, "mail01");
        queue.delivered();
        let left: Vec<_> = queue.batch().await.into_iter().map(|run| run.target).collect();
        assert_eq!(left, ["mail03", "mail04"]);
        let report = queue.drain(Duration::ZERO).await;
        assert_eq!((report.delivered_runs, report.undelivered_runs, report.dropped_runs), (1, 2, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn the_size_is_that_of_what_waits_and_flies_and_returns_to_nothing() {
        let exporter = InMemoryMetricExporter::default();
        let provider = SdkMeterProvider::builder().with_periodic_exporter(exporter.clone()).build();
        let sum = |metric: Metric| {
            provider.force_flush().unwrap();
            let all = exporter.get_finished_metrics().unwrap().pop().unwrap();
            let found =
                all.scope_metrics().flat_map(ScopeMetrics::metrics).find(|it| it.name() == metric.name).unwrap();
            let AggregatedMetrics::I64(MetricData::Sum(sum)) = found.data() else { panic!("{found:?}") };
            assert!(!sum.is_monotonic());
            usize::try_from(sum.data_points().next().unwrap().value()).unwrap()
        };
        let bytes = Load::of(&passed()).bytes;
        let queue = Queue::new(2 * bytes, true, Metrics::of(&provider));
        assert_eq!(sum(names::DELIVERY_QUEUE_LIMIT), 2 * bytes);
        queue.push(passed());
        drop(queue.batch().await);
        assert_eq!(sum(names::DELIVERY_QUEUE_SIZE), bytes, "what is in flight counts");
        queue.push(passed());
        queue.push(passed());
        assert_eq!(sum(names::DELIVERY_QUEUE_SIZE), 2 * bytes, "what is over the budget went");
        queue.delivered();
        assert_eq!(sum(names::DELIVERY_QUEUE_SIZE), bytes);
        drop(queue.batch().await);
        queue.refused("never".to_owned());
        assert_eq!(sum(names::DELIVERY_QUEUE_SIZE), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_that_is_given_up_leaves_nobody_in_a_hurry() {
        let queue = queue(usize::MAX);
        queue.push(passed());
        let given_up = timeout(Duration::from_millis(1), queue.drain(Duration::from_secs(60))).await;
        assert!(given_up.is_err());
        assert_eq!(queue.0.state.borrow().draining, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_ends_when_somebody_drains() {
        let queue = queue(usize::MAX);
        queue.push(passed());
        drop(queue.batch().await);
        let year = Duration::from_secs(365 * 86_400);
        let pausing = queue.pause("away".to_owned(), year, Duration::from_millis(250));
        let sender = async {
            pausing.await;
            queue.delivered();
        };
        let ((), report) = tokio::join!(sender, queue.drain(Duration::from_secs(5)));
        assert_eq!((report.delivered_runs, report.undelivered_runs, report.reason), (1, 0, None));
    }
}
