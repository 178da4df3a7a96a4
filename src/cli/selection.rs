//! Targets and accounts of a configuration by the names of the command line, and the places of their passwords outside the service.
//! It reads no password and probes nothing. Called by `probe_many`, `canary` and `baseline`.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use imaptrace_record::escape;

use super::{args::CONFIGURATION, environment::environment};
use crate::{
    config::{self, Config, Flag, Problems, ShardScope, Sources, nearest},
    plan::{Account, Target},
    secret::SecretSource,
};

/// Where systemd puts the credentials of the service, for root alone.
const CREDENTIALS: &str = "/run/credentials/imaptrace.service";
/// The most names that an error lists.
const MOST_NAMED: usize = 10;

/// Reads a configuration as the agent does, with the targets of all shards.
pub(super) fn load(file: &Path, flags: Vec<Flag>) -> Result<Config, Problems> {
    config::load(&Sources { file: Some(file.to_owned()), flags, shards: ShardScope::All, ..environment() })
}

/// Accounts of a configuration, as the command line names them.
pub(super) struct NamedAccounts<'a> {
    /// The file; by default that of packages.
    pub(super) file: Option<&'a Path>,
    /// Targets and accounts; all of them without any.
    pub(super) names: Option<&'a [String]>,
    /// Where the credentials of the service are.
    pub(super) credentials: Option<&'a Path>,
}

/// The configuration with these accounts alone, each as the only one of a target, and without its warnings.
pub(super) fn accounts(named: &NamedAccounts<'_>, flags: Vec<Flag>) -> Result<Config, String> {
    let file = named.file.unwrap_or_else(|| Path::new(CONFIGURATION));
    let mut config = load(file, flags).map_err(|problems| problems.to_string())?;
    let mut targets: Vec<Target> = Vec::new();
    let mut add = |target: &Target, account: Option<&Account>| {
        for (found, probed) in target.probed().filter(|(found, _)| account.is_none_or(|account| *found == account)) {
            let password = outside_service(found.password.clone(), named.credentials);
            let account = Account { own: None, password, ..found.clone() };
            targets.push(Target { accounts: vec![account], ..probed.into_owned() });
        }
    };
    if let Some(names) = named.names {
        let mut known = Vec::new();
        for name in names {
            let found = find(&config, file, name).map_err(|problem| format!("error: {problem}"))?;
            // A name may be given twice.
            if !known.contains(&found) {
                known.push(found);
                add(found.0, found.1);
            }
        }
    } else {
        config.targets.iter().for_each(|target| add(target, None));
    }
    if targets.is_empty() {
        return Err(format!(
            "error: {} has no target\n  help: add [[targets]] or [[groups]]",
            escape(&file.display().to_string())
        ));
    }
    config.targets = targets;
    config.warnings.clear();
    Ok(config)
}

/// The target with this name, or else one of its accounts behind the last slash.
pub(super) fn find<'a>(
    config: &'a Config,
    file: &Path,
    given: &str,
) -> Result<(&'a Target, Option<&'a Account>), String> {
    let target = |name: &str| config.targets.iter().find(|target| target.name == name);
    if let Some(target) = target(given) {
        return Ok((target, None));
    }
    let file = escape(&file.display().to_string());
    let parts = given.rsplit_once('/').and_then(|(name, account)| Some((target(name)?, account)));
    let Some((target, alias)) = parts else {
        let names = || config.targets.iter().map(|target| target.name.as_str());
        let name = given.rsplit_once('/').map_or(given, |(target, _)| target);
        let near = nearest(given, names()).or_else(|| nearest(name, names()));
        let help = names_of("it has", &file, near, names());
        return Err(format!("{file} has no target \"{}\"\n  help: {help}", escape(name)));
    };
    if let Some(account) = target.accounts.iter().find(|account| account.alias == alias) {
        return Ok((target, Some(account)));
    }
    let aliases = || target.accounts.iter().map(|account| account.alias.as_str());
    let help = names_of("its accounts are", &file, nearest(alias, aliases()), aliases());
    Err(format!("target \"{}\" has no account \"{}\"\n  help: {help}", escape(&target.name), escape(alias)))
}

/// Which names there are, the most similar one first.
fn names_of<'a>(what: &str, file: &str, near: Option<&str>, names: impl Iterator<Item = &'a str>) -> String {
    let mut help = near.map(|near| format!("did you mean \"{}\"? ", escape(near))).unwrap_or_default();
    let names: Vec<_> = names.collect();
    let listed: Vec<_> = names.iter().take(MOST_NAMED).map(|name| escape(name)).collect();
    let _ = write!(help, "{what} {}", listed.join(", "));
    if names.len() > listed.len() {
        let _ = write!(help, " and {} more: imaptrace check --config {file}", names.len() - listed.len());
    }
    help
}

/// The place of a password outside the service: a credential is a file in `given`, or in the directory of the service. Inside
/// the service it stays as it is.
pub(super) fn outside_service(source: SecretSource, given: Option<&Path>) -> SecretSource {
    match source {
        SecretSource::Credential(name) => {
            if given.is_none() && std::env::var_os("CREDENTIALS_DIRECTORY").is_some() {
                return SecretSource::Credential(name);
            }
            let directory = given.map_or_else(|| PathBuf::from(CREDENTIALS), Path::to_owned);
            // Its modes are those of systemd.
            SecretSource::File { path: directory.join(name), insecure_mode: true }
        }
        SecretSource::Exact(source) => SecretSource::Exact(Box::new(outside_service(*source, given))),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_a_file_outside_the_service() {
        let credential = || SecretSource::Credential("mail01".to_owned());
        let file = |path: &str| SecretSource::File { path: path.into(), insecure_mode: true };
        assert_eq!(outside_service(credential(), Some(Path::new("/c"))), file("/c/mail01"));
        let exact = SecretSource::Exact(Box::new(credential()));
        let expected = SecretSource::Exact(Box::new(file("/c/mail01")));
        assert_eq!(outside_service(exact, Some(Path::new("/c"))), expected);
        let other = SecretSource::Env("X".to_owned());
        assert_eq!(outside_service(other.clone(), Some(Path::new("/c"))), other);
        if std::env::var_os("CREDENTIALS_DIRECTORY").is_none() {
            assert_eq!(outside_service(credential(), None), file("/run/credentials/imaptrace.service/mail01"));
        }
    }
}
