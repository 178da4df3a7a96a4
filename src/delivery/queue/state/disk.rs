//! The part of the queue's state that is about the disk: where runs are written, which are read back, and which are lost.
//!
//! Does no I/O: the caller passes the result. Called by [`Queue`](crate::delivery::queue::Queue).

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use imaptrace_record::Run;

use super::{QueueState, QueuedRun, Settlement};
use crate::delivery::queue::{
    load::Load,
    spool::{ReadBack, SegmentPosition},
};

impl QueueState {
    /// The arrival of the oldest run that is not on disk.
    pub(in crate::delivery::queue) fn oldest_unwritten(&self) -> Option<Instant> {
        self.all_unwritten().next().map(|queued| queued.arrived)
    }

    /// All runs that are not on disk, with their numbers.
    pub(in crate::delivery::queue) fn unwritten(&self) -> (Vec<u64>, Vec<Arc<Run>>) {
        self.all_unwritten().map(|queued| (queued.number, queued.run.clone())).unzip()
    }

    fn all_unwritten(&self) -> impl Iterator<Item = &QueuedRun> {
        let recent = self.recent.range(self.first_unwritten()..);
        self.in_flight.iter().chain(&self.reread).chain(recent).filter(|queued| queued.place.is_none())
    }

    /// Stores the outcome of a write. Returns whether it changed.
    pub(in crate::delivery::queue) fn note_disk(&mut self, outcome: &std::io::Result<()>) -> bool {
        let worked = std::mem::replace(&mut self.disk_works, outcome.is_ok());
        self.urgent &= outcome.is_ok();
        self.disk_failure = outcome.as_ref().err().map(ToString::to_string);
        worked != outcome.is_ok()
    }

    /// Stores where runs were written. Returns those that have left meanwhile, to be settled.
    pub(in crate::delivery::queue) fn place(&mut self, mut places: BTreeMap<u64, SegmentPosition>) -> Settlement {
        let first = self.first_unwritten();
        // Runs that were on disk before are older, and still wait.
        let older = self.next_stored().is_some() || self.in_flight.iter().any(|queued| queued.place.is_some());
        let waiting = self.in_flight.iter_mut().chain(&mut self.reread).chain(self.recent.range_mut(first..));
        let mut oldest = None;
        for queued in waiting.filter(|queued| queued.place.is_none()) {
            if let Some(place) = places.remove(&queued.number) {
                queued.place = Some(place);
                oldest = oldest.or(Some(place));
                self.unwritten -= 1;
            }
        }
        let mut gone = Settlement::default();
        for place in places.into_values() {
            *gone.runs.entry(place.segment).or_default() += 1;
            if !older && oldest.is_none_or(|oldest| place < oldest) {
                gone.through = Some(place);
            }
        }
        gone
    }

    /// Marks runs whose segment is gone as not written, so that they are written again.
    pub(in crate::delivery::queue) fn rewrite_lost(&mut self) {
        let first = self.stored.first;
        for queued in self.in_flight.iter_mut().chain(&mut self.reread) {
            if queued.place.is_some_and(|place| place.segment < first) {
                queued.place = None;
                self.unwritten += 1;
            }
        }
    }

    /// A segment is deleted with `left` unsettled runs. Returns how many of them are lost.
    pub(in crate::delivery::queue) fn forget(&mut self, segment: u64, left: u64) -> u64 {
        while self.recent.front().is_some_and(|oldest| oldest.is_in(segment)) {
            self.pop_recent();
        }
        if self.unread.is_some_and(|place| place.segment == segment) {
            self.unread = Some(SegmentPosition::start(segment + 1));
        }
        self.lost(segment, left)
    }

    /// How many of `left` unsettled runs are lost with their segment: those that are neither in memory nor acknowledged.
    fn lost(&self, segment: u64, left: u64) -> u64 {
        let held = self.in_memory().filter(|queued| queued.is_in(segment)).count();
        let acknowledged = self.acknowledged.get(&segment).copied().unwrap_or_default();
        left.saturating_sub(held as u64 + acknowledged)
    }

    /// The file of the oldest segment is missing: its runs in memory are written again.
    fn forget_place(&mut self, segment: u64) {
        // Unwritten runs must not stand between those on disk.
        while self.recent.front().is_some_and(|oldest| oldest.is_in(segment)) {
            let Some(queued) = self.pop_recent() else { break };
            self.load.add(queued.load);
            self.reread.push_back(queued);
        }
        for queued in self.in_flight.iter_mut().chain(&mut self.reread).filter(|queued| queued.is_in(segment)) {
            queued.place = None;
            self.unwritten += 1;
        }
    }

    /// The place to read from and the end, if the oldest run is on disk only.
    pub(in crate::delivery::queue) fn next_read(&self) -> Option<(SegmentPosition, Option<SegmentPosition>)> {
        Some((self.unread?, self.recent.front().and_then(|oldest| oldest.place)))
    }

    /// Adds runs that were read from disk, which ends at `end`. `stuck`: nothing can be read now. Returns how many runs are damaged
    /// or lost with their file.
    pub(in crate::delivery::queue) fn read_back(
        &mut self,
        back: ReadBack,
        stuck: bool,
        end: SegmentPosition,
        now: Instant,
    ) -> u64 {
        let mut corrupt = back.corrupt;
        for (segment, left) in &back.gone {
            let read = back.runs.iter().filter(|(place, _)| place.segment == *segment).count();
            corrupt += self.lost(*segment, *left).saturating_sub(read as u64);
        }
        for (place, run) in back.runs {
            let load = Load::of(&run);
            self.load.add(load);
            let number = self.next;
            self.reread.push_back(QueuedRun {
                number,
                run: Arc::new(run),
                load,
                arrived: now,
                place: Some(place),
                is_held: false,
            });
            self.next += 1;
        }
        for segment in back.gone.keys() {
            self.forget_place(*segment);
        }
        // More runs may have left memory meanwhile.
        let end = self.recent.front().and_then(|oldest| oldest.place).unwrap_or(end);
        self.unread = Some(back.next).filter(|next| stuck || *next < end);
        corrupt
    }
}
