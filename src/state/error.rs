//! Why the state directory cannot be used.
//!
//! A [`StateDirError`] needs the operator; an I/O error may go away, so callers retry after it. Returned by
//! [`StateDir`](super::StateDir).

use std::{io, path::PathBuf};

/// The state directory must not be used. Retrying does not help.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StateDirError {
    /// Another agent uses it: its path, and the process that holds the lock, if the lock file names it.
    #[error(
        "the state directory {} is in use by {}; stop that one, or give this one a directory of its own in [state]",
        .0.display(),
        .1.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
    )]
    Held(PathBuf, Option<u32>),
    /// Another user owns what has the name of our own directory, or it is not a directory: its path, that, and what to do.
    #[error("the state directory {0}")]
    Foreign(String),
}

#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// It must not be used.
    #[error(transparent)]
    Refused(#[from] StateDirError),
    /// It cannot be created or written to, or does not respond.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl OpenError {
    /// A copy for another caller that waits for the same attempt.
    pub(super) fn duplicate(&self) -> Self {
        match self {
            Self::Refused(error) => Self::Refused(error.clone()),
            Self::Io(error) => Self::Io(io::Error::new(error.kind(), error.to_string())),
        }
    }
}

impl From<OpenError> for io::Error {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Refused(error) => Self::other(error),
            OpenError::Io(error) => error,
        }
    }
}
