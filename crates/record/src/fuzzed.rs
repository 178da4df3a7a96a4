//! What fuzzing asks of server text: any bytes as they are shown. In no build but those of fuzzing and of the tests.

use crate::ServerText;

/// Any bytes are short enough, hold nothing that steers a terminal, and are the same when they are read back.
///
/// # Panics
///
/// When that does not hold.
pub fn text(raw: &[u8]) {
    for max in [ServerText::STATUS, ServerText::ID, 8] {
        let safe = ServerText::new(raw, max);
        let text = safe.as_str();
        assert!(text.len() <= max, "{} bytes of {max}", text.len());
        assert!(!text.chars().any(steers), "{text:?}");
        assert_eq!(ServerText::new(text.as_bytes(), ServerText::STATUS), safe, "read back");
    }
}

fn steers(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use proptest::{collection::vec, prelude::*};

    use super::text;

    #[test]
    fn what_was_found_by_fuzzing_holds() {
        let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../imap/fuzz/corpus/response");
        let files: Vec<_> = fs::read_dir(corpora).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(files.len() > 3);
        for path in files {
            text(&fs::read(path).unwrap());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_shown(raw in vec(any::<u8>(), 0..600)) {
            text(&raw);
        }

        #[test]
        fn any_characters_can_be_shown(raw in any::<String>()) {
            text(raw.as_bytes());
        }
    }
}
