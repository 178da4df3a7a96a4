//! Sources of secrets, and loading one.
//!
//! Reads variables; `file` and `command` do the rest. Called by all modules that need a secret, and by `config` to check one.

use std::{fmt, path::PathBuf};

use zeroize::Zeroizing;

use imaptrace_imap::Secret;

use super::{
    command,
    error::{SecretError, shown_variable},
    file::{self, in_words},
    form::{Extent, take},
};

/// Where a secret is.
#[derive(Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// The first line of a file that others cannot read.
    File {
        /// Its path.
        path: PathBuf,
        /// Use it even if others can read it.
        insecure_mode: bool,
    },
    /// An environment variable, whole.
    Env(String),
    /// The first line that a program prints; no shell.
    Command(Vec<String>),
    /// A file in `$CREDENTIALS_DIRECTORY` (systemd `LoadCredential`).
    Credential(String),
    /// The value itself: typed at a prompt or given in the URL.
    Given(Secret),
    /// The source inside, whose value may begin or end with white space or a byte order mark (`exact = true`).
    Exact(Box<Self>),
    /// None: the login has no password.
    Nowhere,
}

impl fmt::Debug for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, .. } => f.debug_tuple("File").field(path).finish(),
            Self::Env(name) => f.debug_tuple("Env").field(&shown_variable(name)).finish(),
            // Its arguments may be secrets.
            Self::Command(argv) => f
                .debug_tuple("Command")
                .field(&argv.first().map_or("", String::as_str))
                .field(&format_args!("…"))
                .finish(),
            Self::Credential(name) => f.debug_tuple("Credential").field(name).finish(),
            Self::Given(secret) => f.debug_tuple("Given").field(secret).finish(),
            Self::Exact(source) => f.debug_tuple("Exact").field(source).finish(),
            Self::Nowhere => f.write_str("Nowhere"),
        }
    }
}

impl SecretSource {
    /// Loads the value.
    pub async fn load(&self) -> Result<Secret, SecretError> {
        let (source, exact) = self.plain();
        match source {
            Self::Nowhere | Self::Exact(_) => Ok(Secret::new(String::new())),
            Self::Given(secret) => {
                take(secret.expose().as_bytes(), Extent::Whole, true, || "the prompt or the URL".to_owned())
            }
            Self::Env(name) => {
                let value = std::env::var(name).map_err(|_| no_variable(name))?;
                take(&Zeroizing::new(value.into_bytes()), Extent::Whole, exact, || {
                    format!("environment variable {}", shown_variable(name))
                })
            }
            Self::File { path, insecure_mode } => file::load(path, *insecure_mode, exact, in_words(path)).await,
            Self::Credential(name) => {
                let directory = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| {
                    SecretError::Source(format!(
                        "$CREDENTIALS_DIRECTORY is not set: is imaptrace run by systemd with LoadCredential={name}:…?"
                    ))
                })?;
                // systemd creates these files, with mode 0400 or, with an ACL, 0440.
                let path = PathBuf::from(directory).join(name);
                let place = format!("credential {name} ({})", path.display());
                file::load(&path, true, exact, place).await
            }
            Self::Command(argv) => command::load(argv, exact).await,
        }
    }

    /// The source itself, and whether it is [`SecretSource::Exact`].
    pub fn plain(&self) -> (&Self, bool) {
        match self {
            Self::Exact(source) => (source.plain().0, true),
            source => (source, false),
        }
    }

    /// Whether a secret's file can be loaded; other sources are not checked. Wipes what it read. Blocks, for two seconds at most.
    pub fn check(&self) -> Result<(), SecretError> {
        match self.plain() {
            (Self::File { path, insecure_mode }, exact) => file::check(path, *insecure_mode, exact),
            _ => Ok(()),
        }
    }
}

pub(super) fn no_variable(name: &str) -> SecretError {
    SecretError::Source(format!("the environment variable {} is not set, or is not UTF-8", shown_variable(name)))
}
