//! Synthetic mail for a mailbox to probe: to a server's caches and disks like real mail, and reproducible.
//!
//! A message depends on its number, the number of messages and the day alone, so an interrupted fill can continue on the same
//! day. Headers, threads, sizes and attachments are distributed as in a person's mailbox; the words mean nothing. Every message
//! has the header field [`MARKER`].
//!
//! No input or output, no clock. `cli` passes the messages to `probe::fill`.

mod body;
mod encode;
mod header;
mod random;
mod words;

use std::time::SystemTime;

pub use header::MARKER;

use self::{
    header::{Times, moment},
    random::{Purpose, Random},
};

/// Seconds.
const DAY: u64 = 24 * 60 * 60;
/// Age of the oldest message in days; in a smaller mailbox it is the number of messages.
const DAYS: u64 = 3 * 365;
/// Longest transit of a message. Seconds.
const TRANSIT: u64 = 30;
/// The median of the sizes in bytes, and the standard deviation of their logarithm.
const MEDIAN: f64 = 10_000.0;
const SCATTER: f64 = 1.35;
/// Smallest and largest target size, in bytes.
const SIZES: (f64, f64) = (2_500.0, 1_000_000.0);

/// A mailbox to be filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyntheticMailbox {
    messages: u32,
    /// Midnight today; seconds since 1970, UTC.
    until: u64,
}

/// One of its messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntheticMessage {
    /// RFC 5322 and MIME, 7-bit, lines with CRLF and of at most 998 octets.
    pub bytes: Vec<u8>,
    /// When it was delivered, as RFC 9051 §9 `date-time` without its quotes.
    pub internal_date: String,
    /// Whether it has the flag \Seen.
    pub seen: bool,
}

impl SyntheticMailbox {
    /// A mailbox with this number of messages, the newest of yesterday.
    pub fn new(messages: u32, now: SystemTime) -> Self {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        Self { messages, until: now / DAY * DAY }
    }

    /// Message `number`, from 1.
    pub fn message(&self, number: u32) -> SyntheticMessage {
        let times = self.times(number);
        let mut bytes = header::of(number, times);
        body::append(number, size(number), &mut bytes);
        SyntheticMessage {
            bytes,
            internal_date: moment(times.delivered).strftime("%d-%b-%Y %H:%M:%S +0000").to_string(),
            seen: Random::new(number, Purpose::Flags).chance(92),
        }
    }

    /// Each message has its own interval, so their times are in the order of their numbers.
    fn times(&self, number: u32) -> Times {
        let span = u64::from(self.messages).min(DAYS) * DAY;
        let at = |number: u32| span * u64::from(number) / u64::from(self.messages.max(1));
        let (from, to) = (at(number.saturating_sub(1)), at(number));
        let half = (to - from) / 2;
        let mut random = Random::new(number, Purpose::Time);
        let delivered = self.until - span + from + half + random.below(half);
        Times { sent: delivered - random.below(half.min(TRANSIT)), delivered }
    }
}

/// The target size in bytes: lognormal, as sizes of mail are.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within SIZES")]
fn size(number: u32) -> usize {
    (MEDIAN * (SCATTER * Random::new(number, Purpose::Size).normal()).exp()).clamp(SIZES.0, SIZES.1) as usize
}

#[cfg(test)]
mod tests;
