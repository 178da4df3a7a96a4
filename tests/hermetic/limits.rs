//! Every bound of `[limits]` and `[defaults.deadlines]` that an operator sets ends a run of the program itself with its
//! class, and `check` prints it. What is out of bounds is in `tests/config/invalid`.

use std::net::{SocketAddr, UdpSocket};

use serde_json::Value;

use crate::support::{program::Program, script::Script};

/// A conversation up to the answer to LIST.
const UP_TO_LIST: &str =
    "S: * OK [CAPABILITY IMAP4rev1] hi\nC: LOGIN\nS: {tag} OK [CAPABILITY IMAP4rev1] in\nC: LIST\n";

/// A run with these variables.
async fn probe(arguments: &[&str], variables: &[(&str, &str)]) -> Value {
    let mut program = Program::new([&["probe", "--output", "json"], arguments].concat());
    program = program.env("IMAPTRACE_PASSWORD", "planted-1171");
    for (name, value) in variables {
        program = program.env(format!("IMAPTRACE__{name}"), value);
    }
    let output = program.run().await;
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// The run's class, and the step that failed.
fn failed(run: &Value) -> (&str, &str) {
    (run["error_type"].as_str().unwrap_or_default(), run["failed_step"].as_str().unwrap_or_default())
}

fn url(server: SocketAddr) -> String {
    format!("imap://someone@{server}")
}

#[tokio::test]
async fn each_limit_that_is_set_cuts_a_run_and_one_more_than_it_does_not() {
    let literal = |bytes: usize| format!("s: * X NIL {{{bytes}}}\\r\\n{}\\r\\n\n", "x".repeat(bytes));
    let (line, depth, many) = ("x".repeat(1_500), "(".repeat(9), "* X\\r\\n".repeat(101));
    let two = format!("{}S: {{tag}} OK\nC: SELECT\n{}", literal(60_000), literal(60_000));
    let run = "LIMITS__RUN_BYTES";
    for (script, step, class, variable, cut, left) in [
        (format!("s: * X {line}\\r\\n\n"), "LIST", "limit_line", "LIMITS__LINE", "1KiB", "2KiB"),
        (format!("s: * X {depth}\\r\\n\n"), "LIST", "limit_depth", "LIMITS__DEPTH", "8", "9"),
        (format!("s: {many}\n"), "LIST", "limit_responses", "LIMITS__RESPONSES", "100", "101"),
        (literal(70_000), "LIST", "limit_bytes", "LIMITS__COMMAND_BYTES", "64KiB", "128KiB"),
        // Neither is too much for a command.
        (two, "SELECT", "limit_bytes", run, "100KiB", "200KiB"),
    ] {
        for (value, class) in [(cut, class), (left, "eof")] {
            let server = Script::play(&format!("{UP_TO_LIST}{script}close\n")).await;
            let run = probe(&["--security", "none", &url(server.address)], &[(variable, value)]).await;
            assert_eq!(failed(&run), (class, step), "{variable}={value}");
        }
    }
}

#[tokio::test]
async fn a_literal_longer_than_what_is_kept_is_counted_and_not_known() {
    let id = "s: * ID (\"name\" {80}\\r\\n";
    for (value, known) in [("64B", false), ("128B", true)] {
        let script = format!(
            "S: * OK [CAPABILITY IMAP4rev1 ID] hi\nC: ID\n{id}{})\\r\\n\nS: {{tag}} OK\nC: LOGIN\nclose\n",
            "n".repeat(80)
        );
        let server = Script::play(&script).await;
        let run = probe(&["--security", "none", &url(server.address)], &[("LIMITS__LITERAL_KEPT", value)]).await;
        assert_eq!(failed(&run), ("eof", "LOGIN"), "{value}");
        assert_eq!(run["server"]["id_name"].is_string(), known, "{value}: {run}");
    }
}

#[tokio::test]
async fn each_deadline_that_is_set_ends_its_step() {
    let silent = "silence\n";
    let logout = format!("{UP_TO_LIST}S: {{tag}} OK\nC: SELECT\nS: * 0 EXISTS\nS: {{tag}} OK\nC: LOGOUT\n{silent}");
    for (script, security, variable, expected) in [
        (silent.to_owned(), "none", "DEFAULTS__DEADLINES__GREETING", ("timeout_greeting", "greeting")),
        ("c: 1\nsilence\n".to_owned(), "tls", "DEFAULTS__DEADLINES__TLS", ("timeout_tls", "tls")),
        (format!("{UP_TO_LIST}{silent}"), "none", "DEFAULTS__DEADLINES__COMMAND", ("timeout_command", "LIST")),
        (format!("{UP_TO_LIST}{silent}"), "none", "DEFAULTS__TIMEOUT", ("timeout_command", "LIST")),
        (logout, "none", "DEFAULTS__DEADLINES__LOGOUT", ("", "")),
    ] {
        let server = Script::play(&script).await;
        let url = if security == "tls" { format!("imaps://someone@{}", server.address) } else { url(server.address) };
        // The other steps have to come off in it too, where it is the run's.
        let run = probe(&["--security", security, &url], &[(variable, "900ms")]).await;
        assert_eq!(failed(&run), expected, "{variable}");
        let last = run["steps"].as_array().unwrap().iter().rfind(|step| step["outcome"] == "failed").unwrap();
        let took = last["duration_s"].as_f64().unwrap();
        assert!(took > 0.5 && took < 5.0, "{variable}: {took} s; by default it is at least 5");
    }
}

#[tokio::test]
async fn a_look_up_has_its_deadline() {
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap();
    let server = nobody.local_addr().unwrap().to_string();
    let variables = [("DNS__SERVERS", server.as_str()), ("DEFAULTS__DEADLINES__RESOLVE", "200ms")];
    let run = probe(&["imaps://someone@mail.example"], &variables).await;
    assert_eq!(failed(&run), ("timeout_resolve", "resolve"));
}

#[tokio::test]
async fn check_prints_every_bound_as_it_was_set_and_warns_of_a_run_that_is_less_than_a_command() {
    let program = Program::new(["check", "--config", "imaptrace.toml"]);
    let text = "[limits]\nline = \"2KiB\"\ncommand_bytes = \"10GiB\"\nrun_bytes = \"1GiB\"\nresponses = 200\ndepth = 9\n\
                literal_kept = \"65B\"\n[defaults]\ntimeout = \"20s\"\n[defaults.deadlines]\nresolve = \"1s\"\n\
                connect = \"2s\"\ntls = \"3s\"\ngreeting = \"4s\"\ncommand = \"5s\"\nwrite = \"6s\"\nlogout = \"700ms\"\n\
                [[targets]]\nname = \"a\"\nurl = \"imaps://a.example\"\nuser = \"u\"\npassword = { env = \"HOME\" }\n";
    std::fs::write(program.home().join("imaptrace.toml"), text).unwrap();
    let output = program.run().await;
    assert_eq!(output.code, Some(0), "{output:?}");
    for line in [
        "limits      line 2KiB, command 10GiB, run 1GiB, responses 200, depth 9, literal kept 65B",
        "interval    1m, timeout 20s",
        "deadlines   resolve 1s, connect 2s, tls 3s, greeting 4s, command 5s, write 6s, logout 700ms",
    ] {
        assert!(output.stdout.contains(line), "{line} in\n{}", output.stdout);
    }
    assert!(
        output
            .stderr
            .contains("limits.run_bytes: a run is cut at 1GiB, which is less than one command may receive, 10GiB"),
        "{}",
        output.stderr
    );
}
