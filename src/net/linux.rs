//! What only Linux has: the kernel's stamps, immediate acknowledgements, and `TCP_INFO`. Its counterpart is `portable.rs`.
//!
//! The stamps are those of `SO_TIMESTAMPING` (the kernel's networking/timestamping.rst): an arrival is stamped when the packet
//! reaches the kernel, a departure when the segment leaves TCP for the device's queue. Both are wall clock.

#![expect(
    unsafe_code,
    reason = "neither nix, rustix nor socket2 has TCP_INFO, or stamps without an allocation per read"
)]

use std::{
    io,
    mem::{offset_of, size_of},
    net::UdpSocket,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    sync::OnceLock,
    time::Duration,
};

use nix::time::{ClockId, clock_getres};

use super::tcp::{Received, StampedBytes, TcpInfo};

// Offsets in `struct tcp_info` of <linux/tcp.h>, which is only extended at its end.
const RCV_MSS: usize = 20;
const LAST_DATA_RECV: usize = 52;
const TOTAL_RETRANS: usize = 100;
const MIN_RTT: usize = 148;
const DATA_SEGS_IN: usize = 152;
const BUSY_TIME: usize = 168;
const RCV_OOOPACK: usize = 224;
const KNOWN: usize = 232;

impl TcpInfo {
    /// Reads it from the kernel; none on failure.
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
        let info = info.get(..usize::try_from(length).ok()?).filter(|_| answer == 0)?;
        let field = |at: usize| Some(u32::from_ne_bytes(*info.get(at..)?.first_chunk()?));
        let wide = |at: usize| Some(u64::from_ne_bytes(*info.get(at..)?.first_chunk()?));
        Some(Self {
            rtt_min: field(MIN_RTT)
                .filter(|micros| *micros != u32::MAX && *micros != 0)
                .map(|micros| Duration::from_micros(micros.into())),
            retransmits: field(TOTAL_RETRANS)?,
            out_of_order: field(RCV_OOOPACK),
            segment: field(RCV_MSS)?,
            data_segments: field(DATA_SEGS_IN),
            unacknowledged: wide(BUSY_TIME).map(Duration::from_micros),
            data_age_ms: field(LAST_DATA_RECV)?,
        })
    }
}

/// The resolution of the kernel's coarse clock, that of [`TcpInfo::data_age_ms`] and [`TcpInfo::unacknowledged`]: 1 to 10 ms.
pub fn tick() -> Duration {
    let step = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).map(Duration::from);
    step.map_or(LONGEST_TICK, |step| step.min(LONGEST_TICK))
}

/// At the lowest `HZ` of a kernel.
const LONGEST_TICK: Duration = Duration::from_millis(10);

/// Sends pending and next acknowledgements at once (`TCP_QUICKACK`); whether that succeeds. The kernel resets the option, so it
/// is set before every wait.
///
/// Without it a server that writes an answer in two pieces (Nagle) waits 40 ms for our acknowledgement, which the probe would
/// measure.
pub(super) fn acknowledge_now(socket: BorrowedFd<'_>) -> bool {
    socket2::SockRef::from(&socket).set_tcp_quickack(true).is_ok()
}

// === stamps ===

const STAMPS: u32 = libc::SOF_TIMESTAMPING_SOFTWARE
    | libc::SOF_TIMESTAMPING_RX_SOFTWARE
    // A departure's stamp comes without a copy of the packet.
    | libc::SOF_TIMESTAMPING_OPT_TSONLY;

const FLAGS: u32 = 4;

/// Makes the kernel stamp arrivals on a socket; whether that succeeds.
pub(super) fn stamp(socket: BorrowedFd<'_>) -> bool {
    /// The kernel stamps packets while any socket has the option, and starts with a delay: without a socket that always has it,
    /// the first answers of a connection have no stamp.
    static ALWAYS: OnceLock<Option<UdpSocket>> = OnceLock::new();
    ALWAYS.get_or_init(|| UdpSocket::bind("127.0.0.1:0").ok().filter(|socket| ask(socket.as_fd())));
    ask(socket)
}

fn ask(socket: BorrowedFd<'_>) -> bool {
    let flags = STAMPS;
    // SAFETY: pointer and length are those of a live integer, which is what this option takes.
    let answer = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_TIMESTAMPING, (&raw const flags).cast(), FLAGS)
    };
    answer == 0
}

/// Room for a stamp and its origin as control messages. Integers, for the alignment.
type Control = [u64; 16];

/// Reads available bytes into `target` in two pieces, the first of at most `head` bytes: a read of several packets has the
/// stamp of the last one, so the first byte is read alone if its time is needed.
///
/// `recvmmsg` would be one call for both, but it reports a reset before the bytes that came before the reset.
pub(super) fn receive(socket: BorrowedFd<'_>, head: usize, target: &mut [u8]) -> io::Result<Received> {
    let (head, rest) = target.split_at_mut(head.min(target.len()));
    let first = if head.is_empty() { StampedBytes::default() } else { receive_piece(socket, head)? };
    if !head.is_empty() && (first.bytes < head.len() || rest.is_empty()) {
        return Ok(Received { pieces: [first, StampedBytes::default()], then: None });
    }
    let (second, then) = match receive_piece(socket, rest) {
        Ok(second) => (second, None),
        Err(error) if head.is_empty() => return Err(error),
        Err(error) => (StampedBytes::default(), Some(error).filter(|error| error.kind() != io::ErrorKind::WouldBlock)),
    };
    Ok(Received { pieces: [first, second], then })
}

/// A header with at most one buffer and without control messages.
fn header(vector: Option<&mut libc::iovec>) -> libc::msghdr {
    // SAFETY: all-zero bytes are a valid `msghdr`: null pointers and zero lengths.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    if let Some(vector) = vector {
        (message.msg_iov, message.msg_iovlen) = (vector, 1);
    }
    message
}

fn receive_piece(socket: BorrowedFd<'_>, target: &mut [u8]) -> io::Result<StampedBytes> {
    let mut vector = libc::iovec { iov_base: target.as_mut_ptr().cast(), iov_len: target.len() };
    let mut control: Control = [0; 16];
    let mut message = header(Some(&mut vector));
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of::<Control>() as _;
    loop {
        // SAFETY: the header points at live buffers of the lengths given, none of them shared; the kernel writes no more
        // than those lengths. The descriptor is borrowed, so it is open.
        let answer = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
        match usize::try_from(answer).map_err(|_| io::Error::last_os_error()) {
            Ok(bytes) => return Ok(StampedBytes { bytes, stamp: stamp_in(&message) }),
            // Here, or it would be an error after the bytes of the first piece.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Writes some of `bytes`; with `stamped` the kernel keeps the time of their departure for [`departure`].
pub(super) fn send(socket: BorrowedFd<'_>, bytes: &[u8], stamped: bool) -> io::Result<usize> {
    let mut vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut control: Control = [0; 16];
    let mut message = header(Some(&mut vector));
    if stamped {
        let flags = libc::SOF_TIMESTAMPING_TX_SCHED;
        message.msg_control = control.as_mut_ptr().cast();
        // SAFETY: only arithmetic on lengths.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(FLAGS) } as _;
        // SAFETY: the control buffer is aligned for a header, zeroed, and longer than the one message that is put in.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SO_TIMESTAMPING;
            (*header).cmsg_len = libc::CMSG_LEN(FLAGS) as _;
            libc::CMSG_DATA(header).cast::<u32>().write_unaligned(flags);
        }
    }
    // SAFETY: the header points at live buffers of the lengths given, which the kernel only reads.
    let answer = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    usize::try_from(answer).map_err(|_| io::Error::last_os_error())
}

/// The next departure that the kernel reports, as wall clock since 1970; none if there is none.
pub(super) fn departure(socket: BorrowedFd<'_>) -> Option<Duration> {
    let mut control: Control = [0; 16];
    let mut message = header(None);
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of::<Control>() as _;
    // SAFETY: the header points at one live buffer of the length given; no data is asked for.
    let answer =
        unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT) };
    if answer < 0 { None } else { stamp_in(&message) }
}

fn stamp_in(message: &libc::msghdr) -> Option<Duration> {
    // SAFETY: the kernel has filled the control buffer and set its length; the macros stay inside it.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: not null, so it points at a whole header inside the buffer.
        let known = unsafe { &*header };
        if known.cmsg_level == libc::SOL_SOCKET && known.cmsg_type == libc::SO_TIMESTAMPING {
            // SAFETY: this message carries three `timespec`; the first is the software stamp.
            let stamp = unsafe { libc::CMSG_DATA(header).cast::<libc::timespec>().read_unaligned() };
            let seconds = u64::try_from(stamp.tv_sec).ok()?;
            let stamp = Duration::new(seconds, u32::try_from(stamp.tv_nsec).ok()?);
            return Some(stamp).filter(|stamp| !stamp.is_zero());
        }
        // SAFETY: as above; null behind the last one.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    None
}

// The stamp is the first field of `struct scm_timestamping`.
const _: () = assert!(offset_of!(libc::timespec, tv_sec) == 0);

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{TcpListener, TcpStream},
        time::SystemTime,
    };

    use super::*;
    use crate::clock;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (ours, listener.accept().unwrap().0)
    }

    fn wall() -> Duration {
        clock::wall().duration_since(SystemTime::UNIX_EPOCH).unwrap()
    }

    /// Until what was written on the other end is there.
    fn wait_for(socket: &TcpStream, bytes: usize) {
        while socket.peek(&mut vec![0; bytes]).unwrap() < bytes {}
    }

    #[test]
    fn the_kernel_reports_the_round_trip_of_a_connection_with_traffic() {
        let (mut ours, mut theirs) = pair();
        ours.write_all(b"x").unwrap();
        theirs.read_exact(&mut [0]).unwrap();
        theirs.write_all(b"y").unwrap();
        ours.read_exact(&mut [0]).unwrap();
        let info = TcpInfo::of(ours.as_fd()).unwrap();
        assert!(info.rtt_min.unwrap() < Duration::from_secs(1), "{info:?}");
        assert_eq!((info.retransmits, info.out_of_order), (0, Some(0)));
        assert_eq!(info.data_segments, Some(1));
        // Either is kept by a coarse clock, and nothing here took a second.
        let second = Duration::from_secs(1);
        assert!(info.unacknowledged.unwrap() < second && info.data_age_ms < 1_000, "{info:?}");
        assert!(tick() >= Duration::from_millis(1) && tick() <= LONGEST_TICK);
        assert!(acknowledge_now(ours.as_fd()));
    }

    #[test]
    fn a_socket_that_is_not_tcp_has_no_info() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(TcpInfo::of(socket.as_fd()), None);
    }

    #[test]
    fn an_arrival_has_the_time_of_the_packet_and_not_of_the_read() {
        let (ours, mut theirs) = pair();
        assert!(stamp(ours.as_fd()));
        // The kernel begins to stamp some time after it was first asked to; from then on it does for good.
        for attempt in 0.. {
            assert!(attempt < 10_000, "the kernel stamps nothing");
            let before = wall();
            theirs.write_all(b"abcdef").unwrap();
            wait_for(&ours, 6);
            let after = wall();
            let mut target = [0; 16];
            let [first, rest] = receive(ours.as_fd(), 1, &mut target).unwrap().pieces;
            assert_eq!((first.bytes, rest.bytes, &target[..6]), (1, 5, &b"abcdef"[..]));
            if let (Some(first), Some(rest)) = (first.stamp, rest.stamp) {
                assert!(before <= first && first <= rest && rest <= after);
                break;
            }
        }
    }

    #[test]
    fn a_read_that_is_not_parted_is_one_piece_and_an_empty_socket_would_block() {
        let (ours, mut theirs) = pair();
        let empty = receive(ours.as_fd(), 1, &mut [0; 4]).unwrap_err();
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
        theirs.write_all(b"abc").unwrap();
        wait_for(&ours, 3);
        let [first, rest] = receive(ours.as_fd(), 0, &mut [0; 4]).unwrap().pieces;
        assert_eq!((first.bytes, rest.bytes), (0, 3));
        drop(theirs);
        loop {
            match receive(ours.as_fd(), 1, &mut [0; 4]) {
                Ok(received) => break assert_eq!(received.pieces.map(|piece| piece.bytes), [0, 0]),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
    }

    #[test]
    fn a_departure_is_stamped_on_request_alone() {
        let (ours, mut theirs) = pair();
        // Else the second piece waits for the acknowledgement of the first.
        ours.set_nodelay(true).unwrap();
        assert!(stamp(ours.as_fd()));
        assert_eq!(send(ours.as_fd(), b"quiet", false).unwrap(), 5);
        assert_eq!(departure(ours.as_fd()), None);
        let before = wall();
        assert_eq!(send(ours.as_fd(), b"loud", true).unwrap(), 4);
        let left = departure(ours.as_fd()).unwrap();
        assert!(before <= left && left <= wall());
        assert_eq!(departure(ours.as_fd()), None);
        let mut received = [0; 9];
        theirs.read_exact(&mut received).unwrap();
        assert_eq!(&received, b"quietloud");
    }
}
