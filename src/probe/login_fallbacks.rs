//! Which fallback from SCRAM-SHA-256 works for an account with `auth = "auto"`.
//!
//! An entry is valid for one login: server, user, master user and secret. The secret is not kept: a login is identified by a
//! hash with a key of this process. It belongs to a target, over reloads; `login` reads and writes it.

use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
};

use imaptrace_imap::Secret;
use sha2::{Digest as _, Sha256};

use crate::plan::{Account, Endpoint, UserName};

static KEY: LazyLock<[u8; 32]> = LazyLock::new(rand::random);

/// Identifies one login without revealing its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LoginId([u8; 32]);

/// The result of the one try with another mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fallback {
    /// It logged in: SCRAM-SHA-256 is not tried again.
    Works,
    /// It did not: only SCRAM-SHA-256 is tried.
    Refused,
}

/// The accounts of a target for which the server refused SCRAM-SHA-256, by alias.
#[derive(Debug, Default)]
pub(super) struct LoginFallbacks(Mutex<HashMap<String, (LoginId, Fallback)>>);

impl LoginId {
    pub(super) fn new(server: &Endpoint, account: &Account, secret: &Secret) -> Self {
        let server = format!("{}:{}", server.host, server.port);
        let master = account.master_user.as_ref().map(UserName::expose);
        let mut hash = Sha256::new().chain_update(*KEY);
        for part in [Some(server.as_str()), Some(account.user.expose()), master, Some(secret.expose())] {
            // With its length, so that no two logins give the same bytes.
            let length = part.map_or(u64::MAX, |part| part.len() as u64);
            hash = hash.chain_update(length.to_be_bytes()).chain_update(part.unwrap_or_default());
        }
        Self(hash.finalize().into())
    }
}

impl LoginFallbacks {
    fn entries(&self) -> MutexGuard<'_, HashMap<String, (LoginId, Fallback)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entry of this login. An entry of another login of the account is removed.
    pub(super) fn get(&self, alias: &str, login: LoginId) -> Option<Fallback> {
        let mut entries = self.entries();
        let (known, fallback) = *entries.get(alias)?;
        if known == login {
            return Some(fallback);
        }
        entries.remove(alias);
        None
    }

    pub(super) fn insert(&self, alias: &str, login: LoginId, fallback: Fallback) {
        self.entries().insert(alias.to_owned(), (login, fallback));
    }

    /// Removes accounts that are not these.
    pub(super) fn retain(&self, accounts: &[Account]) {
        self.entries().retain(|alias, _| accounts.iter().any(|account| account.alias == *alias));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{plan::Host, secret::SecretSource};

    fn server(host: &str) -> Endpoint {
        Endpoint { host: Host::parse(host).unwrap(), port: 993 }
    }

    fn account(user: &str, master: Option<&str>) -> Account {
        Account {
            alias: "default".into(),
            user: UserName::new(user).unwrap(),
            master_user: master.and_then(UserName::new),
            password: SecretSource::Nowhere,
            own: None,
        }
    }

    #[test]
    fn another_secret_user_master_user_or_server_has_no_entry() {
        let [here, there] = ["a.example.org", "b.example.org"].map(server);
        let secret = |text: &str| Secret::new(text.into());
        let first = || LoginId::new(&here, &account("a", None), &secret("bc"));
        for other in [
            LoginId::new(&here, &account("a", None), &secret("b")),
            LoginId::new(&here, &account("ab", None), &secret("c")),
            LoginId::new(&here, &account("a", Some("b")), &secret("c")),
            LoginId::new(&there, &account("a", None), &secret("bc")),
        ] {
            let fallbacks = LoginFallbacks::default();
            fallbacks.insert("default", first(), Fallback::Works);
            assert_eq!(fallbacks.get("default", first()), Some(Fallback::Works));
            assert_eq!(fallbacks.get("other", first()), None);
            assert_eq!(fallbacks.get("default", other), None);
            assert_eq!(fallbacks.get("default", first()), None, "the entry was removed with the new secret");
        }
    }

    #[test]
    fn an_account_that_is_gone_is_removed_and_no_secret_can_be_read_from_what_is_kept() {
        let here = server("a.example.org");
        let fallbacks = LoginFallbacks::default();
        let login = LoginId::new(&here, &account("planted-user", None), &Secret::new("planted-pass".into()));
        fallbacks.insert("default", login, Fallback::Refused);
        assert!(!format!("{fallbacks:?}").contains("planted"));
        fallbacks.retain(&[account("planted-user", None)]);
        assert_eq!(fallbacks.get("default", login), Some(Fallback::Refused));
        fallbacks.retain(&[]);
        assert_eq!(fallbacks.get("default", login), None);
    }
}
