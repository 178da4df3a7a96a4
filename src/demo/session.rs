//! One connection: the states of RFC 9051 §3, one command after the other.

use std::{fmt::Write as _, io, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use imaptrace_imap::CommandName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};

use super::{
    DemoSettings,
    command::{self, ClientCommand, Input, split_words},
    mailbox::{DemoMailbox, DemoMessage, MAILBOXES},
};

/// A connection, with TLS or without.
pub(super) trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for S {}

/// Maximum number of pauses in a slow FETCH: more would be shorter than the resolution of a timer.
const PAUSES: usize = 20;

pub(super) struct DemoSession {
    stream: BufReader<Box<dyn ByteStream>>,
    settings: Arc<DemoSettings>,
    offers_starttls: bool,
    logged_in: bool,
    selected: Option<DemoMailbox>,
    /// Responses that are not written yet.
    out: String,
}

/// What follows the response to a command.
enum NextAction {
    Continue,
    Close,
    Handshake,
}

impl DemoSession {
    pub(super) fn new(stream: Box<dyn ByteStream>, settings: Arc<DemoSettings>, offers_starttls: bool) -> Self {
        Self {
            stream: BufReader::new(stream),
            settings,
            offers_starttls,
            logged_in: false,
            selected: None,
            out: String::new(),
        }
    }

    /// Runs the session to its end, or to STARTTLS: then the handshake is next, on the stream that is returned. `greet` is false
    /// after STARTTLS, which no second greeting follows.
    pub(super) async fn run(mut self, greet: bool) -> io::Result<Option<Box<dyn ByteStream>>> {
        if greet {
            pause(self.settings.delays.greeting).await;
            self.untagged(&format!("OK [CAPABILITY {}] imaptrace demo server ready.", self.capabilities()));
            self.flush().await?;
        }
        loop {
            let next = match command::read(&mut self.stream).await? {
                Input::Command(command) => self.respond(&command).await?,
                Input::Malformed(tag) => {
                    let tag = if tag.is_empty() { "*" } else { &tag };
                    self.line(tag, "BAD The command cannot be read.");
                    NextAction::Continue
                }
                Input::TooLong => {
                    self.untagged("BYE The command is too long.");
                    NextAction::Close
                }
                Input::End => return Ok(None),
            };
            self.flush().await?;
            match next {
                NextAction::Continue => {}
                NextAction::Close => return self.stream.shutdown().await.map(|()| None),
                // What the client sent before the handshake is dropped with the buffer (RFC 9051 §6.2.1).
                NextAction::Handshake => return Ok(Some(self.stream.into_inner())),
            }
        }
    }

    async fn respond(&mut self, command: &ClientCommand) -> io::Result<NextAction> {
        let ClientCommand { tag, name, args } = command;
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let delays = self.settings.delays;
        match (name.parse().ok(), args.as_slice()) {
            (Some(CommandName::Capability), []) => {
                self.untagged(&format!("CAPABILITY {}", self.capabilities()));
                self.line(tag, "OK Capability completed.");
            }
            (Some(CommandName::Noop), []) => self.line(tag, "OK NOOP completed."),
            (Some(CommandName::Logout), []) => {
                self.untagged("BYE Logging out");
                self.line(tag, "OK Logout completed.");
                return Ok(NextAction::Close);
            }
            (Some(CommandName::Id), [_]) => {
                self.untagged(concat!("ID (\"name\" \"imaptrace\" \"version\" \"", env!("CARGO_PKG_VERSION"), "\")"));
                self.line(tag, "OK ID completed.");
            }
            (Some(CommandName::StartTls), []) if self.offers_starttls && !self.logged_in => {
                self.line(tag, "OK Begin TLS negotiation now.");
                return Ok(NextAction::Handshake);
            }
            (Some(CommandName::Login), [user, password]) if !self.logged_in => self.log_in(tag, user, password).await,
            (Some(CommandName::Authenticate), [mechanism, initial @ ..])
                if !self.logged_in && mechanism.eq_ignore_ascii_case("PLAIN") && initial.len() <= 1 =>
            {
                self.authenticate(tag, initial.first().copied()).await?;
            }
            (Some(CommandName::Namespace), []) if self.logged_in => {
                self.untagged("NAMESPACE ((\"\" \"/\")) NIL NIL");
                self.line(tag, "OK Namespace completed.");
            }
            (Some(CommandName::List), [_, pattern]) if self.logged_in => {
                pause(delays.list).await;
                self.list(pattern);
                self.line(tag, "OK List completed.");
            }
            (Some(command @ (CommandName::Select | CommandName::Examine)), [mailbox]) if self.logged_in => {
                pause(delays.select).await;
                self.select(tag, command, mailbox);
            }
            (Some(CommandName::Fetch), [set, items]) => match (self.selected, FetchItem::parse_all(items)) {
                (Some(mailbox), Some(items)) => self.fetch(tag, mailbox, set, &items).await?,
                (None, _) => self.line(tag, "BAD No mailbox selected."),
                (_, None) => self.line(tag, "BAD Unknown item to fetch."),
            },
            _ => self.line(tag, "BAD Unknown command, wrong arguments, or not in this state."),
        }
        Ok(NextAction::Continue)
    }

    fn capabilities(&self) -> String {
        let starttls = if self.offers_starttls && !self.logged_in { " STARTTLS" } else { "" };
        let state = if self.logged_in { " NAMESPACE SPECIAL-USE" } else { " AUTH=PLAIN" };
        format!("IMAP4rev1 SASL-IR LITERAL+ ID{starttls}{state}")
    }

    async fn log_in(&mut self, tag: &str, user: &str, password: &str) {
        pause(self.settings.delays.login).await;
        if (user, password) == (&*self.settings.user, &*self.settings.password) {
            self.logged_in = true;
            self.line(tag, &format!("OK [CAPABILITY {}] Logged in", self.capabilities()));
        } else {
            self.line(tag, "NO [AUTHENTICATIONFAILED] Authentication failed.");
        }
    }

    /// AUTHENTICATE PLAIN (RFC 4616 §2), with or without an initial response (RFC 4959 §3).
    async fn authenticate(&mut self, tag: &str, initial: Option<&str>) -> io::Result<()> {
        let response = if let Some(initial) = initial {
            initial.to_owned()
        } else {
            self.out.push_str("+ \r\n");
            self.flush().await?;
            let Ok(line) = command::read_line(&mut self.stream).await? else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            line
        };
        let message = STANDARD.decode(&response).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        match message.as_deref().map(|message| message.split('\0').collect::<Vec<_>>()).as_deref() {
            Some([_, user, password]) => self.log_in(tag, user, password).await,
            _ => self.line(tag, "BAD Authentication cancelled, or its response cannot be read."),
        }
        Ok(())
    }

    fn list(&mut self, pattern: &str) {
        if pattern.is_empty() {
            self.untagged("LIST (\\Noselect) \"/\" \"\"");
        }
        for (name, attributes, _) in MAILBOXES {
            let shown = match pattern {
                "*" => true,
                "%" => !name.contains('/'),
                pattern => pattern == name,
            };
            if shown {
                self.untagged(&format!("LIST ({attributes}) \"/\" {name}"));
            }
        }
    }

    fn select(&mut self, tag: &str, command: CommandName, mailbox: &str) {
        self.selected = DemoMailbox::find(mailbox, self.settings.messages);
        let Some(found) = self.selected else {
            self.line(tag, "NO [NONEXISTENT] The mailbox does not exist.");
            return;
        };
        self.untagged("FLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft)");
        self.untagged("OK [PERMANENTFLAGS ()] Nothing is kept.");
        self.untagged(&format!("{} EXISTS", found.messages));
        self.untagged("0 RECENT");
        self.untagged("OK [UIDVALIDITY 1795000000] UIDs valid");
        self.untagged(&format!("OK [UIDNEXT {}] Predicted next UID", found.uid_next()));
        let access = if command == CommandName::Select { "READ-WRITE" } else { "READ-ONLY" };
        self.line(tag, &format!("OK [{access}] Opened."));
    }

    /// Sends the rows as from a slow disk: the first one early, the last one at the end of the delay.
    async fn fetch(&mut self, tag: &str, mailbox: DemoMailbox, set: &str, items: &[FetchItem]) -> io::Result<()> {
        let Some(ranges) = parse_set(set, mailbox.messages) else {
            self.line(tag, "BAD Invalid messageset");
            return Ok(());
        };
        let rows: usize = ranges.iter().map(|(from, to)| (to - from) as usize + 1).sum();
        let between = rows.div_ceil(PAUSES);
        let rest = self.settings.delays.fetch / u32::try_from(rows.div_ceil(between)).unwrap_or(u32::MAX);
        for (row, number) in ranges.into_iter().flat_map(|(from, to)| from..=to).enumerate() {
            if row % between == 0 && !rest.is_zero() {
                self.flush().await?;
                pause(rest).await;
            }
            let message = mailbox.message(number);
            let row: Vec<_> = items.iter().map(|item| item.response(&message)).collect();
            self.untagged(&format!("{number} FETCH ({})", row.join(" ")));
            if self.out.len() > 32 << 10 {
                self.flush().await?;
            }
        }
        self.line(tag, "OK Fetch completed.");
        Ok(())
    }

    fn untagged(&mut self, text: &str) {
        self.line("*", text);
    }

    fn line(&mut self, tag: &str, text: &str) {
        write!(self.out, "{tag} {text}\r\n").unwrap_or(());
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.stream.write_all(self.out.as_bytes()).await?;
        self.out.clear();
        self.stream.flush().await
    }
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

/// Reads a sequence set: `4181:4200`, `7`, `*`, or several with commas; none when a number is not in the mailbox.
fn parse_set(set: &str, messages: u32) -> Option<Vec<(u32, u32)>> {
    let number = |text: &str| match text {
        "*" => Some(messages),
        digits => digits.parse().ok(),
    };
    let range = |text: &str| {
        let (one, other) = text.split_once(':').unwrap_or((text, text));
        let (one, other) = (number(one)?, number(other)?);
        let (from, to) = (one.min(other), one.max(other));
        (from >= 1 && to <= messages).then_some((from, to))
    };
    set.split(',').map(range).collect()
}

/// A data item of FETCH.
enum FetchItem {
    Uid,
    Flags,
    InternalDate,
    Size,
    /// The item's name in the response, and the fields if not all.
    Header(String, Option<Vec<String>>),
}

impl FetchItem {
    /// Reads `(UID FLAGS BODY.PEEK[HEADER.FIELDS (FROM)])` or a single item.
    fn parse_all(text: &str) -> Option<Vec<Self>> {
        let inner = text.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).unwrap_or(text);
        split_words(inner)?.iter().map(|word| Self::parse(word)).collect()
    }

    fn parse(word: &str) -> Option<Self> {
        let word = word.to_ascii_uppercase();
        Some(match word.as_str() {
            "UID" => Self::Uid,
            "FLAGS" => Self::Flags,
            "INTERNALDATE" => Self::InternalDate,
            "RFC822.SIZE" => Self::Size,
            "RFC822.HEADER" => Self::Header(word, None),
            _ => {
                let section =
                    word.strip_prefix("BODY.PEEK[").or_else(|| word.strip_prefix("BODY["))?.strip_suffix(']')?;
                let fields = if section == "HEADER" {
                    None
                } else {
                    let list = section.strip_prefix("HEADER.FIELDS (")?.strip_suffix(')')?;
                    Some(list.split(' ').map(str::to_owned).collect())
                };
                Self::Header(format!("BODY[{section}]"), fields)
            }
        })
    }

    fn response(&self, message: &DemoMessage) -> String {
        match self {
            Self::Uid => format!("UID {}", message.uid),
            Self::Flags => format!("FLAGS ({})", message.flags),
            Self::InternalDate => format!("INTERNALDATE \"{}\"", message.internal_date),
            Self::Size => format!("RFC822.SIZE {}", message.size),
            Self::Header(name, fields) => {
                let header = message.header(fields.as_deref());
                format!("{name} {{{}}}\r\n{header}", header.len())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncBufReadExt as _, DuplexStream},
        time::timeout,
    };

    use super::*;
    use crate::demo::Delays;

    struct Client(BufReader<DuplexStream>);

    impl Client {
        /// A client of a server with 60 messages, greeted; in memory, so that the clock may be a paused one.
        async fn greeted(delays: Delays) -> Self {
            let (client, server) = tokio::io::duplex(256 << 10);
            let settings = Arc::new(DemoSettings { messages: 60, delays, ..DemoSettings::default() });
            tokio::spawn(DemoSession::new(Box::new(server), settings, true).run(true));
            let mut client = Self(BufReader::new(client));
            let greeting = client.line().await;
            assert!(
                greeting.starts_with("* OK [CAPABILITY IMAP4rev1 ") && greeting.contains(" STARTTLS"),
                "{greeting}"
            );
            client
        }

        async fn logged_in(delays: Delays) -> Self {
            let mut client = Self::greeted(delays).await;
            assert!(client.ask("LOGIN demo demo").await.ends_with("Logged in\r\n"));
            client
        }

        async fn line(&mut self) -> String {
            let mut line = String::new();
            self.0.read_line(&mut line).await.unwrap();
            line
        }

        async fn send(&mut self, text: &str) {
            self.0.write_all(text.as_bytes()).await.unwrap();
        }

        /// Reads to the line with the tag `t`, or the end.
        async fn answer(&mut self) -> String {
            let mut answer = String::new();
            loop {
                let line = self.line().await;
                answer.push_str(&line);
                if line.starts_with("t ") || line.is_empty() {
                    return answer;
                }
            }
        }

        async fn ask(&mut self, command: &str) -> String {
            self.send(&format!("t {command}\r\n")).await;
            self.answer().await
        }
    }

    #[tokio::test]
    async fn the_journey_finds_what_it_needs() {
        let mut client = Client::greeted(Delays::NONE).await;
        assert!(client.ask("ID NIL").await.starts_with("* ID (\"name\" \"imaptrace\""));
        let login = client.ask("LOGIN \"demo\" \"demo\"").await;
        assert!(login.starts_with("t OK [CAPABILITY ") && !login.contains("STARTTLS"), "{login}");
        assert!(client.ask("NAMESPACE").await.contains("((\"\" \"/\"))"));
        let list = client.ask("LIST \"\" \"*\"").await;
        assert!(list.contains("* LIST (\\HasNoChildren) \"/\" Entw&APw-rfe\r\n"), "{list}");
        assert_eq!(list.matches("* LIST").count(), MAILBOXES.len());
        let select = client.ask("SELECT INBOX").await;
        assert!(select.contains("* 60 EXISTS\r\n") && select.ends_with("t OK [READ-WRITE] Opened.\r\n"), "{select}");
        let fetch = client
            .ask("FETCH 41:60 (UID FLAGS INTERNALDATE RFC822.SIZE BODY.PEEK[HEADER.FIELDS (Date From Subject)])")
            .await;
        assert_eq!(fetch.matches(" FETCH (UID ").count(), 20, "{fetch}");
        assert!(client.ask("LOGOUT").await.starts_with("* BYE "));
        assert_eq!(client.line().await, "", "the server closes");
    }

    #[tokio::test]
    async fn a_row_is_a_literal_of_exactly_its_announced_size() {
        let mut client = Client::logged_in(Delays::NONE).await;
        client.ask("EXAMINE INBOX").await;
        let fetch = client.ask("FETCH * (FLAGS BODY.PEEK[HEADER.FIELDS (FROM SUBJECT)] UID)").await;
        let (head, rest) = fetch.split_once("}\r\n").unwrap();
        let (item, size) = head.rsplit_once('{').unwrap();
        let (header, tail) = rest.split_at(size.parse().unwrap());
        assert!(item.ends_with(" BODY[HEADER.FIELDS (FROM SUBJECT)] "), "{item}");
        assert!(header.starts_with("From: ") && header.ends_with("\r\n\r\n"), "{header}");
        assert_eq!(tail, " UID 70)\r\nt OK Fetch completed.\r\n");
    }

    #[tokio::test]
    async fn every_way_to_log_in_works_and_a_wrong_password_does_not() {
        for login in [
            "t LOGIN {4+}\r\ndemo {4+}\r\ndemo\r\n".to_owned(),
            format!("t AUTHENTICATE PLAIN {}\r\n", STANDARD.encode("\0demo\0demo")),
        ] {
            let mut client = Client::greeted(Delays::NONE).await;
            client.send(&login).await;
            assert!(client.answer().await.starts_with("t OK "), "{login}");
        }
        let mut client = Client::greeted(Delays::NONE).await;
        client.send("t LOGIN demo {4}\r\n").await;
        assert_eq!(client.line().await, "+ OK\r\n");
        client.send("demo\r\n").await;
        assert!(client.answer().await.starts_with("t OK "));

        let mut client = Client::greeted(Delays::NONE).await;
        assert_eq!(client.ask("LOGIN demo wrong").await, "t NO [AUTHENTICATIONFAILED] Authentication failed.\r\n");
        assert!(client.ask("SELECT INBOX").await.starts_with("t BAD "));
        client.send("t AUTHENTICATE PLAIN\r\n").await;
        assert_eq!(client.line().await, "+ \r\n");
        client.send("*\r\n").await;
        assert!(client.answer().await.starts_with("t BAD "));
        client.send("t AUTHENTICATE PLAIN\r\n").await;
        client.line().await;
        client.send(&format!("{}\r\n", STANDARD.encode("\0demo\0demo"))).await;
        assert!(client.answer().await.starts_with("t OK "));
    }

    #[tokio::test]
    async fn what_is_not_there_is_refused_and_the_session_goes_on() {
        let mut client = Client::logged_in(Delays::NONE).await;
        assert!(client.ask("FETCH 1 UID").await.starts_with("t BAD "));
        assert!(client.ask("SELECT Nothing").await.starts_with("t NO [NONEXISTENT]"));
        assert!(client.ask("SELECT Projects").await.contains("* 0 EXISTS\r\n"));
        assert!(client.ask("FETCH 1:20 UID").await.starts_with("t BAD Invalid messageset"));
        assert!(client.ask("EXAMINE inbox").await.ends_with("[READ-ONLY] Opened.\r\n"));
        assert!(client.ask("FETCH 61 UID").await.starts_with("t BAD "));
        assert!(client.ask("FETCH 1 BODY[TEXT]").await.starts_with("t BAD "));
        assert!(client.ask("STORE 1 FLAGS ()").await.starts_with("t BAD "));
        assert!(client.ask("LIST \"\" (").await.starts_with("t BAD "));
        assert_eq!(client.ask("FETCH 1,59:* UID").await.matches(" FETCH ").count(), 3);
    }

    #[tokio::test]
    async fn an_endless_line_ends_the_session() {
        let mut client = Client::greeted(Delays::NONE).await;
        client.send(&"x".repeat(10_000)).await;
        assert_eq!(client.line().await, "* BYE The command is too long.\r\n");
        assert_eq!(client.line().await, "");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_fetch_begins_early_and_ends_late() {
        let mut client = Client::logged_in(Delays::default()).await;
        client.ask("SELECT INBOX").await;
        client.send("t FETCH 41:60 UID\r\n").await;
        let ms = Duration::from_millis;
        assert!(timeout(ms(30), client.line()).await.is_ok_and(|row| row.starts_with("* 41 FETCH (UID ")));
        assert!(timeout(ms(300), client.answer()).await.is_err(), "20 rows in 350 ms are not there after 330");
        assert!(timeout(ms(80), client.answer()).await.is_ok_and(|rest| rest.ends_with("t OK Fetch completed.\r\n")));
    }
}
