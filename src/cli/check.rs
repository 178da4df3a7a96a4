//! `imaptrace check`: all that is wrong with a configuration, or what it comes to.

use std::path::Path;

use super::{PASSED, USAGE, output::Output, sources};
use crate::{
    config::{self, Config},
    net::TlsContext,
    secret::SecretSource,
};

pub(super) async fn run(path: &Path, output: &mut Output) -> u8 {
    let config = match config::load(&sources(path)) {
        Ok(config) => config,
        Err(problems) => {
            output.errors(&problems.to_string());
            return USAGE;
        }
    };
    for warning in &config.warnings {
        output.warn(&warning.to_string());
    }
    let missing = files(&config).await;
    if !missing.is_empty() {
        for problem in &missing {
            output.error(problem);
        }
        return USAGE;
    }
    output.print(&config::describe(&config));
    PASSED
}

/// Files that the configuration names and that cannot be used. Variables and commands are left alone: they belong to
/// the service's environment, not to that of who checks.
async fn files(config: &Config) -> Vec<String> {
    let mut problems = Vec::new();
    for target in &config.targets {
        if let Err(error) = TlsContext::new(&target.tls, &target.endpoint.host) {
            problems.push(format!("target {}: {error}", target.name));
        }
        for account in &target.accounts {
            if let SecretSource::File { .. } = &account.password
                && let Err(error) = account.password.load(&[]).await
            {
                problems.push(format!("target {}, account {}: {error}", target.name, account.alias));
            }
        }
    }
    problems
}
