//! Programs that print a secret: started, read, and killed with their children. Called by [`source`](super::source), and at the
//! end of the process.
//!
//! A program has a process group of its own, which is killed when the program has ended, at its deadline, when the caller no
//! longer waits, and at the end of this process. Where it shares a terminal, it stays in the foreground group, so that it can
//! prompt there (pinentry), and is killed alone.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use imaptrace_imap::Secret;

use super::{
    buffer::{LARGEST, WipedBuffer},
    error::SecretError,
    form::{Extent, take},
};
use crate::{
    blocking::{self, Origin, Unfinished},
    clock::{self, Deadline},
};

const COMMAND_DEADLINE: Duration = Duration::from_secs(10);
/// How long a program waits for earlier ones with the same arguments, and for its start.
const TURN_DEADLINE: Duration = Duration::from_secs(10);

/// Variables that a program gets with other values than this process; those without a value are removed.
static ENVIRONMENT: OnceLock<Vec<(OsString, Option<OsString>)>> = OnceLock::new();

pub(super) async fn load(argv: &[String], exact: bool) -> Result<Secret, SecretError> {
    let origin = Origin::Command(argv.into());
    let program = argv.first().cloned().unwrap_or_default();
    let argv = argv.to_vec();
    let request = Request::default();
    let state = request.0.clone();
    let call = move || run(&argv, exact, &state);
    match blocking::run(origin, clock::now() + TURN_DEADLINE + COMMAND_DEADLINE, call).await {
        Ok(loaded) => loaded,
        Err(Unfinished::Deadline(_)) => Err(failed(&program, "could not be started and ended in time")),
        Err(Unfinished::NoThread(_)) => Err(failed(&program, "was not started: earlier calls of it have not ended")),
    }
}

/// Sets variables for programs; those without a value are removed. Only the first call has an effect.
pub fn set_environment(variables: Vec<(OsString, Option<OsString>)>) {
    let _ = ENVIRONMENT.set(variables);
}

/// From now on programs stay in the process group of this process, whose terminal they share.
pub fn share_terminal() {
    TERMINAL_IS_SHARED.store(true, Ordering::Relaxed);
}

/// Kills the running programs, and starts no more: for the end of the process. Does not wait.
pub fn end_commands() {
    ENDED.store(true, Ordering::SeqCst);
    for process in &*running() {
        end(*process);
    }
}

static TERMINAL_IS_SHARED: AtomicBool = AtomicBool::new(false);
static ENDED: AtomicBool = AtomicBool::new(false);
/// Programs that have not been reaped, so that their process ids are not reused. Negative for the leader of a process group,
/// which kill(2) then kills.
static RUNNING: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

fn running() -> MutexGuard<'static, BTreeSet<i32>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn end(process: i32) {
    // Fails when it has ended.
    let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
}

/// A request for a secret. Dropping it kills the program.
#[derive(Default)]
struct Request(Arc<RequestState>);

#[derive(Default)]
struct RequestState {
    is_given_up: AtomicBool,
    process: Mutex<Option<i32>>,
}

impl RequestState {
    fn process(&self) -> MutexGuard<'_, Option<i32>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        ENDED.load(Ordering::SeqCst) || self.is_given_up.load(Ordering::SeqCst)
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.0.is_given_up.store(true, Ordering::SeqCst);
        if let Some(process) = *self.0.process() {
            end(process);
        }
    }
}

struct RunningProgram<'a> {
    child: Child,
    process: i32,
    request: &'a RequestState,
}

impl<'a> RunningProgram<'a> {
    #[expect(clippy::disallowed_methods, reason = "inside a call of `blocking`")]
    fn start(argv: &[String], request: &'a RequestState) -> io::Result<Self> {
        let leads = !TERMINAL_IS_SHARED.load(Ordering::Relaxed);
        let mut command = Command::new(argv.first().map_or("", String::as_str));
        command.args(argv.iter().skip(1)).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        if leads {
            command.process_group(0);
        }
        for (name, value) in ENVIRONMENT.get().into_iter().flatten() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let child = command.spawn()?;
        let id = child.id().cast_signed();
        let process = if leads { -id } else { id };
        running().insert(process);
        *request.process() = Some(process);
        // The caller may have stopped waiting before `process` was set.
        if request.is_over() {
            end(process);
        }
        Ok(Self { child, process, request })
    }

    /// Kills the rest of its group, and returns its exit status.
    fn end(&mut self) -> io::Result<ExitStatus> {
        end(self.process);
        // Before it is reaped, so that no other thread kills a process that reuses its id.
        running().remove(&self.process);
        *self.request.process() = None;
        self.child.wait()
    }
}

impl Drop for RunningProgram<'_> {
    fn drop(&mut self) {
        if self.request.process().is_some() {
            let _ = self.end();
        }
    }
}

fn failed(program: &str, problem: &str) -> SecretError {
    SecretError::Source(format!("the password command {program:?} {problem}"))
}

/// Runs the program. Blocks until its deadline at most, or longer if it cannot be killed.
fn run(argv: &[String], exact: bool, request: &RequestState) -> Result<Secret, SecretError> {
    let program = argv.first().cloned().unwrap_or_default();
    let deadline = Deadline::after(clock::now(), COMMAND_DEADLINE);
    if request.is_over() {
        return Err(failed(&program, "was not started: its caller no longer waits"));
    }
    let mut running =
        RunningProgram::start(argv, request).map_err(|source| SecretError::Start(program.clone(), source))?;
    let mut value = WipedBuffer::new();
    let unreadable = |error| failed(&program, &format!("cannot be read: {error}"));
    match watch(&mut running.child, &mut value, deadline).map_err(unreadable)? {
        ProgramEnd::Late => {
            return Err(failed(&program, &format!("did not end within {} s", COMMAND_DEADLINE.as_secs())));
        }
        ProgramEnd::TooMuch => {}
        ProgramEnd::Exit => {
            let status = running.end().map_err(unreadable)?;
            if !status.success() {
                return Err(failed(&program, &format!("ended with {status}")));
            }
        }
    }
    take(value.filled(), Extent::FirstLine, exact, || format!("command {program:?}"))
}

enum ProgramEnd {
    /// It exited, and its output has been read.
    Exit,
    /// Its output is larger than a secret, and it has not exited.
    TooMuch,
    /// Its deadline has passed.
    Late,
}

/// Reads the program's output until it has exited; a child of it may hold the pipe open longer.
fn watch(child: &mut Child, value: &mut WipedBuffer, deadline: Deadline) -> io::Result<ProgramEnd> {
    let mut output = child.stdout.take();
    if let Some(output) = &output {
        fcntl(output, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    }
    let ending = Ending::of(child);
    loop {
        // Checked before its output is read, so that the output is complete.
        let has_ended = has_ended(child)?;
        if output.as_mut().map(|output| value.read(output)).transpose()? == Some(false) {
            output = None;
        }
        if value.filled().len() > LARGEST {
            return Ok(ProgramEnd::TooMuch);
        }
        if has_ended {
            return Ok(ProgramEnd::Exit);
        }
        let left = deadline.lengthened().saturating_duration_since(clock::now());
        if left.is_zero() {
            return Ok(ProgramEnd::Late);
        }
        ending.wait(output.as_ref().map(AsFd::as_fd), left)?;
    }
}

/// The interval of checks without a pidfd.
const POLL_EVERY: Duration = Duration::from_millis(20);

/// A program's pidfd, if there is one.
struct Ending(Option<OwnedFd>);

impl Ending {
    fn of(child: &Child) -> Self {
        Self(pidfd(child))
    }

    /// Waits until the program has exited, `output` is readable, or the time is up; may return sooner.
    fn wait(&self, output: Option<BorrowedFd<'_>>, time: Duration) -> io::Result<()> {
        let time = if self.0.is_some() { time } else { time.min(POLL_EVERY) };
        let all = [self.0.as_ref().map(OwnedFd::as_fd), output];
        let mut waited: Vec<_> = all.into_iter().flatten().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        // Rounded up, or the last millisecond would be a busy loop.
        let time = PollTimeout::try_from(time + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut waited, time) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(target_os = "linux")]
fn has_ended(child: &mut Child) -> io::Result<bool> {
    use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
    let id = Id::Pid(Pid::from_raw(child.id().cast_signed()));
    match waitid(id, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT) {
        Ok(status) => Ok(status != WaitStatus::StillAlive),
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The same, but it reaps the program.
#[cfg(not(target_os = "linux"))]
fn has_ended(child: &mut Child) -> io::Result<bool> {
    child.try_wait().map(|status| status.is_some())
}

/// A descriptor that becomes readable when the program exits (`pidfd_open(2)`); none before Linux 5.3 or when descriptors are
/// used up.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "the call has no wrapper in the standard library")]
fn pidfd(child: &Child) -> Option<OwnedFd> {
    use std::os::fd::FromRawFd as _;
    // SAFETY: takes no pointer.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) };
    let descriptor = i32::try_from(descriptor).ok().filter(|descriptor| *descriptor >= 0)?;
    // SAFETY: the kernel has just created it, and nothing else owns it.
    Some(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

#[cfg(not(target_os = "linux"))]
fn pidfd(_child: &Child) -> Option<OwnedFd> {
    None
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn shell(script: &str) -> Vec<String> {
        vec!["sh".into(), "-c".into(), script.into()]
    }

    async fn printed(script: &str) -> Result<String, String> {
        let loaded = load(&shell(script), false).await;
        loaded.map(|secret| secret.expose().to_owned()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_pause_of_this_process_is_not_the_programs_time() {
        let second = Duration::from_secs(1);
        let deadline = Deadline::after(clock::now().checked_sub(20 * second).unwrap(), 10 * second);
        let ends = || {
            let mut child = Command::new("sleep").arg("0.1").stdout(Stdio::piped()).spawn().unwrap();
            let end = watch(&mut child, &mut WipedBuffer::new(), deadline).unwrap();
            child.wait().unwrap();
            matches!(end, ProgramEnd::Exit)
        };
        assert!(!ends());
        clock::injected::pause(deadline.begin() + second, deadline.begin() + 19 * second);
        assert!(ends());
    }

    /// Whether the process is there and has not ended.
    fn lives(id: &str) -> bool {
        let status = std::fs::read_to_string(Path::new("/proc").join(id).join("stat")).unwrap_or_default();
        status.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with(['Z', 'X']))
    }

    /// Waits until it does not; the kill has been sent by then.
    async fn gone(id: &str) -> bool {
        for _ in 0..1_000 {
            if !lives(id) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn what_a_program_printed_counts_when_it_has_ended_and_a_child_that_holds_its_output_is_killed() {
        let child = printed("sleep 1000 & echo $!").await.unwrap();
        assert!(gone(&child).await, "{child} lives on");
        // Nor does a failure wait for it.
        let error = printed("sleep 1000 & exit 3").await.unwrap_err();
        assert!(error.contains("exit status: 3"), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_program_whose_caller_has_given_up_is_killed_with_its_children() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("id");
        let argv = shell(&format!("sleep 1000 & echo $! >{0}.new; mv {0}.new {0}; wait", file.display()));
        let mut loading = Box::pin(load(&argv, false));
        let child = loop {
            assert!(futures_util::poll!(loading.as_mut()).is_pending());
            match std::fs::read_to_string(&file) {
                Ok(child) => break child.trim().to_owned(),
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        assert!(lives(&child));
        drop(loading);
        assert!(gone(&child).await, "{child} lives on");
    }

    #[tokio::test]
    async fn the_same_command_runs_once_at_a_time_and_others_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let lock = directory.path().join("lock");
        // Fails when another is at it.
        let script = format!("mkdir {0} && sleep 0.1; rmdir {0} && echo x", lock.display());
        let all = futures_util::future::join_all((0..5).map(|_| printed(&script))).await;
        assert!(all.iter().all(|printed| printed.as_deref() == Ok("x")), "{all:?}");
        // Each waits for the other to have begun.
        let (one, two) = (directory.path().join("one"), directory.path().join("two"));
        let meet = |mine: &Path, other: &Path| {
            format!("touch {}; until [ -e {} ]; do sleep 0.01; done; echo x", mine.display(), other.display())
        };
        let (first, second) = (meet(&one, &two), meet(&two, &one));
        let (first, second) = tokio::join!(printed(&first), printed(&second));
        assert_eq!((first.as_deref(), second.as_deref()), (Ok("x"), Ok("x")));
    }

    #[tokio::test]
    async fn a_missing_program_is_reported_as_missing_and_is_no_shortage() {
        let error = load(&["/nonexistent/program".to_owned()], false).await.unwrap_err();
        assert!(error.to_string().contains("cannot be started: No such file"), "{error}");
        assert!(!error.is_descriptor_shortage());
        let spent = SecretError::Start("pass".into(), io::Error::from_raw_os_error(libc::EMFILE));
        assert!(spent.is_descriptor_shortage());
    }
}
