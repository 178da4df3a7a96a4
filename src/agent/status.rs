//! What the agent knows of itself: for the listener of `status`, and for systemd.
//!
//! [`Itself`] is told what happens and can be asked at any moment; it waits for nothing. [`Watch`] has the listener, and
//! the loop that tells systemd while all loops turn. Called by the agent.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use imaptrace_record::{Run, Seconds, Timestamp, escape};
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};
use tracing::{info, warn};

use super::{cpu::Shortage, systemd::Notifier};
use crate::{
    clock::{self, Anchor},
    config::Config,
    status::{ConfigStatus, DeliveryStatus, Depth, Facts, Identity, LastReload, PlannedTarget, RunHistory, StatusServer},
    terminal::size,
};

/// From one look at the agent's loops to the next, at most.
const BEAT: Duration = Duration::from_secs(1);
/// The threads that probe have stopped turning when they have not done so for this long.
const LATE: Duration = Duration::from_secs(10);
/// From one line of status for systemd to the next, at least.
const STATUS: Duration = Duration::from_secs(10);

/// What the agent shows of itself, and where.
#[derive(Debug, Default)]
pub struct StatusSettings {
    /// Where to listen; none does not.
    pub listen: Option<SocketAddr>,
    /// How many runs to remember.
    pub depth: Depth,
    /// The configuration's file, to be shown.
    pub file: Option<PathBuf>,
    /// The way to systemd.
    pub notifier: Notifier,
}

/// Where the agent's other floors are asked, once they are up.
#[derive(Default)]
pub struct Floors {
    /// How delivery is.
    pub delivery: Option<Box<dyn Fn() -> Option<DeliveryStatus> + Send + Sync>>,
    /// Loops beside the one here, which tells for the threads that probe.
    pub loops: Vec<Loop>,
}

/// Something that has to come round again and again.
pub struct Loop {
    /// What it is, as the subject of a sentence: "the schedule".
    pub name: &'static str,
    /// How long it may be away.
    pub limit: Duration,
    /// How long it has been away.
    pub away: Box<dyn Fn() -> Duration + Send + Sync>,
}

/// Where in its life the agent is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    Up,
    Stopping,
}

/// The agent's knowledge of itself. Clones share it.
#[derive(Clone)]
pub(super) struct Itself(Arc<Inner>);

struct Inner {
    history: Arc<RunHistory>,
    began: Anchor,
    phase: Mutex<Phase>,
    /// Since the beginning, in milliseconds: when the threads that probe last came round.
    beat: AtomicU64,
    in_flight: AtomicU64,
    config: Mutex<ConfigStatus>,
    floors: OnceLock<Floors>,
    notifier: Notifier,
    shortage: Shortage,
}

/// The listener and the loop, until it is dropped.
pub(super) struct Watch {
    _server: Option<StatusServer>,
    beating: JoinHandle<()>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.beating.abort();
    }
}

/// A run under way, for as long as this lives, a panic included.
pub(super) struct UnderWay(Itself);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Itself {
    /// Begins to show what the agent is doing. Before all that takes time, so that it is shown, too.
    pub(super) fn start(config: &Config, settings: StatusSettings) -> (Self, Watch) {
        let StatusSettings { listen, depth, file, notifier } = settings;
        let began = Anchor::now();
        let started_at = Timestamp::from(began.wall());
        let known = ConfigStatus {
            file: file.map(|file| file.display().to_string()),
            loaded_at: started_at,
            last_reload: None,
        };
        let itself = Self(Arc::new(Inner {
            history: Arc::new(RunHistory::new(depth)),
            began,
            phase: Mutex::new(Phase::Starting),
            beat: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            config: Mutex::new(known),
            floors: OnceLock::new(),
            notifier,
            shortage: Shortage::default(),
        }));
        itself.0.plan(config);
        let server = listen.and_then(|listen| itself.listen(listen, config, started_at));
        let beating = tokio::spawn(itself.clone().beat());
        (itself, Watch { _server: server, beating })
    }

    fn listen(&self, listen: SocketAddr, config: &Config, started_at: Timestamp) -> Option<StatusServer> {
        let identity =
            Identity { version: env!("CARGO_PKG_VERSION"), instance: config.agent.instance.clone(), started_at };
        let asked = self.clone();
        let server = match StatusServer::start(listen, self.0.history.clone(), identity, move || asked.0.facts()) {
            Ok(server) => server,
            Err(error) => {
                warn!(
                    "cannot listen for HTTP on {listen}: {error}; nobody can ask the agent how it is, and it probes on"
                );
                return None;
            }
        };
        info!(address = %server.address(), "status is told over HTTP");
        if !server.address().ip().to_canonical().is_loopback() {
            warn!("whoever reaches {} can see every target's state and last runs", server.address());
        }
        Some(server)
    }

    /// All floors are up: due runs start from here on.
    pub(super) fn up(&self, floors: Floors) {
        // Only the first call counts; there is no second.
        drop(self.0.floors.set(floors));
        *self.0.phase() = Phase::Up;
        self.0.notifier.ready(&self.0.line());
    }

    /// Where a shortage of CPU is reported.
    pub(super) fn shortage(&self) -> Shortage {
        self.0.shortage.clone()
    }

    /// A changed configuration is being read.
    pub(super) fn reloading(&self) {
        self.0.notifier.reloading();
    }

    /// It was taken up, or it has so many problems and the one before stays.
    pub(super) fn reloaded(&self, outcome: Result<&Config, u64>) {
        let at = Timestamp::from(clock::wall());
        let last_reload = match outcome {
            Ok(_) => LastReload { at, success: true, problems: 0 },
            Err(problems) => LastReload { at, success: false, problems },
        };
        if let Ok(config) = outcome {
            self.0.plan(config);
            self.0.config().loaded_at = at;
        }
        self.0.config().last_reload = Some(last_reload);
        self.0.notifier.ready(&self.0.line());
    }

    /// No run starts any more.
    pub(super) fn stopping(&self) {
        *self.0.phase() = Phase::Stopping;
        self.0.notifier.stopping("stopping: running probes say good-bye, then everything is flushed");
    }

    /// A run begins.
    pub(super) fn under_way(&self) -> UnderWay {
        self.0.in_flight.fetch_add(1, Ordering::Relaxed);
        UnderWay(self.clone())
    }

    /// A run has ended.
    pub(super) fn record(&self, run: &Run) {
        self.0.history.record(run);
    }

    /// Runs were due and did not start.
    pub(super) fn skipped(&self, target: &str, account: &str, reason: &'static str, count: u64) {
        self.0.history.skipped(target, account, reason, count);
    }

    /// Comes round, and tells systemd so.
    async fn beat(self) {
        let inner = &*self.0;
        let limit = inner.notifier.watchdog().map(|watchdog| watchdog / 2);
        let mut beat = interval(limit.unwrap_or(BEAT).min(BEAT).max(Duration::from_millis(1)));
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut told_alive, mut told_status, mut line) = (None, None, inner.line());
        loop {
            let now = beat.tick().await.into_std();
            let is_due = |last: Option<std::time::Instant>, every: Duration| {
                last.is_none_or(|last| now.saturating_duration_since(last) + beat.period() > every)
            };
            inner.came_round();
            let not_live = inner.not_live();
            inner.notifier.retry();
            if limit.is_some_and(|limit| is_due(told_alive, limit)) && not_live.is_empty() && inner.notifier.alive() {
                told_alive = Some(now);
            }
            let up = inner.notifier.is_heard() && *inner.phase() == Phase::Up;
            if up && is_due(told_status, STATUS) {
                let now_so = inner.line();
                if now_so != line && inner.notifier.status(&now_so) {
                    line = now_so;
                    told_status = Some(now);
                }
            }
        }
    }
}

impl Inner {
    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn config(&self) -> MutexGuard<'_, ConfigStatus> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn plan(&self, config: &Config) {
        self.history.plan(config.targets.iter().map(|target| PlannedTarget {
            target: target.name.clone(),
            accounts: target.accounts.iter().map(|account| account.alias.clone()).collect(),
        }));
    }

    fn age(&self) -> Duration {
        self.began.since(clock::now())
    }

    fn came_round(&self) {
        self.beat.store(u64::try_from(self.age().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Which loops do not turn, a sentence each.
    fn not_live(&self) -> Vec<String> {
        let last = Duration::from_millis(self.beat.load(Ordering::Relaxed));
        let ours = ("the threads that probe", LATE, self.age().saturating_sub(last));
        let others = self.floors.get().into_iter().flat_map(|floors| &floors.loops);
        let all = std::iter::once(ours).chain(others.map(|known| (known.name, known.limit, (known.away)())));
        let late = all.filter(|(_, limit, away)| away > limit);
        late.map(|(name, _, away)| format!("{name}: nothing has moved for {:.0} s", away.as_secs_f64())).collect()
    }

    fn not_ready(&self) -> Vec<String> {
        match *self.phase() {
            Phase::Starting => vec!["it is starting: no run has been started yet".to_owned()],
            Phase::Up => Vec::new(),
            Phase::Stopping => vec!["it is stopping: no run is started any more".to_owned()],
        }
    }

    fn warnings(&self) -> Vec<String> {
        self.shortage.told().map(|why| format!("short of CPU: {why}")).into_iter().collect()
    }

    fn facts(&self) -> Facts {
        Facts {
            at: clock::wall().into(),
            uptime: Seconds::from(self.age()),
            not_live: self.not_live(),
            not_ready: self.not_ready(),
            warnings: self.warnings(),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            config: self.config().clone(),
            delivery: self.delivery(),
        }
    }

    fn delivery(&self) -> Option<DeliveryStatus> {
        let mut delivery = self.floors.get()?.delivery.as_ref()?()?;
        // Another end's words may be in it.
        for words in [&mut delivery.failure, &mut delivery.disk_failure] {
            *words = words.as_deref().map(escape);
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
        [line].into_iter().chain(self.not_live()).chain(self.warnings()).collect::<Vec<_>>().join("; ")
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
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("imaptrace.toml");
        let target = |name: &&str| {
            format!(
                "[[targets]]\nname = \"{name}\"\nurl = \"imaps://192.0.2.1\"\nuser = \"u\"\npassword = {{ env = \"P\" }}\n"
            )
        };
        std::fs::write(&file, names.iter().map(target).collect::<String>()).unwrap();
        config::load(&Sources { file: Some(file), ..Sources::default() }).unwrap()
    }

    /// systemd's end, and the agent's.
    fn systemd(watchdog: &str) -> (UnixDatagram, Notifier, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let notifier = Notifier::new(|name| match name {
            "NOTIFY_SOCKET" => Some(path.clone().into()),
            "WATCHDOG_USEC" => Some(watchdog.into()),
            _ => None,
        });
        (socket, notifier, folder)
    }

    /// All that systemd has been told since the last time.
    fn heard(socket: &UnixDatagram) -> Vec<String> {
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

    fn alive(told: &[String]) -> usize {
        told.iter().filter(|told| *told == "WATCHDOG=1").count()
    }

    fn begin(names: &[&str], notifier: Notifier) -> (Itself, Watch) {
        Itself::start(&config(names), StatusSettings { notifier, ..StatusSettings::default() })
    }

    #[tokio::test(start_paused = true)]
    async fn the_watchdog_is_told_at_half_its_time_and_only_while_every_loop_turns() {
        let (socket, notifier, _folder) = systemd("30000000");
        let (itself, _watch) = begin(&["a"], notifier);
        let away = Arc::new(AtomicU64::new(0));
        let seen = away.clone();
        let away_for = move || Duration::from_secs(seen.load(Ordering::Relaxed));
        let turning = Loop { name: "the schedule", limit: Duration::from_secs(5), away: Box::new(away_for) };
        itself.up(Floors { delivery: None, loops: vec![turning] });
        tokio::time::sleep(Duration::from_millis(60_500)).await;
        let told = heard(&socket);
        assert!((4..=6).contains(&alive(&told)), "{told:?}");
        assert_eq!(told.iter().filter(|told| told.starts_with("READY=1")).count(), 1, "{told:?}");

        away.store(6, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(60)).await;
        let told = heard(&socket);
        assert_eq!(alive(&told), 0, "{told:?}");
        let expected = "STATUS=1 target, 0 failing; the schedule: nothing has moved for 6 s";
        assert_eq!(told, [expected]);
        assert_eq!(itself.0.facts().not_live.len(), 1);

        away.store(0, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(alive(&heard(&socket)), 1, "at once when it turns again");
    }

    #[tokio::test(start_paused = true)]
    async fn threads_that_have_stopped_turning_are_not_live() {
        let (itself, watch) = begin(&["a"], Notifier::default());
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(itself.0.not_live(), [""; 0]);
        // What comes round is gone, as if nothing on these threads got its turn.
        drop(watch);
        tokio::time::sleep(LATE + BEAT + BEAT).await;
        let [told] = &itself.0.not_live()[..] else { panic!("they are live") };
        assert!(told.starts_with("the threads that probe: nothing has moved for 1"), "{told}");
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_ready_between_its_start_and_its_end() {
        let (socket, notifier, _folder) = systemd("0");
        let (itself, _watch) = begin(&["a", "b"], notifier);
        let ready = |itself: &Itself| itself.0.facts().not_ready.is_empty();
        assert!(!ready(&itself) && heard(&socket).is_empty());
        let failure = Some("a\u{9b}\u{202e}b".to_owned());
        let told = DeliveryStatus { memory_bytes: 2_000, disk_bytes: Some(7), failure, ..DeliveryStatus::default() };
        let delivery = move || Some(told.clone());
        itself.up(Floors { delivery: Some(Box::new(delivery)), loops: Vec::new() });
        assert!(ready(&itself));
        let shown = itself.0.facts().delivery.unwrap();
        assert_eq!(shown.failure.as_deref(), Some("a\\u{9b}\\u{202e}b"));
        assert_eq!(heard(&socket), ["READY=1\nSTATUS=2 targets, 0 failing, queue 2.01 kB"]);
        itself.stopping();
        assert!(!ready(&itself));
        assert_eq!(heard(&socket).len(), 1);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(heard(&socket), [""; 0], "no watchdog was asked for, and the last line of status stays");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reload_is_told_and_a_bad_one_changes_nothing_but_that() {
        let (socket, notifier, _folder) = systemd("0");
        let (itself, _watch) = begin(&["a", "mail02"], notifier);
        let mut run: Run = serde_json::from_str(FAILED).unwrap();
        run.account = "default".into();
        itself.record(&run);
        let loaded_at = itself.0.facts().config.loaded_at;
        itself.reloading();
        itself.reloaded(Err(3));
        let told = heard(&socket);
        assert!(told[0].starts_with("RELOADING=1\nMONOTONIC_USEC="), "{told:?}");
        assert_eq!(told[1], "READY=1\nSTATUS=2 targets, 1 failing");
        let config_now = itself.0.facts().config;
        let last = config_now.last_reload.unwrap();
        assert_eq!((last.success, last.problems, config_now.loaded_at), (false, 3, loaded_at));

        itself.reloaded(Ok(&config(&["mail02", "b", "c"])));
        assert_eq!(heard(&socket), ["READY=1\nSTATUS=3 targets, 1 failing"]);
        let config_now = itself.0.facts().config;
        assert!(config_now.last_reload.unwrap().success && config_now.loaded_at >= loaded_at);
    }

    #[tokio::test(start_paused = true)]
    async fn runs_under_way_are_counted_even_when_one_panics() {
        let (itself, _watch) = begin(&["a"], Notifier::default());
        let (one, other) = (itself.under_way(), itself.clone());
        let task = tokio::spawn(async move {
            let _here = other.under_way();
            assert_eq!(other.0.facts().in_flight, 2);
            panic!("on purpose");
        });
        assert!(task.await.unwrap_err().is_panic());
        assert_eq!(itself.0.facts().in_flight, 1);
        drop(one);
        assert_eq!(itself.0.facts().in_flight, 0);
    }
}
