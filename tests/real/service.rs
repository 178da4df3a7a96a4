//! The agent as a service: its unit, asked of systemd's own tools (none has to run), and the lines by which it is asked.

use std::{path::PathBuf, process::Command, sync::Arc};

use imaptrace::status::{ConfigStatus, Facts, HistoryDepth, Identity, RunHistory, StatusServer};
use imaptrace_record::{Run, Seconds, Timestamp};

const UNIT: &str = include_str!("../../deploy/systemd/imaptrace.service");
const PAGE: &str = include_str!("../../docs/operations.md");

/// What systemd says of how much the service could reach: 0.0 is nothing, 10.0 everything.
const EXPOSURE: f64 = 1.1;

/// A unit as a file of its own, its program the one that was built for this test.
fn unit(text: &str) -> (tempfile::TempDir, PathBuf) {
    let program = "ExecStart=/usr/bin/imaptrace ";
    assert!(text.contains(program), "{text}");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("imaptrace.service");
    let built = format!("ExecStart={} ", env!("CARGO_BIN_EXE_imaptrace"));
    std::fs::write(&path, text.replace(program, &built)).unwrap();
    (directory, path)
}

/// What systemd-analyze says, and whether it approves.
fn analyze(arguments: &[&str], unit: &PathBuf) -> (String, bool) {
    let output =
        Command::new("systemd-analyze").args(arguments).arg(unit).output().unwrap_or_else(|error| {
            panic!("systemd-analyze cannot be run ({error}): scripts/need.sh test installs it")
        });
    let said = [output.stdout, output.stderr].concat();
    (String::from_utf8_lossy(&said).into_owned(), output.status.success())
}

#[test]
fn systemd_approves_of_the_unit_and_has_nothing_to_remark() {
    let (_folder, path) = unit(UNIT);
    let (said, approves) = analyze(&["verify", "--man=no"], &path);
    assert!(approves && !said.contains("imaptrace.service"), "{said}");
}

#[test]
fn systemd_remarks_on_a_unit_with_a_key_that_does_not_exist() {
    let (_folder, path) = unit(&UNIT.replace("UMask=", "Umask="));
    let (said, _) = analyze(&["verify", "--man=no"], &path);
    assert!(said.contains("imaptrace.service"), "it would find nothing wrong either: {said}");
}

#[test]
fn systemd_approves_of_the_unit_with_every_example_in_it_switched_on() {
    // A `#` with no space behind it.
    let on = |line: &str| line.strip_prefix('#').filter(|rest| !rest.starts_with([' ', '#'])).map(str::to_owned);
    let examples = UNIT.lines().filter_map(on).filter(|line| line.contains('=')).count();
    assert!(examples >= 5, "{examples} examples");
    let text: String = UNIT.lines().map(|line| on(line).unwrap_or_else(|| line.to_owned()) + "\n").collect();
    let (_folder, path) = unit(&text);
    let (said, approves) = analyze(&["verify", "--man=no"], &path);
    assert!(approves && !said.contains("imaptrace.service"), "{said}");
}

#[test]
fn systemd_approves_of_the_unit_with_the_drop_in_for_mail_servers() {
    let drop_in = include_str!("../../deploy/systemd/imaptrace.service.d/server-events.conf");
    for text in [drop_in.to_owned(), drop_in.replace("\n#Supplementary", "\nSupplementary")] {
        let (folder, path) = unit(UNIT);
        let directory = folder.path().join("imaptrace.service.d");
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(directory.join("server-events.conf"), text).unwrap();
        let (said, approves) = analyze(&["verify", "--man=no"], &path);
        assert!(approves && !said.contains("imaptrace.service") && !said.contains("server-events.conf"), "{said}");
    }
    // No capability comes with it.
    assert!(!drop_in.lines().any(|line| line.contains("Capabilit") || line.starts_with("User=")), "{drop_in}");
}

#[test]
fn the_service_can_reach_no_more_than_the_page_of_operations_says() {
    let (_folder, path) = unit(UNIT);
    let (said, _) = analyze(&["security", "--offline=true", "--no-pager"], &path);
    let overall =
        said.lines().find_map(|line| line.split_once("imaptrace.service: ")).unwrap_or_else(|| panic!("{said}"));
    let exposure: f64 = overall.1.split(' ').next().unwrap().parse().unwrap();
    assert!(exposure <= EXPOSURE, "{said}");
    assert!(PAGE.contains(&format!("**{EXPOSURE}**")), "docs/operations.md tells another figure");
    let threshold = format!("--threshold={:.0}", EXPOSURE * 10.0);
    assert!(PAGE.contains(&threshold), "docs/operations.md does not say {threshold}");
    assert!(analyze(&["security", "--offline=true", "--no-pager", &threshold], &path).1, "{said}");
    let without = UNIT.replace("CapabilityBoundingSet=\n", "").replace("DynamicUser=yes\n", "");
    let (_folder, path) = unit(&without);
    assert!(!analyze(&["security", "--offline=true", "--no-pager", &threshold], &path).1, "it approves of anything");
}

#[test]
fn the_lines_of_the_page_of_operations_get_what_they_are_for() {
    let history = RunHistory::new(HistoryDepth { runs: 1, failed_runs: 1 });
    history.plan([("mail01".into(), vec!["default".into()])]);
    let mut run: Run = serde_json::from_str(imaptrace_testkit::FAILED_RUN).unwrap();
    (run.target, run.account) = ("mail01".into(), "default".into());
    for _ in 0..2 {
        history.record(&run);
    }
    let at = Timestamp::from_epoch_seconds(1_795_434_000).unwrap();
    let identity = Identity { version: "0", instance: None, started_at: at };
    let server = StatusServer::start(([127, 0, 0, 1], 0).into(), Arc::new(history), identity, move || Facts {
        at,
        uptime: Seconds::ZERO,
        not_live: Vec::new(),
        not_ready: Vec::new(),
        warnings: Vec::new(),
        in_flight: 0,
        config: ConfigStatus { file: None, loaded_at: at, last_reload: None },
        delivery: None,
        server_events: None,
    })
    .unwrap();
    let lines = PAGE.lines().filter(|line| line.starts_with("    curl "));
    let said: Vec<String> = lines
        .map(|line| {
            let line = line.replace("localhost:8143", &server.address().to_string());
            let output = Command::new("sh").args(["-c", &line]).output().unwrap();
            assert!(output.status.success() && output.stderr.is_empty(), "{line}: {output:?}");
            String::from_utf8(output.stdout).unwrap()
        })
        .collect();
    let [failing, kept] = &said[..] else { panic!("{said:?}") };
    assert_eq!(failing, "mail01\tdefault\t2026-11-23T11:43:00Z\tauth_failed\n");
    assert!(kept.contains("\"failed_step\": \"LOGIN\""), "{kept}");
}
