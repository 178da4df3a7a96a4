//! Makes a TLS connection cost 0.2 ms of CPU and not 30.
//!
//! async-native-tls builds its connector anew for every connection, and OpenSSL then parses the whole bundle of CA
//! certificates. A hashed directory is read lazily instead, one certificate when it is needed. So, before there is any
//! thread, `SSL_CERT_FILE` is pointed at an empty file and `SSL_CERT_DIR` at a hashed directory: the system's own, or a
//! private one made here from whatever bundle the operator or the system has. What is trusted stays the same.
//!
//! Called by `main` alone; elsewhere than on Linux it does nothing.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use tempfile::TempDir;

/// What was changed in the environment, and the private directory for as long as this lives.
#[derive(Debug, Default)]
pub struct Roots {
    /// The two variables as the operator had set them, for child processes.
    pub original: Vec<(OsString, Option<OsString>)>,
    /// Removed when it is dropped.
    _private: Option<TempDir>,
}

/// The bundle could not be made into a directory. TLS still works, at 30 ms a connection.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a hashed directory from the CA bundle {bundle}: {problem}", bundle = bundle.display())]
pub struct RootsError {
    bundle: PathBuf,
    problem: String,
}

const FILE: &str = "SSL_CERT_FILE";
/// A file that exists and holds no certificate.
const NOTHING: &str = "/dev/null";
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
        let private = bundle.map(|bundle| explode(&bundle)).transpose()?;
        directories.extend(private.as_ref().map(|directory| directory.path().to_owned()));
        if directories.is_empty() {
            return Ok(Self { original, _private: private });
        }
        // For every certificate that it does not find by its hash, OpenSSL 3 reads the variable's value as one directory,
        // too, and looks through the whole of it. Two of them are none.
        directories.push(PathBuf::from(NOTHING));
        if let Ok(list) = std::env::join_paths(&directories) {
            // SAFETY: the caller promises that there is no other thread.
            unsafe {
                std::env::set_var(FILE, NOTHING);
                std::env::set_var(DIRECTORY, list);
            }
        }
        Ok(Self { original, _private: private })
    }
}

/// A directory in which OpenSSL finds certificates by the hash of their subject.
fn is_hashed(directory: &Path) -> bool {
    let hashed = |name: &OsStr| {
        let name = name.as_encoded_bytes();
        name.len() == 10 && name.ends_with(b".0") && name.iter().take(8).all(u8::is_ascii_hexdigit)
    };
    std::fs::read_dir(directory).is_ok_and(|entries| entries.flatten().any(|entry| hashed(&entry.file_name())))
}

#[cfg(target_os = "linux")]
fn explode(bundle: &Path) -> Result<TempDir, RootsError> {
    let failed = |problem: String| RootsError { bundle: bundle.to_owned(), problem };
    let pem = std::fs::read(bundle).map_err(|error| failed(error.to_string()))?;
    let certificates = openssl::x509::X509::stack_from_pem(&pem).map_err(|error| failed(error.to_string()))?;
    let directory =
        tempfile::Builder::new().prefix("imaptrace-ca-").tempdir().map_err(|error| failed(error.to_string()))?;
    let mut taken: HashMap<u32, u32> = HashMap::new();
    for certificate in certificates {
        let hash = certificate.subject_name_hash();
        let number = taken.entry(hash).or_default();
        let path = directory.path().join(format!("{hash:08x}.{number}"));
        *number += 1;
        let pem = certificate.to_pem().map_err(|error| failed(error.to_string()))?;
        std::fs::write(path, pem).map_err(|error| failed(error.to_string()))?;
    }
    Ok(directory)
}

#[cfg(not(target_os = "linux"))]
fn explode(bundle: &Path) -> Result<TempDir, RootsError> {
    Err(RootsError { bundle: bundle.to_owned(), problem: "only done on Linux".into() })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[expect(clippy::unwrap_used, reason = "a test's helper")]
    fn certificate(name: &str) -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        rcgen::CertificateParams::new(vec![name.into()]).unwrap().self_signed(&key).unwrap().pem()
    }

    #[test]
    fn a_bundle_becomes_a_hashed_directory_with_every_certificate() {
        let place = tempfile::tempdir().unwrap();
        let bundle = place.path().join("bundle.pem");
        // rcgen gives both the same subject: the same hash, two numbers.
        std::fs::write(&bundle, certificate("a.example") + &certificate("b.example")).unwrap();
        let directory = explode(&bundle).unwrap();
        let mut names: Vec<_> = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names.len(), 2);
        assert!(names[0].ends_with(".0") && names[1].ends_with(".1"), "{names:?}");
        assert!(is_hashed(directory.path()) && !is_hashed(place.path()));
    }

    #[test]
    fn the_operators_own_variables_come_first() {
        let place = tempfile::tempdir().unwrap();
        let bundle = place.path().join("own.pem");
        let (directories, explode) = Roots::decide(Some(bundle.as_os_str()), Some(OsStr::new("/a:/b")));
        assert_eq!((directories, explode), (vec![PathBuf::from("/a"), PathBuf::from("/b")], Some(bundle)));
        assert_eq!(Roots::decide(None, Some(place.path().as_os_str())), (vec![place.path().to_owned()], None));
    }
}
