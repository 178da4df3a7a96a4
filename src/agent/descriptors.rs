//! Keeps runs below the number of files that the process may have open: beyond that every run would be void.

use nix::sys::resource::{Resource, getrlimit};
use tracing::warn;

use crate::{
    plan::RunLimits,
    process_accounting::ProcessAccounting,
    server_events::{EventReceiver, ServerEventsSettings},
};

/// Files that are open without any run: log, status, delivery, the disk.
const OWN: u64 = 64;
/// The most files a run has open: while it connects, two address families in a race, or one and a file with a root certificate.
const PER_RUN: u64 = 2;

/// The limits reduced to what this process can keep beside what it does for server events, with a warning if that is less than
/// configured.
pub(super) fn bounded(limits: RunLimits, server_events: &ServerEventsSettings) -> RunLimits {
    let Ok((open, _)) = getrlimit(Resource::RLIMIT_NOFILE) else { return limits };
    let reserved = reserved(server_events);
    let reduced = within(limits, open.saturating_sub(reserved));
    if reduced != limits {
        warn!(
            asked = limits.in_flight,
            runs = reduced.in_flight,
            open_files = open,
            reserved,
            "fewer runs at once than [limits] runs_in_flight: the limit on open files is too low for them (ulimit -n, LimitNOFILE=)"
        );
    }
    reduced
}

/// The most files that are open for server events. Others decide how many connections there are: without this, senders could take
/// the files of runs.
fn reserved(settings: &ServerEventsSettings) -> u64 {
    let receiver = settings.listen.map_or(0, |_| EventReceiver::CONNECTIONS);
    let accounting = settings.accounting.as_ref().map_or(0, |_| ProcessAccounting::OPEN_FILES);
    (receiver + accounting) as u64
}

fn within(limits: RunLimits, open: u64) -> RunLimits {
    let most = usize::try_from(open.saturating_sub(OWN) / PER_RUN).unwrap_or(usize::MAX).max(1);
    RunLimits {
        in_flight: limits.in_flight.min(most),
        in_flight_per_server: limits.in_flight_per_server.min(most),
        ..limits
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::*;
    use crate::process_accounting::{MailLog, ProcessAccountingSettings};

    #[test]
    fn connections_of_senders_and_files_of_accounted_processes_are_reserved_where_they_are_configured() {
        let none = ServerEventsSettings::default();
        let listen = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let accounting = Some(ProcessAccountingSettings { users: Vec::new(), mail_log: MailLog::Journal });
        let receives = ServerEventsSettings { listen, ..none.clone() };
        let accounts = ServerEventsSettings { accounting, ..none.clone() };
        let both = ServerEventsSettings { listen, ..accounts.clone() };
        let all = [none, receives, accounts, both].map(|settings| reserved(&settings));
        assert_eq!(all, [0, 256, 160, 416]);
        for reserved in all {
            assert_eq!(
                within(RunLimits::default(), 1_024 - reserved),
                RunLimits::default(),
                "it is enough with {reserved}"
            );
        }
    }

    #[test]
    fn no_more_runs_are_in_flight_than_files_can_be_open() {
        let asked = RunLimits { in_flight: 5_000, in_flight_per_server: 300, ..RunLimits::default() };
        for (open, in_flight, per_server) in
            [(u64::MAX, 5_000, 300), (65_536, 5_000, 300), (1_024, 480, 300), (256, 96, 96), (66, 1, 1), (0, 1, 1)]
        {
            let reduced = within(asked, open);
            assert_eq!((reduced.in_flight, reduced.in_flight_per_server), (in_flight, per_server), "{open}");
            assert_eq!(reduced.wait, asked.wait);
        }
        assert_eq!(within(RunLimits::default(), 1_024), RunLimits::default(), "what most systems allow is enough");
    }
}
