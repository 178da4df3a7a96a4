//! The built-in IMAP server: a stage prop, so that `imaptrace demo` has something to open and benches have something
//! that is fast or slow on demand.
//!
//! It speaks as much IMAP as the journey needs, for one user with made-up messages that are the same at each
//! start, on loopback alone. It stores nothing, obeys no other command, and is no example of how to write a server.
//! It imports nothing of the rest, so that a mistake there cannot be made twice and cancel out.
//!
//! Called by `cli` for `imaptrace demo`, and by benches and tests.

mod ca_file;
mod command;
mod mailbox;
mod server;
mod session;

use std::time::Duration;

pub use ca_file::CaFileError;
pub use server::{DemoError, DemoServer};

/// What the server is to be like.
#[derive(Clone)]
pub struct DemoSettings {
    /// The one user.
    pub user: String,
    /// The user's password: known to everybody, it protects nothing.
    pub password: String,
    /// TLS from the first byte; else clear text that offers STARTTLS and takes a login without it, too.
    pub tls: bool,
    /// Messages in INBOX.
    pub messages: u32,
    /// How slow it is.
    pub delays: Delays,
}

impl Default for DemoSettings {
    fn default() -> Self {
        Self {
            user: "demo".to_owned(),
            password: "demo".to_owned(),
            tls: true,
            messages: 4_200,
            delays: Delays::default(),
        }
    }
}

/// How long the server thinks before it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delays {
    /// Connection (or handshake) to greeting.
    pub greeting: Duration,
    /// LOGIN and AUTHENTICATE, right or wrong.
    pub login: Duration,
    /// LIST.
    pub list: Duration,
    /// SELECT and EXAMINE.
    pub select: Duration,
    /// FETCH: spread over its rows, as by a server that reads each message from a slow disk.
    pub fetch: Duration,
}

impl Delays {
    /// As fast as it can.
    pub const NONE: Self = Self {
        greeting: Duration::ZERO,
        login: Duration::ZERO,
        list: Duration::ZERO,
        select: Duration::ZERO,
        fetch: Duration::ZERO,
    };
}

impl Default for Delays {
    /// A server with a slow disk.
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self { greeting: ms(6), login: ms(40), list: ms(4), select: ms(25), fetch: ms(350) }
    }
}

/// The closing lines of `imaptrace demo`: how to go on from here.
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
