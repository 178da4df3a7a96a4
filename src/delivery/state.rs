//! The state directory: one of our own, opened, and locked against another agent.
//!
//! Two agents in one directory would send and delete each other's runs. The lock is the kernel's, so it goes with the process
//! however that ends; the file says whose it is.
//!
//! What others own or may write into is not used itself: the files lie in `imaptrace/` in it, and [`adopt`](super::adopt)
//! moves in what an earlier version left. They stay there when the given directory has become ours alone. A directory that does
//! not answer holds only the thread that opens it.
//! Opened by the agent before anything in it is read; [`spool`](super::spool) keeps its queue in it.

mod standing;

use std::{
    fs::{DirBuilder, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

pub use self::standing::ForeignError;
use self::standing::{Standing, check_own, own};
use super::{
    adopt,
    directory::{Directory, NotRegularError, about},
};
use crate::{blocking, clock};

/// The file that is locked.
pub(super) const LOCK: &str = "lock";
/// Threads that may hang at once in opening it: another is only begun when something else is mounted there than before.
const ATTEMPTS: usize = 4;
/// How long the queue waits for an attempt to open it before it goes on in memory.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);

/// The state directory must not be used: waiting does not mend that.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StateDirError {
    /// Another agent uses it.
    #[error(transparent)]
    Held(#[from] HeldError),
    /// What has the name of our own directory is none.
    #[error(transparent)]
    Foreign(#[from] ForeignError),
}

/// The directory is another agent's.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "the state directory {path} is in use by {holder}; stop that one, or give this one a directory of its own in [state]",
    path = path.display(),
    holder = holder.as_ref().map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
)]
pub struct HeldError {
    /// The directory.
    pub path: PathBuf,
    /// The process that holds it, if its lock says so.
    pub holder: Option<u32>,
}

/// A directory for state that is ours for as long as this lives. Clones share it: the last to go lets go of the directory.
#[derive(Debug, Clone)]
pub struct StateDir(Arc<SharedState>);

#[derive(Debug)]
struct SharedState {
    given: PathBuf,
    /// None until it was opened and locked.
    held: Mutex<Option<LockedDirectory>>,
    /// Held while the lock is taken: the kernel would refuse it to a second thread of ours as to any other.
    locking: Mutex<()>,
    attempts: Mutex<Attempts>,
}

#[derive(Debug)]
struct LockedDirectory {
    directory: Arc<Directory>,
    _lock: Flock<File>,
}

/// Threads that have begun to open it.
#[derive(Debug, Default)]
struct Attempts {
    /// Those that have not come back.
    under_way: usize,
    newest: Option<Arc<Attempt>>,
    /// One was late, and none has succeeded since.
    was_late: bool,
}

/// One thread that opens it.
#[derive(Debug)]
struct Attempt {
    began: Instant,
    /// What was mounted on the way to it then.
    mounts: String,
    progress: Mutex<Progress>,
    done: Condvar,
}

#[derive(Debug)]
enum Progress {
    Begun,
    /// Not back yet, and somebody was told so.
    Late,
    Done(Result<(), OpenError>),
}

impl Attempt {
    /// Waits so long for its end. Whoever asks after another was told that it is late does not wait.
    fn wait(&self, path: &Path, timeout: Duration) -> Result<(), OpenError> {
        let begun = |progress: &mut Progress| matches!(progress, Progress::Begun);
        let waited = self.done.wait_timeout_while(self.progress(), timeout, begun);
        let (mut progress, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match &*progress {
            Progress::Done(outcome) => return outcome.as_ref().copied().map_err(OpenError::again),
            Progress::Late => {}
            Progress::Begun => *progress = Progress::Late,
        }
        let waited = clock::now().saturating_duration_since(self.began);
        Err(about(path, io::Error::other(Unanswered(waited))).into())
    }

    /// Takes the outcome. Gives whether somebody was told that it is late.
    fn end(&self, outcome: Result<(), OpenError>) -> bool {
        let before = std::mem::replace(&mut *self.progress(), Progress::Done(outcome));
        self.done.notify_all();
        matches!(before, Progress::Late)
    }

    fn is_done(&self) -> bool {
        matches!(*self.progress(), Progress::Done(_))
    }

    fn is_late(&self) -> bool {
        matches!(*self.progress(), Progress::Late)
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StateDir {
    /// Makes the directory if it is not there (its parent has to be), opens and locks it. Waits for the disk.
    ///
    /// One that cannot be made or written to is no error: delivery goes on from memory, says so, and tries again.
    pub fn open(path: &Path) -> Result<Self, StateDirError> {
        let this = Self::new(path);
        match this.attempt() {
            Err(OpenError::Refused(error)) => Err(error),
            Err(OpenError::Io(_)) | Ok(()) => Ok(this),
        }
    }

    /// The same, on another thread, and no longer than `timeout`: a directory that has not answered by then is opened when
    /// it does, and [`StateDir::hangs`] until then.
    pub async fn open_within(path: &Path, timeout: Duration) -> Result<Self, StateDirError> {
        let this = Self::new(path);
        let opening = this.clone();
        match blocking::work(move || opening.attach(timeout).map(drop)).await {
            Ok(Err(OpenError::Refused(error))) => Err(error),
            // A panic was reported by the runtime; the queue tries again.
            Ok(Err(OpenError::Io(_)) | Ok(())) | Err(_) => Ok(this),
        }
    }

    /// Lets go of the lock, also when a thread still has the directory in hand: another agent may take it. To be called when
    /// nothing more is to be written.
    pub fn release(&self) {
        *self.held() = None;
    }

    /// What the agent would say of this directory now, if anything. Makes nothing, and says nothing of one that cannot be
    /// opened. Waits for the disk.
    pub fn examine(path: &Path) -> Result<Option<String>, StateDirError> {
        let examined = || -> Result<Option<String>, OpenError> {
            let outer = Directory::open(path)?;
            match Standing::of(&outer)? {
                Standing::Ours | Standing::Begun(_) => Ok(None),
                Standing::Beside(warning) => Ok(Some(warning)),
                Standing::Shared(warning) => check_own(&outer).map(|()| Some(warning)),
            }
        };
        match examined() {
            Ok(warning) => Ok(warning),
            Err(OpenError::Refused(error)) => Err(error),
            Err(OpenError::Io(_)) => Ok(None),
        }
    }

    fn new(path: &Path) -> Self {
        Self(Arc::new(SharedState {
            given: path.to_owned(),
            held: Mutex::default(),
            locking: Mutex::default(),
            attempts: Mutex::default(),
        }))
    }

    /// The directory that the files are in; before it was opened, the one that was given.
    pub fn path(&self) -> PathBuf {
        self.directory().map_or_else(|| self.0.given.clone(), |directory| directory.path().to_owned())
    }

    /// The directory that the files are in, if it was opened.
    fn directory(&self) -> Option<Arc<Directory>> {
        self.held().as_ref().map(|held| held.directory.clone())
    }

    fn held(&self) -> MutexGuard<'_, Option<LockedDirectory>> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It did not answer in time, and has not yet.
    pub fn hangs(&self) -> bool {
        self.directory().is_none() && self.attempts().newest.as_ref().is_some_and(|newest| newest.is_late())
    }

    /// The directory that the files are in, opened now if it was not, or was removed since. Waits for the disk, for one that
    /// has not answered yet a second.
    pub fn ready(&self) -> io::Result<Arc<Directory>> {
        if self.directory().is_some_and(|directory| directory.is_gone()) {
            *self.held() = None;
        }
        self.attach(OPEN_TIMEOUT).map_err(Into::into)
    }

    /// Opens and locks it unless that was done, and waits so long for an attempt that is begun for it.
    fn attach(&self, timeout: Duration) -> Result<Arc<Directory>, OpenError> {
        if let Some(directory) = self.directory() {
            return Ok(directory);
        }
        self.begin()?.wait(&self.0.given, timeout)?;
        self.directory().ok_or_else(|| OpenError::Io(about(&self.0.given, io::Error::other(BeingOpened))))
    }

    /// The attempt that is under way, or a new one on a thread of its own: not where one hangs, and another would again.
    fn begin(&self) -> io::Result<Arc<Attempt>> {
        let mounts = mounts_above(&self.0.given);
        let mut attempts = self.attempts();
        if let Some(newest) = &attempts.newest
            && (attempts.under_way >= ATTEMPTS || !newest.is_done() && newest.mounts == mounts)
        {
            return Ok(newest.clone());
        }
        let attempt = Arc::new(Attempt {
            began: clock::now(),
            mounts,
            progress: Mutex::new(Progress::Begun),
            done: Condvar::new(),
        });
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

    fn attempts(&self) -> MutexGuard<'_, Attempts> {
        self.0.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens and locks it unless that was done. May hang as long as the disk does.
    fn attempt(&self) -> Result<(), OpenError> {
        if self.directory().is_some() {
            return Ok(());
        }
        let given = &self.0.given;
        make(given)?;
        let outer = Directory::open(given)?;
        let (directory, why, outer) = match Standing::of(&outer)? {
            Standing::Ours => (outer, None, None),
            Standing::Beside(warning) => (outer, Some(warning), None),
            Standing::Shared(warning) => (own(&outer)?, Some(warning), Some(outer)),
            Standing::Begun(own) => {
                own.close_to_others(own.itself()?)?;
                (own, None, Some(outer))
            }
        };
        let _turn = match self.0.locking.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(turn)) => turn.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(about(given, io::Error::other(BeingOpened)).into()),
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
            adopt::adopt(&outer, &directory)?;
        }
        *self.held() = Some(LockedDirectory { directory: Arc::new(directory), _lock: lock });
        Ok(())
    }

    /// Lets go of the directory as if this were dropped: who has a clone still holds it.
    pub(super) fn let_go(&mut self) {
        *self = Self::new(&self.0.given);
    }
}

/// Two are the same when they are the same directory.
impl PartialEq for StateDir {
    fn eq(&self, other: &Self) -> bool {
        self.0.given == other.0.given
    }
}

impl Eq for StateDir {}

/// Nothing is known of it yet.
#[derive(Debug, thiserror::Error)]
#[error("it has not answered within {:.1} s", .0.as_secs_f64())]
struct Unanswered(Duration);

/// Another thread is at it.
#[derive(Debug, thiserror::Error)]
#[error("it is being opened")]
struct BeingOpened;

/// The directory cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// It must not be used.
    #[error(transparent)]
    Refused(#[from] StateDirError),
    /// It cannot be made or written to, or does not answer.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl OpenError {
    /// The same for another who waits for it.
    fn again(&self) -> Self {
        match self {
            Self::Refused(error) => Self::Refused(error.clone()),
            Self::Io(error) => Self::Io(io::Error::new(error.kind(), error.to_string())),
        }
    }
}

impl From<HeldError> for OpenError {
    fn from(error: HeldError) -> Self {
        Self::Refused(error.into())
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

/// Takes the lock of a directory of our own. It is held by a descriptor that only reads: one that is open for writing would
/// keep the file system from being remounted read-only for as long as the agent runs.
fn lock(directory: &Directory) -> Result<Flock<File>, OpenError> {
    let mut file = match directory.open_or_create(LOCK) {
        Err(error) if NotRegularError::is(&error) => {
            let aside = directory.set_aside(LOCK)?;
            tracing::warn!(%error, aside = %directory.at(&aside).display(), "what had the name of the lock was set aside");
            directory.open_or_create(LOCK)?
        }
        file => file?,
    };
    let lock = flock(directory, directory.open_file(LOCK)?)?;
    // On a full disk the lock stays without a number: it holds all the same.
    let pid = format!("{}\n", std::process::id());
    let _written = file.set_len(0).and_then(|()| file.write_all(pid.as_bytes())).is_ok();
    Ok(lock)
}

/// Locks this file of the directory, or says who holds it.
pub(super) fn flock(directory: &Directory, file: File) -> Result<Flock<File>, OpenError> {
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((file, Errno::EWOULDBLOCK)) => {
            let mut text = String::new();
            // Whatever is there instead of a number, the directory is held.
            let holder = file.take(20).read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            Err(HeldError { path: directory.path().to_owned(), holder }.into())
        }
        Err((_, error)) => Err(about(&directory.at(LOCK), error.into()).into()),
    }
}

/// The mounts that this path lies in, as the kernel lists them; another text when something else is mounted there. Asks no
/// file system.
#[expect(clippy::disallowed_methods, reason = "on a thread of its own: the disk's")]
fn mounts_above(path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let above = table.lines().filter(|line| line.split(' ').nth(4).is_some_and(|point| path.starts_with(point)));
    above.collect::<Vec<_>>().join("\n")
}

/// Makes a directory for its owner alone, unless it is there. Its name is on the disk when this comes back.
#[expect(clippy::disallowed_methods, reason = "on a thread of its own: the disk's")]
fn make(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(_) if path.is_dir() => return Ok(()),
        made => made.map_err(|error| about(path, error))?,
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    // Next time it would be there, and its name would not be synced.
    Directory::open(parent).and_then(|parent| parent.sync()).inspect_err(|_| drop(std::fs::remove_dir(path)))
}

#[cfg(test)]
mod tests;
