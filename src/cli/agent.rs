//! `imaptrace agent`: reads the configuration, sets up the log and runs the agent.
//!
//! Called by the command line; `crate::agent` does the work.

use std::{
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
    time::Duration,
};

use super::{
    environment::sources,
    exit_code::{FAILED, PASSED, USAGE},
    output::Output,
};
use crate::{
    agent, config,
    net::Roots,
    status::Depth,
    telemetry::logs::{self, LogSettings},
};

/// How long the agent's start waits for a directory of CA certificates that has to be made.
const ROOTS_TIMEOUT: Duration = Duration::from_secs(1);

/// Where a directory of CA certificates is made if one must be: what systemd gives for the run, else for state.
pub(super) fn places(state: Option<&Path>) -> Vec<PathBuf> {
    let first = |name| std::env::split_paths(&std::env::var_os(name)?).next();
    let state = state.map(Path::to_owned).or_else(|| first("STATE_DIRECTORY"));
    first("RUNTIME_DIRECTORY").into_iter().chain(state).filter(|place| place.is_absolute()).collect()
}

pub(super) async fn run(path: &Path, roots: &Roots, hung_up: &'static AtomicBool, output: &mut Output) -> u8 {
    let sources = sources(path);
    let config = match config::load(&sources) {
        Ok(config) => config,
        Err(problems) => {
            output.errors(&problems.to_string());
            // What passes by itself is not to keep a supervisor from trying again.
            return if problems.unanswered { FAILED } else { USAGE };
        }
    };
    let format = config.agent.log_format;
    // What is noteworthy inside a run is on its trace; an agent that logs it each minute is not read any more.
    let level = config.agent.log_level;
    let quiet = match level {
        config::LogLevel::Debug => "",
        config::LogLevel::Info | config::LogLevel::Warn | config::LogLevel::Error => ",imaptrace::probe=error",
    };
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| format!("{}{quiet}", level.as_str()));
    let settings =
        LogSettings { format, color: output.error_style().colour, journal: logs::to_journal(), filter: Some(filter) };
    if let Err(error) = logs::init(&settings) {
        output.error(&error.to_string());
        return USAGE;
    }
    for warning in &config.warnings {
        tracing::warn!("{}", warning.to_string().replace("\n  help: ", "; "));
    }
    let status = agent::StatusSettings {
        listen: config.http.listen,
        depth: Depth { runs: config.http.history, failed_runs: config.http.history },
        file: Some(path.to_owned()),
        ..agent::StatusSettings::default()
    };
    // Without it the first export could fail for want of roots. A run waits for them itself, and the agent for no disk that hangs.
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
