//! Events that an agent without targets passes on to the one that probes.

use std::{net::SocketAddr, sync::Arc};

use nix::sys::signal::Signal;
use tokio::runtime::Runtime;

use crate::{
    agent::{lines, otlp, runtime, start, stop, target},
    server_events::{SECRET, counted, events, local, mail_server, post, reception, server_spans, texts},
    support::{otlp::Receiver, program::free_port},
};

/// Listens on `port`, and passes on to the sender `one` of the agent at `to`.
fn relay(port: u16, to: u16) -> String {
    format!(
        "[server_events]\nlisten = \"127.0.0.1:{port}\"\nforward = \"http://127.0.0.1:{to}/dovecot\"\nname = \"one\"\n\
         secret = {{ env = \"PROBE\" }}\n[[server_events.senders]]\nname = \"dovecot\"\nsecret = {{ env = \"PROBE\" }}\n"
    )
}

/// A server that reports each of its sessions to `port`, and sends something of no use, too.
fn reporting(runtime: &Runtime, port: u16) -> SocketAddr {
    runtime.block_on(mail_server(Arc::new(move |session| {
        let mut bodies = texts(&events("mail01.example", &session));
        bodies.insert(0, "{}".to_owned());
        tokio::spawn(async move { post(local(port), &format!("dovecot:{SECRET}"), &bodies).await });
    })))
}

#[test]
fn events_join_runs_by_way_of_an_agent_on_the_mail_server_and_users_do_not_pass_it() {
    let (receiver, own) = (Receiver::http(), Receiver::http());
    let (runtime, port, relay_port) = (runtime(), free_port(), free_port());
    let server = reporting(&runtime, relay_port);
    let passing = otlp(&own.url(), "http/protobuf") + &relay(relay_port, port);
    // Before there is an agent to pass them on to.
    let passing = runtime.block_on(async { start(&passing) });
    let probing =
        otlp(&receiver.url(), "http/protobuf") + &reception(port, "5s") + &target("mail01", server, "300ms", "290ms");
    let probing = runtime.block_on(async { start(&probing) });
    receiver.wait(|inbox| server_spans(inbox).iter().filter(|(_, span)| span.name == "session").count() >= 3);
    own.wait(|inbox| counted(inbox, "dovecot", "forwarded") >= 10 && counted(inbox, "dovecot", "rejected") >= 1);
    let (output, _) = runtime.block_on(stop(probing, Signal::SIGTERM));
    let (passed, log) = runtime.block_on(stop(passing, Signal::SIGTERM));
    assert_eq!(lines(&log, "forwarding events of mail servers").len(), 1, "{passed:?}");
    receiver.look(|inbox| {
        let names: Vec<_> = server_spans(inbox).into_iter().map(|(host, span)| (host, span.name)).collect();
        for name in ["LIST", "SELECT", "LOGOUT", "session"] {
            assert!(names.contains(&("mail01.example".to_owned(), name.to_owned())), "{name} in {names:?}");
        }
        let whole =
            format!("{:?}{:?}{output:?}{passed:?}", inbox.traces, own.look(|inbox| format!("{:?}", inbox.traces)));
        for secret in ["planted-user", "planted-box", "planted-args"] {
            assert!(!whole.contains(secret), "{secret} has left the server");
        }
    });
}

#[test]
fn an_agent_that_is_away_is_named_once_and_gets_what_is_new_when_it_is_back() {
    let (receiver, port, relay_port, runtime) = (Receiver::http(), free_port(), free_port(), runtime());
    let server = reporting(&runtime, relay_port);
    let mut forwarding = runtime.block_on(async { start(&relay(relay_port, port)) });
    let config =
        |more: &str| otlp(&receiver.url(), "http/protobuf") + more + &target("mail01", server, "300ms", "290ms");
    // Probes, and does not listen.
    let deaf = runtime.block_on(async { start(&config("")) });
    runtime.block_on(forwarding.stderr_line("events of mail servers cannot be forwarded"));
    runtime.block_on(stop(deaf, Signal::SIGTERM));
    let probing = runtime.block_on(async { start(&config(&reception(port, "5s"))) });
    runtime.block_on(forwarding.stderr_line("events of mail servers are forwarded again"));
    receiver.wait(|inbox| server_spans(inbox).iter().any(|(_, span)| span.name == "session"));
    runtime.block_on(stop(probing, Signal::SIGTERM));
    let (output, _) = runtime.block_on(stop(forwarding, Signal::SIGTERM));
    // It has nothing to export but its own metrics.
    assert!(!output.stderr.contains("there is no OTLP endpoint"), "{output:?}");
}
