//! All that only Linux has: immediate acknowledgements and what the kernel knows of a connection.
//! Its portable twin says "not known" to everything.

#![expect(unsafe_code, reason = "neither nix, rustix nor socket2 has TCP_INFO")]

use std::{
    os::fd::{AsRawFd as _, BorrowedFd},
    time::Duration,
};

/// What the kernel knows of a TCP connection (`TCP_INFO`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpInfo {
    /// Smallest round trip so far; none before the first sample.
    pub rtt_min: Option<Duration>,
    /// Segments that we sent again, ever.
    pub retransmits: u64,
    /// Segments that arrived out of order, ever; none on a kernel before 5.4.
    pub out_of_order: Option<u64>,
}

// Places in `struct tcp_info` of <linux/tcp.h>, which only ever grows at its end.
const TOTAL_RETRANS: usize = 100;
const MIN_RTT: usize = 148;
const RCV_OOOPACK: usize = 224;
const KNOWN: usize = 232;

impl TcpInfo {
    /// Asks the kernel; none when it does not say.
    pub fn of(socket: BorrowedFd<'_>) -> Option<Self> {
        let mut info = [0u8; KNOWN];
        let mut length = libc::socklen_t::try_from(info.len()).ok()?;
        // SAFETY: the pointer and length are those of a live array of bytes, for which any content is valid; the
        // descriptor is borrowed, so it is open.
        let answer = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                info.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let length = usize::try_from(length).ok()?;
        let field = |at: usize| -> Option<u32> {
            let bytes = info.get(at..at + 4).filter(|_| at + 4 <= length)?;
            Some(u32::from_ne_bytes(bytes.try_into().ok()?))
        };
        if answer != 0 {
            return None;
        }
        Some(Self {
            rtt_min: field(MIN_RTT)
                .filter(|micros| *micros != u32::MAX && *micros != 0)
                .map(|micros| Duration::from_micros(micros.into())),
            retransmits: field(TOTAL_RETRANS)?.into(),
            out_of_order: field(RCV_OOOPACK).map(u64::from),
        })
    }
}

/// Sends the acknowledgement that is due now, and the next ones at once. The kernel forgets this by itself, so it is
/// said again after every receive. True when it was taken.
///
/// Without it a server that writes an answer in two pieces (Nagle) waits 40 ms for our acknowledgement, and the probe
/// measures itself.
pub(super) fn acknowledge_now(socket: BorrowedFd<'_>) -> bool {
    socket2::SockRef::from(&socket).set_tcp_quickack(true).is_ok()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{TcpListener, TcpStream},
        os::fd::AsFd as _,
    };

    use super::*;

    #[test]
    fn the_kernel_knows_the_round_trip_of_a_connection_that_spoke() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut theirs, _) = listener.accept().unwrap();
        ours.write_all(b"x").unwrap();
        theirs.read_exact(&mut [0]).unwrap();
        theirs.write_all(b"y").unwrap();
        ours.read_exact(&mut [0]).unwrap();
        let info = TcpInfo::of(ours.as_fd()).unwrap();
        assert!(info.rtt_min.unwrap() < Duration::from_secs(1), "{info:?}");
        assert_eq!((info.retransmits, info.out_of_order), (0, Some(0)));
        assert!(acknowledge_now(ours.as_fd()));
    }

    #[test]
    fn a_socket_that_is_not_tcp_has_no_info() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(TcpInfo::of(socket.as_fd()), None);
    }
}
