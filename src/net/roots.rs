//! Reduces the CPU time of a TLS connection from 30 ms to 0.2 ms.
//!
//! async-native-tls builds its connector for every connection, and OpenSSL then parses the whole CA bundle. From a hashed
//! directory it reads one certificate when needed. So, before there is a second thread, `SSL_CERT_FILE` is set to a file
//! without certificates and `SSL_CERT_DIR` to a hashed directory: the system's own, or one that `bundle` makes and updates
//! from the operator's or system's bundle. The trusted roots stay the same.
//!
//! Called by `main` and by the command line; on other systems than Linux it does nothing.

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

/// The change of the environment, and the directory that was made for it, which is removed when this is dropped.
#[derive(Debug, Default)]
pub struct Roots {
    /// The two variables as the operator set them, for child processes.
    pub original: Vec<(OsString, Option<OsString>)>,
    /// Set when there is a bundle and no hashed directory.
    bundle: Option<Arc<Bundle>>,
}

static BUNDLE: OnceLock<Arc<Bundle>> = OnceLock::new();

/// How long a command waits for the directory at its start.
const MAKING: Duration = Duration::from_secs(5);
/// How long the end of the process waits for the removal.
const REMOVAL: Duration = Duration::from_millis(300);

const FILE: &str = "SSL_CERT_FILE";
/// A file without a certificate. OpenSSL opens it for each connection, on the thread that probes: below /proc that cannot block.
/// It must exist, or native-tls searches for the system's bundle, which is then parsed.
const NO_CERTIFICATE: &str = "/proc/self/comm";
const DIRECTORY: &str = "SSL_CERT_DIR";

const BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
const DIRECTORIES: &[&str] = &["/etc/ssl/certs", "/etc/pki/tls/certs"];

impl Roots {
    /// The directories and the bundle that the library gets, by the operator's variables.
    #[expect(clippy::disallowed_methods, reason = "before anything is probed")]
    fn decide(file: Option<&OsStr>, directory: Option<&OsStr>) -> (Vec<PathBuf>, Option<PathBuf>) {
        let mut directories: Vec<PathBuf> =
            directory.map(|list| std::env::split_paths(list).collect()).unwrap_or_default();
        let system = DIRECTORIES.iter().map(Path::new).find(|path| is_hashed(path));
        match (file, system) {
            // The system's bundle and directory have the same certificates.
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
            // The operator set directories and no file: no others.
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
    /// No other thread may exist: it may read the environment.
    #[expect(unsafe_code, reason = "OpenSSL finds its roots by the environment only")]
    #[expect(clippy::disallowed_methods, reason = "called before there is any thread")]
    pub unsafe fn prepare() -> Result<Self, RootsError> {
        if cfg!(not(target_os = "linux")) {
            return Ok(Self::default());
        }
        let [file, directory] = [FILE, DIRECTORY].map(std::env::var_os);
        let (mut directories, bundle) =
            Self::decide(file.as_deref().filter(|file| !file.is_empty()), directory.as_deref());
        let original = vec![(FILE.into(), file), (DIRECTORY.into(), directory)];
        let bundle = bundle.map(|path| Bundle::reserve(path).map(Arc::new)).transpose()?;
        let (file, made) = match &bundle {
            Some(bundle) => bundle.names(),
            None => (PathBuf::from(NO_CERTIFICATE), PathBuf::new()),
        };
        directories.extend(bundle.is_some().then_some(made));
        if directories.is_empty() {
            return Ok(Self { original, bundle });
        }
        // For a certificate that it does not find by its hash, OpenSSL 3 also reads the variable's value as one path of a
        // directory, and searches all of it. A list of two paths is none.
        directories.push(PathBuf::from(NOTHING));
        if let Ok(list) = std::env::join_paths(&directories) {
            // SAFETY: the caller guarantees that there is no other thread.
            unsafe {
                std::env::set_var(FILE, file);
                std::env::set_var(DIRECTORY, list);
            }
        }
        if let Some(bundle) = &bundle {
            // Fails after an earlier call, whose environment stays.
            drop(BUNDLE.set(bundle.clone()));
        }
        Ok(Self { original, bundle })
    }

    /// Makes a directory of a bundle, in the first of these places, or that for temporary files, where it can, and follows the
    /// bundle from then on. Needs a runtime. The returned future ends when there is a directory, or cannot be one for now.
    pub fn keep(&self, places: Vec<PathBuf>) -> impl Future<Output = ()> + use<> {
        let bundle = self.bundle.clone();
        if let Some(bundle) = bundle.clone() {
            bundle.place(places);
            tokio::spawn(async move { bundle.follow().await });
        }
        async move {
            if let Some(bundle) = bundle {
                // The error is logged, and returned again before each connection.
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

/// Removes the directory that was made of a bundle, if the disk responds in time: for the end of the process, as no certificate
/// can be verified afterwards.
pub fn remove_roots() {
    let Some(bundle) = BUNDLE.get() else { return };
    let (done, is_done) = std::sync::mpsc::channel::<()>();
    let remove = move || {
        bundle.remove();
        drop(done);
    };
    if std::thread::Builder::new().name("roots".to_owned()).spawn(remove).is_ok() {
        // Ends when the sender is dropped.
        let _in_time = is_done.recv_timeout(REMOVAL).is_err();
    }
}

/// Ensures that the roots can be read, until `deadline`: await it before a TLS connection. Does nothing if the system has a hashed
/// directory.
pub async fn roots_are_ready(deadline: Instant) -> Result<(), RootsError> {
    match BUNDLE.get() {
        Some(bundle) => bundle.ready(deadline).await,
        None => Ok(()),
    }
}

/// Whether OpenSSL finds certificates in a directory by the hash of their subject.
#[expect(clippy::disallowed_methods, reason = "before anything is probed")]
fn is_hashed(directory: &Path) -> bool {
    std::fs::read_dir(directory).is_ok_and(|entries| entries.flatten().any(|entry| is_hashed_name(&entry.file_name())))
}

/// There is never a bundle here.
#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use std::{ffi::OsStr, path::PathBuf, time::Instant};

    use super::RootsError;

    #[derive(Debug)]
    pub(super) enum Bundle {}

    impl Bundle {
        pub(super) fn reserve(bundle: PathBuf) -> Result<Self, RootsError> {
            Err(RootsError { bundle, problem: "only done on Linux".into(), is_exhausted: false })
        }

        pub(super) fn names(&self) -> (PathBuf, PathBuf) {
            match *self {}
        }

        pub(super) fn place(&self, _: Vec<PathBuf>) {}

        pub(super) async fn ready(&self, _: Instant) -> Result<(), RootsError> {
            Ok(())
        }

        pub(super) async fn follow(&self) {}

        pub(super) fn remove(&self) {}
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

    #[tokio::test]
    async fn a_connection_waits_for_the_roots_and_is_refused_without_them() {
        roots_are_ready(clock::now()).await.unwrap();

        // It stays for the whole process: a bundle that cannot be read counts as empty.
        let place = tempfile::tempdir().unwrap();
        let missing = place.path().join("missing.pem");
        BUNDLE.set(Arc::new(Bundle::reserve(missing.clone()).unwrap())).unwrap();
        let over = clock::now();
        tokio::time::sleep(Duration::from_millis(10)).await;
        let late = roots_are_ready(over).await.unwrap_err();
        assert_eq!((late.bundle.as_path(), late.is_exhausted), (missing.as_path(), false), "{late}");
        roots_are_ready(clock::now() + MAKING).await.unwrap();
    }
}
