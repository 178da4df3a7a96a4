//! Fills a mailbox with messages by APPEND, and continues where an earlier fill ended.
//!
//! It connects and logs in as a probe does, with the same steps. Then, and nothing else:
//!
//! ```text
//! EXAMINE [CREATE EXAMINE] [SEARCH [SEARCH]] APPEND [SELECT APPEND] APPEND … EXAMINE SEARCH LOGOUT
//! ```
//!
//! The messages and their marker come from the caller (`cli`, by `synthetic_mail`). Nothing is added to a mailbox that has messages
//! without the marker, unless the caller allows it, or for which the server's figures cannot be true: the second SEARCH is for a
//! header field that no message has. EXAMINE, not SELECT: a mailbox with other mail keeps its \Recent flags. SELECT only for a
//! server that, as Courier, accepts no message while a mailbox is open by EXAMINE. One command at a time, one connection.

use std::time::Duration;

use imaptrace_imap::{Command, Condition, ResponseCode, StatusResponse};
use imaptrace_record::{ErrorType, Run, Step};
use tokio::time::sleep;

use super::{
    conversation::{Conversation, Stop},
    exchange::Exchange,
    job::{Cancel, Job, Prober},
    journey::MailboxTask,
    wait::cancelled,
};
use crate::{clock, plan::Target};

/// How long a message under way may take once the operator stops the fill.
const GRACE: Duration = Duration::from_secs(3);
/// A message may be large and the line slow; a search for a header may read every message from disk.
const MESSAGE: Duration = Duration::from_secs(2 * 60);
const SEARCH: Duration = Duration::from_secs(15 * 60);
/// No user waits for a fill.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Length in bytes of a SEARCH response with a million numbers, which is one line.
const LINE: usize = 8 << 20;

/// What to fill.
pub struct Fill<'a> {
    /// How many messages with the marker the mailbox is to have.
    pub messages: u32,
    /// Name of the header field that all messages of the source have, and no other mail. No mail has it with `-Absent` behind it.
    pub marker: &'a str,
    /// Creates the mailbox if there is none.
    pub create: bool,
    /// Fills it even if it has mail without the marker.
    pub among_other_mail: bool,
    /// Where the messages come from.
    pub source: &'a mut dyn MessageSource,
}

/// Makes the messages, and is called as each is stored.
pub trait MessageSource {
    /// The mailbox has this many already; called once, before the rest is added.
    fn begin(&mut self, found: u32);
    /// Message `number`, from 1.
    fn message(&mut self, number: u32) -> FillMessage;
    /// Message `number` is in the mailbox.
    fn stored(&mut self, number: u32);
}

/// A message as it is appended.
pub struct FillMessage {
    /// The message (RFC 5322), 7-bit, lines with CRLF.
    pub bytes: Vec<u8>,
    /// When it was received, as RFC 9051 §9 `date-time` without its quotes.
    pub date: String,
    /// Marked as read.
    pub seen: bool,
}

/// The result of a fill.
#[derive(Debug)]
pub struct Filled {
    /// The session, as steps; APPEND is among them only if it failed.
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
    /// All were stored, and the server counts fewer.
    Short {
        /// How many.
        counted: u64,
    },
    /// Nothing was added: it has other mail.
    OtherMail {
        /// Messages without the marker.
        other: u64,
    },
    /// Nothing was added: the server finds messages by a header field that none has, and takes `HEADER field ""` for "all".
    Indiscriminate {
        /// How many it finds.
        absent: u64,
    },
    /// More messages with the marker than messages; nothing more was added.
    Miscounted {
        /// Messages with the marker.
        counted: u64,
        /// Messages in all.
        exists: u64,
    },
    /// There is no such mailbox, and it was not to be created.
    Missing,
    /// The operator stopped it.
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
    /// Fills a mailbox. Ends soon after `cancel`, with what was stored by then.
    pub async fn fill(&self, job: Job<'_>, fill: Fill<'_>, cancel: Cancel) -> Filled {
        let mut filling = Filling { fill, end: FillEnd::Failed, found: 0, added: 0, bytes: 0, took: Duration::ZERO };
        let run = Conversation::new(self, job, cancel.clone()).run(&mut filling).await;
        let Filling { mut end, found, added, bytes, took, .. } = filling;
        // A command that the operator stopped is no fault.
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
    async fn run(&mut self, conversation: &mut Conversation<'_>) -> Result<(), Stop> {
        self.end = self.fill_mailbox(conversation).await?;
        Ok(())
    }
}

impl Filling<'_> {
    async fn fill_mailbox(&mut self, conversation: &mut Conversation<'_>) -> Result<FillEnd, Stop> {
        let Some(exists) = self.open(conversation).await? else { return Ok(FillEnd::Missing) };
        let ours = if exists == 0 { 0 } else { search(conversation, self.fill.marker).await? };
        let Some(other) = exists.checked_sub(ours) else {
            return Ok(FillEnd::Miscounted { counted: ours, exists });
        };
        if ours > 0 {
            let absent = search(conversation, &format!("{}-Absent", self.fill.marker)).await?;
            if absent > 0 {
                return Ok(FillEnd::Indiscriminate { absent });
            }
        }
        self.found = ours;
        if other > 0 && !self.fill.among_other_mail {
            return Ok(FillEnd::OtherMail { other });
        }
        let next = u32::try_from(ours).map_or(u32::MAX, |ours| ours.saturating_add(1));
        if next > self.fill.messages {
            return Ok(FillEnd::Complete { counted: ours });
        }
        self.fill.source.begin(next - 1);
        // From here on a stop waits for the message under way: half a literal cannot be followed by LOGOUT.
        let mut stop = conversation.cancel.clone();
        conversation.driver.watch.ignore_cancel();
        let start = clock::now();
        let appended = self.append_all(conversation, next, &mut stop).await;
        self.took = clock::now() - start;
        if !appended? {
            return Ok(FillEnd::Stopped);
        }
        // The server's counts: ours, and all.
        let count = async {
            let exists = examine_again(conversation).await?;
            Ok((search(conversation, self.fill.marker).await?, exists))
        };
        let (counted, exists) = unless_stopped(&mut stop, count).await.unwrap_or(Err(Stop::Close))?;
        Ok(if counted > exists {
            FillEnd::Miscounted { counted, exists }
        } else if counted >= u64::from(self.fill.messages) {
            FillEnd::Complete { counted }
        } else {
            FillEnd::Short { counted }
        })
    }

    /// Opens the mailbox, and creates it if need be. Returns how many messages it has, if it exists.
    async fn open(&self, conversation: &mut Conversation<'_>) -> Result<Option<u64>, Stop> {
        let mailbox = conversation.target.journey.mailbox.as_str();
        let (mut step, exchange) = conversation.perform(&Command::Select { mailbox, read_only: true }).await?;
        let response = match &exchange.result {
            Ok(response) if response.condition != Condition::Ok => response,
            Ok(_) | Err(_) => return size(conversation, step, exchange).map(Some),
        };
        let class = conversation.refused(&mut step, response);
        // Many servers have no code for a mailbox that does not exist.
        let missing = matches!(response.code, None | Some(ResponseCode::NonExistent | ResponseCode::TryCreate));
        if !missing || class != ErrorType::No {
            conversation.fail(step, class);
            return Err(Stop::Logout);
        }
        conversation.tolerate(step, class);
        if !self.fill.create {
            return Ok(None);
        }
        conversation.command(&Command::Create { mailbox }).await?;
        examine_again(conversation).await.map(Some)
    }

    /// Adds the messages from `next` on. False when the operator stopped it before the last one.
    async fn append_all(
        &mut self,
        conversation: &mut Conversation<'_>,
        next: u32,
        stop: &mut Cancel,
    ) -> Result<bool, Stop> {
        for number in next..=self.fill.messages {
            if *stop.borrow() {
                return Ok(false);
            }
            let message = self.fill.source.message(number);
            let appended = unless_stopped(stop, append(conversation, &message, self.added == 0)).await;
            appended.unwrap_or(Err(Stop::Close))?;
            self.added += 1;
            self.bytes += message.bytes.len() as u64;
            self.fill.source.stored(number);
        }
        Ok(true)
    }
}

/// Opens the mailbox, which exists. Returns how many messages it has.
async fn examine_again(conversation: &mut Conversation<'_>) -> Result<u64, Stop> {
    let (target, within) = (conversation.target, conversation.target.deadlines.command);
    let examine = Command::Select { mailbox: target.journey.mailbox.as_str(), read_only: true };
    let (step, exchange) = conversation.perform_within(&examine, within, within).await?;
    size(conversation, step, exchange)
}

/// How many messages an EXAMINE with OK counted. It must count them (RFC 9051 §6.3.3): no count is no empty mailbox.
fn size(conversation: &mut Conversation<'_>, step: Step, exchange: Exchange) -> Result<u64, Stop> {
    let exists = conversation.conclude(step, exchange)?.progress.exists;
    exists.map(u64::from).ok_or_else(|| conversation.without_exists())
}

/// How many messages have such a header field.
async fn search(conversation: &mut Conversation<'_>, field: &str) -> Result<u64, Stop> {
    let (step, exchange) = conversation.perform_within(&Command::SearchHeader { field }, SEARCH, SEARCH).await?;
    Ok(conversation.conclude(step, exchange)?.progress.found.unwrap_or_default())
}

/// Adds one message. Its step is kept only if it fails: there may be a hundred thousand.
async fn append(conversation: &mut Conversation<'_>, message: &FillMessage, first: bool) -> Result<(), Stop> {
    let (target, within) = (conversation.target, conversation.target.deadlines.command);
    let mailbox = target.journey.mailbox.as_str();
    let command = Command::Append { mailbox, seen: message.seen, date: &message.date, message: &message.bytes };
    let (step, exchange) = conversation.perform_within(&command, MESSAGE, MESSAGE).await?;
    match exchange.result {
        // Perhaps because the mailbox is open read-only: the response to the second APPEND counts.
        Ok(StatusResponse { condition: Condition::No, code: None, .. }) if first => {
            conversation.tolerate(step, ErrorType::No);
        }
        _ => return conversation.check(step, exchange).map(drop),
    }
    let select = Command::Select { mailbox, read_only: false };
    let (step, exchange) = conversation.perform_within(&select, within, within).await?;
    conversation.conclude(step, exchange)?;
    let (step, exchange) = conversation.perform_within(&command, MESSAGE, MESSAGE).await?;
    conversation.check(step, exchange).map(drop)
}

/// Lets work end by itself, or drops it if it has not ended for a while after the stop.
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
