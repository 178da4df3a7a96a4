//! Wires the floors together for a long life: plan, schedule, probe, delivery, log; and ends them in order.
//!
//! It decides nothing about a run and nothing about telemetry. Called by `cli`, which also borrows [`once`] for single
//! runs and [`wiring`] for their export.

mod backoff;
mod memory;
pub mod wiring;

use std::{
    ffi::OsString,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tracing::{Instrument as _, info, warn};

use self::{backoff::Backoff, memory::Memory};
use crate::{
    clock,
    config::Config,
    delivery::{Delivery, HeldError, StartError, StateDir},
    latency,
    net::{Family, TlsContextError},
    plan::{AddressChoice, Journey, Target},
    probe::{Cancel, Ids, Job, Prepared, Prober},
    record::{ErrorType, Run, RunOutcome, Seconds, ServerText, Step},
    schedule::{self, Skip, Slot},
    secret::SecretError,
    telemetry::{LiveRoot, Metrics, RemoteParent, names::SkipReason},
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
    /// A header's value for OTLP cannot be had.
    #[error("a header for OTLP: {0}")]
    Header(#[from] SecretError),
    /// Delivery cannot start.
    #[error(transparent)]
    Delivery(#[from] StartError),
    /// Another agent keeps its state in the same place.
    #[error(transparent)]
    State(#[from] HeldError),
    /// The system gives no signals.
    #[error("cannot listen for signals: {0}")]
    Signal(#[from] std::io::Error),
}

/// All of an exit, from the signal on: the 5 s of contract §2 less what the process's own end takes.
const EXIT: Duration = Duration::from_millis(4700);
/// Of that, what running probes get to say good-bye; the rest is delivery's.
const GOODBYE: Duration = Duration::from_millis(2500);

/// One account of one target: what a slot starts. Its runs never overlap, over whichever family they go.
struct Work {
    target: Arc<Prepared>,
    account: usize,
    state: Mutex<History>,
}

#[derive(Default)]
struct History {
    backoff: Backoff,
    /// Families over which the last run that passed or failed, failed.
    failing: Vec<Family>,
    /// Families over which the last run that tells was slow.
    slow: Vec<Family>,
    /// The log has it that the mailbox holds too little.
    told_of_few: bool,
}

/// The families over which a target is probed, one run each.
pub fn families(target: &Target) -> &'static [Family] {
    match target.address {
        AddressChoice::Any => &[Family::Any],
        AddressChoice::V4 => &[Family::V4],
        AddressChoice::V6 => &[Family::V6],
        AddressChoice::Each => &[Family::V4, Family::V6],
    }
}

/// Runs the journey once under a live root of its own. No history is asked.
pub async fn once<'a>(
    prober: &Prober,
    journey: &Journey,
    parent: Option<&RemoteParent>,
    cancel: Cancel,
    job: impl FnOnce(Ids) -> Job<'a>,
) -> Run {
    let root = LiveRoot::open(journey.name(), parent);
    let job = job(Ids { trace: root.trace_id, root: root.span_id, parent: root.parent_span_id });
    let mut run = prober.run(job, cancel).instrument(root.span()).await;
    run.notes = root.close();
    latency::share(&mut run);
    run
}

/// Probes until SIGTERM or SIGINT, then ends within 5 s. `child_env` as for [`Prober::new`].
pub async fn run(config: Config, child_env: Vec<(OsString, Option<OsString>)>) -> Result<(), AgentError> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let told = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    until(told, config, child_env).await
}

/// Probes until `told` to stop, then ends within 5 s. `child_env` as for [`Prober::new`].
pub async fn until(
    told: impl Future<Output = ()>,
    config: Config,
    child_env: Vec<(OsString, Option<OsString>)>,
) -> Result<(), AgentError> {
    // Held before anything in it is read, and to the end: the latency history is in it as well.
    let state = config.state_dir.as_deref().map(StateDir::open).transpose()?;
    let delivery = wiring::delivery(&config, state.clone(), &child_env).await?;
    let slots = slots(&config)?;
    info!(targets = config.targets.len(), slots = slots.len(), version = env!("CARGO_PKG_VERSION"), "imaptrace is up");
    let exports = config.otlp.traces.is_some() || config.otlp.metrics.is_some();
    let metrics = delivery.metrics();
    let prober = Prober::new(config.dns.clone(), child_env);
    let memory = Arc::new(wiring::memory(&config));
    let saving = tokio::spawn(memory.clone().keep());
    let shared = Arc::new(Shared { prober, metrics, memory: memory.clone(), delivery: Mutex::new(Some(delivery)) });
    let (stop, stopped) = watch::channel(false);
    let runner = {
        let (shared, cancel) = (shared.clone(), stopped.clone());
        move |work: Arc<Work>, lag| {
            let (shared, cancel) = (shared.clone(), cancel.clone());
            async move { shared.run(&work, lag, cancel).await }
        }
    };
    let skips = shared.clone();
    let keeping =
        tokio::spawn(schedule::keep(slots, config.runs_in_flight, stopped, runner, move |work: &Work, why, count| {
            skips.skipped(work, why, count);
        }));
    told.await;
    let end = clock::now() + EXIT;
    info!("stopping: running probes say good-bye, then everything is flushed");
    stop.send_replace(true);
    let abort = keeping.abort_handle();
    if tokio::time::timeout(GOODBYE, keeping).await.is_err() {
        warn!("a probe did not end in time and is given up");
        abort.abort();
    }
    saving.abort();
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
    if let Some(report) = report {
        match (exports, report.is_complete()) {
            (false, _) => info!("nothing was to be delivered: there is no OTLP endpoint"),
            (true, true) => info!("{report}"),
            (true, false) => warn!("{report}"),
        }
    }
    drop(state);
    Ok(())
}

/// A slot for every account of every target.
fn slots(config: &Config) -> Result<Vec<Slot<Work>>, AgentError> {
    let mut slots = Vec::new();
    for target in &config.targets {
        let prepared =
            Prepared::new(target.clone()).map_err(|source| AgentError::Tls { target: target.name.clone(), source })?;
        let prepared = Arc::new(prepared);
        for (account, known) in target.accounts.iter().enumerate() {
            slots.push(Slot {
                name: format!("{}/{}", target.name, known.alias),
                interval: target.interval,
                work: Arc::new(Work { target: prepared.clone(), account, state: Mutex::default() }),
            });
        }
    }
    Ok(slots)
}

/// What all runs share.
struct Shared {
    prober: Prober,
    metrics: Metrics,
    memory: Arc<Memory>,
    /// Taken at the end.
    delivery: Mutex<Option<Delivery>>,
}

impl Shared {
    fn delivery(&self) -> MutexGuard<'_, Option<Delivery>> {
        self.delivery.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(&self, work: &Work, lag: Duration, cancel: Cancel) {
        for (number, family) in families(work.target.target()).iter().enumerate() {
            if *cancel.borrow() {
                return;
            }
            // Only the first was due; the second starts when the first has ended.
            self.run_over(*family, work, (number == 0).then_some(lag), cancel.clone()).await;
        }
    }

    async fn run_over(&self, family: Family, work: &Work, start_lag: Option<Duration>, cancel: Cancel) {
        let target = &*work.target;
        let Some(account) = target.target().accounts.get(work.account) else { return };
        let mut stopping = cancel.clone();
        // A password command may take its time; the exit does not wait for it.
        let secret = tokio::select! {
            biased;
            _ = stopping.wait_for(|stop| *stop) => return,
            secret = self.prober.secret(account) => secret,
        };
        let hold_login = work.history().backoff.hold(secret.as_ref().ok().cloned());
        let active = Active::new(&self.metrics);
        let mut run = once(&self.prober, &target.target().journey, None, cancel, |ids| Job {
            target,
            account,
            family,
            ids,
            start_lag,
            secret,
            hold_login,
        })
        .await;
        drop(active);
        self.memory.judge(&mut run);
        let mut history = work.history();
        history.backoff.learn(&run, target.target().interval);
        let failing = tell(&run, history.failing.contains(&family));
        history.failing.retain(|known| *known != family);
        history.failing.extend(failing.then_some(family));
        let slow = tell_of_slow(&run, history.slow.contains(&family));
        history.slow.retain(|known| *known != family);
        history.slow.extend(slow.then_some(family));
        if !history.told_of_few {
            history.told_of_few = tell_of_few(&run);
        }
        drop(history);
        self.metrics.record(&run);
        match &*self.delivery() {
            Some(delivery) => delivery.deliver(run),
            None => {
                warn!(target = run.target, trace_id = %run.trace_id, "a run ended too late for the exit and is not delivered");
            }
        }
    }

    fn skipped(&self, work: &Work, why: Skip, count: u64) {
        let target = work.target.target();
        let account = target.accounts.get(work.account).map_or("", |account| account.alias.as_str());
        let reason = match why {
            Skip::Running => SkipReason::Running,
            Skip::Limit => SkipReason::Limit,
            Skip::Overload => SkipReason::Overload,
        };
        warn!(target = target.name, account, reason = reason.as_str(), count, "a run was due and is skipped");
        for _ in 0..count {
            self.metrics.skipped(reason, &target.name, account, target.journey.name(), &target.labels);
        }
    }
}

/// A run under way, for as long as this lives, a panic included.
struct Active<'a>(&'a Metrics);

impl<'a> Active<'a> {
    fn new(metrics: &'a Metrics) -> Self {
        metrics.active(1);
        Self(metrics)
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.active(-1);
    }
}

impl Work {
    fn history(&self) -> MutexGuard<'_, History> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One line for a mailbox that holds too little to measure by; each run has it in its notes.
fn tell_of_few(run: &Run) -> bool {
    let messages = run.steps.iter().find_map(|step| step.mailbox_messages);
    let Some(messages) = messages.filter(|messages| *messages < Journey::FEWEST.into()) else { return false };
    let (target, account) = (run.target.as_str(), run.account.as_str());
    warn!(target, account, messages, "the mailbox is all but empty: `imaptrace canary fill` makes one that measures");
    true
}

/// One line for a failed run and for a recovery. Returns whether the target is failing now.
fn tell(run: &Run, failing: bool) -> bool {
    let (target, account, trace_id) = (run.target.as_str(), run.account.as_str(), run.trace_id);
    let family = run.family.as_deref();
    if run.outcome == RunOutcome::Passed {
        if failing {
            let latency = run.first_loading_latency_s.map(Seconds::as_f64);
            info!(target, account, family, %trace_id, first_loading_latency_s = latency, "recovered");
        }
        return false;
    }
    let step = run.failing_step();
    let text = step.and_then(|step| step.text.as_ref()).map(ServerText::as_str);
    let (code, failed_step) = (step.and_then(|step| step.code.as_deref()), run.failed_step.as_deref());
    let (error_type, outcome) = (run.error_type.map(ErrorType::as_str), run.outcome.as_str());
    let what = match run.auth_backoff {
        Some(true) => "a run did not pass: its login was held back, since the last one was refused",
        _ => "a run did not pass",
    };
    warn!(target, account, family, %trace_id, outcome, error_type, failed_step, code, text, "{what}");
    // A void run says nothing of the target.
    if run.outcome == RunOutcome::Void { failing } else { true }
}

/// One line for a slow run when the one before was not, about the step that is most over what it usually takes, and one
/// when a run passes that is not slow. Returns whether the account is slow now.
fn tell_of_slow(run: &Run, slow: bool) -> bool {
    let (target, account, trace_id) = (run.target.as_str(), run.account.as_str(), run.trace_id);
    let family = run.family.as_deref();
    let excess = |step: &&Step| step.duration_s.as_f64() - step.baseline_s.map_or(0.0, Seconds::as_f64);
    let slow_steps = run.steps.iter().filter(|step| step.slow == Some(true));
    match slow_steps.max_by(|one, other| excess(one).total_cmp(&excess(other))) {
        Some(step) => {
            if !slow {
                let (duration_s, baseline_s) = (step.duration_s.as_f64(), step.baseline_s.map(Seconds::as_f64));
                let (step, ratio) = (step.name.as_str(), step.ratio);
                info!(target, account, family, step, duration_s, baseline_s, ratio, %trace_id, "a step was slow");
            }
            true
        }
        None if run.outcome == RunOutcome::Passed => {
            if slow {
                info!(target, account, family, %trace_id, "no step is slow any more");
            }
            false
        }
        // A run that came to an early end does not say that what was slow is over.
        None => slow,
    }
}
