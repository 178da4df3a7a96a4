//! `imaptrace check`: all problems of a configuration, or the effective settings; or one JSON line for other programs.

use std::{borrow::Cow, collections::HashSet, path::Path, time::Duration};

use imaptrace_record::printable::escape;
use serde::Serialize;

use super::{
    args::CheckFormat,
    environment::environment,
    exit_code::{PASSED, USAGE},
    output::Output,
    runtime::{WORKERS, workers},
};
use crate::{
    agent, blocking, clock,
    config::{self, Config, Place, Problem, Problems, Sources},
    discovery::{self, CheckedAnswer},
    net::{TlsContext, TlsContextError, TlsFileFault, check_server_pair},
    state::StateDir,
};

/// The time limit to examine the state directory.
const STATE_TIMEOUT: Duration = Duration::from_secs(2);

/// The version of [`CheckReport`]. It increases when a field changes its meaning or is removed, not when one is added.
const SCHEMA: u32 = 1;

/// The line of `--output json`.
#[derive(Serialize)]
struct CheckReport<'a> {
    schema: u32,
    /// Whether an agent would start with it.
    valid: bool,
    errors: Vec<ReportedProblem<'a>>,
    warnings: Vec<ReportedProblem<'a>>,
    /// Targets, accounts and series in Prometheus of a valid configuration.
    #[serde(flatten)]
    size: Option<ConfigSize>,
}

#[derive(Serialize)]
struct ConfigSize {
    targets: usize,
    accounts: usize,
    series: u64,
}

/// A problem. Its place is a file, with line and column where they are known, a variable, or a flag.
#[derive(Serialize, Default)]
struct ReportedProblem<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    variable: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flag: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    key: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<&'a str>,
}

impl<'a> ReportedProblem<'a> {
    fn of(problem: &'a Problem) -> Self {
        let reported =
            Self { key: &problem.key, message: &problem.what, help: problem.help.as_deref(), ..Self::default() };
        match &problem.place {
            Place::File { path, at } | Place::Included { path, at } | Place::Listed { path, at } => {
                let (line, column) = at.unzip();
                Self { file: Some(path.to_string_lossy()), line, column, ..reported }
            }
            Place::Variable(name) => Self { variable: Some(name), ..reported },
            Place::Flag(name) => Self { flag: Some(name), ..reported },
            // No source is asked before a configuration is checked.
            Place::Discovered(_) | Place::Nowhere => reported,
        }
    }
}

/// Asks the configuration's sources of targets once, and prints what each gives. Returns whether all gave targets, and whether the
/// configuration has targets of its own. Called after the configuration was found valid.
pub(super) async fn ask_sources(path: &Path, format: CheckFormat, output: &mut Output) -> (bool, bool) {
    let sources = Sources { file: Some(path.to_owned()), ..environment() };
    // It has changed since, which the probe reports.
    let Ok(config) = config::load(&sources) else { return (true, true) };
    let mut all = true;
    for (source, answer) in discovery::ask_all(&config.sources, &config.dns).await {
        match answer {
            Ok(CheckedAnswer { targets, refused }) => {
                if format == CheckFormat::Text {
                    output.print(&escape(&format!("{source}: {} targets", targets.count())));
                    output.print("\n");
                }
                if refused.count() > 0 {
                    let (count, first) = (refused.count(), refused.named.join("; "));
                    output.warn(&escape(&format!("{source}: {count} more are not probed: {first}")));
                }
            }
            Err(error) => {
                all = false;
                output.error(&escape(&format!("{source}: {error}")));
            }
        }
    }
    (all, !config.targets.is_empty() || config.sources.is_empty())
}

/// Prints what `check` found, and returns its exit code.
fn report(config: Option<&Config>, problems: &Problems, output: &mut Output) -> u8 {
    let accounts = |config: &Config| config.targets.iter().map(|target| target.accounts.len()).sum();
    let size = config.map(|config| ConfigSize {
        targets: config.targets.len(),
        accounts: accounts(config),
        series: config::samples(config).failing,
    });
    let report = CheckReport {
        schema: SCHEMA,
        valid: config.is_some(),
        errors: problems.errors.iter().map(ReportedProblem::of).collect(),
        warnings: problems.warnings.iter().map(ReportedProblem::of).collect(),
        size,
    };
    // Texts and numbers always have a JSON form.
    output.print(&(serde_json::to_string(&report).unwrap_or_default() + "\n"));
    if config.is_some() { PASSED } else { USAGE }
}

pub(super) fn run(path: &Path, format: CheckFormat, output: &mut Output) -> u8 {
    // As `replay` and other programs name standard input.
    let path = if path == Path::new("-") { Path::new("/dev/stdin") } else { path };
    // The file is read once, so it may be a pipe.
    // This host need not be the agent's: its name decides on no shard.
    let sources = Sources { file: Some(path.to_owned()), pipes: true, ..environment() };
    let (config, problems) = match config::load(&sources) {
        Ok(mut config) => {
            let mut problems = Problems {
                errors: tls_files(&config, path),
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
    let mut problems = problems.as_in_check();
    // The agent does not start without it, although it is no part of the configuration.
    let threads = workers(std::env::var_os(WORKERS));
    if format == CheckFormat::Json {
        problems.errors.extend(threads.err().map(|text| {
            let (what, help) = text.split_once("\n  help: ").unwrap_or((&text, ""));
            let what = what.split_once(": ").map_or(what, |(_, what)| what).to_owned();
            let (place, help) = (Place::Variable(WORKERS.to_owned()), Some(help.to_owned()));
            Problem { place, key: String::new(), what, help }
        }));
        return report(config.as_ref().filter(|_| problems.errors.is_empty()), &problems, output);
    }
    let config = config.filter(|_| problems.errors.is_empty());
    if config.is_none() {
        output.errors(&problems.to_string());
    }
    if let Err(problem) = &threads {
        output.error(problem);
    }
    let Some(config) = config.filter(|_| threads.is_ok()) else { return USAGE };
    for warning in &problems.warnings {
        output.warn(&warning.to_string());
    }
    let lines: Vec<_> = config::describe(&config).split('\n').map(escape).collect();
    output.print(&lines.join("\n"));
    PASSED
}

/// Adds what the agent would report about its state directory at the start, except what the configuration already reports.
fn state(config: &Config, path: &Path, problems: &mut Problems) {
    let Some(directory) = &config.state.dir else { return };
    let examined = blocking::with_path_sync(directory, clock::now() + STATE_TIMEOUT, StateDir::examine);
    let (list, what) = match examined {
        Ok(Err(error)) => (&mut problems.errors, error.to_string()),
        Ok(Ok(Some(warning))) => (&mut problems.warnings, warning),
        Ok(Ok(None)) | Err(_) => return,
    };
    let place = Place::File { path: path.to_owned(), at: None };
    list.push(Problem { place, key: "state.dir".to_owned(), what, help: None });
}

/// The problems inside the TLS files of targets and OTLP exporters, each once. The configuration reports unreadable files.
fn tls_files(config: &Config, path: &Path) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut found = HashSet::new();
    let mut add = |error: &TlsContextError, table: String, group: Option<&str>| {
        let Some((key, help)) = remedy(error) else { return };
        if found.insert((table == "otlp", error.to_string())) {
            let (place, key) = (Place::File { path: path.to_owned(), at: None }, format!("{table}.{key}"));
            let what = group.map_or_else(|| error.to_string(), |group| format!("group {group:?}: {error}"));
            problems.push(Problem { place, key, what, help: Some(help.to_owned()) });
        }
    };
    let mut checked = HashSet::new();
    for (index, target) in config.targets.iter().enumerate() {
        // All targets of a group have the same files.
        if checked.insert(&target.tls)
            && let Err(error) = TlsContext::new(&target.tls, &target.endpoint.host)
        {
            let table = match &target.group {
                Some(_) => "groups".to_owned(),
                // The targets of other shards are not counted.
                None if config.shard.is_some() => "targets".to_owned(),
                None => format!("targets[{index}]"),
            };
            add(&error, table, target.group.as_deref());
        }
    }
    for exporter in [&config.otlp.traces, &config.otlp.metrics].into_iter().flatten() {
        if let Err(error) = agent::check_tls(exporter) {
            add(&error, "otlp".to_owned(), None);
        }
    }
    let events = &config.server_events;
    if let (Some(cert), Some(key)) = (&events.cert, &events.key)
        && let Err(error) = check_server_pair(cert, key)
        && let Some((key, help)) = server_remedy(&error)
    {
        let place = Place::File { path: path.to_owned(), at: None };
        let key = format!("server_events.{key}");
        problems.push(Problem { place, key, what: error.to_string(), help: Some(help.to_owned()) });
    }
    problems
}

/// The same as [`remedy`], for the certificate of a server.
fn server_remedy(error: &TlsContextError) -> Option<(&'static str, &'static str)> {
    remedy(error).map(|(key, help)| match key {
        "client_key" => ("key", help),
        _ => ("cert", "give a PEM file with the certificate of the key, and the chain behind it"),
    })
}

/// The invalid key and what to do about it; none for a file that cannot be read.
fn remedy(error: &TlsContextError) -> Option<(&'static str, &'static str)> {
    Some(match error.fault {
        TlsFileFault::Unreadable => return None,
        TlsFileFault::NoRoots => ("ca_file", "give a PEM file with the roots to trust"),
        TlsFileFault::DamagedRoot => ("ca_file", "put the roots there again, each certificate in PEM form"),
        TlsFileFault::NoClientCertificate => {
            ("client_cert", "give a PEM file with imaptrace's own certificate, and the chain behind it")
        }
        TlsFileFault::DamagedChain => ("client_cert", "put the whole chain there again, each certificate in PEM form"),
        TlsFileFault::Key => ("client_key", "give a PEM file with an unencrypted key that imaptrace alone can read"),
        TlsFileFault::DamagedKey => ("client_key", "write it again, in PKCS#8 form: openssl pkcs8 -topk8 -nocrypt"),
        TlsFileFault::Pair => ("client_cert", "give a certificate and its own key, each a PEM file"),
    })
}
