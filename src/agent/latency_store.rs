//! Holds the latency history, and saves it in the state directory, if there is one. Called by the agent.
//!
//! The file is a copy: when it cannot be read or written, the agent continues with the history in memory. A damaged file, and
//! anything else than a regular file, is moved aside. A file that cannot be read is not changed, and nothing is saved before it
//! has been read. If the directory does not answer at the start, the file is read later, and of each account the longer series
//! are kept.

use std::{
    fs::File,
    io::{self, BufWriter, Write as _},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use imaptrace_record::Run;
use tracing::{info, warn};

use crate::{
    blocking,
    latency::{self, History, HistoryKey, Settings, Shift},
    state::{Directory, NotRegularError, StateDir},
};

/// Names in the state directory: the file, the one that is being written, and one that was moved aside, without its extension.
const FILE: &str = "latency.jsonl";
const NEW: &str = "latency.new";
const ASIDE: &str = "latency";
/// The shortest time between two saves.
const PAUSE: Duration = Duration::from_secs(60);
/// The most bytes written per second on average: with very many accounts the pause is longer.
const PACE: u64 = 64 << 10;
/// A larger file cannot be a history: 40,000 accounts need less.
const LARGEST: u64 = 256 << 20;

/// The latency history, and its file.
pub(super) struct LatencyStore {
    history: Mutex<History>,
    /// The rule for slow steps.
    pub(super) settings: Settings,
    /// Without one the history is in memory only.
    state: Option<StateDir>,
    /// The history has changed since the last save.
    changed: AtomicBool,
    /// The size of the file as last saved.
    saved: AtomicU64,
    /// Held while saving.
    saving: Mutex<Saving>,
}

struct Saving {
    /// The last save failed, which has been logged.
    failing: bool,
    /// The file has not been read yet: it may hold more than the history in memory.
    unread: bool,
}

impl LatencyStore {
    /// An empty store; [`LatencyStore::load`] reads the file.
    pub(super) fn new(settings: Settings, state: Option<StateDir>) -> Self {
        Self {
            history: Mutex::new(History::new(settings.clone())),
            settings,
            saving: Mutex::new(Saving { failing: false, unread: state.is_some() }),
            state,
            changed: AtomicBool::new(false),
            saved: AtomicU64::new(0),
        }
    }

    /// Loads the saved history of the accounts that are `wanted` (by target and account). Waits for the disk.
    pub(super) fn load(&self, wanted: impl Fn(&str, &str) -> bool) {
        let Some(state) = &self.state else { return };
        let mut saving = self.saving();
        if let Err(error) = self.read_first(state, &mut saving.unread, wanted) {
            saving.failing = true;
            // A directory that does not answer has been logged.
            if !state.hangs() {
                warn!(
                    %error,
                    "the latency history cannot be read: it stays as it is, and nothing is saved until it can; \
                     let the user that runs the agent read it, or move it away"
                );
            }
        }
    }

    /// The usual number of messages in a mailbox of an account, if it is known.
    pub(super) fn usual_messages(&self, key: &HistoryKey, mailbox: &str) -> Option<u64> {
        self.history().usual_messages(key, mailbox)
    }

    /// Marks the slow steps of a finished run, adds the run to the history, and returns the levels that have moved for good.
    pub(super) fn evaluate(&self, run: &mut Run) -> Vec<Shift> {
        let shifts = self.history().evaluate(run);
        self.changed.store(true, Ordering::Relaxed);
        shifts
    }

    /// Saves from time to time, for as long as it is polled.
    pub(super) async fn save_regularly(self: Arc<Self>) {
        loop {
            let size = self.saved.load(Ordering::Relaxed);
            tokio::time::sleep(PAUSE.max(Duration::from_secs(size / PACE))).await;
            self.save().await;
        }
    }

    /// Saves a changed history, on a thread where waiting for a disk delays no probe.
    pub(super) async fn save(self: &Arc<Self>) {
        if self.state.is_none() {
            return;
        }
        let this = self.clone();
        // Fails only after a panic, which has been reported.
        drop(blocking::work(move || this.save_now()).await);
    }

    fn save_now(&self) {
        let Some(state) = &self.state else { return };
        // Read under the lock: a second caller waits until the first one has written to the disk.
        let mut saving = self.saving();
        if !self.changed.swap(false, Ordering::Relaxed) {
            return;
        }
        // An account that is no longer in the configuration stays until the next start.
        let read = self.read_first(state, &mut saving.unread, |_, _| true);
        match read.and_then(|()| self.write(&*state.ready()?)) {
            Ok(size) => {
                self.saved.store(size, Ordering::Relaxed);
                if std::mem::take(&mut saving.failing) {
                    info!(file = %state.path().join(FILE).display(), "the latency history is saved again");
                }
            }
            Err(error) => {
                self.changed.store(true, Ordering::Relaxed);
                if !std::mem::replace(&mut saving.failing, true) {
                    warn!(
                        %error,
                        "the latency history cannot be saved and would be lost with a restart; \
                         is the directory there, writable, and is there room on the disk?"
                    );
                }
            }
        }
    }

    /// Loads the file unless that was done.
    fn read_first(&self, state: &StateDir, unread: &mut bool, wanted: impl Fn(&str, &str) -> bool) -> io::Result<()> {
        if *unread {
            let found = read(&self.settings, &*state.ready()?, wanted)?;
            self.history().merge(found);
            *unread = false;
        }
        Ok(())
    }

    /// Writes a new file, then renames it: at every moment one of the two is complete.
    fn write(&self, directory: &Directory) -> io::Result<u64> {
        let size = directory.replace(FILE, NEW, |file| {
            let size = self.write_synced(file).map_err(|error| about(directory, NEW, &error))?;
            if directory.entry(FILE)?.is_some_and(|entry| entry.is_directory()) {
                set_aside(directory, "it is a directory")?;
            }
            Ok(size)
        })?;
        directory.sync()?;
        Ok(size)
    }

    /// Writes all lines to the disk, and returns their size.
    fn write_synced(&self, file: File) -> io::Result<u64> {
        let mut file = BufWriter::new(file);
        writeln!(file, "{}", latency::HEAD)?;
        let keys = self.history().keys();
        for key in keys {
            // The lock is held for one account at a time.
            let line = self.history().line(&key);
            if let Some(line) = line {
                writeln!(file, "{line}")?;
            }
        }
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        Ok(file.metadata()?.len())
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn saving(&self) -> MutexGuard<'_, Saving> {
        self.saving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the file; a damaged one is moved aside, so that a new one can be written. The error names the path.
fn read(settings: &Settings, directory: &Directory, wanted: impl Fn(&str, &str) -> bool) -> io::Result<History> {
    let empty = || History::new(settings.clone());
    let (history, problem) = match directory.read(FILE, LARGEST) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(empty()),
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge || NotRegularError::is(&error) => {
            (empty(), error.to_string())
        }
        Err(error) => return Err(error),
        Ok(text) => match History::load(settings.clone(), &String::from_utf8_lossy(&text), wanted) {
            Ok((history, 0)) => return Ok(history),
            Ok((history, damaged)) => (history, format!("{damaged} damaged lines; the others are used")),
            Err(error) => (empty(), error.to_string()),
        },
    };
    set_aside(directory, &problem)?;
    Ok(history)
}

fn set_aside(directory: &Directory, problem: &str) -> io::Result<()> {
    let aside = directory.free(ASIDE, ".damaged").and_then(|aside| {
        directory.rename(FILE, directory, &aside)?;
        Ok(aside)
    });
    let aside = aside.map_err(|error| {
        let what = format!("{problem}; it cannot be set aside: {error}");
        about(directory, FILE, &io::Error::new(error.kind(), what))
    })?;
    let (file, aside) = (directory.at(FILE), directory.at(&aside));
    let (file, aside) = (file.display(), aside.display());
    warn!(%file, problem, %aside, "the latency history is damaged and was set aside; missing baselines are computed again");
    Ok(())
}

/// The error with its path.
fn about(directory: &Directory, name: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", directory.at(name).display()))
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt as _, symlink},
        path::Path,
    };

    use super::*;

    fn run() -> Run {
        serde_json::from_str(imaptrace_testkit::PASSED_RUN).unwrap()
    }

    fn open(dir: &Path) -> LatencyStore {
        open_for(dir, |_, _| true)
    }

    fn open_for(dir: &Path, wanted: impl Fn(&str, &str) -> bool) -> LatencyStore {
        let store = LatencyStore::new(Settings::default(), Some(StateDir::open(dir).unwrap()));
        store.load(wanted);
        store
    }

    /// As after so many passed runs.
    fn learned(dir: &Path, runs: usize) -> LatencyStore {
        let store = open(dir);
        (0..runs).for_each(|_| drop(store.evaluate(&mut run())));
        store
    }

    /// Whether every started step of the next run has a baseline.
    fn has_baselines(store: &LatencyStore) -> bool {
        let mut run = run();
        store.evaluate(&mut run);
        run.steps.iter().all(|step| step.baseline_s.is_some() == step.was_started())
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        // It exists as long as the directory is open.
        names.retain(|name| name != "lock");
        names.sort();
        names
    }

    #[tokio::test]
    async fn what_was_learned_outlives_the_process_in_a_file_that_only_its_owner_can_read() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("imaptrace");
        assert!(!has_baselines(&open(&dir)));
        Arc::new(learned(&dir, 20)).save().await;
        assert!(has_baselines(&open(&dir)));
        assert_eq!(names(&dir), [FILE], "nothing is left beside it");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&dir.join(FILE))), (0o700, 0o600));
    }

    #[tokio::test]
    async fn a_save_replaces_the_file_as_a_whole_and_only_when_something_was_learned() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(learned(dir.path(), 19));
        store.save().await;
        let file = dir.path().join(FILE);
        fs::remove_file(&file).unwrap();
        store.save().await;
        assert!(!file.exists());
        // A leftover of a save that a crash cut short is overwritten.
        fs::write(file.with_extension("new"), "half a li").unwrap();
        store.evaluate(&mut run());
        store.save().await;
        drop(store);
        assert!(has_baselines(&open(dir.path())));
        assert_eq!(names(dir.path()), [FILE]);
    }

    #[test]
    fn accounts_that_the_configuration_has_no_more_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        learned(dir.path(), 20).save_now();
        let wanted = |target: &str, account: &str| target == "mail01" && account == "default";
        assert!(has_baselines(&open_for(dir.path(), wanted)));
        assert!(!has_baselines(&open_for(dir.path(), |_, _| false)));
    }

    #[test]
    fn a_damaged_line_costs_its_account_alone_and_the_file_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        learned(dir.path(), 20).save_now();
        let file = dir.path().join(FILE);
        let damaged = fs::read_to_string(&file).unwrap() + "{\"target\":\"mail02\",\"acc";
        fs::write(&file, &damaged).unwrap();
        assert!(has_baselines(&open(dir.path())));
        assert_eq!(names(dir.path()), ["latency.damaged"]);
        assert_eq!(fs::read_to_string(dir.path().join("latency.damaged")).unwrap(), damaged);
    }

    #[test]
    fn a_file_of_another_kind_is_set_aside_and_all_is_learned_again() {
        for content in [&b"{\"format\":\"imaptrace latency\",\"version\":2}\n"[..], b"", b"\xff\x00\n"] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(FILE), content).unwrap();
            let store = open(dir.path());
            assert!(!has_baselines(&store));
            assert_eq!(fs::read(dir.path().join("latency.damaged")).unwrap(), content);
            (0..20).for_each(|_| drop(store.evaluate(&mut run())));
            store.save_now();
            drop(store);
            assert!(has_baselines(&open(dir.path())));
        }
    }

    #[test]
    fn a_second_damaged_file_takes_nothing_from_the_first() {
        let dir = tempfile::tempdir().unwrap();
        for content in ["one", "two", "three"] {
            fs::write(dir.path().join(FILE), content).unwrap();
            open(dir.path());
        }
        let aside = ["latency-2.damaged", "latency-3.damaged", "latency.damaged"];
        assert_eq!(names(dir.path()), aside);
        assert_eq!(aside.map(|name| fs::read_to_string(dir.path().join(name)).unwrap()), ["two", "three", "one"]);
    }

    #[test]
    fn what_is_no_file_is_set_aside_and_leads_nowhere() {
        let home = tempfile::tempdir().unwrap();
        let elsewhere = home.path().join("elsewhere");
        let make: [&dyn Fn(&Path); 4] = [
            &|path| symlink(&elsewhere, path).unwrap(),
            &|path| symlink("nowhere", path).unwrap(),
            &|path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
            &|path| fs::create_dir(path).unwrap(),
        ];
        for (number, make) in make.iter().enumerate() {
            fs::write(&elsewhere, "another's").unwrap();
            for name in [FILE, NEW] {
                let dir = home.path().join(format!("{number}-{name}"));
                fs::create_dir(&dir).unwrap();
                make(&dir.join(name));
                learned(&dir, 20).save_now();
                assert!(has_baselines(&open(&dir)), "{number} {name}");
                assert!(fs::symlink_metadata(dir.join(FILE)).unwrap().is_file());
                assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "another's");
            }
            let dir = home.path().join(format!("{number}-{FILE}"));
            assert_eq!(names(&dir), ["latency.damaged", FILE]);
        }
    }

    #[test]
    fn what_cannot_be_read_stays_and_is_taken_up_before_the_first_save() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("state");
        learned(&dir, 30).save_now();
        let kept = home.path().join("kept");
        fs::rename(&dir, &kept).unwrap();
        fs::write(&dir, "a file where the directory should be").unwrap();
        let store = learned(&dir, 5);
        for _ in 0..2 {
            store.save_now();
            assert!(store.saving().unread && store.changed.load(Ordering::Relaxed));
        }
        fs::remove_file(&dir).unwrap();
        fs::rename(&kept, &dir).unwrap();
        store.save_now();
        assert!(has_baselines(&store), "5 runs would not do");
        drop(store);
        assert!(has_baselines(&open(&dir)));
        assert_eq!(names(&dir), [FILE]);
    }

    #[test]
    fn a_file_that_could_be_read_late_takes_nothing_from_what_was_learned_meanwhile() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("state");
        learned(&dir, 5).save_now();
        let kept = home.path().join("kept");
        fs::rename(&dir, &kept).unwrap();
        fs::write(&dir, "a file where the directory should be").unwrap();
        let store = learned(&dir, 20);
        store.save_now();
        fs::remove_file(&dir).unwrap();
        fs::rename(&kept, &dir).unwrap();
        store.save_now();
        drop(store);
        assert!(has_baselines(&open(&dir)));
    }

    #[test]
    fn an_error_names_what_is_in_the_way() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("state");
        let error_of = |path: &Path| StateDir::open(path).unwrap().ready().unwrap_err().to_string();
        let deeper = dir.join("deeper");
        assert!(error_of(&deeper).starts_with(&format!("{}: ", deeper.display())), "{}", error_of(&deeper));
        fs::write(&dir, "a file where the directory should be").unwrap();
        assert!(error_of(&dir).starts_with(&format!("{}: ", dir.display())), "{}", error_of(&dir));
    }

    #[test]
    fn a_save_that_failed_is_tried_again() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("state");
        fs::write(&dir, "a file where the directory should be").unwrap();
        let store = learned(&dir, 20);
        for _ in 0..2 {
            store.save_now();
            assert!(store.saving().failing && store.changed.load(Ordering::Relaxed));
        }
        fs::remove_file(&dir).unwrap();
        store.save_now();
        assert!(!store.saving().failing);
        drop(store);
        assert!(has_baselines(&open(&dir)));
    }

    #[test]
    fn without_a_directory_all_is_in_memory() {
        let store = LatencyStore::new(Settings::default(), None);
        store.load(|_, _| true);
        (0..20).for_each(|_| drop(store.evaluate(&mut run())));
        store.save_now();
        assert!(has_baselines(&store));
    }
}
