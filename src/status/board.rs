//! What is remembered of each account's runs: the last ones, and failed ones for longer.
//!
//! Bounded by the plan and the depth. Whoever writes to it waits for a reader no longer than it takes to print
//! [`BATCH`] bytes.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Bound,
    sync::{Mutex, MutexGuard, PoisonError},
};

use imaptrace_record::{AddressFamily, Run, RunOutcome, Timestamp};

use super::{
    kept::{Kept, since_epoch},
    lag::{Lags, Told},
    page,
    request::Filter,
};

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
                self.last[if family == AddressFamily::Ipv4 { 1 } else { 2 }] = Some(run.outcome);
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
        let inner = Inner { targets: BTreeMap::new(), lags: Lags::new(), skipped: BTreeMap::new() };
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
        let kept = Kept::of(run);
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
                    page::account(target, account, filter.runs, out);
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
pub(super) mod tests;
