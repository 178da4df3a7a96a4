//! Delivers telemetry: a queue of runs in memory and on disk, and OTLP.
//!
//! [`Delivery::deliver`] queues a finished run and never waits. A task on a runtime of its own exports the spans of queued
//! runs, retries, and keeps within a budget what cannot be delivered; with a [`StateDir`](crate::state::StateDir), runs that
//! wait are on disk after 200 ms. Metrics are exported on a timer. A slow, dead or hostile receiver delays no probe.
//!
//! ```text
//! queue     runs that wait, in memory and on disk
//! sender    takes batches from the queue and exports them until each is delivered or refused
//! otlp      exports traces and metrics, and classifies failed exports
//! replay    sends runs again that are in files
//! ```
//!
//! Does not decide what is sent (`telemetry` does), and reads no environment. Called by the agent and the command line.

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

pub(crate) use self::backoff::Backoff;
#[cfg(any(test, fuzzing))]
pub use self::queue::fuzzed;
pub use self::{
    otlp::{Header, HttpProxy, JsonClient, OtlpClient, PemFiles, PostOutcome, Protocol, Signal, SignalError},
    queue::{BadLine, HeldRun, KeptFile, KeptFiles, Lines},
    replay::{Replay, ReplayOutcome},
    report::{Dropped, Report, Status},
    settings::DeliverySettings,
};
use imaptrace_record::Run;

use self::{
    otlp::{MetricsExporter, PeriodicMetricsExporter, TracesExporter},
    queue::{Queue, writer},
};
use crate::telemetry::{Metrics, MetricsSettings, ResourceSettings, resource};

/// Kept free of a deadline for the report.
const MARGIN: Duration = Duration::from_millis(200);

/// Delivery could not be started.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryStartError {
    /// A signal's settings do not work.
    #[error(transparent)]
    Signal(#[from] SignalError),
    /// The system has no more threads.
    #[error("cannot start the thread that delivers telemetry: {0}")]
    Runtime(#[source] std::io::Error),
}

/// Delivers runs and metrics.
pub struct Delivery {
    queue: Queue,
    metrics: Metrics,
    exporter: Option<PeriodicMetricsExporter>,
    clients: [Option<Arc<OtlpClient>>; 2],
    engine: Engine,
}

impl Delivery {
    /// Starts the thread that delivers. No receiver needs to be reachable.
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
        let mut clients = [None, None];
        let (metrics, exporter) = match &settings.metrics {
            Some(signal) => {
                let exporter = MetricsExporter::new(signal, settings.temporality)?;
                clients[1] = Some(exporter.client.clone());
                let metrics = Metrics::new(metrics_settings, resource.clone(), settings.temporality);
                let interval = settings.metric_interval;
                let exporter = PeriodicMetricsExporter::start(metrics.clone(), exporter, interval, &handle);
                (metrics, Some(exporter))
            }
            None => (Metrics::off(), None),
        };
        // Without a receiver of traces, runs in the state directory stay there.
        let state = settings.state.clone().filter(|_| settings.traces.is_some());
        let disk = state.map(|state| (state, settings.queue_disk));
        let has_disk = disk.is_some();
        let queue = Queue::new(settings.queue_memory, disk, settings.traces.is_some(), metrics.clone());
        if let Some(signal) = &settings.traces {
            let traces = TracesExporter::new(signal, resource, settings.server_service_name.clone())?;
            clients[0] = Some(traces.client.clone());
            let (queue, metrics) = (queue.clone(), metrics.clone());
            handle.spawn(async move {
                if has_disk {
                    writer::start(&queue).await;
                }
                sender::run(queue, traces, metrics).await;
            });
        }
        drop(entered);
        Ok(Self { queue, metrics, exporter, clients, engine })
    }

    /// The instruments whose measurements are exported here.
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// The clients of traces and of metrics, to replace headers and files while delivery runs.
    pub fn clients(&self) -> [Option<Arc<OtlpClient>>; 2] {
        self.clients.clone()
    }

    /// Queues a run's trace and records no metric. Never waits: over the budget, the oldest waiting runs are dropped and counted.
    pub fn deliver(&self, run: impl Into<Arc<Run>>) {
        self.queue.push(run);
    }

    /// Queues a run that may be replaced. Its trace, and those behind it, are not sent before [`Delivery::release`]; it is
    /// written to the state directory as any other.
    pub fn hold(&self, run: Arc<Run>) -> HeldRun {
        self.queue.push_held(run)
    }

    /// Ends the hold of a run, and replaces it by `run` if that is given. A run that has left memory stays as it was.
    pub fn release(&self, held: HeldRun, run: Option<Arc<Run>>) {
        self.queue.release(held, run);
    }

    /// The state of the queue.
    pub fn status(&self) -> Status {
        self.queue.status()
    }

    /// Sends the queued traces and the last metrics, writes to the state directory what cannot be delivered, and ends all
    /// threads. Returns within `deadline`, and earlier after three failures in a row.
    pub async fn shutdown(self, deadline: Duration) -> Report {
        let Self { queue, exporter, engine, .. } = self;
        let left = deadline.saturating_sub(MARGIN);
        let metrics = async {
            let Some(exporter) = exporter else { return Ok(()) };
            let late = || format!("no answer within {:.1} s", deadline.as_secs_f64());
            tokio::time::timeout(left, exporter.finish()).await.unwrap_or_else(|_| Err(late()))
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

/// Owns the runtime, which must not be dropped inside another one: it is stopped in the background.
struct Engine(Option<Runtime>);

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
