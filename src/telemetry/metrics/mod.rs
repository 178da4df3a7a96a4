//! A finished [`Run`] as measurements (docs/telemetry.md).
//!
//! Keeps no history: the last verdict, the last certificate and the last count of messages live in gauges. Nothing
//! that a server sends becomes an attribute, so the configuration alone bounds the number of series, and what would
//! pass the limit is refused aloud. Sends nothing: `delivery` takes the [`Collection`]s. Called by the agent and by the
//! command line.
//!
//! ```text
//! series   a run as measurements, and the attributes of each series
//! fleet    all accounts: where their series are, who goes, who comes
//! shard    a part of them with a provider of its own: one message
//! ```

mod fleet;
mod series;
mod shard;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Gauge, Histogram, Meter, ObservableCounter, UpDownCounter},
};
use opentelemetry_sdk::{
    Resource,
    metrics::{SdkMeterProvider, Temporality, data::ResourceMetrics},
};

pub use self::fleet::Subject;
use imaptrace_record::{AddressFamily, Run, Seconds};

use self::{
    fleet::{Fleet, Who},
    series::{Key, Measured, measure},
    shard::{Making, Source, counter, gauge, histogram, int_gauge, observed, time_counter, up_down_counter},
};
use super::{
    logs,
    names::{self, DropReason, SkipReason},
};

/// How measurements are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsSettings {
    /// Keys of the labels that become attributes (`[metrics] labels`).
    pub labels: Vec<String>,
    /// Exponential histograms in place of [`names::BUCKETS`]; more exact, and about three times the memory.
    pub exponential: bool,
    /// Series kept in all, beside the agent's own few. What comes above it is not kept: it is logged and counted by
    /// [`names::METRICS_OVERFLOW`]. The configuration is to count before.
    pub series_limit: usize,
    /// Whether [`names::TIMING_DURATION`] is kept: three series more for each command.
    pub timing: bool,
    /// The process makes some runs and ends: each series bears [`names::ONE_SHOT`], and those that describe an agent
    /// (schedule, queue, configuration) are not exported. Alert rules look at agents only.
    pub one_shot: bool,
}

impl Default for MetricsSettings {
    fn default() -> Self {
        Self { labels: Vec::new(), exponential: false, series_limit: 100_000, timing: false, one_shot: false }
    }
}

/// All series. Cheap to clone; all clones record into the same ones.
#[derive(Clone)]
pub struct Metrics(Arc<All>);

struct All {
    timing: bool,
    one_shot: bool,
    own: Own,
    /// Where the agent's own series are read, and those of all accounts; none when nobody asks for metrics.
    kept: Option<(Source, Fleet)>,
    /// The log has it that there is no room.
    told: AtomicBool,
}

/// What the agent tells of itself.
struct Own {
    start_lag: Histogram<f64>,
    active: UpDownCounter<i64>,
    queue_size: UpDownCounter<i64>,
    queue_limit: UpDownCounter<i64>,
    dropped: Counter<u64>,
    delivery: Histogram<f64>,
    cpu_wait: Counter<f64>,
    cpu_throttled: Counter<f64>,
    paused: Counter<f64>,
    cpu_short: Gauge<u64>,
    overflow: Counter<u64>,
    reload_time: Gauge<f64>,
    reload_success: Gauge<u64>,
    _log_dropped: ObservableCounter<u64>,
}

/// Series that go in one message, of less than 4 MiB.
pub struct Collection {
    source: Source,
    leaves: bool,
}

impl Metrics {
    /// Keeps what the settings say, for whoever takes the [`Self::collections`].
    pub fn new(settings: &MetricsSettings, resource: Resource, temporality: Temporality) -> Self {
        let making = Making { resource, settings: settings.clone(), temporality };
        let source = Source::new(&making, |_| None);
        let own = Own::new(&source.meter());
        Self::with(settings, own, Some((source, Fleet::new(making))))
    }

    /// Keeps nothing: nobody asks for metrics.
    pub fn off() -> Self {
        Self::of(&SdkMeterProvider::default())
    }

    /// What the agent tells of itself, in a provider of the caller's; nothing of runs.
    pub fn of(provider: &SdkMeterProvider) -> Self {
        Self::with(&MetricsSettings::default(), Own::new(&shard::meter(provider)), None)
    }

    fn with(settings: &MetricsSettings, own: Own, kept: Option<(Source, Fleet)>) -> Self {
        let (timing, one_shot) = (settings.timing, settings.one_shot);
        Self(Arc::new(All { timing, one_shot, own, kept, told: AtomicBool::new(false) }))
    }

    /// Enters a finished run. A void run says nothing of the target: it leaves `up` as it was.
    pub fn record(&self, run: &Run) {
        self.record_as(&run.target, run);
    }

    /// The same under another name than the target's: its group's, when series are for groups.
    pub fn record_as(&self, name: &str, run: &Run) {
        if let Some(lag) = run.start_lag_s {
            self.0.own.start_lag.record(lag.as_f64(), &[]);
        }
        let who = Who {
            target: name,
            account: &run.account,
            journey: run.journey.as_str(),
            family: run.family.map(AddressFamily::as_str),
            labels: &run.labels,
        };
        self.enter(&who, |enter| measure(run, self.0.timing, enter));
    }

    /// Counts runs that were due and not started.
    pub fn skipped(
        &self,
        count: u64,
        reason: SkipReason,
        target: &str,
        account: &str,
        journey: &str,
        labels: &BTreeMap<String, String>,
    ) {
        let who = Who { target, account, journey, family: None, labels };
        self.enter(&who, |enter| enter(Key::skipped(reason), Measured::Count(count)));
    }

    fn enter(&self, who: &Who<'_>, measure: impl Fn(&mut dyn FnMut(Key, Measured))) {
        let Some((_, fleet)) = &self.0.kept else { return };
        let lost = fleet.enter(who, measure);
        if lost == 0 {
            return;
        }
        self.0.own.overflow.add(lost.try_into().unwrap_or(u64::MAX), &[]);
        if !self.0.told.swap(true, Ordering::Relaxed) {
            let (target, account, series) = (who.target, who.account, fleet.series());
            tracing::error!(
                target,
                account,
                series,
                "there is no room for more metric series: new ones are lost and counted; raise [metrics] series_limit"
            );
        }
    }

    /// From now on keeps the series of which `keep` says so. All others vanish after one more export, and runs of theirs
    /// that end later are not counted. What shared a message with them begins anew: its sums start from 0, its gauges
    /// stay. Takes its time over many accounts, lest it hold up a run: not for a thread that probes.
    pub fn retain(&self, keep: impl Fn(&Subject<'_>) -> bool + Send + Sync + 'static) {
        if let Some((_, fleet)) = &self.0.kept {
            fleet.retain(keep);
            self.0.told.store(false, Ordering::Relaxed);
        }
    }

    /// Lets all series of a target go, like [`Self::retain`]; a later run makes new ones.
    pub fn forget(&self, target: &str) {
        if let Some((_, fleet)) = &self.0.kept {
            fleet.forget(target);
            self.0.told.store(false, Ordering::Relaxed);
        }
    }

    /// Series of all accounts; the agent's own few are not among them.
    pub fn series(&self) -> usize {
        self.0.kept.as_ref().map_or(0, |(_, fleet)| fleet.series())
    }

    /// All there is, in messages. What shows the agent itself comes last, so that it can tell of the others.
    pub fn collections(&self) -> Vec<Collection> {
        let Some((own, fleet)) = &self.0.kept else { return Vec::new() };
        let (leaving, staying) = fleet.sources();
        let leaving = leaving.into_iter().map(|source| Collection { source, leaves: true });
        let own = (!self.0.one_shot).then(|| own.clone());
        let staying = staying.into_iter().chain(own).map(|source| Collection { source, leaves: false });
        leaving.chain(staying).collect()
    }

    /// Says that a receiver has taken this collection, or never will.
    pub fn settled(&self, collection: &Collection) {
        if let (true, Some((_, fleet))) = (collection.leaves, &self.0.kept) {
            fleet.left(&collection.source);
        }
    }

    /// A run began (1) or ended (-1).
    pub fn active(&self, change: i64) {
        self.0.own.active.add(change, &[]);
    }

    /// The queue grew by so many bytes, or shrank by as many when negative.
    pub fn queue_size(&self, change: i64) {
        self.0.own.queue_size.add(change, &[]);
    }

    /// The budget of the queue in bytes. To be called once, at the start.
    pub fn queue_limit(&self, bytes: i64) {
        self.0.own.queue_limit.add(bytes, &[]);
    }

    /// Counts runs whose trace was given up.
    pub fn delivery_dropped(&self, reason: DropReason, runs: u64) {
        self.0.own.dropped.add(runs, &[KeyValue::new(names::REASON, reason.as_str())]);
    }

    /// Enters one attempt to export a batch of traces.
    pub fn delivery_duration(&self, took: Seconds) {
        self.0.own.delivery.record(took.as_f64(), &[]);
    }

    /// What was lost since the last call: to waiting for a processor, to the cgroup's CPU limit (zero without one), and to
    /// pauses of the whole process; and whether that is too much.
    pub fn agent_cpu(&self, waited: Seconds, throttled: Seconds, paused: Seconds, short: bool) {
        let own = &self.0.own;
        own.cpu_wait.add(waited.as_f64(), &[]);
        own.paused.add(paused.as_f64(), &[]);
        own.cpu_short.record(short.into(), &[]);
        own.cpu_throttled.add(throttled.as_f64(), &[]);
    }

    /// The configuration was read, at the start or again, and is in use or was bad.
    pub fn reloaded(&self, success: bool, at: SystemTime) {
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.0.own.reload_time.record(since.as_secs_f64(), &[]);
        self.0.own.reload_success.record(success.into(), &[]);
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("series", &self.series()).finish_non_exhaustive()
    }
}

impl Collection {
    /// What its series hold now; nothing when it has none.
    pub fn collect(&self) -> Option<ResourceMetrics> {
        self.source.collect()
    }

    /// Whether they are in no later message: others may begin anew under the same attributes.
    pub fn leaves(&self) -> bool {
        self.leaves
    }
}

impl fmt::Debug for Collection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collection").field("leaves", &self.leaves).finish_non_exhaustive()
    }
}

impl Own {
    fn new(meter: &Meter) -> Self {
        Self {
            start_lag: histogram(meter, names::SCHEDULER_START_LAG),
            active: up_down_counter(meter, names::PROBE_ACTIVE),
            queue_size: up_down_counter(meter, names::DELIVERY_QUEUE_SIZE),
            queue_limit: up_down_counter(meter, names::DELIVERY_QUEUE_LIMIT),
            dropped: counter(meter, names::DELIVERY_DROPPED),
            delivery: histogram(meter, names::DELIVERY_DURATION),
            cpu_wait: time_counter(meter, names::AGENT_CPU_WAIT),
            cpu_throttled: time_counter(meter, names::AGENT_CPU_THROTTLED),
            paused: time_counter(meter, names::AGENT_PAUSED),
            cpu_short: int_gauge(meter, names::AGENT_CPU_SHORT),
            overflow: counter(meter, names::METRICS_OVERFLOW),
            reload_time: gauge(meter, names::CONFIG_LAST_RELOAD_TIME),
            reload_success: int_gauge(meter, names::CONFIG_LAST_RELOAD_SUCCESS),
            _log_dropped: observed(meter, names::LOG_DROPPED, logs::dropped),
        }
    }
}

#[cfg(test)]
mod tests;
