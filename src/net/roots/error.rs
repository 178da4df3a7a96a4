//! Why a CA bundle cannot be made into a hashed directory, and the file that replaces one.

use std::path::PathBuf;

pub(super) const NOTHING: &str = "/dev/null";

/// The bundle cannot be used, or cannot be made into a directory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the CA bundle {bundle} cannot be made into a hashed directory: {problem}", bundle = bundle.display())]
pub struct RootsError {
    pub(super) bundle: PathBuf,
    pub(super) problem: String,
    /// This process or the machine has no file descriptor left.
    pub is_exhausted: bool,
}
