//! `/status.json`, a piece at a time: the head first, then account after account. `docs/operations.md` has every field,
//! and a test holds it to this file.
//!
//! However many accounts there are, an answer under way holds no more than one piece of it.

use std::{collections::BTreeMap, sync::Arc};

use imaptrace_imap::ResponseCode;
use imaptrace_record::{AddressFamily, ErrorType, RunOutcome, Seconds, Timestamp, TraceId};
use serde::Serialize;

use super::{
    board::{Account, Board, Cursor},
    facts::{Config, Delivery, Facts, Identity},
    kept::{Kept, KeptStep},
    lag::{self, Told},
    request::Filter,
};

/// The version of the answer. It grows when a field changes its meaning or goes, not when one is added.
const SCHEMA: u32 = 1;

/// All but the accounts.
#[derive(Serialize)]
struct Status<'a> {
    schema: u32,
    version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<&'a str>,
    at: Timestamp,
    started_at: Timestamp,
    uptime_s: Seconds,
    live: bool,
    ready: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reasons: Vec<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<&'a str>,
    config: &'a Config,
    schedule: Schedule,
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery: Option<&'a Delivery>,
    states: States,
}

/// What is started, and how that goes.
#[derive(Serialize)]
struct Schedule {
    targets: u64,
    accounts: u64,
    in_flight: u64,
    skipped: BTreeMap<&'static str, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_lag: Option<StartLag>,
}

/// How late runs started.
#[derive(Serialize)]
struct StartLag {
    minutes: usize,
    runs: u64,
    p50_s: Seconds,
    p99_s: Seconds,
    max_s: Seconds,
}

/// Accounts by their state.
#[derive(Serialize)]
struct States {
    passed: u64,
    failed: u64,
    void: u64,
    never: u64,
}

/// One account.
#[derive(Serialize)]
struct Entry<'a> {
    target: &'a str,
    account: &'a str,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
    skipped: u64,
    runs: Vec<LastRun>,
    failed_runs: Vec<LastRun>,
}

/// One of its runs.
#[derive(Serialize)]
struct LastRun {
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<TraceId>,
    started_at: Timestamp,
    outcome: RunOutcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_type: Option<ErrorType>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed_step: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_loading_latency_s: Option<Seconds>,
    duration_s: Seconds,
    #[serde(skip_serializing_if = "Option::is_none")]
    slowest_step: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slow: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uncertain: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_backoff: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    family: Option<&'static str>,
}

/// The answer, as it is taken off piece by piece.
pub(super) struct Page {
    board: Arc<Board>,
    filter: Filter,
    /// Written with the first piece.
    head: Vec<u8>,
    cursor: Cursor,
    ended: bool,
}

impl Page {
    pub(super) fn new(board: Arc<Board>, identity: &Identity, facts: &Facts, filter: Filter) -> Self {
        let head = head(&board, identity, facts);
        Self { board, filter, head, cursor: Cursor::default(), ended: false }
    }

    /// The next piece; none at the end.
    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        let mut piece = std::mem::take(&mut self.head);
        while !self.ended {
            let more = self.board.print(&mut self.cursor, &self.filter, &mut piece);
            if !more {
                piece.extend_from_slice(b"]}\n");
                self.ended = true;
            }
            if !piece.is_empty() {
                return Some(piece);
            }
        }
        None
    }
}

/// Everything up to the list of accounts, which is left open.
fn head(board: &Board, identity: &Identity, facts: &Facts) -> Vec<u8> {
    let counts = board.counts();
    let (lag, skipped) = board.schedule(facts.at);
    let start_lag = lag.map(|Told { runs, p50, p99, max }| StartLag {
        minutes: lag::MINUTES,
        runs,
        p50_s: p50,
        p99_s: p99,
        max_s: max,
    });
    let status = Status {
        schema: SCHEMA,
        version: identity.version,
        instance: identity.instance.as_deref(),
        at: facts.at,
        started_at: identity.started_at,
        uptime_s: facts.uptime,
        live: facts.not_live.is_empty(),
        ready: facts.not_live.is_empty() && facts.not_ready.is_empty(),
        reasons: facts.not_live.iter().chain(&facts.not_ready).map(String::as_str).collect(),
        warnings: facts.warnings.iter().map(String::as_str).collect(),
        config: &facts.config,
        schedule: Schedule {
            targets: counts.targets,
            accounts: counts.accounts,
            in_flight: facts.in_flight,
            skipped,
            start_lag,
        },
        delivery: facts.delivery.as_ref(),
        states: States { passed: counts.passed, failed: counts.failed, void: counts.void, never: counts.never },
    };
    let mut head = json(&status);
    head.pop();
    head.extend_from_slice(b",\"accounts\":[");
    head
}

/// Prints one account.
pub(super) fn account(target: &str, account: &Account, runs: Option<usize>, out: &mut Vec<u8>) {
    let runs = runs.unwrap_or(usize::MAX);
    let newest_first = |list: &[Kept]| list.iter().rev().take(runs).map(last_run).collect();
    let shown = Entry {
        target,
        account: &account.name,
        state: account.state().as_str(),
        since: account.since,
        skipped: account.skipped,
        runs: newest_first(&account.runs),
        failed_runs: newest_first(&account.failed_runs),
    };
    out.extend(json(&shown));
}

fn last_run(kept: &Kept) -> LastRun {
    LastRun {
        trace_id: kept.trace_id(),
        started_at: kept.started_at(),
        outcome: kept.outcome,
        error_type: kept.error_type,
        failed_step: kept.failed_step.map(KeptStep::as_str),
        code: kept.code.map(ResponseCode::as_str),
        first_loading_latency_s: kept.first_loading_latency(),
        duration_s: kept.duration(),
        slowest_step: kept.slowest_step.map(KeptStep::as_str),
        slow: kept.is_slow().then_some(true),
        uncertain: kept.is_uncertain().then_some(true),
        auth_backoff: kept.was_held_back().then_some(true),
        family: kept.family().map(AddressFamily::as_str),
    }
}

/// None of these can fail to be printed; should one, it is told as nothing and breaks nothing else.
pub(super) fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_else(|_| b"{}".to_vec())
}
