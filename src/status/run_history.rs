//! The remembered runs of all accounts, bounded by the plan and the depth. Recording a run waits no longer than printing
//! [`BATCH`] bytes takes. `agent` records runs; `page` and `server` read.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Bound,
    sync::{Mutex, MutexGuard, PoisonError},
};

use imaptrace_record::{Run, Timestamp};
use serde::Serialize;

use super::{
    account::{AccountRuns, AccountState, HistoryDepth},
    compact_run::{CompactRun, since_epoch},
    lag::{Lags, StartLag},
    request::Filter,
};

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

/// The remembered runs of all accounts.
pub struct RunHistory {
    depth: HistoryDepth,
    inner: Mutex<Accounts>,
}

struct Accounts {
    targets: BTreeMap<Box<str>, Vec<AccountRuns>>,
    lags: Lags,
    skipped: BTreeMap<&'static str, u64>,
}

/// Bytes printed under one lock.
const BATCH: usize = 16 << 10;
/// Targets of a new plan added under one lock.
const STEP: usize = 250;
/// Accounts examined under one lock.
const SCANNED: usize = 1_000;

/// Where printing continues; valid after a change of the plan, too.
#[derive(Default)]
pub(super) struct Cursor {
    target: Box<str>,
    account: usize,
    has_printed: bool,
}

impl RunHistory {
    /// An empty history.
    pub fn new(depth: HistoryDepth) -> Self {
        let inner = Accounts { targets: BTreeMap::new(), lags: Lags::new(), skipped: BTreeMap::new() };
        Self { depth, inner: Mutex::new(inner) }
    }

    /// Sets the targets, by name, and the aliases of their accounts; known ones keep their runs.
    pub fn plan(&self, plan: impl IntoIterator<Item = (String, Vec<String>)>) {
        let mut planned: HashSet<String> = HashSet::new();
        let mut plan = plan.into_iter().peekable();
        while plan.peek().is_some() {
            let mut inner = self.lock();
            for (target, accounts) in plan.by_ref().take(STEP) {
                let known = inner.targets.remove(target.as_str()).unwrap_or_default();
                let mut known: HashMap<_, _> =
                    known.into_iter().map(|account| (account.name.clone(), account)).collect();
                let accounts = accounts.into_iter().map(|name| {
                    known
                        .remove(name.as_str())
                        .unwrap_or_else(|| AccountRuns { name: name.into(), ..AccountRuns::default() })
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

    /// Records a finished run, unless its account is not in the plan.
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

    /// The size in bytes, without overhead of the allocator.
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

    /// How late runs started in the last minutes, and the number of skipped starts by reason.
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
        let (mut scanned, only) = (0, filter.target.as_deref());
        let from = (Bound::Included(only.unwrap_or(&cursor.target)), Bound::Unbounded);
        let targets = inner.targets.range::<str, _>(from);
        for (target, accounts) in targets.take_while(|(name, _)| only.is_none_or(|only| ***name == *only)) {
            let printed = if *target == cursor.target { cursor.account } else { 0 };
            for (index, account) in accounts.iter().enumerate().skip(printed) {
                if out.len() >= BATCH || scanned >= SCANNED {
                    (cursor.target, cursor.account) = (target.clone(), index);
                    return true;
                }
                scanned += 1;
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

impl Accounts {
    fn account(&mut self, target: &str, account: &str) -> Option<&mut AccountRuns> {
        self.targets.get_mut(target)?.iter_mut().find(|known| *known.name == *account)
    }
}

#[cfg(test)]
pub(super) mod tests;
