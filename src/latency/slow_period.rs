//! The period in which runs of an account are slow: its beginning, and how it ended.
//!
//! A step stops being slow because it is quick again, or because its baseline has risen. To distinguish these, a step is compared
//! with its baseline of the moment when it became slow. `agent::run_log` logs it. A period is not kept over a restart.

use imaptrace_record::{Run, RunOutcome, Seconds, Step, StepName};

use super::slow_rule::{Settings, standing_out};

/// The slow steps of an account's recent runs.
#[derive(Debug, Default)]
pub struct SlowPeriod {
    /// By name, with their baselines when they became slow; none if slow by a fixed limit alone.
    steps: Vec<(StepName, Option<Seconds>)>,
}

/// What a run changed.
#[derive(Debug, PartialEq)]
pub enum SlowPeriodChange<'a> {
    /// It is slow and the one before was not: the step that explains it best.
    Began(&'a Step),
    /// It passed, and the steps that were slow are as quick as before.
    Over,
    /// It passed and no step is slow, but these only because their baselines have risen.
    BaselineMoved(Vec<BaselineMoved<'a>>),
    /// Nothing to log.
    Nothing,
}

/// A step that is no longer slow, and would be by its old baseline.
#[derive(Debug, PartialEq)]
pub struct BaselineMoved<'a> {
    /// The step.
    pub step: &'a Step,
    /// Its baseline when it became slow.
    pub from: Seconds,
    /// Its baseline now.
    pub to: Seconds,
}

impl SlowPeriod {
    /// Records a run, after [`History::evaluate`](super::History::evaluate).
    pub fn observe<'a>(&mut self, run: &'a Run, settings: &Settings) -> SlowPeriodChange<'a> {
        let slow = || run.steps.iter().filter(|step| step.slow == Some(true));
        if slow().next().is_some() {
            let began = self.steps.is_empty();
            for step in slow() {
                if !self.steps.iter().any(|(name, _)| *name == step.name) {
                    self.steps.push((step.name.clone(), step.baseline_s));
                }
            }
            let loading = run.loading_steps().filter(|step| step.slow == Some(true));
            let step = standing_out(loading, settings).or_else(|| standing_out(slow(), settings));
            return step.filter(|_| began).map_or(SlowPeriodChange::Nothing, SlowPeriodChange::Began);
        }
        // A run that ended early, or that this process delayed, does not show that the period is over.
        if run.outcome != RunOutcome::Passed || run.is_latency_delayed() || self.steps.is_empty() {
            return SlowPeriodChange::Nothing;
        }
        let ended = std::mem::take(&mut self.steps);
        let moved: Vec<_> = ended.iter().filter_map(|(name, before)| moved(run, name, (*before)?, settings)).collect();
        if moved.is_empty() { SlowPeriodChange::Over } else { SlowPeriodChange::BaselineMoved(moved) }
    }
}

/// The step of this name, if it would be slow by the baseline that it had `before`.
fn moved<'a>(run: &'a Run, name: &StepName, before: Seconds, settings: &Settings) -> Option<BaselineMoved<'a>> {
    let steps = run.steps.iter().filter(|step| step.name == *name && step.was_started());
    let step = steps.max_by_key(|step| step.duration_s)?;
    let to = step.baseline_s.filter(|now| *now > before)?;
    settings.is_slow(step.duration_s, before).then_some(BaselineMoved { step, from: before, to })
}
