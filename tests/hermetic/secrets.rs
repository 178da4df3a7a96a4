//! No password and no user name in anything that imaptrace gives out, whatever a server does with them.
//!
//! The servers here have learned both and say them back in every form and at every place of a conversation. What is
//! searched, and how, is told by `-- --nocapture secrets::` and in docs/testing.md.
#![allow(clippy::string_slice, reason = "what is cut here is cut between characters")]

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    sync::{Arc, Mutex},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use flate2::{Compression, write::GzEncoder};
use imaptrace::{
    agent,
    config::{self, Sources},
    net::Family,
    plan::{Dns, Security, Target},
    probe::{Job, Prober},
    record::{ErrorType, Run},
};
use nix::{sys::signal::Signal, unistd::geteuid};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::{Semaphore, watch},
    task::JoinSet,
};

use crate::{
    agent::runtime,
    command_line::GOOD,
    support::{
        leaks::{Canary, Leaks, forms},
        otlp::{Answer, Log, Receiver},
        program::{Output, Program, free_port, wait_until},
        run::{account, prepare, run, target},
        scenario::{Credentials, Scenario},
        script::{Pem, Script},
    },
};

/// The key in the headers of OTLP: as secret as a password.
const TOKEN: &str = "tk-Yw5rG8nLq2Zb";

/// Every line that anything in the program logs, the crates that are else quiet included.
const TRACE: &str = "trace,opentelemetry=trace,opentelemetry_sdk=trace,opentelemetry-otlp=trace,opentelemetry-http=trace,\
    h2=trace,hyper=trace,hyper_util=trace,tonic=trace,tower=trace,reqwest=trace,rustls=trace,hickory_resolver=trace,\
    hickory_proto=trace";

/// Passwords of every kind that is written in another way than it is: none is like anything else in an output.
fn canaries() -> Vec<Canary> {
    // Of letters that are no hex digits, lest it is found in an id.
    let letters: Vec<char> = "ghjkmnpqrstvwxyz".chars().collect();
    let letter = |place: usize| letters[(place.wrapping_mul(place).wrapping_mul(2_654_435_761) >> 9) & 15];
    let long: String = (1..=300).map(letter).collect();
    ["Zq7-mK4vRt9xWc2", "Hq\"7\\mK4 vR\"t9\\xW", "Öl9ßjÜrg-Ωμέγα7ñ", "Pc%41%zz+7Km%vR4", &long]
        .iter()
        .zip(["ursula-7d1e", "viktor-8e2f", "wilma-9f3a", "xaver-0a4b", "yvonne-1b5c"])
        .map(|(password, user)| Canary { user: format!("{user}@canary.example"), password: (*password).to_owned() })
        .collect()
}

fn leaks() -> Leaks {
    let token = Canary { user: "nobody-at-all".into(), password: TOKEN.into() };
    Leaks::of(&[canaries(), vec![token]].concat())
}

// === What a server says back, and where ===

/// Everything that it can say of them.
fn said_back(who: &Canary) -> Vec<String> {
    let (user, password) = (&who.user, &who.password);
    let mut all: Vec<String> = [password, user].iter().flat_map(|value| forms(value)).map(|(_, form)| form).collect();
    let characters: Vec<char> = password.chars().collect();
    all.push(password.to_uppercase());
    all.push(characters[..7].iter().collect());
    all.push(characters[characters.len() - 7..].iter().collect());
    for message in [
        password.clone(),
        user.clone(),
        format!("\0{user}\0{password}"),
        format!("x{password}"),
        format!("xy{user} {password}z"),
    ] {
        let encoded = STANDARD.encode(&message);
        all.push(encoded.to_uppercase());
        // Of a user name, a part may stay.
        if message != *user {
            all.push(encoded[3..encoded.len() - 3].to_owned());
        }
        all.push(encoded);
    }
    all
}

/// A byte as a script has it.
fn scripted(text: &str) -> String {
    text.bytes().fold(String::new(), |mut all, byte| {
        write!(all, "\\x{byte:02x}").unwrap();
        all
    })
}

const LOGIN: &str = "S: * OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR] hi\nC: AUTHENTICATE\n";

/// The places of a conversation where a server's words come near the record; `{it}` is what it says.
const PLACES: &[&str] = &[
    "S: * BYE {it}\n",
    "S: {it}\n",
    "s: {it}\nclose\n",
    "S: * OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR {it}] {it}\nC: AUTHENTICATE\nS: {tag} NO {it}\n",
    "S: * OK [CAPABILITY IMAP4rev1 ID] hi\nC: ID\nS: * ID (\"name\" {{n}}\ns: {it}\nS:  \"version\" \"{it}\")\nS: {tag} OK\nC: LOGIN\n",
    "S: * OK [CAPABILITY IMAP4rev1 ID] hi\nC: ID\nS: * BYE {it}\n",
    "{login}S: {tag} NO {it}\nC: LOGOUT\nS: {tag} NO {it}\n",
    "{login}S: {tag} NO [AUTHENTICATIONFAILED] wrong: {it} ({it})\n",
    "{login}S: {tag} BAD Error in IMAP command AUTHENTICATE PLAIN {it}\n",
    "{login}S: {tag} NO [REFERRAL imap://{it}@{it}/] {it}\n",
    "{login}S: * NO [ALERT] {it}\nS: {tag} OK [ALERT] {it}\nC: CAPABILITY\nS: * CAPABILITY IMAP4rev1 {it}\nS: {tag} OK\nC: LIST\nS: * LIST () \"/\" {it}\nS: {tag} NO {it}\n",
    "{login}S: * BYE {it}\n",
    "{login}s: {tag} NO {it}\nclose\n",
    "{login}S: {it} OK {it}\n",
    "{login}S: + {it}\n",
    "{login}s: {tag} NO {first}\npause 15\nS: {second}\n",
    "{login}S: {tag} OK [CAPABILITY IMAP4rev1] in\nC: LIST\nS: {tag} OK\nC: SELECT\nS: {tag} NO [{it}] {it}\n",
    "{login}S: {tag} OK [CAPABILITY IMAP4rev1] in\nC: LIST\nS: {tag} OK\nC: SELECT\nS: * 30 EXISTS\nS: {tag} OK\nC: FETCH\nS: * 30 FETCH (UID {it}\nS: {tag} BAD {it}\nC: LOGOUT\nS: {tag} BAD {it}\n",
];

fn at_place(place: &str, said: &str) -> String {
    let middle = said.char_indices().nth(said.chars().count() / 2).map_or(0, |(at, _)| at);
    place
        .replace("{login}", LOGIN)
        .replace("{{n}}", &format!("{{{}}}", said.len()))
        .replace("{it}", &scripted(said))
        .replace("{first}", &scripted(&said[..middle]))
        .replace("{second}", &scripted(&said[middle..]))
}

fn as_who(mut target: Target, who: &Canary) -> Target {
    target.accounts = vec![account(&who.user, &who.password)];
    target
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_form_at_no_place_of_a_conversation_comes_into_the_record() {
    let leaks = Arc::new(leaks());
    let turns = Arc::new(Semaphore::new(16));
    let mut runs = JoinSet::new();
    for who in canaries() {
        for (number, said) in said_back(&who).into_iter().enumerate() {
            // Lines are bounded, and what is kept of one is short.
            for place in PLACES.iter().skip(number % 2).step_by(2) {
                let (leaks, turns, who, said) = (leaks.clone(), turns.clone(), who.clone(), said.clone());
                runs.spawn(async move {
                    let _turn = turns.acquire().await.unwrap();
                    let server = Script::play(&at_place(place, &said)).await;
                    let run = run(as_who(target(server.address, Security::None), &who)).await;
                    assert_eq!(run.outcome, imaptrace::record::RunOutcome::Failed, "{place}");
                    leaks.look("records of runs", serde_json::to_string(&run).unwrap());
                    let said =
                        run.failing_step().and_then(|step| step.text.clone()).map_or(0, |text| text.as_str().len());
                    usize::from(said > 0)
                });
            }
        }
    }
    let told = runs.join_all().await.into_iter().sum::<usize>();
    assert!(told > 500, "only {told} of the servers' words came into a record at all");
    leaks.end();
}

#[tokio::test]
async fn a_certificate_that_names_them_does_not_either() {
    let leaks = leaks();
    for who in canaries() {
        for said in said_back(&who).into_iter().filter(|said| said.len() < 200 && !said.contains('\0')) {
            let key = rcgen::KeyPair::generate().unwrap();
            let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
            params.distinguished_name.push(rcgen::DnType::CommonName, said.as_str());
            params.distinguished_name.push(rcgen::DnType::OrganizationName, said.as_str());
            let certificate = params.self_signed(&key).unwrap();
            let pem = Pem { certificate: certificate.pem(), key: key.serialize_pem() };
            let server = Script::play_with(&format!("tls\nS: * BYE {}\n", scripted(&said)), &pem).await;
            let mut target = as_who(target(server.address, Security::Tls), &who);
            target.tls.insecure = true;
            let run = run(target).await;
            let tls = run.steps.iter().find_map(|step| step.tls.as_ref()).unwrap();
            assert!(tls.subject.is_some() && tls.issuer.is_some(), "{run:?}");
            leaks.look("records of runs over TLS", serde_json::to_string(&run).unwrap());
        }
    }
    leaks.end();
}

/// What the scenarios say back, and all else that they do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_scenario_brings_either_out() {
    let leaks = Arc::new(leaks());
    let turns = Arc::new(Semaphore::new(8));
    let mut playing = JoinSet::new();
    for (number, scenario) in Scenario::all().into_iter().enumerate() {
        // The two whose passwords mean nothing else to a script.
        let who = canaries()[[0, 4][number % 2]].clone();
        let who = Credentials { user: who.user, password: who.password };
        for (turn, over) in scenario.over.clone().into_iter().enumerate() {
            let (leaks, turns, who, scenario) = (leaks.clone(), turns.clone(), who.clone(), scenario.clone());
            playing.spawn(async move {
                let _turn = turns.acquire().await.unwrap();
                let served = scenario.serve(over, &who).await;
                let run = run(served.target()).await;
                leaks.look("records of scenarios", serde_json::to_string(&run).unwrap());
                // The program itself once for each: it takes longer.
                if turn == 0 {
                    let served = scenario.serve(over, &who).await;
                    let arguments = ["probe".to_owned()].into_iter().chain(served.flags());
                    let program =
                        Program::new(arguments.chain(["--output".into(), ["text", "json"][number % 2].into()]));
                    let output = program.env("IMAPTRACE_PASSWORD", &who.password).env("RUST_LOG", TRACE).run().await;
                    assert!(matches!(output.code, Some(0 | 1)), "{}: {output:?}", scenario.file);
                    look(&leaks, "probe of a scenario", &output);
                }
            });
        }
    }
    playing.join_all().await;
    leaks.end();
}

// === The searcher itself ===

/// Written by hand, so that a search that is wrong in the same way as what it searches for is found out.
const BY_HAND: &[&str] = &[
    "Qä9\"\\ 5%zK",
    "QÄ9\"\\ 5%ZK",
    "ä9\"\\ 5%",
    "Qä9\\\"\\\\ 5%zK",
    "{\"text\":\"NO Qä9\\\"\\\\ 5%zK\"}",
    "{\"text\":\"NO Qä9\\\\\\\"\\\\\\\\ 5%zK\"}",
    "Q\\u00e49\\\"\\\\ 5%zK",
    "\\u0051\\u00e4\\u0039\\u0022\\u005c\\u0020\\u0035",
    "\\x51\\xc3\\xa4\\x39\\x22\\x5c\\x20\\x35",
    "\\121\\303\\244\\071\\042\\134\\040",
    "Q%C3%A49%22%5C%205%25zK",
    "Q%c3%a49%22%5c+5%25zK",
    "%51%c3%a4%39%22%5c%20",
    "Qä9&quot;\\ 5%zK",
    "51c3a439225c2035257a4b",
    "51 c3 a4 39 22 5c 20",
    "51:C3:A4:39:22:5C:20:35",
    "51-C3-A4-39-22-5C-20",
    "[0x51, 0xc3, 0xa4, 0x39, 0x22, 0x5c, 0x20]",
    "[81, 195, 164, 57, 34, 92, 32, 53, 37, 122, 75]",
    "81,195,164,57,34,92,32",
    "UcOkOSJcIDUlekg=",
    "AHUAUcOkOSJcIDUleks=",
    "eFHDpDkiXCA1JXpL",
    "eHlRw6Q5IlwgNSV6Sw==",
    "UCOKOSJCIDULEKG",
    "cOkOSJcIDUlek",
    "UcOk\\r\\nOSJc\\r\\n IDUlekg=",
    "URSULA-7d1e@canary.example",
    "no mailbox ursula-7d1e here",
    "dXJzdWxhLTdkMWVAY2FuYXJ5LmV4YW1wbGU=",
    "ursula-7d1e%40canary.example",
    "[117, 114, 115, 117, 108, 97, 45, 55, 100, 49, 101]",
];

#[test]
fn the_search_finds_each_form_where_it_is_planted() {
    let who = Canary { user: "ursula-7d1e@canary.example".into(), password: "Qä9\"\\ 5%zK".into() };
    let search = |bytes: &[u8]| {
        let leaks = Leaks::of(std::slice::from_ref(&who));
        leaks.look("a plant", bytes);
        leaks.found().len()
    };
    for plant in BY_HAND {
        let text = format!("an output {plant} and what follows");
        assert_eq!(search(text.as_bytes()), 1, "{plant}");
        assert!(search(&packed(text.as_bytes())) > 0, "packed: {plant}");
    }
    for plant in said_back(&who) {
        assert_eq!(search(format!("an output {plant} and what follows").as_bytes()), 1, "{plant}");
    }
    for nothing in ["Qä9\"\\", "9\"\\ 5", "cOkOSJ", "81, 195, 164, 57", "canary.example", "UcOkOS J"] {
        assert_eq!(search(nothing.as_bytes()), 0, "{nothing}");
    }
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::default());
    std::io::Write::write_all(&mut packer, bytes).unwrap();
    packer.finish().unwrap()
}

// === Every command ===

fn look(leaks: &Leaks, command: &str, output: &Output) {
    leaks.look(&format!("standard output of {command}"), &output.stdout);
    leaks.look(&format!("standard error of {command}"), &output.stderr);
}

/// A file that only its owner can read.
fn private(folder: &Path, name: &str, content: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.to_str().unwrap().to_owned()
}

fn percent(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// A probe whose password comes from one of the places that it can come from.
fn probe(number: usize, address: std::net::SocketAddr, who: &Canary, folder: &Path, more: &[&str]) -> Program {
    let file = private(folder, &format!("password-{number}"), &format!("{}\n", who.password));
    let url = match number % 5 {
        0 => format!("imap://{}:{}@{address}", percent(&who.user), percent(&who.password)),
        _ => format!("imap://{address}"),
    };
    let mut arguments = vec!["probe", &url, "--security", "none"];
    if number % 5 > 0 {
        arguments.extend(["--user", &who.user]);
    }
    let command = format!("cat {file}");
    match number % 5 {
        1 => arguments.extend(["--password-file", &file]),
        2 => arguments.extend(["--password-env", "MINE"]),
        3 => arguments.extend(["--password-command", &command]),
        _ => {}
    }
    arguments.extend(more);
    let program = Program::new(arguments);
    match number % 5 {
        2 => program.env("MINE", &who.password),
        4 => program.env("IMAPTRACE_PASSWORD", &who.password),
        _ => program,
    }
}

#[test]
fn probe_prints_exports_and_logs_neither_whatever_the_log_level() {
    let (leaks, folder, runtime) = (leaks(), tempfile::tempdir().unwrap(), runtime());
    let (grpc, http) = (Receiver::grpc(), Receiver::http());
    let mut number = 0;
    for who in canaries() {
        let said = said_back(&who);
        for (place, script) in PLACES.iter().enumerate() {
            number += 1;
            let script = at_place(script, &said[(7 * number) % said.len()]);
            let level = [TRACE, "debug", "info", "warn,imaptrace=trace", "error"][number % 5];
            let output = ["text", "json", "nagios"][(number / 5) % 3];
            let receiver = if place % 2 == 0 { &grpc } else { &http };
            let gzip = if number % 3 == 0 { "gzip" } else { "none" };
            let output = runtime.block_on(async {
                let server = Script::play(&script).await;
                let more = ["--output", output, "--timeout", "5s"];
                let program = probe(number, server.address, &who, folder.path(), &more);
                let protocol = if place % 2 == 0 { "grpc" } else { "http/protobuf" };
                program
                    .env("RUST_LOG", level)
                    .env("RUST_BACKTRACE", "full")
                    .env("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url())
                    .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
                    .env("OTEL_EXPORTER_OTLP_COMPRESSION", gzip)
                    .env("OTEL_EXPORTER_OTLP_HEADERS", format!("x-key={TOKEN}"))
                    .run()
                    .await
            });
            assert!(matches!(output.code, Some(1 | 2)), "{script}: {output:?}");
            look(&leaks, "probe", &output);
        }
    }
    for receiver in [&grpc, &http] {
        receiver.look(|inbox| assert!(inbox.traces.len() >= 40 && !inbox.metrics.is_empty(), "{}", inbox.traces.len()));
        look_at_receiver(&leaks, receiver);
    }
    leaks.end();
}

fn look_at_receiver(leaks: &Leaks, receiver: &Receiver) {
    receiver.look(|inbox| {
        for got in &inbox.traces {
            assert_eq!(got.headers.get("x-key").map(String::as_str), Some(TOKEN));
            leaks.look("traces over OTLP, decoded", format!("{:?}", got.body));
            leaks.look("traces over OTLP, protobuf", got.body.encode_to_vec());
        }
        for got in &inbox.metrics {
            leaks.look("metrics over OTLP, decoded", format!("{:?}", got.body));
            leaks.look("metrics over OTLP, protobuf", got.body.encode_to_vec());
        }
        for (path, body) in &inbox.raw {
            leaks.look(&format!("bodies of {path}, as they came"), body);
        }
    });
}

#[tokio::test]
async fn a_run_that_passes_gives_neither_away_and_the_log_of_its_commands_is_at_trace() {
    let (leaks, folder) = (leaks(), tempfile::tempdir().unwrap());
    for (number, who) in canaries().iter().enumerate() {
        // LOGIN, with quotes or a literal; and PLAIN.
        let login = "C: LOGIN\n";
        let plain =
            GOOD.replace("IMAP4rev1] hi", "IMAP4rev1 AUTH=PLAIN SASL-IR] hi").replace(login, "C: AUTHENTICATE\n");
        let is_literal = !who.password.is_ascii();
        let literal = GOOD
            .replace("IMAP4rev1] hi", "IMAP4rev1 LITERAL+] hi")
            .replace("C: LOGIN\nS: {tag}", &format!("C: LOGIN\nc: {}\nS: {{tag}}", who.password.len() + 2));
        for script in [if is_literal { literal } else { GOOD.to_owned() }, plain] {
            let server = Script::play(&script).await;
            let output = probe(number, server.address, who, folder.path(), &["--output", "json"]);
            let output = output.env("RUST_LOG", TRACE).run().await;
            assert_eq!(output.code, Some(0), "{output:?}");
            let heard = server.heard().await.join("\n");
            assert!(heard.contains("LOGOUT") && !Leaks::of(std::slice::from_ref(who)).found_in(&heard).is_empty());
            look(&leaks, "probe that passes", &output);
        }
    }
    leaks.end();
}

#[tokio::test]
async fn no_command_repeats_either_in_wrong_usage() {
    let (leaks, folder) = (leaks(), tempfile::tempdir().unwrap());
    for who in canaries() {
        let (user, password) = (percent(&who.user), percent(&who.password));
        let url = format!("imaps://{user}:{password}@mail.example");
        let raw = who.password.as_str();
        let inline = format!("--password={raw}");
        let headers = format!("authorization {raw}");
        let wrong: Vec<Vec<&str>> = vec![
            vec![&url],
            vec!["probe"],
            vec!["probe", "mail.example", &url],
            vec!["probe", "mail.example", &who.user, raw],
            vec!["probe", &url, "--no-such-flag"],
            vec!["probe", &url, "--count", &url],
            vec!["probe", &url, "--output", &url],
            vec!["probe", &url, "--output", "nagios", "--count", &url],
            vec!["probe", &url, "--output=nagios", raw],
            vec!["probe", &url, "--color", &url],
            vec!["probe", &url, "-w", &url],
            vec!["probe", &url, "--every", "never"],
            vec!["probe", &url, "--timeout", "never"],
            vec!["probe", &url, "--security", "none"],
            vec!["probe", &url, "--password-file", "/nonexistent/file"],
            vec!["probe", "mail.example", "--user", &who.user],
            vec!["probe", "mail.example", "--user", &who.user, &inline],
            vec!["probe", "mail.example", "--password", raw],
            vec!["probe", &url, "--ca-file", "/nonexistent/ca"],
            vec!["probe", &url, "--otlp-endpoint", &url],
            vec!["canary", &url],
            vec!["canary", "fill", "mail.example", raw],
            vec!["canary", "fill", &url, "--messages", &url],
            vec!["canary", "fill", &url, "--address", "each"],
            vec!["demo", raw],
            vec!["check", &url],
            vec!["agent", &url],
            vec!["completions", &url],
            vec!["replay", "-", "--otlp-endpoint", &url],
        ];
        for arguments in wrong {
            // What begins like a flag is none of this test's.
            let output = Program::new(&arguments).env("RUST_LOG", TRACE).run().await;
            assert!(matches!(output.code, Some(1..=3)), "{arguments:?}: {output:?}");
            look(&leaks, "wrong usage", &output);
        }
        for scheme in ["ftp://", "imaps:/", "imaps//", "imap://"] {
            for place in ["mail.example:x", "mail example", "", "[::1", "mail.example:0"] {
                let server = format!("{scheme}{user}:{password}@{place}");
                let output = Program::new(["probe", &server]).run().await;
                assert_eq!(output.code, Some(2), "{server}: {output:?}");
                look(&leaks, "wrong usage", &output);
            }
        }
        for (name, value) in [
            ("IMAPTRACE__DEFAULTS__PASSWORD", raw),
            ("IMAPTRACE__DEFAULTS__USER", &who.user),
            ("IMAPTRACE__TARGETS__PASSWORD", raw),
            ("IMAPTRACE__OTLP__HEADERS", &headers),
            ("OTEL_EXPORTER_OTLP_HEADERS", &headers),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &url),
        ] {
            for arguments in [vec!["probe", "mail.example", "--user", "u"], vec!["check", "--config", "none.toml"]] {
                let output = Program::new(&arguments).env(name, value).env("IMAPTRACE_PASSWORD", raw).run().await;
                look(&leaks, "wrong usage", &output);
                assert!(output.code != Some(0), "{name}: {output:?}");
            }
        }
        wrong_files(&leaks, &who, folder.path()).await;
    }
    leaks.end();
}

/// Configurations with a secret where none belongs.
async fn wrong_files(leaks: &Leaks, who: &Canary, folder: &Path) {
    let password = toml(&who.password);
    let url = format!("imaps://{}:{}@mail.example", percent(&who.user), percent(&who.password));
    let target =
        |keys: &str| format!("[[targets]]\nname = \"a\"\nurl = \"imaps://mail.example\"\nuser = \"u\"\n{keys}\n");
    let listed = private(folder, "listed.json", &format!("[{{\"targets\": [\"{url}:x\", 7]}}]"));
    for text in [
        target(&format!("password = {password}")),
        target(&format!("password = [{password}]")),
        target(&format!("password = {{ file = \"/x\", value = {password} }}")),
        target(&format!("password = {{ env = {password} }}\nnewest = 0")),
        target(&format!("password = {{ command = {password} }}")),
        target(&format!("password = {{ command = [\"\", {password}] }}")),
        target(&format!("passwrod = {password}")),
        target(&format!("password = {}", who.password)),
        target(&format!("password = \"{}", who.password.replace('"', "'"))),
        target(&format!("password = {{ env = \"X\" }}\nlabels = {password}")),
        format!("[[targets]]\nname = \"a\"\nurl = \"{url}:x\"\n"),
        format!("[[targets]]\nname = \"a\"\nurl = \"ftp{url}\"\n"),
        format!("[[targets]]\nname = \"a\"\nurl = \"{url}\"\nuser = 7\n"),
        format!("[otlp]\nendpoint = \"http://x\"\nheaders = {password}\n"),
        format!("[otlp]\nendpoint = \"{url}\"\n"),
        format!("[otlp]\nheaders = {{ authorization = [{password}] }}\n"),
        format!("[[groups]]\nname = \"g\"\ntargets_from = [\"{listed}\"]\npassword = {password}\nuser = \"u\"\n"),
        format!("[[groups]]\nname = \"g\"\ntargets = [\"{url}\", \"{url}:x\"]\npassword = {password}\nuser = \"u\"\n"),
    ] {
        let file = private(folder, "wrong.toml", &text);
        for command in ["check", "agent"] {
            let output = Program::new([command, "--config", &file]).env("RUST_LOG", TRACE).run().await;
            assert_eq!(output.code, Some(2), "{text}: {output:?}");
            look(leaks, &format!("{command} with a wrong file"), &output);
        }
    }
}

/// A text as TOML writes it.
fn toml(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

#[tokio::test]
async fn commands_that_need_no_secret_do_not_tell_of_those_that_are_about() {
    let leaks = leaks();
    let mut everything: Vec<Vec<&str>> = vec![vec!["demo"], vec!["--version"], vec!["--help"], vec![]];
    for command in ["probe", "agent", "check", "demo", "replay", "canary", "completions"] {
        everything.push(vec![command, "--help"]);
        everything.push(vec![command, "-h"]);
    }
    everything.push(vec!["canary", "fill", "--help"]);
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        everything.push(vec!["completions", shell]);
    }
    for (number, arguments) in everything.iter().enumerate() {
        let who = &canaries()[number % 5];
        let output = Program::new(arguments)
            .env("IMAPTRACE_PASSWORD", &who.password)
            .env("IMAPTRACE_USER", &who.user)
            .env("OTEL_EXPORTER_OTLP_HEADERS", format!("x-key={TOKEN}"))
            .env("RUST_LOG", TRACE)
            .env("RUST_BACKTRACE", "full")
            .run()
            .await;
        assert!(!output.stdout.is_empty() || !output.stderr.is_empty());
        look(&leaks, "demo, help, version, completions", &output);
    }
    leaks.end();
}

#[tokio::test]
async fn filling_a_mailbox_gives_neither_away() {
    let (leaks, folder) = (leaks(), tempfile::tempdir().unwrap());
    for (number, who) in canaries().iter().enumerate() {
        for place in PLACES {
            let said = said_back(who);
            let server = Script::play(&at_place(place, &said[(5 * number) % said.len()])).await;
            let file = private(folder.path(), "password", &who.password);
            let url = format!("imap://{}", server.address);
            let output = Program::new([
                "canary",
                "fill",
                &url,
                "--security",
                "none",
                "--user",
                &who.user,
                "--password-file",
                &file,
            ])
            .env("RUST_LOG", TRACE)
            .run()
            .await;
            assert_eq!(output.code, Some(1), "{place}: {output:?}");
            look(&leaks, "canary fill", &output);
        }
    }
    leaks.end();
}

// === The agent ===

async fn get(port: u16, path: &str) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost:{port}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok()?;
    Some(answer)
}

#[test]
fn the_agent_tells_neither_in_log_status_queue_and_telemetry_and_replay_does_not_either() {
    let (leaks, runtime, receiver, port) = (leaks(), runtime(), Receiver::http(), free_port());
    receiver.script(&[Answer::Unavailable, Answer::Invalid, Answer::Invalid, Answer::Unavailable]);
    let program = Program::new(["agent", "--config", "imaptrace.toml"]);
    let home = program.home().to_owned();
    let (agent, servers) = runtime.block_on(async {
        let mut config = format!(
            "[agent]\nlog_format = \"json\"\nlog_level = \"debug\"\n[http]\nlisten = \"127.0.0.1:{port}\"\n\
             [otlp]\nendpoint = \"{}\"\nprotocol = \"http/protobuf\"\ncompression = \"gzip\"\n\
             headers = {{ x-key = {{ env = \"KEY\" }} }}\n[metrics]\nexport_interval = \"500ms\"\n\
             [state]\ndir = \"{}\"\n",
            receiver.url(),
            home.join("state").display(),
        );
        let mut servers = Vec::new();
        for (number, who) in canaries().iter().enumerate() {
            let said = said_back(who);
            let parts: Vec<_> = PLACES
                .iter()
                .enumerate()
                .map(|(place, script)| at_place(script, &said[(place * 3 + number) % said.len()]))
                .collect();
            let server = Script::play(&parts.join("next\n")).await;
            let file = private(&home, &format!("password-{number}"), &who.password);
            let source = match number {
                0 => format!("{{ file = {} }}", toml(&file)),
                1 => format!("{{ command = [\"cat\", {}] }}", toml(&file)),
                2 => "{ env = \"MINE\" }".to_owned(),
                _ => format!("{{ credential = \"password-{number}\" }}"),
            };
            write!(
                config,
                "[[targets]]\nname = \"t{number}\"\nurl = \"imap://{}\"\nsecurity = \"none\"\nuser = {}\n\
                 password = {source}\ninterval = \"200ms\"\ntimeout = \"190ms\"\n",
                server.address,
                toml(&who.user)
            )
            .unwrap();
            servers.push(server);
        }
        private(&home, "imaptrace.toml", &config);
        let agent = program
            .env("KEY", TOKEN)
            .env("MINE", &canaries()[2].password)
            .env("CREDENTIALS_DIRECTORY", &home)
            .env("RUST_LOG", TRACE)
            .start();
        (agent, servers)
    });
    runtime.block_on(async {
        for server in servers {
            server.heard().await;
        }
        for path in ["/", "/status.json", "/status.json?runs=50", "/live", "/ready", "/metrics", "/nothing"] {
            leaks.look("pages of the agent", get(port, path).await.unwrap());
        }
    });
    receiver.wait(|inbox| inbox.metrics.len() >= 3 && inbox.traces.len() > 6);
    // What was refused is put aside, and what waits is in the queue.
    drop(wait_until("runs are put aside", || fs::read_dir(home.join("state/refused")).ok()?.next()));
    let aside: Vec<_> = fs::read_dir(home.join("state/refused")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let (config, wrong) = (home.join("imaptrace.toml"), canaries()[1].password.clone());
    let good = fs::read_to_string(&config).unwrap();
    fs::write(
        &config,
        format!("{good}[[targets]]\nname = \"b\"\nurl = \"imaps://b\"\nuser = \"u\"\npassword = {}\n", toml(&wrong)),
    )
    .unwrap();
    let mut agent = agent;
    runtime.block_on(async {
        agent.signal(Signal::SIGHUP);
        agent.stderr_line("does not stand in the configuration").await;
        leaks.look("pages of the agent", get(port, "/status.json").await.unwrap());
    });
    look_at_receiver(&leaks, &receiver);
    // So that something is in the queue at the end.
    let _closed = receiver.kill();
    runtime.block_on(agent.stderr_line("cannot deliver"));
    for path in files(&home.join("state")) {
        leaks.look("files of the state directory", fs::read(path).unwrap());
    }
    let replayed = Receiver::http();
    for path in &aside {
        let replay = Program::new(["replay", path.to_str().unwrap(), "--otlp-endpoint", &replayed.url()]);
        look(&leaks, "replay", &runtime.block_on(async { replay.env("RUST_LOG", TRACE).run().await }));
    }
    replayed.look(|inbox| {
        assert!(!inbox.traces.is_empty());
        inbox.raw.iter().for_each(|(path, body)| leaks.look(&format!("bodies of {path}, replayed"), body));
    });
    runtime.block_on(async {
        let state = home.join("state/queue");
        agent.signal(Signal::SIGTERM);
        // Its home goes with it.
        let kept = files(&state);
        assert!(!kept.is_empty(), "nothing waits on disk");
        for path in kept {
            leaks.look("files of the state directory", fs::read(path).unwrap_or_default());
        }
        fs::write(&config, good).unwrap();
        let check = Program::new(["check", "--config", config.to_str().unwrap()]).env("RUST_LOG", TRACE).run().await;
        assert_eq!(check.code, Some(0), "{check:?}");
        look(&leaks, "check", &check);
        let output = agent.finish().await;
        assert_eq!(output.code, Some(0), "{output:?}");
        look(&leaks, "agent", &output);
    });
    leaks.end();
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

// === Panics ===

#[tokio::test]
async fn a_panic_in_a_probe_prints_neither_nor_does_anything_that_could_be_printed() {
    let (leaks, log) = (leaks(), Log::get());
    let told = Arc::new(Mutex::new(String::new()));
    let (before, into) = (std::panic::take_hook(), told.clone());
    std::panic::set_hook(Box::new(move |panic| {
        writeln!(into.lock().unwrap(), "{panic}\n{}", std::backtrace::Backtrace::force_capture()).unwrap();
        before(panic);
    }));
    for who in canaries() {
        let server = Script::play(LOGIN).await;
        let mut target = as_who(target(server.address, Security::None), &who);
        // No clock goes as far: the probe falls over at its first command.
        target.deadlines.command = std::time::Duration::MAX;
        let prepared = prepare(target);
        let prober = Prober::new(Dns::default(), Vec::new());
        let (_keep, cancel) = watch::channel(false);
        let account = &prepared.target().accounts[0];
        let secret = prober.secret(account).await;
        let run: Run = agent::once(&prober, &prepared.target().journey, None, cancel, |ids| {
            let job =
                Job { target: &prepared, account, family: Family::Any, ids, start_lag: None, secret, hold_login: None };
            leaks.look("debug forms", format!("{job:?}\n{job:#?}\n{prober:?}\n{account:?}"));
            job
        })
        .await;
        assert_eq!(run.error_type, Some(ErrorType::Internal));
        leaks.look("records of runs that panicked", serde_json::to_string(&run).unwrap());
    }
    let told = told.lock().unwrap().clone();
    assert!(told.matches("overflow").count() >= 5, "{told}");
    leaks.look("panics", told);
    leaks.look("the log of panics", log.lines("a fault in imaptrace").join("\n"));
    leaks.end();
}

#[test]
fn a_configuration_has_no_printable_secrets() {
    let leaks = leaks();
    for who in canaries() {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "[otlp]\nendpoint = \"http://localhost:1\"\nheaders = {{ x-key = \"{TOKEN}\" }}\n\
             [[targets]]\nname = \"a\"\nurl = \"imaps://{}:{}@mail.example\"\n\
             [[targets.accounts]]\nname = \"b\"\nuser = {}\npassword = {{ command = [\"pass\", {}] }}\n",
            percent(&who.user),
            percent(&who.password),
            toml(&who.user),
            toml(&who.password),
        );
        let file = Some(private(folder.path(), "imaptrace.toml", &text).into());
        let config = config::load(&Sources { file, environment: Vec::new(), flags: Vec::new() }).unwrap();
        leaks.look("debug forms", format!("{config:?}\n{config:#?}"));
        leaks.look("the plan of check", config::describe(&config));
    }
    leaks.end();
}

// === Memory ===

#[cfg(target_os = "linux")]
#[test]
fn a_running_agent_dumps_no_core_and_is_closed_to_others_of_its_user() {
    const NOBODY: u32 = 65_534;
    let runtime = runtime();
    let folder = tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempdir().unwrap();
    let root = geteuid().is_root();
    let as_nobody = |program: Program| {
        if root { program.copied_to(&folder.path().join("imaptrace")).user(NOBODY) } else { program }
    };
    runtime.block_on(async {
        let mut server = crate::command_line::Listener::willing().await;
        let program = as_nobody(Program::new(["agent", "--config", "imaptrace.toml"]).env("PROBE", "word"));
        let config = crate::agent::target("mail", server.address, "300ms", "290ms");
        fs::write(program.home().join("imaptrace.toml"), format!("[http]\nlisten = \"off\"\n{config}")).unwrap();
        let mut agent = program.start();
        agent.stderr_line("imaptrace is up").await;
        server.hears("LOGOUT", 1).await;
        let process = format!("/proc/{}", agent.id().unwrap());
        let limits = fs::read_to_string(format!("{process}/limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"], "{core}");
        let status = fs::read_to_string(format!("{process}/status")).unwrap();
        let user = if root { NOBODY } else { geteuid().as_raw() };
        assert!(status.contains(&format!("Uid:\t{user}\t")), "{status}");
        // The kernel gives to root what belongs to a process that is not to be dumped.
        for file in ["environ", "mem", "fd"] {
            assert_eq!(fs::metadata(format!("{process}/{file}")).unwrap().uid(), 0, "{file}");
        }
        agent.signal(Signal::SIGTERM);
        let output = agent.finish().await;
        assert_eq!(output.code, Some(0), "{output:?}");
        assert!(!output.stderr.contains("core dumps") && !output.stderr.contains("Permission denied"), "{output:?}");
        let demo = as_nobody(Program::new(["demo"])).run().await;
        assert_eq!((demo.code, demo.stderr.as_str()), (Some(0), ""), "{demo:?}");
    });
}
