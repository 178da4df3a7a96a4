//! Who may send events to a running agent: senders that a reload adds, changes and removes, and thousands of connections of others.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{Arc, Mutex},
};

use nix::sys::signal::Signal;
use tokio::runtime::Runtime;

use crate::{
    agent::{lines, otlp, roots, runtime, start, stop, target},
    reload::{reload, write},
    server_events::{SECRET, counted, events, local, mail_server, post, reception, server_spans, texts},
    support::{
        otlp::{Inbox, Receiver},
        program::{Running, free_port},
    },
};

/// One sender: its name, the place of its secret, its networks and its targets.
fn sender(name: &str, secret: &str, from: &str, targets: &str) -> String {
    format!(
        "[[server_events.senders]]\nname = \"{name}\"\nsecret = {{ {secret} }}\nfrom = [\"{from}\"]\n\
         targets = [\"{targets}\"]\n"
    )
}

const ENV: &str = "env = \"PROBE\"";
const FILE: &str = "file = \"secret-one\"";
const HERE: &str = "127.0.0.0/8";

/// A server that reports each of its sessions to `port` as the sender `one`, with the password that `secret` has then.
fn reporting(runtime: &Runtime, port: u16, secret: &Arc<Mutex<String>>) -> SocketAddr {
    let secret = secret.clone();
    runtime.block_on(mail_server(Arc::new(move |session| {
        let bodies = texts(&events("mail01.example", &session));
        let pair = format!("one:{}", secret.lock().unwrap());
        tokio::spawn(async move { post(local(port), &pair, &bodies).await });
    })))
}

/// The status of a request over a connection of its own; nothing if that is closed.
async fn statuses(port: u16, pair: &str) -> Vec<u16> {
    post(local(port), pair, &["{}".to_owned()]).await
}

fn sessions(inbox: &Inbox) -> usize {
    server_spans(inbox).iter().filter(|(_, span)| span.name == "session").count()
}

fn secret_file(home: &Path, text: &str) {
    let path = home.join("new-secret");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(path, home.join("secret-one")).unwrap();
}

#[test]
fn senders_that_a_reload_adds_changes_and_removes_may_send_as_it_says_without_a_restart() {
    let (runtime, receiver, port) = (runtime(), Receiver::http(), free_port());
    let secret = Arc::new(Mutex::new(SECRET.to_owned()));
    let server = reporting(&runtime, port, &secret);
    let two = sender("two", ENV, HERE, "other*");
    let with = |port: u16, senders: &str| {
        otlp(&receiver.url(), "http/protobuf")
            + &format!("[server_events]\nlisten = \"127.0.0.1:{port}\"\nwait = \"200ms\"\n{senders}")
            + &target("mail01", server, "300ms", "290ms")
    };
    let mut agent = runtime.block_on(async { start(&with(port, &two)) });
    let (own, others) = (format!("one:{SECRET}"), format!("two:{SECRET}"));
    let ask = |pair: &str| runtime.block_on(statuses(port, pair));
    let change = |agent: &mut Running, senders: &str| {
        runtime.block_on(reload(agent, &with(port, senders)));
        receiver.look(sessions)
    };
    // More runs than may be under way: one that waits for its events, and one on its way to the receiver.
    let no_more = |known: usize| {
        let before = receiver.look(|inbox| roots(inbox).len());
        receiver.wait(|inbox| roots(inbox).len() >= before + 8);
        let present = receiver.look(sessions);
        assert!(present <= known + 2, "{present} sessions after {known}");
    };
    runtime.block_on(agent.stderr_line("receiving events of mail servers"));
    assert_eq!((ask(&own), ask(&others)), (vec![401], vec![204]));

    let before = change(&mut agent, &(two.clone() + &sender("one", ENV, HERE, "mail*")));
    assert_eq!((ask(&own), ask(&others), before), (vec![204], vec![204], 0));
    receiver.wait(|inbox| sessions(inbox) >= 2);

    // A request over a connection that was let in before.
    let mut open = runtime.block_on(KeptOpen::connect(port));
    assert_eq!(runtime.block_on(open.ask(&own)), Some(204));
    let known = change(&mut agent, &two);
    assert_eq!(runtime.block_on(open.ask(&own)), Some(401));
    assert_eq!((ask(&own), ask(&others)), (vec![401], vec![204]));
    no_more(known);

    // The secret of a new sender has to be there, else nothing changes.
    let one = sender("one", FILE, HERE, "mail*");
    write(agent.home(), &with(port, &one));
    agent.signal(Signal::SIGHUP);
    runtime.block_on(agent.stderr_line("configuration not reloaded"));
    assert_eq!((ask(&own), ask(&others)), (vec![401], vec![204]));
    secret_file(agent.home(), "first");
    change(&mut agent, &one);
    "first".clone_into(&mut secret.lock().unwrap());
    assert_eq!((ask(&own), ask("one:first"), ask(&others)), (vec![401], vec![204], vec![401]));
    let known = receiver.look(sessions);
    receiver.wait(|inbox| sessions(inbox) >= known + 2);
    // It is followed as one that was there at the start.
    secret_file(agent.home(), "second");
    runtime.block_on(agent.stderr_line("has changed and is in use"));
    assert_eq!((ask("one:first"), ask("one:second")), (vec![401], vec![204]));

    // From another network it is not even asked.
    "second".clone_into(&mut secret.lock().unwrap());
    let known = change(&mut agent, &sender("one", FILE, "192.0.2.0/24", "mail*"));
    assert_eq!(ask("one:second"), Vec::<u16>::new());
    no_more(known);

    // About other targets its events are answered, and join nothing.
    let known = change(&mut agent, &sender("one", FILE, HERE, "other*"));
    assert_eq!(ask("one:second"), [204]);
    no_more(known);

    // Its own secret again, and an address that a running agent cannot change.
    let known = change(&mut agent, &sender("one", FILE, HERE, "mail*"));
    receiver.wait(|inbox| sessions(inbox) >= known + 2);
    let elsewhere = with(free_port(), &two);
    runtime.block_on(reload(&mut agent, &elsewhere));
    assert_eq!((ask("one:second"), ask(&others)), (vec![401], vec![204]));
    let (output, log) = runtime.block_on(stop(agent, Signal::SIGTERM));
    let [restart] = lines(&log, "tables need a restart")[..] else { panic!("{output:?}") };
    assert_eq!(restart["keys"], "[server_events]");
    assert_eq!(lines(&log, "the senders of server events have changed").len(), 7, "{output:?}");
    assert!(["first", "second"].iter().all(|secret| !output.stderr.contains(&format!("one:{secret}"))));
}

/// A connection over which one request follows another.
struct KeptOpen(tokio::io::BufReader<tokio::net::TcpStream>);

impl KeptOpen {
    async fn connect(port: u16) -> Self {
        Self(tokio::io::BufReader::new(tokio::net::TcpStream::connect(local(port)).await.unwrap()))
    }

    async fn ask(&mut self, pair: &str) -> Option<u16> {
        crate::server_events::request(&mut self.0, pair, "{}").await
    }
}

/// Sockets that a process has open.
#[cfg(target_os = "linux")]
fn sockets(process: u32) -> usize {
    let entries = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    // One may be closed meanwhile.
    let links = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
}

#[cfg(target_os = "linux")]
#[test]
fn ten_thousand_connections_take_the_place_of_no_run_and_of_no_sender() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    use socket2::{Domain, Socket, Type};

    use crate::agent::value;

    const CONNECTIONS: usize = 10_000;
    // For all of this process; programs that it starts and that are to have fewer say so.
    let (present, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert!(
        most > CONNECTIONS as u64 + 1_000,
        "this test needs a hard limit on open files of over 11,000, it is {most}"
    );
    setrlimit(Resource::RLIMIT_NOFILE, present.max(CONNECTIONS as u64 + 1_000), most).unwrap();

    let (runtime, receiver, port) = (runtime(), Receiver::http(), free_port());
    let secret = Arc::new(Mutex::new(SECRET.to_owned()));
    let server = reporting(&runtime, port, &secret);
    let config = otlp(&receiver.url(), "http/protobuf")
        + &reception(port, "300ms")
        + &target("mail01", server, "500ms", "490ms");
    let mut agent = runtime.block_on(async { start(&config) });
    runtime.block_on(agent.stderr_line("receiving events of mail servers"));
    receiver.wait(|inbox| sessions(inbox) >= 2);
    let mut known = runtime.block_on(KeptOpen::connect(port));
    assert_eq!(runtime.block_on(known.ask(&format!("one:{SECRET}"))), Some(204));
    let process = agent.id().unwrap();
    let (usual, mut largest) = (sockets(process), 0);
    let before = receiver.look(|inbox| roots(inbox).len());

    let mut open = Vec::with_capacity(CONNECTIONS);
    for number in 0..CONNECTIONS {
        // Of many addresses, each of which may have 64.
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let [high, low] = u16::try_from(number / 40).unwrap().to_be_bytes();
        socket.bind(&SocketAddr::from(([127, 1, high, low + 1], 0)).into()).unwrap();
        socket.set_nonblocking(true).unwrap();
        // Not waited for: the kernel goes on trying if too many wait to be accepted.
        drop(socket.connect(&local(port).into()));
        open.push(socket);
        if number % 100 == 0 {
            largest = largest.max(sockets(process));
        }
    }
    // They stay as long as they are let, while runs go on.
    let flooded = receiver.look(|inbox| roots(inbox).len());
    receiver.wait(|inbox| roots(inbox).len() >= flooded + 6);
    largest = largest.max(sockets(process));
    assert_eq!(runtime.block_on(known.ask(&format!("one:{SECRET}"))), Some(204), "a sender is never closed for others");
    // Runs have a few of their own.
    assert!(largest > usual + 100 && largest <= usual + 256 + 16, "{largest} sockets, {usual} before");
    drop(open);
    // With room again, events join again.
    let joined = receiver.look(sessions);
    receiver.wait(|inbox| sessions(inbox) >= joined + 2);
    let (output, log) = runtime.block_on(stop(agent, Signal::SIGTERM));
    assert_eq!(lines(&log, "a run did not pass").len(), 0, "{output:?}");
    assert_eq!(lines(&log, "run skipped").len(), 0, "{output:?}");
    receiver.look(|inbox| {
        // The last one may be cut short by the end.
        let failed = |root: &_| !["", "cancelled"].contains(&value(root, "error.type").as_str());
        assert!(!roots(inbox).iter().any(failed), "{output:?}");
        assert!(roots(inbox).len() > before + 6);
        assert!(counted(inbox, "one", "joined") > 0);
    });
}
