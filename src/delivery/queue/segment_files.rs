//! The files of the backlog on disk: segments by number, and the cursor.
//!
//! All are in `queue/` of the state directory and are opened relative to it. A segment gets its name when its first runs are
//! synced, so a crash leaves no empty one. Called by [`spool`](super::spool).

use std::{
    fs::File,
    io::{self, Write as _},
    os::unix::fs::FileExt as _,
    path::PathBuf,
    sync::Arc,
    time::SystemTime,
};

use super::segment::{self, HEAD};
use crate::state::{Directory, StateDir, about};

pub(super) const QUEUE: &str = "queue";
/// How far the oldest segment is delivered.
pub(super) const CURSOR: &str = "cursor";
const NEW_CURSOR: &str = "cursor.new";
/// The next segment, until its first runs are on the disk.
pub(super) const NEW_SEGMENT: &str = "segment.new";
pub(super) const ENDING: &str = ".jsonl.gz";
/// All segment numbers are smaller, so that arithmetic does not overflow.
pub(super) const LIMIT: u64 = 1 << 63;
/// A larger file is not a segment.
pub(super) const LARGEST: u64 = 128 << 20;
const CURSOR_LENGTH: u64 = 256;

/// Where a run is on disk; the order is that of age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct SegmentPosition {
    pub(super) segment: u64,
    /// Where its member begins.
    pub(super) offset: u64,
    /// Its line in that member.
    pub(super) index: u64,
}

impl SegmentPosition {
    pub(super) fn start(segment: u64) -> Self {
        Self { segment, offset: 0, index: 0 }
    }
}

/// The files. Creates nothing before the first call.
pub(super) struct SegmentFiles {
    pub(super) state: StateDir,
    directory: Option<Arc<Directory>>,
    /// The error of opening a segment.
    #[cfg(test)]
    pub(super) failure: Option<io::ErrorKind>,
}

#[derive(Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) length: u64,
    /// Runs that are not settled.
    pub(super) left: u64,
    pub(super) written: Option<SystemTime>,
    pub(super) damaged: bool,
    /// `left` was counted by the content, not by the headers.
    pub(super) counted: bool,
}

impl Segment {
    pub(super) fn new(number: u64) -> Self {
        Self { number, length: 0, left: 0, written: None, damaged: false, counted: false }
    }
}

impl SegmentFiles {
    pub(super) fn new(state: StateDir) -> Self {
        Self {
            state,
            directory: None,
            #[cfg(test)]
            failure: None,
        }
    }

    pub(super) fn close(&mut self) {
        self.directory = None;
        self.state.close();
    }

    pub(super) fn directory(&mut self) -> io::Result<Arc<Directory>> {
        open_directory(&mut self.directory, &self.state, QUEUE)
    }

    /// The path of a segment, for messages.
    pub(super) fn path_of(&self, number: u64) -> PathBuf {
        self.state.path().join(QUEUE).join(name_of(number))
    }

    /// The numbers of the segments in the order of their age, and names like theirs with an invalid number.
    pub(super) fn list(&mut self) -> io::Result<(Vec<u64>, Vec<String>)> {
        let (mut numbers, mut foreign) = (Vec::new(), Vec::new());
        self.directory()?.names(|name| {
            let Some(digits) = name.strip_suffix(ENDING).filter(|it| it.bytes().all(|byte| byte.is_ascii_digit()))
            else {
                return;
            };
            match digits.parse() {
                Ok(number) if number < LIMIT && name_of(number) == name => numbers.push(number),
                _ => foreign.push(name.to_owned()),
            }
        })?;
        numbers.sort_unstable();
        Ok((numbers, foreign))
    }

    /// Opens a file and returns its length.
    pub(super) fn open(&mut self, name: &str) -> io::Result<(File, u64)> {
        #[cfg(test)]
        if let Some(kind) = self.failure {
            return Err(about(&self.directory()?.at(name), kind.into()));
        }
        let directory = self.directory()?;
        let file = directory.open_file(name)?;
        let length = file.metadata()?.len();
        if length > LARGEST {
            return Err(about(&directory.at(name), io::ErrorKind::FileTooLarge.into()));
        }
        Ok((file, length))
    }

    pub(super) fn read(&mut self, number: u64) -> io::Result<Vec<u8>> {
        let name = name_of(number);
        self.open(&name)?;
        self.directory()?.read(&name, LARGEST)
    }

    /// Counts the runs of a file behind the cursor, by its headers, or by its content when a header is damaged.
    pub(super) fn count(&mut self, name: &str, number: u64, cursor: Option<SegmentPosition>) -> io::Result<Segment> {
        let (file, length) = self.open(name)?;
        let mut segment = Segment { length, ..Segment::new(number) };
        let settled = |offset: u64, runs: u64| match cursor {
            Some(cursor) if offset < cursor.offset => runs,
            Some(cursor) if offset == cursor.offset => runs.min(cursor.index.saturating_add(1)),
            _ => 0,
        };
        let mut at = 0;
        let mut head = [0; HEAD];
        while at < length {
            let read = file.read_exact_at(&mut head, at);
            let found = read.ok().and_then(|()| segment::head(&head)).filter(|found| at + found.length <= length);
            let Some(found) = found else {
                let content = self.directory()?.read(name, LARGEST)?;
                return Ok(count_content(number, &content, settled));
            };
            segment.left += found.runs - settled(at, found.runs);
            segment.written.get_or_insert(found.written);
            at += found.length;
        }
        Ok(segment)
    }

    /// A file for the next segment, which has no number before [`SegmentFiles::publish`].
    pub(super) fn create(&mut self) -> io::Result<File> {
        self.directory()?.create_anew(NEW_SEGMENT)
    }

    /// Renames the last created file to this segment, and syncs the name.
    pub(super) fn publish(&mut self, number: u64) -> io::Result<()> {
        let directory = self.directory()?;
        let name = name_of(number);
        // Renaming would replace an existing file.
        if directory.entry(&name)?.is_some() {
            return Err(about(&directory.at(&name), io::ErrorKind::AlreadyExists.into()));
        }
        directory.rename(NEW_SEGMENT, &directory, &name)?;
        directory.sync().inspect_err(|_| drop(directory.remove(&name)))
    }

    pub(super) fn remove(&mut self, name: &str) -> io::Result<()> {
        self.directory()?.remove(name)
    }

    /// `SEGMENT OFFSET INDEX CHECKSUM`, in place of the one before.
    pub(super) fn write_cursor(&mut self, at: SegmentPosition) -> io::Result<()> {
        let directory = self.directory()?;
        let text = format!("{} {} {}", at.segment, at.offset, at.index);
        directory
            .replace(CURSOR, NEW_CURSOR, |mut file| file.write_all(format!("{text} {}\n", checksum(&text)).as_bytes()))
    }

    /// The cursor, if it is valid.
    pub(super) fn cursor(&mut self) -> Option<SegmentPosition> {
        let text = String::from_utf8(self.directory().ok()?.read(CURSOR, CURSOR_LENGTH).ok()?).ok()?;
        let (text, sum) = text.trim_end().rsplit_once(' ')?;
        let mut numbers = text.split(' ').map(str::parse);
        let mut number = || numbers.next()?.ok();
        let place = SegmentPosition { segment: number()?, offset: number()?, index: number()? };
        (sum == checksum(text) && place.segment < LIMIT).then_some(place)
    }
}

/// The open directory, or that of the state directory, created if it does not exist.
pub(super) fn open_directory(
    open: &mut Option<Arc<Directory>>,
    state: &StateDir,
    name: &str,
) -> io::Result<Arc<Directory>> {
    match open {
        Some(directory) if !directory.is_gone() => Ok(directory.clone()),
        open => Ok(open.insert(Arc::new(state.ready()?.subdirectory(name)?)).clone()),
    }
}

/// As wide as the largest number: names sort by age.
pub(super) fn name_of(number: u64) -> String {
    format!("{number:020}{ENDING}")
}

fn count_content(number: u64, content: &[u8], settled: impl Fn(u64, u64) -> u64) -> Segment {
    let mut segment = Segment { length: content.len() as u64, counted: true, ..Segment::new(number) };
    for (at, part) in segment::parts(content, 0) {
        segment.written = segment.written.or(part.written);
        segment.left += part.runs - settled(at as u64, part.runs);
    }
    segment
}

/// Number of runs from here on by the headers, if each leads to the next up to the end.
pub(super) fn runs_by_headers(content: &[u8], mut at: usize) -> Option<u64> {
    let mut runs = 0;
    while at < content.len() {
        let head = segment::head(content.get(at..)?)?;
        runs += head.runs;
        at = at.checked_add(usize::try_from(head.length).ok()?).filter(|next| *next <= content.len())?;
    }
    Some(runs)
}

fn checksum(text: &str) -> String {
    let mut sum = flate2::Crc::new();
    sum.update(text.as_bytes());
    format!("{:08x}", sum.sum())
}
