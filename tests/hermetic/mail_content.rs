//! No word of a message in anything that imaptrace gives out, however a server breaks the framing of FETCH.
//!
//! Each server here has a message with planted words, of which one or more are in its header, and sends it in a way that
//! has some of it read as lines of the protocol. What is searched, and for which forms, is `support::leaks`'s.

use std::{collections::BTreeSet, fmt::Write as _, fs, sync::Arc, time::Duration};

use imaptrace::plan::Security;
use imaptrace_imap::Capabilities;
use imaptrace_record::{ErrorType, Run, RunOutcome};
use nix::sys::signal::Signal;
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
    task::JoinSet,
};

use crate::{
    agent::{PASSWORD, roots, runtime, target as listed, value},
    secrets::TRACE,
    support::{
        leaks::{Leaks, Planted},
        otlp::Receiver,
        program::{Program, free_port},
        run::{run, target},
        script::Script,
    },
};

/// Who wrote the message, and the word that is in all of its parts.
const SENDER: &str = "wiltrud.quokka@planted.example";
const WORD: &str = "Zwiebel-Qv7-Kuchenblech";

fn leaks() -> Leaks {
    Leaks::of(&[Planted { user: SENDER.into(), password: WORD.into() }])
}

/// A conversation up to FETCH; what follows is `answer`, as `support::script` has it, and a LOGOUT that is answered well.
fn conversation(answer: &str) -> String {
    format!(
        "S: * OK [CAPABILITY IMAP4rev1] hi\nC: LOGIN\nS: {{tag}} OK [CAPABILITY IMAP4rev1] in\nC: LIST\nS: {{tag}} OK\n\
         C: SELECT\nS: * 30 EXISTS\nS: {{tag}} OK [READ-WRITE] in\nC: FETCH\n{answer}C: LOGOUT\nS: * BYE\nS: {{tag}} OK\n"
    )
}

/// A header and, in `whole` messages, a body. As in a script: CR and LF are written out.
fn message() -> String {
    format!("From: {SENDER}\\r\\nSubject: {WORD}\\r\\n\\r\\n")
}

/// Length of what a script writes so.
fn octets(scripted: &str) -> usize {
    scripted.replace("\\r", "\r").replace("\\n", "\n").replace("\\0", "\0").len()
}

/// A row whose literal is announced by so many octets too long.
fn row(number: u32, message: &str, off: isize) -> String {
    let announced = octets(message).checked_add_signed(off).unwrap();
    format!("s: * {number} FETCH (UID {number} BODY[] {{{announced}}}\\r\\n{message})\\r\\n\n")
}

/// Answers that break in other ways: `{it}` is the word, `{from}` the sender.
const BROKEN: &[(&str, &str)] = &[
    ("a bare CR in a quoted header", "S: * 30 FETCH (UID 30 BODY[HEADER] \"From: {from}\\rSubject: {it}\")\n"),
    ("a bare LF in a quoted header", "s: * 30 FETCH (UID 30 BODY[HEADER] \"From: {from}\\nSubject: {it}\\n\")\\r\\n\n"),
    (
        "a bare CR in the very first row",
        "S: * 11 FETCH (ENVELOPE (\"d\" \"{it}\\r\" ((\"x\" NIL \"{from}\" \"h\"))))\n",
    ),
    ("CRs for line ends", "s: * 30 FETCH (BODY[] \"{it}\")\\r* BYE {it}\\r\\n\n"),
    (
        "a quoted header over the limit",
        "s: * 30 FETCH (UID 30 BODY[HEADER] \"Subject: {it} {from}\nfill 70000 x\nS: {it}\")\n",
    ),
    (
        "a quoted header over the limit, in the first row",
        "s: * 11 FETCH (BODY[HEADER] \"{it} {from}\ntimes 4000 s: {it} {from}\nS: \")\n",
    ),
    ("a header with NUL", "S: * 30 FETCH (UID 30 BODY[HEADER] \"{it}\\0{from}\")\nS: \\0{it}\n"),
    (
        "a quote that has no end",
        "S: * 30 FETCH (UID 30 BODY[HEADER] \"{it})\nS: * OK [ALERT] {it}\nS: * BYE {it} {from}\n",
    ),
    ("a quote that is not escaped", "S: * 30 FETCH (ENVELOPE (\"d\" \"a \"{it}\" b\"))\nS: {it}\")\n"),
    ("brackets that have no end", "S: * 30 FETCH (BODY[HEADER] \"a\" ((\nS: Subject: {it}\n"),
    ("brackets without bottom", "times 40 s: * 30 FETCH (({it} (\nS: \n"),
    ("a size that is none", "S: * 30 FETCH (BODY[] {x}\nS: Subject: {it}\n"),
    ("a size that is negative", "S: * 30 FETCH (BODY[] \"{it}\" X {-5}\nS: Subject: {it}\n"),
    ("a size that is not closed", "S: * 30 FETCH (BODY[] \"{it}\" X {5\nS: {it}\n"),
    ("a size without its line end", "S: * 30 FETCH (BODY[] {9}Subject: {it})\n"),
    ("items behind the closed list", "S: * 30 FETCH (UID 30)\nS:  ENVELOPE (\"{it}\" \"{from}\"))\n"),
    ("a row without its star", "S: 30 FETCH (UID 30 BODY[HEADER] \"{it}\")\n"),
    ("a row with a star that has no space", "S: *30 FETCH (UID 30 BODY[HEADER] \"{it}\")\nS: {it}\n"),
    ("a row without anything in front", "S: Subject: {it}\n"),
    ("a message without framing", "S: From: {from}\nS: Subject: {it}\nS: \nS: {it}\n"),
    ("a row whose number is too large", "S: * 99999999999 FETCH (BODY[] \"{it}\"\nS: {it} OK {it}\n"),
    ("a literal without a row", "S: {30}\nS: {it} {from} {it}\n"),
    ("an answer that ends in a row", "s: * 30 FETCH (UID 30 BODY[HEADER] \"{it} {from}\nclose\n"),
    ("an answer that stops in a row", "s: * 30 FETCH (UID 30 BODY[HEADER] \"{it} {from}\nsilence\n"),
    ("mail behind the tagged line", "S: * 30 FETCH (UID 30)\nS: {tag} OK done\nS: {it} OK {from}\nS: * BYE {it}\n"),
    (
        "mail behind the tagged line of a broken row",
        "S: * 30 FETCH (UID 30\nS: {tag} OK done\nS: * BYE {it}\nS: {it}\n",
    ),
    ("more rows than the limit", "times 1001 S: * 30 FETCH (UID 30 BODY[HEADER] \"{it}\")\n"),
];

/// All ways to break it, by name.
fn broken() -> Vec<(String, String)> {
    let ok = "S: {tag} OK done\n";
    let good = row(29, &message(), 0);
    let mut all = Vec::new();
    let mut add = |name: &str, answer: String| all.push((name.to_owned(), answer));
    for off in [-70, -60, -49, -40, -33, -30, -27, -20, -9, -5, -4, -3, -2, -1] {
        add(&format!("a literal announced {off} octets"), format!("{good}{}{ok}", row(30, &message(), off)));
    }
    for off in [1, 2, 3, 20, 43_378] {
        add(&format!("a literal announced +{off} octets"), format!("{good}{}{ok}silence\n", row(30, &message(), off)));
        add(
            &format!("the first literal announced +{off} octets"),
            format!("{}{good}{ok}silence\n", row(28, &message(), off)),
        );
        add(&format!("a literal announced +{off} octets, and the end"), format!("{}close\n", row(28, &message(), off)));
    }
    // What a message can hold that looks like the protocol, cut off in front of it.
    for line in [
        "* BYE {it}",
        "* BYE [ALERT] {it}",
        "* BYE [REFERRAL imap://{it}/] {it}",
        "* OK [ALERT] {it}",
        "* NO [ALERT] {it}",
        "* NO [REFERRAL imap://{it}@{it}/] {it}",
        "* OK [CAPABILITY {it}] {it}",
        "* CAPABILITY {it}",
        "* ID (\"name\" \"{it}\" \"version\" \"{it}\")",
        "* BAD {it}",
        "* {it} FETCH (",
        "+ {it}",
        "a1 OK {it}",
        "a1 NO [ALERT] {it}",
        "{it} OK {it}",
        "OK {it}",
        "{tag} {it}",
        "{tag} OK [ALERT] {it}",
        "{tag} NO [REFERRAL imap://{it}/] {it}",
        "{tag} BAD {it}",
        "* LIST () {99",
        "* 4294967296 FETCH ({it}",
    ] {
        let line = line.replace("{it}", WORD);
        let text = format!("Subject: {WORD}\\r\\n\\r\\n{line}\\r\\n{WORD}\\r\\n.\\r\\n");
        for (name, shown) in
            [("behind a header", 9 + octets(WORD)), ("in a word", 12), ("behind a line", 13 + octets(WORD))]
        {
            let answer = format!("{good}s: * 30 FETCH (UID 30 BODY[] {{{shown}}}\\r\\n{text})\\r\\n\n{ok}");
            add(&format!("{line:?} cut off {name}"), answer);
        }
        // Where all before it was closed, a line with the command's tag is the server's: no message was written with it.
        if !line.starts_with("{tag}") {
            let smiling = format!("Subject: {WORD} :)\\r\\n{line}\\r\\n{WORD}\\r\\n)\\r\\n");
            let shown = 11 + octets(WORD);
            let answer = format!("s: * 30 FETCH (UID 30 BODY[] {{{shown}}}\\r\\n{smiling})\\r\\n\n{ok}");
            add(&format!("{line:?} behind a bracket"), answer);
        }
        add(
            &format!("{line:?} in a quoted string"),
            format!("s: * 30 FETCH (UID 30 BODY[] \"{WORD}\\n{line}\\r\\n\")\\r\\n\n{ok}"),
        );
    }
    for (name, answer) in BROKEN {
        let answer = answer.replace("{it}", WORD).replace("{from}", SENDER);
        add(name, format!("{answer}{ok}"));
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_fetch_is_broken_the_record_holds_no_word_of_a_message() {
    let (leaks, turns) = (Arc::new(leaks()), Arc::new(Semaphore::new(16)));
    let mut runs = JoinSet::new();
    for (name, answer) in broken() {
        for cold in [false, true] {
            let (leaks, turns, name, script) = (leaks.clone(), turns.clone(), name.clone(), conversation(&answer));
            runs.spawn(async move {
                let _turn = turns.acquire().await.unwrap();
                let server = Script::play(&script).await;
                let mut target = target(server.address, Security::None);
                target.journey.cold = cold;
                target.deadlines.command = Duration::from_secs(2);
                target.limits.responses = 1000;
                let run = run(target).await;
                leaks.look(&format!("the record of {name}"), serde_json::to_string(&run).unwrap());
                assert_eq!(run.server.referral_host, None, "{name}");
                let known = Capabilities::parse(b"IMAP4rev1").hash();
                assert_eq!(run.server.capability_hash, Some(known), "{name}: a hash of what may be mail");
                run.error_type
            });
        }
    }
    let classes: Vec<_> = runs.join_all().await;
    let failed = classes.iter().flatten().count();
    assert!(failed > classes.len() / 2, "only {failed} of {} came to grief", classes.len());
    let seen: BTreeSet<&str> = classes.iter().flatten().map(|class| class.as_str()).collect();
    for class in
        ["protocol_syntax", "protocol_continuation", "limit_line", "limit_responses", "bye", "eof", "timeout_command"]
    {
        assert!(seen.contains(class), "{class} is not among {seen:?}");
    }
    leaks.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_output_and_no_line_of_a_probes_log_holds_a_word_of_a_message() {
    let (leaks, turns) = (Arc::new(leaks()), Arc::new(Semaphore::new(8)));
    let mut probes = JoinSet::new();
    // What waits for a deadline waits long here; the record has shown it.
    let quick = broken().into_iter().filter(|(_, answer)| !answer.contains("silence"));
    for (number, (name, answer)) in quick.enumerate() {
        let (leaks, turns) = (leaks.clone(), turns.clone());
        probes.spawn(async move {
            let _turn = turns.acquire().await.unwrap();
            let server = Script::play(&conversation(&answer)).await;
            let url = format!("imap://someone@{}", server.address);
            let output = ["text", "json", "nagios"][number % 3];
            let probe =
                ["probe", &url, "--security", "none", "--cold", "--output", output, "--timeout", "4s", "--verbose"];
            let written = Program::new(probe).env("IMAPTRACE_PASSWORD", PASSWORD).env("RUST_LOG", TRACE).run().await;
            assert!(matches!(written.code, Some(0..=2)), "{name}: {written:?}");
            leaks.look(&format!("standard output, {name}"), &written.stdout);
            leaks.look(&format!("standard error, {name}"), &written.stderr);
        });
    }
    probes.join_all().await;
    leaks.end();
}

async fn get(port: u16, path: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost:{port}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    answer
}

#[test]
fn neither_log_nor_status_nor_telemetry_nor_queue_of_the_agent_holds_a_word_of_a_message() {
    let (leaks, runtime, receiver, port) = (leaks(), runtime(), Receiver::http(), free_port());
    let program = Program::new(["agent", "--config", "imaptrace.toml"]).env("PROBE", PASSWORD).env("RUST_LOG", TRACE);
    let (home, state) = (program.home().to_owned(), program.home().join("state"));
    let mut config = format!(
        "[agent]\nlog_format = \"json\"\nlog_level = \"debug\"\n[http]\nlisten = \"127.0.0.1:{port}\"\n[state]\ndir = \"{}\"\n\
         [otlp]\nendpoint = \"{}\"\nprotocol = \"http/protobuf\"\n[metrics]\nexport_interval = \"500ms\"\n",
        state.display(),
        receiver.url()
    );
    let (agent, names) = runtime.block_on(async {
        let mut names = BTreeSet::new();
        for (number, (_, answer)) in broken().into_iter().enumerate().step_by(2) {
            let server = Script::play(&conversation(&answer)).await;
            let name = format!("t{number}");
            config.push_str(&listed(&name, server.address, "10s", "3s"));
            writeln!(config, "cold = {}", number % 4 == 0).unwrap();
            names.insert(name);
        }
        fs::write(home.join("imaptrace.toml"), config).unwrap();
        (program.start(), names)
    });
    // Of each target a run; a second one finds no server.
    receiver.wait(|inbox| {
        let spans = inbox.spans();
        let probed = spans.iter().filter(|span| span.name.starts_with("probe "));
        probed.map(|span| value(span, "imaptrace.target.name")).collect::<BTreeSet<_>>() == names
    });
    receiver.wait(|inbox| !inbox.metrics.is_empty());
    receiver.look(|inbox| {
        assert!(roots(inbox).len() < inbox.spans().len());
        for got in &inbox.traces {
            leaks.look("traces, decoded", format!("{:?}", got.body));
            leaks.look("traces, protobuf", got.body.encode_to_vec());
        }
        for got in &inbox.metrics {
            leaks.look("metrics, decoded", format!("{:?}", got.body));
        }
    });
    runtime.block_on(async {
        for path in ["/", "/status.json", "/status.json?runs=50", "/ready"] {
            leaks.look("pages of the agent", get(port, path).await);
        }
        agent.signal(Signal::SIGTERM);
        let output = agent.finish().await;
        assert_eq!(output.code, Some(0), "{output:?}");
        leaks.look("the log of the agent", &output.stderr);
    });
    leaks.end();
}

#[tokio::test]
async fn what_is_said_in_place_of_mail_says_what_broke_and_words_behind_whole_rows_stay() {
    let cases = [
        (
            "S: * 30 FETCH (UID 30 BODY[HEADER] \"{it}\\rx\")\n".to_owned(),
            ErrorType::ProtocolSyntax,
            "a CR without LF stands inside a line: a line of 60 octets, beginning with * (it may hold mail and is not shown)",
        ),
        (
            row(30, &message(), -2),
            ErrorType::ProtocolSyntax,
            "what came among the rows of FETCH is no response: a line of 1 octet (it may hold mail and is not shown)",
        ),
        (
            format!("{}S: * BYE [UNAVAILABLE] down for repair\n", row(30, &message(), 0)),
            ErrorType::Bye,
            "down for repair",
        ),
        (
            format!("{}S: {{tag}} NO [SERVERBUG] index is corrupt\n", row(30, &message(), 0)),
            ErrorType::No,
            "index is corrupt",
        ),
        (
            format!("{}S: {{tag}} NO [SERVERBUG] {WORD}\n", row(30, &message(), -9)),
            ErrorType::ProtocolSyntax,
            "what came among the rows of FETCH is no response: a line of 1 octet (it may hold mail and is not shown)",
        ),
        (
            "S: * 30 FETCH (UID 30 FLAGS ($a(b)\nS: {tag} NO [SERVERBUG] {it}\n".to_owned(),
            ErrorType::No,
            "(words not shown: behind rows that were not closed they may be mail)",
        ),
        (
            "s: * 30 FETCH (UID 30 BODY[] {1000}\\r\\n\nfill 73 x\nclose\n".to_owned(),
            ErrorType::Eof,
            "927 octets of a literal of 1000 are still awaited",
        ),
    ];
    for (answer, class, text) in cases {
        let server = Script::play(&conversation(&answer.replace("{it}", WORD))).await;
        let run = run(target(server.address, Security::None)).await;
        assert_eq!((run.outcome, run.error_type), (RunOutcome::Failed, Some(class)), "{answer}");
        assert_eq!(said(&run), text, "{answer}");
    }
}

fn said(run: &Run) -> &str {
    run.failing_step().and_then(|step| step.text.as_ref()).map_or("", |text| text.as_str())
}

/// The filler asks for no mail, but a server may send some.
#[tokio::test]
async fn canary_fill_gives_out_no_word_of_a_message_that_came_unasked() {
    let leaks = leaks();
    for (number, row) in [
        "S: * 3 FETCH (BODY[HEADER] \"{it}\\r{from}\")\n",
        "s: * 3 FETCH (BODY[] {5}\\r\\nSubject: {it}\\r\\n\\r\\n)\\r\\n\n",
        "S: * 3 FETCH (BODY[HEADER] \"{it})\nS: * OK [ALERT] {it}\nS: * BYE {it}\n",
        "s: * 3 FETCH (BODY[] {5}\\r\\nSubject: {it}\\r\\n* BYE {it}\\r\\n)\\r\\n\n",
    ]
    .into_iter()
    .enumerate()
    {
        let row = row.replace("{it}", WORD).replace("{from}", SENDER);
        let script = format!(
            "S: * OK [CAPABILITY IMAP4rev1] hi\nC: LOGIN\nS: {{tag}} OK [CAPABILITY IMAP4rev1] in\nC: EXAMINE\nS: * 3 EXISTS\n{row}S: {{tag}} OK\n\
             C: SEARCH\nS: * SEARCH\nS: {{tag}} OK\nC: LOGOUT\nS: * BYE\nS: {{tag}} OK\n"
        );
        let server = Script::play(&script).await;
        let url = format!("imap://someone@{}/Canary", server.address);
        let fill = ["canary", "fill", &url, "--security", "none", "--messages", "5"];
        let written = Program::new(fill).env("IMAPTRACE_PASSWORD", PASSWORD).env("RUST_LOG", TRACE).run().await;
        assert_eq!(written.code, Some(1), "{number}: {written:?}");
        leaks.look("standard output of canary fill", &written.stdout);
        leaks.look("standard error of canary fill", &written.stderr);
    }
    leaks.end();
}
