//! Cuts the server's bytes into responses: lines, and the literals inside them (RFC 9051 §2.2.2, §4.3).
//!
//! It streams: however large a literal is, its bytes are counted as they pass and dropped, unless a name can stand
//! there and it is short. Framing comes before parsing, so a response that makes no sense never costs the next one.
//! It knows no tags, no states and no commands; `session` does.

use super::{
    session::Limits,
    word::{without_spaces, word},
};

/// A breach of framing. The stream cannot be followed after it.
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
    /// The response without its line end. A literal that was kept stands right behind its `{n}`.
    pub text: &'a [u8],
    /// Where in `text` the kept literals begin, and how long they are.
    pub kept: &'a [(usize, usize)],
    /// Literals in the response.
    pub literals: u64,
    /// Bytes in those literals.
    pub literal_bytes: u64,
    /// A line ended with bare LF or more than one CR, or a literal size had a `+`.
    pub lenient: bool,
    /// Of a row, `* n FETCH …`: where in `text` that word ends.
    pub row: Option<usize>,
    /// Every bracket and quote was closed, each literal ended where the grammar can go on, and a row ended with its list. Of
    /// a status response, whose words are free, always so.
    pub closed: bool,
    /// Each item of a row that came as a literal ended with a line end, as a header and a message do.
    pub whole_lines: bool,
}

/// The state of the cut. See the module's head.
pub struct Framer {
    limits: Limits,
    text: Vec<u8>,
    kept: Vec<(usize, usize)>,
    /// Start of the line that is being read, in `text`.
    line: usize,
    phase: Phase,
    depth: u32,
    /// Where the word FETCH of a row ends in `text`; 0 in any other response, and until the first line has ended.
    head: usize,
    /// Size of the literal that is being read.
    size: u64,
    literals: u64,
    literal_bytes: u64,
    lenient: bool,
    ends: Ends,
    complete: bool,
    /// The response is a status response whose code has not been closed yet.
    open_code: bool,
    /// Bytes that were taken since the start of the stream.
    passed: u64,
}

/// See the fields of [`Frame`] that have the same names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ends {
    closed: bool,
    whole_lines: bool,
}

impl Ends {
    /// Of a response of which nothing was seen yet.
    const GOOD: Self = Self { closed: true, whole_lines: true };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Line,
    Literal { left: u64, keep: bool },
}

/// What stands at the end of a line.
enum Tail {
    Nothing,
    Literal { size: u64, plus: bool },
    Malformed,
}

/// What is kept of a response that goes on and on: enough to name it.
const NAME_KEPT: usize = 64;

/// Data items that a row can have (RFC 9051 §7.5.2, RFC 3501 §7.4.2), with those of widespread extensions (RFC 7162, 8474, 8514,
/// 8970, and Gmail's). What stands behind a literal and is none of them is more of the literal than its size said.
const ITEMS: &[&str] = &[
    "BINARY",
    "BINARY.SIZE",
    "BODY",
    "BODYSTRUCTURE",
    "EMAILID",
    "ENVELOPE",
    "FLAGS",
    "INTERNALDATE",
    "MODSEQ",
    "PREVIEW",
    "RFC822",
    "RFC822.HEADER",
    "RFC822.SIZE",
    "RFC822.TEXT",
    "SAVEDATE",
    "THREADID",
    "UID",
    "X-GM-LABELS",
    "X-GM-MSGID",
    "X-GM-THRID",
];

impl std::fmt::Debug for Framer {
    // What a server said may be a password that it says back.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Framer({} bytes, {:?})", self.text.len(), self.phase)
    }
}

/// Literals of a response that are kept: more than any response has whose names we read (30 pairs in ID, RFC 2971 §3.3).
const MOST_KEPT: usize = 64;

impl Framer {
    /// A framer at the start of a stream.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            text: Vec::new(),
            kept: Vec::new(),
            line: 0,
            phase: Phase::Line,
            depth: 0,
            head: 0,
            size: 0,
            literals: 0,
            literal_bytes: 0,
            lenient: false,
            ends: Ends::GOOD,
            complete: false,
            open_code: false,
            passed: 0,
        }
    }

    /// Whether the next byte begins a response.
    pub fn is_between_responses(&self) -> bool {
        self.complete || (self.text.is_empty() && self.phase == Phase::Line && self.literals == 0)
    }

    /// Takes bytes up to the end of a response, or all of them. Returns how many were taken and whether a response is
    /// whole; then [`Framer::frame`] has it until the next call. What was taken up to a breach, [`Framer::passed`] tells.
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
            match self.phase {
                Phase::Literal { left, keep } => *taken += self.literal(rest, left, keep),
                Phase::Line => {
                    let end = memchr::memchr(b'\n', rest);
                    let piece = rest.get(..end.map_or(rest.len(), |at| at + 1)).unwrap_or(rest);
                    let room = (self.limits.line + 2).saturating_sub(self.text.len() - self.line);
                    // As much as fits, however it came: what a breach shows must not depend on that.
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
            lenient: self.lenient,
            row: Some(self.head).filter(|head| *head > 0),
            closed: self.ends.closed,
            whole_lines: self.ends.whole_lines,
        }
    }

    /// Of a literal that is being read: how many octets of it are still awaited, and its size.
    pub fn awaited(&self) -> Option<(u64, u64)> {
        match self.phase {
            Phase::Literal { left, .. } => Some((left, self.size)),
            Phase::Line => None,
        }
    }

    /// The line that is being read or ended last, without what stands before a literal.
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

    /// What has come of a response that is not whole yet.
    pub fn partial(&self) -> &[u8] {
        if self.complete { &[] } else { &self.text }
    }

    /// Bytes and literals that are held.
    #[cfg(any(test, fuzzing))]
    pub(super) fn held(&self) -> (usize, usize) {
        (self.text.len(), self.kept.len())
    }

    fn reset(&mut self) {
        // A buffer that one long line made large is given back: ten thousand sessions may stand waiting.
        if self.text.capacity() > 4096 {
            self.text = Vec::new();
        }
        self.text.clear();
        self.kept.clear();
        (self.line, self.phase, self.depth) = (0, Phase::Line, 0);
        (self.head, self.literals, self.literal_bytes) = (0, 0, 0);
        (self.lenient, self.ends, self.complete) = (false, Ends::GOOD, false);
        self.open_code = false;
    }

    fn literal(&mut self, rest: &[u8], left: u64, keep: bool) -> usize {
        let part = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
        if keep && let Some(bytes) = rest.get(..part) {
            self.text.extend_from_slice(bytes);
        }
        let left = left - part as u64;
        if left == 0 {
            self.ends.whole_lines &= !self.is_item() || rest.get(part.wrapping_sub(1)) == Some(&b'\n');
        }
        self.phase = if left == 0 { Phase::Line } else { Phase::Literal { left, keep } };
        if left == 0 {
            self.line = self.text.len();
        }
        part
    }

    /// Looks at the line that just ended. True when the response ends with it.
    fn line_ended(&mut self) -> Result<bool, Syntax> {
        let line = self.text.get(self.line..).unwrap_or_default();
        let content = line.strip_suffix(b"\n").unwrap_or(line);
        let carriage_returns = content.iter().rev().take_while(|byte| **byte == b'\r').count();
        self.lenient |= carriage_returns != 1;
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
        let tail = self.scan_line()?;
        match tail {
            Tail::Nothing => Ok(true),
            Tail::Malformed => Err(Syntax::Literal),
            Tail::Literal { size, plus } => {
                self.lenient |= plus;
                self.begin_literal(size);
                Ok(false)
            }
        }
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
            // It needs no more than its number and name once a line has been looked at.
            self.text.truncate(self.head + 1);
        } else if room == 0 {
            // The response goes on and on; what was kept of it is enough to name it.
            self.text.truncate(NAME_KEPT);
            self.kept.clear();
        }
        self.line = self.text.len();
        self.ends.whole_lines &= size > 0 || !self.is_item();
        self.phase = if size == 0 { Phase::Line } else { Phase::Literal { left: size, keep } };
    }

    /// Whether a literal here is an item of a row, header or message; what stands deeper is a part of a name.
    fn is_item(&self) -> bool {
        self.head > 0 && self.depth == 1
    }

    /// Whether the rest of the response is human text, in which braces and quotes mean nothing: a continuation, or a
    /// status response whose code, if any, is closed. Looks at the new line alone, however long the rest.
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
        if !["OK", "NO", "BAD", "BYE", "PREAUTH"].iter().any(|word| second.eq_ignore_ascii_case(word.as_bytes())) {
            return false;
        }
        self.open_code = rest.first() == Some(&b'[') && !rest.contains(&b']');
        !self.open_code
    }

    /// Counts parentheses outside quoted strings and tells what the line ends with. A server that forgets to escape a
    /// quote turns inside and outside round, so quotes never decide whether a `{n}` at the very end is a literal.
    fn scan_line(&mut self) -> Result<Tail, Syntax> {
        let line = self.text.get(self.line..).unwrap_or_default();
        let (mut quoted, mut at) = (false, 0);
        let (row, mut depth) = (self.head > 0, self.depth);
        let mut closed = match (self.literals, row) {
            (0, true) => opens_list(line.get(self.head..).unwrap_or_default()),
            (0, false) => true,
            _ => follows_literal(line, row && depth == 1),
        };
        while let Some(rest) = line.get(at..) {
            // From one byte that means something to the next: most mean nothing.
            let next = if quoted {
                memchr::memchr2(b'"', b'\\', rest)
            } else {
                rest.iter().position(|byte| is_special(*byte))
            };
            let Some(next) = next else { break };
            at += next;
            match line.get(at) {
                // It and what it escapes.
                Some(b'\\') => at += 1,
                Some(b'"') => quoted = !quoted,
                Some(b'(') => depth += 1,
                Some(b')') => {
                    // One too many, or the end of a row's list with more behind it.
                    closed &= depth > 1 || (depth == 1 && !(row && at + 1 < line.len()));
                    depth = depth.saturating_sub(1);
                }
                Some(b'{') if size_at(line, at).is_some_and(|end| end < line.len()) => return Ok(Tail::Malformed),
                _ => {}
            }
            if depth > self.limits.depth {
                return Err(Syntax::Depth);
            }
            at += 1;
        }
        let tail = tail(line, quoted);
        let ended = matches!(tail, Tail::Nothing);
        self.ends.closed &= closed && !quoted && !(ended && (depth > 0 || (row && line.last() != Some(&b')'))));
        self.depth = depth;
        Ok(tail)
    }
}

/// Whether a byte means something outside quoted strings. By a table: this is asked for every byte that is no literal's.
fn is_special(byte: u8) -> bool {
    const SPECIAL: [bool; 256] = {
        let mut table = [false; 256];
        (table[b'"' as usize], table[b'(' as usize], table[b')' as usize], table[b'{' as usize]) =
            (true, true, true, true);
        table
    };
    SPECIAL[usize::from(byte)]
}

/// Where `{digits}` ends that stands at `at`, behind a space or an opening parenthesis: in the midst of a line it is a
/// literal whose line end is missing. Looks no further than the digits go, since a line may be full of braces.
fn size_at(line: &[u8], at: usize) -> Option<usize> {
    let before = line.get(at.checked_sub(1)?)?;
    let rest = line.get(at + 1..).unwrap_or_default();
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let found = matches!(before, b' ' | b'(' | b'~') && digits > 0 && rest.get(digits) == Some(&b'}');
    found.then_some(at + 1 + digits + 1)
}

fn tail(line: &[u8], quoted: bool) -> Tail {
    let Some(open) = memchr::memrchr(b'{', line) else { return Tail::Nothing };
    let inside = line.get(open + 1..).unwrap_or_default();
    let (inside, closed) = inside.strip_suffix(b"}").map_or((inside, false), |inside| (inside, true));
    let (digits, plus) = inside.strip_suffix(b"+").map_or((inside, false), |digits| (digits, true));
    if closed && !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) {
        // No 19 digits are too many for 64 bits.
        let size = digits.iter().fold(0u64, |size, digit| size.wrapping_mul(10).wrapping_add(u64::from(digit - b'0')));
        let fits = digits.len() <= 19 && i64::try_from(size).is_ok();
        return if fits { Tail::Literal { size, plus } } else { Tail::Malformed };
    }
    // `{5`, `{ 5}`, `{-5}`: somebody meant a size. Inside a quoted string it is just text.
    let meant = !inside.is_empty() && inside.iter().all(|byte| matches!(byte, b'0'..=b'9' | b' ' | b'-' | b'+'));
    if meant && !quoted && inside.iter().any(u8::is_ascii_digit) { Tail::Malformed } else { Tail::Nothing }
}

/// Where the word FETCH ends in the first line of a row; 0 when it is none. A list may stand right behind it.
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

/// Whether a line that goes on behind a literal goes on as the grammar has it: with a space, and behind that the name of a
/// further item if it is the list of a row, or with a closing bracket.
fn follows_literal(line: &[u8], in_row: bool) -> bool {
    match line.first() {
        Some(b' ') if in_row => {
            let rest = without_spaces(line);
            let end = rest.iter().position(|byte| matches!(byte, b' ' | b'[' | b'(' | b')')).unwrap_or(rest.len());
            let name = rest.get(..end).unwrap_or_default();
            // `literal )` is what at least one large server sends.
            rest == b")" || ITEMS.iter().any(|item| name.eq_ignore_ascii_case(item.as_bytes()))
        }
        None | Some(b')' | b' ') => true,
        Some(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, PartialEq, Eq)]
    struct Seen {
        text: String,
        kept: Vec<String>,
        literals: u64,
        literal_bytes: u64,
        lenient: bool,
    }

    fn run(chunks: &[&[u8]]) -> (Vec<Seen>, Option<Syntax>) {
        let mut framer = Framer::new(Limits::default());
        let mut seen = Vec::new();
        for chunk in chunks {
            let mut rest = *chunk;
            while !rest.is_empty() {
                match framer.push(rest) {
                    Err(syntax) => return (seen, Some(syntax)),
                    Ok((taken, whole)) => {
                        rest = &rest[taken..];
                        if whole {
                            let frame = framer.frame();
                            let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                            seen.push(Seen {
                                text: lossy(frame.text),
                                kept: frame.kept.iter().map(|(at, len)| lossy(&frame.text[*at..at + len])).collect(),
                                literals: frame.literals,
                                literal_bytes: frame.literal_bytes,
                                lenient: frame.lenient,
                            });
                        }
                    }
                }
            }
        }
        (seen, None)
    }

    fn texts(input: &str) -> Vec<String> {
        let (seen, error) = run(&[input.as_bytes()]);
        assert_eq!(error, None, "{input:?}");
        seen.into_iter().map(|seen| seen.text).collect()
    }

    fn error(input: &str) -> Option<Syntax> {
        run(&[input.as_bytes()]).1
    }

    #[test]
    fn a_literal_that_looks_like_the_tagged_line_is_not_one() {
        let (seen, error) = run(&[b"* 1 FETCH (BODY[] {12}\r\na1 OK done\r\n)\r\na1 OK done\r\n"]);
        assert_eq!(error, None);
        assert_eq!(seen.len(), 2);
        assert_eq!((seen[0].literals, seen[0].literal_bytes), (1, 12));
        assert_eq!(seen[1].text, "a1 OK done");
    }

    #[test]
    fn a_size_at_the_end_of_status_text_is_text() {
        assert_eq!(texts("a1 NO no such folder {5}\r\n* OK hi\r\n"), ["a1 NO no such folder {5}", "* OK hi"]);
        assert_eq!(texts("* OK [UIDNEXT 4] next {12}\r\n"), ["* OK [UIDNEXT 4] next {12}"]);
        assert_eq!(texts("+ go on {3}\r\n"), ["+ go on {3}"]);
    }

    #[test]
    fn a_literal_inside_an_open_response_code_is_a_literal() {
        let (seen, error) = run(&[b"a1 NO [BADCHARSET ({5}\r\nUTF-8)] no\r\n"]);
        assert_eq!((error, seen.len(), seen[0].kept.clone()), (None, 1, vec!["UTF-8".to_owned()]));
    }

    #[test]
    fn a_name_in_a_literal_is_kept_and_a_long_one_is_not() {
        let (seen, _) = run(&[b"* LIST () \"/\" {4}\r\na\r\nb\r\n"]);
        assert_eq!(seen[0].kept, ["a\r\nb"]);
        let long = format!("* LIST () NIL {{5000}}\r\n{}\r\n", "x".repeat(5000));
        let (seen, _) = run(&[long.as_bytes()]);
        assert_eq!(
            (seen[0].kept.len(), seen[0].literal_bytes, seen[0].text.as_str()),
            (0, 5000, "* LIST () NIL {5000}")
        );
    }

    #[test]
    fn malformed_sizes_end_the_stream() {
        for wrong in [
            "{5",
            "{ 5}",
            "{-5}",
            "{18446744073709551616}",
            "{9223372036854775808}",
            "{1234567890123456789012345678901234567890}",
        ] {
            assert_eq!(error(&format!("* 1 FETCH (BODY[] {wrong}\r\n")), Some(Syntax::Literal), "{wrong}");
        }
        assert_eq!(error("* 1 FETCH (BODY[] {5}hello)\r\n"), Some(Syntax::Literal));
        assert_eq!(error("* 1 FETCH (BODY[] {9223372036854775807}\r\n"), None);
    }

    #[test]
    fn braces_in_quotes_and_unescaped_quotes_are_read_past() {
        assert_eq!(texts("* LIST () \"/\" \"par(en)s {5}\"\r\n").len(), 1);
        assert_eq!(texts("* LIST () \"/\" \"a\"b\"\r\n* LIST () \"/\" c\r\n").len(), 2);
        assert_eq!(texts("* 1 FETCH (ENVELOPE (\"a\"b\" {3}\r\nabc))\r\n").len(), 1);
    }

    #[test]
    fn line_ends_bare_lf_is_lenient_and_bare_cr_is_an_error() {
        let (seen, error_) = run(&[b"* OK a\n* OK b\r\r\n* OK c\r\n"]);
        assert_eq!(error_, None);
        assert_eq!(
            seen.iter().map(|seen| (seen.text.as_str(), seen.lenient)).collect::<Vec<_>>(),
            [("* OK a", true), ("* OK b", true), ("* OK c", false)]
        );
        assert_eq!(error("* OK a\rb\r\n"), Some(Syntax::BareCr));
    }

    #[test]
    fn endless_lines_and_endless_nesting_end_at_the_limit() {
        assert_eq!(error(&"x".repeat(70_000)), Some(Syntax::Line));
        assert_eq!(error(&format!("* X {}\r\n", "(".repeat(33))), Some(Syntax::Depth));
        assert_eq!(error(&format!("* X {}\r\n", "(".repeat(32))), None);
        assert_eq!(error(&format!("* OK {}\r\n", "(".repeat(500))), None);
    }

    #[test]
    fn thousands_of_literals_keep_no_memory() {
        let mut input = b"* 1 FETCH (".to_vec();
        for _ in 0..20_000 {
            input.extend_from_slice(b"BODY[1] {3}\r\nabc ");
        }
        input.extend_from_slice(b")\r\n");
        let mut framer = Framer::new(Limits::default());
        assert_eq!(framer.push(&input), Ok((input.len(), true)));
        assert!(framer.text.capacity() < 4096, "{}", framer.text.capacity());
        assert_eq!(framer.frame().literals, 20_000);
        for head in ["* LIST () NIL ", "* OK [X ("] {
            let mut framer = Framer::new(Limits::default());
            assert!(framer.push(head.as_bytes()).is_ok());
            for _ in 0..300_000 {
                assert_eq!(framer.push(b"{0}\r\n"), Ok((5, false)));
            }
            let kept = framer.text.capacity() + framer.kept.capacity() * size_of::<(usize, usize)>();
            assert!(kept < 1 << 20, "{head}: {kept}");
        }
        let other = [b"* LIST () NIL ", input.get(11..).unwrap()].concat();
        let mut framer = Framer::new(Limits::default());
        assert!(framer.push(&other).is_ok());
        assert!(framer.text.capacity() <= 4 * Limits::default().line, "{}", framer.text.capacity());
    }

    /// What this thread worked while a framer read all of it, in seconds: the least of five times, and no time on the
    /// wall, for others may run meanwhile.
    fn work(input: &[u8]) -> f64 {
        (0..5).map(|_| work_once(input)).fold(f64::INFINITY, f64::min)
    }

    fn work_once(input: &[u8]) -> f64 {
        let now = || {
            let spent = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
            std::time::Duration::from(spent).as_secs_f64()
        };
        let (mut framer, mut rest, begun) = (Framer::new(Limits::default()), input, now());
        while !rest.is_empty() {
            rest = rest.get(framer.push(rest).unwrap().0..).unwrap_or_default();
        }
        now() - begun
    }

    #[test]
    fn no_input_makes_it_look_at_the_same_bytes_again_and_again() {
        let line = |fill: &str| format!("* LIST {}\r\n", fill.repeat(60_000 / fill.len())).repeat(4);
        let literals = |head: &str| format!("{head} {}\r\n", "{0}\r\n".repeat(20_000));
        for (hostile, plain) in [
            (line("{"), line(")")),
            (line(" {1x"), line(" )1x")),
            (line("{}"), line("))")),
            (literals(&format!("* {}", "1".repeat(60_000))), literals("* LIST")),
            (literals(&"* 1 FETCH ".repeat(6_000)), literals("* LIST")),
            (literals("* OK [X"), literals("* LIST")),
        ] {
            let (hostile_work, plain_work) = (work(hostile.as_bytes()), work(plain.as_bytes()));
            // Of the same length, and so much the same work; looking at it all again for each byte is some hundred times that.
            let head = hostile.get(..20).unwrap_or_default();
            assert!(hostile_work < 20.0 * plain_work, "{head}: {hostile_work} s, and {plain_work} s for the plain one");
        }
    }

    #[test]
    fn ten_gigabytes_of_a_literal_leave_nothing_behind() {
        let mut framer = Framer::new(Limits::default());
        let size = 10u64 << 30;
        assert!(framer.push(format!("* 1 FETCH (BODY[] {{{size}}}\r\n").as_bytes()).is_ok());
        let before = framer.text.capacity() + framer.kept.capacity();
        let chunk = vec![b'x'; 1 << 20];
        for _ in 0..size >> 20 {
            assert_eq!(framer.push(&chunk), Ok((chunk.len(), false)));
        }
        assert_eq!(framer.text.capacity() + framer.kept.capacity(), before);
        assert_eq!(framer.push(b")\r\n"), Ok((3, true)));
        assert_eq!(framer.frame().literal_bytes, size);
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_responses(
            pieces in proptest::collection::vec(prop_oneof![
                Just("* 1 FETCH (BODY[] {7}\r\na\r\nb{1}\r\n)\r\n"), Just("* LIST () \"/\" {3}\r\nabc\r\n"), Just("a1 OK [X {1}] y {2}\r\n"),
                Just("* OK \r\n"), Just("+ \r\n"), Just("{0}\r\n"), Just("* \"q\\\"{1}\r\n"), Just("\n"), Just("(((("), Just("\r")], 0..12),
            cuts in proptest::collection::vec(0usize..300, 0..10),
        ) {
            let input = pieces.concat().into_bytes();
            let whole = run(&[&input]);
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(input.len())).collect();
            cuts.sort_unstable();
            let mut chunks = Vec::new();
            let mut from = 0;
            for cut in cuts.into_iter().chain([input.len()]) {
                chunks.push(&input[from..cut]);
                from = cut;
            }
            prop_assert_eq!(run(&chunks), whole);
        }

        #[test]
        fn no_bytes_make_it_panic(input in proptest::collection::vec(any::<u8>(), 0..400)) {
            run(&[&input]);
        }
    }
}
