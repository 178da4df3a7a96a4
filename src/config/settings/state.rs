//! `[state]`: what outlives the process.
//!
//! Reads the table into plain values; nothing is done with them here. Called by `load`.

use std::path::PathBuf;

use crate::config::sources::{readers::Table, schema::TableKeys};

pub(crate) static KEYS: TableKeys = TableKeys::new("state", &["dir", "queue_memory", "queue_disk"]);

/// What outlives the agent, and how much of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateOptions {
    /// Where it is; none keeps nothing.
    pub dir: Option<PathBuf>,
    /// Bytes of finished runs that wait in memory.
    pub queue_memory: u64,
    /// Bytes of finished runs that wait in `dir`.
    pub queue_disk: u64,
}

/// Reads `[state]`.
pub(crate) fn read(table: &Table<'_>) -> StateOptions {
    let size = |key| table.get(key).and_then(|field| field.size());
    StateOptions {
        dir: table.get("dir").and_then(|field| field.directory()),
        queue_memory: size("queue_memory").unwrap_or(32 << 20),
        queue_disk: size("queue_disk").unwrap_or(128 << 20),
    }
}
