//! The folder for state: made, and locked against another agent.
//!
//! Two agents in one folder would send and delete each other's runs. The lock is the kernel's, so it goes with the process
//! however that ends; the file says whose it is. Reads and writes nothing else there. Opened by the agent before anything
//! in the folder is read; [`spool`](super::spool) keeps its queue in it.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

/// The file that is locked.
const LOCK: &str = "lock";

/// The folder is another agent's.
#[derive(Debug, thiserror::Error)]
#[error(
    "the state directory {path} is in use by {holder}; stop that one, or give this one a directory of its own in [state]",
    path = path.display(),
    holder = holder.as_ref().map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
)]
pub struct HeldError {
    /// The folder.
    pub path: PathBuf,
    /// The process that holds it, if its lock says so.
    pub holder: Option<u32>,
}

/// A folder for state that is ours for as long as this lives. Clones share it: the last to go lets go of the folder.
#[derive(Debug, Clone)]
pub struct StateDir(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    /// None while the folder cannot be made or written to: there is nothing to guard then.
    lock: Mutex<Option<Flock<File>>>,
}

impl StateDir {
    /// Makes the folder if it is not there (its parent has to be), and locks it.
    ///
    /// One that cannot be made or written to is no error: delivery goes on from memory, says so, and tries again.
    pub fn open(path: &Path) -> Result<Self, HeldError> {
        let this = Self(Arc::new(Inner { path: path.to_owned(), lock: Mutex::default() }));
        match this.lock() {
            Err(LockError::Held(error)) => Err(error),
            Err(LockError::Io(_)) | Ok(()) => Ok(this),
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Locks the folder unless that was done.
    pub(super) fn lock(&self) -> Result<(), LockError> {
        let mut held = self.0.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_some() {
            return Ok(());
        }
        let path = self.path();
        make(path)?;
        let file = path.join(LOCK);
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&file);
        let mut lock = match Flock::lock(open.map_err(|error| about(&file, &error))?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut text = String::new();
                // Whatever is there instead of a number, the folder is held.
                let holder = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(LockError::Held(HeldError { path: path.to_owned(), holder }));
            }
            Err((_, error)) => return Err(LockError::Io(about(&file, &error.into()))),
        };
        // On a full disk the lock stays without a number: it holds all the same.
        let pid = format!("{}\n", std::process::id());
        let _told = lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| lock.write_all(pid.as_bytes())).is_ok();
        *held = Some(lock);
        Ok(())
    }

    /// Lets go of the folder as if this were dropped: who has a clone still holds it.
    pub(super) fn let_go(&mut self) {
        *self = Self(Arc::new(Inner { path: self.path().to_owned(), lock: Mutex::default() }));
    }
}

/// Two are the same when they are the same folder.
impl PartialEq for StateDir {
    fn eq(&self, other: &Self) -> bool {
        self.path() == other.path()
    }
}

impl Eq for StateDir {}

/// The folder cannot be locked.
#[derive(Debug, thiserror::Error)]
pub(super) enum LockError {
    /// Another holds it.
    #[error(transparent)]
    Held(HeldError),
    /// It cannot be made or written to.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<LockError> for io::Error {
    fn from(error: LockError) -> Self {
        match error {
            LockError::Held(error) => Self::other(error),
            LockError::Io(error) => error,
        }
    }
}

/// The error with the path that it is about.
pub(super) fn about(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Makes a folder for its owner alone, unless it is there. Its name is on the disk when this comes back.
pub(super) fn make(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(_) if folder.is_dir() => return Ok(()),
        made => made.map_err(|error| about(folder, &error))?,
    }
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    // Next time it would be there, and nobody would see to its name.
    sync(parent).inspect_err(|_| drop(std::fs::remove_dir(folder)))
}

/// Brings the names in a folder to the disk.
pub(super) fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| about(folder, &error))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn a_folder_is_made_for_its_owner_alone_and_held_by_one_until_its_end() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("imaptrace");
        let first = StateDir::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        let error = StateDir::open(&path).unwrap_err();
        assert_eq!(error.holder, Some(std::process::id()));
        let text = error.to_string();
        assert!(text.contains(&format!("in use by process {}", std::process::id())), "{text}");
        let mut shared = first.clone();
        drop(first);
        assert!(StateDir::open(&path).is_err());
        let last = shared.clone();
        shared.let_go();
        assert!(StateDir::open(&path).is_err(), "another part of the agent still writes in it");
        drop(last);
        assert!(StateDir::open(&path).is_ok());
    }

    #[test]
    fn what_stands_in_the_way_of_a_folder_is_no_error_and_the_lock_is_taken_when_it_is_gone() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("imaptrace");
        fs::write(&path, "a file").unwrap();
        let state = StateDir::open(&path).unwrap();
        let error = state.lock().unwrap_err().to_string();
        assert!(error.starts_with(&path.display().to_string()), "{error}");
        fs::remove_file(&path).unwrap();
        state.lock().unwrap();
        assert!(StateDir::open(&path).is_err());
    }
}
