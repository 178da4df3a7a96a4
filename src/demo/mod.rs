//! The built-in IMAP server for `imaptrace demo`, benches and tests: as fast or slow as they need.
//!
//! On loopback alone, for one user, with the commands of the journey and with synthetic messages that are the same at each
//! start. It stores nothing and is no example of a server. It shares no protocol code with the client, so that a mistake there
//! cannot be made twice and cancel out.

mod ca_file;
mod command;
mod mailbox;
mod server;
mod session;

use std::time::Duration;

pub use ca_file::CaFileError;
pub use server::{DemoError, DemoServer};

/// Settings of the server.
#[derive(Clone)]
pub struct DemoSettings {
    /// The one user.
    pub user: String,
    /// The user's password: not a secret.
    pub password: String,
    /// TLS from the first byte; else clear text with STARTTLS, where a login without TLS is accepted too.
    pub tls: bool,
    /// Messages in INBOX.
    pub messages: u32,
    /// Its delays.
    pub delays: Delays,
}

impl Default for DemoSettings {
    fn default() -> Self {
        let [user, password] = ["demo"; 2].map(str::to_owned);
        Self { user, password, tls: true, messages: 4_200, delays: Delays::default() }
    }
}

/// Delays before responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delays {
    /// Connection (or handshake) to greeting.
    pub greeting: Duration,
    /// LOGIN and AUTHENTICATE, accepted or not.
    pub login: Duration,
    /// LIST.
    pub list: Duration,
    /// SELECT and EXAMINE.
    pub select: Duration,
    /// FETCH: spread over its rows, as by a server that reads each message from a slow disk.
    pub fetch: Duration,
}

impl Delays {
    /// No delays.
    pub const NONE: Self = {
        let none = Duration::ZERO;
        Self { greeting: none, login: none, list: none, select: none, fetch: none }
    };
}

impl Default for Delays {
    /// A server with a slow disk.
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self { greeting: ms(6), login: ms(40), list: ms(4), select: ms(25), fetch: ms(350) }
    }
}

/// The last lines of `imaptrace demo`: the next commands.
pub fn next_steps() -> &'static str {
    "That was the built-in server; its FETCH is slow on purpose. Next:\n\
     \n\
     \x20 probe your own server (it asks for the password, and marks nothing as read)\n\
     \x20   imaptrace probe --user you@example.org imaps://mail.example.org\n\
     \n\
     \x20 send the trace to an OpenTelemetry Collector as well\n\
     \x20   imaptrace probe --user you@example.org --otlp-endpoint http://localhost:4317 imaps://mail.example.org\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closing_lines_name_both_commands_in_plain_ascii() {
        let text = next_steps();
        assert!(text.starts_with("That was the built-in server; its FETCH is slow on purpose. Next:\n"), "{text}");
        assert!(text.contains("imaptrace probe --user you@example.org imaps://mail.example.org\n"), "{text}");
        assert!(text.contains("--otlp-endpoint http://localhost:4317"), "{text}");
        assert!(text.is_ascii() && text.ends_with('\n') && !text.contains('\x1b'), "{text}");
    }
}
