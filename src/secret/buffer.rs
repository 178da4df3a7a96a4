//! Memory for a secret that is being read. Called by `file` and `command`.

use std::io::{self, ErrorKind, Read};

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

    /// Reads until the end, or until nothing is available or a secret would be too large; false at the end.
    pub(super) fn read(&mut self, from: &mut impl Read) -> io::Result<bool> {
        while self.filled <= LARGEST {
            match from.read(self.unfilled()) {
                Ok(0) => return Ok(false),
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn unfilled(&mut self) -> &mut [u8] {
        if self.filled == self.memory.len() && self.filled < Self::MOST {
            let mut larger = Zeroizing::new(vec![0; (self.filled * 2).min(Self::MOST)]);
            if let Some(start) = larger.get_mut(..self.filled) {
                start.copy_from_slice(&self.memory);
            }
            self.memory = larger;
        }
        self.memory.get_mut(self.filled..).unwrap_or_default()
    }

    pub(super) fn filled(&self) -> &[u8] {
        self.memory.get(..self.filled).unwrap_or_default()
    }
}
