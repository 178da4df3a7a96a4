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

/// Two sources of metrics, of traces in Jaeger and of traces in Tempo, by the names that a Grafana may have for them.
const SOURCES: [[(&str, &str); 3]; 2] = [
    [("${metrics}", "prometheus"), ("${traces}", "jaeger"), ("${tempo}", "tempo")],
    [("${metrics}", "Mimir (fra)"), ("${traces}", "traces-of-mail"), ("${tempo}", "P214B5B846CF3925F")],
];

/// Recorded series that say what is wrong, and for which nothing here is: agents that are blind or gone, and hours of history.
const NOT_HERE: [&str; 16] = [
    "imaptrace_agent:blind",
    "imaptrace_agent:blind_time_seconds",
    "imaptrace_agent:start_lag_seconds:p99_10m",
    "imaptrace_agent:vanished_time_seconds",
    "imaptrace_agent:accounts_without_agent",
    "imaptrace_agent:accounts_short_of_agents",
    "imaptrace_account:window_time_seconds",
    "imaptrace_account:silent",
    "imaptrace_account:unseen",
    "imaptrace_account:abandoned",
    "imaptrace_account:loading_slow_for_hours",
    "imaptrace_account:loading_slow_for_hours:all_agents",
    "imaptrace_account_step:duration_seconds:mean_5m",
    "imaptrace_account_step:duration_seconds:usual",
    "imaptrace_account_step:slow",
    "imaptrace_account_step:slow:all_agents",
];

#[tokio::test(flavor = "multi_thread")]
async fn every_query_of_the_dashboard_returns_data_and_what_is_wrong_is_an_alert() {
    let backends = tokio::task::spawn_blocking(Backends::start).await.unwrap();
    looked_at(backends, "explicit").await;
}

/// Through the Collector into native histograms, with the recording rules for those.
#[tokio::test(flavor = "multi_thread")]
async fn every_query_of_the_dashboard_returns_data_with_exponential_histograms_too() {
    let backends = tokio::task::spawn_blocking(Backends::start_exponential).await.unwrap();
    looked_at(backends, "exponential").await;
}

async fn looked_at(backends: Backends, histogram: &'static str) {
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
             histogram = \"{histogram}\"\n[defaults]\ninterval = \"1s\"\ntimeout = \"900ms\"\n",
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
        kinds(&backends, histogram);
        for sources in SOURCES {
            let dashboard = with_sources(&sources);
            queries(&backends, &dashboard, sources[0].1);
            links(&backends, &dashboard, sources[1].1);
        }
        rules(&backends);
        backends
    })
    .await
    .unwrap();
    agent.signal(Signal::SIGTERM);
    let output = agent.finish().await;
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    tokio::task::spawn_blocking(move || drop(backends)).await.unwrap();
}

/// First Loading Latency is a histogram of the kind that the test is about, and of no other.
fn kinds(backends: &Backends, histogram: &str) {
    const NAME: &str = "imaptrace_probe_first_loading_duration_seconds";
    let (there, not) = if histogram == "explicit" { ("_bucket", "") } else { ("", "_bucket") };
    backends.prometheus_query(&format!("{NAME}{there}"));
    assert!(backends.prometheus_now(&format!("{NAME}{not}")).is_empty(), "{histogram}");
}

/// The dashboard as Grafana has it when these sources are chosen.
fn with_sources(sources: &[(&str, &str)]) -> Value {
    let mut text = std::fs::read_to_string(DASHBOARD).unwrap();
    for (variable, name) in sources {
        assert!(text.contains(variable), "nothing uses {variable}");
        text = text.replace(variable, name);
    }
    serde_json::from_str(&text).unwrap()
}

/// The names of all sources below this, links left out.
fn sources_in(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(source) = fields.get("datasource") {
                found.insert(source["uid"].as_str().unwrap_or_else(|| panic!("no uid in {source}")).to_owned());
            }
            fields.values().for_each(|field| sources_in(field, found));
        }
        Value::Array(items) => items.iter().for_each(|item| sources_in(item, found)),
        _ => {}
    }
}

fn queries(backends: &Backends, dashboard: &Value, metrics: &str) {
    let mut sources = BTreeSet::new();
    sources_in(dashboard, &mut sources);
    assert_eq!(sources, BTreeSet::from([metrics.to_owned()]), "a source that no variable chooses");
    let mut asked = 0;
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    for variable in variables.iter().filter(|variable| variable["type"] == "query") {
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
            wait_until(&format!("{} has a figure for {query}", panel["title"]), || {
                backends.prometheus_now(&query).iter().find_map(figure)
            });
        }
    }
    assert!(asked > 30, "{asked} queries");
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

/// The value of a series, if it is one that can be drawn: of a native histogram, how many it counts.
fn figure(series: &Value) -> Option<f64> {
    let value = series["value"].get(1).unwrap_or_else(|| &series["histogram"][1]["count"]);
    value.as_str()?.parse().ok().filter(|value: &f64| value.is_finite())
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
        let query = format!(r#"imaptrace_account:objective_missed:ratio_rate1h{{imaptrace_target_name="{target}"}}"#);
        figure(&backends.prometheus_query(&query)[0])
    };
    assert_eq!(missed("down"), Some(1.0));
    // On a busy machine the first runs may fail.
    wait_until("the good server has runs within a second", || missed("good").filter(|missed| *missed < 1.0));
    let recordings = backends.prometheus_recordings();
    for name in NOT_HERE {
        assert!(recordings.iter().any(|(recorded, _)| recorded == name), "{name} is not recorded");
    }
    for (name, expression) in recordings {
        if !NOT_HERE.contains(&name.as_str()) {
            wait_until(&name, || backends.prometheus_now(&expression).iter().find_map(figure));
        }
    }
}

/// What the links have Grafana ask Jaeger for, asked of Jaeger as its data source does.
fn links(backends: &Backends, dashboard: &Value, traces: &str) {
    let mut searches = BTreeSet::new();
    let mut urls = Vec::new();
    urls_in(dashboard, &mut urls);
    for url in urls {
        let (_, panes) = url.split_once("/explore?schemaVersion=1&panes=").expect("a link out of Grafana");
        let pane = &serde_json::from_str::<Value>(panes).unwrap_or_else(|error| panic!("{error} in {url}"))["a"];
        let query = &pane["queries"][0];
        if query["queryType"] == "search" {
            assert_eq!((pane["datasource"].as_str(), query["service"].as_str()), (Some(traces), Some("imaptrace")));
            let tags = query["tags"].as_str().unwrap();
            searches.insert(
                tags.replace("${__field.labels.imaptrace_target_name}", "good").replace("${__value.text}", "good"),
            );
        }
    }
    let all = "imaptrace.target.name=\"good\"";
    assert!(searches.len() >= 3 && searches.contains(all), "{searches:?}");
    for search in searches {
        let tags: serde_json::Map<String, Value> = search
            .split(' ')
            .map(|tag| tag.split_once('=').unwrap())
            .map(|(key, value)| (key.to_owned(), value.trim_matches('"').into()))
            .collect();
        let found = backends.jaeger_search("imaptrace", &tags.into());
        // Nothing is slow before there is a history; then the search has to be one that Jaeger takes.
        if search == all {
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

/// All that the dashboard links to.
fn urls_in<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("url").and_then(Value::as_str));
            fields.values().for_each(|field| urls_in(field, found));
        }
        Value::Array(items) => items.iter().for_each(|item| urls_in(item, found)),
        _ => {}
    }
}
