//! Every name of telemetry that a page, a rule, a dashboard or a configuration gives, against the code that makes it.

use std::{collections::BTreeSet, path::PathBuf};

use imaptrace::telemetry::names;
use imaptrace_record::ServerEventName;

use crate::prometheus_names::prometheus_names;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// What begins like a name of ours and is none: a setting of Dovecot's, other people's exporters.
const OTHERS: [&str; 4] = ["imap_id_log", "imap_exporter", "imap_up", "imap_first_loading_latency_seconds"];
/// What the span metrics of otel-collector.yaml are called.
const SPAN_METRICS: [&str; 4] = [
    "traces_span_metrics_calls_total",
    "traces_span_metrics_duration_seconds_bucket",
    "traces_span_metrics_duration_seconds_count",
    "traces_span_metrics_duration_seconds_sum",
];
/// Files that are named like a dotted name.
const FILES: [&str; 8] = [".toml", ".json", ".yaml", ".yml", ".service", ".deb", ".rpm", ".conf"];
/// Ends of host names.
const HOSTS: [&str; 5] = [".org", ".com", ".net", ".test", ".invalid"];

/// The text of all pages and of all that is deployed, with the path of each.
fn texts() -> Vec<(String, String)> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(ROOT)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| ["md", "yml", "yaml", "toml"].iter().any(|one| end == *one)))
        .collect();
    paths.extend(["docs", "deploy"].map(|directory| PathBuf::from(ROOT).join(directory)));
    let mut texts = Vec::new();
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            paths.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if let Ok(text) = std::fs::read_to_string(&path) {
            texts.push((path.display().to_string(), text));
        }
    }
    assert!(texts.len() > 40, "{}", texts.len());
    texts
}

/// Words of these characters that begin in one of these ways, each with whether a `*` comes behind it, or a regular
/// expression's `.*`.
fn words<'a>(text: &'a str, more: &[char], begin: &[&str]) -> Vec<(&'a str, bool)> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || more.contains(&c);
    let mut words = Vec::new();
    let mut rest = text.trim_start_matches(|c| !is_word(c));
    while !rest.is_empty() {
        let (word, behind) = rest.split_at(rest.find(|c| !is_word(c)).unwrap_or(rest.len()));
        if begin.iter().any(|begin| word.starts_with(begin)) {
            words.push((word, behind.trim_start_matches('.').starts_with('*')));
        }
        rest = behind.trim_start_matches(|c| !is_word(c));
    }
    words
}

#[test]
fn every_dotted_name_is_made() {
    let mut known: BTreeSet<&str> = [names::ATTRIBUTES, names::EVENTS, names::RESOURCE].concat().into_iter().collect();
    known.extend(names::METRICS.iter().map(|metric| metric.name));
    let mut found = BTreeSet::new();
    for (path, text) in texts() {
        for (word, open) in words(&text, &['_', '.', '-', '@', '/'], &["imap.", "imaptrace."]) {
            let word = word.trim_end_matches(['.', '/', '-']);
            let is_other = FILES.iter().chain(&HOSTS).any(|end| word.ends_with(end)) || word.contains(['/', '@', '-']);
            if is_other || !word.contains('.') {
                continue;
            }
            let label = word.starts_with(names::LABEL_PREFIX) || format!("{word}.") == names::LABEL_PREFIX;
            let group = open && known.iter().any(|name| name.starts_with(word));
            assert!(label || group || known.contains(word), "{path} names {word}, which nothing makes");
            found.insert(word.to_owned());
        }
    }
    assert!(found.len() > 60, "{found:?}");
}

#[test]
fn every_name_of_prometheus_is_made() {
    let mut known: BTreeSet<String> = names::ATTRIBUTES.iter().map(|name| name.replace('.', "_")).collect();
    known.extend(names::METRICS.iter().flat_map(prometheus_names));
    known.extend(SPAN_METRICS.map(ToOwned::to_owned));
    known.extend(OTHERS.map(ToOwned::to_owned));
    // Dovecot's, in the record.
    known.extend(ServerEventName::ALL.iter().map(|name| name.as_str().to_owned()));
    for file in ["recording", "state"] {
        let rules = std::fs::read_to_string(format!("{ROOT}/deploy/prometheus/rules/{file}.yml")).unwrap();
        known.extend(rules.lines().filter_map(|line| line.trim().strip_prefix("- record: ").map(ToOwned::to_owned)));
    }
    let mut found = BTreeSet::new();
    for (path, text) in texts() {
        for (word, open) in words(&text, &['_', ':'], &["imap_", "imaptrace_", "traces_span"]) {
            let word = word.trim_end_matches(':');
            let group = open && known.iter().any(|name| name.starts_with(word));
            let label = word.starts_with(&names::LABEL_PREFIX.replace('.', "_"));
            assert!(label || group || known.contains(word), "{path} names {word}, which nothing makes");
            found.insert(word.to_owned());
        }
    }
    assert!(found.len() > 40, "{found:?}");
}
