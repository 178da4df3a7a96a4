//! How many notifications an incident is: the shipped rules in a real Prometheus, the shipped file in a real Alertmanager, and a
//! webhook that counts.
//!
//! The series come from a page of metrics that the test serves in place of the Collector's, since 120 real servers that fail
//! three times in a row would take minutes; those that need hours of history are written into Prometheus's store before it
//! starts. Evaluation, `for` and the waits of Alertmanager are shortened, nothing else. The way of a label from the
//! configuration to a receiver is that of a real agent through the real Collector.

use std::{
    collections::BTreeMap, fmt::Write as _, os::unix::fs::PermissionsExt as _, path::Path, process::Command,
    time::UNIX_EPOCH,
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{
    alerting::{Alertmanager, Exposition},
    backends::{Backends, copy_rules, get, installed, start_prometheus, write_targets},
    program::{Program, free_port, wait_until},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The shipped waits of Alertmanager, and those of this test.
const WAITS: [(&str, &str); 2] = [("group_wait: 2m", "group_wait: 6s"), ("group_interval: 5m", "group_interval: 1s")];

/// The name of the alert that all alerts of a notification are.
fn name(notification: &Value) -> &str {
    notification["commonLabels"]["alertname"].as_str().unwrap_or_default()
}

/// Seconds since the epoch.
fn now() -> u64 {
    imaptrace::clock::wall().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The labels of an account as an agent's series have them.
fn account(agent: &str, target: &str, account: &str, more: &str) -> String {
    format!(
        "job=\"imaptrace\",instance=\"{agent}\",imaptrace_target_name=\"{target}\",imaptrace_account_name=\"{account}\",\
         imaptrace_journey_name=\"first-load\"{more}"
    )
}

/// The gauges of an account that was probed a moment ago.
fn gauges(labels: &str, failures: u32) -> [String; 3] {
    [
        format!("imaptrace_probe_last_run_time_seconds{{{labels}}} {}", now()),
        format!("imaptrace_probe_interval_seconds{{{labels}}} 60"),
        format!("imaptrace_probe_failures{{{labels}}} {failures}"),
    ]
}

/// The gauges of an agent.
fn agent(name: &str, servers: u32, unreachable: u32) -> Vec<String> {
    let labels = format!("job=\"imaptrace\",instance=\"{name}\",imaptrace_label_team=\"probes\"");
    [("up", 1), ("copies", 1), ("servers", servers), ("servers_unreachable", unreachable)]
        .map(|(gauge, value)| format!("imaptrace_agent_{gauge}{{{labels}}} {value}"))
        .into()
}

/// Two accounts on each of eight volumes of one server.
fn volumes() -> impl Iterator<Item = (u32, String)> {
    (1..=8).flat_map(|volume| {
        ["a", "b"].map(|half| {
            let labels = format!(",imaptrace_label_volume=\"vol{volume}\"");
            (volume, account("central", "mail-volumes", &format!("box{volume}{half}"), &labels))
        })
    })
}

/// What Prometheus would have recorded of them in the last three hours, with volume 3 slow for half an hour.
fn history(directory: &Path) {
    let end = now();
    // By name, since the format has the samples of one together.
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    let mut series = |name: &str, labels: &str, value: &dyn Fn(u64) -> f64| {
        let samples = all.entry(name.to_owned()).or_insert_with(|| format!("# TYPE {name} gauge\n"));
        for ago in (0..180).rev() {
            writeln!(samples, "{name}{{{labels}}} {} {}", value(ago), end - ago * 60).unwrap();
        }
    };
    for (volume, labels) in volumes() {
        let slow = move |ago| volume == 3 && ago < 30;
        // A run a minute, of which those of the last half hour were too long.
        let runs = |ago: u64| f64::from(u32::try_from(180 - ago).unwrap());
        series("imaptrace_probe_duration_seconds_count", &labels, &runs);
        let within = format!("{labels},le=\"1.0\"");
        series("imaptrace_probe_first_loading_duration_seconds_bucket", &within, &|ago| {
            runs(if volume == 3 { ago.max(30) } else { ago })
        });
        series("imaptrace_account:probe_runs:rate5m", &labels, &|_| 1.0 / 60.0);
        series("imaptrace_account:objective_missed:rate5m", &labels, &|ago| if slow(ago) { 1.0 / 60.0 } else { 0.0 });
        for command in ["SELECT", "FETCH"] {
            let labels = format!("{labels},imap_command_name=\"{command}\"");
            for quantile in ["p50_15m", "p90_15m", "present"] {
                let name = format!("imaptrace_account_step:duration_seconds:{quantile}");
                series(&name, &labels, &|ago| if slow(ago) { 2.0 } else { 0.1 });
            }
        }
    }
    let text = all.into_values().collect::<String>() + "# EOF\n";
    let file = directory.join("history.txt");
    std::fs::write(&file, text).unwrap();
    let output = Command::new(installed("promtool"))
        .args(["tsdb", "create-blocks-from", "openmetrics"])
        .arg(&file)
        .arg(directory.join("data"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// The shipped rules and `prometheus.yml`, evaluated every second.
fn configured(directory: &Path, metrics: u16, alertmanager: u16) {
    let waits: Vec<_> = (1..=10).map(|minutes| format!("        for: {minutes}m\n")).collect();
    let mut quicker: Vec<_> = waits.iter().map(|wait| (wait.as_str(), "        for: 2s\n")).collect();
    quicker.extend([("    interval: 1m\n", "    interval: 1s\n"), ("    interval: 2m\n", "    interval: 1s\n")]);
    copy_rules(directory, false, &quicker);
    let prometheus = std::fs::read_to_string(format!("{ROOT}/deploy/prometheus/prometheus.yml")).unwrap();
    let quicker = prometheus.replace("_interval: 15s", "_interval: 1s");
    assert_ne!(quicker, prometheus);
    std::fs::write(directory.join("prometheus.yml"), quicker).unwrap();
    write_targets(directory, "targets.json", metrics);
    write_targets(directory, "alertmanagers.json", alertmanager);
}

#[test]
fn a_server_with_eight_accounts_an_agents_network_and_a_slow_volume_are_one_notification_each() {
    let alertmanager = Alertmanager::start(&WAITS, false);
    let metrics = Exposition::open();
    let directory = tempfile::Builder::new().prefix("notifications-").tempdir().unwrap();
    configured(directory.path(), metrics.port, alertmanager.port);
    history(directory.path());

    let mut well = [agent("central", 121, 0), agent("blind", 120, 0)].concat();
    well.extend(volumes().flat_map(|(_, labels)| gauges(&labels, 0)));
    let eight = |failing: u32| {
        let failures = move |number| if number < failing { 3 } else { 0 };
        (0..8).flat_map(move |number| {
            gauges(&account("central", "mail-down", &format!("box{number}"), ""), failures(number))
        })
    };
    metrics.set(&[well.clone(), eight(0).collect()].concat());
    let port = free_port();
    let mut prometheus = start_prometheus(directory.path(), port, "exemplar-storage");
    prometheus.wait_ready(port, "/-/ready");

    // The accounts of the server fail one after the other, as their runs come.
    let mut bad = [agent("central", 121, 1), agent("blind", 120, 120)].concat();
    bad.extend(volumes().flat_map(|(_, labels)| gauges(&labels, 0)));
    bad.extend((0..120).flat_map(|number| gauges(&account("blind", &format!("mail{number:03}"), "default", ""), 5)));
    for failing in [3, 8] {
        metrics.set(&[bad.clone(), eight(failing).collect()].concat());
        wait_until(&format!("{failing} accounts fail"), || {
            let query = "/api/v1/query?query=imaptrace_account:failing%7Bimaptrace_target_name=%22mail-down%22%7D";
            let (_, body) = get(port, query).ok()?;
            let answer: Value = serde_json::from_str(&body).ok()?;
            (answer["data"]["result"].as_array()?.len() == failing as usize).then_some(())
        });
    }
    wait_until("there are three notifications", || (alertmanager.notifications.firing().len() >= 3).then_some(()));
    // An alert that comes later is notified after all that the first ones still bring.
    bad.push("imaptrace_config_last_reload_success{job=\"imaptrace\",instance=\"last\"} 0".into());
    metrics.set(&[bad, eight(8).collect()].concat());
    let notified = wait_until("the last alert is notified", || {
        let firing = alertmanager.notifications.firing();
        firing.iter().any(|each| name(each) == "ImaptraceReloadFailed").then_some(firing)
    });

    let of = |alert: &str| notified.iter().filter(|each| name(each) == alert).collect::<Vec<_>>();
    let seen: Vec<_> = notified.iter().map(|each| (name(each), each["alerts"].as_array().unwrap().len())).collect();
    let (failing, blind, slow) = (of("ImaptraceTargetFailing"), of("ImaptraceAgentBlind"), of("ImaptraceLoadingSlow"));
    assert_eq!((failing.len(), blind.len(), slow.len(), notified.len()), (1, 1, 1, 4), "{seen:?}");
    assert_eq!(failing[0]["alerts"].as_array().unwrap().len(), 8, "{seen:?}");
    assert_eq!(failing[0]["commonLabels"]["imaptrace_target_name"], "mail-down");
    assert_eq!(blind[0]["commonLabels"]["instance"], "blind");
    assert_eq!(blind[0]["commonLabels"]["imaptrace_label_team"], "probes", "the agent's own labels");
    assert_eq!(slow[0]["alerts"].as_array().unwrap().len(), 2, "{seen:?}");
    assert_eq!(slow[0]["commonLabels"]["imaptrace_label_volume"], "vol3");
    // The count of one is worth something, since both of its steps are alerts of their own, which are not notified.
    wait_until("four slow steps are inhibited", || {
        (alertmanager.inhibited().get("ImaptraceStepSlow") == Some(&4)).then_some(())
    });
}

/// A target's label comes by `labels` in `[metrics]`, an agent's by `labels` in `[agent]`.
#[tokio::test(flavor = "multi_thread")]
async fn an_alert_goes_to_the_team_that_a_label_of_the_configuration_names() {
    let (backends, alertmanager) =
        tokio::task::spawn_blocking(|| (Backends::start(), Alertmanager::start(&WAITS, true))).await.unwrap();
    backends.notify(alertmanager.port);
    let directory = tempfile::tempdir().unwrap();
    let password = directory.path().join("password");
    std::fs::write(&password, "anything").unwrap();
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o600)).unwrap();
    // Held, so that no other test gets them; nothing listens on them.
    let target = |name: &str, team: &str| {
        format!(
            "[[targets]]\nname = \"{name}\"\nurl = \"imap://127.0.0.1:{}\"\nsecurity = \"none\"\nuser = \"anybody\"\n\
             password = {{ file = \"{}\" }}\nlabels = {{ team = \"{team}\", rack = \"a3\" }}\n",
            free_port(),
            password.display()
        )
    };
    let text = [
        format!(
            "[agent]\nlabels = {{ team = \"probes\" }}\n[otlp]\nendpoint = \"{}\"\nprotocol = \"http/protobuf\"\n\
             [metrics]\nexport_interval = \"1s\"\nlabels = [\"team\"]\n[http]\nlisten = \"off\"\n\
             [defaults]\ninterval = \"1s\"\ntimeout = \"900ms\"\n",
            backends.otlp_http()
        ),
        target("ours", "mail"),
        target("theirs", "web"),
    ];
    let config = directory.path().join("imaptrace.toml");
    std::fs::write(&config, text.concat()).unwrap();
    let agent = Program::new(["agent", "--config", config.to_str().unwrap()]).start();
    let notifications = alertmanager.notifications.clone();
    let of = move |alert: &str, target: &str| {
        let firing = notifications.firing();
        let found = firing.into_iter().find(|each| {
            name(each) == alert && each["commonLabels"]["imaptrace_target_name"].as_str().unwrap_or_default() == target
        });
        found.map(|each| {
            let labels = &each["commonLabels"];
            let [team, rack] = ["team", "rack"].map(|key| labels[format!("imaptrace_label_{key}")].clone());
            (each["receiver"].clone(), team, rack, labels["severity"].clone(), each["commonAnnotations"].clone())
        })
    };
    let (ours, theirs, own, backends) = tokio::task::spawn_blocking(move || {
        backends.prometheus_query(r#"ALERTS{alertname="ImaptraceTargetFailing",imaptrace_target_name="ours"}"#);
        let ours = wait_until("the team is notified", || of("ImaptraceTargetFailing", "ours"));
        let theirs = wait_until("the others are notified", || of("ImaptraceTargetFailing", "theirs"));
        std::fs::write(&config, "not TOML").unwrap();
        backends.prometheus_query("imaptrace_config_last_reload_success == 0");
        let own = wait_until("the agent's alert is notified", || of("ImaptraceReloadFailed", ""));
        (ours, theirs, own, backends)
    })
    .await
    .unwrap();
    agent.signal(Signal::SIGTERM);
    let output = agent.finish().await;
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    tokio::task::spawn_blocking(move || drop((backends, alertmanager))).await.unwrap();

    // Alertmanager says which receiver it sends for. A label that is not on the list of `[metrics]` is on no series.
    let expected =
        |receiver: &str, team: &str, severity: &str| (json!(receiver), json!(team), Value::Null, json!(severity));
    let without_annotations =
        |seen: &(Value, Value, Value, Value, Value)| (seen.0.clone(), seen.1.clone(), seen.2.clone(), seen.3.clone());
    assert_eq!(without_annotations(&ours), expected("mail", "mail", "critical"));
    assert_eq!(without_annotations(&theirs), expected("everyone", "web", "critical"));
    assert_eq!(without_annotations(&own), expected("everyone", "probes", "warning"));
    assert_eq!(ours.4["summary"], "ours (account default) fails every run: connect_refused");
    assert_eq!(ours.4["runbook_url"], "https://imaptrace.example.org/docs/runbooks/ImaptraceTargetFailing.md");
    assert_eq!(ours.4["dashboard"], "http://localhost:3000/d/imaptrace?var-target=ours");
}
