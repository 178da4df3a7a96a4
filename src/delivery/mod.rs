//! The queue of runs, and the wire.
//!
//! [`Delivery::deliver`] takes a finished run and never waits; a task on a small runtime of its own turns runs into
//! spans and exports them, keeps what it cannot deliver within a budget, and tries again. With a [`StateDir`](crate::state::StateDir) what waits
//! is on disk after 200 ms, and outlives the process. Metrics go out on a timer beside it. A slow, dead or hostile
//! receiver delays no probe and fails no run: it is one line in the log when it begins, one when it ends, and honest
//! numbers in the [`Report`].
//!
//! On the way: `queue` holds the runs, `order` says which is next, `spool` what of it is on disk (`segment_files` its
//! files, `member` their bytes, `shelf` what was put aside), `writer` brings it there, `sender` takes it to the exporters in
//! `wire`, whose `otlp_client` sends it by a `transport` over a connection that `connect` opens; `answer` says whether what came back is a
//! delivery, `failure` what becomes of what is not. [`Replay`] sends runs again that are in files.
//!
//! Decides nothing about what is sent (that is `telemetry`), and reads no environment. Called by the agent and by the
//! command line.

mod answer;
mod connect;
mod failure;
#[cfg(any(test, fuzzing))]
pub mod fuzzed;
mod member;
mod meter;
mod order;
mod otlp_client;
mod queue;
mod repeats;
mod replay;
mod report;
mod segment_files;
mod sender;
mod settings;
mod shelf;
mod spool;
mod transport;
mod wire;
mod writer;

use std::{fmt, sync::Arc, time::Duration};

use tokio::runtime::Runtime;

pub use self::{
    replay::{BadLine, Lines, Replay, Sent},
    report::{Dropped, Report, Status},
    settings::{Header, HttpProxy, PemFiles, Protocol, Settings, Signal},
    wire::WireError,
};
use imaptrace_record::Run;

use self::{meter::Meter, otlp_client::OtlpClient, queue::Queue, spool::Spool};
use crate::telemetry::{Metrics, MetricsSettings, ResourceSettings, resource};

/// Kept of a deadline so that the report is there when it passes.
const MARGIN: Duration = Duration::from_millis(200);

/// How long new runs wait for those that an earlier process left to be counted.
const PATIENCE: Duration = Duration::from_secs(5);

/// The pause after the state directory could not be used at the start; each next one is twice as long, up to
/// [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

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
    receivers: Receivers,
    engine: Engine,
}

/// The ways to the receivers, to be given other headers and files while all goes on.
#[derive(Debug, Clone, Default)]
pub struct Receivers {
    traces: Option<Arc<OtlpClient>>,
    metrics: Option<Arc<OtlpClient>>,
}

impl Receivers {
    /// Takes the headers and the files of this signal for traces from the next request on. Nothing that waits is lost.
    pub fn replace_traces(&self, signal: &Signal) -> Result<(), WireError> {
        self.traces.as_ref().map_or(Ok(()), |client| client.replace(signal))
    }

    /// The same for metrics.
    pub fn replace_metrics(&self, signal: &Signal) -> Result<(), WireError> {
        self.metrics.as_ref().map_or(Ok(()), |client| client.replace(signal))
    }
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
        let mut receivers = Receivers::default();
        let (metrics, meter) = match &settings.metrics {
            Some(signal) => {
                let wire = wire::metrics(signal, settings.temporality)?;
                receivers.metrics = Some(wire.client());
                let metrics = Metrics::new(metrics_settings, resource.clone(), settings.temporality);
                let meter = Meter::start(metrics.clone(), wire, settings.metric_interval, &handle);
                (metrics, Some(meter))
            }
            None => (Metrics::off(), None),
        };
        // Without a receiver of traces what waits in the folder stays there.
        let state = settings.state.clone().filter(|_| settings.traces.is_some());
        let backlog = state.map(|state| (Spool::new(state, settings.queue_disk), settings.queue_disk));
        let queue = Queue::new(settings.queue_memory, backlog, settings.traces.is_some(), metrics.clone());
        if let Some(signal) = &settings.traces {
            let traces = wire::traces(signal, &resource)?;
            receivers.traces = Some(traces.client());
            let (queue, metrics) = (queue.clone(), metrics.clone());
            handle.spawn(async move {
                if queue.has_disk() {
                    let counted = queue.on_disk(|queue, spool| queue.write_and_tell(spool).is_ok());
                    // It goes on for as long as it takes; what is new does not wait for a disk that hangs.
                    let _in_time = tokio::time::timeout(PATIENCE, counted).await.is_ok();
                    tokio::spawn(attend_disk(queue.clone()));
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

    /// The ways to the receivers.
    pub fn receivers(&self) -> Receivers {
        self.receivers.clone()
    }

    /// Queues a run's trace. Never waits: over the budget, the oldest waiting runs go, and are counted.
    ///
    /// Records no metric: a run that is replayed must not count twice.
    pub fn deliver(&self, run: Run) {
        self.queue.push(run);
    }

    /// How the queue of runs stands.
    pub fn status(&self) -> Status {
        self.queue.status()
    }

    /// Sends all that is here now, traces and metrics, says what arrived, and ends all threads. What cannot be
    /// delivered is written to the state directory. Comes back within `deadline` whatever the receiver does, and early when
    /// it failed three times in a row.
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
        // A disk that hangs is given up with all else.
        let _closed = tokio::time::timeout(MARGIN / 2, queue.close()).await.is_ok();
        drop(engine);
        report
    }
}

/// Goes on trying until what an earlier process left was counted, then writes what waits too long. Never ends; goes with its
/// runtime.
async fn attend_disk(queue: Queue) {
    let mut pause = FIRST_PAUSE;
    loop {
        let counted = queue.on_disk(|queue, spool| {
            let _told = queue.write_and_tell(spool).is_ok();
            (spool.is_loaded(), spool.unanswered().is_some())
        });
        match counted.await {
            Some((true, _)) => break,
            // To ask again costs nothing while the first attempt hangs.
            Some((false, true)) => tokio::time::sleep(FIRST_PAUSE).await,
            Some((false, false)) | None => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
    writer::run(queue).await;
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
