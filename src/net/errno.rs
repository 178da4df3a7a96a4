//! Error numbers: a fault of the network, or of this machine.
//!
//! A run that fails because of a limit of this machine does not measure the server. Used for all errors of the kernel, by
//! `probe` too, which chooses the class.

use std::io;

/// The origin of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrnoKind {
    /// The connection or the route is gone.
    Network,
    /// No descriptors are left, or no memory for sockets.
    Exhausted,
    /// Another fault of this machine.
    Local,
}

/// The origin of an error; none if it is not the kernel's.
pub fn errno_kind(error: &io::Error) -> Option<ErrnoKind> {
    let number = error.raw_os_error()?;
    Some(match number {
        _ if is_exhausted(number) => ErrnoKind::Exhausted,
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
        | libc::EPERM => ErrnoKind::Network,
        _ => ErrnoKind::Local,
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
        let of = |number| errno_kind(&io::Error::from_raw_os_error(number));
        assert_eq!(of(libc::EMFILE), Some(ErrnoKind::Exhausted));
        assert_eq!(of(libc::ECONNRESET), Some(ErrnoKind::Network));
        assert_eq!(of(libc::EIO), Some(ErrnoKind::Local));
        assert_eq!(errno_kind(&io::Error::other("unexpected eof")), None);
    }
}
