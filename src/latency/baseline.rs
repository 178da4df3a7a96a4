//! The usual time of one step: an exact running median over its last [`WINDOW`] passed runs.
//!
//! Running medians as a smoother are Tukey's (*Exploratory Data Analysis*, 1977, chapter 7). For wide windows a double heap is
//! quickest (Härdle and Steiger, "Algorithm AS 296: Optimal median smoothing", *Applied Statistics* 44(2), 1995, pp. 258–264,
//! doi:10.2307/2986349); at 63 values its heaps need more memory than the values, and sorting a copy takes about a microsecond.
//!
//! The breakdown point is one half: with up to 31 of the 63 values arbitrary, the median stays within the range of the other
//! 32. A lasting change has the majority, and the baseline, after 32 runs. Called by `history`.

use super::slow_rule::Distance;

/// The number of values kept for each series.
pub(super) const WINDOW: usize = LEN as usize;
const LEN: u8 = 63;
/// The number of newest values that show a shift.
const NEWEST: usize = 31;

/// One series. Times are whole microseconds; a longer time than 71 minutes counts as 71 minutes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Baseline {
    values: [u32; WINDOW],
    /// Passed runs that entered.
    pub(super) runs: u32,
    /// The level that the last shift went to, or the first one found; 0 while there are not yet [`NEWEST`] values.
    pub(super) settled: u32,
    /// Where the next value goes.
    next: u8,
    len: u8,
}

impl Baseline {
    pub(super) const fn new() -> Self {
        Self { values: [0; WINDOW], runs: 0, settled: 0, next: 0, len: 0 }
    }

    /// A series from its saved form, its values oldest first; none if no series can have that form.
    pub(super) fn restore(runs: u32, settled: u32, values: &[u32]) -> Option<Self> {
        let possible = (1..=WINDOW).contains(&values.len()) && runs > 0;
        let mut all = Self::new();
        for value in values {
            all.push(*value);
        }
        let settled = if values.len() < NEWEST { 0 } else { settled };
        possible.then_some(Self { runs, settled, ..all })
    }

    /// The values kept, newest first.
    pub(super) fn newest_first(&self) -> impl Iterator<Item = u32> + '_ {
        let next = usize::from(self.next);
        (1..=usize::from(self.len)).map(move |back| self.values[(next + WINDOW - back) % WINDOW])
    }

    /// The median of the values kept: of an even number the mean of the middle two. None without values.
    pub(super) fn median(&self) -> Option<u32> {
        let (mut sorted, len) = (self.values, usize::from(self.len));
        sorted[..len].sort_unstable();
        (len > 0).then(|| sorted[(len - 1) / 2].midpoint(sorted[len / 2]))
    }

    /// Enters a value. A run can have several for one step (CAPABILITY before and after login): all enter, the first counts the run.
    pub(super) fn enter(&mut self, value: u32, counts: bool) {
        self.push(value);
        self.runs = self.runs.saturating_add(u32::from(counts));
    }

    fn push(&mut self, value: u32) {
        self.values[usize::from(self.next)] = value;
        self.next = (self.next + 1) % LEN;
        self.len = (self.len + 1).min(LEN);
    }

    /// The old and the new level if it has moved for good, returned once. Call it after each value that enters.
    ///
    /// It has moved when the median and three quarters of the newest 31 values are at least `apart` from the level returned last,
    /// all on the same side; the new level is the median of those 31. Neither outliers nor a wide spread of times move it.
    pub(super) fn shift(&mut self, apart: Distance, min_runs: u32) -> Option<(u32, u32)> {
        if self.settled == 0 {
            let enough = usize::from(self.len) >= NEWEST && self.runs >= min_runs;
            self.settled = self.median().filter(|_| enough).map_or(0, |median| median.max(1));
            return None;
        }
        let from = self.settled;
        let moved = |value| apart.between(value, from) || apart.between(from, value);
        // If three quarters of the newest values are past the level, the last one nearly always is: else no sorting is needed.
        if !moved(self.newest_first().next()?) {
            return None;
        }
        let mut newest: Vec<u32> = self.newest_first().take(NEWEST).collect();
        newest.sort_unstable();
        let (low, to, high) = (newest[NEWEST / 4], newest[NEWEST / 2], newest[NEWEST - 1 - NEWEST / 4]);
        let median = self.median()?;
        if !apart.between(low.min(median), from) && !apart.between(from, high.max(median)) {
            return None;
        }
        self.settled = to.max(1);
        Some((from, to))
    }
}
