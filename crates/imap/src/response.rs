//! Parses one framed response as far as `session` needs it (RFC 9051 §7). Any other is `Other`: it may come at any time (§2.2.2).

use super::{
    Code, Condition, Frame,
    word::{has_loose_spaces, without_spaces, word},
};

/// One response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response<'a> {
    /// The text of `+ …`.
    Continuation(&'a [u8]),
    /// `* OK …` and its kin.
    Status(StatusLine<'a>),
    /// `* CAPABILITY …`, the words.
    Capability(&'a [u8]),
    /// The arguments of `* NAMESPACE …`.
    Namespace(&'a [u8]),
    /// The arguments of `* LIST …`.
    List(&'a [u8]),
    /// `* n EXISTS`
    Exists(u32),
    /// `* n EXPUNGE`
    Expunge,
    /// `* VANISHED …`, of messages that are gone since the mailbox was opened (RFC 7162 §3.2.10).
    Vanished,
    /// `* n FETCH …`
    Fetch {
        /// The message's number.
        number: u32,
        /// It holds nothing but what a server may send of a message unasked when its flags change (RFC 9051 §7.5.2).
        only_flags: bool,
    },
    /// `* ID …`: name and version, if the server gives them.
    Id(Option<Vec<u8>>, Option<Vec<u8>>),
    /// `* SEARCH …` or `* ESEARCH … COUNT n`: how many messages were found.
    Found(u64),
    /// Any other untagged response.
    Other,
    /// An untagged response that breaks the grammar; it is read past and counted.
    Broken,
    /// `tag …`. Without a status when what follows the tag is none.
    Tagged(&'a [u8], Option<StatusLine<'a>>),
}

/// A status response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusLine<'a> {
    /// Its first word.
    pub condition: Condition,
    /// The code in brackets.
    pub code: Option<Code<'a>>,
    /// The words for people. Untrusted, any bytes.
    pub text: &'a [u8],
}

impl<'a> Response<'a> {
    /// Reads a frame. Also returns whether its spaces deviate from the grammar, which is tolerated.
    pub fn parse(frame: &Frame<'a>) -> (Self, bool) {
        let text = frame.text;
        if let Some(rest) = text.strip_prefix(b"+") {
            let words = without_spaces(rest);
            return (Self::Continuation(words), rest.len() - words.len() > 1);
        }
        let (first, rest, mut loose) = word(text);
        let response = if first == b"*" {
            Self::untagged(rest, frame, &mut loose)
        } else if first.first() == Some(&b'*') {
            // No tag begins so (RFC 9051 §9, `tag`).
            Self::Broken
        } else {
            Self::Tagged(first, StatusLine::parse(rest, &mut loose))
        };
        (response, loose)
    }

    fn untagged(rest: &'a [u8], frame: &Frame<'a>, loose: &mut bool) -> Self {
        if let Some(status) = StatusLine::parse(rest, loose) {
            return Self::Status(status);
        }
        let (first, after, gap) = word(rest);
        *loose |= gap;
        if !first.is_empty() && first.iter().all(u8::is_ascii_digit) {
            return Self::of_message(first, after, frame, loose);
        }
        let name = first.to_ascii_uppercase();
        if matches!(name.as_slice(), b"CAPABILITY" | b"SEARCH" | b"ESEARCH") {
            *loose |= has_loose_spaces(after);
        }
        match name.as_slice() {
            b"CAPABILITY" => Self::Capability(after),
            b"SEARCH" => search(after).map_or(Self::Other, Self::Found),
            b"ESEARCH" => esearch(after).map_or(Self::Other, Self::Found),
            b"LIST" => Self::List(after),
            b"NAMESPACE" => Self::Namespace(after),
            b"ID" => {
                let (name, version) = id(frame);
                Self::Id(name, version)
            }
            b"VANISHED" if word(after).0.eq_ignore_ascii_case(b"(EARLIER)") => Self::Other,
            b"VANISHED" => Self::Vanished,
            _ => {
                let is_word = !name.is_empty()
                    && name.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
                // `* x EXISTS`, where `x` is not a number.
                let (second, ..) = word(after);
                let counts = [b"EXISTS".as_slice(), b"EXPUNGE"].iter().any(|name| second.eq_ignore_ascii_case(name));
                if is_word && !counts { Self::Other } else { Self::Broken }
            }
        }
    }

    /// `* n …`: `message-data`, EXISTS and RECENT (RFC 9051 §9).
    fn of_message(digits: &[u8], after: &[u8], frame: &Frame<'_>, loose: &mut bool) -> Self {
        let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<u32>().ok());
        let Some(number) = number else { return Self::Broken };
        let (kind, _, gap) = word(after);
        *loose |= gap;
        let is = |name: &[u8]| kind.eq_ignore_ascii_case(name);
        if is(b"EXISTS") {
            *loose |= kind.len() < after.len();
            return Self::Exists(number);
        }
        // There is no message 0.
        if is(b"EXPUNGE") {
            *loose |= kind.len() < after.len();
            return if number == 0 { Self::Broken } else { Self::Expunge };
        }
        let Some(items) = frame.row.and_then(|head| frame.text.get(head..)) else { return Self::Other };
        let list = without_spaces(items);
        *loose |= items.len() - list.len() != 1;
        match list.strip_prefix(b"(") {
            _ if number == 0 => Self::Broken,
            // A literal is no flag; the items before it are not kept.
            _ if frame.literals > 0 => Self::Fetch { number, only_flags: false },
            Some(items) => Self::Fetch { number, only_flags: has_only_flags(items) },
            None => Self::Broken,
        }
    }
}

impl<'a> StatusLine<'a> {
    /// Reads the rest of a line behind the tag or the `*`.
    fn parse(rest: &'a [u8], loose: &mut bool) -> Option<Self> {
        let (first, rest, gap) = word(rest);
        let condition = Condition::parse(first)?;
        let (code, text, code_loose) = Code::split(rest);
        // In front of words for people more spaces are just some of them.
        *loose |= code_loose || (gap && code.is_some());
        Some(Self { condition, code, text })
    }
}

/// How many numbers a SEARCH answer lists (RFC 3501 §7.2.5); `(MODSEQ …)` may follow them (RFC 7162 §3.1.5).
fn search(text: &[u8]) -> Option<u64> {
    let words = text.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    let numbers = words.take_while(|word| word.first() != Some(&b'('));
    numbers.map(|word| word.iter().all(u8::is_ascii_digit).then_some(1)).sum()
}

/// The COUNT of an ESEARCH answer (RFC 9051 §7.3.4), which is alone there but for `(TAG "…")` and UID.
fn esearch(text: &[u8]) -> Option<u64> {
    let mut words = text.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    words.find(|word| word.eq_ignore_ascii_case(b"COUNT"))?;
    std::str::from_utf8(words.next()?).ok()?.parse().ok()
}

/// Whether a row's list has no item but flags and their MODSEQ (RFC 7162 §3.1.4.2), as a server sends it unasked.
fn has_only_flags(items: &[u8]) -> bool {
    let mut rest = items;
    loop {
        rest = without_spaces(rest);
        let end = rest.iter().position(|byte| matches!(byte, b' ' | b'(' | b')' | b'[')).unwrap_or(rest.len());
        let (name, behind) = rest.split_at(end);
        match name {
            b"" => return matches!(rest.first(), None | Some(b')')),
            name if name.eq_ignore_ascii_case(b"FLAGS") || name.eq_ignore_ascii_case(b"MODSEQ") => {}
            _ => return false,
        }
        let value = without_spaces(behind);
        let close = memchr::memchr(b')', value).filter(|_| value.first() == Some(&b'('));
        let Some(close) = close else { return true };
        rest = value.get(close + 1..).unwrap_or_default();
    }
}

/// Name and version of an ID answer (RFC 2971 §3.2): pairs of strings, or NIL.
fn id(frame: &Frame<'_>) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    let (mut name, mut version) = (None, None);
    let mut strings = Strings { frame, at: 0 };
    // The same bound as RFC 2971 §3.3 puts on the list.
    for _ in 0..30 {
        let (Some(key), Some(value)) = (strings.next(), strings.next()) else { break };
        match key {
            Some(key) if key.eq_ignore_ascii_case(b"name") => name = value,
            Some(key) if key.eq_ignore_ascii_case(b"version") => version = value,
            _ => {}
        }
    }
    (name, version)
}

/// The strings of a response in order; an inner `None` is NIL.
struct Strings<'a, 'f> {
    frame: &'a Frame<'f>,
    at: usize,
}

impl Iterator for Strings<'_, '_> {
    type Item = Option<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        let text = self.frame.text;
        loop {
            let rest = text.get(self.at..)?;
            match rest.first()? {
                b'"' => return Some(Some(self.quoted(rest))),
                b'{' => {
                    let brace = self.at + memchr::memchr(b'}', rest)? + 1;
                    let (at, len) = self.frame.kept.iter().copied().find(|(at, _)| *at == brace)?;
                    self.at = at + len;
                    return Some(text.get(at..at + len).map(<[u8]>::to_vec));
                }
                b'N' | b'n' if rest.get(..3).is_some_and(|nil| nil.eq_ignore_ascii_case(b"NIL")) => {
                    self.at += 3;
                    return Some(None);
                }
                _ => self.at += 1,
            }
        }
    }
}

impl Strings<'_, '_> {
    fn quoted(&mut self, rest: &[u8]) -> Vec<u8> {
        let mut value = Vec::new();
        let mut bytes = rest.iter().enumerate().skip(1);
        while let Some((_, byte)) = bytes.next() {
            match byte {
                b'"' => break,
                b'\\' => value.extend(bytes.next().map(|(_, byte)| *byte)),
                byte => value.push(*byte),
            }
        }
        self.at += bytes.next().map_or(rest.len(), |(at, _)| at);
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ResponseCode;

    fn parse(text: &str) -> Response<'_> {
        read(text).0
    }

    /// Read as the framer gives it, and whether its spaces deviate.
    fn read(text: &str) -> (Response<'_>, bool) {
        let row = text.to_ascii_uppercase().find(" FETCH").map(|at| at + 6);
        let frame = Frame {
            text: text.as_bytes(),
            kept: &[],
            literals: 0,
            literal_bytes: 0,
            deviates: false,
            row,
            closed: true,
            whole_lines: true,
        };
        Response::parse(&frame)
    }

    #[test]
    fn the_responses_that_the_journey_needs() {
        assert_eq!(parse("* 23 EXISTS"), Response::Exists(23));
        assert_eq!(parse("* 0 exists"), Response::Exists(0));
        assert_eq!(parse("* 12 fetch (UID 5)"), Response::Fetch { number: 12, only_flags: false });
        assert_eq!(parse("* CAPABILITY IMAP4rev1 ID"), Response::Capability(b"IMAP4rev1 ID"));
        assert_eq!(parse("+ idling"), Response::Continuation(b"idling"));
        assert_eq!(parse("+"), Response::Continuation(b""));
        assert_eq!(parse("+ "), Response::Continuation(b""));
        assert_eq!(parse("+PDI="), Response::Continuation(b"PDI="));
        assert_eq!(parse("* search"), Response::Found(0));
        assert_eq!(parse("* SEARCH 2 84 882 "), Response::Found(3));
        assert_eq!(parse("* SEARCH 2 5 (MODSEQ 917162500)"), Response::Found(2));
        assert_eq!(parse("* SEARCH 2 x"), Response::Other);
        assert_eq!(parse("* ESEARCH (TAG \"a1\") COUNT 17"), Response::Found(17));
        assert_eq!(parse("* esearch (TAG \"a1\") UID count 0"), Response::Found(0));
        assert_eq!(parse("* ESEARCH (TAG \"a1\") ALL 1:4"), Response::Other);
        assert_eq!(parse("* LIST () \"/\" INBOX"), Response::List(b"() \"/\" INBOX"));
        assert_eq!(parse("* namespace NIL NIL NIL"), Response::Namespace(b"NIL NIL NIL"));
        assert_eq!(parse("* LSUB () \"/\" INBOX"), Response::Other);
        assert_eq!(parse("* 0 RECENT"), Response::Other);
        assert_eq!(parse("* 3 EXPUNGE"), Response::Expunge);
        assert_eq!(parse("* 0 EXPUNGE"), Response::Broken);
        assert_eq!(parse("* vanished 41,43:116"), Response::Vanished);
        assert_eq!(parse("* VANISHED (EARLIER) 41"), Response::Other);
        assert_eq!(parse("* 0 FETCH (UID 1)"), Response::Broken);
        assert_eq!(parse("* 4294967296 EXISTS"), Response::Broken);
        assert_eq!(parse("* (what"), Response::Broken);
        assert_eq!(parse("*"), Response::Broken);
    }

    #[test]
    fn status_responses_tagged_and_untagged() {
        let Response::Tagged(tag, Some(status)) = parse("a1 no [AUTHENTICATIONFAILED] Wrong") else { panic!("tagged") };
        assert_eq!((tag, status.condition, status.text), (b"a1".as_slice(), Condition::No, b"Wrong".as_slice()));
        assert_eq!(status.code.map(|code| code.name), Some(ResponseCode::AuthenticationFailed));
        assert_eq!(parse("HTTP/1.1 400 Bad Request"), Response::Tagged(b"HTTP/1.1", None));
        assert!(matches!(parse("* BYE bye"), Response::Status(StatusLine { condition: Condition::Bye, .. })));
    }

    #[test]
    fn id_in_quotes_in_literals_and_as_nil() {
        assert_eq!(
            parse("* ID (\"name\" \"Do\\\"vecot\" \"x\" NIL \"version\" \"2.3\")"),
            Response::Id(Some(b"Do\"vecot".to_vec()), Some(b"2.3".to_vec()))
        );
        // Other keys may stand anywhere in the list.
        assert_eq!(
            parse("* ID (\"version\" \"2.3\" \"name\" \"Dovecot\" \"os\" \"Linux\")"),
            Response::Id(Some(b"Dovecot".to_vec()), Some(b"2.3".to_vec()))
        );
        assert_eq!(parse("* ID NIL"), Response::Id(None, None));
        let literal = Frame {
            text: b"* ID (\"name\" {3}a\"b \"version\" NIL)",
            kept: &[(16, 3)],
            literals: 1,
            literal_bytes: 3,
            deviates: false,
            row: None,
            closed: true,
            whole_lines: true,
        };
        assert_eq!(Response::parse(&literal).0, Response::Id(Some(b"a\"b".to_vec()), None));
        assert_eq!(parse("* ID (\"name"), Response::Id(None, None));
    }

    #[test]
    fn a_run_of_spaces_is_read_as_one_and_counted_wherever_the_grammar_has_one() {
        for (loose, strict) in [
            ("*  25 EXISTS", "* 25 EXISTS"),
            ("* 25   EXISTS", "* 25 EXISTS"),
            ("* 25 EXISTS ", "* 25 EXISTS"),
            ("* 25 EXISTS * 0 RECENT", "* 25 EXISTS"),
            ("*  3  EXPUNGE  ", "* 3 EXPUNGE"),
            ("*  3 EXPUNGE", "* 3 EXPUNGE"),
            ("* 3 EXPUNGE ", "* 3 EXPUNGE"),
            ("*  CAPABILITY IMAP4rev1", "* CAPABILITY IMAP4rev1"),
            ("*   6  FETCH   (UID 6)", "* 6 FETCH (UID 6)"),
            ("* 6 FETCH(UID 6)", "* 6 FETCH (UID 6)"),
            ("*  SEARCH  2   84 ", "* SEARCH 2 84"),
            ("* ESEARCH  (TAG \"a\")  COUNT   2", "* ESEARCH (TAG \"a\") COUNT 2"),
            ("*  ID  (\"name\"  \"x\")", "* ID (\"name\" \"x\")"),
            ("*  BYE going", "* BYE going"),
            ("* OK  [ALERT] disk", "* OK [ALERT] disk"),
            ("a1   NO  [ LIMIT  5 ]  many", "a1 NO [LIMIT 5] many"),
            ("+   PDI=", "+ PDI="),
        ] {
            assert_eq!(read(loose), (read(strict).0, true), "{loose}");
            assert!(!read(strict).1, "{strict}");
        }
        for capabilities in ["* CAPABILITY IMAP4rev1  ID", "* CAPABILITY IMAP4rev1 ID "] {
            assert!(read(capabilities).1, "{capabilities}");
        }
        // Spaces are legal in front of words for people.
        assert_eq!(read("a1 OK   done"), (read("a1 OK done").0, false));
    }

    #[test]
    fn a_number_of_messages_is_read_from_nothing_but_a_number() {
        for (text, number) in
            [("* 000025 EXISTS", 25), ("* 4294967295 eXiStS", u32::MAX), ("* 000000000000025 EXISTS", 25)]
        {
            assert_eq!(read(text), (Response::Exists(number), false), "{text}");
        }
        for text in [
            "* -25 EXISTS",
            "* +25 EXISTS",
            "* 0x19 EXISTS",
            "* 2 5 EXISTS",
            "* 25.0 EXISTS",
            "* 4294967296 EXISTS",
            "* twenty EXISTS",
            "* EXISTS 25",
            "* 25EXISTS",
            "*25 EXISTS",
            "*\t25 EXISTS",
            "*  ",
        ] {
            assert!(!matches!(parse(text), Response::Exists(_)), "{text}");
        }
        for text in ["* -25 EXISTS", "* twenty EXISTS", "*25 EXISTS", "*\t25 EXISTS", "* 4294967296 EXISTS"] {
            assert_eq!(parse(text), Response::Broken, "{text}");
        }
    }

    #[test]
    fn a_row_of_flags_alone_is_distinguished_from_one_with_data() {
        for (items, only_flags) in [
            ("(FLAGS (\\Seen))", true),
            ("(flags () MODSEQ (12121231000))", true),
            ("(MODSEQ (5) FLAGS ())", true),
            ("()", true),
            ("(FLAGS (", true),
            ("(FLAGS", true),
            ("((UID 6))", false),
            ("(UID 6 FLAGS ())", false),
            ("(FLAGS (\\Seen $a) UID 6)", false),
            ("(FLAGS (a) BODY[] \"x\")", false),
            ("(INTERNALDATE \"x\")", false),
        ] {
            assert_eq!(parse(&format!("* 6 FETCH {items}")), Response::Fetch { number: 6, only_flags }, "{items}");
        }
        for none in ["* 6 FETCH", "* 6 FETCH UID 6"] {
            assert_eq!(parse(none), Response::Broken, "{none}");
        }
    }
}
