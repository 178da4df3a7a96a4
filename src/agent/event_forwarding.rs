//! Starts the forwarding of events of mail servers to the agent that probes (`forward` of `[server_events]`). Its secret and
//! its roots are followed where they are in files; a secret from a variable or a program is read once. Called by
//! `event_reception`.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use imaptrace_imap::Secret;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::{error::AgentError, event_files::secret_problem, otlp_files::secret_file};
use crate::{
    blocking, clock,
    delivery::{Header, PemFiles, Protocol, Signal},
    follow::{FileFollower, Followed, NotRead, Read},
    server_events::{EventCounts, EventForwarder, ForwardSettings},
};

/// Longer than a file system takes that works.
const READ_TIME: Duration = Duration::from_secs(5);
/// The most bytes of a file of root certificates.
const LARGEST: u64 = 4 << 20;

struct ForwardSource {
    settings: ForwardSettings,
    /// None for a secret in a file.
    fixed: Option<Secret>,
}

/// Starts the thread that forwards events. What cannot be used is an error; files that do not answer are read later.
pub(super) async fn start(
    settings: &ForwardSettings,
    counts: EventCounts,
    follower: &FileFollower,
) -> Result<EventForwarder, AgentError> {
    let file = secret_file(&settings.secret);
    let fixed = match &file {
        Some(_) => None,
        None => Some(settings.secret.load().await.map_err(AgentError::Forward)?),
    };
    let paths: Vec<_> = file.into_iter().chain(settings.ca_file.clone()).collect();
    let source = Arc::new(ForwardSource { settings: settings.clone(), fixed });
    let name = "a file for the forwarding of server events".to_owned();
    let read = source.clone();
    let files = Followed::begin(name, paths, move || Box::pin(read.clone().load())).await?;
    follower.add(&files);
    let unready = |why| Signal { unready: Some(why), ..source.signal(Vec::new(), None) };
    let known = files.known().unwrap_or_else(|why| Arc::new(unready(why)));
    let mut changes = files.subscribe();
    let (sender, receiver) = watch::channel(known);
    tokio::spawn(async move {
        // The follower checks the files as long as this is here.
        let _files = files;
        while changes.changed().await.is_ok() {
            let known = changes.borrow_and_update().clone();
            if let Ok(known) = known {
                sender.send_replace(known);
            }
        }
    });
    EventForwarder::start(receiver, counts).map_err(AgentError::Thread)
}

impl ForwardSource {
    fn signal(&self, headers: Vec<Header>, ca: Option<Vec<u8>>) -> Signal {
        Signal {
            headers,
            ca_file: self.settings.ca_file.clone(),
            pem: ca.map(|ca| Arc::new(PemFiles { ca: Some(ca), ..PemFiles::default() })),
            ..Signal::new(&self.settings.endpoint, Protocol::HttpProtobuf)
        }
    }

    async fn load(self: Arc<Self>) -> Result<Read<Signal>, NotRead<AgentError>> {
        let secret = match &self.fixed {
            Some(secret) => secret.clone(),
            None => self.settings.secret.load().await.map_err(|error| secret_problem(error, AgentError::Forward))?,
        };
        let ca = match self.settings.ca_file.clone() {
            None => None,
            Some(path) => {
                let read =
                    blocking::with_path(&path, clock::now() + READ_TIME, |path| blocking::read_file(path, LARGEST));
                let read = read.await.map_err(NotRead::from)?;
                Some(read.map_err(|error| NotRead::Wrong(AgentError::ForwardRoots(path, error)))?)
            }
        };
        let name = self.settings.name.clone().unwrap_or_else(host_name);
        let pair = Zeroizing::new(format!("{name}:{}", secret.expose()));
        let mut digest = Sha256::new();
        digest.update(pair.len().to_be_bytes());
        digest.update(pair.as_bytes());
        digest.update(ca.as_deref().unwrap_or_default());
        let value =
            Zeroizing::new(format!("Basic {}", Zeroizing::new(BASE64_STANDARD.encode(pair.as_bytes())).as_str()));
        let headers = vec![Header::new("authorization", &value)];
        Ok(Read { value: self.signal(headers, ca), digest: digest.finalize().into() })
    }
}

/// The name of this host, as its events have it, and as a shard may depend on.
pub fn host_name() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.unwrap_or_else(|| "localhost".to_owned())
}
