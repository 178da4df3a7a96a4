//! A partition: some of the series, with a meter provider of their own.
//!
//! The SDK cannot remove a series, sends all series of a provider in one message, and merges those over its limit. So series are
//! spread over many small providers: each message is smaller than receivers accept, a target is removed with its partition, and
//! a partition counts its series, so that the SDK's limit is never reached. Called by `partitioned_series`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use opentelemetry::{
    InstrumentationScope, KeyValue,
    metrics::{Counter, Gauge, Histogram, Meter, MeterProvider as _, UpDownCounter},
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    metrics::{
        Aggregation, Instrument, InstrumentKind, ManualReader, Pipeline, SdkMeterProvider, Stream, Temporality,
        data::ResourceMetrics, reader::MetricReader,
    },
};

use super::{
    series::{Measurement, RunMetric},
    settings::MetricsSettings,
};
use crate::telemetry::names::{self, Metric};

/// The largest message. Receivers accept 4 MiB (gRPC's default).
pub(super) const MOST_BYTES: usize = 3 << 20;
/// A partition of this size takes no more accounts, since their series may increase.
const FULL_BYTES: usize = 3 << 19;

/// The settings of all partitions.
#[derive(Debug, Clone)]
pub(super) struct PartitionConfig {
    pub(super) resource: Resource,
    pub(super) settings: MetricsSettings,
    pub(super) temporality: Temporality,
}

/// There is no room for one more series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoCapacity {
    /// In this partition.
    Partition,
    /// In all of the agent.
    Agent,
}

/// One provider and its instruments.
pub(super) struct Partition {
    pub(super) reader: SeriesReader,
    instruments: Vec<RunInstrument>,
    /// Accounts that its tables have room for.
    pub(super) size: usize,
    /// Accounts that it accepts; fewer than `size` after a split.
    pub(super) room: usize,
    fill: Mutex<PartitionLoad>,
}

#[derive(Default)]
struct PartitionLoad {
    accounts: usize,
    series: [usize; RunMetric::COUNT],
    bytes: usize,
}

/// An instrument. A bound one for each series would save 0.25 µs a measurement, and take 110 to 270 bytes.
enum RunInstrument {
    Histogram(Histogram<f64>),
    Counter(Counter<u64>),
    Number(Gauge<f64>),
    Count(Gauge<u64>),
}

impl Partition {
    pub(super) fn new(config: &PartitionConfig, size: usize, room: usize) -> Self {
        let reader = SeriesReader::new(config, move |name| {
            let (what, ..) = RunMetric::ALL.into_iter().find(|(_, metric, _)| metric.name == name)?;
            Some(size * what.allowance(&config.settings))
        });
        let instruments = RunMetric::ALL.map(|(what, ..)| RunInstrument::new(&reader.meter(), what)).into();
        Self { reader, instruments, size, room, fill: Mutex::default() }
    }

    /// Whether there is room for one more account.
    pub(super) fn has_room(&self) -> bool {
        let fill = self.fill();
        fill.accounts < self.room && fill.bytes < FULL_BYTES
    }

    pub(super) fn join(&self) {
        self.fill().accounts += 1;
    }

    pub(super) fn accounts(&self) -> usize {
        self.fill().accounts
    }

    /// Counts a new series of this metric. The attributes are sorted by key: else the SDK keeps them twice.
    pub(super) fn admit(
        &self,
        what: RunMetric,
        attributes: &[KeyValue],
        config: &MetricsSettings,
    ) -> Result<(), NoCapacity> {
        debug_assert!(attributes.is_sorted_by(|one, next| one.key < next.key));
        let bytes = point_bytes(what, attributes, config.exponential);
        let mut fill = self.fill();
        let series = &mut fill.series[what as usize];
        if *series >= self.size * what.allowance(config) || fill.bytes + bytes > MOST_BYTES {
            return Err(NoCapacity::Partition);
        }
        fill.series[what as usize] += 1;
        fill.bytes += bytes;
        Ok(())
    }

    pub(super) fn enter(&self, what: RunMetric, value: Measurement, attributes: &[KeyValue]) {
        match (&self.instruments[what as usize], value) {
            (RunInstrument::Histogram(it), Measurement::Number(value)) => it.record(value, attributes),
            (RunInstrument::Number(it), Measurement::Number(value)) => it.record(value, attributes),
            (RunInstrument::Counter(it), Measurement::Count(count)) => it.add(count, attributes),
            (RunInstrument::Count(it), Measurement::Count(count)) => it.record(count, attributes),
            _ => debug_assert!(false, "a measurement of the wrong kind"),
        }
    }

    fn fill(&self) -> MutexGuard<'_, PartitionLoad> {
        self.fill.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RunInstrument {
    fn new(meter: &Meter, what: RunMetric) -> Self {
        let metric = what.metric();
        match (metric.kind, what) {
            (names::MetricKind::Histogram, _) => Self::Histogram(histogram(meter, metric)),
            (names::MetricKind::Gauge, RunMetric::Up | RunMetric::Messages | RunMetric::Failures) => {
                Self::Count(int_gauge(meter, metric))
            }
            (names::MetricKind::Gauge, _) => Self::Number(gauge(meter, metric)),
            _ => Self::Counter(counter(meter, metric)),
        }
    }
}

/// The largest size of a series in a message, as protobuf.
fn point_bytes(what: RunMetric, attributes: &[KeyValue], exponential: bool) -> usize {
    // An explicit histogram has 16 bounds and 17 counts of 8 bytes, an exponential one up to 160 counts.
    let point = match (what.metric().kind, exponential) {
        (names::MetricKind::Histogram, false) => 340,
        (names::MetricKind::Histogram, true) => 700,
        _ => 40,
    };
    attributes.iter().map(|one| 14 + one.key.as_str().len() + one.value.as_str().len()).sum::<usize>() + point
}

/// A provider that is read on demand; it has no thread.
#[derive(Debug, Clone)]
pub(super) struct SeriesReader(Arc<(SdkMeterProvider, SharedReader)>);

impl SeriesReader {
    /// `limit`: the most series that the instrument of a name may have, else [`FEW`].
    pub(super) fn new(config: &PartitionConfig, limit: impl Fn(&str) -> Option<usize> + Copy) -> Self {
        let reader = SharedReader(Arc::new(ManualReader::builder().with_temporality(config.temporality).build()));
        let settings = config.settings.clone();
        let limits: Vec<_> = names::METRICS.iter().map(|it| (it.name, limit(it.name).unwrap_or(FEW).max(1))).collect();
        let provider = SdkMeterProvider::builder()
            .with_resource(config.resource.clone())
            .with_view(move |instrument: &Instrument| {
                let limit = limits.iter().find(|(name, _)| *name == instrument.name())?.1;
                let stream = Stream::builder().with_cardinality_limit(limit);
                match instrument.kind() {
                    InstrumentKind::Histogram => {
                        stream.with_aggregation(aggregation(instrument.name(), &settings)).build().ok()
                    }
                    _ => stream.build().ok(),
                }
            })
            .with_reader(reader.clone())
            .build();
        Self(Arc::new((provider, reader)))
    }

    pub(super) fn meter(&self) -> Meter {
        meter(&self.0.0)
    }

    /// Reads all series; none when there are none.
    pub(super) fn collect(&self) -> Option<ResourceMetrics> {
        let mut found = ResourceMetrics::default();
        self.0.1.collect(&mut found).ok()?;
        let is_empty = found.scope_metrics().next().is_none();
        (!is_empty).then_some(found)
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Series of each of the agent's own metrics.
const FEW: usize = 16;

/// The SDK's own reader, shared by its provider and this module.
#[derive(Debug, Clone)]
struct SharedReader(Arc<ManualReader>);

impl MetricReader for SharedReader {
    fn register_pipeline(&self, pipeline: Weak<Pipeline>) {
        self.0.register_pipeline(pipeline);
    }

    fn collect(&self, into: &mut ResourceMetrics) -> OTelSdkResult {
        self.0.collect(into)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: std::time::Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn temporality(&self, kind: InstrumentKind) -> Temporality {
        self.0.temporality(kind)
    }
}

/// How the histogram of this name is kept.
fn aggregation(name: &str, settings: &MetricsSettings) -> Aggregation {
    if settings.exponential {
        // The SDK's defaults.
        return Aggregation::Base2ExponentialHistogram { max_size: 160, max_scale: 20, record_min_max: true };
    }
    let of_run = RunMetric::ALL.into_iter().find(|(_, metric, _)| metric.name == name);
    let has_buckets = of_run.is_none_or(|(what, ..)| what.has_buckets(settings));
    let boundaries = if has_buckets { names::BUCKETS.to_vec() } else { Vec::new() };
    Aggregation::ExplicitBucketHistogram { boundaries, record_min_max: true }
}

pub(super) fn meter(provider: &SdkMeterProvider) -> Meter {
    let scope = InstrumentationScope::builder(names::SCOPE).with_version(env!("CARGO_PKG_VERSION")).build();
    provider.meter_with_scope(scope)
}

pub(super) fn histogram(meter: &Meter, metric: Metric) -> Histogram<f64> {
    meter.f64_histogram(metric.name).with_unit(metric.unit).with_description(metric.description).build()
}

pub(super) fn counter(meter: &Meter, metric: Metric) -> Counter<u64> {
    meter.u64_counter(metric.name).with_unit(metric.unit).with_description(metric.description).build()
}

pub(super) fn time_counter(meter: &Meter, metric: Metric) -> Counter<f64> {
    meter.f64_counter(metric.name).with_unit(metric.unit).with_description(metric.description).build()
}

pub(super) fn up_down_counter(meter: &Meter, metric: Metric) -> UpDownCounter<i64> {
    meter.i64_up_down_counter(metric.name).with_unit(metric.unit).with_description(metric.description).build()
}

pub(super) fn gauge(meter: &Meter, metric: Metric) -> Gauge<f64> {
    meter.f64_gauge(metric.name).with_unit(metric.unit).with_description(metric.description).build()
}

pub(super) fn int_gauge(meter: &Meter, metric: Metric) -> Gauge<u64> {
    meter.u64_gauge(metric.name).with_unit(metric.unit).with_description(metric.description).build()
}
