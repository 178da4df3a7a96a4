//! Wires the floors together for a long life: plan, schedule, probe, delivery, log; and ends them in order.
//!
//! It decides nothing about a run and nothing about telemetry. Called by `cli`, which also borrows [`once()`] for single
//! runs and [`wiring`] for their export.
//!
//! ```text
//! fleet    targets to slots, and what they keep over a reload
//! reload   a configuration that changes
//! shared   one run of an account, from its back-off to its delivery
//! once     a run under its live root, whatever comes of it
//! cpu      whether the agent gets the CPU that it wants
//! descriptors  no more runs than files can be open
//! heap     memory that is given back to the system
//! stop     the signals that end the agent
//! exit     the end of the process, which nothing holds up
//! backoff  logins that are held back
//! memory   the latency history
//! reading  files that may not answer
//! run_log  how much the log says of runs
//! receivers  what goes with each request to a receiver, which is followed
//! tls_files  the targets' files for TLS, which are followed
//! tell     what the log says of runs
//! status   what the agent tells of itself; systemd, how it tells systemd
//! wiring   the configuration as the rooms' own settings
//! ```

mod backoff;
mod cpu;
mod descriptors;
mod exit;
mod fleet;
mod heap;
mod memory;
mod once;
mod reading;
mod receivers;
mod reload;
mod run_log;
mod shared;
mod status;
mod stop;
mod systemd;
mod tell;
mod tls_files;
pub mod wiring;

use std::{
    ffi::OsString,
    future::Future,
    path::Path,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{oneshot, watch},
};
use tracing::{info, warn};

use self::{
    cpu::CpuWatch,
    fleet::Fleet,
    reload::{Hangup, Reload},
    run_log::{MINUTE, RunLog},
    shared::{Hands, Settings, Shared},
    status::Itself,
    stop::StopSignals,
    tls_files::TlsFileSets,
};
pub use self::{
    cpu::{enter_thread, leave_thread},
    exit::exit,
    once::once,
    receivers::check_tls,
    status::{Floors, Loop, StatusSettings},
    systemd::Notifier,
};
use crate::{
    blocking, clock,
    config::{Config, Sources},
    delivery::DeliveryStartError,
    follow::FileFollower,
    net::{Family, TlsContextError},
    plan::{AddressChoice, Target},
    probe::Prober,
    schedule::Schedule,
    secret::SecretError,
    state::{StateDir, StateDirError},
};

/// The agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A file for TLS cannot be used.
    #[error("target {target}: {source}")]
    Tls {
        /// Whose.
        target: String,
        /// What is wrong with it.
        source: TlsContextError,
    },
    /// A file for TLS of an OTLP exporter cannot be used.
    #[error("the OTLP exporter: {0}")]
    OtlpTls(#[source] TlsContextError),
    /// A header's value for OTLP cannot be had.
    #[error("a header for OTLP: {0}")]
    Header(#[from] SecretError),
    /// Delivery cannot start.
    #[error(transparent)]
    Delivery(#[from] DeliveryStartError),
    /// The state directory is another agent's, or another user's.
    #[error(transparent)]
    State(#[from] StateDirError),
    /// The system gives no signals.
    #[error("cannot listen for signals: {0}")]
    Signal(#[from] std::io::Error),
}

impl AgentError {
    /// Whether the same start may go well another time, without anybody changing anything.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Header(_)
            | Self::Signal(_)
            | Self::State(StateDirError::Held(_))
            | Self::Delivery(DeliveryStartError::Runtime(_)) => true,
            Self::Tls { .. }
            | Self::OtlpTls(_)
            | Self::State(StateDirError::Foreign(_))
            | Self::Delivery(DeliveryStartError::Wire(_)) => false,
        }
    }
}

/// All of an exit, from the signal on: the promised 5 s (docs/operations.md) less what the process's own end takes.
const EXIT: Duration = Duration::from_millis(4700);
/// Of that, what running probes get to say good-bye; the rest is delivery's.
const GOODBYE: Duration = Duration::from_millis(2500);
/// How long the start waits for the state directory, and for the latency history in it. One that answers later is used
/// from then on.
const STATE_TIMEOUT: Duration = Duration::from_secs(2);
/// A schedule that has not come round on time for so long does not turn any more.
const STUCK: Duration = Duration::from_secs(10);

/// The families over which a target is probed, one run each.
pub fn families(target: &Target) -> &'static [Family] {
    match target.address {
        AddressChoice::Any => &[Family::Any],
        AddressChoice::V4 => &[Family::V4],
        AddressChoice::V6 => &[Family::V6],
        AddressChoice::Each => &[Family::V4, Family::V6],
    }
}

/// Probes until SIGTERM or SIGINT, then ends within 5 s, and at once at another such signal more than a second after the
/// first. Follows changes of `sources`, which `config` came from; `hung_up` says that SIGHUP came before anybody here listened
/// to it, which counts. `child_env` as for [`Prober::new`]. What systemd left in
/// the environment is heeded, and kept from children.
pub async fn run(
    config: Config,
    (sources, hung_up): (Sources, &AtomicBool),
    mut child_env: Vec<(OsString, Option<OsString>)>,
    status: StatusSettings,
) -> Result<(), AgentError> {
    let status = StatusSettings { notifier: Notifier::new(|name| std::env::var_os(name)), ..status };
    child_env.extend(systemd::VARIABLES.map(|name| (name.into(), None)));
    let mut signals = StopSignals::catch()?;
    exit::force_after_signal()?;
    let hangup = Hangup { signal: signal(SignalKind::hangup())?, early: hung_up.load(Ordering::Relaxed) };
    let (tell, stop) = oneshot::channel::<()>();
    // A task of its own: at the second signal it is left behind as it stands, and nobody waits for it.
    let mut agent = tokio::spawn(keep(async { drop(stop.await) }, config, Some((sources, hangup)), child_env, status));
    let ended = tokio::select! {
        ended = &mut agent => ended,
        first = signals.next() => {
            drop(tell);
            tokio::select! {
                ended = &mut agent => ended,
                () = signals.next_request(first) => {
                    warn!("told to stop a second time: the end is now, and what was not delivered yet is not");
                    return Ok(());
                }
            }
        }
    };
    ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

/// Probes until `told` to stop, then ends within 5 s. `child_env` as for [`Prober::new`].
pub async fn until(
    told: impl Future<Output = ()>,
    config: Config,
    child_env: Vec<(OsString, Option<OsString>)>,
) -> Result<(), AgentError> {
    serve(told, config, child_env, StatusSettings::default()).await
}

/// The same, and shows what it is doing meanwhile.
pub async fn serve(
    told: impl Future<Output = ()>,
    config: Config,
    child_env: Vec<(OsString, Option<OsString>)>,
    status: StatusSettings,
) -> Result<(), AgentError> {
    keep(told, config, None, child_env, status).await
}

async fn keep(
    told: impl Future<Output = ()>,
    mut config: Config,
    origin: Option<(Sources, Hangup)>,
    child_env: Vec<(OsString, Option<OsString>)>,
    status: StatusSettings,
) -> Result<(), AgentError> {
    // A header's command or the disk may take their time; the exit does not wait for them.
    let mut told = pin!(told);
    // Held before anything is begun, and to the end: the latency history is in it as well.
    let state = tokio::select! {
        biased;
        () = &mut told => return Ok(()),
        state = open_state(config.state.dir.as_deref()) => state?,
    };
    // The last to go: it shows the end, too.
    let (itself, _watch) = Itself::start(&config, status);
    // Before anything of it is read: a file that changes meanwhile has changed.
    let seen = reload::look(reload::watched(&config.watched, &[])).await;
    let follower = FileFollower::default();
    let delivery = tokio::select! {
        biased;
        () = &mut told => {
            info!("told to stop before anything was started");
            return Ok(());
        }
        delivery = wiring::delivery(&config, state.clone(), Some(&follower), &child_env) => delivery?,
    };
    let tls_files = Arc::new(TlsFileSets::new(follower.clone()));
    let (fleet, _) = Fleet::default().next(&config.targets, &tls_files.load(&config.targets).await?);
    let slots = fleet.slots();
    info!(targets = config.targets.len(), slots = slots.len(), version = env!("CARGO_PKG_VERSION"), "imaptrace is up");
    let exports = config.otlp.traces.is_some() || config.otlp.metrics.is_some();
    let metrics = delivery.metrics();
    metrics.reloaded(true, clock::wall());
    let _cpu = CpuWatch::start(metrics.clone(), itself.shortage());
    let (memory, read) = wiring::memory(&config, state.clone());
    // What takes longer goes on, and is taken up when it is there.
    if tokio::time::timeout(STATE_TIMEOUT, blocking::work(read)).await.is_err() {
        warn!("the latency history cannot be read in time: probing begins, and it is taken up when the disk answers");
    }
    let saving = tokio::spawn(memory.clone().keep());
    let run_log = Arc::new(RunLog::new());
    let summing = tokio::spawn(summarize(run_log.clone()));
    let (stop, cancel) = watch::channel(false);
    let prober = Arc::new(Prober::new(config.dns.clone(), child_env.clone()));
    let shared = Arc::new(Shared {
        settings: Mutex::new(Settings { prober, closed: wiring::closed(&config) }),
        metrics,
        memory: memory.clone(),
        run_log: run_log.clone(),
        itself: itself.clone(),
        per: config.metrics.per,
        delivery: Mutex::new(Some(delivery)),
        late: Mutex::default(),
        cancel,
    });
    let schedule = Schedule::start(Arc::new(Hands(shared.clone())));
    schedule.apply(slots, descriptors::bounded(config.limits));
    let (heartbeat, asked) = (schedule.heartbeat(), shared.clone());
    let queue = move || Some(wiring::shown(asked.delivery().as_ref()?.status()));
    itself.up(Floors {
        // Without a receiver of traces nothing is queued.
        delivery: config.otlp.traces.is_some().then(|| Box::new(queue) as _),
        loops: vec![Loop { name: "the schedule", limit: STUCK, away: Box::new(move || heartbeat.age()) }],
    });
    let following = tokio::spawn(follower.run());
    // The fleet has them.
    config.targets = Vec::new();
    let reload = Reload { origin, seen, child_env, config, fleet: Arc::new(fleet), tls_files };
    tokio::select! {
        biased;
        () = &mut told => {}
        () = reload.follow(&schedule, &shared) => {}
    }
    itself.stopping();
    let end = clock::now() + EXIT;
    info!("stopping: running probes say good-bye, then everything is flushed");
    stop.send_replace(true);
    if !schedule.stop(GOODBYE).await {
        warn!("a probe did not end in time and is given up");
    }
    saving.abort();
    summing.abort();
    run_log.summarize();
    following.abort();
    let left = end.saturating_duration_since(clock::now());
    let delivery = shared.delivery().take();
    let (report, saved) = tokio::join!(
        async {
            match delivery {
                Some(delivery) => Some(delivery.shutdown(left).await),
                None => None,
            }
        },
        tokio::time::timeout(left, memory.save()),
    );
    if saved.is_err() {
        warn!("the latency history was not saved in time: the one saved before stays");
    }
    if let Some(mut report) = report {
        let (runs, spans) = *shared.late.lock().unwrap_or_else(PoisonError::into_inner);
        report.undelivered_runs += runs;
        report.undelivered_spans += spans;
        match (exports, report.is_complete()) {
            (false, _) => info!("nothing was to be delivered: there is no OTLP endpoint"),
            (true, true) => info!("{report}"),
            (true, false) => warn!("{report}"),
        }
    }
    state.iter().for_each(StateDir::release);
    Ok(())
}

/// Opens and locks the state directory, if there is one. One that does not answer holds nothing up.
async fn open_state(path: Option<&Path>) -> Result<Option<StateDir>, StateDirError> {
    let Some(path) = path else { return Ok(None) };
    let state = StateDir::open_within(path, STATE_TIMEOUT).await?;
    if state.hangs() {
        warn!(
            directory = %path.display(),
            "the state directory has not answered within {} s: probing begins, and until it does, runs that wait and the \
             latency history are in memory alone and would be lost with the agent",
            STATE_TIMEOUT.as_secs()
        );
    }
    Ok(Some(state))
}

/// Logs once a minute what was not logged one by one.
async fn summarize(run_log: Arc<RunLog>) {
    let mut minutes = tokio::time::interval(MINUTE);
    loop {
        minutes.tick().await;
        run_log.summarize();
    }
}
