//! The environment of the process as `config` takes it. Called by every command that reads a configuration.

use crate::config::Sources;

/// The environment. Of variables that configure nothing only the names are taken: one may hold the password.
pub(super) fn environment() -> Sources {
    let is_read = |name: &str| {
        let proxies = ["http_proxy", "https_proxy", "all_proxy", "no_proxy"];
        ["IMAPTRACE__", "OTEL_", "STATE_DIRECTORY"].iter().any(|start| name.starts_with(start))
            || proxies.iter().any(|proxy| name.eq_ignore_ascii_case(proxy))
    };
    let mut sources = Sources::default();
    for (name, value) in std::env::vars_os() {
        match (name.into_string(), value.into_string()) {
            (Ok(name), Ok(value)) => {
                let value = if is_read(&name) { value } else { String::new() };
                sources.environment.push((name, value));
            }
            (Ok(name), _) => sources.not_utf8.push(name),
            (Err(name), _) => sources.not_utf8.push(name.to_string_lossy().into_owned()),
        }
    }
    sources
}
