//! `labels`: the operator's own keys and values. Called by `account`, `group`, and for the labels of metrics by `settings`.

use std::collections::BTreeMap;

use super::expand::{Placeholders, filled};
use crate::{
    config::sources::readers::{Field, Table},
    plan::is_label,
};

/// Keys of a target that are rarely the name of a label.
const OWN_KEYS: &[&str] = &[
    "url",
    "master_user",
    "password",
    "accounts",
    "ca_file",
    "server_name",
    "client_cert",
    "client_key",
    "newest",
    "allow_empty",
    "timeout",
    "interval",
    "source_address",
    "proxy_protocol",
    "deadlines",
];

/// Reads the labels of a target, a group or an account, with placeholders filled in if there are any.
pub(crate) fn read_labels(table: &Table<'_>, fill: Option<&Placeholders<'_>>) -> BTreeMap<String, String> {
    let Some(field) = table.get("labels") else { return BTreeMap::new() };
    let mut labels = BTreeMap::new();
    for (key, value) in field.entries() {
        if !is_label(key) {
            value.error(NO_LABEL, "rename it");
        } else if !value.foreign(key, OWN_KEYS, "a label", value.as_text().is_some())
            && let Some(text) = filled(&value, fill)
        {
            labels.insert(key.to_owned(), text);
        }
    }
    labels
}

/// What is wrong with a key that [`is_label`] refuses.
pub(crate) const NO_LABEL: &str = "a label's key is made of letters, digits, `_`, `-` and `.`";

/// Notes keys of labels of metrics that become one label in Prometheus, where everything but letters, digits and `_` is a `_`.
pub(crate) fn check_prometheus_labels<'a>(field: &Field<'_>, keys: impl Iterator<Item = &'a String>) {
    let mut known: BTreeMap<String, &str> = BTreeMap::new();
    for key in keys {
        let label = key.replace(['-', '.'], "_");
        if let Some(other) = known.insert(label.clone(), key) {
            let what = format!("the labels {other} and {key} are both imaptrace_label_{label} in Prometheus");
            field.error(what, "rename one of them");
        }
    }
}
