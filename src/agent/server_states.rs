//! Which of the probed servers are unreachable, for `imaptrace.agent.servers` and `imaptrace.agent.servers_unreachable`.
//!
//! A server is a host and a port. It is unreachable while the last run of each of its accounts, over each address family, failed in
//! the network; accounts without a run do not count, and void runs change nothing. Called by the agent's start, `reload` and
//! `runner`.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::target_set::{AccountWork, server_name};
use crate::{net::Family, plan::Target, schedule::Slot, telemetry::Metrics};

/// The servers of all targets.
#[derive(Default)]
pub(super) struct ServerStates(Mutex<HashMap<Arc<str>, ServerRuns>>);

/// The accounts of a server whose runs have ended: whether the last one over a family failed in the network.
#[derive(Default)]
struct ServerRuns(HashMap<(String, Family), bool>);

impl ServerRuns {
    fn is_unreachable(&self) -> bool {
        !self.0.is_empty() && self.0.values().all(|failed| *failed)
    }
}

impl ServerStates {
    /// These accounts are probed from now on. What is known of others is dropped.
    pub(super) fn set(&self, slots: &[Slot<AccountWork>], metrics: &Metrics) {
        let mut servers = self.servers();
        let mut before = std::mem::take(&mut *servers);
        let mut accounts: HashMap<Arc<str>, HashSet<&str>> = HashMap::new();
        for slot in slots {
            accounts.entry(slot.server.clone()).or_default().insert(&slot.name);
        }
        for (server, accounts) in accounts {
            let mut state = before.remove(&server).unwrap_or_default();
            state.0.retain(|(account, _), _| accounts.contains(account.as_str()));
            servers.insert(server, state);
        }
        record(&servers, metrics);
    }

    /// A run of an account of a target over a family has ended: whether it failed in the network.
    pub(super) fn report(
        &self,
        (target, account, family): (&Target, &str, Family),
        failed_in_network: bool,
        metrics: &Metrics,
    ) {
        let mut servers = self.servers();
        // A run of a target that a reload took out may end later.
        let Some(state) = servers.get_mut(server_name(target).as_str()) else { return };
        let before = state.is_unreachable();
        state.0.insert((format!("{}/{account}", target.name), family), failed_in_network);
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

    #[test]
    fn a_server_is_unreachable_when_all_accounts_with_a_run_failed_in_the_network() {
        let of = |runs: &[(&str, Family, bool)]| {
            let runs = runs.iter().map(|(account, family, failed)| (((*account).to_owned(), *family), *failed));
            ServerRuns(runs.collect()).is_unreachable()
        };
        assert!(!of(&[]), "no run has ended");
        assert!(of(&[("a", Family::Any, true), ("b", Family::Any, true)]));
        assert!(!of(&[("a", Family::Any, true), ("b", Family::Any, false)]));
        assert!(!of(&[("a", Family::V4, false), ("a", Family::V6, true)]), "reachable over IPv4");
    }
}
