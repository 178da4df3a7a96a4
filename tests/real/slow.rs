//! The slow one stands out: a search in Jaeger for slow traces finds exactly them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::support::{
    backends::Backends,
    program::wait_until,
    quick::{conversation, life},
};

#[test]
fn a_search_for_slow_in_jaeger_finds_exactly_the_slow_traces() {
    let backends = Backends::start();
    let state = tempfile::tempdir().unwrap();
    // Noise of this machine may make others slow, too: what is expected is told by each trace itself.
    let mut conversations = vec![conversation(""); 28];
    for slow in [24, 26] {
        conversations[slow] = conversation("pause 400\n");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let fetches = runtime.block_on(life(&conversations, &backends.otlp_http(), state.path()));
    assert_eq!(fetches.len(), conversations.len());

    let all = wait_until("all traces are in Jaeger", || {
        let traces = backends.jaeger_search("imaptrace", &json!({}));
        let spans: BTreeMap<String, String> = traces
            .iter()
            .flat_map(|trace| spans(trace).iter().map(|span| (text(&span["spanID"]), text(&trace["traceID"]))))
            .collect();
        fetches.iter().all(|fetch| spans.contains_key(fetch)).then_some((traces, spans))
    });
    let (traces, trace_of) = all;
    let slow: BTreeSet<String> =
        traces.iter().filter(|trace| is_slow(trace)).map(|trace| text(&trace["traceID"])).collect();
    for fetch in [&fetches[24], &fetches[26]] {
        assert!(slow.contains(&trace_of[fetch]), "{fetch} took 400 ms");
    }
    let found = backends.jaeger_search("imaptrace", &json!({ "imaptrace.latency.slow": "true" }));
    assert_eq!(found.iter().map(|trace| text(&trace["traceID"])).collect::<BTreeSet<_>>(), slow);
    assert!(slow.len() < traces.len(), "a search that finds all of them shows nothing");
}

/// Whether a trace is slow by the durations and baselines of its spans; its marks have to say the same.
fn is_slow(trace: &Value) -> bool {
    let mut slow = Vec::new();
    let mut root = None;
    for span in spans(trace) {
        let took = span["duration"].as_f64().unwrap();
        let usual = tag(span, "imaptrace.latency.baseline").map(|seconds| seconds.as_f64().unwrap() * 1e6);
        let expected = usual.is_some_and(|usual| took > 3.0 * usual + 0.5 && took - usual > 9_999.5);
        let marked = tag(span, "imaptrace.latency.slow").cloned();
        if span["operationName"] == "probe first-load" {
            root = Some((marked, tag(span, "imaptrace.slowest.step").cloned()));
            continue;
        }
        assert_eq!(marked, expected.then_some(Value::Bool(true)), "{span:#}");
        slow.extend(expected.then(|| span["operationName"].clone()));
    }
    let (marked, slowest) = root.expect("a trace without a root");
    assert_eq!(marked, (!slow.is_empty()).then_some(Value::Bool(true)), "{slow:?}");
    if slow == ["FETCH INBOX"] {
        assert_eq!(slowest, Some("FETCH".into()));
    }
    !slow.is_empty()
}

fn spans(trace: &Value) -> &Vec<Value> {
    trace["spans"].as_array().unwrap()
}

fn tag<'a>(span: &'a Value, key: &str) -> Option<&'a Value> {
    span["tags"].as_array().unwrap().iter().find(|tag| tag["key"] == key).map(|tag| &tag["value"])
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}
