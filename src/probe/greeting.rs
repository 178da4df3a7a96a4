//! Greetings that turn a connection away in a form that the protocol does not have: NO, BAD, or BYE without its star.
//!
//! `journey` asks it about a first line that is no greeting. The class stays what it is; the words are the server's.

use imaptrace_imap::{Code, Condition, StatusResponse};

/// What a line says that is no greeting and refuses the connection. It may be cut short.
pub(super) fn refusal(line: &[u8]) -> Option<StatusResponse> {
    let line = line.trim_ascii();
    let (star, line) = match line.strip_prefix(b"*") {
        Some(rest) => (true, rest.trim_ascii_start()),
        None => (false, line),
    };
    let end = memchr::memchr(b' ', line).unwrap_or(line.len());
    let (word, text) = line.split_at(end);
    let condition = [Condition::No, Condition::Bad, Condition::Bye].into_iter().find(|condition| {
        let known = condition.as_str().as_bytes();
        // Other services have sentences that begin with "No".
        word == known || (star && word.eq_ignore_ascii_case(known))
    })?;
    let (code, text, _) = Code::split(text.trim_ascii_start());
    Some(StatusResponse { condition, code: code.map(|code| code.name), text: text.to_vec() })
}

#[cfg(test)]
mod tests {
    use imaptrace_imap::ResponseCode;

    use super::*;

    #[test]
    fn a_line_that_refuses_is_told_from_those_of_other_services() {
        let of = |line: &str| {
            refusal(line.as_bytes()).map(|response| {
                (
                    response.condition.as_str(),
                    response.code.map_or("-", ResponseCode::as_str),
                    String::from_utf8(response.text).unwrap(),
                )
            })
        };
        for (line, condition, code, text) in [
            ("* NO not today", "NO", "-", "not today"),
            ("* no [ALERT] not today", "NO", "ALERT", "not today"),
            (" NO LOGOUT Intrusion prevention active", "NO", "-", "LOGOUT Intrusion prevention active"),
            ("NO LOGOUT Intrusion", "NO", "-", "LOGOUT Intrusion"),
            ("*  BAD  [UNAVAILABLE] x\r\n", "BAD", "UNAVAILABLE", "x"),
            ("BYE [LIMIT] too many", "BYE", "LIMIT", "too many"),
            ("* BYE too ma", "BYE", "-", "too ma"),
            ("* NO", "NO", "-", ""),
        ] {
            assert_eq!(of(line), Some((condition, code, text.to_owned())), "{line}");
        }
        for line in
            ["", "*", "* OK hi", "No such service", "NOT here", "220 ready", "+OK ready", "-ERR no", "* LIST () NIL x"]
        {
            assert_eq!(of(line), None, "{line}");
        }
    }
}
