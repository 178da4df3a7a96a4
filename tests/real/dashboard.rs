//! The dashboard and the rules on a real run: every query returns data, and what is wrong is told by its alert.
//!
//! One agent probes a good server, one that refuses the password, one that is down, and one that never answers LOGOUT,
//! so that its runs last longer than their interval and some are skipped. Grafana is not here: its variables are put in
//! by hand, as it does with "All".

use std::{collections::BTreeSet, os::unix::fs::PermissionsExt as _};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{
    backends::Backends,
    dovecot::{Dovecot, Options, USER1},
    program::{Program, free_port, wait_until},
    quick::conversation,
    script::Script,
};

const DASHBOARD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/grafana/dashboards/imaptrace.json");

#[tokio::test(flavor = "multi_thread")]
async fn every_query_of_the_dashboard_returns_data_and_what_is_wrong_is_an_alert() {
    // A rate needs two flushes of the span metrics; theirs is still longer than the interval of Prometheus, 5 s.
    let collector = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/otel-collector.yaml")).unwrap();
    let quicker = collector.replace("metrics_flush_interval: 15s", "metrics_flush_interval: 6s");
    assert_ne!(collector, quicker);
    let backends = tokio::task::spawn_blocking(move || Backends::start_with(&quicker)).await.unwrap();
    let good = Dovecot::start(&Options::default());
    // It says no at once and every time, instead of making us wait.
    let refuses = Dovecot::start(&Options {
        settings:
            "auth_failure_delay = 0\nservice anvil {\n  unix_listener anvil-auth-penalty {\n    mode = 0\n  }\n}\n"
                .into(),
        ..Options::default()
    });
    let deaf = conversation("").replace("C: LOGOUT\nS: * BYE\nS: {tag} OK\n", "C: LOGOUT\nsilence\n");
    let deaf = Script::play(&vec![deaf; 120].join("next\n")).await;
    // Held, so that nobody else gets it; nobody listens on it.
    let down = free_port();

    let directory = tempfile::tempdir().unwrap();
    let secret = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path.display().to_string()
    };
    let (right, wrong) = (secret("right", USER1.1), secret("wrong", "not it"));
    let target = |name: &str, url: &str, security: &str, password: &str| {
        format!(
            "[[targets]]\nname = \"{name}\"\nurl = \"{url}\"\nsecurity = \"{security}\"\nca_file = \"{}\"\nuser = \"{}\"\n\
             password = {{ file = \"{password}\" }}\naddress = \"v4\"\n",
            good.ca.display(),
            USER1.0
        )
    };
    let text = [
        format!(
            "[otlp]\nendpoint = \"{}\"\nprotocol = \"http/protobuf\"\n[metrics]\nexport_interval = \"1s\"\n\
             [defaults]\ninterval = \"1s\"\ntimeout = \"900ms\"\n",
            backends.otlp_http()
        ),
        target("good", &format!("imaps://localhost:{}", good.tls), "tls", &right),
        target("refuses", &format!("imap://localhost:{}", refuses.plain), "none", &wrong),
        target("down", &format!("imap://localhost:{down}"), "none", &right),
        target("deaf", &format!("imap://{}", deaf.address), "none", &right),
    ];
    let config = directory.path().join("imaptrace.toml");
    std::fs::write(&config, text.concat()).unwrap();
    let agent = Program::new(["agent", "--config", config.to_str().unwrap()]).start();
    let backends = tokio::task::spawn_blocking(move || {
        queries(&backends);
        rules(&backends);
        links(&backends);
        backends
    })
    .await
    .unwrap();
    agent.signal(Signal::SIGTERM);
    let output = agent.finish().await;
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    tokio::task::spawn_blocking(move || drop(backends)).await.unwrap();
}

fn queries(backends: &Backends) {
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(DASHBOARD).unwrap()).unwrap();
    let (mut asked, mut with_traces) = (0, 0);
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        let query = variable["query"]["query"].as_str().unwrap();
        let (series, label) =
            query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')')?.rsplit_once(", ")).unwrap();
        let values = backends.prometheus_query(&substituted(&format!("count by ({label}) ({series})")));
        assert!(values.iter().all(|value| value["metric"][label].is_string()), "{query}: {values:?}");
    }
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = substituted(target["expr"].as_str().unwrap());
            asked += 1;
            if target["exemplar"] == true {
                backends.prometheus_exemplars(&query);
                with_traces += 1;
            }
            wait_until(&format!("{} has a figure for {query}", panel["title"]), || {
                backends.prometheus_now(&query).iter().find_map(figure)
            });
        }
    }
    assert!(asked > 30 && with_traces > 1, "{asked} queries, {with_traces} of them with exemplars");
}

/// A query as Grafana sends it with "All" chosen, for a window that a short run can fill.
fn substituted(query: &str) -> String {
    let mut query = query.to_owned();
    for (variable, value) in [
        ("$__rate_interval", "20s"),
        ("$__range", "1m"),
        ("$target", ".*"),
        ("$account", ".*"),
        ("$journey", ".*"),
        ("$command", "[A-Z]+"),
    ] {
        query = query.replace(variable, value);
    }
    assert!(!query.contains('$'), "a variable that this test does not know: {query}");
    query
}

/// The value of a series, if it is one that can be drawn.
fn figure(series: &Value) -> Option<f64> {
    series["value"][1].as_str()?.parse().ok().filter(|value: &f64| value.is_finite())
}

fn rules(backends: &Backends) {
    for (alert, target) in [("ImaptraceTargetFailing", "down"), ("ImaptraceLoginRefused", "refuses")] {
        backends.prometheus_query(&format!(r#"ALERTS{{alertname="{alert}",imaptrace_target_name="{target}"}}"#));
    }
    let alerts = backends.prometheus_now(r#"ALERTS{alertname=~"Imaptrace.*"}"#);
    let wrong: BTreeSet<_> =
        alerts.iter().filter_map(|alert| alert["metric"]["imaptrace_target_name"].as_str()).collect();
    assert_eq!(wrong, BTreeSet::from(["down", "refuses"]), "{alerts:?}");

    let missed = |target| {
        let query = format!(r#"imaptrace_target:objective_missed:ratio_rate5m{{imaptrace_target_name="{target}"}}"#);
        figure(&backends.prometheus_query(&query)[0])
    };
    assert_eq!(missed("down"), Some(1.0));
    assert!(missed("good") < Some(1.0));
    for (name, expression) in backends.prometheus_recordings() {
        // What is usual needs an hour and more of history.
        if !name.ends_with(":usual") {
            wait_until(&name, || backends.prometheus_now(&expression).iter().find_map(figure));
        }
    }
}

/// What the links ask Jaeger's pages for, asked of Jaeger: they hand it on as it is.
fn links(backends: &Backends) {
    let dashboard = std::fs::read_to_string(DASHBOARD).unwrap();
    let mut searches = BTreeSet::new();
    for line in dashboard.lines().filter(|line| line.contains(":16686/search?")) {
        let url: String =
            serde_json::from_str(line.trim().trim_start_matches(r#""url": "#).trim_end_matches(',')).unwrap();
        let (_, tags) = url.split_once("&tags=").expect("a search for nothing");
        assert!(url.contains("?service=imaptrace&"), "{url}");
        searches
            .insert(tags.replace("${__field.labels.imaptrace_target_name}", "good").replace("${__value.text}", "good"));
    }
    let all = json!({ "imaptrace.target.name": "good" });
    assert!(searches.len() >= 3 && searches.contains(&all.to_string()), "{searches:?}");
    for tags in searches {
        let tags: Value = serde_json::from_str(&tags).unwrap();
        let found = backends.jaeger_search("imaptrace", &tags);
        // Nothing is slow before there is a history; then the search has to be one that Jaeger takes.
        if tags == all {
            assert!(!found.is_empty());
            let spans = found.iter().flat_map(|trace| trace["spans"].as_array().unwrap());
            let others = spans.filter(|span| {
                !span["tags"]
                    .as_array()
                    .unwrap()
                    .contains(&json!({ "key": "imaptrace.target.name", "type": "string", "value": "good" }))
            });
            assert!(others.filter(|span| span["operationName"] == "probe first-load").count() == 0);
        }
    }
}
