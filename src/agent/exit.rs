//! The end of the process, which nothing can delay: neither a thread in a call that does not return, nor a destructor.
//!
//! Called by [`run`](super::run) for a stop that takes too long, and by `cli` at the end of every command.

use std::{
    io::{self, Read as _},
    os::{fd::AsRawFd as _, unix::net::UnixStream},
    sync::{
        atomic::{AtomicI32, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use tracing::warn;

use crate::{secret, telemetry::logs};

/// The time limit of the last work: a directory of our own is removed.
const LAST: Duration = Duration::from_millis(150);
/// From the signal to the end of a process that has not ended by itself: the promised 5 s, less what the kernel takes.
const FORCED: Duration = Duration::from_millis(4900);

/// Ends the process: kills password commands, runs `last` with a time limit, closes all sockets, and exits.
///
/// No exit handler is run: it could wait for a thread that does not return. Such a thread keeps all files of the process open,
/// so sockets are closed here.
pub fn exit(code: u8, last: impl FnOnce() + Send + 'static) -> ! {
    secret::end_commands();
    let (done, is_done) = mpsc::channel::<()>();
    let last = move || {
        last();
        drop(done);
    };
    if thread::Builder::new().name("exit".to_owned()).spawn(last).is_ok() {
        let _ = is_done.recv_timeout(LAST);
    }
    end_now(code)
}

/// The exit code of a process that is about to end.
static CODE: AtomicI32 = AtomicI32::new(0);

/// tokio aborts when its own sockets, which pass signals on, are closed: the process then ends with the intended exit code.
#[expect(unsafe_code, reason = "a signal's handler")]
extern "C" fn on_abort(_signal: libc::c_int) {
    // SAFETY: it only ends the process, and may be called in a handler.
    unsafe { libc::_exit(CODE.load(Ordering::Relaxed)) }
}

#[expect(unsafe_code, reason = "the standard library's exit runs what may wait")]
fn end_now(code: u8) -> ! {
    // Later panics are caused by closed connections.
    logs::ignore_panics();
    CODE.store(code.into(), Ordering::Relaxed);
    // SAFETY: the handler only ends the process.
    unsafe { libc::signal(libc::SIGABRT, on_abort as extern "C" fn(libc::c_int) as libc::sighandler_t) };
    close_sockets();
    // SAFETY: it only ends the process.
    unsafe { libc::_exit(code.into()) }
}

/// Closes all sockets, those of the network first: peers see the end of their connections, and addresses are free for the next
/// process. Each descriptor then is `/dev/null`: it stays open, so its owner cannot close another file with its number.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "descriptors are replaced that belong to others, right before the end")]
#[expect(clippy::disallowed_methods, reason = "a device, and a path below /proc")]
fn close_sockets() {
    let Ok(null) = std::fs::File::options().read(true).write(true).open("/dev/null") else { return };
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers: Vec<i32> = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    let sockets = numbers.into_iter().filter_map(|number| Some((number, is_network(number)?)));
    let (network, local): (Vec<_>, Vec<_>) = sockets.partition(|(_, is_network)| *is_network);
    for (number, _) in network.into_iter().chain(local) {
        // SAFETY: both are open, and the owner's number stays so.
        unsafe { libc::dup2(null.as_raw_fd(), number) };
    }
}

/// Whether a socket is one of the network; none for other files.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "a question about a descriptor that belongs to others")]
fn is_network(number: i32) -> Option<bool> {
    let mut domain: libc::c_int = 0;
    let mut size = libc::socklen_t::try_from(size_of_val(&domain)).unwrap_or(0);
    // SAFETY: the kernel writes no more than `size` bytes to `domain`. A file, which may be on a file system that does not
    // answer, is refused and not accessed.
    let asked =
        unsafe { libc::getsockopt(number, libc::SOL_SOCKET, libc::SO_DOMAIN, (&raw mut domain).cast(), &raw mut size) };
    (asked == 0).then_some(matches!(domain, libc::AF_INET | libc::AF_INET6))
}

/// The kernel closes them.
#[cfg(not(target_os = "linux"))]
fn close_sockets() {}

/// Ends the process some time after the first signal to stop if it still runs, from a thread of its own.
#[expect(unsafe_code, reason = "what runs in a signal's handler may do little")]
pub(super) fn force_after_signal() -> io::Result<()> {
    let (ours, signalled) = UnixStream::pair()?;
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let descriptor = ours.as_raw_fd();
        let notify = move || {
            // SAFETY: `send` may be called in a handler, the byte lives on, and the descriptor is never closed.
            unsafe { libc::send(descriptor, (&raw const *b"!").cast(), 1, libc::MSG_DONTWAIT) };
        };
        // SAFETY: `notify` allocates nothing and locks nothing.
        unsafe { signal_hook_registry::register(signal, notify) }?;
    }
    std::mem::forget(ours);
    let force = move || {
        if (&signalled).read_exact(&mut [0]).is_ok() {
            thread::sleep(FORCED.saturating_sub(LAST));
            exit(1, || {
                warn!("the agent has not ended in time: exiting now; undelivered telemetry is lost");
                logs::flush(LAST);
            })
        }
    };
    thread::Builder::new().name("exit".to_owned()).stack_size(256 << 10).spawn(force).map(drop)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn sockets_differ_from_files_and_network_sockets_from_local_ones() {
        let (tcp, udp) = (TcpListener::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let ((one, _other), file) = (UnixStream::pair().unwrap(), tempfile::tempfile().unwrap());
        let found = [tcp.as_raw_fd(), udp.as_raw_fd(), one.as_raw_fd(), file.as_raw_fd(), -1].map(is_network);
        assert_eq!(found, [Some(true), Some(true), Some(false), None, None]);
    }
}
