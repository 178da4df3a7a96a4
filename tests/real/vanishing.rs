//! Agents that are killed and one that is stopped, as the rules see them through the real Collector: what `promtool` cannot show is
//! that the last export of an agent gets there, and that the series of one that was killed end.
//!
//! The Collector forgets a series after 12 s here, not after three minutes, and `for` is shortened.

use std::collections::BTreeSet;

use nix::sys::signal::Signal;

use crate::support::{
    backends::Backends,
    post::Post,
    program::{Program, Running, wait_until},
};

/// An agent of this name that probes one server, of which each target has so many agents.
fn agent(directory: &std::path::Path, name: &str, copies: u32, target: &str, server: &Post, otlp: &str) -> Running {
    let text = format!(
        "[agent]\ninstance = \"{name}\"\ncopies = {copies}\nlabels = {{ team = \"probes\" }}\n[otlp]\nendpoint = \"{otlp}\"\n\
         protocol = \"http/protobuf\"\n[metrics]\nexport_interval = \"1s\"\n[http]\nlisten = \"off\"\n[state]\ndir = \"{}\"\n\
         [defaults]\ninterval = \"1s\"\ntimeout = \"900ms\"\n\
         [[targets]]\nname = \"{target}\"\nurl = \"imap://{}\"\nsecurity = \"none\"\nuser = \"anybody\"\n\
         password = {{ env = \"PASSWORD\" }}\n",
        directory.join(format!("{name}.state")).display(),
        server.address
    );
    let path = directory.join(format!("{name}.toml"));
    std::fs::write(&path, text).unwrap();
    Program::new(["agent", "--config", path.to_str().unwrap()]).env("PASSWORD", "anything").start()
}

/// The agents that are missed, and how badly.
fn missed(backends: &Backends) -> BTreeSet<(String, String)> {
    let query = r#"ALERTS{alertname="ImaptraceAgentSilent",alertstate="firing",imaptrace_label_team="probes"}"#;
    let alerts = backends.prometheus_now(query);
    let text = |alert: &serde_json::Value, label| alert["metric"][label].as_str().unwrap().to_owned();
    alerts.iter().map(|alert| (text(alert, "instance"), text(alert, "severity"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_agents_that_is_killed_is_a_warning_both_are_critical_and_one_that_is_stopped_is_nothing() {
    let collector = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/otel-collector.yaml")).unwrap();
    let forgets = collector.replace("    metric_expiration: 3m\n", "    metric_expiration: 12s\n");
    assert_ne!(forgets, collector);
    let (backends, server) =
        tokio::task::spawn_blocking(move || (Backends::start_with(&forgets), Post::open())).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let start = |name, copies, target| agent(directory.path(), name, copies, target, &server, &backends.otlp_http());
    let (one, two, stopped) = (start("one", 2, "shared"), start("two", 2, "shared"), start("stopped", 1, "alone"));
    let backends = tokio::task::spawn_blocking(move || {
        for name in ["one", "two", "stopped"] {
            backends.prometheus_query(&format!("imaptrace_agent:up{{instance=\"{name}\"}} == 1"));
            backends.prometheus_query(&format!("imaptrace_account:seen_time_seconds{{instance=\"{name}\"}}"));
        }
        backends
    })
    .await
    .unwrap();

    stopped.signal(Signal::SIGTERM);
    let output = stopped.finish().await;
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    one.signal(Signal::SIGKILL);
    one.finish().await;
    let pair = |name: &str, severity: &str| (name.to_owned(), severity.to_owned());
    let backends = tokio::task::spawn_blocking(move || {
        // The one that stopped is gone before the one that was killed.
        backends.prometheus_query("imaptrace_agent:vanished_time_seconds{instance=\"one\"}");
        let seen = wait_until("the first is missed", || Some(missed(&backends)).filter(|seen| !seen.is_empty()));
        assert_eq!(seen, BTreeSet::from([pair("one", "warning")]));
        assert!(backends.prometheus_now("imaptrace_agent_up{instance=\"stopped\"}").is_empty());
        backends
    })
    .await
    .unwrap();

    two.signal(Signal::SIGKILL);
    two.finish().await;
    tokio::task::spawn_blocking(move || {
        backends.prometheus_query("imaptrace_agent:vanished_time_seconds{instance=\"two\"}");
        let both = BTreeSet::from([pair("one", "critical"), pair("two", "critical")]);
        wait_until("both are missed", || Some(missed(&backends)).filter(|seen| *seen == both));
        drop((backends, server));
    })
    .await
    .unwrap();
}
