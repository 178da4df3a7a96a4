//! The hash of a configuration, by which an operator sees that the agents of a fleet have the same. Called by `load`.

use figment::value::Value;
use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};

/// What the agents of one fleet have of their own, and the state directory, which systemd names.
const OWN: [&str; 4] = ["/agent/instance", "/agent/labels", "/agent/shard", "/state/dir"];
/// Headers may contain secrets in plain text.
const SECRET: [&str; 3] = ["/otlp/headers", "/otlp/traces/headers", "/otlp/metrics/headers"];

/// 16 hexadecimal digits of SHA-256 over the merged keys and values, without [`OWN`] and [`SECRET`].
pub(super) fn hash(root: &Value) -> String {
    let mut tree = serde_json::to_value(root).unwrap_or_default();
    for path in OWN.iter().chain(&SECRET) {
        if let Some(value) = tree.pointer_mut(path) {
            *value = Json::Null;
        }
    }
    // An absent key and an ignored one are the same.
    let text = without_nulls(tree).to_string();
    let bytes = Sha256::digest(text);
    let number = bytes.iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    format!("{number:016x}")
}

fn without_nulls(tree: Json) -> Json {
    match tree {
        Json::Object(entries) => {
            let kept = entries.into_iter().map(|(key, value)| (key, without_nulls(value)));
            Json::Object(
                kept.filter(|(_, value)| !value.is_null() && *value != Json::Object(serde_json::Map::new())).collect(),
            )
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use figment::providers::{Format as _, Toml};

    use super::*;

    fn hash_of(text: &str) -> String {
        hash(&Value::from(figment::Figment::from(Toml::string(text)).extract::<figment::value::Dict>().unwrap()))
    }

    #[test]
    fn the_order_of_keys_and_what_an_agent_has_of_its_own_do_not_count() {
        let one =
            hash_of("[agent]\nshard = \"0/2\"\nlabels = { dc = \"a\" }\n[metrics]\nper = \"group\"\ntiming = true\n");
        let other = "[metrics]\ntiming = true\nper = \"group\"\n[agent]\ninstance = \"b\"\nshard = \"1/2\"\n[state]\ndir = \"/x\"\n";
        assert_eq!(one, hash_of(other));
        assert_eq!(one.len(), 16);
        assert!(one.bytes().all(|byte| byte.is_ascii_hexdigit()), "{one}");
    }

    #[test]
    fn every_other_value_counts_and_a_header_does_not() {
        let base = "[metrics]\ntiming = true\n[[targets]]\nname = \"a\"\n";
        let changed = [
            "[metrics]\ntiming = false\n[[targets]]\nname = \"a\"\n",
            "[metrics]\ntiming = true\n[[targets]]\nname = \"b\"\n",
            "[metrics]\ntiming = true\n[[targets]]\nname = \"a\"\n[[targets]]\nname = \"b\"\n",
            "[metrics]\ntiming = true\n[[targets]]\nname = \"a\"\n[agent]\ncopies = 2\n",
        ];
        for text in changed {
            assert_ne!(hash_of(base), hash_of(text), "{text}");
        }
        assert_eq!(hash_of(base), hash_of(&format!("{base}[otlp]\nheaders = {{ key = \"abc\" }}\n")));
    }
}
