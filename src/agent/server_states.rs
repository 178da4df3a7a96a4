//! Which of the probed servers are unreachable, for `imaptrace.agent.servers` and `imaptrace.agent.servers_unreachable`.
//!
//! A server is a host and a port. It is unreachable while nothing came back to the last run of each of its accounts, over each
//! address family; accounts without a run do not count, and void runs change nothing. Called by the agent's start, `reload` and
//! `runner`.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use imaptrace_record::ErrorType;

use super::target_set::{AccountWork, families, server_name};
use crate::{net::Family, plan::Target, schedule::Slot, telemetry::Metrics};

/// The servers of all targets.
#[derive(Default)]
pub(super) struct ServerStates(Mutex<HashMap<Arc<str>, ServerRuns>>);

/// The probed accounts of a server, by address family: whether nothing came back to the last run; none before a run.
#[derive(Default)]
struct ServerRuns(HashMap<(String, Family), Option<bool>>);

impl ServerRuns {
    fn is_unreachable(&self) -> bool {
        let mut known = self.0.values().flatten().peekable();
        known.peek().is_some() && known.all(|unanswered| *unanswered)
    }
}

/// Whether nothing came back, from a name server or from the server: only such failures can mean that the agent has no network. A
/// refused or reset connection was answered.
pub(super) fn is_unanswered(error: ErrorType) -> bool {
    matches!(
        error,
        ErrorType::DnsServfail | ErrorType::TimeoutResolve | ErrorType::ConnectUnreachable | ErrorType::TimeoutConnect
    )
}

impl ServerStates {
    /// These accounts are probed from now on, over the families of their targets. What is known of others is dropped.
    pub(super) fn set(&self, slots: &[Slot<AccountWork>], metrics: &Metrics) {
        let mut servers = self.servers();
        let mut next: HashMap<Arc<str>, ServerRuns> = HashMap::new();
        for slot in slots {
            let known = servers.get(&slot.server);
            let runs = next.entry(slot.server.clone()).or_default();
            for family in families(slot.work.target.target()) {
                let key = (slot.name.to_string(), *family);
                let last = known.and_then(|known| known.0.get(&key).copied().flatten());
                runs.0.insert(key, last);
            }
        }
        *servers = next;
        record(&servers, metrics);
    }

    /// A run of an account of a target over a family has ended: whether nothing came back to it.
    pub(super) fn report(
        &self,
        (target, account, family): (&Target, &str, Family),
        is_unanswered: bool,
        metrics: &Metrics,
    ) {
        let mut servers = self.servers();
        // A run of an account or a family that a reload took out may end later.
        let Some(state) = servers.get_mut(server_name(target).as_str()) else { return };
        let before = state.is_unreachable();
        let Some(last) = state.0.get_mut(&(format!("{}/{account}", target.name), family)) else { return };
        *last = Some(is_unanswered);
        if state.is_unreachable() != before {
            record(&servers, metrics);
        }
    }

    fn servers(&self) -> MutexGuard<'_, HashMap<Arc<str>, ServerRuns>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn record(servers: &HashMap<Arc<str>, ServerRuns>, metrics: &Metrics) {
    let unreachable = servers.values().filter(|state| state.is_unreachable()).count();
    metrics.agent().servers(servers.len() as u64, unreachable as u64);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        agent::{target_set::TargetSet, tls_files::FileSets},
        config::{self, Sources},
    };

    #[test]
    fn a_server_is_unreachable_when_nothing_came_back_to_the_last_run_of_each_account() {
        let of = |runs: &[(&str, Family, Option<bool>)]| {
            let runs = runs.iter().map(|(account, family, last)| (((*account).to_owned(), *family), *last));
            ServerRuns(runs.collect()).is_unreachable()
        };
        assert!(!of(&[("a", Family::Any, None)]), "no run has ended");
        assert!(of(&[("a", Family::Any, Some(true)), ("b", Family::Any, None)]));
        assert!(!of(&[("a", Family::Any, Some(true)), ("b", Family::Any, Some(false))]));
        assert!(!of(&[("a", Family::V4, Some(false)), ("a", Family::V6, Some(true))]), "reachable over IPv4");
    }

    #[test]
    fn what_a_reload_took_out_counts_no_more() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("imaptrace.toml");
        let targets = |address: &str, accounts: &[&str]| {
            let accounts = accounts.iter().map(|name| {
                format!("[[targets.accounts]]\nname = \"{name}\"\nuser = \"u\"\npassword = {{ env = \"P\" }}\n")
            });
            let text = format!(
                "[[targets]]\nname = \"mail\"\nurl = \"imap://127.0.0.1\"\nsecurity = \"none\"\naddress = \"{address}\"\n{}",
                accounts.collect::<String>()
            );
            std::fs::write(&file, text).unwrap();
            config::load(&Sources { file: Some(file.clone()), ..Sources::default() }).unwrap().targets
        };
        let (states, metrics) = (ServerStates::default(), Metrics::off());
        let set = |targets: &[Target]| {
            let (set, _) = TargetSet::default().next(targets, &FileSets::default());
            states.set(&set.slots(), &metrics);
        };
        let unreachable = || states.servers().values().filter(|runs| runs.is_unreachable()).count();
        let both = targets("any", &["a", "b"]);
        set(&both);
        states.report((&both[0], "a", Family::Any), false, &metrics);
        states.report((&both[0], "b", Family::Any), true, &metrics);
        assert_eq!(unreachable(), 0);
        // The account whose run passed is gone, and a run of it ends after that.
        let one = targets("any", &["b"]);
        set(&one);
        states.report((&both[0], "a", Family::Any), false, &metrics);
        assert_eq!(unreachable(), 1);
        // The runs are over another family now.
        states.report((&one[0], "b", Family::Any), false, &metrics);
        let v4 = targets("v4", &["b"]);
        set(&v4);
        states.report((&v4[0], "b", Family::V4), true, &metrics);
        assert_eq!(unreachable(), 1);
    }
}
