//! The files that a target needs for TLS: roots, client certificate and its key.
//!
//! Checks them before they are used. `read` blocks, `load` does not. Called by `tls`, by the agent, which follows them and those
//! of the OTLP exporters, and by `check`.

use std::{
    fmt::Display,
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

pub(super) const DEADLINE: Duration = Duration::from_secs(2);
const LARGEST: u64 = 16 << 20;

/// Paths of the files.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct TlsPaths {
    /// Roots.
    pub ca_file: Option<PathBuf>,
    /// The client certificate and its chain; used with a key only.
    pub client_cert: Option<PathBuf>,
    /// Its key.
    pub client_key: Option<PathBuf>,
}

/// The parsed content of the files.
#[derive(Default)]
pub struct TlsMaterial {
    pub(super) roots: Vec<native_tls::Certificate>,
    pub(super) identity: Option<native_tls::Identity>,
    pub(super) own: Option<String>,
}

/// The bytes of the files.
#[derive(Default)]
pub struct TlsPem {
    /// Roots.
    pub ca: Option<Vec<u8>>,
    /// The client certificate and its chain.
    pub chain: Option<Vec<u8>>,
    /// Its key.
    pub key: Option<Zeroizing<Vec<u8>>>,
}

/// A file for TLS that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct TlsContextError {
    /// Which file, and what is wrong with it.
    pub fault: TlsFileFault,
    text: String,
}

/// Which file for TLS cannot be used, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsFileFault {
    /// A file cannot be read.
    Unreadable,
    /// The file of the roots has no certificate in PEM form.
    NoRoots,
    /// One of the roots cannot be parsed.
    DamagedRoot,
    /// The file of the client certificate has no certificate in PEM form.
    NoClientCertificate,
    /// A certificate of its chain cannot be parsed.
    DamagedChain,
    /// The client key is open to others, encrypted, or not in PKCS#8 form.
    Key,
    /// The client key cannot be parsed.
    DamagedKey,
    /// Certificate and key do not belong together, or the TLS library rejects them.
    Pair,
}

impl TlsFileFault {
    pub(super) fn error(self, text: String) -> TlsContextError {
        TlsContextError { fault: self, text }
    }

    pub(super) fn no_certificate(self, path: &Path) -> TlsContextError {
        self.error(format!("{} holds no certificate in PEM form", path.display()))
    }

    pub(super) fn damaged_certificate(self, path: &Path) -> TlsContextError {
        self.error(format!("a certificate in {} is damaged", path.display()))
    }
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
    /// Reads the files. Blocks, for some seconds at most.
    pub fn read(paths: &TlsPaths) -> Result<Self, TlsContextError> {
        Self::of(paths, &TlsPem::read(paths)?)
    }

    /// Reads the files on other threads, within a few seconds.
    pub async fn load(paths: TlsPaths) -> Result<Read<Self>, NotRead<TlsContextError>> {
        let bytes = TlsPem::load(&paths).await?;
        let digest = bytes.digest();
        // Parsing a bundle takes milliseconds.
        let parsed = blocking::work(move || Self::of(&paths, &bytes)).await;
        let value = parsed.map_err(|error| NotRead::Unfinished(error.to_string()))?.map_err(NotRead::Wrong)?;
        Ok(Read { value, digest })
    }

    fn of(paths: &TlsPaths, bytes: &TlsPem) -> Result<Self, TlsContextError> {
        let mut material = Self::default();
        if let (Some(path), Some(pem)) = (&paths.ca_file, &bytes.ca) {
            material.roots = certificates(pem);
            if material.roots.is_empty() {
                return Err(TlsFileFault::NoRoots.no_certificate(path));
            }
        }
        let (Some(certificate), Some(key)) = (&paths.client_cert, &paths.client_key) else { return Ok(material) };
        let (Some(chain), Some(secret)) = (&bytes.chain, &bytes.key) else { return Ok(material) };
        check_form(secret, key)?;
        let Some(own) = certificates(chain).first().and_then(|own| own.to_der().ok()) else {
            return Err(TlsFileFault::NoClientCertificate.no_certificate(certificate));
        };
        if !is_whole(chain) {
            return Err(TlsFileFault::DamagedChain.damaged_certificate(certificate));
        }
        let (certificate, key) = (certificate.display(), key.display());
        let identity = native_tls::Identity::from_pkcs8(chain, secret).map_err(|error| {
            let text = format!("the client key {key} is damaged, or of a kind that OpenSSL does not support: {error}");
            TlsFileFault::DamagedKey.error(text)
        })?;
        if !is_pair(&own, secret) {
            return Err(TlsFileFault::Pair.error(format!(
                "the key {key} does not belong to the client certificate {certificate}, which has to come first in its file"
            )));
        }
        // Other faults show only when the two are used.
        native_tls::TlsConnector::builder().identity(identity.clone()).build().map_err(|error| {
            let text = format!("the client certificate {certificate} and the key {key} cannot be used: {error}");
            TlsFileFault::Pair.error(text)
        })?;
        material.identity = Some(identity);
        material.own = Some(Certificate::parse(&own).sha256);
        Ok(material)
    }
}

impl TlsPem {
    /// Reads the files. Blocks, for some seconds at most.
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

    /// Reads the files on other threads, within a few seconds.
    pub async fn load(paths: &TlsPaths) -> Result<Self, NotRead<TlsContextError>> {
        let deadline = Deadline::after(clock::now(), DEADLINE);
        let mut bytes = Self::default();
        if let Some(path) = &paths.ca_file {
            bytes.ca = Some(by(deadline, path, read).await?);
        }
        if let (Some(certificate), Some(key)) = (&paths.client_cert, &paths.client_key) {
            bytes.key = Some(by(deadline, key, read_key).await?);
            bytes.chain = Some(by(deadline, certificate, read).await?);
        }
        Ok(bytes)
    }

    /// Checks them for a client that accepts a key in any form and trusts only the roots in the file (an OTLP exporter).
    pub fn check(mut self, paths: &TlsPaths) -> Result<(), TlsContextError> {
        if let (Some(path), Some(ca)) = (&paths.ca_file, &self.ca)
            && !is_whole(ca)
        {
            return Err(TlsFileFault::DamagedRoot.damaged_certificate(path));
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

/// The result of `read` for a file, for a caller that may block.
pub(super) fn now<T: Send + 'static>(path: &Path, read: ReadFile<T>) -> Result<T, TlsContextError> {
    blocking::with_path_sync(path, clock::now() + DEADLINE, read)
        .unwrap_or_else(|unfinished| Err(unreadable(path, unfinished)))
}

pub(super) async fn by<T: Send + 'static>(
    deadline: Deadline,
    path: &Path,
    read: ReadFile<T>,
) -> Result<T, NotRead<TlsContextError>> {
    let read = blocking::with_path(path, deadline, read).await;
    let unfinished = |unfinished| NotRead::Unfinished(format!("{}: {unfinished}", path.display()));
    read.map_err(unfinished)?.map_err(NotRead::Wrong)
}

type ReadFile<T> = fn(&Path) -> Result<T, TlsContextError>;

pub(super) fn read_key(path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsContextError> {
    secret::read_key(path).map_err(|error| match error {
        SecretError::File(path, source) => unreadable(&path, source),
        error => TlsFileFault::Key.error(format!("the client key cannot be used: {error}")),
    })
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, TlsContextError> {
    blocking::read_file(path, LARGEST).map_err(|error| unreadable(path, error))
}

fn unreadable(path: &Path, problem: impl Display) -> TlsContextError {
    TlsFileFault::Unreadable.error(format!("cannot read {}: {problem}", path.display()))
}

/// The TLS library accepts unencrypted PKCS#8 only, and does not report the form of another key.
fn check_form(key: &[u8], path: &Path) -> Result<(), TlsContextError> {
    let has = |mark: &[u8]| memchr::memmem::find(key, mark).is_some();
    let path = path.display();
    // In PKCS#8, and in the older forms.
    if has(b"BEGIN ENCRYPTED PRIVATE KEY") || has(b"Proc-Type: 4,ENCRYPTED") {
        return Err(TlsFileFault::Key.error(format!(
            "the client key {path} is encrypted, and there is no way to enter its passphrase: write it anew with \
             `openssl pkcs8 -topk8 -nocrypt`, for imaptrace alone to read"
        )));
    }
    if has(b"BEGIN RSA PRIVATE KEY") || has(b"BEGIN EC PRIVATE KEY") || has(b"BEGIN DSA PRIVATE KEY") {
        return Err(TlsFileFault::Key.error(format!(
            "the client key {path} is not in PKCS#8 form (BEGIN PRIVATE KEY): `openssl pkcs8 -topk8 -nocrypt` makes it so"
        )));
    }
    Ok(())
}

/// The key in PKCS#8 form; unchanged if it cannot be converted.
#[cfg(target_os = "linux")]
pub(super) fn in_pkcs8(pem: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    // The callback keeps OpenSSL from asking for a passphrase on the terminal.
    let key = openssl::pkey::PKey::private_key_from_pem_callback(&pem, |_| Ok(0));
    key.and_then(|key| key.private_key_to_pem_pkcs8()).map_or(pem, Zeroizing::new)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn in_pkcs8(pem: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    pem
}

/// Whether this key (PEM) belongs to this certificate (DER).
#[cfg(target_os = "linux")]
pub(super) fn is_pair(certificate: &[u8], key: &[u8]) -> bool {
    let public = openssl::x509::X509::from_der(certificate).and_then(|certificate| certificate.public_key());
    let private = openssl::pkey::PKey::private_key_from_pem(key);
    // The library rejects what cannot be parsed here.
    public.is_ok_and(|public| private.is_ok_and(|private| private.public_eq(&public)))
}

/// Elsewhere the library rejects such a pair.
#[cfg(not(target_os = "linux"))]
pub(super) fn is_pair(_: &[u8], _: &[u8]) -> bool {
    true
}

pub(super) fn certificates(pem: &[u8]) -> Vec<native_tls::Certificate> {
    x509_parser::pem::Pem::iter_from_buffer(pem)
        .flatten()
        .filter(|block| block.label == "CERTIFICATE" || block.label == "TRUSTED CERTIFICATE")
        .filter_map(|block| native_tls::Certificate::from_der(&block.contents).ok())
        .collect()
}

/// Whether every certificate of a PEM file can be parsed: OpenSSL stops at the first that cannot.
pub(super) fn is_whole(pem: &[u8]) -> bool {
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
        assert_eq!(read(&fifo).unwrap_err(), TlsFileFault::NoRoots.no_certificate(&fifo));
        let endless = read(Path::new("/dev/zero")).unwrap_err().to_string();
        assert!(endless.contains("larger than 16777216 bytes"), "{endless}");
    }

    #[test]
    fn a_client_key_is_refused_when_others_can_read_it_or_it_cannot_be_used() {
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
        for (files, mode, expected) in [
            ([cert, cert, &good], 0o644, "own.key has mode 0644"),
            ([cert, cert, &other], 0o600, "does not belong to the client certificate"),
            ([cert, cert, "junk"], 0o600, "own.key is damaged"),
            ([cert, "junk", &good], 0o600, "own.pem holds no certificate"),
            (["junk", cert, &good], 0o600, "ca.pem holds no certificate"),
            ([cut.as_str(), cert, &good], 0o600, "a certificate in"),
        ] {
            let error = check(files, mode).unwrap_err();
            assert!(error.contains(expected), "{expected}: {error}");
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
