//! The samples of one process, in time order. Holds few for a process that is idle. Does no I/O.

use std::{
    collections::VecDeque,
    time::{Duration, SystemTime},
};

/// What a process had used at one moment, since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsageSample {
    /// When it was read, by the wall clock.
    pub at: SystemTime,
    /// Time on a CPU.
    pub cpu: Duration,
    /// Time in which it could have run and waited for a CPU.
    pub run_queue: Duration,
    /// Time in which it waited for block devices; none where the kernel does not count that.
    pub block_wait: Option<Duration>,
}

impl UsageSample {
    /// Whether `other` may be of the same process later: nothing of it is less.
    pub fn precedes(&self, other: &Self) -> bool {
        let block_wait = self.block_wait.zip(other.block_wait);
        self.at <= other.at
            && self.cpu <= other.cpu
            && self.run_queue <= other.run_queue
            && block_wait.is_none_or(|(before, after)| before <= after)
    }

    fn has_used_as_much_as(&self, other: &Self) -> bool {
        Self { at: other.at, ..*self } == *other
    }
}

/// See the module's head. What a process has used never falls, so equal values at two moments are the values between them, and
/// the samples between are left out.
#[derive(Debug, Clone, Default)]
pub(super) struct SampleSeries(VecDeque<UsageSample>);

impl SampleSeries {
    /// Adds the next sample. Returns whether one more is held than before.
    pub(super) fn push(&mut self, sample: UsageSample) -> bool {
        let held = self.0.len();
        let is_third = held >= 2 && self.0.range(held - 2..).all(|last| last.has_used_as_much_as(&sample));
        if is_third && let Some(last) = self.0.back_mut() {
            last.at = sample.at;
            return false;
        }
        self.0.push_back(sample);
        true
    }

    /// Removes the oldest sample, unless it is the only one. Returns whether there was one to remove.
    pub(super) fn pop(&mut self) -> bool {
        self.0.len() > 1 && self.0.pop_front().is_some()
    }

    /// Removes what is not needed for any time from `begin` on. Returns how many.
    pub(super) fn remove_before(&mut self, begin: SystemTime) -> usize {
        let held = self.0.len();
        // The last one before, too: it is one end of the time that contains `begin`.
        while self.0.get(1).is_some_and(|second| second.at <= begin) {
            self.0.pop_front();
        }
        held - self.0.len()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn first(&self) -> Option<&UsageSample> {
        self.0.front()
    }

    pub(super) fn last(&self) -> Option<&UsageSample> {
        self.0.back()
    }

    /// The samples from the last one at or before `begin` to the first one at or after `end`.
    pub(super) fn between(&self, begin: SystemTime, end: SystemTime) -> Vec<UsageSample> {
        let first = self.0.partition_point(|sample| sample.at <= begin).saturating_sub(1);
        let last = self.0.partition_point(|sample| sample.at < end);
        self.0.range(first..(last + 1).min(self.0.len())).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
    }

    fn series(samples: &[(u64, u64)]) -> SampleSeries {
        let mut series = SampleSeries::default();
        for (millis, cpu) in samples {
            series.push(UsageSample {
                at: at(*millis),
                cpu: Duration::from_millis(*cpu),
                run_queue: Duration::ZERO,
                block_wait: None,
            });
        }
        series
    }

    fn shown(samples: &[UsageSample]) -> Vec<(u64, u64)> {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap();
        samples
            .iter()
            .map(|sample| (millis(sample.at.duration_since(SystemTime::UNIX_EPOCH).unwrap()), millis(sample.cpu)))
            .collect()
    }

    #[test]
    fn of_a_process_that_is_idle_the_first_and_the_last_sample_are_kept() {
        let all: Vec<_> = (0..100).map(|n| (n * 10, if n < 50 { 1 } else { 2 })).collect();
        let series = series(&all);
        assert_eq!(shown(&series.between(at(0), at(10_000))), [(0, 1), (490, 1), (500, 2), (990, 2)]);
        assert_eq!(shown(&series.between(at(475), at(480))), [(0, 1), (490, 1)]);
    }

    #[test]
    fn a_window_has_a_sample_on_each_side_of_it() {
        let series = series(&[(0, 0), (10, 1), (20, 2), (30, 3), (40, 4)]);
        assert_eq!(shown(&series.between(at(15), at(25))), [(10, 1), (20, 2), (30, 3)]);
        assert_eq!(shown(&series.between(at(10), at(30))), [(10, 1), (20, 2), (30, 3)]);
        assert_eq!(shown(&series.between(at(50), at(60))), [(40, 4)]);
        assert_eq!(shown(&SampleSeries::default().between(at(0), at(9))), []);
    }

    #[test]
    fn what_is_too_old_goes_but_for_the_end_of_the_time_that_is_kept() {
        let mut series = series(&[(0, 0), (10, 1), (20, 2), (30, 3)]);
        assert_eq!(series.remove_before(at(25)), 2);
        assert_eq!(shown(&series.between(at(0), at(90))), [(20, 2), (30, 3)]);
        assert!(series.pop() && !series.pop());
        assert_eq!(series.remove_before(at(1_000)), 0);
        assert_eq!(series.len(), 1);
    }
}
