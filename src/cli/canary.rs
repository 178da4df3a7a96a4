//! `imaptrace canary fill`: fills a mailbox with synthetic messages, or continues an earlier fill; or those of several accounts.
//!
//! `synthetic_mail` makes the messages and `probe::fill` stores them; this file connects them and shows the progress: a bar on
//! a terminal, else a line for each tenth. Called by the command line.

use std::fmt;

use imaptrace_imap::{CommandName, Condition, ResponseCode, Secret};
use imaptrace_record::{ErrorType, Run, ServerText, SpanId, TraceId};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::{
    args::FillArgs,
    exit_code::{FAILED, PASSED, USAGE},
    output::Output,
    password,
    probe::{configure, given, read_files},
    selection::{self, NamedAccounts},
    signals::Signals,
};
use crate::{
    agent::{self, families},
    clock,
    config::{Place, Problems},
    net::Family,
    plan::{AddressChoice, Target},
    probe::{
        Cancel, Ids, Job, Prober, TargetContext,
        fill::{self, Fill, FillEnd, FillMessage, Filled, MessageSource},
    },
    synthetic_mail::{MARKER, SyntheticMailbox},
    terminal::{self, Style},
};

/// A probe of a mailbox with fewer messages measures little.
const WORTH_PROBING: u32 = 20;

pub(super) async fn run(args: FillArgs, signals: Signals, output: &mut Output) -> u8 {
    if args.config.is_some() || args.all {
        return run_configured(&args, &signals, output).await;
    }
    if args.credentials.is_some() {
        output.errors(
            "error: --credentials: it is for the passwords of a configuration\n  help: add --config FILE, or remove it",
        );
        return USAGE;
    }
    let code = match signals.unless_stopped(prepare(&args, output)).await {
        Some(Ok((target, prober, secret))) => {
            fill(&args, None, &target, (prober, secret), signals.stopped.clone(), output).await
        }
        Some(Err(problem)) => {
            output.errors(&problem);
            USAGE
        }
        None => {
            output.error("stopped\n  help: nothing was added; the same command begins again");
            FAILED
        }
    };
    // A fill that is complete in spite of the signal has passed.
    signals.code().filter(|_| code != PASSED).unwrap_or(code)
}

/// Fills the mailboxes of accounts of a configuration, one after the other. An account that fails does not stop the rest.
async fn run_configured(args: &FillArgs, signals: &Signals, output: &mut Output) -> u8 {
    let named = NamedAccounts {
        file: args.config.as_deref(),
        names: if args.all { None } else { Some(&args.names) },
        credentials: args.credentials.as_deref(),
    };
    let prepared = selection::accounts(&named, Vec::new()).and_then(|config| output.start_log("warn").map(|()| config));
    let config = match prepared {
        Ok(config) => config,
        Err(problem) => {
            output.errors(&problem);
            return USAGE;
        }
    };
    let mut code = PASSED;
    for target in config.targets {
        let alias = target.accounts.first().map_or("", |account| account.alias.as_str());
        let name = format!(
            "{}/{}",
            terminal::safe(&target.name, output.error_style),
            terminal::safe(alias, output.error_style)
        );
        let prober = Prober::new(config.dns.clone());
        let filled = match signals.unless_stopped(prepare_account(target)).await {
            Some(Ok((target, secret))) => {
                fill(args, Some(&name), &target, (prober, secret), signals.stopped.clone(), output).await
            }
            Some(Err(problem)) => {
                output.error(&format!("{name}: {problem}"));
                FAILED
            }
            None => FAILED,
        };
        code = code.max(filled);
        if *signals.stopped.borrow() || output.is_closed() {
            break;
        }
    }
    signals.code().filter(|_| code != PASSED).unwrap_or(code)
}

async fn prepare_account(mut target: Target) -> Result<(TargetContext, Secret), String> {
    fill::allow(&mut target);
    let target = TargetContext::new(target).map_err(|error| error.to_string())?;
    let account = target.target().accounts.first().ok_or("no account")?;
    let secret = agent::load_password(&target, account).await.map_err(|error| error.to_string())?;
    Ok((target, secret))
}

async fn prepare(args: &FillArgs, output: &mut Output) -> Result<(TargetContext, Prober, Secret), String> {
    let [server] = args.names.as_slice() else {
        return Err("error: there are several words (not shown: one may be a password)\n\n  tip: one SERVER at a time: run it once \
                    for each, or give --config; a user goes with --user NAME, a mailbox with --mailbox NAME"
            .to_owned());
    };
    let (password, asks) = password::find(server, &args.target)?;
    let config = configure(server, &args.target, given(&[("target.mailbox", &args.mailbox, "--mailbox")]), password)
        .map_err(|problems| in_own_name(problems).to_string())?;
    for warning in &config.warnings {
        output.warn(&warning.to_string());
    }
    output.start_log("warn")?;
    let prober = Prober::new(config.dns.clone());
    let mut target = config.targets.into_iter().next().ok_or("error: no target")?;
    if target.address == AddressChoice::Each {
        return Err(
            "error: --address: \"each\" is a run for each family, and a mailbox is filled once\n  help: give any, \
                    v4 or v6"
                .to_owned(),
        );
    }
    fill::allow(&mut target);
    if asks {
        // Before the prompt: a command that cannot run asks for no password.
        read_files(target.clone())?;
        password::ask(&mut target).await?;
    }
    let target = read_files(target)?;
    let account = target.target().accounts.first().ok_or("error: no account")?;
    let secret = account.password.load().await.map_err(|error| password::problem(&error, &account.password))?;
    Ok((target, prober, secret))
}

/// The problems of the whole command line, under the name of this command.
fn in_own_name(mut problems: Problems) -> Problems {
    for problem in problems.errors.iter_mut().chain(&mut problems.warnings) {
        if problem.place == Place::Flag("probe".to_owned()) {
            problem.place = Place::Flag("canary fill".to_owned());
        }
    }
    problems
}

/// `name` is TARGET/ACCOUNT for an account of a configuration.
async fn fill(
    args: &FillArgs,
    name: Option<&str>,
    target: &TargetContext,
    (prober, secret): (Prober, Secret),
    stopped: Cancel,
    output: &mut Output,
) -> u8 {
    let Some(account) = target.target().accounts.first() else { return FAILED };
    let mailbox = target.target().journey.mailbox.as_str();
    let mut source = Messages {
        mailbox: SyntheticMailbox::new(args.messages, clock::wall()),
        all: args.messages,
        bar: output.error_style.colour.then(|| bar(args.messages, output.error_style)),
        tenths: 0,
        output,
    };
    let job = Job {
        target,
        account,
        family: families(target.target()).first().copied().unwrap_or(Family::Any),
        ids: Ids { trace: TraceId::random(), root: SpanId::random(), parent: None },
        start_lag: None,
        secret: Ok(secret),
        usual_messages: None,
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
    if let Some(bar) = &source.bar {
        bar.finish_and_clear();
    }
    conclude(args, (name, mailbox), &filled, output)
}

/// Prints the result, and returns the exit code.
fn conclude(args: &FillArgs, (name, mailbox): (Option<&str>, &str), filled: &Filled, output: &mut Output) -> u8 {
    let style = output.error_style;
    let wanted = args.messages;
    // With a name it is an account of the configuration.
    let give = if name.is_some() { "the account's `mailbox` and" } else { "--mailbox NAME" };
    let of = name.map(|name| format!("{name}: ")).unwrap_or_default();
    let shown = of.clone() + &terminal::safe(mailbox, style);
    let there = filled.found.saturating_add(filled.added.into());
    let so_far = match there {
        0 => "nothing was added; the same command begins again".to_owned(),
        _ => format!("{there} of {wanted} messages are in {shown}, and the same command goes on from there"),
    };
    match filled.end {
        FillEnd::Complete { counted } => {
            output.print(&(of + &summary(mailbox, counted, filled, output.style)));
            if wanted < WORTH_PROBING {
                output.warn(&format!("a mailbox of fewer than {WORTH_PROBING} messages is too small to measure a server"));
            }
            return PASSED;
        }
        FillEnd::OtherMail { other } => output.error(&format!(
            "{shown} holds {other} messages that are no canary's; nothing was added\n  help: give a mailbox of its own \
             with {give} --create, or add --among-other-mail"
        )),
        FillEnd::Indiscriminate { absent } => output.error(&format!(
            "the server finds {absent} messages in {shown} by a header field that no mail has, so it cannot tell \
             canaries from other mail; nothing was added\n  help: its SEARCH is broken (RFC 9051 section 6.4.4, HEADER): \
             have it repaired, or fill a new mailbox in one go with {give} --create"
        )),
        FillEnd::Miscounted { counted, exists } => {
            let added = match filled.added {
                0 => "nothing was added".to_owned(),
                added => format!("{added} were added"),
            };
            output.error(&format!(
                "the server counts {counted} canary messages in {shown}, which holds {exists} messages in all; {added}\n  \
                 help: does something else write to it? try again, or give another mailbox with {give} --create; \
                 if it stays, the server's SEARCH or EXAMINE is broken"
            ));
        }
        FillEnd::Missing => {
            let texts = filled.run.steps.iter().rev().filter_map(|step| step.text.as_ref()).map(ServerText::as_str);
            let text = texts.map(|text| terminal::safe(text, style)).find(|text| !text.is_empty());
            let text = text.map(|text| format!(": {text}")).unwrap_or_default();
            let given = if name.is_some() { "the account's `mailbox`" } else { "--mailbox" };
            output.error(&format!(
                "there is no mailbox {shown}, or it cannot be opened{text}\n  help: --create makes it; check {given}, or the \
                 path in the URL"
            ));
        }
        FillEnd::Short { counted } => output.error(&format!(
            "the server took all messages, and counts {counted} of {wanted} in {shown}\n  help: was something deleted \
             meanwhile? the same command adds as many as are missing"
        )),
        FillEnd::Stopped => output.error(&format!("stopped\n  help: {so_far}")),
        FillEnd::Failed => {
            let failure = refusal(&filled.run, style).map_or_else(
                || terminal::failure(&filled.run, style).unwrap_or_default() + "  help: ",
                |(what, help)| format!("{what}\n  help: {help}; "),
            );
            output.error(&format!("{failure}{so_far}"));
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

/// A refusal that is special to a fill, and what to do about it (RFC 9051 §7.1, RFC 5530, RFC 9738).
fn refusal(run: &Run, style: Style) -> Option<(String, &'static str)> {
    let step = run.failing_step()?;
    let target = terminal::safe(&run.target, style);
    let command = step.name.command()?;
    let was_ok = step.status == Some(Condition::Ok) && step.error_type == Some(ErrorType::ProtocolSyntax);
    if command == CommandName::Examine && was_ok {
        let of = step.mailbox.as_deref().map(|mailbox| format!(" of {}", terminal::safe(mailbox, style)));
        let of = of.unwrap_or_default();
        return Some((
            format!("{target}: EXAMINE{of} was OK without a number of messages"),
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

/// The messages, and the display of the progress.
struct Messages<'a> {
    mailbox: SyntheticMailbox,
    all: u32,
    /// On a terminal that can redraw a line; elsewhere there is a line for each tenth.
    bar: Option<ProgressBar>,
    /// The tenths that are there.
    tenths: u64,
    output: &'a mut Output,
}

impl Messages<'_> {
    fn tenths(&self, number: u32) -> u64 {
        u64::from(number) * 10 / u64::from(self.all.max(1))
    }
}

impl MessageSource for Messages<'_> {
    fn message(&mut self, number: u32) -> FillMessage {
        let message = self.mailbox.message(number);
        FillMessage { bytes: message.bytes, date: message.internal_date, seen: message.seen }
    }

    fn begin(&mut self, found: u32) {
        self.tenths = self.tenths(found);
        if let Some(bar) = &self.bar {
            bar.set_position(found.into());
            bar.reset_eta();
        }
    }

    fn stored(&mut self, number: u32) {
        let tenths = self.tenths(number);
        let is_next = std::mem::replace(&mut self.tenths, tenths) != tenths;
        match &self.bar {
            Some(bar) => bar.set_position(number.into()),
            None if is_next => self.output.errors(&format!("{number} of {} messages", self.all)),
            None => {}
        }
    }
}

fn bar(all: u32, style: Style) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(all.into()), ProgressDrawTarget::stderr());
    if let Ok(look) = ProgressStyle::with_template("{bar:30} {pos} of {len} messages, {rate}, {eta} left") {
        let rate = |state: &ProgressState, text: &mut dyn fmt::Write| {
            let _ = write!(text, "{:.0}/s", state.per_sec());
        };
        bar.set_style(look.with_key("rate", rate).progress_chars(if style.ascii { "=> " } else { "━╸ " }));
    }
    bar
}
