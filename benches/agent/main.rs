//! What an agent costs that keeps its schedule: CPU, memory, how late runs start, and what an hour adds.
//!
//! `make bench-agent` calls it, with the program as it is shipped in `AGENT_IMAPTRACE`. It starts a Dovecot, a Collector and
//! agents on loopback, prints tables for docs/performance.md, and ends what it started. A row is void when runs failed or
//! were skipped, or when fewer arrived at the Collector than were due; no figure fails it.
//!
//! ```text
//! rig      Dovecot, the Collector, what the Collector counts
//! senders  120 mail servers that send events
//! subject  an agent with so many targets, and what the kernel says of it
//! shards   10,000 targets over five agents
//! outage   an hour's runs without a receiver
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a program that measures: a fault ends it, and what it finds goes to standard output"
)]

mod outage;
mod rig;
mod senders;
mod shards;
mod subject;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::{
    env,
    time::{Duration, Instant},
};

use imaptrace::clock;
use rig::{Counts, Rig};
use subject::{Events, Metrics, Security, Subject, Usage};

/// From the start until the first window of measurement: every target has run once, and what grows at first has grown.
const WARM: Duration = Duration::from_secs(25);
/// Between two runs of a target.
const INTERVAL: Duration = Duration::from_secs(10);
/// CPU of the agent at 2,000 targets, in hundredths of a core.
const CPU_GOAL: f64 = 18.0;
const CPU_GOAL_AT: u32 = 2_000;
/// The same with the events of the servers, in clear text.
const EVENTS_CPU_GOAL: f64 = 30.0;
/// Targets over TLS with events: as many as Dovecot, the Collector and the senders beside the agent leave room for on two cores.
const EVENTS_TLS_TARGETS: u32 = 1_000;
/// CPU of a run over TLS with events, in proportion to that without.
const EVENTS_RATIO_GOAL: f64 = 1.25;
const LAG_GOAL: f64 = 0.020;
const SERIES_GOAL: f64 = 700.0;
const FLEET: u32 = 10_000;
const FLEET_GOAL: f64 = 300.0;
const SLOPE_GOAL: f64 = 1.0;
const MIB: f64 = (1 << 20) as f64;

/// A number from the environment.
fn knob(name: &str, default: u32) -> u32 {
    env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn main() {
    let window = knob("WINDOW", 60);
    let targets: Vec<u32> = env::var("TARGETS").map_or_else(
        |_| vec![1_000, 2_000],
        |text| text.split_whitespace().map(|word| word.parse().expect("TARGETS is a list of numbers")).collect(),
    );
    let soak = knob("SOAK_MINUTES", 60);
    let sharded = knob("SHARDS", 0) > 0;
    let rig = Rig::set(sharded);
    println!("{}\n", Rig::machine());
    if sharded {
        return shards::report(&rig, Duration::from_secs(window.into()));
    }
    if !targets.is_empty() {
        load(&rig, &targets, Duration::from_secs(window.into()));
    }
    if knob("EVENTS", 1) > 0 {
        events(&rig, Duration::from_secs(window.into()));
    }
    if knob("OUTAGE", 1) > 0 {
        outage::report(rig.directory.path());
    }
    if soak > 0 {
        endure(&rig, Duration::from_secs(60 * u64::from(soak)));
    }
}

/// What a window of measurement showed.
struct Window {
    usage: Usage,
    /// Runs that the Collector counted meanwhile.
    runs: f64,
    counts: Counts,
    rss: f64,
    took: Duration,
}

impl Window {
    fn measure(rig: &Rig, subject: &Subject, window: Duration) -> Self {
        pass(WARM);
        let (before, usage, begin) = (subject.counts(rig), subject.usage(), clock::now());
        pass(window);
        let took = clock::now() - begin;
        let usage = subject.usage() - usage;
        // What the agent collects goes out every second here, and the Collector shows it after another.
        let counts = subject.counts(rig);
        Self { usage, runs: counts.runs - before.runs, counts, rss: subject.rss(), took }
    }

    fn cpu(&self) -> f64 {
        100.0 * self.usage.cpu.as_secs_f64() / self.took.as_secs_f64()
    }
}

fn load(rig: &Rig, targets: &[u32], window: Duration) {
    println!("### Load\n");
    println!(
        "| targets at {} s | | runs a second | CPU, % of a core | CPU a run, µs | wakes a run | start lag p99 | RSS, MiB | series | without metrics, MiB | a series, B |",
        INTERVAL.as_secs()
    );
    println!("|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    let mut met = Vec::new();
    let mut held: Vec<(u32, f64)> = Vec::new();
    for security in [Security::Plain, Security::Tls] {
        for count in targets {
            eprintln!("{count} targets, {}, without metrics", security.words());
            let bare = Subject::start(rig, *count, security, Metrics::Off, Events::Off);
            let without = Window::measure(rig, &bare, Duration::from_secs(5));
            drop(bare);
            eprintln!("{count} targets, {}", security.words());
            let subject = Subject::start(rig, *count, security, Metrics::On, Events::Off);
            let with = Window::measure(rig, &subject, window);
            drop(subject);
            let series = with.counts.series;
            let each = (with.rss - without.rss) / series;
            println!(
                "| {count} | {} | {:.1} | {:.1} | {:.0} | {:.1} | {} | {:.1} | {series:.0} | {:.1} | {each:.0} |",
                security.words(),
                with.runs / with.took.as_secs_f64(),
                with.cpu(),
                with.usage.cpu.as_secs_f64() * 1e6 / with.runs,
                with.usage.wakes / with.runs,
                with.counts.lag(),
                with.rss / MIB,
                without.rss / MIB,
            );
            let due = f64::from(*count) * with.took.as_secs_f64() / INTERVAL.as_secs_f64();
            // The edges of the window cut runs off.
            if with.counts.failed > 0.0 || with.counts.skipped > 0.0 || with.runs < 0.98 * due {
                println!(
                    "\nThe row above is **void**: {} failed, {} skipped, {:.0} of {due:.0} arrived.\n",
                    with.counts.failed, with.counts.skipped, with.runs
                );
            }
            if *count == CPU_GOAL_AT {
                met.push((
                    format!("{CPU_GOAL} % of a core at {CPU_GOAL_AT}, {}", security.words()),
                    format!("{:.1} %", with.cpu()),
                    with.cpu() <= CPU_GOAL,
                ));
            }
            let words = security.words();
            met.push((
                format!("start lag p99 20 ms, {count} {words}"),
                with.counts.lag(),
                with.counts.lag_bound() <= LAG_GOAL,
            ));
            met.push((
                format!("{SERIES_GOAL:.0} B a series, {count} {words}"),
                format!("{each:.0} B"),
                each <= SERIES_GOAL,
            ));
            if security == Security::Plain {
                held.push((*count, without.rss));
            }
        }
    }
    if let [(few, at_few), .., (many, at_many)] = held.as_slice() {
        let slope = (at_many - at_few) / f64::from(many - few);
        let fleet = (at_many + slope * f64::from(FLEET - many)) / MIB;
        met.push((
            format!("{FLEET_GOAL:.0} MiB without series, reckoned up to {FLEET}"),
            format!("{fleet:.0} MiB ({slope:.0} B a target)"),
            fleet <= FLEET_GOAL,
        ));
    }
    println!("\n| goal: at most | measured | |\n|---|--:|---|");
    for (goal, measured, met) in met {
        println!("| {goal} | {measured} | {} |", if met { "met" } else { "**missed**" });
    }
    println!();
}

/// What the events of the servers add, in turn without and with them: Dovecot posts them in both.
fn events(rig: &Rig, window: Duration) {
    println!("### Events of {} servers, targets at {} s\n", senders::HOSTS, INTERVAL.as_secs());
    println!(
        "| targets | | events | runs a second | events a run | joined, % | CPU, % of a core | CPU a run, µs | RSS, MiB | disk writes a run, B |"
    );
    println!("|--:|---|---|--:|--:|--:|--:|--:|--:|--:|--:|");
    let mut met = Vec::new();
    for (security, targets) in [(Security::Plain, CPU_GOAL_AT), (Security::Tls, EVENTS_TLS_TARGETS)] {
        let mut each = Vec::new();
        for events in [Events::Off, Events::On] {
            eprintln!("{targets} targets, {}, events {events:?}", security.words());
            let subject = Subject::start(rig, targets, security, Metrics::On, events);
            let (passed, written) = (rig.senders.passed(), subject.written());
            let measured = Window::measure(rig, &subject, window);
            // Both counts begin with the agent: the warm-up is in them.
            let (passed, written) = (rig.senders.passed() - passed, subject.written() - written);
            #[expect(clippy::cast_precision_loss, reason = "hundreds of thousands")]
            let (passed, all_runs) = (passed as f64, measured.counts.runs);
            let a_run = measured.usage.cpu.as_secs_f64() * 1e6 / measured.runs;
            println!(
                "| {targets} | {} | {} | {:.1} | {:.1} | {:.1} | {:.1} | {a_run:.0} | {:.1} | {:.0} |",
                security.words(),
                if events == Events::On { "yes" } else { "no" },
                measured.runs / measured.took.as_secs_f64(),
                passed / all_runs,
                if passed > 0.0 { 100.0 * measured.counts.joined / passed } else { 0.0 },
                measured.cpu(),
                measured.rss / MIB,
                written / all_runs,
            );
            let due = f64::from(targets) * measured.took.as_secs_f64() / INTERVAL.as_secs_f64();
            if measured.counts.failed > 0.0 || measured.counts.skipped > 0.0 || measured.runs < 0.98 * due {
                println!(
                    "\nThe row above is **void**: {} failed, {} skipped, {:.0} of {due:.0} arrived.\n",
                    measured.counts.failed, measured.counts.skipped, measured.runs
                );
            }
            if security == Security::Plain && events == Events::On {
                let (goal, cpu) =
                    (format!("{EVENTS_CPU_GOAL} % of a core with events at {targets}, clear text"), measured.cpu());
                met.push((goal, format!("{cpu:.1} %"), cpu <= EVENTS_CPU_GOAL));
            }
            each.push(a_run);
        }
        let ratio = each[1] / each[0];
        let goal = format!("CPU a run with events in proportion to without, {}", security.words());
        if security == Security::Tls {
            met.push((format!("{EVENTS_RATIO_GOAL} {goal}"), format!("{ratio:.2}"), ratio <= EVENTS_RATIO_GOAL));
        } else {
            eprintln!("{goal}: {ratio:.2}");
        }
    }
    println!("\n| goal: at most | measured | |\n|---|--:|---|");
    for (goal, measured, met) in met {
        println!("| {goal} | {measured} | {} |", if met { "met" } else { "**missed**" });
    }
    println!();
}

/// Memory of an agent with 200 targets over a long time.
fn endure(rig: &Rig, long: Duration) {
    const TARGETS: u32 = 200;
    println!("### {} minutes at {TARGETS} targets\n", long.as_secs() / 60);
    let subject = Subject::start(rig, TARGETS, Security::Tls, Metrics::On, Events::Off);
    // What grows once (tables, buffers, baselines of 63 runs) is not the slope.
    let settle = (long / 6).min(Duration::from_secs(600));
    pass(settle);
    let begin = clock::now();
    let mut samples = vec![(0.0, subject.rss() / MIB)];
    while clock::now() - begin < long.saturating_sub(settle) {
        pass(Duration::from_secs(10));
        samples.push(((clock::now() - begin).as_secs_f64() / 3600.0, subject.rss() / MIB));
    }
    let counts = subject.counts(rig);
    drop(subject);
    let at = |share: usize| samples[(samples.len() - 1) * share / 2].1;
    let slope = slope(&samples);
    println!("| start (after {} min) | middle | end | slope, MiB an hour | goal | |", settle.as_secs() / 60);
    println!("|--:|--:|--:|--:|--:|---|");
    let met = if slope <= SLOPE_GOAL { "met" } else { "**missed**" };
    println!("| {:.2} | {:.2} | {:.2} | {slope:+.2} | {SLOPE_GOAL} | {met} |", at(0), at(1), at(2));
    if counts.failed > 0.0 || counts.skipped > 0.0 {
        println!("\n{} runs failed, {} were skipped.", counts.failed, counts.skipped);
    }
    println!();
}

/// Least squares.
fn slope(samples: &[(f64, f64)]) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "hundreds")]
    let count = samples.len() as f64;
    let mean = |value: fn(&(f64, f64)) -> f64| samples.iter().map(value).sum::<f64>() / count;
    let (x, y) = (mean(|sample| sample.0), mean(|sample| sample.1));
    let over: f64 = samples.iter().map(|(at, held)| (at - x) * (held - y)).sum();
    let under: f64 = samples.iter().map(|(at, _)| (at - x).powi(2)).sum();
    if under > 0.0 { over / under } else { 0.0 }
}

/// The only waiting there is: a window of measurement has a length.
fn pass(time: Duration) {
    let end: Instant = clock::now() + time;
    while let Some(left) = end.checked_duration_since(clock::now()).filter(|left| !left.is_zero()) {
        std::thread::sleep(left);
    }
}
