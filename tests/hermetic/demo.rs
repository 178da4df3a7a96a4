//! `imaptrace demo`: the first thing that anybody runs. It needs no server, no account and no flags.

use std::{process::Stdio, time::Duration};

use tokio::{process::Command, time::timeout};

/// Long past what a demo takes, so that one that hangs fails and does not hang the tests.
const DEADLINE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn the_demo_marks_its_slow_fetch_and_says_how_to_go_on() {
    let demo = Command::new(env!("CARGO_BIN_EXE_imaptrace"))
        .arg("demo")
        .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(DEADLINE, demo).await.expect("the demo ends by itself").unwrap();
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{text}\n{errors}", output.status);

    let marked: Vec<_> = text.lines().filter(|line| line.contains("< slowest")).collect();
    assert!(matches!(marked.as_slice(), [fetch] if fetch.starts_with("FETCH INBOX ")), "{text}");
    let (latency, logout) = (text.find("First Loading Latency"), text.find("\nLOGOUT "));
    assert!(latency.is_some() && latency < logout, "LOGOUT stands behind First Loading Latency:\n{text}");

    assert!(text.ends_with(imaptrace::demo::next_steps()), "{text}");
    assert!(text.contains("imaptrace probe --user you@example.org imaps://mail.example.org"), "{text}");
    assert!(text.contains("--otlp-endpoint http://localhost:4317"), "{text}");

    assert!(text.is_ascii() && errors.is_ascii(), "a pipe gets plain ASCII:\n{text}\n{errors}");
    assert!(!text.contains('\x1b') && !errors.contains('\x1b'), "a pipe gets no escape sequence:\n{text}\n{errors}");
}

#[tokio::test]
async fn two_demos_at_once_do_not_get_in_each_others_way() {
    let demo = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_imaptrace"));
        timeout(DEADLINE, command.arg("demo").stdin(Stdio::null()).kill_on_drop(true).output())
    };
    let (one, other) = tokio::join!(demo(), demo());
    for output in [one, other] {
        let output = output.expect("the demo ends by itself").unwrap();
        let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && text.contains("First Loading Latency"), "{text}\n{errors}");
    }
}

/// As in a container whose root can only be read.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_demo_needs_no_directory_to_write_into() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_imaptrace"));
    command.arg("demo").env("TMPDIR", "/proc/none").env("HOME", "/proc/none").stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(DEADLINE, command.output()).await.expect("the demo ends by itself").unwrap();
    assert!(output.status.success(), "{output:?}");
}
