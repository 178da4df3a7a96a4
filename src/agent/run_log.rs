//! How much the log says of runs: changes up to so many a second, repeats in one line a minute for all accounts.
//!
//! Ten thousand accounts that fail at once and go on failing are some lines, and figures. Each run is in the telemetry.
//! Called by `tell` before it logs, and by a task of the agent that logs the figures.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tracing::warn;

use crate::clock;

/// Lines of changes in a second.
const MOST_A_SECOND: u32 = 50;
/// Accounts that a summary names.
const MOST_NAMED: usize = 5;
const SECOND: Duration = Duration::from_secs(1);
/// Between two summaries.
pub(super) const MINUTE: Duration = Duration::from_secs(60);

/// What has been logged lately, and what was not.
pub(super) struct RunLog(Mutex<Counters>);

struct Counters {
    begun: Instant,
    /// The current second, and lines in it.
    second: Instant,
    lines: u32,
    found: Found,
}

/// What was not logged one by one.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    /// Runs that ended as the one before, by error type.
    runs: BTreeMap<&'static str, u64>,
    /// Accounts whose runs these were.
    accounts: u64,
    /// The first of them.
    named: Vec<String>,
    /// Starts that were skipped, by reason.
    skips: BTreeMap<&'static str, u64>,
    /// Changes for which there was no line left.
    changes: u64,
}

/// The minute in which something was last seen of an account; none before.
pub(super) type LastSeen = Option<u64>;

impl RunLog {
    pub(super) fn new() -> Self {
        let now = clock::now();
        Self(Mutex::new(Counters { begun: now, second: now, lines: 0, found: Found::default() }))
    }

    /// Whether there is a line left for a change; else it is counted.
    pub(super) fn may_log(&self) -> bool {
        self.may_log_at(clock::now())
    }

    fn may_log_at(&self, now: Instant) -> bool {
        let mut counters = self.counters();
        if now.saturating_duration_since(counters.second) >= SECOND {
            (counters.second, counters.lines) = (now, 0);
        }
        if counters.lines == MOST_A_SECOND {
            counters.found.changes += 1;
            return false;
        }
        counters.lines += 1;
        true
    }

    /// Counts a run that ended as the one before did, of this target and account.
    pub(super) fn repeat(&self, counted_as: &'static str, (target, account): (&str, &str), counted: &mut LastSeen) {
        let mut counters = self.counters();
        let minute = counters.minute();
        *counters.found.runs.entry(counted_as).or_default() += 1;
        if counted.replace(minute) != Some(minute) {
            counters.found.accounts += 1;
            if counters.found.named.len() < MOST_NAMED {
                counters.found.named.push(format!("{target}/{account}"));
            }
        }
    }

    /// Counts starts that were skipped. Gives whether that is news of this account: the last ones were longer ago than a
    /// minute or two.
    pub(super) fn skip(&self, reason: &'static str, count: u64, last: &mut LastSeen) -> bool {
        let mut counters = self.counters();
        let is_news = counters.is_news(last);
        if !is_news {
            *counters.found.skips.entry(reason).or_default() += count;
        }
        is_news
    }

    /// Logs what was not logged since the last call, if there is anything.
    pub(super) fn summarize(&self) {
        let found = std::mem::take(&mut self.counters().found);
        if found == Found::default() {
            return;
        }
        let which = found.which();
        let Found { runs, accounts, skips, changes, .. } = found;
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

impl Found {
    /// Some of the accounts whose runs are counted, and how many others there are; none of none.
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

    fn is_news(&self, last: &mut LastSeen) -> bool {
        let minute = self.minute();
        last.replace(minute).is_none_or(|last| last + 1 < minute)
    }
}

/// `timeout_connect 120, auth_rejected 3`; none of nothing.
fn parts(counts: &BTreeMap<&'static str, u64>) -> Option<String> {
    let mut text = String::new();
    for (name, count) in counts {
        let separator = if text.is_empty() { "" } else { ", " };
        // Writing to a string cannot fail.
        write!(text, "{separator}{name} {count}").unwrap_or(());
    }
    Some(text).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ten_thousand_changes_in_a_second_are_fifty_lines_and_a_figure() {
        let log = RunLog::new();
        let logged = (0..10_000).filter(|_| log.may_log()).count();
        assert_eq!((logged, log.counters().found.changes), (50, 9_950));
        tokio::time::advance(SECOND).await;
        assert!(log.may_log());
    }

    #[tokio::test(start_paused = true)]
    async fn repeats_are_counted_by_runs_and_by_accounts_and_each_minute_anew() {
        let log = RunLog::new();
        let (mut one, mut two) = (None, None);
        for _ in 0..60 {
            log.repeat("timeout_connect", ("one", "a"), &mut one);
            log.repeat("auth_rejected", ("two", "b"), &mut two);
        }
        let found = std::mem::take(&mut log.counters().found);
        assert_eq!(parts(&found.runs).as_deref(), Some("auth_rejected 60, timeout_connect 60"));
        assert_eq!((found.accounts, found.which().as_deref()), (2, Some("one/a, two/b")));
        tokio::time::advance(MINUTE).await;
        log.repeat("timeout_connect", ("one", "a"), &mut one);
        assert_eq!(log.counters().found.accounts, 1);
    }

    #[test]
    fn a_summary_names_five_accounts_and_says_how_many_more_there_are() {
        let log = RunLog::new();
        for number in 0..8 {
            log.repeat("no", (&format!("mail{number}"), "default"), &mut None);
        }
        let expected = "mail0/default, mail1/default, mail2/default, mail3/default, mail4/default and 3 more";
        assert_eq!(log.counters().found.which().as_deref(), Some(expected));
        assert_eq!(Found::default().which(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_that_is_skipped_is_news_again_when_none_was_for_some_time() {
        let log = RunLog::new();
        let mut last = None;
        let mut news = Vec::new();
        for second in 0..300 {
            // Each other one; from 100 to 250 none.
            if second % 2 == 0 && !(100..250).contains(&second) && log.skip("limit", 1, &mut last) {
                news.push(second);
            }
            tokio::time::advance(SECOND).await;
        }
        assert_eq!(news, [0, 250]);
        assert_eq!(log.counters().found.skips, BTreeMap::from([("limit", 73)]));
    }
}
