//! `/status.json`, piece by piece: the head, then the accounts. A response in progress holds one piece in memory.
//! `docs/operations.md` has every field, and a test compares it with this file. Called by `server`.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc};

use hyper::body::{Bytes, Frame};
use imaptrace_imap::ResponseCode;
use imaptrace_record::{AddressFamily, ErrorType, RunOutcome, Seconds, Timestamp, TraceId};
use serde::Serialize;

use super::{
    account::{AccountRuns, AccountState},
    compact_run::{BACKOFF, CompactRun, CompactStep, SLOW, UNCERTAIN},
    facts::{ConfigStatus, Facts, Identity},
    lag::StartLag,
    request::Filter,
    run_history::{Cursor, RunHistory, StateCounts},
};
use crate::{delivery, server_events::SenderCounts};

/// The version of the response. It increases when a field changes its meaning or is removed, not when one is added.
const SCHEMA: u32 = 1;

/// The response without the accounts.
#[derive(Serialize)]
struct StatusHead<'a> {
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
    config: &'a ConfigStatus,
    schedule: ScheduleStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery: Option<&'a delivery::Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_events: Option<Vec<SenderEntry<'a>>>,
    states: StateCounts,
}

#[derive(Serialize)]
struct ScheduleStatus {
    targets: u64,
    accounts: u64,
    in_flight: u64,
    skipped: BTreeMap<&'static str, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_lag: Option<StartLag>,
}

#[derive(Serialize)]
struct SenderEntry<'a> {
    sender: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_event_at: Option<Timestamp>,
    events: &'a BTreeMap<&'static str, u64>,
}

#[derive(Serialize)]
struct AccountEntry<'a> {
    target: &'a str,
    account: &'a str,
    state: AccountState,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
    skipped: u64,
    runs: Vec<LastRun>,
    failed_runs: Vec<LastRun>,
}

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

/// The pieces of a response.
pub(super) struct Page {
    history: Arc<RunHistory>,
    filter: Filter,
    /// Written with the first piece.
    head: Vec<u8>,
    cursor: Cursor,
    ended: bool,
}

impl Page {
    pub(super) fn new(history: Arc<RunHistory>, identity: &Identity, facts: &Facts, filter: Filter) -> Self {
        Self { head: head(&history, identity, facts), history, filter, cursor: Cursor::default(), ended: false }
    }
}

impl Iterator for Page {
    type Item = Result<Frame<Bytes>, Infallible>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut piece = std::mem::take(&mut self.head);
        while !self.ended {
            let runs = self.filter.runs;
            let more = self.history.print(&mut self.cursor, &self.filter, &mut piece, |target, account, out| {
                print_account(target, account, runs, out);
            });
            if !more {
                piece.extend_from_slice(b"]}\n");
                self.ended = true;
            }
            if !piece.is_empty() {
                return Some(Ok(Frame::data(piece.into())));
            }
        }
        None
    }
}

/// Everything up to the first account.
fn head(history: &RunHistory, identity: &Identity, facts: &Facts) -> Vec<u8> {
    let counts = history.counts();
    let (start_lag, skipped) = history.schedule(facts.at);
    let status = StatusHead {
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
        schedule: ScheduleStatus {
            targets: counts.targets,
            accounts: counts.accounts,
            in_flight: facts.in_flight,
            skipped,
            start_lag,
        },
        delivery: facts.delivery.as_ref(),
        server_events: facts.server_events.as_ref().map(|senders| senders.iter().map(sender_entry).collect()),
        states: counts.states,
    };
    let mut head = json(&status);
    head.pop();
    head.extend_from_slice(b",\"accounts\":[");
    head
}

fn sender_entry<'a>((sender, counts): (&'a String, &'a SenderCounts)) -> SenderEntry<'a> {
    SenderEntry { sender, last_event_at: counts.last_event_at, events: &counts.events }
}

/// Prints one account, with at most `runs` of its runs.
pub(super) fn print_account(target: &str, account: &AccountRuns, runs: Option<usize>, out: &mut Vec<u8>) {
    let runs = runs.unwrap_or(usize::MAX);
    let newest_first = |list: &[CompactRun]| list.iter().rev().take(runs).map(last_run).collect();
    let shown = AccountEntry {
        target,
        account: &account.name,
        state: account.state(),
        since: account.since,
        skipped: account.skipped,
        runs: newest_first(&account.runs),
        failed_runs: newest_first(&account.failed_runs),
    };
    out.extend(json(&shown));
}

fn last_run(run: &CompactRun) -> LastRun {
    LastRun {
        trace_id: run.trace_id(),
        started_at: run.started_at(),
        outcome: run.outcome,
        error_type: run.error_type,
        failed_step: run.failed_step.map(CompactStep::as_str),
        code: run.code.map(ResponseCode::as_str),
        first_loading_latency_s: run.first_loading_latency(),
        duration_s: run.duration(),
        slowest_step: run.slowest_step.map(CompactStep::as_str),
        slow: run.has(SLOW),
        uncertain: run.has(UNCERTAIN),
        auth_backoff: run.has(BACKOFF),
        family: run.family().map(AddressFamily::as_str),
    }
}

/// JSON, or an empty object if a value cannot be written.
pub(super) fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_else(|_| b"{}".to_vec())
}
