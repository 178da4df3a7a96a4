//! `docs/record.md` against the record: each type's fields, in the order of the code, and which of them are never absent.

use imaptrace::telemetry::names;

const SOURCE: &str = concat!(
    include_str!("../../crates/record/src/run.rs"),
    include_str!("../../crates/record/src/step.rs"),
    include_str!("../../crates/record/src/server_events.rs"),
    include_str!("../../crates/record/src/server_wait.rs"),
    include_str!("../../crates/record/src/verdict.rs"),
);
const PAGE: &str = include_str!("../../docs/record.md");

/// The type, and the title of its table.
const TABLES: &[(&str, &str)] = &[
    ("Run", "## Run"),
    ("UsualFacts", "### Usual"),
    ("Server", "## Server"),
    ("Step", "## Step"),
    ("ResolveFacts", "### DNS"),
    ("ConnectAttempt", "### Attempt"),
    ("TlsFacts", "### TLS"),
    ("ChainCertificate", "### Chain"),
    ("StepEvent", "### Event"),
    ("ServerWait", "### Wait"),
    ("Note", "### Note"),
    ("ServerEvents", "## Server events"),
    ("ServerHost", "### Host"),
    ("ServerEvent", "### Server event"),
    ("ServerProcess", "### Process"),
    ("Verdict", "## Verdict"),
];

/// The fields of a type as in the code, each with whether it is always there.
fn fields(of: &str) -> Vec<(String, bool)> {
    let head = format!("pub struct {of} {{");
    let body = SOURCE.lines().skip_while(|line| *line != head).skip(1).take_while(|line| *line != "}");
    let (mut always, mut renamed) = (true, None);
    let mut fields = Vec::new();
    for line in body.map(str::trim) {
        always &= !line.contains("skip_serializing_if");
        let rename = line.split_once("rename = \"").and_then(|(_, rest)| rest.split_once('"'));
        renamed = rename.map(|(name, _)| name).or(renamed);
        if let Some((name, _)) = line.strip_prefix("pub ").and_then(|line| line.split_once(':')) {
            let name = renamed.take().unwrap_or(name);
            fields.push((name.to_owned(), std::mem::replace(&mut always, true)));
        }
    }
    fields
}

/// The rows of the table under a title, cell by cell, without its head.
fn rows(title: &str) -> Vec<Vec<&'static str>> {
    let section = PAGE.lines().skip_while(|line| *line != title).skip(1).take_while(|line| !line.starts_with('#'));
    let rows = section.filter(|line| line.starts_with("| "));
    rows.skip(1).map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

#[test]
fn every_field_is_listed_in_its_place_and_nothing_else_is() {
    for (name, title) in TABLES {
        let documented = rows(title);
        let documented =
            documented.iter().map(|row| (row[0].trim_matches('`').to_owned(), row[1].starts_with("always")));
        let known = fields(name);
        assert!(!known.is_empty(), "no struct {name} was found");
        assert_eq!(documented.collect::<Vec<_>>(), known, "{name} in docs/record.md");
    }
}

#[test]
fn every_type_of_the_record_that_has_fields_has_a_table() {
    // ConnectFacts is a single list, documented in its step's row.
    let documented = TABLES.iter().map(|(name, _)| *name).chain(["ConnectFacts"]);
    let known = SOURCE.lines().filter_map(|line| line.strip_prefix("pub struct ")?.strip_suffix(" {"));
    assert_eq!(sorted(documented), sorted(known));
}

#[test]
fn the_third_column_names_attributes_that_exist() {
    let prefix = format!("{}*", names::LABEL_PREFIX);
    for cell in TABLES.iter().flat_map(|(_, title)| rows(title)).map(|row| row[2]) {
        for name in cell.split('`').skip(1).step_by(2).filter(|name| name.contains('.') && !name.ends_with('.')) {
            let known = names::ATTRIBUTES.contains(&name) || names::EVENTS.contains(&name) || name == prefix;
            assert!(known, "{name} is in docs/record.md and in no code");
        }
    }
}

fn sorted<'a>(all: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut all: Vec<_> = all.collect();
    all.sort_unstable();
    all
}
