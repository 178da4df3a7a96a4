//! Where a key stands in the file, line and column, for a file of any shape: one line of 16 MiB as well as as many lines.
//!
//! Of each key a hash and an offset are kept, and line and column are counted when somebody asks. Filled by `source`.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// The places of all keys of a file.
#[derive(Default)]
pub(crate) struct Positions {
    text: String,
    lines: LineIndex,
    /// Paths as hashes, in order, with the offsets at which they begin. Two that have one hash would be shown at one
    /// place, which is all that goes by it.
    found: Vec<(u64, u32)>,
}

impl Positions {
    /// `found` in any order; of a path that is there twice the last counts.
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

/// `a.b`, or `b` at the top; a key that TOML would quote is quoted.
pub(crate) fn join(path: &str, key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    let key = if bare { key.to_owned() } else { format!("{key:?}") };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

/// What a path is known by.
pub(crate) fn hash(path: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    hasher.finish()
}

/// No more bytes than this are looked at to find a place.
const BLOCK: usize = 256;

/// Byte offset to line and column, both counted from 1, columns in characters.
#[derive(Default)]
pub(crate) struct LineIndex {
    blocks: Vec<Block>,
}

/// What is in front of a block.
#[derive(Clone, Copy, Default)]
struct Block {
    lines: u32,
    characters: u32,
    /// Where the line begins that the block begins in.
    line: u32,
}

impl LineIndex {
    /// For a text of less than 4 GiB.
    pub(crate) fn new(text: &str) -> Self {
        let mut before = Block::default();
        let mut blocks = Vec::with_capacity(text.len() / BLOCK + 1);
        let mut at = 0;
        for bytes in text.as_bytes().chunks(BLOCK) {
            blocks.push(before);
            before.lines += count(bytes, is_end);
            before.characters += count(bytes, is_first);
            if let Some(end) = memchr::memrchr(b'\n', bytes) {
                before.line = u32::try_from(at + end + 1).unwrap_or(u32::MAX);
            }
            at += bytes.len();
        }
        blocks.push(before);
        Self { blocks }
    }

    /// The place of the byte at `offset` of the text.
    pub(crate) fn position(&self, text: &str, offset: usize) -> (usize, usize) {
        let offset = offset.min(text.len());
        let (block, inside) = self.block(text, offset);
        let line = memchr::memrchr(b'\n', inside).map_or(block.line as usize, |end| offset - inside.len() + end + 1);
        let column = self.characters(text, offset) - self.characters(text, line);
        ((block.lines + count(inside, is_end)) as usize + 1, column as usize + 1)
    }

    /// Characters that begin before an offset.
    fn characters(&self, text: &str, offset: usize) -> u32 {
        let (block, inside) = self.block(text, offset);
        block.characters + count(inside, is_first)
    }

    /// The block that an offset is in, and its bytes up to there.
    fn block<'t>(&self, text: &'t str, offset: usize) -> (Block, &'t [u8]) {
        let start = offset / BLOCK * BLOCK;
        let block = self.blocks.get(offset / BLOCK).copied().unwrap_or_default();
        (block, text.as_bytes().get(start..offset).unwrap_or_default())
    }
}

fn count(bytes: &[u8], counts: impl Fn(u8) -> bool) -> u32 {
    u32::try_from(bytes.iter().filter(|byte| counts(**byte)).count()).unwrap_or(u32::MAX)
}

fn is_end(byte: u8) -> bool {
    byte == b'\n'
}

/// Whether a character begins with it, in UTF-8.
fn is_first(byte: u8) -> bool {
    byte & 0xc0 != 0x80
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
