//! The sessions that are reported at present: the events of each, and by which keys it is found. Bounded by the caller. Called by
//! `store`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    hash::Hash,
    sync::Arc,
    time::Instant,
};

use imaptrace_record::ServerEventName;

use super::{
    dovecot_event::{ConnectionEnds, EventKeys, ReportedEvent, ReportedKind, parse},
    process_report::ReportedUsage,
    run_keys::RunKeys,
};

/// The most events that are kept of a session: a run has some 12, and one more for each mail that the server opens.
const EVENTS_OF_A_SESSION: usize = 1_024;
/// The most events of opened mails that are kept one by one. Of more, those with the same command and reason are only
/// counted: a `FETCH` of thousands of mails reports all of them before its own end and before the end of the session, and
/// these need room.
const MAILS_OF_A_SESSION: usize = 512;
/// Bytes of memory of an event that is only counted: its hash, in a set with room to grow.
const HASH_BYTES: usize = 32;
/// Bytes of memory that a session takes in the indices, nearly.
const SESSION_BYTES: usize = 2_304;
/// The most sessions with one tag, one name, or the same connection: a proxy and its back ends have one each.
const SESSIONS_OF_A_KEY: usize = 64;
/// Bytes of memory that a tag takes in its session and in the index, nearly.
const TAG_BYTES: usize = 128;

/// What one sender has reported about a session.
pub(super) struct ReportedSession {
    pub(super) sender: Arc<str>,
    pub(super) session: Option<String>,
    pub(super) events: Vec<ReportedEvent>,
    pub(super) usage: Vec<ReportedUsage>,
    /// When its end was reported.
    pub(super) finished_at: Option<Instant>,
    /// Events of opened mails that are kept one by one.
    mails: usize,
    /// Events that are only counted, with another.
    further: usize,
    pub(super) began: Instant,
    tags: BTreeSet<String>,
    ends: Option<ConnectionEnds>,
    /// The hashes of the events' bodies.
    seen: HashSet<u64>,
    bytes: usize,
}

/// What a body reports.
pub(super) enum ReportedItem {
    /// An event of the server.
    Event(ReportedEvent),
    /// What one of its processes used.
    Usage(ReportedUsage),
}

impl ReportedItem {
    /// Reads a body; none when it is of no use for a run.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        parse(body).map(Self::Event).or_else(|| ReportedUsage::parse(body).map(Self::Usage))
    }

    /// What it is joined with a run by.
    pub(super) fn keys(&self) -> EventKeys<'_> {
        match self {
            Self::Event(event) => event.keys(),
            Self::Usage(usage) => {
                EventKeys { session: usage.session.as_deref(), ends: usage.ends, ..EventKeys::default() }
            }
        }
    }

    fn held_bytes(&self) -> usize {
        match self {
            Self::Event(event) => event.held_bytes(),
            Self::Usage(usage) => usage.held_bytes(),
        }
    }
}

impl ReportedSession {
    /// How many events have been reported.
    pub(super) fn count(&self) -> usize {
        self.events.len() + self.usage.len() + self.further
    }

    /// The tags of the commands that have ended.
    pub(super) fn finished_commands(&self) -> impl Iterator<Item = &str> {
        let is_command =
            |event: &&ReportedEvent| event.what == ReportedKind::Span(ServerEventName::ImapCommandFinished);
        self.events.iter().filter(is_command).filter_map(|event| event.tag.as_deref())
    }

    /// The event that this one can be counted with: of a mail that was opened for the same reason and in the same command. Without
    /// a tag that is the command which has not ended yet.
    fn same_mail(&mut self, report: &ReportedItem) -> Option<&mut ReportedEvent> {
        let ReportedItem::Event(new) = report else { return None };
        if new.what != ReportedKind::MailOpened || self.mails < MAILS_OF_A_SESSION {
            return None;
        }
        let is_open = |known: &&mut ReportedEvent| {
            new.tag.is_some() || known.what != ReportedKind::Span(ServerEventName::ImapCommandFinished)
        };
        let is_same = |known: &&mut ReportedEvent| {
            (known.what, known.command) == (new.what, new.command)
                && (&known.host, &known.tag, &known.reason) == (&new.host, &new.tag, &new.reason)
        };
        self.events.iter_mut().rev().take_while(is_open).find(is_same)
    }
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Added {
    /// It is kept.
    Kept,
    /// The same event was there already.
    Repeated,
    /// Its session has too many.
    Full,
}

/// All of them, the oldest first.
#[derive(Default)]
pub(super) struct Sessions {
    all: BTreeMap<u64, ReportedSession>,
    next: u64,
    by_session: HashMap<String, Vec<u64>>,
    by_tag: HashMap<String, Vec<u64>>,
    by_ends: HashMap<ConnectionEnds, Vec<u64>>,
    pub(super) bytes: usize,
}

impl Sessions {
    /// Adds an event with the hash of its body.
    pub(super) fn add(&mut self, sender: &Arc<str>, report: ReportedItem, hash: u64, now: Instant) -> Added {
        let EventKeys { session, tag, ends, finishes } = report.keys();
        let known = session.and_then(|session| {
            let ids = self.by_session.get(session)?;
            ids.iter().copied().find(|id| self.all.get(id).is_some_and(|known| known.sender == *sender))
        });
        if known.is_none() && self.is_crowded(session, tag, ends) {
            return Added::Full;
        }
        let id = known.unwrap_or_else(|| self.begin(sender.clone(), session, now));
        let Some(reported) = self.all.get_mut(&id) else { return Added::Full };
        if !reported.seen.insert(hash) {
            return Added::Repeated;
        }
        if let Some(known) = reported.same_mail(&report) {
            known.further += 1;
            reported.further += 1;
            reported.bytes += HASH_BYTES;
            self.bytes += HASH_BYTES;
            return Added::Kept;
        }
        if reported.events.len() + reported.usage.len() >= EVENTS_OF_A_SESSION {
            reported.seen.remove(&hash);
            return Added::Full;
        }
        let mut bytes = report.held_bytes();
        if let Some(tag) = tag
            && !reported.tags.contains(tag)
        {
            bytes += TAG_BYTES;
            reported.tags.insert(tag.to_owned());
            self.by_tag.entry(tag.to_owned()).or_default().push(id);
        }
        if let Some(ends) = ends
            && reported.ends.is_none()
        {
            reported.ends = Some(ends);
            self.by_ends.entry(ends).or_default().push(id);
        }
        match report {
            ReportedItem::Event(event) => {
                reported.mails += usize::from(event.what == ReportedKind::MailOpened);
                reported.events.push(event);
            }
            ReportedItem::Usage(usage) => reported.usage.push(usage),
        }
        if finishes {
            reported.finished_at.get_or_insert(now);
        }
        reported.bytes += bytes;
        self.bytes += bytes;
        Added::Kept
    }

    /// Whether so many sessions have one of these keys that no more are kept.
    fn is_crowded(&self, session: Option<&str>, tag: Option<&str>, ends: Option<ConnectionEnds>) -> bool {
        let named = session.and_then(|session| self.by_session.get(session));
        let tagged = tag.and_then(|tag| self.by_tag.get(tag));
        let connected = ends.and_then(|ends| self.by_ends.get(&ends));
        [named, tagged, connected].into_iter().flatten().any(|ids| ids.len() >= SESSIONS_OF_A_KEY)
    }

    fn begin(&mut self, sender: Arc<str>, session: Option<&str>, now: Instant) -> u64 {
        let id = self.next;
        self.next += 1;
        if let Some(session) = session {
            self.by_session.entry(session.to_owned()).or_default().push(id);
        }
        let new = ReportedSession {
            sender,
            session: session.map(str::to_owned),
            events: Vec::new(),
            usage: Vec::new(),
            finished_at: None,
            mails: 0,
            further: 0,
            began: now,
            tags: BTreeSet::new(),
            ends: None,
            seen: HashSet::new(),
            bytes: SESSION_BYTES,
        };
        self.bytes += SESSION_BYTES;
        self.all.insert(id, new);
        id
    }

    /// Removes a session.
    pub(super) fn remove(&mut self, id: u64) -> Option<ReportedSession> {
        let gone = self.all.remove(&id)?;
        self.bytes -= gone.bytes;
        if let Some(session) = &gone.session {
            forget(&mut self.by_session, session, id);
        }
        for tag in &gone.tags {
            forget(&mut self.by_tag, tag, id);
        }
        if let Some(ends) = &gone.ends {
            forget(&mut self.by_ends, ends, id);
        }
        Some(gone)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let is_indexed = !(self.by_session.is_empty() && self.by_tag.is_empty() && self.by_ends.is_empty());
        self.all.is_empty() && !is_indexed && self.bytes == 0
    }

    pub(super) fn get(&self, id: u64) -> Option<&ReportedSession> {
        self.all.get(&id)
    }

    /// The oldest one.
    pub(super) fn oldest(&self) -> Option<(u64, &ReportedSession)> {
        self.all.first_key_value().map(|(id, session)| (*id, session))
    }

    /// The sessions with a tag of this run.
    pub(super) fn with_tag(&self, run: &RunKeys) -> BTreeSet<u64> {
        run.tags.iter().filter_map(|tag| self.by_tag.get(tag)).flatten().copied().collect()
    }

    /// The sessions of this name, of any sender.
    pub(super) fn named(&self, session: &str) -> impl Iterator<Item = u64> {
        self.by_session.get(session).into_iter().flatten().copied()
    }

    /// The sessions over the connection of this run that were first reported after it began, and have no tag of another. A connection
    /// has one session at a server: of several of one sender the first is this run's, and the others are of later connections with
    /// the same ports.
    pub(super) fn over_connection(&self, run: &RunKeys) -> impl Iterator<Item = u64> {
        let ids = run.ends.as_ref().and_then(|ends| self.by_ends.get(ends)).into_iter().flatten().copied();
        let mut senders = HashSet::new();
        ids.filter(move |id| {
            let Some(known) = self.all.get(id) else { return false };
            let is_free = known.tags.is_empty() || run.tags.iter().any(|tag| known.tags.contains(tag));
            // Without a name each event is a session of its own.
            known.began >= run.began && is_free && (known.session.is_none() || senders.insert(&known.sender))
        })
    }
}

/// Removes a session from an index, and the key with the last one.
fn forget<K: Eq + Hash>(index: &mut HashMap<K, Vec<u64>>, key: &K, id: u64) {
    if let Some(ids) = index.get_mut(key) {
        ids.retain(|known| *known != id);
        if ids.is_empty() {
            index.remove(key);
        }
    }
}
