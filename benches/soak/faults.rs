//! What goes wrong around the agent, by the kernel's own means, and the agent's process.
//!
//! All mounts are in the caller's mount namespace and go when this ends. Called by `main`.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    os::{fd::AsRawFd as _, unix::fs::PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use nix::{
    mount::{MntFlags, MsFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A FUSE file system without a server: each call into it waits until the connection is aborted.
pub struct HungMount {
    path: PathBuf,
    /// Closing it aborts the connection, and ends every wait.
    _device: File,
}

impl HungMount {
    pub fn new(path: &Path) -> Self {
        fs::create_dir(path).unwrap();
        let device = File::options().read(true).write(true).open("/dev/fuse").expect("the kernel has no FUSE");
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        mount("hung", path, "fuse", &options);
        Self { path: path.to_owned(), _device: device }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for HungMount {
    fn drop(&mut self) {
        unmount(&self.path);
    }
}

/// A small file system in memory.
pub struct Tmpfs(PathBuf);

impl Tmpfs {
    pub fn new(path: &Path, mib: u64) -> Self {
        fs::create_dir(path).unwrap();
        mount("soak", path, "tmpfs", &format!("size={mib}m,mode=0700"));
        Self(path.to_owned())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes until there is no room left.
    pub fn fill(&self) {
        let mut file = File::create(self.0.join("filler")).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    pub fn free(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}

fn mount(source: &str, path: &Path, kind: &str, options: &str) {
    nix::mount::mount(Some(source), path, Some(kind), MsFlags::MS_NOSUID, Some(options))
        .unwrap_or_else(|error| panic!("cannot mount {}: {error}", path.display()));
}

fn unmount(path: &Path) {
    // What is left goes with the namespace.
    let _unmounted = umount2(path, MntFlags::MNT_DETACH).is_ok();
}

pub fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// An agent whose log nobody reads until it has ended. It is killed when this is dropped.
pub struct Agent {
    child: Child,
    log: Option<BufReader<ChildStderr>>,
}

/// How the agent ended.
pub struct Exit {
    pub status: ExitStatus,
    /// From SIGTERM on.
    pub took: Duration,
}

impl Agent {
    pub fn start(program: &str, config: &Path) -> Self {
        let mut child = Command::new(program)
            .args(["agent", "--config"])
            .arg(config)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = child.stderr.take().map(BufReader::new);
        Self { child, log }
    }

    pub fn wait_until_ready(&mut self, port: u16) {
        for _ in 0..600 {
            if let Some(status) = self.child.try_wait().unwrap() {
                let mut log = String::new();
                drop(self.log.take().map(|mut log_pipe| log_pipe.read_to_string(&mut log)));
                panic!("the agent ended with {status}:\n{log}");
            }
            if get(port, "/ready").is_some_and(|answer| answer.starts_with("HTTP/1.1 200")) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the agent is not ready after 30 s");
    }

    pub fn status(port: u16) -> serde_json::Value {
        let answer = get(port, "/status.json").expect("the status page does not answer");
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    pub fn wait_until_drained(port: u16) {
        for _ in 0..1200 {
            if Self::status(port)["delivery"]["queued_runs"] == 0 {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the queue is not empty after 60 s: {}", Self::status(port)["delivery"]);
    }

    /// Stops the process as SIGSTOP does, and lets it go on.
    pub fn stop_for(&self, time: Duration) -> Duration {
        let begin = Instant::now();
        self.signal(Signal::SIGSTOP);
        std::thread::sleep(time);
        self.signal(Signal::SIGCONT);
        begin.elapsed()
    }

    pub fn rss_mib(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let kib =
            status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<f64>().ok());
        kib.unwrap() / 1024.0
    }

    /// SIGTERM, and the wait for the end.
    pub fn terminate(&mut self) -> Exit {
        let begin = Instant::now();
        self.signal(Signal::SIGTERM);
        while begin.elapsed() < Duration::from_secs(30) {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Exit { status, took: begin.elapsed() };
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the agent has not ended 30 s after SIGTERM");
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ended = self.child.kill().and_then(|()| self.child.wait()).is_ok();
    }
}

/// An answer of the status page, headers and body.
fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", port)).ok()?);
    stream.get_ref().set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    stream
        .get_mut()
        .write_all(format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n").as_bytes())
        .ok()?;
    let mut head = String::new();
    let mut chunked = false;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        chunked |= line.to_ascii_lowercase().starts_with("transfer-encoding: chunked");
        head += &line;
        if line == "\r\n" {
            break;
        }
    }
    if !chunked {
        stream.read_to_string(&mut head).ok()?;
        return Some(head);
    }
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let length = usize::from_str_radix(line.trim(), 16).ok()?;
        if length == 0 {
            return Some(head);
        }
        let mut chunk = vec![0; length + 2];
        stream.read_exact(&mut chunk).ok()?;
        head += std::str::from_utf8(chunk.get(..length)?).ok()?;
    }
}
