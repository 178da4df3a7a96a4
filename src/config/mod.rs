//! Text to plan: reads file, environment and flags, finds everything that is wrong at once, and builds the values that
//! the rest of imaptrace works with.
//!
//! [`load()`] is for `agent` and `check`, [`probe`] for the `probe` command line, [`describe()`] for `check`. Files that a key
//! names are looked at, for `check` to tell which cannot be used; only the files of `targets_from` are read in. A secret's
//! file is read by `secret`, which says what is wrong with it and keeps nothing. Nothing here fetches a secret, resolves a
//! name or reads the process's own environment, and no text that leaves this module holds a secret.
//!
//! From the bottom up: `problem` is what can be wrong, `sources` merges and remembers places and gives types, `targets` and
//! `settings` give meaning, `load` calls them in order.

mod describe;
#[cfg(any(test, fuzzing))]
pub mod fuzzed;
mod keys;
mod load;
mod problem;
mod problem_collector;
mod settings;
mod sources;
mod targets;

pub use describe::describe;
pub use keys::tables;
pub use load::{exports, load, probe};
pub use problem::{Place, Problem, Problems};
pub(crate) use settings::proxy::bracketed;
pub use settings::{
    agent::{Agent, LogLevel},
    http::Http,
    metrics::MetricsOptions,
    otlp::{Compression, Exporter, Otlp},
    proxy::{ProxyUrl, Route},
    series::{EXPLICIT_SAMPLES, EXPONENTIAL_SAMPLES, SPAN_SAMPLES, SampleEstimate, samples, series, span_samples},
    state::StateOptions,
};
pub use sources::{
    schema::TableKeys,
    tree::{Flag, Sources},
    units,
};
pub use targets::url;

use std::path::PathBuf;

use crate::{
    latency,
    plan::{Dns, Maintenance, RunLimits, Target, Timing},
    secret::SecretSource,
    telemetry::ResourceSettings,
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
    pub metrics: MetricsOptions,
    /// How many runs may be under way at once, and how fast they may log in.
    pub limits: RunLimits,
    /// When a step is slow.
    pub latency: latency::Settings,
    /// How times are taken.
    pub timing: Timing,
    /// What outlives the process.
    pub state: StateOptions,
    /// What the agent tells of itself.
    pub http: Http,
    /// When which targets are not probed.
    pub windows: Vec<Maintenance>,
    /// How names are looked up.
    pub dns: Dns,
    /// Who the telemetry is from.
    pub resource: ResourceSettings,
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

/// What is exported, where to, and from whom: for a command that probes nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Exports {
    /// Where traces and metrics go.
    pub otlp: Otlp,
    /// Who the telemetry is from.
    pub resource: ResourceSettings,
}

/// The words that a key of a closed list takes, in the order in which messages name them.
#[cfg(test)]
pub(crate) fn choices(key: &str) -> Option<Vec<&'static str>> {
    match key {
        "protocol" => Some(settings::otlp::protocols()),
        key => targets::options::choices(key),
    }
}

#[cfg(test)]
mod tests;
