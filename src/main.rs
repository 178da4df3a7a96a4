//! The program: puts the process in order while it is still alone, then hands over to the command line.

use std::{
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
};

use imaptrace::{cli, net::Roots};

/// Whether the process began without a standard output. By the time that `main` runs the standard library has opened
/// /dev/null in its place, and whatever is printed seems to arrive.
static STDOUT_IS_CLOSED: AtomicBool = AtomicBool::new(false);

/// Run by the loader before the standard library has touched anything, and given to nobody else.
#[expect(unsafe_code, reason = "the list of what the loader runs is a section of its own")]
#[used]
#[cfg_attr(target_vendor = "apple", unsafe(link_section = "__DATA,__mod_init_func"))]
#[cfg_attr(not(target_vendor = "apple"), unsafe(link_section = ".init_array"))]
static BEFORE_ALL: extern "C" fn() = {
    extern "C" fn look() {
        // SAFETY: a question about a descriptor, whether it is open or not.
        let flags = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) };
        STDOUT_IS_CLOSED.store(flags == -1, Ordering::Relaxed);
    }
    look
};

#[expect(unsafe_code, reason = "the environment may only be changed before there is a second thread")]
fn main() -> ExitCode {
    // SAFETY: this is the process's first statement; no thread has been started.
    let roots = unsafe { Roots::prepare() };
    cli::main(roots, STDOUT_IS_CLOSED.load(Ordering::Relaxed))
}
