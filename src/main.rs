//! The program: puts the process in order while it is still alone, then hands over to the command line.

use std::process::ExitCode;

use imaptrace::{cli, net::Roots};

#[expect(unsafe_code, reason = "the environment may only be changed before there is a second thread")]
fn main() -> ExitCode {
    // SAFETY: this is the process's first statement; no thread has been started.
    let roots = unsafe { Roots::prepare() };
    cli::main(roots)
}
