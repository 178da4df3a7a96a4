//! `probe` of several accounts at once: those of an agent's configuration, or several servers. Each is probed once, within
//! `[limits]`, and gets a line as it ends. A single one is left to `probe`. Exports nothing, and draws no waterfall. Called by
//! `cli`.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use imaptrace_record::{Run, RunOutcome};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
    time::sleep_until,
};

use super::{
    args::{OutputFormat, ProbeArgs},
    exit_code::{FAILED, PASSED, USAGE},
    output::Output,
    password,
    probe::{self, configure, flags, once, print_json},
    selection::{self, NamedAccounts},
    signals::Signals,
    usage_error::unknown,
};
use crate::{
    agent::families,
    clock,
    config::{Config, Otlp},
    plan::{RunLimits, Target},
    probe::{Cancel, Prober, TargetContext},
    terminal,
};

/// What the arguments select.
enum ProbeSelection {
    /// One server, by its flags.
    Server,
    /// One account of a configuration, which has no other.
    Account(Box<Config>),
    /// Several accounts, which have been probed: the exit code.
    Ended(u8),
}

pub(super) async fn run(args: ProbeArgs, signals: Signals, output: &mut Output) -> u8 {
    match probe_several(&args, &signals, output).await {
        Ok(ProbeSelection::Server) => Box::pin(probe::run(args, None, signals, output)).await,
        Ok(ProbeSelection::Account(config)) => Box::pin(probe::run(args, Some(*config), signals, output)).await,
        Ok(ProbeSelection::Ended(code)) => code,
        Err(problem) if args.output == OutputFormat::Nagios => unknown(&problem, output),
        Err(problem) => {
            output.errors(&problem);
            USAGE
        }
    }
}

/// Probes several accounts, if there are several. An error is wrong usage.
async fn probe_several(args: &ProbeArgs, signals: &Signals, output: &mut Output) -> Result<ProbeSelection, String> {
    let is_configured = args.config.is_some() || args.all;
    if let Some(credentials) = args.credentials.as_ref().filter(|_| !is_configured) {
        let path = credentials.display();
        return Err(format!(
            "error: --credentials: {path} is for the passwords of a configuration\n  help: add --config FILE, or remove it"
        ));
    }
    if !is_configured && args.names.len() == 1 {
        return Ok(ProbeSelection::Server);
    }
    let config = if is_configured { configured(args)? } else { servers(args)? };
    if config.targets.len() == 1 {
        return Ok(ProbeSelection::Account(Box::new(config)));
    }
    if let Some(flag) = of_one_account(args) {
        return Err(format!(
            "error: {flag}: it is for one account, and {} are named\n  help: name one, or remove {flag}",
            config.targets.len()
        ));
    }
    output.start_log("warn,imaptrace::delivery=off,imaptrace::probe=off")?;
    Ok(ProbeSelection::Ended(probe_all(config, args.output, signals, output).await?))
}

/// A flag that has no meaning for several accounts.
fn of_one_account(args: &ProbeArgs) -> Option<&'static str> {
    let nagios = args.output == OutputFormat::Nagios;
    let flags = [
        (nagios, "--output nagios"),
        (args.count > 1, "--count"),
        (args.verbose, "--verbose"),
        (args.otlp_endpoint.is_some(), "--otlp-endpoint"),
        (args.metrics, "--metrics"),
    ];
    flags.into_iter().find_map(|(is_given, flag)| is_given.then_some(flag))
}

/// The named accounts of a configuration, which exports only by the flags.
fn configured(args: &ProbeArgs) -> Result<Config, String> {
    let named = NamedAccounts {
        file: args.config.as_deref(),
        names: if args.all { None } else { Some(&args.names) },
        credentials: args.credentials.as_deref(),
    };
    let mut config = selection::accounts(&named, flags(args))?;
    if args.otlp_endpoint.is_none() {
        config.otlp = Otlp::default();
    }
    Ok(config)
}

/// The configuration of several servers, which share all flags.
fn servers(args: &ProbeArgs) -> Result<Config, String> {
    let mut all: Option<Config> = None;
    // A word without a dot may be a mistyped password: it is never sent to a name server.
    if args.names.iter().any(|name| !name.contains(['.', ':']) && name != "localhost") {
        return Err("error: SERVER: one of several (not shown: it may be a password) is neither a URL nor a name with a dot\n  \
                    help: a user goes with --user NAME, a mailbox with --mailbox NAME, a password with --password-file FILE"
            .to_owned());
    }
    for server in &args.names {
        let (password, asks) = password::find(server, &args.target)?;
        if asks {
            return Err(
                "error: the password of several servers is not asked for\n  help: give it with --password-file, \
                        --password-env or --password-command"
                    .to_owned(),
            );
        }
        let config = configure(server, &args.target, flags(args), password).map_err(|problems| problems.to_string())?;
        match &mut all {
            Some(all) => all.targets.extend(config.targets),
            None => all = Some(config),
        }
    }
    all.ok_or_else(|| "error: no server".to_owned())
}

/// Probes all targets, each with its first account, and prints each result as it comes.
async fn probe_all(config: Config, format: OutputFormat, signals: &Signals, output: &mut Output) -> Result<u8, String> {
    let mut contexts: HashMap<String, TargetContext> = HashMap::new();
    let (sender, mut ended) = mpsc::unbounded_channel::<Run>();
    let (prober, limiter) = (Arc::new(Prober::new(config.dns.clone())), Arc::new(RunLimiter::new(&config.limits)));
    let mut tasks = JoinSet::new();
    let mut due = 0;
    for target in config.targets {
        // Accounts of one target share what is read of its files.
        let key = format!("{} {}", target.name, target.endpoint);
        let context = if let Some(known) = contexts.get(&key) {
            known.sharing(target)
        } else {
            let new = TargetContext::new(target).map_err(|error| format!("error: {error}"))?;
            let own = new.sharing(new.target().clone());
            contexts.insert(key, new);
            own
        };
        due += families(context.target()).len();
        let (prober, limiter, cancel, sender) =
            (prober.clone(), limiter.clone(), signals.stopped.clone(), sender.clone());
        tasks.spawn(async move { probe_one(&context, &prober, &limiter, cancel, |run| drop(sender.send(run))).await });
    }
    drop(sender);
    let mut counts = [0_usize; 3];
    loop {
        let run = tokio::select! {
            run = ended.recv() => run,
            () = signals.overdue() => {
                tasks.abort_all();
                output.warn("runs did not end in time and are left out");
                break;
            }
        };
        let Some(run) = run else { break };
        counts[match run.outcome {
            RunOutcome::Passed => 0,
            RunOutcome::Failed => 1,
            RunOutcome::Void => 2,
        }] += 1;
        if format == OutputFormat::Json {
            print_json(&run, output);
        } else {
            output.print(&terminal::listed(run, output.style));
        }
        if output.is_closed() {
            break;
        }
    }
    let [passed, failed, void] = counts;
    if format != OutputFormat::Json {
        output.print(&format!("\n{due} runs: {passed} passed, {failed} failed, {void} void\n"));
    }
    let code = if passed == due { PASSED } else { FAILED };
    Ok(signals.code().unwrap_or(code))
}

/// Probes the first account of a target over each of its address families.
async fn probe_one(
    context: &TargetContext,
    prober: &Prober,
    limiter: &RunLimiter,
    cancel: Cancel,
    ended: impl Fn(Run),
) {
    for family in families(context.target()) {
        let mut stopped = cancel.clone();
        let permits = tokio::select! {
            biased;
            Ok(_) = stopped.wait_for(|stopped| *stopped) => return,
            permits = limiter.acquire(context.target()) => permits,
        };
        let run = once(prober, context, *family, None, (None, cancel.clone()), None).await;
        drop(permits);
        let Some(run) = run else { return };
        ended(run);
    }
}

/// Enforces `[limits]`: runs in flight, and logins per second, of all servers together and of each.
struct RunLimiter {
    limits: RunLimits,
    all: Mutex<ServerLimiter>,
    servers: Mutex<HashMap<String, ServerLimiter>>,
}

struct ServerLimiter {
    in_flight: Arc<Semaphore>,
    /// When the next run may begin.
    next: Instant,
}

impl ServerLimiter {
    fn new(in_flight: usize) -> Self {
        Self { in_flight: Arc::new(Semaphore::new(in_flight)), next: clock::now() }
    }

    /// When a run may begin, by its logins a second.
    fn reserve_login(&mut self, rate: Option<NonZeroU32>) -> Instant {
        let begin = self.next.max(clock::now());
        self.next = rate.map_or(begin, |rate| begin + Duration::from_secs(1) / rate.get());
        begin
    }
}

impl RunLimiter {
    fn new(limits: &RunLimits) -> Self {
        Self { limits: *limits, all: Mutex::new(ServerLimiter::new(limits.in_flight)), servers: Mutex::default() }
    }

    /// Waits until a run of this target may begin. Its place is free again when the permits are dropped.
    async fn acquire(&self, target: &Target) -> [Option<OwnedSemaphorePermit>; 2] {
        let in_flight = self.with_server(target, |server| server.in_flight.clone());
        let of_server = in_flight.acquire_owned().await.ok();
        let rate = self.limits.logins_per_second_per_server;
        sleep_until(self.with_server(target, |server| server.reserve_login(rate)).into()).await;
        let in_flight = self.all().in_flight.clone();
        let of_all = in_flight.acquire_owned().await.ok();
        let begin = self.all().reserve_login(self.limits.logins_per_second);
        sleep_until(begin.into()).await;
        [of_server, of_all]
    }

    fn all(&self) -> MutexGuard<'_, ServerLimiter> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_server<T>(&self, target: &Target, of: impl FnOnce(&mut ServerLimiter) -> T) -> T {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || ServerLimiter::new(self.limits.in_flight_per_server);
        of(servers.entry(target.endpoint.to_string()).or_insert_with(new))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_spread_by_their_rate_and_not_held_back_without_one() {
        let mut limiter = ServerLimiter::new(1);
        let begins = [(); 3].map(|()| limiter.reserve_login(NonZeroU32::new(4)));
        assert!(begins.windows(2).all(|pair| pair[1] - pair[0] == Duration::from_millis(250)), "{begins:?}");
        let mut free = ServerLimiter::new(1);
        assert!([(); 3].map(|()| free.reserve_login(None)).iter().all(|begin| *begin <= clock::now()));
    }
}
