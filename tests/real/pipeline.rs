//! The whole way: a run against a real Dovecot through the repository's own Collector file into Jaeger and Prometheus.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{
    backends::Backends,
    dovecot::{Dovecot, Options, USER1},
    program::Program,
    proxy::Proxy,
};

/// A span's tags by name.
fn tags(span: &Value) -> HashMap<&str, &Value> {
    span["tags"].as_array().unwrap().iter().map(|tag| (tag["key"].as_str().unwrap(), &tag["value"])).collect()
}

/// A file with user1's password that only its owner can read.
fn password(directory: &tempfile::TempDir) -> PathBuf {
    let path = directory.path().join("password");
    std::fs::write(&path, USER1.1).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_one_trace_in_jaeger_and_histograms_in_prometheus() {
    let backends = tokio::task::spawn_blocking(Backends::start).await.unwrap();
    let server = Dovecot::start(&Options { messages: 60, ..Options::default() });
    let proxy = Proxy::start(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), server.plain)).await;
    let directory = tempfile::tempdir().unwrap();
    let password = password(&directory);

    // One run from the command line, over gRPC, past a proxy that counts.
    let url = format!("imap://{}", proxy.address);
    let arguments = [
        "probe",
        "--user",
        USER1.0,
        "--security",
        "none",
        "--output",
        "json",
        "--otlp-endpoint",
        &backends.otlp_grpc(),
        "--otlp-protocol",
        "grpc",
        "--metrics",
    ];
    let output =
        Program::new(arguments.into_iter().chain([url.as_str()])).env("IMAPTRACE_PASSWORD", USER1.1).run().await;
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let run: Value = serde_json::from_str(output.stdout.trim_end()).unwrap();
    let trace_id = run["trace_id"].as_str().unwrap().to_owned();
    let (backends, trace) = tokio::task::spawn_blocking(move || {
        let trace = backends.jaeger_trace(&trace_id);
        // Its metrics bear what the alert rules leave out.
        let up = backends.prometheus_query("imaptrace_probe_up");
        assert!(up.iter().all(|series| series["metric"]["imaptrace_one_shot"] == "true"), "{up:?}");
        assert!(backends.prometheus_now("imaptrace_delivery_queue_capacity_bytes").is_empty());
        (backends, trace)
    })
    .await
    .unwrap();
    compare(&run, &trace);
    against_the_wire(&run, &proxy);

    // The agent, over HTTP, until Prometheus has what it measured.
    let config = directory.path().join("imaptrace.toml");
    let text = format!(
        "[otlp]\nendpoint = \"{}\"\nprotocol = \"http/protobuf\"\ncompression = \"gzip\"\n[metrics]\nexport_interval = \"1s\"\n\
         [defaults]\ninterval = \"1s\"\ntimeout = \"900ms\"\n\
         [[targets]]\nname = \"mail01\"\nurl = \"imaps://localhost:{}\"\nca_file = \"{}\"\nuser = \"{}\"\npassword = {{ file = \"{}\" }}\naddress = \"v4\"\n",
        backends.otlp_http(),
        server.tls,
        server.ca.display(),
        USER1.0,
        password.display()
    );
    std::fs::write(&config, text).unwrap();
    let agent = Program::new(["agent", "--config", config.to_str().unwrap()]).start();
    let backends = tokio::task::spawn_blocking(move || {
        in_prometheus(&backends);
        backends
    })
    .await
    .unwrap();
    agent.signal(Signal::SIGTERM);
    let output = agent.finish().await;
    tokio::task::spawn_blocking(move || drop(backends)).await.unwrap();
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    assert!(output.stderr.contains("all telemetry was delivered"), "{}", output.stderr);
}

/// Jaeger's trace holds one span per step of the record, with its ids, parents and times, and one per wait.
fn compare(run: &Value, trace: &Value) {
    let spans = trace["spans"].as_array().unwrap();
    let steps: Vec<_> = run["steps"].as_array().unwrap().iter().filter(|step| step.get("span_id").is_some()).collect();
    let waits: usize = steps.iter().filter_map(|step| step["waits"].as_array()).map(Vec::len).sum();
    assert_eq!(spans.len(), steps.len() + waits + 1, "one span a step, one a wait, and the root");
    let by_id: HashMap<_, _> = spans.iter().map(|span| (span["spanID"].as_str().unwrap(), span)).collect();
    let root = by_id[run["span_id"].as_str().unwrap()];
    assert_eq!(root["operationName"], "probe first-load");
    assert_eq!(root["references"].as_array().map_or(0, Vec::len), 0);
    let micros = |span: &Value| {
        let start = span["startTime"].as_u64().unwrap();
        (start, start + span["duration"].as_u64().unwrap())
    };
    let (begin, end) = micros(root);
    assert_eq!(tags(root)["imaptrace.first_loading_latency"].as_f64(), run["first_loading_latency_s"].as_f64());
    let mut before = begin;
    for step in steps {
        let span = by_id[step["span_id"].as_str().unwrap()];
        let name = step["name"].as_str().unwrap();
        let expected = step
            .get("mailbox")
            .map_or_else(|| name.to_owned(), |mailbox| format!("{name} {}", mailbox.as_str().unwrap()));
        assert_eq!(span["operationName"], expected.as_str());
        assert_eq!(span["references"][0]["spanID"], run["span_id"], "{name} hangs under the root");
        let (from, to) = micros(span);
        assert!(before <= from && from <= to && to <= end, "{name}: {before} {from} {to} {end}");
        before = to;
        let recorded = Duration::from_secs_f64(step["duration_s"].as_f64().unwrap() + 1e-9);
        assert_eq!(u128::from(to - from), recorded.as_micros(), "{name}");
        let tags = tags(span);
        let is_command = name.chars().all(char::is_uppercase);
        assert_eq!(tags["span.kind"], if is_command { "client" } else { "internal" }, "{name}");
        if is_command {
            assert_eq!(tags["imap.command.name"], name);
            assert_eq!(tags["imap.response.status"], "OK");
            assert_eq!(tags["imap.response.size"].as_u64(), step["received_bytes"].as_u64());
            assert_eq!(tags["imap.request.size"].as_u64(), step["sent_bytes"].as_u64());
        }
    }
}

/// The proxy saw the very bytes that the record tells of, and the tags are the span ids.
fn against_the_wire(run: &Value, proxy: &Proxy) {
    let conversation = &proxy.conversations()[0];
    assert_eq!(run["wire_sent_bytes"].as_u64(), Some(conversation.sent.len() as u64));
    assert_eq!(run["wire_received_bytes"].as_u64(), Some(conversation.received.len() as u64));
    let steps = run["steps"].as_array().unwrap();
    let sum = |key: &str| steps.iter().filter_map(|step| step[key].as_u64()).sum::<u64>();
    assert_eq!(
        (sum("sent_bytes"), sum("received_bytes")),
        (conversation.sent.len() as u64, conversation.received.len() as u64)
    );
    let sent = String::from_utf8(conversation.sent.clone()).unwrap();
    let on_the_wire: Vec<_> = sent.lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
    let recorded: Vec<_> = steps
        .iter()
        .filter(|step| step.get("sent_bytes").is_some())
        .map(|step| format!("{} {}", step["span_id"].as_str().unwrap(), step["name"].as_str().unwrap()))
        .collect();
    assert_eq!(on_the_wire, recorded);
}

fn in_prometheus(backends: &Backends) {
    for query in [
        r#"imaptrace_probe_first_loading_duration_seconds_count{imaptrace_target_name="mail01"} > 1"#,
        r#"imaptrace_probe_first_loading_duration_seconds_bucket{imaptrace_target_name="mail01",le="60.0"} > 1"#,
        r#"imap_client_operation_duration_seconds_count{imap_command_name="SELECT",imap_response_status="OK",imaptrace_target_name="mail01"} > 1"#,
        r#"imap_client_operation_duration_seconds_count{imap_command_name="FETCH",imap_response_status="OK",imaptrace_target_name="mail01"} > 1"#,
        r#"imap_client_setup_duration_seconds_count{imap_setup_phase="tls"} > 1"#,
        r#"imaptrace_probe_up{imaptrace_target_name="mail01",imaptrace_account_name="default",imaptrace_journey_name="first-load",imaptrace_one_shot=""} == 1"#,
        r#"time() - imaptrace_probe_last_run_time_seconds{imaptrace_target_name="mail01"} < 60"#,
        r#"imap_server_certificate_not_after_seconds{imaptrace_target_name="mail01"} > time()"#,
        r#"imap_mailbox_messages{imaptrace_target_name="mail01"} == 60"#,
        r#"imaptrace_probe_interval_seconds{imaptrace_target_name="mail01",imaptrace_one_shot=""} > 0"#,
        r#"imaptrace_probe_failures{imaptrace_target_name="mail01",imaptrace_one_shot=""} == 0"#,
        "imaptrace_agent_up == 1",
        "imaptrace_agent_copies == 1",
        "imaptrace_agent_servers > 0",
        "imaptrace_agent_servers_unreachable >= 0",
        r#"imaptrace_config_info{imaptrace_config_hash=~"[0-9a-f]{16}"} == 1"#,
    ] {
        assert!(!backends.prometheus_query(query).is_empty(), "{query}");
    }
}
