//! `imaptrace probe`: runs now, results on standard output.
//!
//! Whatever keeps a run from starting is wrong usage, a secret that cannot be had included; what a run finds is a result.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use imaptrace_imap::Secret;
use imaptrace_record::{ErrorType, Run, RunOutcome, StepName};
use tokio::{sync::watch, time::sleep_until};

use super::{
    args::{OutputFormat, ProbeArgs, TargetArgs},
    conclusion::Conclusion,
    environment::{Environment, environment},
    exit_code::{FAILED, USAGE},
    misuse::unknown,
    output::Output,
    password::{self, PasswordSource, ask},
    progress::ProgressLine,
    signals::Signals,
};
use crate::{
    agent::{self, families, wiring},
    clock,
    config::{self, Config, Flag, Probe, units},
    delivery::Delivery,
    net::Family,
    plan::Target,
    probe::{Cancel, CurrentStep, Job, LineSink, Prober, TargetContext, inspect},
    secret::SecretError,
    telemetry::{
        RemoteParent,
        logs::{self, LogSettings},
    },
    terminal::{self, Style},
};

/// What a one-shot run waits for its export.
const EXPORT: Duration = Duration::from_secs(5);

pub(super) async fn run(args: ProbeArgs, output: &mut Output) -> u8 {
    // Before a password command can run: it is ended with this process.
    let signals = match Signals::catch() {
        Ok(signals) => signals,
        Err(error) => {
            output.error(&format!("cannot listen for signals: {error}"));
            return FAILED;
        }
    };
    match prepare(&args, &signals, output).await {
        Ok(plan) => plan.run(&args, signals, output).await,
        Err(NotStarted::Usage(problem)) => misuse(&problem, args.output, output),
        Err(NotStarted::Stopped) if args.output == OutputFormat::Nagios => {
            unknown("error: stopped before the first run", output)
        }
        Err(NotStarted::Stopped) => signals.early_code(),
        Err(NotStarted::Secret { problem, run }) => {
            // A reader of a line for each run gets one for this, too.
            if args.output == OutputFormat::Json {
                print_json(&run, output);
            }
            misuse(&problem, args.output, output)
        }
    }
}

/// Why there is no run.
enum NotStarted {
    /// What is wrong, as it is printed.
    Usage(String),
    /// The password cannot be had: the same, and the record of the void run, for --output json.
    Secret { problem: String, run: Box<Run> },
    /// A signal came first.
    Stopped,
}

impl From<String> for NotStarted {
    fn from(problem: String) -> Self {
        Self::Usage(problem)
    }
}

/// Everything that a run needs.
struct Plan {
    prober: Arc<Prober>,
    /// The step that the run is at, where a terminal shows it.
    steps: Option<watch::Receiver<Option<CurrentStep>>>,
    target: Arc<TargetContext>,
    /// For the first run; those after it fetch it anew.
    secret: Option<Secret>,
    config: Config,
    delivery: Option<Delivery>,
    every: Duration,
    parent: Option<RemoteParent>,
}

async fn prepare(args: &ProbeArgs, signals: &Signals, output: &mut Output) -> Result<Plan, NotStarted> {
    let every = units::parse_duration(&args.every)
        .map_err(|error| format!("error: --every: {}", units::explain_duration(&args.every, error)))?;
    check_limits(args)?;
    let place = PasswordSource::find(&args.target)?;
    let Environment { variables, not_utf8 } = environment();
    let request = Probe {
        server: args.target.server.clone(),
        flags: flags(args),
        environment: variables,
        not_utf8,
        password: place.source(),
    };
    let mut config = config::probe(&request).map_err(|problems| problems.to_string())?;
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
    logs::init(&log_settings(args.output, output)).map_err(|error| format!("error: {error}"))?;
    let mut target = config.targets.first().cloned().ok_or_else(|| "error: no target".to_owned())?;
    let mut prepared = read_files(target.clone())?;
    let parent = parent(output);
    let mut prober = Prober::new(config.dns.clone());
    let mut steps = None;
    if args.verbose {
        prober = prober.with_line_sink(conversation_sink(output.error_style()));
    } else if output.progress_width().is_some() {
        // The conversation shows life enough, and a line that is written anew would be in its way.
        let (sender, receiver) = watch::channel(None);
        prober = prober.watched(sender);
        steps = Some(receiver);
    }
    let prober = Arc::new(prober);
    let mut secret = None;
    if !place.is_asked_for() {
        secret = fetch(&prober, &prepared, parent.as_ref(), signals, output).await?;
    }
    let exports = config.otlp.traces.is_some() || config.otlp.metrics.is_some();
    let delivery = if exports {
        let delivery = unless_stopped(signals, wiring::delivery(&config, None, None)).await?;
        Some(delivery.map_err(|error| format!("error: {error}"))?)
    } else {
        None
    };
    // No password is asked for what cannot run: all else was tried before.
    if place.is_asked_for() {
        unless_stopped(signals, ask(&mut target)).await??;
        prepared = read_files(target)?;
        secret = fetch(&prober, &prepared, parent.as_ref(), signals, output).await?;
    }
    Ok(Plan { prober, steps, target: Arc::new(prepared), secret, config, delivery, every, parent })
}

/// The files that the target's TLS options name.
fn read_files(target: Target) -> Result<TargetContext, String> {
    TargetContext::new(target).map_err(|error| format!("error: {error}"))
}

/// The password of the target's account; none without an account.
async fn fetch(
    prober: &Arc<Prober>,
    target: &TargetContext,
    parent: Option<&RemoteParent>,
    signals: &Signals,
    output: &mut Output,
) -> Result<Option<Secret>, NotStarted> {
    let Some(account) = target.target().accounts.first() else { return Ok(None) };
    let progress = output.progress_width().map(|width| ProgressLine::of(width, "fetching the password"));
    let error = match unless_stopped(signals, agent::load_password(target, account)).await? {
        Ok(secret) => return Ok(Some(secret)),
        Err(error) => error,
    };
    drop(progress);
    let problem = password::problem(&error, &account.password);
    let family = families(target.target()).first().copied().unwrap_or(Family::Any);
    let (_keep, cancel) = watch::channel(false);
    let run = once(prober, target, family, parent, (None, cancel), Some(Err(error))).await;
    Err(run.map_or_else(
        || NotStarted::Usage(problem.clone()),
        |run| NotStarted::Secret { problem: problem.clone(), run: Box::new(run) },
    ))
}

/// What comes of it, unless a signal comes first.
async fn unless_stopped<T>(signals: &Signals, work: impl Future<Output = T>) -> Result<T, NotStarted> {
    let mut stopped = signals.stopped().clone();
    tokio::select! {
        done = work => Ok(done),
        Ok(_) = stopped.wait_for(|stopped| *stopped) => Err(NotStarted::Stopped),
    }
}

/// What is logged on the way. Delivery's log lines are for an agent; here its report at the end is enough. What a run notes is in its result, but for the line of a plug-in, which has no room for it.
fn log_settings(format: OutputFormat, output: &Output) -> LogSettings {
    let notes = if format == OutputFormat::Nagios { ",imaptrace::probe::mailbox=warn" } else { "" };
    let usual = || format!("warn,imaptrace::delivery=off,imaptrace::probe=off{notes}");
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| usual());
    LogSettings { color: output.error_style().colour, filter: Some(filter), ..LogSettings::default() }
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

/// Limits are a plug-in's, and the lower one comes first.
fn check_limits(args: &ProbeArgs) -> Result<(), String> {
    let flag = if args.warning.is_some() { "-w" } else { "-c" };
    if args.output != OutputFormat::Nagios && (args.warning.is_some() || args.critical.is_some()) {
        return Err(format!(
            "error: {flag}: it is a limit for --output nagios, and nothing here would go by it\n  help: add --output \
             nagios, or take {flag} out"
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

impl Plan {
    async fn run(mut self, args: &ProbeArgs, signals: Signals, output: &mut Output) -> u8 {
        let stopped = signals.stopped().clone();
        let mut secret = self.secret.take();
        let mut conclusion = Conclusion::new(args, self.several(args));
        // Whether all of them did; none yet.
        let mut passed = None;
        // The failure that was shown last.
        let mut shown = None;
        let mut planned = clock::now();
        // Runs that came to an end of their own.
        let mut made = 0;
        for number in 0..args.count {
            if number > 0 {
                // A run that is late starts at once, and the ones after it count from there.
                planned = (planned + self.every).max(clock::now());
                if !wait(planned, &stopped).await {
                    break;
                }
            }
            for family in families(self.target.target()) {
                let progress = self.progress(number, args.count, output);
                // A task of its own: the runtime goes through the kernel to wake the one that it was started with.
                let next = (number + 1 < args.count && !self.every.is_zero()).then(|| planned + self.every);
                let (prober, target, parent) = (self.prober.clone(), self.target.clone(), self.parent.clone());
                let (secret, cancel) = (secret.take().map(Ok), (next, stopped.clone()));
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
                self.show(&run, args, &mut shown, output);
                made += u64::from(run.error_type != Some(ErrorType::Cancelled));
                passed = Some(passed.unwrap_or(true) && run.outcome == RunOutcome::Passed);
                conclusion.add(&run, output.style());
                if let Some(delivery) = &self.delivery {
                    delivery.metrics().record(&run);
                    delivery.deliver(run);
                }
            }
            if output.is_closed() || *stopped.borrow() {
                break;
            }
        }
        let code = conclusion.conclude(passed == Some(true), output);
        let asked = u64::from(args.count) * families(self.target.target()).len() as u64;
        if signals.code().is_some() && made < asked && self.several(args) {
            output.warn(&format!("stopped: {made} of {asked} runs were made"));
        }
        let code = signals.code().filter(|_| args.output != OutputFormat::Nagios).unwrap_or(code);
        if let Some(delivery) = self.delivery {
            let progress = output.progress_width().map(|width| ProgressLine::of(width, "delivering"));
            let report = delivery.shutdown(signals.left().map_or(EXPORT, |left| left.min(EXPORT))).await;
            drop(progress);
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

    /// Whether a run is one of several, which has a line of its own.
    fn several(&self, args: &ProbeArgs) -> bool {
        args.count > 1 || families(self.target.target()).len() > 1
    }

    /// Life on a terminal, for as long as it is held.
    fn progress(&self, number: u32, count: u32, output: &Output) -> Option<ProgressLine> {
        let run = if count > 1 { format!("run {} of {count}: ", number + 1) } else { String::new() };
        Some(ProgressLine::of_run(output.progress_width()?, run, self.steps.clone()?))
    }

    /// What is shown of a run as soon as it has ended. `shown` is the failure that was shown last.
    fn show(&self, run: &Run, args: &ProbeArgs, shown: &mut Option<FailedStep>, output: &mut Output) {
        let several = self.several(args);
        match args.output {
            OutputFormat::Json => print_json(run, output),
            OutputFormat::Nagios => return,
            OutputFormat::Text if several => output.print(&terminal::line(run, output.style())),
            OutputFormat::Text => output.print(&terminal::waterfall(run, output.style())),
        }
        let failure = run.error_type.map(|class| (run.failed_step.clone(), class));
        // Where both streams end in one place, it stands in the waterfall, or a line above.
        let seen = args.output == OutputFormat::Text && output.is_one_place() && (!several || *shown == failure);
        if let Some(text) = terminal::failure(run, output.error_style()).filter(|_| !seen) {
            output.errors(&text);
        }
        *shown = failure;
    }
}

/// What failed a run, and how.
type FailedStep = (Option<StepName>, ErrorType);

fn print_json(run: &Run, output: &mut Output) {
    match terminal::json(run) {
        Ok(line) => output.print(&line),
        Err(error) => output.error(&format!("a run cannot be written as JSON: {error}")),
    }
}

/// One run; none when the target has no account, or when it is to end before it has begun. A secret that was not fetched
/// yet is fetched now. With what is to be known of a certificate that was refused, if that can be had before the next
/// planned start.
async fn once(
    prober: &Prober,
    target: &TargetContext,
    family: Family,
    parent: Option<&RemoteParent>,
    (next, cancel): (Option<Instant>, Cancel),
    secret: Option<Result<Secret, SecretError>>,
) -> Option<Run> {
    let account = target.target().accounts.first()?;
    let secret = if let Some(secret) = secret {
        secret
    } else {
        let mut stopped = cancel.clone();
        tokio::select! {
            biased;
            // A password command may take its time; who ends the runs does not wait for it.
            Ok(_) = stopped.wait_for(|stop| *stop) => return None,
            secret = agent::load_password(target, account) => secret,
        }
    };
    let kept = secret.as_ref().ok().cloned();
    let journey = &target.target().journey;
    let run = agent::run_once(prober, journey, parent, cancel.clone(), |ids| Job {
        target,
        account,
        family,
        ids,
        start_lag: None,
        secret,
        hold_login: None,
    });
    let mut run = run.await;
    let within = next.map_or(Duration::MAX, |next| next.saturating_duration_since(clock::now()));
    inspect(&mut run, (target, account, kept.as_ref()), within, cancel).await;
    Some(run)
}

/// Writes each line of a conversation to standard error. Where that is gone or not read, the lines are dropped.
fn conversation_sink(style: Style) -> LineSink {
    LineSink::new(move |line| {
        logs::write_at_once(terminal::conversation_line(line, style).as_bytes());
    })
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

fn misuse(problem: &str, format: OutputFormat, output: &mut Output) -> u8 {
    if format == OutputFormat::Nagios {
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
        ("target.tag", &args.tag, "--tag"),
        ("otlp.endpoint", &args.otlp_endpoint, "--otlp-endpoint"),
        ("otlp.protocol", &args.otlp_protocol, "--otlp-protocol"),
    ];
    [target_flags(&args.target), given(&own)].concat()
}

/// Those of them that say which server, as whom, and how.
pub(super) fn target_flags(args: &TargetArgs) -> Vec<Flag> {
    let insecure = args.insecure.then(|| "true".to_owned());
    // It stands beside a place; the default variable has it from `password`.
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

/// Flags that were given: key, value, name.
pub(super) fn given(flags: &[(&str, &Option<String>, &str)]) -> Vec<Flag> {
    let flag = |(key, value, name): &(&str, &Option<String>, &str)| {
        Some(Flag { key: (*key).to_owned(), value: (*value).clone()?, name: (*name).to_owned() })
    };
    flags.iter().filter_map(flag).collect()
}

/// The one target of a `probe` request.
pub(super) fn single(config: Config) -> Option<Target> {
    config.targets.into_iter().next()
}
