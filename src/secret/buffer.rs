//! Memory for a secret that is being read. Called by `file` and `command`.

use zeroize::Zeroizing;

/// The largest secret, in bytes.
pub(super) const LARGEST: usize = 64 << 10;

/// Memory that is wiped also when it grows.
pub(super) struct WipedBuffer {
    memory: Zeroizing<Vec<u8>>,
    filled: usize,
}

impl WipedBuffer {
    /// One byte more than the largest, to detect a larger one.
    const MOST: usize = LARGEST + 1;

    pub(super) fn new() -> Self {
        Self { memory: Zeroizing::new(vec![0; 256]), filled: 0 }
    }

    /// Where to read into; empty when it is full.
    pub(super) fn unfilled(&mut self) -> &mut [u8] {
        if self.filled == self.memory.len() && self.filled < Self::MOST {
            let mut larger = Zeroizing::new(vec![0; (self.filled * 2).min(Self::MOST)]);
            if let Some(start) = larger.get_mut(..self.filled) {
                start.copy_from_slice(&self.memory);
            }
            self.memory = larger;
        }
        self.memory.get_mut(self.filled..).unwrap_or_default()
    }

    pub(super) fn advance(&mut self, count: usize) {
        self.filled += count;
    }

    pub(super) fn filled(&self) -> &[u8] {
        self.memory.get(..self.filled).unwrap_or_default()
    }
}
