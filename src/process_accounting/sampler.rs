//! The thread of process accounting: reads the mail log, and samples processes at regular intervals.
//!
//! Login and authentication processes are sampled every 20 ms. The process of a session is from the line of its login on, every
//! 10 ms, until it ends or serves another login. Started by [`ProcessAccounting`](super::ProcessAccounting).

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use imaptrace_record::ServerProcessName;
use tracing::{info, warn};

use super::{
    MailLog, ProcessAccountingSettings,
    dovecot::DovecotProcesses,
    journal::Journal,
    log_file::LogFile,
    login_line::LoginLine,
    proc_files::{OpenProcess, ProcRoot},
    sample_store::{ProcessIdentity, SampleStore, SessionLogin},
    series::UsageSample,
};
use crate::clock;

/// The time between two samples of a session's process, and between two polls of the mail log.
const SESSION_INTERVAL: Duration = Duration::from_millis(10);
/// Pre-login processes are sampled in one of this many rounds: every 20 ms.
const PRE_LOGIN_EVERY: u64 = 2;
/// The most pre-login processes that are sampled.
pub(super) const PRE_LOGIN_PROCESSES: usize = 32;
/// The most sessions that are sampled at once.
pub(super) const SESSIONS: usize = 64;
/// The time between two removals of old samples.
const EXPIRE: Duration = Duration::from_secs(1);
/// The time without a master process after which that is logged, once.
const NO_MASTER: Duration = Duration::from_secs(15);
/// The time without a login of an accounted user after which that is logged, once until the next. Probes may be an hour apart.
const NO_LOGIN: Duration = Duration::from_secs(2 * 3600);

/// What the thread shares with its handle.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) store: Mutex<SampleStore>,
    pub(super) is_stopped: AtomicBool,
}

impl Shared {
    pub(super) fn store(&self) -> MutexGuard<'_, SampleStore> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct Sampler {
    root: ProcRoot,
    settings: ProcessAccountingSettings,
    log: LogSource,
    dovecot: DovecotProcesses,
    pre_login: Vec<SampledPreLogin>,
    sessions: Vec<SampledSession>,
    shared: Arc<Shared>,
    rounds: u64,
    begun: Instant,
    /// When a user whose sessions are accounted logged in last; at first the start.
    last_login: Instant,
    next_expiry: Instant,
    counts_block_wait: bool,
    logged: BTreeSet<SamplerNotice>,
}

/// What is logged once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum SamplerNotice {
    NoMaster,
    NoLogin,
    TooManyPreLogin,
    TooManySessions,
    NoAccess,
}

#[derive(Debug)]
struct SampledPreLogin {
    process: ServerProcessName,
    identity: ProcessIdentity,
    open: OpenProcess,
}

#[derive(Debug)]
struct SampledSession {
    number: u64,
    open: OpenProcess,
}

#[derive(Debug)]
enum LogSource {
    File(LogFile),
    Journal(Journal),
}

impl Sampler {
    pub(super) fn new(root: ProcRoot, settings: ProcessAccountingSettings, shared: Arc<Shared>) -> Self {
        let now = clock::now();
        let log = match &settings.mail_log {
            MailLog::File(path) => LogSource::File(LogFile::new(path, now)),
            MailLog::Journal => LogSource::Journal(Journal::new(now)),
        };
        Self {
            counts_block_wait: root.counts_block_wait(),
            root,
            settings,
            log,
            dovecot: DovecotProcesses::new(),
            pre_login: Vec::new(),
            sessions: Vec::new(),
            shared,
            rounds: 0,
            begun: now,
            last_login: now,
            next_expiry: now,
            logged: BTreeSet::new(),
        }
    }

    /// Samples until the handle is dropped.
    pub(super) fn run(mut self) {
        let mut next = clock::now();
        while !self.shared.is_stopped.load(Ordering::Relaxed) {
            let now = clock::now();
            self.round(now);
            // A round that was late is not made up for.
            next = (next + SESSION_INTERVAL).max(now);
            thread::sleep(next.saturating_duration_since(clock::now()));
        }
    }

    pub(super) fn round(&mut self, now: Instant) {
        self.rounds += 1;
        self.sample_sessions();
        self.read_log(now);
        if self.rounds % PRE_LOGIN_EVERY == 1 {
            self.sample_pre_login();
            self.scan(now);
        }
        if now >= self.next_expiry {
            self.next_expiry = now + EXPIRE;
            self.shared.store().expire(clock::wall());
            self.check_logins(now);
        }
    }

    // === Sessions ===

    fn sample_sessions(&mut self) {
        if self.sessions.is_empty() {
            return;
        }
        // Read before the lock is taken, so that no reader of the store waits for a file.
        let samples: Vec<(u64, Option<UsageSample>)> =
            self.sessions.iter_mut().map(|session| (session.number, session.open.sample().ok())).collect();
        let mut store = self.shared.store();
        for (number, sample) in samples {
            if let Some(sample) = sample {
                store.add(number, sample);
            } else {
                store.end(number);
                self.sessions.retain(|session| session.number != number);
            }
        }
    }

    fn read_log(&mut self, now: Instant) {
        let mut logins = Vec::new();
        let settings = &self.settings;
        let mut on_line = |line: &[u8]| {
            let Some(line) = LoginLine::parse(line) else { return };
            let login = settings.is_of_a_user(line.user).then(|| SessionLogin {
                at: clock::wall(),
                session: line.session.map(str::to_owned),
                client: line.client,
                server: line.server,
                ends: line.ends,
            });
            logins.push((line.pid, login));
        };
        match &mut self.log {
            LogSource::File(file) => file.poll(now, &mut on_line),
            LogSource::Journal(journal) => journal.poll(now, &mut on_line),
        }
        for (pid, login) in logins {
            self.logged_in(pid, login, now);
        }
    }

    /// Without logins missing accounting is indistinguishable from an idle server.
    fn check_logins(&mut self, now: Instant) {
        if now.saturating_duration_since(self.last_login) >= NO_LOGIN && self.logged.insert(SamplerNotice::NoLogin) {
            let hours = NO_LOGIN.as_secs() / 3600;
            warn!(
                "no login of a user in `users` of [server_events] was in the mail log for {hours} hours, so no session is \
                 accounted: do probes log in here as one of them, and does Dovecot write its `Login:` lines to `mail_log`?"
            );
        }
    }

    /// A session has begun in this process; `login` if it is of a user whose sessions are accounted.
    fn logged_in(&mut self, pid: i32, login: Option<SessionLogin>, now: Instant) {
        // A process that serves one session after the other.
        if let Some(at) = self.sessions.iter().position(|session| session.open.pid == pid) {
            let before = self.sessions.swap_remove(at);
            self.shared.store().end(before.number);
        }
        let Some(login) = login else { return };
        self.last_login = now;
        self.logged.remove(&SamplerNotice::NoLogin);
        if self.sessions.len() >= SESSIONS {
            if self.logged.insert(SamplerNotice::TooManySessions) {
                warn!(
                    "{SESSIONS} sessions are sampled at once, and further ones are not accounted: limit `users` of \
                     [server_events] to the probes' users"
                );
            }
            return;
        }
        let mut open = match OpenProcess::open(&self.root, pid, self.counts_block_wait) {
            Ok(open) => open,
            Err(error) => {
                // A short session may be over.
                let is_fault = self.root.stat(pid).is_some() || !self.dovecot.has_master();
                if is_fault && self.logged.insert(SamplerNotice::NoAccess) {
                    warn!("the process of a session cannot be sampled ({error}): {}", visibility(&self.root));
                }
                return;
            }
        };
        // The line is not proof: the process must be one of Dovecot's, for IMAP, and must have been there before the line.
        let is_its_process = open.stat.name == ServerProcessName::Imap.as_str()
            && open.stat.started <= clock::since_boot()
            && self.dovecot.is_master(&self.root, open.stat.parent, now);
        if !is_its_process {
            return;
        }
        let Ok(sample) = open.sample() else { return };
        let identity = identity(&open);
        let mut store = self.shared.store();
        let number = store.begin(login, identity);
        store.add(number, sample);
        drop(store);
        self.sessions.push(SampledSession { number, open });
    }

    // === Login and authentication processes ===

    fn sample_pre_login(&mut self) {
        let mut samples = Vec::with_capacity(self.pre_login.len());
        self.pre_login.retain_mut(|pre_login| {
            let sample = pre_login.open.sample();
            samples.extend(sample.as_ref().ok().map(|sample| (pre_login.process, pre_login.identity, *sample)));
            sample.is_ok()
        });
        let mut store = self.shared.store();
        for (process, identity, sample) in samples {
            store.add_pre_login(process, identity, sample);
        }
    }

    fn scan(&mut self, now: Instant) {
        let pre_login = &self.pre_login;
        let found =
            self.dovecot.scan(&self.root, now, |pid| pre_login.iter().any(|pre_login| pre_login.open.pid == pid));
        for (pid, process) in found {
            if self.pre_login.len() >= PRE_LOGIN_PROCESSES {
                if self.logged.insert(SamplerNotice::TooManyPreLogin) {
                    info!(
                        "Dovecot has more than {PRE_LOGIN_PROCESSES} login and authentication processes: the others \
                         are not accounted"
                    );
                }
                return;
            }
            // One that has ended since is found no more.
            let Ok(open) = OpenProcess::open(&self.root, pid, false) else { continue };
            if open.stat.name == process.as_str() {
                self.pre_login.push(SampledPreLogin { process, identity: identity(&open), open });
            }
        }
        if self.dovecot.has_master() {
            self.logged.remove(&SamplerNotice::NoMaster);
        } else if now.saturating_duration_since(self.begun) >= NO_MASTER && self.logged.insert(SamplerNotice::NoMaster)
        {
            warn!("no process of Dovecot is visible, so none is accounted: {}", visibility(&self.root));
        }
    }
}

fn identity(open: &OpenProcess) -> ProcessIdentity {
    // A process id has at most 22 bits, and the start is counted in steps of 10 ms.
    let steps = u64::try_from(open.stat.started.as_millis() / 10).unwrap_or(u64::MAX >> 22);
    let id = (steps << 22) | u64::from(open.pid.unsigned_abs());
    let ago = clock::since_boot().saturating_sub(open.stat.started);
    ProcessIdentity { id, started: clock::wall().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH) }
}

/// Why processes of others are not visible here, and what to do.
fn visibility(root: &ProcRoot) -> String {
    let mounts = root.text("self/mounts").unwrap_or_default();
    let mut options = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        (fields.nth(1) == Some("/proc")).then(|| fields.nth(1).unwrap_or_default())
    });
    let hides = |option: &str| option.strip_prefix("hidepid=").is_some_and(|level| !matches!(level, "0" | "off"));
    if options.next_back().is_some_and(|options| options.split(',').any(hides)) {
        return "/proc is mounted with hidepid, which hides processes of other users: in the unit set ProtectProc=default, as \
                deploy/systemd/imaptrace.service.d/server-events.conf does, or add this user to the group of its gid= option"
            .to_owned();
    }
    "Dovecot must run on this host; in a container the agent needs the host's process namespace (--pid=host, hostPID: true)"
        .to_owned()
}

#[cfg(test)]
mod tests;
