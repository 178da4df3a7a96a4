//! A real Prometheus 3 that receives OTLP itself, and a real Jaeger beside it: back ends without a Collector. Ended on drop.

use std::{collections::BTreeSet, fs, path::PathBuf};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{
    backends::{Process, command, get, json, loopback, start_jaeger},
    program::{free_port, wait_until},
};

const RULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/prometheus/rules");

/// Prometheus with the shipped rules.
pub struct Prometheus3 {
    port: u16,
    _process: Process,
    _directory: tempfile::TempDir,
}

/// What an expression reads: the name of a metric, and the selector as it stands in the expression.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selector {
    pub metric: String,
    pub text: String,
}

impl Prometheus3 {
    /// Starts it with this text as `prometheus.yml` and the shipped rules beside it.
    pub fn start(configuration: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("prometheus3-").tempdir().unwrap();
        fs::create_dir(directory.path().join("rules")).unwrap();
        for file in rule_files() {
            fs::copy(&file, directory.path().join("rules").join(file.file_name().unwrap())).unwrap();
        }
        fs::write(directory.path().join("prometheus.yml"), configuration).unwrap();
        let port = free_port();
        let mut prometheus = command("prometheus3");
        prometheus.args([
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            "--web.enable-otlp-receiver",
            &format!("--web.listen-address={}", loopback(port)),
        ]);
        let mut process = Process::start("prometheus3", prometheus, directory.path());
        process.wait_ready(port, "/-/ready");
        Self { port, _process: process, _directory: directory }
    }

    /// The address, without a path.
    pub fn url(&self) -> String {
        format!("http://{}", loopback(self.port))
    }

    /// The series that answer a query at this moment, perhaps none.
    pub fn now(&self, expression: &str) -> Vec<Value> {
        self.api("query", expression)["result"].as_array().unwrap().clone()
    }

    /// The series that answer a query, as soon as there is one.
    pub fn query(&self, expression: &str) -> Vec<Value> {
        wait_until(&format!("Prometheus has an answer to {expression}"), || {
            Some(self.now(expression)).filter(|series| !series.is_empty())
        })
    }

    /// The rules that it has loaded, as it shows them (`name`, `type`, `query`, `health`).
    pub fn rules(&self) -> Vec<Value> {
        let (status, body) = get(self.port, "/api/v1/rules").unwrap();
        assert_eq!(status, 200, "{body}");
        let groups = json(&body)["data"]["groups"].as_array().unwrap().clone();
        groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
    }

    /// What an expression reads, by Prometheus's own parser.
    pub fn selectors(&self, expression: &str) -> BTreeSet<Selector> {
        let mut selectors = BTreeSet::new();
        collect(&self.api("parse_query", expression), &mut selectors);
        selectors
    }

    fn api(&self, api: &str, expression: &str) -> Value {
        let expression = utf8_percent_encode(expression, NON_ALPHANUMERIC);
        let (status, body) = get(self.port, &format!("/api/v1/{api}?query={expression}")).unwrap();
        assert_eq!(status, 200, "{body}");
        json(&body)["data"].clone()
    }
}

/// The selectors in a syntax tree, at any depth.
fn collect(node: &Value, selectors: &mut BTreeSet<Selector>) {
    match node {
        Value::Object(fields) => {
            if let (Some(metric), Some(matchers)) = (fields.get("name"), fields.get("matchers")) {
                let text = |value: &Value| value.as_str().unwrap().to_owned();
                let matchers = matchers.as_array().unwrap().iter();
                let matchers = matchers.map(|it| format!("{}{}{}", text(&it["name"]), text(&it["type"]), it["value"]));
                let text = format!("{{{}}}", matchers.collect::<Vec<_>>().join(","));
                selectors.insert(Selector { metric: metric.as_str().unwrap().to_owned(), text });
            }
            fields.values().for_each(|field| collect(field, selectors));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, selectors)),
        _ => {}
    }
}

fn rule_files() -> Vec<PathBuf> {
    let files: Vec<_> = fs::read_dir(RULES).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!files.is_empty(), "{RULES} is empty");
    files
}

/// The names in the shipped files of rules: of what is recorded, and of alerts.
pub fn shipped_rules() -> (BTreeSet<String>, BTreeSet<String>) {
    let texts: Vec<String> = rule_files().iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let named = |key: &str| {
        let lines = texts.iter().flat_map(|text| text.lines());
        lines.filter_map(|line| line.trim().strip_prefix(key)).map(|name| name.trim().to_owned()).collect()
    };
    (named("- record:"), named("- alert:"))
}

/// Jaeger alone.
pub struct Jaeger {
    otlp: u16,
    query: u16,
    _process: Process,
    _directory: tempfile::TempDir,
}

impl Jaeger {
    pub fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("jaeger-").tempdir().unwrap();
        let [otlp, query, query_grpc, health] = [(); 4].map(|()| free_port());
        let mut process = start_jaeger([otlp, query, query_grpc, health], directory.path());
        process.wait_ready(health, "/status");
        Self { otlp, query, _process: process, _directory: directory }
    }

    /// Where it takes OTLP over gRPC.
    pub fn url(&self) -> String {
        format!("http://{}", loopback(self.otlp))
    }

    /// The newest traces of a service, as soon as there is one.
    pub fn traces(&self, service: &str) -> Vec<Value> {
        wait_until(&format!("Jaeger has a trace of {service}"), || {
            let (status, body) = get(self.query, &format!("/api/traces?service={service}&limit=20")).ok()?;
            let traces = (status == 200).then(|| json(&body)["data"].as_array().cloned())??;
            Some(traces).filter(|traces| !traces.is_empty())
        })
    }
}
