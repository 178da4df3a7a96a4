//! The period in which runs of an account are slow: its beginning, and how it ended.
//!
//! A step stops being slow because it is quick again, or because its baselines have risen. To distinguish these, a step is
//! compared with what decided at the moment when it became slow, the lower of its baselines. The same applies to First Loading
//! Latency. `agent::run_log` logs it. A period is not kept over a restart.

use imaptrace_record::{Run, RunOutcome, Seconds, Step, StepName};

use super::slow_rule::{Settings, standing_out};

/// The slow steps of an account's recent runs.
#[derive(Debug, Default)]
pub struct SlowPeriod {
    /// By name (none is First Loading Latency), with their lower baselines when they became slow; none if slow by a fixed limit
    /// alone.
    parts: Vec<(Option<StepName>, Option<Seconds>)>,
}

/// What a run changed.
#[derive(Debug, PartialEq)]
pub enum SlowPeriodChange<'a> {
    /// It is slow and the one before was not: the step that explains it best; none when no step is slow and only First Loading
    /// Latency is.
    Began(Option<&'a Step>),
    /// It passed, and what was slow is as quick as before.
    Over,
    /// It passed and nothing is slow, but these only because their baselines have risen.
    BaselineMoved(Vec<BaselineMoved<'a>>),
    /// Nothing to log.
    Nothing,
}

/// A step, or First Loading Latency, that is no longer slow, and would be by its old baseline.
#[derive(Debug, PartialEq)]
pub struct BaselineMoved<'a> {
    /// The step; none for First Loading Latency.
    pub step: Option<&'a Step>,
    /// What it took.
    pub took: Seconds,
    /// Its lower baseline when it became slow.
    pub from: Seconds,
    /// Its lower baseline now.
    pub to: Seconds,
}

impl SlowPeriod {
    /// Records a run, after [`History::evaluate`](super::History::evaluate).
    pub fn observe<'a>(&mut self, run: &'a Run, settings: &Settings) -> SlowPeriodChange<'a> {
        let slow = || run.steps.iter().filter(|step| step.slow == Some(true));
        if run.slow == Some(true) {
            let began = self.parts.is_empty();
            for step in slow() {
                self.add(Some(&step.name), step.lower_baseline());
            }
            if settings.is_latency_slow(run) {
                self.add(None, run.lower_baseline());
            }
            let loading = run.loading_steps().filter(|step| step.slow == Some(true));
            let step = standing_out(loading, settings).or_else(|| standing_out(slow(), settings));
            return if began { SlowPeriodChange::Began(step) } else { SlowPeriodChange::Nothing };
        }
        // A run that ended early, or that this process delayed, does not show that the period is over.
        if run.outcome != RunOutcome::Passed || run.is_latency_delayed() || self.parts.is_empty() {
            return SlowPeriodChange::Nothing;
        }
        let ended = std::mem::take(&mut self.parts);
        let moved = ended.iter().filter_map(|(name, before)| moved(run, name.as_ref(), (*before)?, settings));
        let moved: Vec<_> = moved.collect();
        if moved.is_empty() { SlowPeriodChange::Over } else { SlowPeriodChange::BaselineMoved(moved) }
    }

    fn add(&mut self, name: Option<&StepName>, baseline: Option<Seconds>) {
        if !self.parts.iter().any(|(known, _)| known.as_ref() == name) {
            self.parts.push((name.cloned(), baseline));
        }
    }
}

/// The step of this name, or First Loading Latency, if it would be slow by the baseline that it had `before`.
fn moved<'a>(run: &'a Run, name: Option<&StepName>, before: Seconds, settings: &Settings) -> Option<BaselineMoved<'a>> {
    let (step, took, now) = if let Some(name) = name {
        let steps = run.steps.iter().filter(|step| step.name == *name && step.was_started());
        let step = steps.max_by_key(|step| step.duration_s)?;
        (Some(step), step.duration_s, step.lower_baseline())
    } else {
        (None, run.first_loading_latency_s?, run.lower_baseline())
    };
    let to = now.filter(|now| *now > before)?;
    settings.is_slow(took, before).then_some(BaselineMoved { step, took, from: before, to })
}
