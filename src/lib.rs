//! imaptrace opens a mailbox as a mail program does and makes each run one distributed trace, one span per IMAP command.
//!
//! It is a probe: it reads, never changes a message, and follows no referral. Only `imaptrace canary fill` writes: it fills a
//! mailbox to probe ([`synthetic_mail`], [`probe::fill`]). It is no load generator, no mail client library and no IMAP server
//! ([`demo`] has a minimal one for tests).
//!
//! Data flows one way:
//!
//! ```text
//! config ─▶ plan ─ schedule ─▶ probe ─▶ record ─▶ latency ─▶ diagnosis ─▶ delivery ─▶ telemetry · terminal · status
//!                               ├─ imap  the protocol: no socket, no time
//!                               └─ net   resolve, connect, TLS, exact stamps
//! ```
//!
//! All modules below the probe use [`imaptrace_record::Run`]. `docs/architecture.md` has the table of allowed imports, which a
//! test checks.
//!
//! ```text
//! agent               the agent: starts the modules, hands the result of each to the next, stops them
//! cli                 the command line: arguments, output, exit codes
//! config              files, variables and flags → plan, with every problem and its place
//! plan                targets, accounts, journey, deadlines, limits: only valid values
//! schedule            when each run starts, and how many are in flight
//! probe               one run, step by step
//! net                 resolve, connect, TLS, exact stamps
//! latency             the usual times of an account, and whether a run was slow
//! diagnosis           why a run was slow or failed
//! discovery           targets from SRV records and HTTP service discovery
//! server_events       events of mail servers, joined with runs or forwarded to another agent
//! process_accounting  samples of the processes of a mail server on this host
//! delivery            the queue of runs, in memory and on disk, and OTLP
//! telemetry           names; Run → spans and metrics; the log
//! terminal            Run → text, JSON, Markdown, plug-in line
//! status              the HTTP status endpoint
//! listener            a TCP listener on a thread of its own
//! state               the state directory
//! secret              where a secret comes from
//! follow              files that are read again when they change
//! blocking            calls that may block, on bounded threads
//! clock               the only file that reads a clock
//! synthetic_mail      messages for a mailbox to probe
//! demo                the built-in IMAP server
//! ```

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests may wait for files; a test of the tree has the clocks")
)]

pub mod agent;
pub mod blocking;
pub mod cli;
pub mod clock;
pub mod config;
pub mod delivery;
pub mod demo;
pub mod diagnosis;
pub mod discovery;
pub mod follow;
pub mod latency;
pub mod listener;
pub mod net;
pub mod plan;
pub mod probe;
pub mod process_accounting;
pub mod schedule;
pub mod secret;
pub mod server_events;
pub mod state;
pub mod status;
pub mod synthetic_mail;
pub mod telemetry;
pub mod terminal;
