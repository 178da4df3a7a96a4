//! Tail sampling as `otel-collector.yaml` has it: failed and slow traces are kept, and the figures still count every run.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::{
    backends::{Backends, everything_switched_on},
    program::wait_until,
    quick::{conversation, life},
};

/// A conversation in which the server refuses to open the mailbox.
const REFUSED: &str = "S: * OK [CAPABILITY IMAP4rev1] hi\nC: LOGIN\nS: {tag} OK [CAPABILITY IMAP4rev1] in\nC: LIST\n\
    S: * LIST () \"/\" INBOX\nS: {tag} OK\nC: SELECT\nS: {tag} NO [SERVERBUG] broken\nC: LOGOUT\nS: * BYE\nS: {tag} OK\n";

#[test]
fn tail_sampling_keeps_the_failed_and_the_slow_and_the_span_metrics_count_all() {
    // The share of others would make it a matter of luck, so it is nothing here. And nobody looks at exemplars.
    let mut file = everything_switched_on();
    for (there, here) in [
        ("sampling_percentage: 5 ", "sampling_percentage: 0 "),
        ("metrics_flush_interval: 15s", "metrics_flush_interval: 2s"),
    ] {
        assert!(file.contains(there), "{there} is not there");
        file = file.replace(there, here);
    }
    let backends = Backends::start_with(&file);
    let state = tempfile::tempdir().unwrap();
    let mut conversations = vec![conversation(""); 30];
    for slow in [24, 27] {
        conversations[slow] = conversation("pause 400\n");
    }
    for failed in [3, 25] {
        conversations[failed] = REFUSED.to_owned();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    // Only runs that pass have a FETCH: of them the slow ones are numbers 23 and 25, counted from 0.
    let fetches = runtime.block_on(life(&conversations, &backends.otlp_http(), state.path()));
    assert_eq!(fetches.len(), 28);

    // Nobody has to wait two seconds for a run of two seconds. The Collector decides in the order of arrival: when it
    // has decided about the last, it has about all.
    send(&backends, "1a", 1_990);
    send(&backends, "1b", 2_010);
    backends.jaeger_trace(&trace_id("1b"));

    let kept: BTreeMap<String, Value> = wait_until("the failed and the slow are in Jaeger", || {
        let traces = backends.jaeger_search("imaptrace", &json!({}));
        let kept: BTreeMap<_, _> =
            traces.into_iter().map(|trace| (trace["traceID"].as_str().unwrap().to_owned(), trace)).collect();
        let failed = kept.values().filter(|trace| tag(root(trace), "error.type").is_some()).count();
        let slow =
            [&fetches[23], &fetches[25]].into_iter().filter(|fetch| kept.values().any(|trace| holds(trace, fetch)));
        (failed == 2 && slow.count() == 2).then_some(kept)
    });
    // This machine's own noise may make others slow, too. What each trace says of itself is what counts.
    for (id, trace) in &kept {
        let root = root(trace);
        let failed = tag(root, "error.type") == Some(&json!("no"));
        let slow = tag(root, "imaptrace.latency.slow") == Some(&json!(true));
        assert!(failed || slow || *id == trace_id("1b"), "this run was neither failed nor slow: {trace:#}");
    }
    assert!(kept.len() < conversations.len(), "nothing was left out");

    let every_run = (conversations.len() + 2).to_string();
    wait_until("the span metrics count every run", || {
        let counted = backends.prometheus_now(r#"sum(traces_span_metrics_calls_total{span_name="probe first-load"})"#);
        counted.first().filter(|sum| sum["value"][1] == *every_run).map(|_| ())
    });
}

fn trace_id(name: &str) -> String {
    format!("{name:a<32}")
}

/// A root that took so long, and nothing else.
fn send(backends: &Backends, name: &str, millis: u128) {
    let end = imaptrace::clock::wall().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let begin = end - millis * 1_000_000;
    let service = json!([{ "key": "service.name", "value": { "stringValue": "imaptrace" } }]);
    let span = json!({
        "traceId": trace_id(name), "spanId": "b7ad6b7169203331", "name": "probe first-load", "kind": 1,
        "startTimeUnixNano": begin.to_string(), "endTimeUnixNano": end.to_string(),
    });
    backends.send(
        "traces",
        &json!({ "resourceSpans": [{ "resource": { "attributes": service }, "scopeSpans": [{ "spans": [span] }] }] }),
    );
}

fn root(trace: &Value) -> &Value {
    let spans = trace["spans"].as_array().unwrap();
    spans.iter().find(|span| span["operationName"] == "probe first-load").expect("a trace without a root")
}

fn holds(trace: &Value, span_id: &str) -> bool {
    trace["spans"].as_array().unwrap().iter().any(|span| span["spanID"] == span_id)
}

fn tag<'a>(span: &'a Value, key: &str) -> Option<&'a Value> {
    span["tags"].as_array().unwrap().iter().find(|tag| tag["key"] == key).map(|tag| &tag["value"])
}
