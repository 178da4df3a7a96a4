//! A target with its TLS files, and the results that runs of this process share.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use super::{inspections::Inspections, login_fallbacks::LoginFallbacks};
use crate::{
    clock::{self, Deadline},
    net::{NotReady, TlsContext, TlsContextError, TlsFiles},
    plan::{Security, Target},
    secret::SecretError,
};

/// How long reading the system's CA certificates may take.
const ROOTS: Duration = Duration::from_secs(2);

/// A target with its TLS files, read once, and the results that its runs share.
#[derive(Debug)]
pub struct TargetContext {
    pub(super) target: Target,
    pub(super) tls: TlsContext,
    /// The server closed the connection over ID: it is not sent again.
    pub(super) without_id: Arc<AtomicBool>,
    pub(super) inspections: Arc<Inspections>,
    pub(super) logins: Arc<LoginFallbacks>,
}

impl TargetContext {
    /// Reads the files that the target's TLS options name. Blocks.
    pub fn new(target: Target) -> Result<Self, TlsContextError> {
        let tls = TlsContext::new(&target.tls, &target.endpoint.host)?;
        Ok(Self::over(target, tls))
    }

    /// The same with files that were read before.
    pub fn with(target: Target, files: TlsFiles) -> Self {
        let tls = TlsContext::with(&target.tls, &target.endpoint.host, files);
        Self::over(target, tls)
    }

    fn over(target: Target, tls: TlsContext) -> Self {
        let (without_id, inspections, logins) = Default::default();
        Self { target, tls, without_id, inspections, logins }
    }

    /// The same server with `target`, which is this one as it is probed for an account: all that runs share is shared.
    #[must_use]
    pub fn sharing(&self, target: Target) -> Self {
        let Self { target: _, tls, without_id, inspections, logins } = self;
        Self {
            target,
            tls: tls.clone(),
            without_id: without_id.clone(),
            inspections: inspections.clone(),
            logins: logins.clone(),
        }
    }

    /// Takes over from `before`, the same target before a change, when certificates were read, and the logins of its accounts.
    #[must_use]
    pub fn following(self, before: &Self) -> Self {
        before.logins.retain(&self.target.accounts);
        Self { inspections: before.inspections.carried_over().into(), logins: before.logins.clone(), ..self }
    }

    /// Waits until the files for TLS are read, or have failed.
    pub async fn tls_ready(&self) -> Result<(), SecretError> {
        if self.target.security == Security::None {
            return Ok(());
        }
        let deadline = Deadline::after(clock::now(), ROOTS);
        let mut end = deadline.end();
        loop {
            let ready = self.tls.ready(end).await;
            // A pause of this process does not count.
            let longer = deadline.lengthened();
            if ready.is_ok() || longer <= end {
                let failed = |error: NotReady| SecretError::Tls {
                    is_exhausted: error.is_exhausted(),
                    problem: error.to_string(),
                };
                return ready.map_err(failed);
            }
            end = longer;
        }
    }

    /// The target itself.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// SHA-256 of the client certificate, if there is one.
    pub fn client_certificate(&self) -> Option<String> {
        self.tls.client_certificate()
    }
}
