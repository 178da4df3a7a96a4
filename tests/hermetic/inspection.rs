//! The connection after a run whose handshake showed no certificate: what it reads, what it sends, and when there is none.

use std::{sync::mpsc, time::Duration};

use futures_util::FutureExt as _;
use imaptrace::{
    plan::{ProxyProtocol, Security, Target},
    probe::{TargetContext, inspect, lacks_certificate},
};
use imaptrace_imap::Secret;
use imaptrace_record::{ErrorType, Run, ServerText, Step, TlsFacts, TlsFault};
use nix::sys::signal::Signal;
use rcgen::CertificateParams;
use tokio::sync::watch;
use tokio_rustls::rustls::version;

use crate::{
    agent::{otlp, roots, runtime, start, stop, value},
    command_line::run_of,
    support::{
        otlp::Receiver,
        papers::{Authority, Front, Hello, Paper, parameters},
        program::Program,
        run::{prepare, run_prepared, target},
        script::{Pem, Script},
    },
};

const HOST: &str = "mail.example.test";
const LONG: Duration = Duration::from_secs(30);

fn usual() -> CertificateParams {
    parameters("test server", &[HOST])
}

fn expired() -> CertificateParams {
    let mut leaf = usual();
    leaf.not_after = rcgen::date_time_ymd(2021, 1, 1);
    leaf
}

/// With no server behind it: no conversation comes so far.
async fn front(paper: &Paper) -> Front {
    Front::start(paper, &[&version::TLS13], &["imap"], "127.0.0.1:9".parse().unwrap()).await
}

/// For one who trusts this root.
fn trusting(mut target: Target, root: &Authority) -> (TargetContext, tempfile::NamedTempFile) {
    let file = root.file();
    target.tls.ca_file = Some(file.path().into());
    target.tls.server_name = Some(HOST.into());
    (prepare(target), file)
}

async fn look(run: &mut Run, target: &TargetContext, within: Duration) {
    let (_keep, cancel) = watch::channel(false);
    inspect(run, (target, &target.target().accounts[0], Some(&Secret::new("secret".into()))), within, cancel).await;
}

fn step(run: &Run) -> &Step {
    run.steps.iter().find(|step| step.name == "tls").unwrap()
}

fn facts(run: &Run) -> &TlsFacts {
    step(run).tls.as_ref().unwrap()
}

fn words(run: &Run) -> &str {
    step(run).text.as_ref().unwrap().as_str()
}

#[tokio::test]
async fn what_tls_1_3_hid_is_on_record_afterwards_and_nothing_that_was_measured_has_changed() {
    let root = Authority::root();
    let old = root.below("old issuer", |parameters| parameters.not_after = rcgen::date_time_ymd(2021, 1, 1));
    let between = root.below("test issuer", |_| {});
    let other = parameters("test server", &["a.example.test", "*.b.example.test"]);
    for (paper, class, fault, depth, said) in [
        (root.issue(&expired()), ErrorType::TlsCertExpired, Some(TlsFault::LeafExpired), 0, "expired on 2021-01-01"),
        (
            old.issue(&usual()),
            ErrorType::TlsCertExpired,
            Some(TlsFault::IntermediateExpired),
            1,
            "at depth 1 of the chain, CN=old issuer, expired on 2021-01-01",
        ),
        (
            between.issue(&usual()).alone(),
            ErrorType::TlsCertUntrusted,
            Some(TlsFault::IssuerMissing),
            0,
            "its issuer, CN=test issuer, was not sent and is not trusted here",
        ),
        (
            Paper::self_signed(&usual()),
            ErrorType::TlsCertUntrusted,
            Some(TlsFault::SelfSigned),
            0,
            "is its own issuer and not trusted here",
        ),
        (root.issue(&other), ErrorType::TlsCertName, None, 0, "it is for a.example.test, *.b.example.test"),
    ] {
        let front = front(&paper).await;
        let (target, _file) = trusting(target(front.address, Security::Tls), &root);
        let before = run_prepared(&target).await;
        assert_eq!((before.error_type, facts(&before).sha256.as_ref()), (Some(class), None));
        assert!(lacks_certificate(&before));
        let mut run = before.clone();
        look(&mut run, &target, LONG).await;
        assert_eq!((step(&run).tls_fault, facts(&run).refused_depth), (fault, Some(depth)), "{}", words(&run));
        assert!(words(&run).ends_with(said), "{}", words(&run));
        assert_eq!(facts(&run).subject.as_ref().map(ServerText::as_str), Some("CN=test server"));
        assert_eq!(facts(&run).key.as_deref(), Some("EC 256"));
        assert!(facts(&run).not_before.is_some() && facts(&run).not_after.is_some() && facts(&run).sha256.is_some());
        assert_eq!(run.server.certificate_not_after, facts(&run).not_after);
        let ended = before.started_at.epoch_seconds() + before.duration_s.as_f64();
        assert!(facts(&run).read_at.unwrap().epoch_seconds() >= ended - 0.001, "read after the run");
        // As the run's own: the same name and protocol, no more.
        let hello = Hello { name: Some(HOST.into()), protocols: vec!["imap".into()] };
        assert_eq!(front.heard(), [hello.clone(), hello]);
        // All but the certificate is as it was.
        let mut rest = run.clone();
        let at = rest.steps.iter().position(|step| step.name == "tls").unwrap();
        rest.steps[at] = step(&before).clone();
        rest.server.certificate_not_after = None;
        assert_eq!(rest, before);
        assert_eq!((step(&run).start_s, step(&run).duration_s), (step(&before).start_s, step(&before).duration_s));
    }
}

#[tokio::test]
async fn probes_without_a_pause_between_them_read_a_refused_certificate_too() {
    let root = Authority::root();
    let front = front(&root.issue(&expired())).await;
    let (url, file) = (format!("imaps://someone@{}", front.address), root.file());
    let ca_file = file.path().to_str().unwrap();
    let trust = ["--ca-file", ca_file, "--server-name", HOST];
    let arguments = [&["probe", &url, "--count", "2", "--every", "0s", "--output", "json"], &trust[..]].concat();
    let output = Program::new(arguments).env("IMAPTRACE_PASSWORD", "secret").run().await;
    let runs: Vec<Run> = output.stdout.lines().map(run_of).collect();
    let subjects: Vec<_> = runs.iter().map(|run| facts(run).subject.as_ref().map(ServerText::as_str)).collect();
    assert_eq!(subjects, [Some("CN=test server"); 2], "{output:?}");
}

#[tokio::test]
async fn a_target_is_asked_once_an_hour_for_a_class_and_later_runs_have_what_was_read() {
    let root = Authority::root();
    let front = front(&root.issue(&expired())).await;
    let (target, _file) = trusting(target(front.address, Security::Tls), &root);
    let (mut first, mut second) = (run_prepared(&target).await, run_prepared(&target).await);
    look(&mut first, &target, LONG).await;
    look(&mut second, &target, LONG).await;
    assert_eq!(front.heard().len(), 3);
    // The time to the ServerHello is that of each run.
    let read = |run: &Run| TlsFacts { server_hello_s: None, ..facts(run).clone() };
    assert_eq!(read(&first), read(&second));
    assert_eq!(words(&first), words(&second));
    // Read anew from changed files, it is the same target still, and has forgotten what may mean something else now.
    let changed = prepare(target.target().clone()).following(&target);
    let mut third = run_prepared(&changed).await;
    look(&mut third, &changed, LONG).await;
    assert_eq!((front.heard().len(), facts(&third).read_at), (4, None));
}

#[tokio::test]
async fn a_certificate_that_is_good_by_then_and_a_time_that_is_too_short_add_nothing() {
    let root = Authority::root();
    let (bad, good) = (front(&root.issue(&expired())).await, front(&root.issue(&usual())).await);
    let (target, _file) = trusting(target(bad.address, Security::Tls), &root);
    let before = run_prepared(&target).await;
    let mut run = before.clone();
    look(&mut run, &target, Duration::from_millis(1)).await;
    assert_eq!((&run, bad.heard().len()), (&before, 1));
    run.server.peer = Some(good.address);
    look(&mut run, &target, LONG).await;
    assert_eq!((facts(&run), step(&run).tls_fault, good.heard().len()), (facts(&before), None, 1));
}

#[tokio::test]
async fn other_failures_and_certificates_that_were_seen_ask_for_no_further_connection() {
    let root = Authority::root();
    let (file, paper) = (root.file(), root.issue(&expired()));
    let clear = Front::start(&paper, &[&version::TLS12], &[], "127.0.0.1:9".parse().unwrap()).await;
    let mut seen = target(clear.address, Security::Tls);
    seen.tls.ca_file = Some(file.path().into());
    seen.tls.server_name = Some(HOST.into());
    let run = run_prepared(&prepare(seen)).await;
    assert_eq!((run.error_type, lacks_certificate(&run)), (Some(ErrorType::TlsCertExpired), false));
    for script in ["close", "reset", "hello\ns: \\x15\\x03\\x03\\x00\\x02\\x02\\x78\nclose", "S: * OK hi\nclose"] {
        let server = Script::play(script).await;
        let run = run_prepared(&prepare(target(server.address, Security::Tls))).await;
        assert!(!lacks_certificate(&run), "{script}: {:?}", run.error_type);
    }
    // A common name alone is found after the handshake, which has the certificate.
    let nameless = front(&root.issue(&parameters(HOST, &[]))).await;
    let (target, _file) = trusting(target(nameless.address, Security::Tls), &root);
    let run = run_prepared(&target).await;
    assert_eq!(run.error_type, Some(ErrorType::TlsCertName));
    assert_eq!(facts(&run).subject.as_ref().map(ServerText::as_str), Some("CN=mail.example.test"));
    assert!(!lacks_certificate(&run));
}

#[tokio::test]
async fn under_starttls_no_command_but_starttls_is_sent_and_what_comes_with_it_ends_it() {
    let pem = Pem::self_signed(&["127.0.0.1"], 2020, 2040);
    let first = "S: * OK [CAPABILITY IMAP4rev1 STARTTLS] hi\nC: STARTTLS\nS: {tag} OK\ntls 1.3\nnext\n";
    for (second, seen) in [
        ("S: * OK hi\nC: STARTTLS\nS: {tag} OK\ntls 1.3", true),
        ("S: * OK hi\nC: STARTTLS\ns: {tag} OK\\r\\n* 1 EXISTS\\r\\n\nsilence", false),
        ("S: * OK hi\nC: STARTTLS\nS: {tag} NO\nsilence", false),
        ("S: * PREAUTH hi\nsilence", false),
        ("S: * BYE hi\nsilence", false),
        ("close", false),
    ] {
        let server = Script::play_with(&format!("{first}{second}"), &pem).await;
        let target = prepare(target(server.address, Security::StartTls));
        let mut run = run_prepared(&target).await;
        assert_eq!(run.error_type, Some(ErrorType::TlsCertUntrusted), "{:?}", run.failing_step());
        look(&mut run, &target, LONG).await;
        assert_eq!(facts(&run).read_at.is_some(), seen, "{second}");
        let heard = server.heard().await;
        let commands: Vec<_> =
            heard.iter().filter_map(|line| line.split_once(' ')).map(|(_, command)| command).collect();
        assert!(commands.iter().all(|command| *command == "STARTTLS" || command.contains("alert")), "{heard:?}");
    }
}

#[tokio::test]
async fn the_source_address_and_the_proxy_header_are_the_targets() {
    let pem = Pem::self_signed(&["127.0.0.1"], 2020, 2040);
    let server = Script::play_with("C: PROXY\ntls 1.3\nnext\nC: PROXY\ntls 1.3", &pem).await;
    let mut target = target(server.address, Security::Tls);
    target.source_address = Some("127.0.0.2".parse().unwrap());
    target.proxy_protocol = Some(ProxyProtocol::V1);
    let target = prepare(target);
    let mut run = run_prepared(&target).await;
    look(&mut run, &target, LONG).await;
    assert_eq!(step(&run).tls_fault, Some(TlsFault::SelfSigned), "{:?}", run.failing_step());
    let heard = server.heard().await;
    let headers: Vec<_> = heard.iter().filter(|line| line.starts_with("PROXY TCP4 127.0.0.2 127.0.0.1 ")).collect();
    assert_eq!(headers.len(), 2, "{heard:?}");
}

#[tokio::test]
async fn one_that_waits_ends_at_once_when_the_process_is_to_stop() {
    let pem = Pem::self_signed(&["127.0.0.1"], 2020, 2040);
    let (sender, received) = mpsc::channel();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let call = Box::new(move |_: &str| sender.send(()).unwrap());
    let server = Script::play_on(listener, "tls 1.3\nnext\nhello\ncall silent\nsilence", Some(pem), call);
    let target = prepare(target(server.address, Security::Tls));
    let before = run_prepared(&target).await;
    let mut run = before.clone();
    let (stop, cancel) = watch::channel(false);
    let mut looking = Box::pin(inspect(&mut run, (&target, &target.target().accounts[0], None), LONG, cancel));
    while received.try_recv().is_err() {
        assert!(looking.as_mut().now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    stop.send_replace(true);
    assert!(looking.as_mut().now_or_never().is_some());
    drop(looking);
    assert_eq!(run, before);
}

#[tokio::test]
async fn probe_has_it_in_what_it_prints_and_the_remedy_is_for_the_certificate_that_was_refused() {
    let root = Authority::root();
    let old = root.below("old issuer", |parameters| parameters.not_after = rcgen::date_time_ymd(2021, 1, 1));
    let front = front(&old.issue(&usual())).await;
    let (url, file) = (format!("imaps://someone@{}", front.address), root.file());
    let ca = file.path().to_str().unwrap();
    let program = |more: &[&str]| {
        let arguments = ["probe", &url, "--server-name", HOST, "--ca-file", ca, "--output", "json"];
        Program::new([&arguments[..], more].concat()).env("IMAPTRACE_PASSWORD", "planted-2f81")
    };
    let output = program(&[]).run().await;
    let run = run_of(&output.stdout);
    assert_eq!(step(&run).tls_fault, Some(TlsFault::IntermediateExpired));
    assert!(facts(&run).read_at.is_some());
    assert!(output.stderr.contains("replace the intermediate certificate"), "{output:?}");
    assert_eq!(front.heard().len(), 2);
    // Three runs, one look.
    let output = program(&["--count", "3", "--every", "1ms"]).run().await;
    assert_eq!((output.stdout.lines().count(), front.heard().len()), (3, 6), "{output:?}");
}

#[test]
fn an_agent_looks_once_and_its_spans_have_it() {
    let receiver = Receiver::http();
    let runtime = runtime();
    let root = Authority::root();
    let file = root.file();
    let (agent, front) = runtime.block_on(async {
        let front = front(&root.issue(&expired())).await;
        let target = format!(
            "[[targets]]\nname = \"old\"\nurl = \"imaps://someone@{}\"\nserver_name = \"{HOST}\"\nca_file = \"{}\"\n\
             password = {{ env = \"PROBE\" }}\ninterval = \"1600ms\"\ntimeout = \"1500ms\"\n",
            front.address,
            file.path().display()
        );
        (start(&(otlp(&receiver.url(), "http/protobuf") + &target)), front)
    });
    receiver.wait(|inbox| roots(inbox).len() >= 2);
    let (roots, spans) = receiver.look(|inbox| (roots(inbox), inbox.spans()));
    let (_, log) = runtime.block_on(stop(agent, Signal::SIGTERM));
    let steps: Vec<_> = spans.iter().filter(|span| span.name == "tls").collect();
    assert_eq!(steps.len(), roots.len());
    for step in &steps {
        assert_eq!(value(step, "imaptrace.tls.fault"), "leaf_expired");
        assert_eq!(value(step, "tls.server.not_after"), "2021-01-01T00:00:00Z");
        assert_eq!(value(step, "tls.server.not_before"), "2020-01-01T00:00:00Z");
        assert_eq!(value(step, "imaptrace.tls.certificate.refused_depth"), "0");
        assert_eq!(value(step, "imaptrace.tls.certificate.key"), "EC 256");
        assert!(!value(step, "imaptrace.tls.certificate.read_at").is_empty());
        assert!(value(step, "imaptrace.tls.certificate.chain").contains("CN=test server"));
    }
    let runs = log.iter().filter(|line| line["message"].as_str().is_some_and(|text| text.contains("did not pass")));
    let runs: Vec<_> = runs.collect();
    assert!(runs.iter().all(|line| line["text"].as_str().unwrap().contains("expired on 2021-01-01")), "{runs:?}");
    assert_eq!(front.heard().len(), runs.len() + 1, "one look for all runs");
}
