//! Events of real Dovecots that reach the run by other ways than one server in plain sight: from a proxy and its back end, from
//! behind a translator of addresses, over ports that several connections share, and by an agent that forwards them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write as _,
    fs, thread,
};

use imaptrace_record::{Run, ServerEventName, ServerProcessName};
use nix::{
    sched::{CloneFlags, unshare},
    sys::signal::Signal,
    unistd::sethostname,
};
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};

use super::server_events::{EVENTS, SECRET, exporter_of};
use crate::support::{
    dovecot::{Dovecot, Options, USER1},
    net::namespace::Namespace,
    otlp::{ClosedPort, Inbox, Receiver, attribute},
    program::{Program, Running, free_port, wait_until},
};

/// A Dovecot that takes the host for one of this name. Needs root.
fn on_host(name: &str, options: &Options) -> Dovecot {
    thread::scope(|scope| {
        let start = || {
            unshare(CloneFlags::CLONE_NEWUTS)
                .unwrap_or_else(|error| panic!("this test needs root, for a host name of its own: {error}"));
            sethostname(name).unwrap();
            Dovecot::start(options)
        };
        scope.spawn(start).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn reporting(sender: &str, port: u16, events: &[&str]) -> Options {
    Options { settings: exporter_of(sender, port, events), ..Options::default() }
}

/// An agent with these tables, whose targets have the password of user1.
fn agent(config: &str) -> Running {
    let program = Program::new(["agent", "--config", "imaptrace.toml"]).env("PROBE", USER1.1).env("EVENTS", SECRET);
    fs::write(program.home().join("imaptrace.toml"), format!("[http]\nlisten = \"off\"\n{config}")).unwrap();
    program.start()
}

fn otlp(receiver: &Receiver) -> String {
    let url = receiver.url();
    format!("[otlp]\nendpoint = \"{url}\"\nprotocol = \"http/protobuf\"\n[metrics]\nexport_interval = \"500ms\"\n")
}

/// Takes events on this port, of these senders, about all targets `mail…`.
fn reception(port: u16, senders: &[&str]) -> String {
    let mut text = format!("[server_events]\nlisten = \"127.0.0.1:{port}\"\nwait = \"5s\"\n");
    for sender in senders {
        writeln!(
            text,
            "[[server_events.senders]]\nname = \"{sender}\"\nsecret = {{ env = \"EVENTS\" }}\ntargets = [\"mail*\"]"
        )
        .unwrap();
    }
    text
}

/// A target in clear text.
fn target(name: &str, port: u16, (interval, timeout): (&str, &str), password: &str) -> String {
    format!(
        "[[targets]]\nname = \"{name}\"\nurl = \"imap://127.0.0.1:{port}\"\nsecurity = \"none\"\nuser = \"{}\"\n\
         password = {password}\ninterval = \"{interval}\"\ntimeout = \"{timeout}\"\n",
        USER1.0
    )
}

const PASSWORD: &str = "{ env = \"PROBE\" }";

async fn stop(agent: Running) {
    agent.signal(Signal::SIGTERM);
    let output = agent.finish().await;
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    assert!(!output.stderr.contains(SECRET) && !output.stderr.contains(USER1.1), "{}", output.stderr);
}

fn value(span: &Span, key: &str) -> String {
    attribute(&span.attributes, key).unwrap_or_default()
}

fn roots(inbox: &Inbox) -> Vec<Span> {
    inbox.spans().into_iter().filter(|span| span.name == "probe first-load").collect()
}

/// The servers' spans in the trace of this root.
fn below(inbox: &Inbox, root: &Span) -> Vec<(String, Span)> {
    inbox.server_spans().into_iter().filter(|(_, span)| span.trace_id == root.trace_id).collect()
}

/// How often each server reports a span of each name.
fn names(spans: &[(String, Span)]) -> BTreeMap<(&str, &str), usize> {
    let mut names = BTreeMap::new();
    for (host, span) in spans {
        *names.entry((host.as_str(), span.name.as_str())).or_default() += 1;
    }
    names
}

/// Roots below which a server has reported the end of a session.
fn reported(inbox: &Inbox) -> Vec<Span> {
    let ended: BTreeSet<_> = inbox
        .server_spans()
        .into_iter()
        .filter(|(_, span)| span.name == "session")
        .map(|(_, span)| span.trace_id)
        .collect();
    roots(inbox).into_iter().filter(|root| ended.contains(&root.trace_id)).collect()
}

#[test]
fn a_proxy_and_its_back_end_have_spans_of_their_own_hosts_in_one_trace() {
    let (runtime, receiver, port) = (Runtime::new().unwrap(), Receiver::http(), free_port());
    let back = on_host("back.example", &reporting("back", port, &EVENTS));
    let proxy = on_host("proxy.example", &reporting("proxy", port, &EVENTS));
    let user = format!("{}:{{PLAIN}}{}::::::proxy=y host=127.0.0.1 port={}\n", USER1.0, USER1.1, back.plain);
    fs::write(proxy.path().join("passwd"), user).unwrap();
    let config = otlp(&receiver)
        + &reception(port, &["proxy", "back"])
        + &target("mail01", proxy.plain, ("1s", "900ms"), PASSWORD);
    let agent = runtime.block_on(async { agent(&config) });
    // On a busy machine the events of the proxy may come when the run has gone.
    let whole = |inbox: &Inbox| -> Vec<Span> {
        let by_proxy = |root: &Span| {
            let spans = below(inbox, root);
            spans.iter().filter(|(host, _)| host == "proxy.example").count() >= 3
        };
        reported(inbox).into_iter().filter(by_proxy).collect()
    };
    receiver.wait(|inbox| whole(inbox).len() >= 3);
    runtime.block_on(stop(agent));
    receiver.look(|inbox| {
        let all: HashMap<_, _> = inbox.spans().into_iter().map(|span| (span.span_id.clone(), span)).collect();
        for root in whole(inbox) {
            let spans = below(inbox, &root);
            let names = names(&spans);
            assert!(names.values().all(|count| *count == 1), "something came twice: {names:?}");
            let of = |host: &str| -> BTreeSet<_> {
                names.keys().filter(|(of, _)| *of == host).map(|(_, name)| *name).collect()
            };
            // A proxy sees the login, and then bytes.
            let login = BTreeSet::from(["auth client", "auth", "passdb"]);
            assert_eq!(of("proxy.example"), login);
            let session = ["NAMESPACE", "LIST", "SELECT", "FETCH", "session"];
            let back = of("back.example");
            assert!(back.is_superset(&login) && session.iter().all(|name| back.contains(name)), "{back:?}");
            assert_eq!(of("proxy.example").len() + back.len(), spans.len(), "of no other host: {names:?}");
            for (host, span) in &spans {
                let parent = &all[&span.parent_span_id];
                match span.name.as_str() {
                    "session" => assert_eq!(parent.span_id, root.span_id),
                    "auth client" => assert_eq!(value(parent, "imap.command.name"), "AUTHENTICATE"),
                    "auth" | "passdb" => {
                        let (of, _) = spans.iter().find(|(_, one)| one.span_id == parent.span_id).unwrap();
                        assert_eq!(of, host, "{}", span.name);
                    }
                    command => {
                        assert_eq!(value(parent, "imap.command.name"), command);
                        assert_eq!((parent.kind(), span.kind()), (SpanKind::Client, SpanKind::Server));
                    }
                }
            }
        }
    });
}

/// Passes connections on from a port of its own, as a translator of addresses does: the server sees another client, and the
/// client another server.
async fn translator(to: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
            });
        }
    });
    port
}

#[test]
fn behind_a_translator_of_addresses_events_join_by_tag_and_session_and_not_at_all_without_a_tag() {
    for tag in ["span_id", "short"] {
        let (runtime, receiver, port) = (Runtime::new().unwrap(), Receiver::http(), free_port());
        let mut options = reporting("dovecot", port, &EVENTS);
        // Else a refusal takes longer than a run may.
        options.settings += "auth_failure_delay = 0\n";
        let server = Dovecot::start(&options);
        let outside = runtime.block_on(translator(server.plain));
        let password = tempfile::NamedTempFile::new().unwrap();
        fs::write(password.path(), USER1.1).unwrap();
        let file = format!("{{ file = \"{}\" }}", password.path().display());
        let config = otlp(&receiver)
            + &reception(port, &["dovecot"]).replace("5s", "300ms")
            + &format!("[defaults]\ntag = \"{tag}\"\n")
            + &target("mail01", outside, ("500ms", "450ms"), &file);
        let agent = runtime.block_on(async { agent(&config) });
        receiver.wait(|inbox| reported(inbox).len() >= 3);
        fs::write(password.path(), "wrong").unwrap();
        let refused = |inbox: &Inbox| {
            let mut roots = roots(inbox);
            roots.retain(|root| value(root, "error.type") == "auth_failed");
            roots
        };
        receiver.wait(|inbox| !refused(inbox).is_empty());
        // Its events have come, and are forgotten in the end.
        receiver.wait(|inbox| inbox.server_events("dovecot", "unmatched") >= 1);
        runtime.block_on(stop(agent));
        receiver.look(|inbox| {
            for root in reported(inbox) {
                let spans = below(inbox, &root);
                let names: BTreeSet<_> = spans.iter().map(|(_, span)| span.name.as_str()).collect();
                let by_tag = ["LIST", "SELECT", "FETCH"];
                let by_session = ["auth client", "auth", "passdb", "session"];
                assert!(by_tag.iter().chain(&by_session).all(|name| names.contains(name)), "{tag}: {names:?}");
                assert_eq!(names.len(), spans.len(), "{tag}: something came twice");
            }
            for root in refused(inbox) {
                assert!(below(inbox, &root).is_empty(), "{tag}: there was neither a tag nor an address to join by");
            }
        });
    }
}

/// Events without a tag: those of the login and of the end of the session.
const WITHOUT_TAGS: [&str; 4] = [
    "auth_client_request_finished",
    "auth_request_finished",
    "auth_passdb_request_finished",
    "mail_user_session_finished",
];

#[test]
fn where_connections_share_and_reuse_ports_each_run_has_the_events_of_its_own_connection() {
    let namespace = Namespace::new();
    let (servers, receiver, port) = namespace.enter(|| {
        // So few ports that both targets are soon probed from the same one, and each from it again.
        fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000\t40007").unwrap();
        let port = free_port();
        // Both are one sender, so that only the connection distinguishes their sessions.
        let servers =
            ["mail01.example", "mail02.example"].map(|host| on_host(host, &reporting("both", port, &WITHOUT_TAGS)));
        (servers, Receiver::http(), port)
    });
    let mut config = otlp(&receiver) + &reception(port, &["both"]);
    for (number, server) in (1..).zip(&servers) {
        config += &target(&format!("mail0{number}"), server.plain, ("200ms", "190ms"), PASSWORD);
    }
    let runtime = Runtime::new().unwrap();
    let agent = namespace.enter(|| runtime.block_on(async { agent(&config) }));
    // By the port on this side: the targets of the runs that have events.
    let ports = |inbox: &Inbox| {
        let mut ports: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for root in reported(inbox) {
            let target = value(&root, "imaptrace.target.name");
            ports.entry(value(&root, "network.local.port")).or_default().push(target);
        }
        ports
    };
    let count = |targets: &[String], name: &str| targets.iter().filter(|target| *target == name).count();
    receiver.wait(|inbox| {
        ports(inbox).values().any(|targets| count(targets, "mail01") >= 2 && count(targets, "mail02") >= 2)
    });
    runtime.block_on(stop(agent));
    receiver.look(|inbox| {
        for root in roots(inbox) {
            let spans = below(inbox, &root);
            let own = format!("{}.example", value(&root, "imaptrace.target.name"));
            for (&(host, name), count) in &names(&spans) {
                assert_eq!((host, *count), (own.as_str(), 1), "{name}");
            }
        }
        // All that has arrived: with its own run, or with none.
        assert!(inbox.server_events("both", "joined") > 0);
        assert_eq!(inbox.server_events("both", "rejected"), 0);
    });
    drop(servers);
}

#[test]
fn an_agent_on_the_mail_server_forwards_events_and_samples_into_the_record_of_the_agent_that_probes() {
    let (runtime, port, relay_port) = (Runtime::new().unwrap(), free_port(), free_port());
    let server = on_host("mail01.example", &reporting("dovecot", relay_port, &EVENTS));
    let state = tempfile::tempdir().unwrap();
    let directory = state.path().join("state");
    let forwarding = format!(
        "[server_events]\nlisten = \"127.0.0.1:{relay_port}\"\nproc = true\nusers = [\"user*\"]\nmail_log = \"{}\"\n\
         forward = \"http://127.0.0.1:{port}/dovecot\"\nname = \"mail01\"\nsecret = {{ env = \"EVENTS\" }}\n\
         [[server_events.senders]]\nname = \"dovecot\"\nsecret = {{ env = \"EVENTS\" }}\n",
        server.log_file().display()
    );
    // Nothing is delivered, so that all is kept.
    let nowhere = ClosedPort::take();
    let probing = format!(
        "[otlp]\nendpoint = \"{}\"\n[state]\ndir = \"{}\"\n{}{}",
        nowhere.url(),
        directory.display(),
        reception(port, &["mail01"]),
        target("mail01", server.plain, ("1s", "900ms"), PASSWORD)
    );
    let (mut forwarding, mut probing) = runtime.block_on(async { (agent(&forwarding), agent(&probing)) });
    runtime.block_on(async {
        forwarding.stderr_line("forwarding events of mail servers").await;
        probing.stderr_line("receiving events of mail servers").await;
    });
    let kept = || -> Vec<Run> {
        let show = Program::new(["show", directory.to_str().unwrap(), "--output", "json", "--all"]);
        let output = runtime.block_on(show.run());
        output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let is_whole = |run: &Run| {
        let Some(server) = &run.server_events else { return false };
        let is_step = |process: &&imaptrace_record::ServerProcess| process.span_id.is_some();
        server.processes.iter().filter(is_step).any(|process| process.process == ServerProcessName::Imap)
            && server.named(ServerEventName::MailUserSessionFinished).next().is_some()
    };
    let run = wait_until("a run with events and samples is kept", || kept().into_iter().find(is_whole));
    let (forwarded, probed) = runtime.block_on(async {
        for agent in [&forwarding, &probing] {
            agent.signal(Signal::SIGTERM);
        }
        (forwarding.finish().await, probing.finish().await)
    });
    assert_eq!((forwarded.code, probed.code), (Some(0), Some(0)), "{forwarded:?} {probed:?}");
    let events = run.server_events.as_ref().unwrap();
    let steps: HashMap<_, _> = run.steps.iter().filter_map(|step| Some((step.span_id?, step.name.as_str()))).collect();
    let commands: BTreeSet<_> = events
        .named(ServerEventName::ImapCommandFinished)
        .filter_map(|event| steps.get(&event.parent_span_id).copied())
        .collect();
    assert!(["LIST", "SELECT", "FETCH"].iter().all(|name| commands.contains(name)), "{commands:?}");
    let own = events.processes.iter().filter(|process| process.process == ServerProcessName::Imap);
    for process in own {
        let id = process.span_id;
        assert!(id.is_none_or(|id| steps.contains_key(&id)), "{process:?} is of no step of this run");
    }
    // The login and authentication processes, of all of the session or of a step, are those of the same host.
    assert!(
        events.processes.iter().any(|process| process.process != ServerProcessName::Imap),
        "{:?}",
        events.processes
    );
    let text = format!("{}{forwarded:?}{probed:?}", serde_json::to_string(&run.server_events).unwrap());
    for secret in [USER1.0, USER1.1, SECRET] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}
