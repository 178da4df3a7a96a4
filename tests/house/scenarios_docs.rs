//! The table of hostile servers in `docs/testing.md` against `tests/scenarios`: each row has its lines, each file has its
//! line, and both say the same.

use std::{collections::BTreeSet, path::Path};

use imaptrace_record::ErrorType;

#[path = "../support/scenario/file.rs"]
#[allow(dead_code, unreachable_pub, missing_docs, reason = "the tests that play them use the rest")]
mod file;

use file::Scenario;

const PAGE: &str = include_str!("../../docs/testing.md");
const HEAD: &str = "| row | what the server does | scenario or test | over | outcome, error.type |";

/// The head of the other table, of rows that no script of bytes can make; its tests are held by `protocol_docs`.
const OTHER: &str = "| Row | What the server does | Scenario or test | Over | Outcome, error.type |";

/// The table's lines, cell by cell.
fn lines() -> Vec<[&'static str; 5]> {
    let table = PAGE.lines().skip_while(|line| *line != HEAD).skip(2).take_while(|line| line.starts_with("| "));
    let lines: Vec<_> = table
        .map(|line| {
            let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
            cells.try_into().unwrap_or_else(|cells| panic!("{cells:?} are not five cells"))
        })
        .collect();
    assert!(!lines.is_empty(), "docs/testing.md has no such table");
    lines
}

fn rows(cell: &str) -> impl Iterator<Item = u32> {
    cell.split(", ").map(|row| row.parse().unwrap_or_else(|_| panic!("{row:?} is no row")))
}

/// The words between backticks.
fn named(cell: &'static str) -> impl Iterator<Item = &'static str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn every_row_has_a_line() {
    let other = PAGE.lines().skip_while(|line| *line != OTHER).skip(2).take_while(|line| line.starts_with("| "));
    let other = other.filter_map(|line| line.trim_matches('|').split(" | ").next()).flat_map(|cell| rows(cell.trim()));
    let documented: BTreeSet<u32> = lines().iter().flat_map(|line| rows(line[0])).chain(other).collect();
    assert_eq!(documented, (1..=51).collect(), "the rows of docs/testing.md");
}

#[test]
fn every_scenario_has_one_line_that_says_what_its_file_says() {
    let table = lines();
    for scenario in Scenario::all() {
        let name = format!("`{}`", scenario.file);
        let mine: Vec<_> = table.iter().filter(|line| line[2] == name).collect();
        let outcome = scenario.outcome.as_str();
        let outcome = scenario.error.map_or_else(|| outcome.to_owned(), |class| format!("{outcome}, {class}"));
        let rows = scenario.rows.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        let over = scenario.over.iter().map(|over| over.as_str()).collect::<Vec<_>>().join(", ");
        let wanted = [rows.as_str(), &scenario.name, &name, &over, &outcome];
        assert_eq!(mine, [&wanted], "the line of {name} has to be\n| {} |\n", wanted.join(" | "));
    }
}

#[test]
fn every_line_names_a_scenario_or_tests_that_exist() {
    let scenarios: BTreeSet<_> = Scenario::all().into_iter().map(|scenario| scenario.file).collect();
    for [row, what, cell, _, outcome] in lines() {
        let mut found = named(cell).peekable();
        assert!(found.peek().is_some(), "row {row}, {what}: no test is named in {cell:?}");
        for name in found {
            let Some((path, test)) = name.split_once("::") else {
                assert!(scenarios.contains(name), "row {row}, {what}: there is no scenario {name}");
                continue;
            };
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
            let code =
                std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("row {row}, {what}: {path:?}: {error}"));
            assert!(code.contains(&format!("fn {test}(")), "row {row}, {what}: {path:?} has no test {test}");
        }
        for class in outcome.split([',', ';', ' ']).filter(|word| word.contains('_')) {
            let known = ErrorType::ALL.iter().any(|known| known.as_str() == class.trim_matches('`'));
            assert!(known || class.contains('.'), "row {row}, {what}: there is no error type {class}");
        }
    }
}
