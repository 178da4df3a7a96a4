//! Conversations with a [`Session`], byte for byte.

use proptest::prelude::*;

use super::*;
use crate::{Secret, StatusResponse};

/// What came of some bytes, in words.
fn talk(session: &mut Session, bytes: &[u8]) -> Vec<String> {
    let mut rest = bytes;
    let mut seen = Vec::new();
    while !rest.is_empty() {
        match session.receive(rest) {
            Ok((taken, event)) => {
                rest = &rest[taken..];
                seen.extend(event.map(|event| describe(&event)));
            }
            Err(violation) => {
                seen.push(format!("violation: {violation}"));
                break;
            }
        }
    }
    seen
}

fn describe(event: &Event) -> String {
    let status = |what: &str, status: &StatusResponse| {
        format!(
            "{what} {} {} {}",
            status.condition.as_str(),
            status.code.map_or("-", |code| code.as_str()),
            String::from_utf8_lossy(&status.text)
        )
    };
    match event {
        Event::Greeting(greeting) => status("greeting", greeting),
        Event::Bye(bye) => status("bye", bye),
        Event::Warning(warning) => status("warning", warning),
        Event::Tagged(tagged) => status("tagged", tagged),
        Event::FirstByte => "first byte".into(),
        Event::FirstRow => "first row".into(),
        Event::Continuation => "continuation".into(),
        Event::Alert(text) => format!("alert {}", String::from_utf8_lossy(text)),
    }
}

fn greeted() -> Session {
    let mut session = Session::new(Limits::default());
    talk(&mut session, b"* OK [CAPABILITY IMAP4rev1 ID] hi\r\n");
    session.take_progress();
    session
}

fn run(session: &mut Session, command: &Command<'_>, answer: &[u8]) -> Vec<String> {
    session.begin("t1", command);
    session.sent(false, true);
    talk(session, answer)
}

#[test]
fn the_strings_of_id_may_be_literals_and_only_nil_is_none() {
    for (answer, name, version) in [
        ("* ID ({4}\r\nname {7}\r\nDovecot {7}\r\nversion {3}\r\n2.3)\r\n", Some("Dovecot"), Some("2.3")),
        ("* ID (\"name\" nil \"version\" \"2.3\")\r\n", None, Some("2.3")),
        // Words that are not in the grammar are read past.
        ("* ID (\"name\" None \"Dovecot\")\r\n", Some("Dovecot"), None),
    ] {
        let mut session = greeted();
        run(&mut session, &Command::Id { session: None }, &[answer.as_bytes(), b"t1 OK done\r\n"].concat());
        let text = |text: Option<&[u8]>| text.map(|text| String::from_utf8(text.to_vec()).unwrap());
        let id = session.id();
        assert_eq!((text(id.0), text(id.1)), (name.map(str::to_owned), version.map(str::to_owned)), "{answer}");
    }
}

#[test]
fn a_greeting_may_list_the_capabilities() {
    let mut session = Session::new(Limits::default());
    assert_eq!(talk(&mut session, b"* OK [CAPABILITY IMAP4rev1 ID] hi\r\n"), ["greeting OK CAPABILITY hi"]);
    assert!(session.capabilities().is_some_and(|capabilities| capabilities.id));
    assert_eq!(session.state(), SessionState::NotAuthenticated);
}

#[test]
fn gibberish_instead_of_a_greeting() {
    for gibberish in [
        "HTTP/1.1 400 Bad\r\n",
        "* NO\r\n",
        "* BAD x\r\n",
        "220 smtp\r\n",
        "SSH-2.0-x\r\n",
        "\r\n",
        "+ hi\r\n",
        "* LIST () NIL x\r\n",
    ] {
        let mut session = Session::new(Limits::default());
        assert_eq!(
            talk(&mut session, gibberish.as_bytes()),
            ["violation: the first line is no IMAP greeting"],
            "{gibberish:?}"
        );
    }
}

#[test]
fn an_endless_line_is_no_greeting_unless_it_begins_with_a_star() {
    let gibberish = "violation: the first line is no IMAP greeting";
    let endless = Limits { line: 16, ..Limits::default() };
    for (line, seen) in [
        ("x".repeat(20), gibberish),
        (format!("* {}", "x".repeat(20)), "violation: a line is longer than the limit"),
        ("* OK a\rb\r\n".to_owned(), gibberish),
    ] {
        assert_eq!(talk(&mut Session::new(endless), line.as_bytes()), [seen], "{line:?}");
    }
}

#[test]
fn the_hierarchy_is_that_of_the_first_response_that_has_one() {
    for (answer, separator) in [
        ("* LIST () \"/\" a\r\n* LIST () \".\" b\r\n", Some('/')),
        ("* LIST () NIL a\r\n* LIST () \".\" b\r\n", Some('.')),
        ("* NAMESPACE ((\"\" \"/\")) NIL NIL\r\n* LIST () \".\" b\r\n", Some('/')),
        ("* LIST () \".\" b\r\n* NAMESPACE ((\"\" \"/\")) NIL NIL\r\n", Some('.')),
        ("* OK x\r\n", None),
    ] {
        let mut session = greeted();
        run(&mut session, &Command::List, format!("{answer}t1 OK\r\n").as_bytes());
        assert_eq!(session.hierarchy().map(Hierarchy::separator), separator, "{answer:?}");
    }
}

#[test]
fn what_has_come_of_a_response_is_known_before_it_is_whole() {
    let mut session = greeted();
    assert!(run(&mut session, &Command::List, b"* LIST () ").iter().all(|seen| seen == "first byte"));
    assert_eq!(session.partial(), b"* LIST () ");
}

#[test]
fn only_our_whole_tag_ends_a_command() {
    for wrong in ["t", "t11", "T1", "t0"] {
        let seen = run(&mut greeted(), &Command::List, format!("{wrong} OK\r\n").as_bytes());
        assert_eq!(
            seen.last().map(String::as_str),
            Some("violation: a line bears a tag that is not the running command's"),
            "{wrong}"
        );
    }
    let mut session = greeted();
    assert_eq!(
        run(&mut session, &Command::List, b"t1 OK done\r\nt1 OK again\r\n").last().map(String::as_str),
        Some("violation: a line bears a tag that is not the running command's")
    );
}

#[test]
fn of_a_fetch_the_rows_are_mail_and_the_tagged_response_is_not() {
    let fetch = Command::Fetch { from: 1, to: 2, whole: false };
    for (command, shown) in [(&Command::List, true), (&fetch, false)] {
        let mut session = greeted();
        run(&mut session, command, b"* OK one moment\r\n");
        assert_eq!(
            session.completed().map(|(frame, shown)| (frame.text, shown)),
            Some((&b"* OK one moment"[..], shown))
        );
        talk(&mut session, b"t1 OK done\r\n");
        assert_eq!(session.completed().map(|(frame, shown)| (frame.text, shown)), Some((&b"t1 OK done"[..], true)));
        talk(&mut session, b"* OK half");
        assert!(session.completed().is_none());
    }
}

#[test]
fn the_first_hierarchy_of_a_session_stays() {
    let mut session = greeted();
    run(&mut session, &Command::Namespace, b"* NAMESPACE ((\"\" \"/\")) NIL NIL\r\nt1 OK done\r\n");
    let first = session.hierarchy();
    assert!(first.is_some());
    run(&mut session, &Command::Namespace, b"* NAMESPACE ((\"INBOX.\" \".\")) NIL NIL\r\nt1 OK done\r\n");
    run(&mut session, &Command::List, b"* LIST () \".\" INBOX\r\nt1 OK done\r\n");
    assert_eq!(session.hierarchy(), first);
}

#[test]
fn a_command_and_a_session_may_receive_as_much_as_their_limits_and_no_more() {
    let answer = b"* OK 12345\r\nt1 OK done\r\n";
    let greeting = b"* OK hi\r\n";
    let (whole, command) = ((answer.len() + greeting.len()) as u64, answer.len() as u64);
    for (command_bytes, session_bytes, passes) in
        [(command, whole, true), (command - 1, whole, false), (command, whole - 1, false)]
    {
        let mut session = Session::new(Limits { command_bytes, session_bytes, ..Limits::default() });
        talk(&mut session, greeting);
        session.take_progress();
        let seen = run(&mut session, &Command::List, answer);
        assert_eq!(seen.last().unwrap() == "tagged OK - done", passes, "{command_bytes} {session_bytes} {seen:?}");
    }
}

#[test]
fn ok_before_the_command_is_written_is_a_breach_and_no_is_not() {
    let mut session = greeted();
    let password = Secret::new("pässwörd".into());
    session.begin("t1", &Command::Login { user: "u", password: &password });
    session.sent(true, false);
    assert_eq!(talk(&mut session, b"t1 NO no literals\r\n"), ["first byte", "tagged NO - no literals"]);
    session.begin("t1", &Command::Login { user: "u", password: &password });
    session.sent(true, false);
    assert!(talk(&mut session, b"t1 OK in\r\n").last().unwrap().starts_with("violation"));
}

#[test]
fn an_answer_that_began_before_its_command_is_a_breach() {
    let mut session = greeted();
    assert_eq!(talk(&mut session, b"t1 OK "), [""; 0]);
    assert_eq!(
        run(&mut session, &Command::List, b"done\r\n"),
        ["violation: a line bears a tag that is not the running command's"]
    );
}

#[test]
fn a_continuation_is_no_first_byte_and_comes_once() {
    let mut session = greeted();
    let password = Secret::new("pässwörd".into());
    session.begin("t1", &Command::Login { user: "u", password: &password });
    session.sent(true, false);
    assert_eq!(talk(&mut session, b"+ go\r\n"), ["continuation"]);
    session.sent(false, true);
    assert_eq!(talk(&mut session, b"+ again\r\n"), ["violation: a continuation that no command waits for"]);
}

#[test]
fn capabilities_are_void_after_login_unless_listed_again() {
    let password = Secret::new("p".into());
    let login = Command::Login { user: "u", password: &password };
    let mut session = greeted();
    run(&mut session, &login, b"t1 OK in\r\n");
    assert_eq!((session.state(), session.capabilities().is_none()), (SessionState::Authenticated, true));
    for ok in ["t1 OK [CAPABILITY IMAP4rev1 NAMESPACE] in\r\n", "* CAPABILITY IMAP4rev1 NAMESPACE\r\nt1 OK in\r\n"] {
        let mut session = greeted();
        run(&mut session, &login, ok.as_bytes());
        assert!(session.capabilities().is_some_and(|capabilities| capabilities.namespace), "{ok}");
    }
    let mut session = greeted();
    run(&mut session, &login, b"t1 NO no\r\n");
    assert!(session.capabilities().is_some(), "a refused login changes nothing");
}

#[test]
fn rows_that_were_asked_for_are_counted_once() {
    let mut session = greeted();
    let answer = b"* 4 FETCH (FLAGS ())\r\n* 5 FETCH (UID 1)\r\n* 5 FETCH (FLAGS ())\r\n* 99 FETCH (UID 2)\r\n* 6 FETCH (BODY[] {3}\r\nabc)\r\nt1 OK\r\n";
    let seen = run(&mut session, &Command::Fetch { from: 5, to: 7, whole: false }, answer);
    assert_eq!(seen, ["first byte", "first row", "tagged OK - "]);
    let progress = session.take_progress();
    assert_eq!((progress.rows, progress.untagged, progress.literals, progress.literal_bytes), (2, 5, 1, 3));
    assert_eq!(progress.received, answer.len() as u64);
}

#[test]
fn exists_counts_while_select_runs_and_bytes_between_commands_belong_to_the_next() {
    let mut session = greeted();
    session.take_progress();
    talk(&mut session, b"* 7 EXISTS\r\n");
    assert_eq!(session.progress().exists, None);
    run(
        &mut session,
        &Command::Select { mailbox: "INBOX", read_only: false },
        b"* 172 EXISTS\r\nt1 OK [READ-WRITE] in\r\n",
    );
    let progress = session.take_progress();
    assert_eq!((progress.exists, progress.received), (Some(172), 12 + 14 + 23));
    assert_eq!(session.state(), SessionState::Selected);
}

#[test]
fn bye_ends_any_command_but_logout() {
    let mut session = greeted();
    assert_eq!(
        run(&mut session, &Command::List, b"* BYE [UNAVAILABLE] later\r\n"),
        ["first byte", "bye BYE UNAVAILABLE later"]
    );
    let mut session = greeted();
    assert_eq!(run(&mut session, &Command::Logout, b"* BYE ciao\r\nt1 OK\r\n"), ["first byte", "tagged OK - "]);
}

#[test]
fn a_select_that_is_refused_leaves_no_mailbox_open() {
    let password = Secret::new("p".into());
    let mut session = greeted();
    run(&mut session, &Command::Login { user: "u", password: &password }, b"t1 OK\r\n");
    for (answer, state) in [
        (b"t1 NO none\r\n".as_slice(), SessionState::Authenticated),
        (b"t1 OK\r\n", SessionState::Selected),
        (b"t1 NO none\r\n", SessionState::Authenticated),
    ] {
        run(&mut session, &Command::Select { mailbox: "INBOX", read_only: false }, answer);
        assert_eq!(session.state(), state);
    }
}

#[test]
fn a_logout_that_is_refused_ends_no_session() {
    let mut session = greeted();
    assert_eq!(run(&mut session, &Command::Logout, b"t1 NO not now\r\n"), ["first byte", "tagged NO - not now"]);
    assert_eq!(session.state(), SessionState::NotAuthenticated);
    run(&mut session, &Command::Logout, b"t1 OK\r\n");
    assert_eq!(session.state(), SessionState::Logout);
}

#[test]
fn nothing_leads_back_from_bye() {
    let password = Secret::new("p".into());
    let mut session = greeted();
    let login = Command::Login { user: "u", password: &password };
    let seen = run(&mut session, &login, b"* BYE gone\r\nt1 OK in\r\n");
    assert_eq!(seen, ["first byte", "bye BYE - gone", "tagged OK - in"]);
    assert_eq!(session.state(), SessionState::Logout);
}

#[test]
fn referrals_are_recorded_and_pass() {
    let password = Secret::new("p".into());
    let mut session = greeted();
    let seen = run(
        &mut session,
        &Command::Login { user: "u", password: &password },
        b"t1 OK [REFERRAL imap://u@other.example/] in\r\n",
    );
    assert_eq!(seen.last().map(String::as_str), Some("tagged OK REFERRAL in"));
    assert_eq!(session.progress().referral.as_deref(), Some(b"other.example".as_slice()));
}

#[test]
fn broken_lines_are_counted_and_read_past() {
    let mut session = greeted();
    let seen = run(&mut session, &Command::List, b"* (((\r\n\r\n* LIST () \"/\" \"a\"b\"\r\n*\r\nt1 OK\n");
    assert_eq!(seen.last().map(String::as_str), Some("tagged OK - "));
    assert_eq!(session.progress().deviations, 4);
}

#[test]
fn limits_on_responses_and_bytes_hold() {
    let limits = Limits { responses: 3, ..Limits::default() };
    let mut session = Session::new(limits);
    talk(&mut session, b"* OK hi\r\n");
    for (responses, end) in [(3, "tagged OK - "), (4, "violation: more untagged responses than the limit")] {
        session.take_progress();
        let answer = format!("{}t1 OK\r\n", "* X\r\n".repeat(responses));
        assert_eq!(run(&mut session, &Command::List, answer.as_bytes()).last().map(String::as_str), Some(end));
    }
    let mut session = Session::new(Limits { command_bytes: 100, ..Limits::default() });
    talk(&mut session, b"* OK hi\r\n");
    session.take_progress();
    let seen =
        run(&mut session, &Command::List, format!("* 1 FETCH (BODY[] {{9999}}\r\n{}", "x".repeat(200)).as_bytes());
    assert_eq!(seen.last().map(String::as_str), Some("violation: more bytes than the limit"));
}

#[test]
fn a_breach_shows_and_counts_the_same_however_much_came_at_once() {
    let limits = Limits { line: 40, command_bytes: 100, ..Limits::default() };
    let long_line = [b"* LIST () NIL ", &b"x".repeat(60)[..], b"\r\nt1 OK\r\n"].concat();
    let many_bytes = [b"* 1 FETCH (BODY[] {90}\r\n", &b"x".repeat(90)[..], b")\r\nt1 OK\r\n"].concat();
    for (answer, received) in [(long_line, 42), (many_bytes, 101), (b"* X\r\n* OK a\rb\r\n* Y\r\n".to_vec(), 15)] {
        let ends: Vec<_> = [1, 7, answer.len()]
            .map(|size| {
                let mut session = Session::new(limits);
                talk(&mut session, b"* OK hi\r\n");
                session.take_progress();
                session.begin("t1", &Command::List);
                session.sent(false, true);
                let broken =
                    |chunk: &[u8]| talk(&mut session, chunk).last().is_some_and(|last| last.starts_with("violation"));
                assert!(answer.chunks(size).any(broken));
                (session.progress().received, session.partial().to_vec())
            })
            .to_vec();
        assert_eq!(ends[0].0, received);
        assert!(ends.iter().all(|end| *end == ends[0]), "{ends:?}");
    }
}

#[test]
fn logout_may_follow_an_abandoned_command() {
    let mut session = greeted();
    session.begin("t1", &Command::List);
    session.sent(false, true);
    assert!(session.is_between_commands());
    session.abandon();
    session.begin("t2", &Command::Logout);
    session.sent(false, true);
    let seen = talk(&mut session, b"* LIST () NIL x\r\nt1 OK\r\n* BYE\r\nt2 OK\r\n");
    assert_eq!(seen, ["first byte", "tagged OK - "]);
}

proptest! {
    #[test]
    fn any_split_of_a_conversation_gives_the_same_events(cuts in proptest::collection::vec(0usize..220, 0..12)) {
        let answer: &[u8] = b"* OK [ALERT] disk\r\n* 5 FETCH (BODY[HEADER] {9}\r\nt1 OK x\r\n)\r\n* 6 FETCH (FLAGS ())\r\n* NO [X] {3}\r\nt1 OK [READ-ONLY] done {4}\r\n";
        let fetch = Command::Fetch { from: 5, to: 6, whole: false };
        let mut whole = greeted();
        let expected = run(&mut whole, &fetch, answer);
        let mut session = greeted();
        session.begin("t1", &fetch);
        session.sent(false, true);
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(answer.len())).collect();
        cuts.sort_unstable();
        let mut seen = Vec::new();
        let mut from = 0;
        for cut in cuts.into_iter().chain([answer.len()]) {
            seen.extend(talk(&mut session, &answer[from..cut]));
            from = cut;
        }
        prop_assert_eq!(&seen, &expected);
        prop_assert_eq!(session.progress(), whole.progress());
    }

    #[test]
    fn no_bytes_make_a_session_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut session = greeted();
        run(&mut session, &Command::Fetch { from: 1, to: 20, whole: false }, &bytes);
    }
}

#[test]
fn a_search_of_a_hundred_thousand_is_counted_where_the_line_may_be_that_long() {
    let mut answer = b"* SEARCH".to_vec();
    for number in 1..=100_000 {
        answer.extend_from_slice(format!(" {number}").as_bytes());
    }
    answer.extend_from_slice(b"\r\nt1 OK\r\n");
    let search = Command::SearchHeader { field: "X-Mark" };
    assert_eq!(run(&mut greeted(), &search, &answer), ["first byte", "violation: a line is longer than the limit"]);

    let mut session = Session::new(Limits { line: 8 << 20, ..Limits::default() });
    talk(&mut session, b"* OK [CAPABILITY IMAP4rev1] hi\r\n");
    assert_eq!(run(&mut session, &search, &answer), ["first byte", "tagged OK - "]);
    assert_eq!(session.take_progress().found, Some(100_000));
}

#[test]
fn a_search_answer_counts_for_the_search_alone_and_may_come_in_pieces() {
    let mut session = greeted();
    run(&mut session, &Command::List, b"* SEARCH 1 2\r\nt1 OK\r\n");
    assert_eq!(session.take_progress().found, None);
    let search = Command::SearchHeader { field: "X-Mark" };
    run(&mut session, &search, b"* SEARCH 1 2\r\n* 9 EXISTS\r\n* SEARCH 5\r\nt1 OK\r\n");
    assert_eq!(session.take_progress().found, Some(3));
    run(&mut session, &search, b"t1 OK\r\n");
    assert_eq!(session.take_progress().found, None);
}

fn selected(exists: &str) -> Session {
    let mut session = greeted();
    let select = Command::Select { mailbox: "INBOX", read_only: false };
    run(&mut session, &select, format!("{exists}t1 OK\r\n").as_bytes());
    session
}

#[test]
fn exists_is_what_could_be_read_while_select_ran_and_nothing_else() {
    for (lines, exists) in [
        ("", None),
        ("* OK [UIDNEXT 5] x\r\n* FLAGS ()\r\n* 0 RECENT\r\n", None),
        ("* x EXISTS\r\n", None),
        ("* -1 EXISTS\r\n", None),
        ("* 4294967296 EXISTS\r\n", None),
        ("*  25   exists \r\n", Some(25)),
        ("* 0 EXISTS\r\n", Some(0)),
        ("* 25 EXISTS\r\n* 26 EXISTS\r\n* y EXISTS\r\n", Some(26)),
    ] {
        assert_eq!(selected(lines).progress().exists, exists, "{lines:?}");
    }
    let mut session = selected("");
    session.take_progress();
    talk(&mut session, b"* 25 EXISTS\r\n");
    assert_eq!(session.progress().exists, None, "it came behind the tagged line");
}

#[test]
fn a_mailbox_shrinks_by_each_response_that_removes_messages_after_its_last_count() {
    for (before, then, shrunk) in [
        ("* 30 EXISTS\r\n", "", false),
        ("* 30 EXISTS\r\n", "* 30 EXISTS\r\n* 31 EXISTS\r\n", false),
        ("* 30 EXISTS\r\n", "* 29 EXISTS\r\n", true),
        ("* 30 EXISTS\r\n", "*  3  EXPUNGE\r\n", true),
        ("* 30 EXISTS\r\n", "* VANISHED 405,407\r\n", true),
        ("* 30 EXISTS\r\n", "* VANISHED (EARLIER) 405,407\r\n", false),
        ("* 30 EXISTS\r\n", "* 0 EXPUNGE\r\n* EXPUNGE 3\r\n", false),
        ("* 30 EXISTS\r\n* 3 EXPUNGE\r\n", "", true),
        ("* 3 EXPUNGE\r\n* 40 EXISTS\r\n* 30 EXISTS\r\n", "", false),
        ("* 30 EXISTS\r\n", "* OK [EXPUNGEISSUED] gone\r\n", true),
    ] {
        let mut session = selected(before);
        session.take_progress();
        let fetch = Command::Fetch { from: 11, to: 30, whole: false };
        run(&mut session, &fetch, format!("{then}t1 OK\r\n").as_bytes());
        assert_eq!(session.has_shrunk(), shrunk, "{before:?} {then:?}");
    }
    let mut session = selected("* 30 EXISTS\r\n");
    run(&mut session, &Command::Fetch { from: 11, to: 30, whole: false }, b"t1 OK [EXPUNGEISSUED] gone\r\n");
    assert!(session.has_shrunk());
    run(&mut session, &Command::Select { mailbox: "INBOX", read_only: false }, b"* 0 EXISTS\r\nt1 OK\r\n");
    assert!(!session.has_shrunk(), "it was counted anew");
}

#[test]
fn flags_that_change_meanwhile_are_no_row_that_was_asked_for() {
    let fetch = Command::Fetch { from: 5, to: 7, whole: false };
    let mut session = greeted();
    let answer = b"* 5 FETCH (FLAGS (\\Seen))\r\n* 6 FETCH (MODSEQ (7) FLAGS ())\r\n*  7  FETCH  (UID 7)\r\n* 8 FETCH (UID 8)\r\nt1 OK\r\n";
    let seen = run(&mut session, &fetch, answer);
    assert_eq!(seen, ["first byte", "first row", "tagged OK - "]);
    let progress = session.take_progress();
    assert_eq!((progress.rows, progress.untagged, progress.deviations), (1, 4, 1));
}

/// What is said of a line that breaks a FETCH.
fn broken(answer: &str) -> String {
    let mut session = selected("* 30 EXISTS\r\n");
    session.take_progress();
    let seen = run(&mut session, &Command::Fetch { from: 11, to: 30, whole: true }, answer.as_bytes());
    assert!(seen.last().is_some_and(|last| last.starts_with("violation")), "{answer:?}: {seen:?}");
    assert!(seen.iter().all(|seen| !seen.contains("PLANTED")), "{seen:?}");
    session.offending_line().to_string()
}

#[test]
fn a_line_that_breaks_a_fetch_is_shown_by_its_length_and_a_first_word_of_the_protocol() {
    let hidden = "(it may hold mail and is not shown)";
    for (answer, details) in [
        ("* 30 FETCH (BODY[] \"PLANTED\rx\")\r\n", "a line of 31 octets, beginning with *"),
        ("* 30 FETCH (UID 1)\r\nt1 PLANTED\r\n", "a line of 10 octets, beginning with the command's tag"),
        ("* 30 FETCH (UID 1)\r\nt2 PLANTED\r\n", "a line of 10 octets"),
        ("30 FETCH (PLANTED)\r\n", "a line of 18 octets"),
        ("* 30 FETCH (UID 1)\r\n  flags (PLANTED)\r\n", "a line of 17 octets, beginning with FLAGS"),
        ("+ PLANTED\r\n", "a line of 9 octets, beginning with +"),
        ("* 30 FETCH (BODY[] {3}\r\nabcPLANTED {5\r\n", "a line of 10 octets"),
        ("* 30 FETCH (BODY[] {1}\r\na)\r\n)\r\n", "a line of 1 octet"),
        ("Bcc: PLANTED\n", "a line of 12 octets"),
    ] {
        assert_eq!(broken(answer), format!("{details} {hidden}"), "{answer:?}");
    }
    let long = format!("* 30 FETCH (BODY[] \"{}", "PLANTED ".repeat(9000));
    assert_eq!(broken(&long), format!("a line of 65538 octets, beginning with * {hidden}"));
    // A row that comes unasked, in any command.
    let mut session = greeted();
    run(&mut session, &Command::List, b"* 5 FETCH (BODY[] \"PLANTED\r\")\r\n");
    assert!(!session.offending_line().to_string().contains("PLANTED"));
    // And where no mail can be, the line helps.
    let mut session = greeted();
    run(&mut session, &Command::List, b"a1 OK done\r\n");
    assert_eq!(session.offending_line(), OffendingLine::Text(b"a1 OK done"));
}

#[test]
fn words_keep_their_place_behind_rows_that_were_closed_and_lose_it_behind_others() {
    let fetch = Command::Fetch { from: 11, to: 30, whole: true };
    let closed = [
        "",
        "* 30 FETCH (UID 1 FLAGS (\\Seen) BODY[HEADER.FIELDS (DATE FROM)] {6}\r\na: b\r\n)\r\n",
        "* 30 FETCH (BODY[] {6}\r\na: b\r\n UID 5 X-GM-LABELS (a {3}\r\nb(c) )\r\n",
        "* 30 FETCH (UID 5)\r\n* LIST () \"/\" {1}\r\na\r\n\r\n* 1 RECENT\r\n",
        "*  30  FETCH  (BODY[] \"a (b \\\" c\" UID 5)\r\n",
    ];
    let open = [
        "* 30 FETCH (BODY[] {2}\r\na: b\r\n)\r\n",
        "* 30 FETCH (BODY[] {2}\r\na: b)\r\n",
        "* 30 FETCH (BODY[] {2}\r\na\n hi :)\r\n",
        "* 30 FETCH (UID 5) (\r\n",
        "* 30 FETCH (UID 5))\r\n",
        "* 30 FETCH (UID 5) x (UID 6)\r\n",
        "* 30 FETCH (UID 5\r\n",
        "* 30 FETCH (BODY[] \"a\"b\")\r\n",
        "* 30 FETCH x (UID 5)\r\n",
        "* LIST (x\r\n",
        "* (what\r\n",
    ];
    for (rows, shown) in closed.map(|rows| (rows, true)).into_iter().chain(open.map(|rows| (rows, false))) {
        for end in ["* BYE [UNAVAILABLE] words", "* OK [ALERT] words", "t1 NO [SERVERBUG] words"] {
            let mut session = selected("* 30 EXISTS\r\n");
            let seen = run(&mut session, &fetch, format!("{rows}{end}\r\n").as_bytes());
            let details = seen.last().is_some_and(|last| last.ends_with(" words"));
            assert_eq!(details, shown, "{rows:?} {end}: {seen:?}");
        }
    }
    // Cut off within a line, and what follows looks like the end of a row.
    for (end, shown) in [("* BYE words", false), ("* OK [ALERT] words", false), ("t1 NO words", true)] {
        for literal in ["{3}\r\nHi ", "{0}\r\n"] {
            let mut session = selected("* 30 EXISTS\r\n");
            let answer = format!("* 30 FETCH (BODY[] {literal})\r\n{end}\r\n");
            let seen = run(&mut session, &fetch, answer.as_bytes());
            assert_eq!(seen.last().is_some_and(|last| last.ends_with(" words")), shown, "{literal:?}: {seen:?}");
        }
    }
}

#[test]
fn what_looks_like_data_among_rows_that_were_not_closed_is_not_learned() {
    let fetch = Command::Fetch { from: 11, to: 30, whole: true };
    let answer = b"* 30 FETCH (BODY[] {1}\r\nxyz\r\n* CAPABILITY PLANTED\r\n* OK [CAPABILITY PLANTED] x\r\n* NO [REFERRAL imap://PLANTED/] x\r\n* ID (\"name\" \"PLANTED\")\r\nt1 OK [REFERRAL imap://PLANTED/] x\r\n";
    let mut session = selected("* 30 EXISTS\r\n");
    let known = session.capabilities().cloned();
    run(&mut session, &fetch, answer);
    assert_eq!(session.capabilities().cloned(), known);
    assert_eq!((session.progress().referral.clone(), session.id()), (None, (None, None)));
}

#[test]
fn a_line_among_rows_that_is_no_response_is_out_of_place_and_one_with_a_foreign_tag_is_not() {
    for (answer, out_of_place) in [
        ("* 30 FETCH (UID 1)\r\n)\r\n", true),
        ("* 30 FETCH (UID 1)\r\nTo: a\r\n", true),
        ("* 30 FETCH (BODY[] {1}\r\nab\r\nAll OK now\r\n", true),
        ("* 30 FETCH (UID 1)\r\nt9 OK done\r\n", false),
        ("t9 OK done\r\n", false),
    ] {
        let mut session = selected("* 30 EXISTS\r\n");
        let seen = run(&mut session, &Command::Fetch { from: 11, to: 30, whole: true }, answer.as_bytes());
        let last = seen.last().unwrap();
        assert_eq!(
            last == "violation: what came among the rows of FETCH is no response",
            out_of_place,
            "{answer:?}: {seen:?}"
        );
        assert!(last.starts_with("violation"), "{seen:?}");
    }
}

#[test]
fn the_octets_still_awaited_of_a_literal_are_reported() {
    let mut session = selected("* 30 EXISTS\r\n");
    let fetch = Command::Fetch { from: 11, to: 30, whole: true };
    run(&mut session, &fetch, b"* 30 FETCH (BODY[] {10}\r\nabc");
    assert_eq!(session.awaited(), Some((7, 10)));
    talk(&mut session, b"defghij");
    assert_eq!(session.awaited(), None);
    talk(&mut session, b" BODY[1] {4}\r\n");
    assert_eq!(session.awaited(), Some((4, 4)));
}

/// Pieces of a message, of which some look like the protocol.
fn message() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("PLANTED"),
        Just(" "),
        Just("("),
        Just(")"),
        Just("\""),
        Just("\\"),
        Just("\r\n"),
        Just("\n"),
        Just("\r"),
        Just("\r\n* BYE PLANTED"),
        Just("\r\n* OK [ALERT] PLANTED"),
        Just("\r\n* NO [REFERRAL imap://PLANTED/] PLANTED"),
        Just("\r\nt9 OK PLANTED"),
        Just("\r\n* CAPABILITY PLANTED"),
        Just("\r\n+ PLANTED"),
        Just("\r\n* ID (\"name\" \"PLANTED\")"),
        Just("{2}"),
        Just("{PLANTED"),
        Just("\0"),
        Just("UID 5"),
        Just("* 30 FETCH (UID 5)\r\n"),
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_word_of_a_message_is_shown_however_its_literal_was_announced(
        message in message(), off in -40isize..40, quoted: bool, end in "(t1 NO|\\* BYE) words",
    ) {
        let announced = message.len().saturating_add_signed(off);
        // A literal that ends with a line, right before a line that ends a row, is one like any other.
        let (inside, behind) = message.split_at_checked(announced).unwrap_or((&message, ""));
        let ends_a_row = behind.split('\n').next().is_some_and(|line| line.trim_end_matches('\r').ends_with(')'));
        prop_assume!(!(inside.ends_with('\n') && ends_a_row));
        let row = if quoted {
            format!("* 30 FETCH (BODY[] \"{message}\")\r\n")
        } else {
            format!("* 30 FETCH (BODY[] {{{announced}}}\r\n{message})\r\n")
        };
        prop_assume!(!quoted || !message.contains('"'));
        let mut session = selected("* 30 EXISTS\r\n");
        let known = session.capabilities().cloned();
        session.take_progress();
        let fetch = Command::Fetch { from: 11, to: 30, whole: true };
        let seen = run(&mut session, &fetch, format!("{row}{end}\r\n").as_bytes());
        prop_assert!(seen.iter().all(|seen| !seen.contains("PLANTED")), "{row:?}: {seen:?}");
        let line = session.offending_line().to_string();
        prop_assert!(!line.contains("PLANTED"), "{row:?}: {line}");
        let referral = session.progress().referral.as_ref().filter(|_| session.trusts_untagged());
        prop_assert_eq!((referral, session.capabilities().cloned(), session.id()), (None, known, (None, None)));
    }
}
