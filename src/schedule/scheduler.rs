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
    sync::mpsc::UnboundedReceiver,
    task::{self, AbortHandle, JoinError, JoinSet, yield_now},
    time::sleep_until,
};

use super::{
    planner::{Action, PlanChange, Planner},
    runner::{Lost, Runner},
    slot::Slot,
};
use crate::{blocking, clock, plan::RunLimits};

/// The longest time between two iterations of the task's loop.
const HEARTBEAT: Duration = Duration::from_secs(1);

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
pub(super) type Replaced = Box<dyn Send>;

/// A request of [`Schedule`](super::Schedule).
pub(super) enum ScheduleRequest<T> {
    Apply(Vec<Slot<T>>, RunLimits, Replaced),
    Stop,
}

pub(super) struct Scheduler<R: Runner> {
    runner: Arc<R>,
    planner: Planner<R::Work>,
    heartbeat: SchedulerHeartbeat,
    /// The runs in flight, which are aborted when this is dropped.
    tasks: JoinSet<()>,
    runs: HashMap<u64, (AbortHandle, Arc<R::Work>)>,
    numbers: HashMap<task::Id, u64>,
}

impl<R: Runner> Scheduler<R> {
    pub(super) fn new(runner: Arc<R>, limits: RunLimits, heartbeat: SchedulerHeartbeat) -> Self {
        let planner = Planner::new(heartbeat.origin, limits);
        Self { runner, planner, heartbeat, tasks: JoinSet::new(), runs: HashMap::new(), numbers: HashMap::new() }
    }

    /// Runs until a request to stop, and returns when every started run has ended.
    pub(super) async fn run(mut self, mut requests: UnboundedReceiver<ScheduleRequest<R::Work>>) {
        let mut stopping = false;
        // The first one is being applied.
        let mut changes: VecDeque<(PlanChange<R::Work>, Replaced)> = VecDeque::new();
        while !stopping || self.planner.running() > 0 {
            let now = clock::now();
            // A late iteration counts: systemd must not restart an agent that has much to do.
            self.heartbeat.beat(now);
            self.poll(now);
            let beat = now + HEARTBEAT;
            let due = self.planner.next(now).map_or(beat, |next| next.min(beat)).max(now);
            tokio::select! {
                biased;
                request = requests.recv(), if !stopping => match request {
                    Some(ScheduleRequest::Apply(slots, limits, replaced)) => {
                        changes.push_back((PlanChange::new(slots, limits), replaced));
                    }
                    Some(ScheduleRequest::Stop) | None => {
                        stopping = true;
                        changes.clear();
                        let actions = self.planner.stop();
                        self.perform(actions);
                    }
                },
                Some(ended) = self.tasks.join_next_with_id() => {
                    self.end(ended);
                    while let Some(ended) = self.tasks.try_join_next_with_id() {
                        self.end(ended);
                    }
                }
                // Between two steps, what is due is started, and other tasks get to run on this thread.
                () = yield_now(), if !changes.is_empty() => {
                    let now = clock::now();
                    // What is due already belongs to the plan before.
                    self.poll(now);
                    if let Some((mut change, replaced)) = changes.pop_front() {
                        let mut actions = Vec::new();
                        let complete = self.planner.step(&mut change, now, &mut actions);
                        self.perform(actions);
                        if complete {
                            drop(blocking::work(move || drop((change, replaced))));
                        } else {
                            changes.push_front((change, replaced));
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
                    let task = self.tasks.spawn(self.runner.run(work.clone(), lag));
                    self.numbers.insert(task.id(), run);
                    self.runs.insert(run, (task, work));
                }
                Action::Skip { work, reason, count } => self.runner.skipped(&work, reason, count),
                Action::GiveUp { run, work } => {
                    if let Some((task, _)) = self.runs.get(&run) {
                        task.abort();
                    }
                    self.runner.lost(&work, Lost::Overran);
                }
            }
        }
    }

    /// Records the end of a task, by a panic or an abort too.
    fn end(&mut self, ended: Result<(task::Id, ()), JoinError>) {
        let (id, panicked) = ended.map_or_else(|error| (error.id(), error.is_panic()), |(id, ())| (id, false));
        let Some(run) = self.numbers.remove(&id) else { return };
        self.planner.ended(run);
        if let Some((_, work)) = self.runs.remove(&run).filter(|_| panicked) {
            self.runner.lost(&work, Lost::Panicked);
        }
    }
}
