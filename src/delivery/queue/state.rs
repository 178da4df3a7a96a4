//! The order of the runs that wait: which is next, which may leave memory, which would be lost with the process.
//!
//! Moves runs between the hands of [`queue`](super::queue) and knows where each is on disk; touches no disk, waits for
//! nobody and counts nothing for telemetry.

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::Arc,
    time::Instant,
};

use imaptrace_record::Run;

use super::{
    load::Load,
    spool::{Figures, Place},
};
use crate::delivery::{log_throttle::Repeats, report::Dropped};

/// A batch is full with this many spans.
pub(super) const BATCH_SPANS: usize = 512;

/// Memory that runs may take over the budget while a disk that works has not got to them yet.
const SLACK: usize = 8 << 20;

#[derive(Default)]
pub(super) struct State {
    /// On their way, not answered yet: the oldest of all.
    pub(super) flying: VecDeque<Entry>,
    /// Read back from disk, or put back.
    pub(super) ahead: VecDeque<Entry>,
    /// What came last. Those on disk come before those that are not.
    pub(super) recent: VecDeque<Entry>,
    /// What all three hold.
    pub(super) load: Load,
    pub(super) recent_spans: usize,
    /// Entries that are not on disk.
    pub(super) fresh: usize,
    /// Where the oldest run is that is on disk alone, if there may be one.
    pub(super) unread: Option<Place>,
    pub(super) stored: Figures,
    /// What has ended its way is still being noted on disk.
    pub(super) settling: usize,
    /// What of them the disk can be told now, and how far it goes.
    pub(super) due: (BTreeMap<u64, u64>, Option<Place>),
    /// Runs whose way has ended, and which the disk still counts as left, by segment.
    pub(super) landed: BTreeMap<u64, u64>,
    /// Memory is over its budget and waits for the disk.
    pub(super) urgent: bool,
    /// The disk takes what it is given.
    pub(super) disk_works: bool,
    pub(super) disk_failure: Option<String>,
    /// What was measured as the size.
    pub(super) told_size: i64,
    pub(super) draining: u32,
    pub(super) failed_in_hurry: u32,
    pub(super) delivered: u64,
    pub(super) dropped: Dropped,
    pub(super) failure: Option<String>,
    /// What the receiver said when it last refused runs for good.
    pub(super) refusal: Option<String>,
    /// Where refused runs are put aside; none before the first.
    pub(super) refused_in: Option<PathBuf>,
    pub(super) told: Told,
    /// The number of the run that comes next.
    pub(super) next: u64,
}

/// What was logged, and need not be again.
#[derive(Default)]
pub(super) struct Told {
    /// That runs are dropped over the budget; until a batch arrives.
    pub(super) full: bool,
    /// That what is on disk cannot be read.
    pub(super) stuck: bool,
    /// That it is damaged.
    pub(super) damaged: Repeats,
    /// That refused runs cannot be put aside.
    pub(super) unkept: Repeats,
}

/// A run in memory.
pub(super) struct Entry {
    pub(super) number: u64,
    pub(super) run: Arc<Run>,
    pub(super) load: Load,
    pub(super) arrived: Instant,
    pub(super) place: Option<Place>,
}

impl State {
    pub(super) fn has_some(&self) -> bool {
        !self.ahead.is_empty() || self.unread.is_some() || !self.recent.is_empty()
    }

    pub(super) fn is_ready(&self) -> bool {
        !self.recent.is_empty() && (self.draining > 0 || self.recent_spans >= BATCH_SPANS)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.flying.is_empty() && self.settling == 0 && !self.has_some()
    }

    /// When the oldest run came that is not on disk.
    pub(super) fn oldest_fresh(&self) -> Option<Instant> {
        let first = self.recent.partition_point(|entry| entry.place.is_some());
        let old = self.flying.iter().chain(&self.ahead).filter(|entry| entry.place.is_none());
        old.chain(self.recent.get(first)).next().map(|entry| entry.arrived)
    }

    /// Runs that would be lost with the process: not on disk, or no more.
    pub(super) fn homeless(&self) -> impl Iterator<Item = &Entry> {
        let first = self.stored.first;
        let all = self.flying.iter().chain(&self.ahead).chain(&self.recent);
        all.filter(move |entry| entry.place.is_none_or(|place| place.segment < first))
    }

    /// The next batch starts its way; none if the oldest run has to be read from disk first.
    pub(super) fn take_off(&mut self) -> Vec<Arc<Run>> {
        if self.ahead.is_empty() && self.unread.is_some() {
            return Vec::new();
        }
        let recent = self.ahead.is_empty();
        let mut spans = 0;
        loop {
            let source = if recent { &mut self.recent } else { &mut self.ahead };
            let Some(next) = source.front() else { break };
            if spans > 0 && spans + next.load.spans > BATCH_SPANS {
                break;
            }
            spans += next.load.spans;
            self.flying.extend(source.pop_front());
        }
        self.recent_spans -= if recent { spans } else { 0 };
        self.flying.iter().map(|entry| entry.run.clone()).collect()
    }

    /// The batch was too much: half of it goes on its way, the rest is next.
    pub(super) fn halve(&mut self) -> Vec<Arc<Run>> {
        for entry in self.flying.split_off(self.flying.len().div_ceil(2)).into_iter().rev() {
            self.ahead.push_front(entry);
        }
        self.flying.iter().map(|entry| entry.run.clone()).collect()
    }

    /// The batch on its way has come to its end. What of it is on disk, by segment, and how far.
    pub(super) fn land(&mut self) -> (Vec<Arc<Run>>, BTreeMap<u64, u64>, Option<Place>) {
        let mut places = BTreeMap::new();
        let mut through = None;
        let mut runs = Vec::new();
        for entry in std::mem::take(&mut self.flying) {
            self.load.remove(entry.load);
            match entry.place {
                Some(place) => {
                    *places.entry(place.segment).or_default() += 1;
                    *self.landed.entry(place.segment).or_default() += 1;
                    through = Some(place);
                }
                None => self.fresh -= 1,
            }
            runs.push(entry.run);
        }
        self.settling += 1;
        // At the end of the process some may have been written again, behind what is newer.
        let through = through.filter(|through| self.next_stored().is_none_or(|next| *through < next));
        (runs, places, through)
    }

    /// Where the oldest run is on disk that waits and is not on its way.
    fn next_stored(&self) -> Option<Place> {
        let first = |entries: &VecDeque<Entry>| entries.front().and_then(|entry| entry.place);
        first(&self.ahead).or(self.unread).or_else(|| first(&self.recent))
    }

    pub(super) fn pop_recent(&mut self) -> Option<Entry> {
        let entry = self.recent.pop_front()?;
        self.load.remove(entry.load);
        self.recent_spans -= entry.load.spans;
        self.fresh -= usize::from(entry.place.is_none());
        Some(entry)
    }

    /// Brings memory within its budget. Gives how many runs are gone for good.
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

    /// Notes where runs are on disk now. Gives those that have left meanwhile, and whether all older ones have.
    pub(super) fn place(&mut self, mut places: BTreeMap<u64, Place>) -> (BTreeMap<u64, u64>, Option<Place>) {
        let first = self.recent.partition_point(|entry| entry.place.is_some());
        // What was on disk before is older, and still waits.
        let older = self.next_stored().is_some() || self.flying.iter().any(|entry| entry.place.is_some());
        let waiting = self.flying.iter_mut().chain(&mut self.ahead).chain(self.recent.range_mut(first..));
        let mut oldest = None;
        for entry in waiting.filter(|entry| entry.place.is_none()) {
            if let Some(place) = places.remove(&entry.number) {
                entry.place = Some(place);
                oldest = oldest.or(Some(place));
                self.fresh -= 1;
            }
        }
        let mut gone = BTreeMap::new();
        let mut through = None;
        for place in places.into_values() {
            *gone.entry(place.segment).or_default() += 1;
            if !older && oldest.is_none_or(|oldest| place < oldest) {
                through = Some(place);
            }
        }
        (gone, through)
    }

    /// What is in memory and on disk no more has to be written again.
    pub(super) fn resettle(&mut self) {
        let first = self.stored.first;
        for entry in self.flying.iter_mut().chain(&mut self.ahead) {
            if entry.place.is_some_and(|place| place.segment < first) {
                entry.place = None;
                self.fresh += 1;
            }
        }
    }

    /// A segment is gone with so many runs that were left in it. Gives how many of them are lost.
    pub(super) fn forget(&mut self, segment: u64, left: u64) -> u64 {
        let here = |place: Option<Place>| place.is_some_and(|place| place.segment == segment);
        while self.recent.front().is_some_and(|oldest| here(oldest.place)) {
            self.pop_recent();
        }
        if here(self.unread) {
            self.unread = Some(Place::start(segment + 1));
        }
        self.lost(segment, left)
    }

    /// These runs are no more counted on disk.
    pub(super) fn settled(&mut self, places: &BTreeMap<u64, u64>) {
        for (segment, runs) in places {
            let left = self.landed.get(segment).copied().unwrap_or_default().saturating_sub(*runs);
            self.landed.insert(*segment, left);
        }
        self.landed.retain(|_, left| *left > 0);
    }

    /// How many of so many runs that were left in a segment are gone with it: what is in memory goes on, and what has
    /// arrived is not lost.
    pub(super) fn lost(&self, segment: u64, left: u64) -> u64 {
        let all = self.flying.iter().chain(&self.ahead).chain(&self.recent);
        let held = all.filter(|entry| entry.place.is_some_and(|place| place.segment == segment)).count();
        let landed = self.landed.get(&segment).copied().unwrap_or_default();
        left.saturating_sub(held as u64 + landed)
    }

    /// The file of the oldest segment is gone: what memory has of it is written again.
    pub(super) fn unplace(&mut self, segment: u64) {
        let here = |place: Option<Place>| place.is_some_and(|place| place.segment == segment);
        // Not in the midst of those that are on disk.
        while self.recent.front().is_some_and(|oldest| here(oldest.place)) {
            let Some(entry) = self.pop_recent() else { break };
            self.load.add(entry.load);
            self.ahead.push_back(entry);
        }
        for entry in self.flying.iter_mut().chain(&mut self.ahead).filter(|entry| here(entry.place)) {
            entry.place = None;
            self.fresh += 1;
        }
    }
}

impl State {
    /// Notes how a write went. Gives whether that is news.
    pub(super) fn note_disk(&mut self, outcome: &std::io::Result<()>) -> bool {
        let worked = std::mem::replace(&mut self.disk_works, outcome.is_ok());
        self.urgent &= outcome.is_ok();
        self.disk_failure = outcome.as_ref().err().map(ToString::to_string);
        worked != outcome.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn entry(number: u64, place: Option<Place>) -> Entry {
        let run: Run = serde_json::from_str(imaptrace_testkit::PASSED_RUN).unwrap();
        Entry { number, load: Load::of(&run), run: Arc::new(run), arrived: clock::now(), place }
    }

    /// What waits, by its place, and so many behind it that are on no disk.
    fn state(flying: &[Option<u64>], recent: &[Option<u64>]) -> State {
        let mut state = State::default();
        for (number, segment) in (0..).zip(flying.iter().chain(recent)) {
            let entry = entry(number, segment.map(Place::start));
            state.load.add(entry.load);
            state.fresh += usize::from(segment.is_none());
            if number < flying.len() as u64 {
                state.flying.push_back(entry);
            } else {
                state.recent_spans += entry.load.spans;
                state.recent.push_back(entry);
            }
        }
        state
    }

    #[test]
    fn what_left_while_it_was_written_settles_nothing_that_is_older_and_waits() {
        let written = || BTreeMap::from([(7, Place::start(7)), (8, Place::start(8))]);
        for (flying, recent, unread, through) in [
            // All that was older has left: 7 was delivered, and 8 too.
            (vec![], vec![], None, Some(8)),
            (vec![Some(1)], vec![], None, None),
            (vec![], vec![Some(1)], None, None),
            (vec![], vec![], Some(1), None),
        ] {
            let mut state = State { unread: unread.map(Place::start), ..state(&flying, &recent) };
            let (gone, settled) = state.place(written());
            assert_eq!(gone, BTreeMap::from([(7, 1), (8, 1)]));
            assert_eq!(settled, through.map(Place::start), "{flying:?} {recent:?} {unread:?}");
        }
        // 0 waits on no disk and is written now: what left behind it settles nothing before it.
        let mut state = state(&[None], &[]);
        let (gone, settled) = state.place(BTreeMap::from([(0, Place::start(6)), (7, Place::start(7))]));
        assert_eq!((gone, settled, state.fresh), (BTreeMap::from([(7, 1)]), None, 0));
    }

    #[test]
    fn what_has_arrived_is_not_lost_with_a_segment_that_does_not_know_it_yet() {
        let mut state = state(&[Some(3), Some(3), Some(4)], &[Some(4)]);
        let (_, places, _) = state.land();
        assert_eq!(state.forget(3, 5), 3);
        assert_eq!(state.forget(4, 2), 1);
        state.settled(&places);
        assert_eq!(state.forget(3, 5), 5);
    }

    #[test]
    fn a_batch_that_was_written_again_behind_newer_runs_settles_only_itself() {
        let (_, places, through) = state(&[Some(3), Some(4)], &[Some(5)]).land();
        assert_eq!((places, through), (BTreeMap::from([(3, 1), (4, 1)]), Some(Place::start(4))));
        let (_, places, through) = state(&[Some(9)], &[Some(5)]).land();
        assert_eq!((places, through), (BTreeMap::from([(9, 1)]), None));
    }
}
