//! What a run takes: spans of its trace, and bytes of memory. Used throughout the queue.

use imaptrace_record::Run;

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Load {
    pub(super) spans: usize,
    pub(super) bytes: usize,
}

impl Load {
    pub(super) fn of(run: &Run) -> Self {
        Self { spans: run.exported_spans(), bytes: run.held_bytes() }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.spans += other.spans;
        self.bytes += other.bytes;
    }

    pub(super) fn remove(&mut self, other: Self) {
        self.spans -= other.spans;
        self.bytes -= other.bytes;
    }
}
