//! The command line (contract §2): reads it, calls the room that does the work, prints, and gives the exit code.
//!
//! Results go to standard output, everything else to standard error. Called by `main` alone.

mod args;
mod canary;
mod check;
mod demo;
mod output;
mod probe;
mod replay;

use std::{ffi::OsString, path::Path, process::ExitCode};

use clap::{
    CommandFactory as _, Parser as _,
    error::{ContextKind, ContextValue},
};

use self::{
    args::{CanaryCommand, Cli, Command},
    output::Output,
};
use crate::{
    agent,
    config::{self, Sources},
    net::{self, Roots, RootsError},
    secret::no_dumps,
    status::Depth,
    telemetry::logs::{self, LogFormat, LogSettings},
};

/// All runs passed.
const PASSED: u8 = 0;
/// A run failed or was void.
const FAILED: u8 = 1;
/// Wrong usage or configuration.
const USAGE: u8 = 2;
/// The plug-in convention's word for it.
const NAGIOS_UNKNOWN: u8 = 3;

/// Runs the program. `roots` is what became of the CA certificates; it lives until the end.
pub fn main(roots: Result<Roots, RootsError>) -> ExitCode {
    // Before anything is read: a password may stand on the command line itself.
    let undumped = no_dumps();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misused(error),
    };
    let mut output = Output::new(cli.color());
    if let Err(error) = undumped {
        output.warn(&format!("core dumps cannot be turned off ({error}): one of this process would hold passwords"));
    }
    let roots = roots.unwrap_or_else(|error| {
        output.warn(&format!("{error}; every TLS connection costs 30 ms of CPU"));
        Roots::default()
    });
    let code = match cli.command {
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "imaptrace", &mut script);
            output.print(&String::from_utf8_lossy(&script));
            PASSED
        }
        Command::Check { config } => check::run(&config, &mut output),
        Command::Agent { config } => in_runtime(Threads::AsManyAsCores, &mut output, async |output| {
            run_agent(&config, roots.original.clone(), output).await
        }),
        Command::Demo => {
            in_runtime(Threads::One, &mut output, async |output| demo::run(roots.original.clone(), output).await)
        }
        Command::Probe(args) => in_runtime(Threads::One, &mut output, async |output| {
            probe::run(*args, roots.original.clone(), output).await
        }),
        Command::Replay(args) => in_runtime(Threads::One, &mut output, async |output| {
            replay::run(args, roots.original.clone(), output).await
        }),
        Command::Canary { command: CanaryCommand::Fill(args) } => {
            in_runtime(Threads::One, &mut output, async |output| {
                canary::run(*args, roots.original.clone(), output).await
            })
        }
    };
    ExitCode::from(code)
}

/// Threads that probe. Export has its own.
#[derive(Clone, Copy)]
enum Threads {
    /// For one run after the other: no thread wakes another, which costs more than what it would do then.
    One,
    AsManyAsCores,
}

/// Files that are open once the threads that probe have started and listen to signals.
const TO_START: usize = 6;

fn in_runtime(threads: Threads, output: &mut Output, run: impl AsyncFnOnce(&mut Output) -> u8) -> u8 {
    // Parts of what is started here do not fail but fall over.
    if let Err(error) = net::can_open(TO_START) {
        output.error(&format!("cannot open as many files as it takes to start: {error}; raise the limit (ulimit -n)"));
        return FAILED;
    }
    let mut builder = match threads {
        Threads::One => tokio::runtime::Builder::new_current_thread(),
        Threads::AsManyAsCores => tokio::runtime::Builder::new_multi_thread(),
    };
    match builder.enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(run(output));
            // Whatever still runs has been given up; nobody waits for it.
            runtime.shutdown_background();
            code
        }
        Err(error) => {
            output.error(&format!("cannot start the threads that probe: {error}"));
            FAILED
        }
    }
}

/// Help and version are no misuse; with `--output nagios` misuse has its own form.
fn misused(error: clap::Error) -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let error = discreet(error, arguments.get(1));
    let error = if is_password(&error, arguments.get(1)) { without_password(&error) } else { error };
    let nagios = arguments.windows(2).any(|pair| pair[0] == "--output" && pair[1] == "nagios")
        || arguments.iter().any(|argument| argument == "--output=nagios");
    if error.use_stderr() && nagios {
        return ExitCode::from(unknown(&error.to_string(), &mut Output::new(crate::terminal::ColorChoice::Never)));
    }
    // Nothing is left to say where the stream itself is gone.
    drop(error.print());
    ExitCode::from(if error.use_stderr() { USAGE } else { PASSED })
}

/// Somebody gave the password itself, as other programs have it, to a command that logs in.
fn is_password(error: &clap::Error, command: Option<&OsString>) -> bool {
    let logs_in = command.is_some_and(|command| command == "probe" || command == "canary");
    let unknown = error.kind() == clap::error::ErrorKind::UnknownArgument;
    logs_in
        && unknown
        && matches!(error.get(ContextKind::InvalidArg), Some(ContextValue::String(flag)) if flag == "--password")
}

/// What to do instead; clap would lead to the flag that is spelled most like it.
fn without_password(error: &clap::Error) -> clap::Error {
    clap::Error::raw(
        error.kind(),
        "there is no --password: all who list this machine's processes would see it\n\n  \
         tip: --password-file FILE, --password-env NAME or --password-command COMMAND, or the variable IMAPTRACE_PASSWORD\n",
    )
}

/// The same without what may be a password: a URL that stands in the wrong place, or a word too many where nobody writes
/// the name of a file.
fn discreet(mut error: clap::Error, command: Option<&OsString>) -> clap::Error {
    let takes_file = ["agent", "check", "replay"].iter().any(|known| command.is_some_and(|command| command == known));
    let hide = |kind: ContextKind, text: &str| {
        text.contains('@') || (kind == ContextKind::InvalidArg && !takes_file && !text.starts_with(['-', '<']))
    };
    let mut hidden = Vec::new();
    for (kind, value) in error.context() {
        match value {
            ContextValue::String(text) if hide(kind, text) => hidden.push(kind),
            ContextValue::Strings(texts) if texts.iter().any(|text| hide(kind, text)) => hidden.push(kind),
            _ => {}
        }
    }
    for kind in hidden {
        error.insert(kind, ContextValue::String("(not shown: it may hold a password)".to_owned()));
    }
    error
}

/// Wrong usage as a plug-in says it: the first error, the lines that belong to it drawn into one.
fn unknown(problem: &str, output: &mut Output) -> u8 {
    let start = problem.find("error: ").map_or(0, |at| at + "error: ".len());
    let first = problem.get(start..).unwrap_or_default().lines().map(str::trim).take_while(|line| !line.is_empty());
    let first = first.take_while(|line| !line.starts_with("error: ")).collect::<Vec<_>>().join(" ");
    output.print(&format!("IMAP UNKNOWN - {}\n", first.replace('|', "/")));
    NAGIOS_UNKNOWN
}

async fn run_agent(path: &Path, child_env: Vec<(OsString, Option<OsString>)>, output: &mut Output) -> u8 {
    let sources = sources(path);
    let config = match config::load(&sources) {
        Ok(config) => config,
        Err(problems) => {
            output.errors(&problems.to_string());
            return USAGE;
        }
    };
    let format = match config.agent.log_format {
        config::LogFormat::Text => LogFormat::Text,
        config::LogFormat::Json => LogFormat::Json,
    };
    // What is noteworthy inside a run is on its trace; an agent that logs it each minute is not read any more.
    let level = config.agent.log_level;
    let quiet = match level {
        config::LogLevel::Debug => "",
        config::LogLevel::Info => ",imaptrace::probe=warn,imaptrace::probe::mailbox=off",
        config::LogLevel::Warn | config::LogLevel::Error => ",imaptrace::probe::mailbox=off",
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
    match agent::run(config, sources, child_env, status).await {
        Ok(()) => PASSED,
        Err(error) => {
            output.error(&error.to_string());
            // What passes by itself is not to keep a supervisor from trying again.
            if error.may_pass() { FAILED } else { USAGE }
        }
    }
}

/// The file, and the process's own environment.
fn sources(path: &Path) -> Sources {
    Sources { file: Some(path.to_owned()), environment: environment(), flags: Vec::new() }
}

/// Variables that are not UTF-8 are none of ours. Of others than configuration is read from, only the names are taken:
/// one may be the password.
fn environment() -> Vec<(String, String)> {
    let is_read = |name: &str| {
        let proxies = ["http_proxy", "https_proxy", "all_proxy", "no_proxy"];
        ["IMAPTRACE__", "OTEL_", "STATE_DIRECTORY"].iter().any(|start| name.starts_with(start))
            || proxies.iter().any(|proxy| name.eq_ignore_ascii_case(proxy))
    };
    let variable = |(name, value): (OsString, OsString)| {
        let name = name.into_string().ok()?;
        let value = value.into_string().ok()?;
        let value = if is_read(&name) { value } else { String::new() };
        Some((name, value))
    };
    std::env::vars_os().filter_map(variable).collect()
}
