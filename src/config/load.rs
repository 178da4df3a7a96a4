//! The whole configuration: calls the readers of all tables. Called by `agent` and `cli`.

use std::{collections::BTreeMap, path::PathBuf};

use super::{
    Config, Exports, Probe,
    fingerprint::hash,
    keys,
    problem::{Problem, Problems},
    settings::{
        agent, capacity, dns,
        http::{self, Http},
        latency, limits, metrics,
        otlp::{self, Otlp},
        series::samples,
        server_events, state, window,
    },
    sources::{
        include::INCLUDE,
        otel,
        readers::{Table, TreeReader},
        tree::{self, Flag, Merged, Sources},
    },
    targets::{
        account::TargetOrigin,
        group,
        options::{self, IN_DEFAULTS, Options},
        target::{self, SharedSettings},
    },
};
use crate::{
    plan::{NameResolver, Shard, Target},
    server_events::ServerEventsSettings,
    telemetry::ResourceSettings,
};

/// Reads the agent's configuration. The error has all problems.
pub fn load(sources: &Sources) -> Result<Config, Problems> {
    let mut problems = Vec::new();
    let merged = tree::merge(sources, &mut problems);
    build(merged, sources, problems, &TargetOrigin::Listed)
}

/// Reads the target of the `probe` command line by the same rules; `interval` has no effect.
pub fn probe(request: &Probe) -> Result<Config, Problems> {
    let mut problems = Vec::new();
    let server = Flag { key: format!("{}.url", tree::PROBE), value: request.server.clone(), name: "SERVER".to_owned() };
    let flags = request.flags.iter().map(|flag| {
        let own = flag.key.strip_prefix("target.").map(|key| format!("{}.{key}", tree::PROBE));
        Flag { key: own.unwrap_or_else(|| flag.key.clone()), ..flag.clone() }
    });
    let sources = Sources {
        environment: request.environment.clone(),
        not_utf8: request.not_utf8.clone(),
        flags: std::iter::once(server).chain(flags).collect(),
        ..Sources::default()
    };
    let merged = tree::merge(&sources, &mut problems);
    build(merged, &sources, problems, &TargetOrigin::Probe(request.password.as_ref()))
}

/// Reads the settings of a command that exports and does not probe.
pub fn exports(sources: &Sources) -> Result<Exports, Problems> {
    let mut problems = Vec::new();
    let merged = tree::merge(sources, &mut problems);
    let mut resource = otel::resource(&sources.environment, &mut problems);
    let reader = TreeReader::new(merged, &keys::SCHEMA, &sources.environment, problems);
    let root = reader.root(&keys::PROBE_TOP);
    agent::read(&root.table("agent", &agent::KEYS), &mut resource);
    let otlp = otlp::read(&root.table("otlp", &otlp::KEYS), &sources.environment);
    let server_service_name = server_events::service_name(&root.table("server_events", &server_events::KEYS));
    let problems = reader.finish();
    if problems.errors.is_empty() { Ok(Exports { otlp, resource, server_service_name }) } else { Err(problems) }
}

pub(super) fn build(
    merged: Merged,
    sources: &Sources,
    mut problems: Vec<Problem>,
    origin: &TargetOrigin<'_>,
) -> Result<Config, Problems> {
    let resource = otel::resource(&sources.environment, &mut problems);
    // After a file that cannot be read or parsed, the other problems would be missing keys.
    let unreadable = merged.is_unreadable;
    let hash = hash(&merged.root);
    let mut watched: Vec<PathBuf> = sources.file.iter().chain(&merged.included).cloned().collect();
    let reader = TreeReader::new(merged, &keys::SCHEMA, &sources.environment, problems);
    let config = if unreadable { None } else { read_all(&reader, sources, resource, &mut watched, origin) };
    watched.sort();
    watched.dedup();
    let refused = reader.take_refused();
    let problems = reader.finish();
    match config {
        Some(config) if problems.errors.is_empty() => Ok(Config {
            hash,
            watched,
            warnings: problems.warnings,
            unusable: problems.unusable,
            unset: problems.unset,
            refused,
            ..config
        }),
        _ => Err(Problems { watched: watched.into(), ..problems }),
    }
}

/// `tree` reads the files of `include` before the sources are merged, so that only a file can have it.
fn check_include(root: &Table<'_>) {
    let Some(field) = root.get(INCLUDE) else { return };
    if field.is_outside() {
        field.error("only the configuration file includes others", "write it there");
    } else {
        // Notes what is no text.
        field.list();
    }
}

/// Keeps the targets of a shard. Returns the number of those removed.
fn retain(targets: &mut Vec<Target>, shard: Shard) -> usize {
    let all = targets.len();
    targets.retain(|target| shard.has(&target.endpoint));
    all - targets.len()
}

/// None after an error, which is noted.
fn read_all(
    reader: &TreeReader,
    sources: &Sources,
    mut resource: ResourceSettings,
    watched: &mut Vec<PathBuf>,
    origin: &TargetOrigin<'_>,
) -> Option<Config> {
    let listed = matches!(origin, TargetOrigin::Listed);
    let root = reader.root(if listed { &keys::TOP } else { &keys::PROBE_TOP });
    check_include(&root);
    let defaults_table = root.table("defaults", &options::DEFAULTS);
    let defaults = Options::read(&defaults_table, IN_DEFAULTS);
    let limits_table = root.table("limits", &limits::KEYS);
    let (limits, run_limits) = limits::read(&limits_table);
    let tables =
        if listed { root.tables("targets", &options::TARGET) } else { vec![root.table(tree::PROBE, &options::TARGET)] };
    let many = listed && (root.has("groups") || root.has("targets_from"));
    // An agent that receives events for others needs none.
    let events_table = root.table("server_events", &server_events::KEYS);
    let receives = listed && (events_table.has("listen") || events_table.has("forward"));
    if tables.is_empty() && !many && !receives && root.get("targets").is_none_or(|field| field.is_list()) {
        root.error("targets", "there is no target", "add [[targets]] with name, url, user and password");
    }
    let (latency, timing) = latency::read(&root.table("latency", &latency::KEYS));
    let shared = SharedSettings { root: &root, defaults_table: &defaults_table, defaults: &defaults, limits, timing };
    let read = tables.iter().map(|table| target::read(table, &shared, origin));
    let mut targets: Option<Vec<Target>> = read.collect::<Vec<_>>().into_iter().collect();
    target::check_unique(&tables);
    let (mut target_sources, mut not_taken) = (Vec::new(), BTreeMap::new());
    if listed {
        let expanded = group::read(&shared, &tables, &sources.discovered, watched);
        if tables.is_empty()
            && many
            && expanded.targets.is_empty()
            && expanded.sources.is_empty()
            && !reader.has_errors()
        {
            let key = if root.has("groups") { "groups" } else { "targets_from" };
            let help = "add one: an agent without a target does nothing";
            root.error(key, "there is no target in groups and files", help);
        }
        if let Some(targets) = &mut targets {
            targets.extend(expanded.targets);
        }
        (target_sources, not_taken) = (expanded.sources, expanded.refused);
    }

    let agent_table = root.table("agent", &agent::KEYS);
    let agent = agent::read(&agent_table, &mut resource);
    let otlp_table = root.table("otlp", &otlp::KEYS);
    let otlp = otlp::read(&otlp_table, &sources.environment);
    // An error in the endpoint was noted. Without targets the agent only forwards the events of mail servers.
    let has_targets = targets.as_ref().is_none_or(|targets| !targets.is_empty()) || !target_sources.is_empty();
    if listed && has_targets && otlp == Otlp::default() && !otlp_table.has_errors() {
        let help = "set endpoint in [otlp], or OTEL_EXPORTER_OTLP_ENDPOINT";
        otlp_table.warn("endpoint", "there is no OTLP endpoint: the agent exports nothing", help);
    }
    let metrics_table = root.table("metrics", &metrics::KEYS);
    let metrics = metrics::read(&metrics_table, targets.as_deref().unwrap_or_default());
    let dns = dns::read(&root.table("dns", &dns::KEYS), NameResolver::SYSTEM_HAS_NSS);
    let state = state::read(&root.table("state", &state::KEYS));
    let http = if listed { http::read(&root.table("http", &http::KEYS)) } else { Http::OFF };
    // Whether a name stands for a target is known when all sources have answered.
    let has_all = target_sources.iter().all(|source| sources.discovered.of(&source.id).is_some());
    let known = targets.as_deref().filter(|_| has_all);
    let events = if listed {
        server_events::read(&root.table("server_events", &server_events::KEYS), known)
    } else {
        ServerEventsSettings::default()
    };
    let windows = if listed { window::read(&root, known) } else { Vec::new() };
    // What follows applies to this agent alone.
    let own_shard = if listed { agent::shard(&agent_table, &sources.shards) } else { None };
    let other_targets = own_shard.zip(targets.as_mut()).map_or(0, |(shard, targets)| retain(targets, shard));
    let config = Config {
        targets: targets?,
        shard: own_shard,
        other_targets,
        sources: target_sources,
        not_taken,
        agent,
        otlp,
        metrics,
        limits: run_limits,
        latency,
        timing,
        state,
        http,
        server_events: events,
        windows,
        dns,
        resource,
        hash: String::new(),
        watched: Vec::new(),
        warnings: Vec::new(),
        unusable: Vec::new(),
        unset: Vec::new(),
        refused: Vec::new(),
    };
    capacity::check_responses(&limits_table, &config.targets);
    if listed {
        capacity::check_logins(&limits_table, &config.targets, &config.limits);
    }
    let count = samples(&config).failing;
    let limit = config.metrics.series.series_limit;
    if listed && count > limit {
        let what = format!("the targets make up to {count} series in Prometheus, the limit is {limit}");
        metrics_table.error("series_limit", what, "raise it if the back end can take them, or probe fewer accounts");
    }
    Some(config)
}
