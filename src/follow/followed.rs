//! A value that is read from files, and is read again when one of them changes.
//!
//! `blocking` makes all calls to file systems: one that does not respond delays no other value. The last good value stays in
//! use until there is a new one.

use std::{
    fmt,
    future::Future,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::sleep};
use tracing::{info, warn};

use super::watched::{Changes, FileVersion, FileVersions};
use crate::{
    blocking::{self, Unfinished},
    clock::{self, Deadline},
};

/// The interval between two checks. A change is in use after at most two checks and the time to read it: less than 5 s.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(1);
const LOOK_DEADLINE: Duration = Duration::from_secs(2);

/// What `read` of [`Followed::begin`] returns.
pub type ReadFuture<T, E> = Pin<Box<dyn Future<Output = Result<Read<T>, NotRead<E>>> + Send>>;

/// A value that was read.
pub struct Read<T> {
    /// The value.
    pub value: T,
    /// The digest of its bytes: the same bytes are no change.
    pub digest: [u8; 32],
}

/// Why nothing was read.
#[derive(Debug)]
pub enum NotRead<E> {
    /// The content is missing or invalid.
    Wrong(E),
    /// A file system, a program or the machine has not responded in time.
    Unfinished(String),
}

impl<E> From<Unfinished> for NotRead<E> {
    fn from(unfinished: Unfinished) -> Self {
        Self::Unfinished(unfinished.to_string())
    }
}

/// The last good value, or why it could not be read yet.
pub type Known<T> = Result<Arc<T>, Arc<str>>;

/// See the module's head.
pub struct Followed<T, E> {
    name: String,
    paths: Vec<PathBuf>,
    read: Box<dyn Fn() -> ReadFuture<T, E> + Send + Sync>,
    known: watch::Sender<Known<T>>,
    state: Mutex<FollowedState>,
    is_looking: AtomicBool,
}

#[derive(Default)]
struct FollowedState {
    changes: Changes<FileVersions>,
    digest: Option<[u8; 32]>,
    logged: Option<Unusable>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Unusable {
    Wrong(String),
    /// No response. Without its text, which changes from check to check.
    Unfinished,
}

impl<T, E> fmt::Debug for Followed<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Followed({})", self.name)
    }
}

impl<T, E> Followed<T, E>
where
    T: Send + Sync + 'static,
    E: fmt::Display + Send + 'static,
{
    /// Reads the value for the first time. Invalid content is an error; files that do not respond are read later. `name` is for
    /// the log; `read` makes the value of the files at `paths`, in bounded time.
    pub async fn begin(
        name: String,
        paths: Vec<PathBuf>,
        read: impl Fn() -> ReadFuture<T, E> + Send + Sync + 'static,
    ) -> Result<Arc<Self>, E> {
        let followed = Self {
            name,
            paths,
            read: Box::new(read),
            known: watch::Sender::new(Err("it is being read".into())),
            state: Mutex::default(),
            is_looking: AtomicBool::new(false),
        };
        let read = match followed.versions().await {
            Ok(versions) => (followed.read)().await.map(|read| followed.use_value(versions, read)),
            Err(unfinished) => Err(unfinished.into()),
        };
        match read {
            Ok(()) => {}
            Err(NotRead::Wrong(error)) => return Err(error),
            Err(NotRead::Unfinished(problem)) => followed.keep(Unusable::Unfinished, &problem),
        }
        Ok(Arc::new(followed))
    }

    /// The present value.
    pub fn known(&self) -> Known<T> {
        self.known.borrow().clone()
    }

    /// A receiver that sees changes of the value.
    pub fn subscribe(&self) -> watch::Receiver<Known<T>> {
        self.known.subscribe()
    }

    /// Checks the files once, and reads them if due.
    pub async fn check(&self) {
        let versions = match self.versions().await {
            Ok(versions) => versions,
            Err(unfinished) => return self.keep(Unusable::Unfinished, &unfinished.to_string()),
        };
        if !self.state().changes.is_due(&versions) {
            let mut state = self.state();
            if state.changes.is_used(&versions) {
                state.logged = None;
            }
            return;
        }
        match (self.read)().await {
            Ok(read) => self.use_value(versions, read),
            Err(NotRead::Wrong(error)) => self.keep(Unusable::Wrong(error.to_string()), &error.to_string()),
            Err(NotRead::Unfinished(problem)) => self.keep(Unusable::Unfinished, &problem),
        }
    }

    async fn versions(&self) -> Result<FileVersions, Unfinished> {
        let deadline = Deadline::after(clock::now(), LOOK_DEADLINE);
        let mut versions = Vec::with_capacity(self.paths.len());
        for path in &self.paths {
            let version = blocking::with_path(path, deadline, FileVersion::at).await?;
            versions.push(version.ok().flatten());
        }
        Ok(versions)
    }

    fn use_value(&self, versions: FileVersions, read: Read<T>) {
        let mut state = self.state();
        state.changes.took(versions);
        let unusable = state.logged.take().is_some();
        if state.digest == Some(read.digest) {
            if unusable {
                info!(target: "imaptrace::follow", "{} can be read again and is as it was", self.name);
            }
            return;
        }
        let is_change = state.digest.replace(read.digest).is_some();
        drop(state);
        drop(self.known.send_replace(Ok(Arc::new(read.value))));
        if is_change {
            info!(target: "imaptrace::follow", "{} has changed and is in use", self.name);
        } else if unusable {
            info!(target: "imaptrace::follow", "{} has been read and is in use", self.name);
        }
    }

    /// Keeps the present value, if any, and logs why once.
    fn keep(&self, problem: Unusable, why: &str) {
        let mut state = self.state();
        if state.logged.as_ref() == Some(&problem) {
            return;
        }
        state.logged = Some(problem);
        if state.digest.is_some() {
            warn!(target: "imaptrace::follow", "{} cannot be used as it is now: {why}; what was read before stays in use", self.name);
        } else {
            warn!(target: "imaptrace::follow", "{} cannot be read: {why}; it is tried again until it can", self.name);
            drop(self.known.send_replace(Err(why.into())));
        }
    }

    fn state(&self) -> MutexGuard<'_, FollowedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Checks all followed values at regular intervals.
#[derive(Clone, Default)]
pub struct FileFollower(Arc<Mutex<Vec<BeginLook>>>);

/// Begins a check of one value; false when the value has been dropped.
type BeginLook = Box<dyn Fn() -> bool + Send>;

impl FileFollower {
    /// Checks this value, too, until its last `Arc` is dropped.
    pub fn add<T, E>(&self, followed: &Arc<Followed<T, E>>)
    where
        T: Send + Sync + 'static,
        E: fmt::Display + Send + 'static,
    {
        let weak = Arc::downgrade(followed);
        let begin_check = move || {
            let Some(followed) = weak.upgrade() else { return false };
            if !followed.is_looking.swap(true, Ordering::Relaxed) {
                // A task each: one that waits for its file system delays no other.
                tokio::spawn(async move {
                    followed.check().await;
                    followed.is_looking.store(false, Ordering::Relaxed);
                });
            }
            true
        };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(begin_check));
    }

    /// Follows for as long as it is polled.
    pub async fn run(self) {
        loop {
            sleep(CHECK_INTERVAL).await;
            self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|begin_check| begin_check());
        }
    }
}

impl fmt::Debug for FileFollower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileFollower").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    type Text = Followed<String, String>;

    async fn follow(path: &Path) -> Result<Arc<Text>, String> {
        let read = path.to_owned();
        Text::begin("the file".to_owned(), vec![path.to_owned()], move || {
            let path = read.clone();
            Box::pin(async move {
                let text = fs::read_to_string(&path).map_err(|error| NotRead::Wrong(error.to_string()))?;
                let mut digest = [0; 32];
                digest[..text.len().min(32)].copy_from_slice(&text.as_bytes()[..text.len().min(32)]);
                if text == "bad" {
                    return Err(NotRead::Wrong("it is bad".to_owned()));
                }
                Ok(Read { value: text, digest })
            })
        })
        .await
    }

    fn value(followed: &Text) -> String {
        match followed.known() {
            Ok(text) => text.as_str().to_owned(),
            Err(why) => format!("waiting: {why}"),
        }
    }

    /// As many checks as a change takes at most.
    async fn checks(followed: &Text) {
        for _ in 0..2 {
            followed.check().await;
        }
    }

    #[tokio::test]
    async fn a_value_follows_a_file_that_is_written_renamed_over_and_led_to_by_another_link() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        // As kubelet does it: a link to a link to a directory that is swapped.
        let volume = |name: &str, text: &str| {
            fs::create_dir(path(name)).unwrap();
            fs::write(path(name).join("value"), text).unwrap();
            std::os::unix::fs::symlink(path(name), path("new")).unwrap();
            fs::rename(path("new"), path("..data")).unwrap();
        };
        volume("first", "1");
        std::os::unix::fs::symlink("..data/value", path("value")).unwrap();
        let followed = follow(&path("value")).await.unwrap();
        assert_eq!(value(&followed), "1");
        checks(&followed).await;
        fs::write(path("first").join("value"), "2").unwrap();
        checks(&followed).await;
        assert_eq!(value(&followed), "2", "written");
        fs::write(path("other"), "3").unwrap();
        fs::rename(path("other"), path("first").join("value")).unwrap();
        checks(&followed).await;
        assert_eq!(value(&followed), "3", "renamed over");
        volume("second", "4");
        checks(&followed).await;
        assert_eq!(value(&followed), "4", "a link swapped");
    }

    #[tokio::test]
    async fn the_last_good_value_stays_while_there_is_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("value");
        fs::write(&path, "bad").unwrap();
        assert_eq!(follow(&path).await.unwrap_err(), "it is bad", "a wrong file at the start is an error");
        fs::write(&path, "good").unwrap();
        let followed = follow(&path).await.unwrap();
        checks(&followed).await;
        for how in ["bad", "gone"] {
            if how == "gone" {
                fs::remove_file(&path).unwrap();
            } else {
                fs::write(&path, how).unwrap();
            }
            checks(&followed).await;
            assert_eq!(value(&followed), "good", "{how}");
            assert!(followed.state().logged.is_some(), "{how}");
        }
        fs::write(&path, "better").unwrap();
        checks(&followed).await;
        assert_eq!((value(&followed).as_str(), followed.state().logged.is_none()), ("better", true));
    }
    #[tokio::test]
    async fn what_does_not_answer_is_no_error_and_is_in_use_as_soon_as_it_does() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("value");
        fs::write(&path, "one").unwrap();
        let answers = Arc::new(AtomicBool::new(false));
        let asked = answers.clone();
        let read = move || -> ReadFuture<String, String> {
            let answers = asked.load(Ordering::SeqCst);
            Box::pin(async move {
                if answers {
                    Ok(Read { value: "good".to_owned(), digest: [1; 32] })
                } else {
                    Err(NotRead::Unfinished("it hangs".to_owned()))
                }
            })
        };
        let followed = Text::begin("the file".to_owned(), vec![path.clone()], read).await.unwrap();
        followed.check().await;
        assert_eq!(value(&followed), "waiting: it hangs");
        answers.store(true, Ordering::SeqCst);
        followed.check().await;
        assert_eq!(value(&followed), "good");
        checks(&followed).await;
        answers.store(false, Ordering::SeqCst);
        fs::write(&path, "another").unwrap();
        checks(&followed).await;
        assert_eq!(value(&followed), "good");
        assert_eq!(followed.state().logged, Some(Unusable::Unfinished));
    }
}
