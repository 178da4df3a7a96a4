//! `probe` of an agent's accounts, and of several servers.

use std::fs;

use imaptrace::demo::{Delays, DemoServer, DemoSettings};
use imaptrace_record::{ErrorType, Run, RunOutcome};

use crate::{
    command_line::{refusing, run_of},
    support::program::{Output, Program},
};

async fn demo() -> DemoServer {
    DemoServer::start(DemoSettings { delays: Delays::NONE, ..DemoSettings::default() }).await.unwrap()
}

/// Two accounts at the demo, one with a mailbox of its own that is not there, and one where nobody listens.
fn config(server: &DemoServer, gone: std::net::SocketAddr, password: &str) -> String {
    let scheme = if DemoSettings::default().tls { "imaps" } else { "imap" };
    format!(
        "[otlp]\nendpoint = \"http://127.0.0.1:1\"\n[limits]\nruns_in_flight_per_server = 1\n\
         [[targets]]\nname = \"demo\"\nurl = \"{scheme}://{}\"\nca_file = {:?}\nuser = \"demo\"\npassword = {password}\n\
         [[targets.accounts]]\nname = \"absent\"\nmailbox = \"Nowhere\"\n\
         [[targets]]\nname = \"gone\"\nurl = \"imap://{gone}\"\nsecurity = \"none\"\nuser = \"demo\"\npassword = {password}\n",
        server.address(),
        server.ca_file().display().to_string()
    )
}

/// `probe --config` with these words, in a directory with this file.
async fn probe(text: &str, words: &[&str]) -> Output {
    let program = Program::new([&["probe", "--config", "imaptrace.toml"], words].concat()).env("DEMO", "demo");
    fs::write(program.home().join("imaptrace.toml"), text).unwrap();
    program.run().await
}

#[tokio::test]
async fn all_accounts_of_a_configuration_are_probed_once_with_their_own_settings() {
    let (server, (_held, gone)) = (demo().await, refusing());
    let text = config(&server, gone, "{ env = \"DEMO\" }");
    let output = probe(&text, &["--all", "--output", "json"]).await;
    assert_eq!((output.code, output.stderr.as_str()), (Some(1), ""), "{output:?}");
    let mut runs: Vec<Run> = output.stdout.lines().map(run_of).collect();
    runs.sort_by_key(|run| (run.target.clone(), run.account.clone()));
    let results: Vec<_> =
        runs.iter().map(|run| (run.target.as_str(), run.account.as_str(), run.outcome, run.error_type)).collect();
    assert_eq!(
        results,
        [
            ("demo", "absent", RunOutcome::Failed, Some(ErrorType::No)),
            ("demo", "default", RunOutcome::Passed, None),
            ("gone", "default", RunOutcome::Failed, Some(ErrorType::ConnectRefused)),
        ]
    );
    // The same as a table.
    let output = probe(&text, &["--all"]).await;
    assert_eq!(output.code, Some(1), "{output:?}");
    for part in ["demo/default", "demo/absent", "gone/default", "\n3 runs: 1 passed, 2 failed, 0 void\n"] {
        assert!(output.stdout.contains(part), "{part}: {output:?}");
    }
    let output = probe(&text, &["demo", "--output", "json"]).await;
    assert_eq!(output.stdout.lines().count(), 2, "{output:?}");
}

#[tokio::test]
async fn one_account_of_a_configuration_is_probed_as_a_server_is() {
    let (server, (_held, gone)) = (demo().await, refusing());
    let text = config(&server, gone, "{ env = \"DEMO\" }");
    let output = probe(&text, &["demo/default"]).await;
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{output:?}");
    assert!(output.stdout.contains("SELECT") && output.stdout.contains("FETCH"), "{output:?}");
    let output = probe(&text, &["demo/default", "--output", "nagios", "-w", "20"]).await;
    assert!(output.stdout.starts_with("IMAP OK"), "{output:?}");
    let output = probe(&text, &["demo/default", "--count", "2", "--every", "0", "--output", "json"]).await;
    assert_eq!((output.code, output.stdout.lines().count()), (Some(0), 2), "{output:?}");
}

#[tokio::test]
async fn outside_the_service_a_credential_is_read_from_a_directory() {
    let (server, (_held, gone)) = (demo().await, refusing());
    let text = config(&server, gone, "{ credential = \"mail\" }");
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("mail"), "demo\n").unwrap();
    let place = directory.path().display().to_string();
    let output = probe(&text, &["demo/default", "--credentials", &place]).await;
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{output:?}");
    let output = probe(&text, &["demo/default", "--credentials", "/nowhere"]).await;
    assert_eq!(output.code, Some(2), "{output:?}");
    assert!(
        output.stderr.starts_with("error: demo/default: ") && output.stderr.contains("/nowhere/mail"),
        "{output:?}"
    );
}

#[tokio::test]
async fn what_cannot_be_meant_says_what_and_what_to_do() {
    let (server, (_held, gone)) = (demo().await, refusing());
    let text = config(&server, gone, "{ env = \"DEMO\" }");
    for (words, says) in [
        (&["dmeo"][..], "imaptrace.toml has no target \"dmeo\"\n  help: did you mean \"demo\"?"),
        (&["demo/absnt"], "target \"demo\" has no account \"absnt\"\n  help: did you mean \"absent\"?"),
        (&["demo", "--count", "2"], "--count: it is for one account, and 2 are named"),
        (&["--all", "--output", "json", "--verbose"], "--verbose: it is for one account"),
        (&["demo", "--user", "x"], "'--config <FILE>' cannot be used with '--user <NAME>'"),
        (&["demo", "--all"], "cannot be used with"),
        (&[], "required"),
    ] {
        let output = probe(&text, words).await;
        assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{words:?}: {output:?}");
        assert!(output.stderr.contains(says), "{words:?}: {output:?}");
    }
    let forwards = "[server_events]\nproc = true\nusers = [\"probe*\"]\nmail_log = \"journal\"\n\
                    forward = \"https://a.example:8144/dovecot\"\nsecret = { env = \"DEMO\" }\n";
    let output = probe(forwards, &["--all"]).await;
    assert!(output.code == Some(2) && output.stderr.contains("imaptrace.toml has no target"), "{output:?}");
    let output = Program::new(["probe", "host", "--credentials", "/c"]).run().await;
    assert!(output.code == Some(2) && output.stderr.contains("--credentials"), "{output:?}");
}

#[tokio::test]
async fn several_servers_share_flags_and_password_and_a_word_that_may_be_one_is_not_looked_up() {
    let ((_one, first), (_two, second)) = (refusing(), refusing());
    let urls = [first, second].map(|address| format!("imap://me@{address}"));
    let words = ["probe", &urls[0], &urls[1], "--security", "none", "--output", "json"];
    let output = Program::new(words).env("IMAPTRACE_PASSWORD", "x").run().await;
    assert_eq!((output.code, output.stdout.lines().count()), (Some(1), 2), "{output:?}");
    let output = Program::new(["probe", "mail.example.org", "planted"]).env("IMAPTRACE_PASSWORD", "x").run().await;
    assert_eq!(output.code, Some(2), "{output:?}");
    assert!(output.stderr.contains("it may be a password") && !output.stderr.contains("planted"), "{output:?}");
}

#[tokio::test]
async fn check_probes_what_it_has_checked() {
    let (server, (_held, gone)) = (demo().await, refusing());
    let check = |text: String| {
        let program = Program::new(["check", "--config", "imaptrace.toml", "--probe"]).env("DEMO", "demo");
        fs::write(program.home().join("imaptrace.toml"), text).unwrap();
        program
    };
    let text = config(&server, gone, "{ env = \"DEMO\" }");
    let output = check(text.clone()).run().await;
    assert_eq!(output.code, Some(1), "{output:?}");
    let (settings, runs) = output.stdout.split_once("demo/").unwrap();
    assert!(settings.contains("targets: 2, accounts: 3") && runs.contains("3 runs: 1 passed"), "{output:?}");
    let output = Program::new(["check", "--config", "-", "--probe"]).run().await;
    assert!(output.code == Some(2) && output.stderr.starts_with("error: --probe: - is standard input"), "{output:?}");
    let output = check(text.replace("[limits]", "[limitz]")).run().await;
    assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{output:?}");
}
