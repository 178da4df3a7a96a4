//! Text to plan: reads file, environment and flags into the settings of all other modules, and reports all problems at once.
//!
//! [`load()`] is for `agent` and `check`, [`probe`] for the `probe` command line, [`describe()`] for `check`. Of the files that
//! keys name, those of `targets_from` are read; the others are checked, a secret's by `secret`. Nothing here loads a secret,
//! resolves a name or reads the process's own environment, and no text from this module contains a secret.
//!
//! From the bottom up: `problem` is an error or a warning; `sources` merges, keeps places and gives types; `targets` and
//! `settings` give meaning; `load` calls them in order.

mod describe;
mod fingerprint;
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
pub(crate) use problem::nearest;
pub use problem::{Place, Problem, Problems};
pub use settings::{
    agent::Agent,
    http::Http,
    metrics::MetricsOptions,
    otlp::{Exporter, Otlp},
    proxy::Route,
    series::{EXPLICIT_SAMPLES, SAMPLES_WITHOUT_BUCKETS, SPAN_SAMPLES, SampleEstimate, samples, span_samples},
    state::StateOptions,
};
pub use sources::{
    schema::TableKeys,
    tree::{Flag, ShardScope, Sources},
    units,
};
pub use targets::url;

use std::{collections::BTreeMap, path::PathBuf};

use crate::{
    discovery::{SourceId, TargetSource},
    latency,
    plan::{Dns, Maintenance, RunLimits, Shard, Target, Timing},
    secret::SecretSource,
    server_events::ServerEventsSettings,
    telemetry::ResourceSettings,
};

/// A configuration without errors.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// What is probed; none only where server events are received or forwarded, or where the sources have given none yet.
    pub targets: Vec<Target>,
    /// The shard whose targets these are.
    pub shard: Option<Shard>,
    /// The number of targets of other shards.
    pub other_targets: usize,
    /// Where more targets come from.
    pub sources: Vec<TargetSource>,
    /// How many targets of each source that has answered the configuration cannot have; `refused` names them.
    pub not_taken: BTreeMap<SourceId, u64>,
    /// Settings of the agent itself.
    pub agent: Agent,
    /// The exporters.
    pub otlp: Otlp,
    /// Settings of metrics.
    pub metrics: MetricsOptions,
    /// Limits on runs in flight and on logins.
    pub limits: RunLimits,
    /// When a step is slow.
    pub latency: latency::Settings,
    /// How times are measured.
    pub timing: Timing,
    /// The state directory, and the limits of the queue.
    pub state: StateOptions,
    /// Settings of the status endpoint.
    pub http: Http,
    /// How events of mail servers are received, and what becomes of them.
    pub server_events: ServerEventsSettings,
    /// Maintenance windows.
    pub windows: Vec<Maintenance>,
    /// How names are resolved.
    pub dns: Dns,
    /// The resource of the telemetry.
    pub resource: ResourceSettings,
    /// Identifies what the file, the files that it includes, variables and flags say, without what distinguishes the agents of a
    /// fleet: 16 hexadecimal digits.
    pub hash: String,
    /// The file, the files of `targets_from`, and the directories of patterns. Reload when any of these changes.
    pub watched: Vec<PathBuf>,
    /// Warnings.
    pub warnings: Vec<Problem>,
    /// Files that cannot be used now: errors for `check`, void runs for others.
    pub unusable: Vec<Problem>,
    /// Variables of secrets that are not set here; they may be set where the agent runs.
    pub unset: Vec<Problem>,
    /// Targets of sources that cannot be probed. They make no configuration invalid.
    pub refused: Vec<Problem>,
}

/// The `probe` command line. It has no printable form: SERVER and environment may contain secrets.
#[derive(Clone, Default)]
pub struct Probe {
    /// The argument SERVER.
    pub server: String,
    /// Options that set a key: `target.KEY` for the target's own (`target.timeout`, `target.password.file`), else the key of the
    /// file (`otlp.endpoint`).
    pub flags: Vec<Flag>,
    /// The whole environment; `IMAPTRACE__DEFAULTS__*` and `OTEL_*` are read.
    pub environment: Vec<(String, String)>,
    /// As [`Sources::not_utf8`].
    pub not_utf8: Vec<String>,
    /// The password if neither a flag nor SERVER has one: from a prompt, or the default variable.
    pub password: Option<SecretSource>,
}

/// The settings of a command that exports and does not probe.
#[derive(Debug, Clone, PartialEq)]
pub struct Exports {
    /// The exporters.
    pub otlp: Otlp,
    /// The resource of the telemetry.
    pub resource: ResourceSettings,
    /// The `service.name` of spans that mail servers reported.
    pub server_service_name: String,
}

/// The words of a key with a closed list, in the order of messages.
#[cfg(test)]
pub(crate) fn choices(key: &str) -> Option<Vec<&'static str>> {
    use crate::plan::{AddressChoice, Auth, Choice, Propagation, Security, TagStyle, Window};

    fn words<T: Choice>() -> Vec<&'static str> {
        T::WORDS.iter().map(|(word, _)| *word).collect()
    }
    match key {
        "protocol" => Some(words::<crate::delivery::Protocol>()),
        "security" => Some(words::<Security>()),
        "auth" => Some(words::<Auth>()),
        "address" => Some(words::<AddressChoice>()),
        "window" => Some(words::<Window>()),
        "tag" => Some(words::<TagStyle>()),
        "propagate" => Some(words::<Propagation>()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
