//! Agents that share out the targets of one configuration by `shard`.

use std::{collections::BTreeSet, fmt::Write as _};

use imaptrace::{
    config::{self, Config, Problems, ShardScope, Sources},
    plan::shard_of,
};
use nix::sys::signal::Signal;

use crate::{
    agent::{lines, runtime, start, stop, target},
    command_line::Listener,
    reload::reload,
    support::program::Program,
};

fn targets() -> String {
    let mut text = String::new();
    for number in 0..100 {
        writeln!(
            text,
            "[[targets]]\nname = \"t{number}\"\nurl = \"imaps://mail{}.example.org\"\nuser = \"u{number}\"\npassword = {{ env = \"P\" }}",
            number / 2
        )
        .unwrap();
    }
    text
}

fn load(shard: &str, shards: ShardScope) -> Result<Config, Problems> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("imaptrace.toml");
    std::fs::write(&path, format!("[agent]\nshard = \"{shard}\"\n{}", targets())).unwrap();
    config::load(&Sources { file: Some(path), shards, ..Sources::default() })
}

fn names(config: &Config) -> BTreeSet<String> {
    config.targets.iter().map(|target| target.name.clone()).collect()
}

fn on(host: &str) -> ShardScope {
    ShardScope::OfHost(host.to_owned())
}

#[test]
fn each_target_is_of_one_shard_and_both_of_a_server_are_of_the_same() {
    let mut all = BTreeSet::new();
    for index in 0..5 {
        let config = load(&format!("{index}/5"), ShardScope::OfNoHost).unwrap();
        assert_eq!(config.targets.len() + config.other_targets, 100);
        for target in &config.targets {
            assert_eq!(shard_of(&target.endpoint.to_string(), 5), index);
            let number: usize = target.name.trim_start_matches('t').parse().unwrap();
            assert!(names(&config).contains(&format!("t{}", number ^ 1)), "{}", target.name);
        }
        all.extend(names(&config));
    }
    assert_eq!(all.len(), 100);
    assert_eq!(load("0/1", ShardScope::OfNoHost).unwrap().targets.len(), 100);
    assert_eq!(load("3/5", ShardScope::All).unwrap().targets.len(), 100);
}

#[test]
fn the_ordinal_is_that_of_the_agents_host_and_is_open_elsewhere() {
    let third = load("3/5", ShardScope::OfNoHost).unwrap();
    assert_eq!(names(&load("ordinal/5", on("imaptrace-3")).unwrap()), names(&third));
    let open = load("ordinal/5", ShardScope::OfNoHost).unwrap();
    assert_eq!(open.targets.len(), 100);
    assert!(open.warnings.iter().any(|warning| warning.what.contains("the targets of all shards are checked")));
    // `probe --config` and `canary fill --config` depend on no host.
    let all = load("ordinal/5", ShardScope::All).unwrap();
    assert_eq!((all.targets.len(), all.shard), (100, None));
    assert!(!all.warnings.iter().any(|warning| warning.key == "agent.shard"), "{:?}", all.warnings);
}

#[test]
fn a_shard_that_there_is_not_is_an_error_that_says_which_there_are() {
    for (shard, host, what) in [
        ("5/5", "a", "agent.shard: there is no shard 5 of 5: expected 0 to 4"),
        ("ordinal/5", "imaptrace-7", "agent.shard: there is no shard 7 of 5: expected 0 to 4"),
        ("ordinal/5", "probe", "agent.shard: the name of this host, \"probe\", does not end in -NUMBER"),
        ("2", "a", "agent.shard: \"2\" is no shard: expected \"I/N\", such as \"0/5\""),
        ("1/0", "a", "agent.shard: \"0\" is no number of shards: expected 1 to 256"),
        ("1/257", "a", "agent.shard: \"257\" is no number of shards: expected 1 to 256"),
        ("-1/5", "a", "agent.shard: \"-1\" is no shard: expected a number or \"ordinal\""),
        ("/", "a", "agent.shard: \"\" is no number of shards"),
    ] {
        let problems = load(shard, on(host)).unwrap_err().to_string();
        assert!(problems.contains(&format!("imaptrace.toml:2:1: {what}")), "{shard} on {host}: {problems}");
    }
}

#[tokio::test]
async fn check_prints_the_shard_and_what_is_of_the_others() {
    let program = Program::new(["--version"]);
    let path = program.home().join("imaptrace.toml");
    std::fs::write(&path, targets()).unwrap();
    let output =
        Program::new(["check", "--config", path.to_str().unwrap()]).env("IMAPTRACE__AGENT__SHARD", "1/4").run().await;
    assert_eq!(output.code, Some(0), "{output:?}");
    let line = output.stdout.lines().find(|line| line.contains("of shard 1/4; targets of other shards: "));
    let others: usize = line.unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(output.stdout.starts_with(&format!("targets: {}, ", 100 - others)), "{}", output.stdout);
}

#[test]
fn two_agents_probe_each_server_once_between_them_and_a_reload_moves_it() {
    let runtime = runtime();
    runtime.block_on(async {
        let mut server = Listener::willing().await;
        let mine = shard_of(&server.address.to_string(), 2);
        let text = target("one", server.address, "300ms", "290ms");
        // In `[agent]`, with which the configuration begins.
        let with = |shard: u32| format!("shard = \"{shard}/2\"\n[http]\nlisten = \"off\"\n{text}");
        let mut of_other = start(&with(1 - mine));
        of_other.stderr_line("imaptrace is up").await;
        let of_server = start(&with(mine));
        server.wait_for_command("LOGOUT", 2).await;
        stop(of_server, Signal::SIGTERM).await;
        let after = server.count("LOGIN");
        // Its shard changes: the server is its own from now on.
        let line = reload(&mut of_other, &with(mine)).await;
        assert!(line.contains("\"added\":1") && line.contains(&format!("\"shard\":\"{mine}/2\"")), "{line}");
        server.wait_for_command("LOGIN", after + 1).await;
        let (_, log) = stop(of_other, Signal::SIGTERM).await;
        let up = lines(&log, "imaptrace is up");
        assert_eq!((&up[0]["targets"], &up[0]["shard"]), (&0.into(), &format!("{}/2", 1 - mine).into()));
    });
}
