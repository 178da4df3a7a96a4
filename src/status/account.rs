//! The remembered runs of one account: the last ones, and failed ones for longer. Called by `run_history`.

use imaptrace_record::{AddressFamily, Run, RunOutcome, Timestamp};
use serde::{Deserialize, Serialize};

use super::compact_run::CompactRun;

/// The number of runs to remember for each account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryDepth {
    /// The last runs.
    pub runs: usize,
    /// Failed runs that are no longer among those.
    pub failed_runs: usize,
}

impl Default for HistoryDepth {
    fn default() -> Self {
        Self { runs: 5, failed_runs: 5 }
    }
}

/// The state of an account, by its last run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum AccountState {
    /// Its last run passed.
    Passed,
    /// Its last run failed; with a run for each address family, the last one over some family.
    Failed,
    /// Its last run is void.
    Void,
    /// No run has ended yet.
    Never,
}

/// One account. Its lists have the oldest run first.
#[derive(Default)]
pub(super) struct AccountRuns {
    pub(super) name: Box<str>,
    /// The outcome of the last run over any family, over IPv4 and over IPv6.
    pub(super) last: [Option<RunOutcome>; 3],
    pub(super) since: Option<Timestamp>,
    pub(super) skipped: u64,
    pub(super) runs: Vec<CompactRun>,
    pub(super) failed_runs: Vec<CompactRun>,
}

impl AccountRuns {
    pub(super) fn state(&self) -> AccountState {
        let any = |outcome| self.last.contains(&Some(outcome));
        if any(RunOutcome::Failed) {
            AccountState::Failed
        } else if any(RunOutcome::Void) {
            AccountState::Void
        } else if any(RunOutcome::Passed) {
            AccountState::Passed
        } else {
            AccountState::Never
        }
    }

    pub(super) fn record(&mut self, run: &Run, compact: CompactRun, depth: HistoryDepth) {
        let before = self.state();
        match compact.family() {
            // After a change of the target's `address`, outcomes of the other kind do not count.
            None => self.last = [Some(run.outcome), None, None],
            Some(family) => {
                self.last[0] = None;
                self.last[if family == AddressFamily::Ipv4 { 1 } else { 2 }] = Some(run.outcome);
            }
        }
        if self.state() != before {
            self.since = Some(run.started_at);
        }
        let removed = push(&mut self.runs, compact, depth.runs);
        if let Some(removed) = removed.filter(|removed| removed.outcome == RunOutcome::Failed) {
            push(&mut self.failed_runs, removed, depth.failed_runs);
        }
    }
}

/// Adds to a list with a limit, and returns the removed run.
fn push(list: &mut Vec<CompactRun>, run: CompactRun, limit: usize) -> Option<CompactRun> {
    if list.len() < limit {
        list.reserve_exact(1);
        list.push(run);
        return None;
    }
    let Some(oldest) = list.first().copied() else { return Some(run) };
    list.rotate_left(1);
    list.pop();
    list.push(run);
    Some(oldest)
}
