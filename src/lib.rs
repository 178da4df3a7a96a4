//! imaptrace opens a mailbox as a mail program does and makes each run one distributed trace, one span per IMAP command.
//!
//! It is a probe: it reads, never changes a message, and follows no referral. Mailboxes to probe it can fill, on request
//! (`imaptrace canary fill`, [`synthetic_mail`], [`probe::fill`]): nothing else writes. It is no load generator, no mail client
//! library and no IMAP server (the one in [`demo`] is a stage prop).
//!
//! Data flows one way:
//!
//! ```text
//! configuration ─ config ─▶ plan ─ schedule ─▶ probe ─▶ record ─▶ latency ─▶ delivery ─▶ telemetry · terminal · status
//!                                               ├─ imap  the protocol: no socket, no time
//!                                               └─ net   resolve, connect, TLS, exact stamps
//! ```
//!
//! [`imaptrace_record::Run`] is the one vocabulary that all below the probe share. Who may import whom is written down in
//! `docs/architecture.md` and held by a test.

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
pub mod follow;
pub mod latency;
pub mod net;
pub mod plan;
pub mod probe;
pub mod schedule;
pub mod secret;
pub mod state;
pub mod status;
pub mod synthetic_mail;
pub mod telemetry;
pub mod terminal;
