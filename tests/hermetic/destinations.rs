//! What an agent sends with each configuration of `docs/destinations.md`, against what that destination documents: path,
//! headers, encoding, and the temporality of sums and histograms.
//!
//! The configuration is the page's, with a receiver on loopback in place of the destination. No vendor's service is reached.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use imaptrace::{
    delivery::{Delivery, DeliverySettings, Protocol, Signal},
    telemetry::{MetricsDetail, MetricsSettings, ResourceSettings},
};
use imaptrace_record::{Run, SpanId, TraceId};
use nix::sys::signal;
use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    metrics::v1::{
        AggregationTemporality::{self, Cumulative, Delta},
        Metric,
        metric::Data,
    },
};
use prost::Message as _;
use serde_json::Value;

use crate::{
    agent::{PASSWORD, lines, runtime, stop, target, whole},
    command_line::Listener,
    support::{
        destinations::{self, redirected, with_secrets},
        otlp::{Answer, Got, Inbox, Receiver, block_on},
        program::Program,
    },
};

/// The key of every destination.
const KEY: &str = "planted-3f9c";
const INSTANCE_ID: &str = "123456";

/// Headers that are no secret, and stand in the page as they are.
const OPEN_HEADERS: &[&str] = &["x-honeycomb-dataset", "dd-otel-metric-config", "X-Scope-OrgID"];

/// What a destination documents.
struct Expected {
    name: &'static str,
    /// The path before `/v1/traces` and `/v1/metrics`; none: over gRPC.
    prefix: Option<&'static str>,
    gzip: bool,
    /// Headers of traces; none: it takes no traces.
    traces: Option<Vec<(&'static str, String)>>,
    /// Headers of metrics, and the temporality of sums that only rise and of histograms; none: it takes no metrics.
    metrics: Option<(Vec<(&'static str, String)>, AggregationTemporality)>,
}

fn expected() -> Vec<Expected> {
    let one = |name, value: &str| vec![(name, value.to_owned())];
    let basic = format!("Basic {}", STANDARD.encode(format!("{INSTANCE_ID}:{KEY}")));
    let elastic = format!("ApiKey {KEY}");
    let and = |mut headers: Vec<_>, name, value: &str| {
        headers.push((name, value.to_owned()));
        headers
    };
    let both = |name, prefix, headers: Vec<_>, temporality| Expected {
        name,
        prefix: Some(prefix),
        gzip: true,
        traces: Some(headers.clone()),
        metrics: Some((headers, temporality)),
    };
    let honeycomb = one("x-honeycomb-team", KEY);
    let datadog = one("dd-api-key", KEY);
    let attributes_as_tags = r#"{"resource_attributes_as_tags": true}"#;
    let traces = |name, prefix, gzip, headers| Expected { name, prefix, gzip, traces: Some(headers), metrics: None };
    vec![
        both("Grafana Cloud", "/otlp", one("authorization", &basic), Cumulative),
        Expected {
            metrics: Some((and(honeycomb.clone(), "x-honeycomb-dataset", "imaptrace-metrics"), Cumulative)),
            ..both("Honeycomb", "", honeycomb, Cumulative)
        },
        Expected {
            metrics: Some((and(datadog.clone(), "dd-otel-metric-config", attributes_as_tags), Delta)),
            ..both("Datadog", "", datadog, Delta)
        },
        both("New Relic", "", one("api-key", KEY), Delta),
        both("Elastic", "", one("authorization", &elastic), Delta),
        traces("Tempo", Some(""), true, one("x-scope-orgid", "mail")),
        traces("Jaeger", None, false, Vec::new()),
        Expected { traces: None, ..both("Prometheus", "/api/v1/otlp", Vec::new(), Cumulative) },
    ]
}

/// A file that only its owner can read.
fn write_private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// The secrets that a configuration names: written by the command of the page if it has one, else the key alone.
fn write_secrets(name: &str, configuration: &str, secrets: &Path) {
    let named = configuration.split("/run/secrets/").skip(1).map(|rest| rest.split('"').next().unwrap());
    for secret in named.collect::<BTreeSet<_>>() {
        if let Some(command) = destinations::block(name, "umask 077\n") {
            let mut shell = Command::new("sh");
            shell.args(["-ec", &with_secrets(&command, secrets)]);
            shell.envs([("INSTANCE_ID", INSTANCE_ID), ("TOKEN", KEY), ("API_KEY", KEY)]);
            assert!(shell.status().unwrap().success(), "{name}: {command}");
        } else {
            write_private(&secrets.join(secret), KEY);
        }
    }
}

/// What the destination would not accept of a request: path, content type, encoding, headers.
fn complaints<T>(expected: &Expected, signal: &str, headers: &[(&'static str, String)], got: &Got<T>) -> Vec<String> {
    let content_type = if expected.prefix.is_some() { "application/x-protobuf" } else { "application/grpc" };
    let encoding = if expected.prefix.is_some() { "content-encoding" } else { "grpc-encoding" };
    let path = expected.prefix.map(|prefix| format!("{prefix}/v1/{signal}")).unwrap_or_default();
    let mut wanted = vec![("content-type", Some(content_type)), (encoding, expected.gzip.then_some("gzip"))];
    wanted.extend(headers.iter().map(|(name, value)| (*name, Some(value.as_str()))));
    let mut complaints: Vec<_> = wanted
        .into_iter()
        .map(|(name, wanted)| (name, wanted, got.headers.get(name).map(String::as_str)))
        .filter(|(_, wanted, found)| wanted != found)
        .map(|(name, wanted, found)| format!("{signal}: {name} is {found:?}, not {wanted:?}"))
        .collect();
    if got.path != path {
        complaints.push(format!("{signal}: to {:?}, not {path:?}", got.path));
    }
    complaints
}

/// Metrics with another temporality than this; sums that can fall are cumulative in any case.
fn wrong_temporality(body: &ExportMetricsServiceRequest, wanted: AggregationTemporality) -> Vec<String> {
    let scopes = body.resource_metrics.iter().flat_map(|resource| &resource.scope_metrics);
    let wrong = scopes.flat_map(|scope| &scope.metrics).filter_map(|metric| {
        let (found, wanted) = match metric.data.as_ref()? {
            Data::Sum(sum) if sum.is_monotonic => (sum.aggregation_temporality(), wanted),
            Data::Sum(sum) => (sum.aggregation_temporality(), Cumulative),
            Data::Histogram(histogram) => (histogram.aggregation_temporality(), wanted),
            Data::ExponentialHistogram(histogram) => (histogram.aggregation_temporality(), wanted),
            Data::Gauge(_) | Data::Summary(_) => return None,
        };
        (found != wanted).then(|| format!("{} is {found:?}, not {wanted:?}", metric.name))
    });
    wrong.collect()
}

fn is_rising(metric: &Metric) -> bool {
    matches!(&metric.data, Some(Data::Sum(sum)) if sum.is_monotonic)
}

fn is_histogram(metric: &Metric) -> bool {
    matches!(&metric.data, Some(Data::Histogram(_) | Data::ExponentialHistogram(_)))
}

/// Whether there is one of each kind whose temporality matters.
fn is_telling(inbox: &Inbox) -> bool {
    let metrics = inbox.metrics();
    metrics.values().any(is_rising) && metrics.values().any(is_histogram)
}

/// Runs an agent with the configuration of the page, and looks at what arrives.
fn arrives_as_documented(name: &str) {
    let expected = expected().into_iter().find(|expected| expected.name == name).unwrap();
    let configuration = destinations::configuration(name);
    let secrets = tempfile::tempdir().unwrap();
    write_secrets(name, &configuration, secrets.path());
    let receiver = expected.prefix.map_or_else(Receiver::grpc, Receiver::http_below);
    let runtime = runtime();
    let agent = runtime.block_on(async {
        let server = Listener::willing().await;
        let program = Program::new(["agent", "--config", "imaptrace.toml"])
            .env("PROBE", PASSWORD)
            .env("IMAPTRACE__METRICS__EXPORT_INTERVAL", "500ms");
        let text = redirected(&configuration, &receiver.url(), secrets.path());
        let text = text + &target("mail01", server.address, "200ms", "190ms");
        fs::write(program.home().join("imaptrace.toml"), whole(&text)).unwrap();
        program.start()
    });
    receiver.wait(|inbox| {
        (expected.traces.is_none() || !inbox.spans().is_empty()) && (expected.metrics.is_none() || is_telling(inbox))
    });
    let (output, log) = runtime.block_on(stop(agent, signal::Signal::SIGTERM));
    assert!(!output.stderr.contains(KEY), "{name}: {output:?}");
    assert_eq!(lines(&log, "all telemetry was delivered").len(), 1, "{name}: {output:?}");

    let complaints: BTreeSet<String> = receiver.look(|inbox| {
        let traces = expected.traces.clone().unwrap_or_default();
        let (metrics, temporality) = expected.metrics.clone().unwrap_or((Vec::new(), Cumulative));
        let of_traces = inbox.traces.iter().flat_map(|got| complaints(&expected, "traces", &traces, got));
        let of_metrics = inbox.metrics.iter().flat_map(|got| {
            let wrong = wrong_temporality(&got.body, temporality);
            complaints(&expected, "metrics", &metrics, got).into_iter().chain(wrong)
        });
        let paths = ["traces", "metrics"].map(|signal| format!("{}/v1/{signal}", expected.prefix.unwrap_or_default()));
        let others = inbox.raw.iter().map(|(path, _)| path).filter(|path| !paths.contains(path));
        let others = others.map(|path| format!("a request to {path:?}"));
        assert_eq!(inbox.traces.is_empty(), expected.traces.is_none(), "{name}: traces");
        assert_eq!(inbox.metrics.is_empty(), expected.metrics.is_none(), "{name}: metrics");
        of_traces.chain(of_metrics).chain(others).collect()
    });
    assert!(complaints.is_empty(), "{name} would not accept:\n{complaints:#?}");
}

#[test]
fn grafana_cloud_gets_basic_authentication_below_otlp_and_cumulative_sums() {
    arrives_as_documented("Grafana Cloud");
}

#[test]
fn honeycomb_gets_its_key_and_the_dataset_of_metrics() {
    arrives_as_documented("Honeycomb");
}

#[test]
fn datadog_gets_delta_and_its_key_over_http() {
    arrives_as_documented("Datadog");
}

#[test]
fn new_relic_gets_delta_and_its_key() {
    arrives_as_documented("New Relic");
}

#[test]
fn elastic_gets_delta_and_an_api_key() {
    arrives_as_documented("Elastic");
}

#[test]
fn tempo_gets_traces_of_a_tenant_and_no_metrics() {
    arrives_as_documented("Tempo");
}

#[test]
fn jaeger_gets_traces_over_grpc_and_no_metrics() {
    arrives_as_documented("Jaeger");
}

#[test]
fn prometheus_gets_cumulative_metrics_at_its_own_path_and_no_traces() {
    arrives_as_documented("Prometheus");
}

#[test]
fn every_destination_of_the_page_is_in_its_table_and_is_tried() {
    let tried: Vec<_> = expected().iter().map(|expected| expected.name.to_owned()).collect();
    assert_eq!(destinations::names(), tried);
    let page = destinations::page();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| [")?.split(']').next());
    assert_eq!(rows.collect::<Vec<_>>(), tried);
}

/// The largest requests of the destinations that document a limit, in bytes: as they are sent (New Relic), and of metrics and of
/// traces after decompression (Datadog).
const MOST_SENT: usize = 1_000_000;
const MOST_METRICS: usize = 5_000_000;
const MOST_TRACES: usize = 3_200_000;

/// A run with nearly every field, and times of its own.
fn a_run(target: &str, number: u32) -> Run {
    let mut run: Value = serde_json::from_str(imaptrace_testkit::PASSED_RUN).unwrap();
    for (place, step) in (1..).zip(run["steps"].as_array_mut().unwrap()) {
        // In no order, so that gzip has no easier work than with real times.
        step["duration_s"] = (f64::from((number * 7919 + place * 104_729) % 999_983) / 1e6).into();
        step["span_id"] = SpanId::random().to_string().into();
    }
    let run: Run = serde_json::from_value(run).unwrap();
    Run { target: target.to_owned(), trace_id: TraceId::random(), span_id: SpanId::random(), ..run }
}

#[test]
fn a_full_batch_of_traces_and_the_metrics_of_1000_targets_are_below_every_limit_of_the_page() {
    let receiver = Receiver::http();
    // All wait for the first, and go in batches as full as can be.
    receiver.script(&[Answer::Unavailable; 3]);
    let to = |path| Signal { gzip: true, ..Signal::new(&format!("{}{path}", receiver.url()), Protocol::HttpProtobuf) };
    let settings = DeliverySettings {
        traces: Some(to("/v1/traces")),
        metrics: Some(to("/v1/metrics")),
        ..DeliverySettings::default()
    };
    let everything = MetricsSettings { detail: MetricsDetail::Full, ..MetricsSettings::default() };
    let delivery = Delivery::start(&settings, &ResourceSettings::default(), &everything).unwrap();
    for number in 0..1000 {
        let run = a_run(&format!("mail{number:04}.example.org"), number);
        delivery.metrics().record(&run);
        delivery.deliver(run);
    }
    let report = block_on(delivery.shutdown(Duration::from_secs(60)));
    assert!(report.is_complete() && report.metrics_delivered, "{report}");
    receiver.look(|inbox| {
        let sent =
            |path: &str| inbox.raw.iter().filter(|(to, _)| to == path).map(|(_, body)| body.len()).max().unwrap();
        let traces = inbox.traces.iter().map(|got| got.body.encoded_len()).max().unwrap();
        let metrics = inbox.metrics.iter().map(|got| got.body.encoded_len()).max().unwrap();
        let figures = format!(
            "largest requests, plain and as sent: traces {traces} and {}, metrics {metrics} and {} bytes",
            sent("/v1/traces"),
            sent("/v1/metrics")
        );
        eprintln!("{figures}");
        assert!(sent("/v1/traces") < MOST_SENT && sent("/v1/metrics") < MOST_SENT, "{figures}");
        assert!(traces < MOST_TRACES && metrics < MOST_METRICS, "{figures}");
        // It is about full ones.
        assert!(traces > 300_000 && metrics > 200_000, "{figures}");
    });
}

/// The header tables of a configuration: `[otlp]`, `[otlp.traces]`, `[otlp.metrics]`.
fn headers(configuration: &str) -> Vec<(String, toml::Value)> {
    let parsed: toml::Table = configuration.parse().unwrap();
    let otlp = parsed["otlp"].as_table().unwrap();
    let tables =
        [Some(otlp), otlp.get("traces").and_then(|it| it.as_table()), otlp.get("metrics").and_then(|it| it.as_table())];
    let headers = tables.into_iter().flatten().filter_map(|table| table.get("headers")?.as_table());
    headers.flatten().map(|(name, value)| (name.clone(), value.clone())).collect()
}

#[test]
fn no_configuration_of_the_page_has_a_secret_in_clear_text() {
    let mut places = 0;
    for name in destinations::names() {
        for (header, value) in headers(&destinations::configuration(&name)) {
            let is_place = value.get("file").is_some_and(toml::Value::is_str);
            assert!(is_place || OPEN_HEADERS.contains(&header.as_str()), "{name}: {header} = {value:?}");
            places += usize::from(is_place);
        }
    }
    assert!(places >= 5, "{places}");
}

#[tokio::test]
async fn check_has_nothing_to_say_about_any_configuration_of_the_page() {
    for name in destinations::names() {
        let configuration = destinations::configuration(&name);
        let secrets = tempfile::tempdir().unwrap();
        write_secrets(&name, &configuration, secrets.path());
        write_private(&secrets.path().join("mail01"), KEY);
        let target = "[[targets]]\nname = \"mail01\"\nurl = \"imaps://probe@mail01.example.org\"\n\
                      password = { file = \"/run/secrets/mail01\" }\n";
        let program = Program::new(["check", "--config", "imaptrace.toml", "--output", "json"]);
        let text = with_secrets(&format!("{configuration}\n{target}"), secrets.path());
        fs::write(program.home().join("imaptrace.toml"), text).unwrap();
        let output = program.run().await;
        let report: Value = serde_json::from_str(&output.stdout).unwrap();
        assert_eq!(
            (&report["errors"], &report["warnings"]),
            (&Value::from(vec![0; 0]), &Value::from(vec![0; 0])),
            "{name}"
        );
    }
}
