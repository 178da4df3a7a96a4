//! Tests against the real parts: Dovecot, Collector, Jaeger, Prometheus. One that is missing fails its tests.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test says what failed by failing")]

#[path = "../support/mod.rs"]
mod support;

mod alerts;
#[cfg(target_os = "linux")]
mod attribution;
mod auth;
mod canary;
mod dashboard;
mod dovecot;
mod files;
mod pipeline;
mod restart;
mod service;
mod slow;
mod tail_sampling;
