//! Mail servers that report about the sessions of probes, honestly or not, to an agent that probes them.

use std::{
    collections::HashSet,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use nix::sys::signal::Signal;
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};

use crate::{
    agent::{PASSWORD, lines, otlp, roots, runtime, start, stop, target, value},
    support::{
        otlp::{Inbox, Receiver},
        program::free_port,
    },
};

/// Of all senders.
pub(crate) const SECRET: &str = PASSWORD;

/// What a server saw of one session.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    local: SocketAddr,
    remote: SocketAddr,
    /// The tags and commands that came.
    commands: Vec<(String, String)>,
    /// The name that the client gave it.
    name: Option<String>,
}

/// What a server does at the end of a session.
pub(crate) type AtEnd = Arc<dyn Fn(Session) + Send + Sync>;

/// A mail server with an empty mailbox, which hands each session to the test before the last answer is written.
pub(crate) async fn mail_server(at_end: AtEnd) -> SocketAddr {
    server_with("IMAP4rev1", at_end).await
}

/// The same with these capabilities before the login.
async fn server_with(capabilities: &'static str, at_end: AtEnd) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(converse(stream, capabilities, at_end.clone()));
        }
    });
    address
}

async fn converse(stream: TcpStream, capabilities: &str, at_end: AtEnd) {
    let (local, remote) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
    let mut session = Session { local, remote, commands: Vec::new(), name: None };
    let mut stream = BufReader::new(stream);
    let mut answer = format!("* OK [CAPABILITY {capabilities}] hi\r\n");
    while stream.write_all(answer.as_bytes()).await.is_ok() {
        let mut line = String::new();
        if !stream.read_line(&mut line).await.is_ok_and(|length| length > 0) {
            return;
        }
        let (tag, command) = line.trim_end().split_once(' ').unwrap_or_default();
        let word = command.split(' ').next().unwrap_or_default();
        session.commands.push((tag.to_owned(), word.to_owned()));
        let name = command.split_once("(\"x-session-id\" \"").and_then(|(_, rest)| rest.split('"').next());
        session.name = session.name.or_else(|| name.map(str::to_owned));
        answer = match word {
            "SELECT" => format!("* 0 EXISTS\r\n{tag} OK done\r\n"),
            "LOGOUT" => {
                at_end(session.clone());
                format!("* BYE\r\n{tag} OK done\r\n")
            }
            _ => format!("{tag} OK [CAPABILITY IMAP4rev1] done\r\n"),
        };
    }
}

/// One event, as Dovecot posts it.
fn event(name: &str, host: &str, session: &Session, more: &[(&str, Value)]) -> Value {
    let now = jiff::Timestamp::now();
    let of_session = session.name.clone().unwrap_or_else(|| format!("s{}", session.remote.port()));
    let mut fields = json!({
        "duration": 200, "session": of_session, "user": "planted-user", "mailbox": "planted-box",
        "cmd_args": "planted-args", "local_ip": session.local.ip(), "local_port": session.local.port(),
        "remote_ip": session.remote.ip(), "remote_port": session.remote.port(),
    });
    for (key, value) in more {
        fields[key] = value.clone();
    }
    let begin = now.checked_sub(jiff::SignedDuration::from_micros(200)).unwrap();
    json!({ "event": name, "hostname": host, "start_time": begin.to_string(), "end_time": now.to_string(),
            "categories": ["imap"], "fields": fields })
}

fn command(host: &str, session: &Session, tag: &str, word: &str) -> Value {
    let more = [
        ("cmd_tag", tag.into()),
        ("cmd_name", word.into()),
        ("cmd_input_name", word.into()),
        ("tagged_reply_state", "OK".into()),
        ("running_usecs", 150.into()),
        ("lock_wait_usecs", 50.into()),
        ("bytes_in", 10.into()),
        ("bytes_out", 20.into()),
    ];
    event("imap_command_finished", host, session, &more)
}

/// All events of a session.
pub(crate) fn events(host: &str, session: &Session) -> Vec<Value> {
    // The login and what comes before it are not reported as commands.
    let commands = session.commands.iter().filter(|(_, word)| !matches!(word.as_str(), "CAPABILITY" | "LOGIN"));
    let mut events: Vec<_> = commands.map(|(tag, word)| command(host, session, tag, word)).collect();
    events.push(event("mail_user_session_finished", host, session, &[]));
    events
}

/// Sends requests over one connection, and returns the status of each response.
pub(crate) async fn post(receiver: SocketAddr, pair: &str, bodies: &[String]) -> Vec<u16> {
    let mut stream = BufReader::new(TcpStream::connect(receiver).await.unwrap());
    let mut codes = Vec::new();
    for body in bodies {
        codes.extend(request(&mut stream, pair, body).await);
    }
    codes
}

/// Sends one request, and returns the status of its response; none if the connection is closed.
pub(crate) async fn request(stream: &mut BufReader<TcpStream>, pair: &str, body: &str) -> Option<u16> {
    let pair = BASE64_STANDARD.encode(pair);
    let head = format!(
        "POST /dovecot HTTP/1.1\r\nHost: agent\r\nAuthorization: Basic {pair}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await.ok()?;
    let mut response = String::new();
    while stream.read_line(&mut response).await.is_ok_and(|length| length > 2) {}
    response.split(' ').nth(1)?.parse().ok()
}

pub(crate) fn texts(events: &[Value]) -> Vec<String> {
    events.iter().map(Value::to_string).collect()
}

/// Receives events on this port, from the senders `one`, about the targets `mail…`, and `two`, about `other…`.
pub(crate) fn reception(port: u16, wait: &str) -> String {
    let senders = [("one", "mail*"), ("two", "other*")].map(|(name, targets)| {
        format!(
            "[[server_events.senders]]\nname = \"{name}\"\nsecret = {{ env = \"PROBE\" }}\nfrom = [\"127.0.0.0/8\"]\n\
             targets = [\"{targets}\"]\n"
        )
    });
    format!("[server_events]\nlisten = \"127.0.0.1:{port}\"\nwait = \"{wait}\"\n{}", senders.concat())
}

/// The spans of servers, each with its host.
pub(crate) fn server_spans(inbox: &Inbox) -> Vec<(String, Span)> {
    inbox.server_spans()
}

/// Events by sender and outcome.
pub(crate) fn counted(inbox: &Inbox, sender: &str, outcome: &str) -> i64 {
    inbox.server_events(sender, outcome)
}

/// A server that reports each of its sessions to `port` as the sender `one`, and what it reported.
fn honest(runtime: &Runtime, port: u16) -> SocketAddr {
    runtime.block_on(mail_server(Arc::new(move |session| {
        let bodies = texts(&events("mail01.example", &session));
        tokio::spawn(async move { post(local(port), &format!("one:{SECRET}"), &bodies).await });
    })))
}

pub(crate) fn local(port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)
}

/// The spans of a trace by their ids.
fn spans_of(inbox: &Inbox, root: &Span) -> Vec<Span> {
    inbox.spans().into_iter().filter(|span| span.trace_id == root.trace_id).collect()
}

#[test]
fn what_a_server_reports_is_below_the_commands_of_the_run_as_spans_of_another_service() {
    for protocol in ["grpc", "http/protobuf"] {
        let receiver = if protocol == "grpc" { Receiver::grpc() } else { Receiver::http() };
        let (runtime, port) = (runtime(), free_port());
        let server = honest(&runtime, port);
        let config =
            otlp(&receiver.url(), protocol) + &reception(port, "5s") + &target("mail01", server, "300ms", "290ms");
        let agent = runtime.block_on(async { start(&config) });
        receiver.wait(|inbox| server_spans(inbox).iter().filter(|(_, span)| span.name == "session").count() >= 3);
        receiver.wait(|inbox| counted(inbox, "one", "joined") >= 10);
        let (output, log) = runtime.block_on(stop(agent, Signal::SIGTERM));
        assert_eq!(lines(&log, "all telemetry was delivered (").len(), 1, "{output:?}");
        receiver.look(|inbox| {
            let whole = format!("{:?}", inbox.traces);
            for secret in ["planted-user", "planted-box", "planted-args"] {
                assert!(!whole.contains(secret) && !output.stderr.contains(secret), "{secret} has left the server");
            }
            // One request has the spans of both services.
            assert!(inbox.traces.iter().any(|got| got.body.resource_spans.len() == 2));
            let servers = server_spans(inbox);
            for (host, span) in &servers {
                assert_eq!((host.as_str(), span.kind()), ("mail01.example", SpanKind::Server));
                let parent = inbox.spans().into_iter().find(|one| one.span_id == span.parent_span_id).unwrap();
                assert_eq!(parent.trace_id, span.trace_id);
                assert!(parent.start_time_unix_nano <= span.start_time_unix_nano, "{parent:?} {span:?}");
                assert!(span.end_time_unix_nano <= parent.end_time_unix_nano, "{parent:?} {span:?}");
                if span.name == "session" {
                    assert_eq!(parent.name, "probe first-load");
                } else {
                    assert_eq!(parent.kind(), SpanKind::Client);
                    assert_eq!(value(&parent, "imap.command.name"), span.name);
                    assert_eq!(value(span, "dovecot.running"), "0.00015");
                    assert_eq!(value(span, "dovecot.lock_wait"), "0.00005");
                }
            }
            let root = &roots(inbox)[0];
            let of_root = servers.iter().filter(|(_, span)| span.trace_id == root.trace_id);
            let names: HashSet<_> = of_root.map(|(_, span)| span.name.as_str()).collect();
            assert!(names.is_superset(&HashSet::from(["LIST", "SELECT", "session", "LOGOUT"])), "{names:?}");
        });
    }
}

#[test]
fn the_event_of_a_command_may_come_behind_the_end_of_its_session() {
    let receiver = Receiver::http();
    let (runtime, port) = (runtime(), free_port());
    let server = runtime.block_on(mail_server(Arc::new(move |session| {
        // As Dovecot may send them: LOGOUT last.
        let mut events = events("mail01.example", &session);
        let last = events.len() - 1;
        events.swap(last, last - 1);
        tokio::spawn(async move { post(local(port), &format!("one:{SECRET}"), &texts(&events)).await });
    })));
    let config =
        otlp(&receiver.url(), "http/protobuf") + &reception(port, "5s") + &target("mail01", server, "300ms", "290ms");
    let agent = runtime.block_on(async { start(&config) });
    let named = |inbox: &Inbox, name: &str| server_spans(inbox).iter().filter(|(_, span)| span.name == name).count();
    receiver.wait(|inbox| named(inbox, "session") >= 5 && counted(inbox, "one", "joined") >= 20);
    // Before the agent's end, at which no run waits.
    receiver.look(|inbox| {
        assert_eq!(named(inbox, "LOGOUT"), named(inbox, "session"));
        assert_eq!(counted(inbox, "one", "late"), 0);
    });
    runtime.block_on(stop(agent, Signal::SIGTERM));
}

#[test]
fn a_session_with_the_name_of_the_trace_joins_where_tags_and_addresses_do_not() {
    let receiver = Receiver::http();
    let (runtime, port) = (runtime(), free_port());
    let server = runtime.block_on(server_with(
        "IMAP4rev1 ID",
        Arc::new(move |session: Session| {
            // Behind a proxy: another connection, and no command is reported.
            let behind = Session { remote: local(9), ..session };
            tokio::spawn(async move {
                let events = |host| {
                    texts(
                        &["auth_request_finished", "mail_user_session_finished"]
                            .map(|name| event(name, host, &behind, &[("success", "yes".into())])),
                    )
                };
                post(local(port), &format!("two:{SECRET}"), &events("forged.example")).await;
                post(local(port), &format!("one:{SECRET}"), &events("mail01.example")).await;
            });
        }),
    ));
    let mut config = otlp(&receiver.url(), "http/protobuf") + &reception(port, "1s");
    config += &(target("mail01", server, "500ms", "490ms") + "propagate = \"session-id\"\n");
    // This one does not send its trace id.
    config += &target("mail02", server, "500ms", "490ms");
    let agent = runtime.block_on(async { start(&config) });
    receiver.wait(|inbox| server_spans(inbox).iter().filter(|(_, span)| span.name == "session").count() >= 3);
    receiver.wait(|inbox| counted(inbox, "two", "rejected") > 0);
    runtime.block_on(stop(agent, Signal::SIGTERM));
    receiver.look(|inbox| {
        for (host, span) in server_spans(inbox) {
            let root = roots(inbox).into_iter().find(|root| root.trace_id == span.trace_id).unwrap();
            assert_eq!((host.as_str(), value(&root, "imaptrace.target.name").as_str()), ("mail01.example", "mail01"));
            let of_run = spans_of(inbox, &root);
            assert!(of_run.iter().any(|span| span.name == "ID") && of_run.iter().any(|span| span.name == "auth"));
        }
    });
}

#[test]
fn a_run_without_events_waits_no_longer_than_configured_and_after_ten_no_longer_at_all() {
    let receiver = Receiver::http();
    let (runtime, port) = (runtime(), free_port());
    let server = runtime.block_on(mail_server(Arc::new(|_| {})));
    let config = otlp(&receiver.url(), "http/protobuf")
        + &reception(port, "100ms")
        + &target("mail01", server, "150ms", "140ms");
    let mut agent = runtime.block_on(async { start(&config) });
    runtime.block_on(agent.stderr_line("no event of this sender arrived for ten runs"));
    receiver.wait(|inbox| roots(inbox).len() >= 20);
    let (_, log) = runtime.block_on(stop(agent, Signal::SIGTERM));
    let said = lines(&log, "no event of this sender");
    assert_eq!((said.len(), &said[0]["sender"]), (1, &"one".into()));
    assert_eq!(receiver.look(server_spans), []);
}

#[test]
fn at_the_end_no_run_waits() {
    let receiver = Receiver::http();
    let (runtime, port) = (runtime(), free_port());
    let ended = Arc::new(Mutex::new(0));
    let count = ended.clone();
    let server = runtime.block_on(mail_server(Arc::new(move |_| *count.lock().unwrap() += 1)));
    let config =
        otlp(&receiver.url(), "http/protobuf") + &reception(port, "10s") + &target("mail01", server, "300ms", "290ms");
    let agent = runtime.block_on(async { start(&config) });
    while *ended.lock().unwrap() < 3 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(receiver.look(roots), [], "they wait");
    let (output, log) = runtime.block_on(stop(agent, Signal::SIGTERM));
    assert_eq!(lines(&log, "all telemetry was delivered (").len(), 1, "{output:?}");
    assert!(receiver.look(roots).len() >= 3);
}

#[test]
fn runs_that_wait_leave_their_places_in_flight() {
    let receiver = Receiver::http();
    let (runtime, port) = (runtime(), free_port());
    let server = runtime.block_on(mail_server(Arc::new(|_| {})));
    let mut config = otlp(&receiver.url(), "http/protobuf") + &reception(port, "2s");
    config += "[limits]\nruns_in_flight = 1\n";
    config += &target("mail01", server, "100ms", "90ms");
    let agent = runtime.block_on(async { start(&config) });
    receiver.wait(|inbox| roots(inbox).len() >= 15);
    let (_, log) = runtime.block_on(stop(agent, Signal::SIGTERM));
    // A run that held its place while it waits would have cost some 19 others.
    let (skipped, arrived) = (lines(&log, "run skipped").len(), receiver.look(roots).len());
    assert!(skipped < arrived, "{skipped} of {arrived}");
}

/// What a hostile peer sends about a session of another, and how often each is answered with which status.
#[test]
fn forged_replayed_foreign_and_broken_events_invent_nothing_and_disturb_no_run() {
    let receiver = Receiver::http();
    let (runtime, port) = (runtime(), free_port());
    let codes: Arc<Mutex<Vec<u16>>> = Arc::default();
    let seen = codes.clone();
    let server = runtime.block_on(mail_server(Arc::new(move |session: Session| {
        let codes = seen.clone();
        tokio::spawn(async move {
            let (one, two) = (format!("one:{SECRET}"), format!("two:{SECRET}"));
            let own = texts(&events("mail01.example", &session));
            // Another sender knows the tags and the connection of this run.
            let forged = texts(&events("forged.example", &session));
            let stranger =
                Session { remote: local(9), commands: vec![("0123456789abcdef".into(), "SELECT".into())], ..session };
            let broken = ["{", "", "[]", "null", "{\"event\":\"imap_command_finished\"}"].map(str::to_owned).to_vec();
            let mut all = post(local(port), &two, &forged).await;
            all.extend(post(local(port), &one, &texts(&events("stranger.example", &stranger))).await);
            all.extend(post(local(port), &one, &broken).await);
            all.extend(post(local(port), &one, &own).await);
            // Again, and once more when the run has taken them.
            all.extend(post(local(port), &one, &own).await);
            all.extend(post(local(port), "one:wrong", &forged).await);
            codes.lock().unwrap().extend(all);
        });
    })));
    let config =
        otlp(&receiver.url(), "http/protobuf") + &reception(port, "5s") + &target("mail01", server, "1s", "900ms");
    let mut agent = runtime.block_on(async { start(&config) });
    // A body without end, and connections that say nothing.
    let huge = runtime.block_on(async {
        agent.stderr_line("receiving events of mail servers").await;
        let mut stream = TcpStream::connect(local(port)).await.unwrap();
        let pair = BASE64_STANDARD.encode(format!("one:{SECRET}"));
        let head =
            format!("POST / HTTP/1.1\r\nHost: a\r\nAuthorization: Basic {pair}\r\nContent-Length: 1000000000\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    });
    let idle = runtime.block_on(async {
        let mut idle = Vec::new();
        for _ in 0..1_000 {
            idle.extend(TcpStream::connect(local(port)).await);
        }
        idle
    });
    receiver.wait(|inbox| server_spans(inbox).iter().filter(|(_, span)| span.name == "session").count() >= 3);
    receiver.wait(|inbox| counted(inbox, "two", "rejected") > 0 && counted(inbox, "one", "rejected") > 0);
    drop(idle);
    let (output, log) = runtime.block_on(stop(agent, Signal::SIGTERM));
    assert_eq!(lines(&log, "a run did not pass").len(), 0, "{output:?}");
    receiver.look(|inbox| {
        let mut hosts: HashSet<_> = server_spans(inbox).into_iter().map(|(host, _)| host).collect();
        assert!(hosts.remove("mail01.example") && hosts.is_empty(), "{hosts:?}");
        for root in roots(inbox) {
            let spans = spans_of(inbox, &root);
            let sessions = spans.iter().filter(|span| span.name == "session").count();
            assert!(sessions <= 1, "an event came twice: {spans:?}");
        }
        assert!(counted(inbox, "_OTHER", "rejected") > 0);
    });
    let codes = codes.lock().unwrap();
    assert!(codes.iter().all(|code| matches!(code, 204 | 401)) && codes.contains(&401), "{codes:?}");
    assert_eq!(huge, "HTTP/1.1 413");
}
