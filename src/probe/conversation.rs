//! The conversation of a run: performs a command, fills its step, and turns faults into findings.
//!
//! The one type that the scripts above it share: `reach`, `login`, `journey` and `fill` say which step comes next, and what a
//! failure skips. Bytes, stamps and deadlines of one exchange are `driver`'s; the class of a failure is `classify`'s.

use std::{
    borrow::Cow,
    net::IpAddr,
    time::{Duration, Instant},
};

use imaptrace_imap::{Command, CommandName, Condition, LoginMethod, ResponseCode, SessionProgress, StatusResponse};
use imaptrace_record::{ErrorType, EventName, ServerText, Step, StepEvent, StepName, StepOutcome};

use super::{
    accounting, classify,
    driver::Driver,
    exchange::{Exchange, Fault, note_status},
    job::{Cancel, Job},
    prober::Prober,
    recorder::Recorder,
    redact::Redactor,
    target_context::TargetContext,
    transcript::Transcript,
    uncertainty::Uncertainty,
};
use crate::{
    clock::{self, Anchor, Deadline},
    net::{Armed, StampedStream},
    plan::{Deadlines, Security, TagStyle, Target},
};

/// The conversation of a run with its server.
pub(super) struct Conversation<'a> {
    pub(super) prober: &'a Prober,
    pub(super) job: Job<'a>,
    pub(super) target: &'a Target,
    pub(super) redactor: Redactor,
    pub(super) recorder: Recorder,
    pub(super) deadline: Deadline,
    pub(super) cancel: Cancel,
    /// What the next connection will be: made ready before the run begins.
    ready: Option<Ready>,
    /// The addresses that were looked up; a second connection does not look them up again.
    pub(super) addresses: Option<Vec<IpAddr>>,
    /// The connection is under TLS, or is to be in clear text.
    pub(super) trusted: bool,
    /// Shows the conversation; here between two connections.
    pub(super) transcript: Option<Box<Transcript>>,
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

/// What a command that passed brought.
pub(super) struct CommandOutcome {
    pub(super) progress: SessionProgress,
    pub(super) first_row: Option<Instant>,
}

impl<'a> Conversation<'a> {
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
}

impl Conversation<'_> {
    /// What was made ready for the first connection; for a second one it is made now.
    pub(super) fn ready(&mut self) -> Ready {
        self.ready.take().unwrap_or_else(|| Ready::new(self.job.target))
    }

    // === one command ===

    /// Sends a command; anything but OK ends the conversation.
    pub(super) async fn command(&mut self, driver: &mut Driver, command: &Command<'_>) -> Result<CommandOutcome, Stop> {
        let (step, exchange) = self.perform(driver, command).await?;
        self.conclude(step, exchange)
    }

    /// Sends a command within the target's deadlines and fills its step. What its answer means is left to the caller.
    pub(super) async fn perform(
        &mut self,
        driver: &mut Driver,
        command: &Command<'_>,
    ) -> Result<(Step, Exchange), Stop> {
        let Deadlines { command: whole, write, .. } = self.target.deadlines;
        self.perform_within(driver, command, whole, write).await
    }

    /// The same with deadlines of its own: for the command, and for each write.
    pub(super) async fn perform_within(
        &mut self,
        driver: &mut Driver,
        command: &Command<'_>,
        whole: Duration,
        write: Duration,
    ) -> Result<(Step, Exchange), Stop> {
        let deadline = self.deadline_for(command.name(), whole).map_err(|_| Stop::Logout)?;
        Ok(self.exchange(driver, command, deadline, write).await)
    }

    /// Sends a command and fills its step.
    pub(super) async fn exchange(
        &mut self,
        driver: &mut Driver,
        command: &Command<'_>,
        deadline: Deadline,
        write: Duration,
    ) -> (Step, Exchange) {
        let mut step = self.recorder.open(command.name());
        step.state = Some(accounting::state(driver));
        match command {
            Command::Select { mailbox, .. } => step.mailbox = Some((*mailbox).to_owned()),
            Command::Fetch { .. } => step.mailbox = Some(self.target.journey.mailbox.as_str().to_owned()),
            Command::Login { .. } => step.mechanism = Some(LoginMethod::Login),
            Command::Authenticate { mechanism, .. } => step.mechanism = Some(LoginMethod::Sasl(*mechanism)),
            _ => {}
        }
        let tag = self.tag(&step);
        let exchange = driver.exchange(&tag, command, deadline, write).await;
        for message in &exchange.sasl_messages {
            self.redactor.learn(message);
        }
        self.fill(&mut step, &exchange, driver);
        match command {
            Command::Select { .. } => step.mailbox_messages = exchange.progress.exists.map(u64::from),
            Command::Fetch { .. } => step.messages = Some(exchange.progress.rows),
            _ => {}
        }
        (step, exchange)
    }

    /// Records what an exchange came to; anything but OK ends the conversation.
    pub(super) fn conclude(&mut self, step: Step, exchange: Exchange) -> Result<CommandOutcome, Stop> {
        let (step, outcome) = self.check(step, exchange)?;
        self.recorder.push(step);
        Ok(outcome)
    }

    /// The same, and leaves a step that passed to the caller.
    pub(super) fn check(&mut self, mut step: Step, exchange: Exchange) -> Result<(Step, CommandOutcome), Stop> {
        let Exchange { result, progress, first_row, .. } = exchange;
        match result {
            Err(fault) => Err(self.fault(step, &fault)),
            Ok(StatusResponse { condition: Condition::Ok, .. }) => Ok((step, CommandOutcome { progress, first_row })),
            Ok(response) => {
                let class = self.refused(&mut step, &response);
                self.fail(step, class);
                Err(Stop::Logout)
            }
        }
    }

    /// The class of a refusal, whose words go into the step.
    pub(super) fn refused(&self, step: &mut Step, response: &StatusResponse) -> ErrorType {
        step.text = Some(self.redactor.text(&response.text, ServerText::STATUS));
        classify::of_refusal(step.name.command(), response)
    }

    /// Records a step that failed and does not fail the run.
    pub(super) fn tolerate(&mut self, mut step: Step, class: ErrorType) {
        (step.outcome, step.error_type) = (StepOutcome::Failed, Some(class));
        self.recorder.push(step);
    }

    fn tag(&self, step: &Step) -> String {
        let id = step.span_id.map(|id| id.to_string()).unwrap_or_default();
        match self.target.journey.tag {
            TagStyle::SpanId => id,
            TagStyle::Short => format!("T{}", id.get(..6).unwrap_or_default()),
        }
    }

    fn fill(&mut self, step: &mut Step, exchange: &Exchange, driver: &mut Driver) {
        self.recorder.time(step, exchange.start, exchange.end);
        let progress = &exchange.progress;
        step.sent_bytes = Some(exchange.sent);
        step.received_bytes = Some(progress.received);
        step.untagged = Some(progress.untagged);
        step.literals = (progress.literals > 0).then_some(progress.literals);
        step.literal_bytes = (progress.literals > 0).then_some(progress.literal_bytes);
        step.deviations = (progress.deviations > 0).then_some(progress.deviations);
        self.refer(step, progress);
        let tcp = accounting::tcp_delta(step, driver);
        let uncertainty = accounting::account(step, exchange, tcp.as_ref(), driver);
        self.recorder.doubt(step, uncertainty);
        // No more than these: while a run waits, its steps are most of what it holds.
        // Before TLS anybody on the way can have written the alert (RFC 9051 §11.3).
        let alert = exchange.alert.as_ref().filter(|_| self.trusted);
        let known = [exchange.first_byte.is_some(), alert.is_some()].map(usize::from);
        step.events.reserve_exact(known.into_iter().sum::<usize>() + exchange.continuations.len());
        if let Some(stamp) = exchange.first_byte {
            let at_s = self.recorder.at(stamp);
            step.first_byte_s = Some(at_s.saturating_sub(step.start_s));
            step.events.push(StepEvent { name: EventName::FirstByte, at_s, text: None });
        }
        for stamp in &exchange.continuations {
            step.events.push(StepEvent { name: EventName::Continuation, at_s: self.recorder.at(*stamp), text: None });
        }
        if let Some((stamp, text)) = alert {
            let text = Some(self.redactor.text(text, ServerText::STATUS));
            step.events.push(StepEvent { name: EventName::Alert, at_s: self.recorder.at(*stamp), text });
        }
        if let Ok(response) = &exchange.result {
            note_status(step, response);
            self.alert(step, response, exchange.end);
        }
        step.events.sort_by_key(|event| event.at_s);
        step.events.truncate(Step::MAX_EVENTS);
    }

    /// Notes on a step that is no command what the kernel saw of the line meanwhile, and what that makes uncertain.
    pub(super) fn note_tcp(&mut self, step: &mut Step, driver: &mut Driver) {
        if let Some(tcp) = accounting::tcp_delta(step, driver) {
            self.recorder.doubt(step, Uncertainty::of_setup(step.duration_s.to_duration(), &tcp));
        }
    }

    pub(super) fn alert(&self, step: &mut Step, response: &StatusResponse, stamp: Instant) {
        let first = step.events.iter().all(|event| event.name != EventName::Alert);
        if self.trusted && first && response.code == Some(ResponseCode::Alert) {
            let text = Some(self.redactor.text(&response.text, ServerText::STATUS));
            step.events.push(StepEvent { name: EventName::Alert, at_s: self.recorder.at(stamp), text });
        }
    }

    /// Records a referral's host, which is never followed. Not before TLS: anybody on the way can have written it.
    pub(super) fn refer(&mut self, step: &mut Step, progress: &SessionProgress) {
        if let Some(host) = progress.referral.as_ref().filter(|_| self.trusted) {
            let host = self.redactor.text(host, ServerText::ID);
            self.recorder.server().referral_host = Some(host.clone());
            step.referral_host = Some(host);
        }
    }

    // === failures ===

    /// When this step must end; when the run's time is up already, the step is listed and the run over.
    pub(super) fn deadline_for(&mut self, step: impl Into<StepName>, own: Duration) -> Result<Deadline, Stop> {
        let (now, mut end) = (clock::now(), self.deadline.end());
        let deadline = Deadline::after(now, own);
        if deadline.end() <= end {
            return Ok(deadline);
        }
        end = self.deadline.lengthened();
        let owed = self.recorder.owed();
        if now >= end {
            let class = self.deadline.own_delay_of(owed).map_or(ErrorType::TimeoutRun, classify::of_own_delay);
            let step = step.into();
            self.recorder.refuse(step.clone(), class, None);
            self.recorder.fail(step, class);
            return Err(Stop::Close);
        }
        // Time that imaptrace itself took of the run is not taken from the step: the rest would not measure the server.
        let pauses = end.saturating_duration_since(self.deadline.end());
        let ours = now.saturating_duration_since(self.deadline.begin()).saturating_sub(pauses).saturating_sub(owed);
        let more = if ours > self.deadline.tenth() { ours.min(self.target.deadlines.run) } else { Duration::ZERO };
        let left = end.saturating_duration_since(now) + more;
        Ok(Deadline::after(now, own.min(left)))
    }

    /// A step that cannot even start ends the conversation.
    pub(super) fn refuse(&mut self, name: impl Into<StepName>, class: ErrorType) -> Stop {
        let name = name.into();
        self.recorder.refuse(name.clone(), class, None);
        self.recorder.fail(name, class);
        Stop::Logout
    }

    /// Records the step that fails the run.
    pub(super) fn fail(&mut self, mut step: Step, class: ErrorType) -> Stop {
        step.outcome = StepOutcome::Failed;
        step.error_type = Some(class);
        self.recorder.fail(step.name.clone(), class);
        self.recorder.push(step);
        Stop::Close
    }

    /// The step that was pushed last turns out to be the one that fails the run; why, in our own words.
    pub(super) fn fail_last(&mut self, class: ErrorType, words: Option<&str>) {
        if let Some(mut step) = self.recorder.pop() {
            step.text = words.map(|words| ServerText::new(words.as_bytes(), ServerText::STATUS)).or(step.text);
            self.fail(step, class);
        }
    }

    /// Records a step that got no tagged response, as what that means.
    pub(super) fn fault(&mut self, mut step: Step, fault: &Fault) -> Stop {
        self.describe(&mut step, fault);
        // A server that ended the session before the login was sent said nothing of it.
        let command = step.name.command().filter(|_| step.sent_bytes != Some(0));
        let class = match (fault.class, &fault.response) {
            (ErrorType::Bye, Some(response)) => classify::of_refusal(command, response),
            // One challenge more than the mechanism has.
            (ErrorType::ProtocolContinuation, _) if step.name == CommandName::Authenticate => ErrorType::AuthProtocol,
            (class, _) => class,
        };
        // What was said untagged counts where nothing else was said of the login.
        let warning =
            fault.warning.as_ref().filter(|_| class == fault.class && command.is_some_and(CommandName::is_login));
        let by_warning = warning.and_then(|response| Some((response, classify::of_code(command, response.code)?)));
        let class = match by_warning {
            Some((response, class)) => {
                note_status(&mut step, response);
                class
            }
            None => class,
        };
        self.fail(step, class);
        if fault.can_logout { Stop::Logout } else { Stop::Close }
    }

    /// Notes on a step what is known of a fault.
    pub(super) fn describe(&self, step: &mut Step, fault: &Fault) {
        step.close_notify = fault.close_notify;
        step.tls_fault = fault.tls;
        let bye = fault.response.as_ref().filter(|_| fault.class == ErrorType::Bye);
        if let Some(response) = bye.or(fault.warning.as_ref()) {
            note_status(step, response);
        }
        let words = [&fault.warning, &fault.response]
            .map(|response| response.as_ref().map(|response| response.text.as_slice()));
        let words = match words {
            [Some(warning), Some(response)] => Some(Cow::Owned([warning, response].join(b" | ".as_slice()))),
            [one, other] => one.or(other).map(Cow::Borrowed),
        };
        step.text = words.map(|words| self.redactor.text(&words, ServerText::STATUS));
    }
}
