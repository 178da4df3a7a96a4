//! What the agent has from files while they change: in use without a signal, and without a start that moves.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use imaptrace::demo::{Delays, DemoServer, DemoSettings};
use nix::sys::signal::Signal;
use opentelemetry_proto::tonic::trace::v1::Span;

use crate::{
    agent::{lines, otlp, roots, runtime, start, stop, value, whole},
    support::{
        otlp::{Inbox, Receiver},
        program::{Program, Running, wait_until},
    },
};

/// A server by TLS whose certificate nobody trusts but who is told to.
async fn server() -> DemoServer {
    DemoServer::start(DemoSettings { tls: true, delays: Delays::NONE, ..DemoSettings::default() }).await.unwrap()
}

fn target(server: &DemoServer, more: &str) -> String {
    format!(
        "[[targets]]\nname = \"mail\"\nurl = \"imaps://demo@localhost:{}\"\npassword = {{ env = \"DEMO\" }}\naddress = \"v4\"\n\
         interval = \"400ms\"\ntimeout = \"350ms\"\n{more}\n",
        server.address().port()
    )
}

/// Puts content in place of a file's, in one piece.
fn put(path: &Path, content: &[u8]) {
    let beside = path.with_extension("new");
    fs::write(&beside, content).unwrap();
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(beside, path).unwrap();
}

fn another_root() -> String {
    rcgen::generate_simple_self_signed(["elsewhere.example".to_owned()]).unwrap().cert.pem()
}

/// How the runs went that arrived since `before` of them had: past the handshake, or not for want of trust.
fn since(inbox: &Inbox, before: usize) -> Vec<bool> {
    let trusted = |root: &Span| match value(root, "error.type").as_str() {
        // The account of this server has another password.
        "" | "auth_failed" => true,
        "tls_cert_untrusted" => false,
        other => panic!("{other}"),
    };
    roots(inbox).iter().skip(before).map(trusted).collect()
}

#[test]
fn new_roots_of_a_target_and_a_new_header_are_in_use_without_a_reload() {
    let receiver = Receiver::http();
    let runtime = runtime();
    let (agent, server) = runtime.block_on(async {
        let server = server().await;
        let headers = "[otlp.headers]\nx-token = { file = \"token\" }\n";
        let config = otlp(&receiver.url(), "http/protobuf") + headers + &target(&server, "ca_file = \"ca.pem\"");
        let program = Program::new(["agent", "--config", "imaptrace.toml"]).env("DEMO", "demo");
        put(&program.home().join("token"), b"first");
        put(&program.home().join("ca.pem"), another_root().as_bytes());
        put(&program.home().join("imaptrace.toml"), whole(&config).as_bytes());
        (program.start(), server)
    });
    receiver.wait(|inbox| !since(inbox, 0).is_empty());
    assert!(receiver.look(|inbox| since(inbox, 0)).iter().all(|trusted| !trusted));
    put(&agent.home().join("ca.pem"), &fs::read(server.ca_file()).unwrap());
    receiver.wait(|inbox| since(inbox, 0).contains(&true));
    // Of no use: what was good stays.
    put(&agent.home().join("ca.pem"), b"no certificate");
    put(&agent.home().join("token"), b"second");
    let token = |inbox: &Inbox| inbox.traces.last().is_some_and(|request| request.headers["x-token"] == "second");
    receiver.wait(token);
    let before = receiver.look(|inbox| roots(inbox).len());
    receiver.wait(|inbox| since(inbox, before).len() >= 3);
    assert!(receiver.look(|inbox| since(inbox, before)).iter().all(|trusted| *trusted), "the last good roots stay");
    let (output, log) = runtime.block_on(stop(agent, Signal::SIGTERM));
    let changed = lines(&log, "has changed and is in use");
    assert_eq!(
        changed.iter().filter(|line| line["message"].as_str().unwrap().contains("ca.pem")).count(),
        1,
        "{output:?}"
    );
    assert!(changed.iter().any(|line| line["message"].as_str().unwrap().contains("exporter of traces")), "{output:?}");
    assert_eq!(lines(&log, "cannot be used as it is now").len(), 1, "{output:?}");
    assert!(lines(&log, "configuration reloaded").is_empty(), "{output:?}");
    assert!(!output.stderr.contains("second"), "{output:?}");
}

/// The directories that were made of bundles.
fn made(place: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(place).unwrap().map(|entry| entry.unwrap());
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("imaptrace-ca-"))
        .map(|it| it.path())
        .collect()
}

#[test]
fn a_directory_of_roots_is_made_anew_when_it_is_gone_and_what_a_killed_process_left_goes() {
    let receiver = Receiver::http();
    let runtime = runtime();
    let place = tempfile::tempdir().unwrap();
    let (bundle, tmp) = (place.path().join("bundle.pem"), place.path().join("tmp"));
    fs::create_dir(&tmp).unwrap();
    let server = runtime.block_on(server());
    put(&bundle, &fs::read(server.ca_file()).unwrap());
    let config = otlp(&receiver.url(), "http/protobuf") + &target(&server, "");
    let begin = || -> Running {
        let program = Program::new(["agent", "--config", "imaptrace.toml"])
            .env("DEMO", "demo")
            .env("SSL_CERT_FILE", &bundle)
            .env("TMPDIR", &tmp);
        put(&program.home().join("imaptrace.toml"), whole(&config).as_bytes());
        runtime.block_on(async { program.start() })
    };
    let agent = begin();
    receiver.wait(|inbox| since(inbox, 0).len() >= 2);
    let [directory] = &made(&tmp)[..] else { panic!("{:?}", made(&tmp)) };
    fs::remove_dir_all(directory).unwrap();
    let before = receiver.look(|inbox| roots(inbox).len());
    receiver.wait(|inbox| since(inbox, before).len() >= 4);
    assert!(receiver.look(|inbox| since(inbox, 0)).iter().all(|trusted| *trusted), "a run found no roots");
    put(&bundle, another_root().as_bytes());
    receiver.wait(|inbox| since(inbox, before).last() == Some(&false));
    put(&bundle, &fs::read(server.ca_file()).unwrap());
    receiver.wait(|inbox| since(inbox, before).last() == Some(&true));
    let [first] = &made(&tmp)[..] else { panic!("{:?}", made(&tmp)) };
    // Beside one that lives, whose directory stays.
    let other = begin();
    wait_until("a second directory", || (made(&tmp).len() == 2).then_some(()));
    assert!(first.exists());
    agent.signal(Signal::SIGKILL);
    runtime.block_on(agent.finish());
    assert!(first.exists());
    let last = begin();
    wait_until("the dead process's directory to go", || (!first.exists()).then_some(()));
    wait_until("the third's directory", || (made(&tmp).len() == 2).then_some(()));
    for agent in [other, last] {
        runtime.block_on(stop(agent, Signal::SIGTERM));
    }
    assert_eq!(made(&tmp), Vec::<PathBuf>::new());
}

#[test]
fn an_otlp_header_that_cannot_be_followed_is_named_at_a_reload() {
    let receiver = Receiver::http();
    let runtime = runtime();
    let (_held, port) = crate::command_line::refusing();
    let headers = "[otlp.headers]\nx-token = { env = \"PROBE\" }\n";
    let config = otlp(&receiver.url(), "http/protobuf") + headers + &crate::agent::target("gone", port, "4s", "3900ms");
    let log = runtime.block_on(async {
        let mut agent = start(&config);
        agent.stderr_line("imaptrace is up").await;
        agent.signal(Signal::SIGHUP);
        agent.stderr_line("configuration reloaded").await;
        stop(agent, Signal::SIGTERM).await.1
    });
    let [line] = lines(&log, "a new value needs a restart")[..] else { panic!("{log:?}") };
    assert_eq!(line["headers"], "x-token");
}
