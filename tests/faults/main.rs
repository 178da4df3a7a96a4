//! Every call of a run to the kernel fails once in turn, in every way that it can: each time the run ends as a record with
//! the right class on the right step, and leaves neither a descriptor nor memory behind.
//!
//! A binary of its own, since it has functions in place of the C library's (`kernel.rs`) and counts what is allocated
//! (`memory.rs`). Each test runs in a process of its own, which this binary starts of itself.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test says what failed by failing"
)]
#![cfg(target_os = "linux")]

#[path = "../support/mod.rs"]
mod support;

mod blocked;
mod disk;
mod ends;
mod expected;
mod hung;
mod kernel;
mod log;
mod memory;
mod pauses;
mod server;
mod state_directory;
mod system_calls;

use std::{
    collections::{BTreeSet, HashSet},
    fs,
    io::Read as _,
    process::{Command, Stdio},
    sync::{Arc, mpsc},
    time::Duration,
};

use expected::{Expected, expected};
use imaptrace::{
    clock,
    net::{Buffer, Family},
    plan::{Dns, Host, ProxyProtocol, Security},
    probe::{Ids, Job, Prober},
    telemetry,
};
use imaptrace_record::{ErrorType, Run, RunOutcome, SpanId, StepName, StepOutcome, TraceId};
use kernel::{Fault, Plan, Seen};
use server::{Acceptors, Names, Server, Way};
use support::{
    run::{prepare, steps, target},
    script::Pem,
};
use tokio::{runtime::Runtime, sync::watch};

/// As long as a run lasts that nothing goes wrong with, many times over.
const PATIENCE: Duration = Duration::from_secs(900);
const MARK: &str = "IMAPTRACE_FAULTS_ALONE";
const NAME: &str = "mail.example.test";

/// Does the work of the test of this name in a process of its own: its descriptors and its memory are nobody else's, and
/// OpenSSL is told before it starts to load no roots, which would take 30 ms a connection.
fn alone(name: &str, work: impl FnOnce()) {
    if std::env::var_os(MARK).is_some() {
        return work();
    }
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .envs([(MARK, "1"), ("SSL_CERT_FILE", "/dev/null"), ("SSL_CERT_DIR", "/dev/null:/dev/null")])
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut pipe = child.stdout.take().unwrap();
    let reading = std::thread::spawn(move || {
        let mut said = Vec::new();
        drop(pipe.read_to_end(&mut said));
        String::from_utf8_lossy(&said).into_owned()
    });
    let started = clock::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if clock::now() - started > PATIENCE {
            drop(child.kill());
            drop(child.wait());
            break None;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let said = reading.join().unwrap();
    let tail: Vec<&str> = said.lines().rev().take(40).collect();
    let tail: Vec<&str> = tail.into_iter().rev().collect();
    assert!(status.is_some_and(|status| status.success()), "{name}: {status:?}\n{}", tail.join("\n"));
    assert!(said.contains("1 passed"), "{name} is no test:\n{said}");
}

/// What all runs have in common.
struct Stage {
    runtime: Runtime,
    acceptors: Arc<Acceptors>,
    ca: tempfile::NamedTempFile,
    prober: Prober,
    _names: Names,
    hole: std::net::SocketAddrV4,
}

/// What came of a run.
struct Done {
    run: Run,
    seen: Vec<Seen>,
    fired: Option<(Seen, Fault)>,
}

impl Stage {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let pem = Pem::self_signed(&[NAME], 2020, 2040);
        let (names, hole) = runtime.block_on(async { (Names::start().await, server::hole().await) });
        let std::net::SocketAddr::V4(hole) = hole else { panic!("{hole}") };
        let prober = Prober::new(Dns { servers: vec![names.address], ..Dns::default() });
        Self { runtime, acceptors: Arc::new(Acceptors::new(&pem)), ca: pem.ca_file(), prober, _names: names, hole }
    }

    /// One run, of which a call fails.
    fn run(&self, way: Way, plan: Option<Plan>) -> Done {
        let prober = &self.prober;
        self.runtime.block_on(async {
            let server = Server::start(way, Arc::clone(&self.acceptors)).await;
            let security = match way {
                Way::Clear | Way::Proxied => Security::None,
                Way::StartTls => Security::StartTls,
                Way::Tls => Security::Tls,
            };
            let mut target = target(server.address, security);
            target.endpoint.host = Host::parse(NAME).unwrap();
            target.tls.ca_file = Some(self.ca.path().to_owned());
            if way == Way::Proxied {
                target.proxy_protocol = Some(ProxyProtocol::V1);
                target.source_address = Some("127.0.0.1".parse().unwrap());
            }
            let target = prepare(target);
            let (_keep, cancel) = watch::channel(false);
            let ids = Ids { trace: TraceId::random(), root: SpanId::random(), parent: None };
            let account = &target.target().accounts[0];
            let secret = account.password.load().await;
            let job = Job {
                target: &target,
                account,
                family: Family::Any,
                ids,
                start_lag: None,
                secret,
                usual_messages: None,
                hold_login: None,
            };
            kernel::arm(plan, way.before(), self.hole);
            let run = prober.run(job, cancel).await;
            let (seen, fired, open) = kernel::disarm();
            assert_eq!(open, 0, "connections are still open after {fired:?}: {run:?}");
            Done { run, seen, fired }
        })
    }
}

impl Stage {
    /// A run without a fault, and then an end to all that the runtime may still have in hand.
    fn settle(&self) {
        assert_eq!(self.run(Way::Clear, None).run.outcome, RunOutcome::Passed);
        kernel::pass_time();
        self.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(1)).await });
    }
}

/// What holds of the record of any run.
fn check_record(run: &Run) {
    let json = serde_json::to_string(run).unwrap();
    assert_eq!(&serde_json::from_str::<Run>(&json).unwrap(), run, "{json}");
    let details = run.steps.iter().filter(|step| step.outcome != StepOutcome::Skipped);
    let ids: HashSet<_> = details.clone().map(|step| step.span_id.expect("a step that was taken has a span")).collect();
    assert_eq!(ids.len(), details.count(), "{json}");
    let waits: HashSet<_> = run.steps.iter().flat_map(|step| &step.waits).map(|wait| wait.span_id).collect();
    assert!(ids.is_disjoint(&waits), "{json}");
    assert_eq!(telemetry::spans(run).len(), 1 + ids.len() + waits.len(), "{json}");
    for step in &run.steps {
        let at_fault = step.outcome == StepOutcome::Failed;
        assert_eq!(step.error_type.is_some(), at_fault, "{json}");
        assert!(step.end_s() <= run.duration_s, "{json}");
    }
    assert_eq!(run.outcome == RunOutcome::Passed, run.error_type.is_none(), "{json}");
    assert_eq!(run.outcome == RunOutcome::Void, run.error_type.is_some_and(ErrorType::is_void), "{json}");
    assert_eq!(run.error_type, run.failing_step().and_then(|step| step.error_type), "{json}");
    assert_eq!(run.first_loading_latency_s.is_some(), run.outcome == RunOutcome::Passed, "{json}");
}

/// What is wrong with what came of a fault; none when nothing is.
fn wrong(done: &Done) -> Option<String> {
    let run = &done.run;
    let expected = done.fired.map_or(Expected::Passes, |(seen, fault)| expected(seen, fault));
    let step = |name: &str, class| {
        run.steps.iter().any(|step| step.name == name && step.error_type.is_some_and(|found| class == found))
    };
    let failed = || run.steps.iter().filter(|step| step.outcome == StepOutcome::Failed).count();
    let right = match expected {
        Expected::Passes => run.outcome == RunOutcome::Passed && failed() == 0,
        Expected::Fails(name, class) => {
            run.error_type == Some(class)
                && run.failed_step.as_ref().map(StepName::as_str) == Some(name)
                && failed() == 1
        }
        Expected::StepAlone(name, class) => run.outcome == RunOutcome::Passed && step(name, class) && failed() == 1,
    };
    let text = || run.failing_step().and_then(|step| step.text.as_ref()).map(|text| text.as_str().to_owned());
    (!right).then(|| format!("{:?}\n    expected {expected:?}\n    came     {} {:?}", done.fired, steps(run), text()))
}

/// Everything that can fail in a run.
fn plans(stage: &Stage, way: Way) -> Vec<Plan> {
    // What is done once for a process is done now.
    stage.run(way, None);
    let whole = stage.run(way, None);
    assert_eq!(wrong(&whole), None, "without a fault");
    let version = match way {
        Way::Clear | Way::Proxied => None,
        Way::StartTls => Some("1.2"),
        Way::Tls => Some("1.3"),
    };
    assert_eq!(whole.run.server.tls_version.as_deref(), version);
    let mut plans = Vec::new();
    for (number, seen) in whole.seen.iter().enumerate() {
        let after = whole.seen[..number].iter().filter(|other| *other == seen).count();
        plans.extend(seen.call.faults().iter().map(|fault| Plan { seen: *seen, after, fault: *fault }));
    }
    plans
}

/// Every call fails in turn, in every way.
fn every_call_fails_once(way: Way) {
    let stage = Stage::new();
    let plans = plans(&stage, way);
    let mut missed = Vec::new();
    let mut failures = BTreeSet::new();
    for plan in &plans {
        println!("{plan:?}");
        let done = stage.run(way, Some(*plan));
        check_record(&done.run);
        failures.extend(wrong(&done));
        if done.fired.is_none() {
            missed.push(plan);
        }
    }
    println!("{way:?}: {} faults, of which {} never came about: {missed:?}", plans.len(), missed.len());
    let details = Vec::from_iter(failures);
    assert!(details.is_empty(), "{} kinds:\n{}", details.len(), details.join("\n"));
    // An answer that came in two packets may come in one another time.
    assert!(missed.len() * 20 <= plans.len(), "never came about: {missed:#?}");
}

#[test]
fn in_clear_text_every_call_fails_once_and_the_record_tells_where() {
    alone("in_clear_text_every_call_fails_once_and_the_record_tells_where", || every_call_fails_once(Way::Clear));
}

#[test]
fn behind_a_proxy_every_call_fails_once_and_the_record_tells_where() {
    alone("behind_a_proxy_every_call_fails_once_and_the_record_tells_where", || every_call_fails_once(Way::Proxied));
}

#[test]
fn with_starttls_every_call_fails_once_and_the_record_tells_where() {
    alone("with_starttls_every_call_fails_once_and_the_record_tells_where", || every_call_fails_once(Way::StartTls));
}

#[test]
fn under_tls_every_call_fails_once_and_the_record_tells_where() {
    alone("under_tls_every_call_fails_once_and_the_record_tells_where", || every_call_fails_once(Way::Tls));
}

/// So many runs in one process.
const RUNS: usize = 10_000;
/// A leak of 8 bytes a run would be more. Less than half of it fills up, once: the server remembers some TLS sessions.
const ROOM: isize = 64 << 10;
/// Of the whole heap: what each thread keeps at hand moves, by some hundred KiB at most. A connection of OpenSSL's that
/// was forgotten by one run in a hundred would be more.
const ROOM_IN_ALL: isize = 2 << 20;

#[test]
fn after_ten_thousand_failed_runs_descriptors_and_memory_are_what_they_were() {
    alone("after_ten_thousand_failed_runs_descriptors_and_memory_are_what_they_were", ten_thousand_runs);
}

fn ten_thousand_runs() {
    let workers = [[Way::Clear, Way::Tls], [Way::Proxied, Way::StartTls]].map(|ways| {
        let (rests, rested) = mpsc::channel();
        let (go, gone) = mpsc::channel();
        std::thread::spawn(move || work(&ways, &rests, &gone));
        (go, rested)
    });
    // A thread that came to grief sends nothing more.
    let measure = || {
        for (_, rested) in &workers {
            rested.recv().expect("a thread ended over what it says above");
        }
        (descriptors(), memory::live(), memory::live_in_all())
    };
    // As many buffers as are ever kept for the next connection.
    drop((0..16).map(|_| Buffer::take()).collect::<Vec<_>>());
    let before = measure();
    for (go, _) in &workers {
        go.send(()).unwrap();
    }
    let after = measure();
    println!("descriptors, bytes of Rust's, bytes in all: before {before:?}, after {RUNS} runs {after:?}");
    assert_eq!(after.0, before.0, "descriptors");
    assert!(after.1 - before.1 <= ROOM, "Rust's memory: {before:?}, {after:?}");
    assert!(after.2 - before.2 <= ROOM_IN_ALL, "the heap: {before:?}, {after:?}");
}

/// Half of the runs: some to begin with, a rest, all that are to be counted, and a rest until nobody waits any more.
fn work(ways: &[Way], rests: &mpsc::Sender<()>, gone: &mpsc::Receiver<()>) {
    let stage = Stage::new();
    let planned = |way: &Way| plans(&stage, *way).into_iter().map(|plan| (*way, plan)).collect::<Vec<_>>();
    let plans: Vec<(Way, Plan)> = ways.iter().flat_map(planned).collect();
    let run = |(way, plan): (Way, Plan)| check_record(&stage.run(way, Some(plan)).run);
    plans.iter().step_by(2).copied().for_each(run);
    stage.settle();
    rests.send(()).unwrap();
    gone.recv().unwrap();
    plans.iter().cycle().copied().take(RUNS / 2).for_each(run);
    stage.settle();
    rests.send(()).unwrap();
    // Until the one who measures is done.
    let _ended = gone.recv();
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}
