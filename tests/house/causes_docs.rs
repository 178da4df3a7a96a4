//! Each cause of slowness has a page, and each such page a cause.

use std::collections::BTreeSet;

use imaptrace_record::Cause;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The parts of each page, in this order.
const PARTS: [&str; 4] = ["## What leads to it", "## Look first", "## What mends it", "## What looks alike"];

fn read(path: &str) -> String {
    std::fs::read_to_string(format!("{ROOT}/{path}")).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn page(cause: Cause) -> String {
    format!("cause-{}.md", cause.as_str())
}

#[test]
fn every_cause_has_its_page_and_every_page_its_cause() {
    let files = std::fs::read_dir(format!("{ROOT}/docs/runbooks")).unwrap();
    let pages: BTreeSet<String> = files
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with("Imaptrace"))
        .collect();
    assert_eq!(pages, Cause::ALL.iter().map(|cause| page(*cause)).collect());
}

#[test]
fn a_page_of_a_cause_has_all_parts_and_leads_to_pages_that_are_there() {
    for cause in Cause::ALL {
        let (page, word) = (page(*cause), cause.as_str());
        let text = read(&format!("docs/runbooks/{page}"));
        assert!(text.starts_with(&format!("# {word}\n")), "{page}");
        let parts: Vec<_> = text.lines().filter(|line| line.starts_with("## ")).collect();
        assert_eq!(parts, PARTS, "{page}");
        assert!(text.contains("Dovecot host"), "{page} says nothing about a Dovecot host");
        assert!(text.lines().count() < 60, "{page} is too long for three in the morning");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            let there = std::path::Path::new(&format!("{ROOT}/docs/runbooks/{link}")).is_file();
            assert!(there, "{page} leads to {link}, which is not there");
        }
    }
}

#[test]
fn the_diagnosis_leads_to_the_page_of_each_cause() {
    let text = read("docs/diagnosis.md");
    for cause in Cause::ALL {
        let link = format!("[`{}`](runbooks/{})", cause.as_str(), page(*cause));
        assert_eq!(text.matches(&link).count(), 1, "{link} in docs/diagnosis.md");
    }
}
