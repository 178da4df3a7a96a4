use std::{fs, io::Write as _, path::PathBuf};

use super::{super::proc_files::fake::FakeProc, *};
use crate::{plan::Glob, process_accounting::sample_store::SessionQuery};

const KEEP: Duration = Duration::from_secs(30);

/// A Dovecot with a master (7), a login process (9) and an authentication process (10), and a mail log.
struct Host {
    proc: FakeProc,
    log: PathBuf,
    sampler: Sampler,
    now: Instant,
    _directory: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let (proc, directory) = (FakeProc::new(), tempfile::tempdir().unwrap());
        proc.start(1, "init", 0);
        proc.start(7, "dovecot", 1);
        proc.start(9, "imap-login", 7);
        proc.start(10, "auth", 7);
        proc.children(7, "9 10");
        let log = directory.path().join("mail.log");
        fs::write(&log, "").unwrap();
        let settings = ProcessAccountingSettings {
            users: vec![Glob::new("probe*"), Glob::new("canary@example.net")],
            mail_log: MailLog::File(log.clone()),
        };
        let store = Mutex::new(SampleStore::new(KEEP));
        let shared = Arc::new(Shared { store, is_stopped: AtomicBool::new(false) });
        let sampler = Sampler::new(proc.root(), settings, shared);
        Self { proc, log, sampler, now: clock::now(), _directory: directory }
    }

    fn imap(&self, pid: i32) {
        self.proc.start(pid, "imap", 7);
    }

    fn log(&self, line: &str) {
        let mut file = fs::OpenOptions::new().append(true).open(&self.log).unwrap();
        writeln!(file, "Nov 30 18:51:33 mail01 dovecot: {line}").unwrap();
    }

    fn login(&self, user: &str, pid: i32, session: &str) {
        let ips = "rip=192.0.2.7, lip=192.0.2.1";
        self.log(&format!(
            "imap-login: Login: user=<{user}>, method=PLAIN, {ips}, mpid={pid}, TLS, session=<{session}>"
        ));
    }

    fn rounds(&mut self, count: u32) {
        for _ in 0..count {
            self.now += SESSION_INTERVAL;
            self.sampler.round(self.now);
        }
    }

    /// The CPU time in milliseconds of each sample of a session, or of all processes of a name.
    fn usage(&self, session: &str, process: ServerProcessName) -> Vec<Vec<u128>> {
        let query = SessionQuery {
            names: vec![session.to_owned()],
            ends: Some(([192, 0, 2, 1].into(), 993)).map(|end: (std::net::IpAddr, u16)| (end.into(), end.into())),
            begin: SystemTime::UNIX_EPOCH,
            end: clock::wall() + KEEP,
        };
        let usage = self.sampler.shared.store().of_run(&query);
        let of_process = usage.into_iter().filter(|usage| usage.process == process);
        of_process.map(|usage| usage.samples.iter().map(|sample| sample.cpu.as_millis()).collect()).collect()
    }

    fn session(&self, name: &str) -> Option<Vec<u128>> {
        self.usage(name, ServerProcessName::Imap).pop()
    }
}

#[test]
fn a_session_of_a_user_is_sampled_from_its_login_until_its_process_ends() {
    let mut host = Host::new();
    host.imap(20);
    host.proc.used(20, 3, 0);
    host.login("probe1", 20, "one");
    host.rounds(1);
    for cpu in 4..8 {
        host.proc.used(20, cpu, 0);
        host.rounds(1);
    }
    host.proc.end(20);
    host.rounds(3);
    assert_eq!(host.session("one").unwrap(), [3, 4, 5, 6, 7]);
    assert!(host.sampler.sessions.is_empty());
    assert!(host.sampler.shared.store().ended(clock::wall(), Duration::ZERO).is_some());
}

#[test]
fn nothing_is_sampled_of_other_users_of_other_processes_and_of_lines_that_are_no_login() {
    let mut host = Host::new();
    host.imap(20);
    host.proc.start(21, "imap", 1);
    host.proc.start(22, "pop3", 7);
    for (user, pid) in [("someone", 20), ("probe1", 21), ("probe1", 22), ("probe1", 23), ("probe1", 1), ("probe1", 7)] {
        host.login(user, pid, "one");
    }
    host.log("imap-login: Disconnected: user=<imap-login: Login: user=<probe1>, mpid=20, session=<one>>");
    host.log("imap-login: Login: user=<x>, mpid=20, user=<probe1>, session=<one>");
    host.rounds(3);
    assert!(host.sampler.sessions.is_empty());
    assert_eq!(host.session("one"), None);
    host.login("canary@example.net", 20, "one");
    host.rounds(1);
    assert!(host.session("one").is_some());
}

#[test]
fn a_process_that_serves_the_next_session_ends_the_account_of_the_one_before() {
    let mut host = Host::new();
    host.imap(20);
    host.login("probe1", 20, "one");
    host.rounds(1);
    host.proc.used(20, 1, 0);
    host.rounds(1);
    host.login("someone", 20, "other");
    host.rounds(1);
    host.proc.used(20, 9, 0);
    host.rounds(1);
    assert_eq!(host.session("one").unwrap(), [0, 1, 1]);
    host.login("probe2", 20, "two");
    host.rounds(2);
    assert_eq!(host.session("two").unwrap(), [9, 9]);
}

#[test]
fn login_and_authentication_processes_are_sampled_all_the_time_and_not_more_than_32() {
    let mut host = Host::new();
    host.rounds(5);
    host.proc.used(9, 4, 0);
    host.rounds(2);
    assert_eq!(host.usage("", ServerProcessName::ImapLogin), [[0, 0, 4]]);
    assert_eq!(host.usage("", ServerProcessName::Auth), [[0, 0]]);
    let more: Vec<String> = (100..150).map(|pid: i32| pid.to_string()).collect();
    for pid in 100..150 {
        host.proc.start(pid, "imap-login", 7);
    }
    host.proc.children(7, &format!("9 10 {}", more.join(" ")));
    host.proc.end(9);
    host.now += Duration::from_secs(60);
    host.rounds(2);
    assert_eq!(host.sampler.pre_login.len(), PRE_LOGIN_PROCESSES);
    assert!(host.sampler.logged.contains(&SamplerNotice::TooManyPreLogin));
}

#[test]
fn no_more_sessions_are_sampled_at_once_than_there_is_room_for() {
    let mut host = Host::new();
    for pid in 1_000..1_100 {
        host.imap(pid);
        host.login("probe1", pid, &pid.to_string());
    }
    host.rounds(1);
    assert_eq!(host.sampler.sessions.len(), SESSIONS);
    assert!(host.sampler.logged.contains(&SamplerNotice::TooManySessions));
}

#[test]
fn what_hides_processes_is_named() {
    let proc = FakeProc::new();
    fs::create_dir(proc.path().join("self")).unwrap();
    let mounts = |options: &str| {
        let text = format!("/dev/sda1 / ext4 rw 0 0\nproc /proc proc {options} 0 0\n");
        fs::write(proc.path().join("self/mounts"), text).unwrap();
        visibility(&proc.root())
    };
    assert!(mounts("rw,nosuid,hidepid=invisible,gid=4").contains("hidepid"));
    assert!(mounts("rw,hidepid=2").contains("hidepid"));
    for plain in ["rw,nosuid", "rw,hidepid=0", "rw,hidepid=off"] {
        assert!(mounts(plain).contains("container"), "{plain}");
    }
}

#[test]
fn without_a_dovecot_the_log_says_so_once_and_again_after_one_was_there() {
    let mut host = Host::new();
    host.proc.end(7);
    host.rounds(2);
    assert!(!host.sampler.logged.contains(&SamplerNotice::NoMaster), "it may be about to start");
    host.now += NO_MASTER;
    host.rounds(2);
    assert!(host.sampler.logged.contains(&SamplerNotice::NoMaster));
    host.proc.start(7, "dovecot", 1);
    host.now += Duration::from_secs(60);
    host.rounds(2);
    assert!(!host.sampler.logged.contains(&SamplerNotice::NoMaster));
}

#[test]
fn a_log_without_logins_of_the_users_is_logged_once_until_the_next_login() {
    let mut host = Host::new();
    host.login("someone@example.org", 20, "one");
    host.rounds(100);
    assert!(!host.sampler.logged.contains(&SamplerNotice::NoLogin), "it has just begun");
    host.now += NO_LOGIN;
    host.rounds(1);
    assert!(host.sampler.logged.contains(&SamplerNotice::NoLogin));
    host.login("probe1", 20, "two");
    host.rounds(100);
    assert!(!host.sampler.logged.contains(&SamplerNotice::NoLogin));
    host.now += NO_LOGIN;
    host.rounds(1);
    assert!(host.sampler.logged.contains(&SamplerNotice::NoLogin));
}
