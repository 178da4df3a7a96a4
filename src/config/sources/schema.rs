//! The keys of each table, and the tables where an unknown key belongs.
//!
//! Compares names, not values; `keys` lists the tables. Called by `readers` for every unknown key, and for tables with keys of
//! the user's choice: a key below their header may belong elsewhere.

use crate::config::problem::nearest;

/// A table of the configuration and its keys.
#[derive(Debug, Clone, Copy)]
pub struct TableKeys {
    /// Its path as in a TOML header; empty for the top level.
    pub path: &'static str,
    /// Keys that have an effect.
    pub keys: &'static [&'static str],
    /// Keys of a later version: refused by name, not ignored.
    pub later: &'static [&'static str],
}

impl TableKeys {
    /// A table with no key of a later version.
    pub(crate) const fn new(path: &'static str, keys: &'static [&'static str]) -> Self {
        Self { path, keys, later: &[] }
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.keys.contains(&key)
    }
}

/// All tables.
pub(crate) struct Schema {
    /// The top level.
    pub(crate) top: &'static TableKeys,
    /// The other tables, in the order of messages.
    pub(crate) tables: &'static [&'static TableKeys],
    /// The keys of `[latency.slow_limits]`.
    pub(crate) steps: &'static [&'static str],
}

/// Other programs' keys for a target, and ours.
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
    /// The table in which a variable sets it, if one can.
    pub(crate) table: Option<&'static str>,
}

impl Schema {
    /// Where `key` belongs, if any table but `here` has it.
    pub(crate) fn home(&self, key: &str, here: &TableKeys) -> Option<KeyTables> {
        let own = |table: &TableKeys| table.path == here.path;
        // A command may not have all keys of the top level.
        if here.has(key) || own(self.top) && self.top.has(key) {
            return None;
        }
        let mut words: Vec<String> = Vec::new();
        let mut table = None;
        for home in self.tables.iter().filter(|home| home.has(key) && !own(home)) {
            let covered = match home.path {
                // A group may have all keys of a target.
                "groups" | "groups.targets_from_http" => self.has("targets", key),
                "otlp.traces" | "otlp.metrics" => self.has("otlp", key),
                _ => false,
            };
            if !covered {
                let (named, in_variable) = named(home.path);
                words.push(named);
                words.extend((home.path == "defaults.deadlines").then(|| "a target's `deadlines`".to_owned()));
                table = table.or_else(|| in_variable.then_some(home.path));
            }
        }
        if self.steps.contains(&key) && here.path != SLOW_LIMITS.path {
            words.push("`[latency.slow_limits]`".to_owned());
            table = table.or(Some("latency.slow_limits"));
        }
        let mut words = (!words.is_empty()).then(|| format!("in {}", listed(&words)));
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

    /// What to do about a key that no table has: the key that may be meant.
    pub(crate) fn meant(&self, key: &str, here: &TableKeys) -> Option<String> {
        let lower = key.to_ascii_lowercase();
        let near_here = || nearest(&lower, here.keys.iter().chain(here.later).copied());
        let describes = ["", "defaults", "targets", "groups", "targets.accounts"].contains(&here.path);
        let synonym = || SYNONYMS.iter().find(|(word, _)| describes && *word == lower).map(|(_, key)| *key);
        let near = || nearest(&lower, self.tables.iter().flat_map(|table| table.keys).copied());
        let known = near_here().or_else(synonym).or_else(near)?;
        if here.has(known) || here.later.contains(&known) {
            return Some(format!("did you mean `{known}`?"));
        }
        Some(format!("did you mean `{known}`? it belongs {}", self.home(known, here)?.words))
    }

    fn has(&self, path: &str, key: &str) -> bool {
        self.tables.iter().any(|table| table.path == path && table.has(key))
    }
}

/// The table of steps, whose reader checks its keys.
pub(crate) static SLOW_LIMITS: TableKeys = TableKeys::new("latency.slow_limits", &[]);
/// Labels and headers.
pub(crate) static FREE: TableKeys = TableKeys::new("labels", &[]);

/// The name of a table in a message, and whether a variable can set its keys.
fn named(path: &str) -> (String, bool) {
    let in_list = match path {
        "targets" => "a target",
        "targets.accounts" => "an account",
        "groups" => "a group",
        "groups.targets_from_http" => "`targets_from_http` of a group",
        "windows" => "a window",
        "server_events.senders" => "a sender",
        "password" => "the braces of a secret, such as `password = { file = \"…\" }`",
        _ => return (format!("`[{path}]`"), true),
    };
    (in_list.to_owned(), false)
}

/// `a, b or c`.
pub(crate) fn listed(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [word] => word.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}
