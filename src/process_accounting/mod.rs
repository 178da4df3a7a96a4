//! What the processes of a Dovecot on this host use: CPU, waits for a CPU, waits for block devices, by time. Linux alone.
//!
//! Reads the mail log for logins of the probes' users, and `/proc` for what the kernel counts of the processes. Of a line of the
//! log nothing is kept but the process, the session and the addresses; nothing of it appears in any output. Does not compute
//! what a command used: `server_events` does, for a run. One thread does all, at less than 1 % of a core with 32 login processes
//! and 20 sessions (`benches/accounting`); its memory is bounded at 8 MiB, and some 100 kB are usual. Started by `agent`.
//!
//! ```text
//! sampler       the thread: when which process is sampled
//! dovecot       which processes are Dovecot's
//! proc_files    the files of a process in /proc
//! log_file      a mail log that is a file          journal  one that is the journal          lines  both, in lines
//! login_line    the line of a login
//! sample_store  the samples, by session            series  those of one process
//! ```

mod dovecot;
mod journal;
mod lines;
mod log_file;
mod login_line;
mod proc_files;
mod sample_store;
mod sampler;
mod series;
mod settings;

use std::{
    io,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use self::{
    proc_files::ProcRoot,
    sample_store::SampleStore,
    sampler::{PRE_LOGIN_PROCESSES, SESSIONS, Sampler, Shared},
};
pub use self::{
    sample_store::{EndedSession, ProcessUsage, SessionQuery},
    series::UsageSample,
    settings::{MailLog, ProcessAccountingSettings},
};
use crate::clock;

const PROC: &str = "/proc";

/// Samples processes until it is dropped.
#[derive(Debug)]
pub struct ProcessAccounting(Arc<Shared>);

impl ProcessAccounting {
    /// The most files that are open at once, but for the mail log: one of each login process, two of each session.
    pub const OPEN_FILES: usize = PRE_LOGIN_PROCESSES + 2 * SESSIONS;

    /// Starts the thread. Samples are kept for `keep`: the longest run and its wait.
    pub fn start(settings: ProcessAccountingSettings, keep: Duration) -> io::Result<Self> {
        Self::of(Path::new(PROC), settings, keep)
    }

    fn of(root: &Path, settings: ProcessAccountingSettings, keep: Duration) -> io::Result<Self> {
        let shared = Arc::new(Shared { store: Mutex::new(SampleStore::new(keep)), is_stopped: AtomicBool::new(false) });
        let (root, handle) = (ProcRoot::new(root), shared.clone());
        // The mail log's file system may not answer: it is opened on the thread, too.
        let run = move || Sampler::new(root, settings, shared).run();
        thread::Builder::new().name("accounting".into()).spawn(run)?;
        Ok(Self(handle))
    }

    /// Keeps samples for this long from now on.
    pub fn keep_for(&self, keep: Duration) {
        self.0.store().keep_for(keep);
    }

    /// What the processes of a run's session used, and those that take part in logins. Equal samples beside each
    /// other stand for all between them.
    pub fn of_run(&self, query: &SessionQuery) -> Vec<ProcessUsage> {
        self.0.store().of_run(query)
    }

    /// The samples of a session by its name, up to now; none if it is unknown, or when they were handed over already.
    pub fn of_session(&self, name: &str) -> Option<EndedSession> {
        self.0.store().named(name)
    }

    /// A session that ended at least `age` ago and has not been handed over.
    pub fn ended_session(&self, age: Duration) -> Option<EndedSession> {
        self.0.store().ended(clock::wall(), age)
    }
}

impl Drop for ProcessAccounting {
    fn drop(&mut self) {
        // Not waited for: it may wait for a file system. It ends within 10 ms otherwise.
        self.0.is_stopped.store(true, Ordering::Relaxed);
    }
}
