//! Loads the segments of an earlier process, and quarantines files that are none of its own. Runs once for each [`Spool`].
//! Called by the [writer](crate::delivery::queue::writer).

use std::io;

use super::{SegmentPosition, Spool, is_gone};
use crate::delivery::queue::segment_files::{Segment, name_of};

impl Spool {
    /// Counts the runs of an earlier process, once. Returns where reading begins, if there are any.
    pub(in crate::delivery::queue) fn load(&mut self) -> io::Result<Option<SegmentPosition>> {
        if self.loaded {
            return Ok(None);
        }
        let (numbers, foreign) = self.files.list()?;
        // A process that had delivered everything leaves a cursor into no segment; a cursor after the end of its segment is
        // invalid.
        let known = self.files.cursor();
        let cursor = known.filter(|cursor| {
            numbers.contains(&cursor.segment)
                && match self.files.open(&name_of(cursor.segment)) {
                    Ok((_, length)) => cursor.offset < length,
                    // The segment may be whole.
                    Err(error) => !is_gone(&error),
                }
        });
        self.next = numbers.last().copied().max(known.map(|cursor| cursor.segment)).unwrap_or(0) + 1;
        for name in foreign {
            let runs = self.files.count(&name, 0, None).map_or(1, |segment| segment.left.max(1));
            self.quarantine(&name, runs, "no segment has this number");
        }
        for number in numbers {
            // All up to the cursor was delivered and deleted: this file was copied here, or restored.
            let name = name_of(number);
            if cursor.is_some_and(|cursor| cursor.segment > number) {
                let runs = self.files.count(&name, number, None).map_or(1, |segment| segment.left.max(1));
                self.quarantine(&name, runs, "it is older than what was delivered last");
                continue;
            }
            match self.files.count(&name, number, cursor.filter(|cursor| cursor.segment == number)) {
                Ok(segment) if segment.left > 0 => self.segments.push_back(segment),
                Ok(segment) if segment.length > 0 => self.remove(&segment),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // It is examined again when it is to be read.
                Ok(_) | Err(_) => self.segments.push_back(Segment { left: 1, ..Segment::new(number) }),
            }
        }
        self.loaded = true;
        let first = self.segments.front().map(|segment| segment.number);
        let behind = |cursor: SegmentPosition| SegmentPosition { index: cursor.index.saturating_add(1), ..cursor };
        Ok(first.map(|first| {
            cursor.filter(|cursor| cursor.segment == first).map_or_else(|| SegmentPosition::start(first), behind)
        }))
    }

    fn quarantine(&mut self, name: &str, runs: u64, why: &str) {
        let Ok(directory) = self.files.directory() else { return };
        let text = match self.dead_letters.take(&directory, name) {
            Ok(()) => format!("{}: {why}", directory.at(name).display()),
            Err(error) => format!("{}: {why}; it cannot be quarantined: {error}", directory.at(name).display()),
        };
        let before = self.damage.take().map_or(0, |(runs, _)| runs);
        self.damage = Some((before + runs, text));
    }
}
