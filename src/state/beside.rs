//! [`AgentDirectory`]: the directory that an agent keeps its files in, as another process finds it.
//!
//! Creates and moves nothing, and keeps no lock. The caller may be root, or the agent's user: the owner of the lock file that
//! every agent leaves is the owner of the directory. Waits for the disk: called by the command line, on a thread that may wait.

use std::{io, path::Path};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use super::{
    directory::{Directory, about},
    lock::LOCK,
    ownership::{OWN, Ownership},
};

/// The directory with an agent's files.
#[derive(Debug)]
pub struct AgentDirectory {
    /// The given directory, or our own in it.
    pub directory: Directory,
    /// An agent has it locked.
    pub in_use: bool,
}

impl AgentDirectory {
    /// Finds it by the configured path. Of the given directory and our own in it, it is the one that is locked; else the one that
    /// has a lock file and the owner of the given one; else what an agent of this user would use.
    pub fn find(path: &Path) -> io::Result<Self> {
        let outer = Directory::open(path)?;
        let own = match outer.entry(OWN)? {
            Some(entry) if entry.is_directory() => Some((outer.open_directory(OWN), entry)),
            _ => None,
        };
        let owner = outer.metadata()?.owner();
        let own_is_of_the_same = own.as_ref().is_some_and(|(_, own)| own.owner() == owner);
        let own = own.map(|(opened, _)| opened).transpose();
        let (own, closed) = match own {
            Ok(own) => (own, None),
            Err(error) => (None, Some(error)),
        };
        let (own_state, outer_state) = (own.as_ref().map(LockState::of).transpose()?, LockState::of(&outer)?);
        match (own, own_state) {
            (Some(directory), Some(LockState::Held)) => return Ok(Self { directory, in_use: true }),
            (Some(directory), Some(LockState::Free))
                if outer_state != LockState::Held && (own_is_of_the_same || outer_state == LockState::None) =>
            {
                return Ok(Self { directory, in_use: false });
            }
            _ => {}
        }
        match (outer_state, closed) {
            (LockState::None, Some(error)) => Err(error),
            (LockState::None, None) if !matches!(Ownership::of(&outer)?, Ownership::Private(_)) => {
                Err(about(path, io::Error::new(io::ErrorKind::NotFound, "no agent has used this directory yet")))
            }
            (state, _) => Ok(Self { directory: outer, in_use: state == LockState::Held }),
        }
    }
}

/// The lock file of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LockState {
    /// There is none.
    None,
    Free,
    Held,
}

impl LockState {
    /// Takes the lock for a moment, if it is free: [`flock`](super::lock::flock) tries again after that.
    fn of(directory: &Directory) -> io::Result<Self> {
        let file = match directory.open_file(LOCK) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::None),
            file => file?,
        };
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Ok(_) => Ok(Self::Free),
            Err((_, Errno::EWOULDBLOCK)) => Ok(Self::Held),
            Err((_, error)) => Err(about(&directory.at(LOCK), error.into())),
        }
    }
}
