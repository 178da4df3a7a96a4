//! The latest samples: those of the sessions that are accounted, and those of pre-login processes. These are Dovecot's login
//! and authentication processes: they serve a connection before it has a process of its own. In memory, bounded. Does no
//! I/O. Filled by `sampler`, read by the agent when a run has ended.

use std::{
    cmp::Reverse,
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime},
};

use imaptrace_record::ServerProcessName;

use super::series::{SampleSeries, UsageSample};

/// The most samples of all processes, of 64 bytes each: 8 MiB. A process that is idle has two.
const SAMPLES: usize = 128 << 10;
/// The most sessions that are kept, those that have ended included.
const SESSIONS: usize = 512;

/// Which process it is, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ProcessIdentity {
    /// A number that no other process has: of its id and its start.
    pub(super) id: u64,
    /// When it started, by the wall clock.
    pub(super) started: SystemTime,
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct SampleStore {
    pre_login: Vec<PreLoginSamples>,
    sessions: VecDeque<SessionSamples>,
    samples: usize,
    /// How long samples are kept.
    keep: Duration,
    next: u64,
}

#[derive(Debug)]
struct PreLoginSamples {
    process: ServerProcessName,
    identity: ProcessIdentity,
    series: SampleSeries,
}

#[derive(Debug)]
struct SessionSamples {
    number: u64,
    login: SessionLogin,
    identity: ProcessIdentity,
    series: SampleSeries,
    ended: bool,
    is_handed_over: bool,
}

/// A login whose session is accounted. Nothing else of its line is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SessionLogin {
    /// When its line was read.
    pub(super) at: SystemTime,
    pub(super) session: Option<String>,
    pub(super) client: Option<IpAddr>,
    pub(super) server: Option<IpAddr>,
    /// The server's end of the connection, and the client's.
    pub(super) ends: Option<(SocketAddr, SocketAddr)>,
}

/// What a session is found by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionQuery {
    /// Dovecot's names of it, by its events.
    pub names: Vec<String>,
    /// The server's end of its connection, and the client's.
    pub ends: Option<(SocketAddr, SocketAddr)>,
    /// When the run began, by the wall clock.
    pub begin: SystemTime,
    /// When it ended.
    pub end: SystemTime,
}

/// The samples of one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessUsage {
    /// What it is.
    pub process: ServerProcessName,
    /// A number that no other process has.
    pub id: u64,
    /// When it started, by the wall clock.
    pub started: SystemTime,
    /// In time order.
    pub samples: Vec<UsageSample>,
}

/// The samples of a session that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedSession {
    /// Dovecot's name of it.
    pub session: Option<String>,
    /// The server's end of its connection, and the client's, if they were logged.
    pub ends: Option<(SocketAddr, SocketAddr)>,
    /// Its own process, and those that took part in its login.
    pub processes: Vec<ProcessUsage>,
}

impl SampleStore {
    pub(super) fn new(keep: Duration) -> Self {
        Self { pre_login: Vec::new(), sessions: VecDeque::new(), samples: 0, keep, next: 0 }
    }

    pub(super) fn keep_for(&mut self, keep: Duration) {
        self.keep = keep;
    }

    // === What is sampled ===

    /// Adds a sample of a login or authentication process.
    pub(super) fn add_pre_login(&mut self, process: ServerProcessName, identity: ProcessIdentity, sample: UsageSample) {
        let known = self.pre_login.iter().position(|process| process.identity.id == identity.id);
        let at = known.unwrap_or_else(|| {
            self.pre_login.push(PreLoginSamples { process, identity, series: SampleSeries::default() });
            self.pre_login.len() - 1
        });
        if let Some(process) = self.pre_login.get_mut(at) {
            self.samples += usize::from(process.series.push(sample));
        }
        self.shrink();
    }

    /// Begins the samples of a session, and returns their number.
    pub(super) fn begin(&mut self, login: SessionLogin, identity: ProcessIdentity) -> u64 {
        if self.sessions.len() >= SESSIONS
            && let Some(oldest) = self.sessions.pop_front()
        {
            self.samples -= oldest.series.len();
        }
        let number = self.next;
        self.next += 1;
        let series = SampleSeries::default();
        self.sessions.push_back(SessionSamples {
            number,
            login,
            identity,
            series,
            ended: false,
            is_handed_over: false,
        });
        number
    }

    /// Adds a sample of the process of a session.
    pub(super) fn add(&mut self, number: u64, sample: UsageSample) {
        if let Some(session) = self.sessions.iter_mut().find(|session| session.number == number) {
            self.samples += usize::from(session.series.push(sample));
        }
        self.shrink();
    }

    /// The process of a session has ended, or serves another one.
    pub(super) fn end(&mut self, number: u64) {
        if let Some(session) = self.sessions.iter_mut().find(|session| session.number == number) {
            session.ended = true;
        }
    }

    /// Removes what is older than it is kept.
    pub(super) fn expire(&mut self, now: SystemTime) {
        let begin = now.checked_sub(self.keep).unwrap_or(SystemTime::UNIX_EPOCH);
        let is_new = |series: &SampleSeries| series.last().is_some_and(|last| last.at >= begin);
        for series in self.series() {
            series.remove_before(begin);
        }
        self.pre_login.retain(|process| is_new(&process.series));
        self.sessions.retain(|session| !session.ended || is_new(&session.series));
        self.samples = self.series().map(|series| series.len()).sum();
    }

    fn series(&mut self) -> impl Iterator<Item = &mut SampleSeries> {
        let pre_login = self.pre_login.iter_mut().map(|process| &mut process.series);
        pre_login.chain(self.sessions.iter_mut().map(|session| &mut session.series))
    }

    /// Removes the oldest samples of the longest series while there are too many.
    fn shrink(&mut self) {
        while self.samples > SAMPLES {
            let longest = self.series().max_by_key(|series| series.len());
            if !longest.is_some_and(SampleSeries::pop) {
                break;
            }
            self.samples -= 1;
        }
    }

    // === What is read ===

    /// The samples for a run: of its session's process, if that is found, and of the processes that take part in logins. None where
    /// nothing shows that its server is on this host.
    pub(super) fn of_run(&self, query: &SessionQuery) -> Vec<ProcessUsage> {
        let session = self.find(query);
        // A connection of this host to itself: its server is here. Else the session shows it.
        let is_local = query.ends.is_some_and(|(server, client)| server.ip() == client.ip());
        if session.is_none() && !is_local {
            return Vec::new();
        }
        let mut usage = self.pre_login_between(query.begin, query.end);
        usage.extend(session.and_then(|session| session.usage(query.begin, query.end)));
        usage
    }

    /// The session of a run: by its name; if no name is known, by both ends of its connection; if those were not logged, by the
    /// addresses of client and server, if no other session began within the run.
    fn find(&self, query: &SessionQuery) -> Option<&SessionSamples> {
        let mut sessions = self.sessions.iter();
        if !query.names.is_empty() {
            let is_named = |session: &&SessionSamples| {
                session.login.session.as_ref().is_some_and(|name| query.names.contains(name))
            };
            return sessions.find(is_named);
        }
        let ends = query.ends?;
        let within = |session: &&SessionSamples| session.login.at >= query.begin && session.login.at <= query.end;
        let may_be: Vec<_> = sessions
            .filter(within)
            .filter(|session| {
                let login = &session.login;
                let is_client = login.client == Some(ends.1.ip());
                let is_server = login.server.is_none_or(|server| server == ends.0.ip());
                login.ends.map_or(is_client && is_server, |logged| logged == ends)
            })
            .collect();
        let with_ends = may_be.iter().find(|session| session.login.ends.is_some());
        match (with_ends, may_be.as_slice()) {
            (Some(session), _) | (None, [session]) => Some(session),
            (None, _) => None,
        }
    }

    /// The samples of a session of this name, up to now.
    pub(super) fn named(&mut self, name: &str) -> Option<EndedSession> {
        let named =
            |session: &&mut SessionSamples| !session.is_handed_over && session.login.session.as_deref() == Some(name);
        let session = self.sessions.iter_mut().find(named)?;
        session.is_handed_over = true;
        let number = session.number;
        self.handed_over(number)
    }

    /// A session that ended at least `age` ago, and has not been handed over.
    pub(super) fn ended(&mut self, now: SystemTime, age: Duration) -> Option<EndedSession> {
        let is_old = |session: &SessionSamples| {
            let last = session.series.last()?.at;
            now.duration_since(last).ok().filter(|since| *since >= age)
        };
        let old = |session: &&mut SessionSamples| session.ended && !session.is_handed_over && is_old(session).is_some();
        let session = self.sessions.iter_mut().find(old)?;
        session.is_handed_over = true;
        let number = session.number;
        self.handed_over(number)
    }

    fn handed_over(&self, number: u64) -> Option<EndedSession> {
        let session = self.sessions.iter().find(|session| session.number == number)?;
        let (begin, end) = (session.series.first()?.at, session.series.last()?.at);
        // A login is over when its line is there; its connection began some time before.
        let from = session.login.at.checked_sub(self.keep).unwrap_or(SystemTime::UNIX_EPOCH);
        let mut processes = self.pre_login_between(from, session.login.at);
        processes.extend(session.usage(begin, end));
        Some(EndedSession { session: session.login.session.clone(), ends: session.login.ends, processes })
    }

    /// Processes that take part in logins, those that used the most first.
    fn pre_login_between(&self, begin: SystemTime, end: SystemTime) -> Vec<ProcessUsage> {
        let usage = self.pre_login.iter().filter_map(|pre_login| {
            let samples = pre_login.series.between(begin, end);
            let is_within = samples.last()?.at >= begin && samples.first()?.at <= end;
            let PreLoginSamples { process, identity, .. } = pre_login;
            let usage = ProcessUsage { process: *process, id: identity.id, started: identity.started, samples };
            is_within.then_some(usage)
        });
        let mut all: Vec<_> = usage.collect();
        all.sort_by_key(|usage| Reverse(usage.used()));
        all
    }
}

impl SessionSamples {
    fn usage(&self, begin: SystemTime, end: SystemTime) -> Option<ProcessUsage> {
        let samples = self.series.between(begin, end);
        let ProcessIdentity { id, started } = self.identity;
        (!samples.is_empty()).then_some(ProcessUsage { process: ServerProcessName::Imap, id, started, samples })
    }
}

impl ProcessUsage {
    /// What it used from its first sample to its last.
    pub fn used(&self) -> Duration {
        let total = |sample: &UsageSample| sample.cpu + sample.run_queue;
        let (first, last) = (self.samples.first().map(total), self.samples.last().map(total));
        last.unwrap_or_default().saturating_sub(first.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests;
