//! Paths: of files to read and of directories to write into, each looked at as things are now.
//!
//! A file system that does not answer is one of the things that can be wrong with a path: it is given up after a second. Called by
//! every reader of such a key.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::unistd::{AccessFlags, access};

use super::Field;
use crate::{blocking, clock};

/// How long a path is looked at.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

impl Field<'_> {
    /// A path; a relative one is taken from the working directory.
    pub(crate) fn path(&self) -> Option<PathBuf> {
        self.text().map(PathBuf::from)
    }

    /// The path of a file to read; one that cannot be read now is noted.
    #[expect(clippy::disallowed_methods, reason = "inside a call of `blocking`")]
    pub(crate) fn file(&self) -> Option<PathBuf> {
        let path = self.path()?;
        // Opening a pipe would wait for its other end.
        let opened = look_at(&path, |path| {
            if !std::fs::metadata(path)?.is_file() {
                return Err(io::Error::other("it is not a file"));
            }
            std::fs::File::open(path).map(drop)
        });
        if let Err(error) = opened {
            self.unusable(
                format!("cannot read {}: {error}", path.display()),
                "give the path of a file that can be read",
            );
        }
        Some(path)
    }

    /// A directory to write into. The agent makes the last component, but not what is above it: one that it can make is
    /// warned of, one that it can neither make nor write into is noted.
    #[expect(clippy::disallowed_methods, reason = "inside a call of `blocking`")]
    pub(crate) fn directory(&self) -> Option<PathBuf> {
        let path = self.path()?;
        let writable = look_at(&path, |path| {
            // What is there and leads nowhere is a link, in whose place nothing can be made.
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
        if let Ok(false) = writable {
            self.warn(
                format!("{} is not there: the agent makes it when it first saves", path.display()),
                "make the directory, and let the user that runs the agent own it",
            );
        }
        if let Err(error) = writable {
            self.unusable(
                format!("cannot write into {}: {error}", path.display()),
                "make the directory, and let the user that runs the agent own it",
            );
        }
        Some(path)
    }
}

/// What a look at this path comes to, or that it did not answer.
fn look_at<T: Send + 'static>(
    path: &Path,
    look: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    blocking::with_path_sync(path, clock::now() + LOOK_TIMEOUT, look)
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}
