//! `imaptrace baseline accept`: beside an agent that runs, without one, and with names and directories that are wrong.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    agent::{lines, runtime, start, stop, target, whole},
    command_line::Listener,
    support::program::{Output, Program},
};

/// A configuration with this state directory, and two targets of which the first has two accounts.
fn config(state: &Path, address: impl std::fmt::Display + Copy) -> String {
    let state = format!("[state]\ndir = \"{}\"\n[latency]\nmin_runs = 5\n", state.display());
    let second = "[[targets.accounts]]\nname = \"second\"\nuser = \"other\"\npassword = { env = \"PROBE\" }\n";
    // Below the ten logins a second that one server gets.
    let interval = |name| target(name, address, "400ms", "390ms");
    state + &interval("mail") + second + &interval("rest")
}

async fn accept(config: &Path, name: &str) -> Output {
    Program::new(["baseline", "accept", "--config", config.to_str().unwrap(), name]).run().await
}

/// The names of requests in a state directory, in whatever state they are.
fn requests(state: &Path) -> Vec<String> {
    let names = fs::read_dir(state).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("baseline-accept-")).collect()
}

/// For each account of the saved history, the number of values of its first step.
fn values(state: &Path) -> Vec<(String, usize)> {
    let text = fs::read_to_string(state.join("latency.jsonl")).unwrap();
    let mut values: Vec<_> = text
        .lines()
        .skip(1)
        .map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            let name = format!("{}/{}", line["target"].as_str().unwrap(), line["account"].as_str().unwrap());
            (name, line["steps"][0]["values_us"].as_array().unwrap().len())
        })
        .collect();
    values.sort();
    values
}

fn accepted(log: &[Value]) -> Vec<(String, Option<String>)> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let lines = lines(log, "the present is taken as usual");
    lines.iter().map(|line| (text(&line["target"]).unwrap(), text(&line["account"]))).collect()
}

#[test]
fn a_running_agent_takes_the_present_of_the_named_account_as_usual_and_the_next_one_what_was_left_for_it() {
    let state = tempfile::tempdir().unwrap();
    let runtime = runtime();
    runtime.block_on(async {
        let mut server = Listener::willing().await;
        let mut agent = start(&config(state.path(), server.address));
        // Of each account more runs than stay.
        server.wait_for_command("LOGOUT", 30).await;
        let file = agent.home().join("imaptrace.toml");
        let output = accept(&file, "mail/second").await;
        let taken = "the agent has taken the present of mail/second as usual\n";
        assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (Some(0), taken, ""));
        agent.stderr_line("the present is taken as usual").await;
        let (output, log) = stop(agent, Signal::SIGTERM).await;
        assert_eq!(accepted(&log), [("mail".to_owned(), Some("second".to_owned()))], "{output:?}");
        assert_eq!(requests(state.path()), Vec::<String>::new());
    });
    let before = values(state.path());
    let of = |values: &[(String, usize)], name: &str| values.iter().find(|(one, _)| one == name).unwrap().1;
    assert!(of(&before, "mail/second") < of(&before, "mail/default"), "{before:?}");

    // Without an agent nothing changes until the next one starts.
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("imaptrace.toml");
    runtime.block_on(async {
        let mut server = Listener::silent_at("LIST").await;
        let config = config(state.path(), server.address);
        fs::write(&file, whole(&config)).unwrap();
        let output = accept(&file, "mail").await;
        let names = requests(state.path());
        let [request] = &names[..] else { panic!("{names:?}") };
        let left = "no agent is running: the next one takes the present of mail as usual when it starts; remove ";
        let left = format!("{left}{} to withdraw it\n", state.path().join(request).display());
        assert_eq!((output.code, &output.stdout, output.stderr.as_str()), (Some(0), &left, ""));
        let mode = fs::metadata(state.path().join(request)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode, values(state.path())), (0o600, before.clone()));

        let agent = start(&config);
        // No run of this one passes, so that nothing enters.
        server.wait_for_command("LIST", 1).await;
        let (output, log) = stop(agent, Signal::SIGTERM).await;
        assert_eq!(accepted(&log), [("mail".to_owned(), None)], "{output:?}");
    });
    assert_eq!(requests(state.path()), Vec::<String>::new());
    let after = values(state.path());
    assert_eq!((of(&after, "mail/default"), of(&after, "mail/second")), (5, 5), "{before:?}");
    assert_eq!(of(&after, "rest/default"), of(&before, "rest/default"));
}

#[tokio::test]
async fn a_wrong_name_is_answered_with_those_that_there_are_and_nothing_is_left_behind() {
    let (home, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = home.path().join("imaptrace.toml");
    fs::write(&file, whole(&config(state.path(), "127.0.0.1:1"))).unwrap();
    for (name, says) in [
        ("mial", &["has no target \"mial\"", "did you mean \"mail\"? it has mail, rest"][..]),
        ("nowhere/default", &["has no target \"nowhere\"", "help: it has mail, rest"]),
        ("mail/secnod", &["target \"mail\" has no account \"secnod\"", "did you mean \"second\"?", "default, second"]),
        ("mail/", &["target \"mail\" has no account \"\""]),
        ("\u{1b}[31m", &["has no target \"\\x1b[31m\""]),
    ] {
        let output = accept(&file, name).await;
        assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{name}: {output:?}");
        assert!(says.iter().all(|text| output.stderr.contains(text)), "{name}: {output:?}");
    }
    assert_eq!(fs::read_dir(state.path()).unwrap().count(), 0);
    // Many are not all listed.
    let many: String =
        (0..30).map(|number| target(&format!("mail{number:02}"), "127.0.0.1:1", "1s", "900ms")).collect();
    fs::write(&file, whole(&format!("[state]\ndir = \"{}\"\n{many}", state.path().display()))).unwrap();
    let output = accept(&file, "nowhere").await;
    assert!(output.stderr.contains("mail09 and 20 more: imaptrace check --config "), "{output:?}");
}

#[tokio::test]
async fn without_a_state_directory_or_a_configuration_it_says_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("imaptrace.toml");
    let one = target("mail", "127.0.0.1:1", "1s", "900ms");
    let write = |state: Option<PathBuf>| {
        let state = state.map(|state| format!("[state]\ndir = \"{}\"\n", state.display())).unwrap_or_default();
        fs::write(&file, whole(&(state + &one))).unwrap();
    };
    write(None);
    let output = accept(&file, "mail").await;
    assert_eq!(output.code, Some(2), "{output:?}");
    assert!(
        output.stderr.contains("there is no state directory") && output.stderr.contains("STATE_DIRECTORY="),
        "{output:?}"
    );
    write(Some(home.path().join("missing")));
    let output = accept(&file, "mail").await;
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("missing: No such file"), "{output:?}");
    assert!(output.stderr.contains("help: start the agent with this configuration first"), "{output:?}");
    let output = accept(&home.path().join("other.toml"), "mail").await;
    assert!(output.code == Some(2) && output.stderr.contains("other.toml"), "{output:?}");
}

#[tokio::test]
async fn the_help_of_baseline_is_as_it_was() {
    let alone = Program::new(["baseline"]).run().await;
    let help = Program::new(["baseline", "--help"]).run().await;
    assert_eq!((alone.stderr, help.code), (help.stdout.clone(), Some(0)));
    insta::assert_snapshot!("help_baseline", help.stdout);
    let help = Program::new(["baseline", "accept", "--help"]).run().await;
    assert!(help.stdout.lines().all(|line| line.chars().count() <= 100), "{help:?}");
    insta::assert_snapshot!("help_baseline_accept", help.stdout);
}
