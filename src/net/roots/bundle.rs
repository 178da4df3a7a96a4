//! A bundle of CA certificates as a hashed directory of our own, under a name that never changes: the environment cannot be
//! changed while threads run.
//!
//! That name leads, by way of `/proc/self/fd`, to a descriptor that is kept open, and `dup3` puts another directory under
//! it in one step. So the directory can be made when it is known where, made anew when a cleaner took it, and replaced when
//! the bundle changes, and at no time does a verification find half of one. The same goes for the file: it is empty as
//! long as there is a directory, and the bundle itself where none can be made. Every call that waits for a disk is made by
//! `blocking`. Called by `roots`.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::PathBuf,
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
    follow::{Changes, FileVersion, LOOK},
    net::{Trouble, trouble},
};

/// How long a disk may take for one step.
const STEP: Duration = Duration::from_secs(2);

/// Why the bundle cannot be used.
#[derive(Debug)]
struct BundleProblem {
    text: String,
    /// A file system has not answered.
    is_unfinished: bool,
    /// No more files may be opened.
    is_exhausted: bool,
}

impl BundleProblem {
    fn new(text: &str) -> Self {
        Self { text: text.to_owned(), is_unfinished: false, is_exhausted: false }
    }
}

impl From<io::Error> for BundleProblem {
    fn from(error: io::Error) -> Self {
        Self { is_exhausted: matches!(trouble(&error), Some(Trouble::Exhausted)), ..Self::new(&error.to_string()) }
    }
}

impl From<Unfinished> for BundleProblem {
    fn from(unfinished: Unfinished) -> Self {
        Self { is_unfinished: true, ..Self::new(&unfinished.to_string()) }
    }
}

/// The largest bundle that is read.
const LARGEST: u64 = 16 << 20;

/// See the module's head.
#[derive(Debug)]
pub(super) struct Bundle {
    path: PathBuf,
    /// Where a directory may be made, the best first.
    places: OnceLock<Vec<PathBuf>>,
    /// What the two variables name, and lead to other files and directories as time goes by.
    slots: Arc<Lock<Slots>>,
    state: Mutex<BundleState>,
    /// No directory is made any more: the process is at its end.
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
    /// What the bundle held when it was last good.
    files: Option<Arc<HashedFiles>>,
    /// OpenSSL reads the bundle itself.
    is_file: bool,
    /// What was logged last.
    logged: Option<String>,
}

impl Bundle {
    /// Opens what the two variables will name. Makes no directory yet. To be called before there is a second thread.
    #[expect(clippy::disallowed_methods, reason = "inside a call of `blocking`")]
    pub(super) fn reserve(path: PathBuf) -> Result<Self, RootsError> {
        let nothing = || open(NOTHING, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
        let failed = |problem: BundleProblem| RootsError {
            bundle: path.clone(),
            problem: problem.text,
            is_exhausted: problem.is_exhausted,
        };
        let slots = nothing().and_then(|directory| Ok(Slots { directory, file: nothing()? }));
        let slots = slots.map_err(|error| failed(io::Error::from(error).into()))?;
        if !by_descriptor(slots.file.as_raw_fd()).exists() {
            return Err(failed(BundleProblem::new("/proc is not mounted")));
        }
        let (places, state, current, is_ended) = Default::default();
        Ok(Self { path, places, slots: Arc::new(Lock::new(slots)), state, is_ended, current })
    }

    /// The values for the file's variable and the directory's.
    pub(super) fn names(&self) -> (PathBuf, PathBuf) {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        (by_descriptor(slots.file.as_raw_fd()), by_descriptor(slots.directory.as_raw_fd()))
    }

    /// Says where a directory may be made, the best place first. Only the first call counts; the system's place for temporary files comes
    /// last anyhow.
    pub(super) fn place(&self, mut places: Vec<PathBuf>) {
        places.push(std::env::temp_dir());
        drop(self.places.set(places));
    }

    /// Sees to it that certificates are found: to be awaited before a connection.
    pub(super) async fn ready(&self, deadline: Instant) -> Result<(), RootsError> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(current) = current {
            let origin = blocking::Origin::of_path(current.place());
            match blocking::run(origin, deadline, move || current.is_whole()).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(unfinished) => return Err(self.error(unfinished.into())),
            }
        }
        let Ok(mut state) = timeout_at(deadline.into(), self.state.lock()).await else {
            return Err(self.error(BundleProblem::new("it is being read, and no answer came in time")));
        };
        if state.is_file {
            return Ok(());
        }
        timeout_at(deadline.into(), self.refresh(&mut state))
            .await
            .unwrap_or_else(|_| Err(self.error(BundleProblem::new("no answer came in time"))))
    }

    /// Follows the bundle, and the directory made of it, for as long as it is polled.
    pub(super) async fn follow(&self) {
        loop {
            drop(self.refresh(&mut *self.state.lock().await).await);
            sleep(LOOK).await;
        }
    }

    /// Removes the directory, for good. Waits for the disk.
    pub(super) fn remove(&self) {
        self.is_ended.store(true, Ordering::SeqCst);
        self.current.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn error(&self, problem: BundleProblem) -> RootsError {
        RootsError { bundle: self.path.clone(), problem: problem.text, is_exhausted: problem.is_exhausted }
    }

    /// Reads the bundle if it has changed, and makes a directory if it has or if there is none.
    async fn refresh(&self, state: &mut BundleState) -> Result<(), RootsError> {
        let deadline = Deadline::after(clock::now(), STEP);
        let is_new = match self.read(state, deadline).await {
            Ok(is_new) => is_new,
            Err(problem) => {
                self.log(state, &problem.text);
                if state.files.is_none() && (problem.is_unfinished || problem.is_exhausted) {
                    return Err(self.error(problem));
                }
                // A bundle that is wrong from the start holds nothing; targets may bring roots of their own.
                false
            }
        };
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let is_whole = match current {
            None => state.is_file,
            Some(current) => {
                let origin = blocking::Origin::of_path(current.place());
                blocking::run(origin, deadline, move || current.is_whole()).await.unwrap_or(false)
            }
        };
        let is_due = (is_new || !is_whole) && !self.is_ended.load(Ordering::SeqCst);
        if is_due { self.make(state).await } else { Ok(()) }
    }

    /// Whether the bundle holds something else than before.
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

    /// Makes a directory in the first place that will do, and puts it under the name; without one, the bundle itself.
    #[expect(clippy::disallowed_methods, reason = "inside a call of `blocking`")]
    async fn make(&self, state: &mut BundleState) -> Result<(), RootsError> {
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
                Err(found) if found.is_exhausted => return Err(self.error(found)),
                Err(found) => problem = BundleProblem::new(&format!("{}: {}", place.display(), found.text)),
            }
        }
        let slots = self.slots.clone();
        let opened = blocking::with_path(&self.path, clock::now() + STEP, move |path| -> io::Result<()> {
            let bundle = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
            let mut slots = slots.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(dup3(&bundle, &mut slots.file, OFlag::O_CLOEXEC)?)
        });
        let opened = opened.await.map_err(|unfinished| self.error(unfinished.into()))?;
        opened.map_err(|error| self.error(error.into()))?;
        if !std::mem::replace(&mut state.is_file, true) {
            let problem = self.error(problem);
            warn!(target: "imaptrace::net", "{problem}; every TLS connection costs 30 ms of CPU");
        }
        Ok(())
    }

    /// Puts a directory under the name, and removes the one before.
    #[expect(clippy::disallowed_methods, reason = "inside a call of `blocking`")]
    fn swap(&self, made: HashedDirectory) -> io::Result<()> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(descriptor) = made.descriptor() else { return Err(io::ErrorKind::NotFound.into()) };
        dup3(descriptor, &mut slots.directory, OFlag::O_CLOEXEC)?;
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

/// Removes a directory that is not in use any more, on a thread that may wait for its disk. One whose disk does not answer
/// stays, like one of a dead process: to drop it would wait as well.
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

    /// As many looks as a change takes at most.
    async fn looks(bundle: &Bundle) {
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
        looks(&bundle).await;
        fs::write(&path, certificates(3)).unwrap();
        looks(&bundle).await;
        assert_eq!(found(&bundle), 3, "a bundle that changed");
        for bad in ["junk", ""] {
            fs::write(&path, bad).unwrap();
            looks(&bundle).await;
            assert_eq!(found(&bundle), 3, "{bad:?}: the last good one stays");
        }
        fs::remove_file(&path).unwrap();
        for entry in fs::read_dir(&tmp).unwrap() {
            fs::remove_dir_all(entry.unwrap().path()).unwrap();
        }
        assert_eq!(found(&bundle), 0, "a cleaner took it");
        ready(&bundle).await.unwrap();
        assert_eq!((found(&bundle), bundle.names()), (3, names), "made anew without the bundle");
        bundle.remove();
        assert!(fs::read_dir(&tmp).unwrap().next().is_none());
        looks(&bundle).await;
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
        looks(&bundle).await;
        fs::write(place.path().join("new"), certificates(2)).unwrap();
        fs::rename(place.path().join("new"), &path).unwrap();
        looks(&bundle).await;
        assert_eq!(fs::read(bundle.names().0).unwrap(), fs::read(&path).unwrap());
    }
}
