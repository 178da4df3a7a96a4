//! What holds for every synthetic message.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::*;

/// 2026-11-23, half past eleven.
const NOW: u64 = 1_795_433_400;

fn mailbox(messages: u32) -> SyntheticMailbox {
    SyntheticMailbox::new(messages, SystemTime::UNIX_EPOCH + Duration::from_secs(NOW))
}

fn text(message: &SyntheticMessage) -> &str {
    std::str::from_utf8(&message.bytes).unwrap()
}

/// Fields of a header, unfolded, names in lower case (RFC 5322 §2.2.3).
fn fields(message: &SyntheticMessage) -> Vec<(String, String)> {
    let (header, _) = text(message).split_once("\r\n\r\n").unwrap();
    let unfolded = header.replace("\r\n\t", " ").replace("\r\n ", " ");
    let field = |line: &str| {
        let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("no field: {line:?}"));
        assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'), "{line:?}");
        (name.to_ascii_lowercase(), value.to_owned())
    };
    unfolded.split("\r\n").map(field).collect()
}

fn value(message: &SyntheticMessage, name: &str) -> Option<String> {
    fields(message).into_iter().find(|(known, _)| known == name).map(|(_, value)| value)
}

fn seconds(date: &str) -> i64 {
    let date = jiff::fmt::rfc2822::parse(date).unwrap_or_else(|error| panic!("{error}: {date}"));
    date.timestamp().as_second()
}

#[test]
fn a_message_follows_from_its_number_the_count_and_the_day() {
    let later = SyntheticMailbox::new(300, SystemTime::UNIX_EPOCH + Duration::from_secs(NOW + 6 * 3600));
    for number in [1, 2, 150, 300] {
        assert_eq!(mailbox(300).message(number), later.message(number));
        assert_ne!(mailbox(300).message(number), mailbox(301).message(number + 1));
    }
    let tomorrow = SyntheticMailbox::new(300, SystemTime::UNIX_EPOCH + Duration::from_secs(NOW + DAY));
    assert_ne!(mailbox(300).message(7).internal_date, tomorrow.message(7).internal_date);
}

/// A fill continues after an upgrade: a change of the messages changes what it adds, and needs a line in the CHANGELOG.
#[test]
fn the_messages_are_as_they_were() {
    let small = (1..200).map(|number| mailbox(1000).message(number)).find(|message| message.bytes.len() < 4_000);
    insta::assert_snapshot!(text(&small.unwrap()).replace("\r\n", "\n"));
}

#[test]
fn every_line_ends_with_crlf_is_7_bit_and_no_longer_than_a_server_takes() {
    for number in 1..=200 {
        let message = mailbox(200).message(number);
        assert!(message.bytes.is_ascii() && !message.bytes.contains(&0), "{number}");
        let text = text(&message);
        assert!(text.ends_with("\r\n"), "{number}");
        for line in text.split("\r\n") {
            assert!(line.len() <= 998 && !line.contains(['\r', '\n']), "{number}: {line:?}");
        }
    }
}

#[test]
fn headers_are_whole_and_name_no_real_person() {
    for number in 1..=200 {
        let message = mailbox(200).message(number);
        let fields = fields(&message);
        let count = |name: &str| fields.iter().filter(|(known, _)| known == name).count();
        for once in ["return-path", "dkim-signature", "date", "from", "to", "subject", "message-id", "mime-version"] {
            assert_eq!(count(once), 1, "{once} in {number}");
        }
        assert!((2..=4).contains(&count("received")), "{number}");
        assert_eq!(value(&message, "x-imaptrace-canary"), Some(number.to_string()));
        let reserved = ["example.org", "example.com", "example.net", "mail.example", "canary.invalid"];
        for (name, value) in fields {
            for address in value.split(['<', ',', ' ']).filter(|word| word.contains('@')) {
                let domain = address.rsplit('@').next().unwrap().trim_end_matches(['>', ';']);
                assert!(reserved.iter().any(|known| domain.ends_with(known)), "{name}: {value}");
            }
        }
    }
}

#[test]
fn dates_ascend_from_years_ago_to_yesterday_and_agree() {
    for messages in [1, 20, 1000, 100_000] {
        let mailbox = mailbox(messages);
        let numbers: Vec<_> = (1..=messages).step_by((messages / 500).max(1) as usize).chain([messages]).collect();
        let mut before = 0;
        for number in numbers {
            let message = mailbox.message(number);
            let sent = seconds(&value(&message, "date").unwrap());
            assert!(sent >= before, "{number} of {messages}");
            before = sent;
            let delivered = mailbox.times(number).delivered;
            assert!((0..30).contains(&(i64::try_from(delivered).unwrap() - sent)), "{number}");
            let received = fields(&message).into_iter().filter(|(name, _)| name == "received");
            let hops: Vec<_> = received.map(|(_, value)| seconds(value.rsplit("; ").next().unwrap())).collect();
            assert!(hops.is_sorted_by(|newer, older| newer >= older), "{hops:?}");
            assert_eq!(hops.first().copied(), i64::try_from(delivered).ok());
        }
        let newest = mailbox.times(messages).delivered;
        assert!(newest < NOW && NOW - newest < 2 * DAY, "the newest of {messages} is of {newest}");
    }
    let oldest = mailbox(100_000).times(1).delivered;
    assert!(oldest < NOW - 1000 * DAY && oldest > NOW - 1200 * DAY);
    assert_eq!(mailbox(1000).message(1000).internal_date.len(), "02-Mar-2026 09:15:00 +0000".len());
}

#[test]
fn message_ids_are_unique_and_replies_name_messages_that_are_there() {
    let messages: Vec<_> = (1..=600).map(|number| mailbox(600).message(number)).collect();
    let ids: Vec<_> = messages.iter().map(|message| value(message, "message-id").unwrap()).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), messages.len());
    let order: BTreeMap<_, _> = ids.iter().enumerate().map(|(at, id)| (id.clone(), at)).collect();
    let mut replies = 0;
    for (at, message) in messages.iter().enumerate() {
        let Some(parent) = value(message, "in-reply-to") else { continue };
        replies += 1;
        let references = value(message, "references").unwrap();
        let references: Vec<_> = references.split(' ').collect();
        assert_eq!(references.last().copied(), Some(parent.as_str()));
        assert!(references.iter().all(|id| order[*id] < at) && references.len() <= ANCESTORS_NAMED);
        let root = &messages[order[references[0]]];
        let subject = value(message, "subject").unwrap();
        assert_eq!(subject, format!("Re: {}", value(root, "subject").unwrap()));
    }
    assert!((200..450).contains(&replies), "{replies} of 600 are replies");
}

const ANCESTORS_NAMED: usize = 8;

#[test]
fn sizes_are_spread_as_those_of_mail() {
    let mut sizes: Vec<_> = (1..=20_000).map(size).collect();
    sizes.sort_unstable();
    assert!((8_000..15_000).contains(&sizes[10_000]), "median {}", sizes[10_000]);
    assert!((150_000..1_000_000).contains(&sizes[19_800]), "99 of 100 {}", sizes[19_800]);
    assert_eq!(sizes.last(), Some(&1_000_000));
    for number in 1..=300 {
        let (is, wanted) = (mailbox(300).message(number).bytes.len(), size(number));
        let spare = 3_500 + wanted / 20;
        assert!(is.abs_diff(wanted) <= spare, "{number} has {is} bytes and aimed at {wanted}");
    }
}

#[test]
fn bodies_are_text_or_text_and_html_or_bear_a_file_and_their_parts_are_closed() {
    let mut kinds = BTreeMap::new();
    for number in 1..=200 {
        let message = mailbox(200).message(number);
        let kind = value(&message, "content-type").unwrap().split(';').next().unwrap().to_owned();
        *kinds.entry(kind).or_insert(0) += 1;
        let whole = text(&message);
        for boundary in whole.split("boundary=\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
            let closed = whole.matches(&format!("\r\n--{boundary}--\r\n")).count();
            let parts = whole.matches(&format!("\r\n--{boundary}\r\n")).count();
            assert_eq!((closed, parts), (1, 2), "{number}");
        }
    }
    let kinds: Vec<_> = kinds.into_iter().filter(|(_, count)| *count >= 5).map(|(kind, _)| kind).collect();
    assert_eq!(kinds, ["multipart/alternative", "multipart/mixed", "text/plain"]);
}

#[test]
fn most_have_been_read_and_some_subjects_are_beyond_ascii() {
    let messages: Vec<_> = (1..=500).map(|number| mailbox(500).message(number)).collect();
    let seen = messages.iter().filter(|message| message.seen).count();
    assert!((430..490).contains(&seen), "{seen} of 500");
    let encoded = messages.iter().filter(|message| value(message, "subject").unwrap().contains("=?UTF-8?B?")).count();
    assert!((50..300).contains(&encoded), "{encoded} of 500");
}
