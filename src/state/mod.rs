//! The state directory: one directory that this process alone uses, and files in it that are safe to open.
//!
//! ```text
//! state_dir   opens the directory in the background, locks it, and opens it again after it was removed
//! attempt     one thread that opens it, and how long callers wait for that thread
//! ownership   whether the given directory is private, or `imaptrace/` in it is used
//! migrate     moves files of an earlier version into `imaptrace/`
//! lock        the lock file that keeps a second agent out
//! directory   opening, atomic replacement, quarantine and modes of files, relative to a descriptor
//! beside      the directory of an agent that runs, or ran, as another process finds it
//! ```
//!
//! Does not define what the files hold. Called by [`delivery`](crate::delivery) for the queue, by the agent for the latency
//! history and the requests that change it, and by the command line, which checks a configuration and leaves such requests.

mod attempt;
mod beside;
mod directory;
mod error;
mod lock;
mod migrate;
mod ownership;
mod state_dir;

pub use self::{
    beside::AgentDirectory,
    directory::{Directory, DirectoryEntry, NotRegularError},
    error::StateDirError,
    state_dir::StateDir,
};
pub(crate) use self::{directory::about, ownership::OWN};

#[cfg(test)]
mod tests;
