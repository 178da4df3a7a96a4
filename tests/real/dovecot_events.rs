//! The event configurations that are shipped, in a real Dovecot: what is posted, of whose sessions, and to whom.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use imaptrace::{
    plan::{Host, Security, Target},
    server_events::{assemble, parse},
};
use imaptrace_record::{ErrorType, Run, RunOutcome, ServerEventName};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
};

use crate::support::{
    dovecot::{Dovecot, Options, USER1, USER2},
    program::wait_until,
    run::{account, run, target},
    script::Pem,
    servers::{FULL, Kind, Server},
};

/// One request.
#[derive(Debug, Clone)]
struct Posted {
    line: String,
    authorization: String,
    content_type: String,
    event: Value,
}

impl Posted {
    fn name(&self) -> &str {
        self.event["event"].as_str().unwrap()
    }

    fn field(&self, name: &str) -> &Value {
        &self.event["fields"][name]
    }

    fn session(&self) -> String {
        self.field("session").to_string()
    }
}

/// Takes events over TLS and keeps them.
struct Sink {
    address: SocketAddr,
    posted: Arc<Mutex<Vec<Posted>>>,
}

impl Sink {
    async fn open(pem: &Pem) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, acceptor) = (listener.local_addr().unwrap(), pem.acceptor());
        let posted = Arc::<Mutex<Vec<Posted>>>::default();
        let kept = posted.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, kept) = (acceptor.clone(), kept.clone());
                tokio::spawn(async move {
                    let mut stream = BufReader::new(acceptor.accept(stream).await.unwrap());
                    while let Some(one) = request(&mut stream).await {
                        kept.lock().unwrap().push(one);
                        stream.get_mut().write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
                    }
                });
            }
        });
        Self { address, posted }
    }

    fn posted(&self) -> Vec<Posted> {
        self.posted.lock().unwrap().clone()
    }

    /// The sessions of which anything was posted. Dovecot's processes post over connections of their own, so that
    /// events of a session can arrive after its last one.
    fn sessions(&self) -> BTreeSet<String> {
        self.posted().iter().map(Posted::session).collect()
    }

    /// What was posted of other sessions than `earlier`, once `has_all` of it.
    fn posted_since(&self, earlier: &BTreeSet<String>, has_all: impl Fn(&[Posted]) -> bool) -> Vec<Posted> {
        let of_others = || {
            let mut posted = self.posted();
            posted.retain(|one| !earlier.contains(&one.session()));
            posted
        };
        for _ in 0..300 {
            let posted = of_others();
            if has_all(&posted) {
                return posted;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("after 30 s not all that should be: {:#?}", of_others());
    }
}

async fn request(stream: &mut (impl tokio::io::AsyncBufRead + Unpin)) -> Option<Posted> {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        if line.trim().is_empty() {
            break;
        }
        head.push(line.trim().to_owned());
    }
    let header = |name: &str| {
        let found = head.iter().filter_map(|line| line.split_once(':')).find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let mut body = vec![0; header("content-length").parse().unwrap()];
    stream.read_exact(&mut body).await.ok()?;
    Some(Posted {
        line: head[0].clone(),
        authorization: header("authorization"),
        content_type: header("content-type"),
        event: serde_json::from_slice(&body).unwrap(),
    })
}

const EVENTS: [&str; 7] = [
    "imap_command_finished",
    "mail_opened",
    "mail_user_session_finished",
    "auth_client_request_finished",
    "auth_request_finished",
    "auth_passdb_request_finished",
    "auth_userdb_request_finished",
];

/// The commands of a run after its login.
const COMMANDS: [&str; 5] = ["NAMESPACE", "LIST", "SELECT", "FETCH", "LOGOUT"];

/// The file that is shipped, with what an operator changes in it.
fn configured(name: &str, receiver: SocketAddr, ca: &Path, users: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/dovecot").join(name);
    let mut text = fs::read_to_string(path).unwrap();
    let mut change = |from: &str, to: &str, times: usize| {
        assert_eq!(text.matches(from).count(), times, "{from}");
        text = text.replace(from, to);
    };
    change("NAME:SECRET@imaptrace.example.org:8144", &format!("mail01:s%2Fcr%40t@localhost:{}", receiver.port()), 1);
    change("/etc/ssl/certs/ca-certificates.crt", &ca.display().to_string(), 1);
    change("user=probe*", &format!("user={users}"), EVENTS.len());
    text
}

fn at(server: &Dovecot, (user, password): (&str, &str)) -> Target {
    let mut target = target(SocketAddr::from(([127, 0, 0, 1], server.tls)), Security::Tls);
    target.endpoint.host = Host::parse("localhost").unwrap();
    target.address = imaptrace::plan::AddressChoice::V4;
    target.tls.ca_file = Some(server.ca.clone());
    target.accounts = vec![account(user, password)];
    target
}

/// Probes as a user that is configured and as one that is not, and looks at what was posted of both.
async fn only_the_probes(sink: &Sink, probe: Target, other: Target, bytes: [&str; 2]) {
    let run_of = async |target| -> Run {
        let run = run(target).await;
        assert_eq!(run.outcome, RunOutcome::Passed, "{:?}", run.failing_step());
        run
    };
    let earlier = sink.sessions();
    run_of(other).await;
    let run = run_of(probe.clone()).await;
    let posted = sink.posted_since(&earlier, |posted| {
        EVENTS.iter().all(|name| posted.iter().any(|one| one.name() == *name))
            && COMMANDS.iter().all(|name| posted.iter().any(|one| one.field("cmd_name") == name))
    });
    for one in &posted {
        assert_eq!(one.line, "POST /dovecot HTTP/1.1");
        assert_eq!(one.authorization, format!("Basic {}", STANDARD.encode("mail01:s/cr@t")));
        assert!(one.content_type.starts_with("application/json"), "{one:?}");
        assert_eq!(one.field("user"), USER1.0, "nothing of another user's session: {one:?}");
        assert!(one.event["hostname"].is_string() && one.event["start_time"].is_string(), "{one:?}");
    }
    // Each command after the login has its tag, which is the id of its span.
    let commands: Vec<_> = posted.iter().filter(|one| one.name() == "imap_command_finished").collect();
    for name in COMMANDS {
        let step = run.steps.iter().find(|step| step.name == name).unwrap();
        let tag = Value::from(step.span_id.unwrap().to_string());
        let of_it: Vec<_> = commands.iter().filter(|one| one.field("cmd_tag") == &tag).collect();
        assert_eq!(of_it.len(), 1, "{name}: {commands:#?}");
        assert_eq!(of_it[0].field("cmd_name"), name);
        for field in ["running_usecs", "lock_wait_usecs", bytes[0], bytes[1]] {
            assert!(of_it[0].field(field).is_number(), "{field}: {:?}", of_it[0]);
        }
    }
    let sessions: BTreeSet<_> = posted.iter().map(Posted::session).collect();
    assert_eq!(sessions.len(), 1, "{sessions:?}");
    // Last: after it Dovecot holds logins back.
    a_refused_login_fails_in_all_its_events(sink, probe).await;
}

async fn a_refused_login_fails_in_all_its_events(sink: &Sink, mut target: Target) {
    let earlier = sink.sessions();
    target.accounts = vec![account(USER1.0, "wrong")];
    let run = run(target).await;
    assert_eq!(run.error_type, Some(ErrorType::AuthFailed));
    let names = [
        ServerEventName::AuthPassdbRequestFinished,
        ServerEventName::AuthRequestFinished,
        ServerEventName::AuthClientRequestFinished,
    ];
    let posted = sink
        .posted_since(&earlier, |posted| names.iter().all(|name| posted.iter().any(|one| one.name() == name.as_str())));
    let events: Vec<_> = posted.iter().filter_map(|one| parse(one.event.to_string().as_bytes())).collect();
    let server = assemble(&events, &run).unwrap();
    for name in names {
        let success: Vec<_> = server.named(name).map(|event| event.success).collect();
        assert_eq!(success, [Some(false)], "{}: {posted:#?}", name.as_str());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_for_2_3_posts_the_events_of_the_probes_and_no_others() {
    let pem = Pem::self_signed(&["localhost"], 2020, 2040);
    let (sink, ca) = (Sink::open(&pem).await, pem.ca_file());
    fs::set_permissions(ca.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let settings = configured("events-2.3.conf", sink.address, ca.path(), "user1");
    let server = Dovecot::start(&Options { settings, ..Options::default() });
    let log = server.log();
    assert!(!log.contains("Warning: ") && !log.contains("Error: "), "{log}");
    only_the_probes(&sink, at(&server, USER1), at(&server, USER2), ["bytes_in", "bytes_out"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_for_2_4_posts_the_same() {
    let pem = Pem::self_signed(&["localhost"], 2020, 2040);
    let (sink, ca) = (Sink::open(&pem).await, pem.ca_file());
    let settings = configured("events-2.4.conf", sink.address, Path::new("/etc/extra-ca.pem"), "user1");
    let server = Server::start_with(Kind::Dovecot24, &settings, ca.path());
    for user in [USER1, FULL] {
        server.client(user).append("INBOX", 3);
    }
    // The client of the test was one of the probes' users, too.
    wait_until("its last event", || {
        let ended = |one: &Posted| one.name() == "mail_user_session_finished";
        sink.posted().iter().any(ended).then_some(())
    });
    // Not over TLS: once its stats process has posted over TLS, 2.4.1 takes no event of a login process that has TLS
    // (docs/dovecot.md).
    let target = |user| server.target(Security::None, user);
    only_the_probes(&sink, target(USER1), target(FULL), ["net_in_bytes", "net_out_bytes"]).await;
}
