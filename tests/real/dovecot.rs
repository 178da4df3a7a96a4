//! The journey against a real Dovecot: every way to secure the line and to log in, odd passwords, odd folders, large and
//! empty mailboxes, and what a real server says when something is wrong.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use imaptrace::plan::{Auth, Host, Mailbox, Open, Propagation, Security, Target};
use imaptrace_imap::{Condition, ResponseCode};
use imaptrace_record::{ErrorType, Run, RunOutcome, ServerText, StepName, Verified};

use crate::support::{
    dovecot::{BIG, Dovecot, EMPTY, Options, USER1, USER2, USER3},
    program::{Program, wait_until},
    proxy::Proxy,
    run::{account, run, steps, target},
    servers::{Kind, Server},
};

/// One for all tests that break nothing, ended with the last of those that use it at a time.
fn shared() -> Arc<Dovecot> {
    static SERVER: Mutex<Weak<Dovecot>> = Mutex::new(Weak::new());
    let mut server = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
    server.upgrade().unwrap_or_else(|| {
        let started = Arc::new(Dovecot::start(&Options { big: true, ..Options::default() }));
        *server = Arc::downgrade(&started);
        started
    })
}

fn at(server: &Dovecot, security: Security, (user, password): (&str, &str)) -> Target {
    let port = if security == Security::Tls { server.tls } else { server.plain };
    let mut target = target(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port), security);
    target.endpoint.host = Host::parse("localhost").unwrap();
    target.address = imaptrace::plan::AddressChoice::V4;
    target.tls.ca_file = Some(server.ca.clone());
    target.accounts = vec![account(user, password)];
    target
}

fn step<'a>(run: &'a Run, name: &str) -> &'a imaptrace_record::Step {
    run.steps.iter().find(|step| step.name == name).unwrap_or_else(|| panic!("no {name} in {}", steps(run)))
}

fn failed(run: &Run) -> (Option<ErrorType>, Option<&str>, Option<&str>) {
    (
        run.error_type,
        run.failed_step.as_ref().map(StepName::as_str),
        run.failing_step().and_then(|step| step.code.map(ResponseCode::as_str)),
    )
}

#[tokio::test]
async fn every_way_to_secure_the_line() {
    let server = shared();
    let commands = "NAMESPACE LIST SELECT FETCH LOGOUT";
    for (security, expected) in [
        (Security::Tls, format!("resolve connect tls greeting ID AUTHENTICATE {commands}")),
        (Security::StartTls, format!("resolve connect greeting STARTTLS tls CAPABILITY ID AUTHENTICATE {commands}")),
        (Security::None, format!("resolve connect greeting ID AUTHENTICATE {commands}")),
    ] {
        let run = run(at(&server, security, USER1)).await;
        assert_eq!((steps(&run), run.outcome), (expected, RunOutcome::Passed), "{:?}", run.failing_step());
        let fetch = step(&run, "FETCH");
        assert_eq!(
            (fetch.messages, fetch.literals, step(&run, "SELECT").mailbox_messages),
            (Some(20), Some(20), Some(30))
        );
        assert_eq!(run.server.id_name.as_ref().map(ServerText::as_str), Some("Dovecot"));
        assert_eq!(run.server.deviations, None, "a real server breaks no rule here");
        assert_eq!(run.server.quickack, Some(true));
        assert!(run.server.rtt_min_s.is_some() && run.server.capability_hash.is_some());
        if security == Security::None {
            assert_eq!(run.server.tls_version, None);
            let plain: u64 = run.steps.iter().filter_map(|step| step.received_bytes).sum();
            assert_eq!(run.wire_received_bytes, plain, "the steps add up to the connection");
        } else {
            let tls = step(&run, "tls").tls.as_ref().unwrap();
            assert_eq!((tls.version.as_deref(), tls.verified), (Some("1.3"), Verified::Yes));
            assert_eq!(tls.cipher.as_deref(), Some("TLS_AES_256_GCM_SHA384"));
            assert_eq!(tls.subject.as_ref().map(ServerText::as_str), Some("CN=localhost"));
        }
    }
}

#[tokio::test]
async fn passwords_with_spaces_quotes_backslashes_and_more_than_ascii() {
    let server = shared();
    for user in [USER1, USER2, USER3] {
        for auth in [Auth::Login, Auth::Plain] {
            let mut target = at(&server, Security::Tls, user);
            target.journey.auth = auth;
            let run = run(target).await;
            let name = if auth == Auth::Login { "LOGIN" } else { "AUTHENTICATE" };
            assert_eq!(run.outcome, RunOutcome::Passed, "{} as {}: {:?}", name, user.0, run.failing_step());
            assert_eq!(step(&run, name).status.map(Condition::as_str), Some("OK"));
        }
    }
}

#[tokio::test]
async fn mailboxes_with_odd_names_can_be_opened() {
    let server = shared();
    for name in [
        "Entwürfe",
        "日本語",
        "Nowhere/Résumé",
        "😀",
        "Archive/2025/Q4",
        "two words",
        "a\"quote",
        "back\\slash",
        "100% full",
        "this & that",
        "(round) {5}",
        "inbox",
    ] {
        let mut target = at(&server, Security::Tls, USER1);
        target.journey.mailbox = Mailbox::new(name).unwrap();
        let run = run(target).await;
        assert_eq!(run.outcome, RunOutcome::Passed, "{name}: {:?}", run.failing_step());
        let expected = if name == "inbox" { "INBOX" } else { name };
        assert_eq!(step(&run, "FETCH").mailbox.as_deref(), Some(expected));
    }
}

#[tokio::test]
async fn a_mailbox_of_ten_thousand_and_an_empty_one() {
    let server = shared();
    let run_ = run(at(&server, Security::Tls, BIG)).await;
    assert_eq!(run_.outcome, RunOutcome::Passed, "{:?}", run_.failing_step());
    assert_eq!((step(&run_, "SELECT").mailbox_messages, step(&run_, "FETCH").messages), (Some(10_000), Some(20)));
    let mut all = at(&server, Security::None, BIG);
    all.journey.newest = 10_000;
    assert_eq!(step(&run(all).await, "FETCH").messages, Some(10_000));
    let empty = run(at(&server, Security::Tls, EMPTY)).await;
    assert_eq!(empty.outcome, RunOutcome::Passed);
    assert!(steps(&empty).ends_with("SELECT FETCH- LOGOUT"), "{}", steps(&empty));
    assert_eq!(empty.first_loading_latency_s, Some(step(&empty, "SELECT").end_s()));
    assert_eq!(empty.first_row_s, None);
}

#[tokio::test]
async fn a_mailbox_whose_messages_are_gone_fails_the_next_run_of_an_agent_that_knows_it() {
    let server = Dovecot::start(&Options { messages: 120, ..Options::default() });
    let program = Program::new(["agent", "--config", "imaptrace.toml"]).env("PROBE", USER1.1);
    let text = format!(
        "[agent]\nlog_format = \"json\"\n[http]\nlisten = \"off\"\n[latency]\nmin_runs = 5\n[[targets]]\nname = \"mail01\"\n\
         url = \"imap://{}@127.0.0.1:{}\"\nsecurity = \"none\"\ninterval = \"1s\"\ntimeout = \"900ms\"\n\
         password = {{ env = \"PROBE\" }}\n",
        USER1.0, server.plain
    );
    std::fs::write(program.home().join("imaptrace.toml"), text).unwrap();
    let mut agent = program.start();
    while server.log().matches("Logged out").count() < 7 {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    for directory in ["cur", "new"] {
        for entry in std::fs::read_dir(server.maildir(USER1.0).join(directory)).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }
    let line: serde_json::Value = serde_json::from_str(&agent.stderr_line("a run did not pass").await).unwrap();
    assert_eq!((&line["error_type"], &line["failed_step"]), (&"mailbox_empty".into(), &"SELECT".into()), "{line}");
    assert_eq!(line["text"], "the mailbox is empty, and usually holds 120 messages", "{line}");
    agent.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(agent.finish().await.code, Some(0));
}

#[tokio::test]
async fn fetch_asks_for_the_newest_in_ascending_order_and_marks_nothing_as_read() {
    let server = Dovecot::start(&Options { messages: 50, ..Options::default() });
    let proxy = Proxy::start(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), server.plain)).await;
    let seen = |maildir: &Path| {
        let mut names: Vec<_> = ["cur", "new"]
            .into_iter()
            .flat_map(|directory| std::fs::read_dir(maildir.join(directory)).unwrap())
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.rsplit(',').next().unwrap_or_default().contains('S'))
            .collect();
        names.sort();
        names
    };
    let maildir = server.maildir(USER1.0);
    let before = seen(&maildir);
    let mut target = at(&server, Security::None, USER1);
    target.endpoint.port = proxy.address.port();
    target.journey.newest = 7;
    let run = run(target).await;
    assert_eq!(run.outcome, RunOutcome::Passed, "{:?}", run.failing_step());
    assert_eq!(seen(&maildir), before);
    let sent = String::from_utf8(proxy.conversations()[0].sent.clone()).unwrap();
    assert!(sent.contains(" FETCH 44:50 (UID FLAGS INTERNALDATE RFC822.SIZE BODY.PEEK["), "{sent}");
    let tags: Vec<_> = sent.lines().map(|line| line.split(' ').next().unwrap()).collect();
    let ids: Vec<_> =
        run.steps.iter().filter(|step| step.is_command()).map(|step| step.span_id.unwrap().to_string()).collect();
    assert_eq!(tags, ids);
}

#[tokio::test]
async fn examine_opens_read_only() {
    let server = shared();
    let mut target = at(&server, Security::Tls, USER1);
    target.journey.open = Open::Examine;
    let run = run(target).await;
    assert_eq!(
        (run.outcome, step(&run, "EXAMINE").code.map(ResponseCode::as_str)),
        (RunOutcome::Passed, Some("READ-ONLY"))
    );
}

#[tokio::test]
async fn short_tags_work_too() {
    let server = shared();
    let mut target = at(&server, Security::Tls, USER1);
    target.journey.tag = imaptrace::plan::TagStyle::Short;
    assert_eq!(run(target).await.outcome, RunOutcome::Passed);
}

/// A run that sends its trace id, and the name that the session has in the line of its login.
async fn propagated(mut target: Target, log: impl Fn() -> String) -> (Run, String) {
    target.journey.propagate = Propagation::SessionId;
    let run = run(target).await;
    assert_eq!(run.outcome, RunOutcome::Passed, "{:?}", run.failing_step());
    let name = wait_until("the line of the login", || {
        let log = log();
        // "Login" in 2.3, "Logged in" in 2.4.
        let line = log.lines().find(|line| line.contains("imap-login: Info: Log") && line.contains("user=<user1>"))?;
        Some(line.split_once("session=<")?.1.split('>').next()?.to_owned())
    });
    let order: Vec<_> = run.steps.iter().filter(|step| step.is_command()).map(|step| step.name.as_str()).collect();
    assert_eq!(order[..2], ["ID", "AUTHENTICATE"]);
    let last = run.steps.iter().rev().find(|step| step.messages.is_some() || step.mailbox_messages == Some(0)).unwrap();
    assert_eq!(run.first_loading_latency_s, Some(last.end_s()));
    (run, name)
}

#[tokio::test]
async fn the_trace_id_is_the_sessions_name_where_the_server_trusts_the_client_and_not_elsewhere() {
    for (settings, is_trusted) in [("login_trusted_networks = 127.0.0.1/32\n", true), ("", false)] {
        let server = Dovecot::start(&Options { settings: settings.into(), ..Options::default() });
        let (run, name) = propagated(at(&server, Security::Tls, USER1), || server.log()).await;
        assert_eq!(name == run.trace_id.to_string(), is_trusted, "{name} {settings}");
        if is_trusted {
            // The process of the mailbox has it, too.
            let end = format!("><{name}>: Info: Disconnected: Logged out");
            wait_until("the line of the end", || server.log().contains(&end).then_some(()));
        }
        let newer = Server::start(Kind::Dovecot24, settings);
        let (run, name) = propagated(newer.target(Security::Tls, USER1), || newer.log()).await;
        assert_eq!(name == run.trace_id.to_string(), is_trusted, "2.4: {name} {settings}");
    }
}

#[tokio::test]
async fn an_unknown_mailbox_fails_select_and_the_session_goes_on_to_logout() {
    let server = shared();
    let mut target = at(&server, Security::Tls, USER1);
    target.journey.mailbox = Mailbox::new("Nirvana").unwrap();
    let run = run(target).await;
    assert_eq!((failed(&run).0, failed(&run).1), (Some(ErrorType::No), Some("SELECT")));
    assert!(
        run.failing_step().unwrap().text.as_ref().unwrap().as_str().contains("Mailbox doesn't exist"),
        "{:?}",
        run.failing_step()
    );
    assert!(steps(&run).ends_with(" LOGOUT"));
}

#[tokio::test]
async fn wrong_passwords_and_unknown_users() {
    // Dovecot holds the logins after these back, so it is a server of its own.
    let server = Dovecot::start(&Options { settings: "auth_failure_delay = 0\n".into(), ..Options::default() });
    for user in [("user1", "wrong"), ("nobody-there", "x")] {
        let run = run(at(&server, Security::Tls, user)).await;
        assert_eq!(failed(&run), (Some(ErrorType::AuthFailed), Some("AUTHENTICATE"), Some("AUTHENTICATIONFAILED")));
        assert!(steps(&run).ends_with(" LOGOUT"), "{}", steps(&run));
        assert_eq!(run.first_loading_latency_s, None);
    }
}

#[tokio::test]
async fn clear_text_where_the_server_wants_tls_is_refused_before_a_secret_leaves() {
    let settings = "disable_plaintext_auth = yes\n".to_owned();
    let server = Dovecot::start(&Options { settings, ..Options::default() });
    let mut target = at(&server, Security::None, USER1);
    // Dovecot trusts a client at its own address.
    target.source_address = Some(Ipv4Addr::new(127, 0, 0, 2).into());
    let run = run(target).await;
    assert_eq!((failed(&run).0, failed(&run).1), (Some(ErrorType::AuthMechanism), Some("LOGIN")));
    assert!(steps(&run).ends_with("LOGIN!auth_mechanism LOGOUT"), "{}", steps(&run));
}

#[tokio::test]
async fn the_wrong_port_and_the_wrong_certificate() {
    let server = shared();
    let mut tls_to_clear = at(&server, Security::Tls, USER1);
    tls_to_clear.endpoint.port = server.plain;
    assert_eq!(failed(&run(tls_to_clear).await), (Some(ErrorType::TlsProtocol), Some("tls"), None));
    let mut clear_to_tls = at(&server, Security::None, USER1);
    clear_to_tls.endpoint.port = server.tls;
    clear_to_tls.deadlines.greeting = std::time::Duration::from_millis(300);
    assert_eq!(failed(&run(clear_to_tls).await), (Some(ErrorType::TimeoutGreeting), Some("greeting"), None));
    let mut untrusted = at(&server, Security::Tls, USER1);
    untrusted.tls.ca_file = None;
    assert_eq!(failed(&run(untrusted).await), (Some(ErrorType::TlsCertUntrusted), Some("tls"), None));
    let mut named = at(&server, Security::StartTls, USER1);
    named.tls.server_name = Some("mail.example.org".into());
    assert_eq!(failed(&run(named).await), (Some(ErrorType::TlsCertName), Some("tls"), None));
}
