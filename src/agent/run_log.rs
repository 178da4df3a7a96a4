//! What the log shows of finished runs: failures, recoveries, steps that became slow, a nearly empty mailbox.
//!
//! A change of state is one line, up to a number of lines a second. A run with the same outcome as the one before is counted,
//! and one line a minute sums up all accounts. Each run is in the telemetry. Called by `runner`, and by a task of the agent for
//! the summary.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hasher as _},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use imaptrace_imap::ResponseCode;
use imaptrace_record::{AddressFamily, ErrorType, Run, RunOutcome, Seconds, ServerText, StepName};
use tracing::{debug, info, warn};

use crate::{
    clock,
    latency::{self, BaselineMoved, Shift, SlowPeriod, SlowPeriodChange},
    plan::Journey,
};

/// The most lines about changes in a second.
const MOST_A_SECOND: u32 = 50;
/// The most accounts that a summary names.
const MOST_NAMED: usize = 5;
const SECOND: Duration = Duration::from_secs(1);
/// Between two summaries.
const MINUTE: Duration = Duration::from_secs(60);

/// Limits the lines about runs, and counts what was not logged.
pub(super) struct RunLog(Mutex<Counters>);

struct Counters {
    begun: Instant,
    /// The current second, and the lines in it.
    second: Instant,
    lines: u32,
    unlogged: Unlogged,
}

/// What was not logged one by one.
#[derive(Debug, Default, PartialEq, Eq)]
struct Unlogged {
    /// Runs with the same outcome as the one before, by error type.
    runs: BTreeMap<&'static str, u64>,
    /// The number of accounts with such runs.
    accounts: u64,
    /// The first of those accounts.
    named: Vec<String>,
    /// Starts that were skipped, by reason.
    skips: BTreeMap<&'static str, u64>,
    /// Changes beyond the limit of lines.
    changes: u64,
}

/// The minute of the last such event of an account; none if there was none.
pub(super) type LastSeen = Option<u64>;

impl RunLog {
    pub(super) fn new() -> Self {
        let now = clock::now();
        Self(Mutex::new(Counters { begun: now, second: now, lines: 0, unlogged: Unlogged::default() }))
    }

    /// Whether a change may be logged; if not, it is counted.
    pub(super) fn may_log(&self) -> bool {
        let now = clock::now();
        let mut counters = self.counters();
        if now.saturating_duration_since(counters.second) >= SECOND {
            (counters.second, counters.lines) = (now, 0);
        }
        if counters.lines == MOST_A_SECOND {
            counters.unlogged.changes += 1;
            return false;
        }
        counters.lines += 1;
        true
    }

    /// Counts a run of this target and account with the same outcome as the one before.
    pub(super) fn repeat(&self, counted_as: &'static str, (target, account): (&str, &str), counted: &mut LastSeen) {
        let mut counters = self.counters();
        let minute = counters.minute();
        *counters.unlogged.runs.entry(counted_as).or_default() += 1;
        if counted.replace(minute) != Some(minute) {
            counters.unlogged.accounts += 1;
            if counters.unlogged.named.len() < MOST_NAMED {
                counters.unlogged.named.push(format!("{target}/{account}"));
            }
        }
    }

    /// Counts skipped starts. Returns whether that is a change for this account: the last were at least a minute ago.
    pub(super) fn skip(&self, reason: &'static str, count: u64, last: &mut LastSeen) -> bool {
        let mut counters = self.counters();
        let minute = counters.minute();
        let is_change = last.replace(minute).is_none_or(|last| last + 1 < minute);
        if !is_change {
            *counters.unlogged.skips.entry(reason).or_default() += count;
        }
        is_change
    }

    /// Logs a summary once a minute.
    pub(super) async fn summarize_regularly(self: Arc<Self>) {
        let mut minutes = tokio::time::interval(MINUTE);
        loop {
            minutes.tick().await;
            self.summarize();
        }
    }

    /// Logs a summary of what was not logged since the last call, if there is anything.
    pub(super) fn summarize(&self) {
        let unlogged = std::mem::take(&mut self.counters().unlogged);
        if unlogged == Unlogged::default() {
            return;
        }
        let which = unlogged.which();
        let Unlogged { runs, accounts, skips, changes, .. } = unlogged;
        let sum = |counts: &BTreeMap<_, u64>| Some(counts.values().sum::<u64>()).filter(|sum| *sum > 0);
        let (failed_runs, skipped_starts) = (sum(&runs), sum(&skips));
        let accounts = failed_runs.map(|_| accounts);
        let unlogged_changes = Some(changes).filter(|changes| *changes > 0);
        let (by, why) = (parts(&runs), parts(&skips));
        warn!(
            failed_runs,
            accounts,
            by,
            which,
            skipped_starts,
            why,
            unlogged_changes,
            "more of the same in the last minute, not logged one by one; /status.json has each account"
        );
    }

    #[cfg(test)]
    pub(super) fn lines(&self) -> u32 {
        self.counters().lines
    }

    fn counters(&self) -> MutexGuard<'_, Counters> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Unlogged {
    /// The names of some of the counted accounts, and the number of the others; none without any.
    fn which(&self) -> Option<String> {
        let others = self.accounts.saturating_sub(self.named.len() as u64);
        let others = if others > 0 { format!(" and {others} more") } else { String::new() };
        (!self.named.is_empty()).then(|| self.named.join(", ") + &others)
    }
}

impl Counters {
    fn minute(&self) -> u64 {
        clock::now().saturating_duration_since(self.begun).as_secs() / MINUTE.as_secs()
    }
}

/// `timeout_connect 120, auth_rejected 3`; none without any.
fn parts(counts: &BTreeMap<&'static str, u64>) -> Option<String> {
    let parts: Vec<_> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// Logs once that a mailbox has too few messages to measure by; the notes of each run have it too. Returns whether it did.
pub(super) fn log_few_messages(run: &Run, log: &RunLog) -> bool {
    let messages = run.steps.iter().find_map(|step| step.mailbox_messages);
    let Some(messages) = messages.filter(|messages| *messages < Journey::FEWEST.into()) else { return false };
    if !log.may_log() {
        return false;
    }
    let (target, account) = (run.target.as_str(), run.account.as_str());
    warn!(
        target,
        account, messages, "the mailbox is nearly empty: fill one for measuring with `imaptrace canary fill`"
    );
    true
}

/// Logs when a mailbox first holds fewer than a tenth of its usual messages, and when it no longer does. `shrunk`: it did in the
/// last run that opened it.
pub(super) fn log_shrunk(run: &Run, shrunk: &mut bool, log: &RunLog) {
    let opened = run.steps.iter().find_map(|step| Some((step.mailbox_messages?, step.usual_messages)));
    let Some((messages, usual_messages)) = opened else { return };
    let is_change = std::mem::replace(shrunk, usual_messages.is_some()) != usual_messages.is_some();
    // An empty mailbox that failed the run has been logged with it.
    if !is_change || run.error_type == Some(ErrorType::MailboxEmpty) || !log.may_log() {
        return;
    }
    let (target, account, trace_id) = (run.target.as_str(), run.account.as_str(), run.trace_id);
    let family = run.family.map(AddressFamily::as_str);
    if let Some(usual_messages) = usual_messages {
        warn!(
            target, account, family, messages, usual_messages, %trace_id,
            "the mailbox holds far fewer messages than usual: were they deleted, or lost?"
        );
    } else {
        info!(target, account, family, messages, "the mailbox no longer holds far fewer messages than usual");
    }
}

/// The state of an account over one address family, by its last run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum RunState {
    /// It passed, or there was none.
    #[default]
    Passed,
    Failed {
        class: Option<ErrorType>,
        step: Option<StepName>,
    },
    /// The text distinguishes a missing file from one with a wrong mode. It is kept as a hash.
    Void {
        class: Option<ErrorType>,
        text: u64,
    },
}

impl RunState {
    fn of(run: &Run) -> Self {
        match run.outcome {
            RunOutcome::Passed => Self::Passed,
            RunOutcome::Void => Self::Void { class: run.error_type, text: text_hash(run) },
            RunOutcome::Failed => Self::Failed { class: run.error_type, step: run.failed_step.clone() },
        }
    }

    /// Whether a run leaves the state unchanged. A login that was held back has the class of the one that was refused.
    fn is_same(&self, now: &Self, run: &Run) -> bool {
        match self {
            Self::Failed { class, .. } if run.auth_backoff == Some(true) => *class == run.error_type,
            before => before == now,
        }
    }
}

/// A hash of the failing step's text without digits, which may differ each time.
fn text_hash(run: &Run) -> u64 {
    let mut hasher = DefaultHasher::new();
    let text = run.failing_step().and_then(|step| step.text.as_ref()).map_or("", ServerText::as_str);
    text.bytes().filter(|byte| !byte.is_ascii_digit()).for_each(|byte| hasher.write_u8(byte));
    hasher.finish()
}

/// Logs a change of an account's state over an address family; a run with the same outcome as the one before is counted.
pub(super) fn log_outcome(run: &Run, state: &mut RunState, repeated: &mut LastSeen, log: &RunLog) {
    let (target, account, trace_id) = (run.target.as_str(), run.account.as_str(), run.trace_id);
    let family = run.family.map(AddressFamily::as_str);
    let now = RunState::of(run);
    let is_change = !state.is_same(&now, run);
    if is_change {
        *state = now;
    }
    if run.outcome == RunOutcome::Passed {
        if is_change && log.may_log() {
            let latency = run.first_loading_latency_s.map(Seconds::as_f64);
            info!(target, account, family, %trace_id, first_loading_latency_s = latency, "recovered");
        }
        return;
    }
    let step = run.failing_step();
    let text = step.and_then(|step| step.text.as_ref()).map(ServerText::as_str);
    let code = step.and_then(|step| step.code).map(ResponseCode::as_str);
    let failed_step = run.failed_step.as_ref().map(StepName::as_str);
    let (error_type, outcome) = (run.error_type.map(ErrorType::as_str), run.outcome.as_str());
    let cause = run.verdict.as_ref().map(|verdict| verdict.cause.as_str());
    let (what, counted_as) = match run.auth_backoff {
        Some(true) => ("a run did not pass: its login was held back, since the last one was refused", "held back"),
        _ => ("a run did not pass", error_type.unwrap_or(outcome)),
    };
    if !is_change {
        log.repeat(counted_as, (target, account), repeated);
    }
    if is_change && log.may_log() {
        warn!(target, account, family, %trace_id, outcome, error_type, failed_step, code, text, cause, "{what}");
    } else {
        debug!(target, account, family, %trace_id, outcome, error_type, failed_step, code, text, cause, "{what}");
    }
}

/// Logs each level that has moved for good.
pub(super) fn log_shifts(run: &Run, shifts: Vec<Shift>, log: &RunLog) {
    for shift in shifts.into_iter().filter(|_| log.may_log()) {
        let (target, account, journey) = (run.target.as_str(), run.account.as_str(), run.journey.as_str());
        let (from_s, to_s) = (Seconds::as_f64(shift.from), Seconds::as_f64(shift.to));
        let family = run.family.map(AddressFamily::as_str);
        match &shift.step {
            Some(step) => {
                let step = step.as_str();
                info!(target, account, family, journey, step, from_s, to_s, "the usual time of a step has changed");
            }
            None => {
                info!(target, account, family, journey, from_s, to_s, "the usual First Loading Latency has changed");
            }
        }
    }
}

/// Logs the first slow run of a period, with the step that explains it, and the first passed run that is not slow: either the
/// steps are quick again, or they are as slow as before and only their baselines have risen.
pub(super) fn log_slow(run: &Run, period: &mut SlowPeriod, settings: &latency::Settings, log: &RunLog) {
    let (target, account, trace_id) = (run.target.as_str(), run.account.as_str(), run.trace_id);
    let family = run.family.map(AddressFamily::as_str);
    let seconds = |time: Option<Seconds>| time.map(Seconds::as_f64);
    let cause = run.verdict.as_ref().map(|verdict| verdict.cause.as_str());
    let cause_share = run.verdict.as_ref().map(|verdict| verdict.share);
    match period.observe(run, settings) {
        SlowPeriodChange::Nothing => {}
        _ if !log.may_log() => {}
        SlowPeriodChange::Began(Some(step)) => {
            let (duration_s, baseline_s) = (step.duration_s.as_f64(), seconds(step.baseline_s));
            let (baseline_day_s, ratio_day) = (seconds(step.baseline_day_s), step.ratio_day);
            let (step, ratio) = (step.name.as_str(), step.ratio);
            info!(
                target, account, family, step, duration_s, baseline_s, ratio, baseline_day_s, ratio_day, cause,
                cause_share, %trace_id,
                "a step was slow"
            );
        }
        SlowPeriodChange::Began(None) => {
            let (first_loading_latency_s, baseline_s) = (seconds(run.first_loading_latency_s), seconds(run.baseline_s));
            let (baseline_day_s, ratio, ratio_day) = (seconds(run.baseline_day_s), run.ratio, run.ratio_day);
            let slowest_step = run.slowest_step.as_ref().map(StepName::as_str);
            info!(
                target, account, family, slowest_step, first_loading_latency_s, baseline_s, ratio, baseline_day_s,
                ratio_day, cause, cause_share, %trace_id,
                "First Loading Latency was slow, and no single step"
            );
        }
        SlowPeriodChange::Over => info!(target, account, family, %trace_id, "no step is slow now"),
        SlowPeriodChange::BaselineMoved(moved) => {
            for BaselineMoved { step, took, from, to } in moved {
                let [duration_s, from_s, to_s] = [took, from, to].map(Seconds::as_f64);
                if let Some(step) = step {
                    let step = step.name.as_str();
                    warn!(
                        target, account, family, step, duration_s, from_s, to_s, %trace_id,
                        "a step is as slow as before, but no longer counts as slow: its baseline has risen"
                    );
                } else {
                    warn!(
                        target, account, family, first_loading_latency_s = duration_s, from_s, to_s, %trace_id,
                        "First Loading Latency is as slow as before, but no longer counts as slow: what is usual has risen"
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use imaptrace_record::StepOutcome;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ten_thousand_changes_in_a_second_are_fifty_lines_and_a_figure() {
        let log = RunLog::new();
        let logged = (0..10_000).filter(|_| log.may_log()).count();
        assert_eq!((logged, log.counters().unlogged.changes), (50, 9_950));
        tokio::time::advance(SECOND).await;
        assert!(log.may_log());
    }

    #[tokio::test(start_paused = true)]
    async fn repeats_are_counted_by_runs_and_by_accounts_in_each_minute() {
        let log = RunLog::new();
        let (mut one, mut two) = (None, None);
        for _ in 0..60 {
            log.repeat("timeout_connect", ("one", "a"), &mut one);
            log.repeat("auth_rejected", ("two", "b"), &mut two);
        }
        let unlogged = std::mem::take(&mut log.counters().unlogged);
        assert_eq!(parts(&unlogged.runs).as_deref(), Some("auth_rejected 60, timeout_connect 60"));
        assert_eq!((unlogged.accounts, unlogged.which().as_deref()), (2, Some("one/a, two/b")));
        tokio::time::advance(MINUTE).await;
        log.repeat("timeout_connect", ("one", "a"), &mut one);
        assert_eq!(log.counters().unlogged.accounts, 1);
    }

    #[test]
    fn a_summary_names_five_accounts_and_counts_the_others() {
        let log = RunLog::new();
        for number in 0..8 {
            log.repeat("no", (&format!("mail{number}"), "default"), &mut None);
        }
        let expected = "mail0/default, mail1/default, mail2/default, mail3/default, mail4/default and 3 more";
        assert_eq!(log.counters().unlogged.which().as_deref(), Some(expected));
        assert_eq!(Unlogged::default().which(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_skipped_start_is_logged_again_when_none_was_for_some_time() {
        let log = RunLog::new();
        let mut last = None;
        let mut logged_at = Vec::new();
        for second in 0..300 {
            // Each other one; from 100 to 250 none.
            if second % 2 == 0 && !(100..250).contains(&second) && log.skip("limit", 1, &mut last) {
                logged_at.push(second);
            }
            tokio::time::advance(SECOND).await;
        }
        assert_eq!(logged_at, [0, 250]);
        assert_eq!(log.counters().unlogged.skips, BTreeMap::from([("limit", 73)]));
    }

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
    fn a_mailbox_that_lost_its_messages_is_logged_when_it_begins_and_ends_and_not_beside_a_failure_over_it() {
        let holding = |messages: Option<u64>, usual: Option<u64>| {
            let mut run = run(RunOutcome::Passed, None, "", "");
            let select = run.steps.iter_mut().find(|step| step.name == "SELECT").unwrap();
            (select.mailbox_messages, select.usual_messages) = (messages, usual);
            run
        };
        let empty = || Run { error_type: Some(ErrorType::MailboxEmpty), ..holding(Some(0), Some(4_711)) };
        let mut shrunk = false;
        for (number, (run, lines)) in [
            (holding(Some(4_711), None), 0),
            (holding(Some(30), Some(4_711)), 1),
            (holding(Some(31), Some(4_711)), 0),
            // It did not get to SELECT.
            (holding(None, None), 0),
            (holding(Some(32), Some(4_711)), 0),
            (holding(Some(4_711), None), 1),
            (empty(), 0),
            (holding(Some(1), Some(4_711)), 0),
            (holding(Some(4_711), None), 1),
        ]
        .into_iter()
        .enumerate()
        {
            let log = RunLog::new();
            log_shrunk(&run, &mut shrunk, &log);
            assert_eq!(log.lines(), lines, "{number}");
        }
    }

    #[test]
    fn each_change_of_state_is_logged_and_a_repetition_is_not() {
        let passed = || run(RunOutcome::Passed, None, "", "");
        let void = |text: &str| run(RunOutcome::Void, Some(ErrorType::SecretUnavailable), "LOGIN", text);
        let failed = |class, step| run(RunOutcome::Failed, Some(class), step, "");
        let held = || Run { auth_backoff: Some(true), ..failed(ErrorType::AuthFailed, "LOGIN") };
        let mut state = RunState::default();
        for (number, (run, is_change)) in [
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
            // Only a line counts towards the limit.
            let log = RunLog::new();
            log_outcome(&run, &mut state, &mut None, &log);
            assert_eq!(log.lines(), u32::from(is_change), "{number}");
        }
    }
}
