//! Synthetic mailboxes and messages, computed from their number: nothing is stored, and each start has the same.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp};

/// Name on the wire (modified UTF-7, RFC 3501 §5.1.3), attributes of LIST, messages for a thousand in INBOX.
pub(super) const MAILBOXES: [(&str, &str, u32); 9] = [
    ("INBOX", "\\HasNoChildren", 1_000),
    ("Archive", "\\HasChildren \\Archive", 3_000),
    ("Archive/2025", "\\HasNoChildren", 2_400),
    ("Drafts", "\\HasNoChildren \\Drafts", 2),
    ("Entw&APw-rfe", "\\HasNoChildren", 1),
    ("Junk", "\\HasNoChildren \\Junk", 40),
    ("Projects", "\\HasNoChildren", 0),
    ("Sent", "\\HasNoChildren \\Sent", 600),
    ("Trash", "\\HasNoChildren \\Trash", 75),
];

/// The internal date of each mailbox's newest message: 2026-11-20 16:42:10 UTC.
const NEWEST: Timestamp = Timestamp::constant(1_795_192_930, 0);
/// Minutes from one message to the next.
const APART: i64 = 37;

const INTERNAL_DATE: &str = "%e-%b-%Y %H:%M:%S +0000";
const HEADER_DATE: &str = "%a, %-d %b %Y %H:%M:%S +0000";

const SENDERS: [&str; 8] = [
    "Mira Lindqvist <mira.lindqvist@example.com>",
    "\"Okafor, Adaeze\" <adaeze@example.net>",
    "=?utf-8?Q?J=C3=BCrgen_Gro=C3=9F?= <juergen.gross@example.org>",
    "=?utf-8?B?5bGx55SwIOWkqumDjg==?= <taro@mail.example.net>",
    "Build Robot <ci@builds.example.com>",
    "Example Shop <orders@shop.example>",
    "\"Reading circle\" <circle@lists.example.org>",
    "Backup of host7 <root@host7.example.net>",
];

const SUBJECTS: [&str; 10] = [
    "Minutes of Monday's meeting",
    "Re: Minutes of Monday's meeting",
    "Your order has left our house",
    "=?utf-8?B?R2FydGVuZmVzdCBhbSBTYW1zdGFnIOKAkyB3ZXIgYnJpbmd0IFNhbGF0Pw==?=",
    "Build 4711 failed: 2 of 1,930 tests",
    "=?utf-8?Q?Rechnung_f=C3=BCr_November?=",
    "Re: Re: Which book for January? I would still like the one about the\r\n lighthouse, if nobody minds its length",
    "=?utf-8?B?6KuL5rGC5pu444Gu44GK55+l44KJ44Gb?=",
    "Backup finished in 41 min, 12 s",
    "Photos from the lake",
];

/// A mailbox and the number of its messages, which are numbered from 1.
#[derive(Debug, Clone, Copy)]
pub(super) struct DemoMailbox {
    pub(super) messages: u32,
}

/// The data items of one message.
pub(super) struct DemoMessage {
    pub(super) uid: u32,
    pub(super) flags: &'static str,
    pub(super) internal_date: String,
    pub(super) size: u32,
    fields: Vec<(&'static str, String)>,
}

impl DemoMailbox {
    /// The mailbox of this name when INBOX has `inbox` messages.
    pub(super) fn find(name: &str, inbox: u32) -> Option<Self> {
        let same = |known: &str| known == name || (known == "INBOX" && name.eq_ignore_ascii_case("INBOX"));
        let (_, _, share) = MAILBOXES.into_iter().find(|(known, _, _)| same(known))?;
        let messages = u64::from(inbox) * u64::from(share) / 1_000;
        Some(Self { messages: u32::try_from(messages).unwrap_or(u32::MAX) })
    }

    /// Every seventh UID is missing, as after EXPUNGE.
    fn uid(number: u32) -> u32 {
        number.saturating_add(number / 6)
    }

    pub(super) fn uid_next(self) -> u32 {
        Self::uid(self.messages).saturating_add(1)
    }

    /// The message with this sequence number, from 1 to [`DemoMailbox::messages`].
    pub(super) fn message(self, number: u32) -> DemoMessage {
        let mut random = DemoRandom(u64::from(number));
        let age = SignedDuration::from_mins(APART * i64::from(self.messages.saturating_sub(number)));
        let at = NEWEST.checked_sub(age).unwrap_or(NEWEST);
        let date = at.strftime(HEADER_DATE).to_string();
        let from = random.pick(&SENDERS);
        let domain = from.rsplit('@').next().unwrap_or_default().trim_end_matches('>');
        let (queue, relay) = (random.next(), random.next() % 200 + 20);
        let mut signature = format!(
            "v=1; a=rsa-sha256; c=relaxed/relaxed; d={domain};\r\n\ts=mail2026; t={}; \
             h=from:to:subject:date:message-id:mime-version;\r\n\tbh={};\r\n\tb=",
            at.as_second(),
            random.base64(32),
        );
        for part in random.base64(256).as_bytes().chunks(64) {
            let _ = write!(signature, "{}\r\n\t ", String::from_utf8_lossy(part));
        }
        let fields = vec![
            ("Return-Path", format!("<bounce-{queue:x}@{domain}>")),
            (
                "Received",
                format!(
                    "from mx{}.{domain} (mx{0}.{domain} [192.0.2.{relay}])\r\n\tby mail.example.org (Postfix) with ESMTPS \
                     id {:010X}\r\n\tfor <demo@example.org>; {date}",
                    relay % 4,
                    queue & 0xff_ffff_ffff,
                ),
            ),
            ("DKIM-Signature", signature.trim_end().to_owned()),
            ("Date", date.clone()),
            ("From", from.to_owned()),
            ("To", "Demo User <demo@example.org>".to_owned()),
            ("Subject", random.pick(&SUBJECTS).to_owned()),
            ("Message-ID", format!("<{queue:016x}.{number}@{domain}>")),
            ("MIME-Version", "1.0".to_owned()),
            ("Content-Type", "text/plain; charset=utf-8".to_owned()),
        ];
        DemoMessage {
            uid: Self::uid(number),
            flags: random.pick(&["", "\\Seen", "\\Seen", "\\Seen", "\\Seen \\Answered", "\\Seen \\Flagged"]),
            internal_date: at.strftime(INTERNAL_DATE).to_string(),
            size: u32::try_from(2_000 + random.next() % 60_000).unwrap_or_default(),
            fields,
        }
    }
}

impl DemoMessage {
    /// The header with its final empty line: all fields, or those of HEADER.FIELDS (RFC 9051 §6.4.5).
    pub(super) fn header(&self, only: Option<&[String]>) -> String {
        let selected = |name: &str| only.is_none_or(|names| names.iter().any(|other| other.eq_ignore_ascii_case(name)));
        let fields = self.fields.iter().filter(|(name, _)| selected(name));
        let lines = fields.flat_map(|(name, value)| [*name, ": ", value.as_str(), "\r\n"]);
        lines.chain(["\r\n"]).collect()
    }
}

/// Pseudorandom numbers that are the same at each start (`SplitMix64`).
struct DemoRandom(u64);

impl DemoRandom {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        let index = self.next() % from.len() as u64;
        usize::try_from(index).ok().and_then(|index| from.get(index)).copied().unwrap_or_default()
    }

    fn base64(&mut self, bytes: usize) -> String {
        let bytes: Vec<u8> = (0..bytes.div_ceil(8)).flat_map(|_| self.next().to_be_bytes()).take(bytes).collect();
        STANDARD.encode(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_ascii_lines_of_legal_length_that_end_in_an_empty_one() {
        let inbox = DemoMailbox::find("inbox", 300).unwrap();
        for number in 1..=inbox.messages {
            let header = inbox.message(number).header(None);
            assert!(header.is_ascii() && header.ends_with("\r\n\r\n"), "{header}");
            for line in header.trim_end().split("\r\n") {
                assert!(line.len() <= 998 && !line.trim().is_empty() && !line.contains(['\r', '\n']), "{line:?}");
            }
        }
    }

    #[test]
    fn a_message_is_the_same_each_time_and_unlike_its_neighbour() {
        let inbox = DemoMailbox::find("INBOX", 300).unwrap();
        assert_eq!(inbox.message(7).header(None), inbox.message(7).header(None));
        assert_ne!(inbox.message(7).header(None), inbox.message(8).header(None));
        assert_eq!(inbox.message(300).internal_date, "20-Nov-2026 16:42:10 +0000");
        assert_eq!(inbox.message(7).internal_date.len(), 26);
    }

    #[test]
    fn only_the_named_fields_are_in_the_header_in_any_case_of_letters() {
        let header = DemoMailbox { messages: 1 }
            .message(1)
            .header(Some(&["FROM", "dkim-signature", "MESSAGE-ID"].map(str::to_owned)));
        let names: Vec<_> =
            header.split("\r\n").filter_map(|line| line.split_once(": ")).map(|(name, _)| name).collect();
        assert_eq!(names, ["DKIM-Signature", "From", "Message-ID"]);
        assert!(header.matches("\r\n\t").count() > 4, "a signature is folded: {header}");
    }

    #[test]
    fn uids_rise_with_gaps_and_a_mailbox_can_be_empty() {
        let inbox = DemoMailbox::find("INBOX", 300).unwrap();
        let uids: Vec<_> = (1..=300).map(|number| inbox.message(number).uid).collect();
        assert!(uids.windows(2).all(|pair| pair[0] < pair[1]) && uids[299] > 300 && inbox.uid_next() > uids[299]);
        assert_eq!(DemoMailbox::find("Projects", 300).unwrap().messages, 0);
        assert!(DemoMailbox::find("Nothing", 300).is_none());
    }
}
