//! TLS by async-native-tls, with what it does not tell (version, cipher) read from the wire, and its one opaque error
//! sorted into causes.

use std::{
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll, Waker},
};

use async_native_tls::TlsStream;
use sha2::{Digest as _, Sha256};
use x509_parser::extensions::GeneralName;

use super::{Meter, Trouble, descriptors, trouble};
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
    #[error("the key {key} does not belong to the client certificate {certificate}, which has to come first in its file ({problem})", certificate = certificate.display(), key = key.display())]
    Pair {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
        /// The TLS library's words.
        problem: String,
    },
}

/// Why a handshake failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsCause {
    /// The certificate has expired.
    Expired,
    /// The certificate is not valid yet.
    NotYetValid,
    /// The certificate is for another name.
    Name,
    /// No chain to a trusted root.
    Untrusted,
    /// A key or signature is too weak.
    Weak,
    /// No TLS, or no common version.
    Protocol,
    /// The server sent a fatal alert.
    Alert,
    /// The connection was reset.
    Reset,
    /// The connection ended.
    Eof,
    /// No end in time.
    Timeout,
    /// This process or machine has no file descriptor left, or no memory for sockets.
    Exhausted,
    /// Another fault of the local system.
    Local,
    /// Any other failure.
    Handshake,
}

/// A handshake that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFailure {
    /// Why.
    pub cause: TlsCause,
    /// The TLS library's words, or our own. Untrusted: they may quote the server.
    pub text: String,
}

/// The server's own certificate.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Certificate {
    /// notAfter, in seconds since the Unix epoch.
    pub not_after: Option<i64>,
    /// Subject, as RFC 4514 writes it. Untrusted.
    pub subject: String,
    /// Issuer, as RFC 4514 writes it. Untrusted.
    pub issuer: String,
    /// SHA-256 of its DER, upper-case hex.
    pub sha256: String,
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
                // That the two belong together is looked at no earlier than when they are used.
                native_tls::TlsConnector::builder().identity(identity.clone()).build().map_err(|error| {
                    let (certificate, key, problem) = (certificate.clone(), key.clone(), error.to_string());
                    if problem.contains("mismatch") {
                        TlsContextError::Pair { certificate, key, problem }
                    } else {
                        TlsContextError::Unfit { certificate, key, problem }
                    }
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
        let stream = result.map_err(|error| failure(&error, &meter, &name))?;
        if !insecure && is_name(&name) && !has_dns_names(&stream) {
            return Err(TlsFailure::nameless(&name));
        }
        Ok(stream)
    }
}

fn is_name(reference: &str) -> bool {
    reference.parse::<std::net::IpAddr>().is_err()
}

/// Whether the leaf says for which hosts it is where that is to be said. Where it does not, OpenSSL goes by the common
/// name, which may be anything that reads like a host (RFC 9525 §6.3 and RFC 7817 §3 are for the one and against the other).
fn has_dns_names(stream: &TlsStream<Meter>) -> bool {
    let der = stream.peer_certificate().ok().flatten().and_then(|leaf| leaf.to_der().ok()).unwrap_or_default();
    let Ok((_, leaf)) = x509_parser::parse_x509_certificate(&der) else { return false };
    let Ok(Some(names)) = leaf.subject_alternative_name() else { return false };
    names.value.general_names.iter().any(|name| matches!(name, GeneralName::DNSName(_)))
}

impl TlsFailure {
    /// There is no handshake to be shaken: a fault of ours.
    pub fn unprepared() -> Self {
        Self { cause: TlsCause::Handshake, text: "no handshake was prepared".to_owned() }
    }

    /// A certificate that names no host.
    fn nameless(name: &str) -> Self {
        let text =
            format!("certificate refused for {name}: no host name in subjectAltName (a common name is not enough)");
        Self { cause: TlsCause::Name, text }
    }

    /// No end in time.
    pub fn timeout() -> Self {
        Self { cause: TlsCause::Timeout, text: String::new() }
    }
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

impl Certificate {
    /// The leaf that the server showed, if it can be read. Of a handshake that failed the library tells nothing, and what
    /// passed on the wire is taken: up to TLS 1.2 that is in clear text.
    pub fn of(stream: Option<&TlsStream<Meter>>, meter: &Meter) -> Option<Self> {
        let seen = meter.take_leaf();
        let told = stream.and_then(|stream| stream.peer_certificate().ok()??.to_der().ok());
        told.or(seen).map(|der| Self::parse(&der))
    }

    fn parse(der: &[u8]) -> Self {
        let sha256 = Sha256::digest(der).iter().fold(String::with_capacity(64), |mut hex, byte| {
            write!(hex, "{byte:02X}").unwrap_or(());
            hex
        });
        match x509_parser::parse_x509_certificate(der) {
            Ok((_, certificate)) => Self {
                not_after: Some(certificate.validity().not_after.timestamp()),
                subject: certificate.subject().to_string(),
                issuer: certificate.issuer().to_string(),
                sha256,
            },
            // OpenSSL took it, so it is no reason to fail; only its words are missing.
            Err(_) => Self { sha256, ..Self::default() },
        }
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

fn failure(error: &native_tls::Error, meter: &Meter, name: &str) -> TlsFailure {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    let mut cause = None;
    while let Some(inner) = source {
        if let Some(error) = inner.downcast_ref::<io::Error>() {
            cause = match trouble(error) {
                Some(Trouble::Line) => Some(TlsCause::Reset),
                Some(Trouble::Exhausted) => Some(TlsCause::Exhausted),
                Some(Trouble::Local) => Some(TlsCause::Local),
                None if error.kind() == io::ErrorKind::UnexpectedEof => Some(TlsCause::Eof),
                None => cause,
            };
        }
        source = inner.source();
    }
    if let Some(first) = meter.stranger() {
        text = format!("the server did not answer in TLS; its first bytes were {:?}", String::from_utf8_lossy(&first));
        return TlsFailure { cause: TlsCause::Protocol, text };
    }
    let cause = cause.unwrap_or_else(|| by_text(&text));
    // Roots are read when they are needed; one that could not be opened is to OpenSSL one that does not exist.
    if matches!(cause, TlsCause::Untrusted | TlsCause::Handshake) && descriptors::are_spent() {
        let text = "no file descriptor is left to read the trusted roots with".to_owned();
        return TlsFailure { cause: TlsCause::Exhausted, text };
    }
    // Of a certificate that was refused, OpenSSL's place in its own source says nothing; its reason stands at the end.
    let refused = text.contains("certificate verify failed").then(|| text.rsplit_once(": (")).flatten();
    if let Some((_, reason)) = refused {
        text = format!("certificate refused for {name}: {}", reason.trim_end_matches(')'));
    }
    TlsFailure { cause, text }
}

/// OpenSSL's words are all there is: async-native-tls has one opaque error.
fn by_text(text: &str) -> TlsCause {
    let text = text.to_ascii_lowercase();
    let table: &[(&[&str], TlsCause)] = &[
        (&["certificate has expired"], TlsCause::Expired),
        (&["certificate is not yet valid"], TlsCause::NotYetValid),
        (&["hostname mismatch", "ip address mismatch"], TlsCause::Name),
        (&["key too small", "too weak"], TlsCause::Weak),
        (&["certificate verify failed", "self-signed certificate", "unable to get local issuer"], TlsCause::Untrusted),
        (
            &[
                "wrong version number",
                "unsupported protocol",
                "protocol version",
                "version too low",
                "http request",
                "packet length too long",
            ],
            TlsCause::Protocol,
        ),
        (&["alert handshake failure", "no shared cipher"], TlsCause::Handshake),
        (&["alert"], TlsCause::Alert),
        (&["unexpected eof"], TlsCause::Eof),
        (&["connection reset", "broken pipe"], TlsCause::Reset),
    ];
    table
        .iter()
        .find(|(words, _)| words.iter().any(|word| text.contains(word)))
        .map_or(TlsCause::Handshake, |(_, cause)| *cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openssl_texts_are_sorted_into_causes() {
        let verify = |why: &str| {
            format!(
                "error:0A000086:SSL routines:tls_post_process_server_certificate:certificate verify failed:../ssl/statem/statem_clnt.c:1889: ({why})"
            )
        };
        for (text, cause) in [
            (verify("certificate has expired"), TlsCause::Expired),
            (verify("certificate is not yet valid"), TlsCause::NotYetValid),
            (verify("hostname mismatch"), TlsCause::Name),
            (verify("IP address mismatch"), TlsCause::Name),
            (verify("self-signed certificate"), TlsCause::Untrusted),
            (verify("unable to get local issuer certificate"), TlsCause::Untrusted),
            (verify("EE certificate key too small"), TlsCause::Weak),
            (verify("CA signature digest algorithm too weak"), TlsCause::Weak),
            ("error:0A00010B:SSL routines:ssl3_get_record:wrong version number".into(), TlsCause::Protocol),
            ("error:0A00042E:SSL routines:ssl3_read_bytes:tlsv1 alert protocol version".into(), TlsCause::Protocol),
            ("error:0A000410:SSL routines:ssl3_read_bytes:sslv3 alert handshake failure".into(), TlsCause::Handshake),
            ("error:0A00045C:SSL routines:ssl3_read_bytes:tlsv13 alert certificate required".into(), TlsCause::Alert),
            ("something new".into(), TlsCause::Handshake),
        ] {
            assert_eq!(by_text(&text), cause, "{text}");
        }
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

    #[test]
    fn a_certificates_facts() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(vec!["mail.example".into()]).unwrap();
        parameters.not_after = rcgen::date_time_ymd(2031, 1, 31);
        let certificate = parameters.self_signed(&key).unwrap();
        let facts = Certificate::parse(certificate.der());
        assert_eq!(facts.not_after, Some(1_927_584_000));
        assert!(facts.subject.starts_with("CN=") && facts.sha256.len() == 64, "{facts:?}");
        assert_eq!(Certificate::parse(b"junk").not_after, None);
        assert_eq!(certificates((certificate.pem() + &certificate.pem()).as_bytes()).len(), 2);
        assert!(certificates(b"junk").is_empty());
    }
}
