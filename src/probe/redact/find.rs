//! One value that is searched for in a view of a text.

use std::ops::Range;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use super::view::{Form, View, folded};

/// A value, its replacement, and how much of it is searched for.
pub(super) struct Needle {
    replacement: Vec<u8>,
    value: Windows,
    /// The value in base64, without its case.
    base64: Vec<Windows>,
    rule: Rule,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// Every piece.
    Pieces,
    /// The whole; and at the end of a text, which may be cut short, its beginning.
    Whole,
    /// The whole, without a letter or digit beside it.
    Alone,
}

/// The shortest piece of a secret that is removed.
const PIECE: usize = 6;
/// Characters of base64 that six bytes determine.
const SETTLED: usize = 7;
/// Shorter values are in any text that could be hex or base64.
const SHORTEST_ENCODED: usize = 3;
/// Shorter names are parts of common words.
const SHORTEST_NAME: usize = 4;

impl Needle {
    /// A secret.
    pub(super) fn pieces(value: &str, replacement: &str) -> Self {
        Self::new(value, replacement, (PIECE, SETTLED), Rule::Pieces)
    }

    /// A name that is replaced by another.
    pub(super) fn name(value: &str, replacement: &str) -> Self {
        let rule = if value.chars().count() < SHORTEST_NAME { Rule::Alone } else { Rule::Whole };
        Self::new(value, replacement, (usize::MAX, usize::MAX), rule)
    }

    /// A part of a name, if it is long enough.
    pub(super) fn word(value: &str, replacement: &str) -> Self {
        let value = if value.chars().count() < SHORTEST_NAME { "" } else { value };
        Self::new(value, replacement, (usize::MAX, usize::MAX), Rule::Alone)
    }

    /// `widths`: of the pieces, in bytes, and of those in base64, in characters.
    fn new(value: &str, replacement: &str, widths: (usize, usize), rule: Rule) -> Self {
        let value = value.as_bytes();
        let (base64, value) = (folded_base64(value, widths.1), Windows::new(folded(value), widths.0));
        Self { replacement: replacement.into(), value, base64, rule }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.value.bytes.is_empty()
    }

    pub(super) fn replacement(&self) -> &[u8] {
        &self.replacement
    }

    /// Calls `mark` with each place of the value in the text of `view`.
    pub(super) fn mark(&self, view: &View, mut mark: impl FnMut(Range<usize>)) {
        match view.form {
            Form::FoldedBase64 => self.base64.iter().for_each(|windows| windows.find(view, |_, range| mark(range))),
            Form::Encoded if self.value.bytes.len() < SHORTEST_ENCODED => {}
            Form::Plain | Form::Encoded => self.value.find(view, |at, range| {
                if self.rule != Rule::Alone || view.is_alone(at, self.value.width) {
                    mark(range);
                }
            }),
        }
        if self.rule == Rule::Whole && view.form != Form::FoldedBase64 && view.reaches_end {
            let lengths = (PIECE..self.value.width).rev();
            let starts = lengths.filter_map(|length| self.value.bytes.get(..length));
            if let Some(start) = starts.into_iter().find(|start| view.bytes.ends_with(start)) {
                mark(view.range(view.bytes.len() - start.len(), start.len()));
            }
        }
    }
}

/// The characters of base64, without case, that a value determines at its three possible places in a message; a short one, none.
fn folded_base64(value: &[u8], width: usize) -> Vec<Windows> {
    let places = if value.len() < PIECE { 0..0 } else { 0..3 };
    let settled = places.map(|lead| {
        let message = Zeroizing::new([vec![0; lead].as_slice(), value].concat());
        let text = Zeroizing::new(STANDARD.encode(&*message));
        let settled = text.get((8 * lead).div_ceil(6)..8 * message.len() / 6).unwrap_or_default();
        Windows::new(Zeroizing::new(settled.to_ascii_lowercase().into_bytes()), width)
    });
    settled.collect()
}

/// All pieces of one length of a value, sorted.
struct Windows {
    bytes: Zeroizing<Vec<u8>>,
    width: usize,
    starts: Vec<usize>,
}

impl Windows {
    fn new(bytes: Zeroizing<Vec<u8>>, width: usize) -> Self {
        let width = width.min(bytes.len());
        let mut starts: Vec<usize> = if width == 0 { Vec::new() } else { (0..=bytes.len() - width).collect() };
        starts.sort_by_key(|start| bytes.get(*start..start + width));
        Self { bytes, width, starts }
    }

    fn find(&self, view: &View, mut found: impl FnMut(usize, Range<usize>)) {
        if self.width == 0 {
            return;
        }
        for (at, piece) in view.bytes.windows(self.width).enumerate() {
            let order = |start: &usize| self.bytes.get(*start..start + self.width).cmp(&Some(piece));
            if self.starts.binary_search_by(order).is_ok() {
                found(at, view.range(at, self.width));
            }
        }
    }
}
