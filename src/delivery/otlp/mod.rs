//! OTLP: exports traces and metrics over gRPC or HTTP, and classifies failed exports.
//!
//! ```text
//! traces, metrics   the exporters; periodic runs that of metrics on a timer
//! client            one request at a time, for opentelemetry-otlp's exporters
//! post              one request at a time, with JSON for something else than an OTLP receiver
//! send_state        TLS, headers and URI of a receiver
//! transport         HTTP/1.1 or HTTP/2 over a connection that connect opens
//! response          whether the receiver accepted it
//! retry_after       how long the receiver asks to wait
//! error             what may be sent again after a failure
//! health            log lines about a change
//! signal            the settings of one receiver
//! ```
//!
//! Stores nothing and does not retry: that is [`queue`](super::queue) and the sender.

mod client;
mod connect;
mod error;
mod health;
mod metrics;
mod periodic;
mod post;
mod response;
mod retry_after;
mod send_state;
mod signal;
mod traces;
mod transport;

pub use self::{
    client::OtlpClient,
    post::{JsonClient, PostOutcome},
    send_state::SignalError,
    signal::{Header, HttpProxy, PemFiles, Protocol, Signal},
};
pub(super) use self::{
    error::ExportError, health::ReceiverHealth, metrics::MetricsExporter, periodic::PeriodicMetricsExporter,
    traces::TracesExporter,
};
