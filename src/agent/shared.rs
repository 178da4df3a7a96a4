//! What all runs of the agent share, and the way of one of them: back-off, run, verdict, log, metrics, delivery.
//!
//! Decides nothing about when: `schedule` does, and calls here.

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use imaptrace_imap::Secret;
use imaptrace_record::Run;
use tracing::{debug, error, warn};

use super::{
    families,
    fleet::Work,
    memory::Memory,
    once::once,
    run_log::RunLog,
    status::Itself,
    tell::{tell, tell_of_few, tell_of_shifts, tell_of_slow},
};
use crate::{
    clock,
    delivery::{Delivery, Replay},
    net::Family,
    plan::{Per, Target},
    probe::{Cancel, Job, Prober, inspect, lacks_certificate},
    schedule::{Lost, Runner, Skip},
    telemetry::{Metrics, names::SkipReason},
};

/// The name of the maintenance window that a target is in at a time.
pub(super) type Closed = Arc<dyn Fn(&Target, SystemTime) -> Option<Arc<str>> + Send + Sync>;

/// What a reload can replace for all runs that begin after it.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) prober: Arc<Prober>,
    pub(super) closed: Closed,
}

/// What all runs share.
pub(super) struct Shared {
    pub(super) settings: Mutex<Settings>,
    pub(super) metrics: Metrics,
    pub(super) memory: Arc<Memory>,
    pub(super) run_log: Arc<RunLog>,
    pub(super) itself: Itself,
    pub(super) per: Per,
    /// Taken at the end.
    pub(super) delivery: Mutex<Option<Delivery>>,
    /// Runs and spans that came after that.
    pub(super) late: Mutex<(u64, u64)>,
    pub(super) cancel: Cancel,
}

impl Shared {
    pub(super) fn delivery(&self) -> MutexGuard<'_, Option<Delivery>> {
        self.delivery.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The maintenance window that the target is in now.
    fn window(&self, target: &Target) -> Option<Arc<str>> {
        let closed = Arc::clone(&self.settings().closed);
        closed(target, clock::wall())
    }

    async fn run_all(&self, work: &Work, lag: Duration) {
        let target = work.target.target();
        // The start after this one, less what the end of this one takes.
        let before = clock::now() + target.interval.saturating_sub(lag + BETWEEN);
        let mut unseen = Vec::new();
        for (number, family) in families(target).iter().enumerate() {
            if *self.cancel.borrow() {
                if number == 0 {
                    self.skipped(work, Skip::Limit, 1);
                }
                break;
            }
            // Only the first was due; the second starts when the first has ended.
            unseen.extend(self.run_over(*family, work, (number == 0).then_some(lag)).await);
        }
        // When nothing of this start is left to be measured.
        for Unseen { mut run, family, secret } in unseen {
            let Some(account) = target.accounts.get(work.account) else { return };
            let left = before.saturating_duration_since(clock::now());
            inspect(&mut run, (&work.target, account, secret.as_ref()), left, self.cancel.clone()).await;
            self.finish(run, family, work);
        }
    }

    /// A run over this family, which is logged and delivered, unless its server's certificate is to be looked at first.
    async fn run_over(&self, family: Family, work: &Work, start_lag: Option<Duration>) -> Option<Unseen> {
        let target = &*work.target;
        let account = target.target().accounts.get(work.account)?;
        let prober = self.settings().prober.clone();
        let mut stopping = self.cancel.clone();
        // A password command may take its time; the exit does not wait for it.
        let secret = tokio::select! {
            biased;
            _ = stopping.wait_for(|stop| *stop) => {
                // As one that still waits for its turn: each planned start is a run or is counted.
                if start_lag.is_some() {
                    self.skipped(work, Skip::Limit, 1);
                }
                return None;
            }
            secret = prober.prepare(target, account) => secret,
        };
        let (auth, certificate) = (target.target().journey.auth, target.client_certificate());
        let hold_login =
            work.history().backoff.hold(account, auth, certificate.as_deref(), secret.as_ref().ok().cloned());
        let kept = secret.as_ref().ok().cloned();
        let active = (Active::new(&self.metrics), self.itself.under_way());
        let mut run = once(&prober, &target.target().journey, None, self.cancel.clone(), |ids| Job {
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
        let shifts = self.memory.evaluate(&mut run);
        tell_of_shifts(&run, shifts, &self.run_log);
        work.history().backoff.learn(&run, target.target().interval);
        if lacks_certificate(&run) {
            return Some(Unseen { run, family, secret: kept });
        }
        self.finish(run, family, work);
        None
    }

    /// Counts planned starts that did not come to be, and tells of them.
    fn skipped(&self, work: &Work, why: Skip, count: u64) {
        let (target, account) = (work.target.target(), work.alias());
        let reason = match why {
            Skip::Running => SkipReason::Running,
            Skip::Limit => SkipReason::Limit,
            Skip::Window => SkipReason::Window,
            Skip::Overload => SkipReason::Overload,
        };
        if why == Skip::Window {
            debug!(
                target = target.name,
                account,
                window = self.window(target).as_deref(),
                count,
                "a run was due in a maintenance window and is skipped"
            );
        } else {
            let (target, reason, log) = (&target.name, reason.as_str(), &self.run_log);
            let is_news = log.skip(reason, count, &mut work.history().skipped);
            if is_news && log.may_log() {
                warn!(target, account, reason, count, "a run was due and is skipped");
            } else {
                debug!(target, account, reason, count, "a run was due and is skipped");
            }
        }
        self.itself.skipped(&target.name, account, reason.as_str(), count);
        let name = target.series_name(self.per);
        self.metrics.skipped(count, reason, name, account, target.journey.name().as_str(), &target.labels);
    }

    /// What is done with a run that is on record whole.
    fn finish(&self, run: Run, family: Family, work: &Work) {
        let target = work.target.target();
        let mut history = work.history();
        let mut state = std::mem::take(history.run_state(family));
        tell(&run, &mut state, &mut history.repeated, &self.run_log);
        *history.run_state(family) = state;
        tell_of_slow(&run, history.slow_period(family), self.memory.settings(), &self.run_log);
        if !history.told_of_few {
            history.told_of_few = tell_of_few(&run, &self.run_log);
        }
        drop(history);
        self.metrics.record_as(target.series_name(self.per), &run);
        self.itself.record(&run);
        if let Some(delivery) = &*self.delivery() {
            delivery.deliver(run);
            return;
        }
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        late.0 += 1;
        late.1 += Replay::spans(&run) as u64;
        drop(late);
        warn!(target = run.target, trace_id = %run.trace_id, "a run ended too late for the exit and is not delivered");
    }
}

/// A run that failed over a certificate which is not on record.
struct Unseen {
    run: Run,
    family: Family,
    /// What the server must not make us repeat.
    secret: Option<Secret>,
}

/// What is left free before the next start.
const BETWEEN: Duration = Duration::from_secs(1);

/// The schedule's hands.
pub(super) struct Hands(pub(super) Arc<Shared>);

impl Runner for Hands {
    type Work = Work;

    fn run(&self, work: Arc<Work>, lag: Duration) -> impl Future<Output = ()> + Send + 'static {
        let shared = self.0.clone();
        async move { shared.run_all(&work, lag).await }
    }

    fn is_in_maintenance(&self, work: &Work) -> bool {
        self.0.window(work.target.target()).is_some()
    }

    fn skipped(&self, work: &Work, why: Skip, count: u64) {
        self.0.skipped(work, why, count);
    }

    fn lost(&self, work: &Work, how: Lost) {
        let (target, account) = (work.target.target().name.as_str(), work.alias());
        let what = match how {
            Lost::Panicked => "a fault in imaptrace ended a run, which is lost: please report it",
            Lost::Overran => "a run hangs and is given up, it is lost: please report it",
        };
        error!(target, account, "{what}");
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
