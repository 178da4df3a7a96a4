//! The lock file of the state directory: two agents in one directory would send and delete each other's runs.
//!
//! The lock is the kernel's (flock(2)), so it ends with the process; the file's content, a process id, is for messages only.
//! Called by [`state_dir`](super::state_dir) and, for the directory of an earlier version, by [`migrate`](super::migrate).

use std::{
    fs::File,
    io::{Read as _, Write as _},
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use super::{
    directory::{Directory, NotRegularError, about},
    error::{OpenError, StateDirError},
};

pub(super) const LOCK: &str = "lock";
/// How often a lock that is held is tried again: a process that looks whether an agent runs
/// ([`AgentDirectory`](super::AgentDirectory)) holds it for a moment.
const TRIES: u32 = 5;
const BETWEEN: Duration = Duration::from_millis(10);

/// Locks a directory of our own. The descriptor that holds the lock is read-only: one that is open for writing would keep the
/// file system from being remounted read-only for as long as the agent runs.
pub(super) fn lock(directory: &Directory) -> Result<Flock<File>, OpenError> {
    let mut file = match directory.open_or_create(LOCK) {
        Err(error) if NotRegularError::is(&error) => {
            let aside = directory.quarantine(LOCK)?;
            tracing::warn!(
                %error,
                aside = %directory.at(&aside).display(),
                "the name of the lock file was taken; what had it was renamed"
            );
            directory.open_or_create(LOCK)?
        }
        file => file?,
    };
    let lock = flock(directory, directory.open_file(LOCK)?)?;
    // On a full disk the lock file stays without a process id; the lock holds all the same.
    let pid = format!("{}\n", std::process::id());
    let _ = file.set_len(0).and_then(|()| file.write_all(pid.as_bytes()));
    Ok(lock)
}

/// Locks this file of the directory. The error names the process that holds it.
pub(super) fn flock(directory: &Directory, file: File) -> Result<Flock<File>, OpenError> {
    let mut locked = Flock::lock(file, FlockArg::LockExclusiveNonblock);
    for _ in 0..TRIES {
        let Err((file, Errno::EWOULDBLOCK)) = locked else { break };
        std::thread::sleep(BETWEEN);
        locked = Flock::lock(file, FlockArg::LockExclusiveNonblock);
    }
    match locked {
        Ok(lock) => Ok(lock),
        Err((file, Errno::EWOULDBLOCK)) => {
            let mut text = String::new();
            // Without a number in it the directory is held all the same.
            let holder = file.take(20).read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            Err(StateDirError::Held(directory.path().to_owned(), holder).into())
        }
        Err((_, error)) => Err(about(&directory.at(LOCK), error.into()).into()),
    }
}
