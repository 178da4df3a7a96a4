//! The long-running agent: starts schedule, probe, delivery and log, connects them, and ends them in order.
//!
//! It decides nothing about a run and nothing about telemetry. Called by `cli`, which also uses [`run_once()`] for single runs
//! and [`wiring`] for their export.
//!
//! ```text
//! target_set                what targets keep over a reload, and their slots
//! reload, bounded_reads     a changed configuration; files whose file system may not answer
//! runner, run_once          one run of an account, from its back-off to its delivery; a panic or a hang makes it void
//! server_states             which servers are unreachable
//! run_log                   what the log shows of runs
//! latency_store             the latency history, saved in the state directory
//! baseline_requests         requests of `imaptrace baseline accept` to take the present as usual
//! backoff                   refused logins are repeated less often
//! agent_status, systemd     the state of the agent, for HTTP and for systemd
//! cpu, descriptors, heap    shortage of CPU, the limit on open files, freed memory
//! stop, exit                the signals that end the agent; the end of the process, which nothing delays
//! otlp_files, tls_files     headers and TLS files of the OTLP exporters and of the targets, which are followed
//! discovered_targets        what sources of targets gave before the last end
//! event_reception           receives events of mail servers; event_files: the senders, their secrets and TLS files
//! event_forwarding          forwards them to another agent: its secret and roots
//! waiting_runs              finished runs that wait for the events of their sessions
//! wiring                    delivery and store as the configuration describes them
//! ```

mod agent_status;
mod backoff;
mod baseline_requests;
mod bounded_reads;
mod cpu;
mod descriptors;
mod discovered_targets;
mod error;
mod event_files;
mod event_forwarding;
mod event_reception;
mod exit;
mod heap;
mod latency_store;
mod otlp_files;
mod reload;
mod run_log;
mod run_once;
mod runner;
mod server_states;
mod stop;
mod systemd;
mod target_set;
mod tls_files;
mod waiting_runs;
pub mod wiring;

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::OptionFuture;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{oneshot, watch},
    task::JoinSet,
};
use tracing::{info, warn};

use self::{
    agent_status::AgentStatus,
    latency_store::LatencyStore,
    reload::{Hangup, Reloader},
    run_log::RunLog,
    runner::{AgentRunner, RunContext, RunSettings},
    target_set::TargetSet,
    tls_files::TlsFileSets,
};
pub use self::{
    agent_status::{HealthSources, Liveness, StatusSettings},
    baseline_requests::AcceptRequest,
    cpu::{enter_thread, leave_thread},
    error::AgentError,
    event_forwarding::host_name,
    exit::exit,
    otlp_files::check_tls,
    run_once::{load_password, run_once},
    stop::StopSignals,
    systemd::{Notifier, SYSTEMD_VARIABLES},
    target_set::families,
};
use crate::{
    blocking, clock,
    config::{Config, Sources},
    delivery::Report,
    discovery::{Discovery, GoodAnswers},
    follow::FileFollower,
    probe::Prober,
    schedule::Schedule,
    state::{StateDir, StateDirError},
};

/// The time from the stop signal to the end: the promised 5 s (docs/operations.md) less what ending the process takes.
const EXIT: Duration = Duration::from_millis(4700);
/// The part of it that runs in flight have to log out; the rest is for delivery.
const LOGOUT_TIME: Duration = Duration::from_millis(2500);
/// How long the start waits for the state directory, and for the latency history in it. It can answer later.
const STATE_TIMEOUT: Duration = Duration::from_secs(2);
/// A scheduler without activity for this long has stopped.
const IDLE_LIMIT: Duration = Duration::from_secs(10);

/// Probes until SIGTERM or SIGINT, then ends within 5 s, and at once at another such signal more than a second after the
/// first. Follows changes of `sources`, from which `config` was loaded; `hung_up` is set if SIGHUP arrived before it was caught
/// here, and counts as one.
pub async fn run(
    config: Config,
    (sources, hung_up): (Sources, &AtomicBool),
    status: StatusSettings,
) -> Result<(), AgentError> {
    let status = StatusSettings { notifier: Notifier::new(|name| std::env::var_os(name)), ..status };
    let mut signals = StopSignals::catch()?;
    exit::force_after_signal()?;
    let hangup = Hangup { signal: signal(SignalKind::hangup())?, early: hung_up.load(Ordering::Relaxed) };
    let (stop, stopped) = oneshot::channel::<()>();
    // A task of its own: at the second signal it is abandoned.
    let mut agent = tokio::spawn(run_until(async { drop(stopped.await) }, config, Some((sources, hangup)), status));
    let ended = tokio::select! {
        ended = &mut agent => ended,
        (_, first) = signals.next() => {
            drop(stop);
            tokio::select! {
                ended = &mut agent => ended,
                () = signals.next_request(first) => {
                    warn!("second stop signal: exiting now; undelivered telemetry is lost");
                    return Ok(());
                }
            }
        }
    };
    ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

/// Probes until `stop` completes, then ends within 5 s.
pub async fn serve(stop: impl Future<Output = ()>, config: Config, status: StatusSettings) -> Result<(), AgentError> {
    run_until(stop, config, None, status).await
}

fn log_start(config: &Config, slots: usize) {
    let shard = config.shard.map(tracing::field::display);
    info!(targets = config.targets.len(), slots, shard, version = env!("CARGO_PKG_VERSION"), "imaptrace is up");
}

async fn run_until(
    stop: impl Future<Output = ()>,
    config: Config,
    origin: Option<(Sources, Hangup)>,
    settings: StatusSettings,
) -> Result<(), AgentError> {
    // A header's command or the disk may take long; the exit does not wait for them.
    let mut stop = pin!(stop);
    let (state, (mut config, kept)) = tokio::select! {
        biased;
        () = &mut stop => return Ok(()),
        opened = open_state(config, origin.as_ref().map(|(sources, _)| sources)) => opened?,
    };
    // Dropped last: it shows the end, too.
    let (status, _tasks) = AgentStatus::start(&config, settings);
    // Before a file is read: a change during the start is then a change.
    let seen = reload::seen(&config).await;
    let follower = FileFollower::default();
    let delivery = tokio::select! {
        biased;
        () = &mut stop => {
            info!("stop signal before the agent had started");
            return Ok(());
        }
        delivery = wiring::delivery(&config, state.clone(), Some(&follower)) => delivery?,
    };
    let tls_files = Arc::new(TlsFileSets::new(follower.clone()));
    let (targets, _) = TargetSet::default().next(&config.targets, &tls_files.load(&config.targets).await?);
    let slots = targets.slots();
    log_start(&config, slots.len());
    let (metrics, exports) = (delivery.metrics(), config.otlp.traces.is_some() || config.otlp.metrics.is_some());
    let servers = wiring::start_metrics(&config, &slots, &metrics);
    let mut discovery = Discovery::new(state.clone(), metrics.sources(), kept);
    // Without what to load again, answers could not be applied.
    if origin.is_some() {
        discovered_targets::follow(&mut discovery, &config, &[]);
    }
    let _cpu = cpu::start(metrics.clone(), status.shortage.clone());
    let (store, requests, read) = wiring::latency_store(&config, state.clone());
    // A slow read goes on, and the history is merged when it is there.
    if tokio::time::timeout(STATE_TIMEOUT, blocking::work(read)).await.is_err() {
        warn!("the latency history cannot be read in time: probing starts, and it is merged when the disk answers");
    }
    let run_log = Arc::new(RunLog::new());
    let mut tasks = JoinSet::new();
    tasks.spawn(store.clone().save_regularly());
    if let Some(requests) = requests {
        tasks.spawn(requests.take_regularly());
    }
    tasks.spawn(run_log.clone().summarize_regularly());
    let reception = event_reception::start(&config, metrics.clone(), &follower, &mut tasks).await?;
    let (cancel_runs, cancel) = watch::channel(false);
    let prober = Arc::new(Prober::new(config.dns.clone()));
    let context = Arc::new(RunContext {
        settings: Mutex::new(RunSettings { prober, in_maintenance: wiring::maintenance(&config) }),
        metrics,
        latency: store.clone(),
        run_log: run_log.clone(),
        status: status.clone(),
        servers,
        per: config.metrics.per,
        delivery: Mutex::new(Some(delivery)),
        late: Mutex::default(),
        cancel,
        waiting: reception.waiting,
        local: reception.local,
    });
    let counts = reception.counts;
    tasks.spawn(context.clone().complete_waiting());
    let schedule = Schedule::start(Arc::new(AgentRunner(context.clone())));
    schedule.apply(slots, descriptors::bounded(config.limits, &config.server_events));
    let (heartbeat, delivering) = (schedule.heartbeat(), context.clone());
    let queue = move || Some(delivering.delivery().as_ref()?.status());
    status.started(HealthSources {
        // Without a receiver of traces nothing is queued.
        delivery: config.otlp.traces.is_some().then(|| Box::new(queue) as _),
        server_events: counts.clone().map(|counts| Box::new(move || counts.report()) as _),
        tasks: vec![Liveness { name: "the schedule", limit: IDLE_LIMIT, idle_for: Box::new(move || heartbeat.age()) }],
    });
    tasks.spawn(follower.run());
    // The target set contains them.
    config.targets = Vec::new();
    let (targets, senders) = (Arc::new(targets), reception.senders);
    let reload = Reloader { origin, seen, config, targets, tls_files, senders, counts, discovery };
    tokio::select! {
        biased;
        () = &mut stop => {}
        () = reload.follow(&schedule, &context) => {}
    }
    status.stopping();
    let end = clock::now() + EXIT;
    info!("stopping: runs in flight log out, then telemetry is flushed");
    cancel_runs.send_replace(true);
    context.end_waiting();
    if !schedule.stop(LOGOUT_TIME).await {
        warn!("a run did not end in time and is given up");
    }
    // Aborts them.
    drop(tasks);
    drop(reception.receiver);
    run_log.summarize();
    flush(&context, &store, end.saturating_duration_since(clock::now()), exports).await;
    if let Some(state) = &state {
        state.release();
    }
    Ok(())
}

/// Delivers what waits and saves the latency history, within the time that is left.
async fn flush(context: &RunContext, store: &Arc<LatencyStore>, left: Duration, exports: bool) {
    // With `up` 0 in its last export, the rules do not count the agent as vanished.
    context.metrics.agent().up(false);
    let delivery = context.delivery().take();
    let shutdown = OptionFuture::from(delivery.map(|delivery| delivery.shutdown(left)));
    let (report, saved) = tokio::join!(shutdown, tokio::time::timeout(left, store.save()));
    if saved.is_err() {
        warn!("the latency history was not saved in time: the previously saved one stays");
    }
    if let Some(report) = report {
        log_delivered(report, *context.late.lock().unwrap_or_else(PoisonError::into_inner), exports);
    }
}

/// Logs what was delivered, and what not: the runs and spans that ended late were not either.
fn log_delivered(mut report: Report, (runs, spans): (u64, u64), exports: bool) {
    report.undelivered_runs += runs;
    report.undelivered_spans += spans;
    match (exports, report.is_complete()) {
        (false, _) => info!("no OTLP endpoint is configured: nothing was delivered"),
        (true, true) => info!("{report}"),
        (true, false) => warn!("{report}"),
    }
}

/// Opens and locks the state directory, if there is one, and adds the targets in it to the configuration, if it can be loaded again.
/// A directory that does not answer delays nothing.
async fn open_state(
    config: Config,
    sources: Option<&Sources>,
) -> Result<(Option<StateDir>, (Config, GoodAnswers)), StateDirError> {
    let Some(path) = config.state.dir.as_deref() else { return Ok((None, (config, GoodAnswers::new()))) };
    // Before anything else starts, and to the end: the latency history is in it as well.
    let state = StateDir::open_within(path, STATE_TIMEOUT).await?;
    if state.hangs() {
        warn!(
            directory = %path.display(),
            "the state directory has not answered within {} s: probing starts, and until it does, waiting runs and the latency \
             history are in memory only and would be lost with the agent",
            STATE_TIMEOUT.as_secs()
        );
        return Ok((Some(state), (config, GoodAnswers::new())));
    }
    let loaded = match sources {
        Some(sources) => discovered_targets::load(config, sources, &state, STATE_TIMEOUT).await,
        None => (config, GoodAnswers::new()),
    };
    Ok((Some(state), loaded))
}
