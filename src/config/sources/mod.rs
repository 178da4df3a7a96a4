//! One tree of file, environment and flags with the place of every value, and typed readers over it.
//!
//! Has tables and types, but no meaning of keys. Called by all readers of the configuration.

mod document;
pub(super) mod file;
pub(super) mod file_pattern;
pub(super) mod include;
pub(super) mod otel;
pub(super) mod positions;
pub(super) mod readers;
pub(super) mod schema;
mod syntax;
pub(super) mod tree;
pub mod units;
