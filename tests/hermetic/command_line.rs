//! The program as its users meet it: flags, streams, exit codes, passwords, and what it says when things go wrong.
//!
//! Long, because it is all of one promise, and its tests share their servers, terminals and ways to start the program.

use std::{
    fs::{self, Permissions},
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Stdio,
    time::Duration,
};

use imaptrace::demo::{Delays, DemoServer, DemoSettings};
use imaptrace_record::{ErrorType, Run, RunOutcome, StepName};
use nix::sys::signal::Signal;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    process::Command,
    sync::watch,
    time::timeout,
};

use crate::support::{
    names::{NXDOMAIN, NameServer},
    otlp::{BlackHole, ClosedPort, Inbox, Receiver, attribute, block_on},
    program::{Output, Program},
    script::{Pem, Script},
};

/// A whole conversation in which everything goes well.
pub(crate) const GOOD: &str = "S: * OK [CAPABILITY IMAP4rev1] hi
C: LOGIN
S: {tag} OK [CAPABILITY IMAP4rev1] in
C: LIST
S: * LIST () \"/\" INBOX
S: {tag} OK
C: SELECT
S: * 30 EXISTS
S: {tag} OK
C: FETCH
S: * 30 FETCH (UID 3)
S: {tag} OK
C: LOGOUT
S: * BYE
S: {tag} OK
";
/// A conversation that ends with a refused login.
pub(crate) const REFUSED: &str = "S: * OK [CAPABILITY IMAP4rev1] hi
C: LOGIN
S: {tag} NO [AUTHENTICATIONFAILED] no such luck
C: LOGOUT
S: * BYE
S: {tag} OK
";

/// A server with an empty mailbox that answers all commands, or all but one, and can be asked what it has heard.
pub(crate) struct Listener {
    pub(crate) address: SocketAddr,
    heard: watch::Receiver<Vec<String>>,
}

impl Listener {
    /// One that never answers this command.
    pub(crate) async fn silent_at(command: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (notes, heard) = watch::channel(Vec::new());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Self::converse(stream, command, notes.clone()));
            }
        });
        Self { address, heard }
    }

    /// One that answers all of them.
    pub(crate) async fn willing() -> Self {
        Self::silent_at("no command").await
    }

    async fn converse(stream: TcpStream, silent_at: &str, notes: watch::Sender<Vec<String>>) {
        let mut stream = BufReader::new(stream);
        let mut answer = "* OK [CAPABILITY IMAP4rev1] hi\r\n".to_owned();
        // The client may hang up at any time: that is for the test to judge.
        while stream.write_all(answer.as_bytes()).await.is_ok() {
            let mut line = String::new();
            if !stream.read_line(&mut line).await.is_ok_and(|length| length > 0) {
                return;
            }
            let (tag, command) = line.trim_end().split_once(' ').unwrap_or_default();
            notes.send_modify(|notes| notes.push(command.to_owned()));
            answer = match command.split(' ').next() {
                Some(word) if word == silent_at => String::new(),
                Some("SELECT") => format!("* 0 EXISTS\r\n{tag} OK done\r\n"),
                _ => format!("{tag} OK [CAPABILITY IMAP4rev1] done\r\n"),
            };
        }
    }

    /// How often the server has received this command.
    pub(crate) fn count(&self, command: &str) -> usize {
        self.heard.borrow().iter().filter(|line| line.starts_with(command)).count()
    }

    /// Waits until the server has received this command `times` times.
    pub(crate) async fn wait_for_command(&mut self, command: &str, times: usize) {
        let enough = |heard: &Vec<String>| heard.iter().filter(|line| line.starts_with(command)).count() >= times;
        let heard = timeout(PATIENCE, self.heard.wait_for(enough)).await;
        drop(heard.unwrap_or_else(|_| panic!("{command} did not come {times} times")).unwrap());
    }
}

/// It must show up nowhere but on the way to the server.
const PASSWORD: &str = "planted-7c1f";
/// Long past anything that is waited for here.
const PATIENCE: Duration = Duration::from_secs(60);

/// `imaptrace probe` in clear text, with the password in the default variable.
fn probe(address: SocketAddr, more: &[&str]) -> Program {
    bare_probe(address, more).env("IMAPTRACE_PASSWORD", PASSWORD)
}

/// The same without a password.
fn bare_probe(address: SocketAddr, more: &[&str]) -> Program {
    let url = format!("imap://someone@{address}");
    Program::new(["probe", &url, "--security", "none"].iter().chain(more))
}

/// Plays a script, probes it once, and gives what came of it and what the server heard.
async fn against(script: &str, more: &[&str]) -> (Output, Vec<String>) {
    let server = Script::play(script).await;
    let output = probe(server.address, more).run().await;
    keeps_the_password(&output);
    (output, heard(server).await)
}

/// What a script heard, once all its connections have ended.
pub(crate) async fn heard(server: Script) -> Vec<String> {
    timeout(PATIENCE, server.heard()).await.expect("the server waits for a connection that never came")
}

fn keeps_the_password(output: &Output) {
    assert!(!output.stdout.contains("planted") && !output.stderr.contains("planted"), "{output:?}");
}

pub(crate) fn run_of(line: &str) -> Run {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"))
}

/// Where nobody listens, as long as it is held.
pub(crate) fn refusing() -> (ClosedPort, SocketAddr) {
    let port = ClosedPort::take();
    let address = port.url().trim_start_matches("http://").parse().unwrap();
    (port, address)
}

async fn demo(tls: bool) -> DemoServer {
    DemoServer::start(DemoSettings { tls, delays: Delays::NONE, ..DemoSettings::default() }).await.unwrap()
}

// === Exit codes ===

#[tokio::test]
async fn the_exit_code_is_0_for_passed_1_for_failed_or_void_and_2_for_wrong_usage() {
    let (passed, _) = against(GOOD, &[]).await;
    assert_eq!(passed.code, Some(0), "{passed:?}");
    let (failed, _) = against(REFUSED, &[]).await;
    assert_eq!(failed.code, Some(1), "{failed:?}");
    let mut silent = Listener::silent_at("LIST").await;
    let running = probe(silent.address, &[]).start();
    silent.wait_for_command("LIST", 1).await;
    running.signal(Signal::SIGINT);
    let void = running.finish().await;
    assert_eq!(void.code, Some(130), "as shells expect of what Ctrl-C ended: {void:?}");
    assert!(void.stdout.contains("void") && void.stderr.contains("LIST failed: cancelled"), "{void:?}");
    for wrong in [&["probe"][..], &["probe", "--no-such-flag", "host"], &["probe", "ftp://host"], &["no-such-command"]]
    {
        let output = Program::new(wrong).env("IMAPTRACE_PASSWORD", PASSWORD).run().await;
        assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{wrong:?}: {output:?}");
        assert!(output.stderr.starts_with("error: "), "{wrong:?}: {output:?}");
    }
    let one_of_two = against(&format!("{GOOD}next\n{REFUSED}"), &["--count", "2", "--every", "0"]).await.0;
    assert_eq!(one_of_two.code, Some(1), "{one_of_two:?}");
}

#[tokio::test]
async fn nagios_codes_and_perfdata() {
    let nagios = |more: &[&'static str]| [&["--output", "nagios"], more].concat();
    for (script, more, code, word) in [
        (GOOD, nagios(&[]), 0, "OK"),
        (GOOD, nagios(&["-w", "1000", "-c", "2000"]), 0, "OK"),
        (GOOD, nagios(&["-w", "0", "-c", "1000"]), 1, "WARNING"),
        (GOOD, nagios(&["-w", "0", "-c", "0"]), 2, "CRITICAL"),
        (REFUSED, nagios(&["-w", "1000"]), 2, "CRITICAL"),
    ] {
        let (output, _) = against(script, &more).await;
        assert_eq!(output.code, Some(code), "{more:?}: {output:?}");
        assert!(output.stdout.starts_with(&format!("IMAP {word} - ")), "{output:?}");
        assert!(output.stdout.contains(" | ") && output.stdout.contains('=') && output.stdout.lines().count() == 1);
    }
    let mut silent = Listener::silent_at("LIST").await;
    let running = probe(silent.address, &nagios(&[])).start();
    silent.wait_for_command("LIST", 1).await;
    running.signal(Signal::SIGINT);
    let void = running.finish().await;
    assert_eq!(void.code, Some(3), "{void:?}");
    assert!(void.stdout.starts_with("IMAP UNKNOWN - "), "{void:?}");
}

#[tokio::test]
async fn wrong_usage_with_nagios_is_3_and_one_line_that_says_what() {
    for (wrong, says) in [
        (&["probe", "--output", "nagios"][..], "<SERVER>"),
        (&["probe", "--output=nagios", "--count", "0", "host"], "--count"),
        (&["probe", "--output", "nagios", "--no-such-flag", "host"], "--no-such-flag"),
        (&["probe", "--output", "nagios", "imaps://me@host", "--security", "none"], "--security"),
        (&["probe", "--output", "nagios", "imap://me@host", "--security", "none", "--timeout", "soon"], "--timeout"),
        (&["probe", "--output", "nagios", "host", "--every", "soon"], "--every"),
        (&["probe", "--output", "nagios", "imaps://me@host", "--ca-file", "not/there.pem"], "not/there.pem"),
    ] {
        let output = Program::new(wrong).env("IMAPTRACE_PASSWORD", PASSWORD).run().await;
        assert_eq!(output.code, Some(3), "{wrong:?}: {output:?}");
        assert_eq!(output.stdout.lines().count(), 1, "{output:?}");
        assert!(output.stdout.starts_with("IMAP UNKNOWN - ") && output.stdout.contains(says), "{wrong:?}: {output:?}");
        assert!(!output.stdout.contains('|'), "{output:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_meant_is_wrong_usage_and_says_which_flag() {
    for (wrong, says) in [
        (&["imaps://me@host", "--security", "starttls"][..], "--security: imaps:// goes with security \"tls\" alone"),
        (&["imaps://me@host", "--security", "none"], "--security: imaps:// goes with security \"tls\" alone"),
        (&["imap://me@host", "--security", "tls"], "--security: "),
        (&["imap://me@host", "--security", "ssl"], "'ssl' for '--security"),
        (&["imap://me@host", "--mailbox", "IN\rBOX"], "--mailbox: a mailbox name cannot hold CR"),
        (&["imap://me@host", "--mailbox", "IN\nBOX"], "--mailbox: a mailbox name cannot hold CR"),
        (&["imap://me@host/IN%0DBOX"], "SERVER: "),
        (&["imap://me@host", "--user", "me\r\nx"], "--user: "),
        (&["imap://me@host", "--timeout", "30"], "--timeout: "),
        (&["imap://me@host", "--timeout", "0s"], "--timeout: "),
        (
            &["imap://me@host", "--every", "5"],
            "--every: \"5\" is not a duration: expected a whole number with a unit, such as",
        ),
        (&["imap://me@host", "--every", "9999h"], "--every: \"9999h\" is out of bounds: expected 0 to 8784h"),
        (&["imap://me@host", "--count", "0"], "'0' for '--count <N>': expected a whole number, 1 or more, such as 20"),
        (&["imap://me@host", "--newest", "0"], "--newest: "),
        (&["imap://me@host", "--window", "oldest"], "'oldest' for '--window"),
        (&["imap://me@host", "--cold", "--window", "newest"], "--cold: a cold run reads old messages"),
        (&["imap://me@host", "--address", "v5"], "'v5' for '--address"),
        (&["imap://me@host", "--auth", "cram-md5"], "'cram-md5' for '--auth"),
        (&["imap://me@host", "--tag", "long"], "'long' for '--tag"),
        (&["imap://me@host", "--journey", "second-load"], "'second-load' for '--journey"),
        (&["imap://me@host", "-w", "NaN"], "-w"),
        (&["imap://host"], "there is no user name"),
        (&["imap://me@host", "--otlp-endpoint", "localhost:4317"], "--otlp-endpoint: "),
        (
            &["imap://me@host", "--otlp-endpoint", "http://localhost:4317", "--otlp-protocol", "udp"],
            "'udp' for '--otlp-protocol",
        ),
        (&["imap://me@host", "--password-env", "A", "--password-command", "b"], "--password-command"),
        (&["imap://me@host", "--password", PASSWORD], "tip: --password-file FILE"),
        (&["imap://me:pa/ss@host"], "write / as %2F"),
    ] {
        let output = Program::new([&["probe"], wrong].concat()).env("IMAPTRACE_PASSWORD", PASSWORD).run().await;
        assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{wrong:?}: {output:?}");
        assert!(output.stderr.contains(says), "{wrong:?}: {output:?}");
        assert!(!output.stderr.contains('\r'), "{output:?}");
        keeps_the_password(&output);
    }
}

// === Results and the two streams ===

#[tokio::test]
async fn the_result_is_on_standard_output_and_all_else_on_standard_error() {
    let (text, _) = against(GOOD, &[]).await;
    assert!(text.stdout.contains("First Loading Latency") && text.stdout.contains("\nFETCH INBOX "), "{text:?}");
    assert!(text.stderr.contains("clear text") && !text.stdout.contains("clear text"), "{text:?}");
    let (json, _) = against(GOOD, &["--output", "json"]).await;
    assert_eq!(json.stdout.lines().count(), 1, "{json:?}");
    let run = run_of(&json.stdout);
    assert_eq!((run.outcome, run.target.as_str(), run.account.as_str()), (RunOutcome::Passed, "127.0.0.1", "default"));
    for output in [text, json] {
        assert!(output.stdout.is_ascii() && output.stderr.is_ascii(), "a pipe gets plain ASCII: {output:?}");
        assert!(!output.stdout.contains('\x1b') && !output.stderr.contains('\x1b'), "{output:?}");
    }
}

#[tokio::test]
async fn json_with_count_is_one_line_a_run_and_nothing_else() {
    let script = [GOOD, REFUSED, GOOD].join("next\n");
    let (output, _) = against(&script, &["--output", "json", "--count", "3", "--every", "0"]).await;
    let runs: Vec<Run> = output.stdout.lines().map(run_of).collect();
    let outcomes: Vec<_> = runs.iter().map(|run| run.outcome).collect();
    assert_eq!(outcomes, [RunOutcome::Passed, RunOutcome::Failed, RunOutcome::Passed]);
    assert_eq!(runs[1].error_type, Some(ErrorType::AuthFailed));
    assert_ne!(runs[0].trace_id, runs[2].trace_id, "each run is a trace of its own");
}

#[tokio::test]
async fn text_with_count_is_a_line_a_run_then_the_slowest_and_the_summary() {
    // The second server thinks the longest, by far.
    let slow = GOOD.replacen("C: FETCH\n", "C: FETCH\npause 150\n", 1);
    let script = [GOOD, &slow, GOOD].join("next\n");
    let (output, _) = against(&script, &["--count", "3", "--every", "0"]).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert!(lines[..3].iter().all(|line| line.contains("passed  FLL ")), "{output:?}");
    assert_eq!(lines[3], "");
    let (waterfall, summary) = output.stdout.split_once("\n\n").unwrap().1.split_once("trace ").unwrap();
    let fetch = waterfall.lines().find(|line| line.starts_with("FETCH INBOX")).unwrap();
    assert!(fetch.contains("< slowest") && fetch.contains(" ms"), "{fetch}");
    let latency = lines[1].split("FLL").nth(1).unwrap().trim().split("  ").next().unwrap();
    assert!(waterfall.contains(&format!("First Loading Latency {latency}")), "the slowest is shown: {output:?}");
    for word in ["min", "median", "max", "FETCH", "First Loading Latency"] {
        assert!(summary.contains(word), "{word}: {output:?}");
    }
}

#[tokio::test]
async fn no_escape_sequence_of_the_server_reaches_a_stream() {
    let script = REFUSED.replace("no such luck", "\\x1b[31mred\\x07\\x9b\\xe2\\x80\\xae \\xff");
    for format in ["text", "json", "nagios"] {
        let (output, _) = against(&script, &["--output", format]).await;
        let all = format!("{}{}", output.stdout, output.stderr);
        assert!(!all.contains(['\x1b', '\x07', '\u{9b}', '\u{202e}']), "{output:?}");
        assert!(output.stdout.contains("[31mred"), "the harmless rest is there: {output:?}");
    }
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_the_program_without_a_word() {
    let server = Script::play(&[GOOD; 2].join("next\n")).await;
    let url = format!("imap://someone@{}", server.address);
    let count = ["--security", "none", "--count", "1000000", "--every", "0"];
    let json = [&["probe", &url, "--output", "json"], &count[..]].concat();
    for arguments in [&json[..], &["completions", "zsh"], &["--help"]] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_imaptrace"))
            .args(arguments)
            .env_clear()
            .env("IMAPTRACE_PASSWORD", PASSWORD)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = timeout(PATIENCE, child.wait_with_output()).await.expect("it goes on for nobody").unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        // What was found before the reader went decides.
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {errors}");
        assert!(!errors.contains("panic") && !errors.contains("pipe"), "{arguments:?}: {errors}");
    }
}

#[tokio::test]
async fn an_interrupt_and_a_request_to_terminate_end_count_after_a_last_logout() {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let mut server = Listener::silent_at("LIST").await;
        let running = probe(server.address, &["--count", "1000", "--every", "0", "--output", "json"]).start();
        server.wait_for_command("LIST", 1).await;
        running.signal(signal);
        server.wait_for_command("LOGOUT", 1).await;
        let output = running.finish().await;
        assert_eq!((output.code, output.stdout.lines().count()), (Some(code), 1), "{output:?}");
        assert!(output.stderr.contains("stopped: 0 of 1000 runs were made"), "{output:?}");
        let run = run_of(&output.stdout);
        assert_eq!((run.outcome, run.error_type), (RunOutcome::Void, Some(ErrorType::Cancelled)));
        assert_eq!(run.failed_step.as_ref().map(StepName::as_str), Some("LIST"));
        keeps_the_password(&output);
    }
}

// === Passwords ===

fn login(heard: &[String]) -> &str {
    heard.iter().find(|line| line.contains("LOGIN")).map_or("", |line| line.split_once(' ').unwrap().1)
}

fn secret_file(program: &Program, mode: u32) -> String {
    let path = program.home().join("password");
    fs::write(&path, format!("{PASSWORD}\nsecond line\n")).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    path.display().to_string()
}

#[tokio::test]
async fn a_password_comes_from_a_file_that_nobody_else_can_read() {
    let place = Program::new(["--version"]);
    let file = secret_file(&place, 0o600);
    let server = Script::play(GOOD).await;
    let output = bare_probe(server.address, &["--password-file", &file]).run().await;
    assert_eq!(output.code, Some(0), "{output:?}");
    keeps_the_password(&output);
    assert_eq!(login(&heard(server).await), format!("LOGIN \"someone\" \"{PASSWORD}\""));

    let file = secret_file(&place, 0o644);
    let (_held, port) = refusing();
    let output = bare_probe(port, &["--password-file", &file]).run().await;
    assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{output:?}");
    assert!(output.stderr.contains("has mode 0644") && output.stderr.contains("chmod 600"), "{output:?}");
    keeps_the_password(&output);
}

#[tokio::test]
async fn a_password_comes_from_a_named_variable_or_the_default_one() {
    let server = Script::play(GOOD).await;
    let program = bare_probe(server.address, &["--password-env", "OTHER"]);
    let output = program.env("OTHER", "from-other").env("IMAPTRACE_PASSWORD", PASSWORD).run().await;
    assert_eq!(output.code, Some(0), "{output:?}");
    assert_eq!(login(&heard(server).await), "LOGIN \"someone\" \"from-other\"");
    let (_, heard) = against(GOOD, &[]).await;
    assert_eq!(login(&heard), format!("LOGIN \"someone\" \"{PASSWORD}\""));
}

#[tokio::test]
async fn a_password_command_is_split_into_words_and_meets_no_shell() {
    let server = Script::play(GOOD).await;
    let command = "printf '%s\\nmore' 'planted $HOME; *'";
    let output = bare_probe(server.address, &["--password-command", command]).run().await;
    assert_eq!(output.code, Some(0), "{output:?}");
    keeps_the_password(&output);
    assert_eq!(login(&heard(server).await), "LOGIN \"someone\" \"planted $HOME; *\"");
    let (_held, port) = refusing();
    let output = bare_probe(port, &["--password-command", "sh -c 'echo planted; exit 3'"]).run().await;
    assert_eq!(output.code, Some(2), "{output:?}");
    assert!(output.stderr.contains("exit status: 3"), "{output:?}");
    keeps_the_password(&output);
}

#[tokio::test]
async fn a_password_in_the_url_works_with_a_warning_and_the_last_at_sign_parts_it_from_the_host() {
    let server = Script::play(GOOD).await;
    let url = format!("imap://m%65@example.org:planted%20%40%22x@{}", server.address);
    let output = Program::new(["probe", &url, "--security", "none"]).run().await;
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(output.stderr.contains("the URL contains the password"), "{output:?}");
    keeps_the_password(&output);
    assert!(!output.stdout.contains("example.org") && !output.stderr.contains("example.org"), "{output:?}");
    assert_eq!(login(&heard(server).await), "LOGIN \"me@example.org\" \"planted @\\\"x\"");
}

#[tokio::test]
async fn without_a_password_and_without_a_terminal_it_does_not_wait_for_one() {
    let (_held, port) = refusing();
    let output = bare_probe(port, &[]).stdin(format!("{PASSWORD}\n")).run().await;
    assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{output:?}");
    assert!(output.stderr.contains("there is no password") && output.stderr.contains("--password-file"), "{output:?}");
}

#[tokio::test]
async fn on_a_terminal_it_asks_for_the_password_and_does_not_show_it() {
    let server = Script::play(GOOD).await;
    let url = format!("imap://someone@{}", server.address);
    let typed = Some(("Password for the mailbox on 127.0.0.1: ", PASSWORD));
    let (text, code) = Terminal::default().run(&["probe", &url, "--security", "none"], typed).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(!text.contains("planted"), "{text}");
    assert_eq!(login(&heard(server).await), format!("LOGIN \"someone\" \"{PASSWORD}\""));
}

// === What is sent ===

#[tokio::test]
async fn flags_decide_what_is_asked_for() {
    let ask = async |url: &str, more: &[&str]| {
        let open = if more.contains(&"--examine") { "EXAMINE" } else { "SELECT" };
        let server = Script::play(&GOOD.replace("C: SELECT", &format!("C: {open}"))).await;
        let url = format!("imap://someone@{}{url}", server.address);
        let program = Program::new(["probe", &url, "--security", "none"].iter().chain(more));
        let output = program.env("IMAPTRACE_PASSWORD", PASSWORD).run().await;
        assert_eq!(output.code, Some(0), "{more:?}: {output:?}");
        heard(server).await.iter().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect::<Vec<_>>()
    };
    let usual = ask("", &[]).await;
    assert_eq!(usual[2], "SELECT \"INBOX\"");
    assert!(usual[3].starts_with("FETCH 11:30 "), "{usual:?}");
    assert_eq!(ask("/Some%20Folder", &[]).await[2], "SELECT \"Some Folder\"");
    assert_eq!(ask("/Archive", &["--mailbox", "Sent"]).await[2], "SELECT \"Sent\"");
    assert_eq!(ask("", &["--mailbox", "Entwürfe & Co"]).await[2], "SELECT \"Entw&APw-rfe &- Co\"");
    assert_eq!(ask("", &["--examine"]).await[2], "EXAMINE \"INBOX\"");
    assert!(ask("", &["--newest", "5"]).await[3].starts_with("FETCH 26:30 "));
}

// === Terminals ===

/// What the program sees of a terminal.
pub(crate) struct Terminal<'a> {
    pub(crate) columns: usize,
    pub(crate) variables: &'a [(&'a str, &'a str)],
    /// A redirection for the shell, such as `2>/dev/null`.
    pub(crate) redirect: &'a str,
}

impl Default for Terminal<'_> {
    fn default() -> Self {
        Self { columns: 80, variables: &[("TERM", "xterm-256color"), ("LANG", "C.UTF-8")], redirect: "" }
    }
}

impl Terminal<'_> {
    /// Runs it there, types a line when it has asked, and gives all that the terminal showed, and the exit code.
    pub(crate) async fn run(&self, arguments: &[&str], typed: Option<(&str, &str)>) -> (String, Option<i32>) {
        let typed = typed.map(|(question, answer)| (question, format!("{answer}\n")));
        let steps: Vec<_> = typed.iter().map(|(question, line)| (*question, line.as_str())).collect();
        self.converse(arguments, &steps).await
    }

    /// Runs it there. When it has shown the first text, the first keys are typed, and so on, each behind the one before.
    pub(crate) async fn converse(&self, arguments: &[&str], steps: &[(&str, &str)]) -> (String, Option<i32>) {
        self.shell(&format!("exec {}", self.words(arguments)), steps).await
    }

    /// The program with these arguments, as a shell reads it.
    pub(crate) fn words(&self, arguments: &[&str]) -> String {
        let words = shlex::try_join([&[env!("CARGO_BIN_EXE_imaptrace")], arguments].concat()).unwrap();
        format!("{words} {}", self.redirect)
    }

    /// The same for a line of a shell.
    pub(crate) async fn shell(&self, line: &str, steps: &[(&str, &str)]) -> (String, Option<i32>) {
        let line = format!("stty rows 24 cols {}; {line}", self.columns);
        let mut child = Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("SHELL", "/bin/sh")
            .envs(self.variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{error}: the program `script` of util-linux gives these tests a terminal"));
        let mut input = child.stdin.take().unwrap();
        let mut output = child.stdout.take().unwrap();
        let mut shown = Vec::new();
        let mut left = steps.iter().copied();
        let mut step = left.next();
        let mut seen = 0;
        let read = async {
            while output.read_buf(&mut shown).await.unwrap() > 0 {
                while let Some((text, keys)) = step
                    && let Some(at) = memchr::memmem::find(&shown[seen..], text.as_bytes())
                {
                    seen += at + text.len();
                    input.write_all(keys.as_bytes()).await.unwrap();
                    step = left.next();
                }
            }
            child.wait().await.unwrap().code()
        };
        let code = timeout(PATIENCE, read).await;
        let code = code.unwrap_or_else(|_| panic!("it does not end: {}", String::from_utf8_lossy(&shown)));
        assert!(step.is_none(), "it never showed {step:?}: {}", String::from_utf8_lossy(&shown));
        (String::from_utf8(shown).unwrap().replace("\r\n", "\n"), code)
    }
}

/// Takes colours out, the only escape sequences that may be there.
pub(crate) fn without_colour(text: &str) -> String {
    let mut plain = String::new();
    let mut parts = text.split("\x1b[");
    plain.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let (code, rest) = part.split_once('m').unwrap_or_else(|| panic!("no colour: {part:?}"));
        assert!(code.chars().all(|character| character.is_ascii_digit()), "no colour: {part:?}");
        plain.push_str(rest);
    }
    plain
}

#[tokio::test]
async fn a_terminal_gets_colour_and_unicode_and_no_line_is_wider_than_it() {
    let server = demo(false).await;
    let url = format!("imap://demo:demo@{}", server.address());
    for columns in [60, 80, 120] {
        let terminal = Terminal { columns, redirect: "2>/dev/null", ..Terminal::default() };
        let (text, code) = terminal.run(&["probe", &url, "--security", "none"], None).await;
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains("\x1b[") && !text.is_ascii(), "{text}");
        let plain = without_colour(&text);
        for line in plain.lines() {
            let width = unicode_width::UnicodeWidthStr::width(line);
            assert!(width <= columns, "{width} columns of {columns}: {line}");
        }
        assert!(plain.lines().any(|line| unicode_width::UnicodeWidthStr::width(line) > columns - 15), "{plain}");
    }
}

#[tokio::test]
async fn no_color_and_color_never_keep_their_word_on_a_terminal() {
    let server = demo(false).await;
    let url = format!("imap://demo:wrong@{}", server.address());
    let no_color = [("TERM", "xterm-256color"), ("LANG", "C.UTF-8"), ("NO_COLOR", "1")];
    let terminal = Terminal { variables: &no_color, ..Terminal::default() };
    for arguments in
        [&["probe", &url, "--security", "none"][..], &["probe", &url, "--security", "none", "--color", "always"]]
    {
        let (text, code) = terminal.run(arguments, None).await;
        assert_eq!(code, Some(1), "{text}");
        assert!(text.is_ascii() && !text.contains('\x1b'), "{text:?}");
    }
    let (text, _) = Terminal::default().run(&["probe", &url, "--security", "none", "--color", "never"], None).await;
    assert!(!text.contains('\x1b') && text.contains("auth_failed"), "{text:?}");
    let (text, code) = Terminal::default().run(&["probe"], None).await;
    assert_eq!(code, Some(2));
    let (plain, _) = terminal.run(&["probe"], None).await;
    assert!(plain.is_ascii() && !plain.contains('\x1b'), "{plain:?}");
    assert!(text.contains("\x1b["), "wrong usage is coloured on a terminal that can: {text:?}");
}

// === When things go wrong ===

/// The lines of standard error except those that a flag brings with it.
fn complaints(output: &Output) -> Vec<&str> {
    let lines = output.stderr.lines();
    lines.filter(|line| !line.starts_with("warning: --") && !line.starts_with("  help: ")).collect()
}

#[tokio::test]
async fn a_run_that_fails_is_one_line_that_says_what_where_and_what_to_try() {
    let complaint = |output: &Output, parts: &[&str]| {
        assert_eq!(output.code, Some(1), "{output:?}");
        keeps_the_password(output);
        let lines = complaints(output);
        assert_eq!(lines.len(), 1, "{output:?}");
        for part in parts {
            assert!(lines[0].contains(part), "{part:?} is not in {}", lines[0]);
        }
    };
    let program =
        |arguments: &[&str]| Program::new([&["probe"], arguments].concat()).env("IMAPTRACE_PASSWORD", PASSWORD);

    let (output, _) = against(REFUSED, &[]).await;
    complaint(&output, &["(127.0.0.1:", "LOGIN failed: auth_failed", "no such luck", "check user name and password"]);

    let (_held, port) = refusing();
    let output = probe(port, &[]).run().await;
    complaint(&output, &[&port.to_string(), "connect failed: connect_refused", "is the port right?"]);

    let names = NameServer::start(|question| vec![question.answer(NXDOMAIN, &[])]).await;
    let server = names.dns().servers[0].to_string();
    let unknown = program(&["imaps://me@mail.invalid"]);
    let output = unknown.env("IMAPTRACE__DNS__SERVERS", server).run().await;
    complaint(&output, &["mail.invalid:993", "resolve failed: dns_nxdomain", "spelling of the host name"]);

    let server = demo(true).await;
    let output = program(&[&format!("imaps://me@{}", server.address())]).run().await;
    complaint(&output, &["tls failed: tls_cert_untrusted", "--ca-file"]);

    // A server that waits for the client to speak first, as one with TLS does, and one that speaks first.
    let output = probe(server.address(), &["--timeout", "1s"]).run().await;
    complaint(&output, &["greeting failed: ", "TLS"]);
    let clear = demo(false).await;
    let output = program(&[&format!("imaps://me@{}", clear.address())]).run().await;
    complaint(&output, &["tls failed: tls_protocol", "--security starttls"]);

    let (no_starttls, no_login) = (
        "S: * OK [CAPABILITY IMAP4rev1] hi\nC: LOGOUT\nS: * BYE\nS: {tag} OK",
        "S: * OK [CAPABILITY IMAP4rev1 LOGINDISABLED] hi\nC: LOGOUT\nS: * BYE\nS: {tag} OK",
    );
    let script = Script::play(no_starttls).await;
    let output = program(&[&format!("imap://me@{}", script.address)]).run().await;
    complaint(&output, &["STARTTLS failed: starttls_unavailable", "imaps://"]);
    assert!(!heard(script).await.join("\n").contains("planted"));
    let (output, heard) = against(no_login, &[]).await;
    complaint(&output, &["LOGIN failed: auth_mechanism", "over TLS"]);
    assert_eq!(heard.len(), 1, "{heard:?}");
}

#[tokio::test]
async fn starttls_and_tls_pass_against_a_trusted_certificate_and_insecure_is_loud() {
    for tls in [true, false] {
        let server = demo(tls).await;
        let url = format!("{}://demo@{}", if tls { "imaps" } else { "imap" }, server.address());
        let ca = server.ca_file().display().to_string();
        let program = |flag: &[&str]| {
            let arguments = [&["probe", &url, "--output", "json"], flag].concat();
            Program::new(arguments).env("IMAPTRACE_PASSWORD", "demo")
        };
        let trusted = program(&["--ca-file", &ca]).run().await;
        assert_eq!((trusted.code, trusted.stderr.as_str()), (Some(0), ""), "{trusted:?}");
        let insecure = program(&["--insecure"]).run().await;
        assert_eq!(insecure.code, Some(0), "{insecure:?}");
        assert!(insecure.stderr.contains("--insecure: the server's certificate is not checked"), "{insecure:?}");
        let step = run_of(&insecure.stdout).steps.into_iter().find(|step| step.name == "tls").unwrap();
        assert!(step.tls.is_some());
        let other_name = program(&["--ca-file", &ca, "--server-name", "other.example"]).run().await;
        assert_eq!(run_of(&other_name.stdout).error_type, Some(ErrorType::TlsCertName));
    }
}

// === Telemetry ===

/// Bytes as they are printed.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test]
async fn traceparent_is_the_parent_of_each_run() {
    let server = Script::play(&[GOOD; 2].join("next\n")).await;
    let program = probe(server.address, &["--output", "json", "--count", "2", "--every", "0"]);
    let output = program.env("TRACEPARENT", PARENT).run().await;
    let runs: Vec<Run> = output.stdout.lines().map(run_of).collect();
    assert_eq!(runs.len(), 2, "{output:?}");
    for run in &runs {
        assert_eq!(run.trace_id.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(run.parent_span_id.unwrap().to_string(), "00f067aa0ba902b7");
    }
    assert_ne!(runs[0].span_id, runs[1].span_id);

    let server = Script::play(GOOD).await;
    let output = probe(server.address, &["--output", "json"]).env("TRACEPARENT", "00-beef-cafe-01").run().await;
    assert_eq!((output.code, run_of(&output.stdout).parent_span_id), (Some(0), None));
    assert!(output.stderr.contains("warning: TRACEPARENT is set and is no W3C traceparent"), "{output:?}");
}

#[test]
fn the_trace_arrives_with_the_ids_of_the_json_line_however_the_endpoint_is_given() {
    for (grpc, by_flag) in [(true, true), (false, true), (false, false)] {
        let receiver = if grpc { Receiver::grpc() } else { Receiver::http() };
        let (url, protocol) = (receiver.url(), if grpc { "grpc" } else { "http/protobuf" });
        let run = block_on(async {
            let server = Script::play(GOOD).await;
            let flags = ["--output", "json", "--otlp-endpoint", &url, "--otlp-protocol", protocol];
            let program = probe(server.address, if by_flag { &flags } else { &flags[..2] });
            let program = if by_flag { program } else { program.env("OTEL_EXPORTER_OTLP_ENDPOINT", &url) };
            let output = program.env("TRACEPARENT", PARENT).run().await;
            assert_eq!(output.code, Some(0), "{output:?}");
            assert!(complaints(&output).is_empty(), "{output:?}");
            run_of(&output.stdout)
        });
        let spans = receiver.look(Inbox::spans);
        let mut sent: Vec<String> = spans.iter().map(|span| hex(&span.span_id)).collect();
        let steps = run.steps.iter().filter_map(|step| step.span_id).map(|id| id.to_string());
        let mut printed: Vec<String> = steps.chain([run.span_id.to_string()]).collect();
        sent.sort_unstable();
        printed.sort_unstable();
        assert_eq!(sent, printed);
        let root = spans.iter().find(|span| span.name == "probe first-load").unwrap();
        assert_eq!(
            (hex(&root.trace_id), hex(&root.parent_span_id)),
            (run.trace_id.to_string(), "00f067aa0ba902b7".to_owned())
        );
        assert_eq!(attribute(&root.attributes, "imaptrace.account.name").as_deref(), Some("default"));
        assert!(receiver.look(|inbox| inbox.metrics.is_empty()), "metrics of one run look like a dead agent's");
    }
}

#[test]
fn metrics_of_a_probe_are_exported_when_asked_for_and_are_marked_as_no_agents() {
    for (grpc, protocol) in [(true, "grpc"), (false, "http/protobuf")] {
        let receiver = if grpc { Receiver::grpc() } else { Receiver::http() };
        let url = receiver.url();
        block_on(async {
            let server = Script::play(GOOD).await;
            let flags = ["--metrics", "--otlp-endpoint", &url, "--otlp-protocol", protocol];
            let output = probe(server.address, &flags).run().await;
            assert_eq!((output.code, complaints(&output)), (Some(0), Vec::new()), "{output:?}");
        });
        assert_eq!(receiver.look(|inbox| inbox.spans().len()), 8);
        let metrics = receiver.look(Inbox::metrics);
        assert!(metrics.contains_key("imaptrace.probe.up") && metrics.contains_key("imap.client.operation.duration"));
        for (name, metric) in metrics {
            let own = ["imaptrace.delivery.", "imaptrace.scheduler.", "imaptrace.config.", "imaptrace.probe.active"];
            assert!(!own.iter().any(|start| name.starts_with(start)), "{name} is an agent's");
            let attributes: Vec<_> = match metric.data.unwrap() {
                Data::Gauge(it) => it.data_points.into_iter().map(|point| point.attributes).collect(),
                Data::Sum(it) => it.data_points.into_iter().map(|point| point.attributes).collect(),
                Data::Histogram(it) => it.data_points.into_iter().map(|point| point.attributes).collect(),
                other => panic!("{other:?}"),
            };
            for attributes in attributes {
                assert_eq!(attribute(&attributes, "imaptrace.one_shot").as_deref(), Some("true"), "{name}");
            }
        }
    }
}

#[tokio::test]
async fn metrics_without_an_endpoint_are_a_mistake_on_the_command_line() {
    let nowhere = probe("127.0.0.1:1".parse().unwrap(), &["--metrics"]).run().await;
    assert_eq!((nowhere.code, nowhere.stdout.as_str()), (Some(2), ""), "{nowhere:?}");
    assert!(nowhere.stderr.starts_with("error: --metrics: there is no OTLP endpoint"), "{nowhere:?}");
}

#[tokio::test]
async fn a_missing_or_silent_collector_is_one_warning_and_changes_no_exit_code() {
    let (closed, hole) = (ClosedPort::take(), BlackHole::open());
    for url in [closed.url(), hole.url()] {
        let server = Script::play(GOOD).await;
        let output = probe(server.address, &["--otlp-endpoint", &url]).run().await;
        assert_eq!(output.code, Some(0), "{output:?}");
        let lines = complaints(&output);
        let [line] = lines.as_slice() else { panic!("{output:?}") };
        // The root, connect, greeting, and five commands.
        assert!(line.starts_with("warning: not delivered: 1 run (8 spans) lost: "), "{line}");
        assert!(output.stdout.contains("First Loading Latency"), "{output:?}");
    }
}

// === The other commands ===

#[tokio::test]
async fn the_help_is_as_it_was() {
    for command in ["", "probe", "agent", "check", "replay", "show"] {
        let arguments: Vec<&str> = [command, "--help"].into_iter().filter(|word| !word.is_empty()).collect();
        let output = Program::new(arguments).run().await;
        assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""));
        assert!(output.stdout.lines().all(|line| line.chars().count() <= 100), "{output:?}");
        let name = if command.is_empty() { "help".to_owned() } else { format!("help_{command}") };
        insta::assert_snapshot!(name, output.stdout);
    }
    let version = Program::new(["--version"]).run().await;
    assert_eq!(version.stdout, format!("imaptrace {}\n", env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn completions_name_commands_and_flags() {
    for shell in ["bash", "zsh", "fish"] {
        let output = Program::new(["completions", shell]).run().await;
        assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{shell}");
        for word in ["password-file", "otlp-endpoint", "agent", "baseline", "accept", "check", "completions"] {
            assert!(output.stdout.contains(word), "{shell}: {word}");
        }
    }
    assert_eq!(Program::new(["completions", "no-such-shell"]).run().await.code, Some(2));
}

fn config(directory: &Path, text: &str) -> String {
    let path = directory.join("imaptrace.toml");
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[tokio::test]
async fn check_prints_the_plan_without_a_secret_or_a_user() {
    let program = Program::new(["--version"]);
    let password = secret_file(&program, 0o600);
    let file = config(
        program.home(),
        &format!(
            "[otlp]\nendpoint = \"http://localhost:4317\"\nheaders = {{ authorization = {{ file = {password:?} }} }}\n\
             [[targets]]\nname = \"mail01\"\nurl = \"imaps://mail01.example.org\"\nuser = \"planted-user@example.org\"\n\
             password = {{ file = {password:?} }}\n"
        ),
    );
    let output = Program::new(["check", "--config", &file]).run().await;
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{output:?}");
    keeps_the_password(&output);
    for word in ["mail01", "mail01.example.org:993", "series"] {
        assert!(output.stdout.contains(word), "{word}: {output:?}");
    }
}

#[tokio::test]
async fn check_says_all_that_is_wrong_at_once_with_file_and_line() {
    let program = Program::new(["--version"]);
    let file = config(
        program.home(),
        "[defaults]\ninterval = \"soon\"\nintervall = \"60s\"\n[[targets]]\nname = \"a\"\nurl = \"ftp://host\"\n\
         user = \"planted\"\npassword = \"planted\"\n",
    );
    for command in ["check", "agent"] {
        let output = Program::new([command, "--config", &file]).run().await;
        assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{output:?}");
        keeps_the_password(&output);
        for line in [2, 3, 6, 8] {
            assert!(output.stderr.contains(&format!("{file}:{line}")), "line {line}: {output:?}");
        }
        assert!(output.stderr.contains("4 errors"), "{output:?}");
    }
    let output = Program::new(["check", "--config", "not/there.toml"]).run().await;
    assert_eq!(output.code, Some(2));
    assert!(output.stderr.contains("not/there.toml"), "{output:?}");
}

#[tokio::test]
async fn check_looks_into_the_files_that_a_plan_names() {
    let program = Program::new(["--version"]);
    let password = secret_file(&program, 0o644);
    let target = |name: &str, more: &str| {
        format!("[[targets]]\nname = \"{name}\"\nurl = \"imaps://{name}.example.org\"\nuser = \"u\"\n{more}\n")
    };
    let file = config(
        program.home(),
        &(target("a", &format!("password = {{ file = {password:?} }}"))
            + &target("b", "password = { env = \"NOT_SET\" }\nca_file = \"not/there.pem\"")),
    );
    let output = Program::new(["check", "--config", &file]).run().await;
    assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{output:?}");
    assert!(output.stderr.contains("has mode 0644") && output.stderr.contains("there.pem"), "{output:?}");
    assert!(output.stderr.contains(&format!("warning: {file}:10:14: targets[1].password.env")), "{output:?}");
    for place in ["5:14: targets[0].password.file", "11:1: targets[1].ca_file"] {
        assert!(output.stderr.contains(&format!("error: {file}:{place}")), "{place}: {output:?}");
    }
    assert!(output.stderr.ends_with("2 errors\n"), "{output:?}");
    keeps_the_password(&output);

    let text = fs::read_to_string(&file).unwrap();
    let pem = program.home().join("junk.pem");
    fs::write(&pem, "junk").unwrap();
    let file = config(program.home(), &format!("intervall = 1\n{text}"));
    let output = Program::new(["check", "--config", &file]).run().await;
    assert!(output.stderr.ends_with("3 errors\n"), "{output:?}");
    let junk = format!("[defaults]\nca_file = {pem:?}\n");
    let file = config(
        program.home(),
        &(junk + &target("a", "password = { env = \"P\" }") + &target("b", "password = { env = \"P\" }")),
    );
    let output = Program::new(["check", "--config", &file]).run().await;
    assert_eq!(output.code, Some(2), "{output:?}");
    assert!(output.stderr.contains(&format!("error: {file}: targets[0].ca_file: ")), "{output:?}");
    assert!(output.stderr.ends_with("1 error\n"), "{output:?}");
}

#[tokio::test]
async fn a_certificate_for_another_host_is_told_apart_from_an_unknown_one() {
    let pem = Pem::self_signed(&["other.example"], 2020, 2040);
    let server = Script::play_with("tls\nsilence", &pem).await;
    let ca = pem.ca_file();
    let output = Program::new([
        "probe",
        &format!("imaps://me@{}", server.address),
        "--ca-file",
        &ca.path().display().to_string(),
    ])
    .env("IMAPTRACE_PASSWORD", PASSWORD)
    .run()
    .await;
    assert!(output.stderr.contains("tls_cert_name") && output.stderr.contains("--server-name"), "{output:?}");
}

#[tokio::test]
async fn a_variable_for_imaptrace_that_is_not_utf_8_is_an_error_by_its_name_and_any_other_is_not() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};

    let bytes = |text: &'static [u8]| OsStr::from_bytes(text);
    for (name, shown) in [
        (bytes(b"IMAPTRACE__DEFAULTS__INTERVAL"), "IMAPTRACE__DEFAULTS__INTERVAL"),
        (bytes(b"IMAPTRACE__\xff"), "IMAPTRACE__\u{fffd}"),
        (bytes(b"OTEL_SERVICE_NAME"), "OTEL_SERVICE_NAME"),
        (bytes(b"OTEL_EXPORTER_OTLP_ENDPOINT"), "OTEL_EXPORTER_OTLP_ENDPOINT"),
        (bytes(b"STATE_DIRECTORY"), "STATE_DIRECTORY"),
    ] {
        for arguments in [&["check", "--config", "imaptrace.toml"][..], &["agent", "--config", "imaptrace.toml"]] {
            let program = Program::new(arguments).env(name, bytes(b"a\xffb"));
            fs::write(program.home().join("imaptrace.toml"), one_target()).unwrap();
            let Output { code, stderr, .. } = program.run().await;
            assert_eq!(code, Some(2), "{stderr}");
            assert!(stderr.contains(&format!("error: variable {shown}: it is not UTF-8")), "{stderr}");
        }
    }
    let program = Program::new(["check", "--config", "imaptrace.toml"]).env("OTHER", bytes(b"\xff"));
    fs::write(program.home().join("imaptrace.toml"), one_target()).unwrap();
    let Output { code, stderr, .. } = program.run().await;
    assert_eq!(code, Some(0), "{stderr}");
}

fn one_target() -> &'static str {
    "[[targets]]\nname = \"a\"\nurl = \"imaps://a\"\nuser = \"me\"\npassword = { env = \"X\" }\n"
}
