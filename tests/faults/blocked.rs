//! An agent with something that it depends on and that does not answer: what else it does goes on, and it ends in time.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use imaptrace::demo::{Delays, DemoServer, DemoSettings};
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    hung::HungMount,
    support::program::{Program, Running, free_port},
};

/// Targets whose secrets never come.
const HUNG: usize = 600;
/// Targets beside them.
const WELL: usize = 20;
/// Runs of each of these that are waited for.
const RUNS: usize = 10;

/// A target of the demo's server with its password in a file.
fn target(name: &str, host: &str, password: &Path, interval: &str) -> String {
    format!(
        "[[targets]]\nname = \"{name}\"\nurl = \"imap://demo@{host}\"\nsecurity = \"none\"\n\
         password = {{ file = \"{}\" }}\ninterval = \"{interval}\"\ntimeout = \"900ms\"\n",
        password.display()
    )
}

/// What the agent tells of itself.
pub(crate) async fn status(port: u16) -> Option<Value> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let request = format!("GET /status.json HTTP/1.0\r\nHost: localhost:{port}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
}

/// Whether the process has called exit. One of its threads may still be in a call.
pub(crate) fn has_exited(id: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    status.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with(['Z', 'X']))
}

/// Asks until there is an answer; what never comes fails the test.
pub(crate) async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..1_200 {
        if let Some(answer) = ask().await {
            return answer;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("after two minutes still not so: {what}");
}

/// What became of the targets whose names begin so.
pub(crate) fn accounts<'a>(status: &'a Value, start: &str) -> Vec<&'a Value> {
    let all = status["accounts"].as_array().unwrap().iter();
    all.filter(|account| account["target"].as_str().unwrap().starts_with(start)).collect()
}

#[test]
fn six_hundred_secrets_on_a_mount_that_hangs_delay_no_other_run_and_not_the_exit() {
    let home = tempfile::tempdir().unwrap();
    let hung = home.path().join("hung");
    fs::create_dir(&hung).unwrap();
    let mount = HungMount::on(&hung);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let settings = DemoSettings { tls: false, messages: 40, delays: Delays::NONE, ..DemoSettings::default() };
        let server = DemoServer::start(settings).await.unwrap();
        let password = home.path().join("password");
        fs::write(&password, "demo").unwrap();
        fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
        let listen = free_port();
        let mut config = format!("[limits]\nruns_in_flight_per_server = 40\nlogins_per_second_per_server = 0\n[agent]\nlog_format = \"json\"\n[http]\nlisten = \"127.0.0.1:{listen}\"\nhistory = 20\n");
        for number in 0..HUNG {
            let path = hung.join(format!("directory{number}/password"));
            // Each on a server of its own, whom nobody asks.
            let name = format!("hung{number}");
            config += &target(&name, &format!("{name}.example"), &path, "10s");
        }
        for number in 0..WELL {
            // Some by way of a link, on whose own mount all is well.
            let path = if number % 2 == 0 { password.clone() } else { home.path().join("link") };
            config += &target(&format!("well{number}"), &server.address().to_string(), &path, "1s");
        }
        std::os::unix::fs::symlink("password", home.path().join("link")).unwrap();
        let program = Program::new(["agent", "--config", "imaptrace.toml"]);
        fs::write(program.home().join("imaptrace.toml"), config).unwrap();
        let agent = program.start();

        let status = until("each target has run", async || {
            let status = status(listen).await?;
            let all_ran = accounts(&status, "well").iter().all(|one| one["runs"].as_array().unwrap().len() >= RUNS)
                && accounts(&status, "hung").iter().all(|one| one["state"] != "never");
            all_ran.then_some(status)
        })
        .await;
        let (well, hung) = (accounts(&status, "well"), accounts(&status, "hung"));
        assert_eq!((well.len(), hung.len()), (WELL, HUNG));
        for account in well {
            assert_eq!(account["skipped"], 0, "{account}");
            let runs = account["runs"].as_array().unwrap();
            assert!(runs.iter().all(|run| run["outcome"] == "passed"), "{account}");
        }
        for account in hung {
            assert_eq!(account["skipped"], 0, "{account}");
            let runs = account["runs"].as_array().unwrap();
            assert!(runs.iter().all(|run| run["error_type"] == "secret_unavailable"), "{account}");
        }
        assert_eq!(status["live"], true, "{}", status["reasons"]);
        // Not one for each target: the mount's few threads are held, and no others.
        assert!((1..=8).contains(&mount.taken()), "{} questions", mount.taken());
        ends(&agent, listen).await;
        drop(mount);
        drop(agent);
    });
}

/// Tells the agent to stop, and waits until it has called exit, with its sockets closed.
async fn ends(agent: &Running, listen: u16) {
    let id = agent.id().unwrap();
    agent.signal(Signal::SIGTERM);
    until("it has called exit", async || has_exited(id).then_some(())).await;
    assert!(TcpStream::connect(("127.0.0.1", listen)).await.is_err(), "its socket is open");
}

/// Waits until the program has called exit. It cannot be waited for as other programs are: one of its threads is in a call.
async fn exited(program: &Running) {
    let id = program.id().unwrap();
    until("it has called exit", async || has_exited(id).then_some(())).await;
}

/// Whether a thread of the process is in a call that cannot be broken off.
fn is_in_a_call(id: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    tasks
        .filter_map(|task| fs::read_to_string(task.path().join("stat")).ok())
        .any(|stat| stat.contains("(blocking) D "))
}

#[test]
fn a_configuration_on_a_mount_that_hangs_ends_the_start_by_its_name() {
    let home = tempfile::tempdir().unwrap();
    let hung = home.path().join("hung");
    fs::create_dir(&hung).unwrap();
    let mount = HungMount::on(&hung);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let main = hung.join("imaptrace.toml");
        let mut programs = Vec::new();
        let mut start = |config: &Path, named: &Path| {
            for command in ["agent", "check"] {
                programs
                    .push((named.to_owned(), Program::new([command, "--config", config.to_str().unwrap()]).start()));
            }
        };
        start(&main, &main);
        for (name, named) in [("targets.json", "targets.json"), ("targets/*.json", "targets")] {
            let config = home.path().join(format!("{named}.toml"));
            let group = "[[groups]]\nname = \"g\"\nuser = \"u\"\npassword = { env = \"X\" }\n";
            fs::write(&config, format!("targets_from = [\"{}\"]\n{group}", hung.join(name).display())).unwrap();
            start(&config, &hung.join(named));
        }
        for (named, mut program) in programs {
            let line = program.stderr_line(named.to_str().unwrap()).await;
            assert!(line.contains("did not answer in time"), "{line}");
            exited(&program).await;
        }
        // A signal is not kept waiting either.
        let program = Program::new(["agent", "--config", main.to_str().unwrap()]).start();
        let id = program.id().unwrap();
        until("it has begun to read", async || is_in_a_call(id).then_some(())).await;
        program.signal(Signal::SIGTERM);
        exited(&program).await;
        drop(mount);
    });
}
