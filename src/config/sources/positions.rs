//! Line and column of each key of the file, for any file: one line of 16 MiB, or millions of lines.
//!
//! Each key is kept as a hash and an offset; line and column are counted on demand. Filled by `tree`.

use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher, Hash};

/// The positions of all keys of a file.
#[derive(Default)]
pub(crate) struct Positions {
    text: String,
    lines: LineIndex,
    /// Paths as hashes, in order, with their offsets. Two paths with the same hash would be shown at one position.
    found: Vec<(u64, u32)>,
}

impl Positions {
    /// `found` in any order; of two entries of a path the last one counts.
    pub(crate) fn new(text: &str, mut found: Vec<(u64, u32)>) -> Self {
        found.sort_by_key(|(path, _)| *path);
        Self { text: text.to_owned(), lines: LineIndex::new(text), found }
    }

    /// Line and column of a path.
    pub(crate) fn of(&self, path: &str) -> Option<(usize, usize)> {
        let hash = hash(path);
        let behind = self.found.partition_point(|(known, _)| *known <= hash);
        let (_, offset) =
            behind.checked_sub(1).and_then(|at| self.found.get(at)).filter(|(known, _)| *known == hash)?;
        Some(self.lines.position(&self.text, usize::try_from(*offset).ok()?))
    }
}

/// `a.b`, or `b` at the top level; a key is quoted as in TOML.
pub(crate) fn join(path: &str, key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    let key = if bare { key.to_owned() } else { format!("{key:?}") };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

/// The same for equal values in one process.
pub(crate) fn hash(value: impl Hash) -> u64 {
    BuildHasherDefault::<DefaultHasher>::new().hash_one(value)
}

/// A position is counted from the start of a block of this many bytes.
const BLOCK: usize = 256;

/// Byte offset to line and column, both counted from 1, columns in characters.
#[derive(Default)]
pub(crate) struct LineIndex {
    /// The position at the start of each block.
    blocks: Vec<(usize, usize)>,
}

impl LineIndex {
    pub(crate) fn new(text: &str) -> Self {
        let mut position = (1, 1);
        let mut blocks = vec![position];
        for bytes in text.as_bytes().chunks(BLOCK) {
            position = advance(position, bytes);
            blocks.push(position);
        }
        Self { blocks }
    }

    /// The position of the byte at `offset` of the text.
    pub(crate) fn position(&self, text: &str, offset: usize) -> (usize, usize) {
        let offset = offset.min(text.len());
        let block = offset / BLOCK;
        let start = self.blocks.get(block).copied().unwrap_or((1, 1));
        advance(start, text.as_bytes().get(block * BLOCK..offset).unwrap_or_default())
    }
}

/// The position behind some bytes.
fn advance((line, column): (usize, usize), bytes: &[u8]) -> (usize, usize) {
    let lines = memchr::memchr_iter(b'\n', bytes).count();
    let last = bytes.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    // All bytes but those that continue a character in UTF-8.
    let characters = last.iter().filter(|byte| **byte & 0xc0 != 0x80).count();
    (line + lines, if lines > 0 { 1 } else { column } + characters)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_place_is_the_one_that_counting_from_the_start_finds(text in "[aé\n𝄞]{0,3000}", at in 0.0..1.0_f64) {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
            let mut offset = (text.len() as f64 * at) as usize;
            while !text.is_char_boundary(offset) {
                offset -= 1;
            }
            let before = text.get(..offset).unwrap();
            let column = before.rsplit('\n').next().unwrap().chars().count() + 1;
            prop_assert_eq!(LineIndex::new(&text).position(&text, offset), (before.matches('\n').count() + 1, column));
        }
    }

    #[test]
    fn of_a_path_that_is_there_twice_the_last_counts() {
        let positions = Positions::new("a\nbc", vec![(hash("x"), 0), (hash("y"), 1), (hash("x"), 3)]);
        assert_eq!((positions.of("x"), positions.of("z")), (Some((2, 2)), None));
    }
}
