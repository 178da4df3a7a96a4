//! The command line: parses it, calls the module that does the work, prints, and returns the exit code.
//!
//! Results go to standard output, everything else to standard error. Called by `main` alone.

mod agent;
mod args;
mod baseline;
mod canary;
mod check;
mod conclusion;
mod demo;
mod environment;
mod exit_code;
mod output;
mod password;
mod probe;
mod probe_many;
mod progress;
mod replay;
mod run_reader;
mod runtime;
mod selection;
mod show;
mod signals;
mod usage_error;

use std::{fs::File, path::Path, process::ExitCode, sync::atomic::AtomicBool, time::Duration};

use clap::{CommandFactory as _, Parser as _};
use imaptrace_record::escape;

use self::{
    agent::places,
    args::{BaselineCommand, CanaryCommand, CheckFormat, Cli, CliCommand, ProbeArgs},
    exit_code::{FAILED, PASSED, USAGE},
    output::Output,
    runtime::{Threads, in_runtime},
    signals::Signals,
    usage_error::report_usage_error,
};
use crate::{
    net::{Roots, RootsError},
    secret::{no_dumps, set_environment, share_terminal},
    telemetry::logs,
};

/// The JSON Schema of the configuration.
const SCHEMA: &str = include_str!("../../schema/imaptrace.schema.json");
/// How long the end of the agent waits until the last lines on standard error are written.
const LAST_LINES: Duration = Duration::from_millis(200);
/// The same for all other commands, whose messages may be long and their reader slow.
const LAST_MESSAGES: Duration = Duration::from_secs(5);

/// Runs the program. `roots` are the CA certificates, which are kept until the end. `stdout_is_closed`: the process began
/// without a standard output, which only its first code can see. `hung_up`: SIGHUP has arrived.
#[expect(clippy::disallowed_methods, reason = "before anything is probed")]
pub fn main(roots: Result<Roots, RootsError>, stdout_is_closed: bool, hung_up: &'static AtomicBool) -> ExitCode {
    // Before anything is read: a password may be on the command line itself.
    let undumped = no_dumps();
    logs::catch_panics();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(report_usage_error(error, stdout_is_closed)),
    };
    let (color, nagios) = cli.output();
    let mut output = Output::new(color, stdout_is_closed);
    if let Err(error) = undumped {
        output.warn(&format!("core dumps cannot be turned off ({error}): one of this process would hold passwords"));
    }
    let roots = roots.unwrap_or_else(|error| {
        output.warn(&format!("{error}; every TLS connection costs 30 ms of CPU"));
        Roots::default()
    });
    let is_agent = matches!(cli.command, CliCommand::Agent { .. });
    let longest = if is_agent { LAST_LINES } else { LAST_MESSAGES };
    let mut variables = roots.original.clone();
    if is_agent {
        variables.extend(crate::agent::SYSTEMD_VARIABLES.map(|name| (name.into(), None)));
    }
    set_environment(variables);
    if !is_agent && File::open("/dev/tty").is_ok() {
        share_terminal();
    }
    let code = match cli.command {
        CliCommand::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "imaptrace", &mut script);
            output.print(&String::from_utf8_lossy(&script));
            PASSED
        }
        CliCommand::Schema => {
            output.print(SCHEMA);
            PASSED
        }
        CliCommand::Check { config, probe: true, .. } if config == Path::new("-") || config.starts_with("/dev") => {
            let shown = escape(&config.display().to_string());
            output.errors(&format!(
                "error: --probe: {shown} is standard input or a pipe, and the configuration is read twice\n  help: write it to a file, or check it without --probe"
            ));
            USAGE
        }
        CliCommand::Check { config, output: format, probe, credentials } => {
            match check::run(&config, format, &mut output) {
                PASSED if probe => one_shot(&roots, &mut output, async |signals, output| {
                    if format == CheckFormat::Text {
                        output.print("\n");
                    }
                    let (all_answered, has_targets) = check::ask_sources(&config, format, output).await;
                    let code = if all_answered { PASSED } else { FAILED };
                    if !has_targets {
                        return code;
                    }
                    let probed = match ProbeArgs::all_of(&config, credentials.as_deref(), format) {
                        Ok(args) => probe_many::run(args, signals, output).await,
                        Err(error) => {
                            output.error(&error.to_string());
                            FAILED
                        }
                    };
                    if probed == PASSED { code } else { probed }
                }),
                code => code,
            }
        }
        CliCommand::Agent { config } => in_runtime(Threads::AsManyAsCores, &mut output, async |output| {
            agent::run(&config, &roots, hung_up, output).await
        }),
        CliCommand::Baseline { command: BaselineCommand::Accept(args) } => {
            in_runtime(Threads::One, &mut output, async |output| baseline::accept(args, output).await)
        }
        CliCommand::Demo => in_runtime(Threads::One, &mut output, demo::run),
        CliCommand::Probe(args) => {
            one_shot(&roots, &mut output, async |signals, output| probe_many::run(*args, signals, output).await)
        }
        CliCommand::Replay(args) => {
            one_shot(&roots, &mut output, async |signals, output| replay::run(args, signals, output).await)
        }
        CliCommand::Show(args) => {
            one_shot(&roots, &mut output, async |signals, output| show::run(args, signals, output).await)
        }
        CliCommand::Canary { command: CanaryCommand::Fill(args) } => {
            one_shot(&roots, &mut output, async |signals, output| Box::pin(canary::run(*args, signals, output)).await)
        }
    };
    let code = output.conclude(code, nagios);
    logs::flush(longest);
    crate::agent::exit(code, move || drop(roots))
}

/// Runs a command that ends in order at a signal.
fn one_shot(roots: &Roots, output: &mut Output, run: impl AsyncFnOnce(Signals, &mut Output) -> u8) -> u8 {
    in_runtime(Threads::One, output, async |output| {
        roots.keep(places(None)).await;
        // Before a password command can run: it is ended with this process.
        match Signals::catch() {
            Ok(signals) => run(signals, output).await,
            Err(error) => {
                output.error(&format!("cannot listen for signals: {error}"));
                FAILED
            }
        }
    })
}
