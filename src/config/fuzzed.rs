//! The properties that fuzzing tests: any text is a plan or problems, quickly, and nothing shows a secret.
//!
//! `fuzz/` calls this with what it makes up, the tests below with what the corpus and proptest have. In no build but those
//! two. A secret is planted before or behind the text, where it is one whatever the text is.

use std::{
    cell::OnceCell,
    fs,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use super::{Config, Flag, Place, Probe, Problem, Problems, Sources, describe, load, probe};

/// A password, and a user name, that no text holds by itself.
const PASSWORD: &str = "qZ4planted7Xk";
const USER: &str = "wV9someone3Jm";

/// The start of a configuration with its targets in a file.
const LISTED: &str = r#"
[[groups]]
name = "g"
user = "wV9someone3Jm"
password = { env = "P" }
targets_from = ["#;

/// A byte that chooses what the text is: a file, a list in JSON or YAML, or a command line and its environment.
pub fn configuration(input: &[u8]) {
    let Some((choice, text)) = input.split_first() else { return };
    let text = String::from_utf8_lossy(text);
    if text.contains(PASSWORD) || text.contains(USER) {
        return;
    }
    match choice % 5 {
        0 => file(&format!("{}\n{text}", paragraph(*choice, "a.example"))),
        1 => file(&format!("{text}\n{}", paragraph(*choice, "z.example"))),
        2 => list("list.json", &json(&text)),
        3 => list("list.yml", &yaml(&text)),
        _ => command_line(&text),
    }
}

/// A target with secrets in it, in each place that may hold one, be it right or wrong.
fn paragraph(choice: u8, host: &str) -> String {
    let (url, password) = match choice / 5 % 4 {
        0 => (format!("imaps://{USER}:{PASSWORD}@{host}"), format!("password = {PASSWORD:?}")),
        1 => (format!("imaps://{host}"), format!("password = {{ file = {PASSWORD:?}, value = {PASSWORD:?} }}")),
        2 => (format!("imaps//{USER}:{PASSWORD}@{host}"), format!("user = {USER:?}")),
        _ => (format!("imap://{USER}:{PASSWORD}@{host}:x/%zz"), format!("interval = {{ password = {PASSWORD:?} }}")),
    };
    // A path is no secret, so it is shown.
    let password = password.replacen(&format!("file = {PASSWORD:?}"), "file = \"/nowhere\"", 1);
    format!("[[targets]]\nname = {host:?}\nurl = {url:?}\n{password}\n")
}

/// The list with one more entry, if it is a list.
fn json(text: &str) -> String {
    let entry = format!(r#"{{"targets":["imaps://{USER}:{PASSWORD}@j.example"]}}]"#);
    match text.trim_end().strip_suffix(']') {
        Some(list) if list.trim() == "[" => format!("[{entry}"),
        Some(list) => format!("{list},{entry}"),
        None => text.to_owned(),
    }
}

fn yaml(text: &str) -> String {
    format!("{text}\n- targets: [\"imaps://{USER}:{PASSWORD}@y.example\"]\n")
}

fn file(text: &str) {
    in_directory(|directory| {
        let path = directory.join("imaptrace.toml");
        read(&path, text);
    });
}

fn list(name: &str, text: &str) {
    in_directory(|directory| {
        let path = directory.join(name);
        assert!(fs::write(&path, text).is_ok());
        read(&directory.join("imaptrace.toml"), &format!("{LISTED}{:?}]\n", path.display().to_string()));
    });
}

fn read(path: &Path, text: &str) {
    assert!(fs::write(path, text).is_ok());
    check_result(load(&Sources { file: Some(path.to_owned()), ..Sources::default() }));
}

/// The first line goes behind a URL's login, the others are variables.
fn command_line(text: &str) {
    let mut lines = text.lines();
    let server = format!("imaps://{USER}:{PASSWORD}@{}", lines.next().unwrap_or_default());
    let environment: Vec<_> =
        lines.filter_map(|line| line.split_once('=')).map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let flags = vec![Flag { key: "target.timeout".into(), value: "3s".into(), name: "--timeout".into() }];
    check_result(probe(&Probe { server, flags, environment, ..Probe::default() }));
}

fn check_result(read: Result<Config, Problems>) {
    match read {
        Ok(config) => {
            assert!(!config.targets.is_empty() && config.targets.len() <= MOST, "{} targets", config.targets.len());
            shows_no_secret(&describe(&config));
            shows_no_secret(&format!("{config:?}"));
            for problem in config.warnings.iter().chain(&config.unusable).chain(&config.unset) {
                check(problem);
            }
        }
        Err(problems) => {
            assert!(!problems.errors.is_empty(), "it cannot be used, and nothing is wrong");
            shows_no_secret(&format!("{problems:?}"));
            let all = problems.as_in_check();
            shows_no_secret(&all.to_string());
            all.errors.iter().chain(&all.warnings).for_each(check);
        }
    }
}

/// More targets than any configuration can have by itself.
const MOST: usize = 200_000;

fn check(problem: &Problem) {
    assert!(!problem.what.is_empty());
    shows_no_secret(&problem.to_string());
    let (Place::File { path, at: Some((line, column)) }
    | Place::Included { path, at: Some((line, column)) }
    | Place::Listed { path, at: Some((line, column)) }) = &problem.place
    else {
        return;
    };
    let text = fs::read_to_string(path).unwrap_or_default();
    // In YAML a CR by itself ends a line, too.
    let text = if path.extension().is_some_and(|ending| ending == "yml") {
        text.replace("\r\n", "\n").replace('\r', "\n")
    } else {
        text
    };
    // Behind the last line there may be a place, too: where the end was not expected.
    let lines: Vec<&str> = text.split('\n').chain([""]).collect();
    let found = line.checked_sub(1).and_then(|line| lines.get(line));
    assert!(
        found.is_some_and(|line| (1..=line.chars().count() + 2).contains(column)),
        "{problem}: there is no such place"
    );
}

fn shows_no_secret(text: &str) {
    assert!(!text.contains(PASSWORD) && !text.contains(USER), "a secret is shown: {text}");
}

/// A directory of this thread's, in memory where the system has such.
fn in_directory(what: impl FnOnce(&Path)) {
    thread_local!(static DIRECTORY: OnceCell<TempDir> = const { OnceCell::new() });
    let memory = PathBuf::from("/dev/shm");
    let make = || {
        let made = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
        made.unwrap_or_else(|error| panic!("no directory: {error}"))
    };
    DIRECTORY.with(|directory| what(directory.get_or_init(make).path()));
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const PIECES: &[&str] = &[
        "[[targets]]\nname = \"a\"\nurl = \"imaps://a.example\"\nuser = \"u\"\npassword = { env = \"P\" }\n",
        "[[groups]]\nname = \"h\"\nuser = \"u\"\npassword = { env = \"P\" }\ntargets = [\"mail{08..11}\", \"{a,b}.example:993\"]\n",
        "[defaults]\ninterval = \"1m\"\ntimeout = \"90s\"\n",
        "[[windows]]\nname = \"w\"\ndays = [\"mon\"]\nfrom = \"22:00\"\nto = \"04:00\"\ntimezone = \"Europe/Berlin\"\n",
        "security = \"starttls\"\n",
        "targets = [\"{1..99999999}\"]\n",
        "[otlp]\nendpoint = \"http://u:p@localhost:4317\"\nheaders = { a = \"b\", c = { env = \"D\" } }\n",
        "[metrics]\nlabels = [\"dc\"]\nper = \"group\"\n",
        "x = 1979-05-27T07:32:00Z\n",
        "[{\"targets\":[\"a.example:993\",\"imaps://b\"],\"labels\":{\"dc\":\"x\"}}]",
        "- targets: [a.example, \"b.example:143\"]\n  labels: {dc: x, __imaptrace_name__: n}\n",
        "- &a [*a]\n",
        "mail.example.org:993/INBOX\n",
        "IMAPTRACE__DEFAULTS__INTERVAL=1s\n",
        "OTEL_EXPORTER_OTLP_ENDPOINT=http://x:4318\n",
        "OTEL_RESOURCE_ATTRIBUTES=a=%zz\n",
        "\"",
        "\n",
        "'''",
        "{",
        "]",
        "é = [",
    ];

    fn inputs() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            5 => proptest::sample::select(PIECES).prop_map(|piece| piece.as_bytes().to_vec()),
            1 => vec(any::<u8>(), 0..9),
        ];
        (any::<u8>(), vec(piece, 0..7)).prop_map(|(choice, pieces)| [vec![choice], pieces.concat()].concat())
    }

    #[test]
    fn what_was_found_by_fuzzing_holds() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/configuration");
        let files: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(files.len() > 3, "{} is nearly empty", directory.display());
        for path in files {
            configuration(&fs::read(path).unwrap());
        }
    }

    #[test]
    #[should_panic(expected = "a secret is shown")]
    fn a_secret_that_is_shown_is_seen() {
        shows_no_secret(&format!("targets[0].url: {USER} is no host"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn any_text_is_a_plan_or_problems_and_shows_no_secret(input in inputs()) {
            configuration(&input);
        }
    }
}
