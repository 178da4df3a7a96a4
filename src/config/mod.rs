//! Text to plan: reads file, environment and flags, finds everything that is wrong at once, and builds the values that
//! the rest of imaptrace works with.
//!
//! [`load`] is for `agent` and `check`, [`probe`] for the `probe` command line, [`describe()`] for `check`. Files that a
//! key names are looked at, for `check` to tell which cannot be used; the files of `targets_from` alone are taken in. A
//! secret's file is read by `secret`, which says what is wrong with it and keeps nothing. Nothing here fetches a secret,
//! resolves a name or reads the process's own environment, and no text that leaves this room holds a secret. Other rooms
//! define their own settings; `agent` and `cli` fill them from [`Config`].
//!
//! On the way down: `source` merges and remembers places, `read` gives types, `target`, `group`, `account`, `window`,
//! `otlp` (with `proxy`) and `settings` give meaning (`expand` and `listed` are `group`'s hands), `problem` says what is
//! wrong, `misplaced` where an unknown key belongs, `syntax` why a file is not TOML.

mod account;
mod describe;
mod document;
mod expand;
#[cfg(any(test, fuzzing))]
pub mod fuzzed;
mod group;
mod input;
mod keys;
mod listed;
mod misplaced;
mod noted;
mod otel;
mod otlp;
mod positions;
mod problem;
mod proxy;
mod read;
mod room;
mod series;
pub mod server;
mod settings;
mod source;
mod syntax;
mod target;
pub mod units;
mod window;

pub use describe::describe;
pub use keys::{TableKeys, tables};
pub use otel::Resource;
pub use otlp::{Compression, Exporter, Otlp, Protocol};
pub use problem::{Place, Problem, Problems};
pub(crate) use proxy::bracketed;
pub use proxy::{HttpProxy, Route};
pub use series::{EXPLICIT_SAMPLES, EXPONENTIAL_SAMPLES, Reckoned, SPAN_SAMPLES, samples, series, span_samples};
pub use settings::{Agent, Histogram, Http, Latency, LogFormat, LogLevel, Metrics, State};
pub use source::{Flag, Sources};

use std::path::PathBuf;

use self::{
    group::Below,
    read::Reader,
    source::Merged,
    target::{Common, Kind, Options},
};
use crate::{
    plan::{Dns, Maintenance, NameResolver, RunLimits, Target},
    secret::SecretSource,
};

/// A configuration with nothing wrong in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// What is probed; at least one.
    pub targets: Vec<Target>,
    /// The agent itself.
    pub agent: Agent,
    /// Where traces and metrics go.
    pub otlp: Otlp,
    /// What metrics look like.
    pub metrics: Metrics,
    /// How many runs may be under way at once, and how fast they may log in.
    pub limits: RunLimits,
    /// When a step is slow, and how times are taken.
    pub latency: Latency,
    /// What outlives the process.
    pub state: State,
    /// What the agent tells of itself.
    pub http: Http,
    /// When which targets are not probed.
    pub windows: Vec<Maintenance>,
    /// How names are looked up.
    pub dns: Dns,
    /// Who the telemetry is from.
    pub resource: Resource,
    /// What it was read from: the file, the files of `targets_from`, and the folders in which more of them may turn up.
    /// When one of these has another time of modification, it is worth reading anew.
    pub watched: Vec<PathBuf>,
    /// What deserves a second look.
    pub warnings: Vec<Problem>,
    /// Files that it names and that cannot be used as things are now: errors to `check`, void runs to the others.
    pub unusable: Vec<Problem>,
    /// Variables that it names for a secret and that are not set here, which may be another place than the agent's.
    pub unset: Vec<Problem>,
}

/// What the `probe` command line says. It has no printable form: SERVER and environment may hold secrets.
#[derive(Clone, Default)]
pub struct Probe {
    /// The argument SERVER.
    pub server: String,
    /// Options that set a key: `target.KEY` for a target's own (`target.timeout`, `target.password.file`), else the
    /// key as in the file (`otlp.endpoint`).
    pub flags: Vec<Flag>,
    /// The environment, whole: `IMAPTRACE__DEFAULTS__*` and `OTEL_*` count here too.
    pub environment: Vec<(String, String)>,
    /// As [`Sources::not_utf8`].
    pub not_utf8: Vec<String>,
    /// The password to take when neither a flag nor SERVER has one: from a prompt, or the default variable.
    pub password: Option<SecretSource>,
}

/// The words that a key of a closed list takes, in the order in which messages name them.
#[cfg(test)]
pub(crate) fn choices(key: &str) -> Option<Vec<&'static str>> {
    match key {
        "protocol" => Some(otlp::protocols()),
        key => target::choices(key),
    }
}

/// Reads the agent's configuration. Everything that is wrong is in the error, not only the first thing.
pub fn load(sources: &Sources) -> Result<Config, Problems> {
    let mut problems = Vec::new();
    let merged = source::merge(sources, &mut problems);
    build(merged, sources, problems, &Kind::Listed)
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
        not_utf8: request.not_utf8.clone(),
        flags: std::iter::once(server).chain(flags).collect(),
        pipes: false,
    };
    let merged = source::merge(&sources, &mut problems);
    build(merged, &sources, problems, &Kind::Probe(request.password.as_ref()))
}

/// What is exported, where to, and from whom: for a command that probes nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Exports {
    /// Where traces and metrics go.
    pub otlp: Otlp,
    /// The agent itself.
    pub agent: Agent,
    /// Who the telemetry is from.
    pub resource: Resource,
}

/// Reads what a command has to know that exports and probes nothing.
pub fn exports(sources: &Sources) -> Result<Exports, Problems> {
    let mut problems = Vec::new();
    let merged = source::merge(sources, &mut problems);
    let mut resource = otel::resource(&sources.environment, &mut problems);
    let reader = Reader::new(merged, &sources.environment, problems);
    let root = reader.root(&keys::PROBE_TOP);
    let agent = settings::read_agent(&root.table("agent", &keys::AGENT), &mut resource);
    let otlp = otlp::read(&root.table("otlp", &keys::OTLP), &sources.environment);
    let problems = reader.finish();
    if problems.errors.is_empty() { Ok(Exports { otlp, agent, resource }) } else { Err(problems) }
}

fn build(merged: Merged, sources: &Sources, mut problems: Vec<Problem>, kind: &Kind<'_>) -> Result<Config, Problems> {
    let mut resource = otel::resource(&sources.environment, &mut problems);
    // A file that cannot be read or parsed is all there is to say: the rest would be about what is missing.
    let unreadable = problems.iter().any(|problem| matches!(problem.place, Place::File { .. }));
    let reader = Reader::new(merged, &sources.environment, problems);
    let mut watched: Vec<PathBuf> = sources.file.iter().cloned().collect();
    let config =
        if unreadable { None } else { read_all(&reader, (&sources.environment, &mut resource), &mut watched, kind) };
    watched.sort();
    watched.dedup();
    let problems = reader.finish();
    match config {
        Some(config) if problems.errors.is_empty() => Ok(Config {
            watched,
            warnings: problems.warnings,
            unusable: problems.unusable,
            unset: problems.unset,
            ..config
        }),
        _ => Err(Problems { watched: watched.into(), ..problems }),
    }
}

/// None only when something was wrong, which has been noted then.
fn read_all(
    reader: &Reader,
    (environment, resource): (&[(String, String)], &mut Resource),
    watched: &mut Vec<PathBuf>,
    kind: &Kind<'_>,
) -> Option<Config> {
    let listed = matches!(kind, Kind::Listed);
    let root = reader.root(if listed { &keys::TOP } else { &keys::PROBE_TOP });
    let defaults_table = root.table("defaults", &keys::DEFAULTS);
    let defaults = Options::read(&defaults_table);
    let limits_table = root.table("limits", &keys::LIMITS);
    let (limits, run_limits) = settings::read_limits(&limits_table);
    let tables =
        if listed { root.tables("targets", &keys::TARGET) } else { vec![root.table(source::PROBE, &keys::TARGET)] };
    let many = listed && (root.has("groups") || root.has("targets_from"));
    if tables.is_empty() && !many && root.get("targets").is_none_or(|field| field.is_list()) {
        root.error("targets", "there is no target", "add [[targets]] with name, url, user and password");
    }
    let latency = settings::read_latency(&root.table("latency", &keys::LATENCY));
    let common = Common { limits, timing: latency.timing };
    let read = tables.iter().map(|table| target::read(table, (&defaults_table, &defaults), common, kind));
    let targets: Option<Vec<Target>> = read.collect::<Vec<_>>().into_iter().collect();
    target::check_unique(&tables);
    let targets = if listed {
        let below = Below { reader, root: &root, defaults_table: &defaults_table, defaults: &defaults, common };
        let made = group::read(&below, &tables, watched);
        if tables.is_empty() && many && made.is_empty() && !reader.has_errors() {
            let key = if root.has("groups") { "groups" } else { "targets_from" };
            root.error(
                key,
                "there is no target in groups and files",
                "add one: an agent without a target does nothing",
            );
        }
        targets.map(|mut targets| {
            targets.extend(made);
            targets
        })
    } else {
        targets
    };

    let agent = settings::read_agent(&root.table("agent", &keys::AGENT), resource);
    let otlp_table = root.table("otlp", &keys::OTLP);
    let otlp = otlp::read(&otlp_table, environment);
    // A mistyped endpoint has been told of already.
    if listed && otlp == Otlp::default() && !otlp_table.has_errors() {
        let help = "set endpoint in [otlp], or OTEL_EXPORTER_OTLP_ENDPOINT";
        otlp_table.warn("endpoint", "there is no OTLP endpoint: the agent exports nothing", help);
    }
    let metrics_table = root.table("metrics", &keys::METRICS);
    let metrics = settings::read_metrics(&metrics_table, targets.as_deref().unwrap_or_default());
    let dns = settings::read_dns(&root.table("dns", &keys::DNS), NameResolver::SYSTEM_HAS_NSS);
    let state = settings::read_state(&root.table("state", &keys::STATE));
    let http = if listed { settings::read_http(&root.table("http", &keys::HTTP)) } else { Http::OFF };
    let windows = if listed { window::read(&root, targets.as_deref()) } else { Vec::new() };
    let config = Config {
        targets: targets?,
        agent,
        otlp,
        metrics,
        limits: run_limits,
        latency,
        state,
        http,
        windows,
        dns,
        resource: resource.clone(),
        watched: Vec::new(),
        warnings: Vec::new(),
        unusable: Vec::new(),
        unset: Vec::new(),
    };
    room::check_responses(&limits_table, &config.targets);
    if listed {
        room::check_logins(&limits_table, &config.targets, &config.limits);
    }
    let count = series(&config);
    if listed && count > config.metrics.series_limit {
        let what =
            format!("the targets make about {count} metric series, the limit is {}", config.metrics.series_limit);
        metrics_table.error("series_limit", what, "raise it if the back end can take them, or probe fewer accounts");
    }
    Some(config)
}

#[cfg(test)]
mod tests;
