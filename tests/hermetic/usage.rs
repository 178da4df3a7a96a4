//! Wrong usage: found before anything is asked or sent, said once, and with the tip that helps.

use std::{fs, os::unix::fs::PermissionsExt as _};

use imaptrace_record::{ErrorType, Run, RunOutcome};

use crate::{
    command_line::{GOOD, REFUSED, refusing},
    support::{
        program::{Output, Program},
        script::Script,
    },
};

const PASSWORD: &str = "planted-3fe0";

async fn probe(arguments: &[&str]) -> Output {
    let output = Program::new([&["probe"], arguments].concat()).env("IMAPTRACE_PASSWORD", PASSWORD).run().await;
    assert!(!output.stdout.contains(PASSWORD) && !output.stderr.contains(PASSWORD), "{output:?}");
    output
}

/// The lines that say that something is wrong.
fn errors(output: &Output) -> Vec<&str> {
    output.stderr.lines().filter(|line| line.starts_with("error: ")).collect()
}

// === Limits ===

#[tokio::test]
async fn limits_are_for_plug_ins_alone_and_the_warning_comes_first() {
    for (more, says) in [
        (&["-c", "3"][..], "-c: it is a limit for --output nagios"),
        (&["-w", "3"], "-w: it is a limit for --output nagios"),
        (&["-w", "1", "-c", "3", "--output", "json"], "-w: it is a limit for --output nagios"),
    ] {
        let output = probe(&[&["imap://me@host", "--security", "none"], more].concat()).await;
        assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{more:?}: {output:?}");
        assert!(errors(&output).len() == 1 && output.stderr.contains(says), "{more:?}: {output:?}");
    }
    let output = probe(&["imap://me@host", "--output", "nagios", "-w", "3", "-c", "2.5"]).await;
    assert_eq!((output.code, output.stderr.as_str()), (Some(3), ""), "{output:?}");
    assert!(output.stdout.starts_with("IMAP UNKNOWN - -w: 3 s is above the 2.5 s of -c"), "{output:?}");
    assert!(output.stdout.ends_with("; give -w the smaller of the two\n"), "{output:?}");
}

// === Tips ===

#[tokio::test]
async fn what_other_programs_call_otherwise_gets_one_tip_that_helps() {
    for (arguments, tip) in [
        (&["probe", "--json", "host"][..], "tip: --output json"),
        (&["probe", "host", "--port", "143"], "tip: the port is part of SERVER: imaps://HOST:PORT"),
        (&["probe", "host", "-n", "5"], "tip: --newest N for the number of messages, --count N for the number of runs"),
        (&["probe", "host", "--starttls"], "tip: --security starttls"),
        (&["canary", "fill", "one.example", "planted.example"], "tip: one SERVER at a time"),
        (&["canary", "fill", "one.example", "canary.example"], "tip: one SERVER at a time"),
        (&["check", "imaptrace.toml"], "tip: the file goes with --config FILE"),
        (&["mail.example.org"], "tip: imaptrace probe SERVER"),
        (&["probe", "host", "--auth", "plian"], "tip: a similar value exists: 'plain'"),
    ] {
        let output = Program::new(arguments).run().await;
        assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{arguments:?}: {output:?}");
        assert_eq!(output.stderr.matches("tip: ").count(), 1, "{arguments:?}: {output:?}");
        assert!(output.stderr.contains(tip) && !output.stderr.contains("planted.example"), "{arguments:?}: {output:?}");
    }
    let output = Program::new(["probe", "--output", "nagios", "host", "--port", "143"]).run().await;
    assert_eq!(output.code, Some(3), "{output:?}");
    assert!(
        output.stdout.contains("--port") && output.stdout.contains("tip: the port is part of SERVER"),
        "{output:?}"
    );
    assert_eq!(output.stdout.lines().count(), 1, "{output:?}");
}

// === Words that complete ===

#[tokio::test]
async fn the_words_of_closed_lists_are_in_help_and_completions() {
    let lists = [
        &["tls", "starttls", "none"][..],
        &["auto", "scram-sha-256", "plain", "login", "external"],
        &["newest", "random"],
        &["any", "v4", "v6", "each"],
        &["span_id", "short"],
        &["text", "json", "nagios"],
        &["auto", "always", "never"],
        &["grpc", "http/protobuf"],
    ];
    let short = Program::new(["probe", "-h"]).run().await;
    let long = Program::new(["probe", "--help"]).run().await;
    let bash = Program::new(["completions", "bash"]).run().await;
    for words in lists {
        let listed = format!("[possible values: {}]", words.join(", "));
        let flat = short.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flat.contains(&listed), "{listed}: {short:?}");
        assert!(words.iter().all(|word| long.stdout.contains(word)), "{words:?}: {long:?}");
        assert!(bash.stdout.contains(&format!("-W \"{}\"", words.join(" "))), "{words:?}");
    }
    for shell in ["zsh", "fish"] {
        let output = Program::new(["completions", shell]).run().await;
        for word in lists.concat() {
            assert!(output.stdout.contains(word), "{shell}: {word}");
        }
    }
}

#[tokio::test]
async fn help_is_a_command_too() {
    for path in [&["probe"][..], &["check"], &["canary", "fill"], &["replay"], &["show"]] {
        let by_word = Program::new([&["help"], path].concat()).run().await;
        let by_flag = Program::new([path, &["--help"]].concat()).run().await;
        assert_eq!((by_word.code, by_word.stderr.as_str()), (Some(0), ""), "{by_word:?}");
        assert_eq!(by_word.stdout, by_flag.stdout);
    }
    let alone = Program::new(["help"]).run().await;
    assert!(alone.code == Some(0) && alone.stdout.contains("Commands:"), "{alone:?}");
}

// === Secrets that cannot be had ===

/// Flags, the flag that is at fault, and what is said of it.
type Case = (&'static [&'static str], &'static str, &'static str);

#[tokio::test]
async fn a_password_that_cannot_be_had_is_wrong_usage_said_once_in_each_form() {
    let (_held, port) = refusing();
    let url = format!("imap://me@{port}");
    let cases: [Case; 6] = [
        (&["--password-env", "NOT_SET"], "--password-env", "environment variable NOT_SET is not set"),
        (&["--password-env", "BLANK"], "--password-env", "environment variable BLANK ends with a space"),
        (&["--password-file", "not/there"], "--password-file", "not/there"),
        (&["--password-file", "open"], "--password-file", "has mode 0644"),
        (&["--password-command", "sh -c 'echo planted; exit 3'"], "--password-command", "exit status: 3"),
        (&["--password-command", "not-a-program"], "--password-command", "cannot be started"),
    ];
    for (more, flag, says) in cases {
        for format in ["text", "json", "nagios"] {
            let arguments = [&["probe", &url, "--security", "tls", "--output", format][..], more].concat();
            let url = url.replace("imap:", "imaps:");
            let arguments = arguments.iter().map(|word| if word.starts_with("imap:") { url.as_str() } else { word });
            let program = Program::new(arguments).env("BLANK", "planted ");
            let file = program.home().join("open");
            fs::write(&file, "planted").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
            let output = program.run().await;
            let all = format!("{}{}", output.stdout, output.stderr);
            assert!(!all.contains("planted"), "{output:?}");
            if format == "nagios" {
                assert_eq!((output.code, output.stderr.as_str()), (Some(3), ""), "{output:?}");
                assert!(output.stdout.starts_with(&format!("IMAP UNKNOWN - {flag}: ")), "{output:?}");
                assert_eq!(output.stdout.lines().count(), 1, "{output:?}");
            } else {
                assert_eq!((output.code, output.stderr.lines().count()), (Some(2), 1), "{output:?}");
                assert!(output.stderr.starts_with(&format!("error: {flag}: ")), "{output:?}");
            }
            let said = if format == "nagios" { &output.stdout } else { &output.stderr };
            assert_eq!(said.matches(says).count(), 1, "{output:?}");
            match format {
                "json" => {
                    let run: Run = serde_json::from_str(&output.stdout).unwrap();
                    assert_eq!(
                        (run.outcome, run.error_type),
                        (RunOutcome::Void, Some(ErrorType::SecretUnavailable)),
                        "{output:?}"
                    );
                    assert_eq!(output.stdout.matches(says).count(), 1, "{output:?}");
                }
                "text" => assert_eq!(output.stdout, ""),
                _ => {}
            }
        }
    }
    // One line, however many runs it would have been.
    let output = Program::new(["probe", &url, "--security", "none", "--password-env", "NOT_SET"]).run().await;
    assert_eq!(output.code, Some(2), "{output:?}");
    let many = ["probe", &url, "--security", "none", "--password-env", "NOT_SET", "--output", "json", "--count", "3"];
    let output = Program::new(many).run().await;
    assert_eq!((output.code, output.stdout.lines().count(), errors(&output).len()), (Some(2), 1, 1), "{output:?}");
    let fill = ["canary", "fill", &url, "--security", "none", "--password-env", "NOT_SET"];
    let output = Program::new(fill).run().await;
    assert_eq!((output.code, errors(&output).len()), (Some(2), 1), "{output:?}");
}

#[tokio::test]
async fn a_fault_with_one_origin_is_said_once() {
    // The log and the result of a run have the same notes.
    let few = GOOD.replace("* 30 EXISTS", "* 3 EXISTS").replace("* 30 FETCH", "* 3 FETCH");
    for format in ["text", "json", "nagios"] {
        let server = Script::play(&few).await;
        let url = format!("imap://me@{}", server.address);
        let output = probe(&[&url, "--security", "none", "--output", format]).await;
        assert_eq!(output.code, Some(0), "{output:?}");
        let all = format!("{}{}", output.stdout, output.stderr);
        assert_eq!(all.matches("holds only 3 messages").count(), 1, "{output:?}");
        assert_eq!(all.matches("clear text").count(), 1, "{output:?}");
    }
    let server = imaptrace::demo::DemoServer::start(imaptrace::demo::DemoSettings {
        delays: imaptrace::demo::Delays::NONE,
        ..imaptrace::demo::DemoSettings::default()
    })
    .await
    .unwrap();
    let url = format!("imaps://demo@{}", server.address());
    let program = Program::new(["probe", &url, "--insecure"]).env("IMAPTRACE_PASSWORD", "demo");
    let output = program.run().await;
    assert_eq!(output.code, Some(0), "{output:?}");
    assert_eq!(output.stderr.matches("certificate is not checked").count(), 1, "{output:?}");
    assert!(output.stdout.contains("NOT verified") && !output.stdout.contains("\nnote "), "{output:?}");
}

#[tokio::test]
async fn what_both_streams_would_say_in_one_place_is_said_once() {
    for (redirect, times) in [("2>&1", 1), ("", 2)] {
        let server = Script::play(REFUSED).await;
        let url = format!("imap://me@{}", server.address);
        let program = Program::new(["probe", &url, "--security", "none"]).redirected(redirect);
        let output = program.env("IMAPTRACE_PASSWORD", PASSWORD).run().await;
        let all = format!("{}{}", output.stdout, output.stderr);
        assert_eq!((output.code, all.matches("no such luck").count()), (Some(1), times), "{output:?}");
        assert!(all.contains("check user name and password"), "{output:?}");
    }
}

// === Colour ===

#[tokio::test]
async fn always_colours_a_pipe_and_neither_no_color_nor_a_server_is_overruled() {
    let script = REFUSED.replace("no such luck", "\\x1b[31mred\\x07\\x9b32m \\xe2\\x80\\xae");
    for (color, no_color, coloured) in
        [("always", "", true), ("always", "1", false), ("auto", "", false), ("never", "", false)]
    {
        let server = Script::play(&script).await;
        let url = format!("imap://me@{}", server.address);
        let program = Program::new(["probe", &url, "--security", "none", "--color", color]);
        let program = program.env("IMAPTRACE_PASSWORD", PASSWORD).env("NO_COLOR", no_color).env("LANG", "C.UTF-8");
        let output = program.run().await;
        let all = format!("{}{}", output.stdout, output.stderr);
        assert_eq!(all.contains('\x1b'), coloured, "{color} {no_color}: {output:?}");
        // Of escape sequences there are colours of ours alone, each ended behind its piece of text.
        let ours = |part: &str| {
            let (code, _) = part.split_once('m').unwrap_or_default();
            ["0", "1", "2", "31", "32", "33", "34", "35", "36"].contains(&code)
        };
        assert!(all.split("\x1b[").skip(1).all(ours), "{output:?}");
        assert_eq!(all.matches('\x1b').count(), all.matches("\x1b[").count(), "{output:?}");
        assert!(!all.contains(['\x07', '\u{9b}', '\u{202e}']), "{output:?}");
        assert!(all.contains("\\x1b[31mred"), "{output:?}");
    }
}

#[tokio::test]
async fn check_reads_standard_input_and_refuses_threads_with_which_no_agent_starts() {
    let text =
        "[[targets]]\nname = \"mail01\"\nurl = \"imaps://127.0.0.1\"\nuser = \"me\"\npassword = { env = \"OTHER\" }\n";
    let check = |threads: &str| {
        let program = Program::new(["check", "--config", "-"]).stdin(text).env("OTHER", PASSWORD);
        program.env("TOKIO_WORKER_THREADS", threads).run()
    };
    let output = check("2").await;
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(output.stdout.contains("mail01"), "{output:?}");
    let output = check("0").await;
    assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{output:?}");
    assert!(errors(&output)[0].starts_with("error: variable TOKIO_WORKER_THREADS: \"0\""), "{output:?}");
}
