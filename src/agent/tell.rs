//! What the log says of finished runs: failures, recoveries, what has become slow, a mailbox that is all but empty.
//!
//! Called by `shared` for each run, with what is known of the account from its last one.

use tracing::{info, warn};

use crate::{
    latency::{self, SlowSpell, SpellChange, UsualMoved},
    plan::Journey,
    record::{ErrorType, Run, RunOutcome, Seconds, ServerText},
};

/// One line for a mailbox that holds too little to measure by; each run has it in its notes.
pub(super) fn tell_of_few(run: &Run) -> bool {
    let messages = run.steps.iter().find_map(|step| step.mailbox_messages);
    let Some(messages) = messages.filter(|messages| *messages < Journey::FEWEST.into()) else { return false };
    let (target, account) = (run.target.as_str(), run.account.as_str());
    warn!(target, account, messages, "the mailbox is all but empty: `imaptrace canary fill` makes one that measures");
    true
}

/// One line for a failed run and for a recovery. Returns whether the target is failing now.
pub(super) fn tell(run: &Run, failing: bool) -> bool {
    let (target, account, trace_id) = (run.target.as_str(), run.account.as_str(), run.trace_id);
    let family = run.family.as_deref();
    if run.outcome == RunOutcome::Passed {
        if failing {
            let latency = run.first_loading_latency_s.map(Seconds::as_f64);
            info!(target, account, family, %trace_id, first_loading_latency_s = latency, "recovered");
        }
        return false;
    }
    let step = run.failing_step();
    let text = step.and_then(|step| step.text.as_ref()).map(ServerText::as_str);
    let (code, failed_step) = (step.and_then(|step| step.code.as_deref()), run.failed_step.as_deref());
    let (error_type, outcome) = (run.error_type.map(ErrorType::as_str), run.outcome.as_str());
    let what = match run.auth_backoff {
        Some(true) => "a run did not pass: its login was held back, since the last one was refused",
        _ => "a run did not pass",
    };
    warn!(target, account, family, %trace_id, outcome, error_type, failed_step, code, text, "{what}");
    // A void run says nothing of the target.
    if run.outcome == RunOutcome::Void { failing } else { true }
}

/// One line for a slow run when the one before was not, about the step that stands out, and one when a run passes that is
/// not slow: that it is over, or that the steps are as slow as before and only what is usual has moved.
pub(super) fn tell_of_slow(run: &Run, spell: &mut SlowSpell, settings: &latency::Settings) {
    let (target, account, trace_id) = (run.target.as_str(), run.account.as_str(), run.trace_id);
    let family = run.family.as_deref();
    match spell.observe(run, settings) {
        SpellChange::Nothing => {}
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
