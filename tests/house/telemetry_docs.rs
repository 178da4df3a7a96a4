//! `docs/telemetry.md` against the code: what one names, the other has.

use std::collections::BTreeSet;

use imaptrace::telemetry::names;
use imaptrace_record::{Blame, ErrorType, SetupStep, TlsFault};

use crate::prometheus_names::prometheus_names;

/// The rows of the table in the section with this title, cell by cell, without its head.
fn rows(title: &str) -> Vec<Vec<String>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/telemetry.md");
    let text = std::fs::read_to_string(path).unwrap();
    let head = format!("## {title}");
    let section = text.lines().skip_while(|line| **line != head).skip(1).take_while(|line| !line.starts_with("## "));
    let rows: Vec<Vec<String>> = section
        .filter(|line| line.starts_with("| "))
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect())
        .collect();
    assert!(rows.len() > 1, "docs/telemetry.md has no table under {head:?}");
    rows.into_iter().skip(1).collect()
}

/// What stands in backticks in a cell.
fn codes(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(ToOwned::to_owned).collect()
}

/// The names that the first column gives.
fn listed(title: &str) -> BTreeSet<String> {
    rows(title).iter().flat_map(|row| codes(&row[0])).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn attributes_events_and_resource_are_listed_and_nothing_else_is() {
    let mut attributes = set(names::ATTRIBUTES);
    attributes.insert(format!("{}*", names::LABEL_PREFIX));
    assert_eq!(listed("Attributes"), attributes);
    assert_eq!(listed("Events"), set(names::EVENTS));
    assert_eq!(listed("Resource"), set(names::RESOURCE));
}

#[test]
fn spans_are_listed_and_nothing_else_is() {
    let root = format!("{} {{journey}}", names::ROOT_SPAN);
    let mut spans = set(&[&root, "{COMMAND}", "{COMMAND} {mailbox}", names::WAIT_SPAN]);
    spans.extend(set(&[
        names::AUTH_CLIENT_SPAN,
        names::AUTH_SPAN,
        names::PASSDB_SPAN,
        names::USERDB_SPAN,
        names::SESSION_SPAN,
    ]));
    spans.extend(SetupStep::ALL.iter().map(|step| step.as_str().to_owned()));
    assert_eq!(listed("Spans"), spans);
}

#[test]
fn every_metric_is_listed_with_its_kind_unit_and_prometheus_name() {
    let documented: BTreeSet<_> = rows("Metrics").iter().map(|row| row[..4].to_vec()).collect();
    let known = names::METRICS.iter().map(|metric| {
        let unit = if metric.unit.is_empty() { "none" } else { metric.unit };
        let cells = [
            &format!("`{}`", metric.name),
            &format!("{:?}", metric.kind),
            unit,
            &format!("`{}`", prometheus_names(metric)[0]),
        ];
        cells.map(ToOwned::to_owned).to_vec()
    });
    assert_eq!(documented, known.collect());
}

#[test]
fn every_dotted_name_in_a_table_is_one_of_ours() {
    let mut known = set(names::ATTRIBUTES);
    known.extend(set(names::EVENTS));
    known.extend(set(names::RESOURCE));
    known.extend(names::METRICS.iter().map(|metric| metric.name.to_owned()));
    known.insert(format!("{}*", names::LABEL_PREFIX));
    for title in ["Spans", "Attributes", "Events", "Resource", "Metrics", "error.type"] {
        for name in rows(title).iter().flatten().flat_map(|cell| codes(cell)).filter(|code| code.contains('.')) {
            assert!(known.contains(&name), "{name} stands under {title:?} and in no code");
        }
    }
}

#[test]
fn every_error_type_is_listed_with_its_blame() {
    let documented: Vec<_> = rows("error.type").iter().map(|row| row[..2].to_vec()).collect();
    let known = ErrorType::ALL.iter().map(|class| {
        let blame = match class.blame() {
            Blame::Network => "network",
            Blame::Server => "server",
            Blame::Credentials => "credentials",
            Blame::Configuration => "configuration",
            Blame::Agent => "agent",
        };
        vec![format!("`{class}`"), blame.to_owned()]
    });
    assert_eq!(documented, known.collect::<Vec<_>>());
}

#[test]
fn every_tls_fault_is_listed_in_the_order_of_the_code() {
    let documented: Vec<_> = rows("imaptrace.tls.fault").iter().flat_map(|row| codes(&row[0])).collect();
    let known: Vec<_> = TlsFault::ALL.iter().map(|fault| fault.as_str()).collect();
    assert_eq!(documented, known);
    let classes = rows("imaptrace.tls.fault").iter().flat_map(|row| codes(&row[1])).collect::<Vec<_>>();
    assert!(classes.iter().all(|class| class.parse::<ErrorType>().is_ok()), "{classes:?}");
}

#[test]
fn the_bucket_bounds_are_the_documented_ones() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/telemetry.md")).unwrap();
    let (last, others) = names::BUCKETS.split_last().unwrap();
    let others: Vec<_> = others.iter().map(ToString::to_string).collect();
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(flat.contains(&format!("{} and {last} seconds", others.join(", "))));
}

#[test]
fn names_stand_in_one_file_and_nowhere_else() {
    let mut all: Vec<&str> = [names::ATTRIBUTES, names::EVENTS, names::RESOURCE].concat();
    all.extend(names::METRICS.iter().map(|metric| metric.name));
    let mut directories = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
    let mut looked_at = 0;
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                // What a person writes into OTEL_RESOURCE_ATTRIBUTES is input there, and config may not look downstream.
                if !path.ends_with("src/config") {
                    directories.push(path);
                }
                continue;
            }
            if path.ends_with("tests.rs") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap();
            if path.ends_with("telemetry/names.rs") {
                assert!(all.iter().all(|name| code.contains(&format!("\"{name}\""))));
                looked_at += 1;
            } else if let Some(name) = all.iter().find(|name| code.contains(&format!("\"{name}\""))) {
                panic!("{} spells out {name}: use telemetry::names", path.display());
            }
        }
    }
    assert_eq!(looked_at, 1);
}
