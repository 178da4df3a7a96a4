//! What one run does, how long each part may take, and how much it may read.

use std::{fmt, ops::RangeInclusive, time::Duration};

use imaptrace_record::JourneyName;
use rand::Rng;

/// The ordered steps of a run. There is one, `first-load`; its shape is set here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Journey {
    /// The mailbox that is opened.
    pub mailbox: Mailbox,
    /// SELECT as mail programs do, or EXAMINE.
    pub open: Open,
    /// How many messages' headers are fetched; at least 1.
    pub newest: u32,
    /// Which messages those are.
    pub window: Window,
    /// Whole headers of old messages, which no server has at hand. Its window is always a random one.
    pub cold: bool,
    /// How the client proves who it is.
    pub auth: Auth,
    /// How command tags are made.
    pub tag: TagStyle,
}

impl Journey {
    /// The one that `target.journey` takes.
    pub const FIRST_LOAD: &'static str = "first-load";
    /// A mailbox with fewer messages measures next to nothing.
    pub const FEWEST: u32 = 20;

    /// The journey's name in telemetry. What a server answers from its caches and what it must fetch from its disk are
    /// two figures, so they never share a name, and with it a series.
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
    /// A random window starts at each place where all of it fits with the same chance. A cold one lies in the older
    /// half, as long as that holds all of it.
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
    /// The newest ones, as a mail program does.
    Newest,
    /// As many in a row, from anywhere in the mailbox.
    Random,
}

/// The command that opens the mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// SELECT (RFC 9051 §6.3.2).
    Select,
    /// EXAMINE, which is read-only (RFC 9051 §6.3.3).
    Examine,
}

/// Which mechanism is used to log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// The strongest that is offered: SCRAM-SHA-256, PLAIN, or else the LOGIN command.
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

impl Auth {
    /// The word in configuration and flags.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::External => "external",
            Self::Login => "login",
            Self::Plain => "plain",
            Self::ScramSha256 => "scram-sha-256",
        }
    }
}

/// How command tags are made. Both are random.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TagStyle {
    /// The 16 hex digits of the span id.
    SpanId,
    /// The first 6 of them behind a letter, for servers that refuse the long one.
    Short,
}

/// A mailbox name as users write it: UTF-8, without CR, LF and NUL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mailbox(String);

/// A mailbox name that no command can carry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MailboxError {
    /// It is empty.
    #[error("the mailbox name is empty")]
    Empty,
    /// It would end or split the command (RFC 9051 §4.3).
    #[error("a mailbox name cannot hold CR, LF or NUL")]
    Control,
}

impl Mailbox {
    /// Reads a name; every spelling of INBOX is INBOX (RFC 9051 §5.1).
    pub fn new(name: &str) -> Result<Self, MailboxError> {
        if name.is_empty() {
            return Err(MailboxError::Empty);
        }
        if name.contains(['\r', '\n', '\0']) {
            return Err(MailboxError::Control);
        }
        Ok(Self(if name.eq_ignore_ascii_case("INBOX") { "INBOX".to_owned() } else { name.to_owned() }))
    }

    /// The name as UTF-8.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How long each part may take (docs/journey.md). A step gets the smaller of its own and what is left of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// The whole run, LOGOUT not counted.
    pub run: Duration,
    /// Name look-up.
    pub resolve: Duration,
    /// TCP connect, all attempts together.
    pub connect: Duration,
    /// TLS handshake.
    pub tls: Duration,
    /// Until the greeting.
    pub greeting: Duration,
    /// A command, first byte sent to tagged line.
    pub command: Duration,
    /// Until the kernel has taken a command's bytes.
    pub write: Duration,
    /// LOGOUT, outside the run's.
    pub logout: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            run: Duration::from_secs(30),
            resolve: Duration::from_secs(5),
            connect: Duration::from_secs(5),
            tls: Duration::from_secs(5),
            greeting: Duration::from_secs(20),
            command: Duration::from_secs(20),
            write: Duration::from_secs(10),
            logout: Duration::from_secs(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;

    fn journey(newest: u32, window: Window, cold: bool) -> Journey {
        let mailbox = Mailbox::new("INBOX").unwrap();
        Journey { mailbox, open: Open::Select, newest, window, cold, auth: Auth::Auto, tag: TagStyle::SpanId }
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
