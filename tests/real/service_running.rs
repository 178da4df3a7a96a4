//! The agent as a service of a systemd that runs: the unit and the drop-in for mail servers as they are shipped.

use std::fs;

use imaptrace_record::{Run, Seconds, ServerProcessName};

use super::server_events::{EVENTS, SECRET, exporter_of};
use crate::support::{dovecot::USER1, program::wait_until, systemd::Systemd};

const UNIT: &str = include_str!("../../deploy/systemd/imaptrace.service");
const DROP_IN: &str = include_str!("../../deploy/systemd/imaptrace.service.d/server-events.conf");

/// Every port is free there.
const PORT: u16 = 8144;
const DOVECOT: &str = "/srv/dovecot";
const LOG: &str = "/var/log/mail.log";

/// A Dovecot inside, which logs into the file of Debian's mail log and reports the sessions of user1.
fn start_dovecot(systemd: &Systemd) {
    systemd.write("/srv/settings.conf", &(exporter_of("dovecot", PORT, &EVENTS) + "log_path = " + LOG + "\n"));
    systemd.write(LOG, "");
    systemd.output(&["chown", "root:adm", LOG]);
    systemd.output(&["chmod", "640", LOG]);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/dovecot.sh");
    let variables = ["env", "DOVECOT_MESSAGES=2000", "DOVECOT_EXTRA=/srv/settings.conf"];
    systemd.output(&[&variables[..], &[script, "start", DOVECOT, "143", "993"]].concat());
}

/// An agent beside it, which keeps what it cannot deliver.
fn configure(systemd: &Systemd) {
    let config = format!(
        "[http]\nlisten = \"off\"\n[otlp]\nendpoint = \"http://127.0.0.1:9\"\n\
         [server_events]\nlisten = \"127.0.0.1:{PORT}\"\nwait = \"2s\"\nproc = true\nusers = [\"user*\"]\nmail_log = \"{LOG}\"\n\
         [[server_events.senders]]\nname = \"dovecot\"\nsecret = {{ credential = \"events\" }}\ntargets = [\"*\"]\n\
         [[targets]]\nname = \"mail01\"\nurl = \"imap://127.0.0.1:143\"\nsecurity = \"none\"\nuser = \"{}\"\n\
         password = {{ credential = \"mail01\" }}\ninterval = \"1s\"\ntimeout = \"900ms\"\nnewest = 2000\n",
        USER1.0
    );
    systemd.write("/etc/imaptrace/imaptrace.toml", &config);
    systemd.write("/srv/password", USER1.1);
    systemd.write("/srv/secret", SECRET);
    systemd.write("/etc/systemd/system/imaptrace.service", UNIT);
    let credentials = "[Service]\nLoadCredential=mail01:/srv/password\nLoadCredential=events:/srv/secret\n";
    systemd.write("/etc/systemd/system/imaptrace.service.d/credentials.conf", credentials);
}

/// The runs that it keeps.
fn kept(systemd: &Systemd) -> Vec<Run> {
    let output = systemd.run(&["imaptrace", "show", "/var/lib/private/imaptrace", "--output", "json", "--all"]);
    String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Runs of which the server has reported, and of these those with what its imap process used.
fn reported(systemd: &Systemd) -> (Vec<Run>, usize) {
    let runs: Vec<_> = kept(systemd).into_iter().filter(|run| run.server_events.is_some()).collect();
    // Their FETCH takes longer than the time between two samples.
    let has_imap = |run: &&Run| {
        let mut processes = run.server_events.iter().flat_map(|server| &server.processes);
        processes.any(|process| process.process == ServerProcessName::Imap && process.sampled_s > Seconds::ZERO)
    };
    let accounted = runs.iter().filter(has_imap).count();
    (runs, accounted)
}

#[test]
fn the_drop_in_lets_the_service_account_processes_of_other_users_without_root_and_the_unit_alone_does_not() {
    let systemd = Systemd::start(env!("CARGO_BIN_EXE_imaptrace"));
    start_dovecot(&systemd);
    configure(&systemd);
    systemd.output(&["systemctl", "daemon-reload"]);
    systemd.output(&["systemctl", "start", "imaptrace.service"]);
    let (_, accounted) =
        wait_until("runs with events", || Some(reported(&systemd)).filter(|(runs, _)| runs.len() >= 3));
    assert_eq!(accounted, 0, "without the drop-in it sees no process of others");
    systemd.output(&["systemctl", "stop", "imaptrace.service"]);

    systemd.write("/etc/systemd/system/imaptrace.service.d/server-events.conf", DROP_IN);
    systemd.output(&["systemctl", "daemon-reload"]);
    // It returns when the service says that it is ready.
    systemd.output(&["systemctl", "start", "imaptrace.service"]);
    wait_until("runs with what the imap process used", || {
        Some(reported(&systemd)).filter(|(_, accounted)| *accounted >= 2)
    });
    let process = systemd.output(&["systemctl", "show", "--property=MainPID", "--value", "imaptrace.service"]);
    let status = fs::read_to_string(systemd.path(&format!("/proc/{}/status", process.trim()))).unwrap();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert!(!field("Uid:").split_whitespace().any(|id| id == "0"), "{status}");
    assert_eq!((field("CapEff:"), field("CapBnd:")), ("0".repeat(16), "0".repeat(16)));
    let journal = systemd.output(&["journalctl", "--unit=imaptrace.service", "--output=cat", "--no-pager"]);
    assert!(journal.contains("imaptrace is up"), "{journal}");
    for secret in [SECRET, USER1.1] {
        assert!(!journal.contains(secret), "{secret} in {journal}");
    }
    systemd.output(&["systemctl", "stop", "imaptrace.service"]);
    let result = systemd.output(&["systemctl", "show", "--property=Result", "--value", "imaptrace.service"]);
    assert_eq!(result.trim(), "success");
}
