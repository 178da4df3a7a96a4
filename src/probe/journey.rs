//! The journey `first-load`: what a mail program does until the message list shows (docs/journey.md).
//!
//! ```text
//! resolve connect [tls] greeting [CAPABILITY] [STARTTLS tls [CAPABILITY]] [ID] LOGIN|AUTHENTICATE [CAPABILITY]
//! [ID] [NAMESPACE] LIST SELECT|EXAMINE [FETCH] LOGOUT
//! ```
//!
//! A failure skips everything but LOGOUT, and that too if no command can be sent any longer. `classify` decides its class.

use std::sync::atomic::Ordering;

use imaptrace_imap as imap;
use imaptrace_imap::{Code, Command, CommandName, Condition, ResponseCode, StatusResponse};
use imaptrace_record::{ErrorType, Run, Seconds, ServerText, SetupStep, Step, StepName};
use tracing::{info, warn};

use super::{
    accounting::SetupTime,
    classify,
    conversation::{Conversation, Stop},
    exchange::note_status,
    job::{Cancel, Job, Prober},
};
use crate::{
    clock::{self, Deadline},
    plan::{self, Open, Propagation, Security},
    secret::SecretError,
};

impl Prober {
    /// Runs the journey once. Ends within the run's deadline and a second for LOGOUT, whatever the server does.
    pub async fn run(&self, job: Job<'_>, cancel: Cancel) -> Run {
        Conversation::new(self, job, cancel).run(&mut FirstLoad).await
    }
}

/// What is done between login and LOGOUT.
pub(super) trait MailboxTask {
    /// Does it. When it ends with an error, the step that failed is on record.
    fn run(&mut self, conversation: &mut Conversation<'_>) -> impl Future<Output = Result<(), Stop>>;
}

/// Looks into the mailbox as a mail program does.
struct FirstLoad;

impl MailboxTask for FirstLoad {
    async fn run(&mut self, conversation: &mut Conversation<'_>) -> Result<(), Stop> {
        if conversation.driver.session.capabilities().is_some_and(|capabilities| capabilities.namespace) {
            conversation.command(&Command::Namespace).await?;
        }
        conversation.command(&Command::List).await?;
        conversation.open_mailbox().await
    }
}

impl Conversation<'_> {
    /// Connects, logs in, does the task and logs out.
    pub(super) async fn run(mut self: Box<Self>, task: &mut impl MailboxTask) -> Run {
        if let Err(error) = &self.job.secret {
            // In the step's text alone, which is shown with the run.
            let name: StepName = match error {
                SecretError::Tls { .. } => SetupStep::Tls.into(),
                _ => self.login_name().into(),
            };
            let text = ServerText::new(error.to_string().as_bytes(), ServerText::STATUS);
            self.recorder.refuse(name, classify::of_secret(error), Some(text));
            return self.recorder.finish();
        }
        if self.target.tls.insecure {
            // The configuration warned once; it stays on each run.
            info!(target: "imaptrace::probe", "the server's certificate is not checked (insecure)");
        }
        if self.connection(task).await {
            info!(target: "imaptrace::probe", "the server closed the connection over ID; trying again without it");
            self.job.target.without_id.store(true, Ordering::Relaxed);
            self.second_connection();
            // From connect, not from the look-up; and it cannot ask for a third: ID is not sent again.
            self.connection(task).await;
        }
        if let Some(transcript) = self.driver.transcript.take() {
            // Boxed: a run that shows nothing holds no more for it.
            Box::pin(transcript.finish()).await;
        }
        self.recorder.finish()
    }

    /// One connection from look-up to close. True when the server closed it over ID: once more, without.
    async fn connection(&mut self, task: &mut impl MailboxTask) -> bool {
        // Boxed, as is TLS: what only the way there needs is not held while a command waits.
        let reached = Box::pin(self.reach()).await;
        if let Some(transcript) = &mut self.driver.transcript {
            let connection = self.recorder.is_second_connection().then_some(2);
            let steps = self.recorder.run.steps.iter();
            let steps = steps.filter(|step| !step.is_command() && step.connection == connection);
            steps.for_each(|step| transcript.step(step));
        }
        if reached.is_err() {
            return false;
        }
        let ended = self.converse(task).await;
        let deadline = Deadline::after(clock::now(), self.target.deadlines.logout);
        match &ended {
            Ok(()) | Err(Stop::Logout) => self.logout(deadline).await,
            Err(Stop::Close) => self.recorder.skip(CommandName::Logout),
            Err(Stop::WithoutId) => {}
        }
        self.driver.close(deadline.end()).await;
        self.note_connection();
        matches!(ended, Err(Stop::WithoutId))
    }

    fn note_connection(&mut self) {
        let (wire, tcp) = (&self.driver.wire, self.driver.info);
        let (run, counts) = (&mut self.recorder.run, wire.counts());
        run.wire_sent_bytes += counts.sent;
        run.wire_received_bytes += counts.received;
        run.server.rtt_min_s = tcp.rtt_min.map(Seconds::from);
        run.server.retransmits = tcp.rtt_min.map(|_| tcp.retransmits.into());
        run.server.out_of_order = tcp.out_of_order.map(u64::from);
        run.server.quickack = Some(wire.quickack());
        if let Some(capabilities) = self.driver.session.capabilities() {
            run.server.capability_hash = Some(capabilities.hash());
            run.server.protocol = Some(capabilities.version().to_owned());
        }
    }

    // === the conversation ===

    async fn converse(&mut self, task: &mut impl MailboxTask) -> Result<(), Stop> {
        if self.target.security == Security::Tls {
            Box::pin(self.tls()).await?;
        }
        self.greeting().await?;
        if self.target.security == Security::StartTls {
            self.starttls().await?;
        }
        self.capabilities().await?;
        let with_id = self.id().await?;
        self.login().await?;
        self.capabilities().await?;
        if !with_id {
            // Some servers advertise it after the login alone, and require it before SELECT.
            self.id().await?;
        }
        task.run(self).await
    }

    async fn greeting(&mut self) -> Result<(), Stop> {
        let deadline = self.deadline_for(SetupStep::Greeting, self.target.deadlines.greeting)?;
        let mut step = self.recorder.open(SetupStep::Greeting);
        // From the end of the step before, so that the steps add up.
        let before = self.recorder.run.steps.last().map_or(Seconds::ZERO, Step::end_s);
        let result = self.driver.greeting(deadline).await;
        let progress = self.driver.session.take_progress();
        let end = match &result {
            Ok((_, stamp)) => *stamp,
            Err(fault) => fault.at,
        };
        step.start_s = before;
        step.duration_s = self.recorder.at(end).saturating_sub(before);
        step.received_bytes = Some(progress.received);
        let (start, traffic) = (self.recorder.start() + before.to_duration(), self.driver.wire.traffic());
        self.note_setup(&mut step, SetupTime { start, end, asked: !self.greets_at_once, traffic: &traffic });
        self.refer(&mut step, &progress);
        let response = match result {
            Ok((response, _)) => response,
            Err(mut fault) => {
                let partial = self.driver.session.partial();
                let ended = fault.class != ErrorType::Cancelled;
                if ended && fault.response.is_none() && partial.first().is_some_and(|first| *first != b'*') {
                    // No IMAP server begins with this.
                    fault.class = ErrorType::ProtocolGreeting;
                    fault = fault.with_text(partial.to_vec());
                }
                let line = fault.response.as_ref().map_or(partial, |response| response.text.as_slice());
                // The class stays what it is; the words are the server's.
                if ended && let Some(response) = refusal(line) {
                    note_status(&mut step, &response);
                    self.alert(&mut step, &response, end);
                    fault.response = Some(response);
                }
                return Err(self.fault(step, &fault));
            }
        };
        note_status(&mut step, &response);
        self.alert(&mut step, &response, end);
        if response.condition == Condition::Bye {
            step.text = Some(self.redactor.text(&response.text, ServerText::STATUS));
            let is_referral = response.code == Some(ResponseCode::Referral);
            let class = if is_referral { ErrorType::Referral } else { ErrorType::GreetingBye };
            return Err(self.fail(step, class));
        }
        if response.condition == Condition::Preauth {
            self.recorder.run.server.preauth = Some(true);
            if self.target.security == Security::StartTls {
                return Err(self.fail(step, ErrorType::PreauthPlaintext));
            }
        }
        if self.driver.session.capabilities().is_some_and(|capabilities| !capabilities.rev1 && !capabilities.rev2) {
            step.text = Some(ServerText::new(b"the server's capabilities name no IMAP version", ServerText::STATUS));
            self.fail(step, ErrorType::ProtocolGreeting);
            return Err(Stop::Logout);
        }
        self.recorder.push(step);
        Ok(())
    }

    /// STARTTLS (RFC 9051 §6.2.1), if the server lists it, and the handshake.
    async fn starttls(&mut self) -> Result<(), Stop> {
        self.capabilities().await?;
        if !self.driver.session.capabilities().is_some_and(|capabilities| capabilities.starttls) {
            return Err(self.refuse(CommandName::StartTls, ErrorType::StarttlsUnavailable));
        }
        self.command(&Command::StartTls).await?;
        if self.driver.has_unread() {
            // Bytes behind the OK would be read as if they had come under TLS (RFC 9051 §11.1).
            self.fail_last(ErrorType::StarttlsInjection, None);
            return Err(Stop::Close);
        }
        Box::pin(self.tls()).await
    }

    /// Asks for the capabilities, unless the server has listed them.
    async fn capabilities(&mut self) -> Result<(), Stop> {
        if self.driver.session.capabilities().is_some() {
            return Ok(());
        }
        self.command(&Command::Capability).await?;
        if self.driver.session.capabilities().is_some_and(|capabilities| capabilities.rev1 || capabilities.rev2) {
            return Ok(());
        }
        Err(self.fail_last(ErrorType::ProtocolGreeting, None))
    }

    /// ID is a courtesy: NO and BAD are "no ID", and a server that closes over it is tried again without. Whether it was sent.
    ///
    /// Before the login it may have the name that the session is to have: Dovecot takes that then only, and of the first ID.
    async fn id(&mut self) -> Result<bool, Stop> {
        let advertised = self.driver.session.capabilities().is_some_and(|capabilities| capabilities.id);
        if !advertised || self.job.target.without_id.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let is_before_login = self.driver.session.state() == imap::SessionState::NotAuthenticated;
        let propagates = self.target.journey.propagate == Propagation::SessionId && is_before_login;
        let session = propagates.then(|| self.recorder.run.trace_id.to_string());
        let (mut step, exchange) = self.perform(&Command::Id { session: session.as_deref() }).await?;
        match exchange.result {
            Ok(_) => self.recorder.push(step),
            Err(fault)
                if matches!(fault.class, ErrorType::Bye | ErrorType::Eof | ErrorType::Reset)
                    && !self.recorder.is_second_connection() =>
            {
                self.describe(&mut step, &fault);
                self.tolerate(step, fault.class);
                return Err(Stop::WithoutId);
            }
            Err(fault) => return Err(self.fault(step, &fault)),
        }
        let (name, version) = self.driver.session.id();
        let text = |raw: Option<&[u8]>| raw.map(|raw| self.redactor.text(raw, ServerText::ID));
        let (name, version) = (text(name), text(version));
        let server = &mut self.recorder.run.server;
        (server.id_name, server.id_version) = (name, version);
        Ok(true)
    }

    async fn open_mailbox(&mut self) -> Result<(), Stop> {
        let journey = &self.target.journey;
        let mailbox = journey.mailbox.as_str();
        let select = Command::Select { mailbox, read_only: journey.open == Open::Examine };
        let exists = match self.command(&select).await.map(|exchange| exchange.progress.exists) {
            Ok(Some(exists)) => exists,
            Ok(None) => return Err(self.without_exists()),
            Err(stop) => {
                self.suggest_mailbox();
                return Err(stop);
            }
        };
        let usual = self.compare(exists)?;
        let loaded = self.load(exists).await;
        // Not before: writing the log may block, and the clock would run.
        if let Some(usual) = usual {
            warn!(target: "imaptrace::probe::mailbox", "the mailbox holds {exists} messages, and usually {usual}");
        }
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

    /// The usual number of messages, if the mailbox holds fewer than a tenth of it: what lost its messages measures something
    /// else, or nothing. One that lost many and holds none fails SELECT.
    fn compare(&mut self, exists: u32) -> Result<Option<u64>, Stop> {
        let usual = self.job.usual_messages.filter(|_| !self.target.journey.allow_empty);
        let usual = usual.filter(|usual| u64::from(exists) * 10 < *usual);
        if let Some(select) = self.recorder.run.steps.last_mut() {
            select.usual_messages = usual;
        }
        match usual {
            Some(usual @ plan::Journey::MANY..) if exists == 0 => {
                let text = format!("the mailbox is empty, and usually holds {usual} messages");
                Err(self.fail_last(ErrorType::MailboxEmpty, Some(&text)))
            }
            usual => Ok(usual),
        }
    }

    /// Records how a mailbox name that the server refused could have been meant.
    fn suggest_mailbox(&mut self) {
        let refused = self.recorder.run.steps.last().filter(|step| step.error_type == Some(ErrorType::No));
        // With any other code the name is not what the server complains of (RFC 5530 §3).
        let is_of_name = |code| {
            use ResponseCode::{Cannot, NonExistent, Other, TryCreate};
            matches!(code, None | Some(NonExistent | TryCreate | Cannot | Other))
        };
        if refused.is_some_and(|step| is_of_name(step.code))
            && let Some((mailbox, separator)) =
                imap::suggest_mailbox(self.target.journey.mailbox.as_str(), self.driver.session.hierarchy())
        {
            let run = &mut self.recorder.run;
            run.suggested_mailbox = Some(mailbox);
            run.server.hierarchy_separator =
                separator.map(|separator| ServerText::new(separator.to_string().as_bytes(), ServerText::ID));
        }
    }

    /// Fetches the message list of a mailbox with `exists` messages.
    async fn load(&mut self, exists: u32) -> Result<(), Stop> {
        let journey = &self.target.journey;
        let Some(messages) = journey.messages(exists, &mut rand::rng()) else {
            self.recorder.loaded();
            self.recorder.skip(CommandName::Fetch);
            return Ok(());
        };
        let (from, to) = messages.into_inner();
        let fetched = self.command(&Command::Fetch { from, to, whole: journey.cold }).await?;
        if let Some(stamp) = fetched.first_row {
            self.recorder.first_row(stamp);
        }
        let (asked, rows) = (u64::from(to - from) + 1, fetched.progress.rows);
        let shrunk = self.driver.session.has_shrunk();
        if rows == 0 && !shrunk {
            let text = format!(
                "FETCH {from}:{to} was OK and brought none of the {asked} messages that SELECT counted, and no response reported them gone"
            );
            return Err(self.fail_last(ErrorType::ProtocolSyntax, Some(&text)));
        }
        self.recorder.loaded();
        if rows == 0 {
            info!(target: "imaptrace::probe", "FETCH brought nothing: its {asked} messages left the mailbox after SELECT");
        } else if rows < asked && !shrunk {
            warn!(target: "imaptrace::probe", "FETCH was OK and brought {rows} of the {asked} messages that SELECT counted");
        }
        Ok(())
    }

    /// SELECT or EXAMINE was OK without EXISTS, which it must have (RFC 9051 §6.3.2): the mailbox need not be empty.
    pub(super) fn without_exists(&mut self) -> Stop {
        let text =
            "the mailbox was opened without an EXISTS response that can be read: how many messages it holds is unknown";
        self.fail_last(ErrorType::ProtocolSyntax, Some(text))
    }

    /// Logs out, outside the run's deadline. A failure fails this step alone.
    async fn logout(&mut self, deadline: Deadline) {
        // A cancelled run still logs out.
        self.driver.watch.ignore_cancel();
        let write = self.target.deadlines.logout;
        let (mut step, exchange) = self.exchange(&Command::Logout, deadline, write).await;
        let class = match &exchange.result {
            Ok(response) if response.condition == Condition::Ok => return self.recorder.push(step),
            Ok(response) => self.refused(&mut step, response),
            Err(fault) => {
                self.describe(&mut step, fault);
                fault.class
            }
        };
        self.tolerate(step, class);
    }
}

/// Reads a line, perhaps cut short, that refuses the connection in no form of the protocol: NO, BAD, or BYE without its star.
fn refusal(line: &[u8]) -> Option<StatusResponse> {
    let line = line.trim_ascii();
    let (star, line) = match line.strip_prefix(b"*") {
        Some(rest) => (true, rest.trim_ascii_start()),
        None => (false, line),
    };
    let end = memchr::memchr(b' ', line).unwrap_or(line.len());
    let (word, text) = line.split_at(end);
    let condition = [Condition::No, Condition::Bad, Condition::Bye].into_iter().find(|condition| {
        let known = condition.as_str().as_bytes();
        // Other services have sentences that begin with "No".
        word == known || (star && word.eq_ignore_ascii_case(known))
    })?;
    let (code, text, _) = Code::split(text.trim_ascii_start());
    Some(StatusResponse { condition, code: code.map(|code| code.name), text: text.to_vec() })
}

#[cfg(test)]
mod tests {
    use imaptrace_imap::ResponseCode;

    use super::*;

    #[test]
    fn a_line_that_refuses_is_distinguished_from_those_of_other_services() {
        let of = |line: &str| {
            refusal(line.as_bytes()).map(|response| {
                (
                    response.condition.as_str(),
                    response.code.map_or("-", ResponseCode::as_str),
                    String::from_utf8(response.text).unwrap(),
                )
            })
        };
        for (line, condition, code, text) in [
            ("* NO not today", "NO", "-", "not today"),
            ("* no [ALERT] not today", "NO", "ALERT", "not today"),
            (" NO LOGOUT Intrusion prevention active", "NO", "-", "LOGOUT Intrusion prevention active"),
            ("NO LOGOUT Intrusion", "NO", "-", "LOGOUT Intrusion"),
            ("*  BAD  [UNAVAILABLE] x\r\n", "BAD", "UNAVAILABLE", "x"),
            ("BYE [LIMIT] too many", "BYE", "LIMIT", "too many"),
            ("* BYE too ma", "BYE", "-", "too ma"),
            ("* NO", "NO", "-", ""),
        ] {
            assert_eq!(of(line), Some((condition, code, text.to_owned())), "{line}");
        }
        for line in
            ["", "*", "* OK hi", "No such service", "NOT here", "220 ready", "+OK ready", "-ERR no", "* LIST () NIL x"]
        {
            assert_eq!(of(line), None, "{line}");
        }
    }
}
