//! `[state]`: the state directory and the queue. Called by `load`.

use std::path::PathBuf;

use crate::config::sources::{
    readers::{Field, Table},
    schema::TableKeys,
};

pub(crate) static KEYS: TableKeys = TableKeys::new("state", &["dir", "queue_memory", "queue_disk"]);

/// The state directory, and the limits of the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateOptions {
    /// The state directory; none keeps no state.
    pub dir: Option<PathBuf>,
    /// Bytes of the queue in memory.
    pub queue_memory: u64,
    /// Bytes of the queue in `dir`.
    pub queue_disk: u64,
}

pub(crate) fn read(table: &Table<'_>) -> StateOptions {
    let size = |key| table.read(key, |field| field.size(1..=u64::MAX));
    StateOptions {
        dir: table.read("dir", Field::directory),
        queue_memory: size("queue_memory").unwrap_or(32 << 20),
        queue_disk: size("queue_disk").unwrap_or(128 << 20),
    }
}
