//! Where a command's time went, shown by causes that the test puts in: a scripted server that pauses, at each place where
//! a server can, and one that waits for our acknowledgement. Causes on the line are tests/real/attribution.rs's.
//!
//! A noisy machine adds time to every part: each cause is large beside what noise there is, and what is asserted is where
//! it went.

use imaptrace::{
    demo::{Delays, DemoServer, DemoSettings},
    plan::{Security, Target},
};
use imaptrace_imap::CommandName;
use imaptrace_record::{Run, RunOutcome, Seconds, Step};

use crate::support::{
    parts::{Parts as _, add_up, command, commands, details, median, ms},
    program::Program,
    run::{account, run, target},
    script::{Pem, Script},
};

const PAUSE: u64 = 300;

/// A whole conversation, of which each part can be replaced.
const PARTS: [(&str, &str); 6] = [
    ("greeting", "S: * OK [CAPABILITY IMAP4rev1] hi"),
    ("LOGIN", "C: LOGIN\nS: {tag} OK [CAPABILITY IMAP4rev1] in"),
    ("LIST", "C: LIST\nS: * LIST () \"/\" INBOX\nS: {tag} OK"),
    ("SELECT", "C: SELECT\nS: * 30 EXISTS\nS: {tag} OK"),
    ("FETCH", "C: FETCH\nS: * 29 FETCH (UID 2)\nS: * 30 FETCH (UID 3)\nS: {tag} OK"),
    ("LOGOUT", "C: LOGOUT\nS: * BYE\nS: {tag} OK"),
];

fn script(changes: &[(&str, &str)]) -> String {
    let part = |(name, usual)| changes.iter().find(|(changed, _)| *changed == name).map_or(usual, |(_, new)| *new);
    PARTS.map(part).join("\n")
}

async fn against(script: &str, security: Security, change: impl FnOnce(&mut Target)) -> Run {
    let pem = Pem::self_signed(&["127.0.0.1"], 2020, 2040);
    let script = if security == Security::Tls { format!("tls\n{script}") } else { script.to_owned() };
    let server = Script::play_with(&script, &pem).await;
    let mut target = target(server.address, security);
    let ca = pem.ca_file();
    target.tls.ca_file = (security == Security::Tls).then(|| ca.path().to_owned());
    change(&mut target);
    let run = run(target).await;
    let heard = server.heard().await;
    assert_eq!(run.outcome, RunOutcome::Passed, "{:?}\n{heard:?}", run.failing_step());
    add_up(&run);
    run
}

/// Where a server can pause: the place, the command, what the server says for it, and its greeting where that is another.
fn pauses() -> [(&'static str, &'static str, String, Option<&'static str>); 9] {
    let rows = ["S: * 29 FETCH (UID 2)", "S: * 30 FETCH (UID 3)", "S: {tag} OK"];
    let [first, second, tagged] = rows;
    let third = PAUSE / 3;
    let logged_in = "S: {tag} OK [CAPABILITY IMAP4rev1] in";
    let sasl = Some("S: * OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] hi");
    let pause = format!("pause {PAUSE}");
    [
        ("before a lone tagged line", "LOGIN", format!("C: LOGIN\n{pause}\n{logged_in}"), None),
        ("before the first row", "FETCH", format!("C: FETCH\n{pause}\n{first}\n{second}\n{tagged}"), None),
        ("between rows", "FETCH", format!("C: FETCH\n{first}\n{pause}\n{second}\n{tagged}"), None),
        ("inside a row", "FETCH", format!("C: FETCH\ns: * 29 FETCH (UI\n{pause}\nS: D 2)\n{second}\n{tagged}"), None),
        ("before the tagged line", "SELECT", format!("C: SELECT\nS: * 30 EXISTS\n{pause}\n{tagged}"), None),
        (
            "in three places",
            "FETCH",
            format!("C: FETCH\npause {third}\n{first}\npause {third}\n{second}\npause {third}\n{tagged}"),
            None,
        ),
        ("before a +", "AUTHENTICATE", format!("C: AUTHENTICATE\n{pause}\nS: + \nc: 22\n{logged_in}"), sasl),
        (
            "after the + of AUTHENTICATE",
            "AUTHENTICATE",
            format!("C: AUTHENTICATE\nS: + \nc: 22\n{pause}\n{logged_in}"),
            sasl,
        ),
        // The password's ten bytes as a literal, and CRLF.
        ("after the + of LOGIN", "LOGIN", format!("C: {{10}}\nS: + \nc: 12\n{pause}\n{logged_in}"), None),
    ]
}

#[tokio::test]
async fn a_pause_of_the_server_is_the_servers_time_wherever_it_comes() {
    for (place, step, part, greeting) in pauses() {
        let changed = if step == "AUTHENTICATE" { "LOGIN" } else { step };
        let script = script(&[(changed, &part), ("greeting", greeting.unwrap_or(PARTS[0].1))]);
        for security in [Security::None, Security::Tls] {
            let run = against(&script, security, |target| {
                if place.ends_with("of LOGIN") {
                    target.accounts = vec![account("someone", "pässwörd")];
                }
            })
            .await;
            let details = format!("{place}, {security:?}: {}", details(&run));
            let [server, network, transfer] = command(&run, step).parts();
            assert!(server >= ms(PAUSE * 9 / 10), "{details}");
            assert!(network.saturating_add(transfer) < ms(PAUSE / 3), "{details}");
            for other in commands(&run).filter(|other| other.name != step) {
                assert!(other.parts()[0] < ms(PAUSE / 2), "{details}");
            }
        }
    }
}

/// A handshake and a greeting, as the server has them, after which all is quick.
async fn after(setup: &str) -> Run {
    let pem = Pem::self_signed(&["127.0.0.1"], 2020, 2040);
    let server = Script::play_with(&[setup, &script(&[])].join("\n"), &pem).await;
    let mut target = target(server.address, Security::Tls);
    let ca = pem.ca_file();
    target.tls.ca_file = Some(ca.path().to_owned());
    let run = run(target).await;
    drop(server.heard().await);
    assert_eq!(run.outcome, RunOutcome::Passed, "{:?}", run.failing_step());
    run
}

#[tokio::test]
async fn a_pause_in_the_handshake_or_before_the_greeting_is_the_servers_and_shows_in_its_step() {
    let pause = format!("pause {PAUSE}");
    for version in ["tls", "tls 1.3"] {
        for (setup, paused) in [(format!("{pause}\n{version}"), "tls"), (format!("{version}\n{pause}"), "greeting")] {
            let run = after(&setup).await;
            let step = |name: &str| run.steps.iter().find(|step| step.name == name).unwrap();
            let (tls, greeting) = (step("tls"), step("greeting"));
            for step in [tls, greeting] {
                let sum = step.parts().into_iter().fold(Seconds::ZERO, Seconds::saturating_add);
                assert_eq!(sum, step.duration_s, "{step:?}");
                let [server, network, _] = step.parts();
                assert_eq!(server >= ms(PAUSE * 9 / 10), step.name == paused, "{setup}: {step:?}");
                assert!(network < ms(PAUSE / 3), "{setup}: {step:?}");
            }
            let facts = tls.tls.as_ref().unwrap();
            let hello = facts.server_hello_s.unwrap();
            assert_eq!(hello >= ms(PAUSE * 9 / 10), paused == "tls", "{setup}: {tls:?}");
            assert!(hello > Seconds::ZERO && hello < tls.duration_s, "{tls:?}");
            assert_eq!(facts.key.as_deref(), Some("EC 256"));
            let connect = step("connect");
            assert!(connect.network_s > Some(Seconds::ZERO) && connect.network_s <= Some(connect.duration_s));
            assert_eq!((connect.server_s, connect.transfer_s), (None, None));
        }
    }
}

#[tokio::test]
async fn the_protocol_that_alpn_chose_is_known_where_the_server_chose_one_in_clear_text() {
    for (setup, version, alpn) in [("tls alpn", "1.2", Some("imap")), ("tls", "1.2", None), ("tls 1.3", "1.3", None)] {
        let run = after(setup).await;
        let facts = run.steps.iter().find_map(|step| step.tls.as_ref()).unwrap();
        assert_eq!((facts.version.as_deref(), facts.alpn.as_deref()), (Some(version), alpn), "{setup}");
    }
}

// What is only so on Linux: that acknowledgements can be asked for, and how long they are held back else.

/// Three answers in two writes, of which the second waits for our acknowledgement of the first.
#[cfg(target_os = "linux")]
const NAGLE: [(&str, &str); 3] = [
    ("LIST", "nagle\nC: LIST\nS: * LIST () \"/\" INBOX\nS: {tag} OK"),
    ("SELECT", "C: SELECT\nS: * 30 EXISTS\nS: {tag} OK"),
    ("FETCH", "C: FETCH\nS: * 30 FETCH (UID 3)\nS: {tag} OK"),
];

#[cfg(target_os = "linux")]
async fn median_against_nagle(security: Security, quickack: bool) -> Seconds {
    let mut durations = Vec::new();
    for _ in 0..7 {
        let run = against(&script(&NAGLE), security, |target| target.timing.quickack = quickack).await;
        assert_eq!(run.server.quickack, Some(quickack));
        durations.extend(NAGLE.map(|(step, _)| command(&run, step).duration_s));
    }
    median(durations)
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_server_that_waits_for_our_acknowledgement_does_not_wait_forty_milliseconds() {
    for security in [Security::None, Security::Tls] {
        let held_back = median_against_nagle(security, false).await;
        assert!(held_back > ms(35), "{security:?}: this server shows nothing: {held_back:?}");
        let at_once = median_against_nagle(security, true).await;
        assert!(at_once < ms(30), "{security:?}: {at_once:?}");
    }
}

/// Probes the built-in server so many times, as `imaptrace probe` does.
async fn on_loopback(tls: bool, count: &str, settings: DemoSettings) -> Vec<Run> {
    let server = DemoServer::start(DemoSettings { tls, ..settings }).await.unwrap();
    // The server's own file may be one that only this process can open.
    let copy = tempfile::NamedTempFile::new().unwrap();
    std::fs::copy(server.ca_file(), copy.path()).unwrap();
    let (address, ca) = (server.address(), copy.path().display().to_string());
    let url = format!("{}://demo@{address}", if tls { "imaps" } else { "imap" });
    let security = if tls { "tls" } else { "none" };
    // With PLAIN: nothing is hashed, for which a busy machine might have no processor.
    let fixed = ["probe", &url, "--security", security, "--ca-file", &ca, "--auth", "plain", "--output", "json"];
    let program = Program::new(fixed.iter().chain(&["--count", count, "--every", "0"]));
    let output = program.env("IMAPTRACE_PASSWORD", "demo").run().await;
    assert_eq!(output.code, Some(0), "{output:?}");
    output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_eighty_runs_on_loopback_none_bears_a_doubt_without_a_cause_that_is_large_enough() {
    for tls in [false, true] {
        let runs = on_loopback(tls, "40", DemoSettings { delays: Delays::NONE, ..DemoSettings::default() }).await;
        assert_eq!(runs.len(), 40);
        for run in &runs {
            let lost = |step: &Step| step.retransmits.is_some() || step.out_of_order.is_some();
            for step in &run.steps {
                assert_eq!(step.uncertain.is_some(), step.uncertainty_s.is_some(), "{step:?}");
                // A round trip on loopback is too short for anything else to matter.
                assert!(step.uncertain.is_none() || (lost(step) && step.name != CommandName::Logout), "{step:?}");
            }
            // A busy machine makes pauses between the steps, by which alone First Loading Latency is uncertain here.
            let (latency, agent) = (run.first_loading_latency_s.unwrap(), run.agent_s.unwrap());
            let paused = latency.is_uncertain_by(agent).then_some(agent);
            if !run.steps.iter().any(lost) {
                assert_eq!((run.uncertain, run.uncertainty_s), (paused.map(|_| true), paused), "{run:?}");
            }
        }
    }
}
