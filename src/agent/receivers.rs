//! What goes with each request to an OTLP receiver and lies in files: headers, roots, our certificate and its key. They are
//! followed, and a change is in use from the next request on.
//!
//! Headers out of a variable or a program are had once: there is nothing that would show a change. Called by `wiring`, and by
//! the agent, which hands changes to delivery.

use std::{env, ffi::OsString, path::PathBuf, sync::Arc};

use sha2::{Digest as _, Sha256};
use tracing::error;

use super::AgentError;
use crate::{
    blocking,
    config::{Compression, Exporter, Protocol, bracketed},
    delivery::{self, Header, HttpProxy, PemFiles, Receivers, Signal, StartError, WireError},
    follow::{Followed, Known, NotRead, Read},
    net::{TlsContextError, TlsPaths, TlsPem},
    secret::{Secret, SecretError, SecretSource},
};

/// One signal's settings, as its files are now.
pub(super) type FollowedSignal = Followed<Signal, AgentError>;

/// One exporter, with what cannot be followed.
struct ExporterSource {
    exporter: Exporter,
    /// Values of headers that were had once.
    fixed: Vec<Option<Secret>>,
    child_env: Vec<(OsString, Option<OsString>)>,
}

/// Reads what this exporter needs for the first time, if there is one. `what` it exports is for the log.
pub(super) async fn begin(
    what: &str,
    exporter: Option<&Exporter>,
    child_env: &[(OsString, Option<OsString>)],
) -> Result<Option<Arc<FollowedSignal>>, AgentError> {
    let Some(exporter) = exporter else { return Ok(None) };
    let mut fixed = Vec::with_capacity(exporter.headers.len());
    for (_, source) in &exporter.headers {
        let value = if file(source).is_none() { Some(source.load(child_env).await?) } else { None };
        fixed.push(value);
    }
    let source = Arc::new(ExporterSource { exporter: exporter.clone(), fixed, child_env: child_env.to_vec() });
    let paths = source.paths();
    let names = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
    let name = format!("a file of the OTLP exporter of {what} ({names})");
    FollowedSignal::begin(name, paths, move || Box::pin(source.clone().load())).await.map(Some)
}

/// The settings now. A file that does not answer leaves an exporter that waits for it.
pub(super) fn now(followed: &FollowedSignal, exporter: &Exporter) -> Signal {
    match followed.known() {
        Known::Good(signal) => signal.as_ref().clone(),
        Known::Waiting(why) => Signal { unready: Some(why), ..plain(exporter) },
    }
}

/// Hands each change from now on to delivery, for as long as it is polled.
pub(super) fn hand_on(
    followed: Arc<FollowedSignal>,
    replace: impl Fn(&Receivers, &Signal) -> Result<(), WireError> + Send + 'static,
    receivers: Receivers,
) -> impl Future<Output = ()> + Send {
    let mut changes = followed.subscribe();
    async move {
        // It is looked at for as long as somebody has it.
        let _followed = followed;
        while changes.changed().await.is_ok() {
            let known = changes.borrow_and_update().clone();
            if let Known::Good(signal) = known
                && let Err(problem) = replace(&receivers, &signal)
            {
                error!("{problem}");
            }
        }
    }
}

/// Headers whose values cannot be followed, by name.
pub(super) fn unfollowed(exporter: &Exporter) -> impl Iterator<Item = &str> {
    let unfollowed =
        |source: &SecretSource| matches!(source.plain().0, SecretSource::Env(_) | SecretSource::Command(_));
    exporter.headers.iter().filter(move |(_, source)| unfollowed(source)).map(|(name, _)| name.as_str())
}

/// The file that a secret is in.
fn file(source: &SecretSource) -> Option<PathBuf> {
    match source.plain().0 {
        SecretSource::File { path, .. } => Some(path.clone()),
        SecretSource::Credential(name) => Some(PathBuf::from(env::var_os("CREDENTIALS_DIRECTORY")?).join(name)),
        _ => None,
    }
}

/// The settings without what is in files and headers.
fn plain(exporter: &Exporter) -> Signal {
    let protocol = match exporter.protocol {
        Protocol::Grpc => delivery::Protocol::Grpc,
        Protocol::HttpProtobuf => delivery::Protocol::HttpProtobuf,
    };
    Signal {
        timeout: exporter.timeout,
        gzip: exporter.compression == Compression::Gzip,
        ca_file: exporter.ca_file.clone(),
        client_cert: exporter.client_cert.clone(),
        client_key: exporter.client_key.clone(),
        proxy: exporter.route.proxy.as_ref().map(|proxy| {
            let credentials = proxy.credentials.as_ref().map(Secret::expose);
            HttpProxy::new(&bracketed(&proxy.host), proxy.port, credentials)
        }),
        ..Signal::new(&exporter.endpoint, protocol)
    }
}

impl ExporterSource {
    fn paths(&self) -> Vec<PathBuf> {
        let Exporter { ca_file, client_cert, client_key, .. } = &self.exporter;
        let headers = self.exporter.headers.iter().filter_map(|(_, source)| file(source));
        headers.chain([ca_file, client_cert, client_key].into_iter().flatten().cloned()).collect()
    }

    async fn load(self: Arc<Self>) -> Result<Read<Signal>, NotRead<AgentError>> {
        let exporter = &self.exporter;
        let mut signal = plain(exporter);
        for ((name, source), fixed) in exporter.headers.iter().zip(&self.fixed) {
            let value = match fixed {
                Some(value) => value.clone(),
                None => source.load(&self.child_env).await.map_err(header_problem)?,
            };
            signal.headers.push(Header::new(name, value.expose()));
        }
        let paths = tls_paths(exporter);
        let TlsPem { ca, chain, key } = TlsPem::load(&paths).await.map_err(tls_problem)?;
        let pem = PemFiles { ca, cert: chain, key };
        let (ca, chain, key) = (pem.ca.clone(), pem.cert.clone(), pem.key.clone());
        signal.pem = Some(Arc::new(pem));
        let digest = digest(&signal, &self.fixed);
        // What is in the files is tried out before it takes the place of what works.
        let tried = blocking::work(move || -> Result<Signal, AgentError> {
            TlsPem { ca, chain, key }.check(&paths).map_err(AgentError::OtlpTls)?;
            signal.check().map_err(StartError::from)?;
            Ok(signal)
        });
        let tried = tried.await.map_err(|error| NotRead::Unfinished(error.to_string()))?;
        Ok(Read { value: tried.map_err(NotRead::Wrong)?, digest })
    }
}

fn header_problem(error: SecretError) -> NotRead<AgentError> {
    match error {
        SecretError::Unanswered { .. } => NotRead::Unfinished(format!("a header for OTLP: {error}")),
        error => NotRead::Wrong(error.into()),
    }
}

fn tls_problem(error: NotRead<TlsContextError>) -> NotRead<AgentError> {
    match error {
        NotRead::Unfinished(text) => NotRead::Unfinished(format!("the OTLP exporter: {text}")),
        NotRead::Wrong(error) => NotRead::Wrong(AgentError::OtlpTls(error)),
    }
}

/// An exporter's files for TLS.
fn tls_paths(exporter: &Exporter) -> TlsPaths {
    let Exporter { ca_file, client_cert, client_key, .. } = exporter;
    TlsPaths { ca_file: ca_file.clone(), client_cert: client_cert.clone(), client_key: client_key.clone() }
}

/// What is wrong inside its files for TLS, if anything. Blocks its thread, for some seconds at most.
pub fn check_tls(exporter: &Exporter) -> Result<(), TlsContextError> {
    let paths = tls_paths(exporter);
    TlsPem::read(&paths)?.check(&paths)
}

/// Of all that was read.
fn digest(signal: &Signal, fixed: &[Option<Secret>]) -> [u8; 32] {
    let mut digest = Sha256::new();
    let mut add = |bytes: &[u8]| {
        digest.update(bytes.len().to_be_bytes());
        digest.update(bytes);
    };
    let read = signal.headers.iter().zip(fixed).filter(|(_, fixed)| fixed.is_none());
    read.for_each(|(header, _)| add(header.expose().as_bytes()));
    if let Some(pem) = &signal.pem {
        add(pem.ca.as_deref().unwrap_or_default());
        add(pem.cert.as_deref().unwrap_or_default());
        add(pem.key.as_ref().map(|key| key.as_slice()).unwrap_or_default());
    }
    digest.finalize().into()
}
