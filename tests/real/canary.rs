//! A canary mailbox on a real Dovecot: filled, interrupted, gone on with, probed; and a mailbox that is somebody's own.

use std::path::Path;

use nix::sys::signal::Signal;

use crate::support::{
    dovecot::{Dovecot, EMPTY, Options, USER1},
    program::{Output, Program, wait_until},
};

fn program(server: &Dovecot, command: &[&str], (user, password): (&str, &str), more: &[&str]) -> Program {
    let url = format!("imaps://localhost:{}", server.tls);
    let ca = server.ca.to_str().unwrap();
    let arguments = [command, &["-u", user, "--ca-file", ca, "--address", "v4"], more, &[&url]].concat();
    Program::new(arguments).env("IMAPTRACE_PASSWORD", password)
}

async fn fill(server: &Dovecot, user: (&str, &str), more: &[&str]) -> Output {
    program(server, &["canary", "fill"], user, more).run().await
}

/// Names of the messages in a Maildir directory: the part before the flags, and the flags.
fn messages(directory: &Path) -> Vec<(String, String)> {
    let files = ["cur", "new"].into_iter().filter_map(|part| std::fs::read_dir(directory.join(part)).ok()).flatten();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names
        .map(|name| name.split_once(":2,").map_or_else(|| (name.clone(), String::new()), |(a, b)| (a.into(), b.into())))
        .collect()
}

#[tokio::test]
async fn a_fill_is_interrupted_goes_on_and_is_probed() {
    let server = Dovecot::start(&Options { messages: 5, ..Options::default() });
    let directory = server.maildir(EMPTY.0).join(".Canary &- Co");
    let name = ["--mailbox", "Canary & Co", "--messages", "300"];
    let missing = fill(&server, EMPTY, &name).await;
    assert_eq!(missing.code, Some(1), "{missing:?}");
    assert!(missing.stderr.contains("there is no mailbox Canary & Co") && missing.stderr.contains("--create"));

    let running = program(&server, &["canary", "fill"], EMPTY, &[&name[..], &["--create"]].concat()).start();
    wait_until("some messages are there", || (messages(&directory).len() >= 20).then_some(()));
    running.signal(Signal::SIGINT);
    let stopped = running.finish().await;
    let held = messages(&directory).len();
    assert!((20..300).contains(&held), "{held}: {stopped:?}");
    assert!(stopped.stderr.contains(&format!("{held} of 300 messages are in Canary & Co")), "{stopped:?}");
    assert_eq!((stopped.code, stopped.stdout.as_str()), (Some(130), ""));
    assert!(server.log().contains("Logged out"), "{}", server.log());

    let filled = fill(&server, EMPTY, &name).await;
    assert_eq!(filled.code, Some(0), "{filled:?}");
    let start = format!("Canary & Co holds 300 canary messages: {} added, ", 300 - held);
    assert!(filled.stdout.starts_with(&start), "{filled:?}");
    let there = messages(&directory);
    let seen = there.iter().filter(|(_, flags)| flags.contains('S')).count();
    assert!(there.len() == 300 && (250..300).contains(&seen), "{seen} of {} are read", there.len());

    let again = fill(&server, EMPTY, &name).await;
    assert_eq!(again.stdout, "Canary & Co holds 300 canary messages already; nothing was added\n", "{again:?}");
    let probed = program(&server, &["probe"], EMPTY, &["--mailbox", "Canary & Co", "--output", "json"]).run().await;
    assert_eq!(probed.code, Some(0), "{probed:?}");
    let run: imaptrace_record::Run = serde_json::from_str(&probed.stdout).unwrap();
    let step = |name: &str| run.steps.iter().find(|step| step.name == name).unwrap();
    assert_eq!((step("SELECT").mailbox_messages, step("FETCH").messages), (Some(300), Some(20)));
    assert_eq!(run.server.deviations, None);
}

#[tokio::test]
async fn a_mailbox_that_is_somebodys_own_is_left_as_it_is() {
    let server = Dovecot::start(&Options { messages: 5, ..Options::default() });
    let inbox = server.maildir(USER1.0);
    let before = std::fs::read_dir(inbox.join("new")).unwrap().count();
    let refused = fill(&server, USER1, &["--messages", "30"]).await;
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""), "{refused:?}");
    assert!(refused.stderr.contains("INBOX holds 5 messages that are no canary's; nothing was added"), "{refused:?}");
    assert_eq!((messages(&inbox).len(), std::fs::read_dir(inbox.join("new")).unwrap().count()), (5, before));

    let details = fill(&server, USER1, &["--messages", "30", "--among-other-mail"]).await;
    assert!(details.stdout.starts_with("INBOX holds 30 canary messages: 30 added, "), "{details:?}");
    assert_eq!(messages(&inbox).len(), 35);
}

#[tokio::test]
async fn a_full_account_says_so_and_a_larger_quota_lets_the_same_command_go_on() {
    let settings = "mail_plugins = $mail_plugins quota\nprotocol imap {\n  mail_plugins = $mail_plugins quota imap_quota\n}\n\
                    plugin {\n  quota = maildir:User quota\n  quota_rule = *:messages=40\n}\n";
    let server = Dovecot::start(&Options { messages: 5, settings: settings.to_owned(), ..Options::default() });
    let full = fill(&server, EMPTY, &["--messages", "60"]).await;
    assert_eq!(full.code, Some(1), "{full:?}");
    for part in ["APPEND was refused: NO [OVERQUOTA]", "raise its quota", "40 of 60 messages are in INBOX"] {
        assert!(full.stderr.contains(part), "{part:?} is not in {}", full.stderr);
    }
    let fewer = fill(&server, EMPTY, &["--messages", "40"]).await;
    assert_eq!(fewer.stdout, "INBOX holds 40 canary messages already; nothing was added\n", "{fewer:?}");
}

#[tokio::test]
async fn the_accounts_of_a_configuration_are_filled_and_probed_by_its_own_words() {
    let server = Dovecot::start(&Options::default());
    let config = format!(
        "[defaults]\nca_file = {:?}\n[[groups]]\nname = \"fleet\"\ntargets = [\"localhost:{}\"]\naddress = \"v4\"\nuser = \"{}\"\n\
         password = {{ credential = \"canary\" }}\nmailbox = \"Canary/{{account}}\"\n\
         [[groups.accounts]]\nname = \"vol{{1..2}}\"\nlabels = {{ volume = \"{{account}}\" }}\n\
         [[groups.accounts]]\nname = \"nobody\"\nuser = \"nobody\"\n",
        server.ca.display().to_string(),
        server.tls,
        EMPTY.0
    );
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("imaptrace.toml"), config).unwrap();
    std::fs::write(place.path().join("canary"), EMPTY.1).unwrap();
    let file = place.path().join("imaptrace.toml").display().to_string();
    let own = ["--config", &file, "--credentials", place.path().to_str().unwrap()];
    let command = ["canary", "fill", "--all", "--create", "--messages", "25"];
    let filled = Program::new([&command[..], &own].concat()).run().await;
    // One of them cannot log in, which keeps none of the others.
    assert_eq!(filled.code, Some(1), "{filled:?}");
    let name = format!("localhost:{}", server.tls);
    for volume in ["vol1", "vol2"] {
        let start = format!("{name}/{volume}: Canary/{volume} holds 25 canary messages: 25 added, ");
        assert!(filled.stdout.contains(&start), "{filled:?}");
    }
    assert!(filled.stderr.contains("LOGIN failed") || filled.stderr.contains("AUTHENTICATE failed"), "{filled:?}");

    let one = format!("{name}/vol2");
    let probed = Program::new([&["probe", &one, "--output", "json"], &own[..]].concat()).run().await;
    let run: imaptrace_record::Run = serde_json::from_str(&probed.stdout).unwrap();
    assert_eq!(
        (probed.code, run.account.as_str(), run.labels["volume"].as_str()),
        (Some(0), "vol2", "vol2"),
        "{probed:?}"
    );
    let select = run.steps.iter().find(|step| step.name == "SELECT").unwrap();
    assert_eq!((select.mailbox.as_deref(), select.mailbox_messages), (Some("Canary/vol2"), Some(25)));
}
