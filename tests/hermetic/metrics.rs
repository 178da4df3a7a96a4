//! Metrics on the wire: many series, receivers that fail, targets that go.

use std::{collections::BTreeSet, time::Duration};

use imaptrace::{
    delivery::{Delivery, DeliverySettings, Protocol, Signal},
    telemetry::{MetricsSettings, ResourceSettings, names},
};
use imaptrace_record::Run;
use nix::sys::signal::Signal as StopSignal;
use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::KeyValue,
    metrics::v1::{AggregationTemporality, Metric, metric::Data, number_data_point::Value},
};
use prost::Message as _;

use crate::{
    agent::{otlp, runtime, stop, target, whole},
    command_line::refusing,
    support::{
        otlp::{Answer, Got, Inbox, Log, Receiver, attribute, block_on, passed_run},
        program::Program,
    },
};

/// Longer than anything here takes: what needs it has failed.
const LONG: Duration = Duration::from_secs(30);
/// What receivers take of a message unless told otherwise; ours has this limit, too.
const LIMIT: usize = 4 << 20;

fn start(receiver: &Receiver, interval: Duration) -> Delivery {
    start_with(receiver, interval, &MetricsSettings { timing: true, ..Default::default() })
}

fn start_with(receiver: &Receiver, interval: Duration, metrics: &MetricsSettings) -> Delivery {
    Log::get();
    let signal = Signal::new(&receiver.url(), Protocol::Grpc);
    let settings = DeliverySettings { metrics: Some(signal), metric_interval: interval, ..Default::default() };
    Delivery::start(&settings, &ResourceSettings::default(), metrics).unwrap()
}

fn record(delivery: &Delivery, targets: u32) {
    let metrics = delivery.metrics();
    let mut run = passed_run();
    // Some 13 series each.
    run.steps.retain(|step| ["resolve", "connect", "LOGIN", "FETCH"].contains(&step.name.as_str()));
    for number in 0..targets {
        metrics.record(&Run { target: name(number), ..run.clone() });
    }
}

fn name(number: u32) -> String {
    format!("mail{number:04}.example.org")
}

/// Metric and attributes of each series.
type Series = BTreeSet<(String, Vec<String>)>;

fn series<'a>(requests: impl IntoIterator<Item = &'a Got<ExportMetricsServiceRequest>>) -> Series {
    let mut all = Series::new();
    let resources = requests.into_iter().flat_map(|got| &got.body.resource_metrics);
    for metric in resources.flat_map(|resource| &resource.scope_metrics).flat_map(|scope| &scope.metrics) {
        for attributes in points(metric) {
            let words =
                attributes.iter().map(|one| format!("{}={}", one.key, attribute(attributes, &one.key).unwrap()));
            let mut words: Vec<_> = words.collect();
            words.sort();
            all.insert((metric.name.clone(), words));
        }
    }
    all
}

fn points(metric: &Metric) -> Vec<&[KeyValue]> {
    match metric.data.as_ref().unwrap() {
        Data::Gauge(data) => data.data_points.iter().map(|point| point.attributes.as_slice()).collect(),
        Data::Sum(data) => data.data_points.iter().map(|point| point.attributes.as_slice()).collect(),
        Data::Histogram(data) => data.data_points.iter().map(|point| point.attributes.as_slice()).collect(),
        other => panic!("{other:?}"),
    }
}

/// The series of targets in these requests, as Prometheus counts them: each bucket, sum and count of a histogram is one.
fn prometheus_series<'a>(requests: impl IntoIterator<Item = &'a Got<ExportMetricsServiceRequest>>) -> usize {
    let resources = requests.into_iter().flat_map(|got| &got.body.resource_metrics);
    let metrics = resources.flat_map(|resource| &resource.scope_metrics).flat_map(|scope| &scope.metrics);
    let of_target = |attributes: &[KeyValue]| attributes.iter().any(|one| one.key == names::TARGET_NAME);
    let weights = metrics.map(|metric| match metric.data.as_ref().unwrap() {
        Data::Histogram(data) => {
            let points = data.data_points.iter().filter(|point| of_target(&point.attributes));
            points.map(|point| point.bucket_counts.len().max(1) + 2).sum()
        }
        _ => points(metric).into_iter().filter(|attributes| of_target(attributes)).count(),
    });
    weights.sum()
}

fn count(inbox: &Inbox) -> u64 {
    match inbox.metrics().get(names::PROBE_DURATION.name).and_then(|metric| metric.data.clone()) {
        Some(Data::Histogram(data)) => data.data_points[0].count,
        _ => 0,
    }
}

#[test]
fn the_series_of_1500_targets_arrive_in_messages_that_any_receiver_takes() {
    let receiver = Receiver::grpc();
    let delivery = start(&receiver, Duration::from_secs(3600));
    record(&delivery, 1500);
    let known = delivery.metrics().series();
    assert!(known >= 150_000, "{known}");
    let report = block_on(delivery.shutdown(LONG));
    assert!(report.metrics_delivered, "{report}");
    receiver.look(|inbox| {
        let largest = inbox.metrics.iter().map(|got| got.body.encoded_len()).max().unwrap();
        assert!(largest < LIMIT, "{largest}");
        let all = series(&inbox.metrics);
        assert!(all.iter().flat_map(|(_, words)| words).all(|word| !word.contains("overflow")));
        assert_eq!(prometheus_series(&inbox.metrics), known);
    });
}

#[test]
fn a_target_that_is_gone_is_no_longer_shown_and_the_others_are() {
    let receiver = Receiver::grpc();
    let delivery = start(&receiver, Duration::from_millis(50));
    record(&delivery, 40);
    let of_seven = |series: &Series| {
        let seven = format!("imaptrace.target.name={}", name(7));
        series.iter().filter(|(_, words)| words.contains(&seven)).count()
    };
    receiver.wait(|inbox| of_seven(&series(&inbox.metrics)) > 0);
    delivery.metrics().retain(|subject| subject.target != name(7));
    // Two rounds on: the first may still tell what was, the last is whole.
    let last_runs = |inbox: &Inbox| {
        let details = |got: &&Got<ExportMetricsServiceRequest>| {
            series([*got]).iter().any(|(metric, _)| metric == names::SCHEDULER_START_LAG.name)
        };
        inbox.metrics.iter().filter(details).count()
    };
    let before = receiver.look(last_runs);
    receiver.wait(|inbox| last_runs(inbox) >= before + 2);
    let sent = receiver.look(|inbox| inbox.metrics.len());
    let report = block_on(delivery.shutdown(LONG));
    assert!(report.metrics_delivered, "{report}");
    receiver.look(|inbox| {
        let after = series(&inbox.metrics[sent..]);
        assert_eq!(of_seven(&after), 0);
        let up = after.iter().filter(|(metric, _)| metric == names::PROBE_UP.name);
        assert_eq!(up.count(), 39);
    });
}

#[test]
fn after_a_failed_export_the_next_interval_tells_what_is_newest() {
    let receiver = Receiver::grpc();
    receiver.script_metrics(&[Answer::Unavailable; 2]);
    let delivery = start(&receiver, Duration::from_millis(50));
    delivery.metrics().record(&passed_run());
    receiver.wait(|inbox| !inbox.metrics.is_empty());
    delivery.metrics().record(&passed_run());
    receiver.wait(|inbox| count(inbox) == 2 && inbox.metrics.last().unwrap().answer == Answer::Accept);
    Log::get().wait(&format!("metrics are delivered to {} again", receiver.url()));
    assert!(block_on(delivery.shutdown(LONG)).metrics_delivered);
    let details = Log::get().lines(&receiver.url());
    assert_eq!(details.iter().filter(|line| line.contains("cannot deliver metrics")).count(), 1, "{details:?}");
    // One message a round, and the next round begins behind it.
    receiver.look(|inbox| {
        let refused: Vec<_> = inbox.metrics.iter().take(2).collect();
        assert!(refused.iter().all(|got| got.answer == Answer::Unavailable));
        let has_up = |got: &Got<_>| series([got]).iter().any(|(metric, _)| metric == names::PROBE_UP.name);
        assert_eq!(refused.into_iter().map(has_up).collect::<Vec<_>>(), [true, false]);
    });
}

#[test]
fn a_message_that_is_refused_stops_no_other_and_is_reported() {
    let receiver = Receiver::grpc();
    receiver.script_metrics(&[Answer::Invalid]);
    let delivery = start(&receiver, Duration::from_secs(3600));
    record(&delivery, 9);
    let report = block_on(delivery.shutdown(LONG));
    assert!(!report.metrics_delivered);
    assert_eq!(report.reason.as_deref(), Some("gRPC InvalidArgument"));
    receiver.look(|inbox| {
        assert_eq!(inbox.metrics.len(), 4, "three messages of four accounts at most, and the agent's own");
        let taken = inbox.metrics.iter().filter(|got| got.answer == Answer::Accept);
        let up = series(taken).into_iter().filter(|(metric, _)| metric == names::PROBE_UP.name);
        assert_eq!(up.count(), 5);
    });
}

#[test]
fn a_series_too_many_is_told_once_and_counted_and_those_that_are_there_go_on() {
    let receiver = Receiver::grpc();
    let settings = MetricsSettings { series_limit: 50, ..Default::default() };
    let delivery = start_with(&receiver, Duration::from_secs(3600), &settings);
    record(&delivery, 9);
    record(&delivery, 9);
    assert_eq!(delivery.metrics().series(), 50);
    assert!(block_on(delivery.shutdown(LONG)).metrics_delivered);
    let details = Log::get().lines("there is no room for more metric series");
    assert_eq!(details.len(), 1, "{details:?}");
    assert!(details[0].contains("\"level\":\"error\"") || details[0].contains("ERROR"), "{details:?}");
    receiver.look(|inbox| {
        let all = series(&inbox.metrics);
        assert_eq!(prometheus_series(&inbox.metrics), 50);
        assert!(all.iter().flat_map(|(_, words)| words).all(|word| !word.contains("otel")));
        let Some(Data::Sum(overflow)) = inbox.metrics()[names::METRICS_OVERFLOW.name].data.clone() else { panic!() };
        assert!(overflow.data_points[0].value.is_some_and(|value| value != Value::AsInt(0)));
        assert_eq!(count(inbox), 2, "the first target goes on");
    });
}

/// The temporality of the runs' durations in the last message, by its number on the wire.
fn temporality(inbox: &Inbox) -> Option<i32> {
    let metrics = inbox.metrics();
    match &metrics.get(names::PROBE_DURATION.name)?.data {
        Some(Data::Histogram(data)) => Some(data.aggregation_temporality),
        _ => None,
    }
}

#[test]
fn the_temporality_is_that_of_the_configuration_or_else_of_the_variable() {
    let (delta, cumulative) = (AggregationTemporality::Delta as i32, AggregationTemporality::Cumulative as i32);
    let runtime = runtime();
    let (_held, port) = refusing();
    for (key, variable, expected) in [
        ("", "", cumulative),
        ("", "Delta", delta),
        ("temporality = \"delta\"\n", "", delta),
        ("temporality = \"cumulative\"\n", "delta", cumulative),
    ] {
        let receiver = Receiver::http();
        let config = otlp(&receiver.url(), "http/protobuf") + key + &target("gone", port, "400ms", "300ms");
        let program = Program::new(["agent", "--config", "imaptrace.toml"])
            .env("PROBE", "secret")
            .env("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", variable);
        std::fs::write(program.home().join("imaptrace.toml"), whole(&config)).unwrap();
        let agent = runtime.block_on(async { program.start() });
        receiver.wait(|inbox| temporality(inbox).is_some());
        assert_eq!(receiver.look(temporality), Some(expected), "{key:?} {variable:?}");
        runtime.block_on(stop(agent, StopSignal::SIGTERM));
    }
}
