//! The journey against Cyrus and Courier: what holds on both, and in what they differ from Dovecot and from each other.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use imaptrace::plan::{Auth, Mailbox, Open, Security, TagStyle, Target};
use imaptrace_imap::{LoginMethod, ResponseCode};
use imaptrace_record::{ErrorType, Run, RunOutcome, ServerText, Step, StepName, StepOutcome, Verified};

use crate::support::{
    dovecot::{EMPTY, USER1, USER2, USER3},
    parts::{add_up, command, commands, details},
    program::{Output, Program},
    proxy::Proxy,
    run::{run as load, steps},
    servers::{FULL, KINDS, Kind, Server},
};

/// Folders that both can hold, as the user and as the wire has them. Both keep names under INBOX, parted by dots.
const FOLDERS: [(&str, &str); 4] = [
    ("INBOX.two words", "INBOX.two words"),
    ("INBOX.this & that", "INBOX.this &- that"),
    ("INBOX.Entwürfe", "INBOX.Entw&APw-rfe"),
    ("INBOX.Archive.2025.日本語", "INBOX.Archive.2025.&ZeVnLIqe-"),
];
/// Those that Courier alone can hold.
const COURIERS: [(&str, &str); 4] = [
    ("INBOX.100% full", "INBOX.100% full"),
    ("INBOX.(round) {5}", "INBOX.(round) {5}"),
    ("INBOX.a\"quote", r#"INBOX.a\"quote"#),
    ("INBOX.back\\slash", r"INBOX.back\\slash"),
];

/// One of each for all tests, with 30 messages in user1's INBOX and none in its folders; ended with the last of those
/// that use it at a time.
fn shared(kind: Kind) -> Arc<Server> {
    static SERVERS: [Mutex<Weak<Server>>; 2] = [Mutex::new(Weak::new()), Mutex::new(Weak::new())];
    let mut server = SERVERS[kind as usize].lock().unwrap_or_else(PoisonError::into_inner);
    server.upgrade().unwrap_or_else(|| {
        let started = Arc::new(Server::start(kind, ""));
        let mut client = started.client(USER1);
        client.append("INBOX", 30);
        let more: &[_] = if kind == Kind::Courier { &COURIERS } else { &[] };
        for (_, name) in FOLDERS.iter().chain(more) {
            client.ok(&format!("CREATE \"{name}\""));
        }
        *server = Arc::downgrade(&started);
        started
    })
}

fn step<'a>(run: &'a Run, name: &str) -> &'a Step {
    run.steps.iter().find(|step| step.name == name).unwrap_or_else(|| panic!("no {name} in {}", steps(run)))
}

fn failed(run: &Run) -> (Option<ErrorType>, Option<&str>, Option<&str>, &str) {
    let step = run.failing_step();
    let text = step.and_then(|step| step.text.as_ref()).map_or("", ServerText::as_str);
    (
        run.error_type,
        run.failed_step.as_ref().map(StepName::as_str),
        step.and_then(|step| step.code.map(ResponseCode::as_str)),
        text,
    )
}

/// Runs through a proxy, and gives what was said besides: by us, and by the server.
async fn overheard(server: &Server, mut target: Target) -> (Run, String, String) {
    let proxy = Proxy::start(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), server.plain)).await;
    target.endpoint.port = proxy.address.port();
    let run = load(target).await;
    let conversation = proxy.conversations().remove(0);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (run, text(conversation.sent), text(conversation.received))
}

// === what holds on both ===

#[tokio::test]
async fn a_first_load_passes_in_clear_text_with_starttls_and_with_tls() {
    let commands_of = |kind, security| match (kind, security) {
        (Kind::Cyrus | Kind::Dovecot24, Security::StartTls) => "STARTTLS tls CAPABILITY ID AUTHENTICATE",
        (Kind::Cyrus | Kind::Dovecot24, _) => "ID AUTHENTICATE",
        // It offers PLAIN under TLS alone, has no ID, and tells after login only when asked.
        (Kind::Courier, Security::None) => "LOGIN CAPABILITY",
        (Kind::Courier, Security::StartTls) => "STARTTLS tls CAPABILITY AUTHENTICATE CAPABILITY",
        (Kind::Courier, Security::Tls) => "AUTHENTICATE CAPABILITY",
    };
    for kind in KINDS {
        let server = shared(kind);
        for security in [Security::Tls, Security::StartTls, Security::None] {
            let run = load(server.target(security, USER1)).await;
            let way =
                if security == Security::Tls { "resolve connect tls greeting" } else { "resolve connect greeting" };
            let expected = format!("{way} {} NAMESPACE LIST SELECT FETCH LOGOUT", commands_of(kind, security));
            assert_eq!((steps(&run), run.outcome), (expected, RunOutcome::Passed), "{kind:?} {:?}", run.failing_step());
            let (select, fetch) = (step(&run, "SELECT"), step(&run, "FETCH"));
            assert_eq!((select.mailbox_messages, fetch.messages, fetch.literals), (Some(30), Some(20), Some(20)));
            assert_eq!(run.first_loading_latency_s, Some(fetch.end_s()));
            assert!(run.first_row_s.is_some_and(|row| row > select.end_s() && row <= fetch.end_s()), "{run:?}");
            assert_eq!(run.server.deviations, None, "{kind:?} breaks no rule here");
            assert_eq!(run.server.protocol.as_deref(), Some("4rev1"));
            assert!(run.server.rtt_min_s.is_some() && run.server.capability_hash.is_some());
            if security == Security::None {
                let plain: u64 = run.steps.iter().filter_map(|step| step.received_bytes).sum();
                assert_eq!(run.wire_received_bytes, plain, "the steps add up to the connection");
            } else {
                let tls = step(&run, "tls").tls.as_ref().unwrap();
                assert_eq!((tls.version.as_deref(), tls.verified), (Some("1.3"), Verified::Yes));
                assert_eq!(tls.subject.as_ref().map(ServerText::as_str), Some("CN=localhost"));
            }
        }
    }
}

#[tokio::test]
async fn tags_are_the_ids_of_spans_and_time_is_split_on_every_command() {
    for kind in KINDS {
        let server = shared(kind);
        let (run, sent, received) = overheard(&server, server.target(Security::None, USER1)).await;
        assert_eq!(run.outcome, RunOutcome::Passed, "{kind:?} {:?}", run.failing_step());
        let tags: Vec<_> = sent.lines().filter_map(|line| line.split_once(' ')).map(|(tag, _)| tag).collect();
        let ids: Vec<_> = commands(&run).map(|step| step.span_id.unwrap().to_string()).collect();
        assert_eq!(tags, ids, "{kind:?}");
        assert!(ids.iter().all(|id| received.contains(&format!("\r\n{id} OK"))), "{kind:?} {received}");
        // Their FETCH comes in pieces; that Cyrus waits for an acknowledgement before the second is why we send one.
        assert_eq!(run.server.quickack, Some(true));
        add_up(&run);
        let mut short = server.target(Security::Tls, USER1);
        short.journey.tag = TagStyle::Short;
        assert_eq!(load(short).await.outcome, RunOutcome::Passed, "{kind:?}");
    }
}

/// After a handshake of TLS 1.3 the server's session tickets are on the line at about the time of the first command. Its
/// answer fits a segment, so it has come whole when its first byte has.
#[tokio::test]
async fn the_first_answer_under_starttls_begins_when_it_comes_and_not_with_the_session_tickets() {
    let server = shared(Kind::Cyrus);
    for _ in 0..10 {
        let run = load(server.target(Security::StartTls, USER1)).await;
        let capability = command(&run, "CAPABILITY");
        assert_eq!(capability.first_byte_s, Some(capability.duration_s), "{}", details(&run));
    }
}

#[tokio::test]
async fn the_newest_headers_are_asked_for_in_ascending_order_and_nothing_is_marked_as_read() {
    for kind in KINDS {
        let server = shared(kind);
        let mut target = server.target(Security::None, USER1);
        target.journey.newest = 7;
        let (run, sent, received) = overheard(&server, target).await;
        assert_eq!((run.outcome, step(&run, "FETCH").messages), (RunOutcome::Passed, Some(7)), "{kind:?}");
        assert!(sent.contains(" FETCH 24:30 (UID FLAGS INTERNALDATE RFC822.SIZE BODY.PEEK["), "{sent}");
        assert!(
            received.contains("Subject: number 24\r\n") && received.contains("Subject: number 30\r\n"),
            "{received}"
        );
        assert!(!received.contains("Subject: number 23\r\n"), "{received}");
        let unseen = server.client(USER1).ok("STATUS INBOX (UNSEEN)").remove(0);
        assert!(unseen.ends_with("(UNSEEN 30)"), "{kind:?} {unseen}");
    }
}

#[tokio::test]
async fn an_empty_mailbox_is_loaded_once_select_is_ok() {
    for kind in KINDS {
        let server = shared(kind);
        let run = load(server.target(Security::Tls, EMPTY)).await;
        assert_eq!(run.outcome, RunOutcome::Passed, "{kind:?} {:?}", run.failing_step());
        assert!(steps(&run).ends_with("SELECT FETCH- LOGOUT"), "{}", steps(&run));
        assert_eq!(run.first_loading_latency_s, Some(step(&run, "SELECT").end_s()));
    }
}

#[tokio::test]
async fn mailboxes_under_inbox_and_odd_names_can_be_opened() {
    for kind in KINDS {
        let server = shared(kind);
        let more: &[_] = if kind == Kind::Courier { &COURIERS } else { &[] };
        for (name, _) in FOLDERS.iter().chain(more) {
            let mut target = server.target(Security::Tls, USER1);
            target.journey.mailbox = Mailbox::new(name).unwrap();
            let run = load(target).await;
            assert_eq!(run.outcome, RunOutcome::Passed, "{kind:?} {name}: {:?}", run.failing_step());
            assert_eq!(step(&run, "SELECT").mailbox.as_deref(), Some(*name));
            // These and INBOX, in quotes, with escapes, or bare; and the two that the longest name is in.
            let listed = 3 + FOLDERS.len() + more.len();
            assert_eq!(step(&run, "LIST").untagged, Some(listed as u64), "{kind:?}");
            assert_eq!(run.server.deviations, None);
        }
    }
}

#[tokio::test]
async fn a_mailbox_that_is_not_there_fails_select_and_the_session_goes_on_to_logout() {
    for (kind, words) in
        [(Kind::Cyrus, "Mailbox does not exist"), (Kind::Courier, "Mailbox does not exist, or must be subscribed to.")]
    {
        let server = shared(kind);
        let mut target = server.target(Security::Tls, USER1);
        target.journey.mailbox = Mailbox::new("INBOX.Nirvana").unwrap();
        let run = load(target).await;
        assert_eq!(failed(&run), (Some(ErrorType::No), Some("SELECT"), None, words), "{kind:?}");
        assert!(steps(&run).ends_with(" SELECT!no LOGOUT"), "{}", steps(&run));
    }
}

#[tokio::test]
async fn examine_opens_read_only() {
    for kind in KINDS {
        let server = shared(kind);
        let mut target = server.target(Security::Tls, USER1);
        target.journey.open = Open::Examine;
        let run = load(target).await;
        assert_eq!(
            (run.outcome, step(&run, "EXAMINE").code.map(ResponseCode::as_str)),
            (RunOutcome::Passed, Some("READ-ONLY"))
        );
    }
}

#[tokio::test]
async fn a_refused_password_has_no_code_and_the_wait_for_it_is_the_servers() {
    let both = KINDS.map(|kind| async move {
        let server = shared(kind);
        let run = load(server.target(Security::Tls, ("user1", "wrong"))).await;
        let words = if kind == Kind::Cyrus { "authentication failure" } else { "Login failed." };
        assert_eq!(failed(&run), (Some(ErrorType::AuthFailed), Some("AUTHENTICATE"), None, words), "{kind:?}");
        assert!(steps(&run).ends_with(" AUTHENTICATE!auth_failed LOGOUT"), "{}", steps(&run));
        assert_eq!(run.first_loading_latency_s, None);
        let refused = step(&run, "AUTHENTICATE");
        assert!(refused.server_s.unwrap().as_f64() > 0.9 * refused.duration_s.as_f64(), "{}", details(&run));
    });
    let [cyrus, courier] = both;
    tokio::join!(cyrus, courier);
}

#[tokio::test]
async fn odd_passwords_by_every_way_to_log_in_and_no_literal_that_the_server_has_not_asked_for() {
    for kind in KINDS {
        let server = shared(kind);
        for user in [USER2, USER3] {
            for (auth, security) in
                [(Auth::Login, Security::None), (Auth::Plain, Security::StartTls), (Auth::Plain, Security::Tls)]
            {
                let mut target = server.target(security, user);
                target.journey.auth = auth;
                let (run, sent) = if security == Security::None {
                    let (run, sent, _) = overheard(&server, target).await;
                    (run, sent)
                } else {
                    (load(target).await, String::new())
                };
                let name = if auth == Auth::Login { "LOGIN" } else { "AUTHENTICATE" };
                assert_eq!(run.outcome, RunOutcome::Passed, "{kind:?} {} {name} {:?}", user.0, run.failing_step());
                // Courier has no LITERAL+: it would take such a literal for a command, and say it back.
                let literal = security == Security::None && user == USER3;
                assert_eq!(sent.contains("+}\r\n"), literal && kind == Kind::Cyrus, "{kind:?} {}", user.0);
                assert_eq!(sent.contains("{17}\r\n"), literal && kind == Kind::Courier, "{kind:?} {}", user.0);
            }
        }
    }
}

#[tokio::test]
async fn the_wrong_port_and_the_wrong_certificate() {
    for kind in KINDS {
        let server = shared(kind);
        let mut tls_to_clear = server.target(Security::Tls, USER1);
        tls_to_clear.endpoint.port = server.plain;
        assert_eq!(failed(&load(tls_to_clear).await).0, Some(ErrorType::TlsProtocol), "{kind:?}");
        let mut clear_to_tls = server.target(Security::None, USER1);
        clear_to_tls.endpoint.port = server.tls;
        clear_to_tls.deadlines.greeting = std::time::Duration::from_millis(300);
        assert_eq!(failed(&load(clear_to_tls).await).0, Some(ErrorType::TimeoutGreeting), "{kind:?}");
        let mut untrusted = server.target(Security::Tls, USER1);
        untrusted.tls.ca_file = None;
        assert_eq!(failed(&load(untrusted).await).0, Some(ErrorType::TlsCertUntrusted), "{kind:?}");
        let mut named = server.target(Security::StartTls, USER1);
        named.tls.server_name = Some("mail.example.org".into());
        assert_eq!(failed(&load(named).await).0, Some(ErrorType::TlsCertName), "{kind:?}");
    }
}

// === a canary mailbox ===

async fn program(server: &Server, command: &[&str], more: &[&str]) -> Output {
    let url = format!("imaps://localhost:{}", server.tls);
    let fixed = ["-u", FULL.0, "--ca-file", server.ca.to_str().unwrap(), "--address", "v4", "--mailbox", "INBOX.A & B"];
    let arguments = [command, &fixed, more, &[&url]].concat();
    Program::new(arguments).env("IMAPTRACE_PASSWORD", FULL.1).run().await
}

#[tokio::test]
async fn a_canary_mailbox_is_made_filled_gone_on_with_and_probed() {
    for kind in KINDS {
        let server = shared(kind);
        let missing = program(&server, &["canary", "fill"], &["--messages", "30"]).await;
        assert!(missing.code == Some(1) && missing.stderr.contains("there is no mailbox INBOX.A & B"), "{missing:?}");
        for (messages, details) in [
            ("30", "INBOX.A & B holds 30 canary messages: 30 added, "),
            ("45", "INBOX.A & B holds 45 canary messages: 15 added, "),
            ("45", "INBOX.A & B holds 45 canary messages already; nothing was added\n"),
        ] {
            let filled = program(&server, &["canary", "fill"], &["--create", "--messages", messages]).await;
            assert!(filled.code == Some(0) && filled.stdout.starts_with(details), "{kind:?} {filled:?}");
        }
        let probed = program(&server, &["probe"], &["--output", "json"]).await;
        assert_eq!(probed.code, Some(0), "{probed:?}");
        let run: Run = serde_json::from_str(&probed.stdout).unwrap();
        assert_eq!((step(&run, "SELECT").mailbox_messages, step(&run, "FETCH").messages), (Some(45), Some(20)));
        assert_eq!(run.server.deviations, None, "{kind:?}");
        server.client(FULL).ok("DELETE \"INBOX.A &- B\"");
    }
}

// === Cyrus ===

#[tokio::test]
async fn cyrus_tells_who_it_is_and_what_it_can_do_without_being_asked() {
    let server = shared(Kind::Cyrus);
    let (run, _, received) = overheard(&server, server.target(Security::None, USER1)).await;
    let id = |text: &Option<ServerText>| text.as_ref().map(|text| text.as_str().to_owned()).unwrap();
    assert_eq!(id(&run.server.id_name), "Cyrus IMAPD");
    assert!(id(&run.server.id_version).starts_with("3."), "{:?}", run.server.id_version);
    assert_eq!(step(&run, "AUTHENTICATE").code.map(ResponseCode::as_str), Some("CAPABILITY"));
    // LOGINDISABLED after login is its way to say that one is in; PLAIN is taken though stronger ones stand before it.
    assert!(received.contains(" LOGINDISABLED "), "{received}");
    assert!(received.contains(" AUTH=SCRAM-SHA-256 ") && received.contains(" AUTH=PLAIN "), "{received}");
    let at = |text| received.find(text).unwrap_or_else(|| panic!("no {text} in {received}"));
    assert!(at("* 30 EXISTS") < at("* FLAGS"), "EXISTS before FLAGS: {received}");
    // What it says that it took is beside what was measured.
    assert!(step(&run, "FETCH").reported_s.is_some() && received.contains(" sec"), "{received}");
}

#[tokio::test]
async fn cyrus_without_plaintext_logins_is_not_given_a_password_in_clear_text() {
    let server = Server::start(Kind::Cyrus, "allowplaintext: no\nsasl_mech_list: PLAIN LOGIN\n");
    let (run, sent, received) = overheard(&server, server.target(Security::None, USER1)).await;
    let why = "LOGIN is disabled, and the server offers no mechanism";
    assert_eq!(failed(&run), (Some(ErrorType::AuthMechanism), Some("LOGIN"), None, why));
    assert!(received.contains("LOGINDISABLED") && !sent.contains("LOGIN \""), "{received} {sent}");
    assert!(!sent.contains("AUTHENTICATE"), "{sent}");
    assert_eq!(load(server.target(Security::StartTls, USER1)).await.outcome, RunOutcome::Passed);
}

#[tokio::test]
async fn cyrus_and_we_prove_to_each_other_by_scram_that_we_know_the_password() {
    let server = shared(Kind::Cyrus);
    let mut target = server.target(Security::Tls, USER1);
    target.journey.auth = Auth::ScramSha256;
    let run = load(target).await;
    let authenticate = step(&run, "AUTHENTICATE");
    assert_eq!(
        (authenticate.mechanism.map(LoginMethod::as_str), run.outcome),
        (Some("SCRAM-SHA-256"), RunOutcome::Passed)
    );
}

// === Courier ===

#[tokio::test]
async fn courier_has_no_id_no_uidnext_and_no_unseen_and_none_is_missed() {
    let server = shared(Kind::Courier);
    let (run, sent, received) = overheard(&server, server.target(Security::None, USER1)).await;
    assert_eq!(run.outcome, RunOutcome::Passed, "{:?}", run.failing_step());
    assert!(!sent.contains(" ID (") && run.server.id_name.is_none(), "{sent}");
    assert!(!received.contains("UIDNEXT") && !received.contains("UNSEEN"), "{received}");
    assert!(received.contains("* NAMESPACE ((\"INBOX.\" \".\"))"), "{received}");
    let at = |text| received.find(text).unwrap_or_else(|| panic!("no {text} in {received}"));
    assert!(at("* FLAGS") < at("* 30 EXISTS"), "FLAGS before EXISTS: {received}");
    // It spells the item otherwise than it was asked for: a row is known by its number alone.
    assert!(received.contains("BODY[HEADER.FIELDS (\"D"), "{received}");
}

#[tokio::test]
async fn courier_in_clear_text_offers_mechanisms_that_are_not_ours_and_gets_login() {
    let server = shared(Kind::Courier);
    let (run, sent, received) = overheard(&server, server.target(Security::None, USER1)).await;
    assert!(received.contains("AUTH=CRAM-MD5") && !received.contains("AUTH=PLAIN"), "{received}");
    assert_eq!(step(&run, "LOGIN").mechanism.map(LoginMethod::as_str), Some("LOGIN"));
    assert!(sent.contains(" LOGIN \"user1\" \"pass1\"\r\n"), "{sent}");
    let mut pinned = server.target(Security::None, USER1);
    pinned.journey.auth = Auth::Plain;
    let why = "auth is \"plain\", and the server offers CRAM-MD5, CRAM-SHA1, CRAM-SHA256";
    assert_eq!(failed(&load(pinned).await), (Some(ErrorType::AuthMechanism), Some("AUTHENTICATE"), None, why));
    // Under TLS it takes PLAIN, and wants it behind a continuation: it has no SASL-IR.
    let secured = load(server.target(Security::Tls, USER1)).await;
    let authenticate = step(&secured, "AUTHENTICATE");
    assert_eq!(
        (authenticate.mechanism.map(LoginMethod::as_str), authenticate.outcome),
        (Some("PLAIN"), StepOutcome::Passed)
    );
    assert_eq!(
        authenticate.events.iter().filter(|event| event.name == imaptrace_record::EventName::Continuation).count(),
        1
    );
}

#[tokio::test]
async fn courier_where_starttls_is_wanted_is_not_given_a_password_in_clear_text() {
    let server = Server::start(Kind::Courier, "IMAP_TLS_REQUIRED=1\n");
    let (run, sent, received) = overheard(&server, server.target(Security::None, USER1)).await;
    let why = "LOGIN is disabled, and the server offers CRAM-MD5, CRAM-SHA1, CRAM-SHA256";
    assert_eq!(failed(&run), (Some(ErrorType::AuthMechanism), Some("LOGIN"), None, why), "{received}");
    assert!(!sent.contains("pass1"), "{sent}");
    assert_eq!(load(server.target(Security::StartTls, USER1)).await.outcome, RunOutcome::Passed);
}

/// What Courier does with commands that imaptrace never sends it: why it does not.
#[tokio::test]
async fn courier_answers_id_by_no_and_a_fetch_past_the_end_by_an_untagged_no_beside_ok() {
    let server = shared(Kind::Courier);
    let mut client = server.client(USER1);
    assert!(client.say("ID NIL").last().unwrap().starts_with("t NO"));
    client.ok("SELECT INBOX");
    let past = client.say("FETCH 30:31 (UID)");
    assert!(past.iter().any(|line| line.starts_with("* NO")) && past.last().unwrap().starts_with("t OK"), "{past:?}");
    let server = shared(Kind::Cyrus);
    let mut cyrus = server.client(USER1);
    cyrus.ok("SELECT INBOX");
    assert!(cyrus.say("FETCH 31:32 (UID)").last().unwrap().starts_with("t NO"));
}
