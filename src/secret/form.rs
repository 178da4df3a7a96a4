//! Which bytes can be a secret.
//!
//! Does not read files, variables or programs: `source`, `file` and `command`
//! call this. An error names the source and the fault, never the value.

use std::fmt;

use imaptrace_imap::Secret;

use super::{buffer::LARGEST, error::SecretError};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// The first line of a file or of a program's output, without the LF or CRLF that ends it.
    FirstLine,
    Whole,
}

/// The secret in the bytes of a source. With `exact` it may begin and end with white space.
pub(super) fn take(
    bytes: &[u8],
    extent: Extent,
    exact: bool,
    place: impl Fn() -> String,
) -> Result<Secret, SecretError> {
    if bytes.len() > LARGEST {
        return Err(too_large(&place()));
    }
    let content = |fault: &str| SecretError::Content(format!("{} {fault}", place()));
    // Before it is cut at a line end, which would split a code unit.
    if is_utf16(bytes) {
        return Err(content("is in UTF-16, not UTF-8: save it as UTF-8 without a byte order mark"));
    }
    let value = match extent {
        Extent::FirstLine => first_line(bytes),
        Extent::Whole => bytes,
    };
    if value.is_empty() {
        let place = place();
        return Err(SecretError::Empty(if bytes.is_empty() { place } else { format!("the first line of {place}") }));
    }
    let text = std::str::from_utf8(value).map_err(|_| content("is not UTF-8: save it as UTF-8"))?;
    if let Some(edge) = Edge::of(text).filter(|_| !exact) {
        return Err(content(&format!("{edge}: {}", remedy(edge))));
    }
    if text.contains(['\r', '\n', '\0']) {
        return Err(content("holds CR, LF or NUL, which no IMAP command can carry"));
    }
    Ok(Secret::from(text))
}

pub(super) fn too_large(place: &str) -> SecretError {
    SecretError::Content(format!("{place} is larger than 64 KiB: is it the right one?"))
}

/// Up to the first LF or CRLF. A CR alone ends no line.
fn first_line(bytes: &[u8]) -> &[u8] {
    match bytes.iter().position(|byte| *byte == b'\n').and_then(|end| bytes.get(..end)) {
        Some(line) => line.strip_suffix(b"\r").unwrap_or(line),
        None => bytes,
    }
}

/// UTF-16, as PowerShell writes files: it begins with a byte order mark, or every other byte is NUL.
fn is_utf16(bytes: &[u8]) -> bool {
    let every_other_is_nul = |from: usize| bytes.iter().skip(from).step_by(2).all(|byte| *byte == 0);
    bytes.starts_with(&[0xff, 0xfe])
        || bytes.starts_with(&[0xfe, 0xff])
        || (bytes.len() >= 2 && bytes.iter().any(|byte| *byte != 0) && (every_other_is_nul(0) || every_other_is_nul(1)))
}

/// A character at the start or end of a secret that is seldom part of it: an editor, a shell or the clipboard added it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edge {
    at_start: bool,
    character: char,
}

impl Edge {
    /// The one at the start of `text`, else the one at its end.
    pub fn of(text: &str) -> Option<Self> {
        let first = text.chars().next().filter(|character| is_edge(*character));
        let last = || text.chars().next_back().filter(|character| is_edge(*character));
        let edge = |at_start| move |character| Self { at_start, character };
        first.map(edge(true)).or_else(|| last().map(edge(false)))
    }
}

impl fmt::Display for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.at_start { "begins with " } else { "ends with " })?;
        match self.character {
            ' ' => f.write_str("a space"),
            '\t' => f.write_str("a tab"),
            '\r' => f.write_str("a carriage return (CR)"),
            '\n' => f.write_str("a line end (LF)"),
            '\u{a0}' => f.write_str("a no-break space (U+00A0)"),
            '\u{feff}' => f.write_str("a byte order mark (U+FEFF)"),
            other => write!(f, "invisible U+{:04X}", u32::from(other)),
        }
    }
}

pub(super) fn remedy(edge: Edge) -> &'static str {
    // No IMAP command and no header can carry a line end.
    if matches!(edge.character, '\r' | '\n') {
        "no login can carry it, so write the secret without one (printf, echo -n)"
    } else {
        "take it out, or say that it is meant: exact = true beside the source, --password-exact for probe"
    }
}

/// White space (Unicode `White_Space`), byte order mark, zero-width and direction marks.
fn is_edge(character: char) -> bool {
    character.is_whitespace()
        || matches!(character, '\u{feff}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn taken(bytes: &[u8], extent: Extent, exact: bool) -> Result<String, String> {
        let taken = take(bytes, extent, exact, || "file pw".to_owned());
        taken.map(|secret| secret.expose().to_owned()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_blank_or_a_mark_at_either_end_is_refused_by_its_name_and_taken_when_it_is_meant() {
        for (edge, name) in [
            (" ", "a space"),
            ("\t", "a tab"),
            ("\u{a0}", "a no-break space (U+00A0)"),
            ("\u{feff}", "a byte order mark (U+FEFF)"),
            ("\u{2003}", "invisible U+2003"),
            ("\u{3000}", "invisible U+3000"),
            ("\u{85}", "invisible U+0085"),
            ("\u{2028}", "invisible U+2028"),
            ("\u{200b}", "invisible U+200B"),
            ("\u{b}", "invisible U+000B"),
        ] {
            for (text, begins) in [(format!("{edge}planted x"), true), (format!("planted x{edge}"), false)] {
                let says = format!("the secret from file pw {} with {name}: ", if begins { "begins" } else { "ends" });
                for extent in [Extent::FirstLine, Extent::Whole] {
                    let error = taken(text.as_bytes(), extent, false).unwrap_err();
                    assert!(error.starts_with(&says) && error.contains("exact = true"), "{edge:?}: {error}");
                    assert!(!error.contains("planted"), "{error}");
                    assert_eq!(taken(text.as_bytes(), extent, true).as_ref(), Ok(&text));
                }
            }
        }
    }

    #[test]
    fn a_line_end_is_stripped_once_from_a_first_line_and_never_meant_elsewhere() {
        for (bytes, line) in [
            ("planted\n", "planted"),
            ("planted\r\n", "planted"),
            ("planted", "planted"),
            ("planted\nmore ", "planted"),
            ("planted\n\n", "planted"),
            ("ca nary\r\n\u{feff}", "ca nary"),
        ] {
            assert_eq!(taken(bytes.as_bytes(), Extent::FirstLine, false).as_deref(), Ok(line), "{bytes:?}");
        }
        for (bytes, extent, says) in [
            ("planted\r", Extent::FirstLine, "ends with a carriage return (CR)"),
            ("planted\r\r\n", Extent::FirstLine, "ends with a carriage return (CR)"),
            ("planted\n", Extent::Whole, "ends with a line end (LF)"),
            ("planted\r\n", Extent::Whole, "ends with a line end (LF)"),
            ("\rplanted", Extent::Whole, "begins with a carriage return (CR)"),
        ] {
            let error = taken(bytes.as_bytes(), extent, false).unwrap_err();
            assert!(
                error.contains(says) && error.contains("echo -n") && !error.contains("exact"),
                "{bytes:?}: {error}"
            );
            let error = taken(bytes.as_bytes(), extent, true).unwrap_err();
            assert!(error.contains("holds CR, LF or NUL"), "{bytes:?}: {error}");
        }
        assert!(taken(b"can\0ary", Extent::Whole, false).unwrap_err().contains("CR, LF or NUL"));
    }

    #[test]
    fn utf_16_and_an_empty_value_have_errors_of_their_own() {
        let utf16 = |text: &str, big: bool| -> Vec<u8> {
            text.encode_utf16().flat_map(|unit| if big { unit.to_be_bytes() } else { unit.to_le_bytes() }).collect()
        };
        for big in [false, true] {
            for text in ["\u{feff}planted\r\n", "planted\r\n", "planted", "\u{feff}пароль"] {
                for exact in [false, true] {
                    let error = taken(&utf16(text, big), Extent::FirstLine, exact).unwrap_err();
                    assert!(error.contains("is in UTF-16, not UTF-8"), "{text:?}: {error}");
                }
            }
        }
        for exact in [false, true] {
            assert_eq!(taken(b"", Extent::FirstLine, exact).unwrap_err(), "the secret from file pw is empty");
            let error = taken(b"\nplanted", Extent::FirstLine, exact).unwrap_err();
            assert_eq!(error, "the secret from the first line of file pw is empty");
            assert!(taken(b"p\xe4ss", Extent::FirstLine, exact).unwrap_err().contains("is not UTF-8"));
            assert!(taken(b"\0\0", Extent::Whole, exact).unwrap_err().contains("NUL"));
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_is_what_was_there_and_an_error_holds_none_of_it(text in "[ -~\u{a0}-\u{ff}\u{2000}-\u{206f}\u{feff}]{1,40}") {
            match taken(text.as_bytes(), Extent::Whole, false) {
                Ok(secret) => {
                    prop_assert_eq!(secret.trim(), secret.as_str());
                    prop_assert_eq!(secret, text);
                }
                Err(error) => prop_assert!(text.chars().count() < 8 || !error.contains(text.trim())),
            }
        }
    }
}
