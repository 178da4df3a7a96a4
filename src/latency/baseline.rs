//! The usual time of one step, or of First Loading Latency: a running median of the last passed runs, and a slower one of the
//! last day.
//!
//! A lasting change has the majority of the running median after 32 runs, of the day's after 12 hours. What is slow by either is
//! slow. Called by `history`.

use super::{
    day_baseline::{DayBaseline, Hour},
    running_median::{RunningMedian, WINDOW},
    slow_rule::Distance,
};

/// The number of newest values that show a shift.
const NEWEST: usize = 31;

/// The number of newest values that are the present, when it is accepted as usual.
const PRESENT: usize = 5;

/// One series. Times are whole microseconds; a longer time than 71 minutes counts as 71 minutes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Baseline {
    pub(super) running: RunningMedian,
    pub(super) day: DayBaseline,
    /// Passed runs that entered.
    pub(super) runs: u32,
    /// The level that the last shift went to, or the first one found; 0 while there are not yet [`NEWEST`] values.
    pub(super) settled: u32,
}

/// The baselines that a value is compared with. Each is absent before there is enough of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Levels {
    pub(super) running: Option<u32>,
    pub(super) day: Option<u32>,
}

impl Baseline {
    pub(super) const fn new() -> Self {
        Self { running: RunningMedian::new(), day: DayBaseline::new(), runs: 0, settled: 0 }
    }

    /// A series from its saved form, its values oldest first; none if no series can have that form.
    pub(super) fn restore(runs: u32, settled: u32, values: &[u32], day: DayBaseline) -> Option<Self> {
        let (_, in_hour) = day.current();
        let possible = (1..=WINDOW).contains(&values.len()) && runs > 0 && usize::from(in_hour) <= values.len();
        let settled = if values.len() < NEWEST { 0 } else { settled };
        possible.then(|| Self { running: RunningMedian::of(values), day, runs, settled })
    }

    /// What a value of a run in this hour is compared with.
    pub(super) fn levels(&self, hour: Hour, min_runs: u32) -> Levels {
        if self.runs < min_runs {
            return Levels::default();
        }
        Levels { running: self.running.median(), day: self.day.median(hour, &self.running) }
    }

    /// Enters a value of a run in this hour. A run can have several for one step (CAPABILITY before and after login): all enter,
    /// the first counts the run.
    pub(super) fn enter(&mut self, value: u32, hour: Hour, counts: bool) {
        self.day.enter(hour, &self.running);
        self.running.push(value);
        self.runs = self.runs.saturating_add(u32::from(counts));
    }

    /// Removes all but the newest values: they are what is usual, and no shift led there. The day begins again.
    pub(super) fn accept(&mut self) {
        let values = self.running.oldest_first();
        self.running = RunningMedian::of(&values[values.len().saturating_sub(PRESENT)..]);
        (self.day, self.settled) = (DayBaseline::new(), 0);
    }

    /// The old and the new level if it has moved for good, returned once. Call it after each value that enters.
    ///
    /// It has moved when the median and three quarters of the newest 31 values are at least `apart` from the level returned last,
    /// all on the same side; the new level is the median of those 31. Neither outliers nor a wide spread of times move it.
    pub(super) fn shift(&mut self, apart: Distance, min_runs: u32) -> Option<(u32, u32)> {
        if self.settled == 0 {
            let enough = self.running.len() >= NEWEST && self.runs >= min_runs;
            self.settled = self.running.median().filter(|_| enough).map_or(0, |median| median.max(1));
            return None;
        }
        let from = self.settled;
        let moved = |value| apart.between(value, from) || apart.between(from, value);
        // If three quarters of the newest values are past the level, the last one nearly always is: else no sorting is needed.
        if !moved(self.running.newest_first().next()?) {
            return None;
        }
        let mut newest: Vec<u32> = self.running.newest_first().take(NEWEST).collect();
        newest.sort_unstable();
        let (low, to, high) = (newest[NEWEST / 4], newest[NEWEST / 2], newest[NEWEST - 1 - NEWEST / 4]);
        let median = self.running.median()?;
        if !apart.between(low.min(median), from) && !apart.between(from, high.max(median)) {
            return None;
        }
        self.settled = to.max(1);
        Some((from, to))
    }
}
