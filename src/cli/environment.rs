//! The environment of the process, and the configuration file beside it, as `config` takes them.
//!
//! Called by every command that reads a configuration.

use std::path::Path;

use crate::config::Sources;

/// The file, and the process's own environment.
pub(super) fn sources(path: &Path) -> Sources {
    let Environment { variables, not_utf8 } = environment();
    Sources { file: Some(path.to_owned()), environment: variables, not_utf8, ..Sources::default() }
}

/// The environment as it is passed to `config`.
pub(super) struct Environment {
    pub(super) variables: Vec<(String, String)>,
    /// Names of those that cannot be read, as far as they can be shown.
    pub(super) not_utf8: Vec<String>,
}

/// Of other variables than configuration is read from, only the names are taken: one may be the password.
pub(super) fn environment() -> Environment {
    let is_read = |name: &str| {
        let proxies = ["http_proxy", "https_proxy", "all_proxy", "no_proxy"];
        ["IMAPTRACE__", "OTEL_", "STATE_DIRECTORY"].iter().any(|start| name.starts_with(start))
            || proxies.iter().any(|proxy| name.eq_ignore_ascii_case(proxy))
    };
    let mut environment = Environment { variables: Vec::new(), not_utf8: Vec::new() };
    for (name, value) in std::env::vars_os() {
        match (name.into_string(), value.into_string()) {
            (Ok(name), Ok(value)) => {
                let value = if is_read(&name) { value } else { String::new() };
                environment.variables.push((name, value));
            }
            (name, _) => {
                let name = name.unwrap_or_else(|name| name.to_string_lossy().into_owned());
                environment.not_utf8.push(name);
            }
        }
    }
    environment
}
