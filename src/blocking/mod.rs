//! Calls that may block: files, processes, the system's resolver. Each runs on a thread of its own kind, with a deadline.
//!
//! A call into a file system that does not answer cannot be broken off. So none is made on a thread that probes, and the
//! threads that make them are bounded: in all for each class of calls, and for each [`Origin`], so that an origin that is
//! stuck holds few of them. A call keeps its permits until it really returns, also when its caller has long given up.
//! Any module may call [`run`] and [`with_path`]; code that already has a thread of its own (the resolver files, the disk
//! part of delivery) does not need to. [`work`] is for what takes a processor, or has limits of its own.
//!
//! ```text
//! limit    permits, first come first served, and when waiting for one is given up
//! park     waits for what another thread does, for callers that may block
//! mounts   which mount a path is on
//! file     the bytes of a file, whatever its path leads to
//! links    where a path's symbolic links lead, before what lies behind is touched
//! ```

mod file;
mod limit;
mod links;
mod mounts;
mod park;

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    pin::pin,
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    runtime::{Handle, Runtime},
    task::{JoinError, JoinHandle},
    time::timeout_at,
};

pub use self::file::read_file;
use self::{
    limit::{Limit, Permit},
    links::{PathWalk, WalkEnd},
    park::block_until,
};
use crate::clock::Deadline;

/// Calls to files and directories at a time.
const FILES: usize = 128;
/// Of these, to one mount.
const FILES_OF_A_MOUNT: usize = 4;
/// How long a read usually takes at most. Callers do not wait for a mount, and hold their places among the runs in flight, while
/// others have been at it for longer.
const FILES_OVERDUE_AFTER: Duration = Duration::from_secs(1);
/// Programs at a time.
const COMMANDS: usize = 128;
/// Look-ups by the system's resolver at a time.
const NAMES: usize = 64;
/// Of these, of one name.
const LOOKUPS_OF_A_NAME: usize = 8;
/// A thread without work ends after this time: longer than the usual interval between runs, so that a run seldom pays for a
/// new one.
const KEEP_ALIVE: Duration = Duration::from_secs(90);
/// Modules of NSS keep buffers on the stack; the default of 2 MiB for each would add up to 256 MiB.
const STACK: usize = 512 << 10;

/// What a call depends on, and may wait for without an end.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A mounted file system, by its mount point.
    Mount(Arc<Path>),
    /// A program, with all its arguments.
    Command(Arc<[String]>),
    /// A name that the system's resolver looks up.
    Name(Arc<str>),
}

impl Origin {
    /// The mount that a path is on by its name. A symbolic link on the way may lead to another: [`with_path`] follows it.
    pub fn of_path(path: &Path) -> Self {
        Self::Mount(mounts::MountTable::current().mount_of(&links::normal(&links::absolute(path))))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mount(point) => write!(f, "the file system at {}", point.display()),
            // Its arguments may be secrets.
            Self::Command(argv) => write!(f, "the command {:?}", argv.first().map_or("", String::as_str)),
            Self::Name(name) => write!(f, "the look-up of {name}"),
        }
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A call without a result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfinished {
    /// It was begun, and its time is up.
    #[error("{origin} did not answer in time")]
    Deadline {
        /// What it depends on.
        origin: Origin,
    },
    /// It was not begun: all threads that it may use are held by calls that have not returned, or the system gives no thread.
    #[error("cannot start a call to {origin}: the system gives no thread, or earlier calls have not returned")]
    NoThread {
        /// What it would depend on.
        origin: Origin,
    },
}

/// Makes a call that may block, on a thread for such calls. Waits for its turn and for its end until `deadline`, and fails
/// at once when all threads that `origin` may hold are held by calls past their own deadlines; of a mount, by calls that have
/// taken over a second. Pauses of this process lengthen deadlines (`clock`).
///
/// A panic in the call comes out here.
pub async fn run<T: Send + 'static>(
    origin: Origin,
    deadline: impl Into<Deadline>,
    call: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Unfinished> {
    CALLS.run(origin, deadline.into(), call).await
}

/// [`run`] for a path: follows its symbolic links one by one, and makes the call under the mount that it leads to. `call` gets
/// the path as it was given.
pub async fn with_path<T: Send + 'static>(
    path: &Path,
    deadline: impl Into<Deadline>,
    call: impl FnOnce(&Path) -> T + Send + 'static,
) -> Result<T, Unfinished> {
    CALLS.with_path(path, deadline.into(), call).await
}

/// [`with_path`] for a caller that may block: one that runs before anything is probed, or on a thread of its own. As such
/// callers have many paths one after the other, it fails at once already when one call to the mount is past its deadline.
pub fn with_path_sync<T: Send + 'static>(
    path: &Path,
    deadline: impl Into<Deadline>,
    call: impl FnOnce(&Path) -> T + Send + 'static,
) -> Result<T, Unfinished> {
    CALLS.with_path_sync(path, deadline.into(), call)
}

static CALLS: LazyLock<Calls> = LazyLock::new(Calls::default);

/// All calls of the process.
struct Calls {
    files: Arc<Class>,
    commands: Arc<Class>,
    names: Arc<Class>,
}

impl Default for Calls {
    fn default() -> Self {
        Self {
            files: Class::new(FILES, FILES_OF_A_MOUNT, FILES_OVERDUE_AFTER),
            // Two of the same at once could each find the other at work (a token that is renewed, a locked keyring).
            commands: Class::new(COMMANDS, 1, Duration::MAX),
            names: Class::new(NAMES, LOOKUPS_OF_A_NAME, Duration::MAX),
        }
    }
}

impl Calls {
    async fn run<T: Send + 'static>(
        &self,
        origin: Origin,
        deadline: Deadline,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Unfinished> {
        let entry = self.entry(&origin);
        // The origin's own first: who waits for a stuck one holds nothing that another could use.
        let Some(of_origin) = entry.limit.acquire(deadline).await else {
            return Err(Unfinished::NoThread { origin });
        };
        let Some(of_class) = entry.class.all.acquire(deadline).await else {
            return Err(Unfinished::NoThread { origin });
        };
        let held = Permits { _of_class: of_class, _of_origin: of_origin, _entry: entry };
        let Some(thread) = threads().and_then(|threads| spawn(&threads, held, call)) else {
            return Err(Unfinished::NoThread { origin });
        };
        outcome(within(deadline, thread).await, origin)
    }

    fn run_sync<T: Send + 'static>(
        &self,
        origin: Origin,
        deadline: Deadline,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Unfinished> {
        let entry = self.entry(&origin);
        let Some(of_origin) = entry.limit.acquire_sync(deadline) else {
            return Err(Unfinished::NoThread { origin });
        };
        let Some(of_class) = entry.class.all.acquire_sync(deadline) else {
            return Err(Unfinished::NoThread { origin });
        };
        let held = Permits { _of_class: of_class, _of_origin: of_origin, _entry: entry };
        let Some(thread) = threads().and_then(|threads| spawn(&threads, held, call)) else {
            return Err(Unfinished::NoThread { origin });
        };
        outcome(within_sync(deadline, thread), origin)
    }

    fn entry(&self, origin: &Origin) -> OriginUse {
        let class = match origin {
            Origin::Mount(_) => &self.files,
            Origin::Command(_) => &self.commands,
            Origin::Name(_) => &self.names,
        };
        Class::entry(class, origin)
    }

    async fn with_path<T: Send + 'static>(
        &self,
        path: &Path,
        deadline: Deadline,
        call: impl FnOnce(&Path) -> T + Send + 'static,
    ) -> Result<T, Unfinished> {
        let mut next = PathCall { path: path.into(), walk: PathWalk::new(path), call };
        loop {
            match self.run(next.origin(), deadline, move || next.go_on()).await? {
                Ok(result) => return Ok(result),
                Err(elsewhere) => next = elsewhere,
            }
        }
    }

    fn with_path_sync<T: Send + 'static>(
        &self,
        path: &Path,
        deadline: Deadline,
        call: impl FnOnce(&Path) -> T + Send + 'static,
    ) -> Result<T, Unfinished> {
        let mut next = PathCall { path: path.into(), walk: PathWalk::new(path), call };
        loop {
            match self.run_sync(next.origin(), deadline, move || next.go_on())? {
                Ok(result) => return Ok(result),
                Err(elsewhere) => next = elsewhere,
            }
        }
    }
}

/// What a future gives by the deadline, which a pause of this process lengthens: a call could not return in it.
pub async fn within<F: Future + Unpin>(deadline: Deadline, mut future: F) -> Option<F::Output> {
    loop {
        let end = deadline.lengthened();
        if let Ok(output) = timeout_at(end.into(), &mut future).await {
            return Some(output);
        }
        if deadline.lengthened() <= end {
            return None;
        }
    }
}

/// [`within`] for a caller that may block.
fn within_sync<T>(deadline: Deadline, mut thread: JoinHandle<T>) -> Option<Result<T, JoinError>> {
    loop {
        let end = deadline.lengthened();
        if let Some(ended) = block_until(pin!(&mut thread), end) {
            return Some(ended);
        }
        if deadline.lengthened() <= end {
            return None;
        }
    }
}

/// What became of a call by its deadline.
fn outcome<T>(ended: Option<Result<Option<T>, JoinError>>, origin: Origin) -> Result<T, Unfinished> {
    match ended {
        Some(Ok(Some(result))) => Ok(result),
        Some(Ok(None)) => Err(Unfinished::NoThread { origin }),
        Some(Err(error)) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            Err(_) => Err(Unfinished::NoThread { origin }),
        },
        None => Err(Unfinished::Deadline { origin }),
    }
}

/// A call to a path, as far as its links have been followed.
struct PathCall<F> {
    path: PathBuf,
    walk: PathWalk,
    call: F,
}

impl<T, F: FnOnce(&Path) -> T> PathCall<F> {
    fn origin(&self) -> Origin {
        Origin::Mount(self.walk.mount())
    }

    /// Follows the links, and makes the call: on one thread, unless they lead to another mount. Blocks.
    fn go_on(mut self) -> Result<T, Self> {
        match self.walk.follow() {
            WalkEnd::Here => Ok((self.call)(&self.path)),
            WalkEnd::OtherMount => Err(self),
        }
    }
}

/// A kind of calls, with its bounds.
struct Class {
    all: Arc<Limit>,
    each: usize,
    overdue_after: Duration,
    /// Origins with calls under way or waiting.
    origins: Mutex<HashMap<Origin, Arc<Limit>>>,
}

impl Class {
    fn new(all: usize, each: usize, overdue_after: Duration) -> Arc<Self> {
        Arc::new(Self { all: Arc::new(Limit::new(all, overdue_after)), each, overdue_after, origins: Mutex::default() })
    }

    fn entry(this: &Arc<Self>, origin: &Origin) -> OriginUse {
        let mut origins = this.origins.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = origins
            .entry(origin.clone())
            .or_insert_with(|| Arc::new(Limit::new(this.each, this.overdue_after)))
            .clone();
        OriginUse { class: this.clone(), origin: origin.clone(), limit }
    }
}

/// A use of an origin's limit. The origin is forgotten with its last use.
struct OriginUse {
    class: Arc<Class>,
    origin: Origin,
    limit: Arc<Limit>,
}

impl Drop for OriginUse {
    fn drop(&mut self) {
        let mut origins = self.class.origins.lock().unwrap_or_else(PoisonError::into_inner);
        // The table's and this one; further uses begin under the same lock.
        if Arc::strong_count(&self.limit) == 2 {
            origins.remove(&self.origin);
        }
    }
}

/// What a call holds until it returns; let go of in this order.
struct Permits {
    _of_class: Permit,
    _of_origin: Permit,
    _entry: OriginUse,
}

/// Hands the call to a thread; none when the system gives none. What is handed back gives none when the call was taken back.
fn spawn<T: Send + 'static>(
    threads: &Handle,
    held: Permits,
    call: impl FnOnce() -> T + Send + 'static,
) -> Option<JoinHandle<Option<T>>> {
    // A call for which the system gives no thread stays in the runtime's queue until another call gets one, which may be
    // never: it is taken back, for its permits are needed.
    let begun = Arc::new(Mutex::new(Some((held, call))));
    let queued = begun.clone();
    let work = move || {
        let (held, call) = take(&queued)?;
        let result = call();
        drop(held);
        Some(result)
    };
    let thread = catch_unwind(AssertUnwindSafe(|| threads.spawn_blocking(work))).ok();
    if thread.is_none() {
        drop(take(&begun));
    }
    thread
}

fn take<T>(from: &Mutex<Option<T>>) -> Option<T> {
    from.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Does what takes a processor for a while, or goes over many files by its caller's own limits: on a thread named `work`, so
/// that threads of the runtimes do nothing else than what they are for. It has neither a deadline nor a limit here.
///
/// The handle ends with an error when `what` panics, or when the system gives no thread. Needs a runtime.
pub fn work<T: Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    static THREADS: LazyLock<Option<Runtime>> =
        LazyLock::new(|| tokio::runtime::Builder::new_current_thread().thread_name("work").build().ok());
    // A test's own holds a paused clock while the work is under way.
    #[cfg(test)]
    if let Ok(tests) = Handle::try_current() {
        return work_on(&tests, what);
    }
    match &*THREADS {
        Some(threads) => work_on(threads.handle(), what),
        None => work_on(&Handle::current(), what),
    }
}

fn work_on<T: Send + 'static>(threads: &Handle, what: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    // Tokio panics where the system gives no thread, which must not end the caller.
    catch_unwind(AssertUnwindSafe(|| threads.spawn_blocking(what))).unwrap_or_else(|_| {
        let failed = Handle::current().spawn(std::future::pending());
        failed.abort();
        failed
    })
}

/// The threads belong to a runtime that runs nothing else and lives as long as the process: no other runtime's end waits for
/// a call that does not return, and their name sets them apart from threads that probe.
fn threads() -> Option<Handle> {
    static THREADS: LazyLock<Option<Runtime>> = LazyLock::new(|| {
        tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(FILES + COMMANDS + NAMES)
            .thread_keep_alive(KEEP_ALIVE)
            .thread_name("blocking")
            .thread_stack_size(STACK)
            .build()
            .ok()
    });
    // A test's own holds a paused clock while a call is under way.
    #[cfg(test)]
    if let Ok(tests) = Handle::try_current() {
        return Some(tests);
    }
    THREADS.as_ref().map(|runtime| runtime.handle().clone())
}

#[cfg(test)]
mod tests;
