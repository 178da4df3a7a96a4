//! The conversation of a run, line by line with its times, for `probe --verbose`; without secrets and mail.
//!
//! Passwords and SASL messages never get here; literals, SASL lines, FETCH rows and what may be mail by `imap`'s judgement are
//! shown by their sizes. All else is redacted as in the record, on a thread of its own since that takes long.
//!
//! `driver` and `sasl` report lines, `journey` and `reach` the steps before them. It is not recorded, and the agent has none.

use std::{
    fmt,
    sync::{Arc, mpsc},
    thread,
    time::Instant,
};

use imaptrace_imap::{Command, Condition, Frame, OffendingLine};
use imaptrace_record::{ConversationLine, LineOrigin, Seconds, Step};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::redact::Redactor;
use crate::clock::{self, Anchor};

/// Receives the lines of a conversation. It may block: it has a thread of its own.
#[derive(Clone)]
pub struct LineSink(Arc<dyn Fn(&ConversationLine) + Send + Sync>);

impl LineSink {
    /// A sink that calls `write` for each line, in order.
    pub fn new(write: impl Fn(&ConversationLine) + Send + Sync + 'static) -> Self {
        Self(Arc::new(write))
    }
}

impl fmt::Debug for LineSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LineSink")
    }
}

/// Longest line that is shown, in bytes.
const LONGEST: usize = 1024;
/// The most untagged lines of a command that are shown; the rest are counted.
const SHOWN: u64 = 1000;

/// A line before it is redacted: its time, its sender, and its text.
type TranscriptEntry = (Seconds, LineOrigin, Zeroizing<Vec<u8>>);

/// See the module's head.
pub(super) struct Transcript {
    entries: mpsc::Sender<TranscriptEntry>,
    written: oneshot::Receiver<()>,
    anchor: Anchor,
    alias: String,
    /// A SASL exchange is under way: continuations are its messages.
    sasl: bool,
    /// Untagged responses since the last command; the number of those not shown, and their octets.
    untagged: u64,
    hidden: (u64, u64),
}

impl Transcript {
    /// Starts the thread that redacts and writes. None if there can be no thread: the run goes on without.
    pub(super) fn start(sink: LineSink, redactor: Redactor, alias: &str, anchor: Anchor) -> Option<Self> {
        let (entries, received) = mpsc::channel::<TranscriptEntry>();
        let (done, written) = oneshot::channel();
        let write = move || {
            for (at_s, sender, text) in received {
                let text = redactor.text(&text, LONGEST);
                (sink.0)(&ConversationLine { at_s, sender, text });
            }
            drop(done);
        };
        thread::Builder::new().name("transcript".to_owned()).spawn(write).ok()?;
        let alias = alias.to_owned();
        Some(Self { entries, written, anchor, alias, sasl: false, untagged: 0, hidden: (0, 0) })
    }

    /// Ends it, and waits until all lines are written.
    pub(super) async fn finish(mut self) {
        self.report_hidden(clock::now());
        drop(self.entries);
        // An error, too, is the end of the thread.
        drop(self.written.await);
    }

    /// A part of a command that is about to be sent; `first` for the part that begins it.
    pub(super) fn sending(&mut self, tag: &str, command: &Command<'_>, part: &[u8], first: bool) {
        let at = clock::now();
        if first {
            self.report_hidden(at);
            (self.untagged, self.sasl) = (0, matches!(command, Command::Authenticate { .. }));
        }
        match command {
            Command::Login { .. } if first => {
                let line = format!("{tag} LOGIN [{}] [redacted]", self.alias);
                self.line(at, LineOrigin::Client, line);
            }
            Command::Login { .. } => {}
            Command::Authenticate { .. } if !first => self.sending_sasl(part),
            Command::Authenticate { mechanism, .. } => {
                let line = format!("{tag} AUTHENTICATE {}", mechanism.as_str());
                // What follows the mechanism is the initial response (RFC 9051 §6.2.2), and then CRLF.
                let initial = part.len().saturating_sub(line.len() + " \r\n".len());
                let initial = if initial > 0 { format!(" ({initial} octets)") } else { String::new() };
                self.line(at, LineOrigin::Client, line + &initial);
            }
            _ => {
                let text = part.strip_suffix(b"\r\n").unwrap_or(part);
                self.entry(at, LineOrigin::Client, text.to_vec());
            }
        }
    }

    /// A SASL message that is about to be sent.
    pub(super) fn sending_sasl(&mut self, line: &[u8]) {
        let octets = line.strip_suffix(b"\r\n").unwrap_or(line).len();
        self.line(clock::now(), LineOrigin::Client, format!("({octets} octets)"));
    }

    /// A whole response. `shown` if its words are the server's and no mail.
    pub(super) fn received(&mut self, frame: &Frame<'_>, shown: bool, at: Instant) {
        let text = frame.text;
        let kept = frame.kept.iter().map(|(_, len)| len).sum::<usize>();
        let octets = text.len().saturating_sub(kept) as u64 + frame.literal_bytes;
        if let Some(continuation) = text.strip_prefix(b"+") {
            let size = continuation.strip_prefix(b" ").unwrap_or(continuation).len();
            if self.sasl {
                self.line(at, LineOrigin::Server, format!("+ ({size} octets)"));
            } else {
                self.entry(at, LineOrigin::Server, text.to_vec());
            }
            return;
        }
        let words = words(text);
        if words[0] != b"*" {
            // The tagged line, or a line in its place.
            self.report_hidden(at);
            if shown {
                self.entry(at, LineOrigin::Server, without_literals(frame));
            } else {
                self.line(at, LineOrigin::Server, format!("({octets} octets, not shown)"));
            }
            return;
        }
        self.untagged += 1;
        if self.untagged > SHOWN {
            self.hidden = (self.hidden.0 + 1, self.hidden.1 + octets);
            return;
        }
        if frame.row.is_some() {
            let literals = match (frame.literals, frame.literal_bytes) {
                (0, _) => String::new(),
                (1, bytes) => format!(", a literal of {bytes}"),
                (several, bytes) => format!(", {several} literals of {bytes}"),
            };
            let number = String::from_utf8_lossy(words[1].get(..10).unwrap_or(words[1])).into_owned();
            return self.line(at, LineOrigin::Server, format!("* {number} FETCH ({octets} octets{literals})"));
        }
        if !shown {
            let condition = Condition::parse(words[1]).filter(|condition| *condition != Condition::Preauth);
            let name = condition.map_or_else(|| "*".to_owned(), |condition| format!("* {condition}"));
            return self.line(at, LineOrigin::Server, format!("{name} ({octets} octets, not shown)"));
        }
        self.entry(at, LineOrigin::Server, without_literals(frame));
    }

    /// The line in which a violation of the protocol was found.
    pub(super) fn offending(&mut self, line: &OffendingLine<'_>, at: Instant) {
        match line {
            OffendingLine::Text(text) => self.entry(at, LineOrigin::Server, text.to_vec()),
            OffendingLine::Withheld { .. } => self.line(at, LineOrigin::Server, format!("({line})")),
        }
    }

    /// A response that ended early, after this many octets.
    pub(super) fn incomplete(&mut self, octets: usize, at: Instant) {
        if octets > 0 {
            self.line(at, LineOrigin::Server, format!("({octets} octets of an incomplete response)"));
        }
    }

    /// A step that is no command.
    pub(super) fn step(&mut self, step: &Step) {
        let mut facts = Vec::new();
        if let Some(dns) = &step.dns {
            facts.extend(dns.answers.iter().map(ToString::to_string));
        }
        if let Some(connect) = &step.connect {
            facts.extend(connect.attempts.last().map(|attempt| attempt.peer.to_string()));
        }
        if let Some(tls) = &step.tls {
            facts.extend(tls.version.as_ref().map(|version| format!("TLS {version}")));
            facts.extend(tls.cipher.clone());
        }
        let text = format!("{}: {}", step.name, facts.join(", "));
        self.send(step.end_s(), LineOrigin::Connection, text.into_bytes());
    }

    /// An event of the connection.
    pub(super) fn event(&mut self, text: &str, at: Instant) {
        self.line(at, LineOrigin::Connection, text.to_owned());
    }

    fn report_hidden(&mut self, at: Instant) {
        let (responses, octets) = std::mem::take(&mut self.hidden);
        if responses > 0 {
            self.line(at, LineOrigin::Connection, format!("{responses} more untagged responses of {octets} octets"));
        }
    }

    fn line(&self, at: Instant, sender: LineOrigin, text: String) {
        self.entry(at, sender, text.into_bytes());
    }

    fn entry(&self, at: Instant, sender: LineOrigin, text: Vec<u8>) {
        self.send(self.anchor.since(at).into(), sender, text);
    }

    fn send(&self, at_s: Seconds, sender: LineOrigin, mut text: Vec<u8>) {
        // More of it would be redacted only to be cut.
        text.truncate(4 * LONGEST);
        // A thread that has ended writes nothing.
        drop(self.entries.send((at_s, sender, Zeroizing::new(text))));
    }
}

/// The first two words.
fn words(text: &[u8]) -> [&[u8]; 2] {
    let mut words = text.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    [words.next().unwrap_or_default(), words.next().unwrap_or_default()]
}

/// A response's text without its literals, whose sizes stand before them.
fn without_literals(frame: &Frame<'_>) -> Vec<u8> {
    let mut text = Vec::with_capacity(frame.text.len());
    let mut from = 0;
    for (at, len) in frame.kept {
        text.extend_from_slice(frame.text.get(from..*at).unwrap_or_default());
        from = at + len;
    }
    text.extend_from_slice(frame.text.get(from..).unwrap_or_default());
    text
}
