//! A message's header: trace fields, originator and destination, subject, and the message it replies to.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::{
    Timestamp,
    tz::{Offset, TimeZone},
};

use super::{
    encode::header_text,
    random::{Purpose, Random},
    words::{AGENTS, DOMAINS, OWNER, PEOPLE, SUBJECTS},
};

/// The header field that marks a synthetic message. Its value is the message's number.
pub const MARKER: &str = "X-Imaptrace-Canary";

/// The number of ancestors in References: the oldest and the latest.
const ANCESTORS: usize = 8;
/// A message replies to one of this many before it.
const RECENT: u64 = 40;

/// When a message was sent and when it was delivered; seconds since 1970, UTC.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) sent: u64,
    pub(super) delivered: u64,
}

struct Person {
    name: &'static str,
    local: &'static str,
    domain: &'static str,
}

impl Person {
    fn draw(random: &mut Random) -> Self {
        let (name, local) = random.pick(PEOPLE);
        Self { name, local, domain: random.pick(DOMAINS) }
    }

    fn mailbox(&self) -> String {
        format!("{} <{}@{}>", header_text(self.name), self.local, self.domain)
    }
}

/// The header of message `number`, up to the fields of its body.
pub(super) fn of(number: u32, times: Times) -> Vec<u8> {
    let mut random = Random::new(number, Purpose::Header);
    let sender = Person::draw(&mut Random::new(number, Purpose::Person));
    let mut lines = vec![format!("Return-Path: <{}@{}>", sender.local, sender.domain)];
    lines.extend(received(&sender, times, &mut random));
    lines.push(signature(&sender, times, &mut random));
    lines.push(format!("Date: {}", date(times.sent, zone(&mut random))));
    lines.push(format!("From: {}", sender.mailbox()));
    lines.push(format!("To: <{OWNER}>"));
    if random.chance(30) {
        let others: Vec<_> = (0..=random.below(4)).map(|_| Person::draw(&mut random).mailbox()).collect();
        lines.push(format!("Cc: {}", others.join(",\r\n ")));
    }
    let ancestors = ancestors(number);
    let root = ancestors.first().copied().unwrap_or(number);
    let subject = Random::new(root, Purpose::Thread).pick(SUBJECTS);
    let reply = if ancestors.is_empty() { "" } else { "Re: " };
    lines.push(format!("Subject: {reply}{}", header_text(subject)));
    lines.push(format!("Message-ID: {}", id(number)));
    if let Some(parent) = ancestors.last() {
        lines.push(format!("In-Reply-To: {}", id(*parent)));
        let skipped = ancestors.len().saturating_sub(ANCESTORS);
        let named = ancestors.iter().enumerate().filter(|(at, _)| *at == 0 || *at > skipped);
        let named: Vec<_> = named.map(|(_, ancestor)| id(*ancestor)).collect();
        lines.push(format!("References: {}", named.join("\r\n ")));
    }
    if random.chance(20) {
        lines.push("List-Id: Example announcements <announce.lists.example.org>".to_owned());
        lines.push("List-Unsubscribe: <https://lists.example.org/leave/announce>".to_owned());
    } else {
        lines.push(random.pick(AGENTS).to_owned());
    }
    lines.push(format!("{MARKER}: {number}\r\n"));
    lines.join("\r\n").into_bytes()
}

/// The messages that this one replies to, the first of the thread first.
fn ancestors(number: u32) -> Vec<u32> {
    let mut chain: Vec<_> = std::iter::successors(parent(number), |at| parent(*at)).collect();
    chain.reverse();
    chain
}

fn parent(number: u32) -> Option<u32> {
    let mut random = Random::new(number, Purpose::Thread);
    // The first draw is the subject's.
    random.next();
    let back = u32::try_from(1 + random.below(RECENT)).ok()?;
    number.checked_sub(back).filter(|parent| *parent > 0 && random.chance(55))
}

/// Unique by the number in it.
fn id(number: u32) -> String {
    let mut random = Random::new(number, Purpose::Person);
    format!("<{:016x}.{number}@canary.invalid>", random.next())
}

/// Two to four relays, the last one first: each puts its line on top.
fn received(sender: &Person, times: Times, random: &mut Random) -> Vec<String> {
    let hops = 2 + random.below(3);
    let mut lines: Vec<String> = (0..hops)
        .map(|hop| {
            let seconds = times.sent + (times.delivered - times.sent) * (hop + 1) / hops;
            let from = if hop == 0 { format!("desk.{}", sender.domain) } else { format!("mx{hop}.{}", sender.domain) };
            let by =
                if hop + 1 == hops { "in.example.org".to_owned() } else { format!("mx{}.{}", hop + 1, sender.domain) };
            let network = random.pick(&["192.0.2", "198.51.100", "203.0.113"]);
            format!(
                "Received: from {from} ({from} [{network}.{}])\r\n\tby {by} (Postfix) with ESMTPS id {:011X}\r\n\tfor \
                 <{OWNER}>; {}",
                1 + random.below(254),
                random.below(1 << 44),
                date(seconds, Offset::UTC)
            )
        })
        .collect();
    lines.reverse();
    lines
}

/// As long as one with a key of 2048 bits; it signs nothing.
fn signature(sender: &Person, times: Times, random: &mut Random) -> String {
    let value = STANDARD.encode(random.bytes(256));
    let folded: Vec<_> = value.as_bytes().chunks(70).map(String::from_utf8_lossy).collect();
    format!(
        "DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d={};\r\n\ts=k{}; t={};\r\n\t\
         h=from:to:subject:date:message-id:mime-version:content-type;\r\n\tbh={};\r\n\tb={}",
        sender.domain,
        1 + random.below(3),
        times.sent,
        STANDARD.encode(random.bytes(32)),
        folded.join("\r\n\t ")
    )
}

/// RFC 5322 §3.3.
fn date(seconds: u64, zone: Offset) -> String {
    moment(seconds).to_zoned_datetime(TimeZone::fixed(zone)).strftime("%a, %d %b %Y %H:%M:%S %z").to_string()
}

fn zone(random: &mut Random) -> Offset {
    let minutes = random.pick(&[0, 60, 120, -300, -480, 330, 540]);
    Offset::from_seconds(minutes * 60).unwrap_or(Offset::UTC)
}

pub(super) fn moment(seconds: u64) -> Timestamp {
    i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok()).unwrap_or_default()
}
