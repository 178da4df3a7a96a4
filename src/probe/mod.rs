//! One run of a journey, step by step. It never fails: a failure is a finding, and the [`Run`] says what was found.
//!
//! The caller (`agent` and `cli`) gives the ids and decides when; this room decides which step comes next, how long it
//! may take, and what each answer means. It shows nothing and sends nothing but IMAP.
//!
//! ```text
//! journey   which step comes next, what a failure skips
//! fill      the other errand: fills a mailbox with messages, for `cli` alone
//! reach     resolve, connect, tls
//! greeting  first lines that refuse, and are no greeting
//! login     which mechanism, and the command that goes with it
//! login_memory  which mechanism an account's server takes, where it refused the first
//! command   one command and its step
//! failures  how a step that went wrong ends the conversation
//! driver    bytes ↔ session, stamps, deadlines
//! exchange  what came of a command on the line
//! sasl      the turns of a login that has several
//! recorder  steps of the Run
//! split     where a command's time went
//! uncertainty  how far off that can be
//! classify  answers and causes → error.type
//! certificates  what a failed handshake shows of certificates
//! inspect   one more connection after a run whose handshake showed none
//! tcp_delta what the kernel saw of the connection
//! lateness  whose time it was when time was up
//! wait      deadlines and the wish to cancel, for every wait
//! transcript  the conversation line by line, for `probe --verbose`
//! redact    secrets and user names out of server text
//! ```

mod certificates;
mod classify;
mod command;
mod driver;
mod exchange;
mod failures;
pub mod fill;
#[cfg(any(test, fuzzing))]
pub mod fuzzed;
mod greeting;
mod inspect;
mod journey;
mod lateness;
mod login;
mod login_memory;
mod reach;
mod recorder;
mod redact;
mod sasl;
mod split;
mod tcp_delta;
mod transcript;
mod uncertainty;
mod wait;

pub use self::inspect::{inspect, lacks_certificate};
use std::{
    ffi::OsString,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;

use self::login_memory::LoginMemory;
pub use self::transcript::LineSink;
use imaptrace_imap::Secret;
use imaptrace_record::{ErrorType, Run, SpanId, StepName, TraceId};

use crate::{
    clock::{self, Anchor, Deadline},
    net::{Family, Resolver, TlsContext, TlsContextError, TlsFiles},
    plan::{Account, Dns, Security, Target},
    secret::SecretError,
};

/// Runs journeys. One for the life of the process.
#[derive(Debug)]
pub struct Prober {
    resolver: Resolver,
    child_env: Vec<(OsString, Option<OsString>)>,
    line_sink: Option<LineSink>,
    steps: Option<watch::Sender<Option<CurrentStep>>>,
}

/// The step that a run is at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CurrentStep {
    /// As in the record.
    pub name: StepName,
    /// When it began.
    pub since: Instant,
}

/// A target with what is read from disk once, and what is learned about it for as long as the process lives.
#[derive(Debug)]
pub struct TargetContext {
    target: Target,
    tls: TlsContext,
    /// The server answered ID by closing the connection: it is not sent again.
    without_id: AtomicBool,
    inspections: inspect::Inspections,
    logins: Arc<LoginMemory>,
}

/// The ids of one run, from the live root.
#[derive(Debug, Clone, Copy)]
pub struct Ids {
    /// The trace.
    pub trace: TraceId,
    /// The root span.
    pub root: SpanId,
    /// The span that the root hangs under.
    pub parent: Option<SpanId>,
}

/// What to run.
#[derive(Debug)]
pub struct Job<'a> {
    /// Where.
    pub target: &'a TargetContext,
    /// As whom.
    pub account: &'a Account,
    /// Over which addresses.
    pub family: Family,
    /// Under which ids.
    pub ids: Ids,
    /// Planned start to now, for runs that a schedule started.
    pub start_lag: Option<Duration>,
    /// The account's password, from [`Prober::secret`].
    pub secret: Result<Secret, SecretError>,
    /// LOGIN is not sent, since the last one ended so.
    pub hold_login: Option<ErrorType>,
}

/// What is known of a run before it begins: its record when it never comes to an end of its own.
#[derive(Debug)]
pub struct RunStub<'a> {
    target: &'a TargetContext,
    account: &'a Account,
    family: Family,
    ids: Ids,
    start_lag: Option<Duration>,
    begin: Anchor,
}

/// Tells running probes to end: `true` once.
pub type Cancel = watch::Receiver<bool>;

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

    fn sends_id(&self) -> bool {
        !self.without_id.load(Ordering::Relaxed)
    }

    fn forget_id(&self) {
        self.without_id.store(true, Ordering::Relaxed);
    }
}

impl<'a> Job<'a> {
    /// What to fall back on should the run never come back. To be called right before it.
    pub fn stub(&self) -> RunStub<'a> {
        let Self { target, account, family, ids, start_lag, .. } = *self;
        RunStub { target, account, family, ids, start_lag, begin: Anchor::now() }
    }
}

impl RunStub<'_> {
    /// A run of this class, up to now, without a step.
    pub fn end(self, class: ErrorType) -> Run {
        let Self { target, account, family, ids, start_lag, begin } = self;
        let secret = Ok(Secret::new(String::new()));
        let job = Job { target, account, family, ids, start_lag, secret, hold_login: None };
        recorder::Recorder::new(&job, begin).give_up(class)
    }
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

    /// Fetches an account's password. A password command may take seconds: nobody who opens a mailbox waits for that,
    /// so it comes before the run.
    pub async fn secret(&self, account: &Account) -> Result<Secret, SecretError> {
        account.password.load(&self.child_env).await
    }

    /// What a run needs before it begins: the account's password, and that what TLS needs of files can be read. Both may take
    /// seconds, for which nobody who opens a mailbox waits.
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

    /// Runs the journey once. Ends within the run's deadline and a second for LOGOUT, whatever the server does.
    pub async fn run(&self, job: Job<'_>, cancel: Cancel) -> Run {
        journey::Journey::new(self, job, cancel).run().await
    }
}

/// How long it may take to see whether the system's CA certificates are there.
const ROOTS: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
