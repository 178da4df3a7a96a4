//! The state of the queue: the order of waiting runs, where each is on disk, and the counts.
//!
//! Decides which runs are next, which may leave memory, and which would be lost with the process. Does no I/O.
//! [`Queue`](super::Queue) calls it under a lock.

mod disk;

use std::{
    collections::{BTreeMap, VecDeque},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Instant, SystemTime},
};

use imaptrace_record::{Run, Seconds};

use super::{
    load::Load,
    spool::{Figures, SegmentPosition},
};
use crate::{
    delivery::{
        log_throttle::LogThrottle,
        report::{Dropped, Report, Status},
    },
    telemetry::names::DropReason,
};

/// A batch is full with this many spans.
pub(in crate::delivery) const BATCH_SPANS: usize = 512;

/// Memory that runs may take over the budget until a working disk has written them.
const SLACK: usize = 8 << 20;

/// Numbers of runs by segment.
pub(super) type RunsBySegment = BTreeMap<u64, u64>;

#[derive(Default)]
pub(super) struct QueueState {
    /// The oldest: dispatched and not acknowledged.
    in_flight: VecDeque<QueuedRun>,
    /// Read back from disk, or put back after a batch was halved.
    pub(super) reread: VecDeque<QueuedRun>,
    /// The newest; those on disk come first.
    recent: VecDeque<QueuedRun>,
    /// Total of all three.
    load: Load,
    recent_spans: usize,
    /// How many of all three are not on disk.
    pub(super) unwritten: usize,
    /// The place of the oldest run that may be on disk only.
    pub(super) unread: Option<SegmentPosition>,
    pub(super) stored: Figures,
    /// Batches whose end is not recorded on disk yet.
    pub(super) settling: usize,
    /// To be recorded on disk.
    pub(super) due: Settlement,
    /// Delivered or refused runs that count as left on disk.
    acknowledged: RunsBySegment,
    /// Memory is over its budget and waits for the disk.
    pub(super) urgent: bool,
    disk_works: bool,
    pub(super) disk_failure: Option<String>,
    /// The exported size.
    measured_size: i64,
    pub(super) draining: u32,
    /// Failed attempts since the last drain began.
    failed_while_draining: u32,
    delivered: u64,
    dropped: Dropped,
    failure: Option<String>,
    /// The receiver's reason when it last refused runs permanently.
    refusal: Option<String>,
    /// Where refused runs are kept; none before the first.
    refused_in: Option<PathBuf>,
    pub(super) logged: Logged,
    next: u64,
}

/// What was logged and need not be logged again.
#[derive(Default)]
pub(super) struct Logged {
    /// Runs are dropped over the budget; reset when a batch is delivered.
    pub(super) full: bool,
    /// The disk cannot be read.
    pub(super) stuck: bool,
    /// The data on disk are damaged.
    pub(super) damaged: LogThrottle,
    /// Refused runs cannot be kept.
    pub(super) unkept: LogThrottle,
}

pub(super) struct QueuedRun {
    number: u64,
    run: Arc<Run>,
    load: Load,
    arrived: Instant,
    place: Option<SegmentPosition>,
    /// It may be replaced ([`QueueState::release`]): it and all behind it wait.
    is_held: bool,
}

impl QueuedRun {
    fn is_in(&self, segment: u64) -> bool {
        self.place.is_some_and(|place| place.segment == segment)
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Settlement {
    /// How many in each segment.
    pub(super) runs: RunsBySegment,
    /// All runs up to this place are settled.
    pub(super) through: Option<SegmentPosition>,
}

/// A batch that is delivered or refused.
#[derive(Default)]
pub(super) struct Completed {
    pub(super) runs: Vec<Arc<Run>>,
    pub(super) settlement: Settlement,
    /// How many of the runs count as refused.
    pub(super) refused: u64,
}

impl QueueState {
    /// `disk_failure`: why the disk cannot be used.
    pub(super) fn new(has_disk: bool, disk_failure: Option<String>) -> Self {
        Self { disk_works: has_disk && disk_failure.is_none(), disk_failure, ..Self::default() }
    }

    // === Runs that arrive and leave ===

    /// Adds a new run. Returns how many were dropped over the memory budget, and whether to wake waiting tasks: for a first run, a
    /// full batch, or the disk.
    pub(super) fn push(
        &mut self,
        run: Arc<Run>,
        load: Load,
        now: Instant,
        budget: usize,
        is_held: bool,
    ) -> (u64, bool) {
        let first = self.recent.is_empty() || self.unwritten == 0;
        let was_urgent = self.urgent;
        // While the queue is drained nothing waits.
        let is_held = is_held && self.draining == 0;
        self.recent.push_back(QueuedRun { number: self.next, run, load, arrived: now, place: None, is_held });
        self.next += 1;
        self.load.add(load);
        self.recent_spans += load.spans;
        self.unwritten += 1;
        let dropped = self.shrink(budget);
        (dropped, first || self.is_ready() || (self.urgent && !was_urgent))
    }

    /// The number of the last run that was pushed.
    pub(super) fn last_number(&self) -> u64 {
        self.next.saturating_sub(1)
    }

    /// Ends the hold of a run, and replaces it by `run` if that is given. Nothing happens when it has left memory. Returns
    /// how many runs were dropped over the budget, and whether to wake waiting tasks.
    pub(super) fn release(&mut self, number: u64, run: Option<(Arc<Run>, Load)>, budget: usize) -> (u64, bool) {
        let Ok(at) = self.recent.binary_search_by_key(&number, |queued| queued.number) else { return (0, false) };
        let Some(queued) = self.recent.get_mut(at) else { return (0, false) };
        queued.is_held = false;
        if let Some((run, load)) = run {
            self.load.remove(queued.load);
            self.recent_spans -= queued.load.spans;
            (queued.run, queued.load) = (run, load);
            self.load.add(load);
            self.recent_spans += load.spans;
        }
        let was_urgent = self.urgent;
        (self.shrink(budget), at == 0 || (self.urgent && !was_urgent))
    }

    /// Whether a run waits that is not in flight and not held.
    pub(super) fn has_next(&self) -> bool {
        !self.reread.is_empty() || self.unread.is_some() || self.recent.front().is_some_and(|next| !next.is_held)
    }

    /// Whether a run waits that is not in flight.
    pub(super) fn has_some(&self) -> bool {
        !self.reread.is_empty() || self.unread.is_some() || !self.recent.is_empty()
    }

    /// Whether recent runs fill a batch, or the queue is drained.
    pub(super) fn is_ready(&self) -> bool {
        !self.recent.is_empty() && (self.draining > 0 || self.recent_spans >= BATCH_SPANS)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.in_flight.is_empty() && self.settling == 0 && !self.has_some()
    }

    /// Whether the next run is on disk only.
    pub(super) fn must_read(&self) -> bool {
        self.reread.is_empty() && self.unread.is_some()
    }

    /// Dispatches the next batch; empty if the oldest run has to be read from disk first.
    pub(super) fn dispatch(&mut self) -> Vec<Arc<Run>> {
        if self.must_read() {
            return Vec::new();
        }
        let recent = self.reread.is_empty();
        let mut spans = 0;
        loop {
            let source = if recent { &mut self.recent } else { &mut self.reread };
            let Some(next) = source.front() else { break };
            if next.is_held || spans > 0 && spans + next.load.spans > BATCH_SPANS {
                break;
            }
            spans += next.load.spans;
            self.in_flight.extend(source.pop_front());
        }
        self.recent_spans -= if recent { spans } else { 0 };
        self.batch()
    }

    /// The batch in flight was too large: half of it stays in flight, the rest is next.
    pub(super) fn halve(&mut self) -> Vec<Arc<Run>> {
        for queued in self.in_flight.split_off(self.in_flight.len().div_ceil(2)).into_iter().rev() {
            self.reread.push_front(queued);
        }
        self.batch()
    }

    fn batch(&self) -> Vec<Arc<Run>> {
        self.in_flight.iter().map(|queued| queued.run.clone()).collect()
    }

    /// The batch in flight was accepted, except for `refused_spans`. Which ones is unknown, so as many runs count as refused as
    /// have that many spans on average.
    pub(super) fn delivered(&mut self, refused_spans: u64) -> Completed {
        let spans: usize = self.in_flight.iter().map(|queued| queued.load.spans).sum();
        let runs = self.in_flight.len() as u64;
        let refused = (refused_spans.saturating_mul(runs)).div_ceil(spans.max(1) as u64).min(runs);
        self.delivered += runs - refused;
        self.failure = None;
        self.failed_while_draining = 0;
        self.logged.full = false;
        self.complete(refused)
    }

    /// The batch in flight was refused permanently.
    pub(super) fn refused(&mut self, reason: String) -> Completed {
        self.failure = Some(reason.clone());
        self.refusal = Some(reason);
        self.complete(self.in_flight.len() as u64)
    }

    fn complete(&mut self, refused: u64) -> Completed {
        let mut settlement = Settlement::default();
        let mut runs = Vec::new();
        for queued in std::mem::take(&mut self.in_flight) {
            self.load.remove(queued.load);
            match queued.place {
                Some(place) => {
                    *settlement.runs.entry(place.segment).or_default() += 1;
                    *self.acknowledged.entry(place.segment).or_default() += 1;
                    settlement.through = Some(place);
                }
                None => self.unwritten -= 1,
            }
            runs.push(queued.run);
        }
        self.settling += 1;
        // Runs that were written again at the end of the process are after newer ones.
        let next = self.next_stored();
        settlement.through = settlement.through.filter(|through| next.is_none_or(|next| *through < next));
        Completed { runs, settlement, refused }
    }

    /// An attempt to deliver failed; the batch stays in flight. Returns whether the queue is being drained.
    pub(super) fn failed(&mut self, reason: String) -> bool {
        self.failure = Some(reason);
        self.failed_while_draining += u32::from(self.draining > 0);
        self.draining > 0
    }

    /// The place of the oldest waiting run on disk that is not in flight.
    fn next_stored(&self) -> Option<SegmentPosition> {
        let first = |runs: &VecDeque<QueuedRun>| runs.front().and_then(|queued| queued.place);
        first(&self.reread).or(self.unread).or_else(|| first(&self.recent))
    }

    // === Draining ===

    pub(super) fn begin_drain(&mut self) {
        self.draining += 1;
        self.failed_while_draining = 0;
        for queued in &mut self.recent {
            queued.is_held = false;
        }
    }

    /// Whether nothing is left, or `attempts` have failed since the drain began.
    pub(super) fn is_drained(&self, attempts: u32) -> bool {
        self.is_empty() || self.failed_while_draining >= attempts
    }

    // === Memory ===

    fn pop_recent(&mut self) -> Option<QueuedRun> {
        let queued = self.recent.pop_front()?;
        self.load.remove(queued.load);
        self.recent_spans -= queued.load.spans;
        self.unwritten -= usize::from(queued.place.is_none());
        Some(queued)
    }

    /// Reduces memory to its budget. Returns how many runs are dropped.
    pub(super) fn shrink(&mut self, budget: usize) -> u64 {
        let mut dropped = 0;
        self.urgent = false;
        while self.load.bytes > budget {
            match self.recent.front().map(|oldest| oldest.place) {
                None => break,
                Some(Some(place)) => self.unread = self.unread.or(Some(place)),
                Some(None) if self.disk_works && self.load.bytes - budget <= budget.max(SLACK) => {
                    self.urgent = true;
                    break;
                }
                Some(None) => dropped += 1,
            }
            self.pop_recent();
        }
        dropped
    }

    /// Runs held only in memory.
    fn memory_only(&self) -> impl Iterator<Item = &QueuedRun> {
        let first = self.stored.first;
        self.in_memory().filter(move |queued| queued.place.is_none_or(|place| place.segment < first))
    }

    fn in_memory(&self) -> impl Iterator<Item = &QueuedRun> {
        self.in_flight.iter().chain(&self.reread).chain(&self.recent)
    }

    /// The first of the recent runs that is not on disk.
    fn first_unwritten(&self) -> usize {
        self.recent.partition_point(|queued| queued.place.is_some())
    }

    // === Settling ===

    /// Adds to what is to be recorded on disk. Returns whether there was nothing before.
    pub(super) fn add_due(&mut self, settlement: Settlement) -> bool {
        let first = self.due.runs.is_empty();
        for (segment, runs) in settlement.runs {
            *self.due.runs.entry(segment).or_default() += runs;
        }
        self.due.through = settlement.through.or(self.due.through);
        first
    }

    /// These runs are recorded on disk.
    pub(super) fn settled(&mut self, places: &RunsBySegment) {
        for (segment, runs) in places {
            let left = self.acknowledged.get(segment).copied().unwrap_or_default().saturating_sub(*runs);
            self.acknowledged.insert(*segment, left);
        }
        self.acknowledged.retain(|_, left| *left > 0);
    }

    /// Stores the directory of the dead letters. Returns whether these are the first.
    pub(super) fn note_dead_letters(&mut self, directory: Option<&Path>) -> bool {
        let first = self.refused_in.is_none();
        self.refused_in = directory.map(Path::to_owned);
        first
    }

    // === Counting ===

    pub(super) fn count_dropped(&mut self, reason: DropReason, runs: u64) {
        *match reason {
            DropReason::Budget => &mut self.dropped.budget,
            DropReason::Refused => &mut self.dropped.refused,
            DropReason::Corrupt => &mut self.dropped.corrupt,
        } += runs;
    }

    /// The change of the size in memory and on disk since the last call.
    pub(super) fn size_change(&mut self) -> i64 {
        let size = i64::try_from(self.load.bytes).unwrap_or(i64::MAX).saturating_add_unsigned(self.stored.bytes);
        size - std::mem::replace(&mut self.measured_size, size)
    }

    /// The result at the end. `late`: the reason if no attempt failed.
    pub(super) fn report(&self, late: Option<String>) -> Report {
        Report {
            delivered_runs: self.delivered,
            stored_runs: self.stored.runs,
            undelivered_runs: self.memory_only().count() as u64,
            undelivered_spans: self.memory_only().map(|queued| queued.load.spans as u64).sum(),
            dropped: self.dropped,
            refusal: self.refusal.clone(),
            refused_in: self.refused_in.clone(),
            metrics_delivered: false,
            reason: self.failure.clone().or(late),
        }
    }

    /// `memory` and `disk` are the limits, if there is a disk.
    pub(super) fn status(&self, memory: u64, disk: Option<u64>, now: Instant, wall: SystemTime) -> Status {
        let in_memory = self.in_memory().next().map(|queued| now.saturating_duration_since(queued.arrived));
        let on_disk = self.stored.oldest.and_then(|written| wall.duration_since(written).ok());
        Status {
            queued_runs: self.stored.runs + self.memory_only().count() as u64,
            stored_runs: disk.map(|_| self.stored.runs),
            memory_bytes: self.load.bytes as u64,
            memory_limit_bytes: Some(memory),
            disk_bytes: disk.map(|_| self.stored.bytes),
            disk_limit_bytes: disk,
            oldest_s: in_memory.max(on_disk).map(Seconds::from),
            delivered_runs: self.delivered,
            dropped_runs: self.dropped,
            failure: self.failure.clone(),
            disk_failure: self.disk_failure.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
