//! The state directory: one of our own, opened, and locked against another agent.
//!
//! Two agents in one directory would send and delete each other's runs. The lock is the kernel's, so it goes with the process
//! however that ends; the file says whose it is.
//!
//! What others own or may write into is not used itself: the files lie in `imaptrace/` in it, and [`adopt`](super::adopt)
//! moves in what an earlier version left. A directory that does not answer holds only the thread that opens it.
//! Opened by the agent before anything in it is read; [`spool`](super::spool) keeps its queue in it.

use std::{
    fs::{DirBuilder, File},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, mpsc},
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    unistd::geteuid,
};

use super::{
    adopt,
    directory::{Directory, NotRegularError, about},
};
use crate::blocking;

/// The file that is locked.
pub(super) const LOCK: &str = "lock";
/// Our own directory in one that others may write into.
const OWN: &str = "imaptrace";
/// Threads that may hang at once in opening it: another is only begun when something else is mounted there than before.
const ATTEMPTS: usize = 4;
/// How long the queue waits for an attempt to open it before it goes on in memory.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);

/// The state directory must not be used: waiting does not mend that.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// Another agent uses it.
    #[error(transparent)]
    Held(#[from] HeldError),
    /// What has the name of our own directory is none.
    #[error(transparent)]
    Foreign(#[from] ForeignError),
}

/// The directory is another agent's.
#[derive(Debug, thiserror::Error)]
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

/// What stands where our own directory should be belongs to another user, or is no directory.
#[derive(Debug, thiserror::Error)]
#[error("the state directory {path} {what}; {mend}", path = path.display())]
pub struct ForeignError {
    /// Where our own directory should be.
    pub path: PathBuf,
    what: String,
    mend: String,
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

/// Threads that have begun to open it and have not come back.
#[derive(Debug, Default)]
struct Attempts {
    under_way: usize,
    /// What was mounted on the way to it when the last one began.
    mounts: String,
    /// The last one did not answer in time.
    hangs: bool,
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
        self.directory().is_none() && self.attempts().hangs
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
        if let Some(attempt) = self.begin()? {
            match attempt.recv_timeout(timeout) {
                Ok(outcome) => outcome?,
                Err(mpsc::RecvTimeoutError::Timeout) => self.attempts().hangs = true,
                // It panicked, which was reported.
                Err(mpsc::RecvTimeoutError::Disconnected) => {}
            }
        }
        self.directory().ok_or_else(|| OpenError::Io(about(&self.0.given, io::Error::other(Unanswered))))
    }

    /// Begins to open it on a thread of its own. None when one hangs already, and would again.
    fn begin(&self) -> io::Result<Option<mpsc::Receiver<Result<(), OpenError>>>> {
        let mounts = mounts_above(&self.0.given);
        {
            let mut attempts = self.attempts();
            if attempts.under_way >= ATTEMPTS || (attempts.under_way > 0 && attempts.mounts == mounts) {
                return Ok(None);
            }
            attempts.under_way += 1;
            attempts.mounts = mounts;
        }
        let (sender, receiver) = mpsc::sync_channel(1);
        let this = self.clone();
        let work = move || {
            let outcome = this.attempt();
            let mut attempts = this.attempts();
            attempts.under_way -= 1;
            let hung = attempts.hangs && outcome.is_ok();
            attempts.hangs &= outcome.is_err();
            drop(attempts);
            if hung {
                tracing::info!(directory = %this.path().display(), "the state directory answers and is in use now");
            }
            // The caller may have given up; the next call tries again.
            drop(sender.try_send(outcome));
        };
        let begun = std::thread::Builder::new().name("state directory".to_owned()).spawn(work);
        begun.inspect_err(|_| self.attempts().under_way -= 1)?;
        Ok(Some(receiver))
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
        let entry = outer.itself()?;
        let (directory, why) = if entry.is_ours() && entry.is_closed() {
            (outer, None)
        } else {
            let why = if entry.is_ours() {
                format!("others may write into it (mode {:04o})", entry.mode())
            } else {
                format!("it belongs to user {}", entry.owner())
            };
            (own(&outer)?, Some((why, outer)))
        };
        let _turn = match self.0.locking.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(turn)) => turn.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(about(given, io::Error::other(Unanswered)).into()),
        };
        if self.directory().is_some() {
            return Ok(());
        }
        let lock = lock(&directory)?;
        if let Some((why, outer)) = why {
            tracing::warn!(
                directory = %directory.path().display(),
                "{} is not the agent's alone: {why}; state is kept in a directory of its own in it. Give the agent a \
                 directory that only its user can write into (chmod 0700)",
                given.display()
            );
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
#[error("it does not answer: what is mounted there?")]
struct Unanswered;

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

/// Our own directory in one that is not ours alone.
fn own(outer: &Directory) -> Result<Directory, OpenError> {
    let path = outer.at(OWN);
    let shown = || {
        shlex::try_quote(&path.to_string_lossy())
            .map_or_else(|_| path.display().to_string(), std::borrow::Cow::into_owned)
    };
    let refused =
        |what: String, mend: String| OpenError::Refused(ForeignError { path: path.clone(), what, mend }.into());
    outer.make_directory(OWN)?;
    let directory = match outer.open_directory(OWN) {
        Ok(directory) => directory,
        Err(error) => match outer.entry(OWN)? {
            Some(entry) if entry.is_link() => {
                return Err(refused(
                    "is a symbolic link, which anyone may have made".to_owned(),
                    format!("remove it: rm {}", shown()),
                ));
            }
            Some(entry) if !entry.is_directory() => {
                return Err(refused("is no directory".to_owned(), format!("move it away: mv {0} {0}.old", shown())));
            }
            _ => return Err(error.into()),
        },
    };
    let entry = directory.itself()?;
    if !entry.is_ours() {
        let (owner, ours) = (entry.owner(), geteuid());
        let mend = format!(
            "if an earlier agent of yours left it: chown -R {ours} {0}; if not, move it away: mv {0} {0}.old",
            shown()
        );
        return Err(refused(format!("belongs to user {owner}, and the agent runs as user {ours}"), mend));
    }
    directory.close_to_others(entry)?;
    Ok(directory)
}

/// Takes the lock of a directory of our own.
fn lock(directory: &Directory) -> Result<Flock<File>, OpenError> {
    let file = match directory.open_or_create(LOCK) {
        Err(error) if NotRegularError::is(&error) => {
            let aside = directory.set_aside(LOCK)?;
            tracing::warn!(%error, aside = %directory.at(&aside).display(), "what had the name of the lock was set aside");
            directory.open_or_create(LOCK)?
        }
        file => file?,
    };
    let mut lock = flock(directory, file)?;
    // On a full disk the lock stays without a number: it holds all the same.
    let pid = format!("{}\n", std::process::id());
    let _told = lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| lock.write_all(pid.as_bytes())).is_ok();
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
