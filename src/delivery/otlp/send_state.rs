//! TLS, headers and URI for the requests to a receiver, made of the settings of a signal.
//!
//! Reads the files that the settings name unless their content is given. Does not connect. Called by `client`, at the start
//! and when files or headers have changed.

use std::{path::Path, sync::Arc};

use http::{
    HeaderMap, HeaderName, HeaderValue, Uri,
    header::{CONTENT_ENCODING, CONTENT_TYPE, TE, USER_AGENT},
};
use native_tls::{Certificate, Identity, TlsConnector};
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::{
    connect::{Connector, MakeTls},
    signal::{Protocol, Signal},
    transport::Transport,
};

/// Settings of a signal that cannot work: what is wrong, without passwords.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SignalError(pub(super) String);

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
        let wrong = |problem: &str| {
            let write = "write it like http://localhost:4317";
            SignalError(format!("the OTLP endpoint {endpoint:?} cannot be used: {problem}; {write}"))
        };
        let uri = signal.endpoint.parse::<Uri>().map_err(|error| wrong(&error.to_string()))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong("it needs http:// or https:// in front")),
        };
        if signal.client_cert.is_some() != signal.client_key.is_some() {
            let text = "an OTLP client certificate and its key go together: give both or none";
            return Err(SignalError(text.to_owned()));
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| wrong("it names no host"))?.to_owned();
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let headers = headers(signal)?;
        let uri = match signal.protocol {
            Protocol::HttpProtobuf => uri,
            Protocol::Grpc => {
                let mut parts = uri.into_parts();
                parts.path_and_query = grpc_path.parse().ok();
                Uri::from_parts(parts).map_err(|error| wrong(&error.to_string()))?
            }
        };
        // Without the content of the files nothing is sent, so TLS is not set up either.
        let tls = if tls && signal.unready.is_none() { Some(tls_connector(signal)?) } else { None };
        let connector = Connector { host, port, tls, proxy: signal.proxy.clone() };
        let transport = Transport { connector, protocol: signal.protocol, uri, headers, idle: Mutex::default() };
        Ok(Self { transport: Arc::new(transport), unready: signal.unready.clone() })
    }
}

fn tls_connector(signal: &Signal) -> Result<MakeTls, SignalError> {
    let pem = signal.pem.as_deref();
    let mut roots = None;
    if let Some(path) = &signal.ca_file {
        let bad = |problem: &str| bad_file(CA, path, problem);
        let read = content(CA, path, pem.and_then(|pem| pem.ca.as_deref()))?;
        let found = Certificate::stack_from_pem(&read).map_err(|error| bad(&error.to_string()))?;
        if found.is_empty() {
            return Err(bad("it holds no certificate"));
        }
        roots = Some(found);
    }
    let mut identity = None;
    if let (Some(certificate), Some(key)) = (&signal.client_cert, &signal.client_key) {
        let chain = content(CERTIFICATE, certificate, pem.and_then(|pem| pem.cert.as_deref()))?;
        let given = pem.and_then(|pem| pem.key.as_ref()).map(|key| key.as_slice());
        let key = pkcs8(&content(KEY, key, given)?);
        let help = "the key must be an unencrypted one, PKCS #8 (BEGIN PRIVATE KEY)";
        let bad = |error| bad_file(CERTIFICATE, certificate, &format!("{error}; {help}"));
        identity = Some(Identity::from_pkcs8(&chain, &key).map_err(bad)?);
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
    // Finds errors before anything is sent.
    make()
        .map_err(|error| SignalError(format!("cannot set up TLS for OTLP to {}: {error}", shown(&signal.endpoint))))?;
    Ok(Box::new(make))
}

/// A PEM file that does not hold what it should.
fn bad_file(what: &str, path: &Path, problem: &str) -> SignalError {
    SignalError(format!("the OTLP {what} {} cannot be used: {problem}", path.display()))
}

/// The content of a file: `given`, or read now.
#[expect(
    clippy::disallowed_methods,
    reason = "at the start of a command that probes nothing; the agent hands over what it has read"
)]
fn content(what: &str, path: &Path, given: Option<&[u8]>) -> Result<Zeroizing<Vec<u8>>, SignalError> {
    if let Some(given) = given {
        return Ok(Zeroizing::new(given.to_vec()));
    }
    let read = std::fs::read(path).map(Zeroizing::new);
    read.map_err(|error| SignalError(format!("cannot read the OTLP {what} {}: {error}", path.display())))
}

/// The key in PKCS #8, the TLS library's only format; unchanged if it cannot be converted.
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
    let (kind, encoding) = match signal.protocol {
        Protocol::Grpc => ("application/grpc", HeaderName::from_static("grpc-encoding")),
        Protocol::HttpProtobuf => ("application/x-protobuf", CONTENT_ENCODING),
    };
    all.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if signal.gzip {
        all.insert(encoding, HeaderValue::from_static("gzip"));
    }
    if signal.protocol == Protocol::Grpc {
        all.insert("grpc-accept-encoding", HeaderValue::from_static("gzip"));
        all.insert(TE, HeaderValue::from_static("trailers"));
    }
    for header in &signal.headers {
        let name = HeaderName::from_bytes(header.name.as_bytes()).ok();
        let value = HeaderValue::from_str(header.expose()).ok().map(|mut value| {
            // Keeps it out of the logs of libraries.
            value.set_sensitive(true);
            value
        });
        let Some((name, value)) = name.zip(value) else {
            let (name, what) = (&header.name, "a name is letters, digits and dashes, a value visible ASCII");
            return Err(SignalError(format!("the OTLP header {name:?} cannot be sent: {what}")));
        };
        all.insert(name, value);
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
