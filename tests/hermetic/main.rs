//! Tests that need nothing but this machine's loopback: scripted servers that know bytes, not IMAP.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test says what failed by failing"
)]

#[path = "../support/mod.rs"]
mod support;

mod accounts;
mod agent;
mod agent_metrics;
mod attribution;
mod auth;
mod baseline;
mod canary;
mod certificates;
mod check_json;
mod command_line;
mod configuration;
mod defects;
mod delivery;
mod demo;
mod destinations;
mod discovery;
mod event_senders;
mod failures;
mod following;
mod forwarding;
mod hostile_text;
mod include;
mod inspection;
mod itself;
mod limits;
mod mail_content;
mod messages;
mod metrics;
mod names;
mod on_a_terminal;
mod otlp;
mod overload;
mod probe_many;
mod protocol;
mod proxies;
mod receivers;
mod recorded_runs;
mod reload;
mod resolvers;
mod scenarios;
mod schema;
mod secret_files;
mod secrets;
mod server_events;
mod shards;
mod show;
mod streams;
mod survival;
#[cfg(target_os = "linux")]
mod tls_faults;
mod usage;
mod verbose;
mod waits;
mod ways;
