//! Paths of files to read and of directories to write into, each checked now.
//!
//! A file system that does not answer within a second is a problem of the path. Called by every reader of such a key.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::unistd::{AccessFlags, access};

use super::Field;
use crate::{blocking, clock};

/// The deadline of a check.
const TIMEOUT: Duration = Duration::from_secs(1);
/// What to do about a directory that is missing or not writable.
const MAKE_IT: &str = "make the directory, and let the user that runs the agent own it";

impl Field<'_> {
    /// The path of a file to read; one that cannot be read now is noted.
    #[expect(clippy::disallowed_methods, reason = "inside a call of `blocking`")]
    pub(crate) fn file(&self) -> Option<PathBuf> {
        let path = PathBuf::from(self.text()?);
        // Opening a pipe would wait for its other end.
        let opened = check(&path, |path| {
            if !std::fs::metadata(path)?.is_file() {
                return Err(io::Error::other("it is not a file"));
            }
            std::fs::File::open(path).map(drop)
        });
        if let Err(error) = opened {
            let what = format!("cannot read {}: {error}", path.display());
            self.unusable(what, "give the path of a file that can be read");
        }
        Some(path)
    }

    /// A directory to write into. The agent makes the last component only. A missing directory that it can make is a warning; one
    /// that it can neither make nor write into is noted.
    #[expect(clippy::disallowed_methods, reason = "inside a call of `blocking`")]
    pub(crate) fn directory(&self) -> Option<PathBuf> {
        let path = PathBuf::from(self.text()?);
        let writable = check(&path, |path| {
            // A dangling link exists, and no directory can be made in its place.
            let is_missing =
                std::fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
            let parent = path.parent().map(|parent| if parent == Path::new("") { Path::new(".") } else { parent });
            let writes = AccessFlags::W_OK | AccessFlags::X_OK;
            if is_missing && parent.is_some_and(|parent| parent.is_dir() && access(parent, writes).is_ok()) {
                return Ok(false);
            }
            if !std::fs::metadata(path)?.is_dir() {
                return Err(io::Error::other("it is not a directory"));
            }
            access(path, writes)?;
            Ok(true)
        });
        match writable {
            Ok(true) => {}
            Ok(false) => {
                self.warn(format!("{} is not there: the agent makes it when it first saves", path.display()), MAKE_IT);
            }
            Err(error) => self.unusable(format!("cannot write into {}: {error}", path.display()), MAKE_IT),
        }
        Some(path)
    }
}

/// The result of a call on this path, or that its file system did not answer.
fn check<T: Send + 'static>(path: &Path, call: impl FnOnce(&Path) -> io::Result<T> + Send + 'static) -> io::Result<T> {
    blocking::with_path_sync(path, clock::now() + TIMEOUT, call).unwrap_or_else(|error| Err(io::Error::other(error)))
}
