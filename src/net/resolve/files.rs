//! /etc/resolv.conf and /etc/hosts, read and followed by a thread of its own: a disk that hangs delays no run that has
//! them already, and no thread of the runtime ever waits for one.
//!
//! A file is read again when its device, inode, size or one of its times has changed, and once that has held for one
//! look: a program that is still writing is not overtaken. The last good content stays in use while a file cannot be
//! read. What the content means is the matter of `conf` and `hosts`. Called by `resolve`.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use tokio::{sync::watch, time::timeout_at};
use tracing::{info, warn};

use super::{
    cache::Cache,
    cause::ResolveCause,
    conf::{Overrides, ResolvConf},
    hosts::Hosts,
};
use crate::{
    follow::{Changes, FileVersion, absent},
    net::{Trouble, trouble},
};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_millis(500);
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

/// A file, and what was known of it at the last look.
struct WatchedFile {
    path: PathBuf,
    changes: Changes<Option<FileVersion>>,
    /// That it cannot be read has been logged.
    logged: bool,
}

impl WatchedFile {
    fn new(path: PathBuf) -> Self {
        Self { path, changes: Changes::new(), logged: false }
    }

    /// The content, when it is to be used from now on. A file that is not there is empty.
    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        let now = FileVersion::at(&self.path)?;
        if !self.changes.is_due(&now) {
            self.logged &= !self.changes.is_used(&now);
            return Ok(None);
        }
        let (content, version) = read(&self.path)?;
        self.changes.took(version);
        self.logged = false;
        Ok(Some(content))
    }

    /// The cause that an error gives runs while no good content is in use. While there is, the error is logged once.
    fn cause(&mut self, error: &io::Error) -> Option<ResolveCause> {
        let text = format!("cannot read {}: {error}", self.path.display());
        if self.changes.has_read() {
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

#[expect(clippy::disallowed_methods, reason = "on a thread of its own, which follows these files")]
fn read(path: &Path) -> io::Result<(Vec<u8>, Option<FileVersion>)> {
    // To open a FIFO would wait for its writer, for ever.
    let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let Some(file) = absent(opened)? else { return Ok((Vec::new(), None)) };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    let version = Some(FileVersion::of(&metadata));
    let mut content = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut content)?;
    if content.len() as u64 > LARGEST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {LARGEST} bytes")));
    }
    Ok((content, version))
}
