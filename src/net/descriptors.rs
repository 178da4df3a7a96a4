//! Whether file descriptors are left: without one, libraries cannot ask a name server or read a root, and report another error.

use std::{io, os::unix::net::UnixDatagram};

use super::{ErrnoKind, errno_kind};

pub(super) fn are_exhausted() -> bool {
    open().is_err_and(|error| errno_kind(&error) == Some(ErrnoKind::Exhausted))
}

/// Whether this many can be opened now.
pub fn can_open(count: usize) -> io::Result<()> {
    let held: io::Result<Vec<UnixDatagram>> = (0..count).map(|_| open()).collect();
    held.map(drop)
}

/// A descriptor that needs no file system.
fn open() -> io::Result<UnixDatagram> {
    UnixDatagram::unbound()
}
