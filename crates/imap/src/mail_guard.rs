//! Which server text may be shown when it may be mail.
//!
//! If a server announces a literal too short, or breaks a quoted string, the rest of a message is read as lines of the protocol:
//! as responses, as BYE or ALERT, as the tagged line. From FETCH on, and from any unsolicited row on, each response is checked
//! for brackets, quotes and literals that were not closed. `session` checks here before it passes text on.

use std::fmt;

use super::{
    Frame, Response,
    word::{without_spaces, word},
};

/// Replaces the text of a status response that may be mail.
pub const WITHHELD: &[u8] = b"(words not shown: behind rows that were not closed they may be mail)";

/// Response names of RFC 9051 §7 and §9 (`response-data`, `resp-cond-*`, `mailbox-data`, `message-data`).
const NAMES: &str = "OK NO BAD BYE PREAUTH CAPABILITY ENABLED ESEARCH EXISTS EXPUNGE FETCH FLAGS LIST NAMESPACE RECENT \
                     SEARCH STATUS";

/// The line that a violation was found in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffendingLine<'a> {
    /// All that was kept of its response. Untrusted.
    Text(&'a [u8]),
    /// It may be mail.
    Withheld {
        /// Its length without its line end, as far as it came.
        octets: usize,
        /// Its first word, if it is `*`, `+`, a response name, or the command's tag.
        first: Option<&'static str>,
    },
}

impl fmt::Display for OffendingLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{}", String::from_utf8_lossy(text)),
            Self::Withheld { octets, first } => {
                write!(f, "a line of {octets} {}", if *octets == 1 { "octet" } else { "octets" })?;
                if let Some(first) = first {
                    write!(f, ", beginning with {first}")?;
                }
                f.write_str(" (it may hold mail and is not shown)")
            }
        }
    }
}

/// See the module's head.
#[derive(Debug, Clone, Copy, Default)]
#[expect(clippy::struct_excessive_bools, reason = "five independent facts about one stream")]
pub(super) struct MailGuard {
    /// FETCH was sent.
    asked: bool,
    /// Responses may have mail in them.
    begun: bool,
    /// A row has come.
    rows: bool,
    /// A bracket, quote or literal since then was not closed.
    unclosed: bool,
    /// A literal since then did not end with a line.
    cut_lines: bool,
}

impl MailGuard {
    /// FETCH goes out.
    pub(super) fn fetch_begins(&mut self) {
        (self.asked, self.begun) = (true, true);
    }

    /// Looks at a response that is whole.
    pub(super) fn look_at(&mut self, frame: &Frame<'_>, response: &Response<'_>) {
        self.rows |= frame.row.is_some();
        self.begun |= self.rows;
        if self.begun {
            self.unclosed |= !frame.closed || *response == Response::Broken;
            self.cut_lines |= !frame.whole_lines;
        }
    }

    /// Whether the text of a tagged line is the server's: a message cannot have the tag, which is random.
    pub(super) fn trusts_tagged(self) -> bool {
        !self.unclosed
    }

    /// Whether the text of an untagged line is the server's. A message may have a bracket and, on the next line, `* BYE`: a literal
    /// that is cut before them ends within a line, which no header and no message does.
    pub(super) fn trusts_untagged(self) -> bool {
        !self.unclosed && !self.cut_lines
    }

    /// Whether capabilities and the hierarchy may still be learned. Nothing depends on them after FETCH.
    pub(super) fn may_learn(self) -> bool {
        !self.asked && self.trusts_untagged()
    }

    /// Whether a line with a foreign tag is a part of a row or of mail.
    pub(super) fn is_out_of_place(self, has_status: bool) -> bool {
        self.begun && (!has_status || !self.trusts_untagged())
    }

    /// What may be shown of the line with a violation. `in_row` if it belongs to a row that is not whole.
    pub(super) fn offending<'a>(
        self,
        text: &'a [u8],
        line: &[u8],
        in_row: bool,
        tag: Option<&str>,
    ) -> OffendingLine<'a> {
        if !self.begun && !in_row {
            return OffendingLine::Text(text);
        }
        let octets = line.strip_suffix(b"\n").map_or(line.len(), |line| line.strip_suffix(b"\r").unwrap_or(line).len());
        OffendingLine::Withheld { octets, first: first_word(line, tag) }
    }
}

fn first_word(line: &[u8], tag: Option<&str>) -> Option<&'static str> {
    let (word, ..) = word(without_spaces(line));
    match word {
        b"*" => Some("*"),
        b"+" => Some("+"),
        word if tag.is_some_and(|tag| tag.as_bytes() == word) => Some("the command's tag"),
        word => NAMES.split(' ').find(|name| word.eq_ignore_ascii_case(name.as_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(row: Option<usize>, closed: bool) -> Frame<'static> {
        Frame { text: b"", kept: &[], literals: 0, literal_bytes: 0, deviates: false, row, closed, whole_lines: true }
    }

    #[test]
    fn from_an_unsolicited_row_on_what_is_not_closed_makes_text_doubtful() {
        let mut guard = MailGuard::default();
        guard.look_at(&frame(None, false), &Response::Other);
        assert!(guard.trusts_tagged(), "no mail may have come yet");
        guard.look_at(&frame(Some(9), true), &Response::Other);
        assert!(guard.trusts_tagged());
        guard.look_at(&frame(None, false), &Response::Other);
        assert!(!guard.trusts_tagged());
    }
}
