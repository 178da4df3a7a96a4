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
const LARGEST: u64 = 512 << 20;

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
    /// The number of times that the history was saved.
    saves: AtomicU64,
    /// The file has been read, or there is none.
    read: AtomicBool,
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
            read: AtomicBool::new(state.is_none()),
            state,
            changed: AtomicBool::new(false),
            saved: AtomicU64::new(0),
            saves: AtomicU64::new(0),
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

    /// Takes the present as usual ([`History::accept`]). Returns the number of series.
    pub(super) fn accept(&self, target: &str, account: Option<&str>) -> usize {
        let series = self.history().accept(target, account);
        self.changed.store(true, Ordering::Relaxed);
        series
    }

    /// Whether the present was accepted since the account's run before ([`History::take_accepted`]).
    pub(super) fn take_accepted(&self, run: &Run) -> bool {
        self.history().take_accepted(run)
    }

    /// Whether the file has been read, at last now: before that it would replace what is accepted. Waits for the disk.
    pub(super) fn is_read(&self) -> bool {
        let read_now = |state| {
            let mut saving = self.saving();
            self.read_first(state, &mut saving.unread, |_, _| true).is_ok()
        };
        self.read.load(Ordering::Relaxed) || self.state.as_ref().is_none_or(read_now)
    }

    /// The number of times that the history was saved.
    pub(super) fn saves(&self) -> u64 {
        self.saves.load(Ordering::Relaxed)
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

    /// Saves a changed history. Waits for the disk. False if that fails, or if there is no state directory.
    pub(super) fn save_now(&self) -> bool {
        let Some(state) = &self.state else { return false };
        // Read under the lock: a second caller waits until the first one has written to the disk.
        let mut saving = self.saving();
        if !self.changed.swap(false, Ordering::Relaxed) {
            return true;
        }
        // An account that is no longer in the configuration stays until the next start.
        let read = self.read_first(state, &mut saving.unread, |_, _| true);
        match read.and_then(|()| self.write(&*state.ready()?)) {
            Ok(size) => {
                self.saved.store(size, Ordering::Relaxed);
                self.saves.fetch_add(1, Ordering::Relaxed);
                if std::mem::take(&mut saving.failing) {
                    info!(file = %state.path().join(FILE).display(), "the latency history is saved again");
                }
                true
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
                false
            }
        }
    }

    /// Loads the file unless that was done.
    fn read_first(&self, state: &StateDir, unread: &mut bool, wanted: impl Fn(&str, &str) -> bool) -> io::Result<()> {
        if *unread {
            let found = read(&self.settings, &*state.ready()?, wanted)?;
            self.history().merge(found);
            *unread = false;
            self.read.store(true, Ordering::Relaxed);
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
mod tests;
