//! Follows a mail log that is a file, from its end on, over rotation by renaming and by truncation. Called by `sampler`, on its
//! thread.

#![expect(clippy::disallowed_methods, reason = "on a thread of its own")]

use std::{
    fs::{File, Metadata, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use nix::libc::{O_NOCTTY, O_NONBLOCK};
use tracing::{info, warn};

use super::lines::LineSplitter;

/// Bytes that are read at once.
const BLOCK: usize = 64 << 10;
/// The most reads of a poll.
const BLOCKS: usize = 4;
/// More than this many bytes behind the end, lines are skipped: their processes have ended.
const BEHIND: u64 = 4 << 20;
/// The time between two checks whether the path leads to another file.
const CHECK: Duration = Duration::from_secs(1);

const MISSING: &str = "does not exist";

/// See the module's head.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    open: Option<OpenLog>,
    lines: LineSplitter,
    block: Vec<u8>,
    /// Which file was last open, and how far it was read.
    read: Option<(FileIdentity, u64)>,
    next_check: Option<Instant>,
    /// Why it could not be opened, as it was logged.
    problem: Option<String>,
}

#[derive(Debug)]
struct OpenLog {
    file: File,
    identity: FileIdentity,
    offset: u64,
}

/// Device, inode, and when the file was made, where the file system has that: a deleted file's inode is used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileIdentity {
    device: u64,
    inode: u64,
    created: Option<SystemTime>,
}

impl FileIdentity {
    fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino(), created: metadata.created().ok() }
    }
}

impl LogFile {
    /// Opens the file. What is in it already is not read.
    pub(super) fn new(path: &Path, now: Instant) -> Self {
        let mut log = Self {
            path: path.to_owned(),
            open: None,
            lines: LineSplitter::default(),
            block: vec![0; BLOCK],
            read: None,
            next_check: None,
            problem: None,
        };
        log.reopen(now);
        log
    }

    /// Passes on the lines that were written since the last poll. Blocks as long as the file's file system does.
    pub(super) fn poll(&mut self, now: Instant, on_line: &mut dyn FnMut(&[u8])) {
        let is_read = self.read(on_line);
        if is_read && self.next_check.is_none_or(|next| now >= next) {
            self.check(now);
            self.read(on_line);
        }
    }

    /// Reads what there is, within limits. Returns whether that was all.
    fn read(&mut self, on_line: &mut dyn FnMut(&[u8])) -> bool {
        let Some(open) = &mut self.open else { return true };
        for _ in 0..BLOCKS {
            match open.file.read_at(&mut self.block, open.offset) {
                Ok(0) => return true,
                Ok(size) => {
                    open.offset += size as u64;
                    self.lines.add(self.block.get(..size).unwrap_or_default(), on_line);
                    if size < BLOCK {
                        return true;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The next check opens it again.
                Err(_) => {
                    self.open = None;
                    return true;
                }
            }
        }
        let length = open.file.metadata().map_or(0, |metadata| metadata.len());
        if length.saturating_sub(open.offset) > BEHIND {
            open.offset = length;
            self.lines.clear();
        }
        false
    }

    /// Opens the file at the path if it is another one than before, and begins anew in one that was cut.
    fn check(&mut self, now: Instant) {
        self.next_check = Some(now + CHECK);
        if let Some(open) = &mut self.open
            && std::fs::metadata(&self.path).is_ok_and(|metadata| open.identity == FileIdentity::of(&metadata))
        {
            if open.file.metadata().is_ok_and(|metadata| metadata.len() < open.offset) {
                open.offset = 0;
                self.lines.clear();
            }
            return;
        }
        self.reopen(now);
    }

    fn reopen(&mut self, now: Instant) {
        self.next_check = Some(now + CHECK);
        self.lines.clear();
        if let Some(open) = self.open.take() {
            self.read = Some((open.identity, open.offset));
        }
        match open(&self.path) {
            Ok(mut open) => {
                // Old lines are of sessions that are over: a known file resumes at its offset, a new file starts at 0, and a file that
                // could not be read before begins at its end.
                let length = open.file.metadata().map_or(0, |metadata| metadata.len());
                open.offset = match self.read {
                    Some((identity, offset)) if identity == open.identity && offset <= length => offset,
                    Some(_) => 0,
                    None if self.problem.as_deref() == Some(MISSING) => 0,
                    None => length,
                };
                self.open = Some(open);
                if self.problem.take().is_some() {
                    info!(file = %self.path.display(), "the mail log can be read");
                }
            }
            Err(problem) => {
                if self.problem.as_ref() != Some(&problem) {
                    warn!(
                        file = %self.path.display(),
                        "the mail log {problem}: no session is accounted until it can be read; it is tried again every second"
                    );
                }
                self.problem = Some(problem);
            }
        }
    }
}

fn open(path: &Path) -> Result<OpenLog, String> {
    // A pipe without a writer would block.
    let file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK | O_NOCTTY).open(path);
    let file = file.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => MISSING.to_owned(),
        io::ErrorKind::PermissionDenied => {
            "may not be read by this user, who must be in its group (often adm)".to_owned()
        }
        _ => format!("cannot be read ({error})"),
    })?;
    let metadata = file.metadata().map_err(|error| format!("cannot be read ({error})"))?;
    if !metadata.is_file() {
        return Err("is not a file".to_owned());
    }
    Ok(OpenLog { identity: FileIdentity::of(&metadata), offset: 0, file })
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::{Seek as _, SeekFrom, Write as _},
    };

    use super::*;
    use crate::clock;

    struct Followed {
        log: LogFile,
        now: Instant,
    }

    impl Followed {
        fn new(path: &Path) -> Self {
            let now = clock::now();
            Self { log: LogFile::new(path, now), now }
        }

        /// The lines of a poll after this many milliseconds.
        fn after(&mut self, millis: u64) -> Vec<String> {
            self.now += Duration::from_millis(millis);
            let mut lines = Vec::new();
            self.log.poll(self.now, &mut |line| lines.push(String::from_utf8_lossy(line).into_owned()));
            lines
        }
    }

    fn append(path: &Path, text: &str) {
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn line(number: u32) -> String {
        format!("imap-login: {number}")
    }

    #[test]
    fn lines_are_read_from_the_end_on_and_over_both_ways_of_rotation() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mail.log");
        append(&path, "imap-login: old\nimap-login: ");
        let mut followed = Followed::new(&path);
        assert_eq!(followed.after(0), Vec::<String>::new());
        append(&path, "0\nimap-login: 1\nimap-log");
        assert_eq!(followed.after(10).last(), Some(&line(1)));
        append(&path, "in: 2\n");
        assert_eq!(followed.after(10), [line(2)]);
        // Renamed: the last lines of the old file are read, too.
        fs::rename(&path, directory.path().join("mail.log.1")).unwrap();
        append(&directory.path().join("mail.log.1"), "imap-login: 3\n");
        assert_eq!(followed.after(10), [line(3)]);
        append(&directory.path().join("mail.log.1"), "imap-login: 4\n");
        append(&path, "imap-login: 5\n");
        assert_eq!(followed.after(1_000), [line(4), line(5)]);
        // Copied and truncated, by a file with a writer.
        let mut file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(0).unwrap();
        assert_eq!(followed.after(1_000), Vec::<String>::new());
        file.seek(SeekFrom::Start(0)).unwrap();
        file.write_all(b"imap-login: 6\n").unwrap();
        assert_eq!(followed.after(10), [line(6)]);
    }

    #[test]
    fn a_missing_file_is_reported_once_and_read_from_its_begin_when_it_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mail.log");
        let mut followed = Followed::new(&path);
        assert_eq!(followed.log.problem.as_deref(), Some("does not exist"));
        assert!(followed.after(1_000).is_empty());
        append(&path, "imap-login: 1\n");
        assert_eq!(followed.after(1_000), [line(1)]);
        assert_eq!(followed.log.problem, None);
        // Gone without a successor: what is open is lost with it, and the next one is read.
        fs::remove_file(&path).unwrap();
        assert!(followed.after(1_000).is_empty() && followed.log.problem.is_some());
        append(&path, "imap-login: 2\n");
        assert_eq!(followed.after(1_000), [line(2)]);
    }

    #[test]
    fn a_file_that_comes_back_is_read_from_where_it_was_read_to() {
        let directory = tempfile::tempdir().unwrap();
        let (path, away) = (directory.path().join("mail.log"), directory.path().join("away"));
        append(&path, "imap-login: old\n");
        let mut followed = Followed::new(&path);
        append(&path, "imap-login: 1\n");
        assert_eq!(followed.after(10), [line(1)]);
        fs::rename(&path, &away).unwrap();
        assert!(followed.after(1_000).is_empty() && followed.log.problem.is_some());
        fs::rename(&away, &path).unwrap();
        append(&path, "imap-login: 2\n");
        assert_eq!(followed.after(1_000), [line(2)]);
        // One that was there and could not be read is read from its end.
        let mut refused = Followed::new(&directory.path().join("later"));
        refused.log.problem = Some("may not be read".to_owned());
        append(&directory.path().join("later"), "imap-login: old\n");
        assert!(refused.after(1_000).is_empty());
        append(&directory.path().join("later"), "imap-login: 3\n");
        assert_eq!(refused.after(10), [line(3)]);
    }

    #[test]
    fn neither_a_directory_nor_a_pipe_is_followed() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [directory.path(), &pipe] {
            assert_eq!(Followed::new(path).log.problem.as_deref(), Some("is not a file"), "{}", path.display());
        }
    }

    #[test]
    fn far_behind_the_end_lines_are_skipped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mail.log");
        append(&path, "");
        let mut followed = Followed::new(&path);
        append(&path, &"x\n".repeat(3 << 20));
        append(&path, "imap-login: 1\n");
        assert!((0..10).all(|_| followed.after(10).is_empty()));
        append(&path, "imap-login: 2\n");
        assert_eq!(followed.after(10), [line(2)]);
    }
}
