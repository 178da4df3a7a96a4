//! A line between two namespaces that delays every packet, and drops or reorders some on request.
//!
//! Each end is a TUN device; between the two, a thread carries the packets. It changes none.

use std::{
    collections::VecDeque,
    ffi::c_short,
    fs::{File, OpenOptions},
    io::{ErrorKind, Read as _, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::{fs::OpenOptionsExt as _, net::UnixStream},
    },
    path::Path,
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use imaptrace::clock;
use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sys::stat::{Mode, SFlag, makedev, mknod},
    sys::time::TimeSpec,
};
use rand::Rng as _;

use super::namespace::Namespace;

/// The address of the client's end.
const CLIENT: &str = "10.77.0.1";
/// The address of the server's end.
pub const SERVER: &str = "10.77.0.2";

/// Which way a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    ToServer,
    ToClient,
}

/// What is to happen to a packet with data in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Lost,
    /// It goes behind the next one.
    Overtaken,
}

/// What is to happen to the next packet with data each way. A copy is the same hazard.
#[derive(Clone, Default)]
pub struct Hazard(Arc<Mutex<[Option<Fate>; 2]>>);

impl Hazard {
    /// The next packet with data goes missing.
    pub fn lose_next(&self, way: Way) {
        self.0.lock().unwrap()[way as usize] = Some(Fate::Lost);
    }

    /// The next packet with data is overtaken by the one after it.
    pub fn overtake_next(&self, way: Way) {
        self.0.lock().unwrap()[way as usize] = Some(Fate::Overtaken);
    }

    fn take(&self, way: Way) -> Option<Fate> {
        self.0.lock().unwrap()[way as usize].take()
    }
}

/// How good a line is, which can change at any time. A copy is the same line's.
#[derive(Clone)]
pub struct LineQuality(Arc<Mutex<Quality>>);

struct Quality {
    delay: Duration,
    /// Of all packets, each way.
    loss: f64,
    dropped: Vec<SystemTime>,
}

impl LineQuality {
    fn new(delay: Duration) -> Self {
        Self(Arc::new(Mutex::new(Quality { delay, loss: 0.0, dropped: Vec::new() })))
    }

    /// Every packet takes this long from now on, either way.
    pub fn set_delay(&self, delay: Duration) {
        self.0.lock().unwrap().delay = delay;
    }

    /// This part of all packets goes missing from now on, either way.
    pub fn set_loss(&self, loss: f64) {
        self.0.lock().unwrap().loss = loss;
    }

    /// When packets went missing by [`LineQuality::set_loss`].
    pub fn dropped(&self) -> Vec<SystemTime> {
        self.0.lock().unwrap().dropped.clone()
    }

    /// The delay of a packet; none if it goes missing.
    fn pass(&self) -> Option<Duration> {
        let mut quality = self.0.lock().unwrap();
        if quality.loss > 0.0 && rand::rng().random_bool(quality.loss) {
            quality.dropped.push(clock::wall());
            return None;
        }
        Some(quality.delay)
    }
}

/// The line, for as long as it is held.
pub struct Line {
    /// Where the client is to run.
    pub client: Namespace,
    /// Where the server is to listen.
    pub server: Namespace,
    /// What can happen to packets.
    pub hazard: Hazard,
    /// What happens to all packets.
    pub quality: LineQuality,
    /// Closed at the end, which the carrier sees.
    held: Option<UnixStream>,
    carrier: Option<JoinHandle<()>>,
}

impl Line {
    /// A line on which every packet takes this long, either way.
    pub fn new(delay: Duration) -> Self {
        let (client, server) = (Namespace::new(), Namespace::new());
        let ends = [device(&client, CLIENT, SERVER), device(&server, SERVER, CLIENT)];
        let (hazard, quality) = (Hazard::default(), LineQuality::new(delay));
        let (held, end) = UnixStream::pair().unwrap();
        let mut carrier = Carrier {
            ends,
            quality: quality.clone(),
            hazard: hazard.clone(),
            under_way: Default::default(),
            overtaken: [None, None],
        };
        let carrier = thread::spawn(move || carrier.carry(&end));
        Self { client, server, hazard, quality, held: Some(held), carrier: Some(carrier) }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        drop(self.held.take());
        let ended = self.carrier.take().unwrap().join();
        // A second panic while a first one unwinds would hide it.
        if !thread::panicking() {
            ended.unwrap();
        }
    }
}

/// A packet on its way, and when it is there.
type UnderWay = (Instant, Vec<u8>);

struct Carrier {
    /// The client's, then the server's.
    ends: [File; 2],
    quality: LineQuality,
    hazard: Hazard,
    /// To the server, then to the client.
    under_way: [VecDeque<UnderWay>; 2],
    overtaken: [Option<Vec<u8>>; 2],
}

impl Carrier {
    fn carry(&mut self, end: &UnixStream) {
        before_others();
        loop {
            let due = self.under_way.iter().filter_map(|packets| Some(packets.front()?.0)).min();
            let wait = due.map(|due| TimeSpec::from(due.saturating_duration_since(clock::now())));
            let mut ready = [
                PollFd::new(self.ends[0].as_fd(), PollFlags::POLLIN),
                PollFd::new(self.ends[1].as_fd(), PollFlags::POLLIN),
                PollFd::new(end.as_fd(), PollFlags::POLLIN),
            ];
            match ppoll(&mut ready, wait, None) {
                Err(nix::Error::EINTR) => continue,
                polled => drop(polled.unwrap()),
            }
            let [from_client, from_server, ended] = ready.map(|end| end.any().unwrap());
            if ended {
                return;
            }
            for (way, came) in [(Way::ToServer, from_client), (Way::ToClient, from_server)] {
                if came {
                    self.take_in(way);
                }
                self.hand_out(way);
            }
        }
    }

    fn take_in(&mut self, way: Way) {
        loop {
            let mut packet = vec![0; 2048];
            match self.ends[way as usize].read(&mut packet) {
                Ok(length) => packet.truncate(length),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("the device cannot be read: {error}"),
            }
            let Some(delay) = self.quality.pass() else { continue };
            let due = clock::now() + delay;
            let (under_way, overtaken) = (&mut self.under_way[way as usize], &mut self.overtaken[way as usize]);
            if !has_data(&packet) {
                under_way.push_back((due, packet));
                continue;
            }
            match self.hazard.take(way) {
                Some(Fate::Lost) => {}
                Some(Fate::Overtaken) => *overtaken = Some(packet),
                None => {
                    under_way.extend([Some(packet), overtaken.take()].into_iter().flatten().map(|data| (due, data)));
                }
            }
        }
    }

    fn hand_out(&mut self, way: Way) {
        let packets = &mut self.under_way[way as usize];
        while packets.front().is_some_and(|(due, _)| *due <= clock::now())
            && let Some((_, packet)) = packets.pop_front()
        {
            self.ends[1 - way as usize].write_all(&packet).unwrap();
        }
    }
}

/// Whether an IP packet carries bytes of a TCP stream (RFC 791 §3.1, RFC 9293 §3.1).
fn has_data(packet: &[u8]) -> bool {
    const TCP: u8 = 6;
    let [first @ 0x45..=0x4f, _, high, low, _, _, _, _, _, TCP, ..] = packet else { return false };
    let header = usize::from(first & 15) * 4;
    let whole = usize::from(u16::from_be_bytes([*high, *low]));
    packet.get(header + 12).is_some_and(|offset| whole > header + usize::from(offset >> 4) * 4)
}

/// A line waits for no processor, so neither does the calling thread, which mostly sleeps. Where that is not allowed the
/// line is only less even.
#[expect(unsafe_code, reason = "a call without a wrapper")]
fn before_others() {
    let lowest = libc::sched_param { sched_priority: 1 };
    // SAFETY: the parameters live until the call is over.
    let _refused = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const lowest) };
}

nix::ioctl_write_int!(tunsetiff, b'T', 202);

/// A TUN device inside, with these addresses at its two ends, and the descriptor that its packets come from and go to.
fn device(inside: &Namespace, ours: &str, theirs: &str) -> File {
    let directory = tempfile::tempdir().unwrap();
    let node = directory.path().join("tun");
    // A device belongs to the namespace of the thread that opens the node.
    let end = inside.enter(|| open(&node));
    inside.command(&format!("ip address add {ours} peer {theirs} dev tun0"));
    inside.command("ip link set tun0 up");
    end
}

#[expect(unsafe_code, reason = "an ioctl without a wrapper")]
fn open(node: &Path) -> File {
    // A container may lack /dev/net/tun.
    mknod(node, SFlag::S_IFCHR, Mode::S_IRUSR | Mode::S_IWUSR, makedev(10, 200))
        .unwrap_or_else(|error| panic!("this test needs root, for the node of a TUN device: {error}"));
    let end = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(node);
    let end = end.unwrap_or_else(|error| {
        panic!(
            "no TUN device to be had: a kernel without it, or a temporary directory where nodes do not work: {error}"
        )
    });
    // SAFETY: all-zero bytes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(c"tun0".to_bytes()) {
        *to = from.cast_signed() as _;
    }
    request.ifr_ifru.ifru_flags = c_short::try_from(libc::IFF_TUN | libc::IFF_NO_PI).unwrap();
    // SAFETY: the descriptor is open, and the request lives until the call is over.
    unsafe { tunsetiff(end.as_raw_fd(), &raw const request as _) }.unwrap();
    end
}
