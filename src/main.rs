//! The program: prepares the process while it has one thread, then calls the command line.

use std::{
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
};

use imaptrace::{cli, net::Roots};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction, signal};

/// Whether the process started without a standard output. Before `main` runs, the standard library opens /dev/null in its place.
static STDOUT_IS_CLOSED: AtomicBool = AtomicBool::new(false);

/// Whether SIGHUP arrived before the agent caught it. The agent then reloads its configuration.
static HUNG_UP: AtomicBool = AtomicBool::new(false);

/// Run by the loader before the standard library is initialised.
#[expect(unsafe_code, reason = "the list of what the loader runs is a section of its own")]
#[used]
#[cfg_attr(target_vendor = "apple", unsafe(link_section = "__DATA,__mod_init_func"))]
#[cfg_attr(not(target_vendor = "apple"), unsafe(link_section = ".init_array"))]
static BEFORE_ALL: extern "C" fn() = {
    extern "C" fn look() {
        // SAFETY: reads flags of a descriptor, open or not.
        let flags = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) };
        STDOUT_IS_CLOSED.store(flags == -1, Ordering::Relaxed);
        // `main` restores the default for all commands but the agent.
        let note = SigAction::new(SigHandler::Handler(note_hangup), SaFlags::SA_RESTART, SigSet::empty());
        // SAFETY: the handler does nothing but set a flag.
        let before = unsafe { sigaction(Signal::SIGHUP, &note) };
        if let Ok(before) = before
            && matches!(before.handler(), SigHandler::SigIgn)
        {
            // Started by nohup.
            // SAFETY: what was there before.
            let restored = unsafe { sigaction(Signal::SIGHUP, &before) };
            HUNG_UP.store(restored.is_err() && HUNG_UP.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
    look
};

extern "C" fn note_hangup(_: libc::c_int) {
    HUNG_UP.store(true, Ordering::Relaxed);
}

/// Restores the default action of SIGHUP, the end of the process.
#[expect(unsafe_code, reason = "a signal's action belongs to the whole process")]
fn restore_hangup() {
    let usual = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default action of a signal that had none but ours.
    let before = unsafe { sigaction(Signal::SIGHUP, &usual) };
    match before.map(|before| before.handler()) {
        // SAFETY: as it was before.
        Ok(SigHandler::SigIgn) => unsafe { signal(Signal::SIGHUP, SigHandler::SigIgn) }.map_or((), drop),
        _ if HUNG_UP.load(Ordering::Relaxed) => raise(Signal::SIGHUP).unwrap_or(()),
        _ => {}
    }
}

#[expect(unsafe_code, reason = "the environment may only be changed before there is a second thread")]
fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_none_or(|command| command != "agent") {
        restore_hangup();
    }
    // SAFETY: no thread has been started.
    let roots = unsafe { Roots::prepare() };
    cli::main(roots, STDOUT_IS_CLOSED.load(Ordering::Relaxed), &HUNG_UP)
}
