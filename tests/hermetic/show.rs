//! Runs that are kept: drawn beside the process that keeps them, compared, and read from files that no one should trust.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use flate2::{Compression, write::GzEncoder};
use imaptrace::{
    delivery::{Delivery, DeliverySettings, Protocol, Signal},
    state::StateDir,
    telemetry::{MetricsSettings, ResourceSettings},
};
use imaptrace_record::{Run, Seconds, SpanId, Timestamp, TraceId};
use nix::sys::signal;
use serde_json::{Value, json};

use crate::{
    agent::runtime,
    support::{
        otlp::{Answer, Receiver, block_on, failed_run, passed_run},
        program::{Output, Program, wait_until},
    },
};

/// A run of its own that started so many seconds after a day in November.
fn at(second: u64) -> Run {
    let started_at = Timestamp::from(UNIX_EPOCH + Duration::from_secs(1_795_434_160 + second));
    Run { trace_id: TraceId::random(), span_id: SpanId::random(), started_at, slow: None, ..passed_run() }
}

fn line(run: &Run) -> String {
    serde_json::to_string(run).unwrap() + "\n"
}

fn packed(text: impl AsRef<[u8]>) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(text.as_ref()).unwrap();
    gzip.finish().unwrap()
}

/// The first digits of a run's trace id.
fn digits(run: &Run, count: usize) -> String {
    run.trace_id.to_string().chars().take(count).collect()
}

fn short(run: &Run) -> String {
    digits(run, 8)
}

/// The ids that a list shows, in its order.
fn listed(output: &Output) -> Vec<String> {
    output.stdout.lines().map(|line| line.chars().take(8).collect()).collect()
}

async fn show(files: &[(&str, &[u8])], arguments: &[&str]) -> Output {
    show_input(files, arguments, "").await
}

async fn show_input(files: &[(&str, &[u8])], arguments: &[&str], input: impl Into<Vec<u8>>) -> Output {
    let program = Program::new([&["show"], arguments].concat()).stdin(input);
    for (name, content) in files {
        let path = program.home().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    program.run().await
}

// === A state directory ===

/// Every file below a directory: inode, size, times of its content and its metadata.
fn looks(directory: &Path) -> BTreeMap<String, (u64, u64, i64, i64)> {
    let mut found = BTreeMap::new();
    let mut open = vec![directory.to_owned()];
    while let Some(path) = open.pop() {
        let data = fs::symlink_metadata(&path).unwrap();
        if data.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let facts = (data.ino(), data.len(), data.mtime_nsec(), data.ctime_nsec());
        found.insert(path.display().to_string(), facts);
    }
    found
}

#[test]
fn queue_and_dead_letters_are_drawn_beside_the_process_that_keeps_them_and_nothing_changes() {
    let (runtime, receiver) = (runtime(), Receiver::grpc());
    receiver.script(&[Answer::Invalid]);
    let directory = tempfile::tempdir().unwrap();
    let settings = DeliverySettings {
        traces: Some(Signal::new(&receiver.url(), Protocol::Grpc)),
        state: Some(StateDir::open(directory.path()).unwrap()),
        ..DeliverySettings::default()
    };
    let delivery = Delivery::start(&settings, &ResourceSettings::default(), &MetricsSettings::default()).unwrap();
    let refused = at(0);
    delivery.deliver(refused.clone());
    drop(wait_until("a dead letter", || fs::read_dir(directory.path().join("refused")).ok()?.next()));
    let _closed = receiver.kill();
    // The newest come first: what is shown is sorted by the start.
    let waiting = [at(30), at(20), at(10)];
    for run in &waiting {
        delivery.deliver(run.clone());
    }
    wait_until("three runs on disk", || Some(()).filter(|()| delivery.status().stored_runs == Some(3)));

    let state = directory.path().to_str().unwrap();
    let before = looks(directory.path());
    let run = |arguments: &[&str]| {
        let output = runtime.block_on(show(&[], &[&[state], arguments].concat()));
        assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{output:?}");
        output
    };
    let list = run(&["--output", "list"]);
    let expected = [&refused, &waiting[2], &waiting[1], &waiting[0]].map(short);
    assert_eq!(listed(&list), expected, "{list:?}");
    let text = run(&[]);
    for run in waiting.iter().chain([&refused]) {
        assert!(text.stdout.contains(&format!("trace    {}", run.trace_id)), "{text:?}");
    }
    assert!(text.stdout.contains("UTC  ") && text.stdout.contains("/refused/"), "{text:?}");
    let json = run(&["--output", "json", "--all"]);
    let lines: Vec<Run> = json.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // The refused run may still be in the queue's segment.
    let shown: BTreeSet<_> = lines.iter().map(|run| run.trace_id).collect();
    assert_eq!(shown.len(), 4, "{json:?}");
    assert!(waiting.iter().chain([&refused]).all(|run| lines.contains(run)));
    assert_eq!(looks(directory.path()), before, "show changed something");
    // And its owner still has it.
    delivery.deliver(at(40));
    wait_until("one more on disk", || Some(()).filter(|()| delivery.status().stored_runs == Some(4)));
    block_on(delivery.shutdown(Duration::from_secs(1)));
}

#[tokio::test]
async fn of_a_large_queue_the_newest_are_shown_and_how_many_more_there_are_is_said() {
    let runs: Vec<_> = (0..30).map(|number| at(number * 600)).collect();
    let all: Vec<_> = runs.iter().map(line).collect();
    let files: Vec<_> = (0..3)
        .map(|number| (format!("state/queue/{number:020}.jsonl.gz"), packed(all[number * 10..][..10].concat())))
        .collect();
    let program = |arguments: &[&str]| {
        let program = Program::new([&["show", "state"], arguments].concat());
        for ((name, content), number) in files.iter().zip(0..) {
            let path = program.home().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            // Each was written when its last run had ended.
            let written = runs[number * 10 + 9].started_at.to_system_time() + Duration::from_secs(1);
            fs::File::options().write(true).open(&path).unwrap().set_modified(written).unwrap();
        }
        program
    };
    let output = program(&["--output", "list"]).run().await;
    assert_eq!(listed(&output), runs.iter().map(short).collect::<Vec<_>>());
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{output:?}");
    // The newest last; the oldest file cannot hold one of them.
    let output = program(&["--output", "list", "--last", "12"]).run().await;
    assert_eq!(listed(&output), runs[18..].iter().map(short).collect::<Vec<_>>());
    assert!(output.stderr.starts_with("8 older runs not shown"), "{output:?}");
    assert!(output.stderr.ends_with("; --last N or --all shows more\n"), "{output:?}");
    let output = program(&[]).run().await;
    assert_eq!(output.stdout.matches("trace    ").count(), 10, "{output:?}");
    let output = program(&["--all", "--output", "json"]).run().await;
    assert_eq!((output.stdout.lines().count(), output.stderr.as_str()), (30, ""));
}

#[tokio::test]
async fn what_is_damaged_or_half_written_is_said_and_all_else_is_shown() {
    let runs: Vec<_> = (0..4).map(at).collect();
    let group = |runs: &[Run]| packed(runs.iter().map(line).collect::<String>());
    let whole = group(&runs[..2]);
    let half = group(&runs[3..]);
    let cut = [&whole[..], &half[..half.len() / 2]].concat();
    let files: [(&str, &[u8]); 4] = [
        ("state/queue/00000000000000000001.jsonl.gz", &cut),
        ("state/refused/00000000000000000002.jsonl.gz", b"no gzip at all"),
        ("state/refused/00000000000000000001.jsonl.gz.damaged", &group(&runs[2..3])),
        ("state/queue/cursor", b"1 0 0 00000000"),
    ];
    let output = show(&files, &["state", "--output", "list"]).await;
    assert_eq!(output.code, Some(1), "{output:?}");
    assert_eq!(listed(&output), runs[..3].iter().map(short).collect::<Vec<_>>(), "{output:?}");
    let warnings: Vec<_> = output.stderr.lines().collect();
    assert_eq!(warnings.len(), 2, "{output:?}");
    assert!(warnings.iter().any(|line| line.contains("queue/00000000000000000001.jsonl.gz:3: ")), "{output:?}");
    assert!(warnings.iter().any(|line| line.contains("refused/00000000000000000002.jsonl.gz:1: ")), "{output:?}");
}

#[tokio::test]
async fn a_directory_without_runs_and_a_file_that_is_not_there_are_wrong_usage() {
    let files: [(&str, &[u8]); 1] = [("other/latency.jsonl", b"{}\n")];
    for (arguments, says) in [
        (&["other"][..], "other: no run is kept here: it has neither queue/ nor refused/\n  help: "),
        (&["gone"], "gone: No such file"),
        (&["gone", "other"], "gone: No such file"),
        (&["-", "--since", "soon"], "--since: expected a time before now"),
        (&["-", "--since", "1h", "--until", "2h"], "--until: it is not after --since"),
        (&["-", "other/latency.jsonl", "--last", "3"], "--last: two runs are compared"),
        (&["-", "other/latency.jsonl", "--output", "list"], "--output list: two runs are compared"),
        (&["-", "-"], "-: standard input can be read once"),
        (&["-", "--trace-id", "xyz0"], "expected 4 to 32 hexadecimal digits"),
    ] {
        let output = show(&files, arguments).await;
        assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{arguments:?}: {output:?}");
        assert!(output.stderr.contains(says), "{arguments:?}: {output:?}");
    }
    // An agent that has delivered everything.
    let program = Program::new(["show", "state"]);
    fs::create_dir_all(program.home().join("state/queue")).unwrap();
    let output = program.run().await;
    assert_eq!((output.code, output.stdout.as_str()), (Some(0), ""), "{output:?}");
    assert_eq!(output.stderr, "no run is kept here that matches: what is delivered is deleted\n");
}

// === The inside of a run ===

/// A run of which the server reported: SELECT waited for a lock, on a host whose clock is a second behind.
fn reported_run() -> Value {
    let mut run = serde_json::to_value(passed_run()).unwrap();
    let late = |value: &mut Value| *value = json!(value.as_f64().unwrap() + 1.2);
    for index in [7, 8] {
        late(&mut run["steps"][index]["start_s"]);
    }
    let select = &mut run["steps"][6];
    late(&mut select["duration_s"]);
    select["waits"] = json!([
        { "span_id": "2000000000000001", "start_s": 0.013, "duration_s": 1.2, "server_s": 1.1997 },
        { "span_id": "2000000000000002", "start_s": 1.2131, "duration_s": 0.0163, "server_s": 0.016 },
    ]);
    for name in ["first_loading_latency_s", "first_row_s", "duration_s"] {
        late(&mut run[name]);
    }
    run["slowest_step"] = json!("SELECT");
    let event = |id: u64, parent: &str, name: &str, at: &str, took: f64, more: Value| {
        let mut event = json!({ "host": 0, "name": name, "span_id": format!("300000000000000{id}"), "parent_span_id": parent,
            "started_at": format!("2026-11-23T11:42:{at}Z"), "duration_s": took });
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        event
    };
    let figures = json!({ "command": "SELECT", "status": "OK", "running_s": 1.214, "lock_wait_s": 1.1993 });
    let opened = json!({ "command": "FETCH", "status": "OK", "running_s": 0.0211, "mail_opened": 20,
        "reasons": ["9/9 headers not cached"] });
    let process = |id: Value, sampled: f64, cpu: f64, rest: Value| {
        json!({ "host": 0, "process": "imap", "span_id": id, "sampled_s": sampled, "cpu_s": cpu, "run_queue_s": 0.0011,
            "rest_s": rest })
    };
    run["server_events"] = json!({
        "hosts": [{ "name": "mail01", "clock_offset_s": -1.0 }],
        "events": [
            event(1, "1000000000000005", "auth_client_request_finished", "39.210000", 0.0031, json!({ "success": true })),
            event(2, "3000000000000001", "auth_request_finished", "39.210400", 0.0022, json!({ "success": true })),
            event(3, "3000000000000002", "auth_passdb_request_finished", "39.210500", 0.0004, json!({})),
            event(4, "1000000000000005", "auth_userdb_request_finished", "39.213400", 0.0002, json!({})),
            event(5, "b7ad6b7169203331", "mail_user_session_finished", "39.213900", 1.2421, json!({})),
            event(6, "1000000000000006", "imap_command_finished", "39.214600", 1.2162, figures),
            event(7, "1000000000000007", "imap_command_finished", "40.432100", 0.0215, opened),
        ],
        "processes": [
            process(json!("1000000000000006"), 1.2172, 0.0043, json!(0.0093)),
            process(json!("1000000000000007"), 0.0236, 0.0071, json!(0.0129)),
            process(Value::Null, 1.2441, 0.0133, Value::Null),
        ],
    });
    run
}

#[tokio::test]
async fn waits_and_what_the_server_reported_stand_below_their_steps() {
    let run = reported_run().to_string();
    let text = show_input(&[], &["-"], run.clone()).await;
    assert_eq!((text.code, text.stderr.as_str()), (Some(0), ""), "{text:?}");
    insta::assert_snapshot!("show_server_events", text.stdout);
    let markdown = show_input(&[], &["-", "--output", "markdown"], run).await;
    insta::assert_snapshot!("show_server_events_markdown", markdown.stdout);
    // All else is as without them.
    let bare = |mut run: Value| {
        run.as_object_mut().unwrap().remove("server_events");
        run["steps"][6].as_object_mut().unwrap().remove("waits");
        run.to_string()
    };
    let without = show_input(&[], &["-"], bare(reported_run())).await;
    assert!(!without.stdout.contains("  wait") && !without.stdout.contains("server SELECT"), "{without:?}");
    let names = |text: &str| -> Vec<String> {
        let inner = ["  ", "session", "process", "events"];
        let lines = text.lines().filter(|line| !inner.iter().any(|begin| line.starts_with(begin)));
        lines.map(|line| line.split(' ').next().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&text.stdout), names(&without.stdout));
}

#[tokio::test]
async fn the_examples_of_the_documentation_are_what_is_drawn_of_their_records() {
    for name in ["held-lock", "slow-disk"] {
        let read = |ending: &str| {
            fs::read_to_string(format!("{}/docs/examples/{name}.{ending}", env!("CARGO_MANIFEST_DIR"))).unwrap()
        };
        let file = format!("{name}.jsonl");
        let output = show(&[(file.as_str(), read("jsonl").as_bytes())], &[&file]).await;
        assert_eq!(output.stdout, read("txt"), "scripts/examples.sh makes them anew");
    }
}

// === Which runs ===

#[tokio::test]
async fn runs_are_found_by_target_account_id_outcome_and_time() {
    let mut runs = [at(0), at(60), at(120), at(180)];
    runs[1].target = "mail02".to_owned();
    runs[1].slow = Some(true);
    let (id, span, start) = (runs[2].trace_id, runs[2].span_id, runs[2].started_at);
    runs[2] = Run { trace_id: id, span_id: span, started_at: start, target: "mail03".to_owned(), ..failed_run() };
    runs[3].account = "second".to_owned();
    let text: String = runs.iter().map(line).collect();
    let first = runs[0].target.clone();
    let time = |run: &Run| serde_json::to_value(run.started_at).unwrap().as_str().unwrap().to_owned();
    let (since, until) = (time(&runs[1]), time(&runs[3]));
    for (arguments, expected) in [
        (&[][..], &[0, 1, 2, 3][..]),
        (&["--target", &first, "--account", "default"], &[0]),
        (&["--target", "*02"], &[1]),
        (&["--target", "none", "--target", "mail*"], &[0, 1, 2, 3]),
        (&["--account", "second"], &[3]),
        (&["--slow"], &[1]),
        (&["--failed"], &[2]),
        (&["--failed", "--slow"], &[1, 2]),
        (&["--since", &since, "--until", &until], &[1, 2]),
        (&["--trace-id", &id.to_string()], &[2]),
        (&["--trace-id", &digits(&runs[2], 4).to_uppercase()], &[2]),
        (&["--last", "2"], &[2, 3]),
    ] {
        let output = show_input(&[], &[&["-", "--output", "list"], arguments].concat(), text.clone()).await;
        let expected: Vec<_> = expected.iter().map(|index| short(&runs[*index])).collect();
        assert_eq!((output.code, listed(&output)), (Some(0), expected), "{arguments:?}: {output:?}");
    }
    let absent = show_input(&[], &["-", "--trace-id", "0123456789abcdef"], text.clone()).await;
    assert_eq!((absent.code, absent.stdout.as_str()), (Some(1), ""), "{absent:?}");
    let none = show_input(&[], &["-", "--target", "nobody"], text).await;
    assert_eq!((none.code, none.stdout.as_str()), (Some(0), ""), "{none:?}");
}

// === Two runs ===

#[tokio::test]
async fn two_runs_are_compared_step_by_step_by_file_or_by_id() {
    let (one, mut other) = (at(0), at(60));
    let fetch = other.steps.iter_mut().find(|step| step.name == "FETCH").unwrap();
    let before = fetch.duration_s;
    fetch.duration_s = before.saturating_add(Seconds::from_micros(1_200_000));
    fetch.server_s = Some(fetch.server_s.unwrap_or_default().saturating_add(Seconds::from_micros(1_200_000)));
    other.server.tls_version = Some("1.1".to_owned());
    let (good, bad) = (line(&one), line(&other));
    let both = format!("{good}{bad}");
    let files: [(&str, &[u8]); 3] =
        [("good.jsonl", good.as_bytes()), ("bad.jsonl", bad.as_bytes()), ("both.jsonl", both.as_bytes())];
    let ids = [&one, &other].map(|run| run.trace_id.to_string());
    let by_id = ["both.jsonl", "--trace-id", &ids[0], "--trace-id", &ids[1]];
    let mut pages = Vec::new();
    for arguments in [&["good.jsonl", "bad.jsonl"][..], &by_id] {
        let output = show(&files, arguments).await;
        assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{output:?}");
        let fetch = output.stdout.lines().find(|line| line.starts_with("FETCH")).unwrap();
        assert!(fetch.contains("+1.20 s") && fetch.contains("server +1.20 s"), "{fetch}");
        let changed = output.stdout.lines().find(|line| line.starts_with("TLS version")).unwrap();
        assert!(changed.ends_with("-> 1.1"), "{changed}");
        pages.push(output.stdout);
    }
    assert_eq!(pages[0], pages[1]);
    let json = show(&files, &["good.jsonl", "bad.jsonl", "--output", "json"]).await;
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((&json["a"]["trace_id"], &json["b"]["trace_id"]), (&json!(ids[0]), &json!(ids[1])));
    let markdown = show(&files, &["good.jsonl", "bad.jsonl", "--output", "markdown"]).await;
    assert!(markdown.stdout.contains("| `FETCH INBOX` |"), "{markdown:?}");
    // Of several the newest; with fewer than two there is nothing to compare.
    let newest = show(&files, &["good.jsonl", "both.jsonl"]).await;
    assert!(newest.code == Some(0) && newest.stdout == pages[0] && newest.stderr.contains("newest"), "{newest:?}");
    let none = show(&files, &["good.jsonl", "bad.jsonl", "--target", "nobody"]).await;
    assert_eq!((none.code, none.stdout.as_str()), (Some(1), ""), "{none:?}");
    assert!(none.stderr.contains("there is no first run to compare"), "{none:?}");
}

// === Files that no one should trust ===

/// A record in which each number or text that has this key is replaced.
fn with(key: &str, value: &Value) -> Value {
    fn replace(json: &mut Value, key: &str, new: &Value) {
        match json {
            Value::Object(all) => {
                for (name, one) in all {
                    if name == key { one.clone_from(new) } else { replace(one, key, new) }
                }
            }
            Value::Array(all) => all.iter_mut().for_each(|one| replace(one, key, new)),
            _ => {}
        }
    }
    let mut json = serde_json::to_value(passed_run()).unwrap();
    replace(&mut json, key, value);
    json
}

/// A thousand events, each below the one before it, with long texts.
fn hostile_events(text: &str) -> Value {
    let mut run = reported_run();
    let mut events = Vec::new();
    for number in 1..1_000 {
        let mut event = run["server_events"]["events"][6].clone();
        event["span_id"] = json!(format!("{number:016x}"));
        event["parent_span_id"] = json!(format!("{:016x}", number - 1 + u64::from(number == 1)));
        event["reasons"] = json!(vec![text.get(..600).unwrap(); 10]);
        events.push(event);
    }
    run["server_events"]["events"] = events.into();
    run["server_events"]["hosts"] = json!(vec![json!({ "name": text.get(..600).unwrap() }); 100]);
    run["server_events"]["processes"] = json!(vec![run["server_events"]["processes"][0].clone(); 1_000]);
    run
}

#[tokio::test]
async fn a_hostile_record_controls_no_terminal_and_has_an_end() {
    let evil = "\u{1b}[2J\u{9b}31m\u{202e}\u{2066}\u{7}\r\nerror: `|<script>";
    let long = format!("{evil}{}", "x".repeat(1 << 20));
    let mut steps = with("duration_s", &json!(1e9));
    let step = steps["steps"][4].clone();
    steps["steps"] = vec![step; 10_000].into();
    let mut named = with("slow", &json!(true));
    named["steps"][4]["name"] = json!(long);
    let records = [
        named,
        with("target", &json!(evil)),
        with("account", &json!(long)),
        with("address", &json!(long)),
        with("mailbox", &json!(long)),
        with("cipher", &json!(evil)),
        with("tls_version", &json!(evil)),
        with("capability_hash", &json!(long)),
        with("duration_s", &json!(1.8e13)),
        with("start_s", &json!(1.8e13)),
        with("share", &json!(1e308)),
        with("ratio", &json!(-1e308)),
        with("received_bytes", &json!(u64::MAX)),
        with("not_after", &json!("9999-12-31T23:59:59Z")),
        with("notes", &json!(vec![json!({"at_s": 0, "level": "warn", "text": long.clone()}); 5])),
        with("labels", &json!({ evil: long })),
        steps,
        hostile_events(&long),
    ];
    let text: String = records.iter().map(|record| record.to_string() + "\n").collect();
    let good = line(&at(0));
    let files: [(&str, &[u8]); 2] = [("evil.jsonl", text.as_bytes()), ("good.jsonl", good.as_bytes())];
    for arguments in [
        &["evil.jsonl", "--last", "100"][..],
        &["evil.jsonl", "--color", "always"],
        &["evil.jsonl", "--output", "list"],
        &["evil.jsonl", "--output", "markdown", "--all"],
        &["evil.jsonl", "--output", "json", "--all"],
        &["good.jsonl", "evil.jsonl"],
        &["evil.jsonl", "good.jsonl", "--output", "markdown"],
        &["evil.jsonl", "good.jsonl", "--output", "json"],
    ] {
        let output = show(&files, arguments).await;
        assert_eq!(output.code, Some(0), "{arguments:?}: {}", output.stderr);
        let colour = arguments.contains(&"always");
        for text in [&output.stdout, &output.stderr] {
            let bare = text.replace("\u{1b}[0m", "");
            let bad = bare.chars().find(|character| {
                let code = u32::from(*character);
                (character.is_control() && *character != '\n' && !(colour && *character == '\u{1b}'))
                    || matches!(code, 0x061c | 0x200e..=0x200f | 0x2028..=0x202e | 0x2066..=0x2069)
            });
            assert_eq!(bad, None, "{arguments:?}");
            assert!(!text.contains("\u{1b}[2J"), "{arguments:?}");
            assert!(!text.lines().any(|line| line.starts_with("error: `")), "{arguments:?}");
        }
        if !arguments.contains(&"json") {
            assert!(output.stdout.len() < 400_000, "{arguments:?}: {} bytes", output.stdout.len());
        }
    }
}

#[tokio::test]
async fn what_is_no_record_is_said_by_its_line_and_the_rest_is_shown() {
    let good = line(&at(0));
    let garbage: Vec<u8> = (0..25_000_u32).flat_map(|word| word.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    let bomb = packed(vec![b'['; 40 << 20]);
    let deep = format!("{{\"schema\":1,\"x\":{}", "[".repeat(1 << 20));
    let numbers = [r#""duration_s":NaN"#, r#""duration_s":-1"#, r#""duration_s":1e308"#, r#""duration_s":1e999"#];
    let wrong = numbers.map(|wrong| {
        let text = good.trim().to_owned();
        let (before, rest) = text.split_once("\"duration_s\":").unwrap();
        let end = rest.find([',', '}']).unwrap();
        format!("{before}{wrong}{}\n", rest.split_at(end).1)
    });
    let inputs: Vec<(&str, Vec<u8>)> = vec![
        ("garbage", garbage.clone()),
        ("packed garbage", packed(&garbage)),
        ("a bomb", bomb),
        ("deep", deep.into_bytes()),
        ("numbers", wrong.concat().into_bytes()),
        ("zeros", vec![0; 1 << 20]),
        ("a cut gzip", packed(&good)[..40].to_vec()),
        ("names", (with("outcome", &json!("\u{9b}".repeat(1 << 20))).to_string() + "\n").into_bytes()),
        ("lines", "\u{1b}[31mno JSON\n".repeat(1_000).into_bytes()),
    ];
    for (name, bytes) in inputs {
        let files: [(&str, &[u8]); 1] = [("file", &bytes)];
        for arguments in [&["file"][..], &["file", "--all", "--output", "json"]] {
            let output = show(&files, arguments).await;
            assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""), "{name}: {output:?}");
            assert!(output.stderr.contains("warning: file:"), "{name}: {output:?}");
            assert!(output.stderr.lines().count() <= 23 && output.stderr.len() < 20_000, "{name}: {output:?}");
            assert!(!output.stderr.chars().any(|character| character.is_control() && character != '\n'), "{name}");
        }
    }
    let around = format!("{good}no JSON\n{}", line(&at(1)));
    let output = show(&[("file", around.as_bytes())], &["file", "--output", "list"]).await;
    assert_eq!((output.code, output.stdout.lines().count()), (Some(1), 2), "{output:?}");
    assert!(output.stderr.starts_with("warning: file:2: this is no run: "), "{output:?}");
}

#[tokio::test]
async fn a_device_without_an_end_ends_and_a_pipe_that_stays_silent_ends_at_a_signal() {
    let zero = show(&[], &["/dev/zero"]).await;
    assert_eq!(zero.code, Some(1), "{zero:?}");
    assert!(zero.stderr.contains("/dev/zero:1: the line does not end within 4GiB"), "{zero:?}");
    let null = show(&[], &["/dev/null"]).await;
    assert_eq!((null.code, null.stdout.as_str()), (Some(0), ""), "{null:?}");
    for (signal, code) in [(signal::Signal::SIGINT, 130), (signal::Signal::SIGTERM, 143)] {
        let program = Program::new(["show", "unwritten", "--all", "--output", "list"]);
        let path = program.home().join("unwritten");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut running = program.start();
        // It waits for the end of the pipe, and what has come is shown.
        let mut writer =
            tokio::task::spawn_blocking(move || fs::File::options().write(true).open(path).unwrap()).await.unwrap();
        let run = at(0);
        writer.write_all(line(&run).as_bytes()).unwrap();
        let shown = running.stdout_line("mail").await;
        assert!(shown.starts_with(&short(&run)), "{shown}");
        running.signal(signal);
        let output = running.finish().await;
        assert_eq!((output.code, output.stderr.as_str()), (Some(code), ""), "{output:?}");
    }
}

#[tokio::test]
async fn links_and_pipes_in_a_state_directory_are_left_alone() {
    let program = Program::new(["show", "state", "--output", "list"]);
    let (home, run) = (program.home().to_owned(), at(0));
    fs::create_dir_all(home.join("state/queue")).unwrap();
    fs::write(home.join("outside.jsonl.gz"), packed(line(&at(1)))).unwrap();
    fs::write(home.join("state/queue/00000000000000000003.jsonl.gz"), packed(line(&run))).unwrap();
    std::os::unix::fs::symlink("../../outside.jsonl.gz", home.join("state/queue/00000000000000000001.jsonl.gz"))
        .unwrap();
    nix::unistd::mkfifo(&home.join("state/queue/00000000000000000002.jsonl.gz"), nix::sys::stat::Mode::S_IRWXU)
        .unwrap();
    let output = program.run().await;
    assert_eq!((output.code, listed(&output)), (Some(1), vec![short(&run)]), "{output:?}");
    assert!(output.stderr.contains("a symbolic link") && output.stderr.contains("a FIFO"), "{output:?}");
}
