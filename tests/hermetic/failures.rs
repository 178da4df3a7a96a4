//! When things go wrong: each ends in a record with the right class, the step that failed, and the server's words.
//!
//! Here is what needs more than one script: steps in a loop, names, certificates, two connections. What a server does and no
//! more is a file in `tests/scenarios`.

use std::time::Duration;

use imaptrace::{
    plan::{Auth, Dns, Limits, Mailbox, Propagation, Security, Target, TlsOptions},
    secret::SecretSource,
};
use imaptrace_imap::{Condition, ResponseCode, Secret};
use imaptrace_record::{CloseNotify, ErrorType, Run, RunOutcome, StepName};

use crate::support::{
    run::{hasty, prepare, run, run_prepared, run_with, steps, target},
    script::{Pem, Script},
};

/// A whole good conversation up to a point, and what the server does then.
const LOGIN: &str = "S: * OK [CAPABILITY IMAP4rev1 LITERAL+] hi
C: LOGIN
";
const LIST: &str = "S: {tag} OK [CAPABILITY IMAP4rev1] in
C: LIST
";
const SELECT: &str = "S: * LIST () \"/\" INBOX
S: {tag} OK
C: SELECT
";
const FETCH: &str = "S: * 30 EXISTS
S: {tag} OK
C: FETCH 11:30
";
const LOGOUT: &str = "S: * 30 FETCH (UID 3)
S: {tag} OK
C: LOGOUT
";
const BYE: &str = "S: * BYE
S: {tag} OK
";

/// The conversation up to and including the `C:` of this step.
fn up_to(step: &str) -> String {
    let mut script = String::new();
    for (name, part) in [("LOGIN", LOGIN), ("LIST", LIST), ("SELECT", SELECT), ("FETCH", FETCH), ("LOGOUT", LOGOUT)] {
        script += part;
        if name == step {
            return script;
        }
    }
    panic!("no step {step}")
}

async fn against(script: &str) -> (Run, Vec<String>) {
    against_changed(script, |_| {}).await
}

async fn against_changed(script: &str, change: impl FnOnce(&mut Target)) -> (Run, Vec<String>) {
    let server = Script::play(script).await;
    let mut target = target(server.address, Security::None);
    change(&mut target);
    let run = run(target).await;
    (run, server.heard().await)
}

fn failed(run: &Run) -> (Option<ErrorType>, Option<&str>) {
    assert_eq!(
        run.error_type,
        run.failing_step().and_then(|step| step.error_type),
        "the step and the run say the same"
    );
    (run.error_type, run.failed_step.as_ref().map(StepName::as_str))
}

#[tokio::test]
async fn a_good_run_passes_and_its_tags_are_its_span_ids() {
    let (run, heard) = against(&(up_to("LOGOUT") + BYE)).await;
    assert_eq!(steps(&run), "connect greeting LOGIN LIST SELECT FETCH LOGOUT");
    assert_eq!((run.outcome, run.error_type), (RunOutcome::Passed, None));
    let tags: Vec<_> = heard.iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    let ids: Vec<_> = run.steps.iter().skip(2).map(|step| step.span_id.unwrap().to_string()).collect();
    assert_eq!(tags, ids);
    let fetch = run.steps.iter().find(|step| step.name == "FETCH").unwrap();
    assert_eq!((fetch.messages, fetch.mailbox.as_deref()), (Some(1), Some("INBOX")));
    assert_eq!(fetch.sent_bytes, Some(heard[3].len() as u64 + 2));
    assert_eq!(fetch.received_bytes, Some("* 30 FETCH (UID 3)\r\n".len() as u64 + 16 + 5));
    assert_eq!(run.first_loading_latency_s, Some(fetch.end_s()));
    assert!(run.first_row_s.unwrap() <= fetch.end_s() && run.duration_s > fetch.end_s());
    let plain: u64 = run.steps.iter().filter_map(|step| step.received_bytes).sum();
    assert_eq!(run.wire_received_bytes, plain, "the steps add up to the connection");
    assert_eq!(run.wire_sent_bytes, run.steps.iter().filter_map(|step| step.sent_bytes).sum::<u64>());
}

#[tokio::test]
async fn no_and_bad_to_each_command_fail_it_and_logout_follows() {
    for step in ["LOGIN", "LIST", "SELECT", "FETCH"] {
        for (answer, class) in
            [("NO", if step == "LOGIN" { ErrorType::AuthFailed } else { ErrorType::No }), ("BAD", ErrorType::Bad)]
        {
            let (run, _) = against(&format!("{}S: {{tag}} {answer} because\nC: LOGOUT\n{BYE}", up_to(step))).await;
            assert_eq!(failed(&run), (Some(class), Some(step)), "{answer} to {step}");
            assert_eq!(run.outcome, RunOutcome::Failed);
            let entry = run.failing_step().unwrap();
            assert_eq!(
                (entry.status.map(Condition::as_str), entry.text.as_ref().map(imaptrace_record::ServerText::as_str)),
                (Some(answer), Some("because"))
            );
            assert!(steps(&run).ends_with("LOGOUT"), "{}", steps(&run));
            assert_eq!(run.first_loading_latency_s, None);
        }
    }
}

#[tokio::test]
async fn a_refused_mailbox_name_is_suggested_with_the_separator_that_the_server_disclosed() {
    let up_to = |list: &str| {
        format!(
            "S: * OK [CAPABILITY IMAP4rev1 NAMESPACE LITERAL+] hi\nC: LOGIN\nS: {{tag}} OK [CAPABILITY IMAP4rev1 NAMESPACE] in\n\
             C: NAMESPACE\n{list}S: {{tag}} OK\nC: SELECT\n"
        )
    };
    let slash = "S: * NAMESPACE ((\"\" \"/\")) NIL NIL\nS: {tag} OK\nC: LIST\nS: * LIST () \".\" INBOX\n";
    let below = "S: * NAMESPACE ((\"INBOX.\" \".\")) NIL NIL\nS: {tag} OK\nC: LIST\nS: * LIST () \".\" INBOX\n";
    let listed = "S: {tag} NO not here\n";
    for (list, mailbox, answer, suggested, separator) in [
        (slash, "Archive.2024", "NO Mailbox does not exist", Some("Archive/2024"), Some("/")),
        (slash, "Archive.2024", "NO [NONEXISTENT] Unknown", Some("Archive/2024"), Some("/")),
        (slash, "Archive.2024", "NO [CANNOT] Invalid mailbox name", Some("Archive/2024"), Some("/")),
        (slash, "Archive.2024", "NO [SERVERBUG] Internal error", None, None),
        (slash, "Archive.2024", "NO [NOPERM] Not yours", None, None),
        (slash, "Archive/2024", "NO Mailbox does not exist", None, None),
        (slash, "Entw&APw-rfe", "NO Mailbox does not exist", Some("Entwürfe"), None),
        (below, "Archive/2024", "NO Mailbox does not exist", Some("INBOX.Archive.2024"), Some(".")),
        (below, "Sent", "NO Mailbox does not exist", Some("INBOX.Sent"), Some(".")),
        (below, "INBOX", "NO Mailbox does not exist", None, None),
    ] {
        let script = format!("{}S: {{tag}} {answer}\nC: LOGOUT\n{BYE}", up_to(list));
        let (run, _) = against_changed(&script, |target| target.journey.mailbox = Mailbox::new(mailbox).unwrap()).await;
        assert_eq!(failed(&run), (Some(ErrorType::No), Some("SELECT")), "{mailbox}");
        assert_eq!(run.suggested_mailbox.as_deref(), suggested, "{mailbox}: {answer}");
        let details = run.server.hierarchy_separator.as_ref().map(imaptrace_record::ServerText::as_str);
        assert_eq!(details, separator, "{mailbox}: {answer}");
    }
    let (run, _) = against(&format!("{}{listed}C: LOGOUT\n{BYE}", up_to("").replace("C: SELECT\n", ""))).await;
    assert_eq!((run.suggested_mailbox, run.server.hierarchy_separator), (None, None), "NAMESPACE was refused");
}

#[tokio::test]
async fn bye_close_silence_and_reset_in_each_command() {
    for step in ["LOGIN", "LIST", "SELECT", "FETCH"] {
        for (act, class) in [
            ("S: * BYE going", ErrorType::Bye),
            ("close", ErrorType::Eof),
            ("silence", ErrorType::TimeoutCommand),
            ("reset", ErrorType::Reset),
        ] {
            let (run, _) =
                against_changed(&format!("{}{act}\n", up_to(step)), |target| target.deadlines = hasty()).await;
            assert_eq!(failed(&run), (Some(class), Some(step)), "{act} in {step}");
            assert!(steps(&run).ends_with("LOGOUT-"), "{}", steps(&run));
        }
    }
}

#[tokio::test]
async fn bye_and_then_the_end_is_bye() {
    let (run, _) = against(&format!("{}S: * BYE [UNAVAILABLE] going\nreset\n", up_to("LIST"))).await;
    assert_eq!(failed(&run), (Some(ErrorType::Bye), Some("LIST")));
    assert_eq!(run.failing_step().unwrap().code.map(ResponseCode::as_str), Some("UNAVAILABLE"));
}

#[tokio::test]
async fn a_logout_that_goes_wrong_fails_only_itself() {
    for (act, class) in [("close", "eof"), ("silence", "timeout_command"), ("S: {tag} NO", "no")] {
        let (run, _) =
            against_changed(&format!("{}{act}\n", up_to("LOGOUT")), |target| target.deadlines = hasty()).await;
        assert_eq!(run.outcome, RunOutcome::Passed);
        assert!(steps(&run).ends_with(&format!("LOGOUT!{class}")), "{}", steps(&run));
    }
}

#[tokio::test]
async fn login_is_never_sent_when_it_is_disabled() {
    let (run, heard) = against(&format!("S: * OK [CAPABILITY IMAP4rev1 LOGINDISABLED] hi\nC: LOGOUT\n{BYE}")).await;
    assert_eq!(failed(&run), (Some(ErrorType::AuthMechanism), Some("LOGIN")));
    assert_eq!(run.failing_step().unwrap().duration_s.as_micros(), 0);
    assert_eq!(heard.len(), 1, "{heard:?}");
    let (run, _) = against_changed(&format!("S: * OK [CAPABILITY IMAP4rev1] hi\nC: LOGOUT\n{BYE}"), |target| {
        target.journey.auth = Auth::Plain;
    })
    .await;
    assert_eq!(failed(&run), (Some(ErrorType::AuthMechanism), Some("AUTHENTICATE")));
}

#[tokio::test]
async fn starttls_works_and_what_was_said_before_it_is_void() {
    let pem = Pem::self_signed(&["127.0.0.1"], 2020, 2040);
    let script = format!(
        "S: * OK [CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED LITERAL+] hi\nC: STARTTLS\nS: {{tag}} OK go\ntls\nC: CAPABILITY\n\
         S: * CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR\nS: {{tag}} OK\nC: AUTHENTICATE PLAIN AHNvbWVvbmUAc2VjcmV0\n{LIST}{SELECT}{FETCH}{LOGOUT}{BYE}"
    );
    let server = Script::play_with(&script, &pem).await;
    let mut target = target(server.address, Security::StartTls);
    let ca = pem.ca_file();
    target.tls.ca_file = Some(ca.path().to_owned());
    let run = run(target).await;
    assert_eq!(
        steps(&run),
        "connect greeting STARTTLS tls CAPABILITY AUTHENTICATE LIST SELECT FETCH LOGOUT",
        "{:?}",
        run.error_type
    );
    let tls = run.steps[3].tls.as_ref().unwrap();
    assert_eq!(
        (tls.version.as_deref(), tls.cipher.as_deref()),
        (Some("1.2"), Some("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"))
    );
    assert!(tls.not_after.is_some() && tls.sha256.as_ref().unwrap().len() == 64);
    assert_eq!(run.server.tls_version.as_deref(), Some("1.2"));
}

#[tokio::test]
async fn certificates_that_are_wrong() {
    for (pem, trusted, class) in [
        (Pem::self_signed(&["127.0.0.1"], 2020, 2040), false, ErrorType::TlsCertUntrusted),
        (Pem::self_signed(&["127.0.0.1"], 2020, 2021), true, ErrorType::TlsCertExpired),
        (Pem::self_signed(&["127.0.0.1"], 2039, 2040), true, ErrorType::TlsCertNotYetValid),
        (Pem::self_signed(&["other.example"], 2020, 2040), true, ErrorType::TlsCertName),
    ] {
        let server = Script::play_with("tls\nS: * OK hi\nsilence", &pem).await;
        let mut target = target(server.address, Security::Tls);
        let ca = pem.ca_file();
        target.tls.ca_file = trusted.then(|| ca.path().to_owned());
        let run = run(target).await;
        assert_eq!(failed(&run), (Some(class), Some("tls")), "{:?}", run.failing_step());
        assert_eq!(run.steps.last().map(|step| step.name.as_str()), Some("LOGOUT"));
    }
}

#[tokio::test]
async fn an_insecure_run_passes_and_says_so_and_a_server_name_is_checked_in_place_of_the_host() {
    let pem = Pem::self_signed(&["mail.example"], 2020, 2040);
    let script = format!("tls\n{}{BYE}", up_to("LOGOUT"));
    let ca = pem.ca_file();
    for (options, verified) in [
        (TlsOptions { insecure: true, ..TlsOptions::default() }, imaptrace_record::Verified::Insecure),
        (
            TlsOptions {
                ca_file: Some(ca.path().to_owned()),
                server_name: Some("mail.example".into()),
                ..TlsOptions::default()
            },
            imaptrace_record::Verified::Yes,
        ),
    ] {
        let server = Script::play_with(&script, &pem).await;
        let mut target = target(server.address, Security::Tls);
        target.tls = options;
        let run = run(target).await;
        assert_eq!(run.outcome, RunOutcome::Passed, "{:?}", run.failing_step());
        assert_eq!(run.steps[1].tls.as_ref().unwrap().verified, verified);
    }
}

#[tokio::test]
async fn tls_to_a_port_that_speaks_clear_text_and_the_reverse() {
    let server = Script::play("S: * OK Dovecot ready\nsilence").await;
    let run_ = run(target(server.address, Security::Tls)).await;
    assert_eq!(failed(&run_), (Some(ErrorType::TlsProtocol), Some("tls")));
    assert!(run_.failing_step().unwrap().text.as_ref().unwrap().as_str().contains("* OK Dovecot"), "{run_:?}");
    let pem = Pem::self_signed(&["127.0.0.1"], 2020, 2040);
    let server = Script::play_with("tls\nS: * OK hi\nsilence", &pem).await;
    let mut clear = target(server.address, Security::None);
    clear.deadlines = hasty();
    assert_eq!(failed(&run(clear).await), (Some(ErrorType::TimeoutGreeting), Some("greeting")));
}

#[tokio::test]
async fn the_end_of_a_tls_connection_tells_whether_it_was_meant() {
    let pem = Pem::self_signed(&["127.0.0.1"], 2020, 2040);
    let ca = pem.ca_file();
    for (act, notify) in [("", CloseNotify::True), ("close", CloseNotify::False)] {
        let server = Script::play_with(&format!("tls\n{}{act}", up_to("LIST")), &pem).await;
        let mut target = target(server.address, Security::Tls);
        target.tls.ca_file = Some(ca.path().to_owned());
        let run = run(target).await;
        assert_eq!(failed(&run), (Some(ErrorType::Eof), Some("LIST")), "{act:?}");
        assert_eq!(run.failing_step().unwrap().close_notify, Some(notify), "{act:?}");
    }
}

#[tokio::test]
async fn refused_ports_and_unknown_hosts() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let run_ = run(target(closed, Security::Tls)).await;
    assert_eq!(failed(&run_), (Some(ErrorType::ConnectRefused), Some("connect")));
    assert_eq!(steps(&run_), "connect!connect_refused");
    for (code, class) in [
        (3, ErrorType::DnsNxdomain),
        (0, ErrorType::DnsNodata),
        (2, ErrorType::DnsServfail),
        (99, ErrorType::TimeoutResolve),
    ] {
        let name_server = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let servers = vec![name_server.local_addr().unwrap()];
        let answering = tokio::spawn(async move {
            let mut buffer = [0u8; 512];
            while let Ok((length, peer)) = name_server.recv_from(&mut buffer).await {
                // The question comes back with this RCODE (RFC 1035 §4.1.1) and nothing else; 99 is no answer at all.
                if code == 99 {
                    continue;
                }
                let question_end = 12 + buffer[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
                let mut answer = buffer[..question_end.min(length)].to_vec();
                (answer[2], answer[3]) = (0x81, 0x80 | code);
                answer[6..12].fill(0);
                name_server.send_to(&answer, peer).await.unwrap();
            }
        });
        let mut unknown = target(closed, Security::Tls);
        unknown.endpoint.host = imaptrace::plan::Host::parse("mail.example.test").unwrap();
        unknown.deadlines.resolve = Duration::from_millis(800);
        // What is said of a name is ours: a password that is a word of it is neither cut out nor given away by that.
        unknown.accounts[0].password = SecretSource::Given(Secret::new("exist".to_owned()));
        let (_keep, cancel) = tokio::sync::watch::channel(false);
        let run = run_with(&prepare(unknown), Dns { servers, ..Dns::default() }, cancel).await;
        answering.abort();
        assert_eq!(failed(&run), (Some(class), Some("resolve")), "{run:?}");
        let text = run.failing_step().unwrap().text.as_ref().unwrap().as_str();
        assert!(!text.contains("redacted") && text.contains("exist") == (code == 3), "{text}");
    }
}

#[tokio::test]
async fn a_greeting_that_comes_with_the_connection_counts_as_a_step_that_began() {
    let (mut run, _) = against("S: * BYE full\n").await;
    let greeting = run.steps.iter_mut().find(|step| step.name == "greeting").unwrap();
    greeting.duration_s = imaptrace_record::Seconds::ZERO;
    assert!(greeting.was_started() && greeting.received_bytes == Some(12), "{greeting:?}");
}

#[tokio::test]
async fn id_is_a_courtesy() {
    let greeting = "S: * OK [CAPABILITY IMAP4rev1 ID] hi\nC: ID (\"name\" \"imaptrace\"\n";
    let rest = format!("C: LOGIN\n{LIST}{SELECT}{FETCH}{LOGOUT}{BYE}");
    for answer in ["S: {tag} NO what", "S: {tag} BAD what", "S: * ID NIL\nS: {tag} OK"] {
        let (run, _) = against(&format!("{greeting}{answer}\n{rest}")).await;
        assert_eq!(steps(&run), "connect greeting ID LOGIN LIST SELECT FETCH LOGOUT", "{answer}");
    }
    let (run, _) = against(&format!(
        "{greeting}S: * ID (\"name\" \"Dov\\x1becot\" \"version\" {{3}}\ns: 2.3)\\r\\n\nS: {{tag}} OK\n{rest}"
    ))
    .await;
    assert_eq!(run.server.id_name.as_ref().map(imaptrace_record::ServerText::as_str), Some("Dov\\x1becot"));
    assert_eq!(run.server.id_version.as_ref().map(imaptrace_record::ServerText::as_str), Some("2.3"));
    for act in ["S: * BYE no id please", "close"] {
        let server = Script::play(&format!("{greeting}{act}\nnext\nS: * OK [CAPABILITY IMAP4rev1 ID] hi\n{rest}\nnext\nS: * OK [CAPABILITY IMAP4rev1 ID] hi\n{rest}")).await;
        let prepared = prepare(target(server.address, Security::None));
        let run = run_prepared(&prepared).await;
        assert_eq!(run.outcome, RunOutcome::Passed);
        let class = if act == "close" { "eof" } else { "bye" };
        assert_eq!(steps(&run), format!("connect greeting ID!{class} connect greeting LOGIN LIST SELECT FETCH LOGOUT"));
        assert_eq!(run.steps.iter().map(|step| step.connection).collect::<Vec<_>>()[2..5], [None, Some(2), Some(2)]);
        let second = &run.steps[3];
        let fetch = run.steps.iter().find(|step| step.name == "FETCH").unwrap();
        let latency = run.first_loading_latency_s.unwrap();
        assert!(
            latency < fetch.end_s() && latency >= fetch.end_s().saturating_sub(second.start_s),
            "counts from the second connect"
        );
        let again = run_prepared(&prepared).await;
        assert_eq!(steps(&again), "connect greeting LOGIN LIST SELECT FETCH LOGOUT", "remembered for the target");
    }
}

#[tokio::test]
async fn id_follows_the_login_where_it_is_advertised_no_earlier_and_is_never_sent_twice() {
    let rest = format!("C: LIST\n{SELECT}{FETCH}{LOGOUT}{BYE}");
    let id = "C: ID (\"name\" \"imaptrace\"\nS: * ID (\"name\" \"Late\")\nS: {tag} OK\n";
    let login = "C: LOGIN\nS: {tag} OK [CAPABILITY IMAP4rev1 ID] in\n";
    let (run, heard) = against(&format!("S: * OK [CAPABILITY IMAP4rev1] hi\n{login}{id}{rest}")).await;
    assert_eq!(steps(&run), "connect greeting LOGIN ID LIST SELECT FETCH LOGOUT", "{heard:?}");
    assert_eq!(run.server.id_name.as_ref().map(imaptrace_record::ServerText::as_str), Some("Late"));
    for answer in ["S: {tag} OK", "S: {tag} NO not yet"] {
        let first = format!("S: * OK [CAPABILITY IMAP4rev1 ID] hi\nC: ID\n{answer}\n");
        let (run, heard) = against(&format!("{first}{login}{rest}")).await;
        assert_eq!(steps(&run), "connect greeting ID LOGIN LIST SELECT FETCH LOGOUT", "{heard:?}");
    }
    // A server that hangs up over it is asked again without, from the connection on.
    let both = format!(
        "S: * OK [CAPABILITY IMAP4rev1] hi\n{login}C: ID\nclose\nnext\nS: * OK [CAPABILITY IMAP4rev1] hi\n{login}{rest}"
    );
    let (run, heard) = against(&both).await;
    assert_eq!(
        steps(&run),
        "connect greeting LOGIN ID!eof connect greeting LOGIN LIST SELECT FETCH LOGOUT",
        "{heard:?}"
    );
}

#[tokio::test]
async fn the_name_of_the_session_goes_with_the_first_id_before_the_login_and_with_no_other() {
    let rest = format!("C: LIST\n{SELECT}{FETCH}{LOGOUT}{BYE}");
    let login = "C: LOGIN\nS: {tag} OK [CAPABILITY IMAP4rev1 ID] in\n";
    let id = "C: ID (\"\nS: * ID NIL\nS: {tag} OK\n";
    let (before, after) = ("S: * OK [CAPABILITY IMAP4rev1 ID] hi\n", "S: * OK [CAPABILITY IMAP4rev1] hi\n");
    let no_id = login.replace(" ID]", "]");
    for (script, propagate, sent, named) in [
        (format!("{before}{id}{login}{rest}"), Propagation::SessionId, 1, true),
        (format!("{before}{id}{login}{rest}"), Propagation::Off, 1, false),
        // It would be of no use, and with PREAUTH the login is over, too.
        (format!("{after}{login}{id}{rest}"), Propagation::SessionId, 1, false),
        (format!("S: * PREAUTH [CAPABILITY IMAP4rev1 ID] hi\n{id}{rest}"), Propagation::SessionId, 1, false),
        (format!("{after}{no_id}{rest}"), Propagation::SessionId, 0, false),
    ] {
        let (run, heard) = against_changed(&script, |target| target.journey.propagate = propagate).await;
        assert_eq!(run.outcome, RunOutcome::Passed, "{heard:?}");
        let ids: Vec<_> = heard.iter().filter(|line| line.contains(" ID (")).collect();
        assert_eq!(ids.len(), sent, "{heard:?}");
        let session = format!(" ID (\"x-session-id\" \"{}\" \"name\" \"imaptrace\" \"version\" ", run.trace_id);
        let is_named = ids.iter().any(|line| line.contains(&session));
        assert_eq!((is_named, format!("{heard:?}").contains("session")), (named, named), "{heard:?}");
        assert!(run.first_loading_latency_s.is_some());
    }
}

#[tokio::test]
async fn a_greeting_that_refuses_keeps_its_words_and_is_advised_as_a_refusal() {
    for (script, class, status, code, words) in [
        (
            "S: * NO Too many connections from your address",
            ErrorType::ProtocolGreeting,
            "NO",
            None,
            "Too many connections from your address",
        ),
        ("S: * BAD [UNAVAILABLE] later", ErrorType::ProtocolGreeting, "BAD", Some("UNAVAILABLE"), "later"),
        (
            "S:  NO LOGOUT Intrusion prevention active",
            ErrorType::ProtocolGreeting,
            "NO",
            None,
            "LOGOUT Intrusion prevention active",
        ),
        ("S: BYE too many", ErrorType::ProtocolGreeting, "BYE", None, "too many"),
        ("s: * BYE too many\nclose", ErrorType::Eof, "BYE", None, "too many"),
        ("s: NO too many\nclose", ErrorType::ProtocolGreeting, "NO", None, "too many"),
        ("S: * BYE too many", ErrorType::GreetingBye, "BYE", None, "too many"),
    ] {
        let (run, _) = against(&format!("{script}\nsilence\n")).await;
        let step = run.failing_step().unwrap();
        let text = step.text.as_ref().map(imaptrace_record::ServerText::as_str);
        assert_eq!((run.error_type, text), (Some(class), Some(words)), "{script}");
        assert_eq!(
            (step.status.map(Condition::as_str), step.code.map(ResponseCode::as_str)),
            (Some(status), code),
            "{script}"
        );
        let style = imaptrace::terminal::Style { width: 80, colour: false, ascii: true };
        let line = imaptrace::terminal::failure(&run, style).unwrap();
        assert!(line.contains("turns connections away") && !line.contains("is it an IMAP server"), "{line}");
    }
}

#[tokio::test]
async fn a_server_that_offers_oauth_only_is_on_record_as_one_when_the_login_fails() {
    let end = format!("C: LOGOUT\n{BYE}");
    for (offers, login, only) in [
        ("AUTH=XOAUTH2 LOGINDISABLED", "", Some(true)),
        ("AUTH=OAUTHBEARER AUTH=XOAUTH2 LOGINDISABLED", "", Some(true)),
        ("AUTH=LOGIN AUTH=XOAUTH2 LOGINDISABLED", "", None),
        ("LOGINDISABLED", "", None),
        ("AUTH=XOAUTH2", "C: LOGIN\nS: {tag} NO LOGIN failed.\n", Some(true)),
        ("AUTH=XOAUTH2", "C: LOGIN\nS: {tag} NO [UNAVAILABLE] later\n", None),
        ("", "C: LOGIN\nS: {tag} NO LOGIN failed.\n", None),
    ] {
        let (run, heard) = against(&format!("S: * OK [CAPABILITY IMAP4rev1 {offers}] hi\n{login}{end}")).await;
        assert_eq!(run.server.oauth_only, only, "{offers}: {heard:?}");
    }
}

#[tokio::test]
async fn an_empty_mailbox_skips_fetch_and_loads_with_select() {
    let script = format!("{}S: * 0 EXISTS\nS: {{tag}} OK\nC: LOGOUT\n{BYE}", up_to("SELECT"));
    let (run, _) = against(&script).await;
    assert_eq!(steps(&run), "connect greeting LOGIN LIST SELECT FETCH- LOGOUT");
    let select = run.steps.iter().find(|step| step.name == "SELECT").unwrap();
    assert_eq!(
        (run.first_loading_latency_s, run.first_row_s, select.mailbox_messages),
        (Some(select.end_s()), None, Some(0))
    );
}

#[tokio::test]
async fn referrals_in_an_ok_pass_and_are_recorded() {
    let script = format!(
        "{LOGIN}S: {{tag}} OK [REFERRAL imap://someone@other.example/] in\nC: CAPABILITY\nS: * CAPABILITY IMAP4rev1\nS: {{tag}} OK\nC: LIST\n{SELECT}{FETCH}{LOGOUT}{BYE}"
    );
    let (run, _) = against(&script).await;
    assert_eq!(run.outcome, RunOutcome::Passed, "{}", steps(&run));
    assert_eq!(run.server.referral_host.as_ref().map(imaptrace_record::ServerText::as_str), Some("other.example"));
}

#[tokio::test]
async fn what_the_server_repeats_of_our_secrets_is_taken_out() {
    let script = format!("{LOGIN}S: {{tag}} NO user someone, password secret, c2VjcmV0, \\x1b[31m\nC: LOGOUT\n{BYE}");
    let (run, _) = against(&script).await;
    assert_eq!(
        run.failing_step().unwrap().text.as_ref().unwrap().as_str(),
        "user [default], password [redacted], [redacted], \\x1b[31m"
    );
}

#[tokio::test]
async fn a_cancelled_run_is_void_and_still_says_good_bye() {
    let server = Script::play(&format!("{}C: LOGOUT\nS: * BYE\nS: {{tag}} OK", up_to("LIST"))).await;
    let prepared = prepare(target(server.address, Security::None));
    let (cancel, cancelled) = tokio::sync::watch::channel(false);
    let task = tokio::spawn(async move { run_with(&prepared, Dns::default(), cancelled).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    cancel.send(true).unwrap();
    let run = task.await.unwrap();
    assert_eq!((run.outcome, failed(&run)), (RunOutcome::Void, (Some(ErrorType::Cancelled), Some("LIST"))));
    assert!(steps(&run).ends_with(" LOGOUT"), "{}", steps(&run));
}

#[tokio::test]
async fn the_run_ends_at_its_deadline_between_steps() {
    let (run, _) = against_changed(&format!("{LOGIN}pause 300\n{LIST}silence"), |target| {
        target.deadlines.run = Duration::from_millis(200);
    })
    .await;
    assert_eq!(failed(&run), (Some(ErrorType::TimeoutCommand), Some("LOGIN")), "a step's class comes before the run's");
}

#[tokio::test]
async fn a_server_that_never_pauses_does_not_outrun_the_deadline() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let flood = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"* OK [CAPABILITY IMAP4rev1] hi\r\n").await.unwrap();
        assert!(stream.read(&mut [0; 512]).await.unwrap() > 0);
        let rows = b"* LIST () NIL x\r\n".repeat(1000);
        while stream.write_all(&rows).await.is_ok() {}
    });
    let mut target = target(address, Security::None);
    target.deadlines.command = Duration::from_millis(100);
    target.limits =
        Limits { responses: u64::MAX, command_bytes: u64::MAX, session_bytes: u64::MAX, ..Limits::default() };
    let run = run(target).await;
    assert_eq!(failed(&run), (Some(ErrorType::TimeoutCommand), Some("LOGIN")));
    flood.await.unwrap();
}

#[tokio::test]
async fn what_came_before_a_command_is_no_answer_to_it() {
    let script = format!(
        "{}s: * 3 EXISTS\\r\\n{{tag}} OK in\\r\\n* 4 EXISTS\\r\\n* 1 FETCH (FLAGS ())\\r\\n\nC: FETCH 1:3\npause 60\n{LOGOUT}{BYE}",
        up_to("SELECT")
    );
    let (run, _) = against(&script.replace("* 30 FETCH", "* 3 FETCH")).await;
    assert_eq!(run.outcome, RunOutcome::Passed, "{:?}", run.failing_step());
    let fetch = run.steps.iter().find(|step| step.name == "FETCH").unwrap();
    assert_eq!(fetch.messages, Some(1));
    assert_eq!(
        fetch.received_bytes,
        Some("* 4 EXISTS\r\n* 1 FETCH (FLAGS ())\r\n* 3 FETCH (UID 3)\r\n".len() as u64 + 16 + 5)
    );
    let pause = Duration::from_millis(60);
    assert!(fetch.first_byte_s.unwrap().to_duration() >= pause, "{fetch:?}");
    assert!(run.first_row_s.unwrap() >= fetch.start_s.saturating_add(pause.into()), "{run:?}");
    assert!(fetch.events.iter().all(|event| event.at_s >= fetch.start_s), "{fetch:?}");
}

#[tokio::test]
async fn a_source_address_that_this_host_lacks_and_one_of_the_other_family() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut foreign = target(closed, Security::None);
    foreign.source_address = Some("192.0.2.1".parse().unwrap());
    let run_ = run(foreign).await;
    assert_eq!((run_.outcome, failed(&run_)), (RunOutcome::Void, (Some(ErrorType::AddressDenied), Some("connect"))));
    assert!(run_.failing_step().unwrap().text.as_ref().unwrap().as_str().contains("192.0.2.1"));
    let mut named = target(closed, Security::None);
    named.endpoint.host = imaptrace::plan::Host::parse("localhost").unwrap();
    named.source_address = Some("127.0.0.1".parse().unwrap());
    let run_ = run(named).await;
    assert_eq!((run_.outcome, failed(&run_)), (RunOutcome::Failed, (Some(ErrorType::ConnectRefused), Some("connect"))));
}

#[tokio::test]
async fn a_second_connection_does_not_look_the_name_up_again() {
    let greeting = "S: * OK [CAPABILITY IMAP4rev1 ID] hi\n";
    let script = format!("{greeting}C: ID\nclose\nnext\n{greeting}C: LOGIN\n{LIST}{SELECT}{FETCH}{LOGOUT}{BYE}");
    let server = Script::play(&script).await;
    let mut named = target(server.address, Security::None);
    named.endpoint.host = imaptrace::plan::Host::parse("localhost").unwrap();
    let run = run(named).await;
    assert_eq!(steps(&run), "resolve connect greeting ID!eof connect greeting LOGIN LIST SELECT FETCH LOGOUT");
}

#[tokio::test]
async fn an_empty_password_from_a_prompt_makes_the_run_void() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut target = target(closed.local_addr().unwrap(), Security::None);
    target.accounts = vec![crate::support::run::account("someone", "")];
    assert_eq!(failed(&run(target).await), (Some(ErrorType::SecretUnavailable), Some("LOGIN")));
}

#[tokio::test]
async fn a_password_that_cannot_be_had_makes_the_run_void() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut target = target(closed.local_addr().unwrap(), Security::None);
    target.accounts[0].password = SecretSource::Env("IMAPTRACE_TEST_NOT_SET".into());
    let run = run(target).await;
    assert_eq!((run.outcome, failed(&run)), (RunOutcome::Void, (Some(ErrorType::SecretUnavailable), Some("LOGIN"))));
    assert_eq!(steps(&run), "LOGIN!secret_unavailable");
}
