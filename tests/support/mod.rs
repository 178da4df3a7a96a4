//! What several test binaries share: real parts, scripted servers, receivers.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test binary uses its own share of this")]

pub mod backends;
pub mod dovecot;
#[cfg(target_os = "linux")]
pub mod net;
pub mod otlp;
pub mod parts;
pub mod post;
pub mod program;
pub mod proxy;
pub mod quick;
pub mod run;
pub mod scram;
pub mod script;
