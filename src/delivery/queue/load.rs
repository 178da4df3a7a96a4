//! What a run takes: spans of its trace, and bytes of memory.
//!
//! Pure. Used throughout the queue, and by [`Replay`](crate::delivery::Replay) to fill batches.

use imaptrace_record::Run;

/// Spans and size of some runs.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::delivery) struct Load {
    pub(in crate::delivery) spans: usize,
    pub(in crate::delivery) bytes: usize,
}

impl Load {
    pub(in crate::delivery) fn of(run: &Run) -> Self {
        Self { spans: run.exported_spans(), bytes: run.held_bytes() }
    }

    pub(in crate::delivery) fn add(&mut self, other: Self) {
        self.spans += other.spans;
        self.bytes += other.bytes;
    }

    pub(in crate::delivery) fn remove(&mut self, other: Self) {
        self.spans -= other.spans;
        self.bytes -= other.bytes;
    }
}
