//! A steady agent, watched by strace: what may wait for a file system or starts a process is never called on a thread that
//! probes. Needs root, or the right to trace a child.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt as _,
    process::Stdio,
};

use imaptrace::demo::{Delays, DemoServer, DemoSettings};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tokio::{io::AsyncReadExt as _, process::Command};

use crate::{
    blocked::{accounts, status, until},
    support::{
        otlp::Receiver,
        program::{Program, free_port},
    },
};

/// All calls that take the name of a file, list a directory, or start a process or a thread; and one by which it shows that a
/// thread is watched.
const CALLS: &str = "trace=%file,getdents,getdents64,fork,vfork,clone,clone3,connect";
/// Threads that probe, besides the first one.
const WORKERS: usize = 2;
/// Runs of each target that are watched.
const RUNS: usize = 4;

/// The threads of a process: number and name.
fn threads(process: u32) -> BTreeMap<u32, String> {
    let mut threads = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{process}/task")).unwrap() {
        let path = entry.unwrap().path();
        // One may have ended by now.
        let Ok(name) = fs::read_to_string(path.join("comm")) else { continue };
        threads.insert(path.file_name().unwrap().to_str().unwrap().parse().unwrap(), name.trim_end().to_owned());
    }
    threads
}

/// The traces of all runs that the agent shows, by target.
fn runs(status: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let of = |account: &Value| {
        let runs = account["runs"].as_array().unwrap().iter();
        runs.map(|run| run["trace_id"].as_str().unwrap().to_owned()).collect()
    };
    accounts(status, "").into_iter().map(|one| (one["target"].as_str().unwrap().to_owned(), of(one))).collect()
}

/// A call as strace writes it, when it begins.
struct Call<'a> {
    thread: u32,
    name: &'a str,
    arguments: &'a str,
}

impl<'a> Call<'a> {
    fn of(line: &'a str) -> Option<Self> {
        let (thread, rest) = line.split_once(' ')?;
        let (name, arguments) = rest.trim_start().split_once('(')?;
        name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_').then_some(())?;
        Some(Self { thread: thread.parse().ok()?, name, arguments })
    }

    fn path(&self) -> Option<&'a str> {
        self.arguments.split('"').nth(1)
    }

    /// Whether a thread that probes may not make it. OpenSSL looks for a root in its hashed directory on the thread of the
    /// handshake, by names that are below `/proc`.
    fn is_fault(&self) -> bool {
        match self.name {
            "connect" | "getcwd" => false,
            "clone" | "clone3" => !self.arguments.contains("CLONE_THREAD"),
            "fork" | "vfork" | "execve" | "getdents" | "getdents64" => true,
            _ => !self.path().is_some_and(|path| path.starts_with("/proc/")),
        }
    }
}

/// What these threads may not call. What one of them has opened below `/proc` it may ask about, as the C library does when it
/// reads a file.
fn faults<'a>(trace: &'a str, threads: &BTreeSet<u32>) -> Vec<&'a str> {
    let (mut faults, mut opening, mut opened) = <(Vec<_>, BTreeSet<u32>, BTreeSet<(u32, &str)>)>::default();
    for line in trace.lines() {
        let Some(thread) = line.split(' ').next().and_then(|id| id.parse().ok()) else { continue };
        if !threads.contains(&thread) {
            continue;
        }
        if let Some(call) = Call::of(line) {
            let asked = call.arguments.split(',').next().unwrap_or_default();
            let is_own = call.path() == Some("") && opened.contains(&(thread, asked));
            if call.is_fault() && !is_own {
                faults.push(line);
            } else if call.name.starts_with("open") {
                opening.insert(thread);
            }
        }
        // At once, or on the line that says that it was resumed.
        if !line.contains("<unfinished") && opening.remove(&thread) {
            let descriptor = line.rsplit_once(" = ").map_or("", |(_, value)| value.trim());
            opened.insert((thread, descriptor));
        }
    }
    faults
}

#[test]
fn forbidden_calls_are_distinguished_from_allowed_ones() {
    for (lines, expected) in [
        (r#"7 openat(AT_FDCWD, "/etc/hosts", O_RDONLY) = 3"#, true),
        (r#"7 openat(AT_FDCWD, "/proc/7/fd/3/8d33f237.0", O_RDONLY) = 3"#, false),
        (r#"7 statx(AT_FDCWD, "a", 0, <unfinished ...>"#, true),
        (r#"7 newfstatat(3, "", {st_mode=S_IFREG}, AT_EMPTY_PATH) = 0"#, true),
        ("7 openat(AT_FDCWD, \"/proc/a\", 0) = 3\n7 newfstatat(3, \"\", {}, AT_EMPTY_PATH) = 0", false),
        ("7 openat(AT_FDCWD, \"/proc/a\", 0) = 3\n7 newfstatat(4, \"\", {}, AT_EMPTY_PATH) = 0", true),
        (
            "7 openat(AT_FDCWD, \"/proc/a\", 0 <unfinished ...>\n8 vfork()\n7 <... openat resumed>) = 3\n\
             7 newfstatat(3, \"\",  <unfinished ...>",
            false,
        ),
        ("7 getdents64(3, [], 32768) = 0", true),
        ("7 clone(child_stack=0x7, flags=CLONE_VM|CLONE_VFORK|SIGCHLD) = 9", true),
        ("7 clone3({flags=CLONE_VM|CLONE_THREAD, stack=0x7}, 88) = 9", false),
        ("7 vfork( <unfinished ...>", true),
        ("8 vfork( <unfinished ...>", false),
        ("7 +++ exited with 0 +++", false),
    ] {
        assert_eq!(!faults(lines, &BTreeSet::from([7])).is_empty(), expected, "{lines}");
    }
}

#[test]
fn a_steady_agent_touches_no_file_and_starts_no_process_on_a_thread_that_probes() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let receiver = Receiver::http();
    runtime.block_on(async {
        let settings = |tls| DemoSettings { tls, messages: 40, delays: Delays::NONE, ..DemoSettings::default() };
        let clear = DemoServer::start(settings(false)).await.unwrap();
        let tls = DemoServer::start(settings(true)).await.unwrap();
        let listen = free_port();
        let program = Program::new(["agent", "--config", "imaptrace.toml"]);
        let home = program.home().to_owned();
        fs::copy(tls.ca_file(), home.join("ca.pem")).unwrap();
        fs::write(home.join("password"), "demo").unwrap();
        fs::set_permissions(home.join("password"), fs::Permissions::from_mode(0o600)).unwrap();
        let mut config = format!(
            "[agent]\nlog_format = \"json\"\n[http]\nlisten = \"127.0.0.1:{listen}\"\nhistory = 20\n[state]\ndir = \"state\"\n\
             [limits]\nlogins_per_second_per_server = 0\n\
             [otlp]\nendpoint = \"{}\"\nprotocol = \"http/protobuf\"\n",
            receiver.url()
        );
        let (file, command) = ("{ file = \"password\" }", "{ command = [\"/bin/echo\", \"demo\"] }");
        let targets = [
            ("clear file", &clear, false, file, ""),
            ("clear command", &clear, false, command, ""),
            ("system's roots", &tls, true, file, ""),
            ("roots of its own", &tls, true, command, "ca_file = \"ca.pem\"\n"),
        ];
        for (name, server, is_tls, password, more) in targets {
            let (scheme, security) = if is_tls { ("imaps", "") } else { ("imap", "security = \"none\"\n") };
            config += format!(
                "[[targets]]\nname = \"{name}\"\nurl = \"{scheme}://demo@localhost:{}\"\npassword = {password}\n\
                 address = \"v4\"\ninterval = \"1s\"\ntimeout = \"900ms\"\n{security}{more}",
                server.address().port()
            ).as_str();
        }
        fs::write(home.join("imaptrace.toml"), config).unwrap();
        let bundle = home.join("ca.pem");
        let program = program.env("SSL_CERT_FILE", bundle).env("TOKIO_WORKER_THREADS", WORKERS.to_string());
        let agent = program.start();
        let process = agent.id().unwrap();

        let before = until("each target has passed", async || {
            let status = status(listen).await?;
            let all = accounts(&status, "");
            let passed = |one: &&Value| one["runs"].as_array().unwrap().iter().any(|run| run["outcome"] == "passed");
            (all.len() == targets.len() && all.iter().all(passed)).then(|| runs(&status))
        })
        .await;
        let calls = home.join("calls");
        let mut strace = Command::new("strace")
            .args(["-f", "-q", "-s", "300", "-e", CALLS, "-o"])
            .arg(&calls)
            .args(["-p", &process.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("this test needs strace");
        let mut seen = threads(process);
        until("each target has run often under strace", async || {
            assert!(strace.try_wait().unwrap().is_none(), "strace has ended");
            seen.extend(threads(process));
            let now = runs(&status(listen).await?);
            let new = |(name, runs): (&String, &BTreeSet<String>)| runs.difference(&before[name]).count();
            now.iter().all(|one| new(one) >= 2 * RUNS).then_some(())
        })
        .await;
        seen.extend(threads(process));
        kill(Pid::from_raw(i32::try_from(strace.id().unwrap()).unwrap()), Signal::SIGINT).unwrap();
        let mut said = String::new();
        strace.stderr.take().unwrap().read_to_string(&mut said).await.unwrap();
        strace.wait().await.unwrap();
        // Its home goes with it.
        let text = fs::read_to_string(&calls).unwrap();
        agent.signal(Signal::SIGTERM);
        let output = agent.finish().await;
        assert_eq!(output.code, Some(0), "{output:?}");

        // No other thread has the name of those that probe, and none of these comes or goes.
        let named = |name: &str| seen.iter().filter(|(_, known)| *known == name).map(|(id, _)| *id).collect::<BTreeSet<_>>();
        let mut probing = named("probe");
        assert_eq!(probing.len(), WORKERS, "{seen:?}");
        probing.insert(process);
        assert_eq!(named("delivery").len(), 1, "{seen:?}");
        let mut watched: BTreeSet<_> = probing.clone();
        watched.extend(named("delivery"));
        watched.extend(named("status"));
        let faults = faults(&text, &watched);
        assert!(faults.is_empty(), "on {watched:?} of {seen:?}: {faults:#?}");
        // It was watched indeed.
        let all: Vec<_> = text.lines().filter_map(Call::of).collect();
        let count = |threads: &BTreeSet<u32>, is_so: fn(&Call<'_>) -> bool| {
            all.iter().filter(|call| threads.contains(&call.thread) && is_so(call)).count()
        };
        let blocking = named("blocking");
        assert!(count(&probing, |call| call.name == "connect") >= targets.len() * RUNS, "{said}");
        assert!(count(&probing, |call| call.name == "openat") > 0, "OpenSSL reads its roots: {said}");
        let secret = |call: &Call<'_>| call.name == "openat" && call.path().is_some_and(|path| path.ends_with("password"));
        assert!(count(&blocking, secret) >= RUNS, "{said}");
        let program = |call: &Call<'_>| matches!(call.name, "vfork" | "fork" | "clone" | "clone3") && call.is_fault();
        assert!(count(&blocking, program) >= RUNS, "{said}");
    });
}
