//! One response: whatever it is, what is read out of it lies in it and is bounded.

use super::{choice, lies_in, limits};
use crate::{Capabilities, Frame, Framer, Hierarchy, Response, StatusLine, encode_utf7, referral_host, reported};

/// A byte that chooses limits, then responses.
pub fn response(input: &[u8]) {
    let (choice, bytes) = choice(input);
    let mut framer = Framer::new(limits(choice));
    let mut rest = bytes;
    while !rest.is_empty() {
        let Ok((taken, whole)) = framer.push(rest) else { break };
        rest = rest.get(taken..).unwrap_or_default();
        if whole {
            let frame = framer.frame();
            let (read, loose) = Response::parse(&frame);
            assert_eq!((read.clone(), loose), Response::parse(&frame), "read twice");
            strict(&read, loose, &frame);
            check(&read, frame.text);
        }
    }
    names(bytes);
}

fn check_hierarchy(hierarchy: Option<Hierarchy>) {
    if let Some(hierarchy) = hierarchy {
        assert!(hierarchy.separator().is_ascii_graphic());
        let suggested = hierarchy.suggest("A/b.c\\d").unwrap_or_default();
        assert!(suggested.len() <= "INBOX//A/b.c\\d".len() && suggested.is_ascii());
    }
}

fn check(read: &Response<'_>, text: &[u8]) {
    match read {
        Response::Status(status) => check_status(status, text),
        Response::Tagged(tag, status) => {
            assert!(lies_in(tag, text) && text.starts_with(tag) && !tag.contains(&b' ') && *tag != b"*");
            assert!(tag.first() != Some(&b'+'), "a continuation is no tag");
            if let Some(status) = status {
                check_status(status, text);
            }
        }
        Response::Capability(list) => {
            assert!(lies_in(list, text));
            check_capabilities(list);
        }
        Response::Namespace(arguments) => {
            assert!(lies_in(arguments, text));
            check_hierarchy(Hierarchy::of_namespace(arguments));
        }
        Response::List(arguments) => {
            assert!(lies_in(arguments, text));
            check_hierarchy(Hierarchy::of_list(arguments));
        }
        Response::Fetch { number, .. } => assert!(*number > 0, "messages are counted from 1"),
        Response::Id(name, version) => {
            for value in [name, version].into_iter().flatten() {
                assert!(value.len() <= text.len());
            }
        }
        // A list holds no more numbers than bytes; a COUNT is what the server says.
        Response::Found(number) if !text.to_ascii_uppercase().windows(7).any(|name| name == b"ESEARCH") => {
            assert!(*number <= text.len() as u64);
        }
        Response::Continuation(rest) => {
            assert!(text.first() == Some(&b'+') && text.ends_with(rest) && lies_in(rest, text));
        }
        Response::Exists(_)
        | Response::Expunge
        | Response::Vanished
        | Response::Found(_)
        | Response::Other
        | Response::Broken => {}
    }
}

/// A response without a run of spaces deviates in none but for one at its end, or a row's list right at its name.
fn strict(read: &Response<'_>, loose: bool, frame: &Frame<'_>) {
    let text = frame.text;
    let has_run = text.windows(2).any(|pair| pair == b"  ");
    let at_brackets = text.windows(2).any(|pair| matches!(pair, b"[ " | b" ]"));
    let list_at_name = frame.row.is_some_and(|head| text.get(head) != Some(&b' '));
    let known = has_run
        || at_brackets
        || list_at_name
        || text.ends_with(b" ")
        || matches!(read, Response::Exists(_) | Response::Expunge);
    assert!(!loose || known, "nothing deviates in {read:?}");
}

fn check_status(status: &StatusLine<'_>, text: &[u8]) {
    assert!(lies_in(status.text, text));
    assert!(text.ends_with(status.text), "the words for people are the rest");
    if let Some(details) = reported(status.text) {
        assert!(!details.resolution.is_zero());
    }
    let Some(code) = &status.code else { return };
    assert!(lies_in(code.argument, text) && !code.argument.contains(&b']'));
    assert!(lies_in(referral_host(code.argument), text));
    check_capabilities(code.argument);
}

fn check_capabilities(list: &[u8]) {
    let (known, again) = (Capabilities::parse(list), Capabilities::parse(&list.to_ascii_lowercase()));
    assert_eq!(known, again, "case means nothing");
    let hash = known.hash();
    assert!(hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()));
}

/// A mailbox's name on its way to an old server is printable ASCII.
fn names(raw: &[u8]) {
    let name = String::from_utf8_lossy(raw);
    let wire = encode_utf7(&name);
    assert!(wire.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{wire:?}");
    assert_eq!(wire == name, name.chars().all(|letter| matches!(letter, ' '..='~') && letter != '&'));
}
