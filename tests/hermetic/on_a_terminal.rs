//! What a user meets at a terminal: the question for a password, life while a run waits, and Ctrl-C.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{
    command_line::{GOOD, Listener, Terminal, heard, without_colour},
    support::script::Script,
};

const QUESTION: &str = "Password for the mailbox on 127.0.0.1: ";
/// What is typed to interrupt, and to end the input.
const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";

/// What stands on the terminal at the end: a carriage return goes back, and what follows overwrites.
fn screen(shown: &str) -> String {
    let mut lines = Vec::new();
    for line in shown.split('\n') {
        let mut cells: Vec<char> = Vec::new();
        for part in line.split('\r') {
            for (column, character) in part.chars().enumerate() {
                if column < cells.len() {
                    cells[column] = character;
                } else {
                    cells.push(character);
                }
            }
        }
        lines.push(cells.into_iter().collect::<String>().trim_end().to_owned());
    }
    lines.join("\n")
}

// === The question ===

#[tokio::test]
async fn no_password_is_asked_for_before_all_else_is_right() {
    for (arguments, says) in [
        (&["probe", "imap://127.0.0.1:1", "--security", "none"][..], "there is no user name"),
        (&["probe", "imap://me@127.0.0.1:1", "--timeout", "soon"], "--timeout"),
        (&["probe", "imap://me@127.0.0.1:1", "-c", "1"], "--output nagios"),
        (&["probe", "imaps://me@127.0.0.1:1", "--ca-file", "not/there.pem"], "not/there.pem"),
        (&["canary", "fill", "imap://127.0.0.1:1", "--security", "none"], "there is no user name"),
        (&["canary", "fill", "imaps://me@127.0.0.1:1", "--ca-file", "not/there.pem"], "not/there.pem"),
    ] {
        let (text, code) = Terminal::default().run(arguments, None).await;
        assert_eq!(code, Some(2), "{arguments:?}: {text}");
        assert!(text.contains(says) && !text.contains("Password"), "{arguments:?}: {text}");
    }
}

#[tokio::test]
async fn an_empty_password_is_asked_for_again_and_what_is_typed_is_taken_as_it_is() {
    let plain =
        GOOD.replace("IMAP4rev1] hi", "IMAP4rev1 AUTH=PLAIN SASL-IR] hi").replace("C: LOGIN", "C: AUTHENTICATE");
    for typed in [" planted x ", "\tplanted\t", "\u{feff}planted\u{a0}", "plänted\u{3000}"] {
        let server = Script::play(&plain).await;
        let url = format!("imap://someone@{}", server.address);
        let line = format!("{typed}\n");
        let steps = [(QUESTION, "\n"), ("type it again", "\n"), ("type it again", line.as_str())];
        let (text, code) = Terminal::default().converse(&["probe", &url, "--security", "none"], &steps).await;
        assert_eq!(code, Some(0), "{typed:?}: {text}");
        assert_eq!(text.matches(QUESTION).count(), 3, "{text}");
        assert!(!text.contains("nary"), "{text}");
        let login = heard(server).await.swap_remove(0);
        let sent = STANDARD.encode(format!("\0someone\0{typed}"));
        assert!(login.ends_with(&format!(" AUTHENTICATE PLAIN {sent}")), "{typed:?}: {login}");
    }
}

#[tokio::test]
async fn who_gives_up_at_the_question_gets_a_terminal_back_that_shows_what_is_typed() {
    for key in [CTRL_C, CTRL_D] {
        let terminal = Terminal::default();
        let words = terminal.words(&["probe", "imap://me@127.0.0.1:1", "--security", "none"]);
        // The shell has to outlive an interrupt that is meant for both.
        let line = format!("trap : INT; {words}; echo code $?; stty -a");
        let (text, _) = terminal.shell(&line, &[(QUESTION, key)]).await;
        if key == CTRL_C {
            assert!(text.contains("code 130") && !text.contains("error: "), "{text}");
        } else {
            assert!(text.contains("error: cannot ask for the password: ") && text.contains("code 2"), "{text}");
            assert!(text.contains("--password-file"), "{text}");
        }
        for mode in ["icanon", "echo", "isig"] {
            assert!(text.split_whitespace().any(|word| word == mode), "{mode}: {text}");
        }
    }
}

// === Life ===

/// The password in a variable.
const SET: [(&str, &str); 3] = [("TERM", "xterm-256color"), ("LANG", "C.UTF-8"), ("IMAPTRACE_PASSWORD", "planted")];

#[tokio::test]
async fn a_run_that_waits_shows_its_step_and_ctrl_c_draws_what_there_is() {
    let mut plain = SET.to_vec();
    plain.push(("NO_COLOR", "1"));
    for variables in [&SET[..], &plain] {
        let server = Listener::silent_at("LIST").await;
        let url = format!("imap://someone@{}", server.address);
        let terminal = Terminal { variables, ..Terminal::default() };
        let arguments = ["probe", &url, "--security", "none"];
        let (text, code) = terminal.converse(&arguments, &[("\rLIST 0.", ""), ("LIST 1.", CTRL_C)]).await;
        assert_eq!(code, Some(130), "{text}");
        let screen = screen(&text);
        assert!(!screen.contains("LIST 0.") && !screen.contains("LIST 1."), "it is erased: {screen}");
        // The waterfall, with the step that hung.
        assert!(screen.contains("cancelled") && screen.contains("LOGOUT") && screen.contains("trace "), "{screen}");
        let screen = without_colour(&screen);
        let list = screen.lines().find(|line| line.starts_with("LIST")).unwrap_or_else(|| panic!("{screen}"));
        assert!(list.contains("ended here") && !screen.contains("slowest"), "{screen}");
        assert_eq!(text.contains('\x1b'), variables.len() == 3, "{text:?}");
    }
}

#[tokio::test]
async fn ctrl_c_in_the_first_of_many_runs_draws_it_too() {
    let server = Listener::silent_at("SELECT").await;
    let url = format!("imap://someone@{}", server.address);
    let terminal = Terminal { variables: &SET, ..Terminal::default() };
    let arguments = ["probe", &url, "--security", "none", "--count", "10"];
    let (text, code) = terminal.converse(&arguments, &[("\rrun 1 of 10: SELECT 0.", CTRL_C)]).await;
    assert_eq!(code, Some(130), "{text}");
    let screen = screen(&text);
    assert!(screen.contains("0 of 10 runs were made"), "{screen}");
    assert!(screen.contains("void") && screen.contains("SELECT INBOX") && screen.contains("trace "), "{screen}");
}

#[tokio::test]
async fn nothing_of_it_is_in_a_file_or_where_a_log_was_asked_for() {
    let slow = GOOD.replacen("C: LIST\n", "C: LIST\npause 900\n", 1);
    for (redirect, log) in [("2>/dev/null", ""), ("", "warn")] {
        let server = Script::play(&slow).await;
        let url = format!("imap://someone@{}", server.address);
        let mut variables = SET.to_vec();
        variables.push(("RUST_LOG", log));
        let terminal = Terminal { variables: &variables, redirect, ..Terminal::default() };
        let (text, code) = terminal.run(&["probe", &url, "--security", "none"], None).await;
        assert_eq!(code, Some(0), "{text}");
        assert!(!text.contains("\rLIST"), "{text:?}");
    }
}
