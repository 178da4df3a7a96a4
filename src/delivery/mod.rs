//! Delivers telemetry: a queue of runs in memory and on disk, and OTLP.
//!
//! [`Delivery::deliver`] takes a finished run and never waits; a task on a small runtime of its own turns runs into spans,
//! exports them, keeps what it cannot deliver within a budget, and retries. With a [`StateDir`](crate::state::StateDir), runs
//! that wait are on disk after 200 ms and outlive the process. Metrics are exported on a timer. A slow, dead or hostile
//! receiver delays no probe and fails no run: the log has one line when it begins and one when it ends, and the [`Report`]
//! has the numbers.
//!
//! ```text
//! queue     runs that wait, in memory and on disk
//! sender    takes batches from the queue and exports them until each is delivered or refused
//! otlp      exports traces and metrics, and says what an unsuccessful export means
//! replay    sends runs again that are in files
//! ```
//!
//! Does not decide what is sent (`telemetry` does), and reads no environment. Called by the agent and by the command line.

mod backoff;
mod log_throttle;
mod otlp;
mod queue;
mod replay;
mod report;
mod sender;
mod settings;

use std::{fmt, sync::Arc, time::Duration};

use tokio::runtime::Runtime;

#[cfg(any(test, fuzzing))]
pub use self::queue::fuzzed;
pub use self::{
    otlp::{Header, HttpProxy, PemFiles, Protocol, Signal, SignalError},
    queue::{BadLine, Lines},
    replay::{Replay, ReplayOutcome},
    report::{Dropped, Report, Status},
    settings::DeliverySettings,
};
use imaptrace_record::Run;

use self::{
    otlp::{MetricsExporter, OtlpClient, PeriodicMetricsExporter, TracesExporter},
    queue::{Queue, writer},
};
use crate::telemetry::{Metrics, MetricsSettings, ResourceSettings, resource};

/// Kept of a deadline, so that the report is ready before it.
const MARGIN: Duration = Duration::from_millis(200);

/// Delivery could not be started.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryStartError {
    /// A signal's settings do not work.
    #[error(transparent)]
    Wire(#[from] SignalError),
    /// The machine gives no more threads.
    #[error("cannot start the thread that delivers telemetry: {0}")]
    Runtime(#[source] std::io::Error),
}

/// Delivers runs and metrics.
pub struct Delivery {
    queue: Queue,
    metrics: Metrics,
    /// None without a receiver of metrics.
    meter: Option<PeriodicMetricsExporter>,
    receivers: Receivers,
    engine: Engine,
}

/// Handles of the receivers, to replace headers and files while delivery runs.
#[derive(Debug, Clone, Default)]
pub struct Receivers {
    traces: Option<Arc<OtlpClient>>,
    metrics: Option<Arc<OtlpClient>>,
}

impl Receivers {
    /// Takes the headers and the files of this signal for traces from the next request on. Nothing that waits is lost.
    pub fn replace_traces(&self, signal: &Signal) -> Result<(), SignalError> {
        self.traces.as_ref().map_or(Ok(()), |client| client.replace(signal))
    }

    /// The same for metrics.
    pub fn replace_metrics(&self, signal: &Signal) -> Result<(), SignalError> {
        self.metrics.as_ref().map_or(Ok(()), |client| client.replace(signal))
    }
}

impl Delivery {
    /// Starts the delivering thread. Nothing is sent yet, and no receiver needs to be there.
    pub fn start(
        settings: &DeliverySettings,
        who: &ResourceSettings,
        metrics_settings: &MetricsSettings,
    ) -> Result<Self, DeliveryStartError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("delivery")
            .enable_all()
            .build()
            .map_err(DeliveryStartError::Runtime)?;
        let handle = runtime.handle().clone();
        let engine = Engine(Some(runtime));
        let entered = handle.enter();
        let resource = resource(who);
        let mut receivers = Receivers::default();
        let (metrics, meter) = match &settings.metrics {
            Some(signal) => {
                let wire = MetricsExporter::new(signal, settings.temporality)?;
                receivers.metrics = Some(wire.client());
                let metrics = Metrics::new(metrics_settings, resource.clone(), settings.temporality);
                let meter = PeriodicMetricsExporter::start(metrics.clone(), wire, settings.metric_interval, &handle);
                (metrics, Some(meter))
            }
            None => (Metrics::off(), None),
        };
        // Without a receiver of traces, runs in the state directory stay there.
        let state = settings.state.clone().filter(|_| settings.traces.is_some());
        let disk = state.map(|state| (state, settings.queue_disk));
        let queue = Queue::new(settings.queue_memory, disk, settings.traces.is_some(), metrics.clone());
        if let Some(signal) = &settings.traces {
            let traces = TracesExporter::new(signal, &resource)?;
            receivers.traces = Some(traces.client());
            let (queue, metrics) = (queue.clone(), metrics.clone());
            handle.spawn(async move {
                if queue.has_disk() {
                    writer::start(&queue).await;
                }
                sender::run(queue, traces, metrics).await;
            });
        }
        drop(entered);
        Ok(Self { queue, metrics, meter, receivers, engine })
    }

    /// The instruments whose measurements go out here.
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// Handles of the receivers.
    pub fn receivers(&self) -> Receivers {
        self.receivers.clone()
    }

    /// Queues a run's trace. Never waits: over the budget, the oldest waiting runs go, and are counted.
    ///
    /// Records no metric: a run that is replayed must not count twice.
    pub fn deliver(&self, run: Run) {
        self.queue.push(run);
    }

    /// The numbers of the queue.
    pub fn status(&self) -> Status {
        self.queue.status()
    }

    /// Sends all traces and metrics that are here now, reports what was delivered, and ends all threads. What cannot be
    /// delivered is written to the state directory. Returns within `deadline` whatever the receiver does, and early after three
    /// failures in a row.
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
        // Does not wait for a disk that hangs.
        let _ = tokio::time::timeout(MARGIN / 2, queue.close()).await;
        drop(engine);
        report
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery").finish_non_exhaustive()
    }
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
