//! Which keys each table has, and where a key belongs that stands in a table without it.
//!
//! Compares names, not values; the tables themselves are listed in `keys`. Called by `readers` for every unknown key, and for
//! tables whose keys the user chooses: a key that comes after their header is easily taken for one of theirs.

use crate::config::problem::nearest;

/// A table of the configuration and the keys that it may hold.
#[derive(Debug, Clone, Copy)]
pub struct TableKeys {
    /// Its path as in a TOML header; empty for the top level.
    pub path: &'static str,
    /// Keys that have an effect.
    pub keys: &'static [&'static str],
    /// Keys that belong to a later version: refused by name, never silently ignored.
    pub later: &'static [&'static str],
}

impl TableKeys {
    /// A table with no key of a later version.
    pub(crate) const fn new(path: &'static str, keys: &'static [&'static str]) -> Self {
        Self { path, keys, later: &[] }
    }

    fn has(&self, key: &str) -> bool {
        self.keys.contains(&key)
    }
}

/// All tables.
pub(crate) struct Schema {
    /// The top level.
    pub(crate) top: &'static TableKeys,
    /// The tables in which another table's key is looked for, in the order in which they are named.
    pub(crate) tables: &'static [&'static TableKeys],
    /// The keys of `[latency.slow_limits]`.
    pub(crate) steps: &'static [&'static str],
}

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

impl Schema {
    /// Where `key` belongs, if any table but `here` has it.
    pub(crate) fn home(&self, key: &str, here: &TableKeys) -> Option<KeyTables> {
        let own = |table: &TableKeys| table.path == here.path;
        // Not every command has all of the top level.
        if here.has(key) || own(self.top) && self.top.has(key) {
            return None;
        }
        let mut words: Vec<&str> = Vec::new();
        let mut table = None;
        for home in self.tables.iter().filter(|home| home.has(key) && !own(home)) {
            let covered = match home.path {
                // What a target may say, a group says for its targets.
                "groups" => self.has("targets", key),
                "otlp.traces" | "otlp.metrics" => self.has("otlp", key),
                _ => false,
            };
            if !covered {
                let (named, reachable) = named(home.path);
                words.extend(named);
                table = table.or_else(|| reachable.then_some(home.path));
            }
        }
        if self.steps.contains(&key) && here.path != SLOW_LIMITS.path {
            words.push("`[latency.slow_limits]`");
            table = table.or(Some("latency.slow_limits"));
        }
        let mut words = listed(&words).map(|words| format!("in {words}"));
        if self.top.has(key) {
            let top = match key {
                "targets_from" => "at the top of the file, before the first `[table]`".to_owned(),
                "targets" | "groups" | "windows" => format!("at the top level, as `[[{key}]]`"),
                _ => format!("at the top level, as `[{key}]`"),
            };
            words = Some(words.map_or_else(|| top.clone(), |words| format!("{words}, or {top}")));
        }
        Some(KeyTables { words: words?, table })
    }

    /// What to do about a key that no table has: the key that was meant, as far as the names show it.
    pub(crate) fn meant(&self, key: &str, here: &TableKeys) -> Option<String> {
        let lower = key.to_ascii_lowercase();
        let near_here = || nearest(&lower, here.keys.iter().chain(here.later).copied());
        let describes = ["", "defaults", "targets", "groups", "targets.accounts"].contains(&here.path);
        let synonym = || SYNONYMS.iter().find(|(word, _)| describes && *word == lower).map(|(_, key)| *key);
        let near = || nearest(&lower, self.tables.iter().flat_map(|table| table.keys).copied());
        let known = near_here().or_else(synonym).or_else(near)?;
        if here.keys.contains(&known) || here.later.contains(&known) {
            return Some(format!("did you mean `{known}`?"));
        }
        Some(format!("did you mean `{known}`? it belongs {}", self.home(known, here)?.words))
    }

    fn has(&self, path: &str, key: &str) -> bool {
        self.tables.iter().any(|table| table.path == path && table.has(key))
    }
}

/// What stands for a table of steps, whose keys are no fixed words to its reader.
pub(crate) static SLOW_LIMITS: TableKeys = TableKeys::new("latency.slow_limits", &[]);
/// The same for labels and headers.
pub(crate) static FREE: TableKeys = TableKeys::new("labels", &[]);

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
