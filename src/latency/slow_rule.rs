//! When a step or First Loading Latency is slow (docs/measurement.md): the rule alone, without a history.
//!
//! Called by `history`, `baseline` and `slow_period`.

use std::{collections::BTreeMap, time::Duration};

use imaptrace_record::{Run, Seconds, Step};

/// When a step is slow.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// A step has no baseline, and is not slow by history, before this many passed runs.
    pub min_runs: u32,
    /// Slow is more than this many times a baseline …
    pub slow_ratio: f64,
    /// … and at least this long over it,
    pub slow_excess: Duration,
    /// or more than this, whatever the baseline,
    pub slow_limit: Option<Duration>,
    /// or more than the limit for the step of this name, which takes the place of the one for all.
    pub slow_limits: BTreeMap<String, Duration>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            min_runs: 20,
            slow_ratio: 3.0,
            slow_excess: Duration::from_millis(10),
            slow_limit: None,
            slow_limits: BTreeMap::new(),
        }
    }
}

/// How far apart two times must be to count as different.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Distance {
    ratio: f64,
    /// In microseconds.
    excess: u32,
}

impl Distance {
    /// Whether `high` is that far above `low`; both in microseconds.
    pub(super) fn between(self, high: u32, low: u32) -> bool {
        high.checked_sub(low).is_some_and(|over| over >= self.excess) && f64::from(high) > self.ratio * f64::from(low)
    }
}

impl Settings {
    /// From a baseline to what is slow.
    pub(super) fn slow(&self) -> Distance {
        Distance { ratio: self.slow_ratio, excess: micros(self.slow_excess.into()) }
    }

    /// From a level to a shift: a ratio of two, or `slow_ratio` if that is less, so that a step that stays slow is always logged.
    pub(super) fn shift(&self) -> Distance {
        Distance { ratio: self.slow_ratio.min(2.0), ..self.slow() }
    }

    /// Whether a time is slow by a baseline.
    pub(super) fn is_slow(&self, took: Seconds, baseline: Seconds) -> bool {
        self.slow().between(micros(took), micros(baseline))
    }

    /// Whether First Loading Latency is slow by its baselines. No fixed limit is for it.
    pub(super) fn is_latency_slow(&self, run: &Run) -> bool {
        let times = run.first_loading_latency_s.zip(run.lower_baseline());
        times.is_some_and(|(took, baseline)| self.is_slow(took, baseline))
    }

    /// How much longer than its fixed limit the step took; none without a limit, or within it.
    pub(super) fn over_limit(&self, step: &Step) -> Option<Seconds> {
        let limit = Seconds::from(*self.slow_limits.get(step.name.as_str()).or(self.slow_limit.as_ref())?);
        (step.duration_s > limit).then(|| step.duration_s.saturating_sub(limit))
    }
}

/// Whole microseconds, at most 71 minutes.
pub(super) fn micros(seconds: Seconds) -> u32 {
    u32::try_from(seconds.as_micros()).unwrap_or(u32::MAX)
}

/// How many baselines a step took: two decimals below 10, one below 100, none above. None for a baseline of 0.
pub(super) fn ratio(duration: u32, baseline: u32) -> Option<f64> {
    let ratio = (baseline > 0).then(|| f64::from(duration) / f64::from(baseline))?;
    let digits = match ratio {
        ..10.0 => 100.0,
        10.0..100.0 => 10.0,
        _ => 1.0,
    };
    Some((ratio * digits).round() / digits)
}

/// The step that explains best why the run took so long: the one that exceeds its fixed limit by the most; else the slow one
/// that exceeds its baseline by the most (a step without a baseline counts with all of its time); else the longest.
pub(super) fn standing_out<'a>(steps: impl Iterator<Item = &'a Step>, settings: &Settings) -> Option<&'a Step> {
    steps.max_by_key(|step| {
        let over_baseline = step.duration_s.saturating_sub(step.lower_baseline().unwrap_or_default());
        (settings.over_limit(step), (step.slow == Some(true)).then_some(over_baseline), step.duration_s)
    })
}
