//! Makes text from outside printable: server text, file names, keys, labels, names of variables.
//!
//! The only list of characters that could control a terminal, forge a line or change the reading direction. Called wherever text
//! is made for people: by `record`, `telemetry` for the log, `config` for problems, `cli` for messages.

use std::fmt::{self, Write as _};

/// Escapes control and direction characters, line ends among them.
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    text.chars().for_each(|character| push_escaped(&mut safe, character));
    safe
}

/// The same for our own text: a line end stays before an indented line. No text from outside can begin a line of its own with it.
pub fn escape_lines(text: &str) -> String {
    text.split("\n  ").map(escape).collect::<Vec<_>>().join("\n  ")
}

/// What is displayed, escaped as it is written.
pub struct Printable<T>(
    /// What is displayed.
    pub T,
);

impl<T: fmt::Display> fmt::Display for Printable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(&self.0.to_string()))
    }
}

/// Appends a character as it can be shown.
pub fn push_escaped(text: &mut String, character: char) {
    let code = u32::from(character);
    match code {
        0x00..=0x1f | 0x7f => write!(text, "\\x{code:02x}").unwrap_or(()),
        0x80..=0x9f | 0x061c | 0x200e..=0x200f | 0x2028..=0x202e | 0x2066..=0x2069 => {
            write!(text, "\\u{{{code:x}}}").unwrap_or(());
        }
        _ => text.push(character),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_of_ours_can_be_forged() {
        assert_eq!(escape("a\nerror: b\r\u{202e}"), "a\\x0aerror: b\\x0d\\u{202e}");
        assert_eq!(escape_lines("a\nb: c\n  help: d\x1b[2J\n"), "a\\x0ab: c\n  help: d\\x1b[2J\\x0a");
        assert_eq!(Printable("\u{9b}x").to_string(), "\\u{9b}x");
    }
}
