//! Whole conversations: any cut of the server's bytes gives the same events, and none comes where it has no place.
//!
//! `FF` and a byte stand for what the client does next (see [`Client::act`]), where `driver` and `journey` would do it:
//! one command at a time, its parts as the server lets them. All else is the server's.

use super::{Limits, choice, cuts, limits};
use crate::{
    ChallengeReply, Command, Condition, Credentials, Encoded, Event, Mechanism, OffendingLine, Secret, Session,
    SessionProgress, SessionState, StatusResponse, WITHHELD,
};

/// One byte that chooses, then the conversation.
pub fn session(input: &[u8]) {
    let (choice, script) = choice(input);
    let limits = limits(choice);
    let [whole, single, drawn] = [0, 1, 2].map(|way| Client::talk(limits, choice, script, way));
    assert_eq!(single, whole, "byte by byte");
    assert_eq!(drawn, whole, "as drawn");
}

/// All that a conversation shows.
#[derive(Debug, PartialEq)]
struct Outcome {
    lines: Vec<String>,
    state: SessionState,
    progress: SessionProgress,
    partial: Vec<u8>,
    id: (Option<Vec<u8>>, Option<Vec<u8>>),
    capabilities: Option<String>,
}

struct Client {
    limits: Limits,
    session: Session,
    lines: Vec<String>,
    /// All that the server has sent.
    received: Vec<u8>,
    /// Where in it the present step began.
    step: usize,
    running: Option<Running>,
    password: Secret,
    /// The stream cannot be followed any more.
    broken: bool,
    /// FETCH was sent: what comes may be mail.
    fetched: bool,
    tags: u32,
}

/// A command under way.
#[expect(clippy::struct_excessive_bools, reason = "four independent facts about one command")]
struct Running {
    tag: String,
    kind: Kind,
    encoded: Encoded,
    sent: usize,
    waiting: bool,
    /// It is AUTHENTICATE: the server may answer each line.
    asks: bool,
    rows: u64,
    first_byte: bool,
    first_row: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    StartTls,
    Login,
    Select,
    Fetch,
    Logout,
    Other,
}

impl Client {
    fn talk(limits: Limits, choice: u8, script: &[u8], way: usize) -> Outcome {
        let mut client = Self {
            limits,
            session: Session::new(limits),
            lines: Vec::new(),
            received: Vec::new(),
            step: 0,
            running: None,
            password: Secret::new("pässwörd".to_owned()),
            broken: false,
            fetched: false,
            tags: 0,
        };
        let mut parts = script.split(|byte| *byte == 0xff);
        client.receive(&cuts(choice, parts.next().unwrap_or_default())[way]);
        for part in parts {
            let Some((what, bytes)) = part.split_first() else { continue };
            client.act(*what);
            client.receive(&cuts(choice, bytes)[way]);
        }
        let (name, version) = client.session.id();
        Outcome {
            id: (name.map(<[u8]>::to_vec), version.map(<[u8]>::to_vec)),
            lines: client.lines,
            state: client.session.state(),
            progress: client.session.progress().clone(),
            partial: client.session.partial().to_vec(),
            capabilities: client.session.capabilities().map(|known| format!("{known:?}")),
        }
    }

    /// Begins a command where the state lets it (RFC 9051 §3), or leaves the one under way to itself.
    fn act(&mut self, what: u8) {
        let state = self.session.state();
        if self.broken || matches!(state, SessionState::Connected | SessionState::Logout) {
            return;
        }
        if self.running.is_some() {
            if what & 0x40 != 0 && self.session.is_between_commands() {
                self.session.abandon();
                self.running = None;
                self.end_step();
                self.begin(Kind::Logout, &Command::Logout);
            }
            return;
        }
        let password = self.password.clone();
        let (user, password) = (if what & 0x20 == 0 { "user" } else { "üser" }, &password);
        let mailbox = if what & 0x20 == 0 { "INBOX" } else { "日本" };
        let inside = matches!(state, SessionState::Authenticated | SessionState::Selected);
        match (what & 0x0f, inside, state == SessionState::Selected) {
            (0, ..) => self.begin(Kind::Other, &Command::Capability),
            (1, false, _) => self.begin(Kind::StartTls, &Command::StartTls),
            (2, ..) => {
                let session = (what & 0x10 != 0).then_some("4bf92f3577b34da6a3ce929d0e0e4736");
                self.begin(Kind::Other, &Command::Id { session });
            }
            (3, false, _) => self.begin(Kind::Login, &Command::Login { user, password }),
            (4 | 13 | 14, false, _) => {
                let mechanism = match what & 0x0f {
                    4 => Mechanism::Plain,
                    13 => Mechanism::ScramSha256,
                    _ => Mechanism::External,
                };
                let credentials = Credentials { authzid: None, user, password };
                self.begin(Kind::Login, &Command::Authenticate { mechanism, credentials });
            }
            (5, true, _) => self.begin(Kind::Other, &Command::Namespace),
            (6, true, _) => self.begin(Kind::Other, &Command::List),
            (7, true, _) => self.begin(Kind::Select, &Command::Select { mailbox, read_only: what & 0x10 != 0 }),
            (8, _, true) => {
                let (from, to) = if what & 0x10 == 0 { (5, 24) } else { (1, 1) };
                self.begin(Kind::Fetch, &Command::Fetch { from, to, whole: what & 0x20 != 0 });
            }
            (9, true, _) => self.begin(Kind::Other, &Command::Create { mailbox }),
            (10, _, true) => self.begin(Kind::Other, &Command::SearchHeader { field: "X-Mark" }),
            (11, true, _) => {
                let date = "02-Mar-2026 09:15:00 +0100";
                self.begin(Kind::Other, &Command::Append { mailbox, seen: true, date, message: b"A: b\r\n\r\nc" });
            }
            (12, ..) => self.begin(Kind::Logout, &Command::Logout),
            _ => {}
        }
    }

    fn begin(&mut self, kind: Kind, command: &Command<'_>) {
        self.tags += 1;
        let tag = format!("t{}", self.tags);
        let rows = match command {
            Command::Fetch { from, to, .. } => u64::from(to - from + 1),
            _ => 0,
        };
        let asks = matches!(command, Command::Authenticate { .. });
        self.fetched |= kind == Kind::Fetch;
        let encoded = self.session.begin(&tag, command);
        let (sent, waiting, first_byte, first_row) = (0, false, false, false);
        self.running = Some(Running { tag, kind, encoded, sent, waiting, asks, rows, first_byte, first_row });
        self.send();
    }

    /// What came up to here is counted, and what comes now counts among the next step's.
    fn end_step(&mut self) {
        let progress = self.session.take_progress();
        assert_eq!(progress.received, (self.received.len() - self.step) as u64, "bytes in are bytes counted");
        self.step = self.received.len();
    }

    fn send(&mut self) {
        let Some(running) = &mut self.running else { return };
        let Some(part) = running.encoded.parts.get(running.sent) else { return };
        running.sent += 1;
        let last = running.sent == running.encoded.parts.len();
        running.waiting = part.then_wait || (last && running.asks);
        self.session.sent(part.then_wait, last);
    }

    /// What `reply` does: a challenge is answered, or the exchange is given up.
    fn reply(&mut self) {
        let Some(answer) = self.session.answer() else { return self.send() };
        let Some(running) = &mut self.running else { return };
        match answer {
            ChallengeReply::Line(_) => {
                running.waiting = true;
                self.session.sent(false, true);
            }
            // None goes on from a nonce that it cannot know.
            ChallengeReply::Hash(_) => panic!("there is something to hash"),
            ChallengeReply::Cancel(_) => assert_eq!(self.session.cancel(), b"*\r\n"),
        }
    }

    fn receive(&mut self, pieces: &[&[u8]]) {
        for piece in pieces {
            let mut rest = *piece;
            while !rest.is_empty() && !self.broken {
                let before = self.session.state();
                let (taken, event, words) = match self.session.receive(rest) {
                    Ok((taken, event)) => {
                        let words = match &event {
                            Some(Event::Alert(text) | Event::Bye(StatusResponse { text, .. })) => {
                                Some(*text != WITHHELD)
                            }
                            _ => None,
                        };
                        (taken, event.map(|event| EventKind::from(&event)), words)
                    }
                    Err(violation) => {
                        let line = self.session.offending_line();
                        assert!(
                            !self.fetched || matches!(line, OffendingLine::Withheld { .. }),
                            "mail may be in {line:?}"
                        );
                        self.lines.push(format!("violation: {violation}: {line:?}"));
                        self.broken = true;
                        break;
                    }
                };
                assert!(taken > 0 || event == Some(EventKind::FirstByte), "nothing was taken");
                assert!(words != Some(true) || self.session.trusts_untagged(), "the words may be mail");
                self.received.extend_from_slice(rest.get(..taken).unwrap_or_default());
                rest = rest.get(taken..).unwrap_or_default();
                self.within_limits();
                let after = self.session.state();
                match event {
                    Some(event) => {
                        self.lines.push(format!("{} {event:?}", self.received.len()));
                        self.take(&event, before, after);
                    }
                    None => assert_eq!(before, after, "the state changed in silence"),
                }
            }
        }
    }

    fn within_limits(&self) {
        let progress = self.session.progress();
        assert!(
            progress.received <= self.limits.command_bytes && self.received.len() as u64 <= self.limits.session_bytes
        );
        assert!(progress.untagged <= self.limits.responses);
        assert!(self.session.partial().len() <= 2 * self.limits.line.max(64) + 2);
        let rows = self.running.as_ref().map_or(0, |running| running.rows);
        assert!(progress.rows <= rows, "{} rows of {rows}", progress.rows);
    }

    /// Whether the event has a place here, and the state is what it makes of it.
    fn take(&mut self, event: &EventKind, before: SessionState, after: SessionState) {
        let expected = match (event, &mut self.running) {
            (EventKind::Greeting(condition), None) => {
                assert_eq!(before, SessionState::Connected, "a second greeting");
                self.end_step();
                match condition {
                    Condition::Ok => SessionState::NotAuthenticated,
                    Condition::Preauth => SessionState::Authenticated,
                    _ => SessionState::Logout,
                }
            }
            (EventKind::FirstByte, Some(running)) => {
                assert!(!std::mem::replace(&mut running.first_byte, true), "a second first byte");
                before
            }
            (EventKind::FirstRow, Some(running)) => {
                assert_eq!(running.kind, Kind::Fetch);
                assert!(!std::mem::replace(&mut running.first_row, true), "a second first row");
                before
            }
            (EventKind::Continuation, Some(running)) => {
                assert!(std::mem::replace(&mut running.waiting, false), "no command waits for it");
                self.reply();
                before
            }
            (EventKind::Alert | EventKind::Warning, _) => before,
            (EventKind::Bye, _) => SessionState::Logout,
            (EventKind::Tagged(condition), Some(_)) => {
                let Some(ended) = self.running.take() else { return };
                let ok = *condition == Condition::Ok;
                assert!(!ok || ended.sent == ended.encoded.parts.len(), "done before it was asked");
                assert!(ended.first_byte, "its first byte was reported");
                assert!(self.has_tagged(&ended.tag), "the server never sent {}", ended.tag);
                self.end_step();
                if ended.kind == Kind::StartTls && ok {
                    self.session.secured();
                    assert!(self.session.capabilities().is_none(), "what was learned in clear text is void");
                }
                match ended.kind {
                    _ if before == SessionState::Logout => before,
                    Kind::Login if ok => {
                        assert_eq!(before, SessionState::NotAuthenticated);
                        SessionState::Authenticated
                    }
                    Kind::Select if ok => SessionState::Selected,
                    Kind::Select => SessionState::Authenticated,
                    Kind::Logout if ok => SessionState::Logout,
                    _ => before,
                }
            }
            (event, None) => panic!("{event:?}, and no command runs"),
            (event, Some(_)) => panic!("{event:?} while a command runs"),
        };
        assert_eq!(after, expected, "{event:?} in {before:?}");
    }

    /// Whether a line that was received begins with this tag, whole.
    fn has_tagged(&self, tag: &str) -> bool {
        self.received.split(|byte| *byte == b'\n').any(|line| {
            line.strip_prefix(tag.as_bytes()).is_some_and(|behind| behind.first().is_some_and(|byte| *byte == b' '))
        })
    }
}

/// An event that borrows nothing, with its words left out.
#[derive(Debug, PartialEq)]
enum EventKind {
    Greeting(Condition),
    FirstByte,
    FirstRow,
    Continuation,
    Alert,
    Warning,
    Bye,
    Tagged(Condition),
}

impl From<&Event> for EventKind {
    fn from(event: &Event) -> Self {
        let condition = |status: &StatusResponse| status.condition;
        match event {
            Event::Greeting(status) => Self::Greeting(condition(status)),
            Event::FirstByte => Self::FirstByte,
            Event::FirstRow => Self::FirstRow,
            Event::Continuation => Self::Continuation,
            Event::Alert(_) => Self::Alert,
            Event::Warning(_) => Self::Warning,
            Event::Bye(_) => Self::Bye,
            Event::Tagged(status) => Self::Tagged(condition(status)),
        }
    }
}
