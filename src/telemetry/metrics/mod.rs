//! Records a finished [`Run`] as measurements (docs/telemetry.md).
//!
//! Nothing that a server sends becomes an attribute, so the configuration alone bounds the number of series; measurements over
//! the limit are counted and logged. Sends nothing: `delivery` exports the [`Collection`]s. Called by the agent and the command
//! line.
//!
//! ```text
//! agent_metrics       the instruments of the agent itself
//! series              a run as measurements, and the attributes of each series
//! partitioned_series  the series of all accounts: which partition each is in
//! partition           some of them with a meter provider of their own: one message
//! sources             what is known of the sources of targets
//! settings            what is kept
//! ```

mod agent_metrics;
mod partition;
mod partitioned_series;
mod series;
mod settings;
mod sources;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use opentelemetry::{KeyValue, metrics::Meter};
use opentelemetry_sdk::{
    Resource,
    metrics::{SdkMeterProvider, Temporality, data::ResourceMetrics},
};

pub use self::{
    agent_metrics::AgentMetrics,
    partitioned_series::Subject,
    series::ProbeState,
    settings::{MetricsDetail, MetricsSettings},
    sources::{SourceReport, SourceReports},
};
use imaptrace_record::{AddressFamily, Run, SkipReason};

use self::{
    partition::{PartitionConfig, SeriesReader},
    partitioned_series::PartitionedSeries,
    series::{Measurement, SeriesKey, measure},
    sources::SourceInstruments,
};
use super::names;

/// Series of `imaptrace.server_events`: senders times outcomes.
const MOST_SENDER_SERIES: usize = 4096;

/// Series of a metric of the sources of targets: [`MOST_SOURCES`] times the reasons for a refusal.
const MOST_SOURCE_SERIES: usize = 4096;

/// The most sources of targets of a configuration.
pub const MOST_SOURCES: usize = 800;

/// All series; clones share them.
#[derive(Clone)]
pub struct Metrics(Arc<SharedMetrics>);

struct SharedMetrics {
    own: AgentMetrics,
    /// The reader of the agent's own series, and the series of all accounts; none when metrics are off.
    kept: Option<(SeriesReader, PartitionedSeries)>,
    overflow_logged: AtomicBool,
    sources: SourceReports,
    _source_instruments: SourceInstruments,
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
        let of_sources = [
            names::DISCOVERY_TARGETS,
            names::DISCOVERY_REFUSED,
            names::DISCOVERY_LAST_SUCCESS_TIME,
            names::DISCOVERY_FAILING,
        ];
        let reader = SeriesReader::new(&config, |name| match name {
            _ if name == names::SERVER_EVENTS.name => Some(MOST_SENDER_SERIES),
            _ if of_sources.iter().any(|metric| metric.name == name) => Some(MOST_SOURCE_SERIES),
            _ => None,
        });
        let meter = reader.meter();
        Self::with(&meter, &settings.agent_labels, Some((reader, PartitionedSeries::new(config))))
    }

    /// Keeps nothing: metrics are off.
    pub fn off() -> Self {
        Self::of(&SdkMeterProvider::default())
    }

    /// The agent's own metrics, in a provider of the caller; none of runs.
    pub fn of(provider: &SdkMeterProvider) -> Self {
        Self::with(&partition::meter(provider), &BTreeMap::new(), None)
    }

    fn with(meter: &Meter, labels: &BTreeMap<String, String>, kept: Option<(SeriesReader, PartitionedSeries)>) -> Self {
        let labels: Arc<[KeyValue]> = labels
            .iter()
            .map(|(key, value)| KeyValue::new(format!("{}{key}", names::LABEL_PREFIX), value.clone()))
            .collect();
        let sources = SourceReports::default();
        let source_instruments = SourceInstruments::new(meter, &sources, &labels);
        let own = AgentMetrics::new(meter, labels);
        let overflow_logged = AtomicBool::new(false);
        Self(Arc::new(SharedMetrics { own, kept, overflow_logged, sources, _source_instruments: source_instruments }))
    }

    /// The reports of the sources of targets, which are exported as they are then.
    pub fn sources(&self) -> SourceReports {
        self.0.sources.clone()
    }

    /// Records a finished run. A void run does not change `up`.
    pub fn record(&self, run: &Run) {
        self.record_as(&run.target, run, None);
    }

    /// Records a finished run under another name than the target's: its group's, when series are for groups. `state`: the
    /// interval and the recent failures of the account; none outside of an agent.
    pub fn record_as(&self, name: &str, run: &Run, state: Option<ProbeState>) {
        if let Some(lag) = run.start_lag_s {
            self.0.own.start_lag(lag);
        }
        let Some((_, partitioned)) = &self.0.kept else { return };
        let family = run.family.map(AddressFamily::as_str);
        let owner = Subject {
            target: name,
            account: &run.account,
            journey: run.journey.as_str(),
            family,
            labels: BTreeMap::new(),
        };
        let settings = &partitioned.config.settings;
        self.enter(owner, &run.labels, |enter| measure(run, state, settings, enter));
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
        self.0.own.overflow(lost.try_into().unwrap_or(u64::MAX));
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

    /// The series of all accounts, as Prometheus counts them; the agent's own few are not among them.
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

    /// The metrics of the agent itself.
    pub fn agent(&self) -> &AgentMetrics {
        &self.0.own
    }
}

impl Collection {
    /// The current values of its series; none without series.
    pub fn collect(&self) -> Option<ResourceMetrics> {
        self.reader.collect()
    }
}

#[cfg(test)]
mod tests;
