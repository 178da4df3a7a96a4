//! Protects the process's memory: no core dump, no debugger of the same user. Called by the command line before all else.

use nix::sys::resource::{Resource, setrlimit};

/// Disables core dumps, for children too, and makes the memory unreadable for other processes of the same user.
///
/// A limit of 0 does not stop a kernel that pipes dumps to a program (`core_pattern` with `|`); `PR_SET_DUMPABLE` does. As a
/// consequence the files in `/proc/PID` belong to root, and those that only their owner may read (`environ`, `mem`) are closed
/// to the process itself, too.
pub fn no_dumps() -> Result<(), nix::Error> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_dumpable(false)?;
    Ok(())
}
