//! TLS by async-native-tls: what a target needs for it, read once, and the handshake. What the library does not report
//! (version, cipher) is read from the wire by `hello`, and its errors are sorted into causes by `tls_error`.

use std::{
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll, Waker},
};

use async_native_tls::TlsStream;

use super::{Certificate, Meter, TlsCause, TlsFailure, certificate};
use crate::{
    plan::{Host, TlsOptions},
    secret::{self, SecretError},
};

/// What a target needs for TLS, read once.
pub struct TlsContext {
    name: String,
    insecure: bool,
    alpn: bool,
    roots: Vec<native_tls::Certificate>,
    identity: Option<native_tls::Identity>,
    /// SHA-256 of the client certificate's DER.
    own: Option<String>,
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
    #[error("the client key {path} is encrypted, and nobody is there to type its passphrase: write it anew with `openssl pkcs8 -topk8 -nocrypt`, for imaptrace alone to read", path = path.display())]
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

impl TlsContext {
    /// Reads the files that the options name.
    pub fn new(options: &TlsOptions, host: &Host) -> Result<Self, TlsContextError> {
        let read = |path: &PathBuf| {
            std::fs::read(path)
                .map_err(|error| TlsContextError::Read { path: path.clone(), problem: error.to_string() })
        };
        let mut roots = Vec::new();
        if let Some(path) = &options.ca_file {
            let pem = read(path)?;
            roots = certificates(&pem);
            if roots.is_empty() {
                return Err(TlsContextError::NoCertificate { path: path.clone() });
            }
        }
        let identity = match (&options.client_cert, &options.client_key) {
            (Some(certificate), Some(key)) => {
                let secret = secret::read_key(key).map_err(unusable)?;
                check_form(&secret, key)?;
                let chain = read(certificate)?;
                let Some(own) = certificates(&chain).first().and_then(|own| own.to_der().ok()) else {
                    return Err(TlsContextError::NoCertificate { path: certificate.clone() });
                };
                if !is_whole(&chain) {
                    return Err(TlsContextError::Chain { path: certificate.clone() });
                }
                let identity = native_tls::Identity::from_pkcs8(&chain, &secret)
                    .map_err(|error| TlsContextError::Damaged { path: key.clone(), problem: error.to_string() })?;
                if !is_pair(&own, &secret) {
                    return Err(TlsContextError::Pair { certificate: certificate.clone(), key: key.clone() });
                }
                // What else is wrong with the two shows no earlier than when they are used.
                native_tls::TlsConnector::builder().identity(identity.clone()).build().map_err(|error| {
                    let (certificate, key, problem) = (certificate.clone(), key.clone(), error.to_string());
                    TlsContextError::Unfit { certificate, key, problem }
                })?;
                Some((identity, Certificate::parse(&own).sha256))
            }
            _ => None,
        };
        let (identity, own) = identity.unzip();
        let name = options.server_name.clone().unwrap_or_else(|| host.to_string());
        // A dot at the end says where a look-up stops; it is no part of the name (RFC 6066 §3, RFC 9525 §6.3).
        let name = name.strip_suffix('.').unwrap_or(&name).to_owned();
        Ok(Self { name, insecure: options.insecure, alpn: options.alpn, roots, identity, own })
    }

    /// The name that is sent as SNI (unless it is an address) and checked against the certificate.
    pub fn server_name(&self) -> &str {
        &self.name
    }

    /// SHA-256 of the client certificate, upper-case hex; none is shown to a server without one.
    pub fn client_certificate(&self) -> Option<&str> {
        self.own.as_deref()
    }

    /// Whether certificates go unchecked.
    pub fn is_insecure(&self) -> bool {
        self.insecure
    }

    pub(super) fn roots(&self) -> &[native_tls::Certificate] {
        &self.roots
    }

    pub(super) fn offers_alpn(&self) -> bool {
        self.alpn
    }

    /// Makes everything ready for a handshake over `meter`, up to the ClientHello, which waits for a connection. That is
    /// half a millisecond of work that no mail program does at its user's expense, so it is done before the run begins.
    pub fn arm(&self, meter: &Meter) -> Armed {
        let mut builder = native_tls::TlsConnector::builder();
        builder
            .min_protocol_version(Some(native_tls::Protocol::Tlsv12))
            .danger_accept_invalid_certs(self.insecure)
            .danger_accept_invalid_hostnames(self.insecure);
        if self.alpn {
            builder.request_alpns(&["imap"]);
        }
        for root in &self.roots {
            builder.add_root_certificate(root.clone());
        }
        if let Some(identity) = &self.identity {
            builder.identity(identity.clone());
        }
        let connector = async_native_tls::TlsConnector::from(builder);
        let (name, under) = (self.name.clone(), meter.clone());
        let mut handshake: Handshake = Box::pin(async move { connector.connect(name, under).await });
        // Without a connection it cannot get further than this; whatever it says is said again when it goes on.
        let early = match handshake.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        };
        Armed { handshake, early, meter: meter.clone(), name: self.name.clone(), insecure: self.insecure }
    }
}

type Handshake = Pin<Box<dyn Future<Output = Result<TlsStream<Meter>, native_tls::Error>> + Send>>;

/// A handshake whose first bytes are ready to go.
pub struct Armed {
    handshake: Handshake,
    /// It ended before it began: something of ours is wrong.
    early: Option<Result<TlsStream<Meter>, native_tls::Error>>,
    meter: Meter,
    name: String,
    insecure: bool,
}

impl Armed {
    /// Shakes hands; the meter's first write is then the ClientHello's first byte. The caller keeps its handle on the
    /// meter: what was seen on the wire outlives a handshake that fails. Waits for as long as the server lets it.
    pub async fn shake(self) -> Result<TlsStream<Meter>, TlsFailure> {
        let Self { handshake, early, meter, name, insecure } = self;
        meter.begin_tls();
        meter.mark();
        let result = match early {
            Some(result) => result,
            None => handshake.await,
        };
        let stream = result.map_err(|error| TlsFailure::of_handshake(&error, &meter, &name))?;
        if !insecure && is_name(&name) {
            // Where the leaf does not say for which hosts it is, OpenSSL goes by the common name, which may be anything that
            // reads like a host (RFC 9525 §6.3 and RFC 7817 §3 are for the one and against the other).
            let leaf = leaf(&stream).unwrap_or_default();
            if !certificate::has_dns_names(&leaf) {
                return Err(nameless(&name, leaf));
            }
        }
        Ok(stream)
    }
}

fn is_name(reference: &str) -> bool {
    reference.parse::<std::net::IpAddr>().is_err()
}

/// The server's own certificate, as DER.
fn leaf(stream: &TlsStream<Meter>) -> Option<Vec<u8>> {
    stream.peer_certificate().ok()??.to_der().ok()
}

/// A certificate that names no host.
fn nameless(name: &str, leaf: Vec<u8>) -> TlsFailure {
    let text = format!("certificate refused for {name}: no host name in subjectAltName (a common name is not enough)");
    TlsFailure { answered: true, leaf: Some(leaf), ..TlsFailure::new(TlsCause::Name, text) }
}

/// What is known of the server's certificate after a handshake, good or bad: of one that failed the library reports
/// nothing, and what passed on the wire is taken; up to TLS 1.2 that is in clear text.
pub fn shown(stream: Result<&TlsStream<Meter>, &TlsFailure>, meter: &Meter) -> Shown {
    match stream {
        Ok(stream) => {
            meter.drop_chain();
            Shown::Leaf(leaf(stream).map(|der| Certificate::parse(&der)))
        }
        Err(TlsFailure { leaf: Some(leaf), .. }) => Shown::Chain(vec![leaf.clone()]),
        Err(_) => Shown::Chain(meter.take_chain()),
    }
}

/// See [`shown`].
#[derive(Debug, PartialEq, Eq)]
pub enum Shown {
    /// Of a handshake that is done.
    Leaf(Option<Certificate>),
    /// Of one that failed: as DER, the server's own first; none where they were not seen.
    Chain(Vec<Vec<u8>>),
}

impl std::fmt::Debug for Armed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Armed({:?})", self.name)
    }
}

impl std::fmt::Debug for TlsContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TlsContext({:?})", self.name)
    }
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

    #[test]
    fn a_file_may_hold_several_certificates() {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
        assert_eq!(certificates((certificate.pem() + &certificate.pem()).as_bytes()).len(), 2);
        assert!(certificates(b"junk").is_empty());
    }
}
