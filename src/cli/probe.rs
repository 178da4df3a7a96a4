//! `imaptrace probe`: runs now, results on standard output.

use std::{
    ffi::OsString,
    io::{IsTerminal as _, Write as _},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::watch, time::sleep_until};

use super::{
    FAILED, PASSED, USAGE,
    args::{Format, ProbeArgs, TargetArgs},
    environment,
    misuse::unknown,
    output::Output,
};
use crate::{
    agent::{self, families, wiring},
    clock,
    config::{self, Config, Flag, Probe, units},
    delivery::Delivery,
    net::Family,
    plan::{Auth, Target},
    probe::{Cancel, Job, LineSink, Prepared, Prober, inspect},
    record::{Run, RunOutcome, Seconds},
    secret::{Secret, SecretSource},
    telemetry::{
        RemoteParent,
        logs::{self, LogSettings},
    },
    terminal::{self, Style},
};

/// What a one-shot run waits for its export (contract §2).
const EXPORT: Duration = Duration::from_secs(5);
/// Where the password is when nobody says.
const PASSWORD: &str = "IMAPTRACE_PASSWORD";

pub(super) async fn run(args: ProbeArgs, child_env: Vec<(OsString, Option<OsString>)>, output: &mut Output) -> u8 {
    match prepare(&args, &child_env, output).await {
        Ok(plan) => plan.run(&args, child_env, output).await,
        Err(problem) => misuse(&problem, args.output, output),
    }
}

/// Everything that a run needs.
struct Plan {
    target: Arc<Prepared>,
    config: Config,
    delivery: Option<Delivery>,
    every: Duration,
    parent: Option<RemoteParent>,
}

async fn prepare(
    args: &ProbeArgs,
    child_env: &[(OsString, Option<OsString>)],
    output: &mut Output,
) -> Result<Plan, String> {
    let every = units::parse_duration(&args.every)
        .map_err(|error| format!("error: --every: {}", units::explain_duration(&args.every, error)))?;
    let environment = environment();
    let request = Probe {
        server: args.target.server.clone(),
        flags: flags(args),
        environment,
        password: password(&args.target)?,
    };
    let mut config = config::probe(&request).map_err(|problems| problems.to_string())?;
    if !args.metrics {
        // Series of a process that ends at once look like those of an agent that has died.
        config.otlp.metrics = None;
    } else if config.otlp.metrics.is_none() {
        return Err("error: --metrics: there is no OTLP endpoint to send metrics to\n  help: give --otlp-endpoint \
                    http://localhost:4317, or set OTEL_EXPORTER_OTLP_ENDPOINT"
            .to_owned());
    }
    for warning in &config.warnings {
        output.warn(&warning.to_string());
    }
    // What delivery tells as it goes is for who watches it for long; here its last word says it all.
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "warn,imaptrace::delivery=off".to_owned());
    logs::init(&LogSettings { color: output.error_style().colour, filter: Some(filter), ..LogSettings::default() })
        .map_err(|error| format!("error: {error}"))?;
    let target = config.targets.first().cloned().ok_or("error: no target")?;
    let target = Arc::new(Prepared::new(target).map_err(|error| format!("error: {error}"))?);
    let exports = config.otlp.traces.is_some() || config.otlp.metrics.is_some();
    let delivery = if exports {
        Some(wiring::delivery(&config, None, true, child_env).await.map_err(|error| format!("error: {error}"))?)
    } else {
        None
    };
    let parent = std::env::var("TRACEPARENT").ok().filter(|value| !value.is_empty());
    let parent = parent.and_then(|value| {
        let parsed = RemoteParent::parse(&value);
        if parsed.is_none() {
            output.warn("TRACEPARENT is set and is no W3C traceparent; the run gets a trace of its own");
        }
        parsed
    });
    Ok(Plan { target, config, delivery, every, parent })
}

impl Plan {
    async fn run(self, args: &ProbeArgs, child_env: Vec<(OsString, Option<OsString>)>, output: &mut Output) -> u8 {
        let mut prober = Prober::new(self.config.dns.clone(), child_env);
        if args.verbose {
            prober = prober.with_line_sink(conversation_sink(output.error_style()));
        }
        let prober = Arc::new(prober);
        let (stop, stopped) = watch::channel(false);
        let interrupted = tokio::spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                stop.send_replace(true);
            }
            // Kept, so that nobody who listens takes its end for a signal.
            std::future::pending::<()>().await;
        });
        let mut runs = Vec::new();
        // Whether all of them did; none yet.
        let mut passed = None;
        let mut planned = clock::now();
        for number in 0..args.count {
            if number > 0 {
                // A run that is late starts at once, and the ones after it count from there.
                planned = (planned + self.every).max(clock::now());
                if !wait(planned, &stopped).await {
                    break;
                }
            }
            for family in families(self.target.target()) {
                // A task of its own: the runtime goes through the kernel to wake the one that it was started with.
                let next = (number + 1 < args.count && !self.every.is_zero()).then(|| planned + self.every);
                let one =
                    once(prober.clone(), self.target.clone(), *family, self.parent.clone(), (next, stopped.clone()));
                let run = match tokio::spawn(one).await {
                    Ok(Some(run)) => run,
                    Ok(None) => break,
                    Err(error) => {
                        output.error(&format!("a run broke off: {error}"));
                        return FAILED;
                    }
                };
                self.show(&run, args, output);
                passed = Some(passed.unwrap_or(true) && run.outcome == RunOutcome::Passed);
                // What was said of it in JSON is said: it is not needed here any more.
                let kept = args.output != Format::Json;
                match &self.delivery {
                    Some(delivery) => {
                        delivery.metrics().record(&run);
                        runs.extend(kept.then(|| run.clone()));
                        delivery.deliver(run);
                    }
                    None => runs.extend(kept.then_some(run)),
                }
            }
            if output.is_closed() || *stopped.borrow() {
                break;
            }
        }
        interrupted.abort();
        let code = conclude(&runs, passed == Some(true), args, output);
        if let Some(delivery) = self.delivery {
            let report = delivery.shutdown(EXPORT).await;
            if !report.is_complete() {
                let ends = [&self.config.otlp.traces, &self.config.otlp.metrics].into_iter().flatten();
                let ends = ends.map(|end| format!("{} ({})", end.endpoint, end.protocol.as_str()));
                let ends = ends.collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ");
                output.warn(&format!(
                    "{report}\n  help: is an OTLP receiver there that speaks this protocol? tried {ends}"
                ));
            }
        }
        code
    }

    /// What is shown of a run as soon as it has ended.
    fn show(&self, run: &Run, args: &ProbeArgs, output: &mut Output) {
        let several = args.count > 1 || families(self.target.target()).len() > 1;
        match args.output {
            Format::Json => match terminal::json(run) {
                Ok(line) => output.print(&line),
                Err(error) => output.error(&format!("a run cannot be written as JSON: {error}")),
            },
            Format::Nagios => {}
            Format::Text if several => output.print(&terminal::line(run, output.style())),
            Format::Text => output.print(&terminal::waterfall(run, output.style())),
        }
        if args.output != Format::Nagios
            && let Some(failure) = terminal::failure(run, output.error_style())
        {
            output.errors(&failure);
        }
    }
}

/// One run; none when the target has no account. With what is to be known of a certificate that was refused, if that can
/// be had before the next planned start.
async fn once(
    prober: Arc<Prober>,
    target: Arc<Prepared>,
    family: Family,
    parent: Option<RemoteParent>,
    (next, cancel): (Option<Instant>, Cancel),
) -> Option<Run> {
    let account = target.target().accounts.first()?;
    let secret = prober.secret(account).await;
    let kept = secret.as_ref().ok().cloned();
    let journey = &target.target().journey;
    let run = agent::once(&prober, journey, parent.as_ref(), cancel.clone(), |ids| Job {
        target: &target,
        account,
        family,
        ids,
        start_lag: None,
        secret,
        hold_login: None,
    });
    let mut run = run.await;
    let within = next.map_or(Duration::MAX, |next| next.saturating_duration_since(clock::now()));
    inspect(&mut run, (&target, account, kept.as_ref()), within, cancel).await;
    Some(run)
}

/// Writes each line of a conversation to standard error. Where that is gone, it is written for nobody.
fn conversation_sink(style: Style) -> LineSink {
    LineSink::new(move |line| {
        drop(std::io::stderr().lock().write_all(terminal::conversation_line(line, style).as_bytes()));
    })
}

/// What is shown when all runs have ended, and the exit code.
fn conclude(runs: &[Run], passed: bool, args: &ProbeArgs, output: &mut Output) -> u8 {
    match args.output {
        Format::Nagios => {
            let seconds = |limit: Option<f64>| limit.map(|limit| Seconds::from(Duration::from_secs_f64(limit)));
            let limits = terminal::Thresholds { warning: seconds(args.warning), critical: seconds(args.critical) };
            let (text, code) = terminal::nagios(runs, &limits);
            output.print(&text);
            return code;
        }
        Format::Text if runs.len() > 1 => {
            if let Some(slowest) = terminal::slowest(runs) {
                output.print(&format!("\n{}", terminal::waterfall(slowest, output.style())));
            }
            output.print(&format!("\n{}", terminal::summary(runs, output.style())));
        }
        Format::Text | Format::Json => {}
    }
    if passed { PASSED } else { FAILED }
}

/// Waits until it is time; false when the operator has had enough.
async fn wait(planned: Instant, stopped: &watch::Receiver<bool>) -> bool {
    // A timer rings at the next full millisecond, also for a moment that is over.
    if planned <= clock::now() {
        return !*stopped.borrow();
    }
    let mut stopped = stopped.clone();
    tokio::select! {
        biased;
        _ = stopped.wait_for(|stopped| *stopped) => false,
        () = sleep_until(planned.into()) => true,
    }
}

fn misuse(problem: &str, format: Format, output: &mut Output) -> u8 {
    if format == Format::Nagios {
        return unknown(problem, output);
    }
    output.errors(problem);
    USAGE
}

/// The flags that set a key of the configuration.
fn flags(args: &ProbeArgs) -> Vec<Flag> {
    let examine = args.examine.then(|| "examine".to_owned());
    let cold = args.cold.then(|| "true".to_owned());
    let own = [
        ("target.mailbox", &args.mailbox, "--mailbox"),
        ("target.open", &examine, "--examine"),
        ("target.newest", &args.newest, "--newest"),
        ("target.window", &args.window, "--window"),
        ("target.cold", &cold, "--cold"),
        ("target.journey", &args.journey, "--journey"),
        ("target.timeout", &args.timeout, "--timeout"),
        ("otlp.endpoint", &args.otlp_endpoint, "--otlp-endpoint"),
        ("otlp.protocol", &args.otlp_protocol, "--otlp-protocol"),
    ];
    [target_flags(&args.target), given(&own)].concat()
}

/// Those of them that say which server, as whom, and how.
pub(super) fn target_flags(args: &TargetArgs) -> Vec<Flag> {
    let insecure = args.insecure.then(|| "true".to_owned());
    // It stands beside a place; the one that nobody names has it from `password`.
    let exact = (args.password_exact && names_password(args)).then(|| "true".to_owned());
    let alpn = args.no_alpn.then(|| "false".to_owned());
    given(&[
        ("target.user", &args.user, "--user"),
        ("target.master_user", &args.master_user, "--master-user"),
        ("target.password.file", &args.password_file, "--password-file"),
        ("target.password.env", &args.password_env, "--password-env"),
        ("target.password.command", &args.password_command, "--password-command"),
        ("target.password.exact", &exact, "--password-exact"),
        ("target.auth", &args.auth, "--auth"),
        ("target.security", &args.security, "--security"),
        ("target.ca_file", &args.ca_file, "--ca-file"),
        ("target.client_cert", &args.client_cert, "--client-cert"),
        ("target.client_key", &args.client_key, "--client-key"),
        ("target.server_name", &args.server_name, "--server-name"),
        ("target.insecure", &insecure, "--insecure"),
        ("target.alpn", &alpn, "--no-alpn"),
        ("target.address", &args.address, "--address"),
    ])
}

/// Flags that were given: key, value, name.
pub(super) fn given(flags: &[(&str, &Option<String>, &str)]) -> Vec<Flag> {
    let flag = |(key, value, name): &(&str, &Option<String>, &str)| {
        Some(Flag { key: (*key).to_owned(), value: (*value).clone()?, name: (*name).to_owned() })
    };
    flags.iter().filter_map(flag).collect()
}

fn names_password(args: &TargetArgs) -> bool {
    args.password_file.is_some() || args.password_env.is_some() || args.password_command.is_some()
}

/// The password's place when neither a flag nor SERVER has it: the default variable, else a prompt on a terminal.
pub(super) fn password(args: &TargetArgs) -> Result<Option<SecretSource>, String> {
    let in_url = config::server::parse(&args.server).is_ok_and(|url| url.password.is_some());
    if in_url && args.password_exact && !names_password(args) {
        return Err(
            "error: --password-exact: it is about a file, a variable or a command, and the password stands in \
                    the URL\n  help: give it with --password-file, --password-env or --password-command"
                .to_owned(),
        );
    }
    if names_password(args) || in_url || args.auth.as_deref() == Some(Auth::External.as_str()) {
        return Ok(None);
    }
    if std::env::var_os(PASSWORD).is_some() {
        let variable = SecretSource::Env(PASSWORD.to_owned());
        return Ok(Some(if args.password_exact { SecretSource::Exact(Box::new(variable)) } else { variable }));
    }
    if !std::io::stdin().is_terminal() {
        return Ok(None);
    }
    let host = config::server::parse(&args.server).map(|url| url.host.to_string()).unwrap_or_default();
    let password = rpassword::prompt_password(format!("Password for the mailbox on {host}: "))
        .map_err(|error| format!("error: cannot ask for the password: {error}"))?;
    Ok(Some(SecretSource::Given(Secret::new(password))))
}

/// The one target of a `probe` request.
pub(super) fn single(config: Config) -> Option<Target> {
    config.targets.into_iter().next()
}
