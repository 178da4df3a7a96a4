//! The hierarchy of mailbox names: which character separates their levels, and whether the account's own mailboxes lie
//! below INBOX (RFC 9051 §5.1.1, §7.3.1; RFC 2342 §5).
//!
//! `session` reads it from NAMESPACE and LIST responses; a caller suggests with it another spelling of a refused name.

use super::utf7;

/// What separates the levels of mailbox names on a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hierarchy {
    separator: u8,
    below_inbox: bool,
}

/// The characters that servers use, in the order in which they are looked for in a configured name.
const SEPARATORS: [char; 3] = ['/', '.', '\\'];

impl Hierarchy {
    /// Reads the first personal namespace of a NAMESPACE response (RFC 2342 §5). None if it is NIL, flat, or has a literal.
    pub(super) fn of_namespace(arguments: &[u8]) -> Option<Self> {
        let rest = arguments.trim_ascii_start().strip_prefix(b"((")?;
        let (prefix, rest) = quoted(rest.trim_ascii_start())?;
        let separator = separator(rest)?;
        let below_inbox = prefix.strip_suffix(&[separator]).is_some_and(|name| name.eq_ignore_ascii_case(b"INBOX"));
        Some(Self { separator, below_inbox })
    }

    /// Reads the arguments of a LIST response: `(\Attributes) "separator" name`. None when the hierarchy is flat (NIL).
    pub(super) fn of_list(arguments: &[u8]) -> Option<Self> {
        let close = memchr::memchr(b')', arguments)?;
        let separator = separator(arguments.get(close + 1..)?)?;
        Some(Self { separator, below_inbox: false })
    }

    /// The separator itself, a character of ASCII.
    pub fn separator(self) -> char {
        char::from(self.separator)
    }

    /// `name` with this separator in place of another one, and below INBOX if all mailboxes are. None if it may be right as it is.
    pub fn suggest(self, name: &str) -> Option<String> {
        let separator = self.separator();
        let prefix = if self.below_inbox { format!("INBOX{separator}") } else { String::new() };
        let mut suggested = name.to_owned();
        if !name.contains(separator)
            && let Some(foreign) = SEPARATORS.into_iter().find(|other| *other != separator && name.contains(*other))
        {
            suggested = name.replace(foreign, &separator.to_string());
        }
        let below = suggested.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(&prefix));
        if !below && !name.eq_ignore_ascii_case("INBOX") {
            suggested.insert_str(0, &prefix);
        }
        (suggested != name).then_some(suggested)
    }
}

/// How a mailbox name that the server refused could have been meant, and whether its separator was foreign: modified UTF-7
/// (RFC 3501 §5.1.3) written by hand is decoded, and what a known hierarchy separates is written with its separator.
pub fn suggest(name: &str, hierarchy: Option<Hierarchy>) -> Option<(String, Option<char>)> {
    let decoded = utf7::decode(name).filter(|decoded| !decoded.is_ascii());
    let plain = decoded.as_deref().unwrap_or(name);
    match hierarchy.and_then(|hierarchy| Some((hierarchy.suggest(plain)?, Some(hierarchy.separator())))) {
        None => decoded.map(|decoded| (decoded, None)),
        separated => separated,
    }
}

/// A quoted string without its quotes, as far as it holds no escaped character, and what follows it.
fn quoted(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let inside = text.strip_prefix(b"\"")?;
    let end = memchr::memchr2(b'"', b'\\', inside)?;
    (inside.get(end) == Some(&b'"')).then_some((inside.get(..end)?, inside.get(end + 1..)?))
}

/// The hierarchy separator, `DQUOTE QUOTED-CHAR DQUOTE` (RFC 9051 §9); none when it is NIL or not of printable ASCII.
fn separator(text: &[u8]) -> Option<u8> {
    let character = match text.trim_ascii_start() {
        [b'"', b'\\', escaped @ (b'"' | b'\\'), b'"', ..] => *escaped,
        [b'"', character, b'"', ..] if !matches!(character, b'"' | b'\\') => *character,
        _ => return None,
    };
    character.is_ascii_graphic().then_some(character)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(arguments: &str) -> Option<(char, bool)> {
        Hierarchy::of_namespace(arguments.as_bytes()).map(|read| (read.separator(), read.below_inbox))
    }

    fn list(arguments: &str) -> Option<char> {
        Hierarchy::of_list(arguments.as_bytes()).map(Hierarchy::separator)
    }

    #[test]
    fn the_separator_is_read_from_namespace_and_list() {
        assert_eq!(namespace(r#"(("" "/")) NIL NIL"#), Some(('/', false)));
        assert_eq!(namespace(r#"(("INBOX." ".")) NIL (("shared." "."))"#), Some(('.', true)));
        assert_eq!(namespace(r##"(("inbox/" "/")("#x" "/")) NIL NIL"##), Some(('/', true)));
        assert_eq!(namespace(r#"(("" "\\")) NIL NIL"#), Some(('\\', false)));
        for flat in ["NIL NIL NIL", r#"(("" NIL)) NIL NIL"#, "(({6}", r#"(("a\"b" "/"))"#, "", "((", r#"((""#] {
            assert_eq!(namespace(flat), None, "{flat}");
        }
        assert_eq!(list(r#"(\HasNoChildren) "." INBOX"#), Some('.'));
        assert_eq!(list(r#"() "\\" "a b""#), Some('\\'));
        for flat in ["() NIL INBOX", r"(\HasNoChildren", "", r#"() """ x"#, "() \"\u{7}\" x", r#"() "ab" x"#] {
            assert_eq!(list(flat), None, "{flat}");
        }
    }

    #[test]
    fn a_refused_name_is_suggested_with_the_separator_of_the_server() {
        let slash = Hierarchy { separator: b'/', below_inbox: false };
        let dot = Hierarchy { separator: b'.', below_inbox: true };
        for (hierarchy, name, suggested) in [
            (slash, "Archive.2024.Q1", Some("Archive/2024/Q1")),
            (slash, r"Archive\2024", Some("Archive/2024")),
            (slash, "Archive/2024", None),
            (slash, "archive/v1.2", None),
            (slash, "INBOX", None),
            (slash, "Sent", None),
            (dot, "Archive/2024", Some("INBOX.Archive.2024")),
            (dot, "INBOX/Archive", Some("INBOX.Archive")),
            (dot, "Sent", Some("INBOX.Sent")),
            (dot, "inbox.Sent", None),
            (dot, "inbox", None),
            (dot, "Entwürfe", Some("INBOX.Entwürfe")),
            (dot, "ü", Some("INBOX.ü")),
        ] {
            assert_eq!(hierarchy.suggest(name).as_deref(), suggested, "{name}");
        }
    }

    #[test]
    fn modified_utf_7_written_by_hand_is_suggested_as_utf_8() {
        let slash = Hierarchy { separator: b'/', below_inbox: false };
        let meant = |name: &str, hierarchy| suggest(name, hierarchy);
        assert_eq!(meant("Entw&APw-rfe", None), Some(("Entwürfe".to_owned(), None)));
        assert_eq!(meant("Entw&APw-rfe", Some(slash)), Some(("Entwürfe".to_owned(), None)));
        assert_eq!(meant("Entw&APw-rfe.Q1", Some(slash)), Some(("Entwürfe/Q1".to_owned(), Some('/'))));
        for plain in ["R&D", "a&-b", "Tom & Jerry", "&", "&-", "&AAA", "INBOX"] {
            assert_eq!(meant(plain, Some(slash)), None, "{plain}");
        }
    }
}
