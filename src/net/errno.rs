//! What an error number of the kernel's speaks of: the line, or this machine.
//!
//! A run that fails over a limit of this machine says nothing of the server, and must not be put down to
//! it. Used wherever the kernel is asked for something, by `probe` too; which class comes of it is decided there.

use std::io;

/// What an error speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The connection, or the way to the other side, is gone.
    Line,
    /// Descriptors, or the kernel's memory for sockets, are used up.
    Exhausted,
    /// Something else of this machine's.
    Local,
}

/// What an error of the kernel's speaks of; none when it is not the kernel's.
pub fn trouble(error: &io::Error) -> Option<Trouble> {
    let number = error.raw_os_error()?;
    Some(match number {
        _ if is_exhausted(number) => Trouble::Exhausted,
        libc::ECONNRESET
        | libc::EPIPE
        | libc::ECONNABORTED
        | libc::ECONNREFUSED
        | libc::ENOTCONN
        | libc::ETIMEDOUT
        | libc::EHOSTUNREACH
        | libc::EHOSTDOWN
        | libc::ENETUNREACH
        | libc::ENETDOWN
        | libc::ENETRESET
        // What an ICMP message, or a filter on this machine, makes of it.
        | libc::EPROTO
        | libc::ENOPROTOOPT
        | libc::EACCES
        | libc::EPERM => Trouble::Line,
        _ => Trouble::Local,
    })
}

/// Whether the error means that a local limit was reached: descriptors of the process or
/// of the system, buffers and memory, sockets that may be watched.
pub(super) fn is_exhausted(number: i32) -> bool {
    matches!(number, libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::ENOSPC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_run_out_here_is_told_from_a_line_that_broke() {
        let of = |number| trouble(&io::Error::from_raw_os_error(number));
        assert_eq!(of(libc::EMFILE), Some(Trouble::Exhausted));
        assert_eq!(of(libc::ECONNRESET), Some(Trouble::Line));
        assert_eq!(of(libc::EIO), Some(Trouble::Local));
        assert_eq!(trouble(&io::Error::other("unexpected eof")), None);
    }
}
