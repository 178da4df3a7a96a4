//! The list of all tables of the configuration. Their keys are defined beside their readers.
//!
//! Readers refuse other tables, and a test compares the documentation and the sample file with the list.

use super::{
    settings::{agent, dns, http, latency, limits, metrics, otlp, server_events, state, window},
    sources::{
        schema::{Schema, TableKeys},
        tree::PROBE,
    },
    targets::{account, options, target_sources},
};

pub(super) static TOP: TableKeys = TableKeys {
    path: "",
    keys: &[
        "include",
        "targets_from",
        "agent",
        "defaults",
        "otlp",
        "metrics",
        "latency",
        "limits",
        "dns",
        "state",
        "http",
        "server_events",
        "windows",
        "groups",
        "targets",
    ],
    later: &["journeys"],
};
/// The top level for the command line of `probe`. Some keys have no effect there, but a variable for the agent is no error.
pub(super) static PROBE_TOP: TableKeys = TableKeys {
    path: "",
    keys: &[
        "include",
        "targets_from",
        "agent",
        "defaults",
        "otlp",
        "metrics",
        "latency",
        "limits",
        "dns",
        "state",
        "http",
        "server_events",
        PROBE,
    ],
    later: TOP.later,
};

/// All tables.
pub(super) static SCHEMA: Schema = Schema {
    top: &TOP,
    tables: &[
        &options::DEFAULTS,
        &options::TARGET,
        &options::ACCOUNT,
        &options::GROUP,
        &target_sources::HTTP,
        &options::DEADLINES,
        &agent::KEYS,
        &otlp::KEYS,
        &otlp::TRACES,
        &otlp::METRICS,
        &metrics::KEYS,
        &latency::KEYS,
        &limits::KEYS,
        &dns::KEYS,
        &state::KEYS,
        &http::KEYS,
        &server_events::KEYS,
        &server_events::SENDER,
        &window::KEYS,
        &account::SECRET,
    ],
    steps: &latency::STEPS,
};

/// Every table, for tests and documentation.
pub fn tables() -> impl Iterator<Item = TableKeys> {
    std::iter::once(SCHEMA.top).chain(SCHEMA.tables.iter().copied()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_every_table_is_found_from_every_table_that_does_not_have_it() {
        for here in tables() {
            for table in tables() {
                for key in table.keys {
                    let found = SCHEMA.home(key, &here);
                    assert_eq!(
                        found.is_none(),
                        here.keys.contains(key),
                        "{key} of {:?} in {:?}",
                        table.path,
                        here.path
                    );
                }
            }
        }
    }

    #[test]
    fn the_words_name_each_table_once() {
        let words = |key: &str, here: &TableKeys| SCHEMA.home(key, here).map(|home| home.words);
        for (key, here, expected) in [
            ("interval", &TOP, "in `[defaults]`, a target or an account"),
            ("security", &options::ACCOUNT, "in `[defaults]` or a target"),
            ("timeout", &agent::KEYS, "in `[defaults]`, a target, an account or `[otlp]`"),
            ("url", &options::DEFAULTS, "in a target"),
            ("user", &options::DEFAULTS, "in a target or an account"),
            ("labels", &options::DEFAULTS, "in a target, an account, `[agent]`, `[metrics]` or a window"),
            ("runs_in_flight", &options::TARGET, "in `[limits]`"),
            (
                "connect",
                &options::DEFAULTS,
                "in `[defaults.deadlines]`, a target's `deadlines` or `[latency.slow_limits]`",
            ),
            ("FETCH", &latency::KEYS, "in `[latency.slow_limits]`"),
            ("targets_from", &agent::KEYS, "in a group, or at the top of the file, before the first `[table]`"),
            ("limits", &options::DEFAULTS, "at the top level, as `[limits]`"),
            ("windows", &options::TARGET, "at the top level, as `[[windows]]`"),
            ("metrics", &agent::KEYS, "in `[otlp]`, or at the top level, as `[metrics]`"),
            ("credential", &options::ACCOUNT, "in the braces of a secret, such as `password = { file = \"…\" }`"),
        ] {
            assert_eq!(words(key, here).as_deref(), Some(expected), "{key} in {:?}", here.path);
        }
        assert_eq!(words("windows", &PROBE_TOP), None, "probe has no windows, wherever they stand");
    }

    #[test]
    fn a_key_that_is_mistyped_as_well_or_called_otherwise_elsewhere_is_found_too() {
        for (key, here, expected) in [
            ("intervall", &options::DEFAULTS, "did you mean `interval`?"),
            ("Interval", &options::DEFAULTS, "did you mean `interval`?"),
            ("intervall", &TOP, "did you mean `interval`? it belongs in `[defaults]`, a target or an account"),
            ("server", &options::TARGET, "did you mean `url`?"),
            ("host", &options::DEFAULTS, "did you mean `url`? it belongs in a target"),
        ] {
            assert_eq!(SCHEMA.meant(key, here).as_deref(), Some(expected));
        }
        assert_eq!(SCHEMA.meant("favourite-colour", &options::TARGET), None);
    }
}
