//! No password and no user name in anything that imaptrace gives out, whatever a server does with them.
//!
//! The servers here have learned both and say them back in every form and at every place of a conversation. What is
//! searched, and how, is told by `-- --nocapture secrets::` and in docs/testing.md.
#![allow(clippy::string_slice, reason = "what is cut here is cut between characters")]

mod agent;
mod commands;

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{Arc, Mutex},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use flate2::{Compression, write::GzEncoder};
use imaptrace::{
    agent::run_once,
    config::{self, Sources},
    net::Family,
    plan::{Dns, Security, Target},
    probe::{Job, Prober},
};
use imaptrace_record::{ErrorType, Run};
use prost::Message as _;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};

use crate::support::{
    leaks::{Leaks, Planted, forms},
    otlp::{Log, Receiver},
    program::{Output, Program},
    run::{account, prepare, run, target},
    scenario::{Credentials, Scenario},
    script::{Pem, Script},
};

/// The key in the headers of OTLP: as secret as a password.
const TOKEN: &str = "tk-Yw5rG8nLq2Zb";

/// Every line that anything in the program logs, the crates that are else quiet included.
pub(crate) const TRACE: &str = "trace,opentelemetry=trace,opentelemetry_sdk=trace,opentelemetry-otlp=trace,opentelemetry-http=trace,\
    h2=trace,hyper=trace,hyper_util=trace,tonic=trace,tower=trace,reqwest=trace,rustls=trace,hickory_resolver=trace,\
    hickory_proto=trace";

/// Passwords of every kind that is written in another way than it is: none is like anything else in an output.
fn planted() -> Vec<Planted> {
    // Of letters that are no hex digits, lest it is found in an id.
    let letters: Vec<char> = "ghjkmnpqrstvwxyz".chars().collect();
    let letter = |place: usize| letters[(place.wrapping_mul(place).wrapping_mul(2_654_435_761) >> 9) & 15];
    let long: String = (1..=300).map(letter).collect();
    ["Zq7-mK4vRt9xWc2", "Hq\"7\\mK4 vR\"t9\\xW", "Öl9ßjÜrg-Ωμέγα7ñ", "Pc%41%zz+7Km%vR4", &long]
        .iter()
        .zip(["ursula-7d1e", "viktor-8e2f", "wilma-9f3a", "xaver-0a4b", "yvonne-1b5c"])
        .map(|(password, user)| Planted { user: format!("{user}@planted.example"), password: (*password).to_owned() })
        .collect()
}

fn leaks() -> Leaks {
    let token = Planted { user: "nobody-at-all".into(), password: TOKEN.into() };
    Leaks::of(&[planted(), vec![token]].concat())
}

// === What the tests of all commands share ===

fn look(leaks: &Leaks, command: &str, output: &Output) {
    leaks.look(&format!("standard output of {command}"), &output.stdout);
    leaks.look(&format!("standard error of {command}"), &output.stderr);
}

/// A file that only its owner can read.
fn private(directory: &Path, name: &str, content: &str) -> String {
    let path = directory.join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.to_str().unwrap().to_owned()
}

fn percent(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
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

/// A text as TOML writes it.
fn toml(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

// === What a server says back, and where ===

/// Everything that it can say of them.
fn said_back(who: &Planted) -> Vec<String> {
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

fn as_who(mut target: Target, who: &Planted) -> Target {
    target.accounts = vec![account(&who.user, &who.password)];
    target
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_form_at_no_place_of_a_conversation_comes_into_the_record() {
    let leaks = Arc::new(leaks());
    let turns = Arc::new(Semaphore::new(16));
    let mut runs = JoinSet::new();
    for who in planted() {
        for (number, said) in said_back(&who).into_iter().enumerate() {
            // Lines are bounded, and what is kept of one is short.
            for place in PLACES.iter().skip(number % 2).step_by(2) {
                let (leaks, turns, who, said) = (leaks.clone(), turns.clone(), who.clone(), said.clone());
                runs.spawn(async move {
                    let _turn = turns.acquire().await.unwrap();
                    let server = Script::play(&at_place(place, &said)).await;
                    let run = run(as_who(target(server.address, Security::None), &who)).await;
                    assert_eq!(run.outcome, imaptrace_record::RunOutcome::Failed, "{place}");
                    leaks.look("records of runs", serde_json::to_string(&run).unwrap());
                    let said =
                        run.failing_step().and_then(|step| step.text.clone()).map_or(0, |text| text.as_str().len());
                    usize::from(said > 0)
                });
            }
        }
    }
    let details = runs.join_all().await.into_iter().sum::<usize>();
    assert!(details > 500, "only {details} of the servers' words came into a record at all");
    leaks.end();
}

#[tokio::test]
async fn a_certificate_that_names_them_does_not_either() {
    let leaks = leaks();
    for who in planted() {
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
        let who = planted()[[0, 4][number % 2]].clone();
        let who = Credentials { user: who.user, password: who.password };
        for (turn, over) in scenario.over.clone().into_iter().enumerate() {
            let (leaks, turns, who, scenario) = (leaks.clone(), turns.clone(), who.clone(), scenario.clone());
            playing.spawn(async move {
                let _turn = turns.acquire().await.unwrap();
                let served = scenario.serve(over, &who).await;
                let run = run(served.target()).await;
                leaks.look("records of scenarios", serde_json::to_string(&run).unwrap());
                // The program itself once for each: it takes longer. No argument can be as long as some user's name.
                if turn == 0 && scenario.set.user_bytes.is_none() {
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
    "URSULA-7d1e@planted.example",
    "no mailbox ursula-7d1e here",
    "dXJzdWxhLTdkMWVAcGxhbnRlZC5leGFtcGxl",
    "ursula-7d1e%40planted.example",
    "[117, 114, 115, 117, 108, 97, 45, 55, 100, 49, 101]",
];

#[test]
fn the_search_finds_each_form_where_it_is_planted() {
    let who = Planted { user: "ursula-7d1e@planted.example".into(), password: "Qä9\"\\ 5%zK".into() };
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
    for nothing in ["Qä9\"\\", "9\"\\ 5", "cOkOSJ", "81, 195, 164, 57", "planted.example", "UcOkOS J"] {
        assert_eq!(search(nothing.as_bytes()), 0, "{nothing}");
    }
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::default());
    std::io::Write::write_all(&mut packer, bytes).unwrap();
    packer.finish().unwrap()
}

// === Panics ===

#[tokio::test]
async fn a_panic_in_a_probe_prints_neither_nor_does_anything_that_could_be_printed() {
    let (leaks, log) = (leaks(), Log::get());
    let details = Arc::new(Mutex::new(String::new()));
    let (before, into) = (std::panic::take_hook(), details.clone());
    std::panic::set_hook(Box::new(move |panic| {
        writeln!(into.lock().unwrap(), "{panic}\n{}", std::backtrace::Backtrace::force_capture()).unwrap();
        before(panic);
    }));
    for who in planted() {
        let server = Script::play(LOGIN).await;
        let mut target = as_who(target(server.address, Security::None), &who);
        // No clock goes as far: the probe falls over at its first command.
        target.deadlines.command = std::time::Duration::MAX;
        let prepared = prepare(target);
        let prober = Prober::new(Dns::default());
        let (_keep, cancel) = watch::channel(false);
        let account = &prepared.target().accounts[0];
        let secret = account.password.load().await;
        let run: Run = run_once(&prober, &prepared.target().journey, None, cancel, |ids| {
            let job = Job {
                target: &prepared,
                account,
                family: Family::Any,
                ids,
                start_lag: None,
                secret,
                usual_messages: None,
                hold_login: None,
            };
            leaks.look("debug forms", format!("{job:?}\n{job:#?}\n{prober:?}\n{account:?}"));
            job
        })
        .await;
        assert_eq!(run.error_type, Some(ErrorType::Internal));
        leaks.look("records of runs that panicked", serde_json::to_string(&run).unwrap());
    }
    let details = details.lock().unwrap().clone();
    assert!(details.matches("overflow").count() >= 5, "{details}");
    leaks.look("panics", details);
    leaks.look("the log of panics", log.lines("a fault in imaptrace").join("\n"));
    leaks.end();
}

#[test]
fn a_configuration_has_no_printable_secrets() {
    let leaks = leaks();
    for who in planted() {
        let directory = tempfile::tempdir().unwrap();
        let text = format!(
            "[otlp]\nendpoint = \"http://localhost:1\"\nheaders = {{ x-key = \"{TOKEN}\" }}\n\
             [[targets]]\nname = \"a\"\nurl = \"imaps://{}:{}@mail.example\"\n\
             [[targets.accounts]]\nname = \"b\"\nuser = {}\npassword = {{ command = [\"pass\", {}] }}\n",
            percent(&who.user),
            percent(&who.password),
            toml(&who.user),
            toml(&who.password),
        );
        let file = Some(private(directory.path(), "imaptrace.toml", &text).into());
        let config = config::load(&Sources { file, ..Sources::default() }).unwrap();
        leaks.look("debug forms", format!("{config:?}\n{config:#?}"));
        leaks.look("the plan of check", config::describe(&config));
    }
    leaks.end();
}
