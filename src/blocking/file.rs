//! The bytes of a file of any kind: bounded in size, and bounded in time for a pipe.
//!
//! A file system that does not respond blocks the thread: call it inside [`with_path`](super::with_path) or before anything is
//! probed. Called by `net` and `agent` for certificates.

use std::{
    fs::File,
    io::{self, ErrorKind, Read as _},
    os::{fd::AsFd as _, unix::fs::OpenOptionsExt as _},
    path::Path,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::clock;

/// How long the writer of a pipe (process substitution) may take.
const PIPE_DEADLINE: Duration = Duration::from_secs(2);

/// Reads a file of at most `limit` bytes. Blocks, but not for a FIFO without a writer, which is empty.
///
/// Fails with `FileTooLarge` over the limit, and with `TimedOut` when a pipe's writer takes more than two seconds.
pub fn read_file(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    read_until(path, limit, clock::now() + PIPE_DEADLINE)
}

#[expect(clippy::disallowed_methods, reason = "inside a call of `blocking`")]
fn read_until(path: &Path, limit: u64, deadline: Instant) -> io::Result<Vec<u8>> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    // Allocated once: a reallocation would leave bytes of a key unwiped.
    let size = file.metadata()?.len().min(limit).saturating_add(1);
    let mut content = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
    let mut reader = (&file).take(limit.saturating_add(1));
    loop {
        match reader.read_to_end(&mut content) {
            Ok(_) if content.len() as u64 > limit => {
                return Err(io::Error::new(ErrorKind::FileTooLarge, format!("it is larger than {limit} bytes")));
            }
            Ok(_) => return Ok(content),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let left = deadline.saturating_duration_since(clock::now());
                if left.is_zero() {
                    return Err(io::Error::new(ErrorKind::TimedOut, "it is a pipe, and its writer is too slow"));
                }
                // Rounded up from less than a millisecond.
                let left = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
                match poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLIN)], left) {
                    Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, os::fd::AsRawFd as _};

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    #[test]
    fn a_fifo_without_a_writer_and_a_device_without_an_end_do_not_hold_the_reader() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        assert_eq!(read_file(&path, 10).unwrap(), b"");
        assert_eq!(read_file(Path::new("/dev/zero"), 10).unwrap_err().kind(), ErrorKind::FileTooLarge);
    }

    #[test]
    fn a_file_is_read_up_to_the_limit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "0123456789").unwrap();
        assert_eq!(read_file(&path, 10).unwrap(), b"0123456789");
        assert_eq!(read_file(&path, 9).unwrap_err().kind(), ErrorKind::FileTooLarge);
    }

    #[test]
    fn a_pipe_is_read_to_its_end_and_given_up_at_the_deadline() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let path = format!("/proc/self/fd/{}", reader.as_raw_fd());
        let mut writer = File::from(writer);
        writer.write_all(b"one").unwrap();
        let given_up = read_until(Path::new(&path), 100, clock::now()).unwrap_err();
        assert_eq!(given_up.kind(), ErrorKind::TimedOut);
        let writing = std::thread::spawn(move || {
            for text in [b"two".as_slice(), b"three"] {
                writer.write_all(text).unwrap();
            }
        });
        assert_eq!(read_file(Path::new(&path), 100).unwrap(), b"twothree");
        writing.join().unwrap();
    }
}
