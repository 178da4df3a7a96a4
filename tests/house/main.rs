//! Properties of the tree itself: who imports whom, docs against code.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a failing test reports the failure")]

mod alerts_docs;
mod causes_docs;
mod circles;
mod clocks;
mod configuration_docs;
mod decisions;
mod dependencies;
mod examples_docs;
mod imports;
mod intervals;
mod names_docs;
#[path = "../support/prometheus_names.rs"]
mod prometheus_names;
mod protocol_docs;
mod record_docs;
mod scenarios_docs;
mod semconv;
mod shape;
mod status_docs;
mod telemetry_docs;
