//! `probe --verbose`: the conversation on standard error, line by line, without passwords and mail.

use std::fmt::Write as _;

use crate::support::{
    program::{Output, Program},
    script::{Pem, Script},
};

const PASSWORD: &str = "hunter2-and-more";
const USER: &str = "someone@example.org";

async fn probe(script: &str, more: &[&str]) -> Output {
    let server = Script::play(script).await;
    let url = format!("imap://{}", server.address);
    let arguments = ["probe", &url, "--security", "none", "--user", USER, "--verbose", "--timeout", "5s"];
    Program::new(arguments.iter().chain(more)).env("IMAPTRACE_PASSWORD", PASSWORD).run().await
}

/// The lines of the conversation: who sent each, and what.
fn lines(output: &Output) -> Vec<(&str, &str)> {
    let parts = output.stderr.lines().filter_map(|line| {
        let at = ["  C: ", "  S: ", "  -- "].iter().filter_map(|sign| line.find(sign)).min()?;
        let (time, rest) = line.split_at_checked(at)?;
        let timed = time.trim().starts_with(|first: char| first.is_ascii_digit());
        rest.trim_start().split_once(' ').filter(|_| timed)
    });
    parts.collect()
}

/// The same without the tags, which are random.
fn untagged(output: &Output) -> String {
    let mut text = String::new();
    for (who, line) in lines(output) {
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        let is_tag = first.len() == 16 && first.bytes().all(|byte| byte.is_ascii_hexdigit());
        let line = if is_tag { format!("TAG {rest}") } else { line.to_owned() };
        writeln!(text, "{who} {line}").unwrap();
    }
    text
}

#[tokio::test]
async fn every_line_is_shown_with_its_time_and_rows_and_literals_by_their_sizes() {
    let script = "S: * OK [CAPABILITY IMAP4rev1 ID LITERAL+] hi
C: ID
S: * ID (\"name\" {7}
S: Dovecot \"version\" NIL)
S: {tag} OK
C: LOGIN
S: * NO careful
S: {tag} OK [CAPABILITY IMAP4rev1] in
C: LIST
S: * LIST () \"/\" INBOX
S: * LIST () \"/\" {5}
S: Trash
S: {tag} OK
C: SELECT
S: * 30 EXISTS
S: {tag} OK [READ-WRITE] open
C: FETCH 11:30
S: * 29 FETCH (UID 2 BODY[HEADER.FIELDS (SUBJECT)] {25}
S: Subject: confidential\\r\\n\\r\\n)
S: * 30 FETCH (UID 3)
S: {tag} OK done
C: LOGOUT
S: * BYE
S: {tag} OK
";
    let output = probe(script, &[]).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    let shown = untagged(&output);
    let expected = [
        "S: * OK [CAPABILITY IMAP4rev1 ID LITERAL+] hi\n",
        "S: * ID (\"name\" {7} \"version\" NIL)\n",
        "C: TAG LOGIN [default] [redacted]\nS: * NO careful\nS: TAG OK [CAPABILITY IMAP4rev1] in\n",
        "C: TAG LIST \"\" \"*\"\nS: * LIST () \"/\" INBOX\nS: * LIST () \"/\" {5}\nS: TAG OK\n",
        "C: TAG SELECT \"INBOX\"\nS: * 30 EXISTS\nS: TAG OK [READ-WRITE] open\n",
        "S: * 29 FETCH (",
        "octets, a literal of 25)\nS: * 30 FETCH (",
        " octets)\nS: TAG OK done\nC: TAG LOGOUT\nS: * BYE\nS: TAG OK\n",
    ];
    let mut rest = shown.as_str();
    for part in expected {
        rest = rest.split_once(part).unwrap_or_else(|| panic!("{part:?} is not in\n{rest}")).1;
    }
    assert!(shown.starts_with("-- connect: 127.0.0.1:"), "{shown}");
    for never in [PASSWORD, USER, "confidential", "Dovecot", "Trash"] {
        assert!(!output.stderr.contains(never), "{never} in {}", output.stderr);
    }
    assert!(output.stdout.contains("FETCH"), "the result stays on standard output");
}

#[tokio::test]
async fn sasl_messages_are_shown_by_their_sizes() {
    let script = "S: * OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] hi
C: AUTHENTICATE PLAIN
S: +
C: 
S: {past} NO [AUTHENTICATIONFAILED] no
C: LOGOUT
S: * BYE
S: {tag} OK
";
    let output = probe(script, &[]).await;
    assert_eq!(output.code, Some(1), "{output:?}");
    let shown = untagged(&output);
    assert!(shown.contains("C: TAG AUTHENTICATE PLAIN\nS: + (0 octets)\nC: ("), "{shown}");
    assert!(shown.contains(" octets)\nS: TAG NO [AUTHENTICATIONFAILED] no\n"), "{shown}");
}

#[tokio::test]
async fn what_breaks_off_and_what_never_ends_is_said_and_json_stays_alone_on_standard_output() {
    let output = probe("S: * OK [CAPABILITY IMAP4rev1] hi\nC: LOGIN\nS: * NO half a li\n", &["--output", "json"]).await;
    let shown = untagged(&output);
    assert!(shown.contains("-- eof\n") || shown.contains("-- timeout_command\n"), "{shown}");
    assert_eq!(output.stdout.lines().count(), 1, "{}", output.stdout);
    let many = "S: * LIST () \"/\" INBOX\n".repeat(1_003);
    let script = format!(
        "S: * OK [CAPABILITY IMAP4rev1 LITERAL+] hi\nC: LOGIN\nS: {{tag}} OK [CAPABILITY IMAP4rev1] in\nC: LIST\n{many}S: {{tag}} NO enough\n\
         C: LOGOUT\nS: * BYE\nS: {{tag}} OK\n"
    );
    let shown = untagged(&probe(&script, &[]).await);
    assert_eq!(shown.matches("* LIST () ").count(), 1_000);
    assert!(shown.contains("-- 3 more untagged responses of 57 octets\nS: TAG NO enough\n"), "{shown}");
}

#[tokio::test]
async fn the_handshake_is_shown_and_escape_sequences_of_a_server_are_not_passed_on() {
    let pem = Pem::self_signed(&["localhost"], 2020, 2100);
    let server = Script::play_with("tls\nS: * BYE \\x1b[31mgo away\\x1b[0m {password}\n", &pem).await;
    let url = format!("imaps://localhost:{}", server.address.port());
    let ca = pem.ca_file();
    let arguments = ["probe", &url, "--user", USER, "-v", "--ca-file", ca.path().to_str().unwrap()];
    let output = Program::new(arguments).env("IMAPTRACE_PASSWORD", PASSWORD).run().await;
    let shown = untagged(&output);
    assert!(shown.contains("-- tls: TLS 1."), "{shown}");
    assert!(shown.contains("S: * BYE \\x1b[31mgo away"), "{shown}");
    assert!(!output.stderr.contains('\u{1b}'), "{}", output.stderr);
}
