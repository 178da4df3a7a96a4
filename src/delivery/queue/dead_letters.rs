//! Dead letters: refused runs and damaged segments, kept in `refused/` for the operator.
//!
//! Refused batches are appended to segments, so that there are few files, within a budget that counts blocks on disk; the
//! oldest file is deleted first. The directory is listed at the first use and when the budget is used up, so the cost of a
//! batch does not grow with the number of files. `imaptrace replay` sends them. Called by [`spool`](super::spool).

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::PathBuf,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use super::segment_files::{ENDING, open_directory};
use crate::state::{Directory, StateDir, about};

pub(super) const DIRECTORY: &str = "refused";
pub(super) const DAMAGED: &str = ".damaged";
/// The largest size on disk of a segment of refused runs.
const FULL: u64 = 1 << 20;
/// Its largest part of the budget. After a listing that much is free; the next listing comes when it is used.
const PARTS: u64 = 8;
/// The unit of allocation of most file systems. Appending may take one more block, for metadata.
const BLOCK: u64 = 4096;
/// The least size of a file: the file system may store it without a block.
const LEAST: u64 = 512;

pub(super) struct DeadLetters {
    state: StateDir,
    directory: Option<Arc<Directory>>,
    budget: u64,
    /// The segment to append to.
    active: Option<ActiveSegment>,
    /// Bytes on disk of all files; none before the first listing.
    size: Option<u64>,
    /// Bytes that were added since the last listing.
    added: u64,
    #[cfg(test)]
    listings: u32,
}

struct ActiveSegment {
    name: String,
    file: File,
    length: u64,
    /// Bytes on disk.
    size: u64,
}

impl DeadLetters {
    pub(super) fn new(state: StateDir, budget: u64) -> Self {
        Self {
            state,
            directory: None,
            budget,
            active: None,
            size: None,
            added: 0,
            #[cfg(test)]
            listings: 0,
        }
    }

    /// Appends refused runs to the newest segment, syncs them, and returns its path.
    pub(super) fn put(&mut self, content: &[u8], now: SystemTime) -> io::Result<PathBuf> {
        let directory = self.directory()?;
        // An operator may have moved or deleted the segment.
        if self.active.as_ref().is_some_and(|active| active.size >= self.segment_size() || !active.is_in(&directory)) {
            self.active = None;
        }
        self.make_room(&directory, (content.len() as u64).next_multiple_of(BLOCK) + BLOCK);
        let active = match self.active.take() {
            Some(active) => active,
            None => create(&directory, now)?,
        };
        let (start, path) = (active.length, directory.at(&active.name));
        let written = active.file.write_all_at(content, start).and_then(|()| active.file.sync_data());
        // The queue's segment with these runs may be deleted next, so the name has to be synced, too.
        let written = if start == 0 { written.and_then(|()| directory.sync()) } else { written };
        if let Err(error) = written {
            let _ = if start == 0 { directory.remove(&active.name) } else { active.file.set_len(start) };
            return Err(about(&path, error));
        }
        let size = size_of(&active.file.metadata()?);
        self.add(size.saturating_sub(active.size));
        self.active = Some(ActiveSegment { length: start + content.len() as u64, size, ..active });
        Ok(path)
    }

    /// Moves a damaged file here from another directory.
    pub(super) fn take(&mut self, from: &Directory, name: &str) -> io::Result<()> {
        let directory = self.directory()?;
        let size = from.entry(name)?.map_or(0, |entry| entry.size_on_disk().max(LEAST));
        self.make_room(&directory, size);
        from.rename(name, &directory, &directory.free(name, DAMAGED)?)?;
        self.add(size);
        directory.sync()
    }

    pub(super) fn close(&mut self) {
        self.active = None;
        self.directory = None;
        self.state.close();
    }

    fn directory(&mut self) -> io::Result<Arc<Directory>> {
        open_directory(&mut self.directory, &self.state, DIRECTORY)
    }

    fn segment_size(&self) -> u64 {
        FULL.min(self.budget / PARTS)
    }

    fn add(&mut self, size: u64) {
        self.size = self.size.map(|known| known + size);
        self.added += size;
    }

    /// Deletes old files until `wanted` bytes fit into the budget.
    fn make_room(&mut self, directory: &Directory, wanted: u64) {
        let kept_free = self.segment_size().max(wanted);
        // Files that cannot be deleted or are too large do not cause a listing for each batch.
        if self.size.is_none_or(|size| size + wanted > self.budget && self.added >= self.segment_size()) {
            self.size = Some(self.trim(directory, self.budget.saturating_sub(kept_free)));
            self.added = 0;
        }
    }

    /// Deletes the oldest files until the rest is not larger than this. Returns its size.
    fn trim(&mut self, directory: &Directory, most: u64) -> u64 {
        #[cfg(test)]
        {
            self.listings += 1;
        }
        let mut files = list(directory);
        files.sort();
        let mut size = files.iter().map(|(.., size)| size).sum();
        let active = self.active.as_ref().map(|active| &active.name);
        for (_, name, freed) in files.iter().filter(|(_, name, _)| active != Some(name)) {
            if size <= most {
                break;
            }
            match directory.remove(name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {}
                _ => size -= freed,
            }
        }
        size
    }
}

/// The files there, as many as can be listed: when each was changed (seconds and nanoseconds), its name, its size.
fn list(directory: &Directory) -> Vec<((i64, i64), String, u64)> {
    let mut files = Vec::new();
    // Files listed before an error count.
    let _ = directory.names(|name| {
        if let Ok(Some(entry)) = directory.entry(name)
            && !entry.is_directory()
        {
            files.push((entry.modified(), name.to_owned(), entry.size_on_disk().max(LEAST)));
        }
    });
    files
}

fn create(directory: &Directory, now: SystemTime) -> io::Result<ActiveSegment> {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let name = directory.free(&format!("{:020}", since.as_millis()), ENDING)?;
    Ok(ActiveSegment { file: directory.create(&name)?, name, length: 0, size: 0 })
}

impl ActiveSegment {
    /// Whether its name in the directory still refers to it.
    fn is_in(&self, directory: &Directory) -> bool {
        let (Ok(Some(named)), Ok(open)) = (directory.entry(&self.name), self.file.metadata()) else { return false };
        named.is(&open)
    }
}

/// Allocated bytes: `st_blocks` counts blocks of 512 bytes on every file system (stat(2)).
fn size_of(file: &fs::Metadata) -> u64 {
    file.blocks().saturating_mul(512).max(LEAST)
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn on_disk(directory: &Path) -> u64 {
        fs::read_dir(directory).unwrap().map(|entry| size_of(&entry.unwrap().metadata().unwrap())).sum()
    }

    fn at(number: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(number)
    }

    #[test]
    fn refused_batches_are_appended_to_few_files_within_a_budget_of_blocks() {
        let state = tempfile::tempdir().unwrap();
        let directory = state.path().join(DIRECTORY);
        let budget = 16 * 8 * BLOCK;
        let mut dead_letters = DeadLetters::new(StateDir::open(state.path()).unwrap(), budget);
        let mut newest = PathBuf::new();
        for number in 0..1_500 {
            newest = dead_letters.put(&[7; 700], at(number)).unwrap();
            // A file system that allocates late may add a block to a file after it was measured.
            let late = names(&directory).len() as u64 * BLOCK;
            assert!(on_disk(&directory) <= budget + late, "{number}");
        }
        let files = names(&directory);
        assert!((6..=9).contains(&files.len()), "{files:?}");
        assert_eq!(files.last().map(String::as_str), newest.file_name().unwrap().to_str(), "the oldest go");
        // 1 MB came, and 32 KiB are added between two listings.
        assert!(dead_letters.listings <= 40, "{}", dead_letters.listings);
    }

    #[test]
    fn the_directory_is_listed_once_for_many_batches_however_many_files_are_there() {
        let state = tempfile::tempdir().unwrap();
        let directory = state.path().join(DIRECTORY);
        fs::create_dir(&directory).unwrap();
        let old = at(0);
        for number in 0..2_000 {
            let file = File::create(directory.join(format!("{number:020}{ENDING}"))).unwrap();
            file.set_modified(old).unwrap();
            io::Write::write_all(&mut &file, &[7; 700]).unwrap();
            file.set_modified(old + Duration::from_secs(number)).unwrap();
        }
        // An earlier version's files are as many as were within the budget by their lengths.
        let mut dead_letters = DeadLetters::new(StateDir::open(state.path()).unwrap(), 1_000 * BLOCK);
        for _ in 0..100 {
            dead_letters.put(&[7; 700], at(1_800_000_000_000)).unwrap();
        }
        assert_eq!(dead_letters.listings, 1);
        let left = names(&directory);
        assert!(on_disk(&directory) <= 1_000 * BLOCK && left.len() > 800, "{}", left.len());
        assert!(!left.contains(&format!("{:020}{ENDING}", 0)), "the oldest go");
        assert!(left.contains(&format!("{:020}{ENDING}", 1_999)), "what is within the budget stays");
    }

    #[test]
    fn a_large_file_is_kept_and_older_ones_are_deleted() {
        let state = tempfile::tempdir().unwrap();
        let mut dead_letters = DeadLetters::new(StateDir::open(state.path()).unwrap(), 16 * BLOCK);
        dead_letters.put(&[7; 10], at(1)).unwrap();
        fs::write(state.path().join("00001.jsonl.gz"), vec![7; 20 * 4096]).unwrap();
        dead_letters.active = None;
        dead_letters.added = u64::MAX / 2;
        dead_letters.take(&Directory::open(state.path()).unwrap(), "00001.jsonl.gz").unwrap();
        assert_eq!(names(&state.path().join(DIRECTORY)), ["00001.jsonl.gz.damaged"]);
        dead_letters.put(&[7; 10], at(2)).unwrap();
        let listings = dead_letters.listings;
        dead_letters.put(&[7; 10], at(2)).unwrap();
        assert_eq!(dead_letters.listings, listings, "what is too large by itself is looked at once");
    }

    #[test]
    fn a_segment_that_was_moved_away_or_deleted_takes_no_more() {
        let state = tempfile::tempdir().unwrap();
        let directory = state.path().join(DIRECTORY);
        let mut dead_letters = DeadLetters::new(StateDir::open(state.path()).unwrap(), 1 << 20);
        let first = dead_letters.put(b"one", at(1)).unwrap();
        assert_eq!(dead_letters.put(b"two", at(2)).unwrap(), first);
        let moved = state.path().join("moved");
        fs::rename(&first, &moved).unwrap();
        let second = dead_letters.put(b"three", at(3)).unwrap();
        assert_eq!((fs::read(&moved).unwrap(), fs::read(&second).unwrap()), (b"onetwo".to_vec(), b"three".to_vec()));
        fs::remove_dir_all(&directory).unwrap();
        let third = dead_letters.put(b"four", at(4)).unwrap();
        assert_eq!(fs::read(third).unwrap(), b"four");
    }

    #[test]
    fn files_of_one_moment_or_one_name_do_not_replace_each_other() {
        let state = tempfile::tempdir().unwrap();
        for content in ["one", "two"] {
            let mut dead_letters = DeadLetters::new(StateDir::open(state.path()).unwrap(), 1 << 20);
            dead_letters.put(content.as_bytes(), UNIX_EPOCH).unwrap();
            fs::write(state.path().join("00001.jsonl.gz"), content).unwrap();
            dead_letters.take(&Directory::open(state.path()).unwrap(), "00001.jsonl.gz").unwrap();
        }
        let expected = [
            "00000000000000000000-2.jsonl.gz",
            "00000000000000000000.jsonl.gz",
            "00001.jsonl.gz-2.damaged",
            "00001.jsonl.gz.damaged",
        ];
        assert_eq!(names(&state.path().join(DIRECTORY)), expected);
    }
}
