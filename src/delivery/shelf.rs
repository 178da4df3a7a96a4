//! What was put aside for a person to look at: refused runs, and segments in which something was damaged.
//!
//! Never sent by itself; `imaptrace replay` does. Within a budget of its own, the oldest file goes first. Called by
//! [`spool`](super::spool) alone.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use super::state::{about, make, sync};

/// The folder's name.
const SHELF: &str = "refused";

/// The folder.
pub(super) struct Shelf {
    folder: PathBuf,
    budget: u64,
}

impl Shelf {
    /// The one in this folder for state.
    pub(super) fn new(state: &Path, budget: u64) -> Self {
        Self { folder: state.join(SHELF), budget }
    }

    /// Puts a file with this content there, and gives its path.
    pub(super) fn put(&self, content: &[u8], now: SystemTime) -> io::Result<PathBuf> {
        make(&self.folder)?;
        let path =
            self.free(&format!("{:020}", now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()), ".jsonl.gz");
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let written = file.and_then(|mut file| file.write_all(content).and_then(|()| file.sync_data()));
        // The segment that has these runs as well may be deleted now: the name has to be on the disk, too.
        let written = written.and_then(|()| sync(&self.folder));
        if let Err(error) = written {
            // Half of it helps nobody, and takes room that is missing.
            let _removed = fs::remove_file(&path).is_ok();
            return Err(about(&path, &error));
        }
        self.trim();
        Ok(path)
    }

    /// Takes a damaged segment over.
    pub(super) fn take(&self, segment: &Path) -> io::Result<()> {
        make(&self.folder)?;
        let name = segment.file_name().unwrap_or_default().to_string_lossy();
        fs::rename(segment, self.free(&name, ".damaged"))?;
        sync(&self.folder)?;
        self.trim();
        Ok(())
    }

    /// Deletes the oldest until the rest is within the budget.
    fn trim(&self) {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let found = entries.filter_map(|entry| {
            let about = entry.metadata().ok()?;
            Some((about.modified().ok()?, entry.file_name(), about.len()))
        });
        let mut files: Vec<_> = found.collect();
        files.sort();
        let mut size: u64 = files.iter().map(|(_, _, length)| length).sum();
        // The newest stays, however large.
        files.pop();
        for (_, name, length) in files {
            if size <= self.budget {
                break;
            }
            size -= if fs::remove_file(self.folder.join(name)).is_ok() { length } else { 0 };
        }
    }

    /// A name that no other file has.
    fn free(&self, name: &str, ending: &str) -> PathBuf {
        let mut path = self.folder.join(format!("{name}{ending}"));
        let mut number = 1;
        while fs::symlink_metadata(&path).is_ok() {
            number += 1;
            path = self.folder.join(format!("{name}-{number}{ending}"));
        }
        path
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_oldest_file_goes_when_the_budget_is_passed_and_the_newest_stays_whatever_its_size() {
        let state = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(state.path(), 250);
        let at = |number: u64| UNIX_EPOCH + Duration::from_millis(number);
        let paths: Vec<_> = (1..=3).map(|number| shelf.put(&[0; 100], at(number)).unwrap()).collect();
        let there = |path: &PathBuf| path.exists();
        assert_eq!(paths.iter().map(there).collect::<Vec<_>>(), [false, true, true]);
        let large = shelf.put(&[0; 1000], at(4)).unwrap();
        assert_eq!(names(&state.path().join(SHELF)), [large.file_name().unwrap().to_str().unwrap()]);
    }

    #[test]
    fn files_of_one_moment_and_of_one_name_take_nothing_from_each_other() {
        let state = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(state.path(), 1000);
        for content in ["one", "two"] {
            shelf.put(content.as_bytes(), UNIX_EPOCH).unwrap();
            let segment = state.path().join("00001.jsonl.gz");
            fs::write(&segment, content).unwrap();
            shelf.take(&segment).unwrap();
        }
        let expected = [
            "00000000000000000000-2.jsonl.gz",
            "00000000000000000000.jsonl.gz",
            "00001.jsonl.gz-2.damaged",
            "00001.jsonl.gz.damaged",
        ];
        assert_eq!(names(&state.path().join(SHELF)), expected);
    }
}
