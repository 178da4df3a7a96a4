//! The accounting of a real Dovecot's processes: the sum of a command that computes, and of one that waits for a lock.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::chown,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use imaptrace::{
    clock,
    plan::{AddressChoice, Glob, Host, Propagation, Security, Target},
    process_accounting::{MailLog, ProcessAccounting, ProcessAccountingSettings, SessionQuery},
    secret::SecretSource,
    server_events::{
        ConnectionEnds, EventCounts, EventReceiver, EventSink, EventStore, RunKeys, SenderCredentials, SenderSettings,
        TransportSecurity, add_processes, assemble,
    },
    telemetry::Metrics,
};
use imaptrace_imap::Secret;
use imaptrace_record::{Run, RunOutcome, Seconds, ServerEventName, ServerProcess, ServerProcessName, ServerText};
use tokio::sync::watch;

use super::server_events::{SECRET, exporter};
use crate::support::{
    dovecot::{Dovecot, Options, USER1},
    program::{free_port, wait_until},
    run::{account, run, target},
};

const KEEP: Duration = Duration::from_secs(60);

/// A Dovecot, its events, and what its processes use.
struct AccountedServer {
    server: Dovecot,
    store: Arc<EventStore>,
    accounting: ProcessAccounting,
    _receiver: EventReceiver,
    _credentials: watch::Sender<Arc<SenderCredentials>>,
}

impl AccountedServer {
    fn start(messages: u32) -> Self {
        let port = free_port();
        let sender = SenderSettings {
            name: "dovecot".to_owned(),
            secret: SecretSource::Nowhere,
            from: Vec::new(),
            targets: vec![Glob::new("*")],
        };
        let secret = Some(Secret::new(SECRET.to_owned()));
        let credentials = SenderCredentials::new([(&sender, secret)].into_iter(), TransportSecurity::ClearText);
        let (keep_open, credentials) = watch::channel(Arc::new(credentials));
        let counts = EventCounts::new(std::slice::from_ref(&sender), Metrics::off());
        let store = Arc::new(EventStore::new(vec![sender], counts, KEEP));
        let listen = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        let receiver = EventReceiver::start(listen, credentials, EventSink::Store(store.clone())).unwrap();
        let server = Dovecot::start(&Options { messages, settings: exporter(port), ..Options::default() });
        let settings =
            ProcessAccountingSettings { users: vec![Glob::new("user*")], mail_log: MailLog::File(server.log_file()) };
        let accounting = ProcessAccounting::start(settings, KEEP).unwrap();
        Self { server, store, accounting, _receiver: receiver, _credentials: keep_open }
    }

    fn target(&self) -> Target {
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), self.server.tls);
        let mut target = target(address, Security::Tls);
        target.endpoint.host = Host::parse("localhost").unwrap();
        target.address = AddressChoice::V4;
        target.tls.ca_file = Some(self.server.ca.clone());
        target.accounts = vec![account(USER1.0, USER1.1)];
        target
    }

    /// A run with what the server reports and what its processes used.
    async fn run(&self, target: Target) -> Run {
        let mut run = run(target).await;
        assert_eq!(run.outcome, RunOutcome::Passed, "{:?}", run.failing_step());
        let ended = clock::now();
        let keys = RunKeys::of(&run, Propagation::Off, ended);
        for _ in 0..1_000 {
            if self.store.complete_at(&keys).is_some_and(|complete| clock::now() >= complete) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let report = self.store.take(&keys, clock::now());
        run.server_events = assemble(&report.events, &run).map(Box::new);
        let ends = ConnectionEnds::new(run.server.peer.unwrap(), run.server.local.unwrap());
        let begin = run.started_at.to_system_time();
        let query = SessionQuery {
            names: report.session_names(),
            ends: Some((ends.server, ends.client)),
            begin,
            end: begin + run.duration_s.to_duration(),
        };
        assert_eq!(query.names.len(), 1);
        let usage = self.accounting.of_run(&query);
        add_processes(&mut run, Some((&ServerText::new(b"here", 64), usage)), report.usage);
        run
    }
}

/// What the imap process used in this step, and the server's running time and its wait for locks.
fn of_step(run: &Run, name: &str) -> (ServerProcess, Seconds, Seconds) {
    let server = run.server_events.as_ref().unwrap();
    let id = run.steps.iter().find(|step| step.name == name).unwrap().span_id;
    let is_its = |process: &&ServerProcess| process.span_id == id && process.process == ServerProcessName::Imap;
    let used = server.processes.iter().find(is_its).unwrap_or_else(|| panic!("{name} in {:?}", server.processes));
    let mut commands = server.named(ServerEventName::ImapCommandFinished);
    let event = commands.find(|event| Some(event.parent_span_id) == id).unwrap();
    (used.clone(), event.running_s.unwrap(), event.lock_wait_s.unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_running_time_of_a_command_is_cpu_run_queue_lock_and_the_rest() {
    let accounted = AccountedServer::start(3_000);
    // Login and authentication processes are known when the first run begins.
    thread::sleep(Duration::from_millis(500));
    let mut busy = accounted.target();
    busy.journey.newest = 3_000;
    let busy = accounted.run(busy).await;
    let (used, running, lock) = of_step(&busy, "FETCH");
    let on_cpu = used.cpu_s.saturating_add(used.run_queue_s);
    assert!(on_cpu > used.rest_s.unwrap() && on_cpu > lock, "it computes: {used:?} of {running:?}, lock {lock:?}");
    assert_is_sum(&used, running, lock);
    let processes = &busy.server_events.as_ref().unwrap().processes;
    // Other servers of this machine may have more of them than are sampled.
    assert!(processes.iter().any(|process| process.process != ServerProcessName::Imap), "{processes:?}");

    // New mail, and another process that holds the lock of the list of mails.
    let maildir = accounted.server.maildir(USER1.0);
    let lock_file = maildir.join("dovecot-uidlist.lock");
    let mail = maildir.join("new/1795913243.M1P1.host");
    fs::write(&mail, "Subject: new\n\nnew\n").unwrap();
    fs::write(&lock_file, "1:elsewhere").unwrap();
    for path in [&mail, &lock_file] {
        let owner = fs::metadata(&maildir).unwrap();
        let (uid, gid) = (std::os::unix::fs::MetadataExt::uid(&owner), std::os::unix::fs::MetadataExt::gid(&owner));
        chown(path, Some(uid), Some(gid)).unwrap();
    }
    let is_over = Arc::new(AtomicBool::new(false));
    let over = is_over.clone();
    let holder = thread::spawn(move || {
        thread::sleep(Duration::from_millis(1_500));
        fs::remove_file(lock_file).unwrap();
        over.store(true, Ordering::SeqCst);
    });
    let waiting = accounted.run(accounted.target()).await;
    holder.join().unwrap();
    let (used, running, lock) = of_step(&waiting, "SELECT");
    let on_cpu = used.cpu_s.saturating_add(used.run_queue_s);
    assert!(lock > on_cpu && lock > used.rest_s.unwrap(), "it waits: {used:?} of {running:?}, lock {lock:?}");
    assert_is_sum(&used, running, lock);
    let text = serde_json::to_string(&waiting.server_events).unwrap();
    assert!(!text.contains(USER1.0), "{text}");
}

/// The parts make up the running time, but for what the kernel had not counted yet when it was read: a tick of its clock.
fn assert_is_sum(used: &ServerProcess, running: Seconds, lock: Seconds) {
    let parts = [used.cpu_s, used.run_queue_s, lock, used.rest_s.unwrap()].into_iter();
    let sum = parts.fold(Seconds::ZERO, Seconds::saturating_add);
    let apart = sum.saturating_sub(running).saturating_add(running.saturating_sub(sum));
    assert!(apart < Seconds::from_micros(running.as_micros() / 4 + 20_000), "{used:?}, {lock:?}: not {running:?}");
}

/// The drop-in gives no capability: none is needed.
#[test]
fn what_is_read_of_dovecots_processes_is_open_to_all_users() {
    let server = Dovecot::start(&Options::default());
    let children = format!("/proc/{0}/task/{0}/children", server.master());
    let first = wait_until("Dovecot has a child", || {
        fs::read_to_string(&children).unwrap().split_whitespace().next().map(str::to_owned)
    });
    let files = [
        children.clone(),
        format!("/proc/{first}/stat"),
        format!("/proc/{first}/schedstat"),
        format!("/proc/{first}/comm"),
    ];
    let read = |file: &str| {
        let arguments = ["--reuid=12345", "--regid=12345", "--clear-groups", "--bounding-set=-all", "cat", file];
        Command::new("setpriv").args(arguments).output().unwrap()
    };
    for file in &files {
        let output = read(file);
        assert!(output.status.success() && !output.stdout.is_empty(), "{file}: {output:?}");
    }
    let io = read(&format!("/proc/{first}/io"));
    assert!(!io.status.success(), "as another user it may not: {io:?}");
}
