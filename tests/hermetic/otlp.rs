//! Delivery over the wire, against a receiver that fails as it is told.

use std::{
    collections::BTreeMap,
    time::{Duration, UNIX_EPOCH},
};

use imaptrace::{
    delivery::{Delivery, DeliverySettings, Dropped, Header, Protocol, Report, Signal},
    telemetry::{MetricsSettings, ResourceSettings, names},
};
use imaptrace_record::{Run, RunOutcome, SkipReason, SpanId, TraceId};
use opentelemetry_proto::tonic::{
    common::v1::any_value::Value as Any,
    metrics::v1::{Metric, metric::Data, number_data_point::Value},
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};

use crate::support::otlp::{
    Answer, BlackHole, ClosedPort, Inbox, Log, Papers, Receiver, attribute, block_on, failed_run, passed_run,
};

const BOTH: [Protocol; 2] = [Protocol::Grpc, Protocol::HttpProtobuf];

/// Longer than anything here takes: what needs it has failed.
const LONG: Duration = Duration::from_secs(20);

fn receiver(protocol: Protocol) -> Receiver {
    match protocol {
        Protocol::Grpc => Receiver::grpc(),
        Protocol::HttpProtobuf => Receiver::http(),
    }
}

fn start(settings: &DeliverySettings) -> Delivery {
    Log::get();
    let who = ResourceSettings { host_name: Some("probe7".into()), ..Default::default() };
    Delivery::start(settings, &who, &MetricsSettings::default()).unwrap()
}

fn traces_to(receiver: Signal) -> DeliverySettings {
    DeliverySettings { traces: Some(at(receiver, "/v1/traces")), ..Default::default() }
}

fn metrics_to(receiver: Signal) -> DeliverySettings {
    DeliverySettings { metrics: Some(at(receiver, "/v1/metrics")), ..Default::default() }
}

fn everything_to(receiver: &Signal) -> DeliverySettings {
    DeliverySettings { metrics: metrics_to(receiver.clone()).metrics, ..traces_to(receiver.clone()) }
}

/// Delivery takes whole URLs: a receiver's own, and over HTTP the signal's path.
fn at(mut receiver: Signal, path: &str) -> Signal {
    if receiver.protocol == Protocol::HttpProtobuf {
        receiver.endpoint.push_str(path);
    }
    receiver
}

/// A run that cannot be mistaken for another.
fn fresh_run() -> Run {
    Run { trace_id: TraceId::random(), span_id: SpanId::random(), ..passed_run() }
}

fn nanos(run: &Run, micros: u64) -> u64 {
    let start = run.started_at.to_system_time().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from((start + Duration::from_micros(micros)).as_nanos()).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

fn find<'a>(spans: &'a [Span], name: &str, trace: &str) -> &'a Span {
    spans.iter().find(|span| span.name == name && hex(&span.trace_id) == trace).unwrap()
}

fn delivered(runs: u64) -> Report {
    Report { delivered_runs: runs, metrics_delivered: true, ..Default::default() }
}

#[test]
fn traces_arrive_with_the_ids_parents_times_kinds_and_status_of_the_record() {
    for protocol in BOTH {
        let receiver = receiver(protocol);
        let delivery = start(&traces_to(Signal::new(&receiver.url(), protocol)));
        let (passed, failed) = (passed_run(), failed_run());
        delivery.deliver(passed.clone());
        delivery.deliver(failed.clone());
        assert_eq!(block_on(delivery.shutdown(LONG)), delivered(2), "{protocol:?}");

        let spans = receiver.look(Inbox::spans);
        assert_eq!(spans.len(), 9 + 5);
        let (good, bad) = (passed.trace_id.to_string(), failed.trace_id.to_string());
        let root = find(&spans, "probe first-load", &good);
        assert_eq!(hex(&root.span_id), "b7ad6b7169203331");
        assert_eq!(hex(&root.parent_span_id), "00f067aa0ba902b7");
        assert_eq!(root.kind(), SpanKind::Internal);
        assert_eq!(root.flags & 0x301, 0x301, "sampled, and the parent is remote");
        assert_eq!(root.end_time_unix_nano, nanos(&passed, 56_100));
        assert_eq!(root.events[0].name, "imaptrace.note");

        let fetch = find(&spans, "FETCH INBOX", &good);
        assert_eq!(
            (hex(&fetch.span_id), hex(&fetch.parent_span_id)),
            ("1000000000000007".into(), "b7ad6b7169203331".into())
        );
        assert_eq!(fetch.kind(), SpanKind::Client);
        assert_eq!(
            (fetch.start_time_unix_nano, fetch.end_time_unix_nano),
            (nanos(&passed, 30_100), nanos(&passed, 53_400))
        );
        assert_eq!(fetch.status.clone().unwrap_or_default().code(), StatusCode::Unset);
        assert_eq!(attribute(&fetch.attributes, "imap.fetch.messages").as_deref(), Some("20"));
        let typed = |span: &Span, key: &str| {
            let found = span.attributes.iter().find(|one| one.key == key);
            found.and_then(|one| one.value.clone()?.value)
        };
        assert_eq!(typed(root, names::LATENCY_SLOW), Some(Any::BoolValue(true)));
        assert_eq!(typed(fetch, names::LATENCY_SLOW), Some(Any::BoolValue(true)));
        assert_eq!(typed(fetch, names::LATENCY_RATIO), Some(Any::DoubleValue(8.2)));
        assert_eq!(typed(fetch, names::TIMING_SERVER), Some(Any::DoubleValue(0.0219)));
        assert_eq!(typed(fetch, names::TIMING_UNCERTAIN), Some(Any::BoolValue(true)));
        assert_eq!(typed(find(&spans, "SELECT INBOX", &good), names::LATENCY_SLOW), None);

        let login = find(&spans, "LOGIN", &bad);
        assert_eq!(login.status.clone().unwrap().code(), StatusCode::Error);
        assert_eq!(attribute(&login.attributes, "error.type").as_deref(), Some("auth_failed"));
        assert!(find(&spans, "probe first-load", &bad).parent_span_id.is_empty());

        let (resource, scope) = receiver.look(|inbox| {
            let resource = &inbox.traces[0].body.resource_spans[0];
            (resource.resource.clone().unwrap().attributes, resource.scope_spans[0].scope.clone().unwrap())
        });
        assert_eq!(attribute(&resource, "service.name").as_deref(), Some("imaptrace"));
        assert_eq!(attribute(&resource, "service.instance.id").as_deref(), Some("probe7"));
        assert_eq!((scope.name.as_str(), scope.version.as_str()), ("imaptrace", env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn headers_and_gzip_go_out_and_the_header_is_nowhere_else() {
    for protocol in BOTH {
        let receiver = receiver(protocol);
        let mut signal = Signal::new(&receiver.url(), protocol);
        signal.headers.push(Header::new("x-token", "planted-7f3a"));
        signal.gzip = true;
        let delivery = start(&everything_to(&signal));
        delivery.metrics().record(&passed_run());
        delivery.deliver(fresh_run());
        assert_eq!(block_on(delivery.shutdown(LONG)), delivered(1), "{protocol:?}");
        receiver.look(|inbox| {
            for headers in [&inbox.traces[0].headers, &inbox.metrics[0].headers] {
                assert_eq!(headers["x-token"], "planted-7f3a");
                let encoding = if protocol == Protocol::Grpc { "grpc-encoding" } else { "content-encoding" };
                assert_eq!(headers[encoding], "gzip");
            }
        });
        assert_eq!(Log::get().lines("planted-7f3a"), Vec::<String>::new());
    }
}

#[test]
fn nothing_is_appended_to_a_url() {
    let receiver = Receiver::http();
    let signal = Signal::new(&receiver.url(), Protocol::HttpProtobuf);
    let delivery = start(&DeliverySettings { traces: Some(signal), ..Default::default() });
    delivery.deliver(fresh_run());
    let report = block_on(delivery.shutdown(LONG));
    assert_eq!(report.reason.as_deref(), Some("HTTP 404: check the OTLP endpoint and protocol"));
}

#[test]
fn https_with_a_private_ca_and_a_client_certificate_works_and_without_the_certificate_does_not() {
    let papers = Papers::issue();
    for protocol in BOTH {
        let receiver = Receiver::tls(protocol == Protocol::Grpc, &papers);
        let mut signal = Signal::new(&receiver.url(), protocol);
        signal.ca_file = Some(papers.ca_file());
        signal.client_cert = Some(papers.client_cert());
        signal.client_key = Some(papers.client_key());
        let delivery = start(&everything_to(&signal));
        delivery.metrics().record(&passed_run());
        delivery.deliver(fresh_run());
        assert_eq!(block_on(delivery.shutdown(LONG)), delivered(1), "{protocol:?}");
        assert!(receiver.look(|inbox| inbox.metrics().contains_key(names::PROBE_UP.name)));

        let nobody = Signal { client_cert: None, client_key: None, ..signal.clone() };
        let stranger = Signal { ca_file: None, ..signal };
        for signal in [nobody, stranger] {
            let delivery = start(&traces_to(signal));
            delivery.deliver(fresh_run());
            let report = block_on(delivery.shutdown(LONG));
            assert_eq!((report.undelivered_runs, report.undelivered_spans), (1, 9), "{protocol:?} {report}");
        }
        assert_eq!(receiver.look(|inbox| inbox.traces.len()), 1);
    }
}

#[test]
fn a_missing_collector_is_one_warning_and_an_honest_report() {
    for protocol in BOTH {
        let port = ClosedPort::take();
        let url = port.url();
        let delivery = start(&everything_to(&Signal::new(&url, protocol)));
        delivery.metrics().record(&passed_run());
        for _ in 0..3 {
            delivery.deliver(fresh_run());
        }
        let report = block_on(delivery.shutdown(LONG));
        assert_eq!((report.delivered_runs, report.undelivered_runs, report.undelivered_spans), (0, 3, 27));
        assert!(!report.metrics_delivered);
        let sentence = report.to_string();
        assert!(sentence.starts_with("not delivered: 3 runs (27 spans) lost, the last metrics: "), "{sentence}");
        assert!(sentence.contains("Connection refused"), "{sentence}");
        let details = Log::get().lines(&url);
        assert_eq!(details.len(), 2, "one line for traces, one for metrics: {details:?}");
        assert!(details.iter().all(|line| line.contains("\"level\":\"warn\"") && line.contains("cannot deliver")));
    }
}

#[test]
fn after_an_outage_everything_arrives_in_order_and_the_log_says_so_once() {
    let port = ClosedPort::take();
    let url = port.url();
    let delivery = start(&traces_to(Signal::new(&url, Protocol::Grpc)));
    let runs: Vec<_> = (0..80).map(|_| fresh_run()).collect();
    for run in &runs {
        delivery.deliver(run.clone());
    }
    Log::get().wait(&url);
    let receiver = port.open(true);
    assert_eq!(block_on(delivery.shutdown(LONG)), delivered(80));
    let roots: Vec<_> = receiver.look(|inbox| {
        let spans = inbox.spans().into_iter();
        spans.filter(|span| span.name == "probe first-load").map(|span| hex(&span.trace_id)).collect()
    });
    let sent: Vec<_> = runs.iter().map(|run| run.trace_id.to_string()).collect();
    assert_eq!(roots, sent);
    assert!(receiver.look(|inbox| inbox.traces.len()) >= 2, "batches of at most 512 spans");
    let details: Vec<_> = Log::get().lines(&url).iter().map(|line| line.contains("again")).collect();
    assert_eq!(details, [false, true]);
}

#[test]
fn a_receiver_that_is_killed_and_comes_back_gets_what_it_missed() {
    for protocol in BOTH {
        let receiver = receiver(protocol);
        let delivery = start(&traces_to(Signal::new(&receiver.url(), protocol)));
        delivery.deliver(fresh_run());
        receiver.wait(|inbox| inbox.traces.len() == 1);
        let url = receiver.url();
        let port = receiver.kill();
        let missed = fresh_run();
        delivery.deliver(missed.clone());
        Log::get().wait(&format!("cannot deliver traces to {url}"));
        let receiver = port.open(protocol == Protocol::Grpc);
        assert_eq!(block_on(delivery.shutdown(LONG)), delivered(2), "{protocol:?}");
        let spans = receiver.look(Inbox::spans);
        let root = find(&spans, "probe first-load", &missed.trace_id.to_string());
        assert_eq!(hex(&root.span_id), missed.span_id.to_string());
    }
}

#[test]
fn what_the_receiver_cannot_take_now_is_sent_again() {
    for protocol in BOTH {
        for answer in [Answer::Unavailable, Answer::Unauthenticated] {
            let receiver = receiver(protocol);
            receiver.script(&[answer]);
            let delivery = start(&traces_to(Signal::new(&receiver.url(), protocol)));
            delivery.deliver(fresh_run());
            assert_eq!(block_on(delivery.shutdown(LONG)), delivered(1), "{protocol:?} {answer:?}");
            assert_eq!(receiver.look(|inbox| inbox.traces.len()), 2);
        }
    }
}

#[test]
fn what_the_receiver_refuses_is_counted_and_does_not_block_what_follows() {
    for protocol in BOTH {
        let receiver = receiver(protocol);
        receiver.script(&[Answer::Invalid]);
        let signal = Signal::new(&receiver.url(), protocol);
        let delivery = start(&everything_to(&signal));
        delivery.deliver(fresh_run());
        receiver.wait(|inbox| inbox.traces.len() == 1);
        delivery.deliver(fresh_run());
        // The second is sent when the first is dropped and counted.
        receiver.wait(|inbox| inbox.traces.len() == 2);
        let report = block_on(delivery.shutdown(LONG));
        assert_eq!((report.delivered_runs, report.undelivered_runs, report.dropped.total()), (1, 0, 1), "{report}");
        let metrics = receiver.look(Inbox::metrics);
        assert_eq!(sums(&metrics[names::DELIVERY_DROPPED.name]), [(vec!["imaptrace.drop.reason=refused".into()], 1)]);
        let details = Log::get().lines(&receiver.url());
        let refusals = details.iter().filter(|line| line.contains("refuses traces"));
        assert_eq!(refusals.count(), 1, "{details:?}");
    }
}

#[test]
fn a_batch_that_is_too_large_goes_out_in_halves_over_grpc_and_http() {
    for protocol in BOTH {
        let receiver = receiver(protocol);
        // While it is away runs gather, so that they are one batch.
        receiver.script(&[Answer::Unavailable, Answer::TooLarge, Answer::TooLarge]);
        let delivery = start(&everything_to(&Signal::new(&receiver.url(), protocol)));
        (0..8).for_each(|_| delivery.deliver(fresh_run()));
        let report = block_on(delivery.shutdown(LONG));
        assert_eq!((report.delivered_runs, report.undelivered_runs, report.dropped.total()), (8, 0, 0), "{report}");
        // Spans of each request that was answered with other than "later".
        let sizes: Vec<usize> = receiver.look(|inbox| {
            let answered = inbox.traces.iter().filter(|got| got.answer != Answer::Unavailable);
            let scopes = answered.map(|got| got.body.resource_spans.iter().flat_map(|resource| &resource.scope_spans));
            scopes.map(|scopes| scopes.map(|scope| scope.spans.len()).sum()).collect()
        });
        assert!(sizes[1] < sizes[0] && sizes[2] < sizes[1], "{protocol:?} {sizes:?}");
    }
}

#[test]
fn spans_refused_out_of_a_batch_are_logged_and_counted_and_the_batch_is_not_sent_again() {
    for (protocol, rejected) in [(Protocol::Grpc, 101), (Protocol::HttpProtobuf, 102)] {
        let receiver = receiver(protocol);
        receiver.script(&[Answer::Partial(rejected)]);
        let delivery = start(&traces_to(Signal::new(&receiver.url(), protocol)));
        delivery.deliver(fresh_run());
        let report = block_on(delivery.shutdown(LONG));
        assert_eq!(
            report,
            Report { dropped: Dropped { refused: 1, ..Dropped::default() }, ..delivered(0) },
            "{protocol:?}"
        );
        assert_eq!(receiver.look(|inbox| inbox.traces.len()), 1);
        assert_eq!(Log::get().lines(&format!("\"rejected_spans\":{rejected}")).len(), 1);
    }
}

#[test]
fn over_the_budget_the_oldest_runs_go_and_are_counted() {
    let hole = BlackHole::open();
    let budget = 3 * fresh_run().held_bytes() + 100;
    let settings = DeliverySettings { queue_memory: budget, ..traces_to(Signal::new(&hole.url(), Protocol::Grpc)) };
    let delivery = start(&settings);
    for _ in 0..10 {
        delivery.deliver(fresh_run());
    }
    let report = block_on(delivery.shutdown(Duration::from_millis(500)));
    assert_eq!((report.delivered_runs, report.undelivered_runs, report.dropped.total()), (0, 3, 7), "{report}");
    assert!(
        report
            .to_string()
            .starts_with("not delivered: 3 runs (27 spans) lost, 7 runs dropped before (7 over the budget)"),
        "{report}"
    );
    assert_eq!(Log::get().lines(&format!("\"budget\":{budget}")).len(), 1, "told once");
}

#[test]
fn the_queue_tells_its_size_and_its_limit() {
    for protocol in BOTH {
        let receiver = receiver(protocol);
        // The first run is taken, the second never.
        receiver.script(&[&[Answer::Accept][..], &[Answer::Unavailable; 20]].concat());
        let signal = Signal::new(&receiver.url(), protocol);
        let delivery = start(&DeliverySettings { queue_memory: 1 << 20, ..everything_to(&signal) });
        let (taken, waiting) = (fresh_run(), Run { target: "mail02".to_owned(), ..fresh_run() });
        let bytes = waiting.held_bytes();
        delivery.deliver(taken);
        receiver.wait(|inbox| inbox.traces.len() == 1);
        delivery.deliver(waiting);
        // The second is sent when the first is off the queue.
        receiver.wait(|inbox| inbox.traces.len() == 2);
        let report = block_on(delivery.shutdown(LONG));
        assert_eq!((report.delivered_runs, report.undelivered_runs), (1, 1), "{protocol:?} {report}");
        let metrics = receiver.look(Inbox::metrics);
        assert_eq!(sums(&metrics[names::DELIVERY_QUEUE_SIZE.name]), [(Vec::new(), i64::try_from(bytes).unwrap())]);
        assert_eq!(sums(&metrics[names::DELIVERY_QUEUE_CAPACITY.name]), [(Vec::new(), 1 << 20)]);
    }
}

#[test]
fn shutdown_ends_though_a_collector_hangs_and_logs_what_is_lost() {
    for protocol in BOTH {
        let hole = BlackHole::open();
        let delivery = start(&everything_to(&Signal::new(&hole.url(), protocol)));
        delivery.metrics().record(&passed_run());
        delivery.deliver(fresh_run());
        delivery.deliver(fresh_run());
        // `LONG` only keeps a hanging shutdown from hanging the test.
        let report = block_on(async {
            tokio::time::timeout(LONG, delivery.shutdown(Duration::from_millis(800))).await.expect("it hangs")
        });
        assert_eq!((report.delivered_runs, report.undelivered_runs, report.undelivered_spans), (0, 2, 18));
        assert!(!report.metrics_delivered);
        assert!(report.to_string().contains("no answer"), "{report}");
    }
}

#[test]
fn shutdown_delivers_what_waits_and_the_last_metrics() {
    for protocol in BOTH {
        let receiver = receiver(protocol);
        let delivery = start(&everything_to(&Signal::new(&receiver.url(), protocol)));
        delivery.metrics().record(&passed_run());
        delivery.deliver(fresh_run());
        assert_eq!(block_on(delivery.shutdown(LONG)), delivered(1), "{protocol:?}");
        assert!(receiver.look(|inbox| inbox.metrics().contains_key(names::PROBE_UP.name)));
    }
}

#[test]
fn without_endpoints_nothing_is_kept_and_nothing_is_missing() {
    let delivery = start(&DeliverySettings::default());
    delivery.deliver(fresh_run());
    delivery.metrics().record(&passed_run());
    assert_eq!(block_on(delivery.shutdown(LONG)), delivered(0));
}

#[test]
fn a_delivery_can_be_dropped_inside_a_runtime() {
    let hole = BlackHole::open();
    let signal = Signal::new(&hole.url(), Protocol::HttpProtobuf);
    block_on(async {
        let delivery = start(&everything_to(&signal));
        delivery.metrics().record(&passed_run());
        delivery.deliver(fresh_run());
        drop(delivery);
    });
    assert_eq!(Log::get().lines(&hole.url()), Vec::<String>::new(), "stopping is no news of the receiver");
}

#[test]
fn runs_go_out_without_anybody_asking() {
    let receiver = Receiver::grpc();
    let delivery = start(&traces_to(Signal::new(&receiver.url(), Protocol::Grpc)));
    delivery.deliver(fresh_run());
    receiver.wait(|inbox| inbox.spans().len() == 9);
    drop(delivery);
}

#[test]
fn metrics_arrive_with_their_names_buckets_and_attributes_and_a_void_run_leaves_up() {
    for protocol in BOTH {
        let receiver = receiver(protocol);
        let delivery = start(&metrics_to(Signal::new(&receiver.url(), protocol)));
        let metrics = delivery.metrics();
        metrics.record(&passed_run());
        metrics.record(&Run { outcome: RunOutcome::Void, ..passed_run() });
        metrics.skipped(1, SkipReason::Limit, "mail01", "default", "first-load", &BTreeMap::new());
        assert_eq!(block_on(delivery.shutdown(LONG)), delivered(0), "{protocol:?}");

        let all = receiver.look(Inbox::metrics);
        for metric in all.values() {
            let known = names::METRICS.iter().find(|known| known.name == metric.name).unwrap();
            assert_eq!((metric.unit.as_str(), metric.description.as_str()), (known.unit, known.description));
        }
        let up = gauge(&all[names::PROBE_UP.name]);
        let mail01 =
            ["imaptrace.account.name=default", "imaptrace.journey.name=first-load", "imaptrace.target.name=mail01"];
        assert_eq!(up, [(mail01.map(String::from).to_vec(), 1)]);
        let Some(Data::Histogram(loading)) = &all[names::PROBE_FIRST_LOADING_DURATION.name].data else {
            panic!("no histogram")
        };
        assert_eq!(loading.data_points[0].explicit_bounds, names::BUCKETS);
        assert_eq!(loading.data_points[0].count, 2);
        let skipped = sums(&all[names::PROBE_SKIPPED.name]);
        assert!(skipped[0].0.contains(&"imaptrace.skip.reason=limit".to_owned()), "{skipped:?}");
    }
}

#[test]
fn the_parts_of_a_command_arrive_as_one_histogram_when_asked_for() {
    for protocol in BOTH {
        let receiver = receiver(protocol);
        let settings = metrics_to(Signal::new(&receiver.url(), protocol));
        let timing = MetricsSettings { timing: true, ..Default::default() };
        let delivery = Delivery::start(&settings, &ResourceSettings::default(), &timing).unwrap();
        delivery.metrics().record(&passed_run());
        assert_eq!(block_on(delivery.shutdown(LONG)), delivered(0), "{protocol:?}");
        let all = receiver.look(Inbox::metrics);
        let Some(Data::Histogram(timing)) = &all[names::TIMING_DURATION.name].data else { panic!("no histogram") };
        let mut parts: Vec<_> = timing
            .data_points
            .iter()
            .map(|point| (attribute(&point.attributes, names::TIMING_PART).unwrap(), point.sum.unwrap()))
            .collect();
        parts.sort_by(|a, b| a.0.cmp(&b.0));
        let expected = [("network", 0.0003), ("server", 0.0219), ("transfer", 0.0011)];
        assert_eq!(parts, expected.map(|(part, sum)| (part.to_owned(), sum)));
    }
}

#[test]
fn settings_that_cannot_work_say_what_and_where() {
    let signal = |endpoint: &str| Signal::new(endpoint, Protocol::Grpc);
    let mut half = signal("https://localhost:4317");
    half.client_cert = Some("client.pem".into());
    let mut lost = signal("https://localhost:4317");
    lost.ca_file = Some("no-such.pem".into());
    let mut header = signal("http://localhost:4317");
    header.headers.push(Header::new("x-token", "planted\n"));
    for (signal, expected) in [
        (signal("localhost:4317"), "it needs http:// or https:// in front"),
        (signal("ftp://me:planted@localhost"), "the OTLP endpoint \"ftp://localhost\" cannot be used"),
        (half, "go together: give both or none"),
        (lost, "cannot read the OTLP CA file no-such.pem: No such file"),
        (header, "the OTLP header \"x-token\" cannot be sent"),
    ] {
        let error = Delivery::start(&traces_to(signal), &ResourceSettings::default(), &MetricsSettings::default());
        let error = error.unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains("planted"), "{error}");
    }
}

type Points = Vec<(Vec<String>, i64)>;

fn gauge(metric: &Metric) -> Points {
    match &metric.data {
        Some(Data::Gauge(gauge)) => points(&gauge.data_points),
        other => panic!("{} is no gauge: {other:?}", metric.name),
    }
}

fn sums(metric: &Metric) -> Points {
    match &metric.data {
        Some(Data::Sum(sum)) => points(&sum.data_points),
        other => panic!("{} is no sum: {other:?}", metric.name),
    }
}

fn points(points: &[opentelemetry_proto::tonic::metrics::v1::NumberDataPoint]) -> Points {
    let all = points.iter().map(|point| {
        let mut words: Vec<_> = point
            .attributes
            .iter()
            .map(|one| format!("{}={}", one.key, attribute(&point.attributes, &one.key).unwrap()))
            .collect();
        words.sort();
        let value = match point.value {
            Some(Value::AsInt(value)) => value,
            other => panic!("{other:?}"),
        };
        (words, value)
    });
    all.collect()
}
