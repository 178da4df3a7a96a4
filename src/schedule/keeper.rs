//! The task that does what the book decides: starts runs, tells of skipped ones, gives up those that stay too long.
//!
//! One task with one timer for all slots, so that ten thousand of them wake nobody. Started by [`Schedule`](super::Schedule).

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::{AbortHandle, yield_now},
    time::sleep_until,
};

use super::{
    Limits, Lost, Runner, Slot,
    book::{Act, Book, Change},
};
use crate::{blocking, clock};

/// It goes round at least this often.
const BEAT: Duration = Duration::from_secs(1);

/// When the schedule last went round. Cheap to clone and to ask, from any thread.
#[derive(Debug, Clone)]
pub struct Pulse {
    origin: Instant,
    /// Milliseconds after the origin.
    last: Arc<AtomicU64>,
}

impl Pulse {
    pub(super) fn new(origin: Instant) -> Self {
        Self { origin, last: Arc::default() }
    }

    /// How long ago that was. Much more than a second says that the schedule hangs.
    pub fn age(&self) -> Duration {
        let last = self.origin + Duration::from_millis(self.last.load(Ordering::Relaxed));
        clock::now().saturating_duration_since(last)
    }

    fn beat(&self, now: Instant) {
        let since = now.saturating_duration_since(self.origin).as_millis();
        self.last.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// What is dropped when the schedule has gone over, where that delays no start: it may be large.
pub(super) type Before = Box<dyn Send>;

/// What the owner wants.
pub(super) enum Order<T> {
    /// Go over to these; whatever was kept for the plan before is dropped then.
    Apply(Vec<Slot<T>>, Limits, Before),
    Stop,
}

/// A run that has ended.
struct Ended {
    run: u64,
    panicked: bool,
}

pub(super) struct Keeper<R: Runner> {
    runner: Arc<R>,
    book: Book<R::Work>,
    pulse: Pulse,
    tasks: Tasks<R::Work>,
    tell: UnboundedSender<Ended>,
    ended: UnboundedReceiver<Ended>,
}

/// Runs under way. They do not outlive it.
struct Tasks<T>(HashMap<u64, (AbortHandle, Arc<T>)>);

impl<R: Runner> Keeper<R> {
    pub(super) fn new(runner: Arc<R>, limits: Limits, pulse: Pulse) -> Self {
        let (tell, ended) = unbounded_channel();
        let book = Book::new(pulse.origin, limits);
        Self { runner, book, pulse, tasks: Tasks(HashMap::new()), tell, ended }
    }

    /// Keeps going until it is to stop, and comes back when every run that was started has ended.
    pub(super) async fn keep(mut self, mut orders: UnboundedReceiver<Order<R::Work>>) {
        let mut stopping = false;
        // The one that is under way first.
        let mut changes: VecDeque<(Change<R::Work>, Before)> = VecDeque::new();
        while !stopping || self.book.running() > 0 {
            let now = clock::now();
            // A round that is late is a round: an agent with too much to do is not to be started anew over it.
            self.pulse.beat(now);
            self.turn(now);
            let beat = now + BEAT;
            let due = self.book.next(now).map_or(beat, |next| next.min(beat)).max(now);
            tokio::select! {
                biased;
                order = orders.recv(), if !stopping => match order {
                    Some(Order::Apply(slots, limits, before)) => {
                        changes.push_back((Change::new(slots, limits), before));
                    }
                    Some(Order::Stop) | None => {
                        stopping = true;
                        changes.clear();
                        let acts = self.book.stop();
                        self.act(acts);
                    }
                },
                Some(ended) = self.ended.recv() => {
                    self.end(ended);
                    while let Ok(ended) = self.ended.try_recv() {
                        self.end(ended);
                    }
                }
                // Between two steps, whatever is due is started, and others get their turn on this thread.
                () = yield_now(), if !changes.is_empty() => {
                    let now = clock::now();
                    // What is due already belongs to the plan that was.
                    self.turn(now);
                    if let Some((mut change, before)) = changes.pop_front() {
                        let mut acts = Vec::new();
                        let complete = self.book.step(&mut change, now, &mut acts);
                        self.act(acts);
                        if complete {
                            drop(blocking::work(move || drop((change, before))));
                        } else {
                            changes.push_front((change, before));
                        }
                    }
                }
                () = sleep_until(due.into()), if changes.is_empty() => {}
            }
        }
    }

    fn turn(&mut self, now: Instant) {
        let runner = &self.runner;
        let acts = self.book.poll(now, |work| runner.is_closed(work));
        self.act(acts);
    }

    fn act(&mut self, acts: Vec<Act<R::Work>>) {
        for act in acts {
            match act {
                Act::Start { run, work, lag } => {
                    let telling = Telling { run, tell: self.tell.clone() };
                    let running = self.runner.run(work.clone(), lag);
                    let task = tokio::spawn(async move {
                        // Dropped however the run ends: also by a panic, which ends here, or when it is given up.
                        let _telling = telling;
                        running.await;
                    });
                    self.tasks.0.insert(run, (task.abort_handle(), work));
                }
                Act::Skip { work, why, count } => self.runner.skipped(&work, why, count),
                Act::GiveUp { run, work } => {
                    if let Some((task, _)) = self.tasks.0.get(&run) {
                        task.abort();
                    }
                    self.runner.lost(&work, Lost::Overstayed);
                }
            }
        }
    }

    fn end(&mut self, Ended { run, panicked }: Ended) {
        self.book.ended(run);
        if let Some((_, work)) = self.tasks.0.remove(&run).filter(|_| panicked) {
            self.runner.lost(&work, Lost::Panicked);
        }
    }
}

impl<T> Drop for Tasks<T> {
    fn drop(&mut self) {
        for (task, _) in self.0.values() {
            task.abort();
        }
    }
}

/// Tells that a run has ended when it is dropped.
struct Telling {
    run: u64,
    tell: UnboundedSender<Ended>,
}

impl Drop for Telling {
    fn drop(&mut self) {
        // Without a schedule nobody wants to know.
        drop(self.tell.send(Ended { run: self.run, panicked: std::thread::panicking() }));
    }
}
