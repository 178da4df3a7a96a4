//! The twin of `linux.rs` for other systems: reads and writes, and gives nothing else.

use std::{io, os::fd::BorrowedFd, time::Duration};

/// The kernel's figures of a TCP connection; here, none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpInfo {
    /// Smallest round trip so far.
    pub rtt_min: Option<Duration>,
    /// Segments that we sent again, ever.
    pub retransmits: u32,
    /// Segments that arrived out of order, ever.
    pub out_of_order: Option<u32>,
    /// Payload of a full segment of the peer's, in bytes.
    pub segment: u32,
    /// Segments with data that arrived, ever.
    pub data_segments: Option<u32>,
    /// For how long data of ours was not acknowledged, in all.
    pub unacknowledged: Option<Duration>,
    /// How many milliseconds ago the last data arrived.
    pub data_age_ms: u32,
}

impl TcpInfo {
    /// Asks the kernel; none when it does not say.
    pub fn of(_: BorrowedFd<'_>) -> Option<Self> {
        None
    }
}

/// Zero: nothing here is kept by a coarse clock.
pub fn tick() -> Duration {
    Duration::ZERO
}

/// Cannot be asked for here.
pub(super) fn acknowledge_now(_: BorrowedFd<'_>) -> bool {
    false
}

/// Cannot be asked for here.
pub(super) fn stamp(_: BorrowedFd<'_>) -> bool {
    false
}

/// Bytes that one read gave; never a stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct StampedBytes {
    pub(super) bytes: usize,
    pub(super) stamp: Option<Duration>,
}

/// What one read gave.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) pieces: [StampedBytes; 2],
    /// What went wrong behind the bytes.
    pub(super) then: Option<io::Error>,
}

/// Reads what is there, in one piece.
pub(super) fn receive(socket: BorrowedFd<'_>, _: usize, target: &mut [u8]) -> io::Result<Received> {
    let read = io::Read::read(&mut &*socket2::SockRef::from(&socket), target)?;
    Ok(Received { pieces: [StampedBytes::default(), StampedBytes { bytes: read, stamp: None }], then: None })
}

/// Writes some of `bytes`.
pub(super) fn send(socket: BorrowedFd<'_>, bytes: &[u8], _: bool) -> io::Result<usize> {
    socket2::SockRef::from(&socket).send(bytes)
}

/// Not known.
pub(super) fn departure(_: BorrowedFd<'_>) -> Option<Duration> {
    None
}
