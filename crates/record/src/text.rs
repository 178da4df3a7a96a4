//! Text that came from a server, made safe before anything else sees it (SECURITY.md).

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use crate::printable::push_escaped;

/// Server text that can go to a terminal, a log line and an OTLP string: valid UTF-8, control and direction characters
/// escaped, bounded in length. There is no other way to build one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerText(String);

impl ServerText {
    /// Longest text kept of a status line, in bytes.
    pub const STATUS: usize = 256;
    /// Longest text kept of a server's ID answer, in bytes.
    pub const ID: usize = 64;

    /// Makes `raw` safe and cuts it to at most `max` bytes, `…` included, never inside a character or an escape.
    pub fn new(raw: &[u8], max: usize) -> Self {
        let mut text = String::with_capacity(raw.len().min(max));
        let mut cut = 0; // the last place between two characters where `…` still fits behind
        for character in String::from_utf8_lossy(raw).chars() {
            if text.len() + '…'.len_utf8() <= max {
                cut = text.len();
            }
            push_escaped(&mut text, character);
            if text.len() > max {
                text.truncate(cut);
                text.push('…');
                break;
            }
        }
        Self(text)
    }

    /// The safe text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServerText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ServerText {
    // A replayed file is as untrusted as the server was.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::new(String::deserialize(deserializer)?.as_bytes(), Self::STATUS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_and_direction_characters_are_escaped() {
        let raw = "a\x1b[2Jb\r\nc\u{7f}d\u{9b}e\u{202e}f\u{2066}g\u{61c}h\u{200f}i".as_bytes();
        assert_eq!(
            ServerText::new(raw, 256).as_str(),
            "a\\x1b[2Jb\\x0d\\x0ac\\x7fd\\u{9b}e\\u{202e}f\\u{2066}g\\u{61c}h\\u{200f}i"
        );
    }

    #[test]
    fn invalid_utf8_is_replaced_and_length_is_bounded() {
        assert_eq!(ServerText::new(b"caf\xe9 ok", 256).as_str(), "caf\u{fffd} ok");
        let cut = ServerText::new("ä".repeat(300).as_bytes(), 256);
        assert!(cut.as_str().len() <= 256 && cut.as_str().ends_with('…'), "{}", cut.as_str().len());
        assert_eq!(ServerText::new("x".repeat(256).as_bytes(), 256).as_str().len(), 256);
        assert_eq!(ServerText::new(b"abc\x1b\x1b", 8).as_str(), "abc…");
        assert_eq!(ServerText::new(b"as it is", 8).to_string(), "as it is");
    }

    #[test]
    fn reading_it_back_changes_nothing() {
        let once = ServerText::new("\x1b\u{202e}ä\\".as_bytes(), 256);
        let json = serde_json::to_string(&once).unwrap_or_default();
        assert_eq!(serde_json::from_str::<ServerText>(&json).ok(), Some(once));
    }
}
