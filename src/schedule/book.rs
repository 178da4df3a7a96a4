//! Which slot is due, which waits for its turn and which runs: all that the schedule decides, and nothing that it does.
//!
//! Each planned start becomes exactly one of [`Act::Start`] and a count in [`Act::Skip`], so what a slow server or a
//! swamped machine keeps from being measured is counted, and never quietly missing. The time is an argument; only pauses of this process are asked for. Driven by
//! `keeper`.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Limits, Skip, Slot,
    grid::{self, Grid},
    pace::{Pace, Server},
};
use crate::clock;

/// What is to be done.
#[derive(Debug)]
pub(super) enum Act<T> {
    /// Start a run of this number.
    Start { run: u64, work: Arc<T>, lag: Duration },
    /// Tell of planned starts that do not happen.
    Skip { work: Arc<T>, why: Skip, count: u64 },
    /// Give up a run that stays longer than it may. Its place is free already.
    GiveUp { run: u64, work: Arc<T> },
}

#[derive(Debug)]
struct Entry<T> {
    slot: Slot<T>,
    /// The next planned start.
    next: Instant,
    waiting: Option<Waiting>,
    /// The run under way.
    run: Option<u64>,
    /// It is in the plan no more, and goes when its run has ended.
    gone: bool,
}

/// A start that is due and waits for its turn.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    planned: Instant,
    until: Instant,
}

#[derive(Debug)]
struct Run<T> {
    entry: u64,
    server: Arc<str>,
    work: Arc<T>,
    begun: Instant,
    /// For how long it may stay.
    allowed: Duration,
    /// When it is given up; none once it was, and its place with it.
    patience: Option<Instant>,
}

/// A timer that rings so late tells of a process that did not get to run.
const LATE: Duration = Duration::from_secs(1);
/// What a run gets then.
const SPARED: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Due(u64),
    Patience(u64),
    /// A server's pace lets the next one begin.
    Server(Arc<str>),
}

/// The state of a schedule.
#[derive(Debug)]
pub(super) struct Book<T> {
    grid: Grid,
    limits: Limits,
    /// The last number given to an entry or a run.
    number: u64,
    entries: HashMap<u64, Entry<T>>,
    names: HashMap<Arc<str>, u64>,
    runs: HashMap<u64, Run<T>>,
    servers: HashMap<Arc<str>, Server>,
    in_flight: usize,
    pace: Pace,
    timers: BTreeSet<(Instant, Timer)>,
    /// When those that wait give up.
    expiries: BTreeSet<(Instant, u64)>,
    /// Servers whose first in the queue may get the next place, by its planned start.
    offers: BTreeSet<(Instant, Arc<str>)>,
}

/// So many slots are gone over to in one step: starts that are due meanwhile wait for no more.
const STEP: usize = 250;

/// Other slots and limits, as far as the book has gone over to them.
#[derive(Debug)]
pub(super) struct Change<T> {
    limits: Limits,
    slots: std::vec::IntoIter<Slot<T>>,
    /// The entries of those that it has gone over to.
    kept: HashSet<u64>,
    /// Those that are in the plan no more, once all others are done.
    old: Option<std::vec::IntoIter<u64>>,
}

impl<T> Change<T> {
    pub(super) fn new(slots: Vec<Slot<T>>, limits: Limits) -> Self {
        Self { limits, kept: HashSet::with_capacity(slots.len()), slots: slots.into_iter(), old: None }
    }
}

impl<T> Book<T> {
    pub(super) fn new(origin: Instant, limits: Limits) -> Self {
        Self {
            grid: Grid::new(origin),
            limits,
            number: 0,
            entries: HashMap::new(),
            names: HashMap::new(),
            runs: HashMap::new(),
            servers: HashMap::new(),
            in_flight: 0,
            pace: Pace::default(),
            timers: BTreeSet::new(),
            expiries: BTreeSet::new(),
            offers: BTreeSet::new(),
        }
    }

    /// Runs that have not ended, those included that were given up.
    pub(super) fn running(&self) -> usize {
        self.runs.len()
    }

    /// When to poll again at the latest, unless something ends or changes before.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        let timer = self.timers.first().map(|(at, _)| *at);
        let expiry = self.expiries.first().map(|(at, _)| *at);
        let pace = (!self.offers.is_empty() && self.in_flight < self.limits.in_flight).then(|| self.pace.blocked(now));
        [timer, expiry, pace.flatten()].into_iter().flatten().min()
    }

    /// All that is to be done now. `closed` says whether a piece of work is in a maintenance window.
    pub(super) fn poll(&mut self, now: Instant, closed: impl Fn(&T) -> bool) -> Vec<Act<T>> {
        let mut acts = Vec::new();
        while self.timers.first().is_some_and(|(at, _)| *at <= now) {
            match self.timers.pop_first() {
                Some((_, Timer::Due(entry))) => self.due(entry, now, &closed, &mut acts),
                Some((at, Timer::Patience(run))) => match self.spared(run, at, now) {
                    Some(until) => self.spare(run, until),
                    None => self.give_up(run, &mut acts),
                },
                Some((_, Timer::Server(server))) => self.offer(&server),
                None => {}
            }
        }
        self.admit(now, &mut acts);
        while let Some((_, entry)) = self.expiries.first().copied().filter(|(at, _)| *at <= now) {
            self.withdraw(entry, &mut acts);
        }
        acts
    }

    /// A run has ended, however.
    pub(super) fn ended(&mut self, run: u64) {
        let Some(ended) = self.runs.remove(&run) else { return };
        if let Some(patience) = ended.patience {
            self.timers.remove(&(patience, Timer::Patience(run)));
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

    /// Goes over to these slots and limits, all at once. To be polled at the same `now` before and after.
    #[cfg(test)]
    pub(super) fn apply(&mut self, slots: Vec<Slot<T>>, limits: Limits, now: Instant) -> Vec<Act<T>> {
        let (mut change, mut acts) = (Change::new(slots, limits), Vec::new());
        while !self.step(&mut change, now, &mut acts) {}
        acts
    }

    /// Goes a step further with a change; true when it is complete. A slot of the same name, interval, server and work is
    /// not touched; one that changed takes the new work from its next start on. What is not in the new plan goes last.
    pub(super) fn step(&mut self, change: &mut Change<T>, now: Instant, acts: &mut Vec<Act<T>>) -> bool {
        self.limits = change.limits;
        let slots: Vec<_> = change.slots.by_ref().take(STEP).collect();
        if !slots.is_empty() {
            for slot in slots {
                let entry = match self.names.get(&slot.name) {
                    Some(entry) => {
                        let entry = *entry;
                        self.change(entry, slot, now);
                        entry
                    }
                    None => self.add(slot, now),
                };
                change.kept.insert(entry);
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
                self.remove(entry, acts);
            }
            return false;
        }
        let used: HashSet<&str> = self.entries.values().map(|entry| &*entry.slot.server).collect();
        self.servers.retain(|name, server| server.in_flight > 0 || used.contains(&**name));
        // Other limits may let in who waits.
        let waiting: Vec<_> = self.servers.iter().filter(|(_, server)| !server.queue.is_empty()).collect();
        let waiting: Vec<_> = waiting.into_iter().map(|(name, _)| name.clone()).collect();
        for server in waiting {
            self.offer(&server);
        }
        true
    }

    /// No more starts.
    pub(super) fn stop(&mut self) -> Vec<Act<T>> {
        let mut acts = Vec::new();
        let all: Vec<u64> = self.entries.keys().copied().collect();
        for entry in all {
            self.remove(entry, &mut acts);
        }
        acts
    }

    fn add(&mut self, slot: Slot<T>, now: Instant) -> u64 {
        self.number += 1;
        let (entry, next) = (self.number, self.grid.after(now, &slot.name, slot.interval));
        self.names.insert(slot.name.clone(), entry);
        self.timers.insert((next, Timer::Due(entry)));
        self.entries.insert(entry, Entry { slot, next, waiting: None, run: None, gone: false });
        entry
    }

    fn change(&mut self, id: u64, slot: Slot<T>, now: Instant) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if entry.gone || entry.slot.interval != slot.interval {
            // One that is gone has no timer.
            self.timers.remove(&(entry.next, Timer::Due(id)));
            entry.next = self.grid.after(now, &slot.name, slot.interval);
            self.timers.insert((entry.next, Timer::Due(id)));
            entry.gone = false;
        }
        let old = std::mem::replace(&mut entry.slot, slot);
        let server = entry.slot.server.clone();
        if entry.waiting.is_some() && old.server != server {
            self.leave(id, &old.server);
            self.servers.entry(server.clone()).or_default().queue.push_back(id);
            self.offer(&server);
        }
    }

    fn remove(&mut self, id: u64, acts: &mut Vec<Act<T>>) {
        self.withdraw(id, acts);
        let Some(entry) = self.entries.get_mut(&id) else { return };
        self.timers.remove(&(entry.next, Timer::Due(id)));
        entry.gone = true;
        if entry.run.is_none() {
            self.names.remove(&entry.slot.name);
            self.entries.remove(&id);
        }
    }

    fn due(&mut self, id: u64, now: Instant, closed: &impl Fn(&T) -> bool, acts: &mut Vec<Act<T>>) {
        // Only another interval can bring the next start before this one has given up.
        self.withdraw(id, acts);
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let interval = entry.slot.interval;
        // Whole intervals late: this process did not get to run at all (the machine slept, or is swamped).
        let missed = grid::whole(now.saturating_duration_since(entry.next), interval);
        let planned = entry.next + grid::times(interval, missed);
        entry.next = planned + interval;
        self.timers.insert((entry.next, Timer::Due(id)));
        let mut skip = |why, count| acts.push(Act::Skip { work: entry.slot.work.clone(), why, count });
        if entry.run.is_some() {
            skip(Skip::Running, missed + 1);
            return;
        }
        if missed > 0 {
            skip(Skip::Overload, missed);
        }
        if closed(&entry.slot.work) {
            skip(Skip::Window, 1);
            return;
        }
        let until = planned + self.limits.wait.min(interval / 2);
        entry.waiting = Some(Waiting { planned, until });
        self.expiries.insert((until, id));
        let server = entry.slot.server.clone();
        self.servers.entry(server.clone()).or_default().queue.push_back(id);
        self.offer(&server);
    }

    /// Starts what may start, the longest due first.
    fn admit(&mut self, now: Instant, acts: &mut Vec<Act<T>>) {
        while self.in_flight < self.limits.in_flight.max(1) && self.pace.blocked(now).is_none() {
            let Some((_, name)) = self.offers.pop_first() else { return };
            let Some(server) = self.servers.get_mut(&name) else { continue };
            server.offered = None;
            if server.in_flight >= self.limits.in_flight_per_server.max(1) {
                // The end of one of its runs offers it again.
                continue;
            }
            if let Some(free) = server.pace.blocked(now) {
                self.timers.insert((free, Timer::Server(name)));
                continue;
            }
            if let Some(entry) = server.queue.pop_front() {
                self.start(entry, &name, now, acts);
            }
            self.offer(&name);
        }
    }

    fn start(&mut self, id: u64, name: &Arc<str>, now: Instant, acts: &mut Vec<Act<T>>) {
        let (Some(entry), Some(server)) = (self.entries.get_mut(&id), self.servers.get_mut(name)) else { return };
        let Some(waiting) = entry.waiting.take() else { return };
        self.expiries.remove(&(waiting.until, id));
        let (slot, limits) = (&entry.slot, &self.limits);
        self.pace.take(now, slot.logins, limits.logins_per_second);
        server.pace.take(now, slot.logins, limits.logins_per_second_per_server);
        server.in_flight += 1;
        self.in_flight += 1;
        self.number += 1;
        let (run, patience) = (self.number, now + slot.patience);
        entry.run = Some(run);
        self.timers.insert((patience, Timer::Patience(run)));
        let work = slot.work.clone();
        acts.push(Act::Start { run, work: work.clone(), lag: now.saturating_duration_since(waiting.planned) });
        let allowed = slot.patience;
        let (server, patience) = (name.clone(), Some(patience));
        self.runs.insert(run, Run { entry: id, server, work, begun: now, allowed, patience });
    }

    /// Until when a run may stay that should have ended `at` some time. While this process did not get to run (SIGSTOP, a
    /// paused machine, no CPU) it had none, and gets as much more; and a moment after a timer that is late, to end by its own
    /// deadlines. None for one that has had its time.
    fn spared(&self, number: u64, at: Instant, now: Instant) -> Option<Instant> {
        let run = self.runs.get(&number)?;
        let until = run.begun + run.allowed + clock::paused(run.begun, now, Duration::ZERO);
        let late = now.saturating_duration_since(at) > LATE;
        Some(if late { until.max(now + SPARED) } else { until }).filter(|until| *until > now)
    }

    fn spare(&mut self, number: u64, patience: Instant) {
        let Some(run) = self.runs.get_mut(&number) else { return };
        run.patience = Some(patience);
        self.timers.insert((patience, Timer::Patience(number)));
    }

    fn give_up(&mut self, number: u64, acts: &mut Vec<Act<T>>) {
        let Some(run) = self.runs.get_mut(&number) else { return };
        run.patience = None;
        acts.push(Act::GiveUp { run: number, work: run.work.clone() });
        let server = run.server.clone();
        self.free(&server);
    }

    /// A place is free.
    fn free(&mut self, name: &Arc<str>) {
        self.in_flight -= 1;
        if let Some(server) = self.servers.get_mut(name) {
            server.in_flight -= 1;
        }
        self.offer(name);
    }

    /// Puts a server that has something to start among those that may, anew if its first in the queue is another one.
    fn offer(&mut self, name: &Arc<str>) {
        let Some(server) = self.servers.get_mut(name) else { return };
        let first = server.queue.front().and_then(|entry| self.entries.get(entry)?.waiting);
        let first = first.map(|waiting| waiting.planned);
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

    /// Skips a start that waits, if there is one.
    fn withdraw(&mut self, id: u64, acts: &mut Vec<Act<T>>) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let Some(waiting) = entry.waiting.take() else { return };
        self.expiries.remove(&(waiting.until, id));
        acts.push(Act::Skip { work: entry.slot.work.clone(), why: Skip::Limit, count: 1 });
        let server = entry.slot.server.clone();
        self.leave(id, &server);
    }

    /// Out of a server's queue.
    fn leave(&mut self, id: u64, name: &Arc<str>) {
        if let Some(server) = self.servers.get_mut(name) {
            server.queue.retain(|waiting| *waiting != id);
        }
        self.offer(name);
    }
}
