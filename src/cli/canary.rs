//! `imaptrace canary fill`: makes a mailbox of realistic messages, or continues where an earlier fill ended.
//!
//! `synthetic_mail` makes the messages and `probe::fill` holds the conversation; this file passes the ones to the other and shows
//! the progress: a bar on a terminal, else a line for each tenth. Called by the command line.

use std::fmt;

use imaptrace_imap::{CommandName, Condition, ResponseCode, Secret};
use imaptrace_record::{ErrorType, Run, SpanId, TraceId};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::{
    args::FillArgs,
    environment::{Environment, environment},
    exit_code::{FAILED, PASSED, USAGE},
    output::Output,
    password::{self, PasswordSource, ask},
    probe::{given, single, target_flags},
    signals::Signals,
};
use crate::{
    agent::families,
    clock,
    config::{self, Place, Probe, Problems},
    net::Family,
    plan::AddressChoice,
    probe::{
        Cancel, Ids, Job, Prober, TargetContext,
        fill::{self, Fill, FillEnd, Filled, Letter, MessageSource},
    },
    synthetic_mail::{MARKER, SyntheticMailbox},
    telemetry::logs::{self, LogSettings},
    terminal::{self, Style},
};

/// A signal came before anything was begun.
const STOPPED: &str = "stopped\n  help: nothing was added; the same command begins again";
/// What a probe of a smaller mailbox measures is not worth much.
const WORTH_PROBING: u32 = 20;

pub(super) async fn run(args: FillArgs, output: &mut Output) -> u8 {
    // Before a password command can run: it is ended with this process.
    let signals = match Signals::catch() {
        Ok(signals) => signals,
        Err(error) => {
            output.error(&format!("cannot listen for signals: {error}"));
            return FAILED;
        }
    };
    let mut stopped = signals.stopped().clone();
    let prepared = tokio::select! {
        prepared = prepare(&args, output) => prepared,
        Ok(_) = stopped.wait_for(|stopped| *stopped) => Err(String::new()),
    };
    let code = match prepared {
        Ok((target, prober, secret)) => fill(&args, &target, (prober, secret), signals.stopped().clone(), output).await,
        Err(_) if signals.code().is_some() => {
            output.error(STOPPED);
            FAILED
        }
        Err(problem) => {
            output.errors(&problem);
            USAGE
        }
    };
    // Who stopped a fill that was complete by then need not know.
    signals.code().filter(|_| code != PASSED).unwrap_or(code)
}

async fn prepare(args: &FillArgs, output: &mut Output) -> Result<(TargetContext, Prober, Secret), String> {
    let flags = [target_flags(&args.target), given(&[("target.mailbox", &args.mailbox, "--mailbox")])].concat();
    let server = args.target.server.clone();
    let place = PasswordSource::find(&args.target)?;
    let Environment { variables, not_utf8 } = environment();
    let request = Probe { server, flags, environment: variables, not_utf8, password: place.source() };
    let config = config::probe(&request).map_err(|problems| in_own_name(problems).to_string())?;
    for warning in &config.warnings {
        output.warn(&warning.to_string());
    }
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "warn".to_owned());
    logs::init(&LogSettings { color: output.error_style().colour, filter: Some(filter), ..LogSettings::default() })
        .map_err(|error| format!("error: {error}"))?;
    let prober = Prober::new(config.dns.clone());
    let mut target = single(config).ok_or("error: no target")?;
    if target.address == AddressChoice::Each {
        return Err(
            "error: --address: \"each\" is a run for each family, and a mailbox is filled once\n  help: give any, \
                    v4 or v6"
                .to_owned(),
        );
    }
    fill::allow(&mut target);
    let prepared = |target| TargetContext::new(target).map_err(|error| format!("error: {error}"));
    if place.is_asked_for() {
        // No password is asked for what cannot run.
        prepared(target.clone())?;
        ask(&mut target).await?;
    }
    let target = prepared(target)?;
    let account = target.target().accounts.first().ok_or("error: no account")?;
    let secret = account.password.load().await.map_err(|error| password::problem(&error, &account.password))?;
    Ok((target, prober, secret))
}

/// What is missing on the whole command line is said under the name of this command.
fn in_own_name(mut problems: Problems) -> Problems {
    for problem in problems.errors.iter_mut().chain(&mut problems.warnings) {
        if problem.place == Place::Flag("probe".to_owned()) {
            problem.place = Place::Flag("canary fill".to_owned());
        }
    }
    problems
}

async fn fill(
    args: &FillArgs,
    target: &TargetContext,
    (prober, secret): (Prober, Secret),
    stopped: Cancel,
    output: &mut Output,
) -> u8 {
    let Some(account) = target.target().accounts.first() else { return FAILED };
    let mailbox = target.target().journey.mailbox.as_str();
    let mut source = Messages {
        mailbox: SyntheticMailbox::new(args.messages, clock::wall()),
        progress: FillProgress::new(args.messages, output.error_style()),
        output,
    };
    let job = Job {
        target,
        account,
        family: families(target.target()).first().copied().unwrap_or(Family::Any),
        ids: Ids { trace: TraceId::random(), root: SpanId::random(), parent: None },
        start_lag: None,
        secret: Ok(secret),
        hold_login: None,
    };
    let fill = Fill {
        messages: args.messages,
        marker: MARKER,
        create: args.create,
        among_other_mail: args.among_other_mail,
        source: &mut source,
    };
    let filled = prober.fill(job, fill, stopped).await;
    source.progress.end();
    conclude(args, mailbox, &filled, output)
}

/// Says how it ended, and gives the exit code.
fn conclude(args: &FillArgs, mailbox: &str, filled: &Filled, output: &mut Output) -> u8 {
    let style = output.error_style();
    let wanted = args.messages;
    let shown = terminal::safe(mailbox, style);
    let there = filled.found.saturating_add(filled.added.into());
    let so_far = match there {
        0 => "nothing was added; the same command begins again".to_owned(),
        _ => format!("{there} of {wanted} messages are in {shown}, and the same command goes on from there"),
    };
    match filled.end {
        FillEnd::Complete { counted } => {
            output.print(&summary(mailbox, counted, filled, output.style()));
            if wanted < WORTH_PROBING {
                output.warn(&format!("a mailbox of fewer than {WORTH_PROBING} messages says little about a server"));
            }
            return PASSED;
        }
        FillEnd::OtherMail { other } => output.error(&format!(
            "{shown} holds {other} messages that are no canary's; nothing was added\n  help: give a mailbox of its own \
             with --mailbox NAME --create, or say --among-other-mail"
        )),
        FillEnd::Indiscriminate { absent } => output.error(&format!(
            "the server finds {absent} messages in {shown} by a header field that no mail has, so it cannot tell \
             canaries from other mail; nothing was added\n  help: its SEARCH is broken (RFC 9051 section 6.4.4, HEADER): \
             have it mended, or fill a new mailbox in one go with --mailbox NAME --create"
        )),
        FillEnd::Miscounted { counted, exists } => {
            let added = match filled.added {
                0 => "nothing was added".to_owned(),
                added => format!("{added} were added"),
            };
            output.error(&format!(
                "the server counts {counted} canary messages in {shown}, which holds {exists} messages in all; {added}\n  \
                 help: does something else write to it? try again, or give another mailbox with --mailbox NAME --create; \
                 if it stays, the server's SEARCH or EXAMINE is broken"
            ));
        }
        FillEnd::Missing => output.error(&format!(
            "there is no mailbox {shown}, or it cannot be opened{}\n  help: --create makes it; check --mailbox, or the \
             path in the URL",
            words(&filled.run, style)
        )),
        FillEnd::Short { counted } => output.error(&format!(
            "the server took all messages, and counts {counted} of {wanted} in {shown}\n  help: was something deleted \
             meanwhile? the same command adds as many as are missing"
        )),
        FillEnd::Stopped => output.error(&format!("stopped\n  help: {so_far}")),
        FillEnd::Failed => {
            let said = refusal(&filled.run, style).map_or_else(
                || terminal::failure(&filled.run, style).unwrap_or_default() + "  help: ",
                |(what, help)| format!("{what}\n  help: {help}; "),
            );
            output.error(&format!("{said}{so_far}"));
        }
    }
    FAILED
}

/// `INBOX holds 300 canary messages: 180 added, 4.41 MB in 1.20 s`
fn summary(mailbox: &str, counted: u64, filled: &Filled, style: Style) -> String {
    let mailbox = terminal::safe(mailbox, style);
    if filled.added == 0 {
        return format!("{mailbox} holds {counted} canary messages already; nothing was added\n");
    }
    let (size, took) = (terminal::size(filled.bytes), terminal::duration(filled.took.into(), style));
    format!("{mailbox} holds {counted} canary messages: {} added, {size} in {took}\n", filled.added)
}

/// What the server said of a mailbox that it did not open.
fn words(run: &Run, style: Style) -> String {
    let said = run.steps.iter().rev().find_map(|step| step.text.as_ref().filter(|text| !text.as_str().is_empty()));
    said.map(|text| format!(": {}", terminal::safe(text.as_str(), style))).unwrap_or_default()
}

/// A refusal of which a fill knows more than a probe, and what to do about it (RFC 9051 §7.1, RFC 5530, RFC 9738).
fn refusal(run: &Run, style: Style) -> Option<(String, &'static str)> {
    let step = run.failing_step()?;
    let target = terminal::safe(&run.target, style);
    let command = step.name.command()?;
    if (command, step.status, step.error_type)
        == (CommandName::Examine, Some(Condition::Ok), Some(ErrorType::ProtocolSyntax))
    {
        let mailbox = step.mailbox.as_deref().map(|mailbox| format!(" of {}", terminal::safe(mailbox, style)));
        return Some((
            format!(
                "{target}: EXAMINE{} was OK, and the server did not say how many messages are there",
                mailbox.unwrap_or_default()
            ),
            "a line `* NUMBER EXISTS` must come before the OK (RFC 9051 section 6.3.3): the server, or a proxy before \
             it, is broken",
        ));
    }
    let code = step.code?;
    let help = match (command, code) {
        (CommandName::Append | CommandName::Create, ResponseCode::OverQuota) => {
            "the account is full: raise its quota, or ask for fewer --messages"
        }
        (CommandName::Append, ResponseCode::TryCreate | ResponseCode::NonExistent) => {
            "the mailbox has gone meanwhile: --create makes it again"
        }
        (CommandName::Append, ResponseCode::Limit | ResponseCode::TooBig | ResponseCode::MessageLimit) => {
            "the server's limit on messages, their size or their rate is reached: raise it, or wait"
        }
        (CommandName::Append | CommandName::Create, ResponseCode::NoPerm | ResponseCode::Cannot) => {
            "this user may not do that there: give another --mailbox"
        }
        _ => return None,
    };
    let text = step.text.as_ref().map(|text| terminal::safe(text.as_str(), style)).unwrap_or_default();
    let status = step.status.map(Condition::as_str).unwrap_or_default();
    Some((format!("{target}: {command} was refused: {status} [{code}] {text}"), help))
}

/// The messages, and what shows how far they are.
struct Messages<'a> {
    mailbox: SyntheticMailbox,
    progress: FillProgress,
    output: &'a mut Output,
}

impl MessageSource for Messages<'_> {
    fn letter(&mut self, number: u32) -> Letter {
        let message = self.mailbox.message(number);
        Letter { bytes: message.bytes, date: message.internal_date, seen: message.seen }
    }

    fn begin(&mut self, found: u32) {
        self.progress.begin(found);
    }

    fn stored(&mut self, number: u32) {
        self.progress.reach(number, self.output);
    }
}

/// How far it is, for a person.
enum FillProgress {
    /// On a terminal that can redraw a line.
    Bar(ProgressBar),
    /// Where escape sequences must not go: a line for each tenth.
    Lines { all: u32, tenth: u64 },
}

impl FillProgress {
    fn new(all: u32, style: Style) -> Self {
        if !style.colour {
            return Self::Lines { all, tenth: 0 };
        }
        let bar = ProgressBar::with_draw_target(Some(all.into()), ProgressDrawTarget::stderr());
        let template = "{bar:30} {pos} of {len} messages, {rate}, {eta} left";
        if let Ok(look) = ProgressStyle::with_template(template) {
            let rate = |state: &ProgressState, text: &mut dyn fmt::Write| {
                let _ = write!(text, "{:.0}/s", state.per_sec());
            };
            bar.set_style(look.with_key("rate", rate).progress_chars(if style.ascii { "=> " } else { "━╸ " }));
        }
        Self::Bar(bar)
    }

    /// So many need not be waited for.
    fn begin(&mut self, found: u32) {
        match self {
            Self::Bar(bar) => {
                bar.set_position(found.into());
                bar.reset_eta();
            }
            Self::Lines { all, tenth } => *tenth = tenth_of(found, *all),
        }
    }

    /// So many are there.
    fn reach(&mut self, number: u32, output: &mut Output) {
        match self {
            Self::Bar(bar) => bar.set_position(number.into()),
            Self::Lines { all, tenth } => {
                let reached = tenth_of(number, *all);
                if std::mem::replace(tenth, reached) != reached {
                    output.errors(&format!("{number} of {all} messages"));
                }
            }
        }
    }

    fn end(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// How many tenths of `all` these are.
fn tenth_of(number: u32, all: u32) -> u64 {
    u64::from(number) * 10 / u64::from(all.max(1))
}
