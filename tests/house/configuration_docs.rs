//! The configuration's keys are in the code, in docs/configuration.md and in imaptrace.toml: the same ones, with the
//! same defaults.

use std::collections::{BTreeMap, BTreeSet};

use imaptrace::config;

/// Table and key, with the default as TOML, or none where there is none.
type Keys = BTreeMap<(String, String), Option<String>>;

fn read(name: &str) -> String {
    std::fs::read_to_string(format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn is_key(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

/// Rows that begin with a key in backticks and its default, below a heading that is a table's name in backticks.
fn documented() -> Keys {
    let mut keys = Keys::new();
    let mut table = None;
    for line in read("docs/configuration.md").lines() {
        if let Some(heading) = line.strip_prefix("##") {
            let name = heading.trim_start_matches('#').trim();
            table = match name.strip_prefix('`').and_then(|name| name.strip_suffix('`')) {
                Some(name) => Some(name.trim_matches(['[', ']']).to_owned()),
                None if name == "top level" => Some(String::new()),
                None => None,
            };
        }
        let (Some(table), Some(row)) = (&table, line.strip_prefix("| `")) else { continue };
        let (key, rest) = row.split_once("` | ").unwrap();
        if is_key(key) {
            let default = rest.split(" | ").next().unwrap();
            let default = default.strip_prefix('`').and_then(|default| default.strip_suffix('`'));
            let new = keys.insert((table.clone(), key.to_owned()), default.map(str::to_owned)).is_none();
            assert!(new, "docs/configuration.md has `{key}` of [{table}] twice");
        }
    }
    keys
}

/// Tables in lists hold examples only.
fn is_listed(table: &str) -> bool {
    ["targets", "groups", "windows", "server_events.senders"].iter().any(|list| table.starts_with(list))
}

/// `key = default`, or `#key = example` for one that has no default.
fn sampled() -> Keys {
    let mut keys = Keys::new();
    let mut table = String::new();
    for line in read("imaptrace.toml").lines() {
        if line.starts_with("# ") {
            continue;
        }
        let live = !line.starts_with('#');
        let text = line.trim_start_matches('#');
        if text.starts_with('[') {
            text.trim_matches(['[', ']']).clone_into(&mut table);
            keys.extend(parents(&table));
        } else if let Some((key, value)) = text.split_once(" = ") {
            let default = (live && !is_listed(&table)).then(|| value.to_owned());
            let new = keys.insert((table.clone(), key.trim().to_owned()), default).is_none();
            assert!(new, "imaptrace.toml has {key} of [{table}] twice");
        }
    }
    keys
}

/// A header `[a.b]` is the key `b` of `[a]`, and `a` of the top level.
fn parents(table: &str) -> Keys {
    let (above, key) = table.rsplit_once('.').unwrap_or(("", table));
    Keys::from([((above.to_owned(), key.to_owned()), None)])
}

fn known() -> BTreeSet<(String, String)> {
    let pair = |table: &str, key: &str| (table.to_owned(), key.to_owned());
    config::tables().flat_map(|table| table.keys.iter().map(move |key| pair(table.path, key))).collect()
}

/// The keys that a target or a group shares with `[defaults]` are written down there.
fn without_shared(keys: BTreeSet<(String, String)>) -> BTreeSet<(String, String)> {
    let shared = |(table, key): &(String, String)| {
        ["targets", "groups"].contains(&table.as_str())
            && config::tables().any(|table| table.path == "defaults" && table.keys.contains(&key.as_str()))
    };
    keys.into_iter().filter(|pair| !shared(pair)).collect()
}

#[test]
fn every_key_is_documented_and_every_documented_key_exists() {
    assert_eq!(documented().into_keys().collect::<BTreeSet<_>>(), without_shared(known()));
}

#[test]
fn every_key_is_in_the_sample_and_every_key_of_the_sample_exists() {
    let mut expected = without_shared(known());
    // What stands in the braces of a secret is described in a comment.
    expected.retain(|(table, _)| table != "password");
    assert_eq!(sampled().into_keys().collect::<BTreeSet<_>>(), expected);
    for table in config::tables().filter(|table| table.path == "password") {
        for key in table.keys {
            assert!(read("imaptrace.toml").contains(&format!("{key} = ")), "{key}");
        }
    }
}

#[test]
fn documentation_and_sample_name_the_same_defaults() {
    let documented = documented();
    for ((table, key), default) in sampled() {
        if !is_listed(&table) {
            assert_eq!(documented[&(table.clone(), key.clone())], default, "{key} of [{table}]");
        }
    }
}

#[test]
fn every_later_key_is_named_as_missing() {
    let text = read("docs/configuration.md");
    for table in config::tables() {
        for key in table.later {
            assert!(text.contains(&format!("`{key}`")) || text.contains(&format!("[{key}")), "{key}");
        }
    }
}
