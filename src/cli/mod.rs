//! The command line: reads it, calls the room that does the work, prints, and gives the exit code.
//!
//! Results go to standard output, everything else to standard error. Called by `main` alone.

mod args;
mod canary;
mod check;
mod conclusion;
mod demo;
mod misuse;
mod output;
mod password;
mod probe;
mod progress;
mod replay;
mod signals;

use std::{
    ffi::OsString,
    fs::File,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::AtomicBool,
    time::Duration,
};

use clap::{CommandFactory as _, Parser as _};
use imaptrace_record::escape;

use self::{
    args::{CanaryCommand, Cli, Command},
    misuse::misused,
    output::Output,
};
use crate::{
    agent, clock,
    config::{self, Sources},
    net::{self, Roots, RootsError},
    secret::{no_dumps, share_terminal},
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

/// What the end of the agent waits for the last lines on standard error, if they are read.
const LAST_LINES: Duration = Duration::from_millis(200);
/// And that of any other command, whose messages may be long and their reader slow.
const LAST_MESSAGES: Duration = Duration::from_secs(5);

/// Runs the program. `roots` is what became of the CA certificates; it lives until the end. `stdout_is_closed` says that the
/// process began without a standard output, which only who runs before all else can see; `hung_up`, whether SIGHUP has come.
#[expect(clippy::disallowed_methods, reason = "before anything is probed")]
pub fn main(roots: Result<Roots, RootsError>, stdout_is_closed: bool, hung_up: &'static AtomicBool) -> ExitCode {
    // Before anything is read: a password may stand on the command line itself.
    let undumped = no_dumps();
    logs::catch_panics();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(misused(error, stdout_is_closed)),
    };
    let mut output = Output::new(cli.color(), stdout_is_closed);
    let nagios = cli.is_plugin();
    if let Err(error) = undumped {
        output.warn(&format!("core dumps cannot be turned off ({error}): one of this process would hold passwords"));
    }
    let roots = roots.unwrap_or_else(|error| {
        output.warn(&format!("{error}; every TLS connection costs 30 ms of CPU"));
        Roots::default()
    });
    let is_agent = matches!(cli.command, Command::Agent { .. });
    let longest = if is_agent { LAST_LINES } else { LAST_MESSAGES };
    if !is_agent && File::open("/dev/tty").is_ok() {
        share_terminal();
    }
    let code = match cli.command {
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "imaptrace", &mut script);
            output.print(&String::from_utf8_lossy(&script));
            PASSED
        }
        Command::Check { config } => check::run(&config, &mut output),
        Command::Agent { config } => in_runtime(Threads::AsManyAsCores, &mut output, async |output| {
            run_agent(&config, &roots, hung_up, output).await
        }),
        Command::Demo => {
            in_runtime(Threads::One, &mut output, async |output| demo::run(roots.original.clone(), output).await)
        }
        Command::Probe(args) => in_runtime(Threads::One, &mut output, async |output| {
            roots.keep(places(None)).await;
            probe::run(*args, roots.original.clone(), output).await
        }),
        Command::Replay(args) => in_runtime(Threads::One, &mut output, async |output| {
            roots.keep(places(None)).await;
            replay::run(args, roots.original.clone(), output).await
        }),
        Command::Canary { command: CanaryCommand::Fill(args) } => {
            in_runtime(Threads::One, &mut output, async |output| {
                roots.keep(places(None)).await;
                Box::pin(canary::run(*args, roots.original.clone(), output)).await
            })
        }
    };
    let code = output.conclude(code, nagios);
    logs::flush(longest);
    agent::exit(code, move || drop(roots))
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

/// How long the agent's start waits for a directory of CA certificates that has to be made.
const ROOTS_TIMEOUT: Duration = Duration::from_secs(1);

/// The name of the threads that probe, for `ps -L` and strace.
const WORKER: &str = "probe";
/// The variable from which tokio takes its number of threads. It panics at what it cannot parse, so it is checked here.
const WORKERS: &str = "TOKIO_WORKER_THREADS";
/// More are of no use to a probe, and each is one that the system may not give.
const MOST_WORKERS: usize = 1024;

/// As many as the variable says, else one for each core.
fn workers(given: Option<OsString>) -> Result<usize, String> {
    let Some(given) = given.filter(|given| !given.is_empty()) else {
        return Ok(std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(MOST_WORKERS));
    };
    let number = given.to_str().and_then(|text| text.parse().ok()).filter(|number| (1..=MOST_WORKERS).contains(number));
    number.ok_or_else(|| {
        let shown = escape(&given.to_string_lossy().chars().take(40).collect::<String>());
        format!(
            "variable {WORKERS}: \"{shown}\" is not a number of threads: expected 1 to {MOST_WORKERS}\n  help: unset it: \
             there is one for each core then"
        )
    })
}

fn in_runtime(threads: Threads, output: &mut Output, run: impl AsyncFnOnce(&mut Output) -> u8) -> u8 {
    net::init_openssl();
    // Parts of what is started here do not fail but fall over.
    if let Err(error) = net::can_open(TO_START) {
        output.error(&format!("cannot open as many files as it takes to start: {error}; raise the limit (ulimit -n)"));
        return FAILED;
    }
    if let Err(error) = logs::start_writer() {
        match threads {
            // A run that says which thread it lacks tells more.
            Threads::One => logs::write_in_place(),
            Threads::AsManyAsCores => {
                output.error(&format!("cannot start the thread that writes to standard error: {error}"));
                return FAILED;
            }
        }
    }
    let mut builder = match threads {
        Threads::One => tokio::runtime::Builder::new_current_thread(),
        Threads::AsManyAsCores => match workers(std::env::var_os(WORKERS)) {
            Ok(number) => {
                let mut builder = tokio::runtime::Builder::new_multi_thread();
                builder.worker_threads(number).thread_name(WORKER);
                builder
            }
            Err(problem) => {
                output.error(&problem);
                return USAGE;
            }
        },
    };
    builder.on_thread_start(agent::enter_thread).on_thread_stop(agent::leave_thread);
    match builder.enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(async {
                let _heartbeat = clock::Heartbeat::start();
                run(output).await
            });
            // What still runs has been given up, and is not waited for.
            runtime.shutdown_background();
            code
        }
        Err(error) => {
            output.error(&format!("cannot start the threads that probe: {error}"));
            FAILED
        }
    }
}

/// Where a directory of CA certificates is made if one must be: what systemd gives for the run, else for state.
fn places(state: Option<&Path>) -> Vec<PathBuf> {
    let first = |name| std::env::split_paths(&std::env::var_os(name)?).next();
    let state = state.map(Path::to_owned).or_else(|| first("STATE_DIRECTORY"));
    first("RUNTIME_DIRECTORY").into_iter().chain(state).filter(|place| place.is_absolute()).collect()
}

async fn run_agent(path: &Path, roots: &Roots, hung_up: &'static AtomicBool, output: &mut Output) -> u8 {
    let sources = sources(path);
    let config = match config::load(&sources) {
        Ok(config) => config,
        Err(problems) => {
            output.errors(&problems.to_string());
            // What passes by itself is not to keep a supervisor from trying again.
            return if problems.unanswered { FAILED } else { USAGE };
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
    let _in_time = tokio::time::timeout(ROOTS_TIMEOUT, made).await.is_ok();
    match agent::run(config, (sources, hung_up), roots.original.clone(), status).await {
        Ok(()) => PASSED,
        Err(error) => {
            output.error(&error.to_string());
            if error.may_pass() { FAILED } else { USAGE }
        }
    }
}

/// The file, and the process's own environment.
fn sources(path: &Path) -> Sources {
    let Environment { variables, not_utf8 } = environment();
    Sources { file: Some(path.to_owned()), environment: variables, not_utf8, ..Sources::default() }
}

/// The environment as far as `config` is told of it.
struct Environment {
    variables: Vec<(String, String)>,
    /// Names of those that cannot be read, as far as they can be shown.
    not_utf8: Vec<String>,
}

/// Of other variables than configuration is read from, only the names are taken: one may be the password.
fn environment() -> Environment {
    let is_read = |name: &str| {
        let proxies = ["http_proxy", "https_proxy", "all_proxy", "no_proxy"];
        ["IMAPTRACE__", "OTEL_", "STATE_DIRECTORY"].iter().any(|start| name.starts_with(start))
            || proxies.iter().any(|proxy| name.eq_ignore_ascii_case(proxy))
    };
    let mut environment = Environment { variables: Vec::new(), not_utf8: Vec::new() };
    for (name, value) in std::env::vars_os() {
        match (name.into_string(), value.into_string()) {
            (Ok(name), Ok(value)) => {
                let value = if is_read(&name) { value } else { String::new() };
                environment.variables.push((name, value));
            }
            (name, _) => {
                let name = name.unwrap_or_else(|name| name.to_string_lossy().into_owned());
                environment.not_utf8.push(name);
            }
        }
    }
    environment
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_threads_that_tokio_would_fall_over_is_refused_by_name() {
        let number = |text: &str| workers(Some(text.into()));
        assert_eq!(number("3"), Ok(3));
        assert_eq!(number("1024"), Ok(1024));
        // Set to nothing is how a unit file unsets it.
        assert_eq!(number(""), workers(None));
        for wrong in ["0", "x", "-1", "1025", "99999999999999999999", "\u{1b}[31m"] {
            let problem = number(wrong).unwrap_err();
            assert!(problem.starts_with("variable TOKIO_WORKER_THREADS: ") && !problem.contains('\u{1b}'), "{problem}");
        }
    }
}
