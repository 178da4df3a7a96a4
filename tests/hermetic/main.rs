//! Tests that need nothing but this machine's loopback: scripted servers that know bytes, not IMAP.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test says what failed by failing")]

#[path = "../support/mod.rs"]
mod support;

mod agent;
mod attribution;
mod canary;
mod command_line;
mod configuration;
mod defects;
mod delivery;
mod demo;
mod failures;
mod itself;
mod limits;
mod messages;
mod metrics;
mod otlp;
mod reload;
mod survival;
