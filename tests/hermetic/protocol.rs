//! What a client must bear and must not do, where no room of its own can show it: whole runs against scripts of bytes.
//! `docs/protocol.md` says which requirement each test is for.

use std::time::Duration;

use imaptrace::plan::{Mailbox, Open, Security, Target, UserName};
use imaptrace_imap::{Capabilities, Command, Condition, Credentials, Mechanism, ResponseCode, Secret};
use imaptrace_record::{ErrorType, Run, RunOutcome, Step, StepName, StepOutcome};
use proptest::prelude::*;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
};

use crate::support::{
    program::Program,
    run::{account, run, steps, target},
    script::Script,
};

async fn against(script: &str, change: impl FnOnce(&mut Target)) -> (Run, Vec<String>) {
    let server = Script::play(script).await;
    let mut target = target(server.address, Security::None);
    change(&mut target);
    let run = run(target).await;
    (run, server.heard().await)
}

/// What a server may say whenever it likes (RFC 9051 §2.2.2, §5.2), and some that it should not.
const UNASKED: &str = "S: * 5 EXISTS
S: * 0 RECENT
S: * FLAGS (\\\\Seen)
S: * LIST () \"/\" other
S: * 2 FETCH (FLAGS (\\\\Seen))
S: * 3 EXPUNGE
S: * VANISHED (EARLIER) 41,43:116
S: * XMADEUP (a {3}
S: b c) \"d\"
S: * OK [UIDNEXT 5] by the way
S: * NO just a warning
S: * BAD about nothing
";

#[tokio::test]
async fn unsolicited_data_may_come_in_every_command() {
    let mut script = "S: * OK [CAPABILITY IMAP4rev1] hi\n".to_owned();
    for (command, answer) in [
        ("LOGIN", "S: {tag} OK [CAPABILITY IMAP4rev1] in\n"),
        ("LIST", "S: {tag} OK\n"),
        // The last one counts.
        ("SELECT", "S: * 30 EXISTS\nS: {tag} OK\n"),
        ("FETCH 11:30", "S: * 30 FETCH (UID 3)\nS: {tag} OK\n"),
        ("LOGOUT", "S: * BYE\nS: {tag} OK\n"),
    ] {
        script.extend(["C: ", command, "\n", UNASKED, answer]);
    }
    let (run, _) = against(&script, |_| {}).await;
    assert_eq!(steps(&run), "connect greeting LOGIN LIST SELECT FETCH LOGOUT");
    let fetch = run.steps.iter().find(|step| step.name == "FETCH").unwrap();
    assert_eq!((fetch.messages, fetch.untagged), (Some(1), Some(12)), "message 2 was not asked for");
    assert_eq!(run.steps.iter().filter_map(|step| step.deviations).sum::<u64>(), 0);
}

#[tokio::test]
async fn no_command_is_sent_before_the_one_before_it_has_ended() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let mut stream = BufReader::new(listener.accept().await.unwrap().0);
        let details = "[CAPABILITY IMAP4rev1 ID NAMESPACE LITERAL+ SASL-IR AUTH=PLAIN]";
        stream.write_all(format!("* OK {details} hi\r\n").as_bytes()).await.unwrap();
        let (mut line, mut commands) = (String::new(), Vec::new());
        while stream.read_line(&mut line).await.unwrap() > 0 {
            // Whoever pipelines has sent more by now.
            let more = tokio::time::timeout(Duration::from_millis(20), stream.fill_buf()).await;
            assert!(!more.is_ok_and(|more| !more.unwrap().is_empty()), "more came with {line}");
            let mut words = line.split_whitespace();
            let (tag, command) = (words.next().unwrap(), words.next().unwrap());
            let before = match command {
                "SELECT" => "* 1 EXISTS\r\n",
                "FETCH" => "* 1 FETCH (UID 1)\r\n",
                _ => "",
            };
            stream.write_all(format!("{before}{tag} OK {details} done\r\n").as_bytes()).await.unwrap();
            commands.push(command.to_owned());
            line.clear();
        }
        commands
    });
    let run = run(target(address, Security::None)).await;
    assert_eq!(run.outcome, RunOutcome::Passed, "{}", steps(&run));
    assert_eq!(server.await.unwrap(), ["ID", "AUTHENTICATE", "NAMESPACE", "LIST", "SELECT", "FETCH", "LOGOUT"]);
}

#[tokio::test]
async fn a_refusal_in_place_of_the_plus_keeps_the_password_here() {
    for (answer, class) in [("NO no literals today", ErrorType::AuthFailed), ("BAD what is that", ErrorType::Bad)] {
        let script = format!(
            "S: * OK [CAPABILITY IMAP4rev1] hi\nC: LOGIN \"someone\" {{10}}\nS: {{tag}} {answer}\nC: LOGOUT\nS: {{tag}} OK\n"
        );
        let (run, heard) = against(&script, |target| target.accounts = vec![account("someone", "pässwörd")]).await;
        assert_eq!((run.error_type, run.failed_step.as_ref().map(StepName::as_str)), (Some(class), Some("LOGIN")));
        assert!(steps(&run).ends_with(" LOGOUT"), "{}", steps(&run));
        assert!(heard.iter().all(|line| !line.contains("pässwörd")), "{heard:?}");
    }
}

#[tokio::test]
async fn literals_of_any_kind_may_stand_wherever_a_string_can() {
    let script = "S: * OK [CAPABILITY IMAP4rev1] hi
C: LOGIN
S: {tag} OK [CAPABILITY IMAP4rev1] in
C: LIST
s: * LIST (\\\\HasNoChildren) {1}\\r\\n/ {5}\\r\\na\\r\\nb{\\r\\n
S: {tag} OK
C: SELECT
S: * 30 EXISTS
S: {tag} OK
C: FETCH
s: * 29 FETCH (BODYSTRUCTURE ({4}\\r\\ntext {5}\\r\\nplain (\"x\" {2}\\r\\ny)) NIL NIL {4}\\r\\n7bit 9 1) BINARY[1] ~{6}\\r\\n\\0(\\r\\n\"{)\\r\\n
s: * 30 FETCH (ENVELOPE (NIL {0}\\r\\n NIL) BODY[] {25}\\r\\n{tag} OK ok)\\r\\n)\\r\\n
S: {tag} OK
C: LOGOUT
S: * BYE
S: {tag} OK
";
    let (run, _) = against(script, |_| {}).await;
    assert_eq!(
        (run.outcome, steps(&run).as_str()),
        (RunOutcome::Passed, "connect greeting LOGIN LIST SELECT FETCH LOGOUT")
    );
    let literals = |name: &str| {
        let step = run.steps.iter().find(|step| step.name == name).unwrap();
        (step.literals, step.literal_bytes, step.deviations)
    };
    assert_eq!(literals("LIST"), (Some(2), Some(6), None));
    assert_eq!(literals("FETCH"), (Some(7), Some(4 + 5 + 2 + 4 + 6 + 25), None));
}

#[tokio::test]
async fn every_code_that_is_kept_as_data_is_shown_and_any_other_is_other() {
    let kept = [
        "ALERT",
        "AUTHENTICATIONFAILED",
        "AUTHORIZATIONFAILED",
        "EXPIRED",
        "PRIVACYREQUIRED",
        "CONTACTADMIN",
        "NOPERM",
        "INUSE",
        "EXPUNGEISSUED",
        "CORRUPTION",
        "SERVERBUG",
        "CLIENTBUG",
        "CANNOT",
        "LIMIT",
        "OVERQUOTA",
        "ALREADYEXISTS",
        "NONEXISTENT",
        "UNAVAILABLE",
        "CAPABILITY",
        "UIDVALIDITY",
        "UIDNEXT",
        "READ-ONLY",
        "READ-WRITE",
        "TRYCREATE",
        "PARSE",
        "BADCHARSET",
        "CLOSED",
        "HIGHESTMODSEQ",
        "REFERRAL",
        "INPROGRESS",
        "MESSAGELIMIT",
        "UNKNOWN-CTE",
        "HASCHILDREN",
    ];
    for code in kept.into_iter().chain(["XMADEUP"]) {
        let script = format!(
            "S: * OK [CAPABILITY IMAP4rev1] hi\nC: LOGIN\nS: {{tag}} OK [CAPABILITY IMAP4rev1] in\nC: LIST\n\
             S: {{tag}} NO [{code} a (b) \"c\"] words\nC: LOGOUT\nS: {{tag}} OK\n"
        );
        let (run, _) = against(&script, |_| {}).await;
        let failing = run.failing_step().unwrap();
        let expected = if code == "XMADEUP" { "_OTHER" } else { code };
        assert_eq!((failing.name.as_str(), failing.code.map(ResponseCode::as_str)), ("LIST", Some(expected)));
        assert_eq!(failing.text.as_ref().unwrap().as_str(), "words", "{code}");
    }
}

#[tokio::test]
async fn namespace_comes_before_list_where_it_is_offered_and_what_is_offered_beside_it_is_left_alone() {
    let all =
        "IMAP4rev1 ID NAMESPACE IDLE COMPRESS=DEFLATE CONDSTORE QRESYNC ENABLE UTF8=ACCEPT LIST-STATUS STATUS=SIZE";
    let script = format!(
        "S: * OK [CAPABILITY {all}] hi\nC: ID (\"name\" \"imaptrace\" \"version\" \nS: * ID NIL\nS: {{tag}} OK\nC: LOGIN\nS: {{tag}} OK [CAPABILITY {all}] in\nC: NAMESPACE\n\
         S: * NAMESPACE ((\"\" NIL)) NIL ((\"#public/\" \"/\" \"X-PARAM\" (\"a\" \"b\")))\nS: {{tag}} OK\nC: LIST \"\" \"*\"\n\
         S: * LIST () NIL INBOX\nS: * LSUB () \".\" old\nS: {{tag}} OK\nC: SELECT\nS: * 0 EXISTS\nS: {{tag}} OK\nC: LOGOUT\nS: * BYE\nS: {{tag}} OK\n"
    );
    let (run, heard) = against(&script, |_| {}).await;
    assert_eq!(run.outcome, RunOutcome::Passed, "{heard:?}");
    assert_eq!(
        steps(&run),
        "connect greeting ID LOGIN NAMESPACE LIST SELECT FETCH- LOGOUT",
        "and nothing else is sent"
    );
    assert!(heard.iter().all(|line| !line.starts_with('(')), "{heard:?}");
}

#[tokio::test]
async fn messages_that_vanish_while_they_are_fetched_fail_nothing() {
    let script = "S: * OK [CAPABILITY IMAP4rev1] hi
C: LOGIN
S: {tag} OK [CAPABILITY IMAP4rev1] in
C: LIST
S: {tag} OK
C: SELECT
S: * 30 EXISTS
S: {tag} OK
C: FETCH 11:30
S: * 11 FETCH (UID 3)
S: * 11 EXPUNGE
S: * 29 EXISTS
S: * 1 RECENT
S: * 12 FETCH (UID 5)
S: {tag} OK [EXPUNGEISSUED] some are gone
C: LOGOUT
S: * BYE
S: {tag} OK
";
    let (run, _) = against(script, |_| {}).await;
    assert_eq!(run.outcome, RunOutcome::Passed, "{}", steps(&run));
    let fetch = run.steps.iter().find(|step| step.name == "FETCH").unwrap();
    assert_eq!((fetch.messages, fetch.code.map(ResponseCode::as_str)), (Some(2), Some("EXPUNGEISSUED")));
}

#[tokio::test]
async fn signs_of_life_do_not_lengthen_a_command() {
    for sign in ["* OK Still here", "* OK [INPROGRESS (\"x\" 1 100)] still at it", "* 5 EXISTS"] {
        let endless = format!("pause 20\nS: {sign}\n").repeat(200);
        let script = format!("S: * OK [CAPABILITY IMAP4rev1] hi\nC: LOGIN\n{endless}");
        let (run, _) = against(&script, |target| target.deadlines.command = Duration::from_millis(150)).await;
        assert_eq!(
            (run.error_type, run.failed_step.as_ref().map(StepName::as_str)),
            (Some(ErrorType::TimeoutCommand), Some("LOGIN")),
            "{sign}"
        );
        let login = run.failing_step().unwrap();
        assert!(login.untagged > Some(1) && login.duration_s >= Duration::from_millis(150).into(), "{login:?}");
        assert_eq!(run.steps.last().map(|step| step.outcome), Some(StepOutcome::Skipped), "nothing is said into it");
    }
}

/// What a name, a password or a mailbox may be, in the eyes of who takes it from the operator.
fn words() -> impl Strategy<Value = String> {
    proptest::collection::vec(
        prop_oneof![
            proptest::char::range(' ', '~'),
            Just('"'),
            Just('\\'),
            Just('{'),
            Just('}'),
            Just('ü'),
            Just('台'),
            Just('\u{1f600}'),
            Just('\t'),
            Just('\u{7f}'),
        ],
        1..20,
    )
    .prop_map(|characters| characters.into_iter().collect())
}

proptest! {
    #[test]
    fn no_argument_ends_its_command_early(user in words(), password in words(), mailbox in words(), plus: bool) {
        let capabilities = Capabilities::parse(if plus { b"IMAP4rev1 LITERAL+" } else { b"IMAP4rev1" });
        prop_assume!(Mailbox::new(&mailbox).is_ok());
        let user = UserName::new(&user).unwrap();
        let secret = Secret::new(password.clone());
        let credentials = Credentials { authzid: None, user: user.expose(), password: &secret };
        for command in [
            Command::Login { user: user.expose(), password: &secret },
            Command::Authenticate { mechanism: Mechanism::Plain, credentials },
            Command::Select { mailbox: &mailbox, read_only: false },
            Command::Id { session: Some(&mailbox) },
        ] {
            let parts = command.encode("t1", &capabilities).parts;
            let wire: Vec<u8> = parts.iter().flat_map(|part| part.bytes.iter().copied()).collect();
            prop_assert!(!wire.contains(&0));
            // Read as a server does: a line, and the literal that its end announces, until a line announces none.
            let mut rest = wire.as_slice();
            loop {
                let end = rest.windows(2).position(|pair| pair == b"\r\n").unwrap();
                let (line, after) = (&rest[..end], &rest[end + 2..]);
                prop_assert!(!line.contains(&b'\r') && !line.contains(&b'\n') && line.is_ascii());
                let size = std::str::from_utf8(line).unwrap().rsplit_once('{').and_then(|(_, size)| {
                    size.strip_suffix('}')?.trim_end_matches('+').parse::<usize>().ok()
                });
                match size {
                    Some(size) => rest = &after[size..],
                    None if matches!(command, Command::Authenticate { .. }) && !after.is_empty() => rest = after,
                    None => {
                        prop_assert!(after.is_empty(), "{:?}", String::from_utf8_lossy(&wire));
                        break;
                    }
                }
            }
        }
    }
}

#[test]
fn a_user_name_or_mailbox_that_would_end_a_command_is_refused() {
    for bad in ["a\rb", "a\nb", "a\0b", "a\r\nX LOGOUT"] {
        assert!(UserName::new(bad).is_none() && Mailbox::new(bad).is_err(), "{bad:?}");
    }
}

// === “Empty” is only what the server said is empty ===

/// A conversation whose SELECT and FETCH are answered so.
fn mailbox(select: &str, fetch: &str) -> String {
    let fetch = if fetch.is_empty() { String::new() } else { format!("C: FETCH\n{fetch}") };
    format!(
        "S: * OK [CAPABILITY IMAP4rev1] hi\nC: LOGIN\nS: {{tag}} OK [CAPABILITY IMAP4rev1] in\nC: LIST\nS: {{tag}} OK\n\
         C: SELECT\n{select}{fetch}C: LOGOUT\nS: * BYE\nS: {{tag}} OK\n"
    )
}

fn step<'a>(run: &'a Run, name: &str) -> &'a Step {
    run.steps.iter().find(|step| step.name == name).unwrap()
}

fn notes(run: &Run) -> Vec<&str> {
    run.notes.iter().map(|note| note.text.as_str()).collect()
}

#[tokio::test]
async fn select_without_a_readable_exists_is_a_failure_that_says_so_and_no_empty_mailbox() {
    for exists in [
        "",
        "S: * OK [UIDVALIDITY 7] v\nS: * OK [UNSEEN 1] u\n",
        "S: * FLAGS ()\nS: * 0 RECENT\n",
        "S: * -25 EXISTS\n",
        "S: * +25 EXISTS\n",
        "S: * 4294967296 EXISTS\n",
        "S: * 99999999999999999999999999 EXISTS\n",
        "S: * 2.5 EXISTS\n",
        "S: * many EXISTS\n",
        "S: * EXISTS 25\n",
        "S: * 25EXISTS\n",
        "S: * 25\\x09EXISTS\n",
        "S: *\\x0925 EXISTS\n",
        "S: *25 EXISTS\n",
        "S: * 25 EXIST\n",
        "S: * \\\"25\\\" EXISTS\n",
        "S: * STATUS INBOX (MESSAGES 25)\n",
    ] {
        for open in [Open::Select, Open::Examine] {
            let script = mailbox(&format!("{exists}S: {{tag}} OK done\n"), "");
            let script = if open == Open::Examine { script.replace("C: SELECT", "C: EXAMINE") } else { script };
            let (run, heard) = against(&script, |target| target.journey.open = open).await;
            let name = if open == Open::Examine { "EXAMINE" } else { "SELECT" };
            assert_eq!(steps(&run), format!("connect greeting LOGIN LIST {name}!protocol_syntax LOGOUT"), "{exists}");
            assert!(heard.iter().all(|line| !line.contains("FETCH")), "{exists}: {heard:?}");
            assert_eq!((run.first_loading_latency_s, step(&run, name).mailbox_messages), (None, None), "{exists}");
            let text = step(&run, name).text.as_ref().unwrap().as_str();
            assert!(text.contains("without an EXISTS response that can be read"), "{exists}: {text}");
            assert!(notes(&run).iter().all(|note| !note.contains("empty")), "{exists}: {:?}", notes(&run));
        }
    }
    // What comes behind the tagged line comes too late, whether or not it arrives together with it.
    for late in ["s: {tag} OK done\\r\\n* 25 EXISTS\\r\\n\n", "S: {tag} OK done\nS: * 25 EXISTS\n"] {
        let (run, _) = against(&mailbox(late, ""), |_| {}).await;
        assert_eq!(steps(&run), "connect greeting LOGIN LIST SELECT!protocol_syntax LOGOUT", "{late}");
    }
}

#[tokio::test]
async fn exists_is_read_through_what_is_tolerated_and_its_last_word_counts() {
    let rows = "S: * 25 FETCH (UID 25)\nS: {tag} OK\n";
    for (exists, lenient) in [
        ("S: *  25 EXISTS\n", 1),
        ("S: * 25   EXISTS\n", 1),
        ("S: * 25 EXISTS \n", 1),
        ("S: *  25  EXISTS  \n", 1),
        ("S: * 000025 exists\n", 0),
        ("S: * 25 EXISTS * 0 RECENT\n", 1),
        ("S: * 7 EXISTS\nS: * 25 EXISTS\n", 0),
        ("S: * 25 EXISTS\nS: * x EXISTS\n", 1),
    ] {
        let (run, heard) = against(&mailbox(&format!("{exists}S: {{tag}} OK\n"), rows), |_| {}).await;
        assert_eq!(run.outcome, RunOutcome::Passed, "{exists}: {}", steps(&run));
        assert!(heard.iter().any(|line| line.contains(" FETCH 6:25 ")), "{exists}: {heard:?}");
        let select = step(&run, "SELECT");
        assert_eq!((select.mailbox_messages, select.deviations.unwrap_or_default()), (Some(25), lenient), "{exists}");
        assert_eq!(run.server.deviations.unwrap_or_default(), lenient, "{exists}");
    }
    for exists in ["S: *  0  EXISTS\n", "S: * 25 EXISTS\nS: * 0 EXISTS\n"] {
        let (run, _) = against(&mailbox(&format!("{exists}S: {{tag}} OK\n"), ""), |_| {}).await;
        assert_eq!(steps(&run), "connect greeting LOGIN LIST SELECT FETCH- LOGOUT", "{exists}");
        assert!(run.first_loading_latency_s.is_some(), "the server said that it is empty");
    }
}

#[tokio::test]
async fn a_fetch_that_brings_none_of_its_rows_fails_unless_the_server_said_that_they_are_gone() {
    let select = "S: * 25 EXISTS\nS: {tag} OK\n";
    for (rows, untagged) in [
        ("", 0),
        ("S: * 25 FETCH (FLAGS (\\\\Seen))\nS: * 24 FETCH (FLAGS () MODSEQ (9))\n", 2),
        ("S: * 5 FETCH (UID 5)\nS: * 26 FETCH (UID 26)\n", 2),
        ("S: * 25 FETCH ()\nS: * 25 FETCH\nS: * 25 FETCHED (UID 25)\nS: * FETCH 25 (UID 25)\n", 4),
        ("S: * 25 EXISTS\nS: * 26 EXISTS\nS: * 0 RECENT\n", 3),
        ("S: * VANISHED (EARLIER) 405\nS: * 0 EXPUNGE\nS: * OK [UIDNEXT 5] EXPUNGE\n", 3),
    ] {
        let (run, _) = against(&mailbox(select, &format!("{rows}S: {{tag}} OK done\n")), |_| {}).await;
        assert_eq!(steps(&run), "connect greeting LOGIN LIST SELECT FETCH!protocol_syntax LOGOUT", "{rows}");
        let fetch = step(&run, "FETCH");
        assert_eq!(
            (fetch.messages, fetch.untagged, fetch.status.map(Condition::as_str)),
            (Some(0), Some(untagged), Some("OK"))
        );
        let text = fetch.text.as_ref().unwrap().as_str();
        assert!(text.starts_with("FETCH 6:25 was OK and brought none of the 20 messages"), "{text}");
        assert_eq!((run.first_loading_latency_s, run.first_row_s), (None, None), "{rows}");
    }
    for gone in [
        "S: * 25 EXPUNGE\nS: {tag} OK\n",
        "S: *  25   EXPUNGE \nS: {tag} OK\n",
        "S: * VANISHED 405:430\nS: {tag} OK\n",
        "S: * 24 EXISTS\nS: {tag} OK\n",
        "S: * 0 EXISTS\nS: {tag} OK\n",
        "S: {tag} OK [EXPUNGEISSUED] some are gone\n",
        "S: * 3 FETCH (UID 3)\nS: * 25 EXPUNGE\nS: {tag} OK\n",
    ] {
        let (run, _) = against(&mailbox(select, gone), |_| {}).await;
        assert_eq!(steps(&run), "connect greeting LOGIN LIST SELECT FETCH LOGOUT", "{gone}");
        // To the end of FETCH: then nothing more is awaited.
        let end = step(&run, "FETCH").end_s();
        assert_eq!((run.first_loading_latency_s, run.first_row_s), (Some(end), None), "{gone}");
    }
    // Before FETCH was sent, and since SELECT counted.
    let between = "s: * 25 EXISTS\\r\\n{tag} OK\\r\\n* 25 EXPUNGE\\r\\n* 24 EXISTS\\r\\n\n";
    let (run, _) = against(&mailbox(between, "S: {tag} OK\n"), |_| {}).await;
    assert_eq!(run.outcome, RunOutcome::Passed, "{}", steps(&run));
    let before = "S: * 26 EXISTS\nS: * 1 EXPUNGE\nS: * 25 EXISTS\nS: {tag} OK\n";
    let (run, _) = against(&mailbox(before, "S: {tag} OK\n"), |_| {}).await;
    assert_eq!(run.error_type, Some(ErrorType::ProtocolSyntax), "they left before the last count");
}

#[tokio::test]
async fn rows_are_read_through_runs_of_spaces_and_counted_as_what_was_asked_for() {
    let select = "S: * 25 EXISTS\nS: {tag} OK\n";
    let row = |number: u32| format!("S: *  {number}   FETCH  (UID {number} BODY[] {{3}}\ns: abc)\\r\\n\n");
    let rows: String = (6..=25).map(row).collect();
    let (run, _) = against(&mailbox(select, &format!("{rows}S: {{tag}}  OK  done\n")), |_| {}).await;
    assert_eq!(run.outcome, RunOutcome::Passed, "{}", steps(&run));
    let fetch = step(&run, "FETCH");
    assert_eq!((fetch.messages, fetch.literals, fetch.deviations), (Some(20), Some(20), Some(21)));
    assert!(run.first_row_s.is_some());

    // Fewer than were asked for: said unless the server said why.
    let few = format!("{}S: * 7 FETCH (FLAGS ())\n", row(6));
    for (end, note) in [
        ("S: {tag} OK\n", Some("FETCH was OK and brought 1 of the 20 messages that SELECT counted")),
        ("S: * 7 EXPUNGE\nS: {tag} OK\n", None),
    ] {
        let server = Script::play(&mailbox(select, &format!("{few}{end}"))).await;
        let url = format!("imap://someone@{}", server.address);
        let probe = ["probe", &url, "--security", "none", "--output", "json"];
        let written = Program::new(probe).env("IMAPTRACE_PASSWORD", "secret").run().await;
        let run: Run = serde_json::from_str(&written.stdout).unwrap();
        assert_eq!((run.outcome, step(&run, "FETCH").messages), (RunOutcome::Passed, Some(1)), "{written:?}");
        let said: Vec<_> = notes(&run).into_iter().filter(|note| note.contains("FETCH")).collect();
        assert_eq!(said, note.into_iter().collect::<Vec<_>>(), "{end}");
    }
}

#[tokio::test]
async fn runs_of_spaces_are_one_in_every_kind_of_response() {
    let script = "S: *  OK  [CAPABILITY  IMAP4rev1  ID ]  hi
C: ID
S: *  ID  (\"name\"  \"x\")
S: {tag}  OK  done
C: LOGIN
S: {tag} OK  [ ALERT ] in
C: CAPABILITY
S: *  CAPABILITY   IMAP4rev1  NAMESPACE
S: {tag}  OK  done
C: NAMESPACE
S: {tag}   OK
C: LIST
S: *  LIST () \"/\" a
S: {tag}  NO  [  UNAVAILABLE  ]  later
C: LOGOUT
S: *  BYE  bye
S: {tag}  OK
";
    let (run, _) = against(script, |_| {}).await;
    assert_eq!(steps(&run), "connect greeting ID LOGIN CAPABILITY NAMESPACE LIST!unavailable LOGOUT");
    let counted = ["ID", "LOGIN", "CAPABILITY", "NAMESPACE", "LIST", "LOGOUT"].map(|name| step(&run, name).deviations);
    assert_eq!(counted, [Some(2), Some(1), Some(2), Some(1), Some(2), Some(2)]);
    assert_eq!(step(&run, "LIST").text.as_ref().unwrap().as_str(), "later");
    assert_eq!(run.server.id_name.as_ref().unwrap().as_str(), "x");

    for (bye, class) in
        [("S: *  BYE going\n", ErrorType::Bye), ("S: *  BYE  [REFERRAL  imap://b/]  x\n", ErrorType::Referral)]
    {
        let script = format!("S: * OK [CAPABILITY IMAP4rev1] hi\nC: LOGIN\n{bye}");
        let (run, _) = against(&script, |_| {}).await;
        assert_eq!(
            (run.error_type, run.failed_step.as_ref().map(StepName::as_str)),
            (Some(class), Some("LOGIN")),
            "{bye}"
        );
    }
}
