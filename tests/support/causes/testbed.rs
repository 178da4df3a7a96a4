//! One place for all causes: a client's network, a line, a Dovecot as Debian sets it up behind it; an agent probes it, first
//! undisturbed. That baseline is the history of every cause.

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use imaptrace::clock;
use imaptrace_record::{ErrorType, Run, RunOutcome};

use super::{
    agent::{AgentOptions, PROBE, Probe, ProbingAgent},
    event_sink::EventSink,
    mailbox,
    name_server::NameServer,
    recording::{RecordedRun, Recording, ServerSideRecords},
    samples::{Sampler, children, name},
    storage::LoopStorage,
};
use crate::support::{
    dovecot::{Dovecot, Options},
    net::line::{Line, SERVER},
};

/// One way over the undisturbed line.
pub const DELAY: Duration = Duration::from_millis(2);
/// Sessions of one user from one address.
pub const USER_SESSIONS: usize = 5;
/// Login processes, each of one connection.
pub const LOGIN_PROCESSES: usize = 6;
/// imap processes, each of one session.
pub const IMAP_PROCESSES: usize = 7;
const MESSAGES: u32 = 300;
const DELIVERY_EVERY: Duration = Duration::from_millis(1_900);
/// Dovecot posts the last event of a session after its end.
const LATE_EVENTS: Duration = Duration::from_millis(1_500);

/// What is recorded.
#[derive(Clone)]
pub struct Case {
    pub key: &'static str,
    /// The right answer.
    pub cause: &'static str,
    pub note: String,
    pub probe: Probe,
    pub interval: Duration,
    /// So many usable runs are enough.
    pub wanted: usize,
    /// The recording ends after this time, with what there is.
    pub most: Duration,
}

/// The place. Fields are dropped in this order.
pub struct Testbed {
    pub dovecot: Dovecot,
    pub names: NameServer,
    pub line: Line,
    /// The mail's file system, if it is one of its own.
    pub storage: Option<LoopStorage>,
    sink: EventSink,
    directory: tempfile::TempDir,
    settings: String,
    baseline: Vec<Run>,
    latency: PathBuf,
    agents: AtomicU32,
}

impl Testbed {
    /// Starts all of it and learns the baseline with the default number of runs of each of these probes.
    pub fn start(probes: &[Probe], with_storage: bool) -> Self {
        // A name that the script of a harness finds, and Dovecot's users may enter.
        let directory = tempfile::Builder::new().prefix("causes-").tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let storage = with_storage.then(|| LoopStorage::new(directory.path()));
        let usual = storage.as_ref().map_or_else(|| directory.path().join("disk"), |disk| disk.directory().to_owned());
        mailbox::make(&usual.join("probe"), MESSAGES);

        let line = Line::new(DELAY);
        let names = NameServer::start(&line.client, SERVER.parse().unwrap());
        let sink = EventSink::start(line.server.listen("127.0.0.1"));
        let settings = settings(directory.path()) + &sink.settings();
        let options = Options { messages: 1, load_users: 1, settings: settings.clone(), ..Options::default() };
        let dovecot = line.server.enter(|| Dovecot::start(&options));
        let latency = directory.path().join("none");
        let agents = AtomicU32::new(0);
        let mut this =
            Self { dovecot, names, line, storage, sink, directory, settings, baseline: Vec::new(), latency, agents };
        this.use_home(&usual.join("probe"));
        this.learn(probes);
        this
    }

    /// A directory for the injections' files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The home that mail of the probes lies in undisturbed.
    pub fn usual_home(&self) -> PathBuf {
        self.directory.path().join("disk/probe")
    }

    /// The Maildir of the probes, wherever it is now.
    pub fn maildir(&self) -> PathBuf {
        self.dovecot.maildir(PROBE.0)
    }

    /// Lets the mail of the probes lie in another home.
    pub fn use_home(&self, home: &Path) {
        let link = self.maildir().parent().unwrap().to_owned();
        let new = link.with_extension("new");
        symlink(home, &new).unwrap();
        fs::rename(&new, &link).unwrap();
    }

    /// Has Dovecot read its settings again, with these behind them.
    pub fn reconfigure(&self, more: &str) {
        self.dovecot.reconfigure(&format!("{}{more}", self.settings));
    }

    /// The time that the password lookup waits.
    pub fn set_lookup_delay(&self, delay: Duration) {
        let text = if delay.is_zero() { String::new() } else { format!("{:.3}\n", delay.as_secs_f64()) };
        fs::write(self.directory.path().join("lookup-delay"), text).unwrap();
    }

    /// Dovecot's processes, or those of one name.
    pub fn processes(&self, of_name: Option<&str>) -> Vec<i32> {
        let master = self.dovecot.master();
        let mut all = children(master);
        all.push(master);
        all.retain(|process| of_name.is_none_or(|wanted| name(*process).is_some_and(|name| name == wanted)));
        all
    }

    fn learn(&mut self, probes: &[Probe]) {
        // The default least number of runs for a baseline, and some more.
        const RUNS: usize = 24;
        let agent = self.agent(probes, Duration::from_millis(900));
        let mail = mailbox::deliveries(self.maildir(), DELIVERY_EVERY);
        let enough = |runs: &[Run]| {
            probes.iter().all(|probe| {
                let counted = |run: &&Run| {
                    run.target == probe.target() && run.outcome == RunOutcome::Passed && !run.is_latency_delayed()
                };
                runs.iter().filter(counted).count() >= RUNS
            })
        };
        wait(clock::now() + Duration::from_secs(180), || enough(&agent.runs()));
        drop(mail);
        let (runs, latency) = agent.stop();
        self.sink.take();
        assert!(enough(&runs), "no baseline in three minutes: {} runs, the first is {:?}", runs.len(), runs[0]);
        self.baseline = runs;
        self.latency = latency;
    }

    fn agent(&self, probes: &[Probe], interval: Duration) -> ProbingAgent {
        let number = self.agents.fetch_add(1, Ordering::Relaxed);
        let latency = Some(&*self.latency).filter(|file| file.exists());
        let options = AgentOptions { probes, interval, port: self.dovecot.tls, ca: &self.dovecot.ca, latency };
        ProbingAgent::start(&self.line.client, &self.directory.path().join(format!("agent{number}")), &options)
    }

    /// Records runs while the cause is there: `beside` starts what needs the agent. A run is usable by `by_cause`.
    pub fn record<T>(
        &self,
        case: &Case,
        beside: impl FnOnce(&ProbingAgent) -> T,
        by_cause: impl Fn(&Run) -> bool,
    ) -> Recording {
        let runs =
            self.runs(case, case.most, beside, |runs| runs.iter().filter(|run| by_cause(run)).count() >= case.wanted);
        self.recording(case, runs, by_cause)
    }

    /// Records runs one by one, each after `prepare`.
    pub fn record_each(&self, case: &Case, mut prepare: impl FnMut(), by_cause: impl Fn(&Run) -> bool) -> Recording {
        let due = clock::now() + case.most;
        let mut all = Vec::new();
        while all.iter().filter(|run: &&RecordedRun| by_cause(&run.run)).count() < case.wanted && clock::now() < due {
            prepare();
            let one = self.runs(case, case.interval * 2, |_| (), |runs| !runs.is_empty());
            all.extend(one.into_iter().take(1));
        }
        self.recording(case, all, by_cause)
    }

    fn recording(&self, case: &Case, mut runs: Vec<RecordedRun>, by_cause: impl Fn(&Run) -> bool) -> Recording {
        for run in &mut runs {
            run.usable = by_cause(&run.run);
        }
        let target = case.probe.target();
        let baseline = self.baseline.iter().filter(|run| run.target == target).cloned().collect();
        let load = fs::read_to_string("/proc/loadavg").unwrap();
        let load = load.split(' ').next().unwrap();
        let note = format!("{} (load {load})", case.note);
        Recording { key: case.key.to_owned(), cause: case.cause.to_owned(), note, wanted: case.wanted, baseline, runs }
    }

    fn runs<T>(
        &self,
        case: &Case,
        most: Duration,
        beside: impl FnOnce(&ProbingAgent) -> T,
        is_done: impl Fn(&[Run]) -> bool,
    ) -> Vec<RecordedRun> {
        self.sink.take();
        let sampler = Sampler::start(self.dovecot.master());
        let mail = mailbox::deliveries(self.maildir(), DELIVERY_EVERY);
        let agent = self.agent(&[case.probe], case.interval);
        let beside = beside(&agent);
        wait(clock::now() + most, || is_done(&agent.runs()));
        drop(beside);
        let (runs, _) = agent.stop();
        drop(mail);
        thread::sleep(LATE_EVENTS);
        let (events, log, rows) = (self.sink.take(), self.dovecot.log(), sampler.rows());
        let server = ServerSideRecords { events: &events, log: &log, samples: &rows };
        // The last one may have ended with the agent.
        let whole = runs.into_iter().filter(|run| run.error_type != Some(ErrorType::Cancelled));
        whole.map(|run| RecordedRun::new(run, &server, false)).collect()
    }
}

/// Waits until it is so, or until `due`.
fn wait(due: Instant, is_so: impl Fn() -> bool) {
    while !is_so() && clock::now() < due {
        thread::sleep(Duration::from_millis(100));
    }
}

/// As Debian sets Dovecot up: a process for each connection and each session, and limits, though smaller ones. The probes'
/// password is looked up by a program that can be slow.
fn settings(directory: &Path) -> String {
    let script = directory.join("checkpassword");
    let delay = directory.join("lookup-delay");
    fs::write(&delay, "").unwrap();
    fs::write(
        &script,
        format!(
            "#!/bin/bash\n# Dovecot gives name and password at descriptor 3, each with a NUL behind it.\n\
             IFS= read -r -d '' user <&3\nIFS= read -r -d '' password <&3\nread -r delay <{}\n\
             [ -z \"$delay\" ] || sleep \"$delay\"\n[ \"$user:$password\" = \"{}:{}\" ] || exit 1\n\
             export USER=$user userdb_uid={} userdb_gid={} EXTRA='userdb_uid userdb_gid'\nexec \"$@\"\n",
            delay.display(),
            PROBE.0,
            PROBE.1,
            mailbox::OWNER,
            mailbox::GROUP
        ),
    )
    .unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let mut text = format!(
        "listen = 127.0.0.1, {SERVER}\nmail_max_userip_connections = {USER_SESSIONS}\npassdb {{\n  driver = \
         checkpassword\n  args = {}\n}}\n",
        script.display()
    );
    for (service, limit) in [("imap-login", LOGIN_PROCESSES), ("imap", IMAP_PROCESSES)] {
        write!(
            text,
            "service {service} {{\n  service_count = 1\n  process_min_avail = 0\n  process_limit = {limit}\n  \
             client_limit = 1\n}}\n"
        )
        .unwrap();
    }
    text
}
