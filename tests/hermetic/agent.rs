//! The agent as a process: what it sends while it runs, what it logs, and how it ends.

use std::{
    collections::{HashMap, HashSet},
    fmt::Write as _,
    fs,
    time::Duration,
};

use nix::sys::signal::Signal;
use opentelemetry_proto::tonic::{
    metrics::v1::{NumberDataPoint, metric::Data},
    trace::v1::Span,
};
use serde_json::Value;
use tokio::{runtime::Runtime, time::timeout};

use crate::{
    command_line::{GOOD, Listener, REFUSED, heard, hex, refusing},
    support::{
        otlp::{BlackHole, ClosedPort, Inbox, Receiver, attribute},
        program::{Output, Program, Running},
        quick,
        script::Script,
    },
};

/// What the contract gives the agent to end in.
const EXIT: Duration = Duration::from_secs(5);

/// No output may hold it.
pub(crate) const PASSWORD: &str = "planted-51d0";

/// A conversation in which the login is held back: no command but LOGOUT.
pub(crate) const HELD: &str = "S: * OK [CAPABILITY IMAP4rev1] hi\nC: LOGOUT\nS: * BYE\nS: {tag} OK\n";

/// The programs and servers of a test live on this; the test itself stays outside, where it can wait for a receiver.
pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A target in clear text whose password is in the variable PROBE.
pub(crate) fn target(name: &str, address: impl std::fmt::Display, interval: &str, timeout: &str) -> String {
    format!(
        "[[targets]]\nname = \"{name}\"\nurl = \"imap://someone@{address}\"\nsecurity = \"none\"\n\
         password = {{ env = \"PROBE\" }}\ninterval = \"{interval}\"\ntimeout = \"{timeout}\"\n"
    )
}

pub(crate) fn otlp(url: &str, protocol: &str) -> String {
    format!("[otlp]\nendpoint = \"{url}\"\nprotocol = \"{protocol}\"\n[metrics]\nexport_interval = \"500ms\"\n")
}

/// The configuration of an agent that logs in JSON.
pub(crate) fn whole(config: &str) -> String {
    // Many agents at once have one port between them, unless the test is about it.
    let http = if config.contains("[http]") { "" } else { "[http]\nlisten = \"off\"\n" };
    // It stands above all tables.
    let (include, config) = match config.split_once('\n') {
        Some((line, rest)) if line.starts_with("include") => (line, rest),
        _ => ("", config),
    };
    format!("{include}\n[agent]\nlog_format = \"json\"\n{http}{config}")
}

/// Starts the agent. It logs in JSON.
pub(crate) fn start(config: &str) -> Running {
    // With a line for each run, also for one that failed as the one before.
    let levels = "info,imaptrace::agent::run_log=debug,imaptrace::agent::runner=debug,imaptrace::probe=error";
    let program = Program::new(["agent", "--config", "imaptrace.toml"]).env("PROBE", PASSWORD).env("RUST_LOG", levels);
    fs::write(program.home().join("imaptrace.toml"), whole(config)).unwrap();
    program.start()
}

/// Ends it in good time and gives what it wrote; its log has been looked through for the password.
pub(crate) async fn stop(agent: Running, signal: Signal) -> (Output, Vec<Value>) {
    agent.signal(signal);
    let output = timeout(EXIT, agent.finish()).await.expect("it did not end within 5 s");
    assert_eq!((output.code, output.stdout.as_str()), (Some(0), ""), "{output:?}");
    assert!(!output.stderr.contains(PASSWORD), "{output:?}");
    let line = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
    let log = output.stderr.lines().map(line).collect();
    (output, log)
}

/// The lines of a log whose message holds this.
pub(crate) fn lines<'a>(log: &'a [Value], message: &str) -> Vec<&'a Value> {
    log.iter().filter(|line| line["message"].as_str().is_some_and(|text| text.contains(message))).collect()
}

pub(crate) fn roots(inbox: &Inbox) -> Vec<Span> {
    inbox.spans().into_iter().filter(|span| span.name == "probe first-load").collect()
}

pub(crate) fn value(span: &Span, key: &str) -> String {
    attribute(&span.attributes, key).unwrap_or_default()
}

/// Runs that arrived, by target and account.
fn runs(inbox: &Inbox) -> HashMap<String, usize> {
    let mut runs = HashMap::new();
    for root in roots(inbox) {
        let key = format!("{}/{}", value(&root, "imaptrace.target.name"), value(&root, "imaptrace.account.name"));
        *runs.entry(key).or_default() += 1;
    }
    runs
}

#[test]
fn every_account_of_every_target_is_probed_at_its_own_interval_and_all_arrives() {
    for protocol in ["grpc", "http/protobuf"] {
        let receiver = if protocol == "grpc" { Receiver::grpc() } else { Receiver::http() };
        let runtime = runtime();
        let agent = runtime.block_on(async {
            let (quick, slow) = (Listener::willing().await, Listener::willing().await);
            let mut config = otlp(&receiver.url(), protocol);
            config += &target("quick", quick.address, "200ms", "190ms");
            config += "[[targets.accounts]]\nname = \"second\"\nuser = \"other\"\npassword = { env = \"PROBE\" }\n";
            config += &target("slow", slow.address, "1s", "900ms");
            start(&config)
        });
        let all = ["quick/default", "quick/second", "slow/default"];
        receiver.wait(|inbox| all.iter().all(|key| runs(inbox).get(*key).is_some_and(|count| *count >= 3)));
        let arrived = receiver.look(runs);
        assert_eq!(arrived.len(), 3, "{arrived:?}");
        assert!(arrived["quick/default"] > arrived["slow/default"], "{arrived:?}");
        assert!(arrived["quick/second"] > arrived["slow/default"], "{arrived:?}");
        receiver.wait(|inbox| inbox.metrics().contains_key("imaptrace.probe.up"));
        let (output, log) = runtime.block_on(stop(agent, Signal::SIGTERM));
        assert_eq!(lines(&log, "all telemetry was delivered (").len(), 1, "{output:?}");
    }
}

#[test]
fn a_group_is_probed_target_by_target_and_has_one_series_when_those_are_for_groups() {
    let receiver = Receiver::http();
    let runtime = runtime();
    let directory = tempfile::tempdir().unwrap();
    let (agent, mut expected) = runtime.block_on(async {
        let (templated, listed) = (Listener::willing().await, Listener::willing().await);
        let file = directory.path().join("targets.json");
        fs::write(&file, format!("[{{\"targets\": [\"{}\"]}}]", listed.address)).unwrap();
        let config = format!(
            "{}per = \"group\"\n[[groups]]\nname = \"fleet\"\ntargets = [\"{}\"]\ntargets_from = [\"{}\"]\n\
             url = \"imap://someone@{{host}}\"\nsecurity = \"none\"\npassword = {{ env = \"PROBE\" }}\n\
             interval = \"400ms\"\ntimeout = \"390ms\"\n",
            otlp(&receiver.url(), "http/protobuf"),
            templated.address,
            file.display(),
        );
        (start(&config), [templated, listed].map(|server| format!("{}/default", server.address)))
    });
    expected.sort();
    receiver.wait(|inbox| expected.iter().all(|key| runs(inbox).get(key).is_some_and(|count| *count >= 2)));
    runtime.block_on(stop(agent, Signal::SIGTERM));
    let mut arrived: Vec<_> = receiver.look(runs).into_keys().collect();
    arrived.sort();
    assert_eq!(arrived, expected);
    // The last export, at the end, holds all of them.
    let metric = receiver.look(Inbox::metrics).remove("imaptrace.probe.up").unwrap();
    let Some(Data::Gauge(gauge)) = &metric.data else { panic!("{metric:?}") };
    let name = |point: &NumberDataPoint| attribute(&point.attributes, "imaptrace.target.name");
    assert_eq!(gauge.data_points.iter().map(name).collect::<Vec<_>>(), [Some("fleet".to_owned())]);
}

/// Ends an agent whose target refuses connections, and checks what it says of what it could not deliver.
fn ends(signal: Signal, url: &str, says: &str) {
    let runtime = runtime();
    let (_held, port) = refusing();
    let (output, log) = runtime.block_on(async {
        let config = otlp(url, "http/protobuf") + &target("gone", port, "400ms", "300ms");
        let mut agent = start(&config);
        agent.stderr_line("a run did not pass").await;
        stop(agent, signal).await
    });
    let said = lines(&log, says);
    assert_eq!(said.len(), 1, "{output:?}");
    let message = said[0]["message"].as_str().unwrap();
    let runs = lines(&log, "a run did not pass").len();
    let plural = if runs == 1 { "" } else { "s" };
    let (delivered, missing) = (format!("({runs} run{plural})"), format!("{runs} run{plural} ({} spans)", 2 * runs));
    assert!(message.contains(&delivered) || message.contains(&missing), "{runs} runs: {output:?}");
}

#[test]
fn it_ends_in_good_time_when_the_receiver_is_there() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let receiver = Receiver::http();
        ends(signal, &receiver.url(), "all telemetry was delivered (");
        assert!(!receiver.look(roots).is_empty());
    }
}

#[test]
fn it_ends_in_good_time_when_the_receiver_refuses() {
    let closed = ClosedPort::take();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        ends(signal, &closed.url(), "not delivered: ");
    }
}

#[test]
fn it_ends_in_good_time_when_the_receiver_hangs() {
    let hole = BlackHole::open();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        ends(signal, &hole.url(), "not delivered: ");
    }
}

#[test]
fn a_probe_under_way_at_the_end_is_void_and_says_good_bye() {
    let receiver = Receiver::http();
    let runtime = runtime();
    let (output, log) = runtime.block_on(async {
        let mut server = Listener::silent_at("LIST").await;
        let agent = start(&(otlp(&receiver.url(), "http/protobuf") + &target("stuck", server.address, "4s", "3900ms")));
        server.wait_for_command("LIST", 1).await;
        let stopped = stop(agent, Signal::SIGTERM).await;
        server.wait_for_command("LOGOUT", 1).await;
        stopped
    });
    let [line] = lines(&log, "a run did not pass")[..] else { panic!("{output:?}") };
    assert_eq!(
        (&line["outcome"], &line["error_type"], &line["failed_step"]),
        (&"void".into(), &"cancelled".into(), &"LIST".into())
    );
    let roots = receiver.look(roots);
    assert_eq!(roots.iter().map(|root| value(root, "error.type")).collect::<Vec<_>>(), ["cancelled"]);
}

#[test]
fn the_log_has_a_line_for_a_failure_and_one_for_the_recovery_and_counts_what_was_as_before() {
    let runtime = runtime();
    let list = GOOD.replace(
        "S: * LIST () \"/\" INBOX\nS: {tag} OK\nC: SELECT",
        "S: {tag} NO [SERVERBUG] disk on \\x1b[31mfire\nC: LOGOUT",
    );
    let list = list.split_once("S: * 30 EXISTS").unwrap().0.to_owned() + "S: * BYE\nS: {tag} OK\n";
    let (output, log) = runtime.block_on(async {
        let server = Script::play(&[GOOD, &list, &list, GOOD].join("next\n")).await;
        let mut agent = start(&target("mail", server.address, "1s", "900ms"));
        agent.stderr_line("recovered").await;
        heard(server).await;
        stop(agent, Signal::SIGTERM).await
    });
    let recovered = lines(&log, "recovered");
    let at = log.iter().position(|line| recovered.contains(&line)).unwrap();
    let failed = lines(&log[..at], "a run did not pass");
    assert_eq!((failed.len(), recovered.len()), (2, 1), "{output:?}");
    for (line, level) in failed.into_iter().zip(["warn", "debug"]) {
        assert_eq!(
            (&line["target"], &line["account"], &line["level"]),
            (&"mail".into(), &"default".into(), &level.into())
        );
        assert_eq!((&line["error_type"], &line["failed_step"]), (&"no".into(), &"LIST".into()));
        assert_eq!((&line["code"], &line["text"]), (&"SERVERBUG".into(), &"disk on \\x1b[31mfire".into()));
        assert_eq!(line["trace_id"].as_str().unwrap().len(), 32);
    }
    assert_eq!(recovered[0]["trace_id"].as_str().unwrap().len(), 32);
    assert!(recovered[0]["first_loading_latency_s"].as_f64().unwrap() > 0.0);
    let [same] = lines(&log, "more of the same")[..] else { panic!("{output:?}") };
    assert_eq!((&same["failed_runs"], &same["accounts"], &same["by"]), (&1.into(), &1.into(), &"no 1".into()));
    assert_eq!(same["which"], "mail/default");
    assert_eq!(lines(&log, "in clear text; use it only on a network").len(), 1, "{output:?}");
    assert_eq!(lines(&log, " endpoint").iter().filter(|line| line["level"] == "warn").count(), 1, "{output:?}");
    assert_eq!(lines(&log, "no OTLP endpoint is configured").len(), 1, "{output:?}");
    assert_eq!(lines(&log, "telemetry was delivered").len(), 0, "{output:?}");
}

#[test]
fn the_log_has_one_line_when_a_step_gets_slow_and_one_when_that_is_over() {
    let runtime = runtime();
    let late = quick::conversation("pause 900\n");
    // The last run only keeps the server there.
    let script = [GOOD, GOOD, GOOD, GOOD, GOOD, &late, &late, GOOD, GOOD].join("next\n");
    let (output, log) = runtime.block_on(async {
        let server = Script::play(&script).await;
        let config = "[latency]\nmin_runs = 5\nslow_excess = \"400ms\"\n".to_owned()
            + &target("mail", server.address, "1500ms", "1400ms");
        let mut agent = start(&config);
        agent.stderr_line("no step is slow now").await;
        heard(server).await;
        stop(agent, Signal::SIGTERM).await
    });
    let [slow] = lines(&log, "a step was slow")[..] else { panic!("{output:?}") };
    assert_eq!(
        (&slow["target"], &slow["account"], &slow["step"], &slow["level"]),
        (&"mail".into(), &"default".into(), &"FETCH".into(), &"info".into())
    );
    let number = |key: &str| slow[key].as_f64().unwrap();
    let (took, usual) = (number("duration_s"), number("baseline_s"));
    assert!(took >= 0.9 && usual < 0.5, "{slow:?}");
    assert!((number("ratio") / (took / usual) - 1.0).abs() < 0.05, "{slow:?}");
    let [over] = lines(&log, "no step is slow now")[..] else { panic!("{output:?}") };
    assert_ne!(slow["trace_id"], over["trace_id"]);
    assert_eq!(over["trace_id"].as_str().unwrap().len(), 32);
}

#[test]
fn a_step_that_stays_slow_until_that_is_usual_is_a_warning_and_not_good_news() {
    let runtime = runtime();
    let late = quick::conversation("pause 400\n");
    // At five of ten values the median is half of what is slow. The last run only keeps the server there.
    let script = [vec![GOOD; 5], vec![&*late; 6], vec![GOOD]].concat().join("next\n");
    let (output, log) = runtime.block_on(async {
        let server = Script::play(&script).await;
        let config = "[latency]\nmin_runs = 5\nslow_excess = \"150ms\"\n".to_owned()
            + &target("mail", server.address, "700ms", "690ms");
        let mut agent = start(&config);
        agent.stderr_line("its baseline has risen").await;
        heard(server).await;
        stop(agent, Signal::SIGTERM).await
    });
    let [slow] = lines(&log, "a step was slow")[..] else { panic!("{output:?}") };
    let [moved] = lines(&log, "its baseline has risen")[..] else { panic!("{output:?}") };
    for key in ["target", "account", "step"] {
        assert_eq!(moved[key], slow[key], "{key}");
    }
    assert_eq!((&moved["level"], &moved["step"]), (&"warn".into(), &"FETCH".into()));
    assert_eq!(moved["from_s"], slow["baseline_s"], "the baseline when it became slow");
    let number = |key: &str| moved[key].as_f64().unwrap();
    assert!(number("duration_s") >= 0.4 && number("from_s") < 0.15, "{moved:?}");
    assert!(number("to_s") > 0.15 && number("to_s") < 0.4, "{moved:?}");
    assert_eq!(lines(&log, "no step is slow now").len(), 0, "{output:?}");
}

#[test]
fn a_missing_receiver_is_one_warning_a_signal_and_the_runs_go_on() {
    let runtime = runtime();
    let closed = ClosedPort::take();
    let (output, log) = runtime.block_on(async {
        let mut server = Listener::willing().await;
        let config = otlp(&closed.url(), "http/protobuf") + &target("mail", server.address, "200ms", "190ms");
        let mut agent = start(&config);
        agent.stderr_line("cannot deliver traces").await;
        // Long enough for a second try of both.
        let before = server.count("LOGOUT");
        server.wait_for_command("LOGOUT", before + 10).await;
        stop(agent, Signal::SIGTERM).await
    });
    let warned: Vec<_> = lines(&log, "cannot deliver").iter().map(|line| line["message"].to_string()).collect();
    let (traces, metrics): (Vec<&String>, Vec<&String>) =
        warned.iter().partition(|text| text.contains("deliver traces"));
    assert_eq!((traces.len(), metrics.len()), (1, 1), "{output:?}");
}

#[test]
fn a_server_that_falls_silent_delays_no_other_run() {
    let runtime = runtime();
    runtime.block_on(async {
        let (mut stuck, mut other) = (Listener::silent_at("LIST").await, Listener::willing().await);
        let mut config = String::from("[limits]\nruns_in_flight = 2\n");
        config += &target("stuck", stuck.address, "4s", "3900ms");
        config += &target("other", other.address, "200ms", "190ms");
        let agent = start(&config);
        stuck.wait_for_command("LIST", 1).await;
        let before = other.count("LOGOUT");
        other.wait_for_command("LOGOUT", before + 3).await;
        assert_eq!(stuck.count("LOGOUT"), 0, "the silent one has not ended meanwhile");
        stop(agent, Signal::SIGTERM).await;
    });
}

#[test]
fn a_refused_password_is_not_tried_again_before_the_second_interval_is_over() {
    let receiver = Receiver::http();
    let runtime = runtime();
    let agent = runtime.block_on(async {
        let server = Script::play(&[REFUSED, HELD, REFUSED].join("next\n")).await;
        let agent = start(&(otlp(&receiver.url(), "http/protobuf") + &target("mail", server.address, "1s", "900ms")));
        let heard = heard(server).await;
        let commands: Vec<_> = heard.iter().map(|line| line.split(' ').nth(1).unwrap()).collect();
        assert_eq!(commands, ["LOGIN", "LOGOUT", "LOGOUT", "LOGIN", "LOGOUT"], "{heard:?}");
        agent
    });
    receiver.wait(|inbox| roots(inbox).len() >= 3);
    runtime.block_on(stop(agent, Signal::SIGTERM));
    let spans = receiver.look(Inbox::spans);
    let details: Vec<_> = receiver
        .look(roots)
        .iter()
        .take(3)
        .map(|root| {
            let mut login = spans.iter().filter(|span| span.trace_id == root.trace_id && span.name == "LOGIN");
            let (step, more) = (login.next().unwrap(), login.next());
            assert!(more.is_none(), "{} has two logins", hex(&root.trace_id));
            let sent = step.end_time_unix_nano > step.start_time_unix_nano;
            let mut details = value(root, "error.type");
            write!(details, " {} {} {sent}", value(step, "error.type"), value(root, "imaptrace.auth.backoff")).unwrap();
            details
        })
        .collect();
    assert_eq!(
        details,
        ["auth_failed auth_failed  true", "auth_failed auth_failed true false", "auth_failed auth_failed  true"]
    );
}

/// The ids of the commands that are slow by their own durations and baselines. The marks of all spans say the same: a root is slow
/// with a step, or by its First Loading Latency.
fn slow(inbox: &Inbox) -> HashSet<String> {
    let (mut slow, mut traces) = (HashSet::new(), HashSet::new());
    let micros_of = |span: &Span, key: &str| {
        let seconds: Option<f64> = attribute(&span.attributes, key).map(|it| it.parse().unwrap());
        seconds.map(|seconds| Duration::from_secs_f64(seconds + 5e-7).as_micros())
    };
    let is_slow = |took: u128, span: &Span| {
        let usual = micros_of(span, "imaptrace.latency.baseline");
        usual.is_some_and(|usual| took > 3 * usual && took >= usual + 10_000)
    };
    let (roots, steps): (Vec<_>, Vec<_>) = inbox.spans().into_iter().partition(|span| span.name == "probe first-load");
    for span in steps {
        let micros = u128::from((span.end_time_unix_nano - span.start_time_unix_nano) / 1000);
        let expected = is_slow(micros, &span);
        assert_eq!(value(&span, "imaptrace.latency.slow"), if expected { "true" } else { "" }, "{span:?}");
        if expected {
            traces.insert(span.trace_id.clone());
            slow.insert(hex(&span.span_id));
        }
    }
    for root in roots {
        let by_latency = micros_of(&root, "imaptrace.first_loading_latency").is_some_and(|took| is_slow(took, &root));
        let expected = by_latency || traces.contains(&root.trace_id);
        assert_eq!(value(&root, "imaptrace.latency.slow"), if expected { "true" } else { "" }, "{root:?}");
    }
    slow
}

/// FETCH spans that had something to be held against.
fn judged(inbox: &Inbox) -> usize {
    let fetches = inbox.spans().into_iter().filter(|span| span.name == "FETCH INBOX");
    fetches.filter(|span| attribute(&span.attributes, "imaptrace.latency.ratio").is_some()).count()
}

#[test]
fn exactly_the_slow_step_and_its_root_are_marked_and_a_restart_keeps_what_was_learned() {
    let receiver = Receiver::http();
    let state = tempfile::tempdir().unwrap();
    let (quick, late) = (quick::conversation(""), quick::conversation("pause 400\n"));
    let first = [vec![quick.clone(); 25], vec![late.clone()]].concat();
    let fetches = runtime().block_on(quick::life(&first, &receiver.url(), state.path()));
    assert!(receiver.look(slow).contains(&fetches[25]));
    assert_eq!(receiver.look(judged), 6, "of 26 runs, all after the first 20");

    let fetches = runtime().block_on(quick::life(&[late], &receiver.url(), state.path()));
    assert!(receiver.look(slow).contains(&fetches[0]));
    assert_eq!(receiver.look(judged), 7, "the first run after the restart, too");

    fs::remove_file(state.path().join("latency.jsonl")).unwrap();
    let fetches = runtime().block_on(quick::life(&[quick], &receiver.url(), state.path()));
    assert!(!receiver.look(slow).contains(&fetches[0]));
    assert_eq!(receiver.look(judged), 7, "the file is all that it knew from");
}
