//! `imaptrace agent`: reads the configuration, sets up the log and runs the agent.
//!
//! Called by the command line; `crate::agent` does the work.

use std::{
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
    time::Duration,
};

use super::{
    environment::environment,
    exit_code::{FAILED, PASSED, USAGE},
    output::Output,
};
use crate::{
    agent,
    config::{self, ShardScope, Sources},
    net::Roots,
    status::HistoryDepth,
    telemetry::logs::{self, LogSettings},
};

/// How long the agent's start waits for a directory of CA certificates that has to be made.
const ROOTS_TIMEOUT: Duration = Duration::from_secs(1);

/// Where a directory of CA certificates is made if there is none: systemd's runtime directory, else the state directory.
pub(super) fn places(state: Option<&Path>) -> Vec<PathBuf> {
    let first = |name| std::env::split_paths(&std::env::var_os(name)?).next();
    let state = state.map(Path::to_owned).or_else(|| first("STATE_DIRECTORY"));
    first("RUNTIME_DIRECTORY").into_iter().chain(state).filter(|place| place.is_absolute()).collect()
}

pub(super) async fn run(path: &Path, roots: &Roots, hung_up: &'static AtomicBool, output: &mut Output) -> u8 {
    let sources =
        Sources { file: Some(path.to_owned()), shards: ShardScope::OfHost(agent::host_name()), ..environment() };
    let config = match config::load(&sources) {
        Ok(config) => config,
        Err(problems) => {
            output.errors(&problems.to_string());
            // A supervisor starts the agent again after FAILED: the same configuration may be readable later.
            return if problems.unanswered { FAILED } else { USAGE };
        }
    };
    let level = config.agent.log_level;
    // The notes of a run are on its trace; repeated each minute they would fill the log.
    let quiet = if level == tracing::Level::DEBUG { "" } else { ",imaptrace::probe=error" };
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| format!("{level}{quiet}"));
    let settings = LogSettings {
        format: config.agent.log_format,
        color: output.error_style.colour,
        journal: logs::to_journal(),
        filter: Some(filter),
    };
    if let Err(error) = logs::init(&settings) {
        output.error(&error.to_string());
        return USAGE;
    }
    for warning in &config.warnings {
        tracing::warn!("{}", warning.to_string().replace("\n  help: ", "; "));
    }
    let status = agent::StatusSettings {
        listen: config.http.listen,
        depth: HistoryDepth { runs: config.http.history, failed_runs: config.http.history },
        file: Some(path.to_owned()),
        ..agent::StatusSettings::default()
    };
    // Without CA certificates the first export could fail. Runs wait for them longer than the agent's start does.
    let made = roots.keep(places(config.state.dir.as_deref()));
    let _ = tokio::time::timeout(ROOTS_TIMEOUT, made).await;
    match agent::run(config, (sources, hung_up), status).await {
        Ok(()) => PASSED,
        Err(error) => {
            output.error(&error.to_string());
            if error.may_pass() { FAILED } else { USAGE }
        }
    }
}
