//! Which slot is due, which waits for a free place and which runs: every decision of the schedule, without carrying it out.
//!
//! Each planned start becomes one [`Action::Start`] or is counted in one [`Action::Skip`], so no prevented start is missing
//! from the counts. The time is an argument; the pauses of this process are read from `clock`. Called by `scheduler`.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use imaptrace_record::SkipReason;

use super::{grid, rate_limiter::RateLimiter, slot::Slot};
use crate::{clock, plan::RunLimits};

/// A task for the scheduler.
#[derive(Debug)]
pub(super) enum Action<T> {
    /// Start a run, with its number.
    Start { run: u64, work: Arc<T>, lag: Duration },
    /// Report planned starts that do not happen.
    Skip { work: Arc<T>, reason: SkipReason, count: u64 },
    /// Give up a run that takes too long. Its place is free already.
    GiveUp { run: u64, work: Arc<T> },
}

#[derive(Debug)]
struct SlotEntry<T> {
    slot: Slot<T>,
    /// The next planned start.
    next: Instant,
    /// A start that is due and waits for a free place: when it was planned, and until when it waits.
    waiting: Option<(Instant, Instant)>,
    /// The run in flight.
    run: Option<u64>,
    /// It is no longer in the plan, and is removed when its run has ended.
    gone: bool,
}

#[derive(Debug)]
struct ActiveRun<T> {
    entry: u64,
    server: Arc<str>,
    work: Arc<T>,
    begun: Instant,
    /// For how long it may run.
    allowed: Duration,
    /// When it is given up; none after that, when its place is free again.
    deadline: Option<Instant>,
}

/// How much longer a run may take after a timer that was late.
const EXTENSION: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Due(u64),
    Overrun(u64),
    /// The next login of a server may begin.
    Server(Arc<str>),
}

/// The state of a server.
#[derive(Debug, Default)]
struct ServerState {
    in_flight: usize,
    logins: RateLimiter,
    /// Slots that wait for a free place, in order.
    queue: VecDeque<u64>,
    /// Its place among the servers that could start something: the planned start of the first in the queue.
    offered: Option<Instant>,
}

/// The state of a schedule.
#[derive(Debug)]
pub(super) struct Planner<T> {
    /// All grids begin here.
    origin: Instant,
    limits: RunLimits,
    /// The last number of an entry or a run.
    number: u64,
    entries: HashMap<u64, SlotEntry<T>>,
    names: HashMap<Arc<str>, u64>,
    runs: HashMap<u64, ActiveRun<T>>,
    servers: HashMap<Arc<str>, ServerState>,
    in_flight: usize,
    logins: RateLimiter,
    timers: BTreeSet<(Instant, Timer)>,
    /// When waiting starts are skipped.
    expiries: BTreeSet<(Instant, u64)>,
    /// Servers whose first slot in the queue may get the next place, by its planned start.
    offers: BTreeSet<(Instant, Arc<str>)>,
}

/// How many slots one step of a change applies. A start that is due meanwhile waits no longer than one step.
const STEP: usize = 250;

/// New slots and limits, and how far they have been applied.
#[derive(Debug)]
pub(super) struct PlanChange<T> {
    limits: RunLimits,
    slots: std::vec::IntoIter<Slot<T>>,
    /// The entries of the slots that have been applied.
    kept: HashSet<u64>,
    /// Entries that are no longer in the plan; known when all slots have been applied.
    old: Option<std::vec::IntoIter<u64>>,
}

impl<T> PlanChange<T> {
    pub(super) fn new(slots: Vec<Slot<T>>, limits: RunLimits) -> Self {
        Self { limits, kept: HashSet::with_capacity(slots.len()), slots: slots.into_iter(), old: None }
    }
}

impl<T> Planner<T> {
    pub(super) fn new(origin: Instant, limits: RunLimits) -> Self {
        Self {
            origin,
            limits,
            number: 0,
            entries: HashMap::new(),
            names: HashMap::new(),
            runs: HashMap::new(),
            servers: HashMap::new(),
            in_flight: 0,
            logins: RateLimiter::default(),
            timers: BTreeSet::new(),
            expiries: BTreeSet::new(),
            offers: BTreeSet::new(),
        }
    }

    /// Runs that have not ended, including those that were given up.
    pub(super) fn running(&self) -> usize {
        self.runs.len()
    }

    /// When to poll again at the latest, unless something ends or changes before.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        let timer = self.timers.first().map(|(at, _)| *at);
        let expiry = self.expiries.first().map(|(at, _)| *at);
        let rate =
            (!self.offers.is_empty() && self.in_flight < self.limits.in_flight).then(|| self.logins.blocked_until(now));
        [timer, expiry, rate.flatten()].into_iter().flatten().min()
    }

    /// Everything that is to be done now. `in_maintenance` tests whether work is in a maintenance window.
    pub(super) fn poll(&mut self, now: Instant, in_maintenance: impl Fn(&T) -> bool) -> Vec<Action<T>> {
        let mut actions = Vec::new();
        while self.timers.first().is_some_and(|(at, _)| *at <= now) {
            match self.timers.pop_first() {
                Some((_, Timer::Due(entry))) => self.due(entry, now, &in_maintenance, &mut actions),
                Some((due, Timer::Overrun(run))) => self.overrun(run, due, now, &mut actions),
                Some((_, Timer::Server(server))) => self.offer(&server),
                None => {}
            }
        }
        self.admit(now, &mut actions);
        while let Some((_, entry)) = self.expiries.first().copied().filter(|(at, _)| *at <= now) {
            self.withdraw(entry, &mut actions);
        }
        actions
    }

    /// Records that a run has ended, in whatever way.
    pub(super) fn ended(&mut self, run: u64) {
        let Some(ended) = self.runs.remove(&run) else { return };
        if let Some(deadline) = ended.deadline {
            self.timers.remove(&(deadline, Timer::Overrun(run)));
            self.free(&ended.server);
        }
        if let Some(entry) = self.entries.get_mut(&ended.entry) {
            entry.run = None;
            if entry.gone {
                self.names.remove(&entry.slot.name);
                self.entries.remove(&ended.entry);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn apply(&mut self, slots: Vec<Slot<T>>, limits: RunLimits, now: Instant) -> Vec<Action<T>> {
        let (mut change, mut actions) = (PlanChange::new(slots, limits), Vec::new());
        while !self.step(&mut change, now, &mut actions) {}
        actions
    }

    /// Applies one step of a change; true when it is complete. A slot with the same name, interval, server and work continues
    /// unchanged; a changed one takes the new work from its next start on. Slots that are not in the new plan are removed last.
    pub(super) fn step(&mut self, change: &mut PlanChange<T>, now: Instant, actions: &mut Vec<Action<T>>) -> bool {
        self.limits = change.limits;
        let slots: Vec<_> = change.slots.by_ref().take(STEP).collect();
        if !slots.is_empty() {
            for slot in slots {
                let known = self.names.get(&slot.name).copied();
                change.kept.insert(match known {
                    Some(entry) => self.change(entry, slot, now),
                    None => self.add(slot, now),
                });
            }
            return false;
        }
        let old = change.old.get_or_insert_with(|| {
            let old = self.entries.keys().filter(|entry| !change.kept.contains(entry)).copied();
            old.collect::<Vec<_>>().into_iter()
        });
        let gone: Vec<_> = old.take(STEP).collect();
        if !gone.is_empty() {
            for entry in gone {
                self.remove(entry, actions);
            }
            return false;
        }
        let used: HashSet<&str> = self.entries.values().map(|entry| &*entry.slot.server).collect();
        self.servers.retain(|name, server| server.in_flight > 0 || used.contains(&**name));
        // The new limits may admit waiting starts.
        let waiting = self.servers.iter().filter(|(_, server)| !server.queue.is_empty()).map(|(name, _)| name.clone());
        for server in waiting.collect::<Vec<_>>() {
            self.offer(&server);
        }
        true
    }

    /// No more starts.
    pub(super) fn stop(&mut self) -> Vec<Action<T>> {
        let mut actions = Vec::new();
        for entry in self.entries.keys().copied().collect::<Vec<_>>() {
            self.remove(entry, &mut actions);
        }
        actions
    }

    fn add(&mut self, slot: Slot<T>, now: Instant) -> u64 {
        self.number += 1;
        let (entry, next) = (self.number, grid::after(self.origin, now, &slot.name, slot.interval));
        self.names.insert(slot.name.clone(), entry);
        self.timers.insert((next, Timer::Due(entry)));
        self.entries.insert(entry, SlotEntry { slot, next, waiting: None, run: None, gone: false });
        entry
    }

    fn change(&mut self, id: u64, slot: Slot<T>, now: Instant) -> u64 {
        let Some(entry) = self.entries.get_mut(&id) else { return id };
        if entry.gone || entry.slot.interval != slot.interval {
            // A removed slot has no timer.
            self.timers.remove(&(entry.next, Timer::Due(id)));
            entry.next = grid::after(self.origin, now, &slot.name, slot.interval);
            self.timers.insert((entry.next, Timer::Due(id)));
            entry.gone = false;
        }
        let old = std::mem::replace(&mut entry.slot, slot);
        let server = entry.slot.server.clone();
        if entry.waiting.is_some() && old.server != server {
            self.leave(id, &old.server);
            self.enqueue(id, &server);
        }
        id
    }

    fn enqueue(&mut self, id: u64, server: &Arc<str>) {
        self.servers.entry(server.clone()).or_default().queue.push_back(id);
        self.offer(server);
    }

    fn remove(&mut self, id: u64, actions: &mut Vec<Action<T>>) {
        self.withdraw(id, actions);
        let Some(entry) = self.entries.get_mut(&id) else { return };
        self.timers.remove(&(entry.next, Timer::Due(id)));
        entry.gone = true;
        if entry.run.is_none() {
            self.names.remove(&entry.slot.name);
            self.entries.remove(&id);
        }
    }

    fn due(&mut self, id: u64, now: Instant, in_maintenance: &impl Fn(&T) -> bool, actions: &mut Vec<Action<T>>) {
        // Only a changed interval can make the next start due before this one has been skipped.
        self.withdraw(id, actions);
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let interval = entry.slot.interval;
        // Whole intervals late: this process did not get to run at all (the machine slept, or is swamped).
        let missed = grid::whole(now.saturating_duration_since(entry.next), interval);
        let planned = entry.next + grid::times(interval, missed);
        entry.next = planned + interval;
        self.timers.insert((entry.next, Timer::Due(id)));
        let mut skip = |reason, count| actions.push(Action::Skip { work: entry.slot.work.clone(), reason, count });
        if entry.run.is_some() {
            skip(SkipReason::Running, missed + 1);
            return;
        }
        if missed > 0 {
            skip(SkipReason::Overload, missed);
        }
        if in_maintenance(&entry.slot.work) {
            skip(SkipReason::Window, 1);
            return;
        }
        let until = planned + self.limits.wait.min(interval / 2);
        entry.waiting = Some((planned, until));
        self.expiries.insert((until, id));
        let server = entry.slot.server.clone();
        self.enqueue(id, &server);
    }

    /// Starts what may start, the earliest planned first.
    fn admit(&mut self, now: Instant, actions: &mut Vec<Action<T>>) {
        while self.in_flight < self.limits.in_flight.max(1) && self.logins.blocked_until(now).is_none() {
            let Some((_, name)) = self.offers.pop_first() else { return };
            let Some(server) = self.servers.get_mut(&name) else { continue };
            server.offered = None;
            if server.in_flight >= self.limits.in_flight_per_server.max(1) {
                // It is offered again when one of its runs ends.
                continue;
            }
            if let Some(free) = server.logins.blocked_until(now) {
                self.timers.insert((free, Timer::Server(name)));
                continue;
            }
            if let Some(entry) = server.queue.pop_front() {
                self.start(entry, &name, now, actions);
            }
            self.offer(&name);
        }
    }

    fn start(&mut self, id: u64, name: &Arc<str>, now: Instant, actions: &mut Vec<Action<T>>) {
        let (Some(entry), Some(server)) = (self.entries.get_mut(&id), self.servers.get_mut(name)) else { return };
        let Some((planned, until)) = entry.waiting.take() else { return };
        self.expiries.remove(&(until, id));
        let (slot, limits) = (&entry.slot, &self.limits);
        self.logins.record(now, slot.logins, limits.logins_per_second);
        server.logins.record(now, slot.logins, limits.logins_per_second_per_server);
        server.in_flight += 1;
        self.in_flight += 1;
        self.number += 1;
        let (run, allowed, work) = (self.number, slot.max_run_time, slot.work.clone());
        entry.run = Some(run);
        self.timers.insert((now + allowed, Timer::Overrun(run)));
        actions.push(Action::Start { run, work: work.clone(), lag: now.saturating_duration_since(planned) });
        let (server, deadline) = (name.clone(), Some(now + allowed));
        self.runs.insert(run, ActiveRun { entry: id, server, work, begun: now, allowed, deadline });
    }

    /// The deadline of a run has come: it is extended by pauses of this process, or the run is given up.
    fn overrun(&mut self, number: u64, due: Instant, now: Instant, actions: &mut Vec<Action<T>>) {
        let Some(run) = self.runs.get_mut(&number) else { return };
        run.deadline = clock::extended(run.begun, run.allowed, due, now, EXTENSION);
        if let Some(deadline) = run.deadline {
            self.timers.insert((deadline, Timer::Overrun(number)));
            return;
        }
        actions.push(Action::GiveUp { run: number, work: run.work.clone() });
        let server = run.server.clone();
        self.free(&server);
    }

    /// Frees a place.
    fn free(&mut self, name: &Arc<str>) {
        self.in_flight -= 1;
        if let Some(server) = self.servers.get_mut(name) {
            server.in_flight -= 1;
        }
        self.offer(name);
    }

    /// Enters a server with waiting starts among the offers, again if the first one in its queue has changed.
    fn offer(&mut self, name: &Arc<str>) {
        let Some(server) = self.servers.get_mut(name) else { return };
        let first = server.queue.front().and_then(|entry| self.entries.get(entry)?.waiting).map(|(planned, _)| planned);
        if first == server.offered {
            return;
        }
        if let Some(old) = std::mem::replace(&mut server.offered, first) {
            self.offers.remove(&(old, name.clone()));
        }
        if let Some(first) = first {
            self.offers.insert((first, name.clone()));
        }
    }

    /// Skips the waiting start of a slot, if there is one.
    fn withdraw(&mut self, id: u64, actions: &mut Vec<Action<T>>) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let Some((_, until)) = entry.waiting.take() else { return };
        self.expiries.remove(&(until, id));
        actions.push(Action::Skip { work: entry.slot.work.clone(), reason: SkipReason::Limit, count: 1 });
        let server = entry.slot.server.clone();
        self.leave(id, &server);
    }

    /// Removes a slot from a server's queue.
    fn leave(&mut self, id: u64, name: &Arc<str>) {
        if let Some(server) = self.servers.get_mut(name) {
            server.queue.retain(|waiting| *waiting != id);
        }
        self.offer(name);
    }
}
