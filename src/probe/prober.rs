//! What all runs of the process share: the resolver, and what shows a run as it goes. `journey` and `fill` run with it.

use std::{ffi::OsString, time::Duration};

use imaptrace_imap::Secret;
use tokio::sync::watch;

use super::{job::CurrentStep, target_context::TargetContext, transcript::LineSink};
use crate::{
    clock::{self, Deadline},
    net::Resolver,
    plan::{Account, Dns, Security},
    secret::SecretError,
};

/// Runs journeys. One for the life of the process.
#[derive(Debug)]
pub struct Prober {
    pub(super) resolver: Resolver,
    child_env: Vec<(OsString, Option<OsString>)>,
    pub(super) line_sink: Option<LineSink>,
    pub(super) steps: Option<watch::Sender<Option<CurrentStep>>>,
}

impl Prober {
    /// A prober. `child_env` are variables that a password command gets back as the operator had set them.
    pub fn new(dns: Dns, child_env: Vec<(OsString, Option<OsString>)>) -> Self {
        Self { resolver: Resolver::new(dns), child_env, line_sink: None, steps: None }
    }

    /// The same, with every line of its conversations given to `sink`, redacted: for a person at a terminal, not for an agent.
    #[must_use]
    pub fn with_line_sink(self, sink: LineSink) -> Self {
        Self { line_sink: Some(sink), ..self }
    }

    /// Has each run report the step that it is at. For a process that makes one run at a time and shows it.
    #[must_use]
    pub fn watched(self, steps: watch::Sender<Option<CurrentStep>>) -> Self {
        Self { steps: Some(steps), ..self }
    }

    /// Fetches an account's password. A password command may take seconds: a user who opens a mailbox does not wait for that,
    /// so it comes before the run.
    pub async fn secret(&self, account: &Account) -> Result<Secret, SecretError> {
        account.password.load(&self.child_env).await
    }

    /// What a run needs before it begins: the account's password, and that what TLS needs of files can be read. Both may take
    /// seconds, for which a user who opens a mailbox does not wait.
    pub async fn prepare(&self, target: &TargetContext, account: &Account) -> Result<Secret, SecretError> {
        if target.target.security != Security::None {
            let deadline = Deadline::after(clock::now(), ROOTS);
            let mut end = deadline.end();
            let ready = loop {
                let ready = target.tls.ready(end).await;
                // A pause of this process was not the disk's time.
                let longer = deadline.lengthened();
                if ready.is_ok() || longer <= end {
                    break ready;
                }
                end = longer;
            };
            ready
                .map_err(|error| SecretError::Tls { is_exhausted: error.is_exhausted(), problem: error.to_string() })?;
        }
        self.secret(account).await
    }
}

/// How long it may take to see whether the system's CA certificates are there.
const ROOTS: Duration = Duration::from_secs(2);
