//! What is remembered of each account's runs: the last ones, and failed ones for longer.
//!
//! Bounded by the plan and the depth. Whoever writes to it waits for a reader no longer than it takes to print
//! [`BATCH`] bytes.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Bound,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{
    kept::{Kept, Words, since_epoch},
    lag::{Lags, Told},
    page,
    request::Filter,
};
use crate::record::{Run, RunOutcome, Timestamp};

/// How much is remembered of each account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Depth {
    /// Its last runs.
    pub runs: usize,
    /// Failed runs that are no longer among those.
    pub failed_runs: usize,
}

impl Default for Depth {
    fn default() -> Self {
        Self { runs: 5, failed_runs: 5 }
    }
}

/// A target of the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Its name.
    pub target: String,
    /// Its accounts' aliases.
    pub accounts: Vec<String>,
}

/// How an account is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Its last run passed.
    Passed,
    /// Its last run failed, over some family of addresses if it has a run for each.
    Failed,
    /// Its last run could not be judged.
    Void,
    /// No run has ended yet.
    Never,
}

impl State {
    pub(super) const ALL: [Self; 4] = [Self::Passed, Self::Failed, Self::Void, Self::Never];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Void => "void",
            Self::Never => "never",
        }
    }
}

/// How many there are of what, by what their last runs found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Targets of the plan.
    pub targets: u64,
    /// Those with an account that failed.
    pub failing_targets: u64,
    /// Accounts of the plan.
    pub accounts: u64,
    /// Of these, passed.
    pub passed: u64,
    /// Failed.
    pub failed: u64,
    /// Could not be judged.
    pub void: u64,
    /// Have not ended a run yet.
    pub never: u64,
}

/// The memory of all accounts. Shared; no call waits for input or output.
pub struct Board {
    depth: Depth,
    inner: Mutex<Inner>,
}

struct Inner {
    targets: BTreeMap<Box<str>, Vec<Account>>,
    words: Words,
    lags: Lags,
    skipped: BTreeMap<&'static str, u64>,
}

/// One account. What it holds is oldest first.
#[derive(Default)]
pub(super) struct Account {
    pub(super) name: Box<str>,
    /// How the last run ended, where there is one run over any family, and over IPv4, and over IPv6.
    last: [Option<RunOutcome>; 3],
    pub(super) since: Option<Timestamp>,
    pub(super) skipped: u64,
    pub(super) runs: Vec<Kept>,
    pub(super) failed_runs: Vec<Kept>,
}

impl Account {
    pub(super) fn state(&self) -> State {
        let any = |outcome| self.last.contains(&Some(outcome));
        if any(RunOutcome::Failed) {
            State::Failed
        } else if any(RunOutcome::Void) {
            State::Void
        } else if any(RunOutcome::Passed) {
            State::Passed
        } else {
            State::Never
        }
    }

    fn record(&mut self, run: &Run, kept: Kept, depth: Depth) {
        let before = self.state();
        match kept.family() {
            // The target's `address` may have been changed: what was known by the other way is over.
            None => self.last = [Some(run.outcome), None, None],
            Some(family) => {
                self.last[0] = None;
                self.last[if family == "ipv4" { 1 } else { 2 }] = Some(run.outcome);
            }
        }
        if self.state() != before {
            self.since = Some(run.started_at);
        }
        let gone = push(&mut self.runs, kept, depth.runs);
        if let Some(gone) = gone.filter(|gone| gone.outcome == RunOutcome::Failed) {
            push(&mut self.failed_runs, gone, depth.failed_runs);
        }
    }
}

/// Adds to a list of at most so many, and gives what had to go.
fn push(list: &mut Vec<Kept>, kept: Kept, limit: usize) -> Option<Kept> {
    if list.len() < limit {
        list.reserve_exact(1);
        list.push(kept);
        return None;
    }
    let Some(oldest) = list.first().copied() else { return Some(kept) };
    list.rotate_left(1);
    list.pop();
    list.push(kept);
    Some(oldest)
}

/// Print so much at once, then let others at the board.
const BATCH: usize = 16 << 10;
/// So many targets of a plan are gone over to at a time.
const STEP: usize = 250;
/// Look at so many accounts at once when none of them is wanted.
const LOOKS: usize = 1_000;

/// Where printing goes on. It holds over a change of the plan.
#[derive(Default)]
pub(super) struct Cursor {
    target: Box<str>,
    account: usize,
    printed: bool,
    done: bool,
}

impl Board {
    /// An empty board.
    pub fn new(depth: Depth) -> Self {
        let inner =
            Inner { targets: BTreeMap::new(), words: Words::default(), lags: Lags::new(), skipped: BTreeMap::new() };
        Self { depth, inner: Mutex::new(inner) }
    }

    /// Takes up what is probed from now on. Of what stays, nothing is forgotten.
    pub fn plan(&self, plan: impl IntoIterator<Item = Planned>) {
        let mut planned: HashSet<String> = HashSet::new();
        let mut plan = plan.into_iter().peekable();
        while plan.peek().is_some() {
            // Runs that end meanwhile wait for no more than a step.
            let mut inner = self.lock();
            for Planned { target, accounts } in plan.by_ref().take(STEP) {
                let known = inner.targets.remove(target.as_str()).unwrap_or_default();
                let mut known: HashMap<_, _> =
                    known.into_iter().map(|account| (account.name.clone(), account)).collect();
                let accounts = accounts.into_iter().map(|name| {
                    let new = || Account { name: name.as_str().into(), ..Account::default() };
                    known.remove(name.as_str()).unwrap_or_else(new)
                });
                let accounts = accounts.collect();
                inner.targets.insert(target.as_str().into(), accounts);
                planned.insert(target);
            }
        }
        let gone = |name: &str| !planned.contains(name);
        let old: Vec<Box<str>> =
            self.lock().targets.keys().filter(|name| gone(name)).map(|name| (**name).into()).collect();
        for step in old.chunks(STEP) {
            let mut inner = self.lock();
            for name in step {
                inner.targets.remove(name);
            }
        }
    }

    /// Remembers a run that has ended. One of an account that is no longer in the plan is not remembered.
    pub fn record(&self, run: &Run) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        if let Some(lag) = run.start_lag_s {
            inner.lags.record(since_epoch(run.started_at), lag);
        }
        let kept = Kept::of(run, &mut inner.words);
        if let Some(account) = inner.account(&run.target, &run.account) {
            account.record(run, kept, self.depth);
        }
    }

    /// Counts starts that were due and did not come to be. `reason` is one of a closed list.
    pub fn skipped(&self, target: &str, account: &str, reason: &'static str, count: u64) {
        let mut inner = self.lock();
        *inner.skipped.entry(reason).or_default() += count;
        if let Some(account) = inner.account(target, account) {
            account.skipped += count;
        }
    }

    /// How many there are of what.
    pub fn counts(&self) -> Counts {
        let inner = self.lock();
        let mut counts = Counts { targets: inner.targets.len() as u64, ..Counts::default() };
        for accounts in inner.targets.values() {
            let failed = counts.failed;
            for account in accounts {
                counts.accounts += 1;
                *match account.state() {
                    State::Passed => &mut counts.passed,
                    State::Failed => &mut counts.failed,
                    State::Void => &mut counts.void,
                    State::Never => &mut counts.never,
                } += 1;
            }
            counts.failing_targets += u64::from(counts.failed > failed);
        }
        counts
    }

    /// Bytes that it holds, nearly: what the allocator adds is left out.
    pub fn held_bytes(&self) -> usize {
        let inner = self.lock();
        let account = |account: &Account| {
            let runs = account.runs.capacity() + account.failed_runs.capacity();
            size_of::<Account>() + account.name.len() + runs * size_of::<Kept>()
        };
        let accounts = inner.targets.values().flatten().map(account).sum::<usize>();
        let target = size_of::<(Box<str>, Vec<Account>)>();
        accounts + inner.targets.keys().map(|name| target + name.len()).sum::<usize>()
    }

    /// How late runs have started lately, and starts that were skipped.
    pub(super) fn schedule(&self, at: Timestamp) -> (Option<Told>, BTreeMap<&'static str, u64>) {
        let inner = self.lock();
        (inner.lags.told(since_epoch(at)), inner.skipped.clone())
    }

    pub(super) fn has(&self, target: &str) -> bool {
        self.lock().targets.contains_key(target)
    }

    /// Prints the next accounts, with commas between them; false when there are no more.
    pub(super) fn print(&self, cursor: &mut Cursor, filter: &Filter, out: &mut Vec<u8>) -> bool {
        let inner = self.lock();
        let mut looks = 0;
        while !cursor.done && out.len() < BATCH && looks < LOOKS {
            looks += 1;
            let here = match &filter.target {
                Some(only) => inner.targets.get_key_value(only.as_str()),
                None => inner.targets.range::<str, _>((Bound::Included(&*cursor.target), Bound::Unbounded)).next(),
            };
            let Some((target, accounts)) = here else {
                cursor.done = true;
                break;
            };
            if *target != cursor.target {
                (cursor.target, cursor.account) = (target.clone(), 0);
            }
            if let Some(account) = accounts.get(cursor.account) {
                cursor.account += 1;
                if filter.state.is_none_or(|state| state == account.state()) {
                    out.extend_from_slice(if cursor.printed { b",\n" } else { b"\n" });
                    cursor.printed = true;
                    page::account(target, account, &inner.words, filter.runs, out);
                }
                continue;
            }
            let after = (Bound::Excluded(&**target), Bound::Unbounded);
            match inner.targets.range::<str, _>(after).next().filter(|_| filter.target.is_none()) {
                Some((next, _)) => (cursor.target, cursor.account) = (next.clone(), 0),
                None => cursor.done = true,
            }
        }
        !cursor.done
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Board {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Board").field("depth", &self.depth).finish_non_exhaustive()
    }
}

impl Inner {
    fn account(&mut self, target: &str, account: &str) -> Option<&mut Account> {
        self.targets.get_mut(target)?.iter_mut().find(|known| *known.name == *account)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::record::ErrorType;

    const PASSED: &str = include_str!("../../tests/support/runs/passed.json");
    const FAILED: &str = include_str!("../../tests/support/runs/failed.json");

    /// A run of mail01 that started so many seconds after an hour of the epoch.
    pub(in crate::status) fn run(outcome: RunOutcome, second: i64) -> Run {
        let text = if outcome == RunOutcome::Failed { FAILED } else { PASSED };
        let mut run: Run = serde_json::from_str(text).unwrap();
        (run.target, run.account) = ("mail01".into(), "default".into());
        run.started_at = Timestamp::from_epoch_seconds(1_795_434_000 + second).unwrap();
        run.outcome = outcome;
        if outcome == RunOutcome::Void {
            (run.error_type, run.failed_step) = (Some(ErrorType::Cancelled), Some("FETCH".into()));
        }
        run
    }

    pub(in crate::status) fn plan(names: &[&str]) -> Vec<Planned> {
        let planned = |name: &&str| Planned { target: (*name).to_owned(), accounts: vec!["default".to_owned()] };
        names.iter().map(planned).collect()
    }

    pub(in crate::status) fn board(names: &[&str]) -> Board {
        let board = Board::new(Depth { runs: 3, failed_runs: 2 });
        board.plan(plan(names));
        board
    }

    /// All that is printed of the accounts that pass a filter.
    fn printed(board: &Board, filter: &Filter) -> serde_json::Value {
        let (mut out, mut cursor) = (Vec::new(), Cursor::default());
        loop {
            let mut batch = Vec::new();
            let more = board.print(&mut cursor, filter, &mut batch);
            out.extend(batch);
            if !more {
                break;
            }
        }
        serde_json::from_slice(&[b"[", &*out, b"]"].concat()).unwrap()
    }

    fn all(board: &Board) -> serde_json::Value {
        printed(board, &Filter::default())
    }

    fn starts(list: &serde_json::Value) -> Vec<String> {
        let runs = list.as_array().unwrap().iter();
        runs.map(|run| second(&run["started_at"])).collect()
    }

    /// Of the minute.
    fn second(at: &serde_json::Value) -> String {
        at.as_str().unwrap().get(17..19).unwrap().to_owned()
    }

    #[test]
    fn failed_runs_are_kept_when_they_are_no_longer_among_the_last() {
        let board = board(&["mail01"]);
        let (failed, passed, void) = (RunOutcome::Failed, RunOutcome::Passed, RunOutcome::Void);
        for (second, outcome) in [failed, failed, void, failed, passed, passed, passed].into_iter().enumerate() {
            board.record(&run(outcome, i64::try_from(second).unwrap()));
        }
        let account = &all(&board)[0];
        assert_eq!(starts(&account["runs"]), ["06", "05", "04"]);
        assert_eq!(starts(&account["failed_runs"]), ["03", "01"], "the void one is not, the oldest had to go");
        assert_eq!((&account["state"], second(&account["since"])), (&"passed".into(), "04".into()));
    }

    #[test]
    fn what_a_run_found_is_told_as_the_record_has_it() {
        let board = board(&["mail01"]);
        let mut bad = run(RunOutcome::Failed, 0);
        (bad.family, bad.auth_backoff) = (Some("ipv6".into()), Some(true));
        board.record(&bad);
        let mut good = run(RunOutcome::Passed, 1);
        (good.slow, good.uncertain) = (Some(true), Some(true));
        board.record(&good);
        let shown = all(&board);
        let [shown_good, shown_bad] = &shown[0]["runs"].as_array().unwrap()[..] else { panic!("{shown}") };
        for (run, shown) in [(&good, shown_good), (&bad, shown_bad)] {
            let mut expected = serde_json::to_value(run).unwrap();
            expected["code"] = run.failing_step().map_or(serde_json::Value::Null, |step| step.code.clone().into());
            for (key, value) in shown.as_object().unwrap() {
                assert_eq!(*value, expected[key], "{key}");
            }
        }
        let told = ["trace_id", "first_loading_latency_s", "slowest_step", "slow", "uncertain"];
        assert!(told.iter().all(|key| shown_good.get(key).is_some()), "{shown_good}");
        assert_eq!(shown_bad["code"], "AUTHENTICATIONFAILED");
        assert_eq!((&shown_bad["family"], &shown_bad["auth_backoff"]), (&"ipv6".into(), &true.into()));
    }

    #[test]
    fn an_account_fails_while_it_fails_over_one_of_its_families() {
        let board = board(&["mail01"]);
        let over = |family: Option<&str>, outcome, second| {
            let mut run = run(outcome, second);
            run.family = family.map(str::to_owned);
            board.record(&run);
            all(&board)[0]["state"].as_str().unwrap().to_owned()
        };
        assert_eq!(over(Some("ipv4"), RunOutcome::Failed, 0), "failed");
        assert_eq!(over(Some("ipv6"), RunOutcome::Passed, 1), "failed");
        assert_eq!(over(Some("ipv4"), RunOutcome::Passed, 2), "passed");
        assert_eq!(over(Some("ipv6"), RunOutcome::Failed, 3), "failed");
        assert_eq!(over(None, RunOutcome::Passed, 4), "passed", "there is no run for each family any more");
    }

    #[test]
    fn a_new_plan_forgets_only_what_is_gone_and_a_late_run_of_that_is_nothing() {
        let board = board(&["mail01", "mail02"]);
        board.record(&run(RunOutcome::Failed, 0));
        board.plan(plan(&["mail00", "mail01"]));
        assert_eq!(all(&board)[1]["state"], "failed");
        board.plan(plan(&["mail02"]));
        board.record(&run(RunOutcome::Failed, 1));
        let shown = all(&board);
        assert_eq!((shown.as_array().unwrap().len(), &shown[0]["target"]), (1, &"mail02".into()));
        assert_eq!(board.counts(), Counts { targets: 1, accounts: 1, never: 1, ..Counts::default() });
    }

    #[test]
    fn filters_leave_only_what_they_name() {
        let board = board(&["mail00", "mail01", "mail02"]);
        board.record(&run(RunOutcome::Failed, 0));
        let names = |filter: &Filter| {
            let shown = printed(&board, filter);
            shown.as_array().unwrap().iter().map(|one| one["target"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(&Filter::default()), ["mail00", "mail01", "mail02"]);
        let only = |name: &str| Filter { target: Some(name.to_owned()), ..Filter::default() };
        assert_eq!(names(&only("mail01")), ["mail01"]);
        assert_eq!(names(&only("mail")), [""; 0]);
        assert_eq!(names(&Filter { state: Some(State::Failed), ..Filter::default() }), ["mail01"]);
        assert_eq!(names(&Filter { state: Some(State::Never), ..Filter::default() }), ["mail00", "mail02"]);
        let none = printed(&board, &Filter { runs: Some(0), ..only("mail01") });
        assert_eq!((&none[0]["runs"], &none[0]["state"]), (&serde_json::json!([]), &"failed".into()));
    }

    #[test]
    fn printing_goes_on_over_a_change_of_the_plan() {
        let names: Vec<String> = (0..2_000).map(|number| format!("mail{number:04}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let board = board(&names);
        let (mut out, mut cursor) = (Vec::new(), Cursor::default());
        assert!(board.print(&mut cursor, &Filter::default(), &mut out));
        let first = out.split(|byte| *byte == b'\n').count() - 1;
        assert!(first > 10 && out.len() < BATCH + 1_000, "{}", out.len());
        // All that was printed is gone, and the one that would have been next.
        board.plan(plan(&names[first + 1..]));
        let mut batches = 1;
        while board.print(&mut cursor, &Filter::default(), &mut { std::mem::take(&mut out) }) {
            batches += 1;
        }
        assert!(batches > 5, "{batches}");
        let mut cursor = Cursor::default();
        while board.print(&mut cursor, &Filter { state: Some(State::Failed), ..Filter::default() }, &mut out) {}
        assert!(out.is_empty());
    }

    #[test]
    fn ten_thousand_accounts_that_have_failed_for_long_take_less_than_eight_mebibytes() {
        let names: Vec<String> = (0..10_000).map(|number| format!("mail{number:05}.example.org")).collect();
        let board = Board::new(Depth::default());
        board.plan(plan(&names.iter().map(String::as_str).collect::<Vec<_>>()));
        let fresh = board.held_bytes();
        let mut run = run(RunOutcome::Failed, 0);
        for name in &names {
            run.target.clone_from(name);
            for _ in 0..12 {
                board.record(&run);
            }
        }
        let (fresh, full) = (fresh / names.len(), board.held_bytes() / names.len());
        assert!(fresh <= 250 && full <= 700, "{fresh} and {full} bytes an account");
    }
}
