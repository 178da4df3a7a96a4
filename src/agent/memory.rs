//! Keeps the latency history while the agent runs, and over restarts when there is a folder for state.
//!
//! What is saved is a copy: whatever goes wrong with the file, the agent goes on with what it has in memory. A file that
//! was read and is damaged is set aside, and so is what is no file; one that could not be read stays as it is, and nothing
//! is saved before it could. A directory that does not answer at the start is read when it does, and what was learned
//! meanwhile is kept where it rests on more runs. Decides nothing; the verdicts are `latency`'s. Called by the agent.

use std::{
    fs::File,
    io::{self, BufWriter},
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
    latency::{self, History, Settings, Shift},
    state::{Directory, NotRegularError, StateDir},
};

/// The file's name in the state directory.
const FILE: &str = "latency.jsonl";
/// The one that is being written.
const NEW: &str = "latency.new";
/// How one is called that was set aside, with an ending.
const ASIDE: &str = "latency";
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
    state: Option<StateDir>,
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
    /// Nothing is known yet: [`Memory::load`] reads what was saved in the directory.
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

    /// Takes up what was saved for the accounts that are `wanted` (by target and account), if anything. Waits for the disk;
    /// what cannot be read now is taken up before the first save.
    pub(super) fn load(&self, wanted: impl Fn(&str, &str) -> bool) {
        let Some(state) = &self.state else { return };
        let mut saving = self.saving();
        if let Err(error) = self.read_first(state, &mut saving.unread, wanted) {
            saving.failing = true;
            // That has been reported.
            if !state.hangs() {
                warn!(
                    %error,
                    "the latency history cannot be read: it stays as it is, and nothing is saved until it can; \
                     let the user that runs the agent read it, or move it away"
                );
            }
        }
    }

    /// When a step is slow.
    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Adds the verdicts to a finished run, learns from it, and gives the levels that have moved for good.
    pub(super) fn evaluate(&self, run: &mut Run) -> Vec<Shift> {
        let shifts = self.history().evaluate(run);
        self.changed.store(true, Ordering::Relaxed);
        shifts
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
        if self.state.is_none() {
            return;
        }
        let this = self.clone();
        // It ends with an error only when it panicked, which has been told.
        drop(blocking::work(move || this.save_now()).await);
    }

    fn save_now(&self) {
        let Some(state) = &self.state else { return };
        // Asked behind the lock: whoever comes second waits until what the first one writes is on the disk.
        let mut saving = self.saving();
        if !self.changed.swap(false, Ordering::Relaxed) {
            return;
        }
        // An account that the configuration has no more stays until the next start.
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

    /// Takes up what the file holds unless that was done.
    fn read_first(&self, state: &StateDir, unread: &mut bool, wanted: impl Fn(&str, &str) -> bool) -> io::Result<()> {
        if *unread {
            let found = read(&self.settings, &*state.ready()?, wanted)?;
            self.history().merge(found);
            *unread = false;
        }
        Ok(())
    }

    /// Writes beside the file, then puts the new one in its place: at every moment one of the two is whole.
    fn write(&self, directory: &Directory) -> io::Result<u64> {
        let size = directory.replace(FILE, NEW, |file| {
            let size = self.write_synced(file).map_err(|error| about(directory, NEW, &error))?;
            if directory.entry(FILE)?.is_some_and(|entry| entry.is_directory()) {
                set_aside(directory, "it is a directory")?;
            }
            Ok(size)
        })?;
        // The new name, too, has to be on the disk.
        directory.sync()?;
        Ok(size)
    }

    /// Writes all lines, brings them to the disk, and gives their size.
    fn write_synced(&self, file: File) -> io::Result<u64> {
        let mut file = BufWriter::new(file);
        self.write_lines(&mut file)?;
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        Ok(file.metadata()?.len())
    }

    fn write_lines(&self, file: &mut impl io::Write) -> io::Result<()> {
        writeln!(file, "{}", latency::HEAD)?;
        let keys = self.history().keys();
        for key in keys {
            let line = self.history().line(&key);
            if let Some(line) = line {
                writeln!(file, "{line}")?;
            }
        }
        Ok(())
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn saving(&self) -> MutexGuard<'_, Saving> {
        self.saving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the file holds. One that was read and is damaged is set aside, so that it may be written again, and so is what is
/// no file. The error is that it could not be read or not be set aside, and says which path it is about.
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

/// Gives what has the file's name another one.
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
    warn!(%file, problem, %aside, "the latency history is damaged and was set aside; what it lacks is learned anew");
    Ok(())
}

/// The error with the path that it is about.
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

    fn open(folder: &Path) -> Memory {
        open_for(folder, |_, _| true)
    }

    fn open_for(folder: &Path, wanted: impl Fn(&str, &str) -> bool) -> Memory {
        let memory = Memory::new(Settings::default(), Some(StateDir::open(folder).unwrap()));
        memory.load(wanted);
        memory
    }

    /// As after so many passed runs.
    fn learned(folder: &Path, runs: usize) -> Memory {
        let memory = open(folder);
        (0..runs).for_each(|_| drop(memory.evaluate(&mut run())));
        memory
    }

    /// Whether it has a verdict on the next run.
    fn knows(memory: &Memory) -> bool {
        let mut run = run();
        memory.evaluate(&mut run);
        run.steps.iter().all(|step| step.baseline_s.is_some() == step.was_started())
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        // It is there as long as somebody has the directory.
        names.retain(|name| name != "lock");
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
        memory.evaluate(&mut run());
        memory.save().await;
        drop(memory);
        assert!(knows(&open(folder.path())));
        assert_eq!(names(folder.path()), [FILE]);
    }

    #[test]
    fn accounts_that_the_configuration_has_no_more_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        learned(folder.path(), 20).save_now();
        let wanted = |target: &str, account: &str| target == "mail01" && account == "default";
        assert!(knows(&open_for(folder.path(), wanted)));
        assert!(!knows(&open_for(folder.path(), |_, _| false)));
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
            (0..20).for_each(|_| drop(memory.evaluate(&mut run())));
            memory.save_now();
            drop(memory);
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
        let aside = ["latency-2.damaged", "latency-3.damaged", "latency.damaged"];
        assert_eq!(names(folder.path()), aside);
        assert_eq!(aside.map(|name| fs::read_to_string(folder.path().join(name)).unwrap()), ["two", "three", "one"]);
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
                let folder = home.path().join(format!("{number}-{name}"));
                fs::create_dir(&folder).unwrap();
                make(&folder.join(name));
                learned(&folder, 20).save_now();
                assert!(knows(&open(&folder)), "{number} {name}");
                assert!(fs::symlink_metadata(folder.join(FILE)).unwrap().is_file());
                assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "another's");
            }
            let folder = home.path().join(format!("{number}-{FILE}"));
            assert_eq!(names(&folder), ["latency.damaged", FILE]);
        }
    }

    #[test]
    fn what_cannot_be_read_stays_and_is_taken_up_before_the_first_save() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("state");
        learned(&folder, 30).save_now();
        let kept = home.path().join("kept");
        fs::rename(&folder, &kept).unwrap();
        fs::write(&folder, "a file where the directory should be").unwrap();
        let memory = learned(&folder, 5);
        for _ in 0..2 {
            memory.save_now();
            assert!(memory.saving().unread && memory.changed.load(Ordering::Relaxed));
        }
        fs::remove_file(&folder).unwrap();
        fs::rename(&kept, &folder).unwrap();
        memory.save_now();
        assert!(knows(&memory), "5 runs would not do");
        drop(memory);
        assert!(knows(&open(&folder)));
        assert_eq!(names(&folder), [FILE]);
    }

    #[test]
    fn a_file_that_could_be_read_late_takes_nothing_from_what_was_learned_meanwhile() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("state");
        learned(&folder, 5).save_now();
        let kept = home.path().join("kept");
        fs::rename(&folder, &kept).unwrap();
        fs::write(&folder, "a file where the directory should be").unwrap();
        let memory = learned(&folder, 20);
        memory.save_now();
        fs::remove_file(&folder).unwrap();
        fs::rename(&kept, &folder).unwrap();
        memory.save_now();
        drop(memory);
        assert!(knows(&open(&folder)));
    }

    #[test]
    fn an_error_names_what_is_in_the_way() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("state");
        let said = |path: &Path| StateDir::open(path).unwrap().ready().unwrap_err().to_string();
        let deeper = folder.join("deeper");
        assert!(said(&deeper).starts_with(&format!("{}: ", deeper.display())), "{}", said(&deeper));
        fs::write(&folder, "a file where the directory should be").unwrap();
        assert!(said(&folder).starts_with(&format!("{}: ", folder.display())), "{}", said(&folder));
    }

    #[test]
    fn a_disk_that_takes_nothing_is_told_once_and_tried_again() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("state");
        fs::write(&folder, "a file where the directory should be").unwrap();
        let memory = learned(&folder, 20);
        for _ in 0..2 {
            memory.save_now();
            assert!(memory.saving().failing && memory.changed.load(Ordering::Relaxed));
        }
        fs::remove_file(&folder).unwrap();
        memory.save_now();
        assert!(!memory.saving().failing);
        drop(memory);
        assert!(knows(&open(&folder)));
    }

    #[test]
    fn without_a_folder_all_is_in_memory() {
        let memory = Memory::new(Settings::default(), None);
        memory.load(|_, _| true);
        (0..20).for_each(|_| drop(memory.evaluate(&mut run())));
        memory.save_now();
        assert!(knows(&memory));
    }
}
