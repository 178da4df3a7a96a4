//! The runs of a row.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use imaptrace::{
    net::Family,
    plan::{Dns, Security, Timing},
    probe::{Ids, Job, Prober, TargetContext},
};
use imaptrace_record::{Run, SpanId, Step, TraceId};
use tokio::{sync::watch, time::sleep};

use crate::support::{
    dovecot::Dovecot,
    run::{account, prepare, target},
};

/// What is done.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// So many connections at a time.
    pub in_flight: usize,
    /// So many runs on each, one after the other.
    pub rounds: usize,
    /// In which time all connections begin, one after the other.
    pub ramp: Duration,
    /// A thread of the runtime is blocked now and then.
    pub blocked: bool,
    /// The kernel stamps.
    pub kernel: bool,
    /// Clear text or TLS.
    pub security: Security,
}

/// How long a thread is blocked, and how long it is not: often enough that more than one command of a hundred is hit.
const BLOCKED: Duration = Duration::from_millis(30);
const BETWEEN: Duration = Duration::from_millis(20);
/// As many connections come from one address: its ports, and those of connections that have just ended, are 28,000.
const PER_ADDRESS: usize = 2_500;

/// Runs it. `users` load users are there.
pub async fn runs(load: Load, server: &Dovecot, users: u32) -> Vec<Run> {
    let blocking = load.blocked.then(|| {
        tokio::spawn(async {
            loop {
                sleep(BETWEEN).await;
                std::thread::sleep(BLOCKED);
            }
        })
    });
    let prober = Arc::new(Prober::new(Dns::default()));
    let targets: Vec<_> = (0..load.in_flight.div_ceil(PER_ADDRESS))
        .map(|number| Arc::new(prepared(load, server, users, number)))
        .collect();
    let mut tasks = Vec::with_capacity(load.in_flight);
    for number in 0..load.in_flight {
        let (prober, target) = (Arc::clone(&prober), Arc::clone(&targets[number % targets.len()]));
        let wait = load.ramp * u32::try_from(number).unwrap() / u32::try_from(load.in_flight).unwrap();
        tasks.push(tokio::spawn(async move {
            sleep(wait).await;
            let mut runs = Vec::with_capacity(load.rounds);
            for _ in 0..load.rounds {
                runs.push(run(&prober, &target, number).await);
            }
            runs
        }));
    }
    let mut runs = Vec::with_capacity(load.in_flight * load.rounds);
    for task in tasks {
        runs.extend(task.await.unwrap());
    }
    if let Some(blocking) = blocking {
        blocking.abort();
    }
    runs
}

fn prepared(load: Load, server: &Dovecot, users: u32, number: usize) -> TargetContext {
    let port = if load.security == Security::Tls { server.tls } else { server.plain };
    let mut target = target(SocketAddr::from(([127, 0, 0, 1], port)), load.security);
    target.tls.ca_file = Some(server.ca.clone());
    target.accounts = (1..=users).map(|user| account(&format!("load{user}"), "load")).collect();
    target.timing = Timing { kernel_stamps: load.kernel, ..Timing::default() };
    target.source_address = Some([127, 0, 0, u8::try_from(number + 1).unwrap()].into());
    // The server is the slowest part here, and a run that was given up would say nothing.
    let long = Duration::from_secs(240);
    let deadlines = &mut target.deadlines;
    (deadlines.run, deadlines.connect, deadlines.tls, deadlines.greeting) = (long, long, long, long);
    (deadlines.command, deadlines.write, deadlines.logout) = (long, long, long);
    prepare(target)
}

async fn run(prober: &Prober, target: &TargetContext, number: usize) -> Run {
    let (_keep, cancel) = watch::channel(false);
    let ids = Ids { trace: TraceId::random(), root: SpanId::random(), parent: None };
    let accounts = &target.target().accounts;
    let account = &accounts[number % accounts.len()];
    let secret = account.password.load().await;
    prober
        .run(
            Job {
                target,
                account,
                family: Family::Any,
                ids,
                start_lag: None,
                secret,
                usual_messages: None,
                hold_login: None,
            },
            cancel,
        )
        .await
}

/// The most runs that had a connection at the same time, and the most that were logged in.
pub fn peaks(runs: &[Run]) -> (usize, usize) {
    let from = |name: &'static [&str]| {
        let spans = runs.iter().filter_map(move |run| {
            let begin = run.steps.iter().find(|step| name.contains(&step.name.as_str()))?;
            let end = run.steps.iter().map(Step::end_s).max()?;
            Some((nanos(run, begin.end_s()), nanos(run, end)))
        });
        most(spans)
    };
    (from(&["connect"]), from(&["LOGIN", "AUTHENTICATE"]))
}

/// A moment in a run, in nanoseconds since 1970.
pub fn nanos(run: &Run, since: imaptrace_record::Seconds) -> i64 {
    let started = run.started_at.to_system_time().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from((started + since.to_duration()).as_nanos()).unwrap()
}

/// How many spans at most have a moment in common.
fn most(spans: impl Iterator<Item = (i64, i64)>) -> usize {
    let mut changes: Vec<(i64, isize)> = spans.flat_map(|(begin, end)| [(begin, 1), (end, -1)]).collect();
    changes.sort_unstable();
    let sums = changes.iter().scan(0, |sum, (_, change)| {
        *sum += change;
        Some(*sum)
    });
    usize::try_from(sums.max().unwrap_or_default()).unwrap()
}
