//! `imaptrace check`: all that is wrong with a configuration, or what it comes to.

use std::{collections::HashSet, path::Path, time::Duration};

use imaptrace_record::printable::escape;

use super::{
    environment::sources,
    exit_code::{PASSED, USAGE},
    output::Output,
    runtime::{WORKERS, workers},
};
use crate::{
    agent, blocking, clock,
    config::{self, Config, Place, Problem, Problems, Sources},
    net::{TlsContext, TlsContextError},
    state::StateDir,
};

/// How long the state directory is looked at.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn run(path: &Path, output: &mut Output) -> u8 {
    // As `replay` and other programs call it.
    let path = if path == Path::new("-") { Path::new("/dev/stdin") } else { path };
    // It is read once here, so it may come out of a pipe: a program that writes one is tried without a file.
    let sources = Sources { pipes: true, ..sources(path) };
    let (config, problems) = match config::load(&sources) {
        Ok(mut config) => {
            let mut problems = Problems {
                errors: [certificates(&config, path), receivers(&config, path)].concat(),
                warnings: std::mem::take(&mut config.warnings),
                unusable: std::mem::take(&mut config.unusable),
                unset: std::mem::take(&mut config.unset),
                ..Problems::default()
            };
            state(&config, path, &mut problems);
            (Some(config), problems)
        }
        Err(problems) => (None, problems),
    };
    let problems = problems.with_surroundings();
    // The agent ends with it, and it is no part of the configuration.
    let threads = workers(std::env::var_os(WORKERS));
    let Some(config) = config.filter(|_| problems.errors.is_empty()) else {
        output.errors(&problems.to_string());
        if let Err(problem) = &threads {
            output.error(problem);
        }
        return USAGE;
    };
    if let Err(problem) = &threads {
        output.error(problem);
        return USAGE;
    }
    for warning in &problems.warnings {
        output.warn(&warning.to_string());
    }
    let lines: Vec<_> = config::describe(&config).split('\n').map(escape).collect();
    output.print(&lines.join("\n"));
    PASSED
}

/// What the agent would say of its state directory at the start. One that cannot be written to, or does not answer, was noted
/// when the configuration was read.
fn state(config: &Config, path: &Path, problems: &mut Problems) {
    let Some(directory) = &config.state.dir else { return };
    let examined = blocking::with_path_sync(directory, clock::now() + PATIENCE, StateDir::examine);
    let (list, what) = match examined {
        Ok(Err(error)) => (&mut problems.errors, error.to_string()),
        Ok(Ok(Some(warning))) => (&mut problems.warnings, warning),
        Ok(Ok(None)) | Err(_) => return,
    };
    let place = Place::File { path: path.to_owned(), at: None };
    list.push(Problem { place, key: "state.dir".to_owned(), what, help: None });
}

/// What is wrong inside the targets' TLS files, each said once. Those that cannot be read have been noted with their
/// place when the configuration was read.
fn certificates(config: &Config, path: &Path) -> Vec<Problem> {
    let mut looked_at = HashSet::new();
    let mut found = HashSet::new();
    let mut problems = Vec::new();
    for (index, target) in config.targets.iter().enumerate() {
        // All targets of a group have the same files.
        if !looked_at.insert(&target.tls) {
            continue;
        }
        let Err(error) = TlsContext::new(&target.tls, &target.endpoint.host) else { continue };
        let Some((key, help)) = remedy(&error, target.tls.client_cert.as_deref(), target.tls.ca_file.as_deref()) else {
            continue;
        };
        if found.insert(error.to_string()) {
            // Those of [[targets]] come first in the configuration too.
            let (key, what) = match &target.group {
                Some(group) => (format!("groups.{key}"), format!("group {group:?}: {error}")),
                None => (format!("targets[{index}].{key}"), error.to_string()),
            };
            let place = Place::File { path: path.to_owned(), at: None };
            problems.push(Problem { place, key, what, help: Some(help.to_owned()) });
        }
    }
    problems
}

/// The same of the files of the OTLP exporters.
fn receivers(config: &Config, path: &Path) -> Vec<Problem> {
    let mut found = HashSet::new();
    let mut problems = Vec::new();
    for exporter in [&config.otlp.traces, &config.otlp.metrics].into_iter().flatten() {
        let Err(error) = agent::check_tls(exporter) else { continue };
        let remedy = remedy(&error, exporter.client_cert.as_deref(), exporter.ca_file.as_deref());
        let Some((key, help)) = remedy.filter(|_| found.insert(error.to_string())) else { continue };
        let place = Place::File { path: path.to_owned(), at: None };
        problems.push(Problem {
            place,
            key: format!("otlp.{key}"),
            what: error.to_string(),
            help: Some(help.to_owned()),
        });
    }
    problems
}

/// The key that is wrong and what to do about it; none for a file that cannot be read.
fn remedy(error: &TlsContextError, cert: Option<&Path>, ca: Option<&Path>) -> Option<(&'static str, &'static str)> {
    Some(match error {
        TlsContextError::Read { .. } => return None,
        TlsContextError::Key { .. } | TlsContextError::Encrypted { .. } | TlsContextError::NotPkcs8 { .. } => {
            ("client_key", "give a PEM file with an unencrypted key that imaptrace alone can read")
        }
        TlsContextError::NoCertificate { path } if cert == Some(path.as_path()) => {
            ("client_cert", "give a PEM file with imaptrace's own certificate, and the chain behind it")
        }
        TlsContextError::NoCertificate { .. } => ("ca_file", "give a PEM file with the roots to trust"),
        TlsContextError::Damaged { .. } => {
            ("client_key", "write it anew, in PKCS#8 form: openssl pkcs8 -topk8 -nocrypt")
        }
        TlsContextError::Chain { path } if ca == Some(path.as_path()) => {
            ("ca_file", "put the roots there again, each certificate in PEM form")
        }
        TlsContextError::Chain { .. } => {
            ("client_cert", "put the whole chain there again, each certificate in PEM form")
        }
        TlsContextError::Pair { .. } | TlsContextError::Unfit { .. } => {
            ("client_cert", "give a certificate and its own key, each a PEM file")
        }
    })
}
