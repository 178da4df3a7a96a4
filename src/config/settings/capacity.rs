//! Warns of limits that are too low for the targets: too few logins skip runs permanently, too few responses fail them.
//!
//! Called by `load`.

use std::{collections::BTreeMap, num::NonZeroU32};

use crate::{
    config::sources::readers::Table,
    plan::{AddressChoice, RunLimits, Target},
};

/// Warns of a limit on responses below that of the largest FETCH: one for each message.
pub(crate) fn check_responses(table: &Table<'_>, targets: &[Target]) {
    let probed = targets.iter().flat_map(|target| target.probed().map(|(_, probed)| probed));
    let newest = probed.max_by_key(|target| target.journey.newest);
    if let Some(target) = newest.filter(|target| target.limits.responses < u64::from(target.journey.newest)) {
        let (name, newest, limit) = (&target.name, target.journey.newest, target.limits.responses);
        let what = format!("{name} fetches {newest} messages, each a response, and the limit is {limit}");
        table.warn("responses", what, "raise it, or lower newest");
    }
}

/// Warns of a limit on logins below that of the intervals; of servers, for the one with the most logins.
pub(crate) fn check_logins(table: &Table<'_>, targets: &[Target], limits: &RunLimits) {
    let mut servers: BTreeMap<String, f64> = BTreeMap::new();
    for target in targets {
        let server = format!("{}:{}", target.endpoint.host, target.endpoint.port);
        let families = if target.address == AddressChoice::Each { 2.0 } else { 1.0 };
        let logins: f64 = target.probed().map(|(_, probed)| families / probed.interval.as_secs_f64()).sum();
        *servers.entry(server).or_default() += logins;
    }
    let all = servers.values().sum();
    let most = servers.iter().max_by(|one, other| one.1.total_cmp(other.1));
    if let Some((server, rate)) = most {
        warn(table, "logins_per_second_per_server", limits.logins_per_second_per_server, server, *rate);
    }
    warn(table, "logins_per_second", limits.logins_per_second, "all servers together", all);
}

fn warn(table: &Table<'_>, key: &str, limit: Option<NonZeroU32>, server: &str, rate: f64) {
    if let Some(limit) = limit.filter(|limit| rate > f64::from(limit.get())) {
        let what =
            format!("{rate:.1} logins a second are due on {server}, the limit is {limit}: the others are skipped");
        table.warn(key, what, "raise it if the server can take them, or make intervals longer");
    }
}
