//! Everything wrong at once, for ten minutes: is each run that was started delivered, kept or counted, do starts keep
//! their times, and does memory stay flat?
//!
//! `make soak` calls it in a network and a mount namespace of its own, with the program as it is shipped in
//! `SOAK_IMAPTRACE`. It prints a table and fails when one of the three is not so. It asserts no latency.
//!
//! ```text
//! servers  an IMAP server that answers at once, an OTLP receiver that refuses on request
//! faults   a mount that never answers, a tmpfs that is full, the agent's process and its stops
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::unnecessary_debug_formatting,
    unreachable_pub,
    reason = "a program that measures: a fault ends it, and what it finds goes to standard output"
)]

mod faults;
mod servers;

use std::{
    env,
    fmt::Write as _,
    fs,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use faults::{Agent, HungMount, Tmpfs};
use servers::{Imap, Receiver};
use tokio::runtime::Runtime;

const INTERVAL: u64 = 5;
/// Targets whose password lies on the mount that does not answer.
const HUNG: u64 = 40;
/// Targets whose server refuses the connection: each of their runs is worth a log line.
const REFUSING: u64 = 40;
const STATE_MIB: u64 = 8;
const STATUS_PORT: u16 = 18143;
const STOP: Duration = Duration::from_secs(5);
/// Of the growth from the second minute to the end.
const MEMORY_GOAL_MIB: f64 = 8.0;

/// A number from the environment.
fn knob(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

fn main() -> ExitCode {
    let (minutes, good) = (knob("MINUTES", 10).max(3), knob("TARGETS", 200));
    let program = env::var("SOAK_IMAPTRACE").expect("SOAK_IMAPTRACE names the program: run scripts/soak.sh");
    let runtime = Runtime::new().unwrap();
    let (imap, receiver) = runtime.block_on(async { (Imap::start().await, Receiver::start().await) });
    let directory = tempfile::Builder::new().prefix("soak-").tempdir().unwrap();
    let hung = HungMount::new(&directory.path().join("hung"));
    let tmpfs = Tmpfs::new(&directory.path().join("state"), STATE_MIB);
    let config = directory.path().join("imaptrace.toml");
    fs::write(&config, configuration(&imap, &receiver, &hung, tmpfs.path(), good)).unwrap();

    let mut agent = Agent::start(&program, &config);
    agent.wait_until_ready(STATUS_PORT);
    let begin = Instant::now();
    let (mut samples, mut stopped) = (Vec::new(), Duration::ZERO);
    for minute in 0..minutes {
        // The receiver takes traces in the fifth minute and in the last one; in all others it refuses them for good.
        let takes = minute == 4 || minute + 1 == minutes;
        receiver.answer(if takes { 200 } else { 400 });
        // The disk is full from the second minute to the third from the end.
        if minute == 1 {
            tmpfs.fill();
        }
        if minute + 2 == minutes {
            tmpfs.free();
        }
        wait_until(begin + Duration::from_secs(60 * minute + 30));
        stopped += agent.stop_for(STOP);
        wait_until(begin + Duration::from_secs(60 * (minute + 1)));
        samples.push(agent.rss_mib());
        let counts = receiver.counts();
        eprintln!(
            "minute {}: {} started, {} delivered, {} given up, {} requests refused, {} log lines dropped, {:.1} MiB",
            minute + 1,
            counts.started,
            receiver.runs(),
            counts.dropped,
            receiver.refused_requests(),
            counts.log_lines,
            agent.rss_mib()
        );
    }
    let elapsed = begin.elapsed();
    let status = Agent::status(STATUS_PORT);
    let exit = agent.terminate();
    eprintln!("the agent ended {:.1} s after SIGTERM with {}", exit.took.as_secs_f64(), exit.status);
    let counts = receiver.counts();
    // What is kept on disk is delivered by the next start, which has no targets of its own.
    let delivered = receiver.runs();
    fs::write(&config, drain(&receiver, tmpfs.path())).unwrap();
    let mut next = Agent::start(&program, &config);
    next.wait_until_ready(STATUS_PORT);
    Agent::wait_until_drained(STATUS_PORT);
    next.terminate();
    let kept = receiver.runs() - delivered;

    let skipped: u64 =
        status["schedule"]["skipped"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
    let targets = good + HUNG + REFUSING;
    let planned = targets * elapsed.as_secs() / INTERVAL;
    let lost = i128::from(counts.started) - i128::from(delivered + kept + counts.dropped);
    let missing = i128::from(planned) - i128::from(counts.started + skipped);
    let growth = samples.last().unwrap() - samples[1];
    println!(
        "| {minutes} min, {targets} targets each {INTERVAL} s, {:.0} s stopped | |\n|---|--:|",
        stopped.as_secs_f64()
    );
    println!("| starts planned | {planned} |");
    println!("| runs started | {} |", counts.started);
    println!("| starts skipped, counted | {skipped} |");
    println!("| sessions at the IMAP server | {} |", imap.sessions.load(std::sync::atomic::Ordering::Relaxed));
    println!("| runs delivered | {delivered} |");
    println!("| runs kept on disk, delivered by the next start | {kept} |");
    println!("| runs given up, counted | {} |", counts.dropped);
    println!("| **runs neither delivered nor kept nor counted** | **{lost}** |");
    println!("| requests refused with 400 | {} |", receiver.refused_requests());
    println!("| log lines dropped, counted | {} |", counts.log_lines);
    println!(
        "| start lag p50, p99, s | {}, {} |",
        status["schedule"]["start_lag"]["p50_s"], status["schedule"]["start_lag"]["p99_s"]
    );
    println!(
        "| outcomes at the end: passed, failed, void | {}, {}, {} |",
        status["states"]["passed"], status["states"]["failed"], status["states"]["void"]
    );
    println!("| memory after 2 min, at the end, MiB | {:.1}, {:.1} |", samples[1], samples.last().unwrap());
    println!("| from SIGTERM to the end, s | {:.1} |", exit.took.as_secs_f64());
    // Each target has one start more or less than the time divided by the interval.
    let checks = [
        ("no run is lost uncounted", lost == 0),
        ("planned starts = runs + counted skips", missing.unsigned_abs() <= targets.into()),
        ("targets elsewhere pass", status["states"]["passed"].as_u64() == Some(good)),
        ("memory is flat", growth <= MEMORY_GOAL_MIB),
        ("the exit keeps its time", exit.took <= Duration::from_secs(5) && exit.status.success()),
    ];
    println!("\n| | |\n|---|---|");
    for (what, holds) in checks {
        println!("| {what} | {} |", if holds { "holds" } else { "**does not hold**" });
    }
    if checks.iter().all(|(_, holds)| *holds) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn configuration(imap: &Imap, receiver: &Receiver, hung: &HungMount, state: &Path, good: u64) -> String {
    let password = state.parent().unwrap().join("password");
    fs::write(&password, "secret").unwrap();
    faults::chmod(&password, 0o600);
    let mut text = format!(
        "[agent]\nlog_level = \"debug\"\n[http]\nlisten = \"127.0.0.1:{STATUS_PORT}\"\n\
         [defaults]\ninterval = \"{INTERVAL}s\"\ntimeout = \"4s\"\nsecurity = \"none\"\n\
         [otlp]\nendpoint = {:?}\nprotocol = \"http/protobuf\"\n[metrics]\nper = \"target\"\nexport_interval = \"5s\"\n\
         [state]\ndir = {state:?}\nqueue_memory = \"2MiB\"\nqueue_disk = \"4MiB\"\n\
         [limits]\nruns_in_flight_per_server = 256\nlogins_per_second_per_server = 0\n",
        receiver.endpoint()
    );
    let mut target = |name: String, url: String, password: &Path| {
        write!(
            text,
            "[[targets]]\nname = \"{name}\"\nurl = \"imap://{url}\"\nuser = \"probe\"\npassword = {{ file = {password:?} }}\n"
        )
        .unwrap();
    };
    for number in 0..good {
        target(format!("good{number:04}"), imap.address.to_string(), &password);
    }
    for number in 0..HUNG {
        let secret = hung.path().join(format!("{number}/password"));
        target(format!("hung{number:04}"), imap.address.to_string(), &secret);
    }
    for number in 0..REFUSING {
        target(format!("refusing{number:04}"), "127.0.0.1:1".to_owned(), &password);
    }
    text
}

/// A configuration that only delivers: its one target is never due while it is in use.
fn drain(receiver: &Receiver, state: &Path) -> String {
    format!(
        "[http]\nlisten = \"127.0.0.1:{STATUS_PORT}\"\n[otlp]\nendpoint = {:?}\nprotocol = \"http/protobuf\"\n\
         [state]\ndir = {state:?}\n[[windows]]\nname = \"always\"\ndays = [\"mon\", \"tue\", \"wed\", \"thu\", \"fri\", \"sat\", \"sun\"]\n\
         [[targets]]\nname = \"none\"\nurl = \"imap://127.0.0.1:1\"\nsecurity = \"none\"\nuser = \"u\"\npassword = {{ env = \"NONE\" }}\n",
        receiver.endpoint()
    )
}

fn wait_until(due: Instant) {
    std::thread::sleep(due.saturating_duration_since(Instant::now()));
}
