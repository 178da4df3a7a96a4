//! The end of a program, which may come before the end of what it prints. Called by [`command`](super::command).
//!
//! A program that has ended is left unwaited for here: until it is waited for, its number and its group's are not given to
//! another.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    process::Child,
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How often it is asked where the kernel has no descriptor that becomes readable at the end.
const ASKED_EVERY: Duration = Duration::from_millis(20);

/// Shows a program's end.
pub(super) struct Ending {
    descriptor: Option<OwnedFd>,
}

impl Ending {
    pub(super) fn of(child: &Child) -> Self {
        Self { descriptor: pidfd(child) }
    }

    /// Waits until the program has ended, or there is something to read from `output`, or the time is up; it may come back
    /// sooner.
    pub(super) fn wait(&self, output: Option<BorrowedFd<'_>>, time: Duration) -> io::Result<()> {
        let time = if self.descriptor.is_some() { time } else { time.min(ASKED_EVERY) };
        let all = [self.descriptor.as_ref().map(OwnedFd::as_fd), output];
        let mut waited: Vec<_> = all.into_iter().flatten().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        // Rounded up: a wait of no time at all would be repeated until its time has come.
        let time = PollTimeout::try_from(time + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut waited, time) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether the program has ended.
#[cfg(target_os = "linux")]
pub(super) fn has_ended(child: &mut Child) -> io::Result<bool> {
    use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
    let id = Id::Pid(nix::unistd::Pid::from_raw(child.id().cast_signed()));
    match waitid(id, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT) {
        Ok(status) => Ok(status != WaitStatus::StillAlive),
        Err(nix::errno::Errno::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Likewise, and waits for it: there is no call that does not.
#[cfg(not(target_os = "linux"))]
pub(super) fn has_ended(child: &mut Child) -> io::Result<bool> {
    child.try_wait().map(|status| status.is_some())
}

/// A descriptor that becomes readable when the program ends (`pidfd_open(2)`); none with an old kernel, or without a
/// descriptor left.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "the call has no wrapper that is used here already")]
fn pidfd(child: &Child) -> Option<OwnedFd> {
    use std::os::fd::FromRawFd as _;
    // SAFETY: a question about a number; it takes no pointer.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) };
    let descriptor = i32::try_from(descriptor).ok().filter(|descriptor| *descriptor >= 0)?;
    // SAFETY: the kernel has just made it, and nothing else has it.
    Some(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Not known here.
#[cfg(not(target_os = "linux"))]
fn pidfd(_child: &Child) -> Option<OwnedFd> {
    None
}
