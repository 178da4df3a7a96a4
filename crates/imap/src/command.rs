//! The commands that a client can send, and their bytes (RFC 9051 §6).
//!
//! Single spaces, CRLF, no CR, LF or NUL in any argument but a message; a new part wherever a `+` must come first.
//! Not here: the order of commands. Called by `session`.

use zeroize::Zeroizing;

use crate::{
    Capabilities, CommandName, CommandPart, Credentials, Mechanism, Secret,
    sasl::{self, SaslExchange},
    utf7,
};

/// The header fields of FETCH, for a threaded message list. Always in the same order: servers adapt their caches to it.
pub const FETCH_HEADERS: &str = "DATE FROM TO CC SUBJECT MESSAGE-ID REFERENCES IN-REPLY-TO CONTENT-TYPE";

/// A command. Its `Debug` form is its name alone.
#[derive(Clone, Copy)]
pub enum Command<'a> {
    /// Asks for the capabilities.
    Capability,
    /// Begins TLS.
    StartTls,
    /// Names the client (RFC 2971): name and version.
    Id {
        /// The name that the session is to have in the server's log, as Dovecot's `x-session-id`. Only before the login.
        session: Option<&'a str>,
    },
    /// Logs in by user name and password.
    Login {
        /// The user name.
        user: &'a str,
        /// The password.
        password: &'a Secret,
    },
    /// Logs in by SASL (RFC 9051 §6.2.2).
    Authenticate {
        /// The mechanism.
        mechanism: Mechanism,
        /// The user.
        credentials: Credentials<'a>,
    },
    /// Asks for the namespaces (RFC 2342).
    Namespace,
    /// Lists all mailboxes.
    List,
    /// Opens a mailbox.
    Select {
        /// Its name as UTF-8.
        mailbox: &'a str,
        /// EXAMINE in place of SELECT.
        read_only: bool,
    },
    /// Reads headers of messages, by sequence number, ascending, with PEEK.
    Fetch {
        /// The first.
        from: u32,
        /// The last.
        to: u32,
        /// All header fields in place of [`FETCH_HEADERS`]: no server keeps them apart from the message.
        whole: bool,
    },
    /// Creates a mailbox (RFC 9051 §6.3.4).
    Create {
        /// Its name as UTF-8.
        mailbox: &'a str,
    },
    /// Counts the messages that have a header field of this name, with any value (RFC 9051 §6.4.4).
    SearchHeader {
        /// The field's name: letters, digits and hyphens.
        field: &'a str,
    },
    /// Stores a message, marked as seen or not (RFC 9051 §6.3.12).
    Append {
        /// The mailbox, as UTF-8.
        mailbox: &'a str,
        /// With `\Seen`.
        seen: bool,
        /// When it was received, as RFC 9051 §9 `date-time` without its quotes: `02-Mar-2026 09:15:00 +0100`.
        date: &'a str,
        /// The message (RFC 5322), 7-bit, without NUL.
        message: &'a [u8],
    },
    /// Ends the session.
    Logout,
}

/// A command's bytes, in order.
#[derive(Debug)]
pub struct Encoded {
    /// At least one.
    pub parts: Vec<CommandPart>,
    /// The exchange that follows them, for AUTHENTICATE.
    pub(super) exchange: Option<SaslExchange>,
}

impl std::fmt::Debug for Command<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name().as_str())
    }
}

impl Command<'_> {
    /// The command's name.
    pub fn name(&self) -> CommandName {
        match self {
            Self::Capability => CommandName::Capability,
            Self::StartTls => CommandName::StartTls,
            Self::Id { .. } => CommandName::Id,
            Self::Login { .. } => CommandName::Login,
            Self::Authenticate { .. } => CommandName::Authenticate,
            Self::Namespace => CommandName::Namespace,
            Self::List => CommandName::List,
            Self::Select { read_only: false, .. } => CommandName::Select,
            Self::Select { read_only: true, .. } => CommandName::Examine,
            Self::Fetch { .. } => CommandName::Fetch,
            Self::Create { .. } => CommandName::Create,
            Self::SearchHeader { .. } => CommandName::Search,
            Self::Append { .. } => CommandName::Append,
            Self::Logout => CommandName::Logout,
        }
    }

    /// The command's bytes, for a server with these capabilities.
    pub fn encode(&self, tag: &str, capabilities: &Capabilities) -> Encoded {
        let line = Zeroizing::new(Vec::new());
        let mut writer = Writer { parts: Vec::new(), line, exchange: None, capabilities };
        writer.raw(tag.as_bytes()).raw(b" ").raw(self.name().as_str().as_bytes());
        match self {
            Self::Capability | Self::StartTls | Self::Namespace | Self::Logout => &mut writer,
            Self::Id { session } => {
                writer.raw(b" (");
                if let Some(session) = session {
                    writer.raw(b"\"x-session-id\" ").string(session).raw(b" ");
                }
                writer
                    .raw(b"\"name\" \"imaptrace\" \"version\" \"")
                    .raw(env!("CARGO_PKG_VERSION").as_bytes())
                    .raw(b"\")")
            }
            Self::Login { user, password } => writer.raw(b" ").string(user).raw(b" ").string(password.expose()),
            Self::Authenticate { mechanism, credentials } => writer.authenticate(*mechanism, *credentials),
            Self::List => writer.raw(b" \"\" \"*\""),
            Self::Select { mailbox, .. } | Self::Create { mailbox } => writer.raw(b" ").mailbox(mailbox),
            Self::Fetch { from, to, whole } => {
                writer.raw(format!(" {from}:{to} (UID FLAGS INTERNALDATE RFC822.SIZE BODY.PEEK[HEADER").as_bytes());
                if !whole {
                    writer.raw(b".FIELDS (").raw(FETCH_HEADERS.as_bytes()).raw(b")");
                }
                writer.raw(b"])")
            }
            Self::SearchHeader { field } => writer
                .raw(if capabilities.esearch { b" RETURN (COUNT) HEADER " } else { b" HEADER " })
                .raw(field.as_bytes())
                .raw(b" \"\""),
            Self::Append { mailbox, seen, date, message } => writer
                .raw(b" ")
                .mailbox(mailbox)
                .raw(if *seen { b" (\\Seen) " } else { b" () " })
                .string(date)
                .raw(b" ")
                .literal(message),
        };
        writer.finish()
    }
}

struct Writer<'a> {
    parts: Vec<CommandPart>,
    line: Zeroizing<Vec<u8>>,
    exchange: Option<SaslExchange>,
    capabilities: &'a Capabilities,
}

impl Writer<'_> {
    fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        // Grown by hand, so that no outgrown buffer with a password in it is left behind unwiped.
        if self.line.capacity() < self.line.len() + bytes.len() {
            let mut larger =
                Zeroizing::new(Vec::with_capacity((self.line.len() + bytes.len()).next_power_of_two().max(256)));
            larger.extend_from_slice(&self.line);
            self.line = larger;
        }
        self.line.extend_from_slice(bytes);
        self
    }

    /// An astring as quoted string where that can hold it (RFC 9051 §4.3), else as literal.
    fn string(&mut self, value: &str) -> &mut Self {
        if value.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            self.raw(b"\"");
            for byte in value.bytes() {
                if matches!(byte, b'"' | b'\\') {
                    self.raw(b"\\");
                }
                self.raw(&[byte]);
            }
            return self.raw(b"\"");
        }
        self.literal(value.as_bytes())
    }

    /// A literal (RFC 9051 §4.3), in one go where the server takes that now (RFC 7888), else behind a `+`.
    fn literal(&mut self, value: &[u8]) -> &mut Self {
        if self.capabilities.literal_without_wait(value.len()) {
            return self.raw(format!("{{{}+}}\r\n", value.len()).as_bytes()).raw(value);
        }
        self.raw(format!("{{{}}}\r\n", value.len()).as_bytes()).wait().raw(value)
    }

    /// A mailbox's name as this server spells it (RFC 3501 §5.1.3, RFC 9051 §5.1).
    fn mailbox(&mut self, name: &str) -> &mut Self {
        match self.capabilities.version() {
            "4rev2" => self.string(name),
            _ => self.string(&utf7::encode(name)),
        }
    }

    /// The mechanism and its first message, on the same line where the server takes that (RFC 4959), else behind a `+`.
    fn authenticate(&mut self, mechanism: Mechanism, credentials: Credentials<'_>) -> &mut Self {
        let (exchange, message) = SaslExchange::begin(mechanism, credentials);
        self.exchange = Some(exchange);
        self.raw(b" ").raw(mechanism.as_str().as_bytes());
        match (self.capabilities.sasl_ir, message.is_empty()) {
            (true, true) => self.raw(b" ="),
            (true, false) => self.raw(b" ").raw(sasl::encode(&message).as_bytes()),
            (false, _) => self.raw(b"\r\n").wait().raw(sasl::encode(&message).as_bytes()),
        }
    }

    fn wait(&mut self) -> &mut Self {
        let bytes = std::mem::replace(&mut self.line, Zeroizing::new(Vec::new()));
        self.parts.push(CommandPart { bytes, then_wait: true });
        self
    }

    fn finish(mut self) -> Encoded {
        self.raw(b"\r\n");
        self.parts.push(CommandPart { bytes: self.line, then_wait: false });
        Encoded { parts: self.parts, exchange: self.exchange }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(command: &Command<'_>, capabilities: &str) -> Vec<String> {
        let encoded = command.encode("T", &Capabilities::parse(capabilities.as_bytes()));
        encoded
            .parts
            .iter()
            .map(|part| format!("{}{}", String::from_utf8_lossy(&part.bytes), if part.then_wait { "⏸" } else { "" }))
            .collect()
    }

    #[test]
    fn a_line_grows_before_it_is_full_so_that_no_copy_of_it_is_left_unwiped() {
        let capabilities = Capabilities::parse(b"");
        let mut writer =
            Writer { parts: Vec::new(), line: Zeroizing::new(Vec::new()), exchange: None, capabilities: &capabilities };
        for (more, capacity) in [(1, 256), (255, 256), (1, 512), (1_000, 2048)] {
            assert_eq!(writer.raw(&vec![b'x'; more]).line.capacity(), capacity, "{more}");
        }
    }

    #[test]
    fn commands_without_secrets() {
        assert_eq!(wire(&Command::Capability, ""), ["T CAPABILITY\r\n"]);
        assert_eq!(wire(&Command::List, ""), ["T LIST \"\" \"*\"\r\n"]);
        assert_eq!(
            wire(&Command::Select { mailbox: "Entwürfe", read_only: false }, "IMAP4rev1"),
            ["T SELECT \"Entw&APw-rfe\"\r\n"]
        );
        assert_eq!(
            wire(&Command::Select { mailbox: "a\"b\\c", read_only: true }, "IMAP4rev1"),
            ["T EXAMINE \"a\\\"b\\\\c\"\r\n"]
        );
        assert_eq!(
            wire(&Command::Select { mailbox: "日本", read_only: false }, "IMAP4rev2"),
            ["T SELECT {6+}\r\n日本\r\n"]
        );
        assert_eq!(
            wire(&Command::Fetch { from: 5, to: 24, whole: false }, ""),
            [
                "T FETCH 5:24 (UID FLAGS INTERNALDATE RFC822.SIZE BODY.PEEK[HEADER.FIELDS (DATE FROM TO CC SUBJECT MESSAGE-ID REFERENCES IN-REPLY-TO CONTENT-TYPE)])\r\n"
            ]
        );
        assert_eq!(
            wire(&Command::Fetch { from: 5, to: 24, whole: true }, ""),
            ["T FETCH 5:24 (UID FLAGS INTERNALDATE RFC822.SIZE BODY.PEEK[HEADER])\r\n"]
        );
    }

    #[test]
    fn id_names_the_client_and_the_session_only_where_it_is_given() {
        let client = format!("\"name\" \"imaptrace\" \"version\" \"{}\")\r\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(wire(&Command::Id { session: None }, ""), [format!("T ID ({client}")]);
        let session = Some("4bf92f3577b34da6a3ce929d0e0e4736");
        let named = format!("T ID (\"x-session-id\" \"4bf92f3577b34da6a3ce929d0e0e4736\" {client}");
        assert_eq!(wire(&Command::Id { session }, ""), [named]);
    }

    #[test]
    fn a_message_is_a_literal_that_waits_for_no_plus_only_where_that_is_known() {
        let date = "02-Mar-2026 09:15:00 +0100";
        let append = Command::Append { mailbox: "Entwürfe", seen: true, date, message: b"A: b\r\n\r\nc" };
        let head = format!("T APPEND \"Entw&APw-rfe\" (\\Seen) \"{date}\"");
        assert_eq!(wire(&append, "IMAP4rev1"), [format!("{head} {{9}}\r\n⏸"), "A: b\r\n\r\nc\r\n".to_owned()]);
        assert_eq!(wire(&append, "IMAP4rev1 LITERAL+"), [format!("{head} {{9+}}\r\nA: b\r\n\r\nc\r\n")]);
        let large = vec![b'x'; 4097];
        let append = Command::Append { mailbox: "a", seen: false, date, message: &large };
        assert_eq!(wire(&append, "IMAP4rev1 LITERAL-")[0], format!("T APPEND \"a\" () \"{date}\" {{4097}}\r\n⏸"));
        assert_eq!(wire(&append, "LITERAL- LITERAL+").len(), 1);
    }

    #[test]
    fn a_search_asks_for_no_more_than_a_count_where_the_server_can_count() {
        let search = Command::SearchHeader { field: "X-Mark" };
        assert_eq!(wire(&search, "IMAP4rev1"), ["T SEARCH HEADER X-Mark \"\"\r\n"]);
        for capable in ["IMAP4rev1 ESEARCH", "IMAP4rev2"] {
            assert_eq!(wire(&search, capable), ["T SEARCH RETURN (COUNT) HEADER X-Mark \"\"\r\n"], "{capable}");
        }
        assert_eq!(wire(&Command::Create { mailbox: "this & that" }, ""), ["T CREATE \"this &- that\"\r\n"]);
    }

    #[test]
    fn passwords_are_quoted_or_literals_as_the_server_allows() {
        let quoted = Secret::new("two words \"q\" \\ {5}".into());
        assert_eq!(
            wire(&Command::Login { user: "a@b", password: &quoted }, ""),
            ["T LOGIN \"a@b\" \"two words \\\"q\\\" \\\\ {5}\"\r\n"]
        );
        let eight_bit = Secret::new("pässwörd".into());
        assert_eq!(
            wire(&Command::Login { user: "u", password: &eight_bit }, ""),
            ["T LOGIN \"u\" {10}\r\n⏸", "pässwörd\r\n"]
        );
        assert_eq!(
            wire(&Command::Login { user: "u", password: &eight_bit }, "LITERAL+"),
            ["T LOGIN \"u\" {10+}\r\npässwörd\r\n"]
        );
        assert_eq!(
            wire(&Command::Login { user: "ü", password: &eight_bit }, ""),
            ["T LOGIN {2}\r\n⏸", "ü {10}\r\n⏸", "pässwörd\r\n"]
        );
        let long = Secret::new("ü".repeat(2049));
        assert_eq!(wire(&Command::Login { user: "u", password: &long }, "LITERAL-").len(), 2);
    }

    fn authenticate(mechanism: Mechanism, authzid: Option<&'static str>, capabilities: &str) -> Vec<String> {
        let password = Secret::new("pencil".into());
        let credentials = Credentials { authzid, user: "tim", password: &password };
        wire(&Command::Authenticate { mechanism, credentials }, capabilities)
    }

    #[test]
    fn a_first_message_goes_on_the_line_only_with_sasl_ir() {
        let plain = authenticate(Mechanism::Plain, None, "SASL-IR");
        assert_eq!(plain, ["T AUTHENTICATE PLAIN AHRpbQBwZW5jaWw=\r\n"]);
        let plain = authenticate(Mechanism::Plain, None, "");
        assert_eq!(plain, ["T AUTHENTICATE PLAIN\r\n⏸", "AHRpbQBwZW5jaWw=\r\n"]);
        let external = authenticate(Mechanism::External, None, "SASL-IR");
        assert_eq!(external, ["T AUTHENTICATE EXTERNAL =\r\n"], "an empty message is a = (RFC 4959 §3)");
        assert_eq!(authenticate(Mechanism::External, None, ""), ["T AUTHENTICATE EXTERNAL\r\n⏸", "\r\n"]);
        let scram = authenticate(Mechanism::ScramSha256, None, "");
        assert_eq!((scram.len(), scram[0].as_str()), (2, "T AUTHENTICATE SCRAM-SHA-256\r\n⏸"));
        // `n,,n=tim,r=` and our nonce.
        assert!(scram[1].starts_with("biwsbj10aW0scj"), "{scram:?}");
        assert_eq!(authenticate(Mechanism::ScramSha256, None, "SASL-IR").len(), 1);
    }

    #[test]
    fn an_authorization_identity_comes_first() {
        // `kurt NUL tim NUL pencil` (RFC 4616 §2).
        let plain = authenticate(Mechanism::Plain, Some("kurt"), "SASL-IR");
        assert_eq!(plain, ["T AUTHENTICATE PLAIN a3VydAB0aW0AcGVuY2ls\r\n"]);
        assert_eq!(
            authenticate(Mechanism::External, Some("kurt"), "SASL-IR"),
            ["T AUTHENTICATE EXTERNAL a3VydA==\r\n"]
        );
        // `n,a=kurt,n=tim,r=` and our nonce.
        let scram = authenticate(Mechanism::ScramSha256, Some("kurt"), "");
        assert!(scram[1].starts_with("bixhPWt1cnQsbj10aW0scj"), "{scram:?}");
    }

    #[test]
    fn neither_a_command_nor_its_parts_have_a_printable_form() {
        let password = Secret::new("canary".into());
        let command = Command::Login { user: "someone", password: &password };
        let encoded = command.encode("T", &Capabilities::default());
        assert_eq!(
            format!("{command:?} {encoded:?}"),
            "LOGIN Encoded { parts: [CommandPart(28 bytes)], exchange: None }"
        );
    }
}
