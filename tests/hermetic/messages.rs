//! Which messages a run asks for, and what it says of a mailbox that holds too few.

use imaptrace_record::{JourneyName, NoteLevel, Run};
use nix::sys::signal::Signal;

use crate::{
    agent::{self, runtime},
    command_line::{GOOD, Listener, heard},
    support::{program::Program, script::Script},
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
