//! The real Collector goes away and comes back while the agent probes: Jaeger has the trace of every session that the
//! mail server saw end.

use std::{collections::HashSet, fmt::Write as _};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::{
    backends::Backends,
    post::Post,
    program::{Program, wait_until},
};

const TARGETS: usize = 6;
/// Sessions in each of the three stretches: before, without, and after.
const SESSIONS: usize = 30;

/// The ids of the LOGOUT spans that Jaeger has; each is the tag that the server heard.
fn in_jaeger(backends: &Backends) -> HashSet<String> {
    let traces = backends.jaeger_search("restarted", &json!({ "imap.command.name": "LOGOUT" }));
    let spans = traces.iter().flat_map(|trace| trace["spans"].as_array().into_iter().flatten());
    let logouts = spans.filter(|span| span["operationName"] == "LOGOUT");
    logouts.filter_map(|span| span["spanID"].as_str().map(ToOwned::to_owned)).collect()
}

#[test]
fn a_collector_that_is_restarted_in_the_middle_costs_jaeger_no_trace() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut backends = Backends::start();
    let (post, home) = (Post::open(), tempfile::tempdir().unwrap());
    let state = home.path().join("state");
    let mut text = format!(
        "[http]\nlisten = \"off\"\n[state]\ndir = {state:?}\n[otlp]\nendpoint = {:?}\nprotocol = \"grpc\"\n[defaults]\nsecurity = \"none\"\n\
         interval = \"600ms\"\ntimeout = \"500ms\"\n",
        backends.otlp_grpc()
    );
    for number in 0..TARGETS {
        write!(
            text,
            "[[targets]]\nname = \"mail{number}\"\nurl = \"imap://user{number}@{}\"\npassword = {{ env = \"PROBE\" }}\n",
            post.address
        )
        .unwrap();
    }
    let config = home.path().join("imaptrace.toml");
    std::fs::write(&config, text).unwrap();
    let agent = runtime.block_on(async {
        Program::new(["agent", "--config", config.to_str().unwrap()])
            .env("PROBE", "secret")
            .env("OTEL_SERVICE_NAME", "restarted")
            .start()
    });
    let more = |sessions: usize| {
        let goal = post.ended().len() + sessions;
        wait_until("sessions go on", || (post.ended().len() >= goal).then_some(()));
    };
    more(SESSIONS);
    backends.stop_collector();
    more(SESSIONS);
    backends.start_collector();
    more(SESSIONS);
    agent.signal(Signal::SIGTERM);
    let output = runtime.block_on(agent.finish());
    assert_eq!(output.code, Some(0), "{}", output.stderr);

    let ended: HashSet<String> = post.ended().into_iter().map(|session| session.tag).collect();
    assert!(ended.len() >= 3 * SESSIONS);
    // What the agent could not hand over at its end waits for the next one; here it had a Collector to hand it to.
    wait_until(&format!("all of {} traces are in Jaeger", ended.len()), || {
        ended.is_subset(&in_jaeger(&backends)).then_some(())
    });
}
