//! Buffers for bytes that were just read. A connection has one only while there are bytes in it. Used by the stamped stream, below
//! TLS, and by `probe` above it.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes that were read. The memory is reused when this is dropped.
pub struct Buffer {
    memory: Box<[u8]>,
    filled: usize,
}

/// Several TLS records.
const SIZE: usize = 64 << 10;
/// Free buffers that are kept. More are in use at once only when as many threads read.
const KEPT: usize = 8;

impl Buffer {
    /// An empty buffer.
    pub fn take() -> Self {
        let memory = left().pop().unwrap_or_else(|| vec![0; SIZE].into_boxed_slice());
        Self { memory, filled: 0 }
    }

    /// Where to read into.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.memory
    }

    /// Sets how many bytes were read.
    pub fn fill(&mut self, count: usize) {
        self.filled = count.min(self.memory.len());
    }

    /// The bytes that were read.
    pub fn filled(&self) -> &[u8] {
        self.memory.get(..self.filled).unwrap_or_default()
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} bytes)", self.filled)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // Mail, or a password that a server echoed, must not reach another connection. The memory is used again, so this is not
        // optimised away.
        if let Some(filled) = self.memory.get_mut(..self.filled) {
            filled.fill(0);
        }
        let mut left = left();
        if left.len() < KEPT {
            left.push(std::mem::take(&mut self.memory));
        }
    }
}

fn left() -> MutexGuard<'static, Vec<Box<[u8]>>> {
    static LEFT: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());
    LEFT.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_what_was_read_is_left_to_the_next_one() {
        let mut buffers: Vec<_> = (0..=KEPT).map(|_| Buffer::take()).collect();
        for buffer in &mut buffers {
            buffer.room()[..6].copy_from_slice(b"secret");
            buffer.fill(6);
            assert_eq!(buffer.filled(), b"secret");
            assert_eq!(format!("{buffer:?}"), "Buffer(6 bytes)");
        }
        drop(buffers);
        for mut buffer in (0..KEPT).map(|_| Buffer::take()) {
            assert!(buffer.filled().is_empty());
            assert!(buffer.room().iter().all(|byte| *byte == 0));
        }
    }
}
