//! What the agent tells of itself: over HTTP to whoever asks, and to systemd.

use std::{
    fs,
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr},
    os::unix::net::UnixDatagram,
    path::PathBuf,
    sync::{Arc, mpsc},
    time::Duration,
};

use imaptrace::{
    agent::{self, StatusSettings},
    config,
    status::{ConfigStatus, Facts, HistoryDepth, Identity, RunHistory, StatusServer},
};
use imaptrace_record::{Seconds, Timestamp};
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::oneshot,
    time::{sleep, timeout},
};

use crate::{
    agent::{otlp, runtime, stop, target},
    command_line::{Listener, REFUSED},
    support::{
        otlp::BlackHole,
        program::{Program, free_port},
        script::Script,
    },
};

/// Long past anything that is waited for here.
const PATIENCE: Duration = Duration::from_secs(60);

/// No output may hold it.
const PASSWORD: &str = "planted-51d0";

// === Over HTTP ===

/// Asks, and gives the answer's code and body; none when nobody answers.
async fn try_get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost:{}\r\n\r\n", address.port());
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    try_get(address, path).await.unwrap_or_else(|| panic!("no answer to {path}"))
}

async fn status_json(address: SocketAddr, query: &str) -> Value {
    let (code, body) = get(address, &format!("/status.json{query}")).await;
    assert_eq!(code, 200, "{body}");
    assert!(!body.contains("someone") && !body.contains(PASSWORD) && !body.contains("<script>"), "{body}");
    serde_json::from_str(&body).unwrap()
}

/// Asks for the whole status until it is as wanted.
async fn wait_for(address: SocketAddr, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let until = async {
        loop {
            let status = status_json(address, "").await;
            if wanted(&status) {
                return status;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, until).await.unwrap_or_else(|_| panic!("still not so: {what}"))
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn loaded(text: &str, home: &tempfile::TempDir) -> config::Config {
    let file = home.path().join("imaptrace.toml");
    let command = format!("{{ command = [\"echo\", \"{PASSWORD}\"] }}");
    fs::write(&file, text.replace("{ env = \"PROBE\" }", &command)).unwrap();
    config::load(&config::Sources { file: Some(file), ..config::Sources::default() }).unwrap()
}

#[test]
fn status_shows_what_was_found_and_no_secret_user_or_words_of_a_server() {
    let runtime = runtime();
    runtime.block_on(async {
        let (good, bad) = (Listener::willing().await, REFUSED.replace("no such luck", "<script>someone</script>"));
        let bad = Script::play(&bad).await;
        let (home, address) = (tempfile::tempdir().unwrap(), loopback(free_port()));
        let mut text = target("good", good.address, "500ms", "400ms") + &target("bad", bad.address, "1s", "900ms");
        text += &target("idle", good.address, "24h", "400ms");
        let config = loaded(&text, &home);
        let file = Some(home.path().join("imaptrace.toml"));
        let settings = StatusSettings { listen: Some(address), file, ..StatusSettings::default() };
        let (stop, stopped) = oneshot::channel::<()>();
        let agent = tokio::spawn(agent::serve(async { drop(stopped.await) }, config, settings));
        timeout(PATIENCE, async {
            while try_get(address, "/ready").await.is_none_or(|(code, _)| code != 200) {
                sleep(Duration::from_millis(50)).await;
            }
        })
        .await
        .expect("it never was ready");
        assert_eq!(get(address, "/live").await, (200, "{\"live\":true}\n".to_owned()));
        assert!(get(address, "/").await.1.contains("/status.json"));

        let is = |status: &Value, target: &str, state: &str| {
            let accounts = status["accounts"].as_array().unwrap().iter();
            accounts.filter(|one| one["target"] == target && one["state"] == state).count() == 1
        };
        let status = wait_for(address, "good passed, bad failed", |status| {
            is(status, "good", "passed") && is(status, "bad", "failed")
        })
        .await;
        assert_eq!((&status["schema"], &status["live"], &status["ready"]), (&1.into(), &true.into(), &true.into()));
        assert_eq!(status["states"], serde_json::json!({ "passed": 1, "failed": 1, "void": 0, "never": 1 }));
        assert_eq!((&status["schedule"]["targets"], &status["schedule"]["accounts"]), (&3.into(), &3.into()));
        assert!(status["schedule"]["start_lag"]["runs"].as_u64().unwrap() >= 2, "{status}");
        assert!(status["config"]["file"].as_str().unwrap().ends_with("/imaptrace.toml"), "{status}");

        let failed = status_json(address, "?state=failed").await;
        let [bad] = &failed["accounts"].as_array().unwrap()[..] else { panic!("{failed}") };
        let run = bad["runs"].as_array().unwrap().last().unwrap();
        assert_eq!((&run["error_type"], &run["failed_step"]), (&"auth_failed".into(), &"LOGIN".into()));
        assert_eq!((&run["code"], &run["outcome"]), (&"AUTHENTICATIONFAILED".into(), &"failed".into()));
        assert_eq!(run["trace_id"].as_str().unwrap().len(), 32);
        let one = status_json(address, "?target=good&runs=1").await;
        let [good] = &one["accounts"].as_array().unwrap()[..] else { panic!("{one}") };
        assert_eq!(good["runs"].as_array().unwrap().len(), 1);
        assert!(good["runs"][0]["duration_s"].as_f64().unwrap() > 0.0, "{good}");
        drop(stop);
        agent.await.unwrap().unwrap();
        assert_eq!(try_get(address, "/live").await, None, "the listener ends with the agent");
    });
}

#[test]
fn it_is_not_ready_while_it_stops_and_says_so() {
    let runtime = runtime();
    // Whoever delivers to this takes seconds to end.
    let silence = BlackHole::open();
    runtime.block_on(async {
        let mut stuck = Listener::silent_at("LIST").await;
        let (home, address) = (tempfile::tempdir().unwrap(), loopback(free_port()));
        let text = otlp(&silence.url(), "http/protobuf") + &target("stuck", stuck.address, "4s", "3900ms");
        let config = loaded(&text, &home);
        let settings = StatusSettings { listen: Some(address), ..StatusSettings::default() };
        let (stop, stopped) = oneshot::channel::<()>();
        let agent = tokio::spawn(agent::serve(async { drop(stopped.await) }, config, settings));
        stuck.wait_for_command("LIST", 1).await;
        let status = wait_for(address, "a run is under way", |status| status["schedule"]["in_flight"] == 1).await;
        assert_eq!((&status["ready"], status.get("reasons")), (&true.into(), None));
        drop(stop);
        let mut said = Vec::new();
        while let Some((code, body)) = try_get(address, "/ready").await {
            if code == 503 {
                assert_eq!(get(address, "/live").await.0, 200, "what stops still lives");
                said.push(body);
                break;
            }
        }
        let expected = "{\"ready\":false,\"reasons\":[\"it is stopping: no more runs start\"]}\n";
        assert_eq!(said, [expected]);
        agent.await.unwrap().unwrap();
    });
}

/// A listener with nothing to tell.
fn bare(listen: SocketAddr) -> std::io::Result<StatusServer> {
    let at = Timestamp::from_epoch_seconds(1_795_434_000).unwrap();
    let identity = Identity { version: "0", instance: None, started_at: at };
    let config = ConfigStatus { file: None, loaded_at: at, last_reload: None };
    StatusServer::start(listen, Arc::new(RunHistory::new(HistoryDepth::default())), identity, move || Facts {
        at,
        uptime: Seconds::ZERO,
        not_live: Vec::new(),
        not_ready: Vec::new(),
        warnings: Vec::new(),
        in_flight: 0,
        config: config.clone(),
        delivery: None,
        server_events: None,
    })
}

#[tokio::test]
async fn silent_peers_keep_no_other_peer_out() {
    let server = bare(loopback(0)).unwrap();
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(server.address()).await.unwrap());
    }
    assert_eq!(get(server.address(), "/live").await.0, 200);
    // The first of them had to make room, the last did not.
    for (number, answered) in [(0, false), (99, true)] {
        let stream = &mut silent[number];
        // What has been closed may take this, or not.
        drop(stream.write_all(b"GET /live HTTP/1.0\r\n\r\n").await);
        let mut answer = Vec::new();
        drop(timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap());
        assert_eq!(answer.starts_with(b"HTTP/1.0 200"), answered, "{number}: {}", answer.escape_ascii());
    }
}

#[tokio::test]
async fn what_is_no_request_gets_no_more_than_a_refusal() {
    let server = bare(loopback(0)).unwrap();
    let requests: [&[u8]; 6] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /live HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"GET /live HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /\x00live HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /live HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ];
    for request in requests {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        drop(timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap());
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let refused = answer.is_empty() || answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.0 4");
        assert!(refused && answer.len() < 1_000, "{} to {}", answer, request.escape_ascii());
    }
    assert_eq!(get(server.address(), "/live").await.0, 200);
}

#[test]
fn an_address_that_is_taken_keeps_nothing_from_being_probed() {
    let runtime = runtime();
    runtime.block_on(async {
        let server = bare(loopback(0)).unwrap();
        assert_eq!(bare(server.address()).unwrap_err().kind(), ErrorKind::AddrInUse);
        let (mut mail, home) = (Listener::willing().await, tempfile::tempdir().unwrap());
        let config = loaded(&target("mail", mail.address, "400ms", "300ms"), &home);
        let settings = StatusSettings { listen: Some(server.address()), ..StatusSettings::default() };
        let (stop, stopped) = oneshot::channel::<()>();
        let agent = tokio::spawn(agent::serve(async { drop(stopped.await) }, config, settings));
        mail.wait_for_command("LOGOUT", 1).await;
        drop(stop);
        agent.await.unwrap().unwrap();
    });
}

// === To systemd ===

/// A socket as systemd has it, read all the time: it holds no more than some ten messages.
struct Systemd {
    heard: mpsc::Receiver<String>,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Systemd {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let (stop, heard) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 1024];
            while let Ok(length) = socket.recv(&mut buffer) {
                let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
                if text == END || stop.send(text).is_err() {
                    return;
                }
            }
        });
        Self { heard, path, _folder: directory }
    }

    fn receive(&self) -> String {
        self.heard.recv_timeout(PATIENCE).expect("no further notification to systemd")
    }

    /// Waits until it receive what begins so, and gives that.
    fn receive_until(&self, what: &str) -> String {
        loop {
            let heard = self.receive();
            if heard.starts_with(what) {
                return heard;
            }
        }
    }

    /// All notifications that have not been received yet, once the agent has ended.
    fn rest(self) -> Vec<String> {
        UnixDatagram::unbound().unwrap().send_to(END.as_bytes(), &self.path).unwrap();
        self.heard.iter().collect()
    }
}

/// What the test tells itself last.
const END: &str = "END";

#[test]
fn systemd_is_notified_of_ready_watchdog_and_stopping() {
    let runtime = runtime();
    let systemd = Systemd::new();
    let (agent, mut server) = runtime.block_on(async {
        let server = Listener::willing().await;
        // A password command that saw systemd's variables could speak for the agent.
        let secret = "{ command = [\"sh\", \"-c\", \"test -z \\\"$NOTIFY_SOCKET$WATCHDOG_USEC\\\" && echo x\"] }";
        let config = target("mail", server.address, "400ms", "300ms").replace("{ env = \"PROBE\" }", secret);
        let program = Program::new(["agent", "--config", "imaptrace.toml"]);
        fs::write(program.home().join("imaptrace.toml"), format!("[agent]\nlog_format = \"json\"\n{config}")).unwrap();
        (program.env("NOTIFY_SOCKET", &systemd.path).env("WATCHDOG_USEC", "100000").start(), server)
    });
    assert_eq!(systemd.receive_until("READY=1"), "READY=1\nSTATUS=1 target, 0 failing");
    for _ in 0..3 {
        systemd.receive_until("WATCHDOG=1");
    }
    runtime.block_on(server.wait_for_command("LOGIN", 2));
    runtime.block_on(stop(agent, Signal::SIGTERM));
    let rest = systemd.rest();
    let stopping: Vec<_> = rest.iter().filter(|details| details.starts_with("STOPPING=1\nSTATUS=stopping")).collect();
    assert_eq!(stopping.len(), 1, "{rest:?}");
    assert!(!rest.iter().any(|details| details.contains("READY=1")), "{rest:?}");
}

#[test]
fn the_status_for_systemd_counts_failing_targets_and_is_not_sent_before_the_agent_is_ready() {
    let runtime = runtime();
    let systemd = Systemd::new();
    let agent = runtime.block_on(async {
        let program = Program::new(["agent", "--config", "imaptrace.toml"]).env("PROBE", PASSWORD);
        let config = target("gone", loopback(1), "400ms", "300ms");
        fs::write(program.home().join("imaptrace.toml"), format!("[agent]\nlog_format = \"json\"\n{config}")).unwrap();
        program.env("NOTIFY_SOCKET", &systemd.path).start()
    });
    assert!(systemd.receive().starts_with("READY=1\n"), "the first thing it receive");
    assert_eq!(systemd.receive_until("STATUS="), "STATUS=1 target, 1 failing");
    runtime.block_on(stop(agent, Signal::SIGTERM));
    assert!(!systemd.rest().iter().any(|details| details.contains("WATCHDOG")), "nobody asked for a watchdog");
}

#[test]
fn systemd_is_notified_of_a_reload_and_of_its_end_whether_it_succeeded_or_not() {
    let runtime = runtime();
    let systemd = Systemd::new();
    let (agent, home) = runtime.block_on(async {
        let program = Program::new(["agent", "--config", "imaptrace.toml"]).env("PROBE", PASSWORD);
        let home = program.home().to_owned();
        let config = target("gone", loopback(1), "24h", "300ms");
        fs::write(home.join("imaptrace.toml"), format!("[agent]\nlog_format = \"json\"\n{config}")).unwrap();
        (program.env("NOTIFY_SOCKET", &systemd.path).start(), home)
    });
    assert_eq!(systemd.receive_until("READY=1"), "READY=1\nSTATUS=1 target, 0 failing");
    let more = target("gone", loopback(1), "24h", "300ms") + &target("more", loopback(1), "24h", "300ms");
    for (config, expected) in [("nothing = 1\n".to_owned(), "1 target"), (more, "2 targets")] {
        fs::write(home.join("imaptrace.toml"), format!("[agent]\nlog_format = \"json\"\n{config}")).unwrap();
        agent.signal(Signal::SIGHUP);
        assert!(systemd.receive_until("RELOADING=1").starts_with("RELOADING=1\nMONOTONIC_USEC="));
        assert_eq!(systemd.receive_until("READY=1"), format!("READY=1\nSTATUS={expected}, 0 failing"));
    }
    runtime.block_on(stop(agent, Signal::SIGTERM));
}

// === In the log ===

#[test]
fn lines_for_the_journal_bear_their_priority_and_those_for_another_stream_do_not() {
    let runtime = runtime();
    for (journal, expected) in [(true, "<4>"), (false, "2")] {
        let home = tempfile::tempdir().unwrap();
        let log = home.path().join("log");
        let (file, config) = (fs::File::create(&log).unwrap(), home.path().join("imaptrace.toml"));
        fs::write(&config, target("gone", loopback(1), "500ms", "300ms")).unwrap();
        let stream = nix::sys::stat::fstat(&file).unwrap();
        let inode = if journal { stream.st_ino } else { stream.st_ino + 1 };
        let mut agent = std::process::Command::new(env!("CARGO_BIN_EXE_imaptrace"))
            .args(["agent".as_ref(), "--config".as_ref(), config.as_os_str()])
            .env_clear()
            .env("PROBE", PASSWORD)
            .env("JOURNAL_STREAM", format!("{}:{inode}", stream.st_dev))
            .stderr(file)
            .spawn()
            .unwrap();
        let until = async {
            loop {
                let text = fs::read_to_string(&log).unwrap();
                if let Some(line) = text.lines().find(|line| line.contains("connect_refused")) {
                    return line.to_owned();
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        let found = runtime.block_on(async { timeout(PATIENCE, until).await });
        agent.kill().unwrap();
        agent.wait().unwrap();
        assert!(found.expect("no line of the failed run").starts_with(expected), "{journal}");
    }
}

#[test]
fn a_skip_by_a_maintenance_window_is_logged_with_the_name_of_the_window() {
    let runtime = runtime();
    let mut agent = runtime.block_on(async {
        let program =
            Program::new(["agent", "--config", "imaptrace.toml"]).env("PROBE", PASSWORD).env("RUST_LOG", "debug");
        let agent = "[agent]\nlog_format = \"json\"\n";
        let windows = "[[windows]]\nname = \"new disks\"\nfrom = \"00:00\"\n";
        let config = agent.to_owned() + &target("gone", loopback(1), "500ms", "300ms") + windows;
        fs::write(program.home().join("imaptrace.toml"), config).unwrap();
        program.start()
    });
    let line = runtime.block_on(agent.stderr_line("maintenance window"));
    assert!(line.contains("\"window\":\"new disks\""), "{line}");
    runtime.block_on(stop(agent, Signal::SIGTERM));
}
