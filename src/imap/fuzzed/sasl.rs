//! Logging in: whatever the server offers and says, a password goes out whole, once, and only when its turn has come.
//!
//! What is sent is read back by a reader of its own, as strict as RFC 9051 §4.3 and RFC 4616.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{choice, limits};
use crate::{
    imap::{Capabilities, Command, Condition, Encoded, Event, Session},
    secret::Secret,
};

/// A byte that chooses, then lines: what the server can do, the user's name, the password; the rest is what it says.
pub fn sasl(input: &[u8]) {
    let (choice, rest) = choice(input);
    let mut lines = rest.splitn(4, |byte| *byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let (list, user, password, said) = (line(), line(), line(), line());
    let known = Capabilities::parse(list);
    // What no configuration lets through cannot be sent.
    let fits = |text: &str| !text.is_empty() && !text.contains(['\r', '\n', '\0']);
    let (Ok(user), Ok(password)) = (std::str::from_utf8(user), std::str::from_utf8(password)) else { return };
    if !fits(user) || !fits(password) {
        return;
    }
    let secret = Secret::new(password.to_owned());
    let login = Command::Login { user, password: &secret };
    let plain = Command::AuthenticatePlain { user, password: &secret };

    let encoded = login.encode("T", &known);
    waits_where_it_must(&encoded, &known);
    let (wire, sent) = ("T LOGIN ", joined(&encoded));
    let read = sent.strip_prefix(wire.as_bytes()).and_then(|rest| {
        let (user, rest) = astring(rest)?;
        let (password, rest) = astring(rest.strip_prefix(b" ")?)?;
        (rest == b"\r\n").then_some((user, password))
    });
    assert!(read == Some((user.as_bytes().to_vec(), password.as_bytes().to_vec())), "LOGIN is read otherwise");

    let encoded = plain.encode("T", &known);
    assert_eq!(encoded.parts.len(), if known.sasl_ir { 1 } else { 2 });
    let head: &[u8] = if known.sasl_ir { b"T AUTHENTICATE PLAIN " } else { b"T AUTHENTICATE PLAIN\r\n" };
    let sent = joined(&encoded);
    let message = sent.strip_prefix(head).and_then(|rest| STANDARD.decode(rest.strip_suffix(b"\r\n")?).ok());
    assert!(message == Some(["", user, password].join("\0").into_bytes()), "PLAIN is read otherwise");

    for command in [&login, &plain] {
        converse(choice, list, command, said);
    }
}

/// All parts in a row.
fn joined(encoded: &Encoded) -> Vec<u8> {
    encoded.parts.iter().flat_map(|part| part.bytes.iter().copied()).collect()
}

/// A part that is followed by another ends a line, and only the last does not wait.
fn waits_where_it_must(encoded: &Encoded, known: &Capabilities) {
    let [before @ .., last] = &encoded.parts[..] else { panic!("there is nothing to send") };
    assert!(!last.then_wait && last.bytes.ends_with(b"\r\n"));
    for part in before {
        assert!(part.then_wait && part.bytes.ends_with(b"}\r\n") && !part.bytes.ends_with(b"+}\r\n"));
    }
    if known.literal_plus {
        assert!(before.is_empty(), "nobody waits for a server that need not be waited for");
    }
}

/// A quoted string or a literal, and what stands behind it.
fn astring(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (first, rest) = text.split_first()?;
    if *first == b'{' {
        let close = rest.iter().position(|byte| *byte == b'}')?;
        let size = std::str::from_utf8(rest.get(..close)?).ok()?.trim_end_matches('+').parse().ok()?;
        let (value, rest) = rest.get(close + 1..)?.strip_prefix(b"\r\n")?.split_at_checked(size)?;
        return Some((value.to_vec(), rest));
    }
    (*first == b'"').then_some(())?;
    let (mut value, mut bytes) = (Vec::new(), rest.iter().enumerate());
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return Some((value, rest.get(at + 1..)?)),
            b'\\' => value.push(*bytes.next().filter(|(_, byte)| matches!(byte, b'"' | b'\\'))?.1),
            b' '..=b'~' => value.push(*byte),
            _ => return None,
        }
    }
    None
}

/// Logs in at a server that says these bytes: a part goes out for each `+`, and OK counts when all are out.
fn converse(choice: u8, list: &[u8], command: &Command<'_>, said: &[u8]) {
    let mut session = Session::new(limits(choice & !1));
    let list: Vec<u8> = list.iter().copied().filter(|byte| !matches!(byte, b'\r' | b']' | b'{')).collect();
    let greeting = [b"* OK [CAPABILITY ", &list[..], b"] hi\r\n"].concat();
    let Ok((_, Some(Event::Greeting(_)))) = session.receive(&greeting) else { return };
    session.take_progress();
    let parts = session.begin("T", command).parts;
    let (mut sent, mut pluses, mut rest) = (0, 0, said);
    let send = |session: &mut Session, sent: &mut usize| {
        if let Some(part) = parts.get(*sent) {
            *sent += 1;
            session.sent(part.then_wait, *sent == parts.len());
        }
    };
    send(&mut session, &mut sent);
    while !rest.is_empty() {
        let Ok((taken, event)) = session.receive(rest) else { return };
        rest = rest.get(taken..).unwrap_or_default();
        match event {
            Some(Event::Continuation) => {
                pluses += 1;
                assert!(sent < parts.len(), "a `+` that nothing follows");
                send(&mut session, &mut sent);
            }
            Some(Event::Tagged(status)) => {
                assert!(status.condition != Condition::Ok || sent == parts.len(), "logged in before the password");
                return;
            }
            _ => {}
        }
        assert_eq!(sent, 1 + pluses, "each part waits for its own `+`");
    }
}
