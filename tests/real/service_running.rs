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

/// A Dovecot inside, which logs to this place and reports the sessions of user1.
fn start_dovecot(systemd: &Systemd, log_path: &str, more: &str) {
    let settings = exporter_of("dovecot", PORT, &EVENTS) + "log_path = " + log_path + "\n" + more;
    systemd.write("/srv/settings.conf", &settings);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/dovecot.sh");
    // In place of the service of Dovecot's package: of the journal only what that service writes is read.
    let service = format!(
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart={script} start {DOVECOT} 143 993\n\
         Environment=DOVECOT_MESSAGES=2000 DOVECOT_EXTRA=/srv/settings.conf HOME=/root\n"
    );
    systemd.write("/etc/systemd/system/dovecot.service", &service);
    systemd.output(&["systemctl", "daemon-reload"]);
    systemd.output(&["systemctl", "start", "dovecot.service"]);
}

/// An agent beside it, which keeps what it cannot deliver.
fn configure(systemd: &Systemd, mail_log: &str) {
    let config = format!(
        "[http]\nlisten = \"off\"\n[otlp]\nendpoint = \"http://127.0.0.1:9\"\n\
         [server_events]\nlisten = \"127.0.0.1:{PORT}\"\nwait = \"2s\"\nproc = true\nusers = [\"user*\"]\nmail_log = \"{mail_log}\"\n\
         [[server_events.senders]]\nname = \"dovecot\"\nsecret = {{ credential = \"events\" }}\ntargets = [\"*\"]\n\
         [[targets]]\nname = \"mail01\"\nurl = \"imap://127.0.0.1:143\"\nsecurity = \"none\"\nuser = \"{}\"\n\
         password = {{ credential = \"mail01\" }}\ninterval = \"2s\"\ntimeout = \"1900ms\"\nnewest = 2000\n",
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
    // The file of Debian's mail log.
    systemd.write(LOG, "");
    systemd.output(&["chown", "root:adm", LOG]);
    systemd.output(&["chmod", "640", LOG]);
    start_dovecot(&systemd, LOG, "");
    configure(&systemd, LOG);
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

#[test]
fn a_member_of_the_group_of_the_journal_finds_the_sessions_in_a_mail_log_that_is_the_journal() {
    let systemd = Systemd::start(env!("CARGO_BIN_EXE_imaptrace"));
    // As at the start of a whole system: the socket of syslog, and the group that may read the journal.
    systemd.output(&["systemctl", "start", "systemd-journald-dev-log.socket"]);
    systemd.output(&["systemd-tmpfiles", "--create", "--prefix=/run/log/journal"]);
    // journald tells those who follow it of a line up to 250 ms later: a session that is over by then is not found. Of this one
    // the commands come after a script.
    systemd.write("/srv/post-login.sh", "#!/bin/sh\nsleep 0.6\nexec \"$@\"\n");
    systemd.output(&["chmod", "755", "/srv/post-login.sh"]);
    let slow = "service imap {\n  executable = imap imap-postlogin\n}\nservice imap-postlogin {\n  executable = script-login \
                /srv/post-login.sh\n  unix_listener imap-postlogin {\n  }\n}\n";
    start_dovecot(&systemd, "syslog", slow);
    configure(&systemd, "journal");
    let group = "\nSupplementaryGroups=adm\n";
    assert!(DROP_IN.contains(group) && DROP_IN.contains("\n#SupplementaryGroups=systemd-journal\n"), "{DROP_IN}");
    let drop_in = DROP_IN.replace(group, "\n").replace("\n#SupplementaryGroups", "\nSupplementaryGroups");
    systemd.write("/etc/systemd/system/imaptrace.service.d/server-events.conf", &drop_in);
    systemd.output(&["systemctl", "daemon-reload"]);
    systemd.output(&["systemctl", "start", "imaptrace.service"]);
    wait_until("runs with what the imap process used", || {
        Some(reported(&systemd)).filter(|(_, accounted)| *accounted >= 2)
    });
    systemd.output(&["systemctl", "stop", "imaptrace.service"]);
}
