//! A finished [`Run`] as measurements (contract §5).
//!
//! Keeps no history: the last verdict, the last certificate and the last count of messages live in gauges. Nothing
//! that a server sends becomes an attribute, so the configuration alone bounds the number of series. Sends nothing:
//! `delivery` owns the provider that [`meter_provider`] makes. Called by the agent and by the command line.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

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
    /// Whether [`names::TIMING_DURATION`] is kept: three series more for each command.
    pub timing: bool,
}

impl Default for MetricsSettings {
    fn default() -> Self {
        Self { labels: Vec::new(), exponential: false, series_limit: 100_000, timing: false }
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
    timing: Option<Histogram<f64>>,
    setup: Histogram<f64>,
    io: Counter<u64>,
    up: Gauge<u64>,
    last_run: Gauge<f64>,
    certificate: Gauge<f64>,
    messages: Gauge<u64>,
    skipped: Counter<u64>,
    start_lag: Histogram<f64>,
    active: UpDownCounter<i64>,
    queue_size: UpDownCounter<i64>,
    queue_limit: UpDownCounter<i64>,
    dropped: Counter<u64>,
    delivery: Histogram<f64>,
    reload_time: Gauge<f64>,
    reload_success: Gauge<u64>,
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
            timing: settings.timing.then(|| histogram(&meter, names::TIMING_DURATION)),
            setup: histogram(&meter, names::SETUP_DURATION),
            io: counter(&meter, names::CLIENT_IO),
            up: int_gauge(&meter, names::PROBE_UP),
            last_run: gauge(&meter, names::PROBE_LAST_RUN_TIME),
            certificate: gauge(&meter, names::CERTIFICATE_NOT_AFTER),
            messages: int_gauge(&meter, names::MAILBOX_MESSAGES),
            skipped: counter(&meter, names::PROBE_SKIPPED),
            start_lag: histogram(&meter, names::SCHEDULER_START_LAG),
            active: up_down_counter(&meter, names::PROBE_ACTIVE),
            queue_size: up_down_counter(&meter, names::DELIVERY_QUEUE_SIZE),
            queue_limit: up_down_counter(&meter, names::DELIVERY_QUEUE_LIMIT),
            dropped: counter(&meter, names::DELIVERY_DROPPED),
            delivery: histogram(&meter, names::DELIVERY_DURATION),
            reload_time: gauge(&meter, names::CONFIG_LAST_RELOAD_TIME),
            reload_success: int_gauge(&meter, names::CONFIG_LAST_RELOAD_SUCCESS),
        }))
    }

    /// Enters a finished run. A void run says nothing of the target: it leaves `up` as it was.
    pub fn record(&self, run: &Run) {
        self.record_as(&run.target, run);
    }

    /// The same under another name than the target's: its group's, when series are for groups.
    pub fn record_as(&self, name: &str, run: &Run) {
        let to = &*self.0;
        let mut base = self.base(name, &run.account, &run.journey, &run.labels);
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
            self.record_timing(step, command, base);
        } else {
            let phase = KeyValue::new(names::IMAP_SETUP_PHASE, names::closed(names::PHASES, &step.name));
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

    /// The parts of a command that passed. One that failed has no place: a deadline is nobody's time.
    fn record_timing(&self, step: &Step, command: &KeyValue, base: &[KeyValue]) {
        let Some(timing) = self.0.timing.as_ref().filter(|_| step.outcome == StepOutcome::Passed) else { return };
        for (part, took) in names::PARTS.into_iter().zip([step.server_s, step.network_s, step.transfer_s]) {
            if let Some(took) = took {
                timing.record(took.as_f64(), &and(base, [command.clone(), KeyValue::new(names::TIMING_PART, part)]));
            }
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

    /// The queue grew by so many bytes, or shrank by as many when negative.
    pub fn queue_size(&self, change: i64) {
        self.0.queue_size.add(change, &[]);
    }

    /// The budget of the queue in bytes. To be called once, at the start.
    pub fn queue_limit(&self, bytes: i64) {
        self.0.queue_limit.add(bytes, &[]);
    }

    /// Counts runs whose trace was given up.
    pub fn delivery_dropped(&self, reason: DropReason, runs: u64) {
        self.0.dropped.add(runs, &[KeyValue::new(names::REASON, reason.as_str())]);
    }

    /// Enters one attempt to export a batch of traces.
    pub fn delivery_duration(&self, took: Seconds) {
        self.0.delivery.record(took.as_f64(), &[]);
    }

    /// The configuration was read, at the start or again, and is in use or was bad.
    pub fn reloaded(&self, success: bool, at: SystemTime) {
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.0.reload_time.record(since.as_secs_f64(), &[]);
        self.0.reload_success.record(success.into(), &[]);
    }

    fn base(&self, target: &str, account: &str, journey: &str, labels: &BTreeMap<String, String>) -> Vec<KeyValue> {
        let mut base = vec![
            KeyValue::new(names::TARGET_NAME, shared(target)),
            KeyValue::new(names::ACCOUNT_NAME, shared(account)),
            KeyValue::new(names::JOURNEY_NAME, shared(journey)),
        ];
        let allowed = self.0.labels.iter().filter_map(|key| labels.get_key_value(key));
        base.extend(allowed.map(|(key, value)| KeyValue::new(format!("{}{key}", names::LABEL_PREFIX), shared(value))));
        base
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").field("labels", &self.0.labels).finish_non_exhaustive()
    }
}

/// A text that is in the attributes of some thirty measurements of a run: cloned by counting.
fn shared(text: &str) -> Arc<str> {
    Arc::from(text)
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

fn up_down_counter(meter: &Meter, metric: Metric) -> UpDownCounter<i64> {
    meter.i64_up_down_counter(metric.name).with_unit(metric.unit).with_description(metric.description).build()
}

fn gauge(meter: &Meter, metric: Metric) -> Gauge<f64> {
    meter.f64_gauge(metric.name).with_unit(metric.unit).with_description(metric.description).build()
}

fn int_gauge(meter: &Meter, metric: Metric) -> Gauge<u64> {
    meter.u64_gauge(metric.name).with_unit(metric.unit).with_description(metric.description).build()
}

#[cfg(test)]
mod tests {
    use opentelemetry_sdk::metrics::{
        InMemoryMetricExporter,
        data::{AggregatedMetrics, MetricData, ResourceMetrics, ScopeMetrics},
    };

    use super::*;
    use crate::telemetry::{ResourceSettings, resource, samples};

    struct Bench {
        metrics: Metrics,
        provider: SdkMeterProvider,
        exporter: InMemoryMetricExporter,
    }

    /// One series: attributes as `key=value`, in order, and what it holds.
    type Series = (Vec<String>, f64);

    impl Bench {
        fn new(settings: &MetricsSettings) -> Self {
            let exporter = InMemoryMetricExporter::default();
            let who = resource(&ResourceSettings::default());
            let provider = meter_provider(settings, who, Duration::from_secs(3600), exporter.clone());
            Self { metrics: Metrics::new(&provider, settings), provider, exporter }
        }

        fn collected(&self) -> ResourceMetrics {
            self.provider.force_flush().unwrap();
            self.exporter.get_finished_metrics().unwrap().pop().unwrap()
        }

        /// The series of a metric: the sum, the last value, or the count of a histogram.
        fn series(&self, metric: Metric) -> Vec<Series> {
            let all = self.collected();
            let Some(found) = all.scope_metrics().flat_map(ScopeMetrics::metrics).find(|it| it.name() == metric.name)
            else {
                return Vec::new();
            };
            assert_eq!((found.unit(), found.description()), (metric.unit, metric.description));
            let mut series = match found.data() {
                AggregatedMetrics::F64(data) => points(data, |value| value),
                AggregatedMetrics::U64(data) => points(data, |value| f64::from(u32::try_from(value).unwrap())),
                AggregatedMetrics::I64(data) => points(data, |value| f64::from(i32::try_from(value).unwrap())),
            };
            series.sort_by(|a, b| a.0.cmp(&b.0));
            series
        }
    }

    fn points<T: Copy>(data: &MetricData<T>, number: impl Fn(T) -> f64) -> Vec<Series> {
        match data {
            MetricData::Gauge(gauge) => {
                gauge.data_points().map(|point| (words(point.attributes()), number(point.value()))).collect()
            }
            MetricData::Sum(sum) => {
                sum.data_points().map(|point| (words(point.attributes()), number(point.value()))).collect()
            }
            MetricData::Histogram(histogram) => histogram
                .data_points()
                .map(|point| {
                    assert!(point.bounds().eq(names::BUCKETS.iter().copied()));
                    (words(point.attributes()), f64::from(u32::try_from(point.count()).unwrap()))
                })
                .collect(),
            MetricData::ExponentialHistogram(histogram) => histogram
                .data_points()
                .map(|point| (words(point.attributes()), f64::from(u32::try_from(point.count()).unwrap())))
                .collect(),
        }
    }

    fn words<'a>(attributes: impl Iterator<Item = &'a KeyValue>) -> Vec<String> {
        let mut words: Vec<_> = attributes.map(|one| format!("{}={}", one.key, one.value)).collect();
        words.sort();
        words
    }

    const MAIL01: [&str; 3] =
        ["imaptrace.account.name=default", "imaptrace.journey.name=first-load", "imaptrace.target.name=mail01"];

    fn void() -> Run {
        let mut run = samples::passed();
        run.outcome = RunOutcome::Void;
        run.error_type = Some(ErrorType::OverloadFd);
        run.first_loading_latency_s = None;
        run.steps.clear();
        run
    }

    #[test]
    fn up_follows_runs_that_could_judge_and_a_void_run_leaves_it() {
        let bench = Bench::new(&MetricsSettings::default());
        let mut run = samples::passed();
        bench.metrics.record(&run);
        bench.metrics.record(&void());
        assert_eq!(bench.series(names::PROBE_UP), [(MAIL01.map(String::from).to_vec(), 1.0)]);
        run.outcome = RunOutcome::Failed;
        bench.metrics.record(&run);
        bench.metrics.record(&void());
        assert_eq!(bench.series(names::PROBE_UP), [(MAIL01.map(String::from).to_vec(), 0.0)]);
    }

    #[test]
    fn a_void_run_is_counted_by_its_error_and_dated() {
        let bench = Bench::new(&MetricsSettings::default());
        bench.metrics.record(&void());
        assert_eq!(bench.series(names::PROBE_UP), []);
        let duration = bench.series(names::PROBE_DURATION);
        assert_eq!(duration.len(), 1);
        assert!(duration[0].0.contains(&"error.type=overload_fd".to_owned()), "{duration:?}");
        assert_eq!(bench.series(names::PROBE_LAST_RUN_TIME).len(), 1);
        assert_eq!(bench.series(names::PROBE_FIRST_LOADING_DURATION), []);
    }

    #[test]
    fn each_command_and_phase_that_ran_enters_once() {
        let bench = Bench::new(&MetricsSettings::default());
        bench.metrics.record(&samples::passed());
        let of = |metric: Metric, key: &str| -> Vec<String> {
            let key = format!("{key}=");
            let series = bench.series(metric).into_iter();
            series.map(|(words, _)| words.iter().find(|word| word.starts_with(&key)).cloned().unwrap()).collect()
        };
        assert_eq!(
            of(names::OPERATION_DURATION, "imap.command.name"),
            ["FETCH", "LOGIN", "LOGOUT", "SELECT"].map(|name| format!("imap.command.name={name}"))
        );
        assert_eq!(
            of(names::SETUP_DURATION, "imap.setup.phase"),
            ["connect", "greeting", "resolve", "tls"].map(|name| format!("imap.setup.phase={name}"))
        );
        let mail01 = MAIL01.map(String::from).to_vec();
        assert_eq!(bench.series(names::PROBE_FIRST_LOADING_DURATION), [(mail01.clone(), 1.0)]);
        assert_eq!(bench.series(names::MAILBOX_MESSAGES), [(mail01.clone(), 4711.0)]);
        assert_eq!(bench.series(names::CERTIFICATE_NOT_AFTER), [(mail01, 1_801_353_600.0)]);
        assert_eq!(bench.series(names::SCHEDULER_START_LAG), [(Vec::new(), 1.0)]);
    }

    #[test]
    fn a_failing_command_bears_status_and_error_and_one_that_could_not_start_enters_nothing() {
        let bench = Bench::new(&MetricsSettings::default());
        let mut run = samples::failed();
        bench.metrics.record(&run);
        let login = bench.series(names::OPERATION_DURATION).remove(0).0;
        assert!(login.contains(&"error.type=auth_failed".into()) && login.contains(&"imap.response.status=NO".into()));
        assert_eq!(bench.series(names::OPERATION_DURATION).len(), 2);
        assert_eq!(bench.series(names::PROBE_FIRST_LOADING_DURATION), []);
        assert_eq!(bench.series(names::CERTIFICATE_NOT_AFTER), []);

        let bench = Bench::new(&MetricsSettings::default());
        run.steps[2].duration_s = Seconds::ZERO;
        bench.metrics.record(&run);
        assert_eq!(bench.series(names::OPERATION_DURATION).len(), 1, "LOGOUT alone");
    }

    #[test]
    fn the_parts_of_commands_that_passed_enter_when_asked_for() {
        let settings = MetricsSettings { timing: true, ..Default::default() };
        let bench = Bench::new(&settings);
        let mut run = samples::passed();
        bench.metrics.record(&run);
        // SELECT failed: what a deadline cut off is nobody's time.
        let select = run.steps.iter_mut().find(|step| step.name == "SELECT").unwrap();
        (select.server_s, select.outcome) = (Some(select.duration_s), StepOutcome::Failed);
        bench.metrics.record(&run);
        let series = bench.series(names::TIMING_DURATION);
        let told: Vec<_> = series.iter().map(|(words, count)| (words[0].as_str(), words[4].as_str(), *count)).collect();
        let fetch = "imap.command.name=FETCH";
        assert_eq!(
            told,
            [
                (fetch, "imaptrace.timing.part=network", 2.0),
                (fetch, "imaptrace.timing.part=server", 2.0),
                (fetch, "imaptrace.timing.part=transfer", 2.0),
            ]
        );
        let bench = Bench::new(&MetricsSettings::default());
        bench.metrics.record(&run);
        assert_eq!(bench.series(names::TIMING_DURATION), []);
    }

    #[test]
    fn bytes_are_counted_by_direction_and_command() {
        let bench = Bench::new(&MetricsSettings::default());
        bench.metrics.record(&samples::passed());
        bench.metrics.record(&samples::passed());
        let io = bench.series(names::CLIENT_IO);
        let find = |wanted: &[&str]| {
            io.iter().find(|(words, _)| wanted.iter().all(|it| words.iter().any(|word| word == it))).map(|it| it.1)
        };
        assert_eq!(find(&["imap.command.name=FETCH", "network.io.direction=receive"]), Some(96_422.0));
        assert_eq!(find(&["imap.command.name=FETCH", "network.io.direction=transmit"]), Some(176.0));
        assert_eq!(io.len(), 9, "two for each command, one for the greeting");
    }

    #[test]
    fn labels_on_the_allow_list_and_the_family_become_attributes() {
        let settings = MetricsSettings { labels: vec!["rack".into(), "missing".into()], ..Default::default() };
        let bench = Bench::new(&settings);
        let mut run = samples::passed();
        run.family = Some("ipv6".into());
        bench.metrics.record(&run);
        let up = bench.series(names::PROBE_UP).remove(0).0;
        assert_eq!(up[2], "imaptrace.label.rack=a3");
        assert_eq!(up[4], "network.type=ipv6");
        assert_eq!(up.len(), 5);
    }

    #[test]
    fn targets_that_share_a_name_share_their_series() {
        let bench = Bench::new(&MetricsSettings::default());
        let mut run = samples::passed();
        bench.metrics.record_as("fleet", &run);
        run.target = "mail02".to_owned();
        bench.metrics.record_as("fleet", &run);
        bench.metrics.record(&run);
        let found = bench.series(names::PROBE_FIRST_LOADING_DURATION);
        let named: Vec<_> = found.iter().map(|(words, count)| (words[2].as_str(), *count)).collect();
        assert_eq!(named, [("imaptrace.target.name=fleet", 2.0), ("imaptrace.target.name=mail02", 1.0)]);
    }

    #[test]
    fn what_the_agent_counts_arrives() {
        let bench = Bench::new(&MetricsSettings::default());
        bench.metrics.skipped(SkipReason::Running, "mail01", "default", "first-load", &BTreeMap::new());
        bench.metrics.active(1);
        bench.metrics.active(1);
        bench.metrics.active(-1);
        bench.metrics.queue_limit(4096);
        bench.metrics.queue_size(1500);
        bench.metrics.queue_size(-500);
        bench.metrics.delivery_dropped(DropReason::Budget, 3);
        bench.metrics.delivery_duration(Seconds::from_micros(1500));
        assert!(bench.series(names::PROBE_SKIPPED)[0].0.contains(&"reason=running".into()));
        assert_eq!(bench.series(names::PROBE_ACTIVE), [(Vec::new(), 1.0)]);
        assert_eq!(bench.series(names::DELIVERY_QUEUE_LIMIT), [(Vec::new(), 4096.0)]);
        assert_eq!(bench.series(names::DELIVERY_QUEUE_SIZE), [(Vec::new(), 1000.0)]);
        assert_eq!(bench.series(names::DELIVERY_DROPPED), [(vec!["reason=budget".into()], 3.0)]);
        assert_eq!(bench.series(names::DELIVERY_DURATION), [(Vec::new(), 1.0)]);
    }

    #[test]
    fn as_many_series_are_kept_as_the_settings_say() {
        let settings = MetricsSettings { series_limit: 3000, exponential: true, ..Default::default() };
        let bench = Bench::new(&settings);
        let mut run = samples::failed();
        for number in 0..3000 {
            run.target = format!("mail{number}");
            bench.metrics.record(&run);
        }
        for metric in [names::PROBE_UP, names::PROBE_DURATION] {
            let series = bench.series(metric);
            assert_eq!(series.len(), 3000);
            assert!(series.iter().all(|(words, _)| words.iter().all(|word| !word.contains("overflow"))));
        }
    }
}
