//! A real Dovecot that posts its events to an agent, and the trace that comes of it in a real Jaeger.

use std::{collections::HashMap, fmt::Write as _, os::unix::fs::PermissionsExt as _};

use nix::sys::signal::Signal;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use serde_json::Value;

use crate::support::{
    backends::Backends,
    dovecot::{Dovecot, Options, USER1},
    otlp::Receiver,
    program::{Program, free_port},
};

pub(crate) const SECRET: &str = "s/cret%";

/// The events of a run, as Dovecot names them.
pub(crate) const EVENTS: [&str; 6] = [
    "imap_command_finished",
    "auth_client_request_finished",
    "auth_request_finished",
    "auth_passdb_request_finished",
    "mail_user_session_finished",
    "mail_opened",
];

/// All events that Dovecot posts to this port under the name `dovecot`, of user1 alone.
pub(crate) fn exporter(port: u16) -> String {
    exporter_of("dovecot", port, &EVENTS)
}

/// The events of these names that Dovecot posts to this port under the name `sender`, of user1 alone.
pub(crate) fn exporter_of(sender: &str, port: u16, events: &[&str]) -> String {
    let mut text = format!(
        "event_exporter imaptrace {{\n  format = json\n  format_args = time-rfc3339\n  transport = http-post\n  \
         transport_args = http://{sender}:s%2Fcret%25@127.0.0.1:{port}/dovecot\n  transport_timeout = 2 secs\n}}\n"
    );
    for event in events {
        writeln!(
            text,
            "metric {event} {{\n  filter = event={event} AND user={}\n  exporter = imaptrace\n  \
             exporter_include = name hostname timestamps fields\n}}",
            USER1.0
        )
        .unwrap();
    }
    text
}

/// A tag's value.
fn tag<'a>(span: &'a Value, key: &str) -> Option<&'a Value> {
    span["tags"].as_array()?.iter().find(|tag| tag["key"] == key).map(|tag| &tag["value"])
}

fn parent(span: &Value) -> Option<&str> {
    span["references"].as_array()?.first()?["spanID"].as_str()
}

/// An agent that probes `server` as user1 and takes its events on `port`.
fn configuration(directory: &tempfile::TempDir, server: &Dovecot, port: u16, otlp: &str, more: &str) -> String {
    for (name, text) in [("password", USER1.1), ("secret", SECRET)] {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let directory = directory.path().display();
    format!(
        "[http]\nlisten = \"off\"\n[otlp]\nendpoint = \"{otlp}\"\nprotocol = \"http/protobuf\"\n\
         [server_events]\nlisten = \"127.0.0.1:{port}\"\nwait = \"5s\"\n\
         [[server_events.senders]]\nname = \"dovecot\"\nsecret = {{ file = \"{directory}/secret\" }}\ntargets = [\"mail01\"]\n\
         [defaults]\ninterval = \"1s\"\ntimeout = \"900ms\"\n{more}\
         [[targets]]\nname = \"mail01\"\nurl = \"imaps://localhost:{}\"\nca_file = \"{}\"\nuser = \"{}\"\n\
         password = {{ file = \"{directory}/password\" }}\naddress = \"v4\"\n",
        server.tls,
        server.ca.display(),
        USER1.0,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_in_jaeger_has_the_spans_of_both_services_each_of_dovecots_inside_its_parent() {
    let backends = tokio::task::spawn_blocking(Backends::start).await.unwrap();
    let port = free_port();
    let server = Dovecot::start(&Options { messages: 40, settings: exporter(port), ..Options::default() });
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("imaptrace.toml");
    std::fs::write(&config, configuration(&directory, &server, port, &backends.otlp_http(), "")).unwrap();
    let agent = Program::new(["agent", "--config", config.to_str().unwrap()]).start();
    let (backends, trace, edges) = tokio::task::spawn_blocking(move || {
        let ended = serde_json::json!({ "dovecot.event": "mail_user_session_finished" });
        let trace = crate::support::program::wait_until("a trace with Dovecot's session is in Jaeger", || {
            backends.jaeger_search("dovecot", &ended).into_iter().next()
        });
        let edges = backends.jaeger_dependencies();
        (backends, trace, edges)
    })
    .await
    .unwrap();
    agent.signal(Signal::SIGTERM);
    let output = agent.finish().await;
    tokio::task::spawn_blocking(move || drop(backends)).await.unwrap();
    assert_eq!(output.code, Some(0), "{}", output.stderr);

    let spans = trace["spans"].as_array().unwrap();
    let by_id: HashMap<_, _> = spans.iter().map(|span| (span["spanID"].as_str().unwrap(), span)).collect();
    let service = |span: &Value| {
        trace["processes"][span["processID"].as_str().unwrap()]["serviceName"].as_str().unwrap().to_owned()
    };
    let times = |span: &Value| {
        let begin = span["startTime"].as_u64().unwrap();
        (begin, begin + span["duration"].as_u64().unwrap())
    };
    let mut names = Vec::new();
    for span in spans.iter().filter(|span| service(span) == "dovecot") {
        let name = span["operationName"].as_str().unwrap();
        let parent = by_id[parent(span).unwrap_or_else(|| panic!("{name} has no parent"))];
        let ((begin, end), (from, to)) = (times(parent), times(span));
        assert!(begin <= from && to <= end, "{name}: {begin} {from} {to} {end}");
        let parent_name = parent["operationName"].as_str().unwrap();
        let kind = tag(span, "span.kind").unwrap();
        match name {
            "auth client" => assert_eq!((service(parent).as_str(), parent_name), ("imaptrace", "AUTHENTICATE")),
            "auth" | "passdb" => assert_eq!((service(parent).as_str(), kind), ("dovecot", &"internal".into())),
            "session" => assert_eq!(parent_name, "probe first-load"),
            command => {
                assert_eq!(parent_name.split(' ').next(), Some(command));
                assert_eq!((service(parent).as_str(), kind), ("imaptrace", &"server".into()));
                assert_eq!(tag(parent, "span.kind"), Some(&"client".into()));
                assert!(tag(span, "dovecot.running").is_some(), "{span}");
            }
        }
        names.push(name);
    }
    for name in ["LIST", "SELECT", "FETCH", "auth client", "auth", "passdb", "session"] {
        assert_eq!(names.iter().filter(|known| **known == name).count(), 1, "{name} in {names:?}");
    }
    // Jaeger computes them from the traces that it has in memory, those of a service with itself, too.
    let edges = edges.iter().map(|edge| (&edge["parent"], &edge["child"]));
    let between: Vec<_> = edges.filter(|(parent, child)| parent != child).collect();
    assert_eq!(between, [(&"imaptrace".into(), &"dovecot".into())]);
    let text = trace.to_string();
    assert!(!text.contains(USER1.0) && !text.contains(SECRET), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn short_tags_join_and_a_refused_login_is_joined_by_its_connection() {
    let (port, receiver) = (free_port(), Receiver::http());
    let server = Dovecot::start(&Options { settings: exporter(port), ..Options::default() });
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("imaptrace.toml");
    let text = configuration(&directory, &server, port, &receiver.url(), "tag = \"short\"\n");
    std::fs::write(&config, &text).unwrap();
    let agent = Program::new(["agent", "--config", config.to_str().unwrap()]).start();
    let receiver = wait_for(receiver, "session").await;
    std::fs::write(directory.path().join("password"), "wrong").unwrap();
    let receiver = wait_for(receiver, "passdb refused").await;
    let receiver = wait_for(receiver, "auth refused").await;
    let receiver = wait_for(receiver, "auth client refused").await;
    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.finish().await.code, Some(0));
    tokio::task::spawn_blocking(move || drop(receiver)).await.unwrap();
}

/// Waits for a span of Dovecot's.
async fn wait_for(receiver: Receiver, what: &'static str) -> Receiver {
    let waiting = move || {
        receiver.wait(|inbox| {
            inbox.spans().iter().any(|span| match what.strip_suffix(" refused") {
                Some(name) => {
                    let success = crate::support::otlp::attribute(&span.attributes, "dovecot.auth.success");
                    let is_error = span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error);
                    span.name == name && success.as_deref() == Some("false") && is_error
                }
                None => span.name == what,
            })
        });
        receiver
    };
    tokio::task::spawn_blocking(waiting).await.unwrap()
}
