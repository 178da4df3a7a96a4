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
use serde::Serialize;

use super::{
    account::{AccountRuns, AccountState, Depth},
    compact_run::{CompactRun, since_epoch},
    lag::{Lags, StartLag},
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
    /// These by the outcome of their last run.
    pub states: StateCounts,
}

/// Numbers of accounts by the outcome of the last run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct StateCounts {
    /// It passed.
    pub passed: u64,
    /// It failed.
    pub failed: u64,
    /// It is void.
    pub void: u64,
    /// No run has ended.
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
    has_printed: bool,
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
            counts.accounts += accounts.len() as u64;
            let (failed, states) = (counts.states.failed, &mut counts.states);
            for account in accounts {
                *match account.state() {
                    AccountState::Passed => &mut states.passed,
                    AccountState::Failed => &mut states.failed,
                    AccountState::Void => &mut states.void,
                    AccountState::Never => &mut states.never,
                } += 1;
            }
            counts.failing_targets += u64::from(states.failed > failed);
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
    pub(super) fn schedule(&self, at: Timestamp) -> (Option<StartLag>, BTreeMap<&'static str, u64>) {
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
        let (mut looks, only) = (0, filter.target.as_deref());
        let from = (Bound::Included(only.unwrap_or(&cursor.target)), Bound::Unbounded);
        let targets = inner.targets.range::<str, _>(from);
        for (target, accounts) in targets.take_while(|(name, _)| only.is_none_or(|only| ***name == *only)) {
            let printed = if *target == cursor.target { cursor.account } else { 0 };
            for (index, account) in accounts.iter().enumerate().skip(printed) {
                if out.len() >= BATCH || looks >= LOOKS {
                    (cursor.target, cursor.account) = (target.clone(), index);
                    return true;
                }
                looks += 1;
                if filter.state.is_none_or(|state| state == account.state()) {
                    out.extend_from_slice(if cursor.has_printed { b",\n" } else { b"\n" });
                    cursor.has_printed = true;
                    print_account(target, account, out);
                }
            }
        }
        false
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
