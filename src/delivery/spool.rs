//! The backlog on disk: segments in the order of their age, each a row of members, and a cursor.
//!
//! `queue/` in the folder for state holds the segments, `refused/` what was put aside: runs that the receiver refused, and
//! segments in which something was damaged. A segment is deleted when all of it was delivered; the cursor says how far
//! the oldest one was, so that a restart repeats little. It may be lost: then some runs go out twice, with the same ids.
//!
//! Everything in here waits for the disk. Knows nothing of memory, order among runs, receivers and clocks' ticking; that
//! is [`queue`](super::queue), which alone calls it, from threads that may wait.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use super::{
    member::{self, HEAD, Piece},
    order::Load,
    shelf::Shelf,
    state::{StateDir, about, make, sync},
};
use crate::record::Run;

/// The folder of the segments.
const QUEUE: &str = "queue";
/// The file that says how far the oldest segment was delivered.
const CURSOR: &str = "cursor";
/// How a segment's name ends.
const ENDING: &str = ".jsonl.gz";
/// A segment is full at this size: what a damaged or over-budget one can cost, and what is unpacked at once.
const FULL: u64 = 1 << 20;
/// And at this part of the budget: the oldest goes whole.
const PARTS: u64 = 8;
/// A segment that was delivered to its end takes more runs until it is as large as this.
const WORTH_DELETING: u64 = 64 << 10;
/// Runs in a member at most.
const GROUP: usize = 64;

/// Where a run is on disk. In the order of age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// The segment's number.
    pub(super) segment: u64,
    /// Where its member begins.
    offset: u64,
    /// Which line it is there.
    index: u64,
}

impl Place {
    /// Where this segment begins.
    pub(super) fn start(segment: u64) -> Self {
        Self { segment, offset: 0, index: 0 }
    }
}

/// What is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Figures {
    /// Runs that were not delivered yet.
    pub(super) runs: u64,
    /// Bytes of the segments that hold them.
    pub(super) bytes: u64,
    /// When the oldest of them was written, nearly.
    pub(super) oldest: Option<SystemTime>,
    /// The oldest segment: a place in one before is gone.
    pub(super) first: u64,
}

/// What came of writing runs.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// Where each run is now, from the first on: as many as there was room for.
    pub(super) places: Vec<Place>,
    /// Segments that had to go for it, and how many runs in each had not been delivered.
    pub(super) dropped: BTreeMap<u64, u64>,
    /// Why the rest of them was not written.
    pub(super) failure: Option<io::Error>,
}

/// What was read back.
#[derive(Debug)]
pub(super) struct ReadBack {
    /// Runs in the order of their age.
    pub(super) runs: Vec<(Place, Run)>,
    /// Where to read on.
    pub(super) next: Place,
    /// Runs that could not be read.
    pub(super) corrupt: u64,
    /// Segments whose file is gone or short, and how many runs in each had not been delivered.
    pub(super) gone: BTreeMap<u64, u64>,
    /// What was the matter with the last of these.
    pub(super) damage: Option<String>,
    /// Why nothing can be read on from `next` at present. All that is there stays.
    pub(super) failure: Option<io::Error>,
}

/// The backlog.
pub(super) struct Spool {
    state: StateDir,
    budget: u64,
    segments: VecDeque<Segment>,
    /// The newest segment, if it takes more.
    active: Option<File>,
    next: u64,
    loaded: bool,
    /// The disk had no room for all that was written last.
    is_full: bool,
    /// It is another's from now on.
    pub(super) closed: bool,
    /// The content of the segment that is being read.
    reading: Option<(u64, Vec<u8>)>,
    shelf: Shelf,
}

struct Segment {
    number: u64,
    length: u64,
    /// Runs that were not delivered yet.
    left: u64,
    written: Option<SystemTime>,
    damaged: bool,
    /// What is left was counted by what is there, not by what headers say of it.
    counted: bool,
}

impl Spool {
    /// The backlog of this folder. Touches nothing before the first call.
    pub(super) fn new(state: StateDir, budget: u64) -> Self {
        let shelf = Shelf::new(&state.path(), budget / 4);
        Self {
            state,
            budget,
            segments: VecDeque::new(),
            active: None,
            next: 1,
            loaded: false,
            is_full: false,
            closed: false,
            reading: None,
            shelf,
        }
    }

    /// Why it is in nobody's way that nothing was looked at yet; none when the state directory has answered.
    pub(super) fn unanswered(&self) -> Option<String> {
        self.state.hangs().then(|| self.state.ready().err().map(|error| error.to_string())).flatten()
    }

    /// Whether it was looked at what an earlier process left.
    pub(super) fn is_loaded(&self) -> bool {
        self.loaded
    }

    /// Looks at what an earlier process left, once. Gives where reading begins, if there is anything to be read.
    pub(super) fn load(&mut self) -> io::Result<Option<Place>> {
        if self.loaded {
            return Ok(None);
        }
        self.state.ready()?;
        self.shelf = Shelf::new(&self.state.path(), self.budget / 4);
        let mut numbers = self.numbers()?;
        numbers.sort_unstable();
        // One that points into no segment was left by a process that had delivered everything.
        let known = self.cursor();
        let cursor = known.filter(|cursor| numbers.contains(&cursor.segment));
        self.next = numbers.last().copied().max(known.map(|cursor| cursor.segment)).unwrap_or(0) + 1;
        for number in numbers {
            let cursor = cursor.filter(|cursor| cursor.segment >= number);
            match self.survey(number, cursor) {
                Ok(segment) if cursor.is_none_or(|cursor| cursor.segment == number) && segment.left > 0 => {
                    self.segments.push_back(segment);
                }
                // Delivered to its end, or before the cursor.
                Ok(segment) => self.remove(&segment),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(_) if cursor.is_some_and(|cursor| cursor.segment > number) => {}
                // It stays where it is, and is looked at again when it is its turn to be read.
                Err(_) => {
                    self.segments.push_back(Segment {
                        number,
                        length: 0,
                        left: 1,
                        written: None,
                        damaged: false,
                        counted: false,
                    });
                }
            }
        }
        self.loaded = true;
        let first = self.segments.front().map(|segment| segment.number);
        let behind = |cursor: Place| Place { index: cursor.index + 1, ..cursor };
        Ok(first
            .map(|first| cursor.filter(|cursor| cursor.segment == first).map_or_else(|| Place::start(first), behind)))
    }

    /// Writes runs to the end; they are on the disk when this comes back. Over the budget the oldest segments go. On a disk
    /// without room for all of them, the oldest are written, as many as it takes.
    pub(super) fn append(&mut self, runs: &[Arc<Run>], now: SystemTime) -> Written {
        let mut written = Written::default();
        // A disk that was full the last time is tried with little: what does not fit is packed in vain.
        let mut piece = if self.is_full { GROUP } else { runs.len() };
        let (mut rest, mut grows) = (runs, true);
        while !rest.is_empty() {
            let (some, others) = rest.split_at(piece.min(rest.len()));
            match self.append_whole(some, now, &mut written) {
                Ok(()) => {
                    rest = others;
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

    /// Writes all of these runs, or none.
    fn append_whole(&mut self, runs: &[Arc<Run>], now: SystemTime, written: &mut Written) -> io::Result<()> {
        let mut members = Vec::new();
        let mut offsets = Vec::new();
        for group in runs.chunks(GROUP) {
            offsets.push((members.len() as u64, group.len() as u64));
            members.extend(member::pack(group.iter().map(AsRef::as_ref), now)?);
        }
        let full = FULL.min(self.budget / PARTS);
        // Somebody may have deleted the file: what is written to it then is nowhere.
        let gone = |file: &File| file.metadata().is_ok_and(|found| found.nlink() == 0);
        if self.active.as_ref().is_some_and(gone) || self.segments.back().is_some_and(|last| last.length >= full) {
            self.active = None;
        }
        if self.active.is_none() {
            self.create()?;
        }
        let (Some(file), Some(segment)) = (&self.active, self.segments.back_mut()) else { return Ok(()) };
        let start = segment.length;
        if let Err(error) = file.write_all_at(&members, start).and_then(|()| file.sync_data()) {
            // What half a group looks like is known to the reader; a file that goes on behind it is not.
            let cut = file.set_len(start).is_ok();
            let number = segment.number;
            // A smaller piece may fit behind what is there.
            if start == 0 || !cut || !is_full(&error) {
                self.active = None;
            }
            if start == 0 {
                self.segments.pop_back();
                let _removed = fs::remove_file(self.path_of(number)).is_ok();
            }
            return Err(about(&self.path_of(number), &error));
        }
        segment.length += members.len() as u64;
        segment.left += runs.len() as u64;
        segment.written.get_or_insert(now);
        for (offset, count) in offsets {
            let places = (0..count).map(|index| Place { segment: segment.number, offset: start + offset, index });
            written.places.extend(places);
        }
        while self.segments.len() > 1 && self.segments.iter().map(|segment| segment.length).sum::<u64>() > self.budget {
            let Some(oldest) = self.segments.pop_front() else { break };
            written.dropped.insert(oldest.number, oldest.left);
            self.remove(&oldest);
        }
        Ok(())
    }

    /// Reads on at `from`, up to `until` or the end: as many runs as have `spans` spans, and the rest of their group.
    pub(super) fn read(&mut self, from: Place, until: Option<Place>, spans: usize) -> ReadBack {
        let gone = BTreeMap::new();
        let mut back = ReadBack { runs: Vec::new(), next: from, corrupt: 0, gone, damage: None, failure: None };
        let mut load = 0;
        while load < spans && until.is_none_or(|until| back.next < until) {
            let Some(number) =
                self.segments.iter().map(|segment| segment.number).find(|number| *number >= back.next.segment)
            else {
                back.next = self.end();
                break;
            };
            if number > back.next.segment {
                back.next = Place::start(number);
                continue;
            }
            let at = back.next;
            let piece = match self.content(number) {
                Ok(content) => member::piece(content, usize::try_from(at.offset).unwrap_or(usize::MAX)),
                Err(error) if is_gone(&error) => {
                    back.gone.insert(number, self.give_up(number));
                    back.damage = Some(about(&self.path_of(number), &error).to_string());
                    back.next = Place::start(number + 1);
                    continue;
                }
                // No file descriptor, no permission, a disk that errs: what is in it may be whole.
                Err(error) => {
                    back.failure = Some(about(&self.path_of(number), &error));
                    break;
                }
            };
            if let Some(Piece::Whole { next, .. } | Piece::Damaged { next, .. }) = &piece {
                self.recount(number, at.offset, *next as u64);
            }
            match piece {
                None if self.segments.back().is_some_and(|last| last.number == number) => break,
                None => back.next = Place::start(number + 1),
                Some(Piece::Damaged { runs, next }) => {
                    let what = format!("{}, byte {}: the data are damaged", self.path_of(number).display(), at.offset);
                    self.spoiled(number, runs, what, &mut back);
                    back.next = Place { offset: next as u64, index: 0, ..at };
                }
                Some(Piece::Whole { text, head, next }) if member::is_foreign(&text) => {
                    let runs = member::told(&text, head);
                    let what =
                        format!("{}, byte {}: this is no group of runs", self.path_of(number).display(), at.offset);
                    self.spoiled(number, runs, what, &mut back);
                    back.next = Place { offset: next as u64, index: 0, ..at };
                }
                Some(Piece::Whole { text, head, next }) => {
                    let lines: Vec<_> = member::lines(&text).collect();
                    if at.index == 0
                        && let Some(segment) = self.segment(number)
                    {
                        // The header is under no checksum; the lines are.
                        let told = member::told(&text, head);
                        segment.left = (segment.left + lines.len() as u64).saturating_sub(told);
                    }
                    back.next = Place { offset: next as u64, index: 0, ..at };
                    for (index, text) in (0..).zip(lines).skip_while(|(index, _)| *index < at.index) {
                        let place = Place { index, ..at };
                        if until.is_some_and(|until| until <= place) {
                            back.next = place;
                            break;
                        }
                        match member::line(text) {
                            Ok(run) => {
                                load += Load::of(&run).spans;
                                back.runs.push((place, run));
                            }
                            Err(error) => {
                                let path = self.path_of(number);
                                let what = format!("{}, byte {}: {error}", path.display(), at.offset);
                                self.spoiled(number, 1, what, &mut back);
                            }
                        }
                    }
                }
            }
        }
        self.tidy();
        back
    }

    /// Notes runs as delivered, or given up: so many in each of these segments. All up to `through` are.
    pub(super) fn settle(&mut self, settled: &BTreeMap<u64, u64>, through: Option<Place>) {
        for (number, runs) in settled {
            if let Some(segment) = self.segment(*number) {
                segment.left = segment.left.saturating_sub(*runs);
            }
        }
        if let Some(through) = through {
            self.remove_while(|oldest| oldest.number < through.segment);
            // It only saves repetition.
            let _written = self.write_cursor(through).is_ok();
        }
        self.tidy();
    }

    /// Puts runs aside that the receiver refused, for `imaptrace replay`. Gives the file.
    pub(super) fn put_aside(&mut self, runs: &[Arc<Run>], now: SystemTime) -> io::Result<PathBuf> {
        self.state.ready()?;
        self.shelf.put(&member::pack(runs.iter().map(AsRef::as_ref), now)?, now)
    }

    /// Behind the newest run.
    pub(super) fn end(&self) -> Place {
        let newest = self.segments.back();
        newest.map_or_else(
            || Place::start(self.next),
            |newest| Place { offset: newest.length, ..Place::start(newest.number) },
        )
    }

    /// What is here now.
    pub(super) fn figures(&self) -> Figures {
        let waiting = || self.segments.iter().filter(|segment| segment.left > 0);
        Figures {
            runs: waiting().map(|segment| segment.left).sum(),
            bytes: waiting().map(|segment| segment.length).sum(),
            oldest: waiting().find_map(|segment| segment.written),
            first: self.segments.front().map_or(self.next, |segment| segment.number),
        }
    }

    /// Deletes what was delivered to its end, and lets go of the folder: nothing is written to it any more.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.active = None;
        self.remove_while(|oldest| oldest.left == 0);
        self.state.let_go();
    }

    fn remove_while(&mut self, done: impl Fn(&Segment) -> bool) {
        while self.segments.front().is_some_and(&done) {
            let Some(oldest) = self.segments.pop_front() else { break };
            self.remove(&oldest);
        }
    }

    /// Deletes the oldest segments of which nothing is left.
    fn tidy(&mut self) {
        let newest = self.segments.back().filter(|_| self.active.is_some());
        let kept = newest.filter(|newest| newest.length < WORTH_DELETING).map(|newest| newest.number);
        self.remove_while(|oldest| oldest.left == 0 && Some(oldest.number) != kept);
        if self.segments.is_empty() {
            self.active = None;
        }
    }

    fn spoiled(&mut self, number: u64, runs: u64, what: String, back: &mut ReadBack) {
        if let Some(segment) = self.segment(number) {
            segment.left = segment.left.saturating_sub(runs);
            segment.damaged = true;
        }
        back.corrupt += runs;
        back.damage = Some(what);
    }

    /// The file of this segment holds no more what was written to it. Gives how many runs were left in it.
    fn give_up(&mut self, number: u64) -> u64 {
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

    /// All of a segment that was written; what stands behind that is half a group.
    fn content(&mut self, number: u64) -> io::Result<&[u8]> {
        if self.segment(number).is_some_and(|segment| segment.length == 0) {
            // It could not be read at the start.
            let found = self.survey(number, self.cursor().filter(|cursor| cursor.segment == number))?;
            if found.length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(segment) = self.segment(number) {
                *segment = found;
            }
        }
        let length = self.segment(number).map_or(0, |segment| segment.length);
        if self.reading.as_ref().is_none_or(|(held, content)| *held != number || (content.len() as u64) < length) {
            let content = fs::read(self.path_of(number))?;
            if (content.len() as u64) < length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.reading = Some((number, content));
        }
        let content = self.reading.as_ref().map_or(&[][..], |(_, content)| content);
        Ok(content.get(..usize::try_from(length).unwrap_or(usize::MAX)).unwrap_or(content))
    }

    /// Headers were believed when the segment was counted. From the first on that is wrong, its content is: it would be
    /// deleted before its end if they told of fewer runs than there are.
    fn recount(&mut self, number: u64, at: u64, next: u64) {
        if self.segment(number).is_none_or(|segment| segment.counted) {
            return;
        }
        let (Ok(content), Ok(from)) = (self.content(number), usize::try_from(at)) else { return };
        let head = content.get(from..).and_then(member::head);
        if head.is_some_and(|head| at + head.length == next) {
            return;
        }
        let (told, there) = (runs_by_headers(content, from), runs_by_content(content, from));
        if let (Some(told), Some(segment)) = (told, self.segment(number)) {
            segment.left = (segment.left + there).saturating_sub(told);
            segment.counted = true;
        }
    }

    /// Counts the runs of a segment that lie behind the cursor, by its headers, and by its content where they fail.
    fn survey(&self, number: u64, cursor: Option<Place>) -> io::Result<Segment> {
        let file = File::open(self.path_of(number))?;
        let length = file.metadata()?.len();
        let mut segment = Segment { number, length, left: 0, written: None, damaged: false, counted: false };
        let settled = |offset: u64, runs: u64| match cursor {
            Some(cursor) if offset < cursor.offset => runs,
            Some(cursor) if offset == cursor.offset => runs.min(cursor.index + 1),
            _ => 0,
        };
        let mut at = 0;
        let mut head = [0; HEAD];
        while at < length {
            let read = file.read_exact_at(&mut head, at);
            let found = read.ok().and_then(|()| member::head(&head)).filter(|found| at + found.length <= length);
            let Some(found) = found else { return self.survey_content(segment, settled) };
            segment.left += found.runs - settled(at, found.runs);
            segment.written.get_or_insert(found.written);
            at += found.length;
        }
        Ok(segment)
    }

    fn survey_content(&self, mut segment: Segment, settled: impl Fn(u64, u64) -> u64) -> io::Result<Segment> {
        let content = fs::read(self.path_of(segment.number))?;
        (segment.left, segment.written, segment.length) = (0, None, content.len() as u64);
        segment.counted = true;
        let mut at = 0;
        while let Some(piece) = member::piece(&content, at) {
            let (runs, after) = match piece {
                Piece::Whole { text, head, next } => {
                    segment.written = segment.written.or_else(|| head.map(|head| head.written));
                    (member::told(&text, head), next)
                }
                Piece::Damaged { runs, next } => (runs, next),
            };
            segment.left += runs - settled(at as u64, runs);
            at = after;
        }
        Ok(segment)
    }

    fn numbers(&self) -> io::Result<Vec<u64>> {
        let folder = self.folder();
        make(&folder)?;
        let entries = fs::read_dir(&folder).map_err(|error| about(&folder, &error))?;
        let number = |name: &str| name.strip_suffix(ENDING)?.parse().ok();
        Ok(entries.filter_map(|entry| number(entry.ok()?.file_name().to_str()?)).collect())
    }

    fn create(&mut self) -> io::Result<()> {
        if !self.loaded {
            self.load()?;
        }
        let folder = self.folder();
        make(&folder)?;
        let number = self.next;
        // Whatever stands in the way of this one need not stand in the way of the next.
        self.next += 1;
        let path = self.path_of(number);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|error| about(&path, &error))?;
        // The name, too, has to be on the disk.
        sync(&folder).inspect_err(|_| drop(fs::remove_file(&path)))?;
        self.active = Some(file);
        self.segments.push_back(Segment { number, length: 0, left: 0, written: None, damaged: false, counted: false });
        Ok(())
    }

    /// Of a damaged one, somebody may still make something.
    fn remove(&mut self, segment: &Segment) {
        if self.reading.as_ref().is_some_and(|(number, _)| *number == segment.number) {
            self.reading = None;
        }
        let path = self.path_of(segment.number);
        let _gone = if segment.damaged { self.shelf.take(&path).is_ok() } else { fs::remove_file(path).is_ok() };
    }

    /// `SEGMENT OFFSET INDEX CHECKSUM`, in place of the one before.
    fn write_cursor(&self, at: Place) -> io::Result<()> {
        let folder = self.folder();
        let text = format!("{} {} {}", at.segment, at.offset, at.index);
        let beside = folder.join("cursor.new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(format!("{text} {}\n", checksum(&text)).as_bytes())?;
        fs::rename(beside, folder.join(CURSOR))
    }

    fn cursor(&self) -> Option<Place> {
        let text = fs::read_to_string(self.folder().join(CURSOR)).ok()?;
        let (text, sum) = text.trim_end().rsplit_once(' ')?;
        let mut numbers = text.split(' ').map(str::parse);
        let mut number = || numbers.next()?.ok();
        let place = Place { segment: number()?, offset: number()?, index: number()? };
        (sum == checksum(text)).then_some(place)
    }

    fn folder(&self) -> PathBuf {
        self.state.path().join(QUEUE)
    }

    fn path_of(&self, number: u64) -> PathBuf {
        segment_path(&self.state.path(), number)
    }
}

/// The runs from here on, if each header leads to the next up to the end.
fn runs_by_headers(content: &[u8], mut at: usize) -> Option<u64> {
    let mut runs = 0;
    while at < content.len() {
        let head = member::head(content.get(at..)?)?;
        runs += head.runs;
        at = at.checked_add(usize::try_from(head.length).ok()?).filter(|next| *next <= content.len())?;
    }
    Some(runs)
}

/// The runs from here on, by looking at all that is there.
fn runs_by_content(content: &[u8], mut at: usize) -> u64 {
    let mut runs = 0;
    while let Some(piece) = member::piece(content, at) {
        let (found, next) = match piece {
            Piece::Whole { text, head, next } => (member::told(&text, head), next),
            Piece::Damaged { runs, next } => (runs, next),
        };
        runs += found;
        at = next;
    }
    runs
}

fn segment_path(state: &Path, number: u64) -> PathBuf {
    // As wide as the largest number: names sort by age.
    state.join(QUEUE).join(format!("{number:020}{ENDING}"))
}

/// Whether a file that gives this error is not there, or not all of it.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof)
}

/// Whether the error means that less might fit.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

fn checksum(text: &str) -> String {
    let mut sum = flate2::Crc::new();
    sum.update(text.as_bytes());
    format!("{:08x}", sum.sum())
}

#[cfg(test)]
mod tests;
