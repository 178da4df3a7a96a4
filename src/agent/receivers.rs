//! What goes with each request to an OTLP receiver and lies in files: headers, roots, our certificate and its key. They are
//! followed, and a change is in use from the next request on.
//!
//! Headers out of a variable or a program are had once: there is nothing that would show a change. Called by `wiring`, and by
//! the agent, which hands changes to delivery.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use tracing::error;
use zeroize::Zeroizing;

use super::AgentError;
use crate::{
    blocking, clock,
    config::{Compression, Exporter, Protocol, bracketed},
    delivery::{self, Header, HttpProxy, PemFiles, Receivers, Signal, StartError, WireError},
    follow::{Followed, Known, NotRead, Read},
    secret::{Secret, SecretError, SecretSource},
};

/// How long a file system may take for one file.
const DEADLINE: Duration = Duration::from_secs(2);
/// The largest file that is read, in bytes.
const LARGEST: u64 = 16 << 20;

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
        signal.pem = Some(Arc::new(PemFiles {
            ca: read("CA file", exporter.ca_file.as_deref()).await?.map(|ca| ca.to_vec()),
            cert: read("client certificate", exporter.client_cert.as_deref()).await?.map(|cert| cert.to_vec()),
            key: read("client key", exporter.client_key.as_deref()).await?,
        }));
        let digest = digest(&signal, &self.fixed);
        // What is in the files is tried out before it takes the place of what works.
        let tried = blocking::work(move || signal.check().map(|()| signal)).await;
        let tried = tried.map_err(|error| NotRead::Unfinished(error.to_string()))?;
        let value = tried.map_err(|error| NotRead::Wrong(StartError::from(error).into()))?;
        Ok(Read { value, digest })
    }
}

fn header_problem(error: SecretError) -> NotRead<AgentError> {
    match error {
        SecretError::Unanswered { .. } => NotRead::Unfinished(format!("a header for OTLP: {error}")),
        error => NotRead::Wrong(error.into()),
    }
}

async fn read(what: &'static str, path: Option<&Path>) -> Result<Option<Zeroizing<Vec<u8>>>, NotRead<AgentError>> {
    let Some(path) = path else { return Ok(None) };
    let read = |path: &Path| blocking::read_file(path, LARGEST).map(Zeroizing::new);
    let content = blocking::with_path(path, clock::now() + DEADLINE, read).await;
    let content = content
        .map_err(|unfinished| NotRead::Unfinished(format!("the OTLP {what} {}: {unfinished}", path.display())))?;
    content.map(Some).map_err(|source| {
        NotRead::Wrong(StartError::from(WireError::File { what, path: path.to_owned(), source }).into())
    })
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
