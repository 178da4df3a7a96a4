//! Memory for a secret that is being read. Called by [`file`](super::file) and [`command`](super::command).

use zeroize::Zeroizing;

use super::LARGEST;

/// A value that is being read. Grown by hand, so that no outgrown memory with a secret in it is left behind unwiped.
pub(super) struct Intake {
    memory: Zeroizing<Vec<u8>>,
    taken: usize,
}

impl Intake {
    /// One byte more than the largest that is taken shows that it is larger.
    const MOST: usize = LARGEST + 1;

    pub(super) fn new() -> Self {
        Self { memory: Zeroizing::new(vec![0; 256]), taken: 0 }
    }

    /// Where to read into; empty when it holds the most.
    pub(super) fn room(&mut self) -> &mut [u8] {
        if self.taken == self.memory.len() && self.taken < Self::MOST {
            let mut larger = Zeroizing::new(vec![0; (self.taken * 2).min(Self::MOST)]);
            if let Some(start) = larger.get_mut(..self.taken) {
                start.copy_from_slice(&self.memory);
            }
            self.memory = larger;
        }
        self.memory.get_mut(self.taken..).unwrap_or_default()
    }

    pub(super) fn took(&mut self, count: usize) {
        self.taken += count;
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.memory.get(..self.taken).unwrap_or_default()
    }
}
