//! Records a finished [`Run`] as measurements (docs/telemetry.md).
//!
//! Nothing that a server sends becomes an attribute, so the configuration alone bounds the number of series; measurements over
//! the limit are counted and logged. Sends nothing: `delivery` exports the [`Collection`]s. Called by the agent and the command
//! line.
//!
//! ```text
//! series              a run as measurements, and the attributes of each series
//! partitioned_series  the series of all accounts: which partition each is in
//! partition           some of them with a meter provider of their own: one message
//! settings            what is kept
//! ```

mod partition;
mod partitioned_series;
mod series;
mod settings;

use std::{
    collections::BTreeMap,
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

pub use self::{partitioned_series::Subject, settings::MetricsSettings};
use imaptrace_record::{AddressFamily, Run, Seconds, SkipReason};

use self::{
    partition::{
        PartitionConfig, SeriesReader, counter, gauge, histogram, int_gauge, observed, time_counter, up_down_counter,
    },
    partitioned_series::PartitionedSeries,
    series::{Measurement, SeriesKey, measure},
};
use super::{
    logs,
    names::{self, DropReason, EventOutcome},
};

/// All series; clones share them.
#[derive(Clone)]
pub struct Metrics(Arc<SharedMetrics>);

struct SharedMetrics {
    own: AgentInstruments,
    /// The reader of the agent's own series, and the series of all accounts; none when metrics are off.
    kept: Option<(SeriesReader, PartitionedSeries)>,
    overflow_logged: AtomicBool,
}

/// Instruments of the agent itself.
struct AgentInstruments {
    start_lag: Histogram<f64>,
    active: UpDownCounter<i64>,
    queue_size: UpDownCounter<i64>,
    queue_capacity: UpDownCounter<i64>,
    dropped: Counter<u64>,
    delivery: Histogram<f64>,
    server_events: Counter<u64>,
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
#[derive(Debug)]
pub struct Collection {
    reader: SeriesReader,
    /// They are in no later message: others may begin at 0 under the same attributes.
    pub is_retired: bool,
}

impl Metrics {
    /// Keeps series, to be read by [`Self::collections`].
    pub fn new(settings: &MetricsSettings, resource: Resource, temporality: Temporality) -> Self {
        let config = PartitionConfig { resource, settings: settings.clone(), temporality };
        let reader = SeriesReader::new(&config, |_| None);
        let own = AgentInstruments::new(&reader.meter());
        Self::with(own, Some((reader, PartitionedSeries::new(config))))
    }

    /// Keeps nothing: metrics are off.
    pub fn off() -> Self {
        Self::of(&SdkMeterProvider::default())
    }

    /// The agent's own metrics, in a provider of the caller; none of runs.
    pub fn of(provider: &SdkMeterProvider) -> Self {
        Self::with(AgentInstruments::new(&partition::meter(provider)), None)
    }

    fn with(own: AgentInstruments, kept: Option<(SeriesReader, PartitionedSeries)>) -> Self {
        Self(Arc::new(SharedMetrics { own, kept, overflow_logged: AtomicBool::new(false) }))
    }

    /// Records a finished run. A void run does not change `up`.
    pub fn record(&self, run: &Run) {
        self.record_as(&run.target, run);
    }

    /// Records a finished run under another name than the target's: its group's, when series are for groups.
    pub fn record_as(&self, name: &str, run: &Run) {
        if let Some(lag) = run.start_lag_s {
            self.0.own.start_lag.record(lag.as_f64(), &[]);
        }
        let timing = self.0.kept.as_ref().is_some_and(|(_, partitioned)| partitioned.config.settings.timing);
        let family = run.family.map(AddressFamily::as_str);
        let owner = Subject {
            target: name,
            account: &run.account,
            journey: run.journey.as_str(),
            family,
            labels: BTreeMap::new(),
        };
        self.enter(owner, &run.labels, |enter| measure(run, timing, enter));
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
        let owner = Subject { target, account, journey, family: None, labels: BTreeMap::new() };
        self.enter(owner, labels, |enter| enter(SeriesKey::skipped(reason), Measurement::Count(count)));
    }

    /// `labels`: all of the target.
    fn enter<'a>(
        &'a self,
        mut owner: Subject<'a>,
        labels: &'a BTreeMap<String, String>,
        measure: impl Fn(&mut dyn FnMut(SeriesKey, Measurement)),
    ) {
        let Some((_, partitioned)) = &self.0.kept else { return };
        let kept = partitioned.config.settings.labels.iter();
        owner.labels = kept.filter_map(|key| Some((key.as_str(), labels.get(key)?.as_str()))).collect();
        let lost = partitioned.enter(&owner, measure);
        if lost == 0 {
            return;
        }
        self.0.own.overflow.add(lost.try_into().unwrap_or(u64::MAX), &[]);
        if !self.0.overflow_logged.swap(true, Ordering::Relaxed) {
            let (target, account, series) = (owner.target, owner.account, partitioned.series());
            tracing::error!(
                target,
                account,
                series,
                "there is no room for more metric series: new ones are lost and counted; raise [metrics] series_limit"
            );
        }
    }

    /// From now on keeps the series for which `keep` returns true. All others end after one more export, and later runs are not
    /// counted in them. Series in the same message restart: sums at 0, gauges unchanged. Takes long with many accounts: not to
    /// be called on a thread that probes.
    pub fn retain(&self, keep: impl Fn(&Subject<'_>) -> bool + Send + Sync + 'static) {
        if let Some((_, partitioned)) = &self.0.kept {
            partitioned.retain(keep);
            self.0.overflow_logged.store(false, Ordering::Relaxed);
        }
    }

    /// Series of all accounts; the agent's own few are not among them.
    pub fn series(&self) -> usize {
        self.0.kept.as_ref().map_or(0, |(_, partitioned)| partitioned.series())
    }

    /// All series, as messages. Those of the agent itself come last, so that they include the export of the others.
    pub fn collections(&self) -> Vec<Collection> {
        let Some((own, partitioned)) = &self.0.kept else { return Vec::new() };
        let (retired, staying) = partitioned.readers();
        let retired = retired.into_iter().map(|reader| Collection { reader, is_retired: true });
        let own = (!partitioned.config.settings.one_shot).then(|| own.clone());
        let staying = staying.into_iter().chain(own).map(|reader| Collection { reader, is_retired: false });
        retired.chain(staying).collect()
    }

    /// A receiver has accepted this collection, or has refused it permanently.
    pub fn settled(&self, collection: &Collection) {
        if let (true, Some((_, partitioned))) = (collection.is_retired, &self.0.kept) {
            partitioned.delivered(&collection.reader);
        }
    }

    /// A run began (1) or ended (-1).
    pub fn active(&self, change: i64) {
        self.0.own.active.add(change, &[]);
    }

    /// The queue grew by this number of bytes, or shrank when it is negative.
    pub fn queue_size(&self, change: i64) {
        self.0.own.queue_size.add(change, &[]);
    }

    /// The budget of the queue in bytes. To be called once, at the start.
    pub fn queue_capacity(&self, bytes: i64) {
        self.0.own.queue_capacity.add(bytes, &[]);
    }

    /// Counts runs whose trace was dropped.
    pub fn delivery_dropped(&self, reason: DropReason, runs: u64) {
        self.0.own.dropped.add(runs, &[KeyValue::new(names::DROP_REASON, reason.as_str())]);
    }

    /// Records one attempt to export a batch of traces.
    pub fn delivery_duration(&self, took: Seconds) {
        self.0.own.delivery.record(took.as_f64(), &[]);
    }

    /// Counts events of mail servers. An unknown `sender` has no name.
    pub fn server_events(&self, sender: Option<&str>, outcome: EventOutcome, events: u64) {
        let sender = sender.unwrap_or(names::OTHER).to_owned();
        let attributes = [KeyValue::new(names::SENDER, sender), KeyValue::new(names::OUTCOME, outcome.as_str())];
        self.0.own.server_events.add(events, &attributes);
    }

    /// Time lost since the last call to waiting for a processor, to the cgroup's CPU limit, and to pauses of the whole process; and
    /// whether that is too much.
    pub fn agent_cpu(&self, waited: Seconds, throttled: Seconds, paused: Seconds, short: bool) {
        let own = &self.0.own;
        own.cpu_wait.add(waited.as_f64(), &[]);
        own.paused.add(paused.as_f64(), &[]);
        own.cpu_short.record(short.into(), &[]);
        own.cpu_throttled.add(throttled.as_f64(), &[]);
    }

    /// The configuration was loaded, at the start or again; `success`: it is in use.
    pub fn reloaded(&self, success: bool, at: SystemTime) {
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.0.own.reload_time.record(since.as_secs_f64(), &[]);
        self.0.own.reload_success.record(success.into(), &[]);
    }
}

impl Collection {
    /// The current values of its series; none without series.
    pub fn collect(&self) -> Option<ResourceMetrics> {
        self.reader.collect()
    }
}

impl AgentInstruments {
    fn new(meter: &Meter) -> Self {
        Self {
            start_lag: histogram(meter, names::SCHEDULER_START_LAG),
            active: up_down_counter(meter, names::PROBE_ACTIVE),
            queue_size: up_down_counter(meter, names::DELIVERY_QUEUE_SIZE),
            queue_capacity: up_down_counter(meter, names::DELIVERY_QUEUE_CAPACITY),
            dropped: counter(meter, names::DELIVERY_DROPPED),
            delivery: histogram(meter, names::DELIVERY_DURATION),
            server_events: counter(meter, names::SERVER_EVENTS),
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
