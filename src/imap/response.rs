//! Reads one framed response as far as the journey needs it (RFC 9051 §7). What it does not know is `Other`, which is
//! no error: a server may send any data at any time (RFC 9051 §2.2.2).

use super::{Code, Frame};

/// One response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response<'a> {
    /// `+ …`, what stands behind it.
    Continuation(&'a [u8]),
    /// `* OK …` and its kin.
    Status(Status<'a>),
    /// `* CAPABILITY …`, the words.
    Capability(&'a [u8]),
    /// `* NAMESPACE …`, what stands behind it.
    Namespace(&'a [u8]),
    /// `* LIST …`, what stands behind it.
    List(&'a [u8]),
    /// `* n EXISTS`
    Exists(u32),
    /// `* n FETCH …`, the message's number.
    Fetch(u32),
    /// `* ID …`: name and version, as far as the server tells.
    Id(Option<Vec<u8>>, Option<Vec<u8>>),
    /// `* SEARCH …` or `* ESEARCH … COUNT n`: how many messages were found.
    Found(u64),
    /// Any other untagged response.
    Other,
    /// An untagged response that breaks the grammar; it is read past and counted.
    Broken,
    /// `tag …`. Without a status when what follows the tag is none.
    Tagged(&'a [u8], Option<Status<'a>>),
}

/// What a status response says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status<'a> {
    /// Its first word.
    pub condition: Condition,
    /// The code in brackets.
    pub code: Option<Code<'a>>,
    /// The words for people. Untrusted, any bytes.
    pub text: &'a [u8],
}

/// First word of a status response (RFC 9051 §7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Done, or just information.
    Ok,
    /// Not done.
    No,
    /// Not understood.
    Bad,
    /// The server closes the connection.
    Bye,
    /// Greeting: already logged in.
    Preauth,
}

impl Condition {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::No => "NO",
            Self::Bad => "BAD",
            Self::Bye => "BYE",
            Self::Preauth => "PREAUTH",
        }
    }

    fn parse(word: &[u8]) -> Option<Self> {
        [Self::Ok, Self::No, Self::Bad, Self::Bye, Self::Preauth]
            .into_iter()
            .find(|condition| word.eq_ignore_ascii_case(condition.as_str().as_bytes()))
    }
}

impl<'a> Response<'a> {
    /// Reads a frame.
    pub fn parse(frame: &Frame<'a>) -> Self {
        let text = frame.text;
        if let Some(rest) = text.strip_prefix(b"+") {
            return Self::Continuation(rest.strip_prefix(b" ").unwrap_or(rest));
        }
        let (first, rest) = word(text);
        if first == b"*" {
            return Self::untagged(rest, frame);
        }
        let (second, rest) = word(rest);
        Self::Tagged(first, Status::parse(second, rest))
    }

    fn untagged(rest: &'a [u8], frame: &Frame<'a>) -> Self {
        let (first, after) = word(rest);
        if let Some(status) = Status::parse(first, after) {
            return Self::Status(status);
        }
        if first.eq_ignore_ascii_case(b"CAPABILITY") {
            return Self::Capability(after);
        }
        if first.eq_ignore_ascii_case(b"SEARCH") {
            return search(after).map_or(Self::Other, Self::Found);
        }
        if first.eq_ignore_ascii_case(b"ESEARCH") {
            return esearch(after).map_or(Self::Other, Self::Found);
        }
        if first.eq_ignore_ascii_case(b"LIST") {
            return Self::List(after);
        }
        if first.eq_ignore_ascii_case(b"NAMESPACE") {
            return Self::Namespace(after);
        }
        if first.eq_ignore_ascii_case(b"ID") {
            let (name, version) = id(frame);
            return Self::Id(name, version);
        }
        if !first.is_empty() && first.iter().all(u8::is_ascii_digit) {
            let number = std::str::from_utf8(first).ok().and_then(|digits| digits.parse::<u32>().ok());
            let (kind, _) = word(after);
            return match number {
                None => Self::Broken,
                Some(number) if kind.eq_ignore_ascii_case(b"EXISTS") => Self::Exists(number),
                // There is no message 0.
                Some(0) if kind.eq_ignore_ascii_case(b"FETCH") || kind.eq_ignore_ascii_case(b"EXPUNGE") => Self::Broken,
                Some(number) if kind.eq_ignore_ascii_case(b"FETCH") => Self::Fetch(number),
                Some(_) => Self::Other,
            };
        }
        let is_word = !first.is_empty()
            && first.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
        if is_word { Self::Other } else { Self::Broken }
    }
}

impl<'a> Status<'a> {
    fn parse(first: &[u8], rest: &'a [u8]) -> Option<Self> {
        let condition = Condition::parse(first)?;
        let (code, text) = Code::split(rest);
        Some(Self { condition, code, text })
    }
}

/// The first word, and what stands behind the one space after it.
fn word(text: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memchr(b' ', text) {
        Some(space) => (text.get(..space).unwrap_or_default(), text.get(space + 1..).unwrap_or_default()),
        None => (text, &[]),
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
    let mut words = text.split(|byte| *byte == b' ');
    words.find(|word| word.eq_ignore_ascii_case(b"COUNT"))?;
    std::str::from_utf8(words.next()?).ok()?.parse().ok()
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

    fn frame(text: &str) -> Frame<'_> {
        Frame { text: text.as_bytes(), kept: &[], literals: 0, literal_bytes: 0, lenient: false }
    }

    fn parse(text: &str) -> Response<'_> {
        Response::parse(&frame(text))
    }

    #[test]
    fn the_responses_that_the_journey_needs() {
        assert_eq!(parse("* 23 EXISTS"), Response::Exists(23));
        assert_eq!(parse("* 0 exists"), Response::Exists(0));
        assert_eq!(parse("* 12 fetch (FLAGS ())"), Response::Fetch(12));
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
        assert_eq!(parse("* 0 FETCH (UID 1)"), Response::Broken);
        assert_eq!(parse("* 4294967296 EXISTS"), Response::Broken);
        assert_eq!(parse("* (what"), Response::Broken);
        assert_eq!(parse("*"), Response::Broken);
    }

    #[test]
    fn status_responses_tagged_and_untagged() {
        let Response::Tagged(tag, Some(status)) = parse("a1 no [AUTHENTICATIONFAILED] Wrong") else { panic!("tagged") };
        assert_eq!((tag, status.condition, status.text), (b"a1".as_slice(), Condition::No, b"Wrong".as_slice()));
        assert_eq!(status.code.map(|code| code.name), Some("AUTHENTICATIONFAILED"));
        assert_eq!(parse("HTTP/1.1 400 Bad Request"), Response::Tagged(b"HTTP/1.1", None));
        assert!(matches!(parse("* BYE bye"), Response::Status(Status { condition: Condition::Bye, .. })));
    }

    #[test]
    fn id_in_quotes_in_literals_and_as_nil() {
        assert_eq!(
            parse("* ID (\"name\" \"Do\\\"vecot\" \"x\" NIL \"version\" \"2.3\")"),
            Response::Id(Some(b"Do\"vecot".to_vec()), Some(b"2.3".to_vec()))
        );
        assert_eq!(parse("* ID NIL"), Response::Id(None, None));
        let literal = Frame {
            text: b"* ID (\"name\" {3}a\"b \"version\" NIL)",
            kept: &[(16, 3)],
            literals: 1,
            literal_bytes: 3,
            lenient: false,
        };
        assert_eq!(Response::parse(&literal), Response::Id(Some(b"a\"b".to_vec()), None));
        assert_eq!(parse("* ID (\"name"), Response::Id(None, None));
    }
}
