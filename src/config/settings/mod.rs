//! The tables other than those of targets, one file each (`forward` and `process_accounting` are parts of `server_events`);
//! whether the limits suffice (`capacity`), and the number of metric series (`series`).

pub(super) mod agent;
pub(super) mod capacity;
pub(super) mod dns;
mod forward;
pub(super) mod http;
pub(super) mod latency;
pub(super) mod limits;
pub(super) mod metrics;
pub(super) mod otlp;
mod process_accounting;
pub(super) mod proxy;
pub(super) mod series;
pub(super) mod server_events;
pub(super) mod state;
pub(super) mod window;
