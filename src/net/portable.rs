//! The twin of `linux.rs` for other systems: says "not known" to everything.

use std::{os::fd::BorrowedFd, time::Duration};

/// What the kernel knows of a TCP connection; here, nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpInfo {
    /// Smallest round trip so far.
    pub rtt_min: Option<Duration>,
    /// Segments that we sent again, ever.
    pub retransmits: u64,
    /// Segments that arrived out of order, ever.
    pub out_of_order: Option<u64>,
}

impl TcpInfo {
    /// Asks the kernel; none when it does not say.
    pub fn of(_: BorrowedFd<'_>) -> Option<Self> {
        None
    }
}

/// Cannot be asked for here.
pub(super) fn acknowledge_now(_: BorrowedFd<'_>) -> bool {
    false
}
