//! What the log says of finished runs: failures, recoveries, what has become slow, a mailbox that is all but empty.
//!
//! Called by `shared` for each run, with the account's state after its last one. A change of state is a line, as long as
//! [`RunLog`] has one left; what is as before is counted there, and a line at the level `debug`.

use std::hash::{DefaultHasher, Hasher as _};

use imaptrace_imap::ResponseCode;
use imaptrace_record::{AddressFamily, ErrorType, Run, RunOutcome, Seconds, ServerText, StepName};
use tracing::{debug, info, warn};

use super::run_log::{LastSeen, RunLog};
use crate::{
    latency::{self, Shift, SlowPeriod, SlowPeriodChange, BaselineMoved},
    plan::Journey,
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

/// What an account's last run over one family came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum RunState {
    /// It passed, or there was none.
    #[default]
    Passed,
    Failed {
        class: Option<ErrorType>,
        step: Option<StepName>,
    },
    /// The words tell a missing file from one with a wrong mode. They are kept as a hash.
    Void {
        class: Option<ErrorType>,
        words: u64,
    },
}

impl RunState {
    fn of(run: &Run) -> Self {
        match run.outcome {
            RunOutcome::Passed => Self::Passed,
            RunOutcome::Void => Self::Void { class: run.error_type, words: words(run) },
            RunOutcome::Failed => Self::Failed { class: run.error_type, step: run.failed_step.clone() },
        }
    }

    /// Whether a run leaves it as it is. A login that was held back has the class of the one that was refused.
    fn is_same(&self, now: &Self, run: &Run) -> bool {
        match self {
            Self::Failed { class, .. } if run.auth_backoff == Some(true) => *class == run.error_type,
            before => before == now,
        }
    }
}

/// A hash of what the failing step says, numbers left out: they may differ each time.
fn words(run: &Run) -> u64 {
    let mut hasher = DefaultHasher::new();
    let text = run.failing_step().and_then(|step| step.text.as_ref()).map_or("", ServerText::as_str);
    text.bytes().filter(|byte| !byte.is_ascii_digit()).for_each(|byte| hasher.write_u8(byte));
    hasher.finish()
}

/// One line when the state of an account over a family changes; a run that ends as the one before is counted.
pub(super) fn tell(run: &Run, state: &mut RunState, repeated: &mut LastSeen, log: &RunLog) {
    let (target, account, trace_id) = (run.target.as_str(), run.account.as_str(), run.trace_id);
    let family = run.family.map(AddressFamily::as_str);
    let now = RunState::of(run);
    let is_news = !state.is_same(&now, run);
    if is_news {
        *state = now;
    }
    if run.outcome == RunOutcome::Passed {
        if is_news && log.may_log() {
            let latency = run.first_loading_latency_s.map(Seconds::as_f64);
            info!(target, account, family, %trace_id, first_loading_latency_s = latency, "recovered");
        }
        return;
    }
    let step = run.failing_step();
    let text = step.and_then(|step| step.text.as_ref()).map(ServerText::as_str);
    let (code, failed_step) =
        (step.and_then(|step| step.code.map(ResponseCode::as_str)), run.failed_step.as_ref().map(StepName::as_str));
    let (error_type, outcome) = (run.error_type.map(ErrorType::as_str), run.outcome.as_str());
    let (what, counted_as) = match run.auth_backoff {
        Some(true) => ("a run did not pass: its login was held back, since the last one was refused", "held back"),
        _ => ("a run did not pass", error_type.unwrap_or(outcome)),
    };
    if !is_news {
        log.repeat(counted_as, (target, account), repeated);
    }
    if is_news && log.may_log() {
        warn!(target, account, family, %trace_id, outcome, error_type, failed_step, code, text, "{what}");
    } else {
        debug!(target, account, family, %trace_id, outcome, error_type, failed_step, code, text, "{what}");
    }
}

/// One line for each level that has moved for good.
pub(super) fn tell_of_shifts(run: &Run, shifts: Vec<Shift>, log: &RunLog) {
    for shift in shifts.into_iter().filter(|_| log.may_log()) {
        let (target, account, journey) = (run.target.as_str(), run.account.as_str(), run.journey.as_str());
        let (from_s, to_s) = (Seconds::as_f64(shift.from), Seconds::as_f64(shift.to));
        let (family, step) = (run.family.map(AddressFamily::as_str), shift.step.as_str());
        info!(target, account, family, journey, step, from_s, to_s, "what a step usually takes has shifted");
    }
}

/// One line for a slow run when the one before was not, about the step that stands out, and one when a run passes that is
/// not slow: that it is over, or that the steps are as slow as before and only what is usual has moved.
pub(super) fn tell_of_slow(run: &Run, period: &mut SlowPeriod, settings: &latency::Settings, log: &RunLog) {
    let (target, account, trace_id) = (run.target.as_str(), run.account.as_str(), run.trace_id);
    let family = run.family.map(AddressFamily::as_str);
    match period.observe(run, settings) {
        SlowPeriodChange::Nothing => {}
        _ if !log.may_log() => {}
        SlowPeriodChange::Began(step) => {
            let (duration_s, baseline_s) = (step.duration_s.as_f64(), step.baseline_s.map(Seconds::as_f64));
            let (step, ratio) = (step.name.as_str(), step.ratio);
            info!(target, account, family, step, duration_s, baseline_s, ratio, %trace_id, "a step was slow");
        }
        SlowPeriodChange::Over => info!(target, account, family, %trace_id, "no step is slow any more"),
        SlowPeriodChange::BaselineMoved(steps) => {
            for BaselineMoved { step, from, to } in steps {
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

#[cfg(test)]
mod tests {
    use imaptrace_record::StepOutcome;

    use super::*;

    fn run(outcome: RunOutcome, class: Option<ErrorType>, step: &str, text: &str) -> Run {
        let mut run: Run = serde_json::from_str(imaptrace_testkit::PASSED_RUN).unwrap();
        (run.outcome, run.error_type) = (outcome, class);
        if class.is_some() {
            let failed = run.steps.iter_mut().find(|known| known.name == step).unwrap();
            (failed.outcome, failed.text) =
                (StepOutcome::Failed, Some(ServerText::new(text.as_bytes(), ServerText::STATUS)));
            run.failed_step = Some(step.into());
        }
        run
    }

    #[test]
    fn each_change_of_state_is_news_and_what_stays_is_not() {
        let passed = || run(RunOutcome::Passed, None, "", "");
        let void = |text: &str| run(RunOutcome::Void, Some(ErrorType::SecretUnavailable), "LOGIN", text);
        let failed = |class, step| run(RunOutcome::Failed, Some(class), step, "");
        let held = || Run { auth_backoff: Some(true), ..failed(ErrorType::AuthFailed, "LOGIN") };
        let mut state = RunState::default();
        for (number, (run, is_news)) in [
            (passed(), false),
            (void("cannot read it"), true),
            (void("cannot read it"), false),
            (passed(), true),
            (void("cannot read it"), true),
            (void("it ends with a blank"), true),
            (void("it has mode 0644"), true),
            (void("it has mode 0666"), false),
            (passed(), true),
            (failed(ErrorType::ConnectRefused, "connect"), true),
            (failed(ErrorType::ConnectRefused, "connect"), false),
            (failed(ErrorType::AuthFailed, "LOGIN"), true),
            (held(), false),
            (failed(ErrorType::AuthFailed, "LOGIN"), false),
            (void("cannot read it"), true),
            (held(), true),
        ]
        .into_iter()
        .enumerate()
        {
            // Only a line takes from what may be logged.
            let log = RunLog::new();
            tell(&run, &mut state, &mut None, &log);
            assert_eq!(log.lines(), u32::from(is_news), "{number}");
        }
    }
}
