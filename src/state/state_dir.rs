//! [`StateDir`]: the state directory, opened and locked in the background.
//!
//! A directory that others own or may write into is not used itself: the files are in `imaptrace/` in it, and
//! [`migrate`](super::migrate) moves files of an earlier version there. They stay there when the given directory becomes
//! private. A file system that does not respond blocks only the thread that opens the directory. Does not define what the files
//! hold. The agent opens it at the start; the queue and the latency history use it.

use std::{
    fs::{DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError},
    time::Duration,
};

use nix::fcntl::Flock;

use super::{
    attempt::{OpenAttempt, OpenAttempts},
    directory::{Directory, about},
    error::{OpenError, StateDirError},
    lock::lock,
    migrate::migrate,
    ownership::{Ownership, check_own, own},
};
use crate::blocking;

/// Threads that may hang at once in opening it: another is only begun when something else is mounted there than before.
const ATTEMPTS: usize = 4;
/// How long the queue waits for an attempt to open it before it continues in memory.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);

/// The state directory, locked for this process as long as this value or a clone of it exists.
#[derive(Debug, Clone)]
pub struct StateDir(Arc<SharedState>);

#[derive(Debug, Default)]
struct SharedState {
    given: PathBuf,
    /// None until it was opened and locked.
    held: Mutex<Option<LockedDirectory>>,
    /// Held while the file lock is taken: the kernel would refuse that to a second thread of this process.
    locking: Mutex<()>,
    attempts: Mutex<OpenAttempts>,
}

#[derive(Debug)]
struct LockedDirectory {
    directory: Arc<Directory>,
    _lock: Flock<File>,
}

impl StateDir {
    /// Creates the directory if it does not exist (its parent must), opens and locks it. Waits for the disk.
    ///
    /// A directory that cannot be created or written to is no error: delivery continues from memory, logs that, and retries.
    pub fn open(path: &Path) -> Result<Self, StateDirError> {
        let this = Self::new(path);
        refused(this.attempt())?;
        Ok(this)
    }

    /// Like [`StateDir::open`], on another thread, for at most `timeout`: a directory that has not responded by then is opened
    /// when it does, and [`StateDir::hangs`] until then.
    pub async fn open_within(path: &Path, timeout: Duration) -> Result<Self, StateDirError> {
        let this = Self::new(path);
        let opening = this.clone();
        if let Ok(opened) = blocking::work(move || opening.attach(timeout)).await {
            refused(opened)?;
        }
        // The runtime reports a panic; the queue tries again.
        Ok(this)
    }

    /// Releases the lock, even while another thread uses the directory. Call it when nothing more is to be written.
    pub fn release(&self) {
        *self.held() = None;
    }

    /// The warning that the agent would log for this directory now, if any; none for one that cannot be opened. Creates
    /// nothing. Waits for the disk.
    pub fn examine(path: &Path) -> Result<Option<String>, StateDirError> {
        let examined = || -> Result<Option<String>, OpenError> {
            let outer = Directory::open(path)?;
            match Ownership::of(&outer)? {
                Ownership::PrivateWithOwn(_) => Ok(None),
                Ownership::Private(warning) => Ok(warning),
                Ownership::Shared(warning) => check_own(&outer).map(|()| Some(warning)),
            }
        };
        refused(examined()).map(Option::flatten)
    }

    fn new(path: &Path) -> Self {
        Self(Arc::new(SharedState { given: path.to_owned(), ..SharedState::default() }))
    }

    /// The directory that the files are in; before it is opened, the configured one.
    pub fn path(&self) -> PathBuf {
        self.directory().map_or_else(|| self.0.given.clone(), |directory| directory.path().to_owned())
    }

    fn directory(&self) -> Option<Arc<Directory>> {
        self.held().as_ref().map(|held| held.directory.clone())
    }

    fn held(&self) -> MutexGuard<'_, Option<LockedDirectory>> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it has not responded in time, and still does not.
    pub fn hangs(&self) -> bool {
        self.directory().is_none() && self.attempts().newest.as_ref().is_some_and(|newest| newest.is_late())
    }

    /// The directory that the files are in, opened now if it is not open or was removed. Waits for the disk, at most a second
    /// for one that has not responded yet.
    pub fn ready(&self) -> io::Result<Arc<Directory>> {
        if self.directory().is_some_and(|directory| directory.is_gone()) {
            *self.held() = None;
        }
        self.attach(OPEN_TIMEOUT).map_err(Into::into)
    }

    /// Opens and locks it unless that is done; waits at most `timeout` for the attempt.
    fn attach(&self, timeout: Duration) -> Result<Arc<Directory>, OpenError> {
        if let Some(directory) = self.directory() {
            return Ok(directory);
        }
        self.begin()?.wait(&self.0.given, timeout)?;
        self.directory().ok_or_else(|| OpenError::Io(about(&self.0.given, io::Error::other(BEING_OPENED))))
    }

    /// The attempt that is under way, or a new one on a thread of its own. No new one while the last one hangs on the same mounts.
    fn begin(&self) -> io::Result<Arc<OpenAttempt>> {
        let mounts = mounts_above(&self.0.given);
        let mut attempts = self.attempts();
        if let Some(newest) = &attempts.newest
            && (attempts.under_way >= ATTEMPTS || !newest.is_done() && newest.mounts == mounts)
        {
            return Ok(newest.clone());
        }
        let attempt = Arc::new(OpenAttempt::new(mounts));
        let (this, under_way) = (self.clone(), attempt.clone());
        let work = move || {
            let outcome = this.attempt();
            let error = outcome.as_ref().err().map(ToString::to_string);
            let mut attempts = this.attempts();
            attempts.under_way -= 1;
            let is_late = under_way.end(outcome);
            let was_late = attempts.was_late || is_late;
            attempts.was_late = was_late && error.is_some();
            drop(attempts);
            match error {
                None if was_late => {
                    tracing::info!(directory = %this.path().display(), "the state directory answers and is in use now");
                }
                None => {}
                Some(_) if !is_late => {}
                Some(error) => tracing::warn!(
                    error,
                    "the state directory has answered, and cannot be used: runs that wait and the latency history are in \
                     memory alone"
                ),
            }
        };
        std::thread::Builder::new().name("state directory".to_owned()).spawn(work)?;
        attempts.under_way += 1;
        let before = attempts.newest.replace(attempt.clone());
        // It hangs still, with what was mounted then.
        attempts.was_late |= before.is_some_and(|before| before.is_late());
        Ok(attempt)
    }

    fn attempts(&self) -> MutexGuard<'_, OpenAttempts> {
        self.0.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens and locks it unless that is done. May hang as long as the disk does.
    fn attempt(&self) -> Result<(), OpenError> {
        if self.directory().is_some() {
            return Ok(());
        }
        let given = &self.0.given;
        make(given)?;
        let outer = Directory::open(given)?;
        let (directory, why, outer) = match Ownership::of(&outer)? {
            Ownership::Private(warning) => (outer, warning, None),
            Ownership::Shared(warning) => (own(&outer)?, Some(warning), Some(outer)),
            Ownership::PrivateWithOwn(own) => {
                own.close_to_others(own.metadata()?)?;
                (own, None, Some(outer))
            }
        };
        let _turn = match self.0.locking.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(turn)) => turn.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(about(given, io::Error::other(BEING_OPENED)).into()),
        };
        if self.directory().is_some() {
            return Ok(());
        }
        let lock = lock(&directory)?;
        if let Some(warning) = &why {
            tracing::warn!(directory = %directory.path().display(), "{warning}");
        }
        if let Some(outer) = outer {
            if why.is_none() {
                tracing::info!(directory = %directory.path().display(), "state stays where an earlier start put it");
            }
            migrate(&outer, &directory)?;
        }
        *self.held() = Some(LockedDirectory { directory: Arc::new(directory), _lock: lock });
        Ok(())
    }

    /// Releases the directory as if this value were dropped; clones still hold it.
    pub(crate) fn close(&mut self) {
        *self = Self::new(&self.0.given);
    }
}

/// Leaves only the error that needs the operator; none in place of a result that may come later.
fn refused<T>(opened: Result<T, OpenError>) -> Result<Option<T>, StateDirError> {
    match opened {
        Ok(opened) => Ok(Some(opened)),
        Err(OpenError::Refused(error)) => Err(error),
        Err(OpenError::Io(_)) => Ok(None),
    }
}

/// Equal when the configured paths are equal.
impl PartialEq for StateDir {
    fn eq(&self, other: &Self) -> bool {
        self.0.given == other.0.given
    }
}

impl Eq for StateDir {}

/// The error while another thread opens it.
const BEING_OPENED: &str = "it is being opened";

/// The mounts that this path lies in, as the kernel lists them: the text changes when something else is mounted there.
/// Touches no file system.
#[expect(clippy::disallowed_methods, reason = "on a thread of its own: the disk's")]
pub(super) fn mounts_above(path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let above = table.lines().filter(|line| line.split(' ').nth(4).is_some_and(|point| path.starts_with(point)));
    above.collect::<Vec<_>>().join("\n")
}

/// Creates a directory with mode 0700 unless it exists, and syncs its parent.
#[expect(clippy::disallowed_methods, reason = "on a thread of its own: the disk's")]
fn make(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(_) if path.is_dir() => return Ok(()),
        made => made.map_err(|error| about(path, error))?,
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    // Else it would exist the next time, and its name would not be synced.
    Directory::open(parent).and_then(|parent| parent.sync()).inspect_err(|_| drop(std::fs::remove_dir(path)))
}
