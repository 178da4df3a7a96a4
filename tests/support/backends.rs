//! A real Collector, Jaeger and Prometheus on ports of their own, run from the repository's own files; ended on drop.
//!
//! Several can run at once. Prometheus looks for the first time some seconds after its start: whatever asks it waits.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::program::{cache, free_port, wait_until};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The three, ready to be used.
pub struct Backends {
    ports: Ports,
    collector_file: PathBuf,
    collector: Option<Process>,
    jaeger: Process,
    prometheus: Process,
    directory: tempfile::TempDir,
}

struct Ports {
    otlp_grpc: u16,
    otlp_http: u16,
    collector_health: u16,
    collector_metrics: u16,
    collector_self: u16,
    jaeger_otlp: u16,
    jaeger_query: u16,
    jaeger_query_grpc: u16,
    jaeger_health: u16,
    prometheus: u16,
}

impl Backends {
    /// Starts them and waits until each is ready.
    pub fn start() -> Self {
        Self::start_with(&std::fs::read_to_string(format!("{ROOT}/otel-collector.yaml")).unwrap())
    }

    /// The same, with this text in place of `otel-collector.yaml`.
    pub fn start_with(collector: &str) -> Self {
        Self::start_all(collector, false)
    }

    /// The same for agents with exponential histograms: their rules, and a Prometheus that takes native histograms.
    pub fn start_exponential() -> Self {
        Self::start_all(&std::fs::read_to_string(format!("{ROOT}/otel-collector.yaml")).unwrap(), true)
    }

    fn start_all(collector: &str, exponential: bool) -> Self {
        let directory = tempfile::Builder::new().prefix("backends-").tempdir().unwrap();
        let collector_file = directory.path().join("otel-collector.yaml");
        std::fs::write(&collector_file, collector).unwrap();
        let ports = Ports {
            otlp_grpc: free_port(),
            otlp_http: free_port(),
            collector_health: free_port(),
            collector_metrics: free_port(),
            collector_self: free_port(),
            jaeger_otlp: free_port(),
            jaeger_query: free_port(),
            jaeger_query_grpc: free_port(),
            jaeger_health: free_port(),
            prometheus: free_port(),
        };
        let jaeger = [ports.jaeger_otlp, ports.jaeger_query, ports.jaeger_query_grpc, ports.jaeger_health];
        let jaeger = start_jaeger(jaeger, directory.path());

        copy_rules(
            directory.path(),
            exponential,
            &[
                ("    interval: 1m\n", "    interval: 5s\n"),
                ("    interval: 2m\n", "    interval: 5s\n"),
                ("for: 1m\n", "for: 5s\n"),
                ("for: 4m\n", "for: 5s\n"),
            ],
        );
        let prometheus = std::fs::read_to_string(format!("{ROOT}/deploy/prometheus/prometheus.yml")).unwrap();
        let quicker = prometheus.replace("_interval: 15s", "_interval: 5s");
        assert_ne!(quicker, prometheus, "the intervals of prometheus.yml are others than this replaces");
        std::fs::write(directory.path().join("prometheus.yml"), quicker).unwrap();
        write_targets(directory.path(), "targets.json", ports.collector_metrics);
        let features = if exponential { "exemplar-storage,native-histograms" } else { "exemplar-storage" };
        let prometheus = start_prometheus(directory.path(), ports.prometheus, features);

        let mut this = Self { ports, collector_file, collector: None, jaeger, prometheus, directory };
        this.jaeger.wait_ready(this.ports.jaeger_health, "/status");
        this.prometheus.wait_ready(this.ports.prometheus, "/-/ready");
        this.start_collector();
        this
    }

    /// Starts the Collector (again).
    pub fn start_collector(&mut self) {
        let ports = &self.ports;
        let mut collector = command("otelcol");
        collector
            .arg("--config")
            .arg(&self.collector_file)
            .env("COLLECTOR_OTLP_GRPC", loopback(ports.otlp_grpc))
            .env("COLLECTOR_OTLP_HTTP", loopback(ports.otlp_http))
            .env("COLLECTOR_HEALTH", loopback(ports.collector_health))
            .env("COLLECTOR_PROMETHEUS", loopback(ports.collector_metrics))
            .env("COLLECTOR_SELF_PORT", ports.collector_self.to_string())
            .env("JAEGER_OTLP_ENDPOINT", loopback(ports.jaeger_otlp));
        let mut collector = Process::start("otelcol", collector, self.directory.path());
        collector.wait_ready(ports.collector_health, "/");
        self.collector = Some(collector);
    }

    /// Ends the Collector; the others stay. What it had taken is sent on first.
    pub fn stop_collector(&mut self) {
        self.collector = None;
    }

    /// Where agents send OTLP over gRPC.
    pub fn otlp_grpc(&self) -> String {
        format!("http://{}", loopback(self.ports.otlp_grpc))
    }

    /// Where agents send OTLP over HTTP, without the path of a signal.
    pub fn otlp_http(&self) -> String {
        format!("http://{}", loopback(self.ports.otlp_http))
    }

    /// What Prometheus gets of the Collector, at this moment: lines of `OpenMetrics`.
    pub fn scrape(&self) -> String {
        let accept = "application/openmetrics-text;version=1.0.0";
        let (status, body) =
            request(self.ports.collector_metrics, "GET", "/metrics", &[("Accept", accept)], "").unwrap();
        assert_eq!(status, 200, "{body}");
        body
    }

    /// Hands OTLP in JSON to the Collector, as a test without an agent does. `signal` is `traces` or `metrics`.
    pub fn send(&self, signal: &str, json: &Value) {
        let (status, body) =
            request(self.ports.otlp_http, "POST", &format!("/v1/{signal}"), &[], &json.to_string()).unwrap();
        assert_eq!(status, 200, "the Collector answers {body}");
    }

    /// A trace as Jaeger's API gives it (`spans`, `processes`), as soon as it has arrived.
    pub fn jaeger_trace(&self, trace_id: &str) -> Value {
        wait_until(&format!("trace {trace_id} is in Jaeger"), || {
            let (status, body) = get(self.ports.jaeger_query, &format!("/api/traces/{trace_id}")).ok()?;
            (status == 200).then(|| json(&body)["data"][0].clone()).filter(Value::is_object)
        })
    }

    /// The newest traces of a service that have a span with all of these tags, at this moment, perhaps none.
    pub fn jaeger_search(&self, service: &str, tags: &Value) -> Vec<Value> {
        let tags = tags.to_string();
        let tags = utf8_percent_encode(&tags, NON_ALPHANUMERIC);
        let query = format!("/api/traces?service={service}&limit=1000&tags={tags}");
        let (status, body) = get(self.ports.jaeger_query, &query).unwrap();
        assert_eq!(status, 200, "{body}");
        json(&body)["data"].as_array().cloned().unwrap_or_default()
    }

    /// The edges between services that Jaeger finds in the traces of the last hour (`parent`, `child`, `callCount`).
    pub fn jaeger_dependencies(&self) -> Vec<Value> {
        let now = imaptrace::clock::wall().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
        let query = format!("/api/dependencies?endTs={}&lookback=3600000", now + 60_000);
        let (status, body) = get(self.ports.jaeger_query, &query).unwrap();
        assert_eq!(status, 200, "{body}");
        json(&body)["data"].as_array().cloned().unwrap_or_default()
    }

    /// The series that answer a query (`metric`, `value`), as soon as there is one.
    pub fn prometheus_query(&self, expression: &str) -> Vec<Value> {
        wait_until(&format!("Prometheus has an answer to {expression}"), || {
            Some(self.prometheus_now(expression)).filter(|series| !series.is_empty())
        })
    }

    /// The series that answer a query at this moment, perhaps none.
    pub fn prometheus_now(&self, expression: &str) -> Vec<Value> {
        self.prometheus_api("query", "query", expression, "")
    }

    /// Series with exemplars of the last hour (`seriesLabels`, `exemplars`), as soon as there is one.
    pub fn prometheus_exemplars(&self, expression: &str) -> Vec<Value> {
        let now = imaptrace::clock::wall().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let range = format!("&start={}&end={}", now - 3600, now + 3600);
        wait_until(&format!("Prometheus has exemplars of {expression}"), || {
            Some(self.prometheus_api("query_exemplars", "query", expression, &range))
                .filter(|series| !series.is_empty())
        })
    }

    /// Resident memory of the Collector and of Prometheus, in bytes.
    pub fn memory(&self) -> (f64, f64) {
        let of = |process: &Process| {
            let status = std::fs::read_to_string(format!("/proc/{}/status", process.child.id())).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
            1024.0 * line.trim().trim_end_matches(" kB").parse::<f64>().unwrap()
        };
        (self.collector.as_ref().map_or(0.0, of), of(&self.prometheus))
    }

    /// What the last evaluation of all groups of rules took Prometheus, in seconds.
    pub fn rule_seconds(&self) -> f64 {
        let (_, body) = get(self.ports.prometheus, "/api/v1/rules").unwrap();
        let body = json(&body);
        let groups = body["data"]["groups"].as_array().unwrap();
        groups.iter().map(|group| group["evaluationTime"].as_f64().unwrap()).sum()
    }

    /// Has Prometheus send its alerts to an Alertmanager on this port. It looks for the file again when that changes.
    pub fn notify(&self, alertmanager: u16) {
        write_targets(self.directory.path(), "alertmanagers.json", alertmanager);
    }

    /// The recording rules that Prometheus has loaded: name and expression. None may have failed.
    pub fn prometheus_recordings(&self) -> Vec<(String, String)> {
        let (status, body) = get(self.ports.prometheus, "/api/v1/rules").unwrap();
        assert_eq!(status, 200, "{body}");
        let body = json(&body);
        let groups = body["data"]["groups"].as_array().unwrap();
        let rules: Vec<_> = groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).collect();
        for rule in &rules {
            assert_ne!(rule["health"], "err", "{rule:#}");
        }
        let recordings = rules.into_iter().filter(|rule| rule["type"] == "recording");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        recordings.map(|rule| (text(&rule["name"]), text(&rule["query"]))).collect()
    }

    fn prometheus_api(&self, api: &str, key: &str, expression: &str, more: &str) -> Vec<Value> {
        let expression = utf8_percent_encode(expression, NON_ALPHANUMERIC);
        let (status, body) = get(self.ports.prometheus, &format!("/api/v1/{api}?{key}={expression}{more}")).unwrap();
        assert_eq!(status, 200, "{body}");
        let data = &json(&body)["data"];
        data.get("result").unwrap_or(data).as_array().unwrap().clone()
    }
}

/// Jaeger on these ports: OTLP over gRPC, queries over HTTP, queries over gRPC, health.
pub(super) fn start_jaeger([otlp, query, query_grpc, health]: [u16; 4], directory: &Path) -> Process {
    let mut jaeger = command("jaeger");
    jaeger
        .args(["--config", &format!("{ROOT}/deploy/jaeger/jaeger.yaml")])
        .env("JAEGER_OTLP_GRPC", loopback(otlp))
        .env("JAEGER_QUERY_HTTP", loopback(query))
        .env("JAEGER_QUERY_GRPC", loopback(query_grpc))
        .env("JAEGER_HEALTH", loopback(health));
    Process::start("jaeger", jaeger, directory)
}

/// Files that `prometheus.yml` names are looked for beside it, so the rules are copied to where its targets.json is, with these
/// texts in place of others.
pub fn copy_rules(directory: &Path, exponential: bool, replaced: &[(&str, &str)]) {
    std::fs::create_dir(directory.join("rules")).unwrap();
    for name in ["urls.yml", "recording.yml", "state.yml", "alerts.yml"] {
        let from = if exponential && name == "recording.yml" { "rules-exponential" } else { "rules" };
        let mut text = std::fs::read_to_string(format!("{ROOT}/deploy/prometheus/{from}/{name}")).unwrap();
        for (there, here) in replaced {
            text = text.replace(there, here);
        }
        std::fs::write(directory.join("rules").join(name), text).unwrap();
    }
}

/// A file of targets that has this port alone.
pub fn write_targets(directory: &Path, name: &str, port: u16) {
    // Prometheus may read it at any moment, so it gets its name when it is whole.
    let half = directory.join(format!("{name}.half"));
    std::fs::write(&half, format!(r#"[{{ "targets": ["{}"] }}]"#, loopback(port))).unwrap();
    std::fs::rename(half, directory.join(name)).unwrap();
}

/// A Prometheus with the `prometheus.yml` of this directory, not yet ready.
pub fn start_prometheus(directory: &Path, port: u16, features: &str) -> Process {
    let mut prometheus = command("prometheus");
    prometheus.args([
        "--config.file=prometheus.yml",
        "--storage.tsdb.path=data",
        &format!("--enable-feature={features}"),
        &format!("--web.listen-address={}", loopback(port)),
    ]);
    Process::start("prometheus", prometheus, directory)
}

/// `otel-collector.yaml` without the `#~` and `#+` at the beginning of some lines, as an operator takes them away: with tail
/// sampling and span metrics.
pub fn everything_switched_on() -> String {
    let text = std::fs::read_to_string(format!("{ROOT}/otel-collector.yaml")).unwrap();
    let lines = text.lines().map(|line| line.strip_prefix("#~").or_else(|| line.strip_prefix("#+")).unwrap_or(line));
    let switched_on = lines.collect::<Vec<_>>().join("\n") + "\n";
    for component in ["tail_sampling", "span_metrics"] {
        let (defined, used) = (format!("\n  {component}:\n"), format!("\n        - {component}\n"));
        assert!(switched_on.contains(&defined) && switched_on.contains(&used), "{component} is not there:\n{text}");
    }
    switched_on
}

/// A program from the cache or, with a sentence of what to do, the end of the test.
pub fn installed(name: &str) -> PathBuf {
    let path = cache().join("bin").join(name);
    assert!(path.is_file(), "{} is missing: run scripts/backends.sh, which builds it, once", path.display());
    path
}

pub fn command(name: &str) -> Command {
    Command::new(installed(name))
}

pub fn loopback(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

pub(super) fn json(body: &str) -> Value {
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error} in {body}"))
}

/// A child that gets SIGTERM when it is dropped, and is killed if it does not end.
pub struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    pub fn start(name: &'static str, mut command: Command, directory: &Path) -> Self {
        let log = directory.join(name).with_extension("log");
        let file = File::create(&log).unwrap();
        let child = command
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        Self { name, child, log }
    }

    pub fn wait_ready(&mut self, port: u16, path: &str) {
        let (name, log) = (self.name, &self.log);
        wait_until(&format!("{name} is ready"), || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("{name} ended with {status}:\n{}", std::fs::read_to_string(log).unwrap_or_default());
            }
            get(port, path).ok().filter(|(status, _)| *status == 200)
        });
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap_or_default());
        // Not yet waited for, so the number is still its own.
        let signalled = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).is_ok();
        for _ in 0..if signalled { 100 } else { 0 } {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub fn get(port: u16, target: &str) -> io::Result<(u16, String)> {
    request(port, "GET", target, &[], "")
}

/// One request over HTTP/1.0, in which the end of the connection is the end of the answer.
fn request(port: u16, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let length = body.len();
    write!(
        stream,
        "{method} {target} HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n"
    )?;
    for (name, value) in headers {
        write!(stream, "{name}: {value}\r\n")?;
    }
    write!(stream, "\r\n{body}")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    Ok((status, body.to_owned()))
}
