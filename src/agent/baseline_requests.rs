//! Requests to take the present as usual: files in the state directory that `imaptrace baseline accept` writes and the agent
//! takes, at its start and every two seconds.
//!
//! ```text
//! baseline-accept-ID.new      the command is writing it
//! baseline-accept-ID.request  it waits for the agent
//! baseline-accept-ID.taken    it is in use, and the latency history is not saved since
//! ```
//!
//! A request is removed when the history that it changed is on disk: after a crash it is taken once more. Nothing of another user,
//! and nothing but a regular file is taken. Called by the agent, and by the command line to submit one.

use std::{
    collections::BTreeSet,
    io::{self, Write as _},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::latency_store::LatencyStore;
use crate::{
    blocking,
    state::{Directory, StateDir},
};

const PREFIX: &str = "baseline-accept-";
const NEW: &str = ".new";
const REQUEST: &str = ".request";
const TAKEN: &str = ".taken";
/// The time between two scans of the directory: the documented limit is five seconds.
const EVERY: Duration = Duration::from_secs(2);
/// The most bytes of a request.
const LARGEST: u64 = 4 << 10;
/// The most that are taken at a time.
const AT_A_TIME: usize = 64;

/// A request: what an account, or all accounts of a target, take now is usual from here on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptRequest {
    /// The target's name.
    pub target: String,
    /// The account's alias; none for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
}

/// The form of the file.
#[derive(Serialize, Deserialize)]
struct RequestFile {
    accept: AcceptRequest,
}

impl AcceptRequest {
    /// Leaves it in the directory of an agent's files, and returns its name there: the name is gone when an agent has taken it.
    /// Waits for the disk.
    pub fn submit(&self, directory: &Directory) -> io::Result<String> {
        let text = serde_json::to_string(&RequestFile { accept: self.clone() })?;
        let name = format!("{PREFIX}{:016x}", rand::random::<u64>());
        let (new, request) = (format!("{name}{NEW}"), format!("{name}{REQUEST}"));
        let mut file = directory.create(&new)?;
        let mut write = || {
            directory.give_to_its_owner(&file)?;
            writeln!(file, "{text}")?;
            file.sync_all()?;
            directory.rename(&new, directory, &request)?;
            directory.sync()
        };
        write().inspect_err(|_| drop(directory.remove(&new)))?;
        Ok(request)
    }

    fn parse(text: &[u8]) -> Option<Self> {
        Some(serde_json::from_slice::<RequestFile>(text).ok()?.accept)
    }
}

/// Takes the requests of one state directory.
pub(super) struct BaselineRequests {
    store: Arc<LatencyStore>,
    state: StateDir,
    progress: Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    /// What could not be renamed: it is not taken again.
    stuck: BTreeSet<String>,
    /// What is in use and not saved, and the number of saves after which it is.
    unsaved: Option<(Vec<String>, u64)>,
}

impl BaselineRequests {
    pub(super) fn new(store: Arc<LatencyStore>, state: StateDir) -> Self {
        Self { store, state, progress: Mutex::default() }
    }

    /// Takes what is there every two seconds, for as long as it is polled.
    pub(super) async fn take_regularly(self: Arc<Self>) {
        loop {
            tokio::time::sleep(EVERY).await;
            let this = self.clone();
            // Fails only after a panic, which has been reported.
            drop(blocking::work(move || this.take(REQUEST)).await);
        }
    }

    /// Takes what was left before the start, what a crash cut short included. Waits for the disk.
    pub(super) fn take_left(&self) {
        self.take(TAKEN);
        self.take(REQUEST);
    }

    /// Takes all requests with this ending. A directory that cannot be read has been reported.
    fn take(&self, ending: &str) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let Progress { stuck, unsaved } = &mut *progress;
        let Ok(directory) = self.state.ready() else { return };
        if let Some((names, _)) = unsaved.take_if(|(_, saves)| self.store.saves() >= *saves) {
            for name in &names {
                drop(directory.remove(name));
            }
        }
        if stuck.len() >= AT_A_TIME {
            return;
        }
        let mut names = Vec::new();
        let listed = directory.names(|name| {
            let is_request = name.starts_with(PREFIX) && name.ends_with(ending) && !stuck.contains(name);
            if is_request && names.len() < AT_A_TIME {
                names.push(name.to_owned());
            }
        });
        // The saved history would replace what is accepted before it is read.
        if listed.is_err() || names.is_empty() || !self.store.is_read() {
            return;
        }
        names.sort_unstable();
        let mut taken = Vec::new();
        for name in names {
            match self.take_one(&directory, &name) {
                Ok(name) => taken.extend(name),
                Err(error) => {
                    warn!(
                        %error,
                        "a request for the baselines cannot be renamed: remove it, or the next start uses it again"
                    );
                    stuck.insert(name);
                }
            }
        }
        if taken.is_empty() {
            return;
        }
        // A save that has begun may be past what changed; the one after it is not.
        let saves = self.store.saves() + 2;
        if self.store.save_now() {
            for name in &taken {
                drop(directory.remove(name));
            }
        } else {
            let names = unsaved.take().into_iter().flat_map(|(names, _)| names).chain(taken);
            *unsaved = Some((names.take(AT_A_TIME).collect(), saves));
        }
    }

    /// Uses one request, and returns its new name; none if it is damaged.
    fn take_one(&self, directory: &Directory, name: &str) -> io::Result<Option<String>> {
        let is_ours = directory.entry(name)?.is_some_and(|entry| entry.is_our_file());
        let request = if is_ours { AcceptRequest::parse(&directory.read(name, LARGEST)?) } else { None };
        let Some(AcceptRequest { target, account }) = request else {
            let aside = directory.quarantine(name)?;
            warn!(
                file = %directory.at(&aside).display(),
                "a file with the name of a request for the baselines is no request of the agent's user, and was renamed"
            );
            return Ok(None);
        };
        let series = self.store.accept(&target, account.as_deref());
        if series > 0 {
            info!(target, account, series, "the present is taken as usual: `imaptrace baseline accept`");
        } else {
            warn!(target, account, "`imaptrace baseline accept` changed nothing: there are no baselines yet");
        }
        let taken = name.strip_suffix(REQUEST).map(|id| format!("{id}{TAKEN}"));
        if let Some(taken) = &taken {
            directory.rename(name, directory, taken)?;
        }
        Ok(Some(taken.unwrap_or_else(|| name.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
        path::Path,
    };

    use imaptrace_record::Run;

    use super::*;
    use crate::{latency::Settings, state::AgentDirectory};

    fn run() -> Run {
        serde_json::from_str(imaptrace_testkit::PASSED_RUN).unwrap()
    }

    /// A store with a history of this directory, and what takes its requests.
    fn requests(dir: &Path, runs: usize) -> BaselineRequests {
        let state = StateDir::open(dir).unwrap();
        let store = Arc::new(LatencyStore::new(Settings::default(), Some(state.clone())));
        store.load(|_, _| true);
        (0..runs).for_each(|_| drop(store.evaluate(&mut run())));
        BaselineRequests::new(store, state)
    }

    fn submit(dir: &Path, account: Option<&str>) -> String {
        let request = AcceptRequest { target: "mail01".to_owned(), account: account.map(str::to_owned) };
        request.submit(&AgentDirectory::find(dir).unwrap().directory).unwrap()
    }

    /// Names other than those of the lock and of the history.
    fn names(dir: &Path) -> Vec<String> {
        let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| !["lock", "latency.jsonl"].contains(&name.as_str())).collect();
        names.sort();
        names
    }

    /// The number of values of a series in the saved history.
    fn values(dir: &Path) -> usize {
        let text = fs::read_to_string(dir.join("latency.jsonl")).unwrap();
        let line: serde_json::Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
        line["steps"][0]["values_us"].as_array().unwrap().len()
    }

    #[test]
    fn a_request_is_taken_once_and_saved() {
        for account in [None, Some("default")] {
            let dir = tempfile::tempdir().unwrap();
            let requests = requests(dir.path(), 30);
            let name = submit(dir.path(), account);
            let file = fs::metadata(dir.path().join(&name)).unwrap();
            assert_eq!((file.permissions().mode() & 0o777, names(dir.path())), (0o600, vec![name]));
            requests.take(REQUEST);
            assert_eq!((names(dir.path()).len(), values(dir.path())), (0, 5));
            (0..10).for_each(|_| drop(requests.store.evaluate(&mut run())));
            requests.take(REQUEST);
            assert!(requests.store.save_now());
            assert_eq!(values(dir.path()), 15);
        }
    }

    #[test]
    fn what_was_left_while_no_agent_ran_and_what_a_crash_cut_short_is_taken_at_the_start() {
        let dir = tempfile::tempdir().unwrap();
        assert!(requests(dir.path(), 30).store.save_now());
        let name = submit(dir.path(), None);
        assert_eq!(values(dir.path()), 30);
        requests(dir.path(), 0).take_left();
        assert_eq!((names(dir.path()).len(), values(dir.path())), (0, 5));
        let (name, taken) = (dir.path().join(name), dir.path().join(format!("{PREFIX}1{TAKEN}")));
        fs::write(&taken, r#"{"accept":{"target":"mail01"}}"#).unwrap();
        assert!(requests(dir.path(), 30).store.save_now());
        assert_eq!(values(dir.path()), 35);
        requests(dir.path(), 0).take_left();
        assert!(!taken.exists() && !name.exists());
        assert_eq!(values(dir.path()), 5);
    }

    #[test]
    fn what_is_no_request_of_ours_changes_nothing_and_is_renamed() {
        let dir = tempfile::tempdir().unwrap();
        let requests = requests(dir.path(), 30);
        let secret = dir.path().join("elsewhere");
        fs::write(&secret, r#"{"accept":{"target":"mail01"}}"#).unwrap();
        let at = |name: &str| dir.path().join(format!("{PREFIX}{name}{REQUEST}"));
        symlink(&secret, at("link")).unwrap();
        fs::hard_link(&secret, at("hard")).unwrap();
        fs::create_dir(at("directory")).unwrap();
        fs::write(at("text"), "accept mail01").unwrap();
        fs::write(at("newer"), r#"{"accept":{"target":"mail01","since":"yesterday"}}"#).unwrap();
        fs::write(at("other"), r#"{"accept":{"target":"mail01"}}"#).unwrap();
        std::os::unix::fs::chown(at("other"), Some(65_534), None).unwrap();
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        requests.take(REQUEST);
        let damaged: Vec<_> = names(dir.path()).into_iter().filter(|name| name.ends_with(".request.damaged")).collect();
        assert_eq!(damaged.len(), 7, "{:?}", names(dir.path()));
        assert!(requests.store.save_now());
        assert_eq!((values(dir.path()), fs::read(&secret).unwrap().len()), (30, 30));
    }

    #[test]
    fn more_than_a_few_at_once_are_taken_later_and_one_for_another_target_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let requests = requests(dir.path(), 30);
        for number in 0..70 {
            let text = format!(r#"{{"accept":{{"target":"mail{number}","account":"other"}}}}"#);
            fs::write(dir.path().join(format!("{PREFIX}{number}{REQUEST}")), text).unwrap();
        }
        requests.take(REQUEST);
        assert_eq!(names(dir.path()).len(), 6);
        requests.take(REQUEST);
        assert_eq!((names(dir.path()).len(), values(dir.path())), (0, 30));
    }

    #[test]
    fn a_request_that_root_leaves_belongs_to_the_owner_of_the_directory() {
        assert!(nix::unistd::geteuid().is_root(), "only root can leave a file for another: run this test as root");
        let dir = tempfile::tempdir().unwrap();
        drop(requests(dir.path(), 0));
        std::os::unix::fs::chown(dir.path(), Some(65_534), Some(65_534)).unwrap();
        let file = fs::metadata(dir.path().join(submit(dir.path(), None))).unwrap();
        assert_eq!((file.uid(), file.gid()), (65_534, 65_534));
    }
}
