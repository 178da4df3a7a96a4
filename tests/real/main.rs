//! Tests against the real parts: Dovecot, Collector, Jaeger, Prometheus. One that is missing fails its tests.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test says what failed by failing"
)]

#[path = "../support/mod.rs"]
mod support;

#[cfg(target_os = "linux")]
#[path = "../support/causes/mod.rs"]
mod causes;

mod alerts;
#[cfg(target_os = "linux")]
mod attribution;
mod auth;
mod canary;
mod dashboard;
mod dovecot;
mod dovecot_events;
mod files;
#[cfg(target_os = "linux")]
mod host;
#[cfg(target_os = "linux")]
mod injected;
mod notifications;
mod pipeline;
mod processes;
mod prometheus3;
mod restart;
mod scrape;
mod server_events;
#[cfg(target_os = "linux")]
mod server_events_paths;
mod servers;
mod service;
#[cfg(target_os = "linux")]
mod service_running;
mod slow;
mod tail_sampling;
mod vanishing;
#[cfg(target_os = "linux")]
mod ways;
