//! The causes: each is there while runs are recorded, and gone afterwards.
//!
//! Strengths are those that operators of mail servers meet: a lock of one to two seconds, a disk of some dozens of operations
//! a second, a line over an ocean. What makes a run usable is a fact of the injection where there is one (a packet that was
//! dropped, a stop of the agent), else that it made the step slow in which it acts.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, SystemTime},
};

use imaptrace::clock;
use imaptrace_record::{Run, RunOutcome};
use nix::sys::signal::{Signal, kill};

use super::{
    agent::{PROBE, Probe, ProbingAgent},
    background::Background,
    clients::{sessions, wrong_passwords},
    control_group::{ControlGroup, Controller},
    mailbox,
    recording::Recording,
    storage::{NetworkStorage, succeed},
    testbed::{Case, IMAP_PROCESSES, LOGIN_PROCESSES, Testbed, USER_SESSIONS},
};
use crate::support::net::line::SERVER;

/// Records runs with a cause: at least so many usable ones, if that can be in time.
pub type Injection = fn(&Testbed, usize) -> Recording;

/// Causes that need no storage of their own and no control group.
pub const PLAIN: [(&str, Injection); 6] = [
    ("lock-index", lock_index),
    ("passdb", slow_passdb),
    ("penalty", auth_penalty),
    ("imap-limit", imap_limit),
    ("dns", slow_dns),
    ("prober", prober_stopped),
];

/// All other causes. RSA comes last: it has Dovecot read other settings.
pub const OTHERS: [(&str, Injection); 15] = [
    ("lock-uidlist", lock_uidlist),
    ("disk-reads", disk_reads),
    ("disk-reads-cold", disk_reads_of_old_mail),
    ("disk-writes", disk_writes),
    ("network-storage", network_storage),
    ("cpu-quota", cpu_quota),
    ("bandwidth-first-load", bandwidth_first_load),
    ("bandwidth-cold", bandwidth_cold),
    ("distance", distance),
    ("loss", loss),
    ("userip-limit", userip_limit),
    ("login-limit", login_limit),
    ("100000-messages", huge_mailbox),
    ("100000-messages-first-time", huge_mailbox_first_time),
    ("rsa-4096", rsa_4096),
];

fn case(key: &'static str, cause: &'static str, note: impl Into<String>, wanted: usize) -> Case {
    Case {
        key,
        cause,
        note: note.into(),
        probe: Probe::FirstLoad,
        interval: Duration::from_millis(2_500),
        wanted,
        most: Duration::from_secs(70),
    }
}

/// It failed, or one of these steps was slow; any step, if none is named.
fn struck(run: &Run, steps: &[&str]) -> bool {
    let failed = run.outcome != RunOutcome::Passed;
    let by_step = |name: &str| steps.is_empty() || steps.contains(&name);
    failed || run.steps.iter().any(|step| step.slow == Some(true) && by_step(step.name.as_str()))
}

const MAILBOX_COMMANDS: [&str; 5] = ["NAMESPACE", "LIST", "STATUS", "SELECT", "FETCH"];

// === locks ===

fn lock_index(bed: &Testbed, wanted: usize) -> Recording {
    let (held, free) = (Duration::from_millis(1_600), Duration::from_millis(300));
    let case = case("lock-index", "lock", "fcntl lock on dovecot.index.log, held 1.6 s of each 1.9 s", wanted);
    let beside = |_: &ProbingAgent| mailbox::hold_index(bed.maildir(), held, free);
    bed.record(&case, beside, |run| struck(run, &MAILBOX_COMMANDS))
}

fn lock_uidlist(bed: &Testbed, wanted: usize) -> Recording {
    let (held, free) = (Duration::from_millis(1_300), Duration::from_millis(300));
    let case = case("lock-uidlist", "lock", "dovecot-uidlist.lock held 1.3 s of each 1.6 s, new mail", wanted);
    let beside = |_: &ProbingAgent| mailbox::hold_uidlist(bed.maildir(), held, free);
    bed.record(&case, beside, |run| struck(run, &MAILBOX_COMMANDS))
}

// === storage ===

/// Dovecot's processes in a group that limits the mail's device.
fn with_slow_disk<T>(bed: &Testbed, work: impl FnOnce(&ControlGroup) -> T) -> T {
    let group = ControlGroup::new(Controller::Block);
    group.add(&bed.processes(None));
    work(&group)
}

fn disk_reads(bed: &Testbed, wanted: usize) -> Recording {
    cold_reads(bed, case("disk-reads", "disk", "nothing cached, 40 reads a second", wanted), 40)
}

fn disk_reads_of_old_mail(bed: &Testbed, wanted: usize) -> Recording {
    let case = case("disk-reads-cold", "disk", "nothing cached, 70 reads a second, cold = true", wanted);
    cold_reads(bed, Case { probe: Probe::Cold, ..case }, 70)
}

fn cold_reads(bed: &Testbed, case: Case, each_second: u32) -> Recording {
    let disk = bed.storage.as_ref().expect("a file system of its own");
    let case = Case { interval: Duration::from_secs(8), most: Duration::from_secs(130), ..case };
    let mut device = disk.device();
    with_slow_disk(bed, |group| {
        let prepare = || {
            group.limit_reads(&device, None);
            disk.make_cold();
            device = disk.device();
            group.limit_reads(&device, Some(each_second));
        };
        let recording = bed.record_each(&case, prepare, |run| struck(run, &[]));
        group.limit_reads(&disk.device(), None);
        recording
    })
}

fn disk_writes(bed: &Testbed, wanted: usize) -> Recording {
    let device = bed.storage.as_ref().expect("a file system of its own").device();
    let case = case("disk-writes", "disk", "6 writes a second, new mail between the runs", wanted);
    with_slow_disk(bed, |group| {
        group.limit_writes(&device, Some(6));
        let recording = bed.record(&case, |_| (), |run| struck(run, &MAILBOX_COMMANDS));
        group.limit_writes(&device, None);
        recording
    })
}

fn network_storage(bed: &Testbed, wanted: usize) -> Recording {
    let (exported, at) = (bed.directory().join("exported"), bed.directory().join("network"));
    fs::create_dir(&exported).unwrap();
    mailbox::copy(&bed.usual_home(), &exported.join("probe"));
    let storage = NetworkStorage::new(&exported, &at);
    bed.use_home(&at.join("probe"));
    storage.set_delay(Duration::from_millis(4));
    let case = case("network-storage", "disk", "mail over SFTP (FUSE), 4 ms more for each request", wanted);
    let case = Case { interval: Duration::from_secs(6), most: Duration::from_secs(100), ..case };
    let recording = bed.record(&case, |_| (), |run| struck(run, &MAILBOX_COMMANDS));
    storage.set_delay(Duration::ZERO);
    bed.use_home(&bed.usual_home());
    recording
}

fn huge_mailbox(bed: &Testbed, wanted: usize) -> Recording {
    huge(bed, case("100000-messages", "mailbox_size", "100,000 messages, indexed, and new mail", wanted), true)
}

fn huge_mailbox_first_time(bed: &Testbed, wanted: usize) -> Recording {
    // Each takes seconds.
    let wanted = wanted.min(3);
    huge(bed, case("100000-messages-first-time", "mailbox_size", "100,000 messages without an index", wanted), false)
}

fn huge(bed: &Testbed, case: Case, indexed: bool) -> Recording {
    let home = bed.directory().join("huge");
    if !home.exists() {
        mailbox::make_huge(&home);
    }
    bed.use_home(&home);
    let case = Case { interval: Duration::from_secs(9), most: Duration::from_secs(100), ..case };
    let by_cause = |run: &Run| struck(run, &MAILBOX_COMMANDS);
    let recording = if indexed {
        bed.record_each(&Case { wanted: 1, ..case.clone() }, || (), |_| true);
        bed.record(&Case { interval: Duration::from_secs(3), ..case }, |_| (), by_cause)
    } else {
        let forget = || {
            for file in fs::read_dir(home.join("Maildir")).unwrap() {
                let path = file.unwrap().path();
                if path.file_name().unwrap().to_str().unwrap().starts_with("dovecot") {
                    // A session that ends may remove its lock at the same time.
                    drop(fs::remove_file(path));
                }
            }
        };
        bed.record_each(&case, forget, by_cause)
    };
    bed.use_home(&bed.usual_home());
    recording
}

// === CPU ===

fn cpu_quota(bed: &Testbed, wanted: usize) -> Recording {
    let group = ControlGroup::new(Controller::Cpu);
    group.limit_cpu(Duration::from_millis(8));
    group.add(&bed.processes(None));
    let case = case("cpu-quota", "server_cpu", "all of Dovecot has 8 ms of CPU in each 100 ms", wanted);
    bed.record(&Case { interval: Duration::from_secs(4), ..case }, |_| (), |run| struck(run, &[]))
}

fn rsa_4096(bed: &Testbed, wanted: usize) -> Recording {
    let tls = bed.dovecot.path().join("tls");
    make_rsa_certificate(&tls);
    // Login processes that stay can be limited by themselves.
    bed.reconfigure(&format!(
        "ssl_cert = <{0}/rsa.pem\nssl_key = <{0}/rsa.key\nservice imap-login {{\n  service_count = 0\n  client_limit = 50\n  \
         process_min_avail = 1\n}}\n",
        tls.display()
    ));
    let logins = crate::support::program::wait_until("a login process waits", || {
        let logins = bed.processes(Some("imap-login"));
        (!logins.is_empty()).then_some(logins)
    });
    let group = ControlGroup::new(Controller::Cpu);
    group.limit_cpu(Duration::from_millis(3));
    group.add(&logins);
    let note = "a new certificate with RSA of 4096 bits, login processes have 3 ms of CPU in each 100 ms";
    let recording = bed.record(&case("rsa-4096", "tls", note, wanted), |_| (), |run| struck(run, &["tls"]));
    drop(group);
    bed.reconfigure("");
    recording
}

fn make_rsa_certificate(tls: &Path) {
    let at = |name: &str| tls.join(name);
    succeed(
        Command::new("openssl")
            .args(["req", "-newkey", "rsa:4096", "-nodes", "-subj", "/CN=localhost", "-keyout"])
            .arg(at("rsa.key"))
            .arg("-out")
            .arg(at("rsa.csr")),
    );
    fs::write(at("rsa.names"), "subjectAltName=DNS:localhost\n").unwrap();
    succeed(
        Command::new("openssl")
            .args(["x509", "-req", "-days", "3650", "-CAcreateserial", "-in"])
            .arg(at("rsa.csr"))
            .arg("-CA")
            .arg(at("ca.pem"))
            .arg("-CAkey")
            .arg(at("ca.key"))
            .arg("-extfile")
            .arg(at("rsa.names"))
            .arg("-out")
            .arg(at("rsa.pem")),
    );
}

// === the line ===

/// A queue at the server's end of the line that lets this much through.
fn with_narrow_line<T>(bed: &Testbed, rate: &str, work: impl FnOnce() -> T) -> T {
    bed.line.server.command(&format!("tc qdisc add dev tun0 root tbf rate {rate} burst 3000 latency 4s"));
    let result = work();
    bed.line.server.command("tc qdisc del dev tun0 root");
    result
}

fn bandwidth_first_load(bed: &Testbed, wanted: usize) -> Recording {
    let case = case("bandwidth-first-load", "bandwidth", "192 kbit/s to the client", wanted);
    with_narrow_line(bed, "192kbit", || bed.record(&case, |_| (), |run| struck(run, &[])))
}

fn bandwidth_cold(bed: &Testbed, wanted: usize) -> Recording {
    let case = case("bandwidth-cold", "bandwidth", "640 kbit/s to the client, cold = true", wanted);
    let case = Case { probe: Probe::Cold, ..case };
    with_narrow_line(bed, "640kbit", || bed.record(&case, |_| (), |run| struck(run, &[])))
}

fn distance(bed: &Testbed, wanted: usize) -> Recording {
    bed.line.quality.set_delay(Duration::from_millis(48));
    let case = case("distance", "distance", "48 ms each way instead of 2 ms", wanted);
    let recording = bed.record(&case, |_| (), |run| struck(run, &[]));
    bed.line.quality.set_delay(super::testbed::DELAY);
    recording
}

fn loss(bed: &Testbed, wanted: usize) -> Recording {
    bed.line.quality.set_loss(0.045);
    let case = case("loss", "loss", "4.5 % of the packets are lost each way", wanted);
    let by_cause = |run: &Run| {
        let dropped = bed.line.quality.dropped();
        let begin = run.started_at.to_system_time();
        // A step may be slow by this machine's noise in a run that lost a packet in another one.
        run.steps.iter().filter(|step| step.slow == Some(true) || step.error_type.is_some()).any(|step| {
            let (from, until) = (begin + step.start_s.to_duration(), begin + step.end_s().to_duration());
            dropped.iter().any(|at| *at >= from && *at <= until)
        })
    };
    let recording = bed.record(&case, |_| (), by_cause);
    bed.line.quality.set_loss(0.0);
    recording
}

fn times(run: &Run) -> (SystemTime, SystemTime) {
    let from = run.started_at.to_system_time();
    (from, from + run.duration_s.to_duration())
}

// === before and at the login ===

fn slow_dns(bed: &Testbed, wanted: usize) -> Recording {
    bed.names.set_delay(Duration::from_millis(600));
    let case = case("dns", "dns", "the name server answers after 600 ms", wanted);
    let recording = bed.record(&case, |_| (), |run| struck(run, &["resolve"]));
    bed.names.set_delay(Duration::ZERO);
    recording
}

fn slow_passdb(bed: &Testbed, wanted: usize) -> Recording {
    bed.set_lookup_delay(Duration::from_millis(900));
    let case = case("passdb", "auth_backend", "the password's lookup takes 900 ms more", wanted);
    let recording = bed.record(&case, |_| (), |run| struck(run, &["AUTHENTICATE", "LOGIN"]));
    bed.set_lookup_delay(Duration::ZERO);
    recording
}

/// The client's address has a wrong password now and then. After a right one the next run is not delayed.
fn auth_penalty(bed: &Testbed, wanted: usize) -> Recording {
    let server = SocketAddr::from((SERVER.parse::<Ipv4Addr>().unwrap(), bed.dovecot.plain));
    let case = case("penalty", "auth_penalty", "another client's wrong passwords from the same address", wanted);
    let case = Case { interval: Duration::from_millis(5_500), most: Duration::from_secs(110), ..case };
    let line = &bed.line.client;
    let guess = |_: &ProbingAgent| {
        line.enter(|| Background::start(move |stop| wrong_passwords(server, Duration::from_millis(2_300), stop)))
    };
    let recording = bed.record(&case, guess, |run| struck(run, &["AUTHENTICATE", "LOGIN"]));
    // The next cause begins without a penalty.
    let paid = line.enter(|| sessions(1, server, false, PROBE.0, PROBE.1));
    assert_eq!(paid.len(), 1, "a login that ends the penalty");
    recording
}

// === limits ===

fn userip_limit(bed: &Testbed, wanted: usize) -> Recording {
    let server = SocketAddr::from((SERVER.parse::<Ipv4Addr>().unwrap(), bed.dovecot.plain));
    let held = bed.line.client.enter(|| sessions(USER_SESSIONS, server, false, PROBE.0, PROBE.1));
    assert_eq!(held.len(), USER_SESSIONS, "sessions up to mail_max_userip_connections");
    let note = format!("mail_max_userip_connections = {USER_SESSIONS}, all of them taken");
    bed.record(&case("userip-limit", "limit", note, wanted), |_| (), |run| struck(run, &[]))
}

/// Sessions that are held again and again, from the server's own host.
fn held_sessions(bed: &Testbed, count: usize, tls: bool, held: Duration, free: Duration) -> Background {
    let port = if tls { bed.dovecot.tls } else { bed.dovecot.plain };
    let server = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    bed.line.server.enter(|| {
        Background::start(move |stop| {
            loop {
                let sessions = sessions(count, server, tls, "load1", "load");
                let goes_on = stop.pause(held);
                drop(sessions);
                if !goes_on || !stop.pause(free) {
                    return;
                }
            }
        })
    })
}

fn login_limit(bed: &Testbed, wanted: usize) -> Recording {
    let note = format!(
        "process_limit = {LOGIN_PROCESSES} of imap-login, all taken by sessions over TLS for 1.4 s of each 2 s"
    );
    // Their user may have as many sessions as the login processes.
    bed.reconfigure("mail_max_userip_connections = 100\n");
    let (held, free) = (Duration::from_millis(1_400), Duration::from_millis(600));
    let beside = |_: &ProbingAgent| held_sessions(bed, LOGIN_PROCESSES, true, held, free);
    let by_cause = |run: &Run| struck(run, &["connect", "tls", "greeting"]);
    let recording = bed.record(&case("login-limit", "limit", note, wanted), beside, by_cause);
    bed.reconfigure("");
    recording
}

fn imap_limit(bed: &Testbed, wanted: usize) -> Recording {
    let note = format!("process_limit = {IMAP_PROCESSES} of imap, all taken for 1.8 s of each 2.6 s");
    bed.reconfigure("mail_max_userip_connections = 100\n");
    let (held, free) = (Duration::from_millis(1_800), Duration::from_millis(800));
    let beside = |_: &ProbingAgent| held_sessions(bed, IMAP_PROCESSES, false, held, free);
    let by_cause = |run: &Run| struck(run, &["AUTHENTICATE", "LOGIN"]);
    let recording = bed.record(&case("imap-limit", "limit", note, wanted), beside, by_cause);
    bed.reconfigure("");
    recording
}

// === the prober ===

/// The agent is stopped for 320 ms some time after the look-up of a run.
fn prober_stopped(bed: &Testbed, wanted: usize) -> Recording {
    let case = case("prober", "prober", "the agent is stopped for 320 ms in the middle of the run", wanted);
    let case = Case { interval: Duration::from_millis(1_700), ..case };
    let stops = Arc::<Mutex<Vec<(SystemTime, SystemTime)>>>::default();
    let (kept, asked) = (Arc::clone(&stops), bed.names.asked());
    let stop_it = |agent: &ProbingAgent| {
        let process = agent.process();
        Background::start(move |stop| {
            let mut seen = asked.load(Ordering::Relaxed);
            let mut number = 0;
            while stop.pause(Duration::from_millis(1)) {
                if asked.load(Ordering::Relaxed) == seen {
                    continue;
                }
                // At another place of the run each time.
                number += 1;
                stop.pause(Duration::from_millis(5 + number * 17 % 60));
                let from = clock::wall();
                kill(process, Signal::SIGSTOP).unwrap();
                stop.pause(Duration::from_millis(320));
                kill(process, Signal::SIGCONT).unwrap();
                kept.lock().unwrap().push((from, clock::wall()));
                stop.pause(Duration::from_millis(700));
                seen = asked.load(Ordering::Relaxed);
            }
        })
    };
    bed.record(&case, stop_it, |run| {
        let (from, until) = times(run);
        let inside = |stop: &&(SystemTime, SystemTime)| stop.0 > from && stop.1 < until;
        stops.lock().unwrap().iter().any(|stop| inside(&stop))
    })
}
