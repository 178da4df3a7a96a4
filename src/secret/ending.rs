//! Waiting for the exit of a program, which may come before the end of its output. Called by [`command`](super::command).
//!
//! The program is not reaped here, so that its process id and group are not reused.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    process::Child,
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The interval of checks without a pidfd.
const POLL_EVERY: Duration = Duration::from_millis(20);

/// A program's pidfd, if there is one.
pub(super) struct Ending(Option<OwnedFd>);

impl Ending {
    pub(super) fn of(child: &Child) -> Self {
        Self(pidfd(child))
    }

    /// Waits until the program has exited, `output` is readable, or the time is up; may return sooner.
    pub(super) fn wait(&self, output: Option<BorrowedFd<'_>>, time: Duration) -> io::Result<()> {
        let time = if self.0.is_some() { time } else { time.min(POLL_EVERY) };
        let all = [self.0.as_ref().map(OwnedFd::as_fd), output];
        let mut waited: Vec<_> = all.into_iter().flatten().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        // Rounded up, or the last millisecond would be a busy loop.
        let time = PollTimeout::try_from(time + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut waited, time) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

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

/// The same, but it reaps the program.
#[cfg(not(target_os = "linux"))]
pub(super) fn has_ended(child: &mut Child) -> io::Result<bool> {
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
