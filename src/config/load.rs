//! The whole configuration: calls the readers of all tables in order and puts together what they make.
//!
//! Called by `agent` and `cli`.

use std::path::PathBuf;

use super::{
    Config, Exports, Probe, keys,
    problem::{Place, Problem, Problems},
    settings::{
        agent, capacity, dns,
        http::{self, Http},
        latency, limits, metrics,
        otlp::{self, Otlp},
        series::series,
        state, window,
    },
    sources::{
        otel,
        readers::TreeReader,
        tree::{self, Flag, Merged, Sources},
    },
    targets::{
        group::{self, GroupContext},
        options::{self, Options},
        target::{self, SharedSettings, TargetOrigin},
    },
};
use crate::{
    plan::{NameResolver, Target},
    telemetry::ResourceSettings,
};

/// Reads the agent's configuration. Everything that is wrong is in the error, not only the first thing.
pub fn load(sources: &Sources) -> Result<Config, Problems> {
    let mut problems = Vec::new();
    let merged = tree::merge(sources, &mut problems);
    build(merged, sources, problems, &TargetOrigin::Listed)
}

/// Makes the one target of the `probe` command line, held against the same rules; `interval` has no meaning there.
pub fn probe(request: &Probe) -> Result<Config, Problems> {
    let mut problems = Vec::new();
    let own = |key: &str| key.strip_prefix("target.").map(|key| format!("{}.{key}", tree::PROBE));
    let server = Flag { key: format!("{}.url", tree::PROBE), value: request.server.clone(), name: "SERVER".to_owned() };
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
    let merged = tree::merge(&sources, &mut problems);
    build(merged, &sources, problems, &TargetOrigin::Probe(request.password.as_ref()))
}

/// Reads what a command has to know that exports and probes nothing.
pub fn exports(sources: &Sources) -> Result<Exports, Problems> {
    let mut problems = Vec::new();
    let merged = tree::merge(sources, &mut problems);
    let mut resource = otel::resource(&sources.environment, &mut problems);
    let reader = TreeReader::new(merged, &keys::SCHEMA, &sources.environment, problems);
    let root = reader.root(&keys::PROBE_TOP);
    agent::read(&root.table("agent", &agent::KEYS), &mut resource);
    let otlp = otlp::read(&root.table("otlp", &otlp::KEYS), &sources.environment);
    let problems = reader.finish();
    if problems.errors.is_empty() { Ok(Exports { otlp, resource }) } else { Err(problems) }
}

pub(super) fn build(
    merged: Merged,
    sources: &Sources,
    mut problems: Vec<Problem>,
    kind: &TargetOrigin<'_>,
) -> Result<Config, Problems> {
    let mut resource = otel::resource(&sources.environment, &mut problems);
    // A file that cannot be read or parsed is all there is to say: the rest would be about what is missing.
    let unreadable = problems.iter().any(|problem| matches!(problem.place, Place::File { .. }));
    let reader = TreeReader::new(merged, &keys::SCHEMA, &sources.environment, problems);
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
    reader: &TreeReader,
    (environment, resource): (&[(String, String)], &mut ResourceSettings),
    watched: &mut Vec<PathBuf>,
    kind: &TargetOrigin<'_>,
) -> Option<Config> {
    let listed = matches!(kind, TargetOrigin::Listed);
    let root = reader.root(if listed { &keys::TOP } else { &keys::PROBE_TOP });
    let defaults_table = root.table("defaults", &options::DEFAULTS);
    let defaults = Options::read(&defaults_table);
    let limits_table = root.table("limits", &limits::KEYS);
    let (limits, run_limits) = limits::read(&limits_table);
    let tables =
        if listed { root.tables("targets", &options::TARGET) } else { vec![root.table(tree::PROBE, &options::TARGET)] };
    let many = listed && (root.has("groups") || root.has("targets_from"));
    if tables.is_empty() && !many && root.get("targets").is_none_or(|field| field.is_list()) {
        root.error("targets", "there is no target", "add [[targets]] with name, url, user and password");
    }
    let (latency, timing) = latency::read(&root.table("latency", &latency::KEYS));
    let common = SharedSettings { limits, timing };
    let read = tables.iter().map(|table| target::read(table, (&defaults_table, &defaults), common, kind));
    let targets: Option<Vec<Target>> = read.collect::<Vec<_>>().into_iter().collect();
    target::check_unique(&tables);
    let targets = if listed {
        let context =
            GroupContext { reader, root: &root, defaults_table: &defaults_table, defaults: &defaults, common };
        let expanded = group::read(&context, &tables, watched);
        if tables.is_empty() && many && expanded.is_empty() && !reader.has_errors() {
            let key = if root.has("groups") { "groups" } else { "targets_from" };
            root.error(
                key,
                "there is no target in groups and files",
                "add one: an agent without a target does nothing",
            );
        }
        targets.map(|mut targets| {
            targets.extend(expanded);
            targets
        })
    } else {
        targets
    };

    let agent = agent::read(&root.table("agent", &agent::KEYS), resource);
    let otlp_table = root.table("otlp", &otlp::KEYS);
    let otlp = otlp::read(&otlp_table, environment);
    // A mistyped endpoint has been told of already.
    if listed && otlp == Otlp::default() && !otlp_table.has_errors() {
        let help = "set endpoint in [otlp], or OTEL_EXPORTER_OTLP_ENDPOINT";
        otlp_table.warn("endpoint", "there is no OTLP endpoint: the agent exports nothing", help);
    }
    let metrics_table = root.table("metrics", &metrics::KEYS);
    let metrics = metrics::read(&metrics_table, targets.as_deref().unwrap_or_default());
    let dns = dns::read(&root.table("dns", &dns::KEYS), NameResolver::SYSTEM_HAS_NSS);
    let state = state::read(&root.table("state", &state::KEYS));
    let http = if listed { http::read(&root.table("http", &http::KEYS)) } else { Http::OFF };
    let windows = if listed { window::read(&root, targets.as_deref()) } else { Vec::new() };
    let config = Config {
        targets: targets?,
        agent,
        otlp,
        metrics,
        limits: run_limits,
        latency,
        timing,
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
    capacity::check_responses(&limits_table, &config.targets);
    if listed {
        capacity::check_logins(&limits_table, &config.targets, &config.limits);
    }
    let count = series(&config);
    if listed && count > config.metrics.series.series_limit {
        let what = format!(
            "the targets make about {count} metric series, the limit is {}",
            config.metrics.series.series_limit
        );
        metrics_table.error("series_limit", what, "raise it if the back end can take them, or probe fewer accounts");
    }
    Some(config)
}
