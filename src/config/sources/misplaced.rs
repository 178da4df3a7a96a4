//! The table that a key belongs in, when it stands in one that has no such key.
//!
//! Looks at names, not at values. Called by `read` for every unknown key, and by the readers of tables whose keys the user
//! chooses: a key that comes after their header is easily taken for one of theirs.

use crate::config::{
    keys::{self, TableKeys},
    problem::nearest,
};

/// The tables in which another table's key is looked for, in the order in which they are named.
static TABLES: [&TableKeys; 17] = [
    &keys::DEFAULTS,
    &keys::TARGET,
    &keys::ACCOUNT,
    &keys::GROUP,
    &keys::DEADLINES,
    &keys::AGENT,
    &keys::OTLP,
    &keys::OTLP_TRACES,
    &keys::OTLP_METRICS,
    &keys::METRICS,
    &keys::LATENCY,
    &keys::LIMITS,
    &keys::DNS,
    &keys::STATE,
    &keys::HTTP,
    &keys::WINDOW,
    &keys::SECRET,
];

/// What other programs call it where a target is described, and our key for it.
const SYNONYMS: [(&str, &str); 10] = [
    ("host", "url"),
    ("hostname", "url"),
    ("server", "url"),
    ("port", "url"),
    ("username", "user"),
    ("login", "user"),
    ("folder", "mailbox"),
    ("ssl", "security"),
    ("starttls", "security"),
    ("every", "interval"),
];

/// Where a key belongs.
pub(crate) struct KeyTables {
    /// In words, such as "in `[defaults]` or a target".
    pub(crate) words: String,
    /// The table that a variable sets it in, if one can.
    pub(crate) table: Option<&'static str>,
}

/// Where `key` belongs, if any table but `here` has it.
pub(crate) fn home(key: &str, here: &TableKeys) -> Option<KeyTables> {
    let has = |table: &TableKeys| table.keys.contains(&key);
    let own = |table: &TableKeys| table.path == here.path;
    // Not every command has all of the top level.
    if has(here) || own(&keys::TOP) && has(&keys::TOP) {
        return None;
    }
    let mut words: Vec<&str> = Vec::new();
    let mut table = None;
    for home in TABLES.into_iter().filter(|home| has(home) && !own(home)) {
        let covered = match home.path {
            // What a target may say, a group says for its targets.
            "groups" => has(&keys::TARGET),
            "otlp.traces" | "otlp.metrics" => has(&keys::OTLP),
            _ => false,
        };
        if !covered {
            let (named, reachable) = named(home.path);
            words.extend(named);
            table = table.or_else(|| reachable.then_some(home.path));
        }
    }
    if keys::STEPS.contains(&key) && here.path != SLOW_LIMITS.path {
        words.push("`[latency.slow_limits]`");
        table = table.or(Some("latency.slow_limits"));
    }
    let mut words = listed(&words).map(|words| format!("in {words}"));
    if has(&keys::TOP) {
        let top = match key {
            "targets_from" => "at the top of the file, before the first `[table]`".to_owned(),
            "targets" | "groups" | "windows" => format!("at the top level, as `[[{key}]]`"),
            _ => format!("at the top level, as `[{key}]`"),
        };
        words = Some(words.map_or_else(|| top.clone(), |words| format!("{words}, or {top}")));
    }
    Some(KeyTables { words: words?, table })
}

/// What stands for a table of steps, whose keys are no fixed words to its reader.
pub(crate) static SLOW_LIMITS: TableKeys = TableKeys { path: "latency.slow_limits", keys: &[], later: &[] };
/// The same for labels and headers.
pub(crate) static FREE: TableKeys = TableKeys { path: "labels", keys: &[], later: &[] };

/// What to do about a key that no table has: the key that was meant, as far as the names show it.
pub(crate) fn meant(key: &str, here: &TableKeys) -> Option<String> {
    let lower = key.to_ascii_lowercase();
    let near_here = || nearest(&lower, here.keys.iter().chain(here.later).copied());
    let describes = ["", "defaults", "targets", "groups", "targets.accounts"].contains(&here.path);
    let synonym = || SYNONYMS.iter().find(|(word, _)| describes && *word == lower).map(|(_, key)| *key);
    let near = || nearest(&lower, TABLES.iter().flat_map(|table| table.keys).copied());
    let known = near_here().or_else(synonym).or_else(near)?;
    if here.keys.contains(&known) || here.later.contains(&known) {
        return Some(format!("did you mean `{known}`?"));
    }
    Some(format!("did you mean `{known}`? it belongs {}", home(known, here)?.words))
}

/// How a table is named in a sentence, and whether a variable can reach it.
fn named(path: &'static str) -> (&'static [&'static str], bool) {
    match path {
        "defaults" => (&["`[defaults]`"], true),
        "targets" => (&["a target"], false),
        "targets.accounts" => (&["an account"], false),
        "groups" => (&["a group"], false),
        "defaults.deadlines" => (&["`[defaults.deadlines]`", "a target's `deadlines`"], true),
        "agent" => (&["`[agent]`"], true),
        "otlp" => (&["`[otlp]`"], true),
        "otlp.traces" => (&["`[otlp.traces]`"], true),
        "otlp.metrics" => (&["`[otlp.metrics]`"], true),
        "metrics" => (&["`[metrics]`"], true),
        "latency" => (&["`[latency]`"], true),
        "limits" => (&["`[limits]`"], true),
        "dns" => (&["`[dns]`"], true),
        "state" => (&["`[state]`"], true),
        "http" => (&["`[http]`"], true),
        "windows" => (&["a window"], false),
        _ => (&["the braces of a secret, such as `password = { file = \"…\" }`"], false),
    }
}

fn listed(words: &[&str]) -> Option<String> {
    let (last, first) = words.split_last()?;
    Some(if first.is_empty() { (*last).to_owned() } else { format!("{} or {last}", first.join(", ")) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_every_table_is_found_from_every_table_that_does_not_have_it() {
        for here in keys::tables() {
            for table in keys::tables() {
                for key in table.keys {
                    let found = home(key, &here);
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
        let words = |key: &str, here: &TableKeys| home(key, here).map(|home| home.words);
        for (key, here, expected) in [
            ("interval", &keys::TOP, "in `[defaults]` or a target"),
            ("interval", &keys::ACCOUNT, "in `[defaults]` or a target"),
            ("timeout", &keys::AGENT, "in `[defaults]`, a target or `[otlp]`"),
            ("url", &keys::DEFAULTS, "in a target"),
            ("user", &keys::DEFAULTS, "in a target or an account"),
            ("labels", &keys::DEFAULTS, "in a target, `[metrics]` or a window"),
            ("runs_in_flight", &keys::TARGET, "in `[limits]`"),
            (
                "connect",
                &keys::DEFAULTS,
                "in `[defaults.deadlines]`, a target's `deadlines` or `[latency.slow_limits]`",
            ),
            ("FETCH", &keys::LATENCY, "in `[latency.slow_limits]`"),
            ("targets_from", &keys::AGENT, "in a group, or at the top of the file, before the first `[table]`"),
            ("limits", &keys::DEFAULTS, "at the top level, as `[limits]`"),
            ("windows", &keys::TARGET, "at the top level, as `[[windows]]`"),
            ("metrics", &keys::AGENT, "in `[otlp]`, or at the top level, as `[metrics]`"),
            ("credential", &keys::ACCOUNT, "in the braces of a secret, such as `password = { file = \"…\" }`"),
        ] {
            assert_eq!(words(key, here).as_deref(), Some(expected), "{key} in {:?}", here.path);
        }
        assert_eq!(words("windows", &keys::PROBE_TOP), None, "probe has no windows, wherever they stand");
    }

    #[test]
    fn a_key_that_is_mistyped_as_well_or_called_otherwise_elsewhere_is_found_too() {
        for (key, here, expected) in [
            ("intervall", &keys::DEFAULTS, "did you mean `interval`?"),
            ("Interval", &keys::DEFAULTS, "did you mean `interval`?"),
            ("intervall", &keys::TOP, "did you mean `interval`? it belongs in `[defaults]` or a target"),
            ("server", &keys::TARGET, "did you mean `url`?"),
            ("host", &keys::DEFAULTS, "did you mean `url`? it belongs in a target"),
        ] {
            assert_eq!(meant(key, here).as_deref(), Some(expected));
        }
        assert_eq!(meant("favourite-colour", &keys::TARGET), None);
    }
}
