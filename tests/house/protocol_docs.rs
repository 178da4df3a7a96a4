//! `docs/protocol.md` against the tests that it names: no row is missing, and each is held by a test that is there or says
//! why it does not apply. And the tests that `docs/testing.md` names for what hosts and networks do.

use std::{
    fs,
    path::{Path, PathBuf},
};

use imaptrace_record::ErrorType;

const PAGE: &str = include_str!("../../docs/protocol.md");
/// Requirements, counted from 1.
const ROWS: usize = 42;

/// Number and last cell of each row.
fn rows() -> Vec<(usize, &'static str)> {
    let rows = PAGE.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    rows.filter_map(|row| {
        let (number, rest) = row.split_once(" | ")?;
        Some((number.parse().ok()?, rest.rsplit(" | ").next()?))
    })
    .collect()
}

/// Whether a test of this path is in the tree: `hermetic::file::name`, or a module's `imap::file::tests::name`.
fn exists(path: &str) -> bool {
    let mut parts: Vec<&str> = path.split("::").collect();
    let Some(name) = parts.pop() else { return false };
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let outside = matches!(parts.first(), Some(&("hermetic" | "faults" | "real" | "house")));
    let directory = match parts.first() {
        Some(&package @ ("imap" | "record")) => {
            parts.remove(0);
            root.join("crates").join(package).join("src")
        }
        _ => root.join(if outside { "tests" } else { "src" }),
    };
    // Modules inside a file have no file of their own, and tests may have one.
    (1..=parts.len()).any(|depth| {
        let stem = directory.join(parts[..depth].join("/"));
        [stem.with_extension("rs"), stem.join("mod.rs")]
            .iter()
            .any(|file| fs::read_to_string(file).is_ok_and(|text| holds(&text, name)))
    })
}

/// What stands before a scenario's name, or before the beginning of some names and a `*`.
const SCENARIOS: &str = "scenarios/";

/// Whether there is such a scenario.
fn is_played(name: &str) -> bool {
    let Some(name) = name.strip_prefix(SCENARIOS) else { return false };
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    match name.strip_suffix('*') {
        None => directory.join(format!("{name}.toml")).is_file(),
        Some(start) => fs::read_dir(directory)
            .unwrap()
            .any(|file| file.unwrap().file_name().to_str().is_some_and(|file| file.starts_with(start))),
    }
}

/// Whether a text has a test of this name.
fn holds(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_it = |line: &str| {
        let line = line.strip_prefix("async ").unwrap_or(line);
        line.strip_prefix("fn ").and_then(|rest| rest.split('(').next()) == Some(name)
    };
    lines.iter().enumerate().filter(|(_, line)| is_it(line)).any(|(at, _)| {
        let above = lines[..at].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("///"));
        above.into_iter().any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
    })
}

#[test]
fn every_requirement_has_a_row_and_its_tests_are_there() {
    let rows = rows();
    let numbers: Vec<usize> = rows.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (1..=ROWS).collect::<Vec<_>>());
    for (number, held) in rows {
        let tests: Vec<&str> = held
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|name| name.contains("::") || name.starts_with(SCENARIOS))
            .collect();
        let reason = held.strip_prefix("does not apply: ").unwrap_or_default();
        assert!(!tests.is_empty() || reason.len() > 20, "row {number} names no test and gives no reason");
        assert!(tests.is_empty() || reason.is_empty(), "row {number} does not apply and has a test");
        for test in tests {
            assert!(exists(test) || is_played(test), "row {number}: there is no test {test}");
        }
    }
}

#[test]
fn a_test_that_is_not_there_is_seen() {
    assert!(exists("house::protocol_docs::a_test_that_is_not_there_is_seen"));
    assert!(exists("imap::session::tests::only_our_whole_tag_ends_a_command"), "in a file of tests");
    assert!(exists("imap::framer::tests::any_split_gives_the_same_responses"), "a property");
    for missing in ["house::protocol_docs::rows", "house::protocol_docs::no_such_test", "imap::nowhere::tests::x", ""] {
        assert!(!exists(missing), "{missing}");
    }
    assert!(is_played("scenarios/36-*") && is_played("scenarios/16-greeting-bye"));
    for missing in ["scenarios/99-*", "scenarios/16-greeting", "16-greeting-bye"] {
        assert!(!is_played(missing), "{missing}");
    }
}

/// Folders of tests whose names stand in the table.
const BINARIES: [&str; 3] = ["hermetic/", "faults/", "real/"];

/// The tests that a line of `docs/testing.md` names: `hermetic/file.rs` and then its tests, or a module's path.
fn named(line: &str) -> Vec<String> {
    let mut file = String::new();
    let mut tests = Vec::new();
    for word in line.split('`').skip(1).step_by(2) {
        let is_name = word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        let stem = word.strip_suffix(".rs");
        if let Some(stem) = stem.filter(|stem| BINARIES.iter().any(|binary| stem.starts_with(binary))) {
            file = stem.replace('/', "::");
        } else if word.contains("::tests::") {
            tests.push(word.to_owned());
        } else if is_name && word.contains('_') && word.parse::<ErrorType>().is_err() {
            tests.push(format!("{file}::{word}"));
        }
    }
    tests
}

#[test]
fn every_test_that_the_table_of_hosts_names_and_ways_has_is_there() {
    let page = include_str!("../../docs/testing.md");
    let title = "## Rows about the host, the names and the way";
    let section = page.lines().skip_while(|line| *line != title).skip(1).take_while(|line| !line.starts_with("## "));
    let tests: Vec<String> = section.filter(|line| line.starts_with("| ")).flat_map(named).collect();
    assert!(tests.len() >= 40, "{tests:#?}");
    for test in tests {
        assert!(exists(&test), "there is no test {test}");
    }
}
