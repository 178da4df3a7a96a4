//! A target with what is read from disk once, and what is learned about it for as long as the process lives.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::{inspections::Inspections, login_memory::LoginMemory};
use crate::{
    net::{TlsContext, TlsContextError, TlsFiles},
    plan::Target,
};

/// A target with what is read from disk once, and what is learned about it for as long as the process lives.
#[derive(Debug)]
pub struct TargetContext {
    pub(super) target: Target,
    pub(super) tls: TlsContext,
    /// The server answered ID by closing the connection: it is not sent again.
    without_id: AtomicBool,
    pub(super) inspections: Inspections,
    pub(super) logins: Arc<LoginMemory>,
}

impl TargetContext {
    /// Reads the files that the target's TLS options name. Waits for the disk.
    pub fn new(target: Target) -> Result<Self, TlsContextError> {
        let tls = TlsContext::new(&target.tls, &target.endpoint.host)?;
        Ok(Self::over(target, tls))
    }

    /// The same with files that were read already.
    pub fn with(target: Target, files: TlsFiles) -> Self {
        let tls = TlsContext::with(&target.tls, &target.endpoint.host, files);
        Self::over(target, tls)
    }

    fn over(target: Target, tls: TlsContext) -> Self {
        let (inspections, logins) = Default::default();
        Self { target, tls, without_id: AtomicBool::new(false), inspections, logins }
    }

    /// The same target as `before`, which has changed: its server's certificates are not read again any sooner for that, and
    /// what is known of its accounts' logins stays.
    #[must_use]
    pub fn following(self, before: &Self) -> Self {
        before.logins.keep(&self.target.accounts);
        Self { inspections: before.inspections.carried_over(), logins: before.logins.clone(), ..self }
    }

    /// The target itself.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// SHA-256 of the certificate that is shown to the server, when there is one.
    pub fn client_certificate(&self) -> Option<String> {
        self.tls.client_certificate()
    }

    pub(super) fn sends_id(&self) -> bool {
        !self.without_id.load(Ordering::Relaxed)
    }

    pub(super) fn forget_id(&self) {
        self.without_id.store(true, Ordering::Relaxed);
    }
}
