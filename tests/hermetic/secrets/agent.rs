//! The agent: its log, its pages, its files, its telemetry, and its memory.

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use nix::{sys::signal::Signal, unistd::geteuid};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{PLACES, TOKEN, TRACE, at_place, leaks, look, look_at_receiver, planted, private, said_back, toml};
use crate::{
    agent::{runtime, target},
    command_line::Listener,
    support::{
        leaks::Leaks,
        otlp::{Answer, Receiver},
        program::{Program, free_port, wait_until},
        script::Script,
    },
};

async fn get(port: u16, path: &str) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost:{port}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok()?;
    Some(answer)
}

/// A server for each planted user that says something else back at each place, the files that their passwords are in, and the
/// targets' part of a configuration.
async fn targets(home: &Path) -> (Vec<Script>, String) {
    let (mut servers, mut config) = (Vec::new(), String::new());
    for (number, who) in planted().iter().enumerate() {
        let said = said_back(who);
        let part = |(place, script): (usize, &&str)| at_place(script, &said[(place * 3 + number) % said.len()]);
        let parts: Vec<_> = PLACES.iter().enumerate().map(part).collect();
        let server = Script::play(&parts.join("next\n")).await;
        let file = private(home, &format!("password-{number}"), &who.password);
        let source = match number {
            0 => format!("{{ file = {} }}", toml(&file)),
            1 => format!("{{ command = [\"cat\", {}] }}", toml(&file)),
            2 => "{ env = \"MINE\" }".to_owned(),
            _ => format!("{{ credential = \"password-{number}\" }}"),
        };
        write!(
            config,
            "[[targets]]\nname = \"t{number}\"\nurl = \"imap://{}\"\nsecurity = \"none\"\nuser = {}\n\
             password = {source}\ninterval = \"200ms\"\ntimeout = \"190ms\"\n",
            server.address,
            toml(&who.user)
        )
        .unwrap();
        servers.push(server);
    }
    (servers, config)
}

fn look_at_files(leaks: &Leaks, directory: &Path) {
    for path in files(directory) {
        // The agent may have done with one meanwhile.
        leaks.look("files of the state directory", fs::read(path).unwrap_or_default());
    }
}

#[test]
fn the_agent_tells_neither_in_log_status_queue_and_telemetry_and_replay_does_not_either() {
    let (leaks, runtime, receiver, port) = (leaks(), runtime(), Receiver::http(), free_port());
    receiver.script(&[Answer::Unavailable, Answer::Invalid, Answer::Invalid, Answer::Unavailable]);
    let program = Program::new(["agent", "--config", "imaptrace.toml"]);
    let (home, state) = (program.home().to_owned(), program.home().join("state"));
    let (servers, targets) = runtime.block_on(targets(&home));
    let good = format!(
        "[agent]\nlog_format = \"json\"\nlog_level = \"debug\"\n[http]\nlisten = \"127.0.0.1:{port}\"\n\
         [otlp]\nendpoint = \"{}\"\nprotocol = \"http/protobuf\"\ncompression = \"gzip\"\n\
         headers = {{ x-key = {{ env = \"KEY\" }} }}\n[metrics]\nexport_interval = \"500ms\"\n\
         [state]\ndir = \"{}\"\n{targets}",
        receiver.url(),
        state.display(),
    );
    let config = private(&home, "imaptrace.toml", &good);
    let program = program.env("KEY", TOKEN).env("MINE", &planted()[2].password);
    let program = program.env("CREDENTIALS_DIRECTORY", &home).env("RUST_LOG", TRACE);
    let mut agent = runtime.block_on(async { program.start() });
    runtime.block_on(async {
        for server in servers {
            server.heard().await;
        }
        for path in ["/", "/status.json", "/status.json?runs=50", "/live", "/ready", "/metrics", "/nothing"] {
            leaks.look("pages of the agent", get(port, path).await.unwrap());
        }
    });
    receiver.wait(|inbox| inbox.metrics.len() >= 3 && inbox.traces.len() > 6);
    // What was refused is a dead letter, and what waits is in the queue.
    drop(wait_until("dead letters", || fs::read_dir(state.join("refused")).ok()?.next()));
    let aside: Vec<_> = fs::read_dir(state.join("refused")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let wrong = format!(
        "{good}[[targets]]\nname = \"b\"\nurl = \"imaps://b\"\nuser = \"u\"\npassword = {}\n",
        toml(&planted()[1].password)
    );
    fs::write(&config, wrong).unwrap();
    runtime.block_on(async {
        agent.signal(Signal::SIGHUP);
        agent.stderr_line("cannot be in the configuration").await;
        leaks.look("pages of the agent", get(port, "/status.json").await.unwrap());
    });
    look_at_receiver(&leaks, &receiver);
    // So that something is in the queue at the end.
    let _closed = receiver.kill();
    runtime.block_on(agent.stderr_line("cannot deliver"));
    wait_until("runs wait on disk", || files(&state.join("queue")).pop());
    look_at_files(&leaks, &state);
    for format in ["text", "list", "json", "markdown"] {
        let show = Program::new(["show", state.to_str().unwrap(), "--all", "--output", format]);
        let shown = runtime.block_on(async { show.env("RUST_LOG", TRACE).run().await });
        assert!(shown.code == Some(0) && !shown.stdout.is_empty(), "{shown:?}");
        look(&leaks, "show", &shown);
    }
    let replayed = Receiver::http();
    for path in &aside {
        let replay = Program::new(["replay", path.to_str().unwrap(), "--otlp-endpoint", &replayed.url()]);
        look(&leaks, "replay", &runtime.block_on(async { replay.env("RUST_LOG", TRACE).run().await }));
    }
    replayed.look(|inbox| {
        assert!(!inbox.traces.is_empty());
        inbox.raw.iter().for_each(|(path, body)| leaks.look(&format!("bodies of {path}, replayed"), body));
    });
    runtime.block_on(async {
        fs::write(&config, good).unwrap();
        let check = Program::new(["check", "--config", &config]).env("RUST_LOG", TRACE).run().await;
        assert_eq!(check.code, Some(0), "{check:?}");
        look(&leaks, "check", &check);
        agent.signal(Signal::SIGTERM);
        let output = agent.finish().await;
        assert_eq!(output.code, Some(0), "{output:?}");
        look(&leaks, "agent", &output);
    });
    leaks.end();
}

/// All files below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[cfg(target_os = "linux")]
#[test]
fn a_running_agent_dumps_no_core_and_is_closed_to_others_of_its_user() {
    const NOBODY: u32 = 65_534;
    let runtime = runtime();
    let directory = tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempdir().unwrap();
    let root = geteuid().is_root();
    let as_nobody = |program: Program| {
        if root { program.copied_to(&directory.path().join("imaptrace")).user(NOBODY) } else { program }
    };
    runtime.block_on(async {
        let mut server = Listener::willing().await;
        let program = as_nobody(Program::new(["agent", "--config", "imaptrace.toml"]).env("PROBE", "word"));
        let config = target("mail", server.address, "300ms", "290ms");
        fs::write(program.home().join("imaptrace.toml"), format!("[http]\nlisten = \"off\"\n{config}")).unwrap();
        let mut agent = program.start();
        agent.stderr_line("imaptrace is up").await;
        server.wait_for_command("LOGOUT", 1).await;
        let process = format!("/proc/{}", agent.id().unwrap());
        let limits = fs::read_to_string(format!("{process}/limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"], "{core}");
        let status = fs::read_to_string(format!("{process}/status")).unwrap();
        let user = if root { NOBODY } else { geteuid().as_raw() };
        assert!(status.contains(&format!("Uid:\t{user}\t")), "{status}");
        // The kernel gives to root what belongs to a process that is not to be dumped.
        for file in ["environ", "mem", "fd"] {
            assert_eq!(fs::metadata(format!("{process}/{file}")).unwrap().uid(), 0, "{file}");
        }
        agent.signal(Signal::SIGTERM);
        let output = agent.finish().await;
        assert_eq!(output.code, Some(0), "{output:?}");
        assert!(!output.stderr.contains("core dumps") && !output.stderr.contains("Permission denied"), "{output:?}");
        let demo = as_nobody(Program::new(["demo"])).run().await;
        assert_eq!((demo.code, demo.stderr.as_str()), (Some(0), ""), "{demo:?}");
    });
}
