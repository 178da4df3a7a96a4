//! imaptrace opens a mailbox as a mail program does and makes each run one distributed trace, one span per IMAP command.
//!
//! It is a probe: it reads, never changes a message, and follows no referral. Only `imaptrace canary fill` writes: it fills a
//! mailbox to probe ([`synthetic_mail`], [`probe::fill`]). It is no load generator, no mail client library and no IMAP server
//! ([`demo`] has a minimal one for tests).
//!
//! Data flows one way:
//!
//! ```text
//! configuration ─ config ─▶ plan ─ schedule ─▶ probe ─▶ record ─▶ latency ─▶ delivery ─▶ telemetry · terminal · status
//!                                               ├─ imap  the protocol: no socket, no time
//!                                               └─ net   resolve, connect, TLS, exact stamps
//! ```
//!
//! All modules below the probe use [`imaptrace_record::Run`]. `docs/architecture.md` has the table of allowed imports, which a
//! test checks.

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
