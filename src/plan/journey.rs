//! What one run does, how long each part may take, and how much it may read.

use std::{fmt, time::Duration};

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
    /// What a mail program does until its message list shows.
    pub const FIRST_LOAD: &'static str = "first-load";
    /// The same with a window of messages that changes with every run.
    pub const FIRST_LOAD_RANDOM: &'static str = "first-load-random";
    /// The same with whole headers of old messages.
    pub const FIRST_LOAD_COLD: &'static str = "first-load-cold";

    /// The journey's name in telemetry. What a server answers from its caches and what it must fetch from its disk are
    /// two figures, so they never share a name, and with it a series.
    pub fn name(&self) -> &'static str {
        match (self.cold, self.window) {
            (true, _) => Self::FIRST_LOAD_COLD,
            (false, Window::Random) => Self::FIRST_LOAD_RANDOM,
            (false, Window::Newest) => Self::FIRST_LOAD,
        }
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
    /// AUTHENTICATE PLAIN when it is advertised, else LOGIN.
    Auto,
    /// The LOGIN command.
    Login,
    /// AUTHENTICATE PLAIN.
    Plain,
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

/// How long each part may take (contract §7). A step gets the smaller of its own and what is left of the run.
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

/// How much a run reads before it gives up (contract §7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one line without its literals.
    pub line: usize,
    /// Bytes received for one command.
    pub command_bytes: u64,
    /// Bytes received in one run.
    pub run_bytes: u64,
    /// Untagged responses for one command.
    pub responses: u64,
    /// Parentheses inside each other.
    pub depth: u32,
    /// Bytes of a literal that are kept where a name can stand; all others are counted and dropped.
    pub literal_kept: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            line: 64 << 10,
            command_bytes: 64 << 20,
            run_bytes: 256 << 20,
            responses: 100_000,
            depth: 32,
            literal_kept: 4 << 10,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mailbox_name_cannot_split_a_command() {
        assert_eq!(Mailbox::new("a\r\nb"), Err(MailboxError::Control));
        assert_eq!(Mailbox::new("a\0"), Err(MailboxError::Control));
        assert_eq!(Mailbox::new(""), Err(MailboxError::Empty));
        assert_eq!(Mailbox::new("inbox").unwrap().as_str(), "INBOX");
        assert_eq!(Mailbox::new("Entwürfe").unwrap().as_str(), "Entwürfe");
    }
}
