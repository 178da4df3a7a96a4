//! All causes, injected one after the other into one real Dovecot: `make test-causes` (docs/testing.md).
//!
//! ```text
//! causes [--list] [CAUSE...]
//! ```
//!
//! Environment: `CAUSES_RUNS`, the usable runs of each cause (9); `CAUSES_DIR`, a directory that keeps what was recorded.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a fault ends it, and what it finds goes to standard output"
)]

#[cfg(target_os = "linux")]
#[path = "../support/mod.rs"]
mod support;

#[cfg(target_os = "linux")]
#[path = "../support/causes/mod.rs"]
mod causes;

#[cfg(target_os = "linux")]
mod campaign;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    campaign::run()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    panic!("the causes are injected by means of Linux");
}
