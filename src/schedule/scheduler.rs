//! The task that carries out what the planner decides: it starts runs, reports skipped ones and gives up those that take too
//! long. One task with one timer serves all slots. Started by [`Schedule`](super::Schedule).

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
    planner::{Action, PlanChange, Planner},
    runner::{Lost, Runner},
    slot::Slot,
};
use crate::{blocking, clock, plan::RunLimits};

/// The longest time between two iterations of the task's loop.
const BEAT: Duration = Duration::from_secs(1);

/// When the scheduler task was last active. Cheap to clone and to read, from any thread.
#[derive(Debug, Clone)]
pub struct SchedulerHeartbeat {
    pub(super) origin: Instant,
    /// Milliseconds after the origin.
    pub(super) last: Arc<AtomicU64>,
}

impl SchedulerHeartbeat {
    /// How long ago that was. Much more than a second means that the scheduler hangs.
    pub fn age(&self) -> Duration {
        let last = self.origin + Duration::from_millis(self.last.load(Ordering::Relaxed));
        clock::now().saturating_duration_since(last)
    }

    fn beat(&self, now: Instant) {
        let since = now.saturating_duration_since(self.origin).as_millis();
        self.last.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// What belongs to replaced slots. It may be large and is dropped on a thread that starts nothing.
pub(super) type Before = Box<dyn Send>;

/// A request of [`Schedule`](super::Schedule).
pub(super) enum Request<T> {
    Apply(Vec<Slot<T>>, RunLimits, Before),
    Stop,
}

/// A run that has ended, and whether it panicked.
type RunEnded = (u64, bool);

pub(super) struct Scheduler<R: Runner> {
    runner: Arc<R>,
    planner: Planner<R::Work>,
    heartbeat: SchedulerHeartbeat,
    tasks: Tasks<R::Work>,
    ended_sender: UnboundedSender<RunEnded>,
    ended: UnboundedReceiver<RunEnded>,
}

/// The tasks of runs in flight, which are aborted when this is dropped.
struct Tasks<T>(HashMap<u64, (AbortHandle, Arc<T>)>);

impl<R: Runner> Scheduler<R> {
    pub(super) fn new(runner: Arc<R>, limits: RunLimits, heartbeat: SchedulerHeartbeat) -> Self {
        let (ended_sender, ended) = unbounded_channel();
        let planner = Planner::new(heartbeat.origin, limits);
        Self { runner, planner, heartbeat, tasks: Tasks(HashMap::new()), ended_sender, ended }
    }

    /// Runs until a request to stop, and returns when every started run has ended.
    pub(super) async fn run(mut self, mut requests: UnboundedReceiver<Request<R::Work>>) {
        let mut stopping = false;
        // The first one is being applied.
        let mut changes: VecDeque<(PlanChange<R::Work>, Before)> = VecDeque::new();
        while !stopping || self.planner.running() > 0 {
            let now = clock::now();
            // A late iteration counts: systemd must not restart an agent that has much to do.
            self.heartbeat.beat(now);
            self.poll(now);
            let beat = now + BEAT;
            let due = self.planner.next(now).map_or(beat, |next| next.min(beat)).max(now);
            tokio::select! {
                biased;
                request = requests.recv(), if !stopping => match request {
                    Some(Request::Apply(slots, limits, before)) => {
                        changes.push_back((PlanChange::new(slots, limits), before));
                    }
                    Some(Request::Stop) | None => {
                        stopping = true;
                        changes.clear();
                        let actions = self.planner.stop();
                        self.perform(actions);
                    }
                },
                Some(ended) = self.ended.recv() => {
                    self.end(ended);
                    while let Ok(ended) = self.ended.try_recv() {
                        self.end(ended);
                    }
                }
                // Between two steps, what is due is started, and other tasks get to run on this thread.
                () = yield_now(), if !changes.is_empty() => {
                    let now = clock::now();
                    // What is due already belongs to the plan before.
                    self.poll(now);
                    if let Some((mut change, before)) = changes.pop_front() {
                        let mut actions = Vec::new();
                        let complete = self.planner.step(&mut change, now, &mut actions);
                        self.perform(actions);
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

    fn poll(&mut self, now: Instant) {
        let runner = &self.runner;
        let actions = self.planner.poll(now, |work| runner.is_in_maintenance(work));
        self.perform(actions);
    }

    fn perform(&mut self, actions: Vec<Action<R::Work>>) {
        for action in actions {
            match action {
                Action::Start { run, work, lag } => {
                    let notifier = EndNotifier { run, sender: self.ended_sender.clone() };
                    let running = self.runner.run(work.clone(), lag);
                    let task = tokio::spawn(async move {
                        // Dropped however the run ends, by a panic or an abort too.
                        let _notifier = notifier;
                        running.await;
                    });
                    self.tasks.0.insert(run, (task.abort_handle(), work));
                }
                Action::Skip { work, reason, count } => self.runner.skipped(&work, reason, count),
                Action::GiveUp { run, work } => {
                    if let Some((task, _)) = self.tasks.0.get(&run) {
                        task.abort();
                    }
                    self.runner.lost(&work, Lost::Overran);
                }
            }
        }
    }

    fn end(&mut self, (run, panicked): RunEnded) {
        self.planner.ended(run);
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

/// Reports the end of a run when it is dropped.
struct EndNotifier {
    run: u64,
    sender: UnboundedSender<RunEnded>,
}

impl Drop for EndNotifier {
    fn drop(&mut self) {
        // Sending fails when the scheduler has ended.
        let _ = self.sender.send((self.run, std::thread::panicking()));
    }
}
