//! Standard output that cannot be written: a full disk, a closed descriptor, a reader that went away.

use std::fs;

use crate::{
    command_line::{GOOD, REFUSED, refusing},
    support::{
        program::{Output, Program},
        script::Script,
    },
};

/// What keeps each command from giving its result, as a shell writes it.
const UNWRITABLE: &[(&str, &str)] = &[
    (">/dev/full", "No space left on device"),
    (">&-", "Bad file descriptor"),
    // Open, but for reading.
    ("1</dev/null", "Bad file descriptor"),
];

async fn probe(script: &str, more: &[&str], redirect: &str) -> Output {
    let server = Script::play(script).await;
    let url = format!("imap://someone@{}", server.address);
    let program = Program::new([&["probe", &url, "--security", "none"], more].concat());
    program.env("IMAPTRACE_PASSWORD", "planted").redirected(redirect).run().await
}

fn fails(output: &Output, code: i32, reason: &str) {
    assert_eq!((output.code, output.stdout.as_str()), (Some(code), ""), "{output:?}");
    let says = format!("error: cannot write to standard output: {reason}");
    let lines: Vec<_> = output.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert!(matches!(lines.as_slice(), [line] if line.starts_with(&says)), "{output:?}");
    assert!(!output.stderr.contains("panicked"), "{output:?}");
}

#[tokio::test]
async fn a_result_that_cannot_be_written_is_exit_code_1_and_3_for_a_plug_in() {
    for (redirect, reason) in UNWRITABLE {
        for (script, more, code) in [
            (GOOD, &[][..], 1),
            (GOOD, &["--output", "json"], 1),
            (GOOD, &["--output", "nagios"], 3),
            (REFUSED, &["--output", "nagios"], 3),
            (REFUSED, &[], 1),
        ] {
            fails(&probe(script, more, redirect).await, code, reason);
        }
        for (arguments, code) in [
            (&["--help"][..], 1),
            (&["--version"], 1),
            (&["help", "probe"], 1),
            (&["probe", "--help"], 1),
            (&["canary", "fill", "--help"], 1),
            (&["completions", "bash"], 1),
            (&["demo"], 1),
            (&["check", "--config", "imaptrace.toml"], 1),
            (&["replay", "--otlp-endpoint", "http://127.0.0.1:1", "none.jsonl"], 1),
            // What a plug-in says of wrong usage stands on standard output.
            (&["probe", "--output", "nagios"], 3),
            (&["probe", "--output", "nagios", "imap://host", "--timeout", "soon"], 3),
        ] {
            let program = Program::new(arguments).redirected(redirect);
            fs::write(program.home().join("none.jsonl"), "").unwrap();
            let config =
                "[[targets]]\nname = \"a\"\nurl = \"imaps://a.example\"\nuser = \"u\"\npassword = { env = \"P\" }\n";
            fs::write(program.home().join("imaptrace.toml"), config).unwrap();
            fails(&program.env("P", "x").run().await, code, reason);
        }
    }
}

#[tokio::test]
async fn a_run_of_many_ends_at_the_first_result_that_cannot_be_written() {
    // A second connection would find no server.
    let output = probe(GOOD, &["--count", "1000000", "--every", "0", "--output", "json"], ">/dev/full").await;
    fails(&output, 1, "No space left on device");
}

#[tokio::test]
async fn nothing_is_wrong_with_a_null_device_however_it_is_open_nor_where_nothing_is_printed() {
    for redirect in [">/dev/null", "1<>/dev/null", "2>&-", "2>/dev/full", "<&-"] {
        let output = probe(GOOD, &["--output", "json"], redirect).await;
        assert_eq!(output.code, Some(0), "{redirect}: {output:?}");
        assert!(!output.stderr.contains("standard output"), "{redirect}: {output:?}");
    }
    // Wrong usage, and a configuration that is wrong, have said so where it could be read.
    let (_held, port) = refusing();
    let url = format!("imap://someone@{port}");
    for arguments in [&["probe", &url, "--timeout", "soon"][..], &["check", "--config", "not/there"]] {
        let output = Program::new(arguments).env("IMAPTRACE_PASSWORD", "x").redirected(">&-").run().await;
        assert_eq!(output.code, Some(2), "{output:?}");
        assert!(!output.stderr.contains("standard output"), "{output:?}");
    }
}
