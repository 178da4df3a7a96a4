//! `imaptrace probe`: runs now, and prints the results on standard output.
//!
//! Of one account; `probe_many` calls it, and probes several itself.
//!
//! Everything that prevents a run is wrong usage, including a secret that cannot be read; what a run finds is a result.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use imaptrace_imap::Secret;
use imaptrace_record::{ErrorType, Run, RunOutcome, StepName, escape};
use tokio::{sync::watch, time::sleep_until};

use super::{
    args::{OutputFormat, ProbeArgs, TargetArgs},
    conclusion::Conclusion,
    environment::environment,
    exit_code::{FAILED, USAGE},
    output::Output,
    password,
    progress::ProgressLine,
    signals::Signals,
    usage_error::unknown,
};
use crate::{
    agent::{self, families, wiring},
    clock,
    config::{self, Config, Flag, Probe, Problems, Sources, units},
    delivery::Delivery,
    diagnosis::diagnose,
    latency,
    net::Family,
    plan::Target,
    probe::{Cancel, CurrentStep, Job, LineSink, Prober, TargetContext, inspect},
    secret::{SecretError, SecretSource},
    telemetry::{RemoteParent, logs},
    terminal,
};

/// How long the end of a one-shot command waits for its export.
const EXPORT: Duration = Duration::from_secs(5);

/// Probes a server, or the one account of a configuration.
pub(super) async fn run(args: ProbeArgs, configured: Option<Config>, signals: Signals, output: &mut Output) -> u8 {
    match prepare(&args, configured, &signals, output).await {
        Ok(prepared) => prepared.run(&args, signals, output).await,
        Err(problem) if args.output == OutputFormat::Nagios => {
            unknown(problem.as_deref().unwrap_or("error: stopped before the first run"), output)
        }
        Err(Some(problem)) => {
            output.errors(&problem);
            USAGE
        }
        Err(None) => signals.early_code(),
    }
}

/// Everything that a run needs.
struct PreparedProbe {
    prober: Arc<Prober>,
    /// The current step of the run, for the progress line of a terminal.
    steps: Option<watch::Receiver<Option<CurrentStep>>>,
    target: Arc<TargetContext>,
    /// For the first run; later ones read it again.
    secret: Option<Secret>,
    config: Config,
    delivery: Option<Delivery>,
    every: Duration,
    parent: Option<RemoteParent>,
}

/// The error is the problem as it is printed, or none after a signal.
async fn prepare(
    args: &ProbeArgs,
    configured: Option<Config>,
    signals: &Signals,
    output: &mut Output,
) -> Result<PreparedProbe, Option<String>> {
    let every = units::parse_duration(&args.every)
        .map_err(|error| format!("error: --every: {}", units::explain_duration(&args.every, error)))?;
    check_limits(args)?;
    let is_configured = configured.is_some();
    let (mut config, asks) = if let Some(config) = configured {
        (config, false)
    } else {
        let server = args.names.first().map_or("", String::as_str);
        let (password, asks) = password::find(server, &args.target)?;
        let config = configure(server, &args.target, flags(args), password);
        (config.map_err(|problems| problems.to_string())?, asks)
    };
    if !args.metrics {
        // Series of a process that ends at once look like those of an agent that has died.
        config.otlp.metrics = None;
    } else if config.otlp.metrics.is_none() {
        return Err("error: --metrics: there is no OTLP endpoint to send metrics to\n  help: give --otlp-endpoint \
                    http://localhost:4317, or set OTEL_EXPORTER_OTLP_ENDPOINT"
            .to_owned()
            .into());
    }
    for warning in &config.warnings {
        output.warn(&warning.to_string());
    }
    // The report at the end replaces delivery's log. A run's notes are in its result, except in the line of a plug-in.
    let notes = if args.output == OutputFormat::Nagios { ",imaptrace::probe::mailbox=warn" } else { "" };
    output.start_log(&format!("warn,imaptrace::delivery=off,imaptrace::probe=off{notes}"))?;
    let mut target = config.targets.first().cloned().ok_or_else(|| "error: no target".to_owned())?;
    let mut context = read_files(target.clone())?;
    let parent = parent(output);
    let mut prober = Prober::new(config.dns.clone());
    let mut steps = None;
    if args.verbose {
        // The conversation is written directly. If standard error cannot be written, its lines are dropped.
        let style = output.error_style;
        prober = prober.with_line_sink(LineSink::new(move |line| {
            logs::write_at_once(terminal::conversation_line(line, style).as_bytes());
        }));
    } else if output.progress_width.is_some() {
        let (sender, receiver) = watch::channel(None);
        prober = prober.watched(sender);
        steps = Some(receiver);
    }
    let prober = Arc::new(prober);
    let mut secret = None;
    if !asks {
        secret = load(&prober, &context, parent.as_ref(), (args.output, is_configured), signals, output).await?;
    }
    let mut delivery = None;
    if config.otlp.traces.is_some() || config.otlp.metrics.is_some() {
        let started = signals.unless_stopped(wiring::delivery(&config, None, None)).await.ok_or(None)?;
        delivery = Some(started.map_err(|error| format!("error: {error}"))?);
    }
    // Last: a command that cannot run asks for no password.
    if asks {
        signals.unless_stopped(password::ask(&mut target)).await.ok_or(None)??;
        context = read_files(target)?;
        secret = load(&prober, &context, parent.as_ref(), (args.output, is_configured), signals, output).await?;
    }
    Ok(PreparedProbe { prober, steps, target: Arc::new(context), secret, config, delivery, every, parent })
}

/// The configuration of a command that logs in once; `password` is where it comes from without a flag.
pub(super) fn configure(
    server: &str,
    args: &TargetArgs,
    own_flags: Vec<Flag>,
    password: Option<SecretSource>,
) -> Result<Config, Problems> {
    let Sources { environment, not_utf8, .. } = environment();
    let flags = [target_flags(args), own_flags].concat();
    config::probe(&Probe { server: server.to_owned(), flags, environment, not_utf8, password })
}

/// The target with the files that its TLS options name.
pub(super) fn read_files(target: Target) -> Result<TargetContext, String> {
    TargetContext::new(target).map_err(|error| format!("error: {error}"))
}

/// The password of the target's account, if it has one. With --output json a password that cannot be read is a void run, too.
async fn load(
    prober: &Prober,
    target: &TargetContext,
    parent: Option<&RemoteParent>,
    (format, is_configured): (OutputFormat, bool),
    signals: &Signals,
    output: &mut Output,
) -> Result<Option<Secret>, Option<String>> {
    let Some(account) = target.target().accounts.first() else { return Ok(None) };
    let progress = output.progress_width.map(|width| ProgressLine::of(width, "fetching the password"));
    let error = match signals.unless_stopped(agent::load_password(target, account)).await.ok_or(None)? {
        Ok(secret) => return Ok(Some(secret)),
        Err(error) => error,
    };
    drop(progress);
    let problem = if is_configured {
        format!("error: {}/{}: {error}", escape(&target.target().name), escape(&account.alias))
    } else {
        password::problem(&error, &account.password)
    };
    if format == OutputFormat::Json {
        let family = families(target.target()).first().copied().unwrap_or(Family::Any);
        let (_keep, cancel) = watch::channel(false);
        if let Some(run) = once(prober, target, family, parent, (None, cancel), Some(Err(error))).await {
            print_json(&run, output);
        }
    }
    Err(Some(problem))
}

/// The run's parent in the caller's trace.
fn parent(output: &mut Output) -> Option<RemoteParent> {
    let value = std::env::var("TRACEPARENT").ok().filter(|value| !value.is_empty())?;
    let parsed = RemoteParent::parse(&value);
    if parsed.is_none() {
        output.warn("TRACEPARENT is set and is no W3C traceparent; the run gets a trace of its own");
    }
    parsed
}

/// Limits belong to the plug-in's line, and that of -w is the lower one.
fn check_limits(args: &ProbeArgs) -> Result<(), String> {
    let flag = if args.warning.is_some() { "-w" } else { "-c" };
    if args.output != OutputFormat::Nagios && (args.warning.is_some() || args.critical.is_some()) {
        return Err(format!(
            "error: {flag}: it is a limit for --output nagios and has no effect here\n  help: add --output nagios, or \
             remove {flag}"
        ));
    }
    match (args.warning, args.critical) {
        (Some(warning), Some(critical)) if warning > critical => Err(format!(
            "error: -w: {warning} s is above the {critical} s of -c, so no run could be a WARNING\n  help: give -w the \
             smaller of the two"
        )),
        _ => Ok(()),
    }
}

impl PreparedProbe {
    async fn run(mut self, args: &ProbeArgs, signals: Signals, output: &mut Output) -> u8 {
        let families = families(self.target.target());
        let several = args.count > 1 || families.len() > 1;
        let mut secret = self.secret.take();
        let mut conclusion = Conclusion::new(args, several);
        // Whether all runs passed; none before the first.
        let mut passed = None;
        // The failure that was shown last.
        let mut shown = None;
        let mut planned = clock::now();
        // Runs that were not cancelled.
        let mut made = 0;
        for number in 0..args.count {
            if number > 0 {
                // A late run starts at once, and later ones are planned from there.
                planned = (planned + self.every).max(clock::now());
                if !wait(planned, &signals.stopped).await {
                    break;
                }
            }
            for family in families {
                let progress = output.progress_width.zip(self.steps.clone()).map(|(width, steps)| {
                    let run =
                        if args.count > 1 { format!("run {} of {}: ", number + 1, args.count) } else { String::new() };
                    ProgressLine::of_run(width, run, steps)
                });
                // A task of its own: the runtime goes through the kernel to wake the one that it was started with.
                let next = (number + 1 < args.count && !self.every.is_zero()).then(|| planned + self.every);
                let (prober, target, parent) = (self.prober.clone(), self.target.clone(), self.parent.clone());
                let (secret, cancel) = (secret.take().map(Ok), (next, signals.stopped.clone()));
                let one = async move { once(&prober, &target, *family, parent.as_ref(), cancel, secret).await };
                let mut task = tokio::spawn(one);
                let run = tokio::select! {
                    run = &mut task => run,
                    () = signals.overdue() => {
                        task.abort();
                        output.warn("a run did not end in time and is left out");
                        break;
                    }
                };
                drop(progress);
                let run = match run {
                    Ok(Some(run)) => run,
                    Ok(None) => break,
                    Err(error) => {
                        output.error(&format!("a run broke off: {error}"));
                        return FAILED;
                    }
                };
                show(&run, args.output, several, &mut shown, output);
                made += u64::from(run.error_type != Some(ErrorType::Cancelled));
                passed = Some(passed.unwrap_or(true) && run.outcome == RunOutcome::Passed);
                conclusion.add(&run, output.style);
                if let Some(delivery) = &self.delivery {
                    delivery.metrics().record(&run);
                    delivery.deliver(run);
                }
            }
            if output.is_closed() || *signals.stopped.borrow() {
                break;
            }
        }
        let code = conclusion.conclude(passed == Some(true), output);
        let asked = u64::from(args.count) * families.len() as u64;
        if signals.code().is_some() && made < asked && several {
            output.warn(&format!("stopped: {made} of {asked} runs were made"));
        }
        let code = signals.code().filter(|_| args.output != OutputFormat::Nagios).unwrap_or(code);
        if let Some(delivery) = self.delivery {
            let progress = output.progress_width.map(|width| ProgressLine::of(width, "delivering"));
            let report = delivery.shutdown(signals.left().map_or(EXPORT, |left| left.min(EXPORT))).await;
            drop(progress);
            if !report.is_complete() {
                let exporters = [&self.config.otlp.traces, &self.config.otlp.metrics].into_iter().flatten();
                let tried = exporters.map(|exporter| format!("{} ({})", exporter.endpoint, exporter.protocol.as_str()));
                let tried = tried.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ");
                output.warn(&format!(
                    "{report}\n  help: is an OTLP receiver there that speaks this protocol? tried {tried}"
                ));
            }
        }
        code
    }
}

/// Shows a run as soon as it has ended. `shown` is the failure that was shown last.
fn show(run: &Run, format: OutputFormat, several: bool, shown: &mut Option<FailedStep>, output: &mut Output) {
    match format {
        OutputFormat::Json => print_json(run, output),
        OutputFormat::Nagios => return,
        OutputFormat::Text if several => output.print(&terminal::line(run, output.style)),
        OutputFormat::Text => output.print(&terminal::waterfall(run, output.style)),
    }
    let failure = run.error_type.map(|class| (run.failed_step.clone(), class));
    // If both streams end at one place, the failure is in the waterfall, or some lines above.
    let seen = format == OutputFormat::Text && output.is_one_place && (!several || *shown == failure);
    if let Some(text) = terminal::failure(run, output.error_style).filter(|_| !seen) {
        output.errors(&text);
    }
    *shown = failure;
}

/// The step that failed a run, and its error type.
type FailedStep = (Option<StepName>, ErrorType);

pub(super) fn print_json(run: &Run, output: &mut Output) {
    match terminal::json(run) {
        Ok(line) => output.print(&line),
        Err(error) => output.error(&format!("a run cannot be written as JSON: {error}")),
    }
}

/// One run; none if the target has no account, or if `cancel` came before the run. Without `secret` the password is read
/// here. A refused certificate is read after the run, if there is time before `next`, the next planned start.
pub(super) async fn once(
    prober: &Prober,
    target: &TargetContext,
    family: Family,
    parent: Option<&RemoteParent>,
    (next, cancel): (Option<Instant>, Cancel),
    secret: Option<Result<Secret, SecretError>>,
) -> Option<Run> {
    let account = target.target().accounts.first()?;
    let mut stopped = cancel.clone();
    let secret = if let Some(secret) = secret {
        secret
    } else {
        tokio::select! {
            biased;
            // A password command may take long; the exit does not wait for it.
            Ok(_) = stopped.wait_for(|stop| *stop) => return None,
            secret = agent::load_password(target, account) => secret,
        }
    };
    let to_redact = secret.as_ref().ok().cloned();
    let journey = &target.target().journey;
    let run = agent::run_once(prober, journey, parent, cancel.clone(), |ids| Job {
        target,
        account,
        family,
        ids,
        start_lag: None,
        secret,
        usual_messages: None,
        hold_login: None,
    });
    let mut run = run.await;
    latency::keep_waits_of_longest(&mut run);
    let within = next.map_or(Duration::MAX, |next| next.saturating_duration_since(clock::now()));
    inspect(&mut run, (target, account, to_redact.as_ref()), within, cancel).await;
    run.verdict = diagnose(&run).map(Box::new);
    Some(run)
}

/// Waits until then; false if a signal comes first.
async fn wait(planned: Instant, stopped: &Cancel) -> bool {
    // A timer fires at the next full millisecond, even for a time in the past.
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

/// The flags of `probe` alone that set a key of the configuration.
pub(super) fn flags(args: &ProbeArgs) -> Vec<Flag> {
    let examine = args.examine.then(|| "examine".to_owned());
    let cold = args.cold.then(|| "true".to_owned());
    given(&[
        ("target.mailbox", &args.mailbox, "--mailbox"),
        ("target.open", &examine, "--examine"),
        ("target.newest", &args.newest, "--newest"),
        ("target.window", &args.window, "--window"),
        ("target.cold", &cold, "--cold"),
        ("target.journey", &args.journey, "--journey"),
        ("target.timeout", &args.timeout, "--timeout"),
        ("target.tag", &args.tag, "--tag"),
        ("target.propagate", &args.propagate, "--propagate"),
        ("otlp.endpoint", &args.otlp_endpoint, "--otlp-endpoint"),
        ("otlp.protocol", &args.otlp_protocol, "--otlp-protocol"),
    ])
}

/// The flags for the server, the account and the login.
fn target_flags(args: &TargetArgs) -> Vec<Flag> {
    let insecure = args.insecure.then(|| "true".to_owned());
    // For the default variable `password` does it.
    let exact = (args.password_exact && password::is_named(args)).then(|| "true".to_owned());
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

/// The flags that were given, of keys, values and names.
pub(super) fn given(flags: &[(&str, &Option<String>, &str)]) -> Vec<Flag> {
    let flag = |(key, value, name): &(&str, &Option<String>, &str)| {
        Some(Flag { key: (*key).to_owned(), value: (*value).clone()?, name: (*name).to_owned() })
    };
    flags.iter().filter_map(flag).collect()
}
