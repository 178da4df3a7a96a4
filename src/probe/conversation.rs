//! The conversation of a run: performs a command, fills its step, and turns faults into findings.
//!
//! The type that the scripts above it share: `reach`, `login`, `journey` and `fill` decide which step comes next, and what a
//! failure skips. Not here: bytes, stamps and deadlines of one exchange (`driver`), and the class of a failure (`classify`).

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use imaptrace_imap::{
    Command, CommandName, Condition, Limits, LoginMethod, ResponseCode, SessionProgress, StatusResponse,
};
use imaptrace_record::{ErrorType, EventName, ServerText, SpanId, Step, StepEvent, StepName, StepOutcome};

use super::{
    accounting::{self, SetupTime},
    classify,
    driver::Driver,
    exchange::{Exchange, Fault, note_status},
    job::{Cancel, Job, Prober},
    recorder::Recorder,
    redact::Redactor,
    transcript::Transcript,
    uncertainty::Uncertainty,
};
use crate::{
    clock::{self, Anchor, Deadline},
    net::StampedStream,
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
    /// The connection, made ready before the run begins.
    pub(super) driver: Driver,
    /// The addresses that were looked up; a second connection does not look them up again.
    pub(super) addresses: Option<Vec<IpAddr>>,
    /// The connection is under TLS, or is to be in clear text.
    pub(super) trusted: bool,
    /// The server sent the last bytes of the handshake, so that its greeting takes no round trip (up to TLS 1.2).
    pub(super) greets_at_once: bool,
}

/// Why the conversation ends early. What failed is on record already.
pub(super) enum Stop {
    /// LOGOUT can still be sent.
    Logout,
    /// It cannot: the connection is closed.
    Close,
    /// The server ended the connection over ID: once more, without.
    WithoutId,
}

impl<'a> Conversation<'a> {
    /// Boxed: a future holds its arguments twice, and a run is in several.
    pub(super) fn new(prober: &'a Prober, job: Job<'a>, cancel: Cancel) -> Box<Self> {
        let redactor = Redactor::new(job.account, job.secret.as_ref().ok());
        let mut driver = ready(&job, job.target.target().limits, cancel.clone());
        // From here on the run's time counts.
        let anchor = Anchor::now();
        let mut recorder = Recorder::new(&job, anchor);
        recorder.watcher.clone_from(&prober.steps);
        driver.transcript = prober.line_sink.clone().filter(|_| job.secret.is_ok()).and_then(|sink| {
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
            driver,
            addresses: None,
            trusted,
            greets_at_once: false,
        })
    }
}

/// A connection before there is one, with the handshake where there will be one: without a password there is none.
fn ready(job: &Job<'_>, limits: Limits, cancel: Cancel) -> Driver {
    let wire = StampedStream::default();
    let has_tls = job.secret.is_ok() && job.target.target.security != Security::None;
    let prepared = has_tls.then(|| job.target.tls.handshake(&wire));
    Driver::new(wire, prepared, limits, cancel)
}

impl Conversation<'_> {
    /// Begins a second connection, which shares the limit on bytes with the first.
    pub(super) fn second_connection(&mut self) {
        self.recorder.second_connection();
        let mut limits = self.target.limits;
        limits.session_bytes = limits.session_bytes.saturating_sub(self.recorder.run.wire_received_bytes);
        let transcript = self.driver.transcript.take();
        self.driver = ready(&self.job, limits, self.cancel.clone());
        self.driver.transcript = transcript;
    }

    // === one command ===

    /// Sends a command; anything but OK ends the conversation.
    pub(super) async fn command(&mut self, command: &Command<'_>) -> Result<Exchange, Stop> {
        let (step, exchange) = self.perform(command).await?;
        self.conclude(step, exchange)
    }

    /// Sends a command within the target's deadlines and fills its step. What its response means is left to the caller.
    pub(super) async fn perform(&mut self, command: &Command<'_>) -> Result<(Step, Exchange), Stop> {
        let Deadlines { command: whole, write, .. } = self.target.deadlines;
        self.perform_within(command, whole, write).await
    }

    /// The same with deadlines of its own: for the command, and for each write.
    pub(super) async fn perform_within(
        &mut self,
        command: &Command<'_>,
        whole: Duration,
        write: Duration,
    ) -> Result<(Step, Exchange), Stop> {
        let deadline = self.deadline_for(command.name(), whole).map_err(|_| Stop::Logout)?;
        Ok(self.exchange(command, deadline, write).await)
    }

    /// Sends a command and fills its step.
    pub(super) async fn exchange(
        &mut self,
        command: &Command<'_>,
        deadline: Deadline,
        write: Duration,
    ) -> (Step, Exchange) {
        let mut step = self.recorder.open(command.name());
        step.state = Some(accounting::state(&self.driver));
        match command {
            Command::Select { mailbox, .. } => step.mailbox = Some((*mailbox).to_owned()),
            Command::Fetch { .. } => step.mailbox = Some(self.target.journey.mailbox.as_str().to_owned()),
            Command::Login { .. } => step.mechanism = Some(LoginMethod::Login),
            Command::Authenticate { mechanism, .. } => step.mechanism = Some(LoginMethod::Sasl(*mechanism)),
            _ => {}
        }
        let tag = tag(self.target.journey.tag, step.span_id);
        let exchange = self.driver.exchange(&tag, command, deadline, write).await;
        for message in &exchange.sasl_messages {
            self.redactor.learn(message);
        }
        self.fill(&mut step, &exchange);
        match command {
            Command::Select { .. } => step.mailbox_messages = exchange.progress.exists.map(u64::from),
            Command::Fetch { .. } => step.messages = Some(exchange.progress.rows),
            _ => {}
        }
        (step, exchange)
    }

    /// Records the outcome of an exchange; anything but OK ends the conversation.
    pub(super) fn conclude(&mut self, step: Step, exchange: Exchange) -> Result<Exchange, Stop> {
        let (step, exchange) = self.check(step, exchange)?;
        self.recorder.push(step);
        Ok(exchange)
    }

    /// The same, and leaves a step that passed to the caller.
    pub(super) fn check(&mut self, mut step: Step, exchange: Exchange) -> Result<(Step, Exchange), Stop> {
        match &exchange.result {
            Err(fault) => Err(self.fault(step, fault)),
            Ok(response) if response.condition == Condition::Ok => Ok((step, exchange)),
            Ok(response) => {
                let class = self.refused(&mut step, response);
                self.fail(step, class);
                Err(Stop::Logout)
            }
        }
    }

    /// The class of a refusal, whose text goes into the step.
    pub(super) fn refused(&self, step: &mut Step, response: &StatusResponse) -> ErrorType {
        step.text = Some(self.redactor.text(&response.text, ServerText::STATUS));
        classify::of_refusal(step.name.command(), response)
    }

    /// Records a step that failed and does not fail the run.
    pub(super) fn tolerate(&mut self, mut step: Step, class: ErrorType) {
        (step.outcome, step.error_type) = (StepOutcome::Failed, Some(class));
        self.recorder.push(step);
    }

    fn fill(&mut self, step: &mut Step, exchange: &Exchange) {
        self.recorder.time(step, exchange.start, exchange.end);
        let progress = &exchange.progress;
        let counted = |count: u64| Some(count).filter(|_| progress.literals > 0);
        step.sent_bytes = Some(exchange.sent);
        step.received_bytes = Some(progress.received);
        step.untagged = Some(progress.untagged);
        (step.literals, step.literal_bytes) = (counted(progress.literals), counted(progress.literal_bytes));
        step.deviations = Some(progress.deviations).filter(|count| *count > 0);
        self.refer(step, progress);
        let tcp = accounting::tcp_delta(step, &mut self.driver);
        let at = |stamp| self.recorder.at(stamp);
        let uncertainty = accounting::account(step, exchange, tcp.as_ref(), &mut self.driver, at);
        self.recorder.note_uncertainty(step, uncertainty);
        let event = |name, stamp, text| StepEvent { name, at_s: self.recorder.at(stamp), text };
        step.events.extend(exchange.first_byte.map(|stamp| event(EventName::FirstByte, stamp, None)));
        step.first_byte_s = step.events.first().map(|event| event.at_s.saturating_sub(step.start_s));
        step.events.extend(exchange.continuations.iter().map(|stamp| event(EventName::Continuation, *stamp, None)));
        // Before TLS an attacker can have written the alert (RFC 9051 §11.3).
        if let Some((stamp, text)) = exchange.alert.as_ref().filter(|_| self.trusted) {
            let text = self.redactor.text(text, ServerText::STATUS);
            step.events.push(event(EventName::Alert, *stamp, Some(text)));
        }
        if let Ok(response) = &exchange.result {
            note_status(step, response);
            self.alert(step, response, exchange.end);
        }
        step.events.sort_by_key(|event| event.at_s);
        step.events.truncate(Step::MAX_EVENTS);
        // While a run waits, its steps are most of what it holds.
        step.events.shrink_to_fit();
    }

    /// Notes on `connect` what the kernel counted on the connection meanwhile, its round trip, and what that makes uncertain.
    pub(super) fn note_connect(&mut self, step: &mut Step) {
        if let Some(tcp) = accounting::tcp_delta(step, &mut self.driver) {
            // What is left was waiting for other addresses, for a lost segment, or for imaptrace.
            step.network_s = step.rtt_min_s.map(|round_trip| round_trip.min(step.duration_s));
            self.recorder.note_uncertainty(step, Uncertainty::of_connect(step.duration_s.to_duration(), &tcp));
        }
    }

    /// The same on `tls` and `greeting`, whose time is divided.
    pub(super) fn note_setup(&mut self, step: &mut Step, time: SetupTime<'_>) {
        let tcp = accounting::tcp_delta(step, &mut self.driver);
        let uncertainty = accounting::account_setup(step, time, tcp.as_ref(), &self.driver);
        self.recorder.note_uncertainty(step, uncertainty);
    }

    pub(super) fn alert(&self, step: &mut Step, response: &StatusResponse, stamp: Instant) {
        let first = step.events.iter().all(|event| event.name != EventName::Alert);
        if self.trusted && first && response.code == Some(ResponseCode::Alert) {
            let text = Some(self.redactor.text(&response.text, ServerText::STATUS));
            step.events.push(StepEvent { name: EventName::Alert, at_s: self.recorder.at(stamp), text });
        }
    }

    /// Records a referral's host, which is never followed. Not before TLS: an attacker can have written it.
    pub(super) fn refer(&mut self, step: &mut Step, progress: &SessionProgress) {
        if let Some(host) = progress.referral.as_ref().filter(|_| self.trusted) {
            let host = self.redactor.text(host, ServerText::ID);
            self.recorder.run.server.referral_host = Some(host.clone());
            step.referral_host = Some(host);
        }
    }

    // === failures ===

    /// When this step must end; if the run's time is up already, the step is listed and the run over.
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
            self.recorder.refuse(step, class, None);
            return Err(Stop::Close);
        }
        // Time that imaptrace itself took is not subtracted from the step: the rest would not measure the server.
        let pauses = end.saturating_duration_since(self.deadline.end());
        let ours = now.saturating_duration_since(self.deadline.begin()).saturating_sub(pauses).saturating_sub(owed);
        let more = if ours > self.deadline.tenth() { ours.min(self.target.deadlines.run) } else { Duration::ZERO };
        let left = end.saturating_duration_since(now) + more;
        Ok(Deadline::after(now, own.min(left)))
    }

    /// A step that cannot even start ends the conversation.
    pub(super) fn refuse(&mut self, name: impl Into<StepName>, class: ErrorType) -> Stop {
        self.recorder.refuse(name, class, None);
        Stop::Logout
    }

    /// Records the step that fails the run.
    pub(super) fn fail(&mut self, step: Step, class: ErrorType) -> Stop {
        self.recorder.fail(step, class);
        Stop::Close
    }

    /// The step that was recorded last turns out to fail the run; why, in our own words.
    pub(super) fn fail_last(&mut self, class: ErrorType, words: Option<&str>) -> Stop {
        if let Some(mut step) = self.recorder.run.steps.pop() {
            step.text = words.map(|words| ServerText::new(words.as_bytes(), ServerText::STATUS)).or(step.text);
            self.fail(step, class);
        }
        Stop::Logout
    }

    /// Records a step that got no tagged response.
    pub(super) fn fault(&mut self, mut step: Step, fault: &Fault) -> Stop {
        self.describe(&mut step, fault);
        // A server that ended the session before the login was sent did not refuse it.
        let command = step.name.command().filter(|_| step.sent_bytes != Some(0));
        let class = match (fault.class, &fault.response) {
            (ErrorType::Bye, Some(response)) => classify::of_refusal(command, response),
            // One challenge more than the mechanism has.
            (ErrorType::ProtocolContinuation, _) if step.name == CommandName::Authenticate => ErrorType::AuthProtocol,
            (class, _) => class,
        };
        // An untagged response gives the class if it is the only one to the login.
        let is_login = class == fault.class && command.is_some_and(CommandName::is_login);
        let warning = fault.warning.as_ref().filter(|_| is_login);
        let by_warning = warning.and_then(|response| Some((response, classify::of_code(command, response.code)?)));
        let class = by_warning.map_or(class, |(response, class)| {
            note_status(&mut step, response);
            class
        });
        self.fail(step, class);
        if fault.can_logout { Stop::Logout } else { Stop::Close }
    }

    /// Notes a fault on its step.
    pub(super) fn describe(&self, step: &mut Step, fault: &Fault) {
        step.close_notify = fault.close_notify;
        step.tls_fault = fault.tls;
        let bye = fault.response.as_ref().filter(|_| fault.class == ErrorType::Bye);
        if let Some(response) = bye.or(fault.warning.as_ref()) {
            note_status(step, response);
        }
        let responses = [&fault.warning, &fault.response].into_iter().flatten();
        let words: Vec<&[u8]> = responses.map(|response| response.text.as_slice()).collect();
        step.text = (!words.is_empty()).then(|| self.redactor.text(&words.join(b" | ".as_slice()), ServerText::STATUS));
    }
}

/// The tag of a command: the id of its span, or a short form of it.
pub(super) fn tag(style: TagStyle, id: Option<SpanId>) -> String {
    let id = id.map(|id| id.to_string()).unwrap_or_default();
    match style {
        TagStyle::SpanId => id,
        TagStyle::Short => format!("T{}", id.get(..6).unwrap_or_default()),
    }
}
