//! The slow baseline of a series: the median of its medians of the last [`HOURS`] hours in which a run passed.
//!
//! The running median of 63 runs follows a lasting change within an hour at a run a minute. This one takes half a day, so that
//! what became slow in the night is still slow in the morning.
//!
//! Hours are those of the runs' `started_at`, since there is no clock here. An hour ends when a run of another hour is compared
//! or enters; the hour that has not ended does not count. Its median is that of its values, of more than 63 the last 63: they
//! are in the ring of the running median, so that only their number is kept here. An hour without a passed run is left out, and
//! nothing expires: after a stop of the agent, or with runs rarer than hourly, the day is longer than 24 hours.
//!
//! A clock that was set back by less than an hour and stands before the full hour continues the current hour; one that was set
//! back further, or forward, begins another one. A wrong clock therefore makes hours shorter or longer and never ends
//! their number. Called by `baseline`.

use super::running_median::{LEN, RunningMedian, WINDOW, median};

/// The number of hourly medians kept for each series.
pub(super) const HOURS: usize = MOST as usize;
pub(super) const MOST: u8 = 24;
/// There is no baseline of fewer hours.
pub(super) const LEAST_HOURS: u8 = 6;

/// An hour of the wall clock, counted from 1970.
pub(super) type Hour = u32;

/// Whether a run in this hour belongs to the current one: a clock may have been set back by less than an hour.
pub(super) fn continues(current: Hour, hour: Hour) -> bool {
    hour == current || hour.checked_add(1) == Some(current)
}

/// The hourly medians of one series, in a ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DayBaseline {
    medians: [u32; HOURS],
    /// The hour that has not ended.
    hour: Hour,
    /// The number of values in it, at most [`WINDOW`]; 0 before the first one.
    values: u8,
    /// Where the next median goes.
    next: u8,
    len: u8,
}

impl DayBaseline {
    pub(super) const fn new() -> Self {
        Self { medians: [0; HOURS], hour: 0, values: 0, next: 0, len: 0 }
    }

    /// From its saved form: the hourly medians, oldest first, and the current hour with the number of its values. None if no
    /// series can have that form.
    pub(super) fn restore(medians: &[u32], hour: Hour, values: u8) -> Option<Self> {
        let mut all = Self { hour, values, ..Self::new() };
        for median in medians {
            all.push(*median);
        }
        (medians.len() <= HOURS && usize::from(values) <= WINDOW).then_some(all)
    }

    /// The hourly medians, newest first.
    pub(super) fn newest_first(&self) -> impl Iterator<Item = u32> + '_ {
        let next = usize::from(self.next);
        (1..=usize::from(self.len)).map(move |back| self.medians[(next + HOURS - back) % HOURS])
    }

    /// The hour that has not ended, and the number of its values.
    pub(super) fn current(&self) -> (Hour, u8) {
        (self.hour, self.values)
    }

    /// The baseline for a run in this hour, given the running median of the same series.
    pub(super) fn median(&self, hour: Hour, running: &RunningMedian) -> Option<u32> {
        let ended = self.ended(hour, running);
        let (mut medians, mut len) = ([0; HOURS], 0);
        for value in ended.into_iter().chain(self.newest_first()).take(HOURS) {
            medians[len] = value;
            len += 1;
        }
        median(&mut medians[..len]).filter(|_| len >= LEAST_HOURS.into())
    }

    /// Counts a value of this hour. To be called before the running median gets it.
    pub(super) fn enter(&mut self, hour: Hour, running: &RunningMedian) {
        if let Some(median) = self.ended(hour, running) {
            self.push(median);
            self.values = 0;
        }
        if self.values == 0 {
            self.hour = hour;
        }
        self.values = (self.values + 1).min(LEN);
    }

    /// The median of the current hour, if a run in this one ends it.
    fn ended(&self, hour: Hour, running: &RunningMedian) -> Option<u32> {
        // Without values: none.
        running.median_of_newest(self.values.into()).filter(|_| !continues(self.hour, hour))
    }

    fn push(&mut self, median: u32) {
        self.medians[usize::from(self.next)] = median;
        self.next = (self.next + 1) % MOST;
        self.len = (self.len + 1).min(MOST);
    }
}
