//! Which messages a run asks for, and what it says of a mailbox that holds too few.

use imaptrace::plan::Security;
use imaptrace_record::{ErrorType, JourneyName, NoteLevel, Run, RunOutcome};
use nix::sys::signal::Signal;
use opentelemetry_proto::tonic::metrics::v1::{metric::Data, number_data_point::Value};

use crate::{
    agent::{self, runtime},
    command_line::{GOOD, Listener, heard},
    support::{
        otlp::{Inbox, Receiver, attribute},
        program::Program,
        quick,
        run::{run_usually, target},
        script::Script,
    },
};

/// Probes a server once whose mailbox holds so many messages: the run, and the FETCH that the server heard.
async fn probe(exists: u32, row: &str, flags: &[&str]) -> (Run, Option<String>) {
    let mut script = GOOD.replace("* 30 EXISTS", &format!("* {exists} EXISTS"));
    script = match exists {
        0 => script.replace("C: FETCH\nS: * 30 FETCH (UID 3)\nS: {tag} OK\n", ""),
        _ => script.replace("S: * 30 FETCH (UID 3)", row),
    };
    let server = Script::play(&script).await;
    let url = format!("imap://someone@{}", server.address);
    let arguments = ["probe", &url, "--security", "none", "--output", "json"];
    let output = Program::new([&arguments, flags].concat()).env("IMAPTRACE_PASSWORD", "p").run().await;
    assert_eq!(output.code, Some(0), "{output:?}");
    let fetch = heard(server).await.iter().find_map(|line| Some(line.split_once(" FETCH ")?.1.to_owned()));
    (serde_json::from_str(&output.stdout).unwrap(), fetch)
}

fn fetched(run: &Run) -> Option<u64> {
    run.steps.iter().find(|step| step.name == "FETCH").and_then(|step| step.messages)
}

#[tokio::test]
async fn a_cold_run_asks_for_whole_headers_in_the_older_half() {
    let row = "s: * 7 FETCH (UID 7 BODY[HEADER] {6}\\r\\nA: b\\r\\n)\\r\\n";
    let (run, fetch) = probe(40, row, &["--cold"]).await;
    assert_eq!(run.journey, JourneyName::FIRST_LOAD_COLD);
    assert_eq!(fetch.as_deref(), Some("1:20 (UID FLAGS INTERNALDATE RFC822.SIZE BODY.PEEK[HEADER])"));
    assert_eq!(fetched(&run), Some(1));
}

#[tokio::test]
async fn a_random_run_asks_for_messages_from_anywhere() {
    let (run, fetch) = probe(u32::MAX, "S: * 1 EXPUNGE", &["--window", "random", "--newest", "2"]).await;
    assert_eq!(run.journey, JourneyName::FIRST_LOAD_RANDOM);
    let fetch = fetch.unwrap();
    let (set, items) = fetch.split_once(' ').unwrap();
    let (from, to) = set.split_once(':').unwrap();
    let (from, to): (u32, u32) = (from.parse().unwrap(), to.parse().unwrap());
    // That it met the newest two by chance is one in four thousand million.
    assert!(to == from + 1 && to < u32::MAX, "{fetch}");
    assert!(items.contains("BODY.PEEK[HEADER.FIELDS ("), "{fetch}");
}

#[tokio::test]
async fn a_mailbox_with_too_few_messages_is_noted_once() {
    for (exists, expected) in [
        (0, Some("the mailbox is empty: that measures next to nothing")),
        (1, Some("the mailbox holds only 1 message: ")),
        (19, Some("the mailbox holds only 19 messages: ")),
        (20, None),
    ] {
        let (run, _) = probe(exists, "S: * 1 FETCH (UID 3)", &[]).await;
        let notes: Vec<_> = run.notes.iter().filter(|note| note.text.contains("the mailbox")).collect();
        match (notes.as_slice(), expected) {
            ([], None) => {}
            ([note], Some(words)) => {
                assert!(note.text.contains(words) && note.text.contains("`imaptrace canary fill`"), "{note:?}");
                assert_eq!(note.level, NoteLevel::Warn);
            }
            _ => panic!("{exists}: {:?}", run.notes),
        }
    }
}

/// A run against a mailbox that holds so many messages and usually so many, and whether the server heard FETCH.
async fn usually(exists: u32, usual: u64, allow_empty: bool) -> (Run, bool) {
    let mut script = GOOD.replace("* 30 EXISTS", &format!("* {exists} EXISTS"));
    script = script.replace("S: * 30 FETCH", &format!("S: * {exists} FETCH"));
    if exists == 0 {
        script = script.replace("C: FETCH\nS: * 0 FETCH (UID 3)\nS: {tag} OK\n", "");
    }
    let server = Script::play(&script).await;
    let mut target = target(server.address, Security::None);
    target.journey.allow_empty = allow_empty;
    let run = run_usually(target, usual).await;
    let fetch = heard(server).await.iter().any(|line| line.contains(" FETCH "));
    (run, fetch)
}

#[tokio::test]
async fn a_mailbox_that_is_empty_and_usually_holds_a_hundred_messages_fails_select() {
    let (run, fetch) = usually(0, 4_711, false).await;
    let select = run.failing_step().unwrap();
    assert_eq!((run.outcome, run.error_type), (RunOutcome::Failed, Some(ErrorType::MailboxEmpty)));
    assert_eq!(
        (select.name.as_str(), select.mailbox_messages, select.usual_messages),
        ("SELECT", Some(0), Some(4_711))
    );
    assert_eq!(select.text.as_ref().unwrap().as_str(), "the mailbox is empty, and usually holds 4711 messages");
    assert_eq!((run.first_loading_latency_s, fetch), (None, false));
    // It is not the session's fault: the server gets its LOGOUT.
    assert!(run.steps.last().is_some_and(|step| step.name == "LOGOUT" && step.status.is_some()), "{run:?}");
}

#[tokio::test]
async fn fewer_than_a_tenth_of_the_usual_messages_are_on_record_in_a_run_that_passes() {
    for (exists, usual, allow_empty, expected) in [
        (0, 99, false, Some(99)),
        (0, 100, true, None),
        (9, 100, false, Some(100)),
        (10, 100, false, None),
        (471, 4_711, false, Some(4_711)),
        (472, 4_711, false, None),
        (9, 100, true, None),
        (u32::MAX, u64::MAX, false, Some(u64::MAX)),
        (0, 0, false, None),
    ] {
        let (run, fetch) = usually(exists, usual, allow_empty).await;
        let select = run.steps.iter().find(|step| step.name == "SELECT").unwrap();
        assert_eq!((run.outcome, run.error_type), (RunOutcome::Passed, None), "{exists} of {usual}");
        assert_eq!((select.usual_messages, fetch), (expected, exists > 0), "{exists} of {usual}, {allow_empty}");
    }
}

/// A conversation about a mailbox that holds so many messages.
fn holding(exists: u32) -> String {
    let script = GOOD.replace("* 30 EXISTS", &format!("* {exists} EXISTS"));
    match exists {
        0 => script.replace("C: FETCH\nS: * 30 FETCH (UID 3)\nS: {tag} OK\n", ""),
        _ => script.replace("S: * 30 FETCH", &format!("S: * {exists} FETCH")),
    }
}

#[test]
fn an_agent_that_knows_the_mailbox_fails_over_an_empty_one_and_counts_one_that_shrank() {
    let receiver = Receiver::http();
    let state = tempfile::tempdir().unwrap();
    // The twentieth passed run makes it known; one that shrank passes, and moves the median by next to nothing.
    let mut conversations = vec![holding(4_711); 20];
    conversations.extend([471, 0, 4_711, 472].map(holding));
    runtime().block_on(quick::life(&conversations, &receiver.url(), state.path()));
    receiver.wait(|inbox| {
        let selects = inbox.spans().iter().filter(|span| span.name == "SELECT INBOX").count();
        selects >= conversations.len() && inbox.metrics().contains_key("imaptrace.mailbox.shrunk")
    });
    receiver.look(|inbox| {
        let mut selects = inbox.spans();
        selects.retain(|span| span.name == "SELECT INBOX");
        selects.sort_by_key(|span| span.start_time_unix_nano);
        let of = |key: &str| selects.iter().map(|span| attribute(&span.attributes, key)).collect::<Vec<_>>();
        let usual = Some("4711".to_owned());
        let mut expected = vec![None; 20];
        expected.extend([usual.clone(), usual, None, None]);
        assert_eq!(of("imaptrace.mailbox.usual_messages"), expected);
        let mut expected = vec![None; 24];
        expected[21] = Some("mailbox_empty".to_owned());
        assert_eq!(of("error.type"), expected);
    });
    receiver.wait(|inbox| shrunk(inbox) == Some(2));
}

/// The counter of runs that found far fewer messages than usual.
fn shrunk(inbox: &Inbox) -> Option<i64> {
    let metrics = inbox.metrics();
    let Some(Data::Sum(sum)) = &metrics.get("imaptrace.mailbox.shrunk")?.data else { panic!("{metrics:?}") };
    let [point] = &sum.data_points[..] else { panic!("{sum:?}") };
    match point.value {
        Some(Value::AsInt(count)) => Some(count),
        _ => panic!("{point:?}"),
    }
}

#[test]
fn the_agent_logs_it_once_and_not_with_every_run() {
    let runtime = runtime();
    runtime.block_on(async {
        let mut server = Listener::willing().await;
        let agent = agent::start(&agent::target("few", server.address, "200ms", "150ms"));
        server.wait_for_command("LOGOUT", 4).await;
        let (_, log) = agent::stop(agent, Signal::SIGTERM).await;
        let lines = log.iter().filter(|line| line["message"].as_str().is_some_and(|text| text.contains("canary fill")));
        let lines: Vec<_> = lines.collect();
        assert!(matches!(lines.as_slice(), [line] if line["messages"] == 0 && line["target"] == "few"), "{log:?}");
    });
}
