//! The processes that probe: what is measured. Each gets its orders on standard input and tells on standard output.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use imaptrace::{
    agent, clock,
    net::Family,
    plan::{Deadlines, Dns, Limits, Security},
    probe::{Job, Prober, TargetContext},
    telemetry::logs::{self, LogSettings},
};
use imaptrace_record::{ErrorType, Run, RunOutcome};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::sleep_until,
};

use crate::{
    servers::KINDS,
    support::run::{prepare, target},
};

const HOUR: Duration = Duration::from_secs(3600);
/// Good targets among the hostile ones.
pub const GOOD: u32 = 50;
/// Runs in flight that the agent allows by default.
const IN_FLIGHT: usize = 256;

/// One thing that is probed over and over, and who probes.
#[derive(Clone)]
struct Subject {
    prober: Arc<Prober>,
    target: Arc<TargetContext>,
    cancel: watch::Receiver<bool>,
}

impl Subject {
    /// As the agent does it: with a live root, and whatever comes of it a record.
    async fn run(&self) -> Run {
        let account = &self.target.target().accounts[0];
        let secret = account.password.load().await;
        let (target, family) = (&self.target, Family::Any);
        let job =
            |ids| Job { target, account, family, ids, start_lag: None, secret, usual_messages: None, hold_login: None };
        agent::run_once(&self.prober, &self.target.target().journey, None, self.cancel.clone(), job).await
    }
}

/// All that a process has in common; nobody ever cancels.
struct Probes {
    prober: Arc<Prober>,
    keep: watch::Sender<bool>,
}

impl Probes {
    fn new() -> Self {
        // It writes nothing at this level but what goes wrong by the thousand here.
        logs::init(&LogSettings { filter: Some("off".to_owned()), ..LogSettings::default() }).unwrap();
        Self { prober: Arc::new(Prober::new(Dns::default())), keep: watch::Sender::new(false) }
    }

    fn subject(&self, server: SocketAddr, ca: Option<&str>, limits: Limits, deadlines: Deadlines) -> Subject {
        let mut target = target(server, if ca.is_some() { Security::Tls } else { Security::None });
        target.tls.ca_file = ca.map(|ca| Path::new(ca).to_owned());
        (target.limits, target.deadlines) = (limits, deadlines);
        Subject { prober: Arc::clone(&self.prober), target: Arc::new(prepare(target)), cancel: self.keep.subscribe() }
    }
}

pub fn addresses(list: &str) -> Vec<SocketAddr> {
    list.split(',').map(|address| address.parse().unwrap()).collect()
}

/// The value below which this part of the sorted ones lies.
pub fn quantile(sorted: &[f64], part: f64) -> f64 {
    let rank = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

fn orders() -> impl Iterator<Item = String> {
    std::io::stdin().lines().map(Result::unwrap)
}

/// One run against each server that is named. Tells the peak of resident memory after it, MB/s, and 1 if it passed.
pub fn literal(server: &str, ca: Option<&str>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let probes = Probes::new();
    let limits = Limits { command_bytes: 1 << 40, session_bytes: 1 << 40, ..Limits::default() };
    let deadlines = Deadlines { run: HOUR, command: HOUR, ..Deadlines::default() };
    for server in std::iter::once(server.to_owned()).chain(orders()) {
        let subject = probes.subject(server.parse().unwrap(), ca, limits, deadlines);
        let run = runtime.block_on(subject.run());
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let fetch = run.steps.iter().find(|step| step.name == "FETCH");
        let rate = fetch.map_or(0.0, |step| {
            step.literal_bytes.unwrap_or_default() as f64 / 1e6 / step.duration_s.to_duration().as_secs_f64()
        });
        let passed = u8::from(run.outcome == RunOutcome::Passed);
        println!("{} {rate} {passed}", peak.trim().trim_end_matches(" kB"));
    }
}

/// By how many ms after its deadline a run ended, and as what.
type Ended = (f64, Option<ErrorType>);

/// Each order says how many runs are to be in flight from now on. With a deadline for the run, `report` waits for the end
/// of all of them, and tells by how many ms each came after it.
pub fn hold(servers: &str, ca: Option<&str>, deadline: Option<Duration>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let probes = Probes::new();
    let deadlines = match deadline {
        None => Deadlines { run: HOUR, greeting: HOUR, tls: HOUR, command: HOUR, ..Deadlines::default() },
        Some(run) => Deadlines { run, greeting: run, tls: run, command: run, ..Deadlines::default() },
    };
    let subjects: Vec<Subject> =
        addresses(servers).into_iter().map(|server| probes.subject(server, ca, Limits::default(), deadlines)).collect();
    let ended: Arc<Mutex<Vec<Ended>>> = Arc::default();
    let mut running = JoinSet::new();
    let mut started = 0;
    for order in orders() {
        let Ok(wanted) = order.parse::<usize>() else { break };
        for number in started..wanted {
            let (subject, ended) = (subjects[number % subjects.len()].clone(), Arc::clone(&ended));
            let whole = async move {
                let begun = clock::now();
                let run = subject.run().await;
                let Some(deadline) = deadline else {
                    // A panic would end this task alone, and the row would count one that waits no more.
                    eprintln!("a run ended that was to wait: {run:?}");
                    std::process::abort();
                };
                let late = signed_ms(clock::now(), begun + deadline);
                ended.lock().unwrap().push((late, run.error_type));
            };
            running.spawn_on(whole, runtime.handle());
        }
        started = wanted;
    }
    runtime.block_on(async { while running.join_next().await.is_some() {} });
    let ended = ended.lock().unwrap();
    let class = ended.first().and_then(|(_, class)| *class);
    let one = ended.iter().all(|(_, other)| *other == class);
    let lateness: Vec<String> = ended.iter().map(|(late, _)| format!("{late:.3}")).collect();
    println!("{} {}", class.filter(|_| one).map_or("several", ErrorType::as_str), lateness.join(" "));
}

fn signed_ms(at: Instant, due: Instant) -> f64 {
    let later = at.saturating_duration_since(due).as_secs_f64();
    (later - due.saturating_duration_since(at).as_secs_f64()) * 1e3
}

/// Good targets among hostile ones.
pub struct Mix {
    pub good: SocketAddr,
    /// One of each kind, in the order of [`KINDS`].
    pub hostile: Vec<SocketAddr>,
    pub rounds: u32,
    pub window: Duration,
    pub targets: u32,
    /// Between two runs of a hostile one.
    pub interval: Duration,
}

/// Tells the latencies of the good ones alone, then those among the others, each behind the number of runs that lost a
/// packet, then what became of the others.
pub fn mix(mix: &Mix) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let probes = Probes::new();
    let subject = |server| probes.subject(server, None, Limits::default(), Deadlines::default());
    let good: Vec<Subject> = (0..GOOD).map(|_| subject(mix.good)).collect();
    let hostile: Vec<(usize, Subject)> = (0..mix.targets as usize)
        .map(|number| (number % KINDS.len(), subject(mix.hostile[number % KINDS.len()])))
        .collect();
    let classes: Arc<Mutex<[[u32; 2]; KINDS.len()]>> = Arc::default();
    let (mut alone, mut among) = (Vec::new(), Vec::new());
    let second = Duration::from_secs(1);
    runtime.block_on(async {
        window(&good, second, second).await;
        for _ in 0..mix.rounds {
            alone.extend(window(&good, second, mix.window).await);
            // Ends with this block, and all its connections.
            let mut others = JoinSet::new();
            let places = Arc::new(Semaphore::new(IN_FLIGHT));
            for (number, (kind, subject)) in hostile.iter().enumerate() {
                let phase = mix.interval.mul_f64(number as f64 / hostile.len() as f64);
                let (places, classes) = (Arc::clone(&places), Arc::clone(&classes));
                others.spawn(pester(subject.clone(), *kind, phase, mix.interval, places, classes));
            }
            // The silent ones fill the places that they can fill.
            window(&good, second, mix.window).await;
            among.extend(window(&good, second, mix.window).await);
        }
    });
    for latencies in [alone, among] {
        let lost = latencies.iter().filter(|(_, lost)| *lost).count();
        let details: Vec<String> = latencies.iter().map(|(ms, _)| format!("{ms:.4}")).collect();
        println!("{lost} {}", details.join(" "));
    }
    let classes = classes.lock().unwrap();
    let details: Vec<String> = KINDS
        .iter()
        .zip(&*classes)
        .map(|((kind, class), [ran, _])| format!("{kind:?}: {ran} ended with `{class}`"))
        .collect();
    let right = classes.iter().all(|[ran, wrong]| *ran > 0 && *wrong == 0);
    println!(
        "Hostile runs that ended: {}; {}",
        details.join(", "),
        if right { "all of them right" } else { "not all as wanted" }
    );
}

/// Probes each good one every `interval` until the time is up. Gives their First Loading Latencies in ms, and whether a
/// packet of ours was lost: loopback drops some when anybody floods it.
async fn window(good: &[Subject], interval: Duration, length: Duration) -> Vec<(f64, bool)> {
    let begin = clock::now();
    let mut running = JoinSet::new();
    for (number, subject) in good.iter().enumerate() {
        let subject = subject.clone();
        let first = begin + interval.mul_f64(number as f64 / good.len() as f64);
        running.spawn(async move {
            let mut latencies = Vec::new();
            let mut due = first;
            while due < begin + length {
                sleep_until(due.into()).await;
                let run = subject.run().await;
                let latency = run.first_loading_latency_s.unwrap_or_else(|| panic!("a good run failed: {run:?}"));
                let lost = run.server.retransmits.is_some_and(|count| count > 0);
                latencies.push((latency.to_duration().as_secs_f64() * 1e3, lost));
                due += interval;
            }
            latencies
        });
    }
    running.join_all().await.concat()
}

/// Probes a hostile one every `interval`, when there is a place.
async fn pester(
    subject: Subject,
    kind: usize,
    phase: Duration,
    interval: Duration,
    places: Arc<Semaphore>,
    classes: Arc<Mutex<[[u32; 2]; KINDS.len()]>>,
) {
    let mut due = clock::now() + phase;
    loop {
        sleep_until(due.into()).await;
        due += interval;
        // A run that finds no place does not wait for one.
        let Ok(_place) = places.try_acquire() else { continue };
        let run = subject.run().await;
        let right = run.error_type == Some(KINDS[kind].1);
        let mut classes = classes.lock().unwrap();
        classes[kind][usize::from(!right)] += 1;
        if !right {
            eprintln!("{:?} came to {:?}", KINDS[kind], run.error_type);
        }
    }
}
