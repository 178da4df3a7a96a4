//! How many metric series a configuration makes (contract §5), so that it can be refused before it costs anything.
//!
//! A histogram counts as one series for each set of attributes, as OpenTelemetry counts; a Prometheus that splits it
//! into buckets sees about 19 times as many for a histogram with the explicit ones. Called by `load` and `describe`.

use std::collections::HashMap;

use super::Config;
use crate::plan::{AddressChoice, Host, Security, Target};

/// Commands that every run sends once: CAPABILITY, ID, LOGIN or AUTHENTICATE, NAMESPACE, LIST, SELECT or EXAMINE,
/// FETCH, LOGOUT. STARTTLS comes on top.
const COMMANDS: u64 = 8;

/// `imaptrace.timing.duration` parts the time of a command into so many.
const TIMING_PARTS: u64 = 3;

/// Ways of failing that an account is reckoned to show in its life: each adds a series for the run and one for the step.
const FAILURES: u64 = 5;

/// `imaptrace.probe.skipped` has this many reasons.
const SKIP_REASONS: u64 = 4;

/// Of the agent itself: start lag, active runs, queue size and limit, dropped by reason (3), delivery duration, time and
/// success of the last reload.
const AGENT: u64 = 10;

/// What tells an account's series from those of others: the name, the account, the journey, and the labels that metrics
/// bear. Targets of one group share them when series are for groups.
type Account<'a> = (&'a str, &'a str, &'static str, Vec<Option<&'a String>>);

/// The number of series when all goes well, and an allowance for failures.
pub fn series(config: &Config) -> u64 {
    let mut accounts: HashMap<Account<'_>, u64> = HashMap::new();
    for target in &config.targets {
        let families = if target.address == AddressChoice::Each { 2 } else { 1 };
        let count = families * per_account(target, config.metrics.timing);
        for account in &target.accounts {
            let labels = config.metrics.labels.iter().map(|label| target.labels.get(label)).collect();
            let name = target.series_name(config.metrics.per);
            let known = accounts.entry((name, &account.alias, target.journey.name(), labels)).or_default();
            // Of targets that share them, the one with the most has those of the others too.
            *known = count.max(*known);
        }
    }
    AGENT + accounts.into_values().sum::<u64>()
}

fn per_account(target: &Target, timing: bool) -> u64 {
    let tls = target.security != Security::None;
    let commands = COMMANDS + u64::from(target.security == Security::StartTls);
    let phases = 2 + u64::from(tls) + u64::from(matches!(target.endpoint.host, Host::Name(_)));
    // First loading, probe duration, up, last run, messages, bytes of the greeting; the certificate's end.
    let single = 6 + u64::from(tls);
    // One duration and two directions of bytes for each command.
    let of_command = 3 + if timing { TIMING_PARTS } else { 0 };
    single + phases + of_command * commands + SKIP_REASONS + 2 * FAILURES
}
