//! What the log says of finished runs: failures, recoveries, what has become slow, a mailbox that is all but empty.
//!
//! Called by `shared` for each run, with what is known of the account from its last one. A change is a line, as long as
//! [`RunLog`] has one left; what is as before is counted there, and a line at the level `debug`.

use tracing::{debug, info, warn};

use super::run_log::{LastSeen, RunLog};

use crate::{
    latency::{self, Shift, SlowSpell, SpellChange, UsualMoved},
    plan::Journey,
    record::{ErrorType, Run, RunOutcome, Seconds, ServerText},
};

/// One line for a mailbox that holds too little to measure by; each run has it in its notes.
pub(super) fn tell_of_few(run: &Run, log: &RunLog) -> bool {
    let messages = run.steps.iter().find_map(|step| step.mailbox_messages);
    let Some(messages) = messages.filter(|messages| *messages < Journey::FEWEST.into()) else { return false };
    if !log.may_log() {
        return false;
    }
    let (target, account) = (run.target.as_str(), run.account.as_str());
    warn!(target, account, messages, "the mailbox is all but empty: `imaptrace canary fill` makes one that measures");
    true
}

/// What the last runs of an account were, over one family.
pub(super) struct LastOutcomes<'a> {
    /// The last one that passed or failed, failed.
    pub(super) failing: bool,
    pub(super) repeated: &'a mut LastSeen,
    pub(super) void: &'a mut LastSeen,
}

/// One line for the first of failed runs, for the first of void ones, and for a recovery; the others are counted. Returns
/// whether the target is failing now.
pub(super) fn tell(run: &Run, before: &mut LastOutcomes<'_>, log: &RunLog) -> bool {
    let (target, account, trace_id) = (run.target.as_str(), run.account.as_str(), run.trace_id);
    let family = run.family.as_deref();
    if run.outcome == RunOutcome::Passed {
        if before.failing && log.may_log() {
            let latency = run.first_loading_latency_s.map(Seconds::as_f64);
            info!(target, account, family, %trace_id, first_loading_latency_s = latency, "recovered");
        }
        return false;
    }
    let is_void = run.outcome == RunOutcome::Void;
    let step = run.failing_step();
    let text = step.and_then(|step| step.text.as_ref()).map(ServerText::as_str);
    let (code, failed_step) = (step.and_then(|step| step.code.as_deref()), run.failed_step.as_deref());
    let (error_type, outcome) = (run.error_type.map(ErrorType::as_str), run.outcome.as_str());
    let what = match run.auth_backoff {
        Some(true) => "a run did not pass: its login was held back, since the last one was refused",
        _ => "a run did not pass",
    };
    let is_news = if is_void { log.is_news(before.void) } else { !before.failing };
    if !is_news {
        log.repeat(error_type.unwrap_or(outcome), before.repeated);
    }
    if is_news && log.may_log() {
        warn!(target, account, family, %trace_id, outcome, error_type, failed_step, code, text, "{what}");
    } else {
        debug!(target, account, family, %trace_id, outcome, error_type, failed_step, code, text, "{what}");
    }
    // A void run says nothing of the target.
    if is_void { before.failing } else { true }
}

/// One line for each level that has moved for good.
pub(super) fn tell_of_shifts(run: &Run, shifts: Vec<Shift>, log: &RunLog) {
    for shift in shifts.into_iter().filter(|_| log.may_log()) {
        let (target, account, journey) = (run.target.as_str(), run.account.as_str(), run.journey.as_str());
        let (from_s, to_s) = (Seconds::as_f64(shift.from), Seconds::as_f64(shift.to));
        let (family, step) = (run.family.as_deref(), shift.step);
        info!(target, account, family, journey, step, from_s, to_s, "what a step usually takes has shifted");
    }
}

/// One line for a slow run when the one before was not, about the step that stands out, and one when a run passes that is
/// not slow: that it is over, or that the steps are as slow as before and only what is usual has moved.
pub(super) fn tell_of_slow(run: &Run, spell: &mut SlowSpell, settings: &latency::Settings, log: &RunLog) {
    let (target, account, trace_id) = (run.target.as_str(), run.account.as_str(), run.trace_id);
    let family = run.family.as_deref();
    match spell.observe(run, settings) {
        SpellChange::Nothing => {}
        _ if !log.may_log() => {}
        SpellChange::Began(step) => {
            let (duration_s, baseline_s) = (step.duration_s.as_f64(), step.baseline_s.map(Seconds::as_f64));
            let (step, ratio) = (step.name.as_str(), step.ratio);
            info!(target, account, family, step, duration_s, baseline_s, ratio, %trace_id, "a step was slow");
        }
        SpellChange::Over => info!(target, account, family, %trace_id, "no step is slow any more"),
        SpellChange::UsualMoved(steps) => {
            for UsualMoved { step, from, to } in steps {
                let [duration_s, from_s, to_s] = [step.duration_s, from, to].map(Seconds::as_f64);
                let step = step.name.as_str();
                warn!(
                    target, account, family, step, duration_s, from_s, to_s, %trace_id,
                    "a step is as slow as before, but counts as usual now: its baseline has moved"
                );
            }
        }
    }
}
