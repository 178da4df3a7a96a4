//! The backlog on disk: segments in the order of their age, each a sequence of gzip members, and a cursor.
//!
//! A segment is deleted when all of it is delivered. The cursor records how far the oldest one is delivered, so that a restart
//! repeats little: without it some runs are sent twice, with the same ids. All operations wait for the disk. Reads no clock.
//! Called by [`Queue`](super::Queue), on threads that may wait.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::PathBuf,
    sync::Arc,
    time::SystemTime,
};

pub(super) use super::segment_files::SegmentPosition;
use imaptrace_record::Run;

use super::{
    dead_letters::DeadLetters,
    load::Load,
    segment,
    segment_files::{CURSOR, LIMIT, NEW_SEGMENT, Segment, SegmentFiles, name_of, runs_by_headers},
};
use crate::state::{NotRegularError, StateDir, about};

mod recovery;

/// The size of a full segment, which limits what damage or the budget can cost, and what is decompressed at once.
const FULL: u64 = 1 << 20;
/// The largest part of the budget for a segment: the oldest is deleted whole.
const PARTS: u64 = 8;
/// A completely delivered segment takes more runs until it has this size.
const WORTH_DELETING: u64 = 64 << 10;
/// Bytes of one write, so that a segment is not much larger than [`FULL`].
const AT_ONCE: usize = 8 << 20;
/// The most runs in a gzip member.
const GROUP: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Figures {
    /// Runs that are not settled.
    pub(super) runs: u64,
    /// Bytes of the segments that hold them.
    pub(super) bytes: u64,
    /// About when the oldest of them was written.
    pub(super) oldest: Option<SystemTime>,
    /// The oldest segment: places in older ones are gone.
    pub(super) first: u64,
}

#[derive(Debug, Default)]
pub(super) struct Written {
    /// The places of the runs, from the first one: as many as fitted.
    pub(super) places: Vec<SegmentPosition>,
    /// Segments that were deleted over the budget, with the number of unsettled runs in each.
    pub(super) dropped: BTreeMap<u64, u64>,
    /// Why the rest was not written.
    pub(super) failure: Option<io::Error>,
}

#[derive(Debug, Default)]
pub(super) struct ReadBack {
    pub(super) runs: Vec<(SegmentPosition, Run)>,
    /// Where to read on.
    pub(super) next: SegmentPosition,
    /// Runs that could not be read.
    pub(super) corrupt: u64,
    /// Segments whose file is missing or short, with the number of unsettled runs in each.
    pub(super) gone: BTreeMap<u64, u64>,
    /// The last problem with either.
    pub(super) damage: Option<String>,
    /// Why nothing can be read from `next` now. No run is lost.
    pub(super) failure: Option<io::Error>,
}

pub(super) struct Spool {
    files: SegmentFiles,
    budget: u64,
    segments: VecDeque<Segment>,
    /// The file of the newest segment, if it takes more.
    active: Option<File>,
    next: u64,
    /// The runs of an earlier process are counted.
    pub(super) loaded: bool,
    /// The disk was full at the last write.
    is_full: bool,
    /// The state directory is released.
    pub(super) closed: bool,
    /// The content of the segment that is being read.
    reading: Option<(u64, Vec<u8>)>,
    dead_letters: DeadLetters,
    /// What was found damaged while loading: how many runs it held, and the last problem.
    pub(super) damage: Option<(u64, String)>,
}

impl Spool {
    /// Creates nothing before the first call.
    pub(super) fn new(state: StateDir, budget: u64) -> Self {
        let dead_letters = DeadLetters::new(state.clone(), budget / 4);
        Self {
            files: SegmentFiles::new(state),
            budget,
            segments: VecDeque::new(),
            active: None,
            next: 1,
            loaded: false,
            is_full: false,
            closed: false,
            reading: None,
            dead_letters,
            damage: None,
        }
    }

    /// The error while the state directory does not respond.
    pub(super) fn pending_error(&self) -> Option<String> {
        let state = &self.files.state;
        state.hangs().then(|| state.ready().err().map(|error| error.to_string())).flatten()
    }

    /// Makes every attempt to open a segment fail, or none.
    #[cfg(test)]
    pub(super) fn fail_reads(&mut self, failure: Option<io::ErrorKind>) {
        (self.files.failure, self.reading) = (failure, None);
    }

    /// Appends runs and syncs them. Over the budget the oldest segments are deleted. On a full disk the first runs are written, as
    /// many as fit.
    pub(super) fn append(&mut self, runs: &[Arc<Run>], now: SystemTime) -> Written {
        let mut written = Written::default();
        // Begins with few runs after a full disk.
        let mut piece = if self.is_full { GROUP } else { runs.len() };
        let (mut rest, mut grows) = (runs, true);
        while !rest.is_empty() {
            let some = rest.get(..piece).unwrap_or(rest);
            match self.append_whole(some, now, &mut written) {
                Ok(count) => {
                    rest = rest.get(count..).unwrap_or_default();
                    self.is_full &= !rest.is_empty();
                    piece = if grows { piece.saturating_mul(2) } else { piece };
                }
                Err(error) if is_full(&error) && some.len() > 1 => {
                    (self.is_full, grows) = (true, false);
                    piece = GROUP.min(some.len() / 2);
                }
                Err(error) => {
                    self.is_full = is_full(&error);
                    written.failure = Some(error);
                    break;
                }
            }
        }
        written
    }

    /// Writes these runs, the first of very many, or none. Returns how many.
    fn append_whole(&mut self, runs: &[Arc<Run>], now: SystemTime, written: &mut Written) -> io::Result<usize> {
        let mut members = Vec::new();
        let mut offsets = Vec::new();
        let mut count = 0;
        for group in runs.chunks(GROUP) {
            if members.len() >= AT_ONCE {
                break;
            }
            count += group.len();
            offsets.push((members.len() as u64, group.len() as u64));
            members.extend(segment::pack(group.iter().map(AsRef::as_ref), now)?);
        }
        let full = FULL.min(self.budget / PARTS);
        // Runs that are written to a deleted file are lost.
        let gone = |file: &File| file.metadata().is_ok_and(|found| found.nlink() == 0);
        if self.active.as_ref().is_some_and(gone) || self.segments.back().is_some_and(|last| last.length >= full) {
            self.active = None;
        }
        if self.active.is_none() {
            self.create()?;
        }
        let (Some(file), Some(segment)) = (&self.active, self.segments.back_mut()) else { return Ok(count) };
        let (start, number) = (segment.length, segment.number);
        let done = file.write_all_at(&members, start).and_then(|()| file.sync_data());
        let done = if start == 0 { done.and_then(|()| self.files.publish(number)) } else { done };
        if let Err(error) = done {
            // A reader handles an incomplete member at the end only.
            let cut = file.set_len(start).is_ok();
            // A smaller piece may fit.
            if start == 0 || !cut || !is_full(&error) {
                self.active = None;
            }
            if start == 0 {
                self.segments.pop_back();
                let _ = self.files.remove(NEW_SEGMENT);
            }
            return Err(about(&self.files.path_of(number), error));
        }
        segment.length += members.len() as u64;
        segment.left += count as u64;
        segment.written.get_or_insert(now);
        for (offset, count) in offsets {
            let places =
                (0..count).map(|index| SegmentPosition { segment: segment.number, offset: start + offset, index });
            written.places.extend(places);
        }
        while self.segments.len() > 1 && self.segments.iter().map(|segment| segment.length).sum::<u64>() > self.budget {
            let Some(oldest) = self.segments.pop_front() else { break };
            written.dropped.insert(oldest.number, oldest.left);
            self.remove(&oldest);
        }
        Ok(count)
    }

    /// Reads from `from` up to `until` or the end: runs of at least `spans` spans, to the end of their member.
    pub(super) fn read(&mut self, from: SegmentPosition, until: Option<SegmentPosition>, spans: usize) -> ReadBack {
        let mut back = ReadBack { next: from, ..ReadBack::default() };
        let mut load = 0;
        while load < spans && until.is_none_or(|until| back.next < until) {
            let Some(number) =
                self.segments.iter().map(|segment| segment.number).find(|number| *number >= back.next.segment)
            else {
                back.next = back.next.max(self.end());
                break;
            };
            if number > back.next.segment {
                back.next = SegmentPosition::start(number);
                continue;
            }
            let at = back.next;
            let part = match self.content(number) {
                Ok(content) => segment::part(content, usize::try_from(at.offset).unwrap_or(usize::MAX)),
                Err(error) if is_gone(&error) => {
                    back.gone.insert(number, self.count_lost(number));
                    back.damage = Some(about(&self.files.path_of(number), error).to_string());
                    back.next = SegmentPosition::start(number + 1);
                    continue;
                }
                // No file descriptor, no permission, an I/O error: the content may be whole.
                Err(error) => {
                    back.failure = Some(about(&self.files.path_of(number), error));
                    break;
                }
            };
            let Some(part) = part else {
                if self.segments.back().is_some_and(|last| last.number == number) {
                    break;
                }
                back.next = SegmentPosition::start(number + 1);
                continue;
            };
            self.recount(number, at.offset, part.next as u64);
            back.next = SegmentPosition { offset: part.next as u64, index: 0, ..at };
            let path = self.files.path_of(number);
            let place = format!("{}, byte {}", path.display(), at.offset);
            let text = match part.text {
                Some(text) if !segment::is_foreign(&text) => text,
                other => {
                    let what = if other.is_some() { "this is no group of runs" } else { "the data are damaged" };
                    self.count_corrupt(number, part.runs, format!("{place}: {what}"), &mut back);
                    continue;
                }
            };
            let lines: Vec<_> = segment::lines(&text).collect();
            if at.index == 0
                && let Some(segment) = self.segment(number)
            {
                // The checksum covers the lines and not the header.
                segment.left = (segment.left + lines.len() as u64).saturating_sub(part.runs);
            }
            for (index, text) in (0..).zip(lines).skip_while(|(index, _)| *index < at.index) {
                let position = SegmentPosition { index, ..at };
                if until.is_some_and(|until| until <= position) {
                    back.next = position;
                    break;
                }
                match segment::line(text) {
                    Ok(run) => {
                        load += Load::of(&run).spans;
                        back.runs.push((position, run));
                    }
                    Err(error) => self.count_corrupt(number, 1, format!("{place}: {error}"), &mut back),
                }
            }
        }
        self.delete_settled();
        back
    }

    /// Counts runs of each segment as delivered or lost, and all runs up to `through`.
    pub(super) fn settle(&mut self, settled: &BTreeMap<u64, u64>, through: Option<SegmentPosition>) {
        for (number, runs) in settled {
            if let Some(segment) = self.segment(*number) {
                segment.left = segment.left.saturating_sub(*runs);
            }
        }
        if let Some(through) = through {
            self.remove_while(|oldest| oldest.number < through.segment);
            // Without the cursor runs are only sent twice.
            let _ = self.files.write_cursor(through);
        }
        self.delete_settled();
    }

    /// Keeps runs that the receiver refused, for `imaptrace replay`. Returns the file.
    pub(super) fn keep_dead_letters(&mut self, runs: &[Arc<Run>], now: SystemTime) -> io::Result<PathBuf> {
        self.dead_letters.put(&segment::pack(runs.iter().map(AsRef::as_ref), now)?, now)
    }

    /// The place after the newest run.
    pub(super) fn end(&self) -> SegmentPosition {
        let newest = self.segments.back();
        newest.map_or_else(
            || SegmentPosition::start(self.next),
            // The end of a segment that could not be read yet is after its start.
            |newest| SegmentPosition {
                offset: newest.length.max(u64::from(newest.left > 0)),
                ..SegmentPosition::start(newest.number)
            },
        )
    }

    pub(super) fn figures(&self) -> Figures {
        let waiting = || self.segments.iter().filter(|segment| segment.left > 0);
        Figures {
            runs: waiting().map(|segment| segment.left).sum(),
            bytes: waiting().map(|segment| segment.length).sum(),
            oldest: waiting().find_map(|segment| segment.written),
            first: self.segments.front().map_or(self.next, |segment| segment.number),
        }
    }

    /// Deletes completely delivered segments and releases the directory.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.active = None;
        self.remove_while(|oldest| oldest.left == 0);
        self.files.close();
        self.dead_letters.close();
    }

    fn remove_while(&mut self, done: impl Fn(&Segment) -> bool) {
        while self.segments.front().is_some_and(&done) {
            let Some(oldest) = self.segments.pop_front() else { break };
            self.remove(&oldest);
        }
    }

    /// Deletes the oldest segments that have no unsettled run.
    fn delete_settled(&mut self) {
        let newest = self.segments.back().filter(|_| self.active.is_some());
        let kept = newest.filter(|newest| newest.length < WORTH_DELETING).map(|newest| newest.number);
        self.remove_while(|oldest| oldest.left == 0 && Some(oldest.number) != kept);
        if self.segments.is_empty() {
            self.active = None;
        }
    }

    fn count_corrupt(&mut self, number: u64, runs: u64, what: String, back: &mut ReadBack) {
        if let Some(segment) = self.segment(number) {
            segment.left = segment.left.saturating_sub(runs);
            segment.damaged = true;
        }
        back.corrupt += runs;
        back.damage = Some(what);
    }

    /// Counts the runs of a segment as lost with its file. Returns their number.
    fn count_lost(&mut self, number: u64) -> u64 {
        if self.segments.back().is_some_and(|last| last.number == number) {
            self.active = None;
        }
        let Some(segment) = self.segment(number) else { return 0 };
        segment.damaged = true;
        std::mem::take(&mut segment.left)
    }

    fn segment(&mut self, number: u64) -> Option<&mut Segment> {
        self.segments.iter_mut().find(|segment| segment.number == number)
    }

    /// The content of a segment, without an incomplete member at the end.
    fn content(&mut self, number: u64) -> io::Result<&[u8]> {
        if self.segment(number).is_some_and(|segment| segment.length == 0) {
            // It could not be read when it was loaded.
            let cursor = self.files.cursor().filter(|cursor| cursor.segment == number);
            let found = self.files.count(&name_of(number), number, cursor)?;
            if found.length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(segment) = self.segment(number) {
                *segment = found;
            }
        }
        let length = self.segment(number).map_or(0, |segment| segment.length);
        if self.reading.as_ref().is_none_or(|(held, content)| *held != number || (content.len() as u64) < length) {
            let content = self.files.read(number)?;
            if (content.len() as u64) < length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.reading = Some((number, content));
        }
        let content = self.reading.as_ref().map_or(&[][..], |(_, content)| content);
        Ok(content.get(..usize::try_from(length).unwrap_or(usize::MAX)).unwrap_or(content))
    }

    /// Counts by the content from the first wrong header on: a segment whose headers count too few runs would be deleted too early.
    fn recount(&mut self, number: u64, at: u64, next: u64) {
        if self.segment(number).is_none_or(|segment| segment.counted) {
            return;
        }
        let (Ok(content), Ok(from)) = (self.content(number), usize::try_from(at)) else { return };
        let head = content.get(from..).and_then(segment::head);
        if head.is_some_and(|head| at + head.length == next) {
            return;
        }
        let (by_headers, by_content) =
            (runs_by_headers(content, from), segment::parts(content, from).map(|(_, part)| part.runs).sum::<u64>());
        if let (Some(by_headers), Some(segment)) = (by_headers, self.segment(number)) {
            segment.left = (segment.left + by_content).saturating_sub(by_headers);
            segment.counted = true;
        }
    }

    fn create(&mut self) -> io::Result<()> {
        if !self.loaded {
            self.load()?;
        }
        if self.next >= LIMIT {
            if !self.segments.is_empty() {
                let text = "no number is left behind those of the files there: they have to be delivered first";
                return Err(about(&self.files.path_of(self.next), io::Error::other(text)));
            }
            let _ = self.files.remove(CURSOR);
            self.next = 1;
        }
        let number = self.next;
        // An error with this number need not occur with the next.
        self.next += 1;
        self.active = Some(self.files.create()?);
        self.segments.push_back(Segment::new(number));
        Ok(())
    }

    /// Deletes the file, or keeps it as a dead letter if it is damaged.
    fn remove(&mut self, segment: &Segment) {
        if self.reading.as_ref().is_some_and(|(number, _)| *number == segment.number) {
            self.reading = None;
        }
        let _ = if segment.damaged {
            self.files.directory().and_then(|from| self.dead_letters.take(&from, &name_of(segment.number)))
        } else {
            self.files.remove(&name_of(segment.number))
        };
    }
}

/// Whether this error means that the file does not exist, is too short, or is not a segment.
fn is_gone(error: &io::Error) -> bool {
    let gone =
        matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof | io::ErrorKind::FileTooLarge);
    gone || NotRegularError::is(error)
}

/// Whether fewer bytes might fit after this error.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

#[cfg(test)]
mod tests;
