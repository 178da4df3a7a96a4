//! The hash of a configuration, by which an operator sees that the agents of a fleet have the same. Reads no file: files of
//! `targets_from` and answers of sources do not enter. Called by `load`.

use figment::value::Value;
use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};

/// What the agents of one fleet have of their own, and the state directory, which systemd names.
const OWN: [&str; 4] = ["/agent/instance", "/agent/labels", "/agent/shard", "/state/dir"];
/// Headers may contain secrets in plain text.
const SECRET: [&str; 3] = ["/otlp/headers", "/otlp/traces/headers", "/otlp/metrics/headers"];

/// 16 hexadecimal digits of SHA-256 over the merged keys and values, without [`OWN`], [`SECRET`] and the secrets in URLs: the hash
/// is exported, and a weak password could be guessed from it.
pub(super) fn hash(root: &Value) -> String {
    // Only maps whose keys are not text have no JSON, and a configuration has none.
    let mut tree = serde_json::to_value(root).unwrap_or_default();
    for path in OWN.iter().chain(&SECRET) {
        if let Some(value) = tree.pointer_mut(path) {
            *value = Json::Null;
        }
    }
    let bytes = Sha256::digest(public(tree).to_string());
    let number = bytes.iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    format!("{number:016x}")
}

/// Without secrets in URLs, and without what is null or an empty table: an absent key and an ignored one are the same.
fn public(tree: Json) -> Json {
    match tree {
        Json::Object(entries) => {
            let is_empty = |value: &Json| value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty);
            let entries = entries.into_iter().map(|(key, value)| (key, public(value)));
            Json::Object(entries.filter(|(_, value)| !is_empty(value)).collect())
        }
        Json::Array(values) => Json::Array(values.into_iter().map(public).collect()),
        Json::String(text) => Json::String(without_secrets(text)),
        other => other,
    }
}

/// A URL, or a server with a user, without user, password and query; any other text as it is.
fn without_secrets(text: String) -> String {
    let (scheme, rest) = text.split_once("://").map_or((None, text.as_str()), |(scheme, rest)| (Some(scheme), rest));
    // A user name as its own value has no password before the `@`.
    let has_password = rest.rsplit_once('@').is_some_and(|(before, _)| before.contains(':'));
    if scheme.is_none() && !has_password {
        return text;
    }
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    format!("{}://{}", scheme.unwrap_or_default(), host.split('?').next().unwrap_or_default())
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
    fn every_other_value_counts() {
        let base = "[metrics]\ntiming = true\n[[targets]]\nname = \"a\"\n";
        let changed = [
            "[metrics]\ntiming = false\n[[targets]]\nname = \"a\"\n",
            "[metrics]\ntiming = true\n[[targets]]\nname = \"b\"\n",
            "[metrics]\ntiming = true\n[[targets]]\nname = \"a\"\n[[targets]]\nname = \"b\"\n",
            "[metrics]\ntiming = true\n[[targets]]\nname = \"a\"\n[agent]\ncopies = 2\n",
            "[metrics]\ntiming = true\n[[targets]]\nname = \"a\"\nuser = \"probe@example.org\"\n",
        ];
        for text in changed {
            assert_ne!(hash_of(base), hash_of(text), "{text}");
        }
    }

    #[test]
    fn no_secret_in_plain_text_counts() {
        let of = |secret: &str| {
            hash_of(&format!(
                "[otlp]\nproxy = \"http://user:{secret}@proxy:3128\"\nheaders = {{ key = \"{secret}\" }}\n\
                 [otlp.traces.headers]\nkey = \"{secret}\"\n\
                 [[targets]]\nurl = \"imaps://probe:{secret}@mail.example.org\"\n\
                 [[targets]]\nurl = \"probe:{secret}@mail.example.org\"\n\
                 [[groups]]\ntargets = [\"imaps://probe:{secret}@mail.example.org\"]\n\
                 [[groups.targets_from_http]]\nurl = \"https://inventory.example.org/mail?token={secret}\"\n"
            ))
        };
        assert_eq!(of("one"), of("other"));
        let host = |host: &str| hash_of(&format!("[[targets]]\nurl = \"imaps://probe:secret@{host}\"\n"));
        assert_ne!(host("mail01.example.org"), host("mail02.example.org"));
    }
}
