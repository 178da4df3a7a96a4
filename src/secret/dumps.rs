//! Keeps a process's memory out of files and other processes' hands: no core dump, no debugger of the same user.
//!
//! Called by the command line before it reads anything.

use nix::sys::resource::{Resource, setrlimit};

/// Turns core dumps off, for children too, and makes what is in memory unreadable to other processes of the same user.
///
/// A limit of 0 does not stop a kernel that hands dumps to a program (`core_pattern` with a `|`); the mark of
/// `PR_SET_DUMPABLE` does. The price: to debuggers, `strace` and `ls /proc/PID/fd` the process is root's. It still reads
/// what `/proc/self` tells everybody and its own descriptors, but no more the files there that are open to their owner
/// alone (`environ`, `mem`), which nothing here reads.
pub fn no_dumps() -> Result<(), nix::Error> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_dumpable(false)?;
    Ok(())
}
