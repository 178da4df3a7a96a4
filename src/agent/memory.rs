//! Keeps the latency history while the agent runs, and over restarts when there is a folder for state.
//!
//! What is saved is a copy: whatever goes wrong with the file, the agent goes on with what it has in memory. A file that
//! was read and is damaged is set aside; one that could not be read stays as it is, and nothing is saved before it could.
//! Decides nothing; the verdicts are `latency`'s. Called by the agent.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufWriter, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tracing::{info, warn};

use crate::{
    latency::{self, History, Settings},
    record::{Run, Seconds},
};

/// The file's name in the folder for state.
const FILE: &str = "latency.jsonl";
/// At least this long from one save to the next.
const PAUSE: Duration = Duration::from_secs(60);
/// Bytes written per second in the long run, at most: with very many accounts the pause is longer.
const PACE: u64 = 64 << 10;
/// A larger file is none of ours: 40,000 accounts need less.
const LARGEST: u64 = 256 << 20;

/// The history, and the file that it outlives the process in.
pub(super) struct Memory {
    history: Mutex<History>,
    settings: Settings,
    /// Without one all is in memory only.
    file: Option<PathBuf>,
    /// Something was learned since the last save.
    changed: AtomicBool,
    /// The size of the file as last saved.
    saved: AtomicU64,
    /// Held while saving.
    saving: Mutex<Saving>,
}

/// How saving goes.
#[derive(Default)]
struct Saving {
    /// The last one failed, which has been told.
    failing: bool,
    /// The file could not be read yet: it may hold more than is known here.
    unread: bool,
}

impl Memory {
    /// Takes up what was saved in the folder for the accounts that are `wanted` (by target and account), if anything.
    pub(super) fn open(settings: Settings, folder: Option<&Path>, wanted: impl Fn(&str, &str) -> bool) -> Self {
        let file = folder.map(|folder| folder.join(FILE));
        let read =
            file.as_deref().map_or_else(|| Ok(History::new(settings.clone())), |file| read(&settings, file, wanted));
        let (history, unread) = match read {
            Ok(history) => (history, false),
            Err(error) => {
                warn!(
                    %error,
                    "the latency history cannot be read: it stays as it is, and nothing is saved until it can; \
                     let the user that runs the agent read it, or move it away"
                );
                (History::new(settings.clone()), true)
            }
        };
        Self {
            history: Mutex::new(history),
            settings,
            file,
            changed: AtomicBool::new(false),
            saved: AtomicU64::new(0),
            saving: Mutex::new(Saving { failing: unread, unread }),
        }
    }

    /// When a step is slow.
    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Adds the verdicts to a finished run, learns from it, and tells of levels that have moved for good.
    pub(super) fn judge(&self, run: &mut Run) {
        let shifts = self.history().judge(run);
        self.changed.store(true, Ordering::Relaxed);
        for shift in shifts {
            let (target, account, journey) = (run.target.as_str(), run.account.as_str(), run.journey.as_str());
            let (from_s, to_s) = (Seconds::as_f64(shift.from), Seconds::as_f64(shift.to));
            let (family, step) = (run.family.as_deref(), shift.step);
            info!(target, account, family, journey, step, from_s, to_s, "what a step usually takes has shifted");
        }
    }

    /// Saves now and then, for as long as it is polled.
    pub(super) async fn keep(self: Arc<Self>) {
        loop {
            let size = self.saved.load(Ordering::Relaxed);
            tokio::time::sleep(PAUSE.max(Duration::from_secs(size / PACE))).await;
            self.save().await;
        }
    }

    /// Saves what was learned since the last time, on a thread where waiting for a disk delays no probe.
    pub(super) async fn save(self: &Arc<Self>) {
        if self.file.is_none() {
            return;
        }
        let this = self.clone();
        // It ends with an error only when it panicked, which has been told.
        drop(tokio::task::spawn_blocking(move || this.save_now()).await);
    }

    fn save_now(&self) {
        let Some(file) = &self.file else { return };
        // Asked behind the lock: whoever comes second waits until what the first one writes is on the disk.
        let mut saving = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.changed.swap(false, Ordering::Relaxed) {
            return;
        }
        match self.read_first(file, &mut saving.unread).and_then(|()| self.write(file)) {
            Ok(size) => {
                self.saved.store(size, Ordering::Relaxed);
                if std::mem::take(&mut saving.failing) {
                    info!(file = %file.display(), "the latency history is saved again");
                }
            }
            Err(error) => {
                self.changed.store(true, Ordering::Relaxed);
                if !std::mem::replace(&mut saving.failing, true) {
                    warn!(
                        %error,
                        "the latency history cannot be saved and would be lost with a restart; \
                         is the folder there, writable, and is there room on the disk?"
                    );
                }
            }
        }
    }

    /// Takes up what the file holds if it could not be read before. An account that the configuration has no more stays
    /// until the next start.
    fn read_first(&self, file: &Path, unread: &mut bool) -> io::Result<()> {
        if *unread {
            let found = read(&self.settings, file, |_, _| true)?;
            self.history().take_up(found);
            *unread = false;
        }
        Ok(())
    }

    fn write(&self, path: &Path) -> io::Result<u64> {
        let folder = folder_of(path);
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if !folder.is_dir() => return Err(about(folder, &error)),
            _ => {}
        }
        self.replace(path, folder).map_err(|error| about(path, &error))
    }

    /// Writes beside the file, then puts the new one in its place: at every moment one of the two is whole.
    fn replace(&self, path: &Path, folder: &Path) -> io::Result<u64> {
        let beside = path.with_extension("new");
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = BufWriter::new(OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?);
        writeln!(file, "{}", latency::HEAD)?;
        let keys = self.history().keys();
        for key in keys {
            let line = self.history().line(&key);
            if let Some(line) = line {
                writeln!(file, "{line}")?;
            }
        }
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        // The new name, too, has to be on the disk.
        File::open(folder)?.sync_all()?;
        Ok(file.metadata()?.len())
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the file holds. One that was read and is damaged is set aside, so that it may be written again. The error is that
/// it could not be read or not be set aside, and says which path it is about.
fn read(settings: &Settings, path: &Path, wanted: impl Fn(&str, &str) -> bool) -> io::Result<History> {
    let text = fs::metadata(path)
        .and_then(|found| if found.len() > LARGEST { Err(io::ErrorKind::FileTooLarge.into()) } else { fs::read(path) });
    let (history, problem) = match text {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(History::new(settings.clone())),
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            (History::new(settings.clone()), error.to_string())
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Err(about(folder_of(path), &error)),
        Err(error) => return Err(about(path, &error)),
        Ok(text) => match History::load(settings.clone(), &String::from_utf8_lossy(&text), wanted) {
            Ok((history, 0)) => return Ok(history),
            Ok((history, damaged)) => (history, format!("{damaged} damaged lines; the others are used")),
            Err(error) => (History::new(settings.clone()), error.to_string()),
        },
    };
    let aside = aside(path);
    fs::rename(path, &aside).map_err(|error| {
        let what = format!("{}: {problem}; it cannot be set aside: {error}", path.display());
        io::Error::new(error.kind(), what)
    })?;
    let (file, aside) = (path.display(), aside.display());
    warn!(%file, problem, %aside, "the latency history is damaged and was set aside; what it lacks is learned anew");
    Ok(history)
}

/// A name for a damaged file that no other has.
fn aside(path: &Path) -> PathBuf {
    let mut aside = path.with_extension("damaged");
    let mut number = 1;
    while fs::symlink_metadata(&aside).is_ok() {
        number += 1;
        aside = path.with_extension(format!("damaged.{number}"));
    }
    aside
}

fn folder_of(file: &Path) -> &Path {
    file.parent().unwrap_or_else(|| Path::new("."))
}

/// The error with the path that it is about.
fn about(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn run() -> Run {
        serde_json::from_str(include_str!("../../tests/support/runs/passed.json")).unwrap()
    }

    fn open(folder: &Path) -> Memory {
        Memory::open(Settings::default(), Some(folder), |_, _| true)
    }

    /// As after so many passed runs.
    fn learned(folder: &Path, runs: usize) -> Memory {
        let memory = open(folder);
        (0..runs).for_each(|_| memory.judge(&mut run()));
        memory
    }

    /// Whether it has a verdict on the next run.
    fn knows(memory: &Memory) -> bool {
        let mut run = run();
        memory.judge(&mut run);
        run.steps.iter().all(|step| step.baseline_s.is_some() == step.was_started())
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn what_was_learned_outlives_the_process_in_a_file_that_only_its_owner_can_read() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("imaptrace");
        assert!(!knows(&open(&folder)));
        Arc::new(learned(&folder, 20)).save().await;
        assert!(knows(&open(&folder)));
        assert_eq!(names(&folder), [FILE], "nothing is left beside it");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&folder.join(FILE))), (0o700, 0o600));
    }

    #[tokio::test]
    async fn a_save_replaces_the_file_as_a_whole_and_only_when_something_was_learned() {
        let folder = tempfile::tempdir().unwrap();
        let memory = Arc::new(learned(folder.path(), 19));
        memory.save().await;
        let file = folder.path().join(FILE);
        fs::remove_file(&file).unwrap();
        memory.save().await;
        assert!(!file.exists());
        // A leftover of a save that a crash cut short is in nobody's way.
        fs::write(file.with_extension("new"), "half a li").unwrap();
        memory.judge(&mut run());
        memory.save().await;
        assert!(knows(&open(folder.path())));
        assert_eq!(names(folder.path()), [FILE]);
    }

    #[test]
    fn accounts_that_the_configuration_has_no_more_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        learned(folder.path(), 20).save_now();
        let wanted = |target: &str, account: &str| target == "mail01" && account == "default";
        assert!(knows(&Memory::open(Settings::default(), Some(folder.path()), wanted)));
        assert!(!knows(&Memory::open(Settings::default(), Some(folder.path()), |_, _| false)));
    }

    #[test]
    fn a_damaged_line_costs_its_account_alone_and_the_file_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        learned(folder.path(), 20).save_now();
        let file = folder.path().join(FILE);
        let damaged = fs::read_to_string(&file).unwrap() + "{\"target\":\"mail02\",\"acc";
        fs::write(&file, &damaged).unwrap();
        assert!(knows(&open(folder.path())));
        assert_eq!(names(folder.path()), ["latency.damaged"]);
        assert_eq!(fs::read_to_string(folder.path().join("latency.damaged")).unwrap(), damaged);
    }

    #[test]
    fn a_file_of_another_kind_is_set_aside_and_all_is_learned_anew() {
        for content in [&b"{\"format\":\"imaptrace latency\",\"version\":2}\n"[..], b"", b"\xff\x00\n"] {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(FILE), content).unwrap();
            let memory = open(folder.path());
            assert!(!knows(&memory));
            assert_eq!(fs::read(folder.path().join("latency.damaged")).unwrap(), content);
            (0..20).for_each(|_| memory.judge(&mut run()));
            memory.save_now();
            assert!(knows(&open(folder.path())));
        }
    }

    #[test]
    fn a_second_damaged_file_takes_nothing_from_the_first() {
        let folder = tempfile::tempdir().unwrap();
        for content in ["one", "two", "three"] {
            fs::write(folder.path().join(FILE), content).unwrap();
            open(folder.path());
        }
        let aside = ["latency.damaged", "latency.damaged.2", "latency.damaged.3"];
        assert_eq!(names(folder.path()), aside);
        assert_eq!(aside.map(|name| fs::read_to_string(folder.path().join(name)).unwrap()), ["one", "two", "three"]);
    }

    #[test]
    fn what_cannot_be_read_stays_and_is_taken_up_before_the_first_save() {
        let folder = tempfile::tempdir().unwrap();
        learned(folder.path(), 30).save_now();
        let (file, kept) = (folder.path().join(FILE), folder.path().join("kept"));
        fs::rename(&file, &kept).unwrap();
        // A link to itself cannot be read, not even by root; it could be renamed and replaced.
        std::os::unix::fs::symlink(FILE, &file).unwrap();
        let memory = learned(folder.path(), 5);
        for _ in 0..2 {
            memory.save_now();
            assert!(memory.saving.lock().unwrap().unread && memory.changed.load(Ordering::Relaxed));
            assert!(fs::symlink_metadata(&file).unwrap().is_symlink());
            assert_eq!(names(folder.path()), ["kept", FILE]);
        }
        fs::rename(&kept, &file).unwrap();
        memory.save_now();
        assert!(knows(&memory), "5 runs would not do");
        assert!(knows(&open(folder.path())));
        assert_eq!(names(folder.path()), [FILE]);
    }

    #[test]
    fn a_file_that_could_be_read_late_takes_nothing_from_what_was_learned_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        learned(folder.path(), 5).save_now();
        let (file, kept) = (folder.path().join(FILE), folder.path().join("kept"));
        fs::rename(&file, &kept).unwrap();
        fs::create_dir(&file).unwrap();
        let memory = learned(folder.path(), 20);
        memory.save_now();
        fs::remove_dir(&file).unwrap();
        fs::rename(&kept, &file).unwrap();
        memory.save_now();
        assert!(knows(&open(folder.path())));
    }

    #[test]
    fn an_error_names_what_is_in_the_way() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("state");
        let missing = open(&folder.join("deeper"));
        let said = missing.write(&folder.join("deeper").join(FILE)).unwrap_err().to_string();
        assert!(said.starts_with(&format!("{}: ", folder.join("deeper").display())), "{said}");
        fs::write(&folder, "a file where the folder should be").unwrap();
        for said in [
            read(&Settings::default(), &folder.join(FILE), |_, _| true).unwrap_err(),
            open(&folder).write(&folder.join(FILE)).unwrap_err(),
        ] {
            assert!(said.to_string().starts_with(&format!("{}: ", folder.display())), "{said}");
        }
        fs::create_dir(home.path().join(FILE)).unwrap();
        let said = read(&Settings::default(), &home.path().join(FILE), |_, _| true).unwrap_err().to_string();
        assert!(said.starts_with(&format!("{}: ", home.path().join(FILE).display())), "{said}");
    }

    #[test]
    fn a_disk_that_takes_nothing_is_told_once_and_tried_again() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("state");
        let memory = learned(&folder, 20);
        fs::write(&folder, "a file where the folder should be").unwrap();
        for _ in 0..2 {
            memory.save_now();
            assert!(memory.saving.lock().unwrap().failing && memory.changed.load(Ordering::Relaxed));
        }
        fs::remove_file(&folder).unwrap();
        memory.save_now();
        assert!(!memory.saving.lock().unwrap().failing);
        assert!(knows(&open(&folder)));
    }

    #[test]
    fn without_a_folder_all_is_in_memory() {
        let memory = Memory::open(Settings::default(), None, |_, _| true);
        (0..20).for_each(|_| memory.judge(&mut run()));
        memory.save_now();
        assert!(knows(&memory));
    }
}
