//! White space and marks at the start or end of a secret. Called by `form`, and by `config` for passwords in URLs.

use std::fmt;

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
