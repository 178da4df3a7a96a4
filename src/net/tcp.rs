//! What the kernel reports of a TCP connection: the types that `linux` and its portable counterpart fill.

use std::{io, time::Duration};

/// The kernel's statistics of a TCP connection (`TCP_INFO`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpInfo {
    /// Smallest round trip so far; none before the first sample.
    pub rtt_min: Option<Duration>,
    /// Segments that we retransmitted, in total.
    pub retransmits: u32,
    /// Segments that arrived out of order, in total; none on a kernel before 5.4.
    pub out_of_order: Option<u32>,
    /// Payload of a full segment of the peer, in bytes.
    pub segment: u32,
    /// Segments with data that arrived, in total, with repeated ones; none on a kernel before 4.6.
    pub data_segments: Option<u32>,
    /// For how long sent data was unacknowledged, in total, to [`tick`](super::tick); none on a kernel before 4.10.
    pub unacknowledged: Option<Duration>,
    /// Milliseconds since the last data arrived, to [`tick`](super::tick).
    pub data_age_ms: u32,
}

/// Bytes of one read, and when the last of them arrived, as wall clock since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct StampedBytes {
    pub(super) bytes: usize,
    pub(super) stamp: Option<Duration>,
}

#[derive(Debug)]
pub(super) struct Received {
    pub(super) pieces: [StampedBytes; 2],
    /// An error after the bytes, which the kernel reports once.
    pub(super) then: Option<io::Error>,
}
