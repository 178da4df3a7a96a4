//! A finished [`Run`] as measurements (contract §5).
//!
//! Keeps no history: the last verdict, the last certificate and the last count of messages live in gauges. Nothing
//! that a server sends becomes an attribute, so the configuration alone bounds the number of series. Sends nothing:
//! `delivery` owns the provider that [`meter_provider`] makes. Called by the agent and by the command line.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use opentelemetry::{
    InstrumentationScope, KeyValue,
    metrics::{Counter, Gauge, Histogram, Meter, MeterProvider as _, UpDownCounter},
};
use opentelemetry_sdk::{
    Resource,
    metrics::{
        Aggregation, Instrument, InstrumentKind, PeriodicReader, SdkMeterProvider, Stream, exporter::PushMetricExporter,
    },
};

use super::names::{self, DropReason, Metric, SkipReason};
use crate::record::{ErrorType, Run, RunOutcome, Seconds, Step, StepOutcome};

/// How measurements are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsSettings {
    /// Keys of the labels that become attributes (`[metrics] labels`).
    pub labels: Vec<String>,
    /// Exponential histograms in place of [`names::BUCKETS`]; more exact, and about three times the memory.
    pub exponential: bool,
    /// Attribute sets kept per metric; at least 1. What comes above it would be lumped together by the SDK, so the
    /// configuration must have counted before.
    pub series_limit: usize,
}

impl Default for MetricsSettings {
    fn default() -> Self {
        Self { labels: Vec::new(), exponential: false, series_limit: 100_000 }
    }
}

/// A provider whose instruments keep as many series as the settings say, and nothing beyond what is recorded.
/// It collects every `interval` and hands what it has to `exporter`, on a thread of its own.
pub fn meter_provider<E: PushMetricExporter>(
    settings: &MetricsSettings,
    resource: Resource,
    interval: Duration,
    exporter: E,
) -> SdkMeterProvider {
    let (exponential, limit) = (settings.exponential, settings.series_limit.max(1));
    SdkMeterProvider::builder()
        .with_resource(resource)
        .with_view(move |instrument: &Instrument| {
            let stream = Stream::builder().with_cardinality_limit(limit);
            match instrument.kind() {
                InstrumentKind::Histogram => stream.with_aggregation(buckets(exponential)).build().ok(),
                _ => stream.build().ok(),
            }
        })
        .with_reader(PeriodicReader::builder(exporter).with_interval(interval).build())
        .build()
}

fn buckets(exponential: bool) -> Aggregation {
    if exponential {
        // The SDK's own defaults: 160 buckets, as fine as they fit.
        Aggregation::Base2ExponentialHistogram { max_size: 160, max_scale: 20, record_min_max: true }
    } else {
        Aggregation::ExplicitBucketHistogram { boundaries: names::BUCKETS.to_vec(), record_min_max: true }
    }
}

/// The instruments. Cheap to clone; all clones record into the same series.
#[derive(Clone)]
pub struct Metrics(Arc<Instruments>);

struct Instruments {
    labels: Vec<String>,
    first_loading: Histogram<f64>,
    duration: Histogram<f64>,
    operation: Histogram<f64>,
    setup: Histogram<f64>,
    io: Counter<u64>,
    up: Gauge<u64>,
    last_run: Gauge<f64>,
    certificate: Gauge<f64>,
    messages: Gauge<u64>,
    skipped: Counter<u64>,
    start_lag: Histogram<f64>,
    active: UpDownCounter<i64>,
    dropped: Counter<u64>,
    delivery: Histogram<f64>,
}

impl Metrics {
    /// The instruments of `provider`.
    pub fn new(provider: &SdkMeterProvider, settings: &MetricsSettings) -> Self {
        let scope = InstrumentationScope::builder(names::SCOPE).with_version(env!("CARGO_PKG_VERSION")).build();
        let meter = provider.meter_with_scope(scope);
        Self(Arc::new(Instruments {
            labels: settings.labels.clone(),
            first_loading: histogram(&meter, names::PROBE_FIRST_LOADING_DURATION),
            duration: histogram(&meter, names::PROBE_DURATION),
            operation: histogram(&meter, names::OPERATION_DURATION),
            setup: histogram(&meter, names::SETUP_DURATION),
            io: counter(&meter, names::CLIENT_IO),
            up: int_gauge(&meter, names::PROBE_UP),
            last_run: gauge(&meter, names::PROBE_LAST_RUN_TIME),
            certificate: gauge(&meter, names::CERTIFICATE_NOT_AFTER),
            messages: int_gauge(&meter, names::MAILBOX_MESSAGES),
            skipped: counter(&meter, names::PROBE_SKIPPED),
            start_lag: histogram(&meter, names::SCHEDULER_START_LAG),
            active: meter
                .i64_up_down_counter(names::PROBE_ACTIVE.name)
                .with_unit(names::PROBE_ACTIVE.unit)
                .with_description(names::PROBE_ACTIVE.description)
                .build(),
            dropped: counter(&meter, names::DELIVERY_DROPPED),
            delivery: histogram(&meter, names::DELIVERY_DURATION),
        }))
    }

    /// Enters a finished run. A void run says nothing of the target: it leaves `up` as it was.
    pub fn record(&self, run: &Run) {
        let to = &*self.0;
        let mut base = self.base(&run.target, &run.account, &run.journey, &run.labels);
        base.extend(run.family.iter().map(|family| KeyValue::new(names::NETWORK_TYPE, family.clone())));

        match run.outcome {
            RunOutcome::Passed => to.up.record(1, &base),
            RunOutcome::Failed => to.up.record(0, &base),
            RunOutcome::Void => {}
        }
        to.last_run.record(run.started_at.epoch_seconds() + run.duration_s.as_f64(), &base);
        to.duration.record(run.duration_s.as_f64(), &and(&base, error(run.error_type)));
        if let Some(latency) = run.first_loading_latency_s {
            to.first_loading.record(latency.as_f64(), &base);
        }
        if let Some(lag) = run.start_lag_s {
            to.start_lag.record(lag.as_f64(), &[]);
        }
        let shook_hands = run.steps.iter().any(|step| step.name == Step::TLS && step.outcome == StepOutcome::Passed);
        if let (true, Some(end)) = (shook_hands, run.server.certificate_not_after) {
            to.certificate.record(end.epoch_seconds(), &base);
        }
        for step in run.steps.iter().filter(|step| step.was_started() && step.outcome != StepOutcome::Skipped) {
            self.record_step(step, &base);
        }
    }

    fn record_step(&self, step: &Step, base: &[KeyValue]) {
        let to = &*self.0;
        let command = step
            .is_command()
            .then(|| KeyValue::new(names::IMAP_COMMAND_NAME, names::closed(names::COMMANDS, &step.name)));
        let seconds = step.duration_s.as_f64();
        if let Some(command) = &command {
            let status = step.status.as_deref().map(|it| names::closed(names::STATUSES, it));
            let status = status.map(|status| KeyValue::new(names::IMAP_RESPONSE_STATUS, status));
            let more = [command.clone()].into_iter().chain(status).chain(error(step.error_type));
            to.operation.record(seconds, &and(base, more));
        } else {
            let phase = KeyValue::new(names::IMAP_SETUP_PHASE, step.name.clone());
            to.setup.record(seconds, &and(base, [phase].into_iter().chain(error(step.error_type))));
        }
        for (direction, bytes) in [("transmit", step.sent_bytes), ("receive", step.received_bytes)] {
            if let Some(bytes) = bytes.filter(|bytes| *bytes > 0) {
                let direction = KeyValue::new(names::NETWORK_IO_DIRECTION, direction);
                to.io.add(bytes, &and(base, [direction].into_iter().chain(command.clone())));
            }
        }
        if let Some(messages) = step.mailbox_messages {
            to.messages.record(messages, base);
        }
    }

    /// Counts a run that was due and not started.
    pub fn skipped(
        &self,
        reason: SkipReason,
        target: &str,
        account: &str,
        journey: &str,
        labels: &BTreeMap<String, String>,
    ) {
        let reason = KeyValue::new(names::REASON, reason.as_str());
        self.0.skipped.add(1, &and(&self.base(target, account, journey, labels), [reason]));
    }

    /// A run began (1) or ended (-1).
    pub fn active(&self, change: i64) {
        self.0.active.add(change, &[]);
    }

    /// Counts runs whose trace was given up.
    pub fn delivery_dropped(&self, reason: DropReason, runs: u64) {
        self.0.dropped.add(runs, &[KeyValue::new(names::REASON, reason.as_str())]);
    }

    /// Enters one attempt to export a batch of traces.
    pub fn delivery_duration(&self, took: Seconds) {
        self.0.delivery.record(took.as_f64(), &[]);
    }

    fn base(&self, target: &str, account: &str, journey: &str, labels: &BTreeMap<String, String>) -> Vec<KeyValue> {
        let mut base = vec![
            KeyValue::new(names::TARGET_NAME, target.to_owned()),
            KeyValue::new(names::ACCOUNT_NAME, account.to_owned()),
            KeyValue::new(names::JOURNEY_NAME, journey.to_owned()),
        ];
        let allowed = self.0.labels.iter().filter_map(|key| labels.get_key_value(key));
        base.extend(allowed.map(|(key, value)| KeyValue::new(format!("{}{key}", names::LABEL_PREFIX), value.clone())));
        base
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").field("labels", &self.0.labels).finish_non_exhaustive()
    }
}

fn error(class: Option<ErrorType>) -> Option<KeyValue> {
    class.map(|class| KeyValue::new(names::ERROR_TYPE, class.as_str()))
}

fn and(base: &[KeyValue], more: impl IntoIterator<Item = KeyValue>) -> Vec<KeyValue> {
    base.iter().cloned().chain(more).collect()
}

fn histogram(meter: &Meter, metric: Metric) -> Histogram<f64> {
    meter.f64_histogram(metric.name).with_unit(metric.unit).with_description(metric.description).build()
}

fn counter(meter: &Meter, metric: Metric) -> Counter<u64> {
    meter.u64_counter(metric.name).with_unit(metric.unit).with_description(metric.description).build()
}

fn gauge(meter: &Meter, metric: Metric) -> Gauge<f64> {
    meter.f64_gauge(metric.name).with_unit(metric.unit).with_description(metric.description).build()
}

fn int_gauge(meter: &Meter, metric: Metric) -> Gauge<u64> {
    meter.u64_gauge(metric.name).with_unit(metric.unit).with_description(metric.description).build()
}
