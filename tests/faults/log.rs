//! A log that nobody reads: standard error is a pipe that is full, and the program does all that it is for.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use imaptrace::clock;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Many times as long as anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server whose greeting is none, and how many connections it has had.
struct Babble {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Babble {
    fn start() -> Self {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                counted.fetch_add(1, Ordering::Relaxed);
                drop(stream.map(|mut stream| stream.write_all(b"not IMAP\r\n")));
            }
        });
        Self { address, connections }
    }

    fn wait_for_more(&self, count: usize) {
        let before = self.connections.load(Ordering::Relaxed);
        wait_until("more connections", || (self.connections.load(Ordering::Relaxed) >= before + count).then_some(()));
    }
}

pub(crate) fn wait_until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let begun = clock::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(clock::now() - begun < PATIENCE, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A pipe in which there is no room, and the end that could be read.
pub(crate) fn full_pipe() -> (OwnedFd, fs::File) {
    let (reader, writer) = std::io::pipe().unwrap();
    let reader: OwnedFd = reader.into();
    let mut writer = fs::File::from(OwnedFd::from(writer));
    let flags = nix::fcntl::OFlag::O_NONBLOCK;
    nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETFL(flags)).unwrap();
    while writer.write(&[b'.'; 4096]).is_ok() {}
    while writer.write(b".").is_ok() {}
    nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty())).unwrap();
    (writer.into(), fs::File::from(reader))
}

fn ended(child: &mut Child, what: &str) -> ExitStatus {
    wait_until(what, || child.try_wait().unwrap())
}

fn imaptrace(arguments: &[&str], home: &std::path::Path, errors: OwnedFd) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_imaptrace"));
    command.args(arguments).env_clear().env("HOME", home).env("IMAPTRACE_PASSWORD", "planted").current_dir(home);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
    command
}

fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

#[test]
fn with_an_unread_log_the_agent_probes_answers_counts_and_ends() {
    let babble = Babble::start();
    let home = tempfile::tempdir().unwrap();
    let http = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // A server gets no more than some connections a second.
    let target = |number: usize| {
        format!(
            "[[targets]]\nname = \"t{number}\"\nurl = \"imap://127.0.0.{number}:{}\"\nsecurity = \"none\"\nuser = \"u\"\n\
             password = {{ env = \"IMAPTRACE_PASSWORD\" }}\ninterval = \"200ms\"\ntimeout = \"150ms\"\n",
            babble.address.port()
        )
    };
    let targets: String = (1..=100).map(target).collect();
    let config = format!("[http]\nlisten = \"{http}\"\n{targets}");
    fs::write(home.path().join("imaptrace.toml"), config).unwrap();
    let (errors, mut reader) = full_pipe();
    let mut command = imaptrace(&["agent", "--config", "imaptrace.toml"], home.path(), errors);
    let mut agent = command.env("RUST_LOG", "trace").spawn().unwrap();
    drop(command);
    // More than fits into the queue of the log, at this level.
    babble.wait_for_more(5_000);
    let answer = wait_until("an answer", || get(http, "/live"));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    // Who reads again is told what is missing. What it takes is not more than the log has room for.
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    wait_until("the line that says so", || {
        let count = reader.read(&mut buffer).unwrap();
        said.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&said);
        let line = text.lines().find(|line| line.contains("dropped while standard error was not read"))?;
        assert!(line.contains("log lines were dropped") || line.contains("log line was dropped"), "{line}");
        Some(())
    });

    // Not read again, it ends all the same.
    babble.wait_for_more(200);
    kill(Pid::from_raw(agent.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(ended(&mut agent, "the end of the agent").code(), Some(0));
    drop(reader);
}

#[test]
fn an_unread_standard_error_does_not_keep_back_the_result_of_a_probe() {
    let babble = Babble::start();
    let home = tempfile::tempdir().unwrap();
    let url = format!("imap://someone@127.0.0.1:{}", babble.address.port());
    let (errors, reader) = full_pipe();
    let arguments = ["probe", &url, "--security", "none", "--verbose", "--output", "json"];
    let mut command = imaptrace(&arguments, home.path(), errors);
    let mut probe = command.env("RUST_LOG", "trace").spawn().unwrap();
    drop(command);
    let mut stdout = probe.stdout.take().unwrap();
    let result = thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).unwrap();
        text
    });
    assert_eq!(ended(&mut probe, "the end of the probe").code(), Some(1));
    assert!(result.join().unwrap().starts_with('{'));
    drop(reader);
}
