//! Response codes: the `[…]` in a status response (RFC 9051 §7.1, RFC 5530).

use super::{
    ResponseCode,
    word::{has_loose_spaces, without_spaces, word},
};

/// A response code: its name, and its argument as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code<'a> {
    /// Its name.
    pub name: ResponseCode,
    /// The rest, up to the closing bracket.
    pub argument: &'a [u8],
}

impl<'a> Code<'a> {
    /// Takes a code off the front of a status response's text. Returns it, the human text behind it, and whether spaces
    /// stand in the brackets that the grammar does not have. A bracket that is never closed is text.
    pub fn split(text: &'a [u8]) -> (Option<Self>, &'a [u8], bool) {
        let Some(close) = text.strip_prefix(b"[").and_then(|inside| memchr::memchr(b']', inside)) else {
            return (None, text, false);
        };
        let inside = text.get(1..=close).unwrap_or_default();
        let trimmed = without_spaces(inside);
        let trailing = trimmed.iter().rev().take_while(|byte| **byte == b' ').count();
        let trimmed = trimmed.get(..trimmed.len() - trailing).unwrap_or_default();
        let (name, argument, gap) = word(trimmed);
        let code = Self { name: ResponseCode::parse(name).unwrap_or(ResponseCode::Other), argument };
        let rest = text.get(close + 2..).unwrap_or_default();
        let loose_list = code.name == ResponseCode::Capability && has_loose_spaces(argument);
        (Some(code), without_spaces(rest), gap || loose_list || trimmed.len() < inside.len())
    }
}

/// The host that an IMAP URL names (RFC 5092), without user, port and path. It is recorded, never followed.
pub fn referral_host(url: &[u8]) -> &[u8] {
    let rest = match url.get(..7) {
        Some(scheme) if scheme.eq_ignore_ascii_case(b"imap://") => url.get(7..).unwrap_or_default(),
        _ => url,
    };
    let authority = rest.split(|byte| *byte == b'/').next().unwrap_or_default();
    let host = memchr::memrchr(b'@', authority).and_then(|at| authority.get(at + 1..)).unwrap_or(authority);
    if host.first() == Some(&b'[') {
        return memchr::memchr(b']', host).and_then(|close| host.get(..=close)).unwrap_or(host);
    }
    host.split(|byte| *byte == b':').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> (Option<(&'static str, &str)>, &str) {
        let (code, rest, _) = Code::split(text.as_bytes());
        (
            code.map(|code| (code.name.as_str(), std::str::from_utf8(code.argument).unwrap())),
            std::str::from_utf8(rest).unwrap(),
        )
    }

    #[test]
    fn codes_with_and_without_arguments() {
        assert_eq!(split("[UIDNEXT 4392] Predicted"), (Some(("UIDNEXT", "4392")), "Predicted"));
        assert_eq!(split("[authenticationfailed] no"), (Some(("AUTHENTICATIONFAILED", "")), "no"));
        assert_eq!(split("[X-MADE-UP a b] hi"), (Some(("_OTHER", "a b")), "hi"));
        assert_eq!(split("[ LIMIT   5  ]  x"), (Some(("LIMIT", "5")), "x"));
        assert_eq!(split("[  ]"), (Some(("_OTHER", "")), ""));
        assert_eq!(split("[never closed"), (None, "[never closed"));
        assert_eq!(split("plain"), (None, "plain"));
        assert_eq!(split("[ALERT]"), (Some(("ALERT", "")), ""));
    }

    #[test]
    fn spaces_that_the_grammar_does_not_have_are_reported() {
        for (text, loose) in [
            ("[ALERT] x", false),
            ("[UIDNEXT 5] x", false),
            ("[UIDNEXT  5] x", true),
            ("[ UIDNEXT 5] x", true),
            ("[UIDNEXT 5 ] x", true),
            ("[CAPABILITY IMAP4rev1 ID] x", false),
            ("[CAPABILITY IMAP4rev1  ID] x", true),
            // The argument of another code is text of its own.
            ("[X-OTHER a  b] x", false),
        ] {
            assert_eq!(Code::split(text.as_bytes()).2, loose, "{text}");
        }
    }

    #[test]
    fn a_referral_gives_its_host_alone() {
        for (url, host) in [
            ("imap://user;AUTH=*@SERVER2/", "SERVER2"),
            ("IMAP://a@b@mail.example.org:993/INBOX", "mail.example.org"),
            ("imap://[2001:db8::1]:143/", "[2001:db8::1]"),
            ("nonsense", "nonsense"),
        ] {
            assert_eq!(referral_host(url.as_bytes()), host.as_bytes());
        }
    }
}
