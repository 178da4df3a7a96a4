//! The journey `first-load`: what a mail program does until the message list shows (docs/journey.md).
//!
//! ```text
//! resolve connect [tls] greeting [CAPABILITY] [STARTTLS tls [CAPABILITY]] [ID] LOGIN|AUTHENTICATE [CAPABILITY]
//! [ID] [NAMESPACE] LIST SELECT|EXAMINE [FETCH] LOGOUT
//! ```
//!
//! What a failure skips: everything but LOGOUT, and that too when the session can no longer speak. Which class a
//! failure has is `classify`'s matter.

use std::{net::IpAddr, time::Instant};

use imaptrace_imap as imap;
use imaptrace_imap::{Command, CommandName, Condition, ResponseCode, SessionProgress};
use imaptrace_record::{ErrorType, Run, Seconds, ServerText, SetupStep, Step, StepName, StepOutcome};
use tracing::{info, warn};

use super::{
    Cancel, Job, Prober, TargetContext, classify,
    command::state,
    driver::{Driver, StatusResponse},
    greeting,
    recorder::Recorder,
    redact::Redactor,
    transcript::Transcript,
};
use crate::{
    clock::{self, Anchor, Deadline},
    net::{Armed, StampedStream},
    plan::{self, Open, Security, Target},
    secret::SecretError,
};

/// A run under way.
pub(super) struct Journey<'a> {
    pub(super) prober: &'a Prober,
    pub(super) job: Job<'a>,
    pub(super) target: &'a Target,
    pub(super) redactor: Redactor,
    pub(super) recorder: Recorder,
    pub(super) deadline: Deadline,
    pub(super) cancel: Cancel,
    /// What the next connection will be: made ready before the run begins.
    ready: Option<Ready>,
    /// What the look-up gave; a second connection does not ask again.
    pub(super) addresses: Option<Vec<IpAddr>>,
    /// Whatever comes is under TLS, or nobody asked for TLS.
    pub(super) trusted: bool,
    /// Shows the conversation, between two connections.
    transcript: Option<Box<Transcript>>,
}

/// A connection before there is one.
pub(super) struct Ready {
    pub(super) wire: StampedStream,
    /// The handshake, where there will be one.
    pub(super) armed: Option<Armed>,
}

impl Ready {
    fn new(prepared: &TargetContext) -> Self {
        let wire = StampedStream::default();
        let armed = (prepared.target.security != Security::None).then(|| prepared.tls.arm(&wire));
        Self { wire, armed }
    }
}

/// Why the conversation ends early. What failed is on record already.
pub(super) enum Stop {
    /// LOGOUT can still be sent.
    Logout,
    /// It cannot: the connection is closed.
    Close,
    /// The server left over ID: once more, without.
    WithoutId,
}

/// What follows a connection.
#[derive(PartialEq, Eq)]
enum Next {
    Done,
    /// Once more, without ID.
    WithoutId,
}

/// What is done between login and LOGOUT.
pub(super) trait MailboxTask {
    /// Does it. What it cannot do is on record when it ends with an error.
    fn run(&mut self, journey: &mut Journey<'_>, driver: &mut Driver) -> impl Future<Output = Result<(), Stop>>;
}

/// Looks into the mailbox as a mail program does.
struct FirstLoad;

impl MailboxTask for FirstLoad {
    async fn run(&mut self, journey: &mut Journey<'_>, driver: &mut Driver) -> Result<(), Stop> {
        if driver.session.capabilities().is_some_and(|capabilities| capabilities.namespace) {
            journey.command(driver, &Command::Namespace).await?;
        }
        journey.command(driver, &Command::List).await?;
        journey.open_mailbox(driver).await
    }
}

/// What a command brought that came to its end.
pub(super) struct Answer {
    pub(super) progress: SessionProgress,
    pub(super) first_row: Option<Instant>,
}

impl<'a> Journey<'a> {
    /// Boxed: a future holds what it was given twice, and a run is in several.
    pub(super) fn new(prober: &'a Prober, job: Job<'a>, cancel: Cancel) -> Box<Self> {
        let redactor = Redactor::new(job.account, job.secret.as_ref().ok());
        // Without a password there will be no connection.
        let ready = job.secret.is_ok().then(|| Ready::new(job.target));
        // From here on the run's time counts.
        let anchor = Anchor::now();
        let recorder = Recorder::new(&job, anchor).watched(prober.steps.clone());
        let transcript = prober.line_sink.clone().filter(|_| ready.is_some()).and_then(|sink| {
            let redactor = Redactor::new(job.account, job.secret.as_ref().ok());
            Transcript::start(sink, redactor, &job.account.alias, anchor).map(Box::new)
        });
        let target = job.target.target();
        let deadline = Deadline::after(recorder.start(), target.deadlines.run);
        let trusted = target.security == Security::None;
        Box::new(Self {
            prober,
            job,
            target,
            redactor,
            recorder,
            deadline,
            cancel,
            ready,
            addresses: None,
            trusted,
            transcript,
        })
    }

    pub(super) async fn run(self: Box<Self>) -> Run {
        self.run_session(&mut FirstLoad).await
    }

    /// Connects, logs in, does the errand and logs out.
    pub(super) async fn run_session(mut self: Box<Self>, errand: &mut impl MailboxTask) -> Run {
        if let Err(error) = &self.job.secret {
            // In the step's text, and nowhere else: who shows the run shows it.
            let name: StepName =
                if matches!(error, SecretError::Tls { .. }) { SetupStep::Tls.into() } else { self.login_name().into() };
            let text = ServerText::new(error.to_string().as_bytes(), ServerText::STATUS);
            let class = classify::of_secret(error);
            self.recorder.refuse(name.clone(), class, Some(text));
            self.recorder.fail(name, class);
            return self.recorder.finish();
        }
        if self.target.tls.insecure {
            // Who set it has been warned when it was read; it stays on each run.
            info!(target: "imaptrace::probe", "the server's certificate is not checked (insecure)");
        }
        if self.connection(errand).await == Next::WithoutId {
            info!(target: "imaptrace::probe", "the server closed the connection over ID; trying again without it");
            self.job.target.forget_id();
            self.recorder.second_connection();
            // From connect, not from the look-up; and it cannot ask for a third: ID is not sent again.
            self.connection(errand).await;
        }
        if let Some(transcript) = self.transcript.take() {
            // Boxed: a run that shows nothing holds no more for it.
            Box::pin(transcript.finish()).await;
        }
        self.recorder.finish()
    }

    /// What was made ready for the first connection; for a second one it is made now.
    pub(super) fn ready(&mut self) -> Ready {
        self.ready.take().unwrap_or_else(|| Ready::new(self.job.target))
    }

    /// One connection from look-up to close.
    async fn connection(&mut self, errand: &mut impl MailboxTask) -> Next {
        // Boxed, as is TLS: what only the way there needs is not held while a command waits.
        let mut reached = Box::pin(self.reach()).await;
        if let Some(transcript) = &mut self.transcript {
            let connection = self.recorder.is_second_connection().then_some(2);
            let steps = self.recorder.steps().iter().filter(|step| !step.is_command() && step.connection == connection);
            steps.for_each(|step| transcript.step(step));
        }
        // By reference: moved, it would stand in the future twice.
        let Ok(driver) = &mut reached else { return Next::Done };
        driver.transcript = self.transcript.take();
        let ended = self.converse(driver, errand).await;
        let goodbye = Deadline::after(clock::now(), self.target.deadlines.logout);
        match &ended {
            Ok(()) | Err(Stop::Logout) => self.logout(driver, goodbye).await,
            Err(Stop::Close) => self.recorder.skip(CommandName::Logout),
            Err(Stop::WithoutId) => {}
        }
        driver.close(goodbye.end()).await;
        self.transcript = driver.transcript.take();
        self.note_connection(driver);
        if matches!(ended, Err(Stop::WithoutId)) { Next::WithoutId } else { Next::Done }
    }

    fn note_connection(&mut self, driver: &Driver) {
        let counts = driver.wire().counts();
        self.recorder.wire(counts.sent, counts.received);
        let tcp = driver.tcp_total();
        let quickack = driver.wire().quickack();
        let server = self.recorder.server();
        server.rtt_min_s = tcp.rtt_min.map(Seconds::from);
        server.retransmits = tcp.rtt_min.map(|_| tcp.retransmits.into());
        server.out_of_order = tcp.out_of_order.map(u64::from);
        server.quickack = Some(quickack);
        if let Some(capabilities) = driver.session.capabilities() {
            server.capability_hash = Some(capabilities.hash());
            server.protocol = Some(capabilities.version().to_owned());
        }
    }

    // === the conversation ===

    async fn converse(&mut self, driver: &mut Driver, errand: &mut impl MailboxTask) -> Result<(), Stop> {
        if self.target.security == Security::Tls {
            Box::pin(self.tls(driver)).await?;
        }
        self.greeting(driver).await?;
        if self.target.security == Security::StartTls {
            self.starttls(driver).await?;
        }
        self.capabilities(driver).await?;
        let with_id = self.id(driver).await?;
        self.login(driver).await?;
        self.capabilities(driver).await?;
        if !with_id {
            // Some servers advertise it after the login alone, and require it before SELECT.
            self.id(driver).await?;
        }
        errand.run(self, driver).await
    }

    async fn greeting(&mut self, driver: &mut Driver) -> Result<(), Stop> {
        let deadline = self.deadline_for(SetupStep::Greeting, self.target.deadlines.greeting)?;
        let mut step = self.recorder.open(SetupStep::Greeting);
        // From the end of the step before, so that the steps add up.
        let before = self.recorder.steps().last().map_or(Seconds::ZERO, Step::end_s);
        let result = driver.greeting(deadline).await;
        let progress = driver.session.take_progress();
        let end = match &result {
            Ok((_, stamp)) => *stamp,
            Err(fault) => fault.at,
        };
        step.start_s = before;
        step.duration_s = self.recorder.at(end).saturating_sub(before);
        step.received_bytes = Some(progress.received);
        self.note_tcp(&mut step, driver);
        self.refer(&mut step, &progress);
        let said = match result {
            Ok((said, _)) => said,
            Err(mut fault) => {
                let partial = driver.session.partial();
                // Something came, and it is not how an IMAP server begins.
                let ended = fault.class != ErrorType::Cancelled;
                if ended && fault.said.is_none() && !partial.is_empty() && partial.first() != Some(&b'*') {
                    fault.class = ErrorType::ProtocolGreeting;
                    fault.said = Some(StatusResponse { condition: Condition::Bad, code: None, text: partial.to_vec() });
                }
                let line = fault.said.as_ref().map_or(partial, |said| said.text.as_slice());
                if ended && let Some(said) = greeting::refusal(line) {
                    step.status = Some(said.condition);
                    step.code = said.code;
                    self.alert(&mut step, &said, end);
                    fault.said = Some(said);
                }
                return Err(self.fault(step, &fault));
            }
        };
        step.status = Some(said.condition);
        step.code = said.code;
        self.alert(&mut step, &said, end);
        if said.condition == Condition::Bye {
            step.text = Some(self.redactor.text(&said.text, ServerText::STATUS));
            let class =
                if said.code == Some(ResponseCode::Referral) { ErrorType::Referral } else { ErrorType::GreetingBye };
            self.fail(step, class);
            return Err(Stop::Close);
        }
        if said.condition == Condition::Preauth {
            self.recorder.server().preauth = Some(true);
            if self.target.security == Security::StartTls {
                self.fail(step, ErrorType::PreauthPlaintext);
                return Err(Stop::Close);
            }
        }
        if driver.session.capabilities().is_some_and(|capabilities| !capabilities.rev1 && !capabilities.rev2) {
            step.text = Some(ServerText::new(b"the server's capabilities name no IMAP version", ServerText::STATUS));
            self.fail(step, ErrorType::ProtocolGreeting);
            return Err(Stop::Logout);
        }
        self.recorder.push(step);
        Ok(())
    }

    async fn starttls(&mut self, driver: &mut Driver) -> Result<(), Stop> {
        self.capabilities(driver).await?;
        let name = Command::StartTls.name();
        if !driver.session.capabilities().is_some_and(|capabilities| capabilities.starttls) {
            return Err(self.refuse(name, ErrorType::StarttlsUnavailable));
        }
        self.command(driver, &Command::StartTls).await?;
        if driver.has_unread() {
            // Whoever put bytes behind the OK wants them read as if they had come under TLS (RFC 9051 §11.1).
            self.fail_last(ErrorType::StarttlsInjection, None);
            return Err(Stop::Close);
        }
        Box::pin(self.tls(driver)).await
    }

    /// Asks what the server can do, if it has not told.
    async fn capabilities(&mut self, driver: &mut Driver) -> Result<(), Stop> {
        if driver.session.capabilities().is_some() {
            return Ok(());
        }
        self.command(driver, &Command::Capability).await?;
        if driver.session.capabilities().is_some_and(|capabilities| capabilities.rev1 || capabilities.rev2) {
            return Ok(());
        }
        self.fail_last(ErrorType::ProtocolGreeting, None);
        Err(Stop::Logout)
    }

    /// ID is a courtesy: NO and BAD are "no ID", and a server that leaves over it is asked again without. Whether it was
    /// sent.
    async fn id(&mut self, driver: &mut Driver) -> Result<bool, Stop> {
        let advertised = driver.session.capabilities().is_some_and(|capabilities| capabilities.id);
        if !advertised || !self.job.target.sends_id() {
            return Ok(false);
        }
        let (mut step, exchange) = self.perform(driver, &Command::Id).await?;
        match exchange.result {
            Ok(_) => self.recorder.push(step),
            Err(fault)
                if matches!(fault.class, ErrorType::Bye | ErrorType::Eof | ErrorType::Reset)
                    && !self.recorder.is_second_connection() =>
            {
                self.describe(&mut step, &fault);
                step.outcome = StepOutcome::Failed;
                step.error_type = Some(fault.class);
                self.recorder.push(step);
                return Err(Stop::WithoutId);
            }
            Err(fault) => return Err(self.fault(step, &fault)),
        }
        let (name, version) = driver.session.id();
        let text = |raw: Option<&[u8]>| raw.map(|raw| self.redactor.text(raw, ServerText::ID));
        let (name, version) = (text(name), text(version));
        let server = self.recorder.server();
        (server.id_name, server.id_version) = (name, version);
        Ok(true)
    }

    async fn open_mailbox(&mut self, driver: &mut Driver) -> Result<(), Stop> {
        let journey = &self.target.journey;
        let mailbox = journey.mailbox.as_str();
        let select = Command::Select { mailbox, read_only: journey.open == Open::Examine };
        let answer = match self.command(driver, &select).await {
            Ok(answer) => answer,
            Err(stop) => {
                self.suggest_mailbox(driver);
                return Err(stop);
            }
        };
        let Some(exists) = answer.progress.exists else { return Err(self.without_exists()) };
        let loaded = self.load(driver, exists).await;
        // Not before: whoever reads the log may be slow, and the clock would run.
        if exists < plan::Journey::FEWEST {
            let holds = match exists {
                0 => "is empty".to_owned(),
                1 => "holds only 1 message".to_owned(),
                few => format!("holds only {few} messages"),
            };
            let help = "that measures next to nothing; `imaptrace canary fill` makes one that does";
            // Of its own target, for an agent that would repeat it every minute.
            warn!(target: "imaptrace::probe::mailbox", "the mailbox {holds}: {help}");
        }
        loaded
    }

    /// Records how a mailbox name that the server refused could have been meant.
    fn suggest_mailbox(&mut self, driver: &Driver) {
        let refused = self.recorder.steps().last().filter(|step| step.error_type == Some(ErrorType::No));
        // With any other code the name is not what the server complains of (RFC 5530 §3).
        let is_of_name = |code| {
            use ResponseCode::{Cannot, NonExistent, Other, TryCreate};
            matches!(code, None | Some(NonExistent | TryCreate | Cannot | Other))
        };
        if refused.is_some_and(|step| is_of_name(step.code))
            && let Some((mailbox, separator)) =
                imap::suggest_mailbox(self.target.journey.mailbox.as_str(), driver.session.hierarchy())
        {
            self.recorder.suggest_mailbox(mailbox, separator);
        }
    }

    /// Fetches what makes the message list, of a mailbox that holds so many.
    async fn load(&mut self, driver: &mut Driver, exists: u32) -> Result<(), Stop> {
        let journey = &self.target.journey;
        let Some(messages) = journey.messages(exists, &mut rand::rng()) else {
            self.recorder.loaded();
            self.recorder.skip(CommandName::Fetch);
            return Ok(());
        };
        let (from, to) = messages.into_inner();
        let answer = self.command(driver, &Command::Fetch { from, to, whole: journey.cold }).await?;
        if let Some(stamp) = answer.first_row {
            self.recorder.first_row(stamp);
        }
        let asked = u64::from(to - from) + 1;
        let rows = answer.progress.rows;
        let shrunk = driver.session.has_shrunk();
        if rows == 0 && !shrunk {
            let text = format!(
                "FETCH {from}:{to} was OK and brought none of the {asked} messages that SELECT counted, and nothing said that they are gone"
            );
            self.fail_last(ErrorType::ProtocolSyntax, Some(&text));
            return Err(Stop::Logout);
        }
        self.recorder.loaded();
        if rows == 0 {
            info!(target: "imaptrace::probe", "FETCH brought nothing: its {asked} messages left the mailbox after SELECT");
        } else if rows < asked && !shrunk {
            warn!(target: "imaptrace::probe", "FETCH was OK and brought {rows} of the {asked} messages that SELECT counted");
        }
        Ok(())
    }

    /// SELECT or EXAMINE was OK and did not say how many messages there are. It must (RFC 9051 §6.3.2): what was not said or
    /// could not be read is no empty mailbox.
    pub(super) fn without_exists(&mut self) -> Stop {
        let text =
            "the mailbox was opened without an EXISTS response that can be read: how many messages it holds is unknown";
        self.fail_last(ErrorType::ProtocolSyntax, Some(text));
        Stop::Logout
    }

    /// Says good-bye. Lies outside the run's deadline, and whatever goes wrong fails only itself.
    async fn logout(&mut self, driver: &mut Driver, deadline: Deadline) {
        // A cancelled run still says good-bye.
        driver.ignore_cancel();
        let command = Command::Logout;
        let mut step = self.recorder.open(command.name());
        step.state = Some(state(driver));
        let tag = self.tag(&step);
        let exchange = driver.exchange(&tag, &command, deadline, self.target.deadlines.logout).await;
        self.fill(&mut step, &exchange, driver);
        match &exchange.result {
            Ok(said) if said.condition == Condition::Ok => {}
            Ok(said) => {
                step.outcome = StepOutcome::Failed;
                step.error_type = Some(classify::of_refusal(Some(command.name()), said));
                step.text = Some(self.redactor.text(&said.text, ServerText::STATUS));
            }
            Err(fault) => {
                step.outcome = StepOutcome::Failed;
                step.error_type = Some(fault.class);
                self.describe(&mut step, fault);
            }
        }
        self.recorder.push(step);
    }
}
