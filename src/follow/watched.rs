//! Detects that a file has changed, and decides when it is read: once two checks in a row show the same version, so that a
//! program can finish writing.

use std::{
    fs::Metadata,
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// A file that changes at every check is read after this many.
const MOST_CHECKS: u32 = 4;

/// The version of a file: device, inode, size, and the times of its content and of its inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileVersion {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileVersion {
    /// The version by the metadata of an open file.
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// The version of the file at a path, links followed; none when there is no file. Blocks.
    #[expect(clippy::disallowed_methods, reason = "inside a call of `blocking`")]
    pub fn at(path: &Path) -> io::Result<Option<Self>> {
        absent(std::fs::metadata(path).map(|metadata| Self::of(&metadata)))
    }
}

/// The versions of several files; none also for one whose metadata cannot be read.
pub type FileVersions = Vec<Option<FileVersion>>;

/// The versions of these files, in their order. Blocks.
pub fn versions(paths: &[PathBuf]) -> FileVersions {
    paths.iter().map(|path| FileVersion::at(path).ok().flatten()).collect()
}

/// None for a file that does not exist.
pub fn absent<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        other => other.map(Some),
    }
}

/// Decides by the version of one file or of several when they are read.
#[derive(Debug, Default)]
pub struct Changes<V> {
    /// The version in use; none before the first reading.
    used: Option<V>,
    /// A newer version, and the number of checks that have shown a change.
    seen: Option<(V, u32)>,
    /// It was read at the first check: a program may have been writing to it.
    unsure: bool,
}

impl<V: PartialEq + Clone> Changes<V> {
    /// Whether to read now. Called once per check; after a reading, call [`Changes::took`].
    pub fn is_due(&mut self, now: &V) -> bool {
        if self.used.is_none() || self.unsure {
            return true;
        }
        if self.used.as_ref() == Some(now) {
            self.seen = None;
            return false;
        }
        let checks = self.seen.as_ref().map_or(0, |(_, checks)| *checks) + 1;
        if self.seen.as_ref().is_some_and(|(seen, _)| seen == now) || checks > MOST_CHECKS {
            return true;
        }
        self.seen = Some((now.clone(), checks));
        false
    }

    /// This version has been read, and is in use or unusable.
    pub fn took(&mut self, version: V) {
        self.unsure = self.used.is_none();
        (self.used, self.seen) = (Some(version), None);
    }

    /// Whether a version has been read.
    pub fn has_read(&self) -> bool {
        self.used.is_some()
    }

    /// Whether the version is the one in use.
    pub fn is_used(&self, version: &V) -> bool {
        self.used.as_ref() == Some(version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_read_once_it_was_the_same_at_two_looks_or_never_rests() {
        let mut changes = Changes::default();
        assert!(changes.is_due(&1) && !changes.has_read());
        changes.took(1);
        // The first reading may have come in the middle of a writing.
        assert!(changes.is_due(&1));
        changes.took(1);
        assert!(!changes.is_due(&1) && changes.is_used(&1));
        assert!(!changes.is_due(&2));
        assert!(!changes.is_due(&3));
        assert!(changes.is_due(&3), "it was the same twice");
        changes.took(3);
        assert!(!changes.is_due(&3));
        let restless: Vec<_> = (4..12).map(|version| changes.is_due(&version)).collect();
        assert_eq!(restless.iter().position(|due| *due), Some(4), "{restless:?}");
        // One that is as before again was never a change.
        changes.took(20);
        assert!(!changes.is_due(&21) && !changes.is_due(&20) && !changes.is_due(&21));
    }

    #[test]
    fn a_version_is_that_of_the_file_which_a_link_leads_to_and_changes_with_every_way_to_replace_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let link = path("link");
        std::fs::write(path("one"), "a").unwrap();
        std::fs::write(path("two"), "a").unwrap();
        std::os::unix::fs::symlink(path("one"), &link).unwrap();
        let at = || FileVersion::at(&link).unwrap();
        let mut known = vec![at()];
        let mut changed = |how: &str| {
            let now = at();
            assert!(!known.contains(&now), "{how}");
            known.push(now);
        };
        std::fs::write(path("one"), "ab").unwrap();
        changed("written");
        std::fs::rename(path("two"), path("one")).unwrap();
        changed("renamed over");
        std::fs::write(path("three"), "a").unwrap();
        std::os::unix::fs::symlink(path("three"), path("new")).unwrap();
        std::fs::rename(path("new"), &link).unwrap();
        changed("another link");
        std::fs::remove_file(path("three")).unwrap();
        changed("gone");
    }
}
