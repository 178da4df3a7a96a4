//! What process accounting costs: the CPU of its thread with 32 login processes and 20 sessions, beside 300 other children of
//! Dovecot. `make bench-accounting`. Needs nothing but this machine's `/proc`, prints figures and judges none.
//!
//! The processes are copies of the shell and of `sleep` under the names of Dovecot's. Those of sessions use some CPU each 50 ms.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a program that measures: a fault ends it, and what it finds goes to standard output"
)]

use std::{
    fs,
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use imaptrace::{
    plan::Glob,
    process_accounting::{MailLog, ProcessAccounting, ProcessAccountingSettings},
};

const LOGINS: usize = 31;
const SESSIONS: usize = 20;
const OTHERS: usize = 300;
const TIME: Duration = Duration::from_secs(10);

/// A master process with its children, which end with it.
struct Tree(Child);

impl Drop for Tree {
    fn drop(&mut self) {
        // All are in its process group.
        killpg(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGKILL).unwrap();
        self.0.wait().unwrap();
    }
}

fn main() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    for name in ["dovecot", "imap"] {
        fs::copy("/bin/sh", path(name)).unwrap();
    }
    for name in ["imap-login", "auth", "anvil"] {
        fs::copy("/bin/sleep", path(name)).unwrap();
    }
    let log = path("mail.log");
    fs::write(&log, "").unwrap();
    let settings = |log: &Path| ProcessAccountingSettings {
        users: vec![Glob::new("probe*")],
        mail_log: MailLog::File(log.to_owned()),
    };
    let keep = Duration::from_secs(31);
    measure("no Dovecot", &ProcessAccounting::start(settings(&log), keep).unwrap());
    let tree = start(directory.path());
    // Until the full scan finds the master.
    let accounting = ProcessAccounting::start(settings(&log), keep).unwrap();
    measure("32 login and authentication processes", &accounting);
    let mut file = fs::OpenOptions::new().append(true).open(&log).unwrap();
    let sessions = imap_processes(tree.0.id());
    for pid in &sessions {
        writeln!(
            file,
            "Nov 30 18:51:33 mail01 dovecot: imap-login: Login: user=<probe1>, mpid={pid}, session=<s{pid}>"
        )
        .unwrap();
    }
    measure(&format!("and {} sessions", sessions.len()), &accounting);
    let known = sessions.iter().filter(|pid| accounting.of_session(&format!("s{pid}")).is_some()).count();
    println!("{known} of {} sessions were accounted", sessions.len());
    // A busy log: 1,000 lines a second.
    let begin = thread_time();
    let started = Instant::now();
    while started.elapsed() < TIME {
        for _ in 0..50 {
            let line = "Nov 30 18:51:33 mail01 dovecot: imap(someone)<4711><u7Trol9hrKt/AAAB>: Disconnected: Logged out in=120";
            writeln!(file, "{line} out=4711 deleted=0 expunged=0 trashed=0 hdr_count=20 hdr_bytes=4711 body_count=0")
                .unwrap();
        }
        sleep(Duration::from_millis(50));
    }
    show("and 1,000 lines a second in the mail log", thread_time().saturating_sub(begin), started.elapsed());
}

fn start(directory: &Path) -> Tree {
    let script = format!(
        "i=0; while [ $i -lt {LOGINS} ]; do ./imap-login 1000 & i=$((i+1)); done; ./auth 1000 & \
         i=0; while [ $i -lt {SESSIONS} ]; do \
           ./imap -c 'while sleep 0.05; do n=0; while [ $n -lt 2000 ]; do n=$((n+1)); done; done' & i=$((i+1)); done; \
         i=0; while [ $i -lt {OTHERS} ]; do ./anvil 1000 & i=$((i+1)); done; \
         wait"
    );
    let child = Command::new("./dovecot")
        .current_dir(directory)
        .args(["-c", &script])
        .stdin(Stdio::null())
        .process_group(0)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let tree = Tree(child);
    while imap_processes(tree.0.id()).len() < SESSIONS {
        sleep(Duration::from_millis(50));
    }
    sleep(Duration::from_secs(1));
    tree
}

fn imap_processes(master: u32) -> Vec<i32> {
    let children = fs::read_to_string(format!("/proc/{master}/task/{master}/children")).unwrap();
    let is_imap = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "imap\n");
    children.split_ascii_whitespace().map(|pid| pid.parse().unwrap()).filter(is_imap).collect()
}

fn measure(what: &str, _: &ProcessAccounting) {
    // The first scan is not of interest.
    sleep(Duration::from_secs(6));
    let (begin, started) = (thread_time(), Instant::now());
    sleep(TIME);
    show(what, thread_time().saturating_sub(begin), started.elapsed());
}

fn show(what: &str, used: Duration, over: Duration) {
    println!("{what}: {:.2} % of a core", 100.0 * used.as_secs_f64() / over.as_secs_f64());
}

/// CPU time of the thread that samples.
fn thread_time() -> Duration {
    let tasks = fs::read_dir("/proc/self/task").unwrap().map(|entry| entry.unwrap().path());
    let is_sampler =
        |task: &std::path::PathBuf| fs::read_to_string(task.join("comm")).is_ok_and(|name| name == "accounting\n");
    let used = tasks.filter(is_sampler).map(|task| {
        let line = fs::read_to_string(task.join("schedstat")).unwrap();
        Duration::from_nanos(line.split(' ').next().unwrap().parse().unwrap())
    });
    used.max().unwrap()
}
