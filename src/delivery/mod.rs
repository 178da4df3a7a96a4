//! The queue of runs, and the wire.
//!
//! [`Delivery::deliver`] takes a finished run and never waits; a task on a small runtime of its own turns runs into
//! spans and exports them, keeps what it cannot deliver within a budget, and tries again. Metrics go out on a timer
//! beside it. A slow, dead or hostile receiver delays no probe and fails no run: it is one line in the log when it
//! begins, one when it ends, and honest numbers in the [`Report`].
//!
//! Decides nothing about what is sent (that is `telemetry`), and reads no environment. Called by the agent and by the
//! command line.

mod meter;
mod queue;
mod sender;
mod settings;
mod wire;

use std::{fmt, time::Duration};

use tokio::runtime::Runtime;

use self::{meter::Meter, queue::Queue};
pub use self::{
    settings::{Header, Protocol, Settings, Signal},
    wire::WireError,
};
use crate::{
    record::Run,
    telemetry::{Metrics, MetricsSettings, ResourceSettings, resource},
};

/// Kept of a deadline so that the report is there when it passes.
const MARGIN: Duration = Duration::from_millis(200);

/// Delivery could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A signal's settings do not work.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The machine gives no more threads.
    #[error("cannot start the thread that delivers telemetry: {0}")]
    Runtime(#[source] std::io::Error),
}

/// The way out for runs and metrics.
pub struct Delivery {
    queue: Queue,
    metrics: Metrics,
    /// None without a receiver of metrics.
    meter: Option<Meter>,
    engine: Engine,
}

/// What came of delivery up to now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Runs that the receiver took since the start.
    pub delivered_runs: u64,
    /// Runs that are still here.
    pub undelivered_runs: u64,
    /// Their spans.
    pub undelivered_spans: u64,
    /// Runs that were given up since the start: over the budget, or refused for good.
    pub dropped_runs: u64,
    /// The last collection of metrics arrived, or there were none to send.
    pub metrics_delivered: bool,
    /// Why something was not delivered.
    pub reason: Option<String>,
}

impl Delivery {
    /// Starts the delivering thread. Nothing is sent yet, and no receiver needs to be there.
    pub fn start(
        settings: &Settings,
        who: &ResourceSettings,
        metrics_settings: &MetricsSettings,
    ) -> Result<Self, StartError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("delivery")
            .enable_all()
            .build()
            .map_err(StartError::Runtime)?;
        let handle = runtime.handle().clone();
        let engine = Engine(Some(runtime));
        let entered = handle.enter();
        let resource = resource(who);
        let (metrics, meter) = match &settings.metrics {
            Some(signal) => {
                let wire = wire::metrics(signal)?;
                let metrics = Metrics::new(metrics_settings, resource.clone(), wire.temporality());
                let meter = Meter::start(metrics.clone(), wire, settings.metric_interval, &handle);
                (metrics, Some(meter))
            }
            None => (Metrics::off(), None),
        };
        let queue = Queue::new(settings.queue_bytes, settings.traces.is_some(), metrics.clone());
        if let Some(signal) = &settings.traces {
            let traces = wire::traces(signal, &resource)?;
            handle.spawn(sender::run(queue.clone(), traces, metrics.clone()));
        }
        drop(entered);
        Ok(Self { queue, metrics, meter, engine })
    }

    /// The instruments whose measurements go out here.
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// Queues a run's trace. Never waits: over the budget, the oldest waiting runs go, and are counted.
    ///
    /// Records no metric: a run that is replayed must not count twice.
    pub fn deliver(&self, run: Run) {
        self.queue.push(run);
    }

    /// Sends all that is here now, traces and metrics, says what arrived, and ends all threads. Comes back within
    /// `deadline` whatever the receiver does, and early when it failed three times in a row.
    pub async fn shutdown(self, deadline: Duration) -> Report {
        let Self { queue, meter, engine, .. } = self;
        let left = deadline.saturating_sub(MARGIN);
        // Side by side.
        let metrics = async {
            let Some(meter) = &meter else { return Ok(()) };
            let late = || format!("no answer within {:.1} s", deadline.as_secs_f64());
            tokio::time::timeout(left, meter.finish()).await.unwrap_or_else(|_| Err(late()))
        };
        let (mut report, metrics) = tokio::join!(queue.drain(left), metrics);
        report.metrics_delivered = metrics.is_ok();
        report.reason = report.reason.or_else(|| metrics.err());
        drop(engine);
        report
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery").finish_non_exhaustive()
    }
}

impl Report {
    /// Everything arrived.
    pub fn is_complete(&self) -> bool {
        self.undelivered_runs == 0 && self.dropped_runs == 0 && self.metrics_delivered
    }
}

impl fmt::Display for Report {
    /// One sentence: what was not delivered, and why.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_complete() {
            return write!(f, "all telemetry was delivered ({})", count(self.delivered_runs, "run"));
        }
        let mut missing = Vec::new();
        if self.undelivered_runs > 0 {
            missing.push(format!(
                "{} ({})",
                count(self.undelivered_runs, "run"),
                count(self.undelivered_spans, "span")
            ));
        }
        if self.dropped_runs > 0 {
            missing.push(format!("{} given up before", count(self.dropped_runs, "run")));
        }
        if !self.metrics_delivered {
            missing.push("the last metrics".to_owned());
        }
        write!(f, "not delivered: {}", missing.join(", "))?;
        self.reason.iter().try_for_each(|reason| write!(f, ": {reason}"))
    }
}

fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Owns the runtime: dropping one inside another panics, so it is always stopped in the background.
struct Engine(Option<Runtime>);

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
