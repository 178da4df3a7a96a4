//! What one run does, and the deadline of each step.

use std::{fmt, ops::RangeInclusive, time::Duration};

use imaptrace_record::JourneyName;
use rand::Rng;

use super::Choice;

/// The options of a run's steps. There is one journey, `first-load`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Journey {
    /// The mailbox to open.
    pub mailbox: Mailbox,
    /// SELECT as mail programs do, or EXAMINE.
    pub open: Open,
    /// The number of messages whose headers are fetched; at least 1.
    pub newest: u32,
    /// Which messages those are.
    pub window: Window,
    /// A mailbox that usually holds many messages may also be empty.
    pub allow_empty: bool,
    /// Whole headers of old messages, which no server caches. The window is a random one.
    pub cold: bool,
    /// How the client authenticates.
    pub auth: Auth,
    /// The form of command tags.
    pub tag: TagStyle,
    /// What the server is sent of the trace.
    pub propagate: Propagation,
}

impl Journey {
    /// The only value of `target.journey`.
    pub const FIRST_LOAD: &'static str = "first-load";
    /// A mailbox with fewer messages gives no useful measurement.
    pub const FEWEST: u32 = 20;
    /// With this many usual messages or more a mailbox that is empty fails a run, unless [`Journey::allow_empty`].
    pub const MANY: u64 = 100;

    /// The journey's name in telemetry. Reading from a server's caches and from its disk are two measurements, so they have
    /// different names and series.
    pub fn name(&self) -> &JourneyName {
        static NEWEST: JourneyName = JourneyName::FIRST_LOAD;
        static RANDOM: JourneyName = JourneyName::FIRST_LOAD_RANDOM;
        static COLD: JourneyName = JourneyName::FIRST_LOAD_COLD;
        match (self.cold, self.window) {
            (true, _) => &COLD,
            (false, Window::Random) => &RANDOM,
            (false, Window::Newest) => &NEWEST,
        }
    }

    /// The sequence numbers to fetch of a mailbox with `exists` messages; none when it is empty.
    ///
    /// A random window has the same probability for each start that leaves it whole. A cold one is in the older half if it
    /// fits there.
    pub fn messages(&self, exists: u32, rng: &mut impl Rng) -> Option<RangeInclusive<u32>> {
        if exists == 0 {
            return None;
        }
        let count = self.newest.clamp(1, exists);
        let older = exists / 2;
        let end = if self.cold && older >= count { older } else { exists };
        let latest = end - count + 1;
        let from = match self.window {
            Window::Newest if !self.cold => latest,
            _ => rng.random_range(1..=latest),
        };
        Some(from..=from + (count - 1))
    }
}

/// Which messages' headers are fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// The newest ones, as in a mail program.
    Newest,
    /// As many consecutive ones from a random place in the mailbox.
    Random,
}

impl Choice for Window {
    const WORDS: &'static [(&'static str, Self)] = &[("newest", Self::Newest), ("random", Self::Random)];
}

/// The command that opens the mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// SELECT (RFC 9051 §6.3.2).
    Select,
    /// EXAMINE, which is read-only (RFC 9051 §6.3.3).
    Examine,
}

impl Choice for Open {
    const WORDS: &'static [(&'static str, Self)] = &[("select", Self::Select), ("examine", Self::Examine)];
}

/// The mechanism of the login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// The strongest that the server offers: SCRAM-SHA-256, PLAIN, or else the LOGIN command.
    Auto,
    /// AUTHENTICATE EXTERNAL, by the client certificate.
    External,
    /// The LOGIN command.
    Login,
    /// AUTHENTICATE PLAIN.
    Plain,
    /// AUTHENTICATE SCRAM-SHA-256.
    ScramSha256,
}

impl Choice for Auth {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("scram-sha-256", Self::ScramSha256),
        ("plain", Self::Plain),
        ("login", Self::Login),
        ("external", Self::External),
    ];
}

/// The form of command tags. Both are random.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TagStyle {
    /// The 16 hex digits of the span id.
    SpanId,
    /// A letter and the first 6 of them, for servers that refuse the long one.
    Short,
}

impl Choice for TagStyle {
    const WORDS: &'static [(&'static str, Self)] = &[("span_id", Self::SpanId), ("short", Self::Short)];
}

/// What the server is sent of the trace, beside the tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Nothing.
    Off,
    /// The trace id, as the name of the session: `x-session-id` of ID (RFC 2971), which Dovecot takes from trusted clients.
    SessionId,
}

impl Choice for Propagation {
    const WORDS: &'static [(&'static str, Self)] = &[("off", Self::Off), ("session-id", Self::SessionId)];
}

/// A mailbox name in UTF-8, without CR, LF and NUL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mailbox(String);

/// A mailbox name that no command can carry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MailboxError {
    /// It is empty.
    #[error("the mailbox name is empty")]
    Empty,
    /// The name would split the command (RFC 9051 §4.3).
    #[error("a mailbox name cannot hold CR, LF or NUL")]
    Control,
}

impl Mailbox {
    /// Reads a name; INBOX is case-insensitive (RFC 9051 §5.1).
    pub fn new(name: &str) -> Result<Self, MailboxError> {
        if name.is_empty() {
            return Err(MailboxError::Empty);
        }
        if name.contains(['\r', '\n', '\0']) {
            return Err(MailboxError::Control);
        }
        Ok(if name.eq_ignore_ascii_case("INBOX") { Self::default() } else { Self(name.to_owned()) })
    }

    /// The name as UTF-8.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Mailbox {
    fn default() -> Self {
        Self("INBOX".to_owned())
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Deadlines (docs/journey.md). A step's is the smaller of its own and the rest of the run's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// The whole run without LOGOUT.
    pub run: Duration,
    /// Name resolution.
    pub resolve: Duration,
    /// TCP connect, all attempts together.
    pub connect: Duration,
    /// TLS handshake.
    pub tls: Duration,
    /// Until the greeting.
    pub greeting: Duration,
    /// A command, from its first byte to the tagged response.
    pub command: Duration,
    /// Until the kernel has accepted a command's bytes.
    pub write: Duration,
    /// LOGOUT, after the run.
    pub logout: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        let [run, setup, command, write, logout] = [30, 5, 20, 10, 1].map(Duration::from_secs);
        Self { run, resolve: setup, connect: setup, tls: setup, greeting: command, command, write, logout }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;

    fn journey(newest: u32, window: Window, cold: bool) -> Journey {
        let mailbox = Mailbox::new("INBOX").unwrap();
        let (open, auth, tag, propagate) = (Open::Select, Auth::Auto, TagStyle::SpanId, Propagation::Off);
        Journey { mailbox, open, newest, window, allow_empty: false, cold, auth, tag, propagate }
    }

    /// The windows of so many runs, each of them held to be whole.
    fn windows(journey: &Journey, exists: u32, runs: usize) -> Vec<(u32, u32)> {
        let mut rng = StdRng::seed_from_u64(4);
        let all = std::iter::repeat_with(|| journey.messages(exists, &mut rng).unwrap());
        let all: Vec<_> = all.take(runs).map(RangeInclusive::into_inner).collect();
        for (from, to) in &all {
            assert_eq!(to - from + 1, journey.newest.min(exists), "{from}:{to} of {exists}");
            assert!(*from >= 1 && *to <= exists, "{from}:{to} of {exists}");
        }
        all
    }

    #[test]
    fn the_newest_messages_are_the_last_ones() {
        let journey = journey(20, Window::Newest, false);
        for (exists, expected) in [(30, (11, 30)), (20, (1, 20)), (3, (1, 3)), (u32::MAX, (u32::MAX - 19, u32::MAX))] {
            assert_eq!(windows(&journey, exists, 1), [expected]);
        }
    }

    #[test]
    fn an_empty_mailbox_has_no_window() {
        for journey in
            [journey(20, Window::Newest, false), journey(20, Window::Random, false), journey(20, Window::Random, true)]
        {
            assert_eq!(journey.messages(0, &mut StdRng::seed_from_u64(4)), None);
        }
    }

    #[test]
    fn a_random_window_starts_everywhere_with_the_same_chance() {
        let all = windows(&journey(20, Window::Random, false), 29, 10_000);
        for start in 1..=10 {
            let count = all.iter().filter(|(from, _)| *from == start).count();
            assert!((800..1200).contains(&count), "{count} of 10,000 start at {start}");
        }
    }

    #[test]
    fn a_cold_window_lies_in_the_older_half_where_that_holds_it() {
        let journey = journey(20, Window::Random, true);
        let ends = |exists| windows(&journey, exists, 1_000).into_iter().map(|(_, to)| to).collect::<BTreeSet<_>>();
        assert_eq!(ends(50), (20..=25).collect());
        assert_eq!(ends(40), BTreeSet::from([20]));
        assert_eq!(ends(39), (20..=39).collect());
        assert_eq!(ends(3), BTreeSet::from([3]));
    }

    #[test]
    fn the_largest_mailbox_has_windows_too() {
        for journey in [journey(u32::MAX, Window::Random, false), journey(1, Window::Random, true)] {
            windows(&journey, u32::MAX, 100);
        }
    }

    #[test]
    fn a_mailbox_name_cannot_split_a_command() {
        assert_eq!(Mailbox::new("a\r\nb"), Err(MailboxError::Control));
        assert_eq!(Mailbox::new("a\0"), Err(MailboxError::Control));
        assert_eq!(Mailbox::new(""), Err(MailboxError::Empty));
        assert_eq!(Mailbox::new("inbox").unwrap().as_str(), "INBOX");
        assert_eq!(Mailbox::new("Entwürfe").unwrap().as_str(), "Entwürfe");
    }
}
