//! One value that is looked for in a view of a text.

use std::ops::Range;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use super::view::{Form, View, folded};

/// A value, what to put in its place, and how much of it is enough.
pub(super) struct Sought {
    put: Vec<u8>,
    value: Windows,
    /// The same in base64 whose case is lost.
    shouted: Vec<Windows>,
    rule: Rule,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// Every piece.
    Pieces,
    /// The whole; and at the end of a text its beginning, for somebody may have cut it short.
    Whole,
    /// The whole, with no letter or digit beside it.
    Alone,
}

/// Of a secret no more than this less one in a row is told.
const PIECE: usize = 6;
/// So many characters of base64 are settled by any six bytes.
const SETTLED: usize = 7;
/// Shorter values are everywhere in what could be hex or base64.
const SHORTEST_ENCODED: usize = 3;
/// Shorter names are parts of common words.
const SHORTEST_NAME: usize = 4;

impl Sought {
    /// A secret.
    pub(super) fn pieces(value: &str, put: &str) -> Self {
        let value = value.as_bytes();
        let (shouted, value) = (shouted(value, SETTLED), Windows::new(folded(value), PIECE));
        Self { put: put.into(), value, shouted, rule: Rule::Pieces }
    }

    /// A name that has another.
    pub(super) fn name(value: &str, put: &str) -> Self {
        let rule = if value.chars().count() < SHORTEST_NAME { Rule::Alone } else { Rule::Whole };
        Self::whole(value, put, rule)
    }

    /// A word of a name, if it is long enough to mean it.
    pub(super) fn word(value: &str, put: &str) -> Self {
        Self::whole(if value.chars().count() < SHORTEST_NAME { "" } else { value }, put, Rule::Alone)
    }

    fn whole(value: &str, put: &str, rule: Rule) -> Self {
        let value = value.as_bytes();
        let (shouted, value) = (shouted(value, usize::MAX), Windows::new(folded(value), usize::MAX));
        Self { put: put.into(), value, shouted, rule }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.value.bytes.is_empty()
    }

    pub(super) fn put(&self) -> &[u8] {
        &self.put
    }

    /// Tells where in the text that `view` shows the value stands.
    pub(super) fn mark(&self, view: &View, mut mark: impl FnMut(Range<usize>)) {
        match view.form {
            Form::Shouted => self.shouted.iter().for_each(|windows| windows.find(view, |_, range| mark(range))),
            Form::Encoded if self.value.bytes.len() < SHORTEST_ENCODED => {}
            Form::Plain | Form::Encoded => self.value.find(view, |at, range| {
                if self.rule != Rule::Alone || view.is_alone(at, self.value.width) {
                    mark(range);
                }
            }),
        }
        if self.rule == Rule::Whole && view.form != Form::Shouted && view.reaches_end {
            let lengths = (PIECE..self.value.width).rev();
            let starts = lengths.filter_map(|length| self.value.bytes.get(..length));
            if let Some(start) = starts.into_iter().find(|start| view.bytes.ends_with(start)) {
                mark(view.range(view.bytes.len() - start.len(), start.len()));
            }
        }
    }
}

/// The characters of base64 without their case that a value settles by itself, at each of the three places that it can
/// have in a larger message; of a short value there are too few.
fn shouted(value: &[u8], width: usize) -> Vec<Windows> {
    let places = if value.len() < PIECE { 0..0 } else { 0..3 };
    let settled = places.map(|lead| {
        let message = Zeroizing::new([vec![0; lead].as_slice(), value].concat());
        let text = Zeroizing::new(STANDARD.encode(&*message));
        let settled = text.get((8 * lead).div_ceil(6)..8 * message.len() / 6).unwrap_or_default();
        Windows::new(Zeroizing::new(settled.to_ascii_lowercase().into_bytes()), width)
    });
    settled.collect()
}

/// All pieces of one length of a value, in an order in which they are found quickly.
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
            if self
                .starts
                .binary_search_by(|start| self.bytes.get(*start..start + self.width).cmp(&Some(piece)))
                .is_ok()
            {
                found(at, view.range(at, self.width));
            }
        }
    }
}
