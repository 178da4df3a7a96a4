//! Runs programs for tests: imaptrace itself, once or for long, and what all real parts need (ports, waiting).
//!
//! A program gets an environment of its own with nothing of the caller's but PATH. Whatever waits has a deadline, and
//! reports what it has received when that passes.

use std::{
    collections::HashSet,
    ffi::{OsStr, OsString},
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use nix::{sys::signal::Signal, unistd::Pid};
use rand::Rng as _;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWriteExt as _, BufReader},
    process::{Child, Command},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};

/// The program about to be run.
pub struct Program {
    command: Command,
    stdin: Vec<u8>,
    deadline: Duration,
    home: tempfile::TempDir,
}

/// What a program left behind.
#[derive(Debug)]
pub struct Output {
    /// All of standard output; it has to be UTF-8.
    pub stdout: String,
    /// All of standard error; it has to be UTF-8.
    pub stderr: String,
    /// Its exit code; absent when a signal ended it.
    pub code: Option<i32>,
}

impl Program {
    /// imaptrace with these arguments, no input, and 60 s to end in.
    pub fn new<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_imaptrace"));
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", home.path())
            .current_dir(home.path())
            .kill_on_drop(true);
        Self { command, stdin: Vec::new(), deadline: Duration::from_secs(60), home }
    }

    /// Limits the number of its open files.
    pub fn open_files(self, most: u32) -> Self {
        self.by_shell("sh", &format!("ulimit -n {most} && exec \"$0\" \"$@\""))
    }

    /// Limits the number of threads of its user, over all programs. Without effect for root.
    pub fn threads(self, most: u32) -> Self {
        // Debian's sh has no such limit.
        self.by_shell("bash", &format!("ulimit -u {most} && exec \"$0\" \"$@\""))
    }

    /// Starts it with redirections as a shell has them, such as `>/dev/full`.
    pub fn redirected(self, how: &str) -> Self {
        self.by_shell("sh", &format!("exec \"$0\" \"$@\" {how}"))
    }

    /// Has a shell start it that is given the program and its arguments.
    fn by_shell(mut self, shell: &str, line: &str) -> Self {
        let std = self.command.as_std();
        let mut limited = Command::new(shell);
        limited
            .arg("-c")
            .arg(line)
            .arg(std.get_program())
            .args(std.get_args())
            .env_clear()
            .envs(std.get_envs().filter_map(|(name, value)| Some((name, value?))))
            .current_dir(self.home.path())
            .kill_on_drop(true);
        self.command = limited;
        self
    }

    /// Sets a variable.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Gives these bytes on standard input, then closes it.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// How long every single wait for the program may take.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Runs it as another user, who gets its home. Needs root.
    pub fn user(mut self, user: u32) -> Self {
        nix::unistd::chown(self.home.path(), Some(user.into()), Some(user.into())).unwrap();
        self.command.uid(user).gid(user);
        self
    }

    /// The same arguments and environment for a copy of the program.
    pub fn copied_to(mut self, path: &Path) -> Self {
        std::fs::copy(env!("CARGO_BIN_EXE_imaptrace"), path).unwrap();
        let mut copy = Command::new(path);
        let known = self.command.as_std();
        copy.args(known.get_args()).env_clear().current_dir(self.home.path()).kill_on_drop(true);
        copy.envs(known.get_envs().filter_map(|(name, value)| Some((name, value?))));
        self.command = copy;
        self
    }

    /// Its home and working directory, empty at the start and removed at the end.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Runs it to its end.
    pub async fn run(self) -> Output {
        self.start().finish().await
    }

    /// Starts it and leaves it running.
    pub fn start(mut self) -> Running {
        let mut child =
            self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let bytes = std::mem::take(&mut self.stdin);
        // A program that never reads must not stop the test; one that ends early closes the pipe, which is no fault.
        drop(tokio::spawn(async move { drop(stdin.write_all(&bytes).await) }));
        let stdout = Stream::follow(child.stdout.take().unwrap());
        let stderr = Stream::follow(child.stderr.take().unwrap());
        Running { child, stdout, stderr, deadline: self.deadline, home: self.home }
    }
}

/// A program that runs. It is killed when this is dropped.
pub struct Running {
    child: Child,
    stdout: Stream,
    stderr: Stream,
    deadline: Duration,
    home: tempfile::TempDir,
}

impl Running {
    /// Its home and working directory.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The next line of standard output that holds `text`; those before it are passed over.
    pub async fn stdout_line(&mut self, text: &str) -> String {
        Self::line(&mut self.stdout, &self.stderr, self.deadline, text).await
    }

    /// The next line of standard error that holds `text`; those before it are passed over.
    pub async fn stderr_line(&mut self, text: &str) -> String {
        Self::line(&mut self.stderr, &self.stdout, self.deadline, text).await
    }

    async fn line(stream: &mut Stream, other: &Stream, deadline: Duration, text: &str) -> String {
        let found = timeout(deadline, async {
            while let Some(line) = stream.lines.recv().await {
                if line.contains(text) {
                    return Some(line);
                }
            }
            None
        });
        found.await.ok().flatten().unwrap_or_else(|| {
            panic!("no line with {text:?}; it wrote:\n{}\nand on the other stream:\n{}", stream.text(), other.text())
        })
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = self.child.id().expect("the program has ended already");
        nix::sys::signal::kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
    }

    /// The process's number, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits until it ends by itself.
    pub async fn finish(mut self) -> Output {
        let status = timeout(self.deadline, self.child.wait()).await.unwrap_or_else(|_| {
            let (stdout, stderr) = (self.stdout.text(), self.stderr.text());
            panic!("the program did not end within {:?}; it wrote:\n{stdout}\nand\n{stderr}", self.deadline)
        });
        let code = status.unwrap().code();
        Output { stdout: self.stdout.rest().await, stderr: self.stderr.rest().await, code }
    }
}

/// One stream of a program, read as it comes, so that a full pipe never holds the program up.
struct Stream {
    lines: mpsc::UnboundedReceiver<String>,
    text: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
}

impl Stream {
    fn follow(source: impl AsyncRead + Unpin + Send + 'static) -> Self {
        let (sender, lines) = mpsc::unbounded_channel();
        let text = Arc::new(Mutex::new(String::new()));
        let copy = Arc::clone(&text);
        let reader = tokio::spawn(async move {
            let mut source = BufReader::new(source);
            let mut line = Vec::new();
            while source.read_until(b'\n', &mut line).await.unwrap() > 0 {
                let whole = String::from_utf8(std::mem::take(&mut line)).expect("the program wrote what is not UTF-8");
                copy.lock().unwrap().push_str(&whole);
                // The lines may no longer be read; the text is kept all the same.
                drop(sender.send(whole.trim_end_matches(['\r', '\n']).to_owned()));
            }
        });
        Self { lines, text, reader }
    }

    fn text(&self) -> String {
        self.text.lock().unwrap().clone()
    }

    async fn rest(&mut self) -> String {
        timeout(Duration::from_secs(10), &mut self.reader)
            .await
            .expect("a child of the program holds its stream")
            .unwrap();
        self.text()
    }
}

/// A port on loopback without a listener.
///
/// It is below the range that the kernel takes for outgoing connections, so that between now and its use only another
/// test could take it; within one process that cannot be either.
pub fn free_port() -> u16 {
    static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);
    let mut given = GIVEN.lock().unwrap();
    for _ in 0..1000 {
        let port = rand::rng().random_range(20_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && given.insert(port) {
            return port;
        }
    }
    panic!("found no free port between 20000 and 32000");
}

/// Asks every 50 ms until there is an answer; after some 30 s the test fails with `what`.
pub fn wait_until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    for _ in 0..600 {
        if let Some(answer) = ask() {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("after 30 s still not so: {what}");
}

/// Where the scripts keep what they built: the same rule as in `scripts/common.sh`.
pub fn cache() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value: &OsString| !value.is_empty());
    if let Some(cache) = set("IMAPTRACE_CACHE") {
        return cache.into();
    }
    let base = set("XDG_CACHE_HOME").map_or_else(|| Path::new(&set("HOME").unwrap()).join(".cache"), Into::into);
    base.join("imaptrace")
}
