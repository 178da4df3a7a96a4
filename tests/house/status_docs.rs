//! `docs/operations.md` against the answer of `/status.json`: each type's fields, in the order of the code, and which of
//! them are never absent.

const SOURCE: &str = concat!(
    include_str!("../../src/status/page.rs"),
    include_str!("../../src/status/facts.rs"),
    include_str!("../../src/status/lag.rs"),
    include_str!("../../src/status/run_history.rs"),
    include_str!("../../src/delivery/report.rs")
);
const PAGE: &str = include_str!("../../docs/operations.md");

/// The type, and the title of its table.
const TABLES: &[(&str, &str)] = &[
    ("StatusHead", "### The answer"),
    ("ConfigStatus", "### Config"),
    ("LastReload", "### Reload"),
    ("ScheduleStatus", "### Schedule"),
    ("StartLag", "### Start lag"),
    ("Status", "### Delivery"),
    ("SenderEntry", "### Sender"),
    ("StateCounts", "### States"),
    ("AccountEntry", "### Account"),
    ("LastRun", "### Run"),
];

/// The line without its visibility.
fn private(line: &str) -> &str {
    line.strip_prefix("pub(super) ").or_else(|| line.strip_prefix("pub ")).unwrap_or(line)
}

/// The fields of a type as in the code, each with whether it is always there.
fn fields(of: &str) -> Vec<(String, bool)> {
    let head = format!("struct {of}");
    let starts = |line: &&str| {
        let rest = private(line).strip_prefix(&head);
        rest.is_some_and(|rest| rest == " {" || rest == "<'a> {")
    };
    let body = SOURCE.lines().skip_while(|line| !starts(line)).skip(1).take_while(|line| *line != "}");
    let mut always = true;
    let mut fields = Vec::new();
    for line in body.map(str::trim).filter(|line| !line.starts_with("//")) {
        always &= !line.contains("skip_serializing_if");
        if let Some((name, _)) = private(line).split_once(": ").filter(|_| !line.starts_with('#')) {
            fields.push((name.to_owned(), std::mem::replace(&mut always, true)));
        }
    }
    fields
}

/// The rows of the table under a title, without its head: the field, and whether it is documented as always there.
fn rows(title: &str) -> Vec<(String, bool)> {
    let section = PAGE.lines().skip_while(|line| *line != title).skip(1).take_while(|line| !line.starts_with('#'));
    let cells = section.filter(|line| line.starts_with("| ")).skip(1);
    let cells = cells.map(|line| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>());
    cells.map(|row| (row[0].trim_matches('`').to_owned(), row[1].starts_with("always"))).collect()
}

#[test]
fn every_field_is_listed_in_its_place_and_nothing_else_is() {
    for (name, title) in TABLES {
        let mut known = fields(name);
        assert!(!known.is_empty(), "no struct {name} was found");
        if *name == "StatusHead" {
            // It is written behind the others, piece by piece.
            assert!(SOURCE.contains(r#"b",\"accounts\":[""#));
            known.push(("accounts".to_owned(), true));
        }
        assert_eq!(rows(title), known, "{name} in docs/operations.md");
    }
}

#[test]
fn every_type_of_the_answer_has_a_table() {
    let mut known: Vec<&str> = SOURCE
        .split("derive(")
        .filter(|item| item.split_once(')').is_some_and(|(derived, _)| derived.contains("Serialize")))
        .filter_map(|item| item.split_once("struct ")?.1.split([' ', '<']).next())
        .collect();
    let mut documented: Vec<&str> = TABLES.iter().map(|(name, _)| *name).collect();
    known.sort_unstable();
    documented.sort_unstable();
    assert_eq!(documented, known);
}

#[test]
fn every_path_and_no_other_has_a_row() {
    let server = include_str!("../../src/status/request.rs");
    for path in ["/live", "/ready", "/status.json", "/"] {
        assert!(PAGE.contains(&format!("| `{path}` | 200")), "{path}");
        assert!(server.contains(&format!("\"{path}\" => ")), "{path}");
    }
    assert_eq!(PAGE.matches("\n| `/").count(), 4);
}
