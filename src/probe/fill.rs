//! Fills a mailbox with messages by APPEND, and goes on where an earlier fill ended.
//!
//! It goes there and logs in by the same rules as a probe, as the same steps. Then, and nothing else:
//!
//! ```text
//! EXAMINE [CREATE EXAMINE] [SEARCH [SEARCH]] APPEND [SELECT APPEND] APPEND … EXAMINE SEARCH LOGOUT
//! ```
//!
//! The messages and their marker come from the caller (`cli`, which has them from `synthetic_mail`): this module makes no message.
//! A mailbox that holds messages without the marker is left alone unless the caller says otherwise, and so is one of which
//! the server's figures cannot be true: the second SEARCH is for a header field that no message has. EXAMINE, not SELECT:
//! a mailbox that turns out to be somebody's own keeps its \Recent marks. SELECT only for a server that takes no message
//! while a mailbox is open by EXAMINE, as Courier does. One command at a time, one connection.

use std::time::Duration;

use imaptrace_imap::{Command, Condition, ResponseCode, StatusResponse};
use imaptrace_record::{ErrorType, Run, Step};
use tokio::time::sleep;

use super::{
    conversation::{Conversation, Stop},
    driver::Driver,
    exchange::Exchange,
    job::{Cancel, Job},
    journey::{self, MailboxTask},
    prober::Prober,
    wait::cancelled,
};
use crate::{clock, plan::Target};

/// How long a message that is on its way may take to arrive once the operator wants to stop.
const GRACE: Duration = Duration::from_secs(3);
/// A message may be large and the line slow; a search for a header may read every message of a large mailbox from its
/// disk. Both only bound a server that hangs.
const MESSAGE: Duration = Duration::from_secs(2 * 60);
const SEARCH: Duration = Duration::from_secs(15 * 60);
/// No user waits for a fill.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// A SEARCH answer is one line, and this is one of a million numbers. Bytes.
const LINE: usize = 8 << 20;

/// What to fill.
pub struct Fill<'a> {
    /// How many messages with the marker the mailbox is to hold.
    pub messages: u32,
    /// Name of the header field that all messages of the source have, and no other mail. No mail has one of this name
    /// with `-Absent` behind it.
    pub marker: &'a str,
    /// Makes the mailbox when it is not there.
    pub create: bool,
    /// Fills it even when it holds mail without the marker.
    pub among_other_mail: bool,
    /// Where the messages come from.
    pub source: &'a mut dyn MessageSource,
}

/// Gives the messages, and is called as each is stored.
pub trait MessageSource {
    /// So many are in the mailbox already; called once, when the rest is about to be added.
    fn begin(&mut self, found: u32);
    /// Message `number`, from 1.
    fn letter(&mut self, number: u32) -> Letter;
    /// Message `number` is in the mailbox.
    fn stored(&mut self, number: u32);
}

/// A message as it is appended.
pub struct Letter {
    /// The message (RFC 5322), 7-bit, lines with CRLF.
    pub bytes: Vec<u8>,
    /// When it came, as RFC 9051 §9 `date-time` without its quotes.
    pub date: String,
    /// Marked as read.
    pub seen: bool,
}

/// What became of a fill.
#[derive(Debug)]
pub struct Filled {
    /// The session, as steps; APPEND is among them only when it failed. What failed is in it.
    pub run: Run,
    /// How the fill ended.
    pub end: FillEnd,
    /// Messages with the marker that were there before.
    pub found: u64,
    /// Messages that were added.
    pub added: u32,
    /// Bytes of those messages.
    pub bytes: u64,
    /// From the first APPEND to the last one's OK.
    pub took: Duration,
}

/// How a fill ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FillEnd {
    /// The server counts as many messages with the marker as were asked for, or more.
    Complete {
        /// How many.
        counted: u64,
    },
    /// All were taken, and the server counts fewer.
    Short {
        /// How many.
        counted: u64,
    },
    /// Left alone, since it holds other mail.
    OtherMail {
        /// Messages without the marker.
        other: u64,
    },
    /// Left alone, since the server finds messages by a header field that none has: it takes `HEADER field ""` for "all".
    Indiscriminate {
        /// How many it finds.
        absent: u64,
    },
    /// More messages with the marker than messages. Nothing is added after that.
    Miscounted {
        /// Messages with the marker.
        counted: u64,
        /// Messages in all.
        exists: u64,
    },
    /// There is no such mailbox, and it was not to be made.
    Missing,
    /// The operator had enough.
    Stopped,
    /// A step failed: the run has it.
    Failed,
}

/// Sets the deadline and the line length that a fill needs.
pub fn allow(target: &mut Target) {
    target.deadlines.run = DAY;
    target.limits.line = target.limits.line.max(LINE);
}

impl Prober {
    /// Fills a mailbox. Ends soon after `cancel` says so, with what was stored by then.
    pub async fn fill(&self, job: Job<'_>, fill: Fill<'_>, cancel: Cancel) -> Filled {
        let mut filling = Filling { fill, end: FillEnd::Failed, found: 0, added: 0, bytes: 0, took: Duration::ZERO };
        let run = journey::run_session(Conversation::new(self, job, cancel.clone()), &mut filling).await;
        let Filling { mut end, found, added, bytes, took, .. } = filling;
        // A command that was left because of the wish to stop is no fault.
        let no_fault = run.error_type.is_none_or(|class| class == ErrorType::Cancelled);
        if end == FillEnd::Failed && *cancel.borrow() && no_fault {
            end = FillEnd::Stopped;
        }
        Filled { run, end, found, added, bytes, took }
    }
}

struct Filling<'a> {
    fill: Fill<'a>,
    end: FillEnd,
    found: u64,
    added: u32,
    bytes: u64,
    took: Duration,
}

impl MailboxTask for Filling<'_> {
    async fn run(&mut self, conversation: &mut Conversation<'_>, driver: &mut Driver) -> Result<(), Stop> {
        let Some(exists) = self.open(conversation, driver).await? else {
            self.end = FillEnd::Missing;
            return Ok(());
        };
        let ours = if exists == 0 { 0 } else { search(conversation, driver, self.fill.marker).await? };
        // What is not ours is the rest.
        let Some(other) = exists.checked_sub(ours) else {
            self.end = FillEnd::Miscounted { counted: ours, exists };
            return Ok(());
        };
        if ours > 0 {
            let absent = search(conversation, driver, &format!("{}-Absent", self.fill.marker)).await?;
            if absent > 0 {
                self.end = FillEnd::Indiscriminate { absent };
                return Ok(());
            }
        }
        self.found = ours;
        if other > 0 && !self.fill.among_other_mail {
            self.end = FillEnd::OtherMail { other };
            return Ok(());
        }
        let next = u32::try_from(ours).map_or(u32::MAX, |ours| ours.saturating_add(1));
        if next > self.fill.messages {
            self.end = FillEnd::Complete { counted: ours };
            return Ok(());
        }
        self.fill.source.begin(next - 1);
        // From here on the wish to stop waits for the message under way: half a literal cannot be followed by LOGOUT.
        let mut stop = conversation.cancel.clone();
        driver.ignore_cancel();
        let start = clock::now();
        let appended = self.append_all(conversation, driver, next, &mut stop).await;
        self.took = clock::now() - start;
        if !appended? {
            self.end = FillEnd::Stopped;
            return Ok(());
        }
        let count = unless_stopped(&mut stop, self.count(conversation, driver)).await;
        let (counted, exists) = count.unwrap_or(Err(Stop::Close))?;
        self.end = if counted > exists {
            FillEnd::Miscounted { counted, exists }
        } else if counted >= u64::from(self.fill.messages) {
            FillEnd::Complete { counted }
        } else {
            FillEnd::Short { counted }
        };
        Ok(())
    }
}

impl Filling<'_> {
    /// Opens the mailbox to look into it, and makes it if need be. Returns how many messages it holds, if it is there.
    async fn open(&self, conversation: &mut Conversation<'_>, driver: &mut Driver) -> Result<Option<u64>, Stop> {
        let target = conversation.target;
        let mailbox = target.journey.mailbox.as_str();
        let examine = Command::Select { mailbox, read_only: true };
        let (mut step, exchange) = conversation.perform(driver, &examine).await?;
        let response = match &exchange.result {
            Ok(response) if response.condition != Condition::Ok => response,
            Ok(_) | Err(_) => return size(conversation, (step, exchange)).map(Some),
        };
        let class = conversation.refused(&mut step, response);
        // Many servers say no more than NO of a mailbox that is not there.
        let missing = matches!(response.code, None | Some(ResponseCode::NonExistent | ResponseCode::TryCreate));
        if !missing || class != ErrorType::No {
            conversation.fail(step, class);
            return Err(Stop::Logout);
        }
        conversation.tolerate(step, class);
        if !self.fill.create {
            return Ok(None);
        }
        conversation.command(driver, &Command::Create { mailbox }).await?;
        examine_again(conversation, driver).await.map(Some)
    }

    /// What the server counts when it looks anew: ours, and all.
    async fn count(&self, conversation: &mut Conversation<'_>, driver: &mut Driver) -> Result<(u64, u64), Stop> {
        let exists = examine_again(conversation, driver).await?;
        Ok((search(conversation, driver, self.fill.marker).await?, exists))
    }

    /// Adds the messages from `next` on. False when the operator had enough before the last one.
    async fn append_all(
        &mut self,
        conversation: &mut Conversation<'_>,
        driver: &mut Driver,
        next: u32,
        stop: &mut Cancel,
    ) -> Result<bool, Stop> {
        for number in next..=self.fill.messages {
            if *stop.borrow() {
                return Ok(false);
            }
            let letter = self.fill.source.letter(number);
            let appended = unless_stopped(stop, append(conversation, driver, &letter, self.added == 0)).await;
            appended.unwrap_or(Err(Stop::Close))?;
            self.added += 1;
            self.bytes += letter.bytes.len() as u64;
            self.fill.source.stored(number);
        }
        Ok(true)
    }
}

/// Opens the mailbox, which is there. Returns how many messages it holds.
async fn examine_again(conversation: &mut Conversation<'_>, driver: &mut Driver) -> Result<u64, Stop> {
    let target = conversation.target;
    let examine = Command::Select { mailbox: target.journey.mailbox.as_str(), read_only: true };
    let exchanged = within(conversation, driver, &examine, target.deadlines.command).await?;
    size(conversation, exchanged)
}

/// How many messages an EXAMINE counted that was OK. It must count them (RFC 9051 §6.3.3): silence is not an empty mailbox.
fn size(conversation: &mut Conversation<'_>, (step, exchange): (Step, Exchange)) -> Result<u64, Stop> {
    let outcome = conversation.conclude(step, exchange)?;
    outcome.progress.exists.map(u64::from).ok_or_else(|| journey::without_exists(conversation))
}

/// How many messages have such a header field.
async fn search(conversation: &mut Conversation<'_>, driver: &mut Driver, field: &str) -> Result<u64, Stop> {
    let (step, exchange) = within(conversation, driver, &Command::SearchHeader { field }, SEARCH).await?;
    Ok(conversation.conclude(step, exchange)?.progress.found.unwrap_or_default())
}

/// Adds one message. Its step is kept only when it fails: there may be a hundred thousand.
async fn append(
    conversation: &mut Conversation<'_>,
    driver: &mut Driver,
    letter: &Letter,
    first: bool,
) -> Result<(), Stop> {
    let target = conversation.target;
    let mailbox = target.journey.mailbox.as_str();
    let command = Command::Append { mailbox, seen: letter.seen, date: &letter.date, message: &letter.bytes };
    let (step, exchange) = within(conversation, driver, &command, MESSAGE).await?;
    match exchange.result {
        // Perhaps because the mailbox is open read-only, perhaps not: the second answer counts.
        Ok(StatusResponse { condition: Condition::No, code: None, .. }) if first => {
            conversation.tolerate(step, ErrorType::No);
        }
        _ => return conversation.check(step, exchange).map(drop),
    }
    let select = Command::Select { mailbox, read_only: false };
    let (step, exchange) = within(conversation, driver, &select, target.deadlines.command).await?;
    conversation.conclude(step, exchange)?;
    let (step, exchange) = within(conversation, driver, &command, MESSAGE).await?;
    conversation.check(step, exchange).map(drop)
}

/// Sends a command that may take longer than a probe's.
async fn within(
    conversation: &mut Conversation<'_>,
    driver: &mut Driver,
    command: &Command<'_>,
    own: Duration,
) -> Result<(Step, Exchange), Stop> {
    conversation.perform_within(driver, command, own, own).await
}

/// Lets work end by itself, unless it has not for a while after the wish to stop.
async fn unless_stopped<T>(stop: &mut Cancel, work: impl Future<Output = T>) -> Option<T> {
    let enough = async {
        cancelled(stop).await;
        sleep(GRACE).await;
    };
    tokio::select! {
        biased;
        done = work => Some(done),
        () = enough => None,
    }
}
