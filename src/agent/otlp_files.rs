//! Files for requests to an OTLP receiver: headers, root certificates, the client certificate and its key. They are followed,
//! and a change applies from the next request on.
//!
//! Headers from a variable or a program are read once, since a change cannot be detected, for all exporters that have the same
//! source. A program that does not answer at the start is run again, after pauses that grow to a minute, and exports wait for
//! it. Called by `wiring`.

use std::{
    env,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use imaptrace_imap::Secret;
use sha2::{Digest as _, Sha256};
use tracing::error;

use super::error::AgentError;
use crate::{
    blocking, clock,
    config::Exporter,
    delivery::{DeliveryStartError, Header, OtlpClient, PemFiles, Signal},
    follow::{Followed, NotRead, Read},
    net::{TlsContextError, TlsPaths, TlsPem},
    secret::{SecretError, SecretSource},
};

/// One signal's settings, as its files are now.
pub(super) type FollowedSignal = Followed<Signal, AgentError>;

/// How long the agent's start waits for a program that prints a header's value. Later attempts may take longer.
pub(super) const START_LIMIT: Duration = Duration::from_secs(2);

/// The pauses after a program that failed.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Headers that are not in files: each source is read once, for all exporters that have it.
#[derive(Default)]
pub(super) struct FixedHeaders(Mutex<Vec<Arc<FixedHeader>>>);

/// A header that is not in a file.
struct FixedHeader {
    source: SecretSource,
    state: tokio::sync::Mutex<FixedHeaderState>,
}

enum FixedHeaderState {
    Read(Secret),
    /// When to read it next, and the pause before that.
    Unread(Instant, Duration),
}

impl FixedHeaders {
    fn of(&self, source: &SecretSource) -> Arc<FixedHeader> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.iter().find(|header| header.source == *source) {
            return known.clone();
        }
        let state = tokio::sync::Mutex::new(FixedHeaderState::Unread(clock::now(), FIRST_PAUSE));
        let new = Arc::new(FixedHeader { source: source.clone(), state });
        all.push(new.clone());
        new
    }
}

impl FixedHeader {
    /// The value, which is read once. After a failure it waits for the pause first.
    async fn load(&self) -> Result<Secret, SecretError> {
        let mut state = self.state.lock().await;
        let (at, pause) = match &*state {
            FixedHeaderState::Read(value) => return Ok(value.clone()),
            FixedHeaderState::Unread(at, pause) => (*at, *pause),
        };
        tokio::time::sleep_until(at.into()).await;
        let loaded = self.source.load().await;
        *state = match &loaded {
            Ok(value) => FixedHeaderState::Read(value.clone()),
            Err(_) => FixedHeaderState::Unread(clock::now() + pause, (pause * 2).min(LONGEST_PAUSE)),
        };
        loaded
    }
}

/// One exporter, with the values that cannot be followed.
struct ExporterSource {
    exporter: Exporter,
    /// By position; none for a header that is in a file.
    fixed: Vec<Option<Arc<FixedHeader>>>,
    /// For the first attempt at the values of `fixed`, which takes it.
    start_limit: Mutex<Option<Duration>>,
}

/// Reads the files and headers of this exporter, if there is one, for the first time. `what` it exports is for the log. With a
/// `start_limit` exports wait for a program that takes longer, else the caller does.
pub(super) async fn begin(
    what: &str,
    exporter: Option<&Exporter>,
    headers: &FixedHeaders,
    start_limit: Option<Duration>,
) -> Result<Option<Arc<FollowedSignal>>, AgentError> {
    let Some(exporter) = exporter else { return Ok(None) };
    let source = Arc::new(ExporterSource {
        exporter: exporter.clone(),
        fixed: exporter
            .headers
            .iter()
            .map(|(_, source)| secret_file(source).is_none().then(|| headers.of(source)))
            .collect(),
        start_limit: Mutex::new(start_limit),
    });
    let headers = exporter.headers.iter().filter_map(|(_, source)| secret_file(source));
    let paths: Vec<_> = headers.chain(tls_paths(exporter).all()).collect();
    let names = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
    let name = match names.as_str() {
        "" => format!("a header of the OTLP exporter of {what}"),
        names => format!("a file of the OTLP exporter of {what} ({names})"),
    };
    FollowedSignal::begin(name, paths, move || Box::pin(source.clone().load())).await.map(Some)
}

/// The current settings. While a file does not answer, the exporter waits for it.
pub(super) fn current(followed: &FollowedSignal, exporter: &Exporter) -> Signal {
    match followed.known() {
        Ok(signal) => signal.as_ref().clone(),
        Err(why) => Signal { unready: Some(why), ..plain(exporter) },
    }
}

/// Passes each change from now on to delivery, for as long as it is polled.
pub(super) fn forward_changes(
    followed: Arc<FollowedSignal>,
    exporter: Exporter,
    client: Arc<OtlpClient>,
) -> impl Future<Output = ()> + Send {
    let mut changes = followed.subscribe();
    async move {
        while changes.changed().await.is_ok() {
            changes.mark_unchanged();
            if let Err(problem) = client.replace(&current(&followed, &exporter)) {
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
pub(super) fn secret_file(source: &SecretSource) -> Option<PathBuf> {
    match source.plain().0 {
        SecretSource::File { path, .. } => Some(path.clone()),
        SecretSource::Credential(name) => Some(PathBuf::from(env::var_os("CREDENTIALS_DIRECTORY")?).join(name)),
        _ => None,
    }
}

/// The settings without what is in files and headers.
fn plain(exporter: &Exporter) -> Signal {
    Signal {
        timeout: exporter.timeout,
        gzip: exporter.gzip,
        ca_file: exporter.ca_file.clone(),
        client_cert: exporter.client_cert.clone(),
        client_key: exporter.client_key.clone(),
        proxy: exporter.route.proxy.clone(),
        ..Signal::new(&exporter.endpoint, exporter.protocol)
    }
}

impl ExporterSource {
    async fn load(self: Arc<Self>) -> Result<Read<Signal>, NotRead<AgentError>> {
        let exporter = &self.exporter;
        let mut signal = plain(exporter);
        let limit = self.start_limit.lock().unwrap_or_else(PoisonError::into_inner).take();
        for ((name, source), fixed) in exporter.headers.iter().zip(&self.fixed) {
            let value = match fixed {
                None => source.load().await.map_err(header_problem)?,
                Some(fixed) => load_fixed(name, fixed, limit).await?,
            };
            signal.headers.push(Header::new(name, value.expose()));
        }
        let paths = tls_paths(exporter);
        let TlsPem { ca, chain, key } = TlsPem::load(&paths).await.map_err(tls_problem)?;
        let pem = PemFiles { ca, cert: chain, key };
        let (ca, chain, key) = (pem.ca.clone(), pem.cert.clone(), pem.key.clone());
        signal.pem = Some(Arc::new(pem));
        let digest = digest(&signal);
        // The new files are checked before they replace those in use.
        let tried = blocking::work(move || -> Result<Signal, AgentError> {
            TlsPem { ca, chain, key }.check(&paths).map_err(AgentError::OtlpTls)?;
            signal.check().map_err(DeliveryStartError::from)?;
            Ok(signal)
        });
        let tried = tried.await.map_err(|error| NotRead::Unfinished(error.to_string()))?;
        Ok(Read { value: tried.map_err(NotRead::Wrong)?, digest })
    }
}

/// The value of the header `name`, which is not in a file; `limit` is for the first attempt.
async fn load_fixed(name: &str, header: &FixedHeader, limit: Option<Duration>) -> Result<Secret, NotRead<AgentError>> {
    let load = async { header.load().await.map_err(header_problem) };
    let Some(limit) = limit else { return load.await };
    let late = || {
        let seconds = limit.as_secs_f64();
        NotRead::Unfinished(format!(
            "the program that prints the header {name} for OTLP has not ended within {seconds} s"
        ))
    };
    tokio::time::timeout(limit, load).await.unwrap_or_else(|_| Err(late()))
}

fn header_problem(error: SecretError) -> NotRead<AgentError> {
    match error {
        SecretError::Unanswered(..) => NotRead::Unfinished(format!("a header for OTLP: {error}")),
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

/// Checks the exporter's TLS files. Blocks its thread, for some seconds at most.
pub fn check_tls(exporter: &Exporter) -> Result<(), TlsContextError> {
    let paths = tls_paths(exporter);
    TlsPem::read(&paths)?.check(&paths)
}

/// The digest of all values.
fn digest(signal: &Signal) -> [u8; 32] {
    let mut digest = Sha256::new();
    let mut add = |bytes: &[u8]| {
        digest.update(bytes.len().to_be_bytes());
        digest.update(bytes);
    };
    signal.headers.iter().for_each(|header| add(header.expose().as_bytes()));
    if let Some(pem) = &signal.pem {
        add(pem.ca.as_deref().unwrap_or_default());
        add(pem.cert.as_deref().unwrap_or_default());
        add(pem.key.as_ref().map(|key| key.as_slice()).unwrap_or_default());
    }
    digest.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock,
        config::{self, Sources},
    };

    /// The exporter of traces with a header that a shell script prints.
    fn exporter(dir: &std::path::Path, script: &str) -> Exporter {
        let file = dir.join("imaptrace.toml");
        let text = format!(
            "[[targets]]\nname = \"a\"\nurl = \"imaps://127.0.0.1:1\"\nuser = \"me\"\npassword = {{ env = \"X\" }}\n\
             [otlp]\nendpoint = \"http://127.0.0.1:1\"\nheaders.x-token = {{ command = [\"sh\", \"-c\", {script:?}] }}\n"
        );
        std::fs::write(&file, text).unwrap();
        config::load(&Sources { file: Some(file), ..Sources::default() }).unwrap().otlp.traces.unwrap()
    }

    #[tokio::test]
    async fn exports_wait_for_a_header_whose_program_does_not_answer_at_the_start_and_it_is_run_again() {
        let dir = tempfile::tempdir().unwrap();
        // It hangs, then fails, then prints the value.
        let runs = dir.path().join("runs");
        let script = format!(
            "echo >> {0}; case $(wc -l < {0}) in 1) exec sleep 600;; 2) exit 3;; esac; echo value",
            runs.display()
        );
        let exporter = exporter(dir.path(), &script);
        let begun = clock::now();
        let limit = Duration::from_millis(500);
        let headers = FixedHeaders::default();
        let followed = begin("traces", Some(&exporter), &headers, Some(limit)).await.unwrap().unwrap();
        assert!(clock::now() - begun >= limit);
        let unready = current(&followed, &exporter).unready.unwrap();
        assert_eq!(&*unready, "the program that prints the header x-token for OTLP has not ended within 0.5 s");
        followed.check().await;
        let unready = current(&followed, &exporter).unready.unwrap();
        assert!(unready.contains("exit status: 3"), "{unready}");
        followed.check().await;
        let signal = current(&followed, &exporter);
        assert_eq!((signal.unready, signal.headers.len(), signal.headers[0].expose()), (None, 1, "value"));
    }

    #[tokio::test]
    async fn a_program_that_two_exporters_have_is_run_once() {
        let dir = tempfile::tempdir().unwrap();
        let runs = dir.path().join("runs");
        let exporter = exporter(dir.path(), &format!("echo >> {}; sleep 0.3; echo value", runs.display()));
        let headers = FixedHeaders::default();
        let both = tokio::join!(
            begin("traces", Some(&exporter), &headers, Some(START_LIMIT)),
            begin("metrics", Some(&exporter), &headers, Some(START_LIMIT)),
        );
        for followed in [both.0, both.1] {
            assert_eq!(current(&followed.unwrap().unwrap(), &exporter).headers[0].expose(), "value");
        }
        assert_eq!(std::fs::read_to_string(&runs).unwrap(), "\n");
    }

    #[tokio::test]
    async fn a_program_that_fails_at_the_start_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let exporter = exporter(dir.path(), "exit 3");
        let error = begin("traces", Some(&exporter), &FixedHeaders::default(), Some(START_LIMIT)).await.unwrap_err();
        assert!(error.may_pass() && error.to_string().starts_with("a header for OTLP: "), "{error}");
    }
}
