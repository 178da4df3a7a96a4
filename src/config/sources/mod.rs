//! File, environment and flags to one merged tree in which every value knows where it stands, and typed readers over it.
//!
//! Knows tables and types, no meaning of a key. Called by all readers of the configuration.

mod document;
pub(super) mod file;
pub(super) mod otel;
mod positions;
pub(super) mod readers;
pub(super) mod schema;
mod syntax;
pub(super) mod tree;
pub mod units;
