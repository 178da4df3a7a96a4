//! A part of the fleet's series with a provider of its own.
//!
//! The SDK has no way to take a series out again, sends all that a provider has in one message, and lumps together what
//! comes over its limit. So series are spread over many small providers: each message stays under what receivers take,
//! a target goes with its shard, and a shard counts what it holds, so that the SDK's limit is never met. Knows no run
//! and no target. Called by `fleet`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use opentelemetry::{
    InstrumentationScope, KeyValue,
    metrics::{
        AsyncInstrument, Counter, Gauge, Histogram, Meter, MeterProvider as _, ObservableCounter, UpDownCounter,
    },
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
    MetricsSettings,
    series::{Measured, What},
};
use crate::telemetry::names::{self, Metric};

/// What a message may hold before its accounts are spread over more of them: receivers take 4 MiB (gRPC's default).
pub(super) const MOST_BYTES: usize = 3 << 20;
/// A shard that holds so much takes no more accounts: those that it has may yet grow.
const ROOMY_BYTES: usize = 3 << 19;

/// What every shard is made with.
#[derive(Debug, Clone)]
pub(super) struct Making {
    pub(super) resource: Resource,
    pub(super) settings: MetricsSettings,
    pub(super) temporality: Temporality,
}

/// No place for one more series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lack {
    /// In this shard.
    Shard,
    /// In all of the agent.
    Agent,
}

/// One provider and its instruments.
pub(super) struct Shard {
    source: Source,
    instruments: Vec<Kept>,
    /// It is made for so many accounts: what its tables have room for.
    pub(super) size: usize,
    /// Accounts that it takes; fewer than `size` after a split.
    pub(super) room: usize,
    fill: Mutex<Fill>,
}

#[derive(Default)]
struct Fill {
    accounts: usize,
    series: [usize; What::COUNT],
    bytes: usize,
}

/// An instrument. A series is entered through it, found by its attributes each time: a handle of its own (what the SDK
/// calls bound) would spare 0.25 µs a measurement, and take 110 to 270 bytes.
enum Kept {
    Histogram(Histogram<f64>),
    Counter(Counter<u64>),
    Number(Gauge<f64>),
    Count(Gauge<u64>),
}

impl Shard {
    pub(super) fn new(making: &Making, size: usize, room: usize) -> Self {
        let source = Source::new(making, move |name| {
            let what = What::ALL.into_iter().find(|what| what.metric().name == name)?;
            Some(size * what.allowance(making.settings.timing))
        });
        let instruments = What::ALL.map(|what| Kept::new(&source.meter(), what)).into();
        Self { source, instruments, size, room, fill: Mutex::default() }
    }

    /// Whether one account more finds its place.
    pub(super) fn is_roomy(&self) -> bool {
        let fill = self.fill();
        fill.accounts < self.room && fill.bytes < ROOMY_BYTES
    }

    pub(super) fn join(&self) {
        self.fill().accounts += 1;
    }

    pub(super) fn accounts(&self) -> usize {
        self.fill().accounts
    }

    /// Makes room for a series of this metric with these attributes, which are sorted by key: else the SDK keeps them
    /// twice.
    pub(super) fn admit(&self, what: What, attributes: &[KeyValue], making: &MetricsSettings) -> Result<(), Lack> {
        debug_assert!(attributes.is_sorted_by(|one, next| one.key < next.key));
        let bytes = point_bytes(what, attributes, making.exponential);
        let mut fill = self.fill();
        let series = &mut fill.series[what as usize];
        if *series >= self.size * what.allowance(making.timing) || fill.bytes + bytes > MOST_BYTES {
            return Err(Lack::Shard);
        }
        fill.series[what as usize] += 1;
        fill.bytes += bytes;
        Ok(())
    }

    /// Enters a value into a series for which there is room.
    pub(super) fn enter(&self, what: What, value: Measured, attributes: &[KeyValue]) {
        match (&self.instruments[what as usize], value) {
            (Kept::Histogram(it), Measured::Number(value)) => it.record(value, attributes),
            (Kept::Number(it), Measured::Number(value)) => it.record(value, attributes),
            (Kept::Counter(it), Measured::Count(count)) => it.add(count, attributes),
            (Kept::Count(it), Measured::Count(count)) => it.record(count, attributes),
            _ => debug_assert!(false, "a measurement of the wrong kind"),
        }
    }

    pub(super) fn source(&self) -> &Source {
        &self.source
    }

    fn fill(&self) -> MutexGuard<'_, Fill> {
        self.fill.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn new(meter: &Meter, what: What) -> Self {
        let metric = what.metric();
        match (metric.kind, what) {
            (names::Kind::Histogram, _) => Self::Histogram(histogram(meter, metric)),
            (names::Kind::Gauge, What::Up | What::Messages) => Self::Count(int_gauge(meter, metric)),
            (names::Kind::Gauge, _) => Self::Number(gauge(meter, metric)),
            _ => Self::Counter(counter(meter, metric)),
        }
    }
}

/// How much of a message a series takes at most, as protobuf.
fn point_bytes(what: What, attributes: &[KeyValue], exponential: bool) -> usize {
    // Times, sums and tags of a point; of an explicit histogram 16 bounds and 17 counts of 8 bytes, of an exponential
    // one up to 160 counts of some bytes.
    let point = match (what.metric().kind, exponential) {
        (names::Kind::Histogram, false) => 340,
        (names::Kind::Histogram, true) => 700,
        _ => 40,
    };
    attributes.iter().map(|one| 14 + one.key.as_str().len() + one.value.as_str().len()).sum::<usize>() + point
}

// === Where a shard is read ===

/// A provider that is read when somebody asks; it has no thread.
#[derive(Clone)]
pub(super) struct Source(Arc<(SdkMeterProvider, Reader)>);

impl Source {
    /// `limit` says how many series the instrument of a name may have; what it does not know gets few.
    pub(super) fn new(making: &Making, limit: impl Fn(&str) -> Option<usize> + Copy) -> Self {
        let reader = Reader(Arc::new(ManualReader::builder().with_temporality(making.temporality).build()));
        let exponential = making.settings.exponential;
        // The view outlives us, so it gets a list.
        let limits: Vec<_> = names::METRICS.iter().map(|it| (it.name, limit(it.name).unwrap_or(FEW).max(1))).collect();
        let provider = SdkMeterProvider::builder()
            .with_resource(making.resource.clone())
            .with_view(move |instrument: &Instrument| {
                let limit = limits.iter().find(|(name, _)| *name == instrument.name())?.1;
                let stream = Stream::builder().with_cardinality_limit(limit);
                match instrument.kind() {
                    InstrumentKind::Histogram => stream.with_aggregation(buckets(exponential)).build().ok(),
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

    /// Reads all series. Nothing when there are none.
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

/// The SDK's own reader, that its provider and we share.
#[derive(Debug, Clone)]
struct Reader(Arc<ManualReader>);

impl MetricReader for Reader {
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

fn buckets(exponential: bool) -> Aggregation {
    if exponential {
        // The SDK's own defaults: 160 buckets, as fine as they fit.
        Aggregation::Base2ExponentialHistogram { max_size: 160, max_scale: 20, record_min_max: true }
    } else {
        Aggregation::ExplicitBucketHistogram { boundaries: names::BUCKETS.to_vec(), record_min_max: true }
    }
}

/// Our meter of a provider.
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

/// A count that is kept elsewhere, read when it is exported; absent while it is 0.
pub(super) fn observed(meter: &Meter, metric: Metric, read: fn() -> u64) -> ObservableCounter<u64> {
    let counter = meter.u64_observable_counter(metric.name).with_unit(metric.unit).with_description(metric.description);
    let observe = move |observer: &dyn AsyncInstrument<u64>| match read() {
        0 => {}
        count => observer.observe(count, &[]),
    };
    counter.with_callback(observe).build()
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
