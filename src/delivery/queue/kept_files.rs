//! The files of a state directory that hold runs, for reading them beside a running agent.
//!
//! Takes no lock, and creates, moves and deletes nothing; everything is opened to be read, without following a link. Reads no
//! file itself: [`Lines`] does. Waits for the disk: called on a thread of its own, by `imaptrace show`.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{
    dead_letters::{DAMAGED, DIRECTORY as REFUSED},
    lines::Lines,
    segment_files::{ENDING, QUEUE},
};
use crate::state::{Directory, OWN, about};

/// The most files that are listed.
const MOST_FILES: usize = 100_000;

/// A file with runs in a state directory.
#[derive(Debug, Clone)]
pub struct KeptFile {
    directory: Arc<Directory>,
    name: String,
    /// When it was changed: no run in it is newer.
    pub modified: SystemTime,
    /// Its size on disk in bytes.
    pub size: u64,
    /// The newest of its directory: an agent may be writing to it.
    pub may_grow: bool,
    /// It is a dead letter.
    pub is_refused: bool,
}

impl KeptFile {
    /// Its path, for messages.
    pub fn path(&self) -> PathBuf {
        self.directory.at(&self.name)
    }

    /// Opens it; none when it is gone: what is delivered is deleted.
    pub fn lines(&self) -> io::Result<Option<Lines>> {
        match self.directory.open_file(&self.name) {
            Ok(file) => Lines::new(file).map(Some).map_err(|error| about(&self.path(), error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What a directory holds of runs.
#[derive(Debug, Default)]
pub struct KeptFiles {
    /// The files, the oldest first.
    pub files: Vec<KeptFile>,
    /// What could not be listed, and why.
    pub problems: Vec<String>,
}

impl KeptFiles {
    /// Lists the files of a state directory: its queue and its dead letters, in it or in our own directory in it; or those of
    /// a directory that has such files itself. None when it is no such directory.
    pub fn list(path: &Path) -> io::Result<Option<Self>> {
        let outer = Arc::new(Directory::open(path)?);
        let mut found = Self::default();
        found.add(&outer, false);
        let mut is_state = !found.files.is_empty();
        let own = found.open(&outer, OWN);
        is_state |= !found.problems.is_empty();
        for base in [Some(outer), own].into_iter().flatten() {
            for name in [REFUSED, QUEUE] {
                let before = found.problems.len();
                let directory = found.open(&base, name);
                is_state |= directory.is_some() || found.problems.len() > before;
                if let Some(directory) = directory {
                    found.add(&directory, name == REFUSED);
                }
            }
        }
        found.files.sort_by(|one, other| (one.modified, &one.name).cmp(&(other.modified, &other.name)));
        Ok(is_state.then_some(found))
    }

    /// The directory of this name, if it is there and can be opened.
    fn open(&mut self, base: &Directory, name: &str) -> Option<Arc<Directory>> {
        let opened = base.entry(name).and_then(|entry| match entry {
            Some(entry) if entry.is_directory() => base.open_directory(name).map(Some),
            Some(entry) if entry.is_link() => {
                let text = "this is a symbolic link, which is not followed";
                Err(about(&base.at(name), io::Error::other(text)))
            }
            // A file of any other purpose.
            _ => Ok(None),
        });
        let opened = opened.unwrap_or_else(|error| {
            self.problems.push(error.to_string());
            None
        });
        opened.map(Arc::new)
    }

    fn add(&mut self, directory: &Arc<Directory>, is_refused: bool) {
        let mut names = Vec::new();
        let mut more = false;
        let listed = directory.names(|name| {
            if name.ends_with(ENDING) || name.ends_with(DAMAGED) {
                more |= names.len() == MOST_FILES;
                if names.len() < MOST_FILES {
                    names.push(name.to_owned());
                }
            }
        });
        if more {
            self.problems.push(format!("{}: only {MOST_FILES} files are read", directory.path().display()));
        }
        self.problems.extend(listed.err().map(|error| error.to_string()));
        let newest = names.iter().filter(|name| name.ends_with(ENDING)).max().cloned();
        for name in names {
            match directory.entry(&name) {
                Ok(Some(entry)) => self.files.push(KeptFile {
                    modified: moment(entry.modified()),
                    size: entry.size_on_disk(),
                    may_grow: newest.as_ref() == Some(&name),
                    is_refused,
                    directory: directory.clone(),
                    name,
                }),
                // It was delivered meanwhile.
                Ok(None) => {}
                Err(error) => self.problems.push(error.to_string()),
            }
        }
    }
}

fn moment((seconds, nanos): (i64, i64)) -> SystemTime {
    let since = Duration::new(u64::try_from(seconds).unwrap_or_default(), u32::try_from(nanos).unwrap_or_default());
    UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;
    use crate::delivery::queue::segment::{self, tests::measured};

    fn names(found: &KeptFiles, root: &Path) -> Vec<String> {
        found.files.iter().map(|file| file.path().strip_prefix(root).unwrap().display().to_string()).collect()
    }

    fn write(path: &Path, at: u64) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, segment::pack(&[measured()], UNIX_EPOCH).unwrap()).unwrap();
        fs::File::options().write(true).open(path).unwrap().set_modified(UNIX_EPOCH + Duration::from_secs(at)).unwrap();
    }

    #[test]
    fn queue_and_dead_letters_are_listed_the_oldest_first_and_nothing_is_changed() {
        let state = tempfile::tempdir().unwrap();
        let root = state.path();
        write(&root.join("queue/00000000000000000002.jsonl.gz"), 30);
        write(&root.join("queue/00000000000000000001.jsonl.gz"), 20);
        write(&root.join("refused/00000000001795434160.jsonl.gz"), 10);
        write(&root.join("refused/00000000000000000009.jsonl.gz.damaged"), 5);
        write(&root.join("imaptrace/queue/00000000000000000007.jsonl.gz"), 40);
        for other in ["queue/cursor", "queue/segment.new", "latency.jsonl", "lock"] {
            fs::write(root.join(other), "x").unwrap();
        }
        let found = KeptFiles::list(root).unwrap().unwrap();
        let expected = [
            "refused/00000000000000000009.jsonl.gz.damaged",
            "refused/00000000001795434160.jsonl.gz",
            "queue/00000000000000000001.jsonl.gz",
            "queue/00000000000000000002.jsonl.gz",
            "imaptrace/queue/00000000000000000007.jsonl.gz",
        ];
        assert_eq!((names(&found, root), found.problems.len()), (expected.map(str::to_owned).to_vec(), 0));
        let growing: Vec<_> = found.files.iter().map(|file| file.may_grow).collect();
        assert_eq!(growing, [false, true, false, true, true]);
        let refused: Vec<_> = found.files.iter().map(|file| file.is_refused).collect();
        assert_eq!(refused, [true, true, false, false, false]);
        assert_eq!(found.files[0].lines().unwrap().unwrap().count(), 1);
        // The agent delivers it.
        fs::remove_file(found.files[2].path()).unwrap();
        assert!(found.files[2].lines().unwrap().is_none());
    }

    #[test]
    fn a_directory_of_such_files_is_one_too_and_any_other_is_none() {
        let state = tempfile::tempdir().unwrap();
        assert!(KeptFiles::list(state.path()).unwrap().is_none());
        write(&state.path().join("00000000000000000002.jsonl.gz"), 1);
        assert_eq!(KeptFiles::list(state.path()).unwrap().unwrap().files.len(), 1);
        assert!(KeptFiles::list(&state.path().join("none")).is_err());
        assert!(KeptFiles::list(&state.path().join("00000000000000000002.jsonl.gz")).is_err());
    }

    #[test]
    fn no_link_is_followed_and_no_fifo_is_waited_for() {
        let (state, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(&other.path().join("00000000000000000001.jsonl.gz"), 1);
        symlink(other.path(), state.path().join("queue")).unwrap();
        fs::create_dir(state.path().join("refused")).unwrap();
        symlink(other.path().join("00000000000000000001.jsonl.gz"), state.path().join("refused/1.jsonl.gz")).unwrap();
        nix::unistd::mkfifo(&state.path().join("refused/2.jsonl.gz"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let found = KeptFiles::list(state.path()).unwrap().unwrap();
        assert!(found.problems.len() == 1 && found.problems[0].contains("queue"), "{:?}", found.problems);
        for file in &found.files {
            assert!(file.lines().is_err(), "{file:?}");
        }
        assert_eq!(found.files.len(), 2);
    }
}
