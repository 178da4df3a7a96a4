//! What several test binaries share: real parts, scripted servers, receivers.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test binary uses its own share of this")]

pub mod alerting;
pub mod backends;
pub mod destinations;
pub mod dovecot;
pub mod event_posts;
pub mod leaks;
pub mod names;
#[cfg(target_os = "linux")]
pub mod net;
pub mod otlp;
pub mod papers;
pub mod parts;
pub mod post;
pub mod program;
pub mod prometheus3;
pub mod prometheus_names;
pub mod proxy;
pub mod quick;
pub mod run;
pub mod scenario;
pub mod script;
pub mod servers;
#[cfg(target_os = "linux")]
pub mod small_disk;
#[cfg(target_os = "linux")]
pub mod systemd;
pub mod target_api;
pub mod tunnel;
mod wire;
