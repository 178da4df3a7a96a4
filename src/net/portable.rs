//! The counterpart of `linux.rs` for other systems: reads and writes, without stamps and statistics.

use std::{
    io::{self, Read as _},
    os::fd::BorrowedFd,
    time::Duration,
};

use super::tcp::{Received, StampedBytes, TcpInfo};

impl TcpInfo {
    /// None here.
    pub fn of(_: BorrowedFd<'_>) -> Option<Self> {
        None
    }
}

/// Zero: there is no value of a coarse clock here.
pub fn tick() -> Duration {
    Duration::ZERO
}

pub(super) fn acknowledge_now(_: BorrowedFd<'_>) -> bool {
    false
}

pub(super) fn stamp(_: BorrowedFd<'_>) -> bool {
    false
}

/// Reads available bytes, in one piece.
pub(super) fn receive(socket: BorrowedFd<'_>, _: usize, target: &mut [u8]) -> io::Result<Received> {
    loop {
        match (&*socket2::SockRef::from(&socket)).read(target) {
            Ok(bytes) => {
                let pieces = [StampedBytes::default(), StampedBytes { bytes, stamp: None }];
                return Ok(Received { pieces, then: None });
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

pub(super) fn send(socket: BorrowedFd<'_>, bytes: &[u8], _: bool) -> io::Result<usize> {
    socket2::SockRef::from(&socket).send(bytes)
}

pub(super) fn departure(_: BorrowedFd<'_>) -> Option<Duration> {
    None
}
