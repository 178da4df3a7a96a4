//! Every command of the program, used rightly and wrongly.

use std::{net::SocketAddr, path::Path};

use super::{
    PLACES, TOKEN, TRACE, at_place, leaks, look, look_at_receiver, percent, planted, private, said_back, toml,
};
use crate::{
    agent::runtime,
    command_line::GOOD,
    support::{
        leaks::{Leaks, Planted},
        otlp::Receiver,
        program::Program,
        script::Script,
    },
};

/// A probe whose password comes from one of the places that it can come from.
fn probe(number: usize, address: SocketAddr, who: &Planted, directory: &Path, more: &[&str]) -> Program {
    let file = private(directory, &format!("password-{number}"), &format!("{}\n", who.password));
    let url = match number % 5 {
        0 => format!("imap://{}:{}@{address}", percent(&who.user), percent(&who.password)),
        _ => format!("imap://{address}"),
    };
    let mut arguments = vec!["probe", &url, "--security", "none"];
    if !number.is_multiple_of(5) {
        arguments.extend(["--user", &who.user]);
    }
    let command = format!("cat {file}");
    match number % 5 {
        1 => arguments.extend(["--password-file", &file]),
        2 => arguments.extend(["--password-env", "MINE"]),
        3 => arguments.extend(["--password-command", &command]),
        _ => {}
    }
    arguments.extend(more);
    let program = Program::new(arguments);
    match number % 5 {
        2 => program.env("MINE", &who.password),
        4 => program.env("IMAPTRACE_PASSWORD", &who.password),
        _ => program,
    }
}

#[test]
fn probe_prints_exports_and_logs_neither_whatever_the_log_level() {
    let (leaks, directory, runtime) = (leaks(), tempfile::tempdir().unwrap(), runtime());
    let (grpc, http) = (Receiver::grpc(), Receiver::http());
    let mut number = 0;
    for who in planted() {
        let said = said_back(&who);
        for (place, script) in PLACES.iter().enumerate() {
            number += 1;
            let script = at_place(script, &said[(7 * number) % said.len()]);
            let level = [TRACE, "debug", "info", "warn,imaptrace=trace", "error"][number % 5];
            let output = ["text", "json", "nagios"][(number / 5) % 3];
            let receiver = if place % 2 == 0 { &grpc } else { &http };
            let gzip = if number % 3 == 0 { "gzip" } else { "none" };
            let output = runtime.block_on(async {
                let server = Script::play(&script).await;
                let more = ["--output", output, "--timeout", "5s", "--metrics", "--verbose"];
                let program = probe(number, server.address, &who, directory.path(), &more);
                let protocol = if place % 2 == 0 { "grpc" } else { "http/protobuf" };
                program
                    .env("RUST_LOG", level)
                    .env("RUST_BACKTRACE", "full")
                    .env("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url())
                    .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
                    .env("OTEL_EXPORTER_OTLP_COMPRESSION", gzip)
                    .env("OTEL_EXPORTER_OTLP_HEADERS", format!("x-key={TOKEN}"))
                    .run()
                    .await
            });
            assert!(matches!(output.code, Some(1 | 2)), "{script}: {output:?}");
            look(&leaks, "probe", &output);
        }
    }
    for receiver in [&grpc, &http] {
        receiver.look(|inbox| assert!(inbox.traces.len() >= 40 && !inbox.metrics.is_empty(), "{}", inbox.traces.len()));
        look_at_receiver(&leaks, receiver);
    }
    leaks.end();
}

#[tokio::test]
async fn a_run_that_passes_gives_neither_away_and_the_log_of_its_commands_is_at_trace() {
    let (leaks, directory) = (leaks(), tempfile::tempdir().unwrap());
    for (number, who) in planted().iter().enumerate() {
        // LOGIN, with quotes or a literal; and PLAIN.
        let login = "C: LOGIN\n";
        let plain =
            GOOD.replace("IMAP4rev1] hi", "IMAP4rev1 AUTH=PLAIN SASL-IR] hi").replace(login, "C: AUTHENTICATE\n");
        let is_literal = !who.password.is_ascii();
        let literal = GOOD
            .replace("IMAP4rev1] hi", "IMAP4rev1 LITERAL+] hi")
            .replace("C: LOGIN\nS: {tag}", &format!("C: LOGIN\nc: {}\nS: {{tag}}", who.password.len() + 2));
        for script in [if is_literal { literal } else { GOOD.to_owned() }, plain] {
            let server = Script::play(&script).await;
            let output = probe(number, server.address, who, directory.path(), &["--output", "json"]);
            let output = output.env("RUST_LOG", TRACE).run().await;
            assert_eq!(output.code, Some(0), "{output:?}");
            let heard = server.heard().await.join("\n");
            assert!(heard.contains("LOGOUT") && !Leaks::of(std::slice::from_ref(who)).found_in(&heard).is_empty());
            look(&leaks, "probe that passes", &output);
        }
    }
    leaks.end();
}

#[tokio::test]
async fn no_command_repeats_either_in_wrong_usage() {
    let (leaks, directory) = (leaks(), tempfile::tempdir().unwrap());
    for who in planted() {
        let (user, password) = (percent(&who.user), percent(&who.password));
        let url = format!("imaps://{user}:{password}@mail.example");
        let raw = who.password.as_str();
        let inline = format!("--password={raw}");
        let headers = format!("authorization {raw}");
        let wrong: Vec<Vec<&str>> = vec![
            vec![&url],
            vec!["probe"],
            vec!["probe", "mail.example", &url],
            vec!["probe", "mail.example", &who.user, raw],
            vec!["probe", &url, "--no-such-flag"],
            vec!["probe", &url, "--count", &url],
            vec!["probe", &url, "--output", &url],
            vec!["probe", &url, "--output", "nagios", "--count", &url],
            vec!["probe", &url, "--output=nagios", raw],
            vec!["probe", &url, "--color", &url],
            vec!["probe", &url, "-w", &url],
            vec!["probe", &url, "--every", "never"],
            vec!["probe", &url, "--timeout", "never"],
            vec!["probe", &url, "--security", "none"],
            vec!["probe", &url, "--password-file", "/nonexistent/file"],
            vec!["probe", "mail.example", "--user", &who.user],
            vec!["probe", "mail.example", "--user", &who.user, &inline],
            vec!["probe", "mail.example", "--password", raw],
            vec!["probe", &url, "--ca-file", "/nonexistent/ca"],
            vec!["probe", &url, "--otlp-endpoint", &url],
            vec!["canary", &url],
            vec!["canary", "fill", "mail.example", raw],
            vec!["canary", "fill", &url, "--messages", &url],
            vec!["canary", "fill", &url, "--address", "each"],
            vec!["demo", raw],
            vec!["check", &url],
            vec!["agent", &url],
            vec!["completions", &url],
            vec!["replay", "-", "--otlp-endpoint", &url],
            vec!["show", "-", "--since", &url],
            vec!["show", "-", "-", &url],
        ];
        for arguments in wrong {
            // What begins like a flag is none of this test's.
            let output = Program::new(&arguments).env("RUST_LOG", TRACE).run().await;
            assert!(matches!(output.code, Some(1..=3)), "{arguments:?}: {output:?}");
            look(&leaks, "wrong usage", &output);
        }
        for scheme in ["ftp://", "imaps:/", "imaps//", "imap://"] {
            for place in ["mail.example:x", "mail example", "", "[::1", "mail.example:0"] {
                let server = format!("{scheme}{user}:{password}@{place}");
                let output = Program::new(["probe", &server]).run().await;
                assert_eq!(output.code, Some(2), "{server}: {output:?}");
                look(&leaks, "wrong usage", &output);
            }
        }
        for (name, value) in [
            ("IMAPTRACE__DEFAULTS__PASSWORD", raw),
            ("IMAPTRACE__DEFAULTS__USER", &who.user),
            ("IMAPTRACE__TARGETS__PASSWORD", raw),
            ("IMAPTRACE__OTLP__HEADERS", &headers),
            ("OTEL_EXPORTER_OTLP_HEADERS", &headers),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &url),
        ] {
            for arguments in [vec!["probe", "mail.example", "--user", "u"], vec!["check", "--config", "none.toml"]] {
                let output = Program::new(&arguments).env(name, value).env("IMAPTRACE_PASSWORD", raw).run().await;
                look(&leaks, "wrong usage", &output);
                assert!(output.code != Some(0), "{name}: {output:?}");
            }
        }
        wrong_files(&leaks, &who, directory.path()).await;
    }
    leaks.end();
}

/// Configurations with a secret where none belongs.
async fn wrong_files(leaks: &Leaks, who: &Planted, directory: &Path) {
    let password = toml(&who.password);
    let url = format!("imaps://{}:{}@mail.example", percent(&who.user), percent(&who.password));
    let target =
        |keys: &str| format!("[[targets]]\nname = \"a\"\nurl = \"imaps://mail.example\"\nuser = \"u\"\n{keys}\n");
    let listed = private(directory, "listed.json", &format!("[{{\"targets\": [\"{url}:x\", 7]}}]"));
    for text in [
        target(&format!("password = {password}")),
        target(&format!("password = [{password}]")),
        target(&format!("password = {{ file = \"/x\", value = {password} }}")),
        target(&format!("password = {{ env = {password} }}\nnewest = 0")),
        target(&format!("password = {{ command = {password} }}")),
        target(&format!("password = {{ command = [\"\", {password}] }}")),
        target(&format!("passwrod = {password}")),
        target(&format!("password = {}", who.password)),
        target(&format!("password = \"{}", who.password.replace('"', "'"))),
        target(&format!("password = {{ env = \"X\" }}\nlabels = {password}")),
        format!("[[targets]]\nname = \"a\"\nurl = \"{url}:x\"\n"),
        format!("[[targets]]\nname = \"a\"\nurl = \"ftp{url}\"\n"),
        format!("[[targets]]\nname = \"a\"\nurl = \"{url}\"\nuser = 7\n"),
        format!("[otlp]\nendpoint = \"http://x\"\nheaders = {password}\n"),
        format!("[otlp]\nendpoint = \"{url}\"\n"),
        format!("[otlp]\nheaders = {{ authorization = [{password}] }}\n"),
        format!("[[groups]]\nname = \"g\"\ntargets_from = [\"{listed}\"]\npassword = {password}\nuser = \"u\"\n"),
        format!("[[groups]]\nname = \"g\"\ntargets = [\"{url}\", \"{url}:x\"]\npassword = {password}\nuser = \"u\"\n"),
    ] {
        let file = private(directory, "wrong.toml", &text);
        for command in ["check", "agent"] {
            let output = Program::new([command, "--config", &file]).env("RUST_LOG", TRACE).run().await;
            assert_eq!(output.code, Some(2), "{text}: {output:?}");
            look(leaks, &format!("{command} with a wrong file"), &output);
        }
    }
}

#[tokio::test]
async fn commands_that_need_no_secret_do_not_tell_of_those_that_are_about() {
    let leaks = leaks();
    let mut everything: Vec<Vec<&str>> = vec![vec!["demo"], vec!["--version"], vec!["--help"], vec![]];
    for command in ["probe", "agent", "baseline", "check", "demo", "replay", "show", "canary", "completions"] {
        everything.push(vec![command, "--help"]);
        everything.push(vec![command, "-h"]);
    }
    everything.push(vec!["canary", "fill", "--help"]);
    everything.push(vec!["baseline", "accept", "--help"]);
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        everything.push(vec!["completions", shell]);
    }
    for (number, arguments) in everything.iter().enumerate() {
        let who = &planted()[number % 5];
        let output = Program::new(arguments)
            .env("IMAPTRACE_PASSWORD", &who.password)
            .env("IMAPTRACE_USER", &who.user)
            .env("OTEL_EXPORTER_OTLP_HEADERS", format!("x-key={TOKEN}"))
            .env("RUST_LOG", TRACE)
            .env("RUST_BACKTRACE", "full")
            .run()
            .await;
        assert!(!output.stdout.is_empty() || !output.stderr.is_empty());
        look(&leaks, "demo, help, version, completions", &output);
    }
    leaks.end();
}

#[tokio::test]
async fn filling_a_mailbox_gives_neither_away() {
    let (leaks, directory) = (leaks(), tempfile::tempdir().unwrap());
    for (number, who) in planted().iter().enumerate() {
        for place in PLACES {
            let said = said_back(who);
            let server = Script::play(&at_place(place, &said[(5 * number) % said.len()])).await;
            let file = private(directory.path(), "password", &who.password);
            let url = format!("imap://{}", server.address);
            let output = Program::new([
                "canary",
                "fill",
                &url,
                "--security",
                "none",
                "--user",
                &who.user,
                "--password-file",
                &file,
            ])
            .env("RUST_LOG", TRACE)
            .run()
            .await;
            assert_eq!(output.code, Some(1), "{place}: {output:?}");
            look(&leaks, "canary fill", &output);
        }
    }
    leaks.end();
}
