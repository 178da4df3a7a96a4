//! What hostile servers can do to an agent: memory that grows, time that runs on, others that have to wait.
//!
//! `make bench-hostile` calls it. The servers are in this process, or where good ones are beside them in others; whoever
//! probes them is a process of its own, started by this one, and the only one that is measured. It prints tables for
//! docs/performance.md and ends what it started. A row is void when the runs did not end as they had to; no figure fails it.
//!
//! ```text
//! servers  silent ones, endless ones, and one that does all right
//! framer   bytes through the framer, beside a loop that only reads them; no socket
//! probes   the processes that probe
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    unreachable_pub,
    reason = "a program that measures: a fault ends it, and what it finds goes to standard output"
)]

mod framer;
mod probes;
mod servers;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::atomic::Ordering,
    time::Duration,
};

use imaptrace_record::ErrorType;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use probes::quantile;
use servers::{KINDS, Servers, Spoil};
use support::{program::wait_until, script::Pem};

/// As many more at once as a listener's queue takes without a loss.
const STEP: u32 = 250;
const KIB: f64 = 1024.0;
const LITERAL_GOAL: f64 = 1024.0;
const HELD_GOAL: f64 = 16.0;
const HELD_GOAL_TLS: f64 = 64.0;
const LATE_GOAL: f64 = 100.0;
const MOVED_GOAL: f64 = 1.0;

/// A number from the environment.
fn knob(name: &str, default: u32) -> u32 {
    env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn main() {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    allow_files();
    match arguments.as_slice() {
        [] => report(),
        ["serve", which] => {
            let bad = KINDS.map(|(spoil, _)| spoil);
            let spoils = if *which == "good" { &[Spoil::Nothing][..] } else { &bad };
            let servers = Servers::start(spoils, None);
            let first: Vec<SocketAddr> = servers.kinds.iter().map(|addresses| addresses[0]).collect();
            println!("{}", joined(&first));
            // Until whoever started this has gone.
            let _ = std::io::stdin().lines().count();
        }
        ["literal", server, ca @ ..] => probes::literal(server, ca.first().copied()),
        ["hold", servers, ca @ ..] => probes::hold(servers, ca.first().copied(), None),
        ["late", seconds, servers, ca @ ..] => {
            probes::hold(servers, ca.first().copied(), Some(Duration::from_secs(seconds.parse().unwrap())));
        }
        ["mix", good, hostile, rounds, window, targets, per_minute] => probes::mix(&probes::Mix {
            good: good.parse().unwrap(),
            hostile: probes::addresses(hostile),
            rounds: rounds.parse().unwrap(),
            window: Duration::from_secs(window.parse().unwrap()),
            targets: targets.parse().unwrap(),
            interval: Duration::from_secs_f64(60.0 / per_minute.parse::<f64>().unwrap()),
        }),
        other => panic!("nothing is called {other:?}"),
    }
}

fn report() {
    let parts = env::var("PARTS").unwrap_or_else(|_| "literal framer held late mix".to_owned());
    let stage = Stage::new();
    println!("{}\n", machine());
    for part in parts.split_whitespace() {
        match part {
            "literal" => literal(&stage, u64::from(knob("LITERAL_MIB", 10_240)) << 20),
            "framer" => framer::report(knob("ROUNDS", 9), knob("FRAMER_MIB", 256)),
            "held" => held(&stage, knob("CONNECTIONS", 10_000)),
            "late" => late(&stage, knob("CONNECTIONS", 10_000), knob("DEADLINE", 30)),
            "mix" => mix(knob("MIX_ROUNDS", 3), knob("WINDOW", 20), knob("HOSTILE", 1_000), knob("PER_MINUTE", 1)),
            other => panic!("PARTS has no {other:?}"),
        }
    }
}

/// A certificate that all servers show.
struct Stage {
    pem: Pem,
    ca: tempfile::NamedTempFile,
}

impl Stage {
    fn new() -> Self {
        let names = ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"];
        let pem = Pem::self_signed(&names, 2020, 2040);
        Self { ca: pem.ca_file(), pem }
    }

    /// In clear text and over TLS.
    fn ways(&self) -> [(&'static str, Option<&Pem>); 2] {
        [("clear text", None), ("TLS", Some(&self.pem))]
    }

    fn ca(&self, pem: Option<&Pem>) -> Option<PathBuf> {
        pem.map(|_| self.ca.path().to_owned())
    }
}

// === a literal without end ===

fn literal(stage: &Stage, bytes: u64) {
    println!("### A literal of {} MiB\n", bytes >> 20);
    println!("| | peak RSS after one of 16 MiB, KiB | after this one, KiB | more, KiB | goal: at most | | MB/s |");
    println!("|---|--:|--:|--:|--:|---|--:|");
    for (name, pem) in stage.ways() {
        let servers = Servers::start(&[Spoil::Literal(16 << 20), Spoil::Literal(bytes)], pem);
        let [small, large] = [0, 1].map(|place| servers.kinds[place][0]);
        let mut child = Probing::start(&["literal", &small.to_string()], stage.ca(pem));
        let before = child.line();
        child.order(&large.to_string());
        let after = child.line();
        let (before, after) = (numbers(&before), numbers(&after));
        let (low, high, rate) = (before[0], after[0], after[1]);
        let right = servers.sent.load(Ordering::Relaxed) >= bytes + (16 << 20) && after[2] > 0.5;
        let verdict = if right { met(high - low <= LITERAL_GOAL) } else { "void" };
        println!("| {name} | {low:.0} | {high:.0} | {:.0} | {LITERAL_GOAL:.0} | {verdict} | {rate:.0} |", high - low);
    }
    println!();
}

// === thousands that say nothing ===

fn held(stage: &Stage, connections: u32) {
    let few = connections / 10;
    println!("### Memory of a connection whose server never answers\n");
    println!("| | {few} in flight, RSS MiB | {connections} in flight, RSS MiB | a connection, KiB | goal: at most | |");
    println!("|---|--:|--:|--:|--:|---|");
    let tls = Some(&stage.pem);
    for (name, spoil, pem, plain, goal) in [
        ("clear text: no greeting", Spoil::Silent, None, true, Some(HELD_GOAL)),
        ("clear text: no answer to LOGIN", Spoil::SilentAtLogin, None, true, Some(HELD_GOAL)),
        // The server leaves the ClientHello lying.
        ("TLS: no ServerHello", Spoil::Silent, tls, true, None),
        ("TLS: no greeting after the handshake", Spoil::Silent, tls, false, Some(HELD_GOAL_TLS)),
        ("TLS: no answer to LOGIN", Spoil::SilentAtLogin, tls, false, Some(HELD_GOAL_TLS)),
    ] {
        let servers = Servers::start(&[spoil], pem.filter(|_| !plain));
        let mut child = Probing::start(&["hold", &joined(&servers.kinds[0])], stage.ca(pem));
        let low = child.fill(&servers, 0, few);
        let high = child.fill(&servers, few, connections);
        let each = (high - low) / f64::from(connections - few);
        let (goal, verdict) =
            goal.map_or_else(|| ("none".to_owned(), ""), |goal| (format!("{goal:.0}"), met(each <= goal)));
        println!("| {name} | {:.1} | {:.1} | {each:.1} | {goal} | {verdict} |", low / KIB, high / KIB);
    }
    println!();
}

// === deadlines among thousands ===

fn late(stage: &Stage, connections: u32, deadline: u32) {
    println!("### The end of a run whose server never answers, {connections} in flight\n");
    println!("After its deadline of {deadline} s, in ms.\n");
    println!("| | began within, s | p50 | p99 | max | goal for max | | class |");
    println!("|---|--:|--:|--:|--:|--:|---|---|");
    for (name, pem) in stage.ways() {
        let servers = Servers::start(&[Spoil::SilentAtLogin], pem);
        let arguments = ["late", &deadline.to_string(), &joined(&servers.kinds[0])];
        let mut child = Probing::start(&arguments, stage.ca(pem));
        let began = imaptrace::clock::now();
        child.fill(&servers, 0, connections);
        let within = (imaptrace::clock::now() - began).as_secs_f64();
        child.order("report");
        let line = child.line();
        let (class, figures) = line.split_once(' ').unwrap();
        let mut lateness = numbers(figures);
        lateness.sort_by(f64::total_cmp);
        let [middle, high, max] = [0.5, 0.99, 1.0].map(|q| quantile(&lateness, q));
        let all_in_flight = within < f64::from(deadline) && lateness.len() == connections as usize;
        let right = all_in_flight && class == ErrorType::TimeoutCommand.as_str();
        let verdict = if right { met(max <= LATE_GOAL) } else { "void" };
        println!(
            "| {name} | {within:.1} | {middle:.1} | {high:.1} | {max:.1} | {LATE_GOAL:.0} | {verdict} | {class} |"
        );
    }
    println!();
}

// === good ones among hostile ones ===

fn mix(rounds: u32, window: u32, targets: u32, per_minute: u32) {
    println!("### {} good targets, alone and among {targets} hostile ones\n", probes::GOOD);
    // Servers are other machines. Here they share our cores: the good one never waits for us, the bad ones take what is left.
    let [mut good, mut others] = [("good", "nice -n -20"), ("hostile", "chrt --idle 0")].map(|(which, how)| {
        let mut words = how.split(' ');
        let mut command = Command::new(words.next().unwrap_or_default());
        Probing::spawn(command.args(words).arg(env::current_exe().unwrap()).args(["serve", which]))
    });
    let (good, hostile) = (good.line(), others.line());
    let arguments = [
        "mix",
        &good,
        &hostile,
        &rounds.to_string(),
        &window.to_string(),
        &targets.to_string(),
        &per_minute.to_string(),
    ];
    let mut child = Probing::start(&arguments, None);
    println!(
        "{rounds} rounds of {window} s each way, in turns; a good one is probed each second, a hostile one {per_minute} × a \
         minute. First Loading Latency of the good ones, ms.\n"
    );
    println!("| | runs | p50 | p90 | p99 | max | runs that lost a packet |");
    println!("|---|--:|--:|--:|--:|--:|--:|");
    let mut p99 = Vec::new();
    for name in ["alone", "among hostile ones"] {
        let mut figures = numbers(&child.line());
        let lost = figures.remove(0);
        figures.sort_by(f64::total_cmp);
        let [middle, ninety, high, max] = [0.5, 0.9, 0.99, 1.0].map(|q| quantile(&figures, q));
        println!("| {name} | {} | {middle:.2} | {ninety:.2} | {high:.2} | {max:.2} | {lost} |", figures.len());
        p99.push(high);
    }
    let classes = child.line();
    let moved = p99[1] - p99[0];
    let right = classes.ends_with("right");
    let verdict = if right { met(moved <= MOVED_GOAL) } else { "void" };
    println!("\np99 moves by {moved:+.2} ms; goal: at most {MOVED_GOAL:.0}: {verdict}.\n\n{classes}\n");
}

// === the processes that probe ===

/// A process of our own, mostly one that probes; ended on drop.
struct Probing {
    child: Child,
    orders: ChildStdin,
    said: BufReader<ChildStdout>,
}

impl Probing {
    fn start(arguments: &[&str], ca: Option<PathBuf>) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        // What `main` does about the roots, without its directory: the one root comes from the target.
        command.args(arguments).args(ca).env("SSL_CERT_FILE", "/dev/null").env("SSL_CERT_DIR", "/dev/null:/dev/null");
        Self::spawn(&mut command)
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (orders, said) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, orders, said }
    }

    fn order(&mut self, order: &str) {
        writeln!(self.orders, "{order}").unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.said.read_line(&mut line).unwrap() > 0, "whoever probes has ended");
        line.trim_end().to_owned()
    }

    /// Has it begin runs until so many are in flight. Gives its resident memory in KiB.
    fn fill(&mut self, servers: &Servers, from: u32, to: u32) -> f64 {
        let mut have = from;
        while have < to {
            have = (have + STEP).min(to);
            self.order(&have.to_string());
            wait_until(&format!("{have} runs wait"), || {
                assert!(self.child.try_wait().unwrap().is_none(), "whoever probes has ended");
                (servers.waiting.load(Ordering::Relaxed) >= have).then_some(())
            });
        }
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Probing {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn joined(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn numbers(line: &str) -> Vec<f64> {
    line.split_whitespace().map(|word| word.parse().unwrap()).collect()
}

fn met(met: bool) -> &'static str {
    if met { "met" } else { "missed" }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn machine() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    format!(
        "Machine: {} × {}, Linux {}, load {} at the start.",
        cores(),
        model.map_or("CPU of unknown make", |(_, name)| name.trim()),
        read("/proc/sys/kernel/osrelease").trim(),
        read("/proc/loadavg").split(' ').next().unwrap_or_default(),
    )
}

/// As many open files as the system lets us have: one for each connection.
fn allow_files() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}
