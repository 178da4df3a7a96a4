//! The files for the receiver of server events: the secrets of senders, and its certificate and key. They are followed, and a
//! change applies from the next connection or request on.
//!
//! A secret from a variable or a program is read once, at the start. Called by `event_reception`; `event_forwarding` follows
//! its files by the same functions.

use std::{fmt, sync::Arc};

use futures_util::future::try_join_all;
use imaptrace_imap::Secret;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::{error::AgentError, otlp_files::secret_file};
use crate::{
    follow::{Followed, NotRead, Read},
    net::load_server_pair,
    secret::SecretError,
    server_events::{SenderCredentials, ServerEventsSettings, TransportSecurity},
};

type FollowedCredentials = Followed<SenderCredentials, AgentError>;

/// The settings, with the secrets that cannot be followed.
struct CredentialsSource {
    settings: ServerEventsSettings,
    /// By the position of the sender; none for one in a file.
    fixed: Vec<Option<Secret>>,
}

/// Reads the files for the first time. What cannot be used is an error; files that do not answer are read later.
pub(super) async fn begin(settings: &ServerEventsSettings) -> Result<Arc<FollowedCredentials>, AgentError> {
    let fixed = settings.senders.iter().map(async |sender| match secret_file(&sender.secret) {
        Some(_) => Ok(None),
        None => sender.secret.load().await.map(Some),
    });
    let fixed = try_join_all(fixed).await.map_err(AgentError::Sender)?;
    let secrets = settings.senders.iter().filter_map(|sender| secret_file(&sender.secret));
    let mut paths: Vec<_> = secrets.chain(settings.cert.clone()).chain(settings.key.clone()).collect();
    paths.sort();
    paths.dedup();
    let source = Arc::new(CredentialsSource { settings: settings.clone(), fixed });
    let name = "a file for the receiver of server events".to_owned();
    FollowedCredentials::begin(name, paths, move || Box::pin(source.clone().load())).await
}

/// The present credentials, and each change of them for as long as the future is polled.
pub(super) fn watch_credentials(
    followed: Arc<FollowedCredentials>,
    settings: &ServerEventsSettings,
) -> (watch::Receiver<Arc<SenderCredentials>>, impl Future<Output = ()> + Send + use<>) {
    let known = followed.known().unwrap_or_else(|_| Arc::new(no_sender(settings)));
    watch_readable(followed, known)
}

/// The present value of followed files, and each change that can be used, for as long as the future is polled. Without files
/// that can be read it stays as it is.
pub(super) fn watch_readable<T, E>(
    followed: Arc<Followed<T, E>>,
    known: Arc<T>,
) -> (watch::Receiver<Arc<T>>, impl Future<Output = ()> + Send + use<T, E>)
where
    T: Send + Sync + 'static,
    E: fmt::Display + Send + 'static,
{
    let mut changes = followed.subscribe();
    let (sender, receiver) = watch::channel(known);
    let publish = async move {
        // The follower checks the files as long as this is here.
        let _followed = followed;
        while changes.changed().await.is_ok() {
            let known = changes.borrow_and_update().clone();
            if let Ok(known) = known {
                sender.send_replace(known);
            }
        }
    };
    (receiver, publish)
}

/// Before the files have been read: no request is authenticated.
fn no_sender(settings: &ServerEventsSettings) -> SenderCredentials {
    let tls = if settings.cert.is_some() { TransportSecurity::Unready } else { TransportSecurity::ClearText };
    SenderCredentials::new(settings.senders.iter().map(|sender| (sender, None)), tls)
}

impl CredentialsSource {
    async fn load(self: Arc<Self>) -> Result<Read<SenderCredentials>, NotRead<AgentError>> {
        let mut digest = Sha256::new();
        let mut secrets = Vec::with_capacity(self.fixed.len());
        for (sender, fixed) in self.settings.senders.iter().zip(&self.fixed) {
            let secret = match fixed {
                Some(secret) => secret.clone(),
                None => sender.secret.load().await.map_err(|error| secret_problem(error, AgentError::Sender))?,
            };
            digest.update(secret.expose().len().to_be_bytes());
            digest.update(secret.expose());
            secrets.push(secret);
        }
        let tls = match (&self.settings.cert, &self.settings.key) {
            (Some(cert), Some(key)) => {
                let pair = load_server_pair(cert, key).await.map_err(|error| match error {
                    NotRead::Unfinished(text) => NotRead::Unfinished(text),
                    NotRead::Wrong(error) => NotRead::Wrong(AgentError::EventsTls(error)),
                })?;
                digest.update(pair.digest);
                TransportSecurity::Tls(pair.value.into())
            }
            _ => TransportSecurity::ClearText,
        };
        let senders = self.settings.senders.iter().zip(secrets.into_iter().map(Some));
        Ok(Read { value: SenderCredentials::new(senders, tls), digest: digest.finalize().into() })
    }
}

/// A secret that cannot be read: one that does not answer is read later, any other is wrong.
pub(super) fn secret_problem(error: SecretError, wrong: fn(SecretError) -> AgentError) -> NotRead<AgentError> {
    match error {
        SecretError::Unanswered(..) => NotRead::Unfinished(error.to_string()),
        error => NotRead::Wrong(wrong(error)),
    }
}
