//! `docs/examples`: traces of real runs. Each is whole, linked, and names no user, no path and no other host.

use std::{collections::BTreeSet, net::Ipv4Addr};

use imaptrace_record::{Cause, Run};
use serde_json::Value;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The examples, each with its cause.
const EXAMPLES: [(&str, Cause); 2] = [("held-lock", Cause::Lock), ("slow-disk", Cause::Disk)];

fn read(path: &str) -> String {
    std::fs::read_to_string(format!("{ROOT}/{path}")).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn each_example_is_one_run_as_record_text_and_trace() {
    for (name, cause) in EXAMPLES {
        let run: Run = serde_json::from_str(&read(&format!("docs/examples/{name}.jsonl"))).unwrap();
        assert_eq!(run.verdict.as_ref().unwrap().cause, cause, "{name}");
        let id = run.trace_id.to_string();
        assert!(read(&format!("docs/examples/{name}.txt")).contains(&id), "{name}.txt is of another run");
        let trace: Value = serde_json::from_str(&read(&format!("docs/examples/{name}.json"))).unwrap();
        let spans = trace["spans"].as_array().unwrap();
        assert_eq!((trace["traceID"].as_str(), spans.len()), (Some(&*id), run.exported_spans()), "{name}");
        let processes = trace["processes"].as_object().unwrap().values();
        let services: BTreeSet<_> = processes.map(|process| process["serviceName"].as_str().unwrap()).collect();
        assert_eq!(services.len(), 2, "{name}: {services:?}");
    }
    let files = std::fs::read_dir(format!("{ROOT}/docs/examples")).unwrap();
    assert_eq!(files.count(), 3 * EXAMPLES.len(), "a file in docs/examples belongs to no example");
}

#[test]
fn no_example_names_a_user_a_path_or_another_host() {
    for (name, _) in EXAMPLES {
        for ending in ["jsonl", "txt", "json"] {
            let (text, file) = (read(&format!("docs/examples/{name}.{ending}")), format!("{name}.{ending}"));
            for bad in ["user1", "pass1", "secret", "/tmp", "/root", "/home", "Maildir"] {
                assert!(!text.contains(bad), "{file} has {bad}");
            }
            let words = text.split(|c: char| !(c.is_ascii_digit() || c == '.'));
            let others: Vec<_> = words
                .filter_map(|word| word.trim_matches('.').parse::<Ipv4Addr>().ok())
                .filter(|address| !address.is_loopback())
                .collect();
            assert!(others.is_empty(), "{file} has {others:?}");
        }
    }
}

#[test]
fn the_examples_are_linked() {
    for page in ["docs/diagnosis.md", "docs/server-events.md"] {
        let text = read(page);
        for (name, _) in EXAMPLES {
            for ending in ["txt", "json"] {
                assert!(text.contains(&format!("(examples/{name}.{ending})")), "{page} does not link {name}.{ending}");
            }
        }
    }
}
