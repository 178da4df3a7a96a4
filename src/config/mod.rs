//! Text to plan: reads file, environment and flags, finds everything that is wrong at once, and builds the values that
//! the rest of imaptrace works with.
//!
//! [`load`] is for `agent` and `check`, [`probe`] for the `probe` command line, [`describe`] for `check`. Nothing here
//! fetches a secret, resolves a name or reads the process's own environment, and no text that leaves this room holds a
//! secret. Other rooms define their own settings; `agent` and `cli` fill them from [`Config`].
//!
//! On the way down: [`source`] merges and remembers places, [`read`] gives types, [`target`], [`account`] and [`otlp`]
//! give meaning, [`problem`] says what is wrong.

mod account;
mod describe;
mod keys;
mod otel;
mod otlp;
mod problem;
mod read;
mod series;
pub mod server;
mod source;
mod target;
pub mod units;

use std::{collections::BTreeSet, time::Duration};

pub use describe::describe;
pub use keys::{TableKeys, tables};
pub use otel::Resource;
pub use otlp::{Compression, Exporter, Otlp, Protocol};
pub use problem::{Place, Problem, Problems};
pub use series::series;
pub use source::{Flag, Sources};

use self::{
    read::{Reader, Table},
    source::Merged,
    target::{Kind, Options},
};
use crate::{
    plan::{Dns, Limits, Target},
    secret::SecretSource,
};

/// A configuration with nothing wrong in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What is probed; at least one.
    pub targets: Vec<Target>,
    /// The agent itself.
    pub agent: Agent,
    /// Where traces and metrics go.
    pub otlp: Otlp,
    /// What metrics look like.
    pub metrics: Metrics,
    /// How many runs may be under way at once.
    pub runs_in_flight: usize,
    /// How names are looked up.
    pub dns: Dns,
    /// Who the telemetry is from.
    pub resource: Resource,
    /// What deserves a second look.
    pub warnings: Vec<Problem>,
}

/// The agent itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// `service.instance.id`; none stands for the host's name.
    pub instance: Option<String>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// The least level that is logged.
    pub log_level: LogLevel,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The least level that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Only what needs an action.
    Error,
    /// And what may need one.
    Warn,
    /// And changes of state.
    Info,
    /// And every step.
    Debug,
}

impl LogLevel {
    /// The word in the configuration, which `tracing` understands too.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

/// What metrics look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metrics {
    /// Labels of targets that metrics bear; traces bear all.
    pub labels: BTreeSet<String>,
    /// A configuration with more series than this is refused.
    pub series_limit: u64,
    /// How often metrics are exported.
    pub export_interval: Duration,
    /// Which buckets histograms have.
    pub histogram: Histogram,
    /// Whether `imaptrace.timing.duration` is recorded.
    pub timing: bool,
}

/// Which buckets histograms have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Histogram {
    /// The fixed ones of the documentation.
    Explicit,
    /// Base-2 exponential ones.
    Exponential,
}

/// What the `probe` command line says.
#[derive(Debug, Clone, Default)]
pub struct Probe {
    /// The argument SERVER.
    pub server: String,
    /// Options that set a key: `target.KEY` for a target's own (`target.timeout`, `target.password.file`), else the
    /// key as in the file (`otlp.endpoint`).
    pub flags: Vec<Flag>,
    /// The environment, whole: `IMAPTRACE__DEFAULTS__*` and `OTEL_*` count here too.
    pub environment: Vec<(String, String)>,
    /// The password to take when neither a flag nor SERVER has one: from a prompt, or the default variable.
    pub password: Option<SecretSource>,
}

/// Reads the agent's configuration. Everything that is wrong is in the error, not only the first thing.
pub fn load(sources: &Sources) -> Result<Config, Problems> {
    let mut problems = Vec::new();
    let merged = source::merge(sources, &mut problems);
    build(merged, &sources.environment, problems, &Kind::Listed)
}

/// Makes the one target of the `probe` command line, held against the same rules; `interval` has no meaning there.
pub fn probe(request: &Probe) -> Result<Config, Problems> {
    let mut problems = Vec::new();
    let own = |key: &str| key.strip_prefix("target.").map(|key| format!("{}.{key}", source::PROBE));
    let server =
        Flag { key: format!("{}.url", source::PROBE), value: request.server.clone(), name: "SERVER".to_owned() };
    let flags = request
        .flags
        .iter()
        .map(|flag| Flag { key: own(&flag.key).unwrap_or_else(|| flag.key.clone()), ..flag.clone() });
    let sources = Sources {
        file: None,
        environment: request.environment.clone(),
        flags: std::iter::once(server).chain(flags).collect(),
    };
    let merged = source::merge(&sources, &mut problems);
    build(merged, &sources.environment, problems, &Kind::Probe(request.password.as_ref()))
}

fn build(
    merged: Merged,
    environment: &[(String, String)],
    mut problems: Vec<Problem>,
    kind: &Kind<'_>,
) -> Result<Config, Problems> {
    let mut resource = otel::resource(environment, &mut problems);
    // A file that cannot be read or parsed is all there is to say: the rest would be about what is missing.
    let unreadable = problems.iter().any(|problem| matches!(problem.place, Place::File { .. }));
    let reader = Reader::new(merged, problems);
    let config = if unreadable { None } else { read_all(&reader, &mut resource, kind) };
    let problems = reader.finish();
    match config {
        Some(config) if problems.errors.is_empty() => Ok(Config { warnings: problems.warnings, ..config }),
        _ => Err(problems),
    }
}

/// None only when something was wrong, which has been noted then.
fn read_all(reader: &Reader, resource: &mut Resource, kind: &Kind<'_>) -> Option<Config> {
    let listed = matches!(kind, Kind::Listed);
    let root = reader.root(if listed { &keys::TOP } else { &keys::PROBE_TOP });
    let defaults = Options::read(&root.table("defaults", &keys::DEFAULTS));
    let (limits, runs_in_flight) = read_limits(&root.table("limits", &keys::LIMITS));
    let tables =
        if listed { root.tables("targets", &keys::TARGET) } else { vec![root.table(source::PROBE, &keys::TARGET)] };
    if tables.is_empty() && root.get("targets").is_none_or(|field| field.is_list()) {
        root.error("targets", "there is no target", "add [[targets]] with name, url, user and password");
    }
    let read = tables.iter().map(|table| target::read(table, &defaults, limits, kind));
    let targets: Option<Vec<Target>> = read.collect::<Vec<_>>().into_iter().collect();
    target::check_unique(&tables);

    let agent = read_agent(&root.table("agent", &keys::AGENT), resource);
    let otlp_table = root.table("otlp", &keys::OTLP);
    let otlp = otlp::read(&otlp_table);
    if listed && otlp == Otlp::default() {
        let help = "set endpoint in [otlp], or OTEL_EXPORTER_OTLP_ENDPOINT";
        otlp_table.warn("endpoint", "there is no OTLP endpoint: the agent exports nothing", help);
    }
    let metrics_table = root.table("metrics", &keys::METRICS);
    let metrics = read_metrics(&metrics_table, targets.as_deref().unwrap_or_default());
    let dns = read_dns(&root.table("dns", &keys::DNS));
    let config = Config {
        targets: targets?,
        agent,
        otlp,
        metrics,
        runs_in_flight,
        dns,
        resource: resource.clone(),
        warnings: Vec::new(),
    };
    let count = series(&config);
    if listed && count > config.metrics.series_limit {
        let what =
            format!("the targets make about {count} metric series, the limit is {}", config.metrics.series_limit);
        metrics_table.error("series_limit", what, "raise it if the back end can take them, or probe fewer accounts");
    }
    Some(config)
}

fn read_agent(table: &Table<'_>, resource: &mut Resource) -> Agent {
    let attribute = resource.attributes.iter().position(|(key, _)| key == "service.instance.id");
    let attribute = attribute.map(|index| resource.attributes.remove(index).1);
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let levels =
        [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug].map(|level| (level.as_str(), level));
    Agent {
        instance: table.get("instance").and_then(|field| field.text()).or(attribute),
        log_format: table.get("log_format").and_then(|field| field.choice(&formats)).unwrap_or(LogFormat::Text),
        log_level: table.get("log_level").and_then(|field| field.choice(&levels)).unwrap_or(LogLevel::Info),
    }
}

fn read_limits(table: &Table<'_>) -> (Limits, usize) {
    let standard = Limits::default();
    let size = |key| table.get(key).and_then(|field| field.size());
    let bytes = |key| size(key).and_then(|size| usize::try_from(size).ok());
    let number = |key, most| table.get(key).and_then(|field| field.number(1, most));
    let limits = Limits {
        line: bytes("line").unwrap_or(standard.line),
        command_bytes: size("command_bytes").unwrap_or(standard.command_bytes),
        run_bytes: size("run_bytes").unwrap_or(standard.run_bytes),
        responses: number("responses", u64::MAX).unwrap_or(standard.responses),
        depth: number("depth", 1_000).and_then(|depth| depth.try_into().ok()).unwrap_or(standard.depth),
        literal_kept: bytes("literal_kept").unwrap_or(standard.literal_kept),
    };
    let runs = number("runs_in_flight", 100_000).and_then(|runs| runs.try_into().ok());
    (limits, runs.unwrap_or(256))
}

fn read_metrics(table: &Table<'_>, targets: &[Target]) -> Metrics {
    let mut labels = BTreeSet::new();
    for (field, label) in table.get("labels").and_then(|field| field.list()).unwrap_or_default() {
        if !targets.is_empty() && !targets.iter().any(|target| target.labels.contains_key(&label)) {
            field.warn("no target has this label", "give a target the label, or take it out of the list");
        }
        labels.insert(label);
    }
    if let Some(field) = table.get("per")
        && field.choice(&[("target", false), ("group", true)]) == Some(true)
    {
        field.error("this version of imaptrace does not have groups yet", "write \"target\" or take it out");
    }
    let kinds = [("explicit", Histogram::Explicit), ("exponential", Histogram::Exponential)];
    let number = |key| table.get(key).and_then(|field| field.number(1, u64::MAX));
    Metrics {
        labels,
        series_limit: number("series_limit").unwrap_or(100_000),
        export_interval: table
            .get("export_interval")
            .and_then(|field| field.duration())
            .unwrap_or(Duration::from_secs(15)),
        histogram: table.get("histogram").and_then(|field| field.choice(&kinds)).unwrap_or(Histogram::Explicit),
        timing: table.get("timing").and_then(|field| field.bool()).unwrap_or(false),
    }
}

fn read_dns(table: &Table<'_>) -> Dns {
    let mut servers = Vec::new();
    for (field, text) in table.get("servers").and_then(|field| field.list()).unwrap_or_default() {
        let address = text.parse().ok().or_else(|| Some((text.parse::<std::net::IpAddr>().ok()?, 53).into()));
        match address {
            Some(address) => servers.push(address),
            None => field.error("it is not an IP address", "write 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:53"),
        }
    }
    Dns { cache: table.get("cache").and_then(|field| field.bool()).unwrap_or(false), servers }
}
