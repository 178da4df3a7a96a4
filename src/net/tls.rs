//! The TLS handshake, by async-native-tls. `tls_files` reads its files, `hello` reads version and cipher from the wire, which
//! the library does not report, and `tls_error` maps its errors to causes.

use std::{net::IpAddr, pin::Pin, sync::Arc, time::Instant};

use async_native_tls::TlsStream;
use futures_util::FutureExt as _;

use super::{
    Certificate, RootsError, StampedStream, TlsCause, TlsContextError, TlsFailure, TlsMaterial, TlsPaths, certificate,
    roots_are_ready,
};
use crate::{
    follow::Followed,
    plan::{Host, TlsOptions},
};

/// The TLS settings of a target.
#[derive(Clone)]
pub struct TlsContext {
    name: String,
    insecure: bool,
    pub(super) alpn: bool,
    files: TlsFiles,
}

/// The content of a target's files for TLS.
#[derive(Clone)]
pub enum TlsFiles {
    /// Read once.
    Read(Arc<TlsMaterial>),
    /// Followed.
    Followed(Arc<Followed<TlsMaterial, TlsContextError>>),
}

/// Why no handshake can be made: a fault of this machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// A file could not be read yet.
    #[error("a file for TLS cannot be read: {0}")]
    Files(Arc<str>),
    /// The system's roots cannot be found.
    #[error(transparent)]
    Roots(RootsError),
}

impl NotReady {
    /// Whether this process or the machine has no file descriptor left.
    pub fn is_exhausted(&self) -> bool {
        matches!(self, Self::Roots(RootsError { is_exhausted: true, .. }))
    }
}

/// Makes OpenSSL read its configuration file (`openssl.cnf`, `$OPENSSL_CONF`) now: at the first handshake, a file system that
/// does not respond would block a thread that probes.
pub fn init_openssl() {
    #[cfg(target_os = "linux")]
    openssl::init();
}

impl TlsContext {
    /// Reads the files that the options name. Blocks, for some seconds at most.
    pub fn new(options: &TlsOptions, host: &Host) -> Result<Self, TlsContextError> {
        let material = TlsMaterial::read(&TlsPaths::of(options))?;
        Ok(Self::with(options, host, TlsFiles::Read(Arc::new(material))))
    }

    /// The same with these files.
    pub fn with(options: &TlsOptions, host: &Host, files: TlsFiles) -> Self {
        let name = options.server_name.clone().unwrap_or_else(|| host.to_string());
        // A dot at the end is no part of the name here (RFC 6066 §3, RFC 9525 §6.3).
        let name = name.strip_suffix('.').unwrap_or(&name).to_owned();
        Self { name, insecure: options.insecure, alpn: options.alpn, files }
    }

    /// The content of the files, or why they could not be read yet.
    pub(super) fn material(&self) -> Result<Arc<TlsMaterial>, Arc<str>> {
        match &self.files {
            TlsFiles::Read(material) => Ok(material.clone()),
            TlsFiles::Followed(followed) => followed.known(),
        }
    }

    /// Fails while a file or the system's roots cannot be read. Await it before a run; waits until `deadline`.
    pub async fn ready(&self, deadline: Instant) -> Result<(), NotReady> {
        self.material().map_err(NotReady::Files)?;
        // Roots are needed for a check alone.
        if self.insecure { Ok(()) } else { roots_are_ready(deadline).await.map_err(NotReady::Roots) }
    }

    /// The name that is sent as SNI (unless it is an address) and checked against the certificate.
    pub fn server_name(&self) -> &str {
        &self.name
    }

    /// SHA-256 of the client certificate, if there is one, in upper-case hex.
    pub fn client_certificate(&self) -> Option<String> {
        self.material().ok()?.own.clone()
    }

    /// Whether certificates are not checked.
    pub fn is_insecure(&self) -> bool {
        self.insecure
    }

    /// Prepares a handshake over `wire`, up to the ClientHello, which waits for a connection: half a millisecond of work that is
    /// not part of a run.
    pub fn handshake(&self, wire: &StampedStream) -> Handshake {
        let mut builder = native_tls::TlsConnector::builder();
        builder
            .min_protocol_version(Some(native_tls::Protocol::Tlsv12))
            .danger_accept_invalid_certs(self.insecure)
            .danger_accept_invalid_hostnames(self.insecure);
        if self.alpn {
            builder.request_alpns(&["imap"]);
        }
        // Unreadable files are found by `ready` before.
        let material = self.material().unwrap_or_default();
        for root in &material.roots {
            builder.add_root_certificate(root.clone());
        }
        if let Some(identity) = &material.identity {
            builder.identity(identity.clone());
        }
        let connector = async_native_tls::TlsConnector::from(builder);
        let (name, under) = (self.name.clone(), wire.clone());
        let mut future: HandshakeFuture = Box::pin(async move { connector.connect(name, under).await });
        // Without a connection it is pending after the ClientHello, and is polled again later.
        let early = future.as_mut().now_or_never();
        Handshake { future, early, wire: wire.clone(), name: self.name.clone(), insecure: self.insecure }
    }
}

type HandshakeFuture = Pin<Box<dyn Future<Output = Result<TlsStream<StampedStream>, native_tls::Error>> + Send>>;

/// A handshake whose first bytes are ready to go.
pub struct Handshake {
    future: HandshakeFuture,
    /// It ended without a connection: a fault of ours.
    early: Option<Result<TlsStream<StampedStream>, native_tls::Error>>,
    wire: StampedStream,
    name: String,
    insecure: bool,
}

impl Handshake {
    /// Makes the handshake; the stream's first write is then the ClientHello. No deadline. The caller keeps a handle on the stream,
    /// which has the bytes of a failed handshake.
    pub async fn complete(self) -> Result<TlsStream<StampedStream>, TlsFailure> {
        let Self { future, early, wire, name, insecure } = self;
        wire.begin_tls();
        wire.begin_step();
        let result = match early {
            Some(result) => result,
            None => future.await,
        };
        let stream = result.map_err(|error| TlsFailure::of_handshake(&error, &wire, &name))?;
        if !insecure && name.parse::<IpAddr>().is_err() {
            // Without a host name in subjectAltName OpenSSL accepts the common name, which RFC 9525 §6.3 and RFC 7817 §3
            // exclude.
            let leaf = leaf(&stream).unwrap_or_default();
            if certificate::dns_names(&leaf).is_empty() {
                let text = format!(
                    "certificate refused for {name}: no host name in subjectAltName (a common name is not enough)"
                );
                return Err(TlsFailure { answered: true, leaf: Some(leaf), ..TlsFailure::new(TlsCause::Name, text) });
            }
        }
        Ok(stream)
    }
}

/// The server's own certificate, as DER.
fn leaf(stream: &TlsStream<StampedStream>) -> Option<Vec<u8>> {
    stream.peer_certificate().ok()??.to_der().ok()
}

/// The server's certificate after a handshake. For one that failed the library reports none: then those seen on the wire, which
/// are in clear text up to TLS 1.2.
pub fn shown(stream: Result<&TlsStream<StampedStream>, &TlsFailure>, wire: &StampedStream) -> Shown {
    match stream {
        Ok(stream) => {
            wire.drop_chain();
            Shown::Leaf(leaf(stream).map(|der| Certificate::parse(&der)))
        }
        Err(TlsFailure { leaf: Some(leaf), .. }) => Shown::Chain(vec![leaf.clone()]),
        Err(_) => Shown::Chain(wire.take_chain()),
    }
}

/// See [`shown`].
#[derive(Debug, PartialEq, Eq)]
pub enum Shown {
    /// After a successful handshake.
    Leaf(Option<Certificate>),
    /// After a failed one: as DER, the server's own first; empty when they were not seen.
    Chain(Vec<Vec<u8>>),
}

impl std::fmt::Debug for Handshake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Handshake({:?})", self.name)
    }
}

impl std::fmt::Debug for TlsContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TlsContext({:?})", self.name)
    }
}
