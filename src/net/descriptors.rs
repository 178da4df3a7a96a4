//! Whether this process can still open a file: without a descriptor a name server cannot be asked and a trusted root not
//! be read, and the libraries that do so have other words for it. It would read as somebody else's fault.

use std::{io, os::unix::net::UnixDatagram};

use super::{Trouble, trouble};

/// Whether there is none left for this process, or on this machine.
pub(super) fn are_spent() -> bool {
    open().is_err_and(|error| trouble(&error) == Some(Trouble::Exhausted))
}

/// Whether this many can be opened now.
pub fn can_open(count: usize) -> io::Result<()> {
    let held: io::Result<Vec<UnixDatagram>> = (0..count).map(|_| open()).collect();
    held.map(drop)
}

/// A descriptor with nothing behind it: no file system is asked for it, which might not answer.
fn open() -> io::Result<UnixDatagram> {
    UnixDatagram::unbound()
}
