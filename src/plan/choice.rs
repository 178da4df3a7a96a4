//! Closed lists of values, each with its word in configuration and flags.

use imaptrace_record::Security;

/// A type whose values have a word each.
pub trait Choice: Copy + PartialEq + 'static {
    /// Words and values, in the order in which messages list them.
    const WORDS: &'static [(&'static str, Self)];

    /// The word of this value.
    fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, value)| *value == self).map_or("", |(word, _)| word)
    }
}

impl Choice for Security {
    const WORDS: &'static [(&'static str, Self)] =
        &[("tls", Self::Tls), ("starttls", Self::StartTls), ("none", Self::None)];
}
