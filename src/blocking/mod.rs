//! Calls that may block: files, programs, the system's resolver. Each runs on a thread for such calls, with a deadline.
//!
//! A call into a file system that does not respond cannot be cancelled. So none is made on a thread that probes, and the
//! threads that make them are bounded: for each class of calls, and for each [`Origin`], so that an origin that hangs holds
//! few of them. A call keeps its permits until it returns, also after its caller has stopped waiting. Any module may call [`run`]
//! and [`with_path`]; code on a thread of its own (the resolver files, delivery's disk) need not. [`work`] is for calls that
//! use a processor, or have limits of their own.
//!
//! ```text
//! limit    permits, first come first served, and when waiting for one ends
//! wait     waits for a future until a deadline, with and without a runtime
//! mounts   which mount a path is on
//! file     the bytes of a file of any kind
//! links    follows a path's symbolic links without touching another mount
//! ```

mod file;
mod limit;
mod links;
mod mounts;
mod wait;

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{
    runtime::{Handle, Runtime},
    task::JoinHandle,
};

pub use self::file::read_file;
use self::{
    limit::{Limit, Permit},
    links::{PathWalk, WalkEnd},
    wait::Wait,
};
use crate::clock::Deadline;

const FILES: usize = 128;
/// Concurrent calls to one mount.
const FILES_OF_A_MOUNT: usize = 4;
/// How long a read usually takes at most. While all permits of a mount are held for longer, callers fail at once: a run that
/// waits holds its place among the runs in flight.
const FILES_OVERDUE_AFTER: Duration = Duration::from_secs(1);
const COMMANDS: usize = 128;
const NAMES: usize = 64;
/// Concurrent look-ups of one name.
const LOOKUPS_OF_A_NAME: usize = 8;
/// An idle thread ends after this time: longer than the usual interval between runs.
const KEEP_ALIVE: Duration = Duration::from_secs(90);
/// Enough for the buffers of NSS modules; the default of 2 MiB would add up to 640 MiB.
const STACK: usize = 512 << 10;

/// What a call depends on, and may wait for without end.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A mounted file system, by its mount point.
    Mount(Arc<Path>),
    /// A program with its arguments.
    Command(Arc<[String]>),
    /// A name that the system's resolver looks up.
    Name(Arc<str>),
}

impl Origin {
    /// The mount that a path is on by its name. [`with_path`] follows symbolic links to other mounts.
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
    /// It was begun, and its deadline has passed.
    #[error("{0} did not answer in time")]
    Deadline(Origin),
    /// It was not begun: calls that have not returned hold all threads that it may use, or the system gives no thread.
    #[error("cannot start a call to {0}: the system gives no thread, or earlier calls have not returned")]
    NoThread(Origin),
}

/// Makes a call that may block, on a thread for such calls. Waits for a permit and for the result until `deadline`, and fails
/// at once when all permits of `origin` are held by calls past their own deadlines; of a mount, by calls that have taken over
/// a second. Pauses of this process lengthen deadlines (`clock`).
///
/// A panic in the call is resumed here.
pub async fn run<T: Send + 'static>(
    origin: Origin,
    deadline: impl Into<Deadline>,
    call: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Unfinished> {
    CALLS.run(Wait::Await, origin, deadline.into(), call).await
}

/// [`run`] for a path: follows its symbolic links one by one, and makes the call under the mount that it leads to. `call` gets
/// the path as it was given.
pub async fn with_path<T: Send + 'static>(
    path: &Path,
    deadline: impl Into<Deadline>,
    call: impl FnOnce(&Path) -> T + Send + 'static,
) -> Result<T, Unfinished> {
    CALLS.with_path(Wait::Await, path, deadline.into(), call).await
}

/// [`with_path`] for a caller that may block: before anything is probed, or on a thread of its own.
pub fn with_path_sync<T: Send + 'static>(
    path: &Path,
    deadline: impl Into<Deadline>,
    call: impl FnOnce(&Path) -> T + Send + 'static,
) -> Result<T, Unfinished> {
    let done = CALLS.with_path(Wait::Park, path, deadline.into(), call).now_or_never();
    // `Wait::Park` leaves nothing pending.
    done.unwrap_or_else(|| Err(Unfinished::NoThread(Origin::of_path(path))))
}

static CALLS: LazyLock<Calls> = LazyLock::new(|| Calls {
    files: Class::new(FILES, FILES_OF_A_MOUNT, FILES_OVERDUE_AFTER),
    // Not two at once: a token that is renewed, or a locked keyring, may make the second fail.
    commands: Class::new(COMMANDS, 1, Duration::MAX),
    names: Class::new(NAMES, LOOKUPS_OF_A_NAME, Duration::MAX),
});

/// The future's output, or none at the deadline, which pauses of this process lengthen.
pub async fn within<F: Future + Unpin>(deadline: Deadline, future: F) -> Option<F::Output> {
    Wait::Await.within(deadline, future).await
}

struct Calls {
    files: Arc<Class>,
    commands: Arc<Class>,
    names: Arc<Class>,
}

impl Calls {
    async fn run<T: Send + 'static>(
        &self,
        wait: Wait,
        origin: Origin,
        deadline: Deadline,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Unfinished> {
        let Some(thread) = self.begin(wait, &origin, deadline, call).await else {
            return Err(Unfinished::NoThread(origin));
        };
        match wait.within(deadline, thread).await {
            Some(Ok(Some(result))) => Ok(result),
            Some(Ok(None)) => Err(Unfinished::NoThread(origin)),
            Some(Err(error)) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                Err(_) => Err(Unfinished::NoThread(origin)),
            },
            None => Err(Unfinished::Deadline(origin)),
        }
    }

    /// Waits for permits and starts the call; none if it cannot be started by the deadline.
    async fn begin<T: Send + 'static>(
        &self,
        wait: Wait,
        origin: &Origin,
        deadline: Deadline,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Option<JoinHandle<Option<T>>> {
        let entry = self.entry(origin);
        // The origin's first: a caller that waits for an origin that hangs holds no permit of the class.
        let of_origin = entry.limit.acquire(wait, deadline).await?;
        let of_class = entry.class.all.acquire(wait, deadline).await?;
        spawn(&handle(&THREADS)?, (of_class, of_origin, entry), call)
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
        wait: Wait,
        path: &Path,
        deadline: Deadline,
        call: impl FnOnce(&Path) -> T + Send + 'static,
    ) -> Result<T, Unfinished> {
        let mut next = PathCall { path: path.into(), walk: PathWalk::new(path), call };
        loop {
            match self.run(wait, Origin::Mount(next.walk.mount()), deadline, move || next.go_on()).await? {
                Ok(result) => return Ok(result),
                Err(elsewhere) => next = elsewhere,
            }
        }
    }
}

/// A call to a path whose links are being followed.
struct PathCall<F> {
    path: PathBuf,
    walk: PathWalk,
    call: F,
}

impl<T, F: FnOnce(&Path) -> T> PathCall<F> {
    /// Follows the links and makes the call, unless they lead to another mount. Blocks.
    fn go_on(mut self) -> Result<T, Self> {
        match self.walk.follow() {
            WalkEnd::Here => Ok((self.call)(&self.path)),
            WalkEnd::OtherMount => Err(self),
        }
    }
}

/// A class of calls, with its limits.
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

/// A use of an origin's limit. The entry is removed with its last use.
struct OriginUse {
    class: Arc<Class>,
    origin: Origin,
    limit: Arc<Limit>,
}

impl Drop for OriginUse {
    fn drop(&mut self) {
        let mut origins = self.class.origins.lock().unwrap_or_else(PoisonError::into_inner);
        // The table's and this one; a new use begins under the same lock.
        if Arc::strong_count(&self.limit) == 2 {
            origins.remove(&self.origin);
        }
    }
}

/// Held by a call until it returns; dropped in this order.
type Held = (Permit, Permit, OriginUse);

/// Starts the call on a thread; none when the system gives none. The handle returns none when the call was taken back.
fn spawn<T: Send + 'static>(
    threads: &Handle,
    held: Held,
    call: impl FnOnce() -> T + Send + 'static,
) -> Option<JoinHandle<Option<T>>> {
    // Without a thread the call stays in the runtime's queue until another call gets one, which may be never: it is taken
    // back to free its permits.
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

/// Runs what uses a processor for a while, or many files within its caller's own limits, on a thread named `work`. There is
/// neither a deadline nor a limit here.
///
/// The handle returns an error when `what` panics, or when the system gives no thread. Needs a runtime.
pub fn work<T: Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    work_on(&handle(&WORK).unwrap_or_else(Handle::current), what)
}

static WORK: LazyLock<Option<Runtime>> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().thread_name("work").build().ok());

fn work_on<T: Send + 'static>(threads: &Handle, what: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    // Tokio panics where the system gives no thread, which must not end the caller.
    catch_unwind(AssertUnwindSafe(|| threads.spawn_blocking(what))).unwrap_or_else(|_| {
        let failed = Handle::current().spawn(std::future::pending());
        failed.abort();
        failed
    })
}

/// A runtime that lives as long as the process: the end of another one waits for no call that does not return.
static THREADS: LazyLock<Option<Runtime>> = LazyLock::new(|| {
    tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(FILES + COMMANDS + NAMES)
        .thread_keep_alive(KEEP_ALIVE)
        .thread_name("blocking")
        .thread_stack_size(STACK)
        .build()
        .ok()
});

fn handle(runtime: &LazyLock<Option<Runtime>>) -> Option<Handle> {
    // A test's own runtime: its paused clock stands still during a call.
    #[cfg(test)]
    if let Ok(tests) = Handle::try_current() {
        return Some(tests);
    }
    runtime.as_ref().map(|runtime| runtime.handle().clone())
}

#[cfg(test)]
mod tests;
