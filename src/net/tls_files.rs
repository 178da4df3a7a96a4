//! The files that a target needs for TLS: its roots, its certificate, and the key to that.
//!
//! Says what is wrong with them before anybody needs them. `read` blocks its thread, `load` none that probes.
//! Called by `tls`, by the agent, which follows them and those of the OTLP exporters, and by `check`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::Certificate;
use crate::{
    blocking,
    clock::{self, Deadline},
    follow::{NotRead, Read},
    plan::TlsOptions,
    secret::{self, SecretError},
};

/// How long a file system may take for one file.
const DEADLINE: Duration = Duration::from_secs(2);
/// The largest file of certificates that is read, in bytes.
const LARGEST: u64 = 16 << 20;

/// Where the files are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct TlsPaths {
    /// Roots.
    pub ca_file: Option<PathBuf>,
    /// The certificate that is shown to the server, and its chain; counts with a key alone.
    pub client_cert: Option<PathBuf>,
    /// Its key.
    pub client_key: Option<PathBuf>,
}

/// What the files hold.
#[derive(Default)]
pub struct TlsMaterial {
    pub(super) roots: Vec<native_tls::Certificate>,
    pub(super) identity: Option<native_tls::Identity>,
    /// SHA-256 of the client certificate's DER.
    pub(super) own: Option<String>,
}

/// Their bytes.
#[derive(Default)]
pub struct TlsPem {
    /// Of the roots.
    pub ca: Option<Vec<u8>>,
    /// Of the certificate and its chain.
    pub chain: Option<Vec<u8>>,
    /// Of its key.
    pub key: Option<Zeroizing<Vec<u8>>>,
}

/// A file for TLS that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsContextError {
    /// It cannot be read.
    #[error("cannot read {path}: {problem}", path = path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// It holds no certificate.
    #[error("{path} holds no certificate in PEM form", path = path.display())]
    NoCertificate {
        /// Which.
        path: PathBuf,
    },
    /// The client key's file is no file, or not ours alone.
    #[error("the client key cannot be used: {problem}")]
    Key {
        /// Why, with the file's path.
        problem: String,
    },
    /// The client key wants a passphrase.
    #[error("the client key {path} is encrypted, and there is no way to enter its passphrase: write it anew with `openssl pkcs8 -topk8 -nocrypt`, for imaptrace alone to read", path = path.display())]
    Encrypted {
        /// Which.
        path: PathBuf,
    },
    /// The client key is in one of the older forms.
    #[error("the client key {path} is not in PKCS#8 form (BEGIN PRIVATE KEY): `openssl pkcs8 -topk8 -nocrypt` makes it so", path = path.display())]
    NotPkcs8 {
        /// Which.
        path: PathBuf,
    },
    /// The client key is in the right form, and what is in it cannot be read.
    #[error("the client key {path} is damaged, or of a kind that OpenSSL does not know: {problem}", path = path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// The TLS library's words.
        problem: String,
    },
    /// One of the certificates in a client certificate's file cannot be read.
    #[error("a certificate in {path} is damaged", path = path.display())]
    Chain {
        /// Which file.
        path: PathBuf,
    },
    /// The TLS library does not take this client certificate with this key.
    #[error("the client certificate {certificate} and the key {key} cannot be used: {problem}", certificate = certificate.display(), key = key.display())]
    Unfit {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
        /// The TLS library's words.
        problem: String,
    },
    /// Certificate and key do not make an identity.
    #[error("the key {key} does not belong to the client certificate {certificate}, which has to come first in its file", certificate = certificate.display(), key = key.display())]
    Pair {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
    },
}

impl TlsPaths {
    /// Those that the options name.
    pub fn of(options: &TlsOptions) -> Self {
        let TlsOptions { ca_file, client_cert, client_key, .. } = options;
        Self { ca_file: ca_file.clone(), client_cert: client_cert.clone(), client_key: client_key.clone() }
    }

    /// All of them.
    pub fn all(&self) -> Vec<PathBuf> {
        [&self.ca_file, &self.client_cert, &self.client_key].into_iter().flatten().cloned().collect()
    }
}

impl TlsMaterial {
    /// Reads the files, here and now. Blocks its thread, for some seconds at most.
    pub fn read(paths: &TlsPaths) -> Result<Self, TlsContextError> {
        Self::of(paths, &TlsPem::read(paths)?)
    }

    /// Reads the files on threads that may wait for a disk, and for no longer than a few seconds.
    pub async fn load(paths: TlsPaths) -> Result<Read<Self>, NotRead<TlsContextError>> {
        let bytes = TlsPem::load(&paths).await?;
        let digest = bytes.digest();
        // A bundle takes milliseconds, which a run must not wait for either.
        let parsed = blocking::work(move || Self::of(&paths, &bytes)).await;
        let value = parsed.map_err(|error| NotRead::Unfinished(error.to_string()))?.map_err(NotRead::Wrong)?;
        Ok(Read { value, digest })
    }

    fn of(paths: &TlsPaths, bytes: &TlsPem) -> Result<Self, TlsContextError> {
        let mut material = Self::default();
        if let (Some(path), Some(pem)) = (&paths.ca_file, &bytes.ca) {
            material.roots = certificates(pem);
            if material.roots.is_empty() {
                return Err(TlsContextError::NoCertificate { path: path.clone() });
            }
        }
        let (Some(certificate), Some(key)) = (&paths.client_cert, &paths.client_key) else { return Ok(material) };
        let (Some(chain), Some(secret)) = (&bytes.chain, &bytes.key) else { return Ok(material) };
        check_form(secret, key)?;
        let Some(own) = certificates(chain).first().and_then(|own| own.to_der().ok()) else {
            return Err(TlsContextError::NoCertificate { path: certificate.clone() });
        };
        if !is_whole(chain) {
            return Err(TlsContextError::Chain { path: certificate.clone() });
        }
        let identity = native_tls::Identity::from_pkcs8(chain, secret)
            .map_err(|error| TlsContextError::Damaged { path: key.clone(), problem: error.to_string() })?;
        if !is_pair(&own, secret) {
            return Err(TlsContextError::Pair { certificate: certificate.clone(), key: key.clone() });
        }
        // What else is wrong with the two shows no earlier than when they are used.
        native_tls::TlsConnector::builder().identity(identity.clone()).build().map_err(|error| {
            let (certificate, key, problem) = (certificate.clone(), key.clone(), error.to_string());
            TlsContextError::Unfit { certificate, key, problem }
        })?;
        material.identity = Some(identity);
        material.own = Some(Certificate::parse(&own).sha256);
        Ok(material)
    }
}

impl TlsPem {
    /// Reads the files, here and now. Blocks its thread, for some seconds at most.
    pub fn read(paths: &TlsPaths) -> Result<Self, TlsContextError> {
        let mut bytes = Self::default();
        if let Some(path) = &paths.ca_file {
            bytes.ca = Some(now(path, read)?);
        }
        if let (Some(certificate), Some(key)) = (&paths.client_cert, &paths.client_key) {
            bytes.key = Some(now(key, read_key)?);
            bytes.chain = Some(now(certificate, read)?);
        }
        Ok(bytes)
    }

    /// Reads the files where waiting for a disk delays no run, and for no longer than a few seconds.
    pub async fn load(paths: &TlsPaths) -> Result<Self, NotRead<TlsContextError>> {
        let deadline = Deadline::after(clock::now(), DEADLINE);
        let unfinished = |path: &Path, unfinished| NotRead::Unfinished(format!("{}: {unfinished}", path.display()));
        let mut bytes = Self::default();
        if let Some(path) = &paths.ca_file {
            let ca = blocking::with_path(path, deadline, read).await.map_err(|it| unfinished(path, it))?;
            bytes.ca = Some(ca.map_err(NotRead::Wrong)?);
        }
        if let (Some(certificate), Some(key)) = (&paths.client_cert, &paths.client_key) {
            let pem = blocking::with_path(key, deadline, read_key).await.map_err(|it| unfinished(key, it))?;
            bytes.key = Some(pem.map_err(NotRead::Wrong)?);
            let chain = blocking::with_path(certificate, deadline, read).await;
            let chain = chain.map_err(|it| unfinished(certificate, it))?;
            bytes.chain = Some(chain.map_err(NotRead::Wrong)?);
        }
        Ok(bytes)
    }

    /// What is wrong with them for a client that takes a key in any form (an OTLP exporter), and that has no roots beside
    /// those in the file.
    pub fn check(mut self, paths: &TlsPaths) -> Result<(), TlsContextError> {
        if let (Some(path), Some(ca)) = (&paths.ca_file, &self.ca)
            && !is_whole(ca)
        {
            return Err(TlsContextError::Chain { path: path.clone() });
        }
        self.key = self.key.map(in_pkcs8);
        TlsMaterial::of(paths, &self).map(drop)
    }

    fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        for file in [self.ca.as_deref(), self.chain.as_deref(), self.key.as_ref().map(|key| key.as_slice())] {
            let file = file.unwrap_or_default();
            digest.update(file.len().to_be_bytes());
            digest.update(file);
        }
        digest.finalize().into()
    }
}

impl std::fmt::Debug for TlsMaterial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TlsMaterial({} roots)", self.roots.len())
    }
}

/// What `read` makes of a file, for a caller that may block.
fn now<T: Send + 'static>(
    path: &Path,
    read: impl FnOnce(&Path) -> Result<T, TlsContextError> + Send + 'static,
) -> Result<T, TlsContextError> {
    blocking::with_path_sync(path, clock::now() + DEADLINE, read).unwrap_or_else(|unfinished| {
        Err(TlsContextError::Read { path: path.to_owned(), problem: unfinished.to_string() })
    })
}

fn read_key(path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsContextError> {
    secret::read_key(path).map_err(unusable)
}

fn read(path: &Path) -> Result<Vec<u8>, TlsContextError> {
    blocking::read_file(path, LARGEST)
        .map_err(|error| TlsContextError::Read { path: path.to_owned(), problem: error.to_string() })
}

fn unusable(error: SecretError) -> TlsContextError {
    match error {
        SecretError::File { path, source } => TlsContextError::Read { path, problem: source.to_string() },
        error => TlsContextError::Key { problem: error.to_string() },
    }
}

/// The TLS library takes unencrypted PKCS#8 alone, and says of anything else no more than that.
fn check_form(key: &[u8], path: &Path) -> Result<(), TlsContextError> {
    let has = |mark: &[u8]| memchr::memmem::find(key, mark).is_some();
    let path = path.to_owned();
    // PKCS#8 and the older forms have a way of their own each to say so.
    if has(b"BEGIN ENCRYPTED PRIVATE KEY") || has(b"Proc-Type: 4,ENCRYPTED") {
        return Err(TlsContextError::Encrypted { path });
    }
    if has(b"BEGIN RSA PRIVATE KEY") || has(b"BEGIN EC PRIVATE KEY") || has(b"BEGIN DSA PRIVATE KEY") {
        return Err(TlsContextError::NotPkcs8 { path });
    }
    Ok(())
}

/// The key in the one form that the TLS library takes; as it is where it cannot be made so.
#[cfg(target_os = "linux")]
fn in_pkcs8(pem: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    // An encrypted one must not make OpenSSL ask for its passphrase on the terminal.
    let key = openssl::pkey::PKey::private_key_from_pem_callback(&pem, |_| Ok(0));
    key.and_then(|key| key.private_key_to_pem_pkcs8()).map_or(pem, Zeroizing::new)
}

#[cfg(not(target_os = "linux"))]
fn in_pkcs8(pem: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    pem
}

/// Whether this key (PEM) is the one of this certificate (DER).
#[cfg(target_os = "linux")]
fn is_pair(certificate: &[u8], key: &[u8]) -> bool {
    let public = openssl::x509::X509::from_der(certificate).and_then(|certificate| certificate.public_key());
    let private = openssl::pkey::PKey::private_key_from_pem(key);
    // What cannot be read here is for the library to refuse.
    public.is_ok_and(|public| private.is_ok_and(|private| private.public_eq(&public)))
}

/// The same elsewhere: the library refuses what is no pair, without a word for it.
#[cfg(not(target_os = "linux"))]
fn is_pair(_: &[u8], _: &[u8]) -> bool {
    true
}

/// The certificates of a PEM file that holds one or many.
fn certificates(pem: &[u8]) -> Vec<native_tls::Certificate> {
    x509_parser::pem::Pem::iter_from_buffer(pem)
        .flatten()
        .filter(|block| block.label == "CERTIFICATE" || block.label == "TRUSTED CERTIFICATE")
        .filter_map(|block| native_tls::Certificate::from_der(&block.contents).ok())
        .collect()
}

/// Whether every block of a file with certificates can be read: OpenSSL stops at the first that cannot.
fn is_whole(pem: &[u8]) -> bool {
    x509_parser::pem::Pem::iter_from_buffer(pem).all(|block| {
        block.is_ok_and(|block| {
            !block.label.ends_with("CERTIFICATE") || native_tls::Certificate::from_der(&block.contents).is_ok()
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{net::TlsContext, plan::Host};

    #[test]
    fn a_fifo_or_a_device_in_place_of_a_file_of_certificates_is_an_error_and_not_a_wait() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("ca.pem");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let read = |path: &Path| TlsMaterial::read(&TlsPaths { ca_file: Some(path.to_owned()), ..TlsPaths::default() });
        assert_eq!(read(&fifo).unwrap_err(), TlsContextError::NoCertificate { path: fifo });
        let endless = read(Path::new("/dev/zero")).unwrap_err().to_string();
        assert!(endless.contains("larger than 16777216 bytes"), "{endless}");
    }

    #[test]
    fn a_client_key_is_refused_when_others_can_read_it_or_nobody_can_use_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let pair = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&pair).unwrap();
        let (cert, key) = (directory.path().join("client.pem"), directory.path().join("client.key"));
        std::fs::write(&cert, certificate.pem()).unwrap();
        let context = |pem: &str, mode| {
            std::fs::write(&key, pem).unwrap();
            std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
            let options =
                TlsOptions { client_cert: Some(cert.clone()), client_key: Some(key.clone()), ..TlsOptions::default() };
            TlsContext::new(&options, &Host::parse("localhost").unwrap()).map(drop).map_err(|error| error.to_string())
        };
        let good = pair.serialize_pem();
        assert_eq!(context(&good, 0o600), Ok(()));
        assert_eq!(context(&good, 0o440), Ok(()));
        assert!(context(&good, 0o644).unwrap_err().contains("chmod 600"));
        for encrypted in [
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA==\n-----END ENCRYPTED PRIVATE KEY-----\n",
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAA==\n-----END RSA PRIVATE KEY-----\n",
        ] {
            assert!(context(encrypted, 0o600).unwrap_err().contains("is encrypted"), "{encrypted}");
        }
        let old = "-----BEGIN EC PRIVATE KEY-----\nAA==\n-----END EC PRIVATE KEY-----\n";
        assert!(context(old, 0o600).unwrap_err().contains("openssl pkcs8"));
        let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
        assert!(context(&other, 0o600).unwrap_err().contains("does not belong to the client certificate"));
        assert!(context("junk", 0o600).unwrap_err().contains("damaged"));
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(&cert, certificate.pem() + broken).unwrap();
        assert!(context(&good, 0o600).unwrap_err().contains("client.pem is damaged"));
        std::fs::write(&cert, "junk").unwrap();
        assert!(context(&good, 0o600).unwrap_err().contains("client.pem holds no certificate"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_exporters_key_may_have_any_form_and_all_else_is_as_for_targets() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let pair = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&pair).unwrap().pem();
        let path = |name: &str| Some(directory.path().join(name));
        let paths = TlsPaths { ca_file: path("ca.pem"), client_cert: path("own.pem"), client_key: path("own.key") };
        let check = |[ca, own, key]: [&str; 3], mode| {
            for (path, text) in [&paths.ca_file, &paths.client_cert, &paths.client_key].into_iter().zip([ca, own, key])
            {
                std::fs::write(path.as_ref().unwrap(), text).unwrap();
            }
            let key = paths.client_key.as_ref().unwrap();
            std::fs::set_permissions(key, std::fs::Permissions::from_mode(mode)).unwrap();
            TlsPem::read(&paths).and_then(|pem| pem.check(&paths)).map_err(|error| error.to_string())
        };
        let good = pair.serialize_pem();
        let older = openssl::pkey::PKey::private_key_from_pem(good.as_bytes()).unwrap().ec_key().unwrap();
        let older = String::from_utf8(older.private_key_to_pem().unwrap()).unwrap();
        assert!(older.contains("BEGIN EC PRIVATE KEY"));
        let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let cert = certificate.as_str();
        let cut = format!("{cert}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        assert_eq!(check([cert, cert, &good], 0o600), Ok(()));
        assert_eq!(check([cert, cert, &older], 0o440), Ok(()));
        for (files, mode, told) in [
            ([cert, cert, &good], 0o644, "own.key has mode 0644"),
            ([cert, cert, &other], 0o600, "does not belong to the client certificate"),
            ([cert, cert, "junk"], 0o600, "own.key is damaged"),
            ([cert, "junk", &good], 0o600, "own.pem holds no certificate"),
            (["junk", cert, &good], 0o600, "ca.pem holds no certificate"),
            ([cut.as_str(), cert, &good], 0o600, "a certificate in"),
        ] {
            let error = check(files, mode).unwrap_err();
            assert!(error.contains(told), "{told}: {error}");
        }
    }

    #[test]
    fn a_file_may_hold_several_certificates() {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
        assert_eq!(certificates((certificate.pem() + &certificate.pem()).as_bytes()).len(), 2);
        assert!(certificates(b"junk").is_empty());
    }
}
