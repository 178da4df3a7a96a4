//! Reads the configuration file and the files of targets, whose paths may be of any kind of file.
//!
//! Accepts regular files, and pipes if the caller does; reads at most [`LARGEST`], and has a deadline for each pipe and file
//! system. Called by `tree` and `file_sd`.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, Read as _},
    os::{
        fd::AsFd as _,
        unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{blocking, clock};

/// The deadline for one file, or for the names in one directory.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest file in bytes. 10,000 targets with labels take about one million.
pub(crate) const LARGEST: usize = 16 << 20;
/// The deadline for a writer to open the pipe.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// The deadline for the next bytes of a writer, which may have to fetch them.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// The kinds of files to accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kinds {
    /// Regular files: a reload reads them again.
    Files,
    /// Pipes too, named or not: `/dev/stdin`, process substitution.
    FilesAndPipes,
}

/// The content of a file. An error does not contain the path; its kind is [`ErrorKind::TimedOut`] when the file system did not
/// answer.
pub(crate) fn read(path: &Path, kinds: Kinds) -> io::Result<Vec<u8>> {
    answered(path, move |path| open(path, kinds))?.or_else(|pipe| read_pipe(&pipe))
}

/// The path without links and dots; as it is when its file cannot be found.
#[expect(clippy::disallowed_methods, reason = "inside a call of `blocking`")]
pub(crate) fn canonical(path: &Path) -> PathBuf {
    answered(path, |path| std::fs::canonicalize(path)).unwrap_or_else(|_| path.to_owned())
}

/// The names in a directory that are UTF-8. Errors are those of [`read`].
#[expect(clippy::disallowed_methods, reason = "inside a call of `blocking`")]
pub(crate) fn names(directory: &Path) -> io::Result<Vec<String>> {
    answered(directory, |directory| {
        Ok(std::fs::read_dir(directory)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
    })
}

/// The result of a call, or that its file system did not answer.
fn answered<T: Send + 'static>(
    path: &Path,
    call: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    blocking::with_path_sync(path, clock::now() + ANSWER_TIMEOUT, call)
        .unwrap_or_else(|unfinished| Err(io::Error::new(ErrorKind::TimedOut, unfinished)))
}

/// The content of a file, or a pipe to read.
#[expect(clippy::disallowed_methods, reason = "inside a call of `blocking`")]
fn open(path: &Path, kinds: Kinds) -> io::Result<Result<Vec<u8>, File>> {
    // Opening a pipe would wait for its other end, and a terminal would become the controlling one.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let meta = file.metadata()?;
    let kind = meta.file_type();
    if kind.is_fifo() && kinds == Kinds::FilesAndPipes {
        return Ok(Err(file));
    }
    if !kind.is_file() {
        return Err(io::Error::other(match kinds {
            _ if kind.is_dir() => "it is a directory and not a file",
            Kinds::Files => "it is not a file",
            Kinds::FilesAndPipes => "it is neither a file nor a pipe",
        }));
    }
    // A file that grows, or that reports no size, is checked while it is read.
    if meta.len() > LARGEST as u64 {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(meta.len()).unwrap_or(0));
    file.take(LARGEST as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > LARGEST { Err(too_large()) } else { Ok(Ok(bytes)) }
}

fn read_pipe(pipe: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    let mut reader = pipe;
    loop {
        match reader.read(&mut buffer) {
            // No writer has opened it yet, or a writer has closed it without writing.
            Ok(0) if bytes.is_empty() => match wait(pipe, OPEN_TIMEOUT)? {
                Some(ready) if ready.contains(PollFlags::POLLIN) => {}
                Some(_) => return Ok(bytes),
                None => return Err(io::Error::other("it is a pipe without a writer")),
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
                if wait(pipe, WRITE_TIMEOUT)?.is_none() {
                    let seconds = WRITE_TIMEOUT.as_secs();
                    return Err(io::Error::other(format!("nothing came out of the pipe for {seconds} s")));
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// What the pipe is ready for; none at the deadline.
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
    fn a_file_is_read_up_to_its_limit_whatever_size_it_reports() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
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
        let directory = tempfile::tempdir().unwrap();
        let [pipe, link] = ["pipe", "link"].map(|name| directory.path().join(name));
        mkfifo(&pipe, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        symlink("/dev/zero", &link).unwrap();
        for path in [&*pipe, &link, Path::new("/dev/null")] {
            assert_eq!(problem(path, Kinds::Files), "it is not a file", "{}", path.display());
        }
        assert_eq!(problem(&link, Kinds::FilesAndPipes), "it is neither a file nor a pipe");
        assert!(problem(directory.path(), Kinds::FilesAndPipes).contains("directory"));

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
