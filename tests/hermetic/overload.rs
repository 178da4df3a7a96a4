//! A process that may open too few files: that is its own trouble, and says nothing of any server.

use std::collections::BTreeSet;

use imaptrace::demo::{Delays, DemoServer, DemoSettings};
use imaptrace_record::{ErrorType, Run, RunOutcome, StepName};
use nix::sys::signal::Signal;

use crate::{
    agent::{stop, target, whole},
    command_line::refusing,
    support::{
        names::{NO_ERROR, NameServer},
        program::Program,
    },
};

/// Enough for a whole run, by far.
const PLENTY: u32 = 40;

#[tokio::test]
async fn however_few_files_a_probe_may_open_it_blames_no_server() {
    let server =
        DemoServer::start(DemoSettings { tls: true, delays: Delays::NONE, ..DemoSettings::default() }).await.unwrap();
    let names = NameServer::start(|question| vec![question.answer(NO_ERROR, &["127.0.0.1".parse().unwrap()])]).await;
    let name_server = names.dns().servers[0].to_string();
    let url = format!("imaps://demo@mail.example.test:{}", server.address().port());
    let mut steps = BTreeSet::new();
    let mut passed = false;
    // With fewer not even the libraries are loaded.
    for most in 5..=PLENTY {
        let output = Program::new(["probe", &url, "--server-name", "localhost", "--output", "json"])
            .env("IMAPTRACE_PASSWORD", "demo-password")
            // The operator's roots, which are read one by one when they are needed.
            .env("SSL_CERT_FILE", server.ca_file())
            .env("IMAPTRACE__DNS__SERVERS", &name_server)
            .open_files(most)
            .run()
            .await;
        assert!(!output.stderr.contains("panicked"), "{most}: {output:?}");
        let Ok(run) = serde_json::from_str::<Run>(output.stdout.trim()) else {
            // What other tests open meanwhile may be inherited: then the loader finds no room.
            let not_loaded = output.code == Some(127) && output.stderr.contains("while loading shared libraries");
            // A warning about the CA bundle may stand before it.
            let is_error = |line: &str| line.starts_with("error: cannot ");
            let not_begun = output.code == Some(1) && output.stderr.lines().any(is_error);
            assert!(not_loaded || not_begun, "{most}: {output:?}");
            continue;
        };
        match run.error_type {
            // The demo's server knows another password; who gets that far has all that it needs.
            Some(ErrorType::AuthFailed) => passed = true,
            class => {
                assert_eq!((run.outcome, class), (RunOutcome::Void, Some(ErrorType::OverloadFd)), "{most}: {output:?}");
                steps.insert(run.failed_step.unwrap());
            }
        }
    }
    assert!(passed, "{PLENTY} files are not enough");
    assert_eq!(steps.iter().map(StepName::as_str).collect::<Vec<_>>(), ["resolve", "tls"], "where it showed");
}

#[test]
fn an_agent_keeps_fewer_runs_in_flight_than_it_may_open_files_and_says_so() {
    let runtime = crate::agent::runtime();
    let (_held, port) = refusing();
    runtime.block_on(async {
        let program = Program::new(["agent", "--config", "imaptrace.toml"]).env("PROBE", "secret").open_files(100);
        std::fs::write(program.home().join("imaptrace.toml"), whole(&target("gone", port, "400ms", "300ms"))).unwrap();
        let mut agent = program.start();
        let details = agent.stderr_line("fewer runs at once").await;
        assert!(details.contains("\"asked\":256") && details.contains("\"runs\":18"), "{details}");
        agent.stderr_line("connect_refused").await;
        stop(agent, Signal::SIGTERM).await;
    });
}
