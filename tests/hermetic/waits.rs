//! The times in which a server keeps a slow or failed command waiting: in the record, and as spans.

use std::collections::BTreeSet;

use imaptrace::plan::Security;
use imaptrace_record::{Run, Seconds, Step};
use nix::sys::signal::Signal;
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind};

use crate::{
    agent::{self, otlp, runtime},
    command_line::{GOOD, hex},
    support::{
        otlp::{Receiver, attribute},
        parts::{command, details, ms},
        program::Program,
        run::{hasty, run, target},
        script::Script,
    },
};

const PAUSE: u64 = 150;

/// A conversation in which SELECT takes one pause, and FETCH two: one before its first row, a longer one behind it.
fn script() -> String {
    let select = format!("C: SELECT\npause {PAUSE}\nS: * 30 EXISTS");
    let fetch = format!("C: FETCH\npause {PAUSE}\nS: * 30 FETCH (UID 3)\npause {}", 2 * PAUSE);
    let script = GOOD.replace("C: SELECT\nS: * 30 EXISTS", &select).replace("C: FETCH\nS: * 30 FETCH (UID 3)", &fetch);
    assert_eq!(script.matches("pause").count(), 3, "{script}");
    script
}

fn with_waits(run: &Run) -> Vec<&str> {
    run.steps.iter().filter(|step| !step.waits.is_empty()).map(|step| step.name.as_str()).collect()
}

/// Each lies inside its step, behind the one before it.
fn in_order(step: &Step) {
    let mut from = step.start_s;
    for wait in &step.waits {
        assert!(wait.start_s >= from && wait.server_s <= wait.duration_s, "{step:?}");
        from = wait.start_s.saturating_add(wait.duration_s);
    }
    assert!(from <= step.end_s(), "{step:?}");
}

#[tokio::test]
async fn each_pause_of_the_server_is_a_wait_from_its_true_begin_to_its_end() {
    let server = Script::play(&script()).await;
    let run = run(target(server.address, Security::None)).await;
    drop(server.heard().await);
    let fetch = command(&run, "FETCH");
    in_order(fetch);
    let [before, behind] = &fetch.waits[..] else { panic!("{fetch:?}") };
    assert_eq!(before.start_s, fetch.start_s, "it began with our last byte");
    let first_row = fetch.start_s.saturating_add(fetch.first_byte_s.unwrap());
    assert_eq!(before.start_s.saturating_add(before.duration_s), first_row, "{fetch:?}");
    assert_eq!(behind.start_s, first_row, "{fetch:?}");
    assert_eq!(behind.start_s.saturating_add(behind.duration_s), fetch.end_s(), "{fetch:?}");
    let all = fetch.waits.iter().fold(Seconds::ZERO, |sum, wait| sum.saturating_add(wait.server_s));
    assert!(before.server_s >= ms(PAUSE * 9 / 10) && behind.server_s >= ms(2 * PAUSE * 9 / 10), "{fetch:?}");
    assert!(all <= fetch.server_s.unwrap().saturating_add(Seconds::from_micros(2)), "{}", details(&run));
}

#[tokio::test]
async fn a_command_that_never_ends_has_the_wait_in_which_it_was_given_up() {
    let script = GOOD.split_once("C: FETCH").unwrap().0.to_owned() + "C: FETCH\nS: * 30 FETCH (UID 3)\nsilence";
    let server = Script::play(&script).await;
    let mut target = target(server.address, Security::None);
    target.deadlines = hasty();
    let run = run(target).await;
    drop(server.heard().await);
    let fetch = command(&run, "FETCH");
    in_order(fetch);
    let last = fetch.waits.last().unwrap();
    assert_eq!(last.start_s.saturating_add(last.duration_s), fetch.end_s(), "{fetch:?}");
}

/// What a span is below, and its own id.
fn ids(span: &Span) -> (String, String) {
    (hex(&span.parent_span_id), hex(&span.span_id))
}

#[test]
fn a_single_run_has_those_of_its_longest_command_and_they_arrive_as_spans_below_it() {
    let receiver = Receiver::http();
    let run: Run = runtime().block_on(async {
        let server = Script::play(&script()).await;
        let url = format!("imap://someone@{}", server.address);
        let arguments = ["probe", &url, "--security", "none", "--output", "json", "--otlp-endpoint", &receiver.url()];
        let program = Program::new(arguments.iter().chain(&["--otlp-protocol", "http/protobuf"]));
        let output = program.env("IMAPTRACE_PASSWORD", "p").run().await;
        assert_eq!(output.code, Some(0), "{output:?}");
        drop(server.heard().await);
        serde_json::from_str(&output.stdout).unwrap()
    });
    assert_eq!(with_waits(&run), ["FETCH"], "{}", details(&run));
    let fetch = command(&run, "FETCH");
    let expected: Vec<_> =
        fetch.waits.iter().map(|wait| (fetch.span_id.unwrap().to_string(), wait.span_id.to_string())).collect();
    assert_eq!(expected.len(), 2);
    receiver.wait(|inbox| inbox.spans().len() >= run.exported_spans());
    receiver.look(|inbox| {
        let spans = inbox.spans();
        assert_eq!(spans.len(), run.exported_spans());
        let waits: Vec<_> = spans.iter().filter(|span| span.name == "wait").collect();
        assert_eq!(waits.iter().map(|span| ids(span)).collect::<Vec<_>>(), expected);
        assert!(waits.iter().all(|span| span.kind == i32::from(SpanKind::Internal)));
        let outer = spans.iter().find(|span| span.name == "FETCH INBOX").unwrap();
        for wait in waits {
            assert!(outer.start_time_unix_nano <= wait.start_time_unix_nano, "{wait:?}");
            assert!(wait.end_time_unix_nano <= outer.end_time_unix_nano, "{wait:?}");
            assert!(wait.end_time_unix_nano - wait.start_time_unix_nano >= PAUSE * 900_000, "{wait:?}");
        }
        // Every command is an edge of a service graph to the target.
        let commands: Vec<_> = spans.iter().filter(|span| span.kind == i32::from(SpanKind::Client)).collect();
        assert_eq!(commands.len(), 5);
        for command in commands {
            let of = |key| attribute(&command.attributes, key);
            assert_eq!(
                (of("peer.service"), of("service.peer.name")),
                (Some(run.target.clone()), Some(run.target.clone()))
            );
            assert_eq!(of("server.address"), Some(run.server.address.clone()));
            assert_eq!(of("server.port"), Some(run.server.port.to_string()));
        }
    });
}

#[test]
fn an_agents_runs_have_those_of_slow_commands_and_no_others() {
    let receiver = Receiver::http();
    let runtime = runtime();
    let agent = runtime.block_on(async {
        let server = Script::play(&[script(), script()].join("next\n")).await;
        let limits = format!("[latency.slow_limits]\nSELECT = \"{}ms\"\n", PAUSE / 2);
        let target = agent::target("paused", server.address, "2s", "1900ms");
        agent::start(&(otlp(&receiver.url(), "http/protobuf") + &limits + &target))
    });
    let of_second_run = |spans: &[Span]| spans.iter().filter(|span| span.name == "LOGOUT").count() >= 2;
    receiver.wait(|inbox| of_second_run(&inbox.spans()));
    drop(runtime.block_on(agent::stop(agent, Signal::SIGTERM)));
    receiver.look(|inbox| {
        let spans = inbox.spans();
        let named = |name: &str| spans.iter().filter(|span| span.name == name).collect::<Vec<_>>();
        let selects: BTreeSet<_> = named("SELECT INBOX").iter().map(|span| hex(&span.span_id)).collect();
        let parents: BTreeSet<_> = named("wait").iter().map(|span| hex(&span.parent_span_id)).collect();
        assert!(selects.len() >= 2 && parents == selects, "{selects:?} {parents:?}");
    });
}
