//! The tables that describe no target, one file a table, and what they come to together: whether the limits suffice
//! (`capacity`), how many metric series there are (`series`).

pub(super) mod agent;
pub(super) mod capacity;
pub(super) mod dns;
pub(super) mod http;
pub(super) mod latency;
pub(super) mod limits;
pub(super) mod metrics;
pub(super) mod otlp;
pub(super) mod proxy;
pub(super) mod series;
pub(super) mod state;
pub(super) mod window;
