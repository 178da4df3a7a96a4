//! A server's words in every place where they can stand, and everything that imaptrace says of it: nothing steers a
//! terminal, forges a line, turns the reading direction or has no end.

use std::fs;

use imaptrace::plan::{Security, TlsOptions};
use imaptrace_record::{Run, RunOutcome, ServerText};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    agent::{PASSWORD, otlp, runtime, stop, target as listed},
    command_line::heard,
    support::{
        otlp::{Inbox, Receiver},
        program::Program,
        run::{run, steps, target},
        script::{Pem, Script},
    },
};

/// What a script sends for it: control characters of both sets, both kinds of invalid UTF-8, separators and marks that
/// turn the reading direction, what would end a line of a log, of Nagios, of JSON and of HTML.
const HOSTILE: &str = "\\x1b]0;owned\\x07\\x1b[2J\\x08\\x0b\\x7f\\xc2\\x85\\xc2\\x9b31m\\xd8\\x9c\\xe2\\x80\\x8e\\xe2\\x80\\xa8level=error\\xe2\\x80\\xa9\\xe2\\x80\\xae\\xe2\\x81\\xa6\\xff\\xed\\xa0\\x80\\0 | fll=0s;;; <script>alert(1)</script> & \"quoted\" 'too'";

/// The same with no end, but for the limit of a line.
fn endless() -> String {
    format!("{HOSTILE} {}", "\\x1b".repeat(20_000))
}

/// A conversation whose every word for people is hostile, up to a SELECT that is refused.
fn conversation() -> String {
    let endless = endless();
    format!(
        "S: * OK [ALERT] {HOSTILE}\nC: CAPABILITY\nS: * CAPABILITY IMAP4rev1 ID X-{HOSTILE}\nS: {{tag}} OK [X-{HOSTILE} {HOSTILE}] {endless}\n\
         C: ID\nS: * ID (\"name\" {{4}}\ns: \\x1b\\r\\n[ \"version\" \"\\x1b[31m\\xe2\\x80\\xae2.3\" \"support-url\" \"{HOSTILE}\")\\r\\n\nS: {{tag}} OK {HOSTILE}\n\
         C: LOGIN\nS: * OK [ALERT] {endless}\nS: {{tag}} OK [REFERRAL imap://{HOSTILE}/] {HOSTILE}\n\
         C: CAPABILITY\nS: * CAPABILITY IMAP4rev1\nS: {{tag}} OK\n\
         C: LIST\nS: * LIST (\\\\{HOSTILE}) \"/\" \"{HOSTILE}\"\nS: * {HOSTILE}\nS: {{tag}} OK [ALERT] {HOSTILE}\n\
         C: SELECT\nS: * FLAGS ({HOSTILE})\nS: * 30 EXISTS\nS: {{tag}} NO [NONEXISTENT] {endless}\n\
         C: LOGOUT\nS: * BYE {HOSTILE}\nS: {{tag}} NO {HOSTILE}\n"
    )
}

/// Whether the contract has it escaped (§2).
fn is_hostile(character: char) -> bool {
    let code = u32::from(character);
    character.is_control() || matches!(code, 0x061c | 0x200e..=0x200f | 0x2028..=0x202e | 0x2066..=0x2069)
}

/// All strings in a value, each with the path to it.
fn strings(value: &Value, path: &str, found: &mut Vec<(String, String)>) {
    match value {
        Value::String(text) => found.push((path.to_owned(), text.clone())),
        Value::Array(all) => all.iter().for_each(|one| strings(one, path, found)),
        Value::Object(all) => all.iter().for_each(|(key, one)| strings(one, &format!("{path}.{key}"), found)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Holds every string of the record to the contract, and gives those that a server had a hand in.
fn details(run: &Run) -> Vec<String> {
    let mut found = Vec::new();
    strings(&serde_json::to_value(run).unwrap(), "", &mut found);
    for (path, text) in &found {
        assert!(!text.contains(is_hostile), "{path}: {text:?}");
        assert!(text.len() <= 256, "{path} has {} bytes", text.len());
    }
    let escaped = found.into_iter().filter(|(_, text)| text.contains("\\x") || text.contains("\\u{"));
    escaped.map(|(path, _)| path).collect()
}

#[tokio::test]
async fn a_servers_words_enter_the_record_escaped_and_cut_short() {
    let server = Script::play(&conversation()).await;
    let run_ = run(target(server.address, Security::None)).await;
    heard(server).await;
    assert_eq!(steps(&run_), "connect greeting CAPABILITY ID LOGIN CAPABILITY LIST SELECT!no LOGOUT!no", "{run_:?}");
    let mut places = details(&run_);
    places.sort();
    places.dedup();
    let expected = [
        ".server.id_name",
        ".server.id_version",
        ".server.referral_host",
        ".steps.events.text",
        ".steps.referral_host",
        ".steps.text",
    ];
    assert_eq!(places, expected);

    for script in [
        format!("S: * BYE {HOSTILE}\n"),
        format!("S: {HOSTILE}\n"),
        format!("s: {HOSTILE}\nclose\n"),
        format!(
            "S: * OK [CAPABILITY IMAP4rev1] {HOSTILE}\nC: LOGIN\nS: * BYE [REFERRAL imap://{HOSTILE}/] {HOSTILE}\n"
        ),
        format!("S: * OK [CAPABILITY IMAP4rev1] hi\nC: LOGIN\nS: {{tag}} {HOSTILE}\n"),
        format!("S: * OK [CAPABILITY IMAP4rev1] hi\nC: LOGIN\ns: * LIST {HOSTILE} {{5\\r\\n\n"),
    ] {
        let server = Script::play(&script).await;
        let run = run(target(server.address, Security::None)).await;
        assert_eq!((run.outcome, details(&run).is_empty()), (RunOutcome::Failed, false), "{script}: {run:?}");
    }
}

#[tokio::test]
async fn what_tls_tells_of_a_server_enters_the_record_escaped_and_cut_short() {
    let server = Script::play(&format!("S: {HOSTILE}\nsilence\n")).await;
    let run_ = run(target(server.address, Security::Tls)).await;
    details(&run_);
    let text = run_.failing_step().unwrap().text.as_ref().map(ServerText::as_str);
    assert!(text.unwrap().contains("owned"), "{text:?}");

    let name = format!("\x1b]0;owned\x07\u{85}\u{202e}\u{2028}level=error {}", "\u{9b}".repeat(200));
    let key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    parameters.distinguished_name.push(rcgen::DnType::CommonName, name.as_str());
    parameters.distinguished_name.push(rcgen::DnType::OrganizationName, name.as_str());
    let pem = Pem { certificate: parameters.self_signed(&key).unwrap().pem(), key: key.serialize_pem() };
    let ca = pem.ca_file();
    for trusted in [true, false] {
        let server = Script::play_with(&format!("tls\n{}", conversation()), &pem).await;
        let mut secured = target(server.address, Security::Tls);
        secured.tls = TlsOptions { ca_file: trusted.then(|| ca.path().to_owned()), ..TlsOptions::default() };
        let run = run(secured).await;
        let places = details(&run);
        for place in [".steps.tls.subject", ".steps.tls.issuer"].iter().filter(|_| trusted) {
            assert!(places.iter().any(|found| found == place), "{place} is not in {places:?}: {run:?}");
        }
    }
}

#[tokio::test]
async fn no_output_of_a_probe_obeys_a_server() {
    for output in ["text", "json", "nagios"] {
        let server = Script::play(&conversation()).await;
        let url = format!("imap://someone@{}", server.address);
        let probe = ["probe", &url, "--security", "none", "--output", output];
        let written = Program::new(probe).env("IMAPTRACE_PASSWORD", PASSWORD).env("RUST_LOG", "trace").run().await;
        heard(server).await;
        for stream in [&written.stdout, &written.stderr] {
            let bad = stream.chars().find(|character| is_hostile(*character) && *character != '\n');
            assert_eq!(bad, None, "{output}: {stream:?}");
        }
        assert!(written.stdout.contains("owned"), "{output}: the server's words are nowhere: {written:?}");
        match output {
            "json" => assert_eq!(written.stdout.lines().count(), 1, "{written:?}"),
            "nagios" => {
                let (text, data) = written.stdout.split_once('|').unwrap();
                assert!(text.contains("owned") && !data.contains(['|', '<']), "{written:?}");
                assert_eq!(written.stdout.lines().count(), 1, "{written:?}");
            }
            _ => {}
        }
    }
}

#[test]
fn no_line_of_the_log_and_no_span_obeys_a_server() {
    for format in ["json", "text"] {
        let receiver = Receiver::http();
        let runtime = runtime();
        let agent = runtime.block_on(async {
            let server = Script::play(&conversation()).await;
            let program = Program::new(["agent", "--config", "imaptrace.toml"]).env("PROBE", PASSWORD);
            let config = otlp(&receiver.url(), "http/protobuf") + &listed("mail", server.address, "5s", "4900ms");
            let config = format!("[agent]\nlog_format = \"{format}\"\n[http]\nlisten = \"off\"\n{config}");
            fs::write(program.home().join("imaptrace.toml"), config).unwrap();
            let agent = program.start();
            heard(server).await;
            agent
        });
        receiver.wait(|inbox| inbox.spans().iter().any(|span| span.name == "LOGOUT"));
        let spans = receiver.look(Inbox::spans);
        let sent = format!("{spans:?}");
        assert!(sent.contains("owned"), "the server's words are nowhere: {sent}");
        let attributes = spans
            .iter()
            .flat_map(|span| span.attributes.iter().chain(span.events.iter().flat_map(|event| &event.attributes)));
        for one in attributes {
            let text = crate::support::otlp::attribute(std::slice::from_ref(one), &one.key).unwrap_or_default();
            assert!(!text.contains(is_hostile) && text.len() <= 256, "{}: {text:?}", one.key);
        }
        let log = runtime.block_on(async {
            if format == "json" {
                return stop(agent, Signal::SIGTERM).await.0.stderr;
            }
            agent.signal(Signal::SIGTERM);
            agent.finish().await.stderr
        });
        assert!(log.contains("owned"), "the server's words are nowhere: {log}");
        assert_eq!(log.chars().find(|character| is_hostile(*character) && *character != '\n'), None, "{log:?}");
        for line in log.lines() {
            let whole = match format {
                "json" => serde_json::from_str::<Value>(line).is_ok_and(|line| line["time"].is_string()),
                // Each begins with what imaptrace puts there, the time.
                _ => line.starts_with("20"),
            };
            assert!(whole, "{line:?}");
        }
    }
}
