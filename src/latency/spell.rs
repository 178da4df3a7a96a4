//! A time in which runs of an account were slow: when it began, and what ended it.
//!
//! A step can stop being slow because it is quick again, or because its baseline has come up to it. Only the first is good
//! news, so what was usual when the step became slow is kept, and the step is held against that.
//!
//! Decides and keeps; the log lines are the agent's. Nothing here outlives the process.

use imaptrace_record::{Run, RunOutcome, Seconds, Step, StepName};

use super::{Settings, standing_out};

/// The slow steps of an account's recent runs.
#[derive(Debug, Default)]
pub struct SlowSpell {
    /// By name, each with its baseline when it became slow; none of one that is slow by a fixed limit alone.
    steps: Vec<(StepName, Option<Seconds>)>,
}

/// What a run changed.
#[derive(Debug, PartialEq)]
pub enum SpellChange<'a> {
    /// It is slow and the one before was not: the step that stands out.
    Began(&'a Step),
    /// It passed, and the steps that were slow take what they took before.
    Over,
    /// It passed and no step is slow, but these are only because their baselines have come up to them.
    UsualMoved(Vec<UsualMoved<'a>>),
    /// Nothing that is worth a line.
    Nothing,
}

/// A step that is no longer slow, and would be by its old baseline.
#[derive(Debug, PartialEq)]
pub struct UsualMoved<'a> {
    /// The step.
    pub step: &'a Step,
    /// Its baseline when it became slow.
    pub from: Seconds,
    /// Its baseline now.
    pub to: Seconds,
}

impl SlowSpell {
    /// Takes note of a run that [`History::judge`](super::History::judge) has been through.
    pub fn observe<'a>(&mut self, run: &'a Run, settings: &Settings) -> SpellChange<'a> {
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
            return step.filter(|_| began).map_or(SpellChange::Nothing, SpellChange::Began);
        }
        // A run that came to an early end, or that we delayed ourselves, does not say that what was slow is over.
        if run.outcome != RunOutcome::Passed || run.is_latency_delayed() || self.steps.is_empty() {
            return SpellChange::Nothing;
        }
        let ended = std::mem::take(&mut self.steps);
        let moved: Vec<_> = ended.iter().filter_map(|(name, before)| moved(run, name, (*before)?, settings)).collect();
        if moved.is_empty() { SpellChange::Over } else { SpellChange::UsualMoved(moved) }
    }
}

/// The step of this name, if it would be slow by the baseline that it had `before`.
fn moved<'a>(run: &'a Run, name: &StepName, before: Seconds, settings: &Settings) -> Option<UsualMoved<'a>> {
    let steps = run.steps.iter().filter(|step| step.name == *name && step.was_started());
    let step = steps.max_by_key(|step| step.duration_s)?;
    let to = step.baseline_s.filter(|now| *now > before)?;
    settings.is_slow(step.duration_s, before).then_some(UsualMoved { step, from: before, to })
}
