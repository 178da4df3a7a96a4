//! Our stamps against the wire: runs against a real Dovecot under a packet capture, joined by the client's port and the
//! order of commands. Beside it what Dovecot itself says that SELECT and FETCH took.
//!
//! `make bench-truth` runs it; docs/performance.md tells what the tables mean. Needs root (tcpdump), Dovecot, tcpdump and
//! tshark. Arguments are the rows to run, in order.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::expect_used,
    reason = "a bench that cannot measure says why and ends"
)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its tables are its output")]
#![allow(missing_docs, unreachable_pub, reason = "a program, not a library")]

#[path = "../../tests/support"]
#[allow(dead_code, reason = "tests use the rest")]
mod support {
    pub mod dovecot;
    pub mod program;
    pub mod run;
}

mod figures;
mod load;
mod table;
mod wire;
mod witness;

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use imaptrace::{net::Roots, plan::Security};
use imaptrace_imap::CommandName;
use imaptrace_record::{ErrorType, Run, RunOutcome, Seconds, Step, StepName, StepOutcome};
use tokio::runtime::Builder;

use self::{
    figures::Deviations,
    load::{Load, nanos},
    support::dovecot::{Dovecot, Options},
    wire::{Capture, Connections, Seen},
    witness::Witness,
};

/// What `make bench-truth` runs unless told otherwise.
const ROWS: &[&str] = &["alone", "blocked", "1000", "10000", "alone-user", "blocked-user", "1000-user"];
/// Load users, each with an INBOX of 25 messages.
const USERS: u32 = 200;
/// So many sessions at once need processes that serve many (Dovecot's default is a process for each).
const MANY: &str = "service imap {\n  client_limit = 200\n  process_limit = 200\n  process_min_avail = 8\n  \
                    service_count = 0\n}\nservice imap-login {\n  client_limit = 2000\n  process_min_avail = 6\n}\n\
                    default_client_limit = 15000\ndefault_vsz_limit = 2G\n";

/// One kind of load, and what it is to hold.
struct Row {
    name: String,
    load: Load,
    /// 99 of 100 stamps are to be no further off, in nanoseconds. Without the kernel's there is no goal.
    goal: Option<i64>,
}

impl Row {
    /// Reads a row's name.
    fn parse(name: &str, security: Security) -> Option<Self> {
        let (base, kernel) = name.strip_suffix("-user").map_or((name, true), |base| (base, false));
        let single = Load { in_flight: 1, rounds: 500, ramp: Duration::ZERO, blocked: false, kernel, security };
        let (load, goal, words) = match base {
            "alone" => (single, 50_000, "alone"),
            "blocked" => (Load { blocked: true, ..single }, 50_000, "the thread blocked"),
            "1000" => (
                Load { in_flight: 1_000, rounds: 3, ramp: Duration::from_millis(500), ..single },
                250_000,
                "1,000 in flight",
            ),
            "10000" => (
                Load { in_flight: 10_000, rounds: 2, ramp: Duration::from_secs(3), ..single },
                250_000,
                "10,000 in flight",
            ),
            _ => return None,
        };
        let line = if security == Security::Tls { "TLS" } else { "plain" };
        let stamps = if kernel { "" } else { ", kernel stamps off" };
        Some(Self { name: format!("{words}, {line}{stamps}"), load, goal: kernel.then_some(goal) })
    }

    fn is_single(&self) -> bool {
        self.load.in_flight == 1
    }
}

/// Our stamps less the wire's.
#[derive(Default)]
struct Stamps {
    start: Deviations,
    first_byte: Deviations,
    end: Deviations,
    duration: Deviations,
}

/// What a row gave.
#[derive(Default)]
struct Outcome {
    all: Stamps,
    /// Without those of steps that are marked as uncertain.
    certain: Stamps,
    /// The server's part less Dovecot's own word, by command.
    witness: BTreeMap<&'static str, Deviations>,
    /// Runs that did not pass, by step and class.
    failures: BTreeMap<String, u64>,
    /// Runs whose packets do not come out even, and packets lost by the capture.
    unjoined: usize,
    dropped: u64,
    /// Runs with a connection, and logged in, at the same time.
    peaks: (usize, usize),
    runs: usize,
}

#[expect(unsafe_code, reason = "the environment may only be changed before there is a second thread")]
fn main() {
    // SAFETY: this is the process's first statement; no thread has been started.
    let _roots = unsafe { Roots::prepare() };
    let asked: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let names: Vec<&str> = if asked.is_empty() { ROWS.to_vec() } else { asked.iter().map(String::as_str).collect() };
    let rows: Vec<Row> = names
        .iter()
        .flat_map(|name| [Security::None, Security::Tls].map(|security| (name, security)))
        .map(|(name, security)| {
            Row::parse(name, security).unwrap_or_else(|| panic!("no row {name:?}; there are {}", ROWS.join(" ")))
        })
        .collect();
    table::print_head(&table::machine());
    let witness = Witness::start();
    let singles = Options { load_users: 1, settings: witness.settings(), ..Options::default() };
    let many = Options { load_users: USERS, settings: MANY.to_owned(), ..Options::default() };
    let mut measured = Vec::new();
    for (single, options) in [(true, singles), (false, many)] {
        let group: Vec<&Row> = rows.iter().filter(|row| row.is_single() == single).collect();
        if group.is_empty() {
            continue;
        }
        eprintln!("starting Dovecot");
        let users = options.load_users;
        let server = Dovecot::start(&options);
        for row in group {
            eprintln!("{}", row.name);
            let outcome = measure(row, &server, users, single.then_some(&witness));
            table::print_row(row, &outcome);
            measured.push((row, outcome));
        }
    }
    table::print_witness(&measured);
}

fn measure(row: &Row, server: &Dovecot, users: u32, witness: Option<&Witness>) -> Outcome {
    let directory = tempfile::tempdir().unwrap();
    let tls = row.load.security == Security::Tls;
    let capture = Capture::start(directory.path(), if tls { server.tls } else { server.plain });
    // One run after the other is what `imaptrace probe` does, with one thread; many at once is the agent, with several.
    let mut builder = if row.is_single() { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    let runs = builder.enable_all().build().unwrap().block_on(load::runs(row.load, server, users));
    let (connections, dropped) = capture.finish();
    let mut outcome = Outcome { dropped, peaks: load::peaks(&runs), runs: runs.len(), ..Outcome::default() };
    let details = witness.map(Witness::take).unwrap_or_default();
    for run in &runs {
        join(run, tls, &connections, &mut outcome);
        testify(run, &details, &mut outcome);
    }
    outcome
}

/// Puts a run beside its packets.
fn join(run: &Run, tls: bool, connections: &Connections, outcome: &mut Outcome) {
    if run.outcome != RunOutcome::Passed {
        let class = run.error_type.map_or("", ErrorType::as_str);
        let failure = format!("{} {class}", run.failed_step.as_ref().map(StepName::as_str).unwrap_or_default());
        *outcome.failures.entry(failure).or_default() += 1;
        return;
    }
    let steps: Vec<&Step> = run.steps.iter().filter(|step| step.is_command() && step.was_started()).collect();
    // The same port may have been an earlier run's, or a later one's.
    let began = nanos(run, Seconds::ZERO);
    let port = run.server.local.and_then(|local| connections.get(&local)).map_or(&[][..], Vec::as_slice);
    let connection = port.iter().min_by_key(|connection| (connection.opened - began).abs());
    let seen = connection.and_then(|connection| wire::commands(&connection.packets, tls, steps.len()));
    let Some(seen) = seen else {
        outcome.unjoined += 1;
        return;
    };
    // Nothing that counts holds LOGOUT, and its stamp may be that of the connection's end, which comes right behind it.
    for (step, seen) in steps.into_iter().zip(seen).filter(|(step, _)| step.name != CommandName::Logout) {
        outcome.all.add(run, step, seen);
        if step.uncertain != Some(true) {
            outcome.certain.add(run, step, seen);
        }
    }
}

impl Stamps {
    fn add(&mut self, run: &Run, step: &Step, seen: Seen) {
        let (start, end) = (nanos(run, step.start_s), nanos(run, step.end_s()));
        self.start.push(start - seen.start);
        self.end.push(end - seen.end);
        self.duration.push((end - start) - (seen.end - seen.start));
        if let Some(first_byte) = step.first_byte_s {
            self.first_byte.push(nanos(run, step.start_s.saturating_add(first_byte)) - seen.first_byte);
        }
    }

    /// The worst of what 99 of 100 starts, first bytes and ends do not pass.
    fn worst(&self) -> i64 {
        [&self.start, &self.first_byte, &self.end].map(Deviations::p99).into_iter().max().unwrap_or_default()
    }
}

/// Puts a run's SELECT and FETCH beside what Dovecot said of them.
fn testify(run: &Run, reported: &HashMap<String, i64>, outcome: &mut Outcome) {
    for step in run.steps.iter().filter(|step| step.outcome == StepOutcome::Passed) {
        let name = match step.name.as_str() {
            "SELECT" => "SELECT",
            "FETCH" => "FETCH",
            _ => continue,
        };
        let said = step.span_id.and_then(|id| reported.get(&id.to_string()));
        if let (Some(server), Some(said)) = (step.server_s, said) {
            let ours = i64::try_from(server.to_duration().as_nanos()).unwrap();
            outcome.witness.entry(name).or_default().push(ours - said);
        }
    }
}
