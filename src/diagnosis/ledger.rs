//! The excess of a run over its usual, by step, and what causes have claimed of it.
//!
//! All times are in seconds. Called by every rule.

use imaptrace_imap::CommandName;
use imaptrace_record::{Cause, Run, Seconds, SetupStep, SpanId, Step, StepName, StepOutcome};

use super::{
    usual::{usual_pauses, usual_step},
    wording::excess,
};

/// A rest without evidence of its own weighs less than a cause with it.
pub(super) const WEAK: f64 = 0.6;

/// A greeting, a handshake or the start of a session that is late by less, in seconds, is no wait for a free process.
pub(super) const QUEUE: f64 = 0.1;

/// What a run took over its usual, and the claims.
#[derive(Debug)]
pub(super) struct Ledger<'a> {
    pub(super) run: &'a Run,
    pub(super) entries: Vec<StepExcess<'a>>,
    /// What imaptrace took between the steps over its usual and is not claimed yet.
    pub(super) pauses: f64,
    pub(super) claims: Vec<CauseClaim>,
}

/// A step that counts.
#[derive(Debug)]
pub(super) struct StepExcess<'a> {
    pub(super) step: &'a Step,
    pub(super) usual: f64,
    /// What is left of its excess.
    pub(super) left: f64,
}

/// Seconds that a cause explains.
#[derive(Debug)]
pub(super) struct CauseClaim {
    pub(super) cause: Cause,
    pub(super) seconds: f64,
    /// How much a second counts, up to 1.
    pub(super) weight: f64,
    pub(super) step: Option<StepName>,
    pub(super) evidence: String,
}

impl<'a> Ledger<'a> {
    /// The excess of each step that was started, LOGOUT left out.
    pub(super) fn of(run: &'a Run) -> Self {
        let started = run.loading_steps().filter(|step| step.was_started() && step.outcome != StepOutcome::Skipped);
        let entries: Vec<StepExcess<'_>> = started
            .map(|step| {
                let took = step.duration_s.as_f64();
                // Without a baseline a step is as usual, unless it is what went wrong.
                let is_at_fault = step.outcome == StepOutcome::Failed || step.slow == Some(true);
                let usual = usual_step(step).map_or(if is_at_fault { 0.0 } else { took }, Seconds::as_f64);
                StepExcess { step, usual, left: (took - usual).max(0.0) }
            })
            .collect();
        let between = run.agent_s.unwrap_or_else(|| {
            let steps = run.steps.iter().map(|step| step.duration_s).fold(Seconds::ZERO, Seconds::saturating_add);
            run.duration_s.saturating_sub(steps)
        });
        let pauses = between.saturating_sub(usual_pauses(run)).as_f64();
        Self { run, entries, pauses, claims: Vec::new() }
    }

    /// The place of the first entry of a step before the first command.
    pub(super) fn setup(&self, step: SetupStep) -> Option<usize> {
        self.entries.iter().position(|entry| entry.step.name == step)
    }

    /// The places of the commands.
    pub(super) fn commands(&self) -> Vec<usize> {
        (0..self.entries.len()).filter(|at| self.entries[*at].step.is_command()).collect()
    }

    /// The place of the login that has the most left.
    pub(super) fn login(&self) -> Option<usize> {
        let is_login = |at: &usize| self.entries[*at].step.name.command().is_some_and(CommandName::is_login);
        let more = |one: &usize, other: &usize| self.entries[*one].left.total_cmp(&self.entries[*other].left);
        self.commands().into_iter().filter(is_login).max_by(more)
    }

    /// The places of the commands beside that login.
    pub(super) fn other_commands(&self) -> Vec<usize> {
        let login = self.login();
        self.commands().into_iter().filter(|at| Some(*at) != login).collect()
    }

    /// What is left of the entries at these places.
    pub(super) fn left(&self, places: &[usize]) -> f64 {
        places.iter().map(|at| self.entries[*at].left).sum()
    }

    /// The round trip of the run's connection.
    pub(super) fn round_trip(&self) -> f64 {
        self.run.server.rtt_min_s.map_or(0.0, Seconds::as_f64)
    }

    /// Claims up to so many seconds of the entry at `at` for a cause, with what shows it. Returns what was claimed.
    pub(super) fn claim(&mut self, at: usize, cause: Cause, seconds: f64, evidence: impl FnOnce(f64) -> String) -> f64 {
        self.claim_weighed(at, cause, seconds, 1.0, evidence)
    }

    /// The same for a cause that has little evidence of its own.
    pub(super) fn claim_weak(
        &mut self,
        at: usize,
        cause: Cause,
        seconds: f64,
        evidence: impl FnOnce(f64) -> String,
    ) -> f64 {
        self.claim_weighed(at, cause, seconds, WEAK, evidence)
    }

    fn claim_weighed(
        &mut self,
        at: usize,
        cause: Cause,
        seconds: f64,
        weight: f64,
        evidence: impl FnOnce(f64) -> String,
    ) -> f64 {
        let Some(entry) = self.entries.get_mut(at) else { return 0.0 };
        let seconds = seconds.min(entry.left).max(0.0);
        if seconds <= 0.0 {
            return 0.0;
        }
        entry.left -= seconds;
        let (step, evidence) = (Some(entry.step.name.clone()), evidence(seconds));
        self.claims.push(CauseClaim { cause, seconds, weight, step, evidence });
        seconds
    }

    /// Claims pauses of imaptrace itself.
    pub(super) fn claim_pauses(&mut self, cause: Cause, evidence: String) {
        let seconds = std::mem::take(&mut self.pauses);
        if seconds > 0.0 {
            self.claims.push(CauseClaim { cause, seconds, weight: 1.0, step: None, evidence });
        }
    }

    /// What nothing explains.
    pub(super) fn claim_unknown(&mut self) {
        for at in 0..self.entries.len() {
            let (name, usual) = (self.entries[at].step.name.clone(), self.entries[at].usual);
            self.claim(at, Cause::Unknown, f64::MAX, |time| {
                format!("{}: {}, unexplained", name.as_str(), excess(time, usual))
            });
        }
    }

    /// What a cause has claimed so far.
    pub(super) fn claimed(&self, cause: Cause) -> f64 {
        self.claims.iter().filter(|claim| claim.cause == cause).map(|claim| claim.seconds).sum()
    }
}

impl StepExcess<'_> {
    pub(super) fn name(&self) -> &str {
        self.step.name.as_str()
    }

    pub(super) fn span(&self) -> Option<SpanId> {
        self.step.span_id
    }

    pub(super) fn took(&self) -> f64 {
        self.step.duration_s.as_f64()
    }
}
