//! Words of a response line, as `framer`, `response` and `code` read them: a run of spaces is read as the one space that the
//! grammar has (RFC 9051 §9, `SP`), and is a tolerated deviation. No other blank is a space. It reads no quoted strings
//! and no literals: its callers read words where there are none.

/// The first word, the text behind the spaces after it, and whether those are more than one.
pub(super) fn word(text: &[u8]) -> (&[u8], &[u8], bool) {
    let Some(space) = memchr::memchr(b' ', text) else { return (text, &[], false) };
    let behind = text.get(space..).unwrap_or_default();
    let rest = without_spaces(behind);
    (text.get(..space).unwrap_or_default(), rest, behind.len() - rest.len() > 1)
}

/// The text from its first byte on that is no space.
pub(super) fn without_spaces(text: &[u8]) -> &[u8] {
    let spaces = text.iter().take_while(|byte| **byte == b' ').count();
    text.get(spaces..).unwrap_or_default()
}

/// Whether a list of words has more than one space between two of them, or one at its end.
pub(super) fn has_loose_spaces(list: &[u8]) -> bool {
    list.last() == Some(&b' ') || memchr::memmem::find(list, b"  ").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_spaces_is_one_and_a_tab_is_none() {
        for (text, expected) in [
            ("* 25 EXISTS", ("*", "25 EXISTS", false)),
            ("*   25 EXISTS", ("*", "25 EXISTS", true)),
            ("EXISTS  ", ("EXISTS", "", true)),
            ("EXISTS", ("EXISTS", "", false)),
            ("*\t25 x", ("*\t25", "x", false)),
            ("  x", ("", "x", true)),
            ("", ("", "", false)),
        ] {
            let (word, rest, loose) = word(text.as_bytes());
            assert_eq!((word, rest, loose), (expected.0.as_bytes(), expected.1.as_bytes(), expected.2), "{text:?}");
        }
        assert!(
            has_loose_spaces(b"A  B") && has_loose_spaces(b"A ") && !has_loose_spaces(b"A B") && !has_loose_spaces(b"")
        );
    }
}
