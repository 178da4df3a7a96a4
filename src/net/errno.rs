//! Error numbers: a fault of the network, or of this machine.
//!
//! A run that fails because of a limit of this machine says nothing about the server. Used for all errors of the kernel, by
//! `probe` too, which chooses the class.

use std::io;

/// The origin of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The connection or the route is gone.
    Line,
    /// No descriptors are left, or no memory for sockets.
    Exhausted,
    /// Another fault of this machine.
    Local,
}

/// The origin of an error; none if it is not the kernel's.
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
        // From an ICMP message, or a filter on this machine.
        | libc::EPROTO
        | libc::ENOPROTOOPT
        | libc::EACCES
        | libc::EPERM => Trouble::Line,
        _ => Trouble::Local,
    })
}

/// Whether a local limit was reached: descriptors of the process or the system, memory, watched sockets.
pub(super) fn is_exhausted(number: i32) -> bool {
    matches!(number, libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::ENOSPC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_limit_differs_from_a_broken_connection() {
        let of = |number| trouble(&io::Error::from_raw_os_error(number));
        assert_eq!(of(libc::EMFILE), Some(Trouble::Exhausted));
        assert_eq!(of(libc::ECONNRESET), Some(Trouble::Line));
        assert_eq!(of(libc::EIO), Some(Trouble::Local));
        assert_eq!(trouble(&io::Error::other("unexpected eof")), None);
    }
}
