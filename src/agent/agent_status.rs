//! The state of the agent, for the status endpoint and for systemd.
//!
//! [`AgentStatus`] collects it; no call blocks. [`StatusTasks`] holds the HTTP listener and the task that notifies systemd while
//! all tasks are alive. Called by the agent; `status` serves the state, `systemd` sends it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use imaptrace_record::{Seconds, Timestamp, escape};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};
use tracing::{info, warn};

use super::{cpu::Shortage, systemd::Notifier};
use crate::{
    clock::{self, Anchor},
    config::Config,
    delivery,
    server_events::SenderCounts,
    status::{ConfigStatus, Facts, HistoryDepth, Identity, LastReload, RunHistory, StatusServer},
    terminal::size,
};

/// The longest time between two checks of the agent's tasks.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// The threads that probe have stopped when the heartbeat task has not run for this long.
const HEARTBEAT_LIMIT: Duration = Duration::from_secs(10);
/// The shortest time between two status lines for systemd.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

/// What the agent shows of its state, and where.
#[derive(Debug, Default)]
pub struct StatusSettings {
    /// Where to listen for HTTP, if anywhere.
    pub listen: Option<SocketAddr>,
    /// The number of runs to remember.
    pub depth: HistoryDepth,
    /// The path of the configuration file, which is shown.
    pub file: Option<PathBuf>,
    /// Notifies systemd.
    pub notifier: Notifier,
}

/// Where the state of delivery and of the tasks is read, once they have started.
#[derive(Default)]
pub struct HealthSources {
    /// The state of delivery.
    pub delivery: Option<Box<dyn Fn() -> Option<delivery::Status> + Send + Sync>>,
    /// What became of the events of each sender of server events; none where none are received.
    pub server_events: Option<Box<dyn Fn() -> BTreeMap<String, SenderCounts> + Send + Sync>>,
    /// The liveness of other tasks. The heartbeat task shows that of the threads that probe.
    pub tasks: Vec<Liveness>,
}

/// The liveness of a task.
pub struct Liveness {
    /// Its name, as the subject of a sentence: "the schedule".
    pub name: &'static str,
    /// The longest time without activity.
    pub limit: Duration,
    /// The time since its last activity.
    pub idle_for: Box<dyn Fn() -> Duration + Send + Sync>,
}

/// The state of the agent.
pub(super) struct AgentStatus {
    pub(super) history: Arc<RunHistory>,
    pub(super) notifier: Notifier,
    /// Set by the CPU watch.
    pub(super) shortage: Shortage,
    began: Anchor,
    /// Why the agent is not ready; none while it is.
    not_ready: watch::Sender<Option<&'static str>>,
    /// When the heartbeat task last ran, in milliseconds since the start.
    beat: AtomicU64,
    in_flight: AtomicU64,
    config: watch::Sender<ConfigStatus>,
    sources: OnceLock<HealthSources>,
}

/// The HTTP listener and the heartbeat task, which end when this is dropped.
pub(super) type StatusTasks = (Option<StatusServer>, JoinSet<()>);

/// Counts a run in flight until it is dropped, by a panic too.
pub(super) struct RunInFlight<'a>(&'a AtomicU64);

impl Drop for RunInFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AgentStatus {
    /// Starts the listener and the heartbeat task. Called first, so that the start of the agent is visible.
    pub(super) fn start(config: &Config, settings: StatusSettings) -> (Arc<Self>, StatusTasks) {
        let began = Anchor::now();
        let started_at = Timestamp::from(began.wall());
        let file = settings.file.map(|file| file.display().to_string());
        let status = Arc::new(Self {
            history: Arc::new(RunHistory::new(settings.depth)),
            notifier: settings.notifier,
            shortage: Shortage::default(),
            began,
            not_ready: watch::Sender::new(Some("it is starting: no run has been started yet")),
            beat: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            config: watch::Sender::new(ConfigStatus { file, loaded_at: started_at, last_reload: None }),
            sources: OnceLock::new(),
        });
        status.plan(config);
        let server = settings.listen.and_then(|listen| status.listen(listen, config, started_at));
        let mut tasks = JoinSet::new();
        tasks.spawn(status.clone().run_heartbeat());
        (status, (server, tasks))
    }

    fn listen(self: &Arc<Self>, listen: SocketAddr, config: &Config, started_at: Timestamp) -> Option<StatusServer> {
        let identity =
            Identity { version: env!("CARGO_PKG_VERSION"), instance: config.resource.instance.clone(), started_at };
        let status = self.clone();
        let server = StatusServer::start(listen, self.history.clone(), identity, move || status.facts());
        let server = server.inspect_err(|error| {
            warn!("status endpoint disabled; probing continues: cannot listen for HTTP on {listen}: {error}");
        });
        let server = server.ok()?;
        info!(address = %server.address(), "serving status over HTTP");
        if !server.address().ip().to_canonical().is_loopback() {
            warn!("everyone who can connect to {} can read every target's state and last runs", server.address());
        }
        Some(server)
    }

    /// The agent has started: due runs start from now on. Called once.
    pub(super) fn started(&self, sources: HealthSources) {
        drop(self.sources.set(sources));
        self.not_ready.send_replace(None);
        self.notifier.ready(&self.line());
    }

    /// A configuration was loaded, or it has this number of problems and the one before stays in force.
    pub(super) fn reloaded(&self, outcome: Result<&Config, u64>) {
        let at = Timestamp::from(clock::wall());
        if let Ok(config) = outcome {
            self.plan(config);
        }
        self.config.send_modify(|config| {
            if outcome.is_ok() {
                config.loaded_at = at;
            }
            let (success, problems) = (outcome.is_ok(), outcome.err().unwrap_or_default());
            config.last_reload = Some(LastReload { at, success, problems });
        });
        self.notifier.ready(&self.line());
    }

    /// No more runs start.
    pub(super) fn stopping(&self) {
        self.not_ready.send_replace(Some("it is stopping: no more runs start"));
        self.notifier.stopping("stopping: runs in flight log out, then telemetry is flushed");
    }

    /// A run begins.
    pub(super) fn run_in_flight(&self) -> RunInFlight<'_> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        RunInFlight(&self.in_flight)
    }

    /// Records a heartbeat again and again, and notifies systemd.
    async fn run_heartbeat(self: Arc<Self>) {
        let limit = self.notifier.watchdog.map(|watchdog| watchdog / 2);
        let mut beat = interval(limit.unwrap_or(HEARTBEAT).min(HEARTBEAT).max(Duration::from_millis(1)));
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut last_alive, mut last_status, mut line) = (None, None, self.line());
        loop {
            let now = beat.tick().await.into_std();
            let is_due = |last: Option<Instant>, every: Duration| {
                last.is_none_or(|last| now.saturating_duration_since(last) + beat.period() > every)
            };
            self.beat.store(u64::try_from(self.age().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
            let not_live = self.not_live();
            self.notifier.retry();
            if limit.is_some_and(|limit| is_due(last_alive, limit)) && not_live.is_empty() && self.notifier.alive() {
                last_alive = Some(now);
            }
            let is_ready = self.not_ready.borrow().is_none();
            if is_ready && self.notifier.socket.is_some() && is_due(last_status, STATUS_INTERVAL) {
                let new = self.line();
                if new != line && self.notifier.status(&new) {
                    line = new;
                    last_status = Some(now);
                }
            }
        }
    }

    fn plan(&self, config: &Config) {
        self.history.plan(config.targets.iter().map(|target| {
            (target.name.clone(), target.accounts.iter().map(|account| account.alias.clone()).collect())
        }));
    }

    fn age(&self) -> Duration {
        self.began.since(clock::now())
    }

    /// The tasks that have stopped, a sentence each.
    fn not_live(&self) -> Vec<String> {
        let last = Duration::from_millis(self.beat.load(Ordering::Relaxed));
        let ours = ("the threads that probe", HEARTBEAT_LIMIT, self.age().saturating_sub(last));
        let others = self.sources.get().into_iter().flat_map(|sources| &sources.tasks);
        let all = std::iter::once(ours).chain(others.map(|known| (known.name, known.limit, (known.idle_for)())));
        let late = all.filter(|(_, limit, idle_for)| idle_for > limit);
        late.map(|(name, _, idle_for)| format!("{name}: nothing has moved for {:.0} s", idle_for.as_secs_f64()))
            .collect()
    }

    fn warning(&self) -> Option<String> {
        self.shortage.borrow().as_ref().map(|why| format!("short of CPU: {why}"))
    }

    fn facts(&self) -> Facts {
        Facts {
            at: clock::wall().into(),
            uptime: Seconds::from(self.age()),
            not_live: self.not_live(),
            not_ready: self.not_ready.borrow().iter().map(ToString::to_string).collect(),
            warnings: self.warning().into_iter().collect(),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            config: self.config.borrow().clone(),
            delivery: self.delivery(),
            server_events: self.sources.get().and_then(|sources| Some(sources.server_events.as_ref()?())),
        }
    }

    fn delivery(&self) -> Option<delivery::Status> {
        let mut delivery = self.sources.get()?.delivery.as_ref()?()?;
        // The texts may contain what a peer sent.
        for text in [&mut delivery.failure, &mut delivery.disk_failure] {
            *text = text.as_deref().map(escape);
        }
        Some(delivery)
    }

    /// The agent in one line, for `systemctl status`.
    fn line(&self) -> String {
        let counts = self.history.counts();
        let plural = if counts.targets == 1 { "" } else { "s" };
        let queue = self.delivery().map(|delivery| delivery.memory_bytes + delivery.disk_bytes.unwrap_or_default());
        let queue = queue.map_or_else(String::new, |queue| format!(", queue {}", size(queue)));
        let line = format!("{} target{plural}, {} failing{queue}", counts.targets, counts.failing_targets);
        [line].into_iter().chain(self.not_live()).chain(self.warning()).collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use std::{io::ErrorKind, os::unix::net::UnixDatagram};

    use super::*;
    use crate::config::{self, Sources};

    const FAILED: &str = imaptrace_testkit::FAILED_RUN;

    /// A configuration with these targets.
    fn config(names: &[&str]) -> Config {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("imaptrace.toml");
        let target = |name: &&str| {
            format!(
                "[[targets]]\nname = \"{name}\"\nurl = \"imaps://192.0.2.1\"\nuser = \"u\"\npassword = {{ env = \"P\" }}\n"
            )
        };
        std::fs::write(&file, names.iter().map(target).collect::<String>()).unwrap();
        config::load(&Sources { file: Some(file), ..Sources::default() }).unwrap()
    }

    /// The sockets of systemd and of the agent.
    fn systemd(watchdog: &str) -> (UnixDatagram, Notifier, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let notifier = Notifier::new(|name| match name {
            "NOTIFY_SOCKET" => Some(path.clone().into()),
            "WATCHDOG_USEC" => Some(watchdog.into()),
            _ => None,
        });
        (socket, notifier, dir)
    }

    /// All messages to systemd since the last call.
    fn received(socket: &UnixDatagram) -> Vec<String> {
        let mut buffer = [0; 512];
        let mut all = Vec::new();
        loop {
            match socket.recv(&mut buffer) {
                Ok(length) => all.push(String::from_utf8(buffer[..length].to_vec()).unwrap()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return all,
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn alive(sent: &[String]) -> usize {
        sent.iter().filter(|sent| *sent == "WATCHDOG=1").count()
    }

    fn begin(names: &[&str], notifier: Notifier) -> (Arc<AgentStatus>, StatusTasks) {
        AgentStatus::start(&config(names), StatusSettings { notifier, ..StatusSettings::default() })
    }

    #[tokio::test(start_paused = true)]
    async fn the_watchdog_is_notified_at_half_its_time_and_only_while_every_task_is_alive() {
        let (socket, notifier, _dir) = systemd("30000000");
        let (status, _watch) = begin(&["a"], notifier);
        let idle_for = Arc::new(AtomicU64::new(0));
        let seen = idle_for.clone();
        let idle = move || Duration::from_secs(seen.load(Ordering::Relaxed));
        let schedule = Liveness { name: "the schedule", limit: Duration::from_secs(5), idle_for: Box::new(idle) };
        status.started(HealthSources { delivery: None, server_events: None, tasks: vec![schedule] });
        tokio::time::sleep(Duration::from_millis(60_500)).await;
        let sent = received(&socket);
        assert!((4..=6).contains(&alive(&sent)), "{sent:?}");
        assert_eq!(sent.iter().filter(|sent| sent.starts_with("READY=1")).count(), 1, "{sent:?}");

        idle_for.store(6, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(60)).await;
        let sent = received(&socket);
        assert_eq!(alive(&sent), 0, "{sent:?}");
        let expected = "STATUS=1 target, 0 failing; the schedule: nothing has moved for 6 s";
        assert_eq!(sent, [expected]);
        assert_eq!(status.facts().not_live.len(), 1);

        idle_for.store(0, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(alive(&received(&socket)), 1, "at once when it is alive again");
    }

    #[tokio::test(start_paused = true)]
    async fn threads_that_have_stopped_are_not_live() {
        let (status, watch) = begin(&["a"], Notifier::default());
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(status.not_live(), [""; 0]);
        // The heartbeat task is gone, as if nothing on these threads were polled.
        drop(watch);
        tokio::time::sleep(HEARTBEAT_LIMIT + HEARTBEAT + HEARTBEAT).await;
        let [sent] = &status.not_live()[..] else { panic!("they are live") };
        assert!(sent.starts_with("the threads that probe: nothing has moved for 1"), "{sent}");
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_ready_between_its_start_and_its_end() {
        let (socket, notifier, _dir) = systemd("0");
        let (status, _watch) = begin(&["a", "b"], notifier);
        let ready = |status: &AgentStatus| status.facts().not_ready.is_empty();
        assert!(!ready(&status) && received(&socket).is_empty());
        let failure = Some("a\u{9b}\u{202e}b".to_owned());
        let sent =
            delivery::Status { memory_bytes: 2_000, disk_bytes: Some(7), failure, ..delivery::Status::default() };
        let delivery = move || Some(sent.clone());
        status.started(HealthSources { delivery: Some(Box::new(delivery)), server_events: None, tasks: Vec::new() });
        assert!(ready(&status));
        let shown = status.facts().delivery.unwrap();
        assert_eq!(shown.failure.as_deref(), Some("a\\u{9b}\\u{202e}b"));
        assert_eq!(received(&socket), ["READY=1\nSTATUS=2 targets, 0 failing, queue 2.01 kB"]);
        status.stopping();
        assert!(!ready(&status));
        assert_eq!(received(&socket).len(), 1);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(received(&socket), [""; 0], "no watchdog was asked for, and the last line of status stays");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reload_is_shown_and_a_bad_one_changes_nothing_else() {
        let (socket, notifier, _dir) = systemd("0");
        let (status, _watch) = begin(&["a", "mail02"], notifier);
        let mut run: imaptrace_record::Run = serde_json::from_str(FAILED).unwrap();
        run.account = "default".into();
        status.history.record(&run);
        let loaded_at = status.facts().config.loaded_at;
        status.notifier.reloading();
        status.reloaded(Err(3));
        let sent = received(&socket);
        assert!(sent[0].starts_with("RELOADING=1\nMONOTONIC_USEC="), "{sent:?}");
        assert_eq!(sent[1], "READY=1\nSTATUS=2 targets, 1 failing");
        let config_now = status.facts().config;
        let last = config_now.last_reload.unwrap();
        assert_eq!((last.success, last.problems, config_now.loaded_at), (false, 3, loaded_at));

        status.reloaded(Ok(&config(&["mail02", "b", "c"])));
        assert_eq!(received(&socket), ["READY=1\nSTATUS=3 targets, 1 failing"]);
        let config_now = status.facts().config;
        assert!(config_now.last_reload.unwrap().success && config_now.loaded_at >= loaded_at);
    }

    #[tokio::test(start_paused = true)]
    async fn runs_in_flight_are_counted_even_when_one_panics() {
        let (status, _watch) = begin(&["a"], Notifier::default());
        let (one, other) = (status.run_in_flight(), status.clone());
        let task = tokio::spawn(async move {
            let _here = other.run_in_flight();
            assert_eq!(other.facts().in_flight, 2);
            panic!("on purpose");
        });
        assert!(task.await.unwrap_err().is_panic());
        assert_eq!(status.facts().in_flight, 1);
        drop(one);
        assert_eq!(status.facts().in_flight, 0);
    }
}
