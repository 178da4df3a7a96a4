//! The remembered runs of all accounts.
//!
//! Its size is bounded by the plan and the depth. A run that is recorded waits for a reader no longer than printing
//! [`BATCH`] bytes takes. `agent` records runs; `page` and `server` read.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Bound,
    sync::{Mutex, MutexGuard, PoisonError},
};

use imaptrace_record::{Run, Timestamp};

use super::{
    account::{AccountRuns, AccountState, Depth},
    compact_run::{CompactRun, since_epoch},
    lag::{LagQuantiles, Lags},
    request::Filter,
};

/// A target of the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedTarget {
    /// Its name.
    pub target: String,
    /// Its accounts' aliases.
    pub accounts: Vec<String>,
}

/// Numbers of targets and accounts, by the states of the accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AccountCounts {
    /// Targets of the plan.
    pub targets: u64,
    /// Targets with an account that failed.
    pub failing_targets: u64,
    /// Accounts of the plan.
    pub accounts: u64,
    /// Accounts whose last run passed.
    pub passed: u64,
    /// Accounts whose last run failed.
    pub failed: u64,
    /// Accounts whose last run is void.
    pub void: u64,
    /// Accounts without a finished run.
    pub never: u64,
}

/// The remembered runs of all accounts. Shared between threads; no call waits for input or output.
pub struct RunHistory {
    depth: Depth,
    inner: Mutex<Accounts>,
}

struct Accounts {
    targets: BTreeMap<Box<str>, Vec<AccountRuns>>,
    lags: Lags,
    skipped: BTreeMap<&'static str, u64>,
}

/// Bytes that are printed under one lock.
const BATCH: usize = 16 << 10;
/// Targets of a new plan that are entered under one lock.
const STEP: usize = 250;
/// Accounts that are looked at under one lock when none of them passes the filter.
const LOOKS: usize = 1_000;

/// Where printing continues. It stays valid over a change of the plan.
#[derive(Default)]
pub(super) struct Cursor {
    target: Box<str>,
    account: usize,
    printed: bool,
    done: bool,
}

impl RunHistory {
    /// An empty history.
    pub fn new(depth: Depth) -> Self {
        let inner = Accounts { targets: BTreeMap::new(), lags: Lags::new(), skipped: BTreeMap::new() };
        Self { depth, inner: Mutex::new(inner) }
    }

    /// Sets the targets and accounts that are probed from now on. The runs of those that stay are kept.
    pub fn plan(&self, plan: impl IntoIterator<Item = PlannedTarget>) {
        let mut planned: HashSet<String> = HashSet::new();
        let mut plan = plan.into_iter().peekable();
        while plan.peek().is_some() {
            // A run that is recorded meanwhile waits for one step only.
            let mut inner = self.lock();
            for PlannedTarget { target, accounts } in plan.by_ref().take(STEP) {
                let known = inner.targets.remove(target.as_str()).unwrap_or_default();
                let mut known: HashMap<_, _> =
                    known.into_iter().map(|account| (account.name.clone(), account)).collect();
                let accounts = accounts
                    .into_iter()
                    .map(|name| known.remove(name.as_str()).unwrap_or_else(|| AccountRuns::new(&name)));
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

    /// Records a run that has ended. A run of an account that is no longer in the plan is dropped.
    pub fn record(&self, run: &Run) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        if let Some(lag) = run.start_lag_s {
            inner.lags.record(since_epoch(run.started_at), lag);
        }
        let compact = CompactRun::of(run);
        if let Some(account) = inner.account(&run.target, &run.account) {
            account.record(run, compact, self.depth);
        }
    }

    /// Counts planned starts that did not happen. `reason` is one of a closed list.
    pub fn skipped(&self, target: &str, account: &str, reason: &'static str, count: u64) {
        let mut inner = self.lock();
        *inner.skipped.entry(reason).or_default() += count;
        if let Some(account) = inner.account(target, account) {
            account.skipped += count;
        }
    }

    /// Numbers of targets and accounts.
    pub fn counts(&self) -> AccountCounts {
        let inner = self.lock();
        let mut counts = AccountCounts { targets: inner.targets.len() as u64, ..AccountCounts::default() };
        for accounts in inner.targets.values() {
            let failed = counts.failed;
            for account in accounts {
                counts.accounts += 1;
                *match account.state() {
                    AccountState::Passed => &mut counts.passed,
                    AccountState::Failed => &mut counts.failed,
                    AccountState::Void => &mut counts.void,
                    AccountState::Never => &mut counts.never,
                } += 1;
            }
            counts.failing_targets += u64::from(counts.failed > failed);
        }
        counts
    }

    /// The size in bytes, without what the allocator adds.
    pub fn held_bytes(&self) -> usize {
        let inner = self.lock();
        let account = |account: &AccountRuns| {
            let runs = account.runs.capacity() + account.failed_runs.capacity();
            size_of::<AccountRuns>() + account.name.len() + runs * size_of::<CompactRun>()
        };
        let accounts = inner.targets.values().flatten().map(account).sum::<usize>();
        let target = size_of::<(Box<str>, Vec<AccountRuns>)>();
        accounts + inner.targets.keys().map(|name| target + name.len()).sum::<usize>()
    }

    /// How late runs started in the last minutes, and the starts that were skipped.
    pub(super) fn schedule(&self, at: Timestamp) -> (Option<LagQuantiles>, BTreeMap<&'static str, u64>) {
        let inner = self.lock();
        (inner.lags.quantiles(since_epoch(at)), inner.skipped.clone())
    }

    pub(super) fn has(&self, target: &str) -> bool {
        self.lock().targets.contains_key(target)
    }

    /// Prints the next accounts by `print_account`, with commas between them; false when there are no more.
    pub(super) fn print(
        &self,
        cursor: &mut Cursor,
        filter: &Filter,
        out: &mut Vec<u8>,
        print_account: impl Fn(&str, &AccountRuns, &mut Vec<u8>),
    ) -> bool {
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
                    print_account(target, account, out);
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

    fn lock(&self) -> MutexGuard<'_, Accounts> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for RunHistory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunHistory").field("depth", &self.depth).finish_non_exhaustive()
    }
}

impl Accounts {
    fn account(&mut self, target: &str, account: &str) -> Option<&mut AccountRuns> {
        self.targets.get_mut(target)?.iter_mut().find(|known| *known.name == *account)
    }
}

#[cfg(test)]
pub(super) mod tests;
