//! Why a secret cannot be loaded. Shown by `cli`, recorded by `agent` and `probe`.

use std::path::PathBuf;

use crate::blocking::Unfinished;

/// A secret that cannot be loaded. The text names its source, never its value.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("cannot read the secret file {path}: {1}", path = .0.display())]
    File(PathBuf, #[source] std::io::Error),
    /// Its file system did not respond.
    #[error("cannot read the secret file {path}: {1}", path = .0.display())]
    Unanswered(PathBuf, #[source] Unfinished),
    /// Others can read or change the file.
    #[error("{0}")]
    Mode(String),
    /// Another user owns the file.
    #[error("{0}")]
    Owner(String),
    /// Others can replace the file.
    #[error("{0}")]
    Directory(String),
    /// The program with this name could not be started.
    #[error("the password command {0:?} cannot be started: {1}")]
    Start(String, #[source] std::io::Error),
    /// The source has no value: no regular file, no variable, no credential, or the program failed.
    #[error("{0}")]
    Source(String),
    /// The value is empty.
    #[error("the secret from {0} is empty")]
    Empty(String),
    /// The value cannot be a secret; the text has the remedy.
    #[error("the secret from {0}")]
    Content(String),
    /// A file for TLS cannot be read: the password is not sent without TLS.
    #[error("{problem}")]
    Tls {
        /// Which, and why.
        problem: String,
        /// This process or the machine has no file descriptor left.
        is_exhausted: bool,
    },
}

impl SecretError {
    /// Whether this process or the machine has no file descriptor left.
    pub fn is_descriptor_shortage(&self) -> bool {
        match self {
            Self::File(_, source) | Self::Start(_, source) => {
                matches!(source.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
            }
            Self::Tls { is_exhausted, .. } => *is_exhausted,
            _ => false,
        }
    }
}

/// The name of a variable as it may be shown: not in capitals, it may be the secret itself, written in the wrong place.
pub fn shown_variable(name: &str) -> &str {
    let is_usual = name.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_'));
    if is_usual && name.len() <= 64 { name } else { "(not shown: its name is not in capitals)" }
}
