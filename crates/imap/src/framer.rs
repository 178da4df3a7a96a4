//! Cuts the server's bytes into responses: lines, and the literals inside them (RFC 9051 §2.2.2, §4.3).
//!
//! The bytes of a literal are counted and dropped, unless it is short and may be a name. Framing comes before parsing,
//! so a response that makes no sense never costs the next one. Not here: tags, states and commands. Called by `session`.

use crate::{
    Condition, Limits,
    word::{without_spaces, word},
};

/// A violation of framing. The stream cannot be followed after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Syntax {
    /// A `{…}` at the end of a line that is no literal size, or a literal without its line end.
    #[error("a literal's size is malformed")]
    Literal,
    /// CR without LF inside a line.
    #[error("a CR without LF stands inside a line")]
    BareCr,
    /// A line is over the limit.
    #[error("a line is longer than the limit")]
    Line,
    /// Parentheses are nested deeper than the limit.
    #[error("parentheses are nested deeper than the limit")]
    Depth,
}

/// One whole response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The response without its line end. A literal that was kept follows its `{n}`.
    pub text: &'a [u8],
    /// Where in `text` the kept literals begin, and how long they are.
    pub kept: &'a [(usize, usize)],
    /// Literals in the response.
    pub literals: u64,
    /// Bytes in those literals.
    pub literal_bytes: u64,
    /// A line ended with bare LF or more than one CR, or a literal size had a `+`.
    pub deviates: bool,
    /// Of a row, `* n FETCH …`: where in `text` that word ends.
    pub row: Option<usize>,
    /// Every bracket and quote was closed, each literal was complete, and a row ended with its list. Always so for a status response.
    pub closed: bool,
    /// Each item of a row that came as a literal ended with a line end, as a header and a message do.
    pub whole_lines: bool,
}

/// Cuts a stream. See the module's head.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "five independent facts about one response")]
pub struct Framer {
    limits: Limits,
    text: Vec<u8>,
    kept: Vec<(usize, usize)>,
    /// Start of the line that is being read, in `text`.
    line: usize,
    /// Of a literal that is being read: the octets still awaited, and whether they are kept.
    literal: Option<(u64, bool)>,
    depth: u32,
    /// Where the word FETCH of a row ends in `text`; 0 in any other response, and until the first line has ended.
    head: usize,
    /// Size of the literal that is being read.
    size: u64,
    literals: u64,
    literal_bytes: u64,
    deviates: bool,
    /// The opposite of [`Frame::closed`].
    unclosed: bool,
    /// The opposite of [`Frame::whole_lines`].
    cut_lines: bool,
    complete: bool,
    /// The response is a status response whose code has not been closed yet.
    open_code: bool,
    /// Bytes that were taken since the start of the stream.
    passed: u64,
}

/// Bytes kept of an endless response: enough to name it.
const NAME_KEPT: usize = 64;

/// Data items of a row (RFC 9051 §7.5.2, RFC 3501 §7.4.2), with those of widespread extensions (RFC 7162, 8474, 8514, 8970, and
/// Gmail's). Anything else behind a literal belongs to the literal, whose size is wrong.
const ITEMS: &str = "BINARY BINARY.SIZE BODY BODYSTRUCTURE EMAILID ENVELOPE FLAGS INTERNALDATE MODSEQ PREVIEW RFC822 \
                     RFC822.HEADER RFC822.SIZE RFC822.TEXT SAVEDATE THREADID UID X-GM-LABELS X-GM-MSGID X-GM-THRID";

impl std::fmt::Debug for Framer {
    // A server may repeat a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Framer({} bytes)", self.text.len())
    }
}

/// Literals of a response that are kept: more than a response with names can have (30 pairs in ID, RFC 2971 §3.3).
const MOST_KEPT: usize = 64;

impl Framer {
    /// A framer at the start of a stream.
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Whether the next byte begins a response.
    pub fn is_between_responses(&self) -> bool {
        self.complete || (self.text.is_empty() && self.literal.is_none() && self.literals == 0)
    }

    /// Takes bytes up to the end of a response, or all of them. Returns how many were taken and whether a response is whole; then
    /// [`Framer::frame`] has it until the next call. [`Framer::passed`] counts what was taken up to a violation.
    pub fn push(&mut self, input: &[u8]) -> Result<(usize, bool), Syntax> {
        let mut taken = 0;
        let pushed = self.follow(input, &mut taken);
        self.passed += taken as u64;
        pushed.map(|whole| (taken, whole))
    }

    fn follow(&mut self, input: &[u8], taken: &mut usize) -> Result<bool, Syntax> {
        if self.complete {
            self.reset();
        }
        while let Some(rest) = input.get(*taken..).filter(|rest| !rest.is_empty()) {
            if let Some((left, keep)) = self.literal {
                *taken += self.take_literal(rest, left, keep);
                continue;
            }
            let end = memchr::memchr(b'\n', rest);
            let piece = rest.get(..end.map_or(rest.len(), |at| at + 1)).unwrap_or(rest);
            let room = (self.limits.line + 2).saturating_sub(self.text.len() - self.line);
            // As much as fits, however it came: what a violation shows must not depend on that.
            let fits = piece.get(..room).unwrap_or(piece);
            self.text.extend_from_slice(fits);
            *taken += fits.len();
            if fits.len() < piece.len() {
                return Err(Syntax::Line);
            }
            if end.is_some() && self.line_ended()? {
                self.complete = true;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The response that [`Framer::push`] completed.
    pub fn frame(&self) -> Frame<'_> {
        Frame {
            text: &self.text,
            kept: &self.kept,
            literals: self.literals,
            literal_bytes: self.literal_bytes,
            deviates: self.deviates,
            row: Some(self.head).filter(|head| *head > 0),
            closed: !self.unclosed,
            whole_lines: !self.cut_lines,
        }
    }

    /// Of a literal that is being read: how many octets of it are still awaited, and its size.
    pub fn awaited(&self) -> Option<(u64, u64)> {
        self.literal.map(|(left, _)| (left, self.size))
    }

    /// The line that is being read or ended last, from the last literal on.
    pub(super) fn last_line(&self) -> &[u8] {
        self.text.get(self.line..).unwrap_or_default()
    }

    /// Whether what is being read or ended last is a row, as far as it came.
    pub(super) fn is_in_row(&self) -> bool {
        self.head > 0 || (self.literals == 0 && row_head(&self.text) > 0)
    }

    /// Bytes taken since the start of the stream.
    pub fn passed(&self) -> u64 {
        self.passed
    }

    /// The beginning of a response that is not whole yet.
    pub fn partial(&self) -> &[u8] {
        if self.complete { &[] } else { &self.text }
    }

    /// Bytes and literals that are held.
    #[cfg(any(test, fuzzing))]
    pub(super) fn held(&self) -> (usize, usize) {
        (self.text.len(), self.kept.len())
    }

    fn reset(&mut self) {
        // A buffer that one long line made large is freed: ten thousand sessions may be waiting.
        let mut text = std::mem::take(&mut self.text);
        if text.capacity() > 4096 {
            text = Vec::new();
        }
        text.clear();
        let mut kept = std::mem::take(&mut self.kept);
        kept.clear();
        *self = Self { limits: self.limits, text, kept, passed: self.passed, ..Self::default() };
    }

    fn take_literal(&mut self, rest: &[u8], left: u64, keep: bool) -> usize {
        let part = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
        if keep && let Some(bytes) = rest.get(..part) {
            self.text.extend_from_slice(bytes);
        }
        let left = left - part as u64;
        self.literal = (left > 0).then_some((left, keep));
        if left == 0 {
            self.cut_lines |= self.is_item() && rest.get(part.wrapping_sub(1)) != Some(&b'\n');
            self.line = self.text.len();
        }
        part
    }

    /// Looks at the line that just ended. True when the response ends with it.
    fn line_ended(&mut self) -> Result<bool, Syntax> {
        let line = self.text.get(self.line..).unwrap_or_default();
        let content = line.strip_suffix(b"\n").unwrap_or(line);
        let carriage_returns = content.iter().rev().take_while(|byte| **byte == b'\r').count();
        self.deviates |= carriage_returns != 1;
        let content_len = content.len() - carriage_returns;
        self.text.truncate(self.line + content_len);
        let line = self.text.get(self.line..).unwrap_or_default();
        if memchr::memchr(b'\r', line).is_some() {
            return Err(Syntax::BareCr);
        }
        if self.literals == 0 {
            self.head = row_head(line);
        }
        if self.is_text() {
            return Ok(true);
        }
        let Some((size, plus)) = self.scan_line()? else { return Ok(true) };
        self.deviates |= plus;
        self.begin_literal(size);
        Ok(false)
    }

    fn begin_literal(&mut self, size: u64) {
        self.literals += 1;
        self.literal_bytes = self.literal_bytes.saturating_add(size);
        self.size = size;
        let row = self.head > 0;
        let room = self.limits.line.saturating_sub(self.text.len());
        let short = usize::try_from(size).is_ok_and(|size| size <= self.limits.literal_kept && size <= room);
        let keep = short && !row && room > 0 && self.kept.len() < MOST_KEPT;
        if keep {
            self.kept.push((self.text.len(), usize::try_from(size).unwrap_or_default()));
        } else if row {
            // Its number and name are enough once a line was scanned.
            self.text.truncate(self.head + 1);
        } else if room == 0 {
            self.text.truncate(NAME_KEPT);
            self.kept.clear();
        }
        self.line = self.text.len();
        self.cut_lines |= size == 0 && self.is_item();
        self.literal = (size > 0).then_some((size, keep));
    }

    /// Whether a literal here is an item of a row, header or message; a deeper one is a part of a name.
    fn is_item(&self) -> bool {
        self.head > 0 && self.depth == 1
    }

    /// Whether the rest of the response is human-readable text, in which braces and quotes mean nothing: a continuation, or a
    /// status response whose code, if any, is closed. Reads the new line alone.
    fn is_text(&mut self) -> bool {
        let line = self.text.get(self.line..).unwrap_or_default();
        if self.literals > 0 {
            let closed = self.open_code && line.contains(&b']');
            self.open_code &= !closed;
            return closed;
        }
        if line.first() == Some(&b'+') {
            return true;
        }
        let (first, rest, _) = word(line);
        if first.len() == line.len() {
            return true;
        }
        let (second, rest, _) = word(rest);
        if Condition::parse(second).is_none() {
            return false;
        }
        self.open_code = rest.first() == Some(&b'[') && !rest.contains(&b']');
        !self.open_code
    }

    /// Counts parentheses outside quoted strings. Returns the size of the literal at the line's end, and whether it has a `+`. A
    /// server that does not escape a quote swaps inside and outside, so quotes never decide whether a `{n}` at the end is one.
    fn scan_line(&mut self) -> Result<Option<(u64, bool)>, Syntax> {
        let line = self.text.get(self.line..).unwrap_or_default();
        let (mut quoted, mut at) = (false, 0);
        let (row, mut depth) = (self.head > 0, self.depth);
        let mut closed = match (self.literals, row) {
            (0, true) => opens_list(line.get(self.head..).unwrap_or_default()),
            (0, false) => true,
            _ => follows_literal(line, row && depth == 1),
        };
        while let Some(rest) = line.get(at..) {
            // To the next special byte.
            let next = if quoted {
                memchr::memchr2(b'"', b'\\', rest)
            } else {
                rest.iter().position(|byte| is_special(*byte))
            };
            let Some(next) = next else { break };
            at += next;
            match line.get(at) {
                Some(b'\\') => at += 1,
                Some(b'"') => quoted = !quoted,
                Some(b'(') => depth += 1,
                Some(b')') => {
                    // One too many, or the end of a row's list before the line's.
                    closed &= depth > 1 || (depth == 1 && !(row && at + 1 < line.len()));
                    depth = depth.saturating_sub(1);
                }
                Some(b'{') if size_at(line, at).is_some_and(|end| end < line.len()) => return Err(Syntax::Literal),
                _ => {}
            }
            if depth > self.limits.depth {
                return Err(Syntax::Depth);
            }
            at += 1;
        }
        let literal = literal_size(line, quoted)?;
        self.unclosed |= !closed || quoted || (literal.is_none() && (depth > 0 || (row && line.last() != Some(&b')'))));
        self.depth = depth;
        Ok(literal)
    }
}

/// Whether a byte is special outside quoted strings. A table: it is read for every byte outside literals.
fn is_special(byte: u8) -> bool {
    const SPECIAL: [bool; 256] = {
        let mut table = [false; 256];
        (table[b'"' as usize], table[b'(' as usize], table[b')' as usize], table[b'{' as usize]) =
            (true, true, true, true);
        table
    };
    SPECIAL[usize::from(byte)]
}

/// Where `{digits}` ends that begins at `at`, behind a space or an opening parenthesis: inside a line it is a literal whose line
/// end is missing. Reads no further than the digits, since a line may be full of braces.
fn size_at(line: &[u8], at: usize) -> Option<usize> {
    let before = line.get(at.checked_sub(1)?)?;
    let rest = line.get(at + 1..).unwrap_or_default();
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let found = matches!(before, b' ' | b'(' | b'~') && digits > 0 && rest.get(digits) == Some(&b'}');
    found.then_some(at + 1 + digits + 1)
}

/// The size of the literal at the end of a line, and whether it has a `+`.
fn literal_size(line: &[u8], quoted: bool) -> Result<Option<(u64, bool)>, Syntax> {
    let Some(open) = memchr::memrchr(b'{', line) else { return Ok(None) };
    let inside = line.get(open + 1..).unwrap_or_default();
    let (inside, closed) = inside.strip_suffix(b"}").map_or((inside, false), |inside| (inside, true));
    let (digits, plus) = inside.strip_suffix(b"+").map_or((inside, false), |digits| (digits, true));
    if closed && !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) {
        // No 19 digits are too many for 64 bits.
        let size = digits.iter().fold(0u64, |size, digit| size.wrapping_mul(10).wrapping_add(u64::from(digit - b'0')));
        let fits = digits.len() <= 19 && i64::try_from(size).is_ok();
        return if fits { Ok(Some((size, plus))) } else { Err(Syntax::Literal) };
    }
    // `{5`, `{ 5}`, `{-5}` are meant as a size. Inside a quoted string they are text.
    let is_meant = inside.iter().all(|byte| matches!(byte, b'0'..=b'9' | b' ' | b'-' | b'+'));
    if is_meant && !quoted && inside.iter().any(u8::is_ascii_digit) { Err(Syntax::Literal) } else { Ok(None) }
}

/// Where the word FETCH ends in the first line of a row; 0 if it is none. A list may follow without a space.
fn row_head(line: &[u8]) -> usize {
    let (star, rest, _) = word(line);
    let (number, rest, _) = word(rest);
    let is_row = star == b"*"
        && !number.is_empty()
        && number.iter().all(u8::is_ascii_digit)
        && rest.get(..5).is_some_and(|name| name.eq_ignore_ascii_case(b"FETCH"))
        && matches!(rest.get(5), None | Some(b' ' | b'('));
    if is_row { line.len() - rest.len() + 5 } else { 0 }
}

/// Whether a row's list begins behind the word FETCH.
fn opens_list(rest: &[u8]) -> bool {
    without_spaces(rest).first() == Some(&b'(')
}

/// Whether a line continues behind a literal as in the grammar: with a closing bracket, or a space (in a row, and an item's name).
fn follows_literal(line: &[u8], in_row: bool) -> bool {
    match line.first() {
        Some(b' ') if in_row => {
            let rest = without_spaces(line);
            let end = rest.iter().position(|byte| matches!(byte, b' ' | b'[' | b'(' | b')')).unwrap_or(rest.len());
            let name = rest.get(..end).unwrap_or_default();
            // At least one large server sends `literal )`.
            rest == b")" || ITEMS.split(' ').any(|item| name.eq_ignore_ascii_case(item.as_bytes()))
        }
        None | Some(b')' | b' ') => true,
        Some(_) => false,
    }
}

#[cfg(test)]
mod tests;
