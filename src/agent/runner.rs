//! One run of an account, from its back-off to its delivery: login, run, slow steps, log, metrics, status, delivery.
//!
//! `schedule` decides when and calls [`AgentRunner`]. Nothing here measures: `probe` does.

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use imaptrace_imap::Secret;
use imaptrace_record::{Run, RunOutcome, SkipReason};
use tracing::{debug, error, warn};

use super::{
    agent_status::AgentStatus,
    event_reception::LocalProcesses,
    latency_store::LatencyStore,
    run_log::{RunLog, log_few_messages, log_outcome, log_shifts, log_shrunk, log_slow},
    run_once::{load_password, run_once},
    server_states::{ServerStates, is_unanswered},
    target_set::{AccountWork, FamilyHistory, families},
    waiting_runs::{WaitingRun, WaitingRuns},
};
use crate::{
    clock,
    delivery::Delivery,
    diagnosis::diagnose,
    latency::{self, HistoryKey, SlowPeriod},
    net::Family,
    plan::{Account, SeriesPer, Target},
    probe::{Cancel, Job, Prober, inspect, lacks_certificate, recorded_family},
    process_accounting::SessionQuery,
    schedule::{Lost, Runner},
    server_events::{ConnectionEnds, RunKeys, RunReport, add_processes, assemble},
    telemetry::{Metrics, ProbeState},
};

/// Finds the maintenance window, by name, that a target is in at a time.
pub(super) type MaintenanceCheck = Arc<dyn Fn(&Target, SystemTime) -> Option<Arc<str>> + Send + Sync>;

/// The settings that a reload replaces, for all runs that start after it.
#[derive(Clone)]
pub(super) struct RunSettings {
    pub(super) prober: Arc<Prober>,
    pub(super) in_maintenance: MaintenanceCheck,
}

/// What all runs of the agent use.
pub(super) struct RunContext {
    pub(super) settings: Mutex<RunSettings>,
    pub(super) metrics: Metrics,
    pub(super) latency: Arc<LatencyStore>,
    /// Which servers are unreachable.
    pub(super) servers: ServerStates,
    pub(super) run_log: Arc<RunLog>,
    pub(super) status: Arc<AgentStatus>,
    pub(super) per: SeriesPer,
    /// None once the agent is ending.
    pub(super) delivery: Mutex<Option<Delivery>>,
    /// The numbers of runs and spans that ended after that.
    pub(super) late: Mutex<(u64, u64)>,
    pub(super) cancel: Cancel,
    /// Runs that wait for the events of their sessions; none where no server sends any.
    pub(super) waiting: Option<WaitingRuns>,
    /// The processes of a Dovecot on this host, if they are accounted.
    pub(super) local: Option<LocalProcesses>,
}

impl RunContext {
    pub(super) fn delivery(&self) -> MutexGuard<'_, Option<Delivery>> {
        self.delivery.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn settings(&self) -> MutexGuard<'_, RunSettings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The maintenance window that the target is in now.
    fn window(&self, target: &Target) -> Option<Arc<str>> {
        let in_maintenance = Arc::clone(&self.settings().in_maintenance);
        in_maintenance(target, clock::wall())
    }

    async fn run_all(&self, work: &Arc<AccountWork>, lag: Duration) {
        let target = work.target.target();
        // The start after this one, less what the end of this one takes.
        let before = clock::now() + target.interval.saturating_sub(lag + BETWEEN);
        let mut unseen = Vec::new();
        for (number, family) in families(target).iter().enumerate() {
            if *self.cancel.borrow() {
                if number == 0 {
                    self.skipped(work, SkipReason::Limit, 1);
                }
                break;
            }
            // Only the first was due; the second starts when the first has ended.
            unseen.extend(self.run_over(*family, work, (number == 0).then_some(lag)).await);
        }
        // Only after all measurements of this start.
        for (mut run, family, secret) in unseen {
            let Some(account) = target.accounts.get(work.account) else { return };
            let left = before.saturating_duration_since(clock::now());
            inspect(&mut run, (&work.target, account, secret.as_ref()), left, self.cancel.clone()).await;
            self.finish(run, family, work);
        }
    }

    /// A run over this address family. It is logged and delivered, unless its server's certificate has to be read first.
    async fn run_over(
        &self,
        family: Family,
        work: &Arc<AccountWork>,
        start_lag: Option<Duration>,
    ) -> Option<UnseenCertificate> {
        let target = &*work.target;
        let account = target.target().accounts.get(work.account)?;
        let prober = self.settings().prober.clone();
        let mut stopping = self.cancel.clone();
        // A password command may take long; the exit does not wait for it.
        let secret = tokio::select! {
            biased;
            _ = stopping.wait_for(|stop| *stop) => {
                // Each planned start is a run or is counted as skipped.
                if start_lag.is_some() {
                    self.skipped(work, SkipReason::Limit, 1);
                }
                return None;
            }
            secret = load_password(target, account) => secret,
        };
        let (journey, certificate) = (&target.target().journey, target.client_certificate());
        let to_redact = secret.as_ref().ok().cloned();
        let hold_login = work.history().backoff.hold(account, journey.auth, certificate.as_deref(), to_redact.clone());
        let usual_messages =
            self.latency.usual_messages(&history_key(target.target(), account, family), journey.mailbox.as_str());
        self.metrics.agent().active(1);
        let active = (Active(&self.metrics), self.status.run_in_flight());
        let mut run = run_once(&prober, journey, None, self.cancel.clone(), |ids| Job {
            target,
            account,
            family,
            ids,
            start_lag,
            secret,
            usual_messages,
            hold_login,
        })
        .await;
        drop(active);
        let shifts = self.latency.evaluate(&mut run);
        run.verdict = diagnose(&run).map(Box::new);
        latency::keep_waits_of_slow(&mut run);
        log_shifts(&run, shifts, &self.run_log);
        work.history().backoff.record(&run, target.target().interval);
        if lacks_certificate(&run) {
            return Some((run, family, to_redact));
        }
        self.finish(run, family, work);
        None
    }

    /// Counts and logs planned starts that did not happen.
    fn skipped(&self, work: &AccountWork, reason: SkipReason, count: u64) {
        let (target, account) = (work.target.target(), work.alias());
        if reason == SkipReason::Window {
            debug!(
                target = target.name,
                account,
                window = self.window(target).as_deref(),
                count,
                "run skipped: maintenance window"
            );
        } else {
            let (target, reason, log) = (&target.name, reason.as_str(), &self.run_log);
            let is_change = log.skip(reason, count, &mut work.history().skipped);
            if is_change && log.may_log() {
                warn!(target, account, reason, count, "run skipped");
            } else {
                debug!(target, account, reason, count, "run skipped");
            }
        }
        self.status.history.skipped(&target.name, account, reason.as_str(), count);
        let name = target.series_name(self.per);
        self.metrics.skipped(count, reason, name, account, target.journey.name().as_str(), &target.labels);
    }

    /// Queues a finished run, then logs and counts it: at once, or when the events of its session have arrived.
    fn finish(&self, run: Run, family: Family, work: &Arc<AccountWork>) {
        let mut run = Arc::new(run);
        let Some(waiting) = self.waiting.as_ref().filter(|waiting| waiting.store.is_for(&run.target)) else {
            self.add_processes(&mut run, RunReport::default());
            if let Some(waiting) = &self.waiting {
                let now = clock::now();
                waiting.store.reject(&RunKeys::of(&run, work.target.target().journey.propagate, now), now);
            }
            self.report(&run, family, work);
            match &*self.delivery() {
                Some(delivery) => delivery.deliver(run),
                None => self.too_late(&run),
            }
            return;
        };
        // From here on it is on disk as soon as any other.
        let held = self.delivery().as_ref().map(|delivery| delivery.hold(run.clone()));
        let now = clock::now();
        let keys = Arc::new(RunKeys::of(&run, work.target.target().journey.propagate, now));
        let until = waiting.until(&keys, now);
        let run = WaitingRun { run, keys, held, family, work: work.clone(), until };
        if let Some(run) = waiting.add(run) {
            self.complete(waiting, run);
        }
    }

    /// Completes runs whose wait is over, for as long as it is polled.
    pub(super) async fn complete_waiting(self: Arc<Self>) {
        let Some(waiting) = self.waiting.as_ref() else { return };
        loop {
            let run = waiting.next().await;
            self.complete(waiting, run);
        }
    }

    /// Completes all runs that wait, as far as events have arrived. Later ones do not wait.
    pub(super) fn end_waiting(&self) {
        let Some(waiting) = self.waiting.as_ref() else { return };
        for run in waiting.end() {
            self.complete(waiting, run);
        }
    }

    /// Adds the events of a run's session to it; then it is logged, counted, and free to be delivered.
    fn complete(&self, waiting: &WaitingRuns, done: WaitingRun) {
        let WaitingRun { mut run, keys, held, family, work, .. } = done;
        let report = waiting.store.take(&keys, clock::now());
        let events = assemble(&report.events, &run).map(Box::new);
        let has_events = events.is_some();
        if has_events {
            Arc::make_mut(&mut run).server_events = events;
        }
        let is_changed = self.add_processes(&mut run, report) || has_events;
        if is_changed {
            let run = Arc::make_mut(&mut run);
            run.verdict = diagnose(run).map(Box::new);
        }
        self.report(&run, family, &work);
        match (held, &*self.delivery()) {
            (Some(held), Some(delivery)) => delivery.release(held, is_changed.then_some(run)),
            // It is in the queue, which is drained, without its events.
            (Some(_), None) => {}
            (None, _) => self.too_late(&run),
        }
    }

    /// Adds what the server's processes used to a run. Returns whether there was anything to add.
    fn add_processes(&self, run: &mut Arc<Run>, report: RunReport) -> bool {
        let local = self.local.as_ref().map(|local| {
            let query = session_query(run, report.session_names());
            (&local.host, local.accounting.of_run(&query))
        });
        let local = local.filter(|(_, usage)| !usage.is_empty());
        if local.is_none() && report.usage.is_empty() {
            return false;
        }
        add_processes(Arc::make_mut(run), local, report.usage);
        true
    }

    /// Logs and counts a finished run.
    fn report(&self, run: &Run, family: Family, work: &AccountWork) {
        let target = work.target.target();
        let mut history = work.history();
        let (FamilyHistory { state, slow_period, failures }, repeated) = history.of_family(family);
        log_outcome(run, state, repeated, &self.run_log);
        match run.outcome {
            RunOutcome::Passed => *failures = 0,
            RunOutcome::Failed => *failures += 1,
            RunOutcome::Void => {}
        }
        let account_state = ProbeState { interval: target.interval.into(), failures: *failures };
        if self.latency.take_accepted(run) {
            *slow_period = SlowPeriod::default();
        }
        log_slow(run, slow_period, &self.latency.settings, &self.run_log);
        if !history.logged_few_messages {
            history.logged_few_messages = log_few_messages(run, &self.run_log);
        }
        log_shrunk(run, &mut history.shrunk, &self.run_log);
        drop(history);
        self.metrics.record_as(target.series_name(self.per), run, Some(account_state));
        if run.outcome != RunOutcome::Void {
            let is_unanswered = run.error_type.is_some_and(is_unanswered);
            self.servers.report((target, work.alias(), family), is_unanswered, &self.metrics);
        }
        self.status.history.record(run);
    }

    /// Counts a run that ended after delivery was closed.
    fn too_late(&self, run: &Run) {
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        late.0 += 1;
        late.1 += run.exported_spans() as u64;
        drop(late);
        warn!(target = run.target, trace_id = %run.trace_id, "a run ended after delivery was closed and is not delivered");
    }
}

/// What the history of an account's runs belongs to.
fn history_key(target: &Target, account: &Account, family: Family) -> HistoryKey {
    HistoryKey::new(&target.name, &account.alias, target.journey.name().as_str(), recorded_family(target, family))
}

/// What the processes of a run's session are found by, where they are on this host.
fn session_query(run: &Run, names: Vec<String>) -> SessionQuery {
    let ends = run.server.peer.zip(run.server.local);
    let begin = run.started_at.to_system_time();
    SessionQuery {
        names,
        ends: ends.map(|(peer, local)| ConnectionEnds::new(peer, local)).map(|ends| (ends.server, ends.client)),
        begin,
        end: begin + run.duration_s.to_duration(),
    }
}

/// A run that failed because of a certificate which is not in its record, and the secret to redact.
type UnseenCertificate = (Run, Family, Option<Secret>);

/// The time that is left free before the next start.
const BETWEEN: Duration = Duration::from_secs(1);

/// Runs the work of the schedule's slots.
pub(super) struct AgentRunner(pub(super) Arc<RunContext>);

impl Runner for AgentRunner {
    type Work = AccountWork;

    fn run(&self, work: Arc<AccountWork>, lag: Duration) -> impl Future<Output = ()> + Send + 'static {
        let context = self.0.clone();
        async move { context.run_all(&work, lag).await }
    }

    fn is_in_maintenance(&self, work: &AccountWork) -> bool {
        self.0.window(work.target.target()).is_some()
    }

    fn skipped(&self, work: &AccountWork, reason: SkipReason, count: u64) {
        self.0.skipped(work, reason, count);
    }

    fn lost(&self, work: &AccountWork, how: Lost) {
        let (target, account) = (work.target.target().name.as_str(), work.alias());
        let what = match how {
            Lost::Panicked => "a fault in imaptrace ended a run, which is lost: please report it",
            Lost::Overran => "a run hangs and is given up: please report it",
        };
        error!(target, account, "{what}");
    }
}

/// Counts an active run in the metrics until it is dropped, by a panic too.
struct Active<'a>(&'a Metrics);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.agent().active(-1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_for_processes_covers_the_run() {
        let run: Run = serde_json::from_str(imaptrace_testkit::FAILED_RUN).unwrap();
        assert!(!run.duration_s.to_duration().is_zero());
        let query = session_query(&run, vec!["name".to_owned()]);
        assert_eq!(query.begin, run.started_at.to_system_time());
        assert_eq!(query.end, query.begin + run.duration_s.to_duration());
        assert_eq!((query.names, query.ends.is_some()), (vec!["name".to_owned()], run.server.local.is_some()));
    }
}
