use std::time::SystemTime;

use imaptrace_imap::CommandName;
use imaptrace_record::{AddressFamily, ErrorType, RunOutcome, Seconds, Step, StepName, StepOutcome};
use opentelemetry::{Key as AttributeKey, KeyValue};
use opentelemetry_proto::tonic::{collector::metrics::v1::ExportMetricsServiceRequest, metrics::v1::metric::Data};
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ScopeMetrics};
use prost::Message as _;

use super::*;
use crate::telemetry::{
    ResourceSettings,
    names::{DropReason, EventOutcome, Metric},
    resource, samples,
};

mod partitions;

struct Bench {
    metrics: Metrics,
}

/// One series: attributes as `key=value`, in order, and what it holds.
type Series = (Vec<String>, f64);

impl Bench {
    fn new(settings: &MetricsSettings) -> Self {
        let owner = resource(&ResourceSettings::default());
        Self { metrics: Metrics::new(settings, owner, Temporality::Cumulative) }
    }

    /// Everything, as a receiver that takes all of it gets it.
    fn collected(&self) -> Vec<ResourceMetrics> {
        let collections = self.metrics.collections();
        let found = collections.iter().filter_map(Collection::collect).collect();
        for one in &collections {
            self.metrics.settled(one);
        }
        found
    }

    /// The series of a metric: the sum, the last value, or the count of a histogram.
    fn series(&self, metric: Metric) -> Vec<Series> {
        let all = self.collected();
        let found = all.iter().flat_map(ResourceMetrics::scope_metrics).flat_map(ScopeMetrics::metrics);
        let mut series = Vec::new();
        for found in found.filter(|it| it.name() == metric.name) {
            assert_eq!((found.unit(), found.description()), (metric.unit, metric.description));
            series.extend(match found.data() {
                AggregatedMetrics::F64(data) => points(data, |value| value),
                AggregatedMetrics::U64(data) => points(data, |value| f64::from(u32::try_from(value).unwrap())),
                AggregatedMetrics::I64(data) => points(data, |value| f64::from(i32::try_from(value).unwrap())),
            });
        }
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
                let has_buckets = point.bounds().next().is_some();
                assert!(!has_buckets || point.bounds().eq(names::BUCKETS.iter().copied()));
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

/// The series of accounts, as Prometheus counts them: each bucket, sum and count of a histogram is one.
fn prometheus_series(bench: &Bench) -> usize {
    let collected = bench.collected();
    let requests = collected.iter().map(ExportMetricsServiceRequest::from).flat_map(|request| request.resource_metrics);
    let metrics = requests.flat_map(|resource| resource.scope_metrics).flat_map(|scope| scope.metrics);
    let own = |name: &str| name == names::SCHEDULER_START_LAG.name || name == names::METRICS_OVERFLOW.name;
    let weights = metrics.filter(|metric| !own(&metric.name)).map(|metric| match metric.data.unwrap() {
        Data::Histogram(data) => data.data_points.iter().map(|point| point.bucket_counts.len().max(1) + 2).sum(),
        Data::ExponentialHistogram(data) => data.data_points.len() * 3,
        Data::Gauge(data) => data.data_points.len(),
        Data::Sum(data) => data.data_points.len(),
        Data::Summary(_) => panic!("there is none"),
    });
    weights.sum()
}

fn full() -> MetricsSettings {
    MetricsSettings { detail: MetricsDetail::Full, ..Default::default() }
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
fn up_is_the_outcome_of_the_last_run_that_is_not_void() {
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
    let bench = Bench::new(&full());
    bench.metrics.record(&samples::passed());
    let of = |metric: Metric, key: &str| -> Vec<String> {
        let key = format!("{key}=");
        let series = bench.series(metric).into_iter();
        series.map(|(words, _)| words.iter().find(|word| word.starts_with(&key)).cloned().unwrap()).collect()
    };
    assert_eq!(
        of(names::OPERATION_DURATION, names::IMAP_COMMAND_NAME),
        ["FETCH", "LOGIN", "LOGOUT", "SELECT"].map(|name| format!("imap.command.name={name}"))
    );
    assert_eq!(
        of(names::SETUP_DURATION, names::IMAP_SETUP_PHASE),
        ["connect", "greeting", "resolve", "tls"].map(|name| format!("imap.setup.phase={name}"))
    );
    let mail01 = MAIL01.map(String::from).to_vec();
    assert_eq!(bench.series(names::PROBE_FIRST_LOADING_DURATION), [(mail01.clone(), 1.0)]);
    assert_eq!(bench.series(names::MAILBOX_MESSAGES), [(mail01.clone(), 4711.0)]);
    assert_eq!(bench.series(names::CERTIFICATE_NOT_AFTER), [(mail01, 1_801_353_600.0)]);
    assert_eq!(bench.series(names::SCHEDULER_START_LAG), [(Vec::new(), 1.0)]);
}

#[test]
fn without_full_detail_only_what_a_user_waits_for_has_buckets_and_no_account_has_over_120_series() {
    let (standard, full) = (Bench::new(&MetricsSettings::default()), Bench::new(&full()));
    let state = ProbeState { interval: Seconds::from_micros(60_000_000), failures: 0 };
    // A run with all commands.
    let mut run = samples::passed();
    let fetch = run.steps.iter().find(|step| step.name == "FETCH").unwrap().clone();
    for name in [CommandName::Capability, CommandName::Id, CommandName::Namespace, CommandName::List] {
        run.steps.push(Step { name: StepName::from(name), ..fetch.clone() });
    }
    for bench in [&standard, &full] {
        bench.metrics.record_as(&run.target, &run, Some(state));
    }
    let commands = |bench: &Bench| -> Vec<String> {
        let series = bench.series(names::OPERATION_DURATION);
        let names = series
            .iter()
            .filter_map(|(words, _)| words.iter().find_map(|word| word.strip_prefix("imap.command.name=")));
        names.map(ToOwned::to_owned).collect()
    };
    assert_eq!(commands(&standard), ["FETCH", "LIST", "LOGIN", "SELECT"]);
    assert_eq!(commands(&full), ["CAPABILITY", "FETCH", "ID", "LIST", "LOGIN", "LOGOUT", "NAMESPACE", "SELECT"]);
    assert_eq!(standard.series(names::CLIENT_IO), []);
    assert!(is(standard.series(names::PROBE_INTERVAL)[0].1, 60));
    assert_eq!(prometheus_series(&standard), 116);
    assert_eq!((standard.metrics.series(), full.metrics.series()), (116, prometheus_series(&full)));
}

#[test]
fn the_agents_series_have_its_labels_and_only_the_configuration_in_use() {
    let settings =
        MetricsSettings { agent_labels: [("dc".to_owned(), "fra1".to_owned())].into(), ..Default::default() };
    let bench = Bench::new(&settings);
    let agent = bench.metrics.agent();
    assert_eq!(bench.series(names::CONFIG_INFO), []);
    agent.up(true);
    agent.copies(2);
    agent.servers(120, 3);
    agent.configured("0123456789abcdef");
    agent.configured("fedcba9876543210");
    let label = vec!["imaptrace.label.dc=fra1".to_owned()];
    assert_eq!(bench.series(names::AGENT_UP), [(label.clone(), 1.0)]);
    assert_eq!(bench.series(names::AGENT_COPIES), [(label.clone(), 2.0)]);
    assert_eq!(bench.series(names::AGENT_SERVERS), [(label.clone(), 120.0)]);
    assert_eq!(bench.series(names::AGENT_SERVERS_UNREACHABLE), [(label.clone(), 3.0)]);
    let version = format!("imaptrace.config.version={}", env!("CARGO_PKG_VERSION"));
    let info = ["imaptrace.config.hash=fedcba9876543210", &version, &label[0]].map(ToOwned::to_owned).to_vec();
    assert_eq!(bench.series(names::CONFIG_INFO), [(info, 1.0)]);
    agent.up(false);
    assert_eq!(bench.series(names::AGENT_UP), [(label, 0.0)]);
    bench.metrics.record(&samples::passed());
    assert_eq!(bench.series(names::PROBE_UP)[0].0, MAIL01, "a target's series have none of them");
}

#[test]
fn each_of_many_sources_of_targets_has_its_series() {
    let bench = Bench::new(&MetricsSettings::default());
    assert!(MOST_SOURCES * names::DiscoveryRefusal::ALL.len() <= MOST_SOURCE_SERIES);
    for number in 0..MOST_SOURCES {
        bench
            .metrics
            .sources()
            .update("mail", &format!("_imaps._tcp.{number:03}.example.org"), |report| report.failing = true);
    }
    let failing = bench.series(names::DISCOVERY_FAILING);
    assert_eq!(failing.len(), MOST_SOURCES);
    assert!(failing.iter().all(|(words, _)| words.iter().all(|word| !word.contains("overflow"))));
}

#[test]
fn events_of_many_senders_are_counted_for_each() {
    let bench = Bench::new(&MetricsSettings::default());
    for number in 0..300 {
        bench.metrics.agent().server_events(Some(&format!("mail{number:03}")), EventOutcome::Joined, 1);
    }
    assert_eq!(bench.series(names::SERVER_EVENTS).len(), 300);
}

#[test]
fn a_failed_command_has_status_and_error_and_one_that_did_not_start_is_not_measured() {
    let bench = Bench::new(&full());
    let mut run = samples::failed();
    bench.metrics.record(&run);
    let login = bench.series(names::OPERATION_DURATION).remove(0).0;
    assert!(login.contains(&"error.type=auth_failed".into()) && login.contains(&"imap.response.status=NO".into()));
    assert_eq!(bench.series(names::OPERATION_DURATION).len(), 2);
    assert_eq!(bench.series(names::PROBE_FIRST_LOADING_DURATION), []);
    assert_eq!(bench.series(names::CERTIFICATE_NOT_AFTER), []);

    let bench = Bench::new(&full());
    (run.steps[2].duration_s, run.steps[2].received_bytes) = (Seconds::ZERO, None);
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
    let text: Vec<_> = series.iter().map(|(words, count)| (words[0].as_str(), words[4].as_str(), *count)).collect();
    let fetch = "imap.command.name=FETCH";
    assert_eq!(
        text,
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
    let bench = Bench::new(&full());
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
    let settings = MetricsSettings { labels: ["rack".into(), "missing".into()].into(), ..Default::default() };
    let bench = Bench::new(&settings);
    let mut run = samples::passed();
    run.family = Some(AddressFamily::Ipv6);
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
    bench.metrics.record_as("fleet", &run, None);
    run.target = "mail02".to_owned();
    bench.metrics.record_as("fleet", &run, None);
    bench.metrics.record(&run);
    let found = bench.series(names::PROBE_FIRST_LOADING_DURATION);
    let named: Vec<_> = found.iter().map(|(words, count)| (words[2].as_str(), *count)).collect();
    assert_eq!(named, [("imaptrace.target.name=fleet", 2.0), ("imaptrace.target.name=mail02", 1.0)]);
}

#[test]
fn the_agents_own_metrics_are_exported() {
    let bench = Bench::new(&MetricsSettings::default());
    bench.metrics.skipped(1, SkipReason::Running, "mail01", "default", "first-load", &BTreeMap::new());
    bench.metrics.agent().active(1);
    bench.metrics.agent().active(1);
    bench.metrics.agent().active(-1);
    bench.metrics.agent().queue_capacity(4096);
    bench.metrics.agent().queue_size(1500);
    bench.metrics.agent().queue_size(-500);
    bench.metrics.agent().delivery_dropped(DropReason::Budget, 3);
    bench.metrics.agent().delivery_duration(Seconds::from_micros(1500));
    assert!(bench.series(names::PROBE_SKIPPED)[0].0.contains(&"imaptrace.skip.reason=running".into()));
    assert_eq!(bench.series(names::PROBE_ACTIVE), [(Vec::new(), 1.0)]);
    assert_eq!(bench.series(names::DELIVERY_QUEUE_CAPACITY), [(Vec::new(), 4096.0)]);
    assert_eq!(bench.series(names::DELIVERY_QUEUE_SIZE), [(Vec::new(), 1000.0)]);
    assert_eq!(bench.series(names::DELIVERY_DROPPED), [(vec!["imaptrace.drop.reason=budget".into()], 3.0)]);
    assert_eq!(bench.series(names::DELIVERY_DURATION), [(Vec::new(), 1.0)]);
}

/// Runs of so many targets, mail000 and on.
fn of_targets(count: usize, run: &Run) -> impl Iterator<Item = Run> + '_ {
    (0..count).map(|number| Run { target: format!("mail{number:03}"), ..run.clone() })
}

fn words_of_all(bench: &Bench) -> Vec<(String, Vec<String>)> {
    let mut all = Vec::new();
    for metric in names::METRICS {
        all.extend(bench.series(*metric).into_iter().map(|(words, _)| (metric.name.to_owned(), words)));
    }
    all
}

fn overflows(bench: &Bench) -> u32 {
    let series = bench.series(names::METRICS_OVERFLOW);
    series.first().map_or(0, |(_, count)| (0..10_000).find(|number| is(*count, *number)).unwrap())
}

fn is(value: f64, number: u32) -> bool {
    (value - f64::from(number)).abs() < 0.5
}

#[test]
fn attributes_are_sorted_and_each_stands_once() {
    let bench = Bench::new(&MetricsSettings { timing: true, labels: ["rack".into()].into(), ..Default::default() });
    bench.metrics.record(&Run { family: Some(AddressFamily::Ipv4), ..samples::passed() });
    bench.metrics.record(&samples::failed());
    bench.metrics.skipped(1, SkipReason::Window, "mail01", "default", "first-load", &BTreeMap::new());
    for resource in bench.collected() {
        for metric in resource.scope_metrics().flat_map(ScopeMetrics::metrics) {
            let AggregatedMetrics::F64(MetricData::Histogram(data)) = metric.data() else { continue };
            for point in data.data_points() {
                let keys: Vec<&AttributeKey> = point.attributes().map(|one| &one.key).collect();
                assert!(keys.is_sorted_by(|one, next| one < next), "{keys:?}");
            }
        }
    }
}

#[test]
fn with_delta_temporality_only_new_measurements_are_exported() {
    let owner = resource(&ResourceSettings::default());
    let bench = Bench { metrics: Metrics::new(&MetricsSettings::default(), owner, Temporality::Delta) };
    bench.metrics.record(&samples::passed());
    bench.metrics.record(&samples::passed());
    let counts = |bench: &Bench| -> Vec<f64> {
        bench.series(names::OPERATION_DURATION).into_iter().map(|(_, count)| count).collect()
    };
    assert!(counts(&bench).iter().all(|count| is(*count, 2)));
    assert_eq!(words_of_all(&bench), []);
    bench.metrics.record(&samples::passed());
    assert!(counts(&bench).iter().all(|count| is(*count, 1)));
}

#[test]
fn without_a_receiver_nothing_is_kept() {
    let metrics = Metrics::off();
    metrics.record(&samples::passed());
    metrics.retain(|_| true);
    assert_eq!((metrics.series(), metrics.collections().len()), (0, 0));
}

#[test]
fn a_one_shot_process_marks_each_series_and_has_none_of_an_agents_own() {
    for one_shot in [true, false] {
        let bench = Bench::new(&MetricsSettings { one_shot, ..Default::default() });
        let metrics = &bench.metrics;
        metrics.record(&samples::passed());
        metrics.agent().queue_capacity(1);
        metrics.agent().reloaded(true, SystemTime::UNIX_EPOCH);
        let all: Vec<_> = bench.collected().iter().map(ExportMetricsServiceRequest::from).collect();
        let text = format!("{all:?}");
        let (marked, own) = (text.matches(names::ONE_SHOT).count(), text.contains(names::DELIVERY_QUEUE_CAPACITY.name));
        let of_runs = text.matches(names::TARGET_NAME).count();
        assert_eq!((marked == of_runs, own), (one_shot, !one_shot), "{marked} of {of_runs}");
    }
}
