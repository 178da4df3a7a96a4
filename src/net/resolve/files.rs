//! /etc/resolv.conf and /etc/hosts, read and followed by a thread of its own: a disk that hangs delays no thread of the runtime.
//!
//! [`Changes`] decides when a file is read again. The last good content stays in use while a file cannot be read. `conf` and
//! `hosts` parse the content. Called by `resolve`.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::watch, time::timeout_at};
use tracing::{info, warn};

use super::{
    cache::Cache,
    cause::ResolveCause,
    conf::{ResolvConf, overrides},
    hosts::Hosts,
};
use crate::{
    follow::{Changes, FileVersion, absent},
    net::{ErrnoKind, errno_kind},
};

const CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// Larger than any list of blocked names; a larger file is refused.
const LARGEST: u64 = 64 << 20;

#[derive(Debug)]
pub(super) struct ResolverFiles {
    pub(super) conf: ResolvConf,
    pub(super) hosts: Arc<Hosts>,
    /// Answers found with this configuration.
    pub(super) cache: Cache,
}

#[derive(Debug, Clone)]
pub(super) struct Paths {
    pub(super) resolv_conf: Option<PathBuf>,
    pub(super) hosts: PathBuf,
}

/// The thread's result; none until the first reading. The thread ends when the last of these is dropped.
#[derive(Debug, Clone)]
pub(super) struct Follower(watch::Receiver<FilesState>);

type FilesState = Option<Result<Arc<ResolverFiles>, ResolveCause>>;

impl Follower {
    /// Starts the thread. `given` replaces resolv.conf.
    pub(super) fn start(paths: Paths, given: Option<ResolvConf>) -> io::Result<Self> {
        let (publish, state) = watch::channel(None);
        let mut followed = FollowedFiles {
            resolv_conf: paths.resolv_conf.map(WatchedFile::new),
            hosts: WatchedFile::new(paths.hosts),
            overrides: overrides(std::env::var("LOCALDOMAIN").ok(), std::env::var("RES_OPTIONS").ok()),
            conf: given,
            names: None,
        };
        std::thread::Builder::new().name("resolver-files".to_owned()).spawn(move || {
            while !publish.is_closed() {
                followed.check(&publish);
                std::thread::sleep(CHECK_INTERVAL);
            }
        })?;
        Ok(Self(state))
    }

    /// The content of the files now. Waits for the first reading, until `deadline`.
    pub(super) async fn current(mut self, deadline: Instant) -> Result<Arc<ResolverFiles>, ResolveCause> {
        let unread =
            |why: &str| Err(ResolveCause::Local(format!("/etc/resolv.conf and /etc/hosts are not read: {why}")));
        match timeout_at(deadline.into(), self.0.wait_for(Option::is_some)).await {
            Ok(Ok(state)) => state.clone().unwrap_or_else(|| unread("they are being read")),
            Ok(Err(_)) => unread("the thread that reads them has ended"),
            Err(_) => unread("the disk does not answer"),
        }
    }
}

struct FollowedFiles {
    resolv_conf: Option<WatchedFile>,
    hosts: WatchedFile,
    overrides: Vec<String>,
    conf: Option<ResolvConf>,
    names: Option<Arc<Hosts>>,
}

impl FollowedFiles {
    /// Checks the files once, and publishes their content if it is new.
    fn check(&mut self, publish: &watch::Sender<FilesState>) {
        let (mut changed, mut problem) = (false, None);
        match self.hosts.check() {
            Ok(Some(text)) => {
                let hosts = Hosts::parse(&text);
                if self.names.as_deref() != Some(&hosts) {
                    self.names = Some(Arc::new(hosts));
                    changed = true;
                }
            }
            Ok(None) => {}
            Err(cause) => problem = Some(cause),
        }
        match self.resolv_conf.as_mut().map_or(Ok(None), WatchedFile::check) {
            Ok(Some(text)) => {
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
            Ok(None) => {}
            Err(cause) => problem = Some(cause),
        }
        if let (Some(conf), Some(hosts)) = (&self.conf, &self.names) {
            if changed {
                let system = ResolverFiles { conf: conf.clone(), hosts: Arc::clone(hosts), cache: Cache::default() };
                publish.send_replace(Some(Ok(Arc::new(system))));
            }
        } else if let Some(cause) = problem {
            publish.send_replace(Some(Err(cause)));
        }
    }
}

fn hostname() -> String {
    nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

struct WatchedFile {
    path: PathBuf,
    changes: Changes<Option<FileVersion>>,
    logged: bool,
}

impl WatchedFile {
    fn new(path: PathBuf) -> Self {
        Self { path, changes: Changes::default(), logged: false }
    }

    /// The content, if it is new; a file that does not exist is empty. An error is logged once while good content is in use, and
    /// is the cause for runs otherwise.
    fn check(&mut self) -> Result<Option<Vec<u8>>, ResolveCause> {
        let error = match self.read() {
            Ok(content) => return Ok(content),
            Err(error) => error,
        };
        let text = format!("cannot read {}: {error}", self.path.display());
        if self.changes.has_read() {
            if !std::mem::replace(&mut self.logged, true) {
                warn!(target: "imaptrace::net", "{text}; what it held before stays in use");
            }
            return Ok(None);
        }
        Err(match errno_kind(&error) {
            Some(ErrnoKind::Exhausted) => ResolveCause::Exhausted(text),
            _ => ResolveCause::Local(text),
        })
    }

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
}

#[expect(clippy::disallowed_methods, reason = "on a thread of its own, which follows these files")]
fn read(path: &Path) -> io::Result<(Vec<u8>, Option<FileVersion>)> {
    // Else opening a FIFO would wait for its writer.
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
