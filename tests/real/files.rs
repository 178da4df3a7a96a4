//! The files that an operator starts from: each is asked of the program that reads it, and run as it stands.

use std::{path::Path, process::Command};

use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

use crate::support::{
    backends::{Backends, everything_switched_on, installed},
    dovecot::{Dovecot, Options, USER2},
    proxy::Proxy,
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Fails with all that the program said if it does not approve.
fn approves(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| {
        panic!("{} cannot be run ({error}): scripts/need.sh test installs it", command.get_program().display())
    });
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{command:?} says:\n{}", String::from_utf8_lossy(&said));
}

fn validate_collector(configuration: &Path) {
    approves(Command::new(installed("otelcol")).arg("validate").arg("--config").arg(configuration));
}

#[test]
fn the_collector_approves_of_its_file() {
    validate_collector(&Path::new(ROOT).join("otel-collector.yaml"));
}

#[test]
fn the_collector_approves_of_its_file_with_all_that_can_be_switched_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("otel-collector.yaml");
    std::fs::write(&path, everything_switched_on()).unwrap();
    validate_collector(&path);
}

#[test]
fn prometheus_approves_of_its_file() {
    let path = format!("{ROOT}/deploy/prometheus/prometheus.yml");
    approves(Command::new(installed("promtool")).args(["check", "config", &path]));
}

#[test]
fn dovecot_approves_of_the_containers_file() {
    let path = format!("{ROOT}/deploy/dovecot/dovecot.conf");
    approves(Command::new("doveconf").args(["-n", "-c", &path]));
}

#[test]
fn docker_compose_approves_of_its_file_and_every_file_that_it_mounts_is_there() {
    let compose = || {
        let mut command = Command::new("docker-compose");
        command.args(["--file", &format!("{ROOT}/docker-compose.yml"), "config"]);
        command
    };
    approves(&mut compose());
    let resolved = String::from_utf8(compose().output().unwrap().stdout).unwrap();
    let mounted: Vec<&str> = resolved
        .lines()
        .filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix(ROOT))
        .map(|rest| rest.split(':').next().unwrap().trim_start_matches('/'))
        .collect();
    assert!(mounted.contains(&"otel-collector.yaml"), "{resolved}");
    for path in mounted {
        assert!(Path::new(ROOT).join(path).exists(), "docker-compose.yml mounts {path}, which is not there");
    }
}

#[test]
fn a_trace_and_a_histogram_with_its_exemplar_pass_through_the_files_as_they_stand() {
    let trace_id = format!("{:032x}", rand::random::<u128>() | 1);
    let now = imaptrace::clock::wall().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let (begin, end) = ((now - 60_000_000).to_string(), now.to_string());
    let resource = json!({ "attributes": [
        { "key": "service.name", "value": { "stringValue": "imaptrace" } },
        { "key": "service.version", "value": { "stringValue": "0.0.0" } },
    ]});
    let target = json!([{ "key": "imaptrace.target.name", "value": { "stringValue": "mail01" } }]);
    let backends = Backends::start();
    backends.send(
        "traces",
        &json!({ "resourceSpans": [{ "resource": resource, "scopeSpans": [{ "spans": [{
            "traceId": trace_id, "spanId": "b7ad6b7169203331", "name": "probe first-load", "kind": 1,
            "startTimeUnixNano": begin, "endTimeUnixNano": end, "attributes": target,
        }]}]}]}),
    );
    backends.send(
        "metrics",
        &json!({ "resourceMetrics": [{ "resource": resource, "scopeMetrics": [{ "metrics": [{
            "name": "imaptrace.probe.first_loading.duration", "unit": "s", "histogram": {
                "aggregationTemporality": 2, "dataPoints": [{
                    "startTimeUnixNano": begin, "timeUnixNano": end, "count": "1", "sum": 0.06,
                    "bucketCounts": ["0", "1", "0"], "explicitBounds": [0.05, 0.1], "attributes": target,
                    "exemplars": [{ "timeUnixNano": end, "asDouble": 0.06, "traceId": trace_id, "spanId": "b7ad6b7169203331" }],
                }]}}]}]}]}),
    );

    let trace = backends.jaeger_trace(&trace_id);
    assert_eq!(trace["spans"][0]["spanID"], "b7ad6b7169203331");
    assert_eq!(trace["spans"][0]["operationName"], "probe first-load");

    let series = backends.prometheus_query("imaptrace_probe_first_loading_duration_seconds_count");
    let labels = &series[0]["metric"];
    assert_eq!(series[0]["value"][1], "1");
    assert_eq!((&labels["job"], &labels["imaptrace_target_name"]), (&json!("imaptrace"), &json!("mail01")));
    assert_eq!(labels.get("service_version"), None, "a resource attribute became a label: {labels}");
    let exemplars = backends.prometheus_exemplars("imaptrace_probe_first_loading_duration_seconds_bucket");
    assert_eq!(exemplars[0]["exemplars"][0]["labels"]["trace_id"], json!(trace_id));

    let span_metrics = backends.prometheus_now("traces_span_metrics_calls_total");
    assert!(span_metrics.is_empty(), "span metrics are off: {span_metrics:?}");
}

#[tokio::test]
async fn dovecot_runs_from_its_file_and_the_proxy_counts_what_it_says() {
    let dovecot = Dovecot::start(&Options { messages: 3, ..Options::default() });
    let proxy = Proxy::start(([127, 0, 0, 1], dovecot.plain).into()).await;
    let mut stream = BufReader::new(TcpStream::connect(proxy.address).await.unwrap());
    let (user, password) = USER2;
    let quoted = password.replace('\\', r"\\").replace('"', "\\\"");
    let sent = format!("a LOGIN {user} \"{quoted}\"\r\nb EXAMINE INBOX\r\nc LOGOUT\r\n");
    let mut received = String::new();
    stream.read_line(&mut received).await.unwrap();
    stream.get_mut().write_all(sent.as_bytes()).await.unwrap();
    stream.read_to_string(&mut received).await.unwrap();
    assert!(received.contains("\r\na OK ") && received.contains("\r\n* 3 EXISTS\r\n"), "{received}");

    let [conversation] = proxy.conversations().try_into().unwrap();
    assert_eq!(String::from_utf8(conversation.sent).unwrap(), sent);
    assert_eq!(String::from_utf8(conversation.received).unwrap(), received);
    assert!(dovecot.log().contains("Login: user=<user2>"));
}
