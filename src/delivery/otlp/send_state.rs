//! How requests reach a receiver: TLS, headers and URI, made of the settings of a signal.
//!
//! Reads the files that the settings name unless their content is given. Connects to nothing. Called by `client`, at the start
//! and when files or headers have changed.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use http::{
    HeaderMap, HeaderName, HeaderValue, Uri,
    header::{CONTENT_ENCODING, CONTENT_TYPE, TE, USER_AGENT},
};
use native_tls::{Certificate, Identity, TlsConnector};
use zeroize::Zeroizing;

use super::{
    connect::{Connector, MakeTls},
    signal::{Protocol, Signal},
    transport::Transport,
};

/// Settings of a signal that cannot work.
#[derive(Debug, thiserror::Error)]
pub enum SignalError {
    /// The endpoint is no URL with `http` or `https`.
    #[error("the OTLP endpoint {endpoint:?} cannot be used: {problem}; write it like http://localhost:4317")]
    Endpoint {
        /// The endpoint, without a password.
        endpoint: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A PEM file cannot be read.
    #[error("cannot read the OTLP {what} {path}: {source}", path = path.display())]
    File {
        /// Which of the three.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A PEM file does not hold what it should.
    #[error("the OTLP {what} {path} cannot be used: {problem}", path = path.display())]
    Pem {
        /// Which of the three.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// A certificate without a key, or a key without a certificate.
    #[error("an OTLP client certificate and its key go together: give both or none")]
    HalfIdentity,
    /// A header that HTTP cannot carry.
    #[error("the OTLP header {name:?} cannot be sent: a name is letters, digits and dashes, a value visible ASCII")]
    Header {
        /// Its name.
        name: String,
    },
    /// The exporter does not take its settings.
    #[error("cannot build the OTLP exporter for {endpoint}: {problem}")]
    Build {
        /// The endpoint, without a password.
        endpoint: String,
        /// What the exporter says.
        problem: String,
    },
    /// The TLS library cannot be set up.
    #[error("cannot set up TLS for OTLP to {endpoint}: {problem}")]
    Tls {
        /// The endpoint, without a password.
        endpoint: String,
        /// What the library says.
        problem: String,
    },
}

/// Connection settings, which change with the files that the operator named.
pub(super) struct SendState {
    pub(super) transport: Arc<Transport>,
    /// Why nothing can be sent yet.
    pub(super) unready: Option<Arc<str>>,
}

const CA: &str = "CA file";
const CERTIFICATE: &str = "client certificate";
const KEY: &str = "client key";

impl Signal {
    /// Checks whether an exporter can be built.
    pub fn check(&self) -> Result<(), SignalError> {
        SendState::new(self, "/").map(drop)
    }
}

impl SendState {
    pub(super) fn new(signal: &Signal, grpc_path: &str) -> Result<Self, SignalError> {
        let endpoint = shown(&signal.endpoint);
        let wrong = |problem: &str| SignalError::Endpoint { endpoint: endpoint.clone(), problem: problem.to_owned() };
        let uri = signal.endpoint.parse::<Uri>().map_err(|error| wrong(&error.to_string()))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong("it needs http:// or https:// in front")),
        };
        if signal.client_cert.is_some() != signal.client_key.is_some() {
            return Err(SignalError::HalfIdentity);
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| wrong("it names no host"))?.to_owned();
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let mut headers = headers(signal)?;
        let uri = match signal.protocol {
            Protocol::HttpProtobuf => uri,
            Protocol::Grpc => {
                headers.insert(TE, HeaderValue::from_static("trailers"));
                let mut parts = uri.into_parts();
                parts.path_and_query = grpc_path.parse().ok();
                Uri::from_parts(parts).map_err(|error| wrong(&error.to_string()))?
            }
        };
        // Without the content of the files nothing is sent, so TLS is not set up either.
        let tls = if tls && signal.unready.is_none() { Some(tls_connector(signal)?) } else { None };
        let connector = Connector::new(&host, port, tls, signal.proxy.clone());
        let transport = Arc::new(Transport::new(connector, signal.protocol, uri, headers));
        Ok(Self { transport, unready: signal.unready.clone() })
    }
}

fn tls_connector(signal: &Signal) -> Result<MakeTls, SignalError> {
    let pem = signal.pem.as_deref();
    let mut roots = None;
    if let Some(path) = &signal.ca_file {
        let bad = |problem| SignalError::Pem { what: CA, path: path.clone(), problem };
        let read = content(CA, path, pem.and_then(|pem| pem.ca.as_deref()))?;
        let found = Certificate::stack_from_pem(&read).map_err(|error| bad(error.to_string()))?;
        if found.is_empty() {
            return Err(bad("it holds no certificate".to_owned()));
        }
        roots = Some(found);
    }
    let mut identity = None;
    if let (Some(certificate), Some(key)) = (&signal.client_cert, &signal.client_key) {
        let chain = content(CERTIFICATE, certificate, pem.and_then(|pem| pem.cert.as_deref()))?;
        let given = pem.and_then(|pem| pem.key.as_ref()).map(|key| key.as_slice());
        let key = pkcs8(&content(KEY, key, given)?);
        identity = Some(Identity::from_pkcs8(&chain, &key).map_err(|error| SignalError::Pem {
            what: CERTIFICATE,
            path: certificate.clone(),
            problem: format!("{error}; the key must be an unencrypted one, PKCS #8 (BEGIN PRIVATE KEY)"),
        })?);
    }
    let protocol = signal.protocol;
    let make = move || {
        let mut builder = TlsConnector::builder();
        builder.request_alpns(match protocol {
            Protocol::Grpc => &["h2"],
            Protocol::HttpProtobuf => &["http/1.1"],
        });
        if let Some(roots) = &roots {
            builder.disable_built_in_roots(true);
            for root in roots {
                builder.add_root_certificate(root.clone());
            }
        }
        if let Some(identity) = &identity {
            builder.identity(identity.clone());
        }
        builder.build()
    };
    // Tried at once, to find errors before anything is sent.
    make().map_err(|error| SignalError::Tls { endpoint: shown(&signal.endpoint), problem: error.to_string() })?;
    Ok(Box::new(make))
}

/// The content of a file: `given`, or read now.
#[expect(
    clippy::disallowed_methods,
    reason = "at the start of a command that probes nothing; the agent hands over what it has read"
)]
fn content(what: &'static str, path: &Path, given: Option<&[u8]>) -> Result<Zeroizing<Vec<u8>>, SignalError> {
    if let Some(given) = given {
        return Ok(Zeroizing::new(given.to_vec()));
    }
    let read = std::fs::read(path).map(Zeroizing::new);
    read.map_err(|source| SignalError::File { what, path: path.to_owned(), source })
}

/// The key in PKCS #8, the only format of the TLS library; unchanged if it cannot be converted.
#[cfg(target_os = "linux")]
fn pkcs8(pem: &[u8]) -> Zeroizing<Vec<u8>> {
    // OpenSSL must not prompt for the passphrase of an encrypted key.
    let key = openssl::pkey::PKey::private_key_from_pem_callback(pem, |_| Ok(0));
    Zeroizing::new(key.and_then(|key| key.private_key_to_pem_pkcs8()).unwrap_or_else(|_| pem.to_vec()))
}

#[cfg(not(target_os = "linux"))]
fn pkcs8(pem: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(pem.to_vec())
}

/// The headers of the protocol, and those of the operator, which override them.
fn headers(signal: &Signal) -> Result<HeaderMap, SignalError> {
    let mut all = HeaderMap::new();
    all.insert(USER_AGENT, HeaderValue::from_static(concat!("imaptrace/", env!("CARGO_PKG_VERSION"))));
    match signal.protocol {
        Protocol::Grpc => {
            all.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            all.insert("grpc-accept-encoding", HeaderValue::from_static("gzip"));
            if signal.gzip {
                all.insert("grpc-encoding", HeaderValue::from_static("gzip"));
            }
        }
        Protocol::HttpProtobuf => {
            all.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
            if signal.gzip {
                all.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            }
        }
    }
    for header in &signal.headers {
        let name = HeaderName::from_bytes(header.name.as_bytes()).ok();
        let value = HeaderValue::from_str(header.expose()).ok().map(|mut value| {
            // Keeps it out of the logs of libraries.
            value.set_sensitive(true);
            value
        });
        let pair = name.zip(value).ok_or_else(|| SignalError::Header { name: header.name.clone() })?;
        all.insert(pair.0, pair.1);
    }
    Ok(all)
}

/// The endpoint without user and password.
pub(super) fn shown(endpoint: &str) -> String {
    match (endpoint.split_once("://"), endpoint.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://{rest}"),
        (None, Some((_, rest))) => rest.to_owned(),
        (_, None) => endpoint.to_owned(),
    }
}
