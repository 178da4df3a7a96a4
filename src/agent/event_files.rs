//! Who may send server events, and the files for that: the secrets of senders, and the receiver's certificate and key. The files
//! are followed, and a change applies from the next connection or request on. So does a reload that changes the senders.
//!
//! A secret from a variable or a program is read once, at the start or when its sender is new. Called by `event_reception` and
//! `reload`.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::future::try_join_all;
use imaptrace_imap::Secret;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::{error::AgentError, otlp_files::secret_file};
use crate::{
    follow::{FileFollower, Followed, NotRead, Read},
    net::load_server_pair,
    secret::SecretError,
    server_events::{SenderCredentials, SenderSettings, ServerEventsSettings, TransportSecurity},
};

type FollowedCredentials = Followed<SenderCredentials, AgentError>;

/// The settings, with the secrets that cannot be followed.
struct CredentialsSource {
    settings: ServerEventsSettings,
    /// By the position of the sender; none for one in a file.
    fixed: Vec<Option<Secret>>,
}

/// The senders that may send at present. See the module's head.
pub(super) struct EventSenders {
    follower: FileFollower,
    current: Arc<Mutex<CurrentSenders>>,
}

struct CurrentSenders {
    source: Arc<CredentialsSource>,
    followed: Arc<FollowedCredentials>,
    credentials: watch::Sender<Arc<SenderCredentials>>,
}

/// Senders whose files have been read.
pub(super) struct NextSenders {
    source: Arc<CredentialsSource>,
    followed: Arc<FollowedCredentials>,
}

impl EventSenders {
    /// Reads the files for the first time. What cannot be used is an error; files that do not answer are read later. The receiver has
    /// the present credentials.
    pub(super) async fn start(
        settings: &ServerEventsSettings,
        follower: &FileFollower,
    ) -> Result<(Self, watch::Receiver<Arc<SenderCredentials>>), AgentError> {
        let NextSenders { source, followed } = read(settings.clone(), None).await?;
        let (credentials, receiver) = watch::channel(known(&source, &followed));
        let current = Arc::new(Mutex::new(CurrentSenders { source, followed: followed.clone(), credentials }));
        let senders = Self { follower: follower.clone(), current };
        senders.follow(&followed);
        Ok((senders, receiver))
    }

    /// Reads the files of these senders; none when they are the present ones. The receiver's certificate and key stay.
    pub(super) async fn next(&self, senders: &[SenderSettings]) -> Result<Option<NextSenders>, AgentError> {
        let source = self.current().source.clone();
        if source.settings.senders == senders {
            return Ok(None);
        }
        let settings = ServerEventsSettings { senders: senders.to_vec(), ..source.settings.clone() };
        read(settings, Some(&source)).await.map(Some)
    }

    /// Replaces the present senders by others, all at once.
    pub(super) fn replace(&self, next: NextSenders) {
        let NextSenders { source, followed } = next;
        let mut current = self.current();
        current.credentials.send_replace(known(&source, &followed));
        current.source = source;
        current.followed = followed.clone();
        drop(current);
        self.follow(&followed);
    }

    /// Publishes each change of the files while these are the present senders.
    fn follow(&self, followed: &Arc<FollowedCredentials>) {
        // Before the first check, so that no change is missed.
        let mut changes = followed.subscribe();
        self.follower.add(followed);
        // Neither is kept alive: with other senders, and at the end of the agent, no more changes come.
        let (followed, current) = (Arc::downgrade(followed), Arc::downgrade(&self.current));
        tokio::spawn(async move {
            while changes.changed().await.is_ok() {
                let Ok(known) = changes.borrow_and_update().clone() else { continue };
                let Some(current) = current.upgrade() else { return };
                let current = current.lock().unwrap_or_else(PoisonError::into_inner);
                // Others may have become the present ones between the change and here.
                if std::ptr::eq(Arc::as_ptr(&current.followed), followed.as_ptr()) {
                    current.credentials.send_replace(known);
                }
            }
        });
    }

    fn current(&self) -> MutexGuard<'_, CurrentSenders> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The files with secrets of these senders.
pub(super) fn secret_files(senders: &[SenderSettings]) -> impl Iterator<Item = PathBuf> {
    senders.iter().filter_map(|sender| secret_file(&sender.secret))
}

/// Reads the files. A sender that was known `before` keeps the secret that was read from a variable or a program.
async fn read(settings: ServerEventsSettings, before: Option<&CredentialsSource>) -> Result<NextSenders, AgentError> {
    let fixed = settings.senders.iter().map(async |sender| match secret_file(&sender.secret) {
        Some(_) => Ok(None),
        None => match before.and_then(|before| before.fixed_secret(sender)) {
            Some(secret) => Ok(Some(secret)),
            None => sender.secret.load().await.map(Some).map_err(|error| of_sender(sender, error)),
        },
    });
    let fixed = try_join_all(fixed).await?;
    let tls_files = [&settings.cert, &settings.key].into_iter().flatten().cloned();
    let mut paths: Vec<_> = secret_files(&settings.senders).chain(tls_files).collect();
    paths.sort();
    paths.dedup();
    let source = Arc::new(CredentialsSource { settings, fixed });
    let name = "a file for the receiver of server events".to_owned();
    let reader = source.clone();
    let followed = FollowedCredentials::begin(name, paths, move || Box::pin(reader.clone().load())).await?;
    Ok(NextSenders { source, followed })
}

fn of_sender(sender: &SenderSettings, source: SecretError) -> AgentError {
    AgentError::Sender { sender: sender.name.clone(), source }
}

fn known(source: &CredentialsSource, followed: &FollowedCredentials) -> Arc<SenderCredentials> {
    followed.known().unwrap_or_else(|_| Arc::new(no_sender(&source.settings)))
}

/// Before the files have been read: no request is authenticated.
fn no_sender(settings: &ServerEventsSettings) -> SenderCredentials {
    let tls = if settings.cert.is_some() { TransportSecurity::Unready } else { TransportSecurity::ClearText };
    SenderCredentials::new(settings.senders.iter().map(|sender| (sender, None)), tls)
}

impl CredentialsSource {
    /// The secret of this sender, if it is one of these and its secret is in no file.
    fn fixed_secret(&self, sender: &SenderSettings) -> Option<Secret> {
        let mut known = self.settings.senders.iter().zip(&self.fixed);
        known.find(|(known, _)| known.name == sender.name && known.secret == sender.secret)?.1.clone()
    }

    async fn load(self: Arc<Self>) -> Result<Read<SenderCredentials>, NotRead<AgentError>> {
        let mut digest = Sha256::new();
        let mut secrets = Vec::with_capacity(self.fixed.len());
        for (sender, fixed) in self.settings.senders.iter().zip(&self.fixed) {
            let secret = match fixed {
                Some(secret) => secret.clone(),
                None => sender
                    .secret
                    .load()
                    .await
                    .map_err(|error| secret_problem(error, |error| of_sender(sender, error)))?,
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
pub(super) fn secret_problem(error: SecretError, wrong: impl FnOnce(SecretError) -> AgentError) -> NotRead<AgentError> {
    match error {
        SecretError::Unanswered(..) => NotRead::Unfinished(error.to_string()),
        error => NotRead::Wrong(wrong(error)),
    }
}
