//! /etc/resolv.conf and /etc/hosts, read and followed by a thread of its own: a disk that hangs delays no run that has
//! them already, and no thread of the runtime ever waits for one.
//!
//! A file is read again when its device, inode, size or one of its times has changed, and once that has held for one
//! look: a program that is still writing is not overtaken. The last good content stays in use while a file cannot be
//! read. What the content means is the matter of `conf` and `hosts`. Called by `resolve`.

use std::{
    fs::{File, Metadata},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use tokio::{sync::watch, time::timeout_at};
use tracing::{info, warn};

use super::{
    ResolveCause,
    cache::Cache,
    conf::{Overrides, ResolvConf},
    hosts::Hosts,
};
use crate::net::{Trouble, trouble};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// A file that changes at every look is read after as many all the same.
const LOOKS: u32 = 4;
/// More than any list of blocked names has; a larger file is refused.
const LARGEST: u64 = 64 << 20;

/// What the files hold at a time.
#[derive(Debug)]
pub(super) struct ResolverFiles {
    pub(super) conf: ResolvConf,
    pub(super) hosts: Arc<Hosts>,
    /// Answers that were found by this configuration.
    pub(super) cache: Cache,
}

/// Where the files are.
#[derive(Debug, Clone)]
pub(super) struct Paths {
    /// None when the configuration names servers: the file is not read then.
    pub(super) resolv_conf: Option<PathBuf>,
    pub(super) hosts: PathBuf,
}

/// The thread, for as long as this is held.
#[derive(Debug)]
pub(super) struct Follower {
    state: watch::Receiver<FilesState>,
    _held: mpsc::Sender<()>,
}

#[derive(Debug, Clone)]
enum FilesState {
    Reading,
    Read(Arc<ResolverFiles>),
    Unread(ResolveCause),
}

impl Follower {
    /// Starts the thread. `given` takes the place of resolv.conf when that is not read.
    pub(super) fn start(paths: Paths, given: Option<ResolvConf>) -> io::Result<Self> {
        let (publish, state) = watch::channel(FilesState::Reading);
        let (held, ends) = mpsc::channel();
        let overrides = Overrides::from_environment();
        let mut followed = FollowedFiles {
            resolv_conf: paths.resolv_conf.map(WatchedFile::new),
            hosts: WatchedFile::new(paths.hosts),
            given,
            overrides,
            conf: None,
            names: None,
        };
        std::thread::Builder::new().name("resolver-files".to_owned()).spawn(move || {
            loop {
                followed.look(&publish);
                // Nothing is ever sent: this ends when the other side is gone.
                if ends.recv_timeout(LOOK) != Err(mpsc::RecvTimeoutError::Timeout) {
                    return;
                }
            }
        })?;
        Ok(Self { state, _held: held })
    }

    /// A handle to wait with, apart from what holds the thread.
    pub(super) fn reader(&self) -> FilesReader {
        FilesReader(self.state.clone())
    }
}

/// Waits for what the files hold; apart from the thread that reads them.
#[derive(Debug)]
pub(super) struct FilesReader(watch::Receiver<FilesState>);

impl FilesReader {
    /// What the files hold now. Waits for the first reading, until `deadline`.
    pub(super) async fn current(mut self, deadline: Instant) -> Result<Arc<ResolverFiles>, ResolveCause> {
        let read = timeout_at(deadline.into(), self.0.wait_for(|state| !matches!(state, FilesState::Reading))).await;
        match read {
            Ok(Ok(state)) => match &*state {
                FilesState::Read(system) => Ok(Arc::clone(system)),
                FilesState::Unread(cause) => Err(cause.clone()),
                FilesState::Reading => Err(unread("they are being read")),
            },
            Ok(Err(_)) => Err(unread("the thread that reads them has ended")),
            Err(_) => Err(unread("the disk does not answer")),
        }
    }
}

fn unread(why: &str) -> ResolveCause {
    ResolveCause::Local(format!("/etc/resolv.conf and /etc/hosts are not read: {why}"))
}

struct FollowedFiles {
    resolv_conf: Option<WatchedFile>,
    hosts: WatchedFile,
    given: Option<ResolvConf>,
    overrides: Overrides,
    conf: Option<ResolvConf>,
    names: Option<Arc<Hosts>>,
}

impl FollowedFiles {
    /// Looks at the files once, and publishes what they hold when that is new.
    fn look(&mut self, publish: &watch::Sender<FilesState>) {
        let (mut changed, mut problem) = (false, None);
        match self.hosts.read() {
            Ok(Some(text)) => {
                let hosts = Hosts::parse(&text);
                if self.names.as_deref() != Some(&hosts) {
                    self.names = Some(Arc::new(hosts));
                    changed = true;
                }
            }
            Ok(None) => {}
            Err(error) => problem = self.hosts.cause(&error),
        }
        match self.resolv_conf.as_mut().map(|source| (source.read(), source)) {
            Some((Ok(Some(text)), _)) => {
                let conf = ResolvConf::parse(&text, &self.overrides, &hostname());
                if self.conf.as_ref() != Some(&conf) {
                    let servers = conf.servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
                    if self.conf.is_some() {
                        info!(target: "imaptrace::net", servers, "/etc/resolv.conf has changed and is in use");
                    }
                    self.conf = Some(conf);
                    changed = true;
                }
            }
            Some((Ok(None), _)) => {}
            Some((Err(error), source)) => problem = source.cause(&error).or(problem),
            None => self.conf.clone_from(&self.given),
        }
        if let (Some(conf), Some(hosts)) = (&self.conf, &self.names) {
            if changed {
                let system = ResolverFiles { conf: conf.clone(), hosts: Arc::clone(hosts), cache: Cache::default() };
                publish.send_replace(FilesState::Read(Arc::new(system)));
            }
        } else if let Some(cause) = problem {
            publish.send_replace(FilesState::Unread(cause));
        }
    }
}

fn hostname() -> String {
    nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// By what a change of a file shows: device, inode, size, and when its content and it itself were changed.
type FileVersion = (u64, u64, u64, (i64, i64), (i64, i64));
/// None for a file that is not there.
type FileStamp = Option<FileVersion>;

fn version(metadata: &Metadata) -> FileVersion {
    let (modified, changed) = ((metadata.mtime(), metadata.mtime_nsec()), (metadata.ctime(), metadata.ctime_nsec()));
    (metadata.dev(), metadata.ino(), metadata.size(), modified, changed)
}

/// A file, and what was known of it at the last look.
struct WatchedFile {
    path: PathBuf,
    /// Of the content that is in use; none before the first.
    used: Option<FileStamp>,
    /// Of a change that is not in use yet, and at how many looks there was one.
    seen: Option<(FileStamp, u32)>,
    /// It was read at the first look: a program may have been writing to it.
    unsure: bool,
    /// That it cannot be read has been logged.
    logged: bool,
}

impl WatchedFile {
    fn new(path: PathBuf) -> Self {
        Self { path, used: None, seen: None, unsure: false, logged: false }
    }

    /// The content, when it is to be used from now on. A file that is not there is empty.
    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        let now = absent(std::fs::metadata(&self.path).map(|metadata| version(&metadata)))?;
        if self.used.is_some() && !self.unsure {
            if self.used == Some(now) {
                self.seen = None;
                self.logged = false;
                return Ok(None);
            }
            let looks = self.seen.map_or(0, |(_, looks)| looks) + 1;
            let settled = self.seen.is_some_and(|(seen, _)| seen == now) || looks > LOOKS;
            if !settled {
                self.seen = Some((now, looks));
                return Ok(None);
            }
        }
        let (content, stamp) = read(&self.path)?;
        self.unsure = self.used.is_none();
        (self.used, self.seen, self.logged) = (Some(stamp), None, false);
        Ok(Some(content))
    }

    /// The cause that an error gives runs while no good content is in use. While there is, the error is logged once.
    fn cause(&mut self, error: &io::Error) -> Option<ResolveCause> {
        let text = format!("cannot read {}: {error}", self.path.display());
        if self.used.is_some() {
            if !std::mem::replace(&mut self.logged, true) {
                warn!(target: "imaptrace::net", "{text}; what it held before stays in use");
            }
            return None;
        }
        Some(match trouble(error) {
            Some(Trouble::Exhausted) => ResolveCause::Exhausted(text),
            _ => ResolveCause::Local(text),
        })
    }
}

fn read(path: &Path) -> io::Result<(Vec<u8>, FileStamp)> {
    // To open a FIFO would wait for its writer, for ever.
    let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let Some(file) = absent(opened)? else { return Ok((Vec::new(), None)) };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    let stamp = Some(version(&metadata));
    let mut content = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut content)?;
    if content.len() as u64 > LARGEST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {LARGEST} bytes")));
    }
    Ok((content, stamp))
}

/// None for a file that is not there.
fn absent<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        other => other.map(Some),
    }
}
