//! A hashed directory made of a CA bundle, under a name that never changes: the environment cannot change once threads run.
//!
//! The name is one in `/proc/self/fd`, of a descriptor that stays open; `dup3` replaces the directory behind it atomically. So
//! the directory can be made after the start, again after a cleaner removed it, and when the bundle changes, and a
//! verification never sees half of one. The file has such a name too: it is empty while there is a directory, and the bundle
//! itself when none can be made. `blocking` makes all calls that wait for a disk. Called by `roots`.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex as Lock, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use nix::{
    fcntl::{OFlag, open},
    sys::stat::Mode,
    unistd::dup3,
};
use tokio::{
    sync::Mutex,
    time::{sleep, timeout_at},
};
use tracing::{info, warn};

use super::{
    directory::{HashedDirectory, HashedFiles, by_descriptor, hashed},
    error::{NOTHING, RootsError},
};
use crate::{
    blocking::{self, Unfinished},
    clock::{self, Deadline},
    follow::{CHECK_INTERVAL, Changes, FileVersion},
    net::{ErrnoKind, errno_kind},
};

/// The time limit of one step on a disk.
const STEP: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct BundleProblem {
    text: String,
    is_unfinished: bool,
    is_exhausted: bool,
}

impl BundleProblem {
    fn new(text: &str) -> Self {
        Self { text: text.to_owned(), is_unfinished: false, is_exhausted: false }
    }

    fn of(self, bundle: &Path) -> RootsError {
        RootsError { bundle: bundle.to_owned(), problem: self.text, is_exhausted: self.is_exhausted }
    }
}

impl From<io::Error> for BundleProblem {
    fn from(error: io::Error) -> Self {
        Self { is_exhausted: matches!(errno_kind(&error), Some(ErrnoKind::Exhausted)), ..Self::new(&error.to_string()) }
    }
}

impl From<Unfinished> for BundleProblem {
    fn from(unfinished: Unfinished) -> Self {
        Self { is_unfinished: true, ..Self::new(&unfinished.to_string()) }
    }
}

const LARGEST: u64 = 16 << 20;

#[derive(Debug)]
pub(super) struct Bundle {
    path: PathBuf,
    /// Where a directory may be made, in this order.
    places: OnceLock<Vec<PathBuf>>,
    /// The descriptors that the two variables name.
    slots: Arc<Lock<Slots>>,
    state: Mutex<BundleState>,
    /// The process ends: no directory is made any more.
    is_ended: AtomicBool,
    /// The directory in use, for a check without the state's lock.
    current: Lock<Option<Arc<HashedDirectory>>>,
}

#[derive(Debug)]
struct Slots {
    directory: OwnedFd,
    file: OwnedFd,
}

#[derive(Debug, Default)]
struct BundleState {
    changes: Changes<Option<FileVersion>>,
    files: Option<Arc<HashedFiles>>,
    /// OpenSSL reads the bundle itself.
    is_file: bool,
    logged: Option<String>,
}

impl Bundle {
    /// Opens the descriptors that the two variables will name. Call it before there is a second thread.
    #[expect(clippy::disallowed_methods, reason = "inside a call of `blocking`")]
    pub(super) fn reserve(path: PathBuf) -> Result<Self, RootsError> {
        let nothing = || open(NOTHING, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
        let slots = nothing().and_then(|directory| Ok(Slots { directory, file: nothing()? }));
        let slots = slots.map_err(|error| BundleProblem::from(io::Error::from(error)).of(&path))?;
        if !by_descriptor(slots.file.as_raw_fd()).exists() {
            return Err(BundleProblem::new("/proc is not mounted").of(&path));
        }
        let (places, state, current, is_ended) = Default::default();
        Ok(Self { path, places, slots: Arc::new(Lock::new(slots)), state, is_ended, current })
    }

    /// The values for the file's variable and the directory's.
    pub(super) fn names(&self) -> (PathBuf, PathBuf) {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        (by_descriptor(slots.file.as_raw_fd()), by_descriptor(slots.directory.as_raw_fd()))
    }

    /// Sets where a directory may be made, in this order; the directory for temporary files is the last. Only the first call has
    /// an effect.
    pub(super) fn place(&self, mut places: Vec<PathBuf>) {
        places.push(std::env::temp_dir());
        drop(self.places.set(places));
    }

    /// Ensures that certificates can be read: await it before a connection.
    pub(super) async fn ready(&self, deadline: Instant) -> Result<(), RootsError> {
        self.ensure(deadline).await.map_err(|problem| problem.of(&self.path))
    }

    async fn ensure(&self, deadline: Instant) -> Result<(), BundleProblem> {
        if let Some(current) = self.current()
            && Self::is_whole(current, deadline).await?
        {
            return Ok(());
        }
        let Ok(mut state) = timeout_at(deadline.into(), self.state.lock()).await else {
            return Err(BundleProblem::new("it is being read, and no answer came in time"));
        };
        if state.is_file {
            return Ok(());
        }
        let refreshed = timeout_at(deadline.into(), self.refresh(&mut state)).await;
        refreshed.unwrap_or_else(|_| Err(BundleProblem::new("no answer came in time")))
    }

    fn current(&self) -> Option<Arc<HashedDirectory>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn is_whole(current: Arc<HashedDirectory>, deadline: impl Into<Deadline>) -> Result<bool, Unfinished> {
        let origin = blocking::Origin::of_path(current.place());
        blocking::run(origin, deadline, move || current.is_whole()).await
    }

    /// Follows the bundle and the directory for as long as it is polled.
    pub(super) async fn follow(&self) {
        loop {
            drop(self.refresh(&mut *self.state.lock().await).await);
            sleep(CHECK_INTERVAL).await;
        }
    }

    /// Removes the directory for good. Blocks.
    pub(super) fn remove(&self) {
        self.is_ended.store(true, Ordering::SeqCst);
        self.current.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Reads the bundle if it has changed, and makes a directory if it has or if there is none.
    async fn refresh(&self, state: &mut BundleState) -> Result<(), BundleProblem> {
        let deadline = Deadline::after(clock::now(), STEP);
        let is_new = match self.read(state, deadline).await {
            Ok(is_new) => is_new,
            Err(problem) => {
                self.log(state, &problem.text);
                if state.files.is_none() && (problem.is_unfinished || problem.is_exhausted) {
                    return Err(problem);
                }
                // A bundle that is invalid from the start counts as empty; targets may have roots of their own.
                false
            }
        };
        let is_whole = match self.current() {
            None => state.is_file,
            Some(current) => Self::is_whole(current, deadline).await.unwrap_or(false),
        };
        let is_due = (is_new || !is_whole) && !self.is_ended.load(Ordering::SeqCst);
        if is_due { self.make(state).await } else { Ok(()) }
    }

    /// Reads the bundle if it has changed; whether its certificates have.
    async fn read(&self, state: &mut BundleState, deadline: Deadline) -> Result<bool, BundleProblem> {
        let version = blocking::with_path(&self.path, deadline, FileVersion::at).await??;
        if !state.changes.is_due(&version) {
            return Ok(false);
        }
        let files = blocking::with_path(&self.path, deadline, |path| -> Result<HashedFiles, BundleProblem> {
            hashed(&blocking::read_file(path, LARGEST)?).map_err(|error| BundleProblem::new(&error.to_string()))
        });
        let files = files.await??;
        if files.is_empty() && state.files.as_ref().is_some_and(|known| !known.is_empty()) {
            return Err(BundleProblem::new("it holds no certificate"));
        }
        state.changes.took(version);
        let is_change = state.files.is_some();
        let was_bad = state.logged.take().is_some();
        if state.files.as_deref() == Some(&files) {
            return Ok(false);
        }
        state.files = Some(Arc::new(files));
        if is_change || was_bad {
            info!(target: "imaptrace::net", "the CA bundle {} has changed and is in use", self.path.display());
        }
        Ok(true)
    }

    /// Makes a directory in the first place where it can, and puts it under the name; otherwise the bundle itself.
    #[expect(clippy::disallowed_methods, reason = "inside a call of `blocking`")]
    async fn make(&self, state: &mut BundleState) -> Result<(), BundleProblem> {
        let files = state.files.clone().unwrap_or_default();
        let mut problem = BundleProblem::new("there is no place for it");
        for place in self.places.get_or_init(|| vec![std::env::temp_dir()]) {
            let wanted = files.clone();
            let deadline = clock::now() + STEP;
            let made = blocking::with_path(place, deadline, move |place| HashedDirectory::make(place, &wanted));
            let made = match made.await {
                Ok(made) => made.and_then(|made| self.swap(made)).map_err(BundleProblem::from),
                Err(unfinished) => Err(unfinished.into()),
            };
            match made {
                Ok(()) => {
                    state.is_file = false;
                    return Ok(());
                }
                Err(found) if found.is_exhausted => return Err(found),
                Err(found) => problem = BundleProblem::new(&format!("{}: {}", place.display(), found.text)),
            }
        }
        let slots = self.slots.clone();
        let opened = blocking::with_path(&self.path, clock::now() + STEP, move |path| -> io::Result<()> {
            let bundle = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
            let mut slots = slots.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(dup3(&bundle, &mut slots.file, OFlag::O_CLOEXEC)?)
        });
        opened.await??;
        if !std::mem::replace(&mut state.is_file, true) {
            let problem = problem.of(&self.path);
            warn!(target: "imaptrace::net", "{problem}; every TLS connection costs 30 ms of CPU");
        }
        Ok(())
    }

    /// Puts a directory under the name, and removes the last one.
    #[expect(clippy::disallowed_methods, reason = "inside a call of `blocking`")]
    fn swap(&self, made: HashedDirectory) -> io::Result<()> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        dup3(made.descriptor(), &mut slots.directory, OFlag::O_CLOEXEC)?;
        let nothing = open(NOTHING, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
        dup3(&nothing, &mut slots.file, OFlag::O_CLOEXEC)?;
        drop(slots);
        let before = {
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            if self.is_ended.load(Ordering::SeqCst) { Some(Arc::new(made)) } else { current.replace(Arc::new(made)) }
        };
        if let Some(before) = before {
            tokio::spawn(async move { remove_apart(before).await });
        }
        Ok(())
    }

    fn log(&self, state: &mut BundleState, problem: &str) {
        if state.logged.as_deref() != Some(problem) {
            let and = if state.files.is_some() { "what it held before stays in use" } else { "it is tried again" };
            warn!(target: "imaptrace::net", "the CA bundle {} cannot be used: {problem}; {and}", self.path.display());
            state.logged = Some(problem.to_owned());
        }
    }
}

/// Removes a directory that is no longer in use, on a thread that may wait for its disk. If the disk does not respond, it stays,
/// like one of a dead process.
async fn remove_apart(directory: Arc<HashedDirectory>) {
    let place = directory.place().to_owned();
    let left = Arc::new(Lock::new(Some(directory)));
    let taken = left.clone();
    let take = |from: &Lock<Option<_>>| from.lock().unwrap_or_else(PoisonError::into_inner).take();
    let removed = blocking::with_path(&place, clock::now() + STEP, move |_| drop(take(&taken))).await;
    if removed.is_err() {
        std::mem::forget(take(&left));
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;

    fn certificates(number: usize) -> String {
        let certificate = |_| rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap().cert.pem();
        (0..number).map(certificate).collect()
    }

    /// What the directory's name leads to.
    fn found(bundle: &Bundle) -> usize {
        fs::read_dir(bundle.names().1).map_or(0, Iterator::count)
    }

    async fn ready(bundle: &Bundle) -> Result<(), RootsError> {
        bundle.ready(clock::now() + Duration::from_secs(20)).await
    }

    /// As many checks as a change takes at most.
    async fn checks(bundle: &Bundle) {
        for _ in 0..2 {
            let _problem = bundle.refresh(&mut *bundle.state.lock().await).await.is_err();
        }
    }

    #[tokio::test]
    async fn a_name_that_stays_leads_to_what_the_bundle_holds_now() {
        let place = tempfile::tempdir().unwrap();
        let (path, tmp) = (place.path().join("bundle.pem"), place.path().join("tmp"));
        fs::create_dir(&tmp).unwrap();
        fs::write(&path, certificates(2)).unwrap();
        let bundle = Bundle::reserve(path.clone()).unwrap();
        let names = bundle.names();
        bundle.place(vec![place.path().join("missing"), tmp.clone()]);
        ready(&bundle).await.unwrap();
        assert_eq!((found(&bundle), fs::read(&names.0).unwrap().len()), (2, 0), "of the places the first that will do");
        checks(&bundle).await;
        fs::write(&path, certificates(3)).unwrap();
        checks(&bundle).await;
        assert_eq!(found(&bundle), 3, "a bundle that changed");
        for bad in ["junk", ""] {
            fs::write(&path, bad).unwrap();
            checks(&bundle).await;
            assert_eq!(found(&bundle), 3, "{bad:?}: the last good one stays");
        }
        fs::remove_file(&path).unwrap();
        for entry in fs::read_dir(&tmp).unwrap() {
            fs::remove_dir_all(entry.unwrap().path()).unwrap();
        }
        assert_eq!(found(&bundle), 0, "a cleaner took it");
        ready(&bundle).await.unwrap();
        assert_eq!((found(&bundle), bundle.names()), (3, names), "made again without the bundle");
        bundle.remove();
        assert!(fs::read_dir(&tmp).unwrap().next().is_none());
        checks(&bundle).await;
        assert!(fs::read_dir(&tmp).unwrap().next().is_none(), "it is the process's end");
    }

    #[tokio::test]
    async fn where_no_directory_can_be_made_the_name_of_the_file_leads_to_the_bundle() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("bundle.pem");
        fs::write(&path, certificates(1)).unwrap();
        let bundle = Bundle::reserve(path.clone()).unwrap();
        drop(bundle.places.set(vec![place.path().join("missing")]));
        ready(&bundle).await.unwrap();
        assert_eq!(fs::read(bundle.names().0).unwrap(), fs::read(&path).unwrap());
        checks(&bundle).await;
        fs::write(place.path().join("new"), certificates(2)).unwrap();
        fs::rename(place.path().join("new"), &path).unwrap();
        checks(&bundle).await;
        assert_eq!(fs::read(bundle.names().0).unwrap(), fs::read(&path).unwrap());
    }
}
