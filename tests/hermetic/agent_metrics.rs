//! What an agent exports of itself, beside the metrics of its runs.

use std::collections::BTreeMap;

use nix::sys::signal::Signal;
use opentelemetry_proto::tonic::metrics::v1::{metric::Data, number_data_point::Value as Number};

use crate::{
    agent::{otlp, runtime, start, stop, target},
    command_line::{GOOD, Listener, refusing},
    reload::reload,
    support::{
        otlp::{Inbox, Receiver, attribute},
        script::Script,
    },
};

/// The gauge of this name, by the value of an attribute; "" where a series has none.
fn gauge(inbox: &Inbox, name: &str, key: &str) -> BTreeMap<String, f64> {
    let metrics = inbox.metrics();
    let Some(Data::Gauge(gauge)) = metrics.get(name).and_then(|metric| metric.data.clone()) else {
        return BTreeMap::new();
    };
    let points = gauge.data_points.iter().map(|point| {
        let value = match point.value.unwrap() {
            Number::AsInt(number) => f64::from(i32::try_from(number).unwrap()),
            Number::AsDouble(number) => number,
        };
        (attribute(&point.attributes, key).unwrap_or_default(), value)
    });
    points.collect()
}

fn only(inbox: &Inbox, name: &str) -> Option<f64> {
    gauge(inbox, name, "").into_values().next()
}

#[test]
fn an_agent_exports_its_servers_failures_in_a_row_its_configuration_and_that_it_was_stopped() {
    let receiver = Receiver::http();
    let runtime = runtime();
    // No name server answers there.
    let (_held, silent) = refusing();
    let server = runtime.block_on(Listener::willing());
    let base = format!(
        "labels = {{ dc = \"fra1\" }}\ncopies = 2\n[http]\nlisten = \"off\"\n[otlp]\nendpoint = \"{}\"\n\
         protocol = \"http/protobuf\"\n[metrics]\nexport_interval = \"200ms\"\n",
        receiver.url()
    ) + &target("good", server.address, "200ms", "190ms");
    // Two targets on one server, whose name has no answer, and one on a server that refuses connections: that one was reached.
    let (_closed, refused) = refusing();
    let down = "down.example.org:143";
    let both = format!("[dns]\nservers = [\"{silent}\"]\n")
        + &target("down1", down, "200ms", "190ms")
        + &target("down2", down, "300ms", "190ms")
        + &target("refused", refused, "300ms", "190ms");
    let mut agent = runtime.block_on(async { start(&(base.clone() + &both)) });
    receiver.wait(|inbox| {
        let failures = gauge(inbox, "imaptrace.probe.failures", "imaptrace.target.name");
        let enough = |name: &str| failures.get(name).is_some_and(|failures| *failures > 2.5);
        let passed = failures.get("good").is_some_and(|failures| *failures < 0.5);
        let unreachable = only(inbox, "imaptrace.agent.servers_unreachable");
        enough("down1") && enough("down2") && passed && unreachable.is_some_and(|count| count > 0.5)
    });
    let hash = receiver.look(|inbox| {
        let labelled = |name: &str| gauge(inbox, name, "imaptrace.label.dc");
        for (name, value) in [
            ("imaptrace.agent.servers", 3.0),
            ("imaptrace.agent.servers_unreachable", 1.0),
            ("imaptrace.agent.copies", 2.0),
            ("imaptrace.agent.up", 1.0),
        ] {
            assert_eq!(labelled(name), [("fra1".to_owned(), value)].into(), "{name}");
        }
        let intervals = gauge(inbox, "imaptrace.probe.interval", "imaptrace.target.name");
        let expected = [("down1", 0.2), ("down2", 0.3), ("good", 0.2), ("refused", 0.3)]
            .map(|(name, value)| (name.to_owned(), value));
        assert_eq!(intervals, expected.into());
        gauge(inbox, "imaptrace.config.info", "imaptrace.config.hash").into_keys().next().unwrap()
    });
    runtime.block_on(reload(&mut agent, &base));
    receiver.wait(|inbox| {
        let last = inbox.metrics.last().map(|got| format!("{:?}", got.body)).unwrap_or_default();
        // A message with the configuration, and without the one before.
        last.contains("imaptrace.config.info") && !last.contains(&hash)
    });
    receiver.wait(|inbox| only(inbox, "imaptrace.agent.servers").is_some_and(|servers| servers < 1.5));
    receiver.wait(|inbox| only(inbox, "imaptrace.agent.servers_unreachable").is_some_and(|servers| servers < 0.5));
    let up = |inbox: &Inbox| only(inbox, "imaptrace.agent.up");
    assert_eq!(receiver.look(up), Some(1.0));
    runtime.block_on(stop(agent, Signal::SIGTERM));
    assert_eq!(receiver.look(up), Some(0.0));
}

#[test]
fn failures_in_a_row_begin_anew_after_a_run_that_passed() {
    const BUSY: &str = "S: * BYE too busy\n";
    let receiver = Receiver::http();
    let runtime = runtime();
    let server = runtime.block_on(Script::play(&[BUSY, BUSY, GOOD, BUSY].join("next\n")));
    let config = otlp(&receiver.url(), "http/protobuf").replace("500ms", "100ms");
    let config = config + &target("mail", server.address, "1s", "900ms");
    let agent = runtime.block_on(async { start(&config) });
    // The fourth run fails, and so do those after it, whose connections are refused.
    for expected in [2.0, 0.0, 1.0] {
        receiver.wait(|inbox| {
            let failures = only(inbox, "imaptrace.probe.failures");
            failures.is_some_and(|failures| (failures - expected).abs() < 0.5)
        });
    }
    runtime.block_on(stop(agent, Signal::SIGTERM));
    drop(server);
}
