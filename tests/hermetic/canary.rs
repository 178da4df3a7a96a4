//! `imaptrace canary fill`: what it adds, what it leaves alone, where it goes on, and what it says.

use std::{net::SocketAddr, time::Duration};

use imaptrace::{clock, synthetic_mail::SyntheticMailbox};
use nix::sys::signal::Signal;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};

use crate::{
    command_line::{Terminal, heard},
    support::{
        program::{Output, Program},
        script::Script,
    },
};

/// It must show up nowhere but on the way to the server.
const PASSWORD: &str = "secret-7c1f";
/// Long past anything that is waited for here.
const PATIENCE: Duration = Duration::from_secs(60);

fn fill(address: SocketAddr, more: &[&str]) -> Program {
    let url = format!("imap://someone@{address}");
    Program::new(["canary", "fill", &url, "--security", "none"].iter().chain(more)).env("IMAPTRACE_PASSWORD", PASSWORD)
}

/// Plays a script, fills once, and gives what came of it and what the server heard, tags taken off.
async fn against(script: &str, more: &[&str]) -> (Output, Vec<String>) {
    let server = Script::play(script).await;
    let output = fill(server.address, more).run().await;
    assert!(!output.stdout.contains(PASSWORD) && !output.stderr.contains(PASSWORD), "{output:?}");
    let untagged = |line: String| line.split_once(' ').map(|(_, rest)| rest.to_owned()).unwrap_or_default();
    (output, heard(server).await.into_iter().map(untagged).collect())
}

/// From the greeting to a mailbox that holds so many messages.
fn opened(capabilities: &str, exists: u32) -> String {
    format!(
        "S: * OK [CAPABILITY IMAP4rev1 {capabilities}] hi\nC: LOGIN\nS: {{tag}} OK [CAPABILITY IMAP4rev1 \
         {capabilities}] in\nC: EXAMINE\nS: * {exists} EXISTS\nS: {{tag}} OK [READ-ONLY] open\n"
    )
}

/// A search that finds so many.
fn found(count: u32) -> String {
    format!("C: SEARCH\nS: * SEARCH {}\nS: {{tag}} OK\n", numbers(count))
}

/// The search that must find nothing when canaries were found.
const NONE_ABSENT: &str = "C: SEARCH\nS: * SEARCH\nS: {tag} OK\n";

/// `1 2 3`
fn numbers(count: u32) -> String {
    (1..=count).map(|number| number.to_string()).collect::<Vec<_>>().join(" ")
}

/// Bytes of message `number`; they do not depend on the day.
fn size(number: u32, of: u32) -> usize {
    SyntheticMailbox::new(of, clock::wall()).message(number).bytes.len()
}

/// Message `number` is taken, after a `+` or without one.
fn taken(number: u32, of: u32, plus: &str) -> String {
    format!("C: APPEND\n{plus}c: {}\nS: {{tag}} OK [APPENDUID 1 {number}] done\n", size(number, of) + 2)
}

const GO: &str = "S: + go on\n";
const GOODBYE: &str = "C: LOGOUT\nS: * BYE\nS: {tag} OK\n";

/// The look after the last message.
fn counted(count: u32) -> String {
    format!("C: EXAMINE\nS: * {count} EXISTS\nS: {{tag}} OK\n{}{GOODBYE}", found(count))
}

fn commands(heard: &[String]) -> Vec<&str> {
    let known = ["LOGIN", "EXAMINE", "CREATE", "SEARCH", "APPEND", "SELECT", "LOGOUT"];
    let words = heard.iter().map(|line| line.split(' ').next().unwrap_or_default());
    words.filter(|word| known.contains(word)).collect()
}

#[track_caller]
fn says(output: &Output, code: i32, parts: &[&str]) {
    assert_eq!(output.code, Some(code), "{output:?}");
    for part in parts {
        assert!(output.stderr.contains(part), "{part:?} is not in {}", output.stderr);
    }
    assert_eq!(output.stdout.is_empty(), code != 0, "{output:?}");
}

// === What it adds ===

#[tokio::test]
async fn an_empty_mailbox_is_filled_in_order_and_counted_at_the_end() {
    let script: String = [opened("", 0), taken(1, 3, GO), taken(2, 3, GO), taken(3, 3, GO), counted(3)].concat();
    let (output, heard) = against(&script, &["--messages", "3"]).await;
    says(&output, 0, &["1 of 3 messages\n2 of 3 messages\n3 of 3 messages\n"]);
    let bytes: usize = (1..=3).map(|number| size(number, 3)).sum();
    let size = imaptrace::terminal::size(bytes as u64);
    let start = format!("INBOX holds 3 canary messages: 3 added, {size} in ");
    assert!(output.stdout.starts_with(&start) && output.stdout.lines().count() == 1, "{output:?}");
    let expected = ["LOGIN", "EXAMINE", "APPEND", "APPEND", "APPEND", "EXAMINE", "SEARCH", "LOGOUT"];
    assert_eq!(commands(&heard), expected);
    assert_eq!(heard[1], "EXAMINE \"INBOX\"");
    for (number, at) in [(1, 2), (2, 4), (3, 6)] {
        let message = SyntheticMailbox::new(3, clock::wall()).message(number);
        let seen = if message.seen { "\\Seen" } else { "" };
        assert!(heard[at].starts_with(&format!("APPEND \"INBOX\" ({seen}) \"")), "{}", heard[at]);
        assert!(heard[at].ends_with(&format!(" +0000\" {{{}}}", message.bytes.len())), "{}", heard[at]);
        assert!(heard[at + 1].contains(&format!("\r\nX-Imaptrace-Canary: {number}\r\n")), "{}", heard[at + 1]);
    }
    assert_eq!(heard[9], "SEARCH HEADER X-Imaptrace-Canary \"\"");
}

#[tokio::test]
async fn a_message_waits_for_no_plus_only_where_that_is_advertised_for_its_size() {
    let script = [opened("LITERAL+", 0), taken(1, 2, ""), taken(2, 2, ""), counted(2)].concat();
    let (output, heard) = against(&script, &["--messages", "2"]).await;
    says(&output, 0, &[]);
    assert!(heard[2].ends_with(&format!("{{{}+}}", size(1, 2))), "{}", heard[2]);
    // LITERAL- is for no more than 4096 bytes: of these messages some are smaller and some larger.
    let small = (1..50).find(|number| size(*number, 50) <= 4096).unwrap();
    let of = small + 2;
    let mut script = opened("LITERAL-", 0);
    for number in 1..=of {
        script.push_str(&taken(number, of, if size(number, of) <= 4096 { "" } else { GO }));
    }
    assert!(script.contains(GO), "none is larger");
    let (output, heard) = against(&(script + &counted(of)), &["--messages", &of.to_string()]).await;
    says(&output, 0, &[]);
    assert!(heard.iter().any(|line| line.starts_with("APPEND") && line.ends_with("+}")), "{heard:?}");
}

#[tokio::test]
async fn a_refusal_in_place_of_the_plus_keeps_the_message_here() {
    let script = [opened("", 0), "C: APPEND\nS: {tag} NO [TOOBIG] no\n".to_owned(), GOODBYE.to_owned()].concat();
    let (output, heard) = against(&script, &["--messages", "2"]).await;
    says(&output, 1, &["APPEND was refused: NO [TOOBIG] no", "limit on messages", "nothing was added"]);
    assert_eq!(commands(&heard), ["LOGIN", "EXAMINE", "APPEND", "LOGOUT"]);
}

#[tokio::test]
async fn a_mailbox_that_is_missing_is_made_only_on_request() {
    let missing = "S: * OK [CAPABILITY IMAP4rev1] hi\nC: LOGIN\nS: {tag} OK in\nC: CAPABILITY\nS: * CAPABILITY IMAP4rev1\nS: {tag} OK\nC: EXAMINE\nS: {tag} NO ";
    for code in ["[TRYCREATE] ", "[NONEXISTENT] ", ""] {
        let (output, heard) =
            against(&format!("{missing}{code}nothing here\n{GOODBYE}"), &["--mailbox", "Fill me"]).await;
        says(&output, 1, &["there is no mailbox Fill me", ": nothing here", "--create makes it"]);
        assert!(!commands(&heard).contains(&"CREATE"));
        let made = "C: CREATE\nS: {tag} OK\nC: EXAMINE\nS: * 0 EXISTS\nS: {tag} OK\n";
        let script = [&format!("{missing}{code}nothing here\n{made}"), taken(1, 1, GO).as_str(), &counted(1)].concat();
        let (output, heard) = against(&script, &["--mailbox", "Fill me", "--create", "--messages", "1"]).await;
        says(&output, 0, &["fewer than 20 messages"]);
        assert!(output.stdout.starts_with("Fill me holds 1 canary messages"), "{output:?}");
        assert!(heard.contains(&"CREATE \"Fill me\"".to_owned()), "{heard:?}");
    }
    // It is there, and somebody else's.
    let (output, heard) = against(&format!("{missing}[NOPERM] not yours\n{GOODBYE}"), &["--create"]).await;
    says(&output, 1, &["EXAMINE failed: no: NO [NOPERM] not yours"]);
    assert!(!commands(&heard).contains(&"CREATE"));
}

// === What it leaves alone ===

#[tokio::test]
async fn a_mailbox_with_other_mail_is_left_alone_without_the_flag() {
    let script = [opened("", 5), found(2), NONE_ABSENT.to_owned(), GOODBYE.to_owned()].concat();
    let (output, heard) = against(&script, &["--messages", "3"]).await;
    says(&output, 1, &["INBOX holds 3 messages that are no canary's; nothing was added", "--among-other-mail"]);
    assert_eq!(commands(&heard), ["LOGIN", "EXAMINE", "SEARCH", "SEARCH", "LOGOUT"]);
    assert_eq!(heard[3], "SEARCH HEADER X-Imaptrace-Canary-Absent \"\"");

    let script = [opened("", 5), found(2), NONE_ABSENT.to_owned(), taken(3, 3, GO), counted(3)].concat();
    let (output, heard) = against(&script, &["--messages", "3", "--among-other-mail"]).await;
    says(&output, 0, &[]);
    assert!(output.stdout.starts_with("INBOX holds 3 canary messages: 1 added, "), "{output:?}");
    assert!(heard.iter().any(|line| line.contains("\r\nX-Imaptrace-Canary: 3\r\n")));
}

#[tokio::test]
async fn a_mailbox_that_is_full_enough_stays_as_it_is() {
    for there in [3, 4] {
        let script = [opened("", there), found(there), NONE_ABSENT.to_owned(), GOODBYE.to_owned()].concat();
        let (output, heard) = against(&script, &["--messages", "3"]).await;
        says(&output, 0, &[]);
        assert_eq!(output.stdout, format!("INBOX holds {there} canary messages already; nothing was added\n"));
        assert!(!commands(&heard).contains(&"APPEND"));
    }
}

#[tokio::test]
async fn a_server_whose_search_finds_everything_makes_no_canaries_of_other_mail() {
    // By its own count one is full, and one is to be gone on with.
    for (more, there) in [(&[][..], 5), (&["--among-other-mail"], 3)] {
        let script = [opened("", 5), found(there), found(5), GOODBYE.to_owned()].concat();
        let (output, heard) = against(&script, &[&["--messages", "5"], more].concat()).await;
        says(
            &output,
            1,
            &["finds 5 messages in INBOX by a header field that no mail has", "nothing was added", "help: "],
        );
        assert_eq!(commands(&heard), ["LOGIN", "EXAMINE", "SEARCH", "SEARCH", "LOGOUT"]);
    }
}

#[tokio::test]
async fn an_examine_that_tells_no_number_is_no_empty_mailbox() {
    for silence in ["", "S: * 5000000000 EXISTS\n"] {
        let open = opened("", 0).replace("S: * 0 EXISTS\n", silence);
        let (output, heard) = against(&format!("{open}{GOODBYE}"), &["--messages", "2"]).await;
        let said = "EXAMINE of INBOX was OK without a number of messages";
        says(&output, 1, &[said, "EXISTS` must come before the OK", "nothing was added"]);
        assert_eq!(commands(&heard), ["LOGIN", "EXAMINE", "LOGOUT"]);
    }
    // Nor one just made, nor one just filled.
    let made = "C: EXAMINE\nS: {tag} NO gone\nC: CREATE\nS: {tag} OK\nC: EXAMINE\nS: {tag} OK\n";
    let open = opened("", 0);
    let open = open.split_once("C: EXAMINE").unwrap().0;
    let (output, heard) = against(&format!("{open}{made}{GOODBYE}"), &["--messages", "1", "--create"]).await;
    says(&output, 1, &["was OK without a number of messages", "nothing was added"]);
    assert!(!commands(&heard).contains(&"APPEND"), "{heard:?}");
    let last = counted(1).replace("S: * 1 EXISTS\n", "");
    let (output, _) = against(&[opened("", 0), taken(1, 1, GO), last].concat(), &["--messages", "1"]).await;
    says(&output, 1, &["was OK without a number of messages", "1 of 1 messages are in INBOX"]);
}

#[tokio::test]
async fn more_canaries_than_messages_are_not_believed() {
    let twice = "C: SEARCH\nS: * ESEARCH (TAG \"{tag}\") COUNT 2\nS: * SEARCH 1 2\nS: {tag} OK\n";
    let (output, heard) =
        against(&[&opened("ESEARCH", 3), twice, GOODBYE].concat(), &["--messages", "9", "--among-other-mail"]).await;
    let said = "counts 4 canary messages in INBOX, which holds 3 messages in all; nothing was added";
    says(&output, 1, &[said, "help: "]);
    assert_eq!(commands(&heard), ["LOGIN", "EXAMINE", "SEARCH", "LOGOUT"]);
    // Nor at the end.
    let last = counted(2).replace("S: * 2 EXISTS", "S: * 1 EXISTS");
    let script = [opened("", 0), taken(1, 2, GO), taken(2, 2, GO), last].concat();
    let (output, _) = against(&script, &["--messages", "2"]).await;
    says(&output, 1, &["counts 2 canary messages in INBOX, which holds 1 messages in all; 2 were added"]);
}

#[tokio::test]
async fn starttls_is_not_given_up_for_clear_text() {
    let script = format!("S: * OK [CAPABILITY IMAP4rev1] hi\n{GOODBYE}");
    let server = Script::play(&script).await;
    let url = format!("imap://someone@{}", server.address);
    let output = Program::new(["canary", "fill", &url]).env("IMAPTRACE_PASSWORD", PASSWORD).run().await;
    says(&output, 1, &["starttls_unavailable"]);
    assert!(!heard(server).await.concat().contains(PASSWORD));
}

// === Where it goes on ===

#[tokio::test]
async fn a_fill_goes_on_after_the_messages_that_are_there() {
    let count = "C: SEARCH RETURN (COUNT) HEADER X-Imaptrace-Canary \"\"\nS: * ESEARCH (TAG \"{tag}\") COUNT ";
    let none = "C: SEARCH RETURN (COUNT) HEADER X-Imaptrace-Canary-Absent \"\"\nS: * ESEARCH (TAG \"{tag}\") COUNT 0\n";
    let script = [
        opened("ESEARCH LITERAL+", 2),
        format!("{count}2\nS: {{tag}} OK\n{none}S: {{tag}} OK\n"),
        taken(3, 4, ""),
        taken(4, 4, ""),
        format!("C: EXAMINE\nS: * 4 EXISTS\nS: {{tag}} OK\n{count}4\nS: {{tag}} OK\n{GOODBYE}"),
    ];
    let (output, heard) = against(&script.concat(), &["--messages", "4"]).await;
    says(&output, 0, &[]);
    assert!(output.stdout.starts_with("INBOX holds 4 canary messages: 2 added, "), "{output:?}");
    for number in [3, 4] {
        assert!(heard.iter().any(|line| line.contains(&format!("\r\nX-Imaptrace-Canary: {number}\r\n"))), "{number}");
    }
}

#[tokio::test]
async fn a_refusal_in_the_middle_says_what_to_do_and_where_the_same_command_goes_on() {
    for (refusal, advice) in [
        ("NO [OVERQUOTA] Quota exceeded", "raise its quota"),
        ("NO [TRYCREATE] It has gone", "--create makes it again"),
        ("NO [LIMIT] Too many at once", "or wait"),
        ("NO [NOPERM] Not you", "give another --mailbox"),
        ("NO Disk on fire", "the server refused the command"),
    ] {
        let refused = format!("C: APPEND\nS: + go\nc: {}\nS: {{tag}} {refusal}\n", size(2, 3) + 2);
        let script = [opened("", 0), taken(1, 3, GO), refused, GOODBYE.to_owned()].concat();
        let (output, heard) = against(&script, &["--messages", "3"]).await;
        let goes_on = "1 of 3 messages are in INBOX, and the same command goes on from there";
        says(&output, 1, &["APPEND ", refusal, advice, goes_on]);
        assert_eq!(commands(&heard), ["LOGIN", "EXAMINE", "APPEND", "APPEND", "LOGOUT"]);
    }
}

#[tokio::test]
async fn a_server_that_takes_no_message_while_a_mailbox_is_open_to_look_at_has_it_opened_to_write() {
    let refused = "C: APPEND\nS: {tag} NO Current box is selected READ-ONLY.\nC: SELECT\nS: * 0 EXISTS\nS: {tag} OK\n";
    let refused = refused.to_owned();
    let script = [opened("", 0), refused.clone(), taken(1, 2, GO), taken(2, 2, GO), counted(2)].concat();
    let (output, heard) = against(&script, &["--messages", "2"]).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    let expected = ["LOGIN", "EXAMINE", "APPEND", "SELECT", "APPEND", "APPEND", "EXAMINE", "SEARCH", "LOGOUT"];
    assert_eq!(commands(&heard), expected);

    // Once is enough: what it says then is what counts.
    let still = "C: APPEND\nS: {tag} NO Disk on fire\n".to_owned();
    let (output, heard) =
        against(&[opened("", 0), refused, still, GOODBYE.to_owned()].concat(), &["--messages", "2"]).await;
    says(&output, 1, &["APPEND failed: no: NO Disk on fire", "nothing was added"]);
    assert_eq!(commands(&heard), ["LOGIN", "EXAMINE", "APPEND", "SELECT", "APPEND", "LOGOUT"]);
}

#[tokio::test]
async fn a_server_that_hangs_up_or_counts_fewer_is_reported() {
    let script =
        [opened("", 0), taken(1, 2, GO), format!("C: APPEND\nS: + go\nc: {}\nclose\n", size(2, 2) + 2)].concat();
    let (output, _) = against(&script, &["--messages", "2"]).await;
    says(&output, 1, &["APPEND failed: eof", "1 of 2 messages are in INBOX"]);

    let script = [opened("", 0), taken(1, 2, GO), taken(2, 2, GO), counted(1)].concat();
    let (output, _) = against(&script, &["--messages", "2"]).await;
    says(&output, 1, &["took all messages, and counts 1 of 2 in INBOX"]);
}

#[tokio::test]
async fn what_the_server_says_of_password_and_user_is_not_repeated_and_steers_no_terminal() {
    let refused = format!("C: APPEND\nS: {{tag}} NO [OVERQUOTA] \\x1b[2J{PASSWORD} of someone is full\n");
    let (output, _) = against(&[opened("", 0), refused, GOODBYE.to_owned()].concat(), &["--messages", "2"]).await;
    says(&output, 1, &["\\x1b[2J[redacted] of [default] is full"]);
    assert!(!output.stderr.contains('\x1b') && !output.stderr.contains("someone"), "{output:?}");
}

/// A mailbox that can be asked how many messages it holds. It takes them as they come, or stops answering at one.
struct Mailbox {
    address: SocketAddr,
    /// Messages held, messages begun, LOGOUTs heard.
    seen: watch::Receiver<(u32, u32, u32)>,
}

impl Mailbox {
    async fn hanging_at(begun: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (notes, seen) = watch::channel((0, 0, 0));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                Self::converse(stream, begun, &notes).await;
            }
        });
        Self { address, seen }
    }

    async fn converse(stream: TcpStream, hang_at: u32, notes: &watch::Sender<(u32, u32, u32)>) {
        let mut stream = BufReader::new(stream);
        let mut answer = "* OK [CAPABILITY IMAP4rev1] hi\r\n".to_owned();
        while stream.write_all(answer.as_bytes()).await.is_ok() {
            let mut line = String::new();
            if !stream.read_line(&mut line).await.is_ok_and(|length| length > 0) {
                return;
            }
            let (tag, command) = line.trim_end().split_once(' ').unwrap_or_default();
            let held = notes.borrow().0;
            answer = match command.split(' ').next() {
                Some("EXAMINE") => format!("* {held} EXISTS\r\n{tag} OK done\r\n"),
                Some("SEARCH") if command.contains("-Absent ") => format!("* SEARCH\r\n{tag} OK done\r\n"),
                Some("SEARCH") => format!("* SEARCH {}\r\n{tag} OK done\r\n", numbers(held)),
                Some("APPEND") => {
                    notes.send_modify(|notes| notes.1 += 1);
                    if notes.borrow().1 == hang_at {
                        drop(stream.read_to_end(&mut Vec::new()).await);
                        return;
                    }
                    let size = command.rsplit('{').next().unwrap().trim_end_matches('}').parse::<usize>().unwrap();
                    stream.write_all(b"+ go\r\n").await.unwrap();
                    if stream.read_exact(&mut vec![0; size + 2]).await.is_err() {
                        return;
                    }
                    notes.send_modify(|notes| notes.0 += 1);
                    format!("{tag} OK done\r\n")
                }
                Some("LOGOUT") => {
                    notes.send_modify(|notes| notes.2 += 1);
                    format!("* BYE\r\n{tag} OK done\r\n")
                }
                _ => format!("{tag} OK [CAPABILITY IMAP4rev1] done\r\n"),
            };
        }
    }

    /// Waits until so many messages have been begun.
    async fn begins(&mut self, begun: u32) {
        let waiting = timeout(PATIENCE, self.seen.wait_for(|seen| seen.1 >= begun)).await;
        drop(waiting.expect("it was not filled").unwrap());
    }

    fn held(&self) -> u32 {
        self.seen.borrow().0
    }

    fn logouts(&self) -> u32 {
        self.seen.borrow().2
    }
}

#[tokio::test]
async fn an_interrupt_ends_with_logout_and_the_same_command_goes_on() {
    let mut server = Mailbox::hanging_at(u32::MAX).await;
    let running = fill(server.address, &["--messages", "5000"]).start();
    server.begins(10).await;
    running.signal(Signal::SIGINT);
    let output = running.finish().await;
    let held = server.held();
    assert!(held < 5000, "it was over before the signal came");
    let goes_on = format!("{held} of 5000 messages are in INBOX, and the same command goes on from there");
    says(&output, 130, &["error: stopped", &goes_on]);
    assert_eq!(server.logouts(), 1);

    let more = (held + 7).to_string();
    let output = fill(server.address, &["--messages", &more]).run().await;
    says(&output, 0, &[]);
    assert!(output.stdout.starts_with(&format!("INBOX holds {more} canary messages: 7 added, ")), "{output:?}");
}

#[tokio::test]
async fn an_interrupt_does_not_wait_for_a_server_that_hangs() {
    let mut server = Mailbox::hanging_at(3).await;
    let running = fill(server.address, &["--messages", "5"]).start();
    server.begins(3).await;
    running.signal(Signal::SIGINT);
    says(&running.finish().await, 130, &["error: stopped", "2 of 5 messages are in INBOX"]);
    assert_eq!(server.logouts(), 0, "half a command was followed by another");
}

// === How it looks ===

#[tokio::test]
async fn a_terminal_gets_a_bar_and_no_color_gets_plain_lines() {
    let server = Mailbox::hanging_at(u32::MAX).await;
    let url = format!("imap://someone:{PASSWORD}@{}", server.address);
    let arguments = |messages| ["canary", "fill", &url, "--security", "none", "--messages", messages];
    let (text, code) = Terminal::default().run(&arguments("40"), None).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("\x1b[") && text.contains(" of 40 messages, "), "{text:?}");
    let mut rates = text.split([' ', ',']).filter_map(|word| word.strip_suffix("/s")).peekable();
    assert!(rates.peek().is_some() && rates.all(|rate| rate.bytes().all(|byte| byte.is_ascii_digit())), "{text:?}");
    assert!(text.contains("INBOX holds 40 canary messages: 40 added, "), "{text:?}");

    let no_color = [("TERM", "xterm-256color"), ("LANG", "C.UTF-8"), ("NO_COLOR", "1")];
    let terminal = Terminal { variables: &no_color, ..Terminal::default() };
    let (text, code) = terminal.run(&arguments("80"), None).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.is_ascii() && !text.contains(['\x1b', '\r']), "{text:?}");
    let lines: Vec<_> = text.lines().filter(|line| line.ends_with(" of 80 messages")).collect();
    assert_eq!(
        lines,
        ["48 of 80 messages", "56 of 80 messages", "64 of 80 messages", "72 of 80 messages", "80 of 80 messages"]
    );
}

#[tokio::test]
async fn wrong_usage_is_2_and_canary_alone_shows_its_help() {
    for wrong in [&["--messages", "0"][..], &["--messages", "1000001"], &["--examine"], &["--count", "3"]] {
        let arguments = [&["canary", "fill", "imap://u:p@127.0.0.1:1"], wrong].concat();
        assert_eq!(Program::new(arguments).run().await.code, Some(2), "{wrong:?}");
    }
    let output = Program::new(["canary", "fill", "imaps://u:p@127.0.0.1/a%0Db"]).run().await;
    says(&output, 2, &["error: "]);
    let output =
        Program::new(["canary", "fill", "imaps://127.0.0.1:1"]).env("IMAPTRACE_PASSWORD", PASSWORD).run().await;
    says(&output, 2, &["error: canary fill: there is no user name\n"]);
    let output = Program::new(["canary", "fill", "imaps://u:p@localhost:1", "--address", "each"]).run().await;
    says(&output, 2, &["error: --address: \"each\" is a run for each family", "help: give any, v4 or v6"]);
    let alone = Program::new(["canary"]).run().await;
    let help = Program::new(["canary", "--help"]).run().await;
    assert_eq!((alone.stderr, help.code), (help.stdout.clone(), Some(0)));
    insta::assert_snapshot!("help_canary", help.stdout);
    let help = Program::new(["canary", "fill", "--help"]).run().await;
    assert!(help.stdout.lines().all(|line| line.chars().count() <= 100), "{help:?}");
    insta::assert_snapshot!("help_canary_fill", help.stdout);
}
