//! Nothing is lost: what the receiver does, what the disk does, and how the agent ends, by ids counted at both ends.

use std::{
    collections::{BTreeSet, HashSet},
    fs::{self, File},
    io::Read as _,
    path::Path,
    time::{Duration, SystemTime},
};

use flate2::read::MultiGzDecoder;
use imaptrace::{
    clock,
    delivery::{Delivery, DeliverySettings, Protocol, Signal, Status},
    state::StateDir,
    telemetry::{MetricsSettings, ResourceSettings},
};
use imaptrace_record::{Run, SpanId, TraceId};
use nix::sys::signal;
use rand::Rng as _;
use serde_json::Value;

use crate::{
    agent::{lines, otlp, roots, runtime, start, stop, target},
    command_line::{hex, refusing},
    support::{
        otlp::{Answer, BlackHole, ClosedPort, Inbox, Log, Receiver, block_on, passed_run},
        program::{Program, wait_until},
    },
};

const BOTH: [Protocol; 2] = [Protocol::Grpc, Protocol::HttpProtobuf];

/// Longer than anything here takes: what needs it has failed.
const LONG: Duration = Duration::from_secs(20);

fn receiver(protocol: Protocol) -> Receiver {
    match protocol {
        Protocol::Grpc => Receiver::grpc(),
        Protocol::HttpProtobuf => Receiver::http(),
    }
}

/// Traces to this receiver; what waits is kept in the directory.
fn settings(url: &str, protocol: Protocol, directory: &Path) -> DeliverySettings {
    let path = if protocol == Protocol::HttpProtobuf { "/v1/traces" } else { "" };
    DeliverySettings {
        traces: Some(Signal::new(&format!("{url}{path}"), protocol)),
        state: Some(StateDir::open(directory).unwrap()),
        ..DeliverySettings::default()
    }
}

fn deliver(settings: &DeliverySettings) -> Delivery {
    Log::get();
    Delivery::start(settings, &ResourceSettings::default(), &MetricsSettings::default()).unwrap()
}

/// A run that cannot be mistaken for another.
fn fresh_run() -> Run {
    Run { trace_id: TraceId::random(), span_id: SpanId::random(), ..passed_run() }
}

fn fresh_runs(count: usize) -> Vec<Run> {
    std::iter::repeat_with(fresh_run).take(count).collect()
}

fn deliver_all(delivery: &Delivery, runs: &[Run]) {
    for run in runs {
        delivery.deliver(run.clone());
    }
}

fn ids(runs: &[Run]) -> Vec<String> {
    runs.iter().map(|run| run.trace_id.to_string()).collect()
}

/// The traces whose roots the receiver took, in order of arrival.
fn arrived(inbox: &Inbox) -> Vec<String> {
    roots(inbox).iter().map(|root| hex(&root.trace_id)).collect()
}

/// The traces in the packed files of a directory.
fn kept(directory: &Path) -> Vec<String> {
    let files = fs::read_dir(directory).into_iter().flatten().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.to_string_lossy().ends_with(".jsonl.gz")).collect();
    files.sort();
    let mut text = String::new();
    for file in files {
        MultiGzDecoder::new(File::open(file).unwrap()).read_to_string(&mut text).unwrap();
    }
    text.lines().map(|line| serde_json::from_str::<Run>(line).unwrap().trace_id.to_string()).collect()
}

fn wait_for(delivery: &Delivery, what: &str, enough: impl Fn(&Status) -> bool) -> Status {
    wait_until(what, || Some(delivery.status()).filter(&enough))
}

#[test]
fn a_throttled_batch_comes_again_when_the_receiver_asked_for_it() {
    for protocol in BOTH {
        let receiver = receiver(protocol);
        receiver.script(&[Answer::Throttled(2)]);
        let directory = tempfile::tempdir().unwrap();
        let delivery = deliver(&settings(&receiver.url(), protocol, directory.path()));
        let run = fresh_run();
        delivery.deliver(run.clone());
        receiver.wait(|inbox| inbox.traces.len() == 2);
        // Left to itself it comes after one second.
        let waited = receiver.look(|inbox| inbox.traces[1].at - inbox.traces[0].at);
        assert!(waited >= Duration::from_secs(2), "{protocol:?} {waited:?}");
        assert_eq!(receiver.look(arrived), ids(&[run]));
        assert!(block_on(delivery.shutdown(LONG)).is_complete());
    }
}

#[test]
fn three_refusals_in_a_row_hold_delivery_back_and_cost_nothing_that_waits() {
    for protocol in BOTH {
        let receiver = receiver(protocol);
        receiver.script(&[Answer::Invalid; 4]);
        let directory = tempfile::tempdir().unwrap();
        let delivery = deliver(&settings(&receiver.url(), protocol, directory.path()));
        let runs = fresh_runs(10);
        for (run, count) in runs.iter().take(3).zip(1..) {
            delivery.deliver(run.clone());
            receiver.wait(|inbox| inbox.traces.len() == count);
        }
        wait_for(&delivery, "three refusals", |status| status.dropped_runs.refused == 3);
        deliver_all(&delivery, &runs[3..4]);
        receiver.wait(|inbox| inbox.traces.len() == 4);
        deliver_all(&delivery, &runs[4..]);
        receiver.wait(|inbox| inbox.traces.len() == 5);
        let gaps =
            receiver.look(|inbox| [inbox.traces[3].at - inbox.traces[2].at, inbox.traces[4].at - inbox.traces[3].at]);
        assert!(gaps[0] >= Duration::from_secs(1) && gaps[1] >= Duration::from_secs(2), "{protocol:?} {gaps:?}");
        let report = block_on(delivery.shutdown(LONG));
        assert_eq!((report.delivered_runs, report.dropped.total(), report.undelivered_runs), (6, 4, 0), "{report}");
        assert_eq!(kept(&directory.path().join("refused")), ids(&runs[..4]));
        let refused = directory.path().join("refused");
        let last = report.to_string();
        assert!(
            last.contains("4 runs dropped before (4 refused)") && last.contains(&refused.display().to_string()),
            "{last}"
        );
        assert!(last.contains(report.refusal.as_ref().unwrap()), "{last}");
        let details = Log::get().lines(&receiver.url());
        let held = details.iter().filter(|line| line.contains("has refused 3 batches of traces in a row"));
        assert_eq!(held.count(), 1, "{details:?}");
    }
}

#[test]
fn one_batch_that_is_refused_is_put_aside_and_replay_brings_it_after_all() {
    for protocol in BOTH {
        let receiver = receiver(protocol);
        receiver.script(&[Answer::Accept, Answer::Invalid, Answer::Accept, Answer::Partial(5)]);
        let directory = tempfile::tempdir().unwrap();
        let delivery = deliver(&settings(&receiver.url(), protocol, directory.path()));
        let runs = fresh_runs(4);
        for (run, count) in runs.iter().zip(1..) {
            delivery.deliver(run.clone());
            receiver.wait(|inbox| inbox.traces.len() == count);
        }
        let report = block_on(delivery.shutdown(LONG));
        assert_eq!((report.delivered_runs, report.dropped.total(), report.undelivered_runs), (2, 2, 0), "{report}");
        let all = ids(&runs);
        assert_eq!(kept(&directory.path().join("refused")), [all[1].clone(), all[3].clone()]);
        assert_eq!(receiver.look(arrived), [all[0].clone(), all[2].clone(), all[3].clone()]);

        let refused = fs::read_dir(directory.path().join("refused")).unwrap().map(|entry| entry.unwrap().path());
        let name = if protocol == Protocol::Grpc { "grpc" } else { "http/protobuf" };
        let url = receiver.url();
        let flags = ["--otlp-endpoint", &url, "--otlp-protocol", name].map(Into::into);
        let arguments = ["replay".into()].into_iter().chain(flags).chain(refused.map(Into::into));
        let output = runtime().block_on(Program::new(arguments.collect::<Vec<std::ffi::OsString>>()).run());
        assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{output:?}");
        let details = format!("2 runs (18 spans) delivered to {url}");
        assert!(output.stdout.starts_with(&details), "{output:?}");
        let here: BTreeSet<_> = receiver.look(arrived).into_iter().collect();
        assert_eq!(here, all.into_iter().collect());
    }
}

#[test]
fn what_one_process_could_not_deliver_the_next_one_does_before_all_else() {
    for protocol in BOTH {
        let directory = tempfile::tempdir().unwrap();
        let port = ClosedPort::take();
        let (old, new) = (fresh_runs(100), fresh_runs(10));
        let delivery = deliver(&settings(&port.url(), protocol, directory.path()));
        deliver_all(&delivery, &old);
        let report = block_on(delivery.shutdown(LONG));
        assert_eq!((report.stored_runs, report.undelivered_runs), (100, 0), "{report}");
        assert_eq!(kept(&directory.path().join("queue")), ids(&old), "what zcat shows");

        let receiver = port.open(protocol == Protocol::Grpc);
        let delivery = deliver(&settings(&receiver.url(), protocol, directory.path()));
        wait_for(&delivery, "the old runs are on their way", |status| status.delivered_runs > 0);
        deliver_all(&delivery, &new);
        let report = block_on(delivery.shutdown(LONG));
        assert!(report.is_complete() && report.delivered_runs == 110, "{report}");
        assert_eq!(receiver.look(arrived), [ids(&old), ids(&new)].concat());
        assert_eq!(kept(&directory.path().join("queue")), Vec::<String>::new());
    }
}

#[test]
fn an_outage_with_far_more_runs_than_memory_takes_loses_none_and_stays_within_its_budgets() {
    let directory = tempfile::tempdir().unwrap();
    let port = ClosedPort::take();
    let runs = fresh_runs(3_000);
    let memory = 100 * runs[0].held_bytes();
    let settings = DeliverySettings { queue_memory: memory, ..settings(&port.url(), Protocol::Grpc, directory.path()) };
    let delivery = deliver(&settings);
    for some in runs.chunks(100) {
        deliver_all(&delivery, some);
        wait_for(&delivery, "they are on disk", |status| status.queued_runs == status.stored_runs.unwrap());
        assert!(delivery.status().memory_bytes <= memory as u64);
    }
    let status = delivery.status();
    assert_eq!(
        (status.queued_runs, status.stored_runs.unwrap(), status.dropped_runs.total()),
        (3_000, 3_000, 0),
        "{status:?}"
    );
    assert!(status.failure.is_some_and(|failure| failure.contains("refused")));
    assert!(status.disk_bytes.unwrap() < 100 * 9 * 3_000, "{} bytes for 27,000 spans", status.disk_bytes.unwrap());
    let receiver = port.open(true);
    receiver.wait(|inbox| roots(inbox).len() >= 3_000);
    let report = block_on(delivery.shutdown(LONG));
    assert!(report.is_complete(), "{report}");
    assert_eq!(receiver.look(arrived), ids(&runs), "each once, and in order");
}

#[test]
fn over_the_budget_of_the_disk_what_is_missing_is_what_was_counted() {
    let directory = tempfile::tempdir().unwrap();
    let port = ClosedPort::take();
    let runs = fresh_runs(1_000);
    let settings = DeliverySettings {
        queue_memory: 10 * runs[0].held_bytes(),
        queue_disk: 64 << 10,
        ..settings(&port.url(), Protocol::HttpProtobuf, directory.path())
    };
    let delivery = deliver(&settings);
    for some in runs.chunks(50) {
        deliver_all(&delivery, some);
        // All but what is on its way or read back to be next, whose segments may be gone.
        wait_for(&delivery, "they are on disk", |status| status.queued_runs - status.stored_runs.unwrap() <= 200);
    }
    let status = wait_for(&delivery, "some had to go", |status| status.dropped_runs.budget > 0);
    assert!(status.disk_bytes.unwrap() <= 64 << 10, "{status:?}");
    let receiver = port.open(false);
    receiver.wait(|inbox| arrived(inbox).last() == ids(&runs).last());
    let report = block_on(delivery.shutdown(LONG));
    let (here, sent) = (receiver.look(arrived), ids(&runs));
    assert_eq!(here.len() as u64 + report.dropped.total(), 1_000, "{report}");
    assert_eq!(here[here.len() - 100..], sent[900..], "the oldest went");
}

#[test]
fn a_damaged_segment_is_counted_and_logged_and_blocks_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let port = ClosedPort::take();
    let runs = fresh_runs(90);
    let delivery = deliver(&settings(&port.url(), Protocol::Grpc, directory.path()));
    for some in runs.chunks(30) {
        deliver_all(&delivery, some);
        wait_for(&delivery, "they are on disk", |status| status.queued_runs == status.stored_runs.unwrap());
    }
    block_on(delivery.shutdown(LONG));
    let [segment] = fs::read_dir(directory.path().join("queue"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(".gz"))
        .collect::<Vec<_>>()
        .try_into()
        .unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&segment, bytes).unwrap();

    let receiver = port.open(true);
    let delivery = deliver(&settings(&receiver.url(), Protocol::Grpc, directory.path()));
    receiver.wait(|inbox| arrived(inbox).last() == ids(&runs).last());
    let report = block_on(delivery.shutdown(LONG));
    let here: HashSet<_> = receiver.look(arrived).into_iter().collect();
    let missing = ids(&runs).iter().filter(|id| !here.contains(*id)).count();
    assert_eq!((report.delivered_runs, report.dropped.total()), (90 - missing as u64, missing as u64), "{report}");
    assert!((1..90).contains(&missing), "{missing}");
    let details = Log::get().lines(&segment.display().to_string());
    assert_eq!(details.len(), 1, "{details:?}");
    let aside = directory.path().join("refused").join(segment.file_name().unwrap()).with_extension("gz.damaged");
    assert!(aside.exists(), "{}", aside.display());
}

#[test]
fn a_state_directory_that_another_agent_holds_is_refused_with_its_number() {
    let runtime = runtime();
    let (_held, port) = refusing();
    let directory = tempfile::tempdir().unwrap();
    let config =
        format!("[state]\ndir = \"{}\"\n", directory.path().display()) + &target("gone", port, "400ms", "300ms");
    runtime.block_on(async {
        let mut first = start(&config);
        first.stderr_line("imaptrace is up").await;
        let pid = first.id().unwrap();
        let second = start(&config).finish().await;
        assert_eq!(second.code, Some(1), "it may be free later: {second:?}");
        let details = format!("error: the state directory {} is in use by process {pid};", directory.path().display());
        assert!(second.stderr.contains(&details), "{second:?}");
        stop(first, signal::Signal::SIGTERM).await;
        let mut third = start(&config);
        third.stderr_line("imaptrace is up").await;
        stop(third, signal::Signal::SIGTERM).await;
    });
}

/// The traces of the runs that a log tells of, each with the moment of its line.
fn details(log: &[Value]) -> Vec<(String, SystemTime)> {
    let failed = log.iter().filter(|line| line["message"].as_str().is_some_and(|text| text.contains("did not pass")));
    let at = |line: &Value| {
        SystemTime::try_from(line["time"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap()).unwrap()
    };
    failed.map(|line| (line["trace_id"].as_str().unwrap().to_owned(), at(line))).collect()
}

fn config(url: &str, directory: &Path, port: impl std::fmt::Display) -> String {
    let targets = ["one", "two", "three"].map(|name| target(name, &port, "40ms", "35ms"));
    format!("[state]\ndir = \"{}\"\n", directory.display()) + &otlp(url, "http/protobuf") + &targets.concat()
}

#[test]
fn whatever_the_receiver_does_when_the_agent_ends_each_run_is_delivered_or_on_disk() {
    let (closed, hole, receiver) = (ClosedPort::take(), BlackHole::open(), Receiver::http());
    for url in [closed.url(), hole.url(), receiver.url()] {
        let runtime = runtime();
        let (_held, port) = refusing();
        let directory = tempfile::tempdir().unwrap();
        let (output, log) = runtime.block_on(async {
            let mut agent = start(&config(&url, directory.path(), port));
            for _ in 0..30 {
                agent.stderr_line("a run did not pass").await;
            }
            stop(agent, signal::Signal::SIGTERM).await
        });
        let runs: BTreeSet<_> = details(&log).into_iter().map(|(id, _)| id).collect();
        let mut here: BTreeSet<_> = kept(&directory.path().join("queue")).into_iter().collect();
        if url == receiver.url() {
            here.extend(receiver.look(arrived));
        } else {
            assert!(
                output.stderr.contains(&format!("{} runs kept on disk for the next start", runs.len())),
                "{output:?}"
            );
        }
        assert_eq!(here, runs, "{url}");
    }
}

#[test]
fn two_stop_signals_within_a_second_are_one_request_and_lose_no_run() {
    use signal::Signal::{SIGINT, SIGTERM};
    let (closed, receiver) = (ClosedPort::take(), Receiver::http());
    for [first, second] in [[SIGINT, SIGINT], [SIGTERM, SIGTERM], [SIGTERM, SIGINT], [SIGINT, SIGTERM]] {
        for url in [closed.url(), receiver.url()] {
            let runtime = runtime();
            let (_held, port) = refusing();
            let directory = tempfile::tempdir().unwrap();
            let (output, log) = runtime.block_on(async {
                let mut agent = start(&config(&url, directory.path(), port));
                for _ in 0..10 {
                    agent.stderr_line("a run did not pass").await;
                }
                agent.signal(first);
                if first == second {
                    // Two of one kind that come before the first was taken are one to the kernel.
                    agent.stderr_line("stopping: ").await;
                }
                stop(agent, second).await
            });
            assert_eq!(lines(&log, "second stop signal"), Vec::<&Value>::new(), "{first} {second}: {output:?}");
            let runs: BTreeSet<_> = details(&log).into_iter().map(|(id, _)| id).collect();
            let mut here: BTreeSet<_> = kept(&directory.path().join("queue")).into_iter().collect();
            here.extend(receiver.look(arrived).into_iter().filter(|id| runs.contains(id)));
            assert_eq!(here, runs, "{first} {second} {url}: {output:?}");
        }
    }
}

#[test]
fn an_agent_that_is_killed_at_any_moment_loses_no_run_that_it_had_time_to_write() {
    let runtime = runtime();
    let (_held, port) = refusing();
    let directory = tempfile::tempdir().unwrap();
    let closed = ClosedPort::take();
    let mut runs = Vec::new();
    for _ in 0..8 {
        let lines = rand::rng().random_range(30..100);
        runtime.block_on(async {
            let mut agent = start(&config(&closed.url(), directory.path(), port));
            for _ in 0..lines {
                agent.stderr_line("a run did not pass").await;
            }
            let killed = clock::wall();
            agent.signal(signal::Signal::SIGKILL);
            let output = agent.finish().await;
            let log: Vec<_> = output.stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            // Its 200 ms are held where the clock stands still; here many tests share a machine.
            let is_old = |at| killed.duration_since(at).is_ok_and(|age| age > Duration::from_millis(500));
            runs.extend(details(&log).into_iter().filter(|(_, at)| is_old(*at)));
        });
    }
    assert!(runs.len() > 30, "{} runs were old enough", runs.len());
    let receiver = closed.open(false);
    let (_held, nowhere) = refusing();
    let agent = runtime.block_on(async { start(&config(&receiver.url(), directory.path(), nowhere)) });
    receiver.wait(|inbox| {
        let here: HashSet<_> = arrived(inbox).into_iter().collect();
        runs.iter().all(|(id, _)| here.contains(id))
    });
    runtime.block_on(stop(agent, signal::Signal::SIGTERM));
    let here = receiver.look(arrived);
    let once: HashSet<_> = here.iter().collect();
    assert_eq!(once.len(), here.len(), "and none came twice");
}

#[test]
fn replay_of_a_pipe_that_stays_silent_ends_at_a_signal_and_says_what_was_sent() {
    let (receiver, runtime) = (Receiver::grpc(), runtime());
    let runs = fresh_runs(60);
    let lines: String = runs.iter().map(|run| serde_json::to_string(run).unwrap() + "\n").collect();
    for (signal, code) in [(signal::Signal::SIGINT, 130), (signal::Signal::SIGTERM, 143)] {
        let url = receiver.url();
        let program =
            Program::new(["replay", "--otlp-protocol", "grpc", "--otlp-endpoint", &url, "good.jsonl", "unwritten"]);
        fs::write(program.home().join("good.jsonl"), &lines).unwrap();
        nix::unistd::mkfifo(&program.home().join("unwritten"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let before = receiver.look(arrived).len();
        let running = runtime.block_on(async { program.start() });
        // A full batch; the next will not be.
        receiver.wait(|inbox| arrived(inbox).len() > before);
        running.signal(signal);
        let output = runtime.block_on(running.finish());
        assert_eq!(output.code, Some(code), "{output:?}");
        assert!(output.stderr.contains("error: stopped: "), "{output:?}");
        let details = format!("{} runs (", receiver.look(arrived).len() - before);
        assert!(output.stdout.starts_with(&details), "{details}: {output:?}");
    }
}

#[test]
fn replay_says_which_lines_are_no_runs_and_what_did_not_arrive() {
    let receiver = Receiver::grpc();
    let (runtime, closed) = (runtime(), ClosedPort::take());
    let line = |run: &Run| serde_json::to_string(run).unwrap() + "\n";
    let runs = fresh_runs(60);
    let lines: Vec<_> = runs.iter().map(line).collect();
    let replay = |arguments: &[&str], stdin: String| {
        let program = Program::new([&["replay"], arguments].concat());
        fs::write(program.home().join("good.jsonl"), &lines[0]).unwrap();
        fs::write(program.home().join("bad.jsonl"), format!("{}\u{1b}[31m\n\n{{\"schema\":3}}\n", lines[1])).unwrap();
        runtime.block_on(program.stdin(stdin).run())
    };
    let to = |url: &str| ["--otlp-protocol".to_owned(), "grpc".into(), "--otlp-endpoint".into(), url.to_owned()];
    let (here, nowhere) = (to(&receiver.url()), to(&closed.url()));
    let [here, nowhere] = [&here, &nowhere].map(|flags| flags.each_ref().map(String::as_str));

    let output = replay(&[&here[..], &["good.jsonl", "bad.jsonl"]].concat(), String::new());
    assert_eq!(output.code, Some(1), "{output:?}");
    assert_eq!(output.stdout, format!("2 runs (18 spans) delivered to {}\n", receiver.url()));
    let details: Vec<_> = output.stderr.lines().collect();
    assert_eq!(details.len(), 2, "{output:?}");
    assert!(
        details[0].starts_with("warning: bad.jsonl:2: this is no run") && !details[0].contains('\u{1b}'),
        "{output:?}"
    );
    // The number of the line in the file, and no other.
    assert!(!details[0].contains("at line"), "{output:?}");
    let newer = "warning: bad.jsonl:4: a newer imaptrace wrote this run: its schema is 3, this one reads up to 1";
    assert_eq!(details[1], newer);

    // Several batches, on standard input.
    let output = replay(&[&here[..], &["-"]].concat(), lines.concat());
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{output:?}");
    assert_eq!(output.stdout, format!("60 runs (540 spans) delivered to {}\n", receiver.url()));
    assert_eq!(receiver.look(arrived), [ids(&runs[..2]), ids(&runs)].concat());

    receiver.script(&[Answer::Partial(4)]);
    let output = replay(&[&here[..], &["good.jsonl"]].concat(), String::new());
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("refused 4 spans of accepted batches"), "{output:?}");
    receiver.script(&[Answer::Invalid]);
    let output = replay(&[&here[..], &["good.jsonl"]].concat(), String::new());
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("refuses 1 runs: gRPC InvalidArgument"), "{output:?}");

    let output = replay(&[&nowhere[..], &["good.jsonl"]].concat(), String::new());
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("Connection refused"), "{output:?}");
    for (arguments, says) in [
        (&["good.jsonl"][..], "error: there is no OTLP endpoint to send the runs to\n  help: "),
        (&[&here[..], &["gone.jsonl"]].concat(), "error: gone.jsonl: No such file"),
        (&["--otlp-endpoint", "ftp://x", "good.jsonl"], "--otlp-endpoint"),
    ] {
        let output = replay(arguments, String::new());
        assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{output:?}");
        assert!(output.stderr.contains(says), "{output:?}");
    }
}
