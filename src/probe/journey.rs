//! The journey `first-load`: what a mail program does until the message list shows (docs/journey.md).
//!
//! ```text
//! resolve connect [tls] greeting [CAPABILITY] [STARTTLS tls [CAPABILITY]] [ID] LOGIN|AUTHENTICATE [CAPABILITY]
//! [ID] [NAMESPACE] LIST SELECT|EXAMINE [FETCH] LOGOUT
//! ```
//!
//! What a failure skips: everything but LOGOUT, and that too when the session can no longer speak. Which class a
//! failure has is `classify`'s matter.

use imaptrace_imap as imap;
use imaptrace_imap::{Command, CommandName, Condition, ResponseCode, StatusResponse};
use imaptrace_record::{ErrorType, Run, Seconds, ServerText, SetupStep, Step, StepName};
use tracing::{info, warn};

use super::{
    classify,
    conversation::{Conversation, Stop},
    driver::Driver,
    exchange::note_status,
    greeting,
    job::{Cancel, Job},
    login,
    prober::Prober,
    reach,
};
use crate::{
    clock::{self, Deadline},
    plan::{self, Open, Security},
    secret::SecretError,
};

impl Prober {
    /// Runs the journey once. Ends within the run's deadline and a second for LOGOUT, whatever the server does.
    pub async fn run(&self, job: Job<'_>, cancel: Cancel) -> Run {
        run_session(Conversation::new(self, job, cancel), &mut FirstLoad).await
    }
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
    /// Does it. When it ends with an error, the step that failed is on record.
    fn run(
        &mut self,
        conversation: &mut Conversation<'_>,
        driver: &mut Driver,
    ) -> impl Future<Output = Result<(), Stop>>;
}

/// Looks into the mailbox as a mail program does.
struct FirstLoad;

impl MailboxTask for FirstLoad {
    async fn run(&mut self, conversation: &mut Conversation<'_>, driver: &mut Driver) -> Result<(), Stop> {
        if driver.session.capabilities().is_some_and(|capabilities| capabilities.namespace) {
            conversation.command(driver, &Command::Namespace).await?;
        }
        conversation.command(driver, &Command::List).await?;
        open_mailbox(conversation, driver).await
    }
}

/// Connects, logs in, does the task and logs out.
pub(super) async fn run_session(mut conversation: Box<Conversation<'_>>, task: &mut impl MailboxTask) -> Run {
    if let Err(error) = &conversation.job.secret {
        // In the step's text, and nowhere else: who shows the run shows it.
        let name: StepName = if matches!(error, SecretError::Tls { .. }) {
            SetupStep::Tls.into()
        } else {
            login::login_name(&conversation).into()
        };
        let text = ServerText::new(error.to_string().as_bytes(), ServerText::STATUS);
        let class = classify::of_secret(error);
        conversation.recorder.refuse(name.clone(), class, Some(text));
        conversation.recorder.fail(name, class);
        return conversation.recorder.finish();
    }
    if conversation.target.tls.insecure {
        // Who set it has been warned when it was read; it stays on each run.
        info!(target: "imaptrace::probe", "the server's certificate is not checked (insecure)");
    }
    if connection(&mut conversation, task).await == Next::WithoutId {
        info!(target: "imaptrace::probe", "the server closed the connection over ID; trying again without it");
        conversation.job.target.forget_id();
        conversation.recorder.second_connection();
        // From connect, not from the look-up; and it cannot ask for a third: ID is not sent again.
        connection(&mut conversation, task).await;
    }
    if let Some(transcript) = conversation.transcript.take() {
        // Boxed: a run that shows nothing holds no more for it.
        Box::pin(transcript.finish()).await;
    }
    conversation.recorder.finish()
}

/// One connection from look-up to close.
async fn connection(conversation: &mut Conversation<'_>, task: &mut impl MailboxTask) -> Next {
    // Boxed, as is TLS: what only the way there needs is not held while a command waits.
    let mut reached = Box::pin(reach::reach(conversation)).await;
    if let Some(transcript) = &mut conversation.transcript {
        let connection = conversation.recorder.is_second_connection().then_some(2);
        let steps =
            conversation.recorder.steps().iter().filter(|step| !step.is_command() && step.connection == connection);
        steps.for_each(|step| transcript.step(step));
    }
    // By reference: moved, it would stand in the future twice.
    let Ok(driver) = &mut reached else { return Next::Done };
    driver.transcript = conversation.transcript.take();
    let ended = converse(conversation, driver, task).await;
    let goodbye = Deadline::after(clock::now(), conversation.target.deadlines.logout);
    match &ended {
        Ok(()) | Err(Stop::Logout) => logout(conversation, driver, goodbye).await,
        Err(Stop::Close) => conversation.recorder.skip(CommandName::Logout),
        Err(Stop::WithoutId) => {}
    }
    driver.close(goodbye.end()).await;
    conversation.transcript = driver.transcript.take();
    note_connection(conversation, driver);
    if matches!(ended, Err(Stop::WithoutId)) { Next::WithoutId } else { Next::Done }
}

fn note_connection(conversation: &mut Conversation<'_>, driver: &Driver) {
    let counts = driver.wire().counts();
    conversation.recorder.wire(counts.sent, counts.received);
    let tcp = driver.tcp_total();
    let quickack = driver.wire().quickack();
    let server = conversation.recorder.server();
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

async fn converse(
    conversation: &mut Conversation<'_>,
    driver: &mut Driver,
    task: &mut impl MailboxTask,
) -> Result<(), Stop> {
    if conversation.target.security == Security::Tls {
        Box::pin(reach::tls(conversation, driver)).await?;
    }
    greeting(conversation, driver).await?;
    if conversation.target.security == Security::StartTls {
        starttls(conversation, driver).await?;
    }
    capabilities(conversation, driver).await?;
    let with_id = id(conversation, driver).await?;
    login::login(conversation, driver).await?;
    capabilities(conversation, driver).await?;
    if !with_id {
        // Some servers advertise it after the login alone, and require it before SELECT.
        id(conversation, driver).await?;
    }
    task.run(conversation, driver).await
}

async fn greeting(conversation: &mut Conversation<'_>, driver: &mut Driver) -> Result<(), Stop> {
    let deadline = conversation.deadline_for(SetupStep::Greeting, conversation.target.deadlines.greeting)?;
    let mut step = conversation.recorder.open(SetupStep::Greeting);
    // From the end of the step before, so that the steps add up.
    let before = conversation.recorder.steps().last().map_or(Seconds::ZERO, Step::end_s);
    let result = driver.greeting(deadline).await;
    let progress = driver.session.take_progress();
    let end = match &result {
        Ok((_, stamp)) => *stamp,
        Err(fault) => fault.at,
    };
    step.start_s = before;
    step.duration_s = conversation.recorder.at(end).saturating_sub(before);
    step.received_bytes = Some(progress.received);
    conversation.note_tcp(&mut step, driver);
    conversation.refer(&mut step, &progress);
    let response = match result {
        Ok((response, _)) => response,
        Err(mut fault) => {
            let partial = driver.session.partial();
            // Something came, and it is not how an IMAP server begins.
            let ended = fault.class != ErrorType::Cancelled;
            if ended && fault.response.is_none() && !partial.is_empty() && partial.first() != Some(&b'*') {
                fault.class = ErrorType::ProtocolGreeting;
                fault.response = Some(StatusResponse { condition: Condition::Bad, code: None, text: partial.to_vec() });
            }
            let line = fault.response.as_ref().map_or(partial, |response| response.text.as_slice());
            if ended && let Some(response) = greeting::refusal(line) {
                note_status(&mut step, &response);
                conversation.alert(&mut step, &response, end);
                fault.response = Some(response);
            }
            return Err(conversation.fault(step, &fault));
        }
    };
    note_status(&mut step, &response);
    conversation.alert(&mut step, &response, end);
    if response.condition == Condition::Bye {
        step.text = Some(conversation.redactor.text(&response.text, ServerText::STATUS));
        let class =
            if response.code == Some(ResponseCode::Referral) { ErrorType::Referral } else { ErrorType::GreetingBye };
        conversation.fail(step, class);
        return Err(Stop::Close);
    }
    if response.condition == Condition::Preauth {
        conversation.recorder.server().preauth = Some(true);
        if conversation.target.security == Security::StartTls {
            conversation.fail(step, ErrorType::PreauthPlaintext);
            return Err(Stop::Close);
        }
    }
    if driver.session.capabilities().is_some_and(|capabilities| !capabilities.rev1 && !capabilities.rev2) {
        step.text = Some(ServerText::new(b"the server's capabilities name no IMAP version", ServerText::STATUS));
        conversation.fail(step, ErrorType::ProtocolGreeting);
        return Err(Stop::Logout);
    }
    conversation.recorder.push(step);
    Ok(())
}

async fn starttls(conversation: &mut Conversation<'_>, driver: &mut Driver) -> Result<(), Stop> {
    capabilities(conversation, driver).await?;
    let name = Command::StartTls.name();
    if !driver.session.capabilities().is_some_and(|capabilities| capabilities.starttls) {
        return Err(conversation.refuse(name, ErrorType::StarttlsUnavailable));
    }
    conversation.command(driver, &Command::StartTls).await?;
    if driver.has_unread() {
        // Bytes behind the OK would be read as if they had come under TLS (RFC 9051 §11.1).
        conversation.fail_last(ErrorType::StarttlsInjection, None);
        return Err(Stop::Close);
    }
    Box::pin(reach::tls(conversation, driver)).await
}

/// Asks for the capabilities, unless the server has listed them.
async fn capabilities(conversation: &mut Conversation<'_>, driver: &mut Driver) -> Result<(), Stop> {
    if driver.session.capabilities().is_some() {
        return Ok(());
    }
    conversation.command(driver, &Command::Capability).await?;
    if driver.session.capabilities().is_some_and(|capabilities| capabilities.rev1 || capabilities.rev2) {
        return Ok(());
    }
    conversation.fail_last(ErrorType::ProtocolGreeting, None);
    Err(Stop::Logout)
}

/// ID is a courtesy: NO and BAD are "no ID", and a server that leaves over it is asked again without. Whether it was
/// sent.
async fn id(conversation: &mut Conversation<'_>, driver: &mut Driver) -> Result<bool, Stop> {
    let advertised = driver.session.capabilities().is_some_and(|capabilities| capabilities.id);
    if !advertised || !conversation.job.target.sends_id() {
        return Ok(false);
    }
    let (mut step, exchange) = conversation.perform(driver, &Command::Id).await?;
    match exchange.result {
        Ok(_) => conversation.recorder.push(step),
        Err(fault)
            if matches!(fault.class, ErrorType::Bye | ErrorType::Eof | ErrorType::Reset)
                && !conversation.recorder.is_second_connection() =>
        {
            conversation.describe(&mut step, &fault);
            conversation.tolerate(step, fault.class);
            return Err(Stop::WithoutId);
        }
        Err(fault) => return Err(conversation.fault(step, &fault)),
    }
    let (name, version) = driver.session.id();
    let text = |raw: Option<&[u8]>| raw.map(|raw| conversation.redactor.text(raw, ServerText::ID));
    let (name, version) = (text(name), text(version));
    let server = conversation.recorder.server();
    (server.id_name, server.id_version) = (name, version);
    Ok(true)
}

async fn open_mailbox(conversation: &mut Conversation<'_>, driver: &mut Driver) -> Result<(), Stop> {
    let journey = &conversation.target.journey;
    let mailbox = journey.mailbox.as_str();
    let select = Command::Select { mailbox, read_only: journey.open == Open::Examine };
    let answer = match conversation.command(driver, &select).await {
        Ok(answer) => answer,
        Err(stop) => {
            suggest_mailbox(conversation, driver);
            return Err(stop);
        }
    };
    let Some(exists) = answer.progress.exists else { return Err(without_exists(conversation)) };
    let loaded = load(conversation, driver, exists).await;
    // Not before: writing the log may block, and the clock would run.
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
fn suggest_mailbox(conversation: &mut Conversation<'_>, driver: &Driver) {
    let refused = conversation.recorder.steps().last().filter(|step| step.error_type == Some(ErrorType::No));
    // With any other code the name is not what the server complains of (RFC 5530 §3).
    let is_of_name = |code| {
        use ResponseCode::{Cannot, NonExistent, Other, TryCreate};
        matches!(code, None | Some(NonExistent | TryCreate | Cannot | Other))
    };
    if refused.is_some_and(|step| is_of_name(step.code))
        && let Some((mailbox, separator)) =
            imap::suggest_mailbox(conversation.target.journey.mailbox.as_str(), driver.session.hierarchy())
    {
        conversation.recorder.suggest_mailbox(mailbox, separator);
    }
}

/// Fetches the message list of a mailbox with `exists` messages.
async fn load(conversation: &mut Conversation<'_>, driver: &mut Driver, exists: u32) -> Result<(), Stop> {
    let journey = &conversation.target.journey;
    let Some(messages) = journey.messages(exists, &mut rand::rng()) else {
        conversation.recorder.loaded();
        conversation.recorder.skip(CommandName::Fetch);
        return Ok(());
    };
    let (from, to) = messages.into_inner();
    let answer = conversation.command(driver, &Command::Fetch { from, to, whole: journey.cold }).await?;
    if let Some(stamp) = answer.first_row {
        conversation.recorder.first_row(stamp);
    }
    let asked = u64::from(to - from) + 1;
    let rows = answer.progress.rows;
    let shrunk = driver.session.has_shrunk();
    if rows == 0 && !shrunk {
        let text = format!(
            "FETCH {from}:{to} was OK and brought none of the {asked} messages that SELECT counted, and nothing said that they are gone"
        );
        conversation.fail_last(ErrorType::ProtocolSyntax, Some(&text));
        return Err(Stop::Logout);
    }
    conversation.recorder.loaded();
    if rows == 0 {
        info!(target: "imaptrace::probe", "FETCH brought nothing: its {asked} messages left the mailbox after SELECT");
    } else if rows < asked && !shrunk {
        warn!(target: "imaptrace::probe", "FETCH was OK and brought {rows} of the {asked} messages that SELECT counted");
    }
    Ok(())
}

/// SELECT or EXAMINE was OK and did not say how many messages there are. It must (RFC 9051 §6.3.2): what was not said or
/// could not be read is no empty mailbox.
pub(super) fn without_exists(conversation: &mut Conversation<'_>) -> Stop {
    let text =
        "the mailbox was opened without an EXISTS response that can be read: how many messages it holds is unknown";
    conversation.fail_last(ErrorType::ProtocolSyntax, Some(text));
    Stop::Logout
}

/// Says good-bye. Lies outside the run's deadline, and whatever goes wrong fails only itself.
async fn logout(conversation: &mut Conversation<'_>, driver: &mut Driver, deadline: Deadline) {
    // A cancelled run still says good-bye.
    driver.ignore_cancel();
    let write = conversation.target.deadlines.logout;
    let (mut step, exchange) = conversation.exchange(driver, &Command::Logout, deadline, write).await;
    let class = match &exchange.result {
        Ok(response) if response.condition == Condition::Ok => return conversation.recorder.push(step),
        Ok(response) => conversation.refused(&mut step, response),
        Err(fault) => {
            conversation.describe(&mut step, fault);
            fault.class
        }
    };
    conversation.tolerate(step, class);
}
