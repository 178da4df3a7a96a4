//! The intervals of shipped files against each other and against the agent's: nothing is asked for faster than it changes.

use std::{path::PathBuf, time::Duration};

use imaptrace::{
    config::{self, MetricsOptions, units::parse_duration},
    telemetry::names,
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// All files that users get and that may set an interval.
fn shipped() -> Vec<(String, String)> {
    let mut paths: Vec<PathBuf> =
        ["deploy", "docs", "scripts", "README.md", "docker-compose.yml", "otel-collector.yaml", "imaptrace.toml"]
            .map(|path| PathBuf::from(ROOT).join(path))
            .into();
    let mut files = Vec::new();
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            paths.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if let Ok(text) = std::fs::read_to_string(&path) {
            files.push((path.display().to_string(), text));
        }
    }
    files
}

/// Where a key is set to a duration, and to which.
fn set<'a>(files: &'a [(String, String)], key: &str) -> Vec<(&'a str, Duration)> {
    let value = |line: &str| {
        // What can be switched on counts too.
        let line = line.strip_prefix("#+").unwrap_or(line);
        let (before, after) = line.split_once(key)?;
        let value = after.trim_start_matches('"').strip_prefix([':', '='])?.trim();
        let value = value.split([' ', ',']).next()?.trim_matches(['"', '\'']);
        before.trim().trim_start_matches(['-', '"', ' ', '{']).is_empty().then(|| parse_duration(value).unwrap())
    };
    files
        .iter()
        .flat_map(|(path, text)| text.lines().filter_map(move |line| Some((path.as_str(), value(line)?))))
        .collect()
}

#[test]
fn nothing_scrapes_faster_than_agents_export() {
    let files = shipped();
    let scrapes = set(&files, "scrape_interval");
    assert!(!scrapes.is_empty());
    // What Grafana goes by when it chooses over how long a rate is taken.
    let grafana = set(&files, "timeInterval");
    assert!(!grafana.is_empty());
    for (path, interval) in scrapes.iter().chain(&grafana) {
        assert!(*interval >= MetricsOptions::EXPORT_INTERVAL, "{path}: {interval:?}");
    }
    let longest = scrapes.iter().map(|(_, interval)| *interval).max().unwrap();
    assert!(grafana.iter().all(|(_, interval)| *interval >= longest), "{grafana:?}");
    let flushes = set(&files, "metrics_flush_interval");
    assert!(!flushes.is_empty() && flushes.iter().all(|(_, interval)| *interval >= longest), "{flushes:?}");
    for (path, interval) in set(&files, "export_interval") {
        assert!(interval <= MetricsOptions::EXPORT_INTERVAL, "{path} exports every {interval:?}");
    }
}

#[test]
fn check_counts_the_samples_of_a_histogram_by_the_buckets_that_there_are() {
    assert_eq!(config::EXPLICIT_SAMPLES, names::BUCKETS.len() as u64 + 3);
    let collector = std::fs::read_to_string(format!("{ROOT}/otel-collector.yaml")).unwrap();
    let buckets = collector.split_once("buckets: [").unwrap().1.split_once(']').unwrap().0;
    assert_eq!(config::SPAN_SAMPLES, buckets.split(',').count() as u64 + 4);
}
