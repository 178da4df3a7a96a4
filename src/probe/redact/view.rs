//! The readings of a text, for `find` to search: as it is, without its escapes, as hex, as base64.

use std::ops::Range;

use zeroize::Zeroizing;

/// What was read, with the bytes of the text that each byte was read from.
type Reading = Vec<(u8, Range<usize>)>;

/// One reading of a text, or of a part of it, in lower case.
pub(super) struct View {
    pub(super) form: Form,
    pub(super) bytes: Zeroizing<Vec<u8>>,
    /// Where in the text each byte comes from.
    from: Vec<Range<usize>>,
    /// The text ends where this does.
    pub(super) reaches_end: bool,
}

/// How a view was read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// The text, but for escapes.
    Plain,
    /// The bytes that the text encodes.
    Encoded,
    /// The characters of base64 themselves, without their case.
    FoldedBase64,
}

impl View {
    /// The text that `length` bytes from `at` on were read from.
    pub(super) fn range(&self, at: usize, length: usize) -> Range<usize> {
        whole(self.from.get(at..at + length).unwrap_or_default())
    }

    /// Whether these bytes are next to no letter or digit.
    pub(super) fn is_alone(&self, at: usize, length: usize) -> bool {
        let beside = [at.checked_sub(1).and_then(|before| self.bytes.get(before)), self.bytes.get(at + length)];
        !beside.into_iter().flatten().any(u8::is_ascii_alphanumeric)
    }
}

/// From the first of these to the last.
fn whole(parts: &[Range<usize>]) -> Range<usize> {
    parts.first().zip(parts.last()).map_or(0..0, |(first, last)| first.start..last.end)
}

/// Every reading of a text.
pub(super) fn all(text: &[u8]) -> Vec<View> {
    let mut views = Vec::new();
    let mut add = |form, read: Reading| {
        if !read.is_empty() {
            views.push(fold(form, read, text.len()));
        }
    };
    add(Form::Plain, as_it_stands(text));
    if text.contains(&b'\\') {
        let unescaped = |rest: &[u8]| escape(rest.strip_prefix(b"\\")?).map(|(read, length)| (read, length + 1));
        add(Form::Plain, decoded(text, unescaped));
    }
    if text.contains(&b'%') {
        add(Form::Plain, decoded(text, |rest| percent(rest, false)));
        if text.contains(&b'+') {
            add(Form::Plain, decoded(text, |rest| percent(rest, true)));
        }
    }
    if text.contains(&b'&') {
        add(Form::Plain, decoded(text, reference));
    }
    for run in hex(text).into_iter().chain(numbers(text)) {
        add(Form::Encoded, run);
    }
    let sextets = sextets(text);
    for lead in 0..4 {
        add(Form::Encoded, base64(sextets.get(lead..).unwrap_or_default()));
    }
    add(Form::FoldedBase64, folded_base64(text, &sextets));
    views
}

/// Bytes in lower case, characters beyond ASCII too.
pub(super) fn folded(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    let read = bytes.iter().enumerate().map(|(at, byte)| (*byte, at..at + 1)).collect();
    fold(Form::Plain, read, bytes.len()).bytes
}

fn fold(form: Form, read: Reading, end: usize) -> View {
    let reaches_end = read.last().is_some_and(|(_, range)| range.end == end);
    let (raw, from): (Vec<u8>, Vec<Range<usize>>) = read.into_iter().unzip();
    let raw = Zeroizing::new(raw);
    if raw.is_ascii() {
        return View { form, bytes: Zeroizing::new(raw.to_ascii_lowercase()), from, reaches_end };
    }
    // A character can be longer in lower case; never more than three times.
    let mut view =
        View { form, bytes: Zeroizing::new(Vec::with_capacity(3 * raw.len())), from: Vec::new(), reaches_end };
    let mut at = 0;
    for chunk in raw.utf8_chunks() {
        for character in chunk.valid().chars() {
            let source = whole(from.get(at..at + character.len_utf8()).unwrap_or_default());
            at += character.len_utf8();
            for lower in character.to_lowercase() {
                view.bytes.extend_from_slice(lower.encode_utf8(&mut [0; 4]).as_bytes());
            }
            view.from.resize(view.bytes.len(), source);
        }
        for byte in chunk.invalid() {
            view.bytes.push(*byte);
            view.from.extend(from.get(at).cloned());
            at += 1;
        }
    }
    view
}

/// Without line ends and NUL, which no password has.
fn as_it_stands(text: &[u8]) -> Reading {
    let bytes = text.iter().enumerate().filter(|(_, byte)| !matches!(byte, b'\r' | b'\n' | 0));
    bytes.map(|(at, byte)| (*byte, at..at + 1)).collect()
}

/// What was read at one place.
enum Decoded {
    Byte(u8),
    Character(char),
}

/// A text by `decode`, which reads what begins at a place and returns its length; any other byte is itself.
fn decoded(text: &[u8], decode: impl Fn(&[u8]) -> Option<(Decoded, usize)>) -> Reading {
    let mut read = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(byte) = rest.first() {
        let at = text.len() - rest.len();
        let (decoded, length) = decode(rest).unwrap_or((Decoded::Byte(*byte), 1));
        let source = at..at + length;
        match decoded {
            Decoded::Byte(byte) => read.push((byte, source)),
            Decoded::Character(character) => {
                read.extend(character.encode_utf8(&mut [0; 4]).bytes().map(|byte| (byte, source.clone())));
            }
        }
        rest = rest.get(length..).unwrap_or_default();
    }
    read
}

/// An escape of an IMAP string, JSON, C or Rust without its backslash, and its length.
fn escape(rest: &[u8]) -> Option<(Decoded, usize)> {
    let character = |code, length| Some((Decoded::Character(char::from_u32(code)?), length));
    match rest.first()? {
        // A server may repeat it in capitals.
        b'x' | b'X' => Some((Decoded::Byte(u8::try_from(number(rest.get(1..3)?, 16)?).ok()?), 3)),
        b'u' | b'U' if rest.get(1) == Some(&b'{') => {
            // Six digits at most, so that no text is searched to its end for each of its openings.
            let close = rest.iter().take(9).position(|byte| *byte == b'}')?;
            character(number(rest.get(2..close)?, 16)?, close + 1)
        }
        b'u' | b'U' => {
            let high = number(rest.get(1..5)?, 16)?;
            // A character beyond the first 65,536 is two of them (RFC 8259 §7).
            let low = rest
                .get(5..11)
                .and_then(|next| number(next.strip_prefix(b"\\u").or_else(|| next.strip_prefix(b"\\U"))?, 16));
            match (high, low) {
                (0xd800..=0xdbff, Some(low @ 0xdc00..=0xdfff)) => {
                    character(0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00), 11)
                }
                _ => character(high, 5),
            }
        }
        b'0'..=b'3' if rest.get(..3).is_some_and(|digits| digits.iter().all(|digit| matches!(digit, b'0'..=b'7'))) => {
            Some((Decoded::Byte(u8::try_from(number(rest.get(..3)?, 8)?).ok()?), 3))
        }
        b't' => Some((Decoded::Byte(b'\t'), 1)),
        other => Some((Decoded::Byte(*other), 1)),
    }
}

fn number(digits: &[u8], radix: u32) -> Option<u32> {
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, radix).ok()
}

/// Percent-encoding (RFC 3986 §2.1); in forms a space is a plus.
fn percent(rest: &[u8], forms: bool) -> Option<(Decoded, usize)> {
    match rest.first()? {
        b'%' => Some((Decoded::Byte(u8::try_from(number(rest.get(1..3)?, 16)?).ok()?), 3)),
        b'+' if forms => Some((Decoded::Byte(b' '), 1)),
        _ => None,
    }
}

/// A character as HTML and XML have it: by a name or a number between `&` and `;`.
fn reference(rest: &[u8]) -> Option<(Decoded, usize)> {
    let rest = rest.strip_prefix(b"&")?;
    let end = rest.iter().take(10).position(|byte| *byte == b';')?;
    Some((Decoded::Character(entity(rest.get(..end)?)?), end + 2))
}

fn entity(name: &[u8]) -> Option<char> {
    Some(match name {
        b"amp" => '&',
        b"lt" => '<',
        b"gt" => '>',
        b"quot" => '"',
        b"apos" => '\'',
        [b'#', b'x' | b'X', digits @ ..] => char::from_u32(number(digits, 16)?)?,
        [b'#', digits @ ..] => char::from_u32(number(digits, 10)?)?,
        _ => return None,
    })
}

/// Hex: digits with only separators and `0x` between them. Where a byte begins is not known, so each run is read twice.
fn hex(text: &[u8]) -> Vec<Reading> {
    let mut runs: Vec<Vec<(usize, u8)>> = vec![Vec::new()];
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        let prefix = *byte == b'0'
            && text.get(at + 1).is_some_and(|next| next.eq_ignore_ascii_case(&b'x'))
            && text.get(at + 2).is_some_and(u8::is_ascii_hexdigit);
        match (char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok()), runs.last_mut()) {
            _ if prefix => at += 1,
            (Some(digit), Some(run)) => run.push((at, digit)),
            (None, Some(run)) if !is_separator(*byte) && !run.is_empty() => runs.push(Vec::new()),
            _ => {}
        }
        at += 1;
    }
    let bytes = |run: &[(usize, u8)]| -> Reading {
        run.chunks_exact(2)
            .filter_map(|pair| match pair {
                [(from, high), (to, low)] => Some((high << 4 | low, *from..to + 1)),
                _ => None,
            })
            .collect()
    };
    runs.iter().flat_map(|run| [bytes(run), bytes(run.get(1..).unwrap_or_default())]).collect()
}

fn is_separator(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b':' | b',' | b';' | b'-' | b'.' | b'_' | b'[' | b']')
}

/// Lists of bytes in decimal: `[112, 97, 115]`.
fn numbers(text: &[u8]) -> Vec<Reading> {
    let mut runs: Vec<Reading> = vec![Vec::new()];
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        let digits = text.get(at..).unwrap_or_default().iter().take_while(|byte| byte.is_ascii_digit()).count();
        let value = text.get(at..at + digits).and_then(|digits| number(digits, 10));
        match (value.and_then(|value| u8::try_from(value).ok()), runs.last_mut()) {
            (Some(value), Some(run)) => run.push((value, at..at + digits)),
            (None, Some(run)) if !run.is_empty() && (digits > 0 || !is_separator(*byte)) => runs.push(Vec::new()),
            _ => {}
        }
        at += digits.max(1);
    }
    runs
}

/// A character of base64: its place, the word that it is in with its padding, and its value.
struct Sextet {
    at: usize,
    word: Range<usize>,
    value: u8,
}

/// The characters of base64 (RFC 4648 §4, §5), without what folds or quotes them.
fn sextets(text: &[u8]) -> Vec<Sextet> {
    let mut sextets = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let rest = text.get(at..).unwrap_or_default();
        let length = rest.iter().take_while(|byte| sextet(**byte).is_some()).count();
        // Padding belongs to a word, and is no word by itself.
        let padding = rest.get(length..).filter(|_| length > 0).unwrap_or_default();
        let padding = padding.iter().take_while(|byte| **byte == b'=').count();
        let word = at..at + length + padding;
        let values = rest.iter().map_while(|byte| sextet(*byte)).enumerate();
        sextets.extend(values.map(|(place, value)| Sextet { at: at + place, word: word.clone(), value }));
        at += length.max(1);
    }
    sextets
}

fn sextet(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' | b'-' => Some(62),
        b'/' | b'_' => Some(63),
        _ => None,
    }
}

/// The bytes of a message in base64 that begins here. Each has the place of its whole words, which are removed with a secret.
fn base64(sextets: &[Sextet]) -> Reading {
    let mut read = Vec::with_capacity(sextets.len());
    for (place, pair) in sextets.windows(2).enumerate() {
        let [first, second] = pair else { continue };
        let byte = match place % 4 {
            0 => first.value << 2 | second.value >> 4,
            1 => first.value << 4 | second.value >> 2,
            2 => first.value << 6 | second.value,
            _ => continue,
        };
        read.push((byte, first.word.start..second.word.end));
    }
    read
}

/// The characters themselves, both alphabets as one.
fn folded_base64(text: &[u8], sextets: &[Sextet]) -> Reading {
    let character = |sextet: &Sextet| match text.get(sextet.at) {
        Some(b'-') => b'+',
        Some(b'_') => b'/',
        other => other.copied().unwrap_or_default(),
    };
    sextets.iter().map(|sextet| (character(sextet), sextet.word.clone())).collect()
}
