//! Makes a TLS connection cost 0.2 ms of CPU and not 30.
//!
//! async-native-tls builds its connector anew for every connection, and OpenSSL then parses the whole bundle of CA
//! certificates. A hashed directory is read lazily instead, one certificate when it is needed. So, before there is any
//! thread, `SSL_CERT_FILE` is pointed at an empty file and `SSL_CERT_DIR` at a hashed directory: the system's own, which
//! is followed by that alone, or one that `bundle` makes and keeps of whatever bundle the operator or the system has. What
//! is trusted stays the same.
//!
//! Called by `main` and by the command line; elsewhere than on Linux it does nothing.

#[cfg(target_os = "linux")]
mod bundle;
#[cfg(target_os = "linux")]
mod directory;
mod error;

pub use error::RootsError;

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use self::error::NOTHING;
use crate::clock;

#[cfg(target_os = "linux")]
use self::{bundle::Bundle, directory::is_hashed_name};

/// What was changed in the environment, and the directory that was made for it for as long as this lives.
#[derive(Debug, Default)]
pub struct Roots {
    /// The two variables as the operator had set them, for child processes.
    pub original: Vec<(OsString, Option<OsString>)>,
    /// Where there is a bundle and no hashed directory.
    bundle: Option<Arc<Bundle>>,
}

/// The bundle that the process's environment leads to, for all that connects by TLS.
static BUNDLE: OnceLock<Arc<Bundle>> = OnceLock::new();

/// How long a command waits for the directory before it begins.
const MAKING: Duration = Duration::from_secs(5);
/// How long the end of the process waits for a directory to be removed.
const REMOVAL: Duration = Duration::from_millis(300);

const FILE: &str = "SSL_CERT_FILE";
/// A file that exists and holds no certificate, as [`NOTHING`]. OpenSSL opens the variable's file for each connection, on the thread that probes: below /proc no file system can
/// keep it waiting. It has to be there, or native-tls looks for the system's bundle and has all of it parsed.
const NO_CERTIFICATE: &str = "/proc/self/comm";
const DIRECTORY: &str = "SSL_CERT_DIR";

/// Where distributions keep the bundle.
const BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Where distributions keep a hashed directory.
const DIRECTORIES: &[&str] = &["/etc/ssl/certs", "/etc/pki/tls/certs"];

impl Roots {
    /// Decides from the operator's variables what the library is to see, without touching the environment.
    #[expect(clippy::disallowed_methods, reason = "before anything is probed")]
    fn decide(file: Option<&OsStr>, directory: Option<&OsStr>) -> (Vec<PathBuf>, Option<PathBuf>) {
        let mut directories: Vec<PathBuf> =
            directory.map(|list| std::env::split_paths(list).collect()).unwrap_or_default();
        let system = DIRECTORIES.iter().map(Path::new).find(|path| is_hashed(path));
        match (file, system) {
            // The system's bundle holds what the system's directory holds.
            (Some(file), Some(system))
                if BUNDLES
                    .iter()
                    .any(|bundle| OsStr::new(bundle) == file && Path::new(bundle).parent() == Some(system)) =>
            {
                if !directories.iter().any(|known| known == system) {
                    directories.push(system.to_owned());
                }
                (directories, None)
            }
            (Some(file), _) => (directories, Some(PathBuf::from(file))),
            // The operator named directories and no file: these and no others.
            (None, _) if directory.is_some() => (directories, None),
            (None, Some(system)) => {
                directories.push(system.to_owned());
                (directories, None)
            }
            (None, None) => (directories, BUNDLES.iter().map(PathBuf::from).find(|path| path.is_file())),
        }
    }

    /// Sets the two variables.
    ///
    /// # Safety
    ///
    /// No other thread may exist: others read the environment without asking.
    #[expect(unsafe_code, reason = "OpenSSL takes its roots from the environment alone")]
    #[expect(clippy::disallowed_methods, reason = "called before there is any thread")]
    pub unsafe fn prepare() -> Result<Self, RootsError> {
        if cfg!(not(target_os = "linux")) {
            return Ok(Self::default());
        }
        let original: Vec<_> = [FILE, DIRECTORY].map(|name| (OsString::from(name), std::env::var_os(name))).into();
        let value =
            |name: &str| original.iter().find(|(known, _)| known == name).and_then(|(_, value)| value.as_deref());
        let (mut directories, bundle) = Self::decide(value(FILE).filter(|value| !value.is_empty()), value(DIRECTORY));
        let bundle = bundle.map(|path| Bundle::reserve(path).map(Arc::new)).transpose()?;
        let (file, made) = match &bundle {
            Some(bundle) => bundle.names(),
            None => (PathBuf::from(NO_CERTIFICATE), PathBuf::new()),
        };
        directories.extend(bundle.is_some().then_some(made));
        if directories.is_empty() {
            return Ok(Self { original, bundle });
        }
        // For every certificate that it does not find by its hash, OpenSSL 3 reads the variable's value as one directory,
        // too, and looks through the whole of it. Two of them are none.
        directories.push(PathBuf::from(NOTHING));
        if let Ok(list) = std::env::join_paths(&directories) {
            // SAFETY: the caller promises that there is no other thread.
            unsafe {
                std::env::set_var(FILE, file);
                std::env::set_var(DIRECTORY, list);
            }
        }
        if let Some(bundle) = &bundle {
            // Fails if it was called before: then the environment is that of the first.
            drop(BUNDLE.set(bundle.clone()));
        }
        Ok(Self { original, bundle })
    }

    /// Has a bundle made into a directory, in the first of these places that will do or else that for temporary files, and
    /// followed from then on. Needs a runtime. What is returned ends when the directory is there, or cannot be for now.
    pub fn keep(&self, places: Vec<PathBuf>) -> impl Future<Output = ()> + use<> {
        let bundle = self.bundle.clone();
        if let Some(bundle) = bundle.clone() {
            bundle.place(places);
            tokio::spawn(async move { bundle.follow().await });
        }
        async move {
            if let Some(bundle) = bundle {
                // What is wrong is logged, and found again before each connection.
                drop(bundle.ready(clock::now() + MAKING).await);
            }
        }
    }
}

impl Drop for Roots {
    fn drop(&mut self) {
        remove_roots();
    }
}

/// Removes the directory that was made of a bundle, if the disk lets it in time: for the end of the process. Nothing can be
/// verified afterwards.
pub fn remove_roots() {
    let Some(bundle) = BUNDLE.get() else { return };
    let (done, is_done) = std::sync::mpsc::channel::<()>();
    let remove = move || {
        bundle.remove();
        drop(done);
    };
    if std::thread::Builder::new().name("roots".to_owned()).spawn(remove).is_ok() {
        // Nothing is ever sent: it ends when the other side is gone.
        let _in_time = is_done.recv_timeout(REMOVAL).is_err();
    }
}

/// Sees to it that the process's roots are found, until `deadline`: to be awaited before a connection by TLS. Costs nothing
/// where the system has a hashed directory.
pub async fn roots_are_ready(deadline: Instant) -> Result<(), RootsError> {
    match BUNDLE.get() {
        Some(bundle) => bundle.ready(deadline).await,
        None => Ok(()),
    }
}

/// A directory in which OpenSSL finds certificates by the hash of their subject.
#[expect(clippy::disallowed_methods, reason = "before anything is probed")]
fn is_hashed(directory: &Path) -> bool {
    std::fs::read_dir(directory).is_ok_and(|entries| entries.flatten().any(|entry| is_hashed_name(&entry.file_name())))
}

/// There is no bundle to be made into anything.
#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use std::{convert::Infallible, ffi::OsStr, path::PathBuf, time::Instant};

    use super::RootsError;

    #[derive(Debug)]
    pub(super) struct Bundle(Infallible);

    impl Bundle {
        pub(super) fn reserve(bundle: PathBuf) -> Result<Self, RootsError> {
            Err(RootsError { bundle, problem: "only done on Linux".into(), is_exhausted: false })
        }

        pub(super) fn names(&self) -> (PathBuf, PathBuf) {
            match self.0 {}
        }

        pub(super) fn place(&self, _: Vec<PathBuf>) {
            match self.0 {}
        }

        pub(super) async fn ready(&self, _: Instant) -> Result<(), RootsError> {
            match self.0 {}
        }

        pub(super) async fn follow(&self) {
            match self.0 {}
        }

        pub(super) fn remove(&self) {
            match self.0 {}
        }
    }

    pub(super) fn is_hashed_name(_: &OsStr) -> bool {
        false
    }
}
#[cfg(not(target_os = "linux"))]
use self::elsewhere::{Bundle, is_hashed_name};

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_operators_own_variables_come_first() {
        let place = tempfile::tempdir().unwrap();
        let bundle = place.path().join("own.pem");
        let (directories, explode) = Roots::decide(Some(bundle.as_os_str()), Some(OsStr::new("/a:/b")));
        assert_eq!((directories, explode), (vec![PathBuf::from("/a"), PathBuf::from("/b")], Some(bundle)));
        assert_eq!(Roots::decide(None, Some(place.path().as_os_str())), (vec![place.path().to_owned()], None));
    }
}
