//! Memory of a connection in flight: thousands of runs that wait for the answer to SELECT, in a process of their own.
//!
//! The server is here, in the process that measures: it answers all up to SELECT, counts who has come so far, and then says
//! no more. The client is the library as the agent uses it (live root, run, deadlines), and is told on its standard input
//! how many runs are to be in flight.

use std::{
    fs,
    io::{BufRead as _, Write as _},
    net::SocketAddr,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use imaptrace::{
    agent,
    net::Family,
    plan::{Deadlines, Dns, Security},
    probe::{Job, Prober},
    telemetry::logs::{self, LogSettings},
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::TcpListener,
    sync::watch,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    stage::Stage,
    support::{
        program::wait_until,
        run::{prepare, target},
        script::Pem,
    },
    table::met,
};

/// As many more at once as a listener's queue takes without a loss.
const STEP: u32 = 250;
const KIB: f64 = 1024.0;

/// Both tables' lines.
pub fn report(stage: &Stage, connections: u32) {
    allow_files();
    let few = connections / 10;
    println!("### Memory of a connection in flight\n");
    println!("| | {few} in flight, RSS MiB | {connections} in flight, RSS MiB | a connection, KiB | goal: at most | |");
    println!("|---|--:|--:|--:|--:|---|");
    for (name, tls, goal) in [("clear text", false, 16.0), ("TLS", true, 64.0)] {
        let (low, high) = measure(stage, tls, few, connections);
        let each = (high - low) / f64::from(connections - few);
        println!("| {name} | {:.1} | {:.1} | {each:.1} | {goal:.0} | {} |", low / KIB, high / KIB, met(each <= goal));
    }
    println!();
}

/// Resident memory in KiB with few and with many in flight.
fn measure(stage: &Stage, tls: bool, few: u32, many: u32) -> (f64, f64) {
    let acceptor = tls.then(|| acceptor(&stage.dovecot.ca));
    let waiting = Arc::new(AtomicU32::new(0));
    let listener = stage.runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let server = stage.runtime.spawn(serve(listener, acceptor, Arc::clone(&waiting)));
    let mut client = Client::start(address, tls.then_some(&stage.dovecot.ca));
    let mut resident = |count| {
        while waiting.load(Ordering::Relaxed) < count {
            let next = (waiting.load(Ordering::Relaxed) + STEP).min(count);
            writeln!(client.orders, "{next}").unwrap();
            wait_until(&format!("{next} runs wait for the answer to SELECT"), || {
                assert!(client.child.try_wait().unwrap().is_none(), "the client has ended");
                (waiting.load(Ordering::Relaxed) == next).then_some(())
            });
        }
        let status = fs::read_to_string(format!("/proc/{}/status", client.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap()
    };
    let resident = (resident(few), resident(many));
    // First the client: a run whose server goes away would have something to say.
    drop(client);
    server.abort();
    resident
}

fn acceptor(ca: &Path) -> TlsAcceptor {
    // Beside the CA lies what it has signed.
    let read = |name| fs::read_to_string(ca.with_file_name(name)).unwrap();
    Pem { certificate: read("server.pem"), key: read("server.key") }.acceptor()
}

async fn serve(listener: TcpListener, acceptor: Option<TlsAcceptor>, waiting: Arc<AtomicU32>) {
    // Ends with this task, and with it every connection.
    let mut sessions = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (acceptor, waiting) = (acceptor.clone(), Arc::clone(&waiting));
        sessions.spawn(async move {
            match acceptor {
                None => session(stream, &waiting).await,
                Some(tls) => session(tls.accept(stream).await.unwrap(), &waiting).await,
            }
        });
    }
}

/// Answers as Dovecot does, if more tersely, up to SELECT.
async fn session(stream: impl AsyncRead + AsyncWrite + Unpin, waiting: &AtomicU32) {
    let capabilities = "CAPABILITY IMAP4rev1 SASL-IR ID NAMESPACE LITERAL+ AUTH=PLAIN";
    let mut stream = BufReader::with_capacity(256, stream);
    stream.write_all(format!("* OK [{capabilities}] ready.\r\n").as_bytes()).await.unwrap();
    let mut line = String::new();
    while stream.read_line(&mut line).await.is_ok_and(|length| length > 0) {
        let mut words = line.split_ascii_whitespace();
        let (tag, command) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let untagged = match command {
            "ID" => "* ID NIL\r\n".to_owned(),
            "NAMESPACE" => "* NAMESPACE ((\"\" \"/\")) NIL NIL\r\n".to_owned(),
            "LIST" => "* LIST () \"/\" \"a folder\"\r\n".repeat(16),
            "SELECT" => {
                waiting.fetch_add(1, Ordering::Relaxed);
                return std::future::pending().await;
            }
            _ => String::new(),
        };
        let answer = format!("{untagged}{tag} OK [{capabilities}] done.\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
        line.clear();
    }
}

/// The process whose memory is looked at; ended on drop.
struct Client {
    child: Child,
    orders: ChildStdin,
}

impl Client {
    fn start(server: SocketAddr, ca: Option<&std::path::PathBuf>) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["in-flight", &server.to_string()]).args(ca).stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let orders = child.stdin.take().unwrap();
        Self { child, orders }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The client: each line of standard input says how many runs are to be in flight from now on.
pub fn hold(server: SocketAddr, ca: Option<&Path>) {
    allow_files();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    logs::init(&LogSettings::default()).unwrap();
    let mut target = target(server, if ca.is_some() { Security::Tls } else { Security::None });
    target.tls.ca_file = ca.map(Path::to_owned);
    let long = Duration::from_secs(3600);
    target.deadlines = Deadlines { run: long, command: long, ..Deadlines::default() };
    let target = Arc::new(prepare(target));
    let prober = Arc::new(Prober::new(Dns::default()));
    let (_keep, cancel) = watch::channel(false);
    let mut started: u32 = 0;
    for line in std::io::stdin().lock().lines() {
        let wanted: u32 = line.unwrap().parse().unwrap();
        for _ in started..wanted {
            let (target, prober, cancel) = (Arc::clone(&target), Arc::clone(&prober), cancel.clone());
            runtime.spawn(async move {
                let account = &target.target().accounts[0];
                let secret = account.password.load().await;
                let job = |ids| Job {
                    target: &target,
                    account,
                    family: Family::Any,
                    ids,
                    start_lag: None,
                    secret,
                    usual_messages: None,
                    hold_login: None,
                };
                let run = agent::run_once(&prober, &target.target().journey, None, cancel, job).await;
                panic!("a run ended that was to wait: {run:?}");
            });
        }
        started = wanted;
    }
}

/// As many open files as the system lets us have: one for each connection.
fn allow_files() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}
