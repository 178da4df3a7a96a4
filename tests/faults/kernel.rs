//! The system calls of a run, each of which can be made to fail: this binary has functions of its own in place of the C
//! library's, so what is tested is the program as it is shipped, with nothing put in for the test.
//!
//! Armed for a thread, it watches the sockets that the thread opens from then on (those of the run), counts each call on
//! them, and lets the call of one number fail. What the failed call would do to a real connection follows it: after a
//! reset there is nothing more to read, and a line that hangs does so for good. For a line that hangs the thread's clocks
//! are moved on, so that nobody waits. Servers accept their sockets, and so are never touched.

#![expect(unsafe_code, reason = "functions that stand for the C library's are called as those are")]

use std::{
    cell::{Cell, RefCell},
    net::SocketAddrV4,
    os::raw::{c_int, c_long, c_void},
};

use libc::{clockid_t, epoll_event, msghdr, size_t, sockaddr, socklen_t, ssize_t, timespec};

/// The kernel's own call. `libc::syscall` sets the error number as the C function of the name does.
macro_rules! kernel {
    ($number:ident $(, $argument:expr)*) => {
        // SAFETY: the caller of the function that this stands in keeps the promises of its C twin, and they are handed on.
        unsafe { libc::syscall(libc::$number $(, $argument)*) }
    };
}

/// What is asked of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Call {
    /// A socket for the look-up.
    LookupSocket,
    /// The look-up's socket gets its port.
    LookupBind,
    /// The runtime is asked to watch the look-up's socket.
    LookupRegister,
    /// The look-up's socket gets its server.
    LookupConnect,
    /// The look-up's question.
    LookupSend,
    /// The look-up's answer.
    LookupReceive,
    /// A socket for the connection.
    Socket,
    /// `TCP_NODELAY`.
    NoDelay,
    /// Any other option that is set.
    Option,
    /// The source address.
    Bind,
    /// SYN.
    Connect,
    /// What came of SYN.
    Connected,
    /// The connection's own address.
    LocalAddress,
    /// The runtime is asked to watch a socket.
    Register,
    /// Bytes are read.
    Read,
    /// A departure's stamp is read.
    Stamp,
    /// Bytes are written.
    Write,
    /// `TCP_INFO`.
    Info,
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Fault {
    /// With this error number; a connection that it speaks of is no more.
    Error(c_int),
    /// The stream has ended.
    End,
    /// Nothing comes and nothing goes, for good.
    Hang,
    /// One byte, and the rest at the next call.
    Short,
    /// The kernel takes nothing now, but will at once.
    Full,
}

impl Call {
    /// All the ways in which it can fail.
    pub(crate) fn faults(self) -> &'static [Fault] {
        use Fault::{End, Error, Full, Hang, Short};
        match self {
            Self::LookupSocket | Self::Socket => &[Error(libc::EMFILE), Error(libc::ENFILE), Error(libc::EIO)],
            Self::LookupBind => &[Error(libc::EADDRINUSE), Error(libc::EACCES), Error(libc::EIO)],
            Self::LookupRegister | Self::Register => &[Error(libc::ENOSPC), Error(libc::ENOMEM), Error(libc::EIO)],
            Self::LookupConnect => {
                &[Error(libc::ENETUNREACH), Error(libc::EADDRNOTAVAIL), Error(libc::EPERM), Error(libc::EIO)]
            }
            Self::LookupSend => &[Error(libc::ENETUNREACH), Error(libc::ENOBUFS), Error(libc::EPERM), Error(libc::EIO)],
            Self::LookupReceive => &[Error(libc::ECONNREFUSED), Error(libc::EIO), Hang],
            Self::NoDelay | Self::Option | Self::LocalAddress | Self::Info => &[Error(libc::ENOBUFS), Error(libc::EIO)],
            Self::Stamp => &[Error(libc::EIO), Error(libc::ENOMEM)],
            Self::Bind => &[Error(libc::EADDRINUSE), Error(libc::EADDRNOTAVAIL), Error(libc::EACCES), Error(libc::EIO)],
            Self::Connect => &[
                Error(libc::ECONNREFUSED),
                Error(libc::ENETUNREACH),
                Error(libc::EPERM),
                Error(libc::EADDRNOTAVAIL),
                Error(libc::ENOBUFS),
                Error(libc::EIO),
                Hang,
            ],
            Self::Connected => &[
                Error(libc::ECONNREFUSED),
                Error(libc::ECONNRESET),
                Error(libc::EHOSTUNREACH),
                Error(libc::ETIMEDOUT),
                Error(libc::EIO),
            ],
            Self::Read => &[
                Error(libc::ECONNRESET),
                Error(libc::ETIMEDOUT),
                Error(libc::EIO),
                Error(libc::ENOMEM),
                Error(libc::EINTR),
                End,
                Hang,
                Short,
            ],
            Self::Write => &[
                Error(libc::ECONNRESET),
                Error(libc::EPIPE),
                Error(libc::EHOSTUNREACH),
                Error(libc::EIO),
                Error(libc::ENOBUFS),
                Error(libc::EINTR),
                Hang,
                Short,
                Full,
            ],
        }
    }
}

/// A call of the run, and where the conversation was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Seen {
    pub(crate) call: Call,
    pub(crate) stage: Stage,
}

/// Which step reads, and which writes, when a call is made now. The server says so, for it knows what it has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Stage {
    pub(crate) reading: &'static str,
    pub(crate) writing: &'static str,
}

/// A socket of the run.
#[derive(Debug, Clone, Copy)]
struct Socket {
    fd: c_int,
    stream: bool,
    /// Who is told when there is something to read.
    registration: Option<(c_int, epoll_event)>,
    /// What all further calls come to.
    broken: Option<Broken>,
}

/// What is to fail.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// The call.
    pub(crate) seen: Seen,
    /// How many such calls come before it.
    pub(crate) after: usize,
    pub(crate) fault: Fault,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    /// Reads tell of the end, writes of a broken pipe.
    Gone,
    Hangs,
}

#[derive(Debug, Default)]
struct Watched {
    armed: bool,
    sockets: Vec<Socket>,
    seen: Vec<Seen>,
    plan: Option<Plan>,
    /// It has failed.
    fired: Option<(Seen, Fault)>,
    /// Where a SYN goes that nobody is to answer.
    hole: Option<SocketAddrV4>,
}

thread_local! {
    static WATCHED: RefCell<Watched> = RefCell::default();
    static STAGE: Cell<Stage> = const { Cell::new(Stage { reading: "", writing: "" }) };
    /// Seconds that this thread's clocks are ahead.
    static AHEAD: Cell<c_long> = const { Cell::new(0) };
}

/// Longer than any deadline of a run.
const JUMP: c_long = 120;

/// Watches this thread from now on, and lets a call fail.
pub(crate) fn arm(plan: Option<Plan>, before: Stage, hole: SocketAddrV4) {
    STAGE.set(before);
    WATCHED.with_borrow_mut(|watched| {
        *watched = Watched { armed: true, plan, hole: Some(hole), ..Watched::default() };
    });
}

/// Watches no more. Gives the calls that were seen, the one that failed, and how many connections are still open.
pub(crate) fn disarm() -> (Vec<Seen>, Option<(Seen, Fault)>, usize) {
    WATCHED.with_borrow_mut(|watched| {
        let Watched { seen, fired, sockets, .. } = std::mem::take(watched);
        (seen, fired, sockets.iter().filter(|socket| socket.stream).count())
    })
}

/// Lets every timer of this thread ring that is set by now.
pub(crate) fn pass_time() {
    AHEAD.set(AHEAD.get() + JUMP);
}

/// The server's word on where the conversation is.
pub(crate) fn stage(stage: Stage) {
    STAGE.set(stage);
}

impl Watched {
    fn socket(&mut self, fd: c_int) -> Option<&mut Socket> {
        self.sockets.iter_mut().find(|socket| socket.fd == fd)
    }

    /// Counts a call. How it is to fail, if it is.
    fn count(&mut self, call: Call, fd: Option<c_int>) -> Option<Fault> {
        let seen = Seen { call, stage: STAGE.get() };
        let after = self.seen.iter().filter(|other| **other == seen).count();
        self.seen.push(seen);
        let Plan { fault, .. } = self.plan.filter(|plan| (plan.seen, plan.after) == (seen, after))?;
        self.fired = Some((seen, fault));
        let broken = match (fault, call) {
            (Fault::Hang, _) => Some(Broken::Hangs),
            (Fault::End, _) => Some(Broken::Gone),
            (Fault::Error(number), Call::Read | Call::Write) if is_the_end(number) => Some(Broken::Gone),
            _ => None,
        };
        if let Some(socket) = fd.and_then(|fd| self.socket(fd)) {
            socket.broken = broken;
            if broken == Some(Broken::Gone) {
                // Whoever waits for the socket is told, as of any that is no more.
                kernel!(SYS_shutdown, socket.fd, libc::SHUT_RDWR);
            }
        }
        Some(fault)
    }
}

/// Whether the kernel has no connection any more when it says so.
fn is_the_end(number: c_int) -> bool {
    [libc::ECONNRESET, libc::EPIPE, libc::ETIMEDOUT, libc::ECONNABORTED, libc::EHOSTUNREACH].contains(&number)
}

/// What becomes of a call.
enum Verdict {
    /// It goes to the kernel.
    Real,
    Fails(Fault),
}

/// Judges a call on a socket that may be the run's.
fn judge(fd: c_int, kind: impl FnOnce(&Socket) -> Option<Call>) -> Verdict {
    let judged = WATCHED.try_with(|watched| {
        // A call from within this file's own bookkeeping is nobody's.
        let mut watched = watched.try_borrow_mut().ok()?;
        if !watched.armed {
            return None;
        }
        let socket = *watched.socket(fd)?;
        let call = kind(&socket)?;
        match (socket.broken, call) {
            (Some(Broken::Hangs), Call::Read | Call::Write | Call::LookupReceive) => Some(Fault::Hang),
            (Some(Broken::Gone), Call::Read) => Some(Fault::End),
            (Some(Broken::Gone), Call::Write) => Some(Fault::Error(libc::EPIPE)),
            _ => watched.count(call, Some(fd)),
        }
    });
    judged.ok().flatten().map_or(Verdict::Real, Verdict::Fails)
}

/// Judges a call that makes something.
fn judge_new(call: Call) -> Verdict {
    let judged = WATCHED.try_with(|watched| {
        let mut watched = watched.try_borrow_mut().ok().filter(|watched| watched.armed)?;
        watched.count(call, None)
    });
    judged.ok().flatten().map_or(Verdict::Real, Verdict::Fails)
}

/// Ends a call with an error. A line that hangs lets time pass.
fn fail(fault: Fault) -> c_int {
    let number = match fault {
        Fault::Error(number) => number,
        Fault::Hang => {
            pass_time();
            libc::EAGAIN
        }
        Fault::End | Fault::Short | Fault::Full => libc::EAGAIN,
    };
    // SAFETY: it gives a valid pointer to this thread's own number.
    unsafe { *libc::__errno_location() = number };
    -1
}

fn to_size(value: c_long) -> ssize_t {
    ssize_t::try_from(value).unwrap_or(-1)
}

fn to_int(value: c_long) -> c_int {
    c_int::try_from(value).unwrap_or(-1)
}

// === the functions that stand for the C library's ===

#[unsafe(no_mangle)]
extern "C" fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    let stream = kind & 0xf == libc::SOCK_STREAM;
    let inet = domain == libc::AF_INET || domain == libc::AF_INET6;
    if inet && let Verdict::Fails(fault) = judge_new(if stream { Call::Socket } else { Call::LookupSocket }) {
        return fail(fault);
    }
    let fd = to_int(kernel!(SYS_socket, domain, kind, protocol));
    if inet && fd >= 0 {
        let _gone = WATCHED.try_with(|watched| {
            if let Ok(mut watched) = watched.try_borrow_mut()
                && watched.armed
            {
                watched.sockets.push(Socket { fd, stream, registration: None, broken: None });
            }
        });
    }
    fd
}

#[unsafe(no_mangle)]
extern "C" fn close(fd: c_int) -> c_int {
    let _gone = WATCHED.try_with(|watched| {
        if let Ok(mut watched) = watched.try_borrow_mut() {
            watched.sockets.retain(|socket| socket.fd != fd);
        }
    });
    to_int(kernel!(SYS_close, fd))
}

#[unsafe(no_mangle)]
extern "C" fn bind(fd: c_int, address: *const sockaddr, length: socklen_t) -> c_int {
    match judge(fd, |socket| Some(if socket.stream { Call::Bind } else { Call::LookupBind })) {
        Verdict::Fails(fault) => fail(fault),
        Verdict::Real => to_int(kernel!(SYS_bind, fd, address, length)),
    }
}

#[unsafe(no_mangle)]
extern "C" fn setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, length: socklen_t) -> c_int {
    let nodelay = level == libc::IPPROTO_TCP && name == libc::TCP_NODELAY;
    match judge(fd, |socket| socket.stream.then_some(if nodelay { Call::NoDelay } else { Call::Option })) {
        Verdict::Fails(fault) => fail(fault),
        Verdict::Real => to_int(kernel!(SYS_setsockopt, fd, level, name, value, length)),
    }
}

#[unsafe(no_mangle)]
extern "C" fn getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, length: *mut socklen_t) -> c_int {
    let error = level == libc::SOL_SOCKET && name == libc::SO_ERROR;
    match judge(fd, |socket| socket.stream.then_some(if error { Call::Connected } else { Call::Info })) {
        Verdict::Fails(Fault::Error(number)) if error => {
            // SAFETY: the caller gives room for the number that this option is.
            unsafe { value.cast::<c_int>().write_unaligned(number) };
            0
        }
        Verdict::Fails(fault) => fail(fault),
        Verdict::Real => to_int(kernel!(SYS_getsockopt, fd, level, name, value, length)),
    }
}

#[unsafe(no_mangle)]
extern "C" fn getsockname(fd: c_int, address: *mut sockaddr, length: *mut socklen_t) -> c_int {
    match judge(fd, |socket| socket.stream.then_some(Call::LocalAddress)) {
        Verdict::Fails(fault) => fail(fault),
        Verdict::Real => to_int(kernel!(SYS_getsockname, fd, address, length)),
    }
}

#[unsafe(no_mangle)]
extern "C" fn connect(fd: c_int, address: *const sockaddr, length: socklen_t) -> c_int {
    match judge(fd, |socket| Some(if socket.stream { Call::Connect } else { Call::LookupConnect })) {
        Verdict::Fails(Fault::Hang) => {
            pass_time();
            let Some(hole) = WATCHED.with_borrow(|watched| watched.hole) else { return fail(Fault::Hang) };
            let hole = libc::sockaddr_in {
                sin_family: libc::AF_INET.cast_unsigned().try_into().unwrap_or_default(),
                sin_port: hole.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from(*hole.ip()).to_be() },
                sin_zero: [0; 8],
            };
            to_int(kernel!(SYS_connect, fd, &raw const hole, size_of::<libc::sockaddr_in>()))
        }
        Verdict::Fails(fault) => fail(fault),
        Verdict::Real => to_int(kernel!(SYS_connect, fd, address, length)),
    }
}

#[unsafe(no_mangle)]
extern "C" fn epoll_ctl(poll: c_int, operation: c_int, fd: c_int, event: *mut epoll_event) -> c_int {
    let adds = operation == libc::EPOLL_CTL_ADD;
    let call = |socket: &Socket| if socket.stream { Call::Register } else { Call::LookupRegister };
    match judge(fd, |socket| adds.then(|| call(socket))) {
        Verdict::Fails(fault) => fail(fault),
        Verdict::Real if adds => {
            // SAFETY: the caller gives an event to be added.
            let registration = unsafe { event.read_unaligned() };
            remember(fd, (poll, registration));
            to_int(kernel!(SYS_epoll_ctl, poll, operation, fd, event))
        }
        Verdict::Real => to_int(kernel!(SYS_epoll_ctl, poll, operation, fd, event)),
    }
}

#[unsafe(no_mangle)]
extern "C" fn recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t {
    let stamp = flags & libc::MSG_ERRQUEUE != 0;
    let call = |socket: &Socket| match (socket.stream, stamp) {
        (true, true) => Some(Call::Stamp),
        (true, false) => Some(Call::Read),
        (false, _) => Some(Call::LookupReceive),
    };
    match judge(fd, call) {
        Verdict::Fails(Fault::End) if !stamp => 0,
        Verdict::Fails(Fault::Short) if !stamp => {
            let read = first_byte(message, |message| kernel!(SYS_recvmsg, fd, message, flags));
            tell_again(fd);
            read
        }
        Verdict::Fails(fault) => to_size(fail(fault).into()),
        Verdict::Real => to_size(kernel!(SYS_recvmsg, fd, message, flags)),
    }
}

#[unsafe(no_mangle)]
extern "C" fn sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t {
    match judge(fd, |socket| Some(if socket.stream { Call::Write } else { Call::LookupSend })) {
        Verdict::Fails(Fault::Short) => {
            first_byte(message.cast_mut(), |message| kernel!(SYS_sendmsg, fd, message.cast_const(), flags))
        }
        Verdict::Fails(fault) => to_size(fail(fault).into()),
        Verdict::Real => to_size(kernel!(SYS_sendmsg, fd, message, flags)),
    }
}

fn remember(fd: c_int, registration: (c_int, epoll_event)) {
    let _gone = WATCHED.try_with(|watched| {
        if let Ok(mut watched) = watched.try_borrow_mut()
            && let Some(socket) = watched.socket(fd)
        {
            socket.registration = Some(registration);
        }
    });
}

/// Tells once more that there is something to read: a read that brings less than it asks for has emptied the socket, as
/// whoever reads may believe, and what comes after it is told anew.
fn tell_again(fd: c_int) {
    let registration = WATCHED.with_borrow_mut(|watched| watched.socket(fd).and_then(|socket| socket.registration));
    if let Some((poll, mut event)) = registration {
        kernel!(SYS_epoll_ctl, poll, libc::EPOLL_CTL_MOD, fd, &raw mut event);
    }
}

/// Lets a call have one byte of what it asks for.
fn first_byte(message: *mut msghdr, call: impl FnOnce(*mut msghdr) -> c_long) -> ssize_t {
    // SAFETY: the caller gives a header with one live buffer, whose length is put back as it was.
    let vector = unsafe { &mut *(*message).msg_iov };
    let length = vector.iov_len;
    vector.iov_len = length.min(1);
    let done = to_size(call(message));
    vector.iov_len = length;
    done
}

#[unsafe(no_mangle)]
extern "C" fn send(fd: c_int, bytes: *const c_void, count: size_t, flags: c_int) -> ssize_t {
    sendto(fd, bytes, count, flags, std::ptr::null(), 0)
}

#[unsafe(no_mangle)]
extern "C" fn recv(fd: c_int, bytes: *mut c_void, count: size_t, flags: c_int) -> ssize_t {
    recvfrom(fd, bytes, count, flags, std::ptr::null_mut(), std::ptr::null_mut())
}

#[unsafe(no_mangle)]
extern "C" fn sendto(
    fd: c_int,
    bytes: *const c_void,
    count: size_t,
    flags: c_int,
    address: *const sockaddr,
    length: socklen_t,
) -> ssize_t {
    match judge(fd, |socket| (!socket.stream).then_some(Call::LookupSend)) {
        Verdict::Fails(fault) => to_size(fail(fault).into()),
        Verdict::Real => to_size(kernel!(SYS_sendto, fd, bytes, count, flags, address, length)),
    }
}

#[unsafe(no_mangle)]
extern "C" fn recvfrom(
    fd: c_int,
    bytes: *mut c_void,
    count: size_t,
    flags: c_int,
    address: *mut sockaddr,
    length: *mut socklen_t,
) -> ssize_t {
    match judge(fd, |socket| (!socket.stream).then_some(Call::LookupReceive)) {
        Verdict::Fails(fault) => to_size(fail(fault).into()),
        Verdict::Real => to_size(kernel!(SYS_recvfrom, fd, bytes, count, flags, address, length)),
    }
}

#[unsafe(no_mangle)]
extern "C" fn clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int {
    let answer = kernel!(SYS_clock_gettime, clock, time);
    if answer == 0 {
        // SAFETY: the kernel has just filled it.
        unsafe { (*time).tv_sec += AHEAD.try_with(Cell::get).unwrap_or_default() };
    }
    to_int(answer)
}
