//! TLS by async-native-tls: the handshake. What it needs of files is read by `tls_files`. What the library does not report
//! (version, cipher) is read from the wire by `hello`, and its errors are sorted into causes by `tls_error`.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Instant,
};

use async_native_tls::TlsStream;

use super::{
    Certificate, RootsError, StampedStream, TlsCause, TlsContextError, TlsFailure, TlsMaterial, TlsPaths, certificate,
    roots_are_ready,
};
use crate::{
    follow::{Followed, Known},
    plan::{Host, TlsOptions},
};

/// What a target needs for TLS.
pub struct TlsContext {
    name: String,
    insecure: bool,
    alpn: bool,
    files: TlsFiles,
}

/// What a target's files for TLS hold.
pub enum TlsFiles {
    /// What they held when they were read.
    Read(Arc<TlsMaterial>),
    /// What they hold now.
    Followed(Arc<Followed<TlsMaterial, TlsContextError>>),
}

/// Why no handshake can be made: something of this machine's.
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
    /// Whether this process or the machine may open no more files.
    pub fn is_exhausted(&self) -> bool {
        matches!(self, Self::Roots(RootsError { is_exhausted: true, .. }))
    }
}

/// Has OpenSSL read its configuration file (`openssl.cnf`, `$OPENSSL_CONF`), which it otherwise does at the first handshake:
/// on a thread that probes, and for as long as the file system does not answer. To be called before there is such a thread.
pub fn init_openssl() {
    #[cfg(target_os = "linux")]
    openssl::init();
}

impl TlsContext {
    /// Reads the files that the options name. Blocks its thread, for some seconds at most.
    pub fn new(options: &TlsOptions, host: &Host) -> Result<Self, TlsContextError> {
        let material = TlsMaterial::read(&TlsPaths::of(options))?;
        Ok(Self::with(options, host, TlsFiles::Read(Arc::new(material))))
    }

    /// The same with files that were read already.
    pub fn with(options: &TlsOptions, host: &Host, files: TlsFiles) -> Self {
        let name = options.server_name.clone().unwrap_or_else(|| host.to_string());
        // A dot at the end says where a look-up stops; it is no part of the name (RFC 6066 §3, RFC 9525 §6.3).
        let name = name.strip_suffix('.').unwrap_or(&name).to_owned();
        Self { name, insecure: options.insecure, alpn: options.alpn, files }
    }

    /// What the files hold, or why they could not be read yet.
    fn material(&self) -> Result<Arc<TlsMaterial>, Arc<str>> {
        match &self.files {
            TlsFiles::Read(material) => Ok(material.clone()),
            TlsFiles::Followed(followed) => match followed.known() {
                Known::Good(material) => Ok(material),
                Known::Waiting(why) => Err(why),
            },
        }
    }

    /// Whether a handshake can be made, until `deadline`: files that could not be read yet are in the way, and so are the
    /// system's roots where they cannot be found. To be awaited before a run.
    pub async fn ready(&self, deadline: Instant) -> Result<(), NotReady> {
        self.material().map_err(NotReady::Files)?;
        // Without a check there is nothing to check against.
        if self.insecure { Ok(()) } else { roots_are_ready(deadline).await.map_err(NotReady::Roots) }
    }

    /// The name that is sent as SNI (unless it is an address) and checked against the certificate.
    pub fn server_name(&self) -> &str {
        &self.name
    }

    /// SHA-256 of the client certificate, upper-case hex; none is shown to a server without one.
    pub fn client_certificate(&self) -> Option<String> {
        self.material().ok()?.own.clone()
    }

    /// Whether certificates go unchecked.
    pub fn is_insecure(&self) -> bool {
        self.insecure
    }

    /// Roots to trust beside the system's.
    pub(super) fn roots(&self) -> Vec<native_tls::Certificate> {
        self.material().map(|material| material.roots.clone()).unwrap_or_default()
    }

    pub(super) fn offers_alpn(&self) -> bool {
        self.alpn
    }

    /// Makes everything ready for a handshake over `wire`, up to the ClientHello, which waits for a connection. That is
    /// half a millisecond of work that no mail program does at its user's expense, so it is done before the run begins.
    pub fn arm(&self, wire: &StampedStream) -> Armed {
        let mut builder = native_tls::TlsConnector::builder();
        builder
            .min_protocol_version(Some(native_tls::Protocol::Tlsv12))
            .danger_accept_invalid_certs(self.insecure)
            .danger_accept_invalid_hostnames(self.insecure);
        if self.alpn {
            builder.request_alpns(&["imap"]);
        }
        // Of files that could not be read nothing is used: who asked whether this is ready does not come here.
        let material = self.material().unwrap_or_default();
        for root in &material.roots {
            builder.add_root_certificate(root.clone());
        }
        if let Some(identity) = &material.identity {
            builder.identity(identity.clone());
        }
        let connector = async_native_tls::TlsConnector::from(builder);
        let (name, under) = (self.name.clone(), wire.clone());
        let mut handshake: Handshake = Box::pin(async move { connector.connect(name, under).await });
        // Without a connection it cannot get further than this; whatever it says is said again when it goes on.
        let early = match handshake.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        };
        Armed { handshake, early, wire: wire.clone(), name: self.name.clone(), insecure: self.insecure }
    }
}

type Handshake = Pin<Box<dyn Future<Output = Result<TlsStream<StampedStream>, native_tls::Error>> + Send>>;

/// A handshake whose first bytes are ready to go.
pub struct Armed {
    handshake: Handshake,
    /// It ended before it began: something of ours is wrong.
    early: Option<Result<TlsStream<StampedStream>, native_tls::Error>>,
    wire: StampedStream,
    name: String,
    insecure: bool,
}

impl Armed {
    /// Shakes hands; the stamped stream's first write is then the ClientHello's first byte. The caller keeps its handle on the
    /// stamped stream: what was seen on the wire outlives a handshake that fails. Waits for as long as the server lets it.
    pub async fn shake(self) -> Result<TlsStream<StampedStream>, TlsFailure> {
        let Self { handshake, early, wire, name, insecure } = self;
        wire.begin_tls();
        wire.begin_step();
        let result = match early {
            Some(result) => result,
            None => handshake.await,
        };
        let stream = result.map_err(|error| TlsFailure::of_handshake(&error, &wire, &name))?;
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
fn leaf(stream: &TlsStream<StampedStream>) -> Option<Vec<u8>> {
    stream.peer_certificate().ok()??.to_der().ok()
}

/// A certificate that names no host.
fn nameless(name: &str, leaf: Vec<u8>) -> TlsFailure {
    let text = format!("certificate refused for {name}: no host name in subjectAltName (a common name is not enough)");
    TlsFailure { answered: true, leaf: Some(leaf), ..TlsFailure::new(TlsCause::Name, text) }
}

/// What is known of the server's certificate after a handshake, good or bad: of one that failed the library reports
/// nothing, and what passed on the wire is taken; up to TLS 1.2 that is in clear text.
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
