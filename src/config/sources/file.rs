//! The bytes of the configuration file and of files of targets, which may be anything that a path can lead to.
//!
//! Takes regular files, and pipes where the caller can do with them; reads no more than [`LARGEST`], and waits for no
//! pipe and no file system longer than it says. Called by `source` and `listed`.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, Read as _},
    os::{
        fd::AsFd as _,
        unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    },
    path::Path,
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{blocking, clock};

/// A file system has so long for one file, or for the names in one directory.
const TO_ANSWER: Duration = Duration::from_secs(10);
/// No file is larger, in bytes. 10,000 targets with labels make about one million.
pub(crate) const LARGEST: usize = 16 << 20;
/// For a writer to open the pipe.
const TO_OPEN: Duration = Duration::from_secs(5);
/// For the next bytes of a writer that has the pipe open: a program may have to fetch them first.
const TO_WRITE: Duration = Duration::from_secs(30);

/// What may be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kinds {
    /// Regular files: what is read again later has to be there again.
    Files,
    /// Pipes as well, named or not: `/dev/stdin`, process substitution.
    FilesAndPipes,
}

/// What a path led to.
enum Content {
    Bytes(Vec<u8>),
    Pipe(File),
}

/// All that is in it. An error says what is the matter, not with which path; its kind is [`ErrorKind::TimedOut`] when the file
/// system did not answer.
pub(crate) fn read(path: &Path, kinds: Kinds) -> io::Result<Vec<u8>> {
    match answered(path, move |path| open(path, kinds))? {
        Content::Bytes(bytes) => Ok(bytes),
        Content::Pipe(pipe) => read_pipe(&pipe),
    }
}

/// The names in a directory that are UTF-8. Errors are those of [`read`].
#[expect(clippy::disallowed_methods, reason = "inside a call of `blocking`")]
pub(crate) fn names(directory: &Path) -> io::Result<Vec<String>> {
    answered(directory, |directory| {
        Ok(std::fs::read_dir(directory)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
    })
}

/// What the call comes to, or that its file system did not answer.
fn answered<T: Send + 'static>(
    path: &Path,
    call: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    blocking::with_path_sync(path, clock::now() + TO_ANSWER, call)
        .unwrap_or_else(|unfinished| Err(io::Error::new(ErrorKind::TimedOut, unfinished)))
}

#[expect(clippy::disallowed_methods, reason = "inside a call of `blocking`")]
fn open(path: &Path, kinds: Kinds) -> io::Result<Content> {
    // Opening a pipe would wait for its other end, and a terminal would become ours.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let meta = file.metadata()?;
    let kind = meta.file_type();
    if kind.is_fifo() && kinds == Kinds::FilesAndPipes {
        return Ok(Content::Pipe(file));
    }
    if !kind.is_file() {
        return Err(io::Error::other(match kinds {
            _ if kind.is_dir() => "it is a directory and not a file",
            Kinds::Files => "it is not a file",
            Kinds::FilesAndPipes => "it is neither a file nor a pipe",
        }));
    }
    // Known beforehand of most; of a file that grows, or that reports no size, it shows while it is read.
    if meta.len() > LARGEST as u64 {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(meta.len()).unwrap_or(0));
    file.take(LARGEST as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > LARGEST { Err(too_large()) } else { Ok(Content::Bytes(bytes)) }
}

fn read_pipe(pipe: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    let mut reader = pipe;
    loop {
        match reader.read(&mut buffer) {
            // It is not open for writing yet, or was closed before anything was written.
            Ok(0) if bytes.is_empty() => match wait(pipe, TO_OPEN)? {
                Some(ready) if ready.contains(PollFlags::POLLIN) => {}
                Some(_) => return Ok(bytes),
                None => return Err(io::Error::other("it is a pipe into which nobody writes")),
            },
            Ok(0) => return Ok(bytes),
            Ok(count) => {
                bytes.extend_from_slice(buffer.get(..count).unwrap_or_default());
                if bytes.len() > LARGEST {
                    return Err(too_large());
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if wait(pipe, TO_WRITE)?.is_none() {
                    let seconds = TO_WRITE.as_secs();
                    return Err(io::Error::other(format!("nothing came out of the pipe for {seconds} s")));
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// What the pipe is ready for; none when it was ready for nothing in all that time.
fn wait(pipe: &File, within: Duration) -> io::Result<Option<PollFlags>> {
    let mut asked = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    let within = PollTimeout::try_from(within).unwrap_or(PollTimeout::MAX);
    match poll(&mut asked, within) {
        Ok(0) => Ok(None),
        Ok(_) => Ok(Some(asked[0].revents().unwrap_or(PollFlags::POLLIN))),
        Err(nix::errno::Errno::EINTR) => Ok(Some(PollFlags::POLLIN)),
        Err(error) => Err(error.into()),
    }
}

fn too_large() -> io::Error {
    io::Error::other("it is larger than 16MiB")
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, os::unix::fs::symlink};

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    fn problem(path: &Path, kinds: Kinds) -> String {
        read(path, kinds).unwrap_err().to_string()
    }

    #[test]
    fn a_file_is_read_up_to_its_limit_whatever_size_it_tells() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, b"text").unwrap();
        assert_eq!(read(&path, Kinds::Files).unwrap(), b"text");
        let file = File::create(&path).unwrap();
        file.set_len(LARGEST as u64).unwrap();
        assert_eq!(read(&path, Kinds::Files).unwrap().len(), LARGEST);
        file.set_len(LARGEST as u64 + 1).unwrap();
        assert_eq!(problem(&path, Kinds::Files), "it is larger than 16MiB");
        // It reports no size.
        assert!(!read(Path::new("/proc/self/status"), Kinds::Files).unwrap().is_empty());
    }

    #[test]
    fn what_is_no_file_is_refused_without_a_wait_and_a_pipe_is_read_where_one_may_be() {
        let folder = tempfile::tempdir().unwrap();
        let [pipe, link] = ["pipe", "link"].map(|name| folder.path().join(name));
        mkfifo(&pipe, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        symlink("/dev/zero", &link).unwrap();
        for path in [&*pipe, &link, Path::new("/dev/null")] {
            assert_eq!(problem(path, Kinds::Files), "it is not a file", "{}", path.display());
        }
        assert_eq!(problem(&link, Kinds::FilesAndPipes), "it is neither a file nor a pipe");
        assert!(problem(folder.path(), Kinds::FilesAndPipes).contains("directory"));

        let (end, texts) = (pipe.clone(), [b"one ".as_slice(), b"two"]);
        let writer = std::thread::spawn(move || {
            let mut end = OpenOptions::new().write(true).open(end).unwrap();
            for text in texts {
                end.write_all(text).unwrap();
            }
        });
        assert_eq!(read(&pipe, Kinds::FilesAndPipes).unwrap(), b"one two");
        writer.join().unwrap();
    }

    #[test]
    fn a_pipe_without_end_is_read_no_further_than_a_file() {
        let (out, into) = nix::unistd::pipe().unwrap();
        let writer = std::thread::spawn(move || {
            let mut into = File::from(into);
            // Ends when the other end is closed.
            while into.write_all(&[b'#'; 4096]).is_ok() {}
        });
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&out));
        assert_eq!(problem(Path::new(&path), Kinds::FilesAndPipes), "it is larger than 16MiB");
        drop(out);
        writer.join().unwrap();
    }
}
