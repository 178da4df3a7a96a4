//! The alert rules, by Prometheus's own tool: that they parse, and that each fires when it should and else does not; and the file
//! of Alertmanager, by its own.
//!
//! The cases are in `deploy/prometheus/tests/`. That the rules' series exist in earnest is shown by `dashboard.rs`, and what is
//! notified by `notifications.rs`.

use std::{collections::BTreeMap, path::PathBuf, process::Command};

use crate::support::backends::installed;

const RULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/prometheus");

/// The YAML files in a directory beside `prometheus.yml`.
fn files(directory: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        std::fs::read_dir(format!("{RULES}/{directory}")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "there is nothing in {directory}");
    files
}

fn promtool(command: &[&str], files: &[PathBuf]) {
    succeeds("promtool", command, files);
}

fn succeeds(tool: &str, command: &[&str], files: &[PathBuf]) {
    let output = Command::new(installed(tool)).args(command).args(files).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.contains("SUCCESS"), "{command:?} says:\n{said}");
}

#[test]
fn promtool_approves_of_the_rules_and_finds_none_twice() {
    promtool(&["check", "rules", "--lint=all", "--lint-fatal"], &files("rules"));
    promtool(&["check", "rules", "--lint=all", "--lint-fatal"], &files("rules-exponential"));
    promtool(&["check", "config"], &[PathBuf::from(format!("{RULES}/prometheus.yml"))]);
}

#[test]
fn amtool_approves_of_the_file_of_alertmanager_with_and_without_teams() {
    let shipped = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/alertmanager/alertmanager.yml"));
    let text = std::fs::read_to_string(&shipped).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let with_teams = directory.path().join("alertmanager.yml");
    let lines: Vec<_> = text.lines().map(|line| line.strip_prefix("#~").unwrap_or(line)).collect();
    assert_ne!(lines, text.lines().collect::<Vec<_>>());
    std::fs::write(&with_teams, lines.join("\n")).unwrap();
    succeeds("amtool", &["check-config"], &[shipped, with_teams]);
}

#[test]
fn the_alerts_fire_in_their_cases_and_in_no_other() {
    promtool(&["test", "rules"], &files("tests"));
}

#[test]
fn every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() {
    let text = |path: &PathBuf| std::fs::read_to_string(path).unwrap();
    // How many cases of either kind: that fire, that do not.
    let mut cases: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    for rules in files("rules") {
        for line in text(&rules).lines() {
            if let Some(alert) = line.trim().strip_prefix("- alert: ") {
                cases.insert(alert.to_owned(), [0, 0]);
            }
        }
    }
    assert!(cases.len() > 10, "{cases:?}");
    for file in files("tests") {
        let mut of = None;
        for line in text(&file).lines().map(str::trim) {
            if let Some(alert) = line.strip_prefix("alertname: ") {
                assert_eq!(of.replace(alert.to_owned()), None, "{alert} comes before the one above it has an outcome");
            } else if let Some(expected) = line.strip_prefix("exp_alerts:") {
                let alert = of.take().expect("an outcome of no alert");
                let counts = cases.get_mut(&alert).unwrap_or_else(|| panic!("{alert} is a case and no rule"));
                counts[usize::from(expected.trim() == "[]")] += 1;
            }
        }
    }
    for (alert, [fires, does_not]) in cases {
        assert!(fires > 0 && does_not > 0, "{alert} fires in {fires} cases and does not in {does_not}");
    }
}
