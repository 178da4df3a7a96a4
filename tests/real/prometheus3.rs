//! A real agent without a Collector: its metrics go to the OTLP receiver of a real Prometheus 3 with the shipped rules, its
//! traces to a real Jaeger, by the configurations of `docs/destinations.md`.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use imaptrace::telemetry::names::{self, Metric};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{
    destinations::{self, redirected},
    dovecot::{Dovecot, Options, USER1},
    program::{Program, Running, wait_until},
    prometheus_names::prometheus_names,
    prometheus3::{Jaeger, Prometheus3, Selector, shipped_rules},
};

const INSTANCE: &str = "probe-fra-1";

/// Metrics that an agent without a source of targets, whose runs pass, does not have.
const OCCASIONAL: [Metric; 6] = [
    names::PROBE_SKIPPED,
    names::PROBE_SLOW,
    names::MAILBOX_SHRUNK,
    names::DELIVERY_DROPPED,
    names::METRICS_OVERFLOW,
    names::DISCOVERY_FAILING,
];

/// An agent that probes this server every second, with this for `[otlp]`.
fn agent(otlp: &str, server: &Dovecot, directory: &Path) -> Running {
    let password = directory.join("password");
    std::fs::write(&password, USER1.1).unwrap();
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o600)).unwrap();
    let text = format!(
        "{otlp}\n[agent]\ninstance = \"{INSTANCE}\"\n[http]\nlisten = \"off\"\n\
         [defaults]\ninterval = \"1s\"\ntimeout = \"900ms\"\naddress = \"v4\"\n\
         [[targets]]\nname = \"mail01\"\nurl = \"imaps://localhost:{}\"\nca_file = \"{}\"\nuser = \"{}\"\n\
         password = {{ file = \"{}\" }}\n",
        server.tls,
        server.ca.display(),
        USER1.0,
        password.display()
    );
    let config = directory.join("imaptrace.toml");
    std::fs::write(&config, text).unwrap();
    Program::new(["agent", "--config", config.to_str().unwrap()])
        .env("IMAPTRACE__METRICS__EXPORT_INTERVAL", "1s")
        .start()
}

/// The page's `prometheus.yml`, with rules reckoned every second.
fn configuration() -> String {
    let page = destinations::block("Prometheus", "global:").expect("docs/destinations.md has no prometheus.yml");
    let quicker = page.replace("evaluation_interval: 15s", "evaluation_interval: 1s");
    assert_ne!(page, quicker, "the interval of the page is another than this replaces");
    quicker
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_rules_have_their_series_when_prometheus_3_receives_otlp_itself() {
    let starting = tokio::task::spawn_blocking(|| (Prometheus3::start(&configuration()), Jaeger::start()));
    let (prometheus, jaeger) = starting.await.unwrap();
    let server = Dovecot::start(&Options { messages: 30, ..Options::default() });
    let directory = tempfile::tempdir().unwrap();
    let otlp = redirected(&destinations::configuration("Jaeger"), &jaeger.url(), directory.path())
        + &redirected(&destinations::configuration("Prometheus"), &prometheus.url(), directory.path());
    let agent = agent(&otlp, &server, directory.path());
    let back_ends = tokio::task::spawn_blocking(move || {
        names_and_labels(&prometheus);
        what_rules_read(&prometheus);
        recorded(&prometheus);
        let traces = jaeger.traces("imaptrace");
        let spans = traces[0]["spans"].as_array().unwrap();
        assert!(spans.iter().any(|span| span["operationName"] == "probe first-load"), "{spans:?}");
        (prometheus, jaeger)
    });
    let back_ends = back_ends.await.unwrap();
    agent.signal(Signal::SIGTERM);
    let output = agent.finish().await;
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    assert!(output.stderr.contains("all telemetry was delivered"), "{}", output.stderr);
    tokio::task::spawn_blocking(move || drop(back_ends)).await.unwrap();
}

/// `up` of the account has the agent's job and instance, and no label but those of docs/telemetry.md.
fn names_and_labels(prometheus: &Prometheus3) {
    let [series] = prometheus.query("imaptrace_probe_up").try_into().unwrap();
    let expected = [
        ("__name__", "imaptrace_probe_up"),
        ("imaptrace_account_name", "default"),
        ("imaptrace_journey_name", "first-load"),
        ("imaptrace_target_name", "mail01"),
        ("instance", INSTANCE),
        ("job", "imaptrace"),
    ];
    let labels: BTreeMap<String, String> = serde_json::from_value(series["metric"].clone()).unwrap();
    assert_eq!(labels, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    let info = prometheus.query("target_info");
    assert_eq!(info[0]["metric"]["service_version"], env!("CARGO_PKG_VERSION"), "{info:?}");
}

/// All shipped rules are loaded, and what they read is there under the names that they read it by.
fn what_rules_read(prometheus: &Prometheus3) {
    let rules = prometheus.rules();
    let named = |kind: &str| {
        let rules = rules.iter().filter(|rule| rule["type"] == kind);
        rules.map(|rule| rule["name"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    assert_eq!((named("recording"), named("alerting")), shipped_rules());
    assert!(rules.len() > 20, "{rules:?}");

    let occasional: BTreeSet<String> = OCCASIONAL.iter().flat_map(prometheus_names).collect();
    let made: BTreeSet<String> = names::METRICS.iter().flat_map(prometheus_names).collect();
    let mut seen = BTreeSet::new();
    for rule in &rules {
        for Selector { metric, text } in prometheus.selectors(rule["query"].as_str().unwrap()) {
            if !made.contains(&metric) || occasional.contains(&metric) {
                continue;
            }
            prometheus.query(&format!("{{__name__=\"{metric}\"}}"));
            // Alerts, and rules about a class of failure, look for what a run that passes does not have.
            if rule["type"] == "recording" && !["error_type=~", "error_type!=\""].iter().any(|it| text.contains(it)) {
                prometheus.query(&text);
            }
            seen.insert(metric);
        }
    }
    assert!(seen.contains("imaptrace_probe_failures") && seen.len() > 8, "{seen:?}");
}

/// A recorded series has a figure about the target, and no rule fails.
fn recorded(prometheus: &Prometheus3) {
    let (recorded, _) = shipped_rules();
    wait_until("a recorded series has a figure", || {
        recorded.iter().find_map(|name| {
            let series = prometheus.now(&format!("{name}{{imaptrace_target_name=\"mail01\"}}"));
            let figure = series.first()?["value"][1].as_str()?.parse::<f64>().ok()?;
            figure.is_finite().then_some(())
        })
    });
    let failed: Vec<Value> = prometheus.rules().into_iter().filter(|rule| rule["health"] == "err").collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_3_refuses_delta_and_the_agent_says_so() {
    let prometheus = tokio::task::spawn_blocking(|| Prometheus3::start(&configuration())).await.unwrap();
    let server = Dovecot::start(&Options { messages: 30, ..Options::default() });
    let directory = tempfile::tempdir().unwrap();
    let otlp = redirected(&destinations::configuration("Prometheus"), &prometheus.url(), directory.path());
    let mut agent = agent(&format!("{otlp}[metrics]\ntemporality = \"delta\"\n"), &server, directory.path());
    agent.stderr_line("refuses metrics: HTTP 500").await;
    // Not even gauges, which have no temporality.
    assert_eq!(prometheus.now("{__name__=~\"imap(trace)?_.*\"}"), Vec::<Value>::new());
    agent.signal(Signal::SIGTERM);
    agent.finish().await;
    tokio::task::spawn_blocking(move || drop(prometheus)).await.unwrap();
}
