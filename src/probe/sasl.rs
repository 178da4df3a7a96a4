//! The turns of a SASL exchange: answers what the server asks, has the password hashed beside the threads that carry bytes,
//! and gives up what breaks the mechanism's rules.
//!
//! What is to be answered is `imap`'s to say; which mechanism it is, `login`'s.

use std::{
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;

use super::{
    driver::{Driver, Exchange, Fault, Said},
    wait::Waited,
};
use crate::{
    clock,
    imap::{Answer, Condition, Refusal, Work, Worked},
    record::ErrorType,
};

/// Hashing gets no longer than this, or what is left of the step. The most iterations that are taken need a tenth of it.
const HASHING: Duration = Duration::from_secs(5);
/// A wait for a processor that is worth a word.
const DAWDLED: Duration = Duration::from_millis(5);

/// Hashing at one time: half of the processors, for the other half is to carry bytes and look at clocks. A thousand servers
/// that want the password hashed 600,000 times keep each other waiting, and nobody else.
static PLACES: LazyLock<Arc<Semaphore>> = LazyLock::new(|| {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Arc::new(Semaphore::new((processors / 2).max(1)))
});

impl Driver {
    /// Does what a `+` asks for, if the parts of the command were not all that there was to say.
    pub(super) async fn reply(
        &mut self,
        deadline: Instant,
        write: Duration,
        exchange: &mut Exchange,
    ) -> Result<(), Fault> {
        let Some(mut answer) = self.session.answer() else { return Ok(()) };
        loop {
            answer = match answer {
                Answer::Line(line) => {
                    self.send(&line.bytes, (clock::now() + write).min(deadline)).await?;
                    exchange.sent += line.bytes.len() as u64;
                    self.session.sent(false, true);
                    return Ok(());
                }
                Answer::Work(work) => match self.work(*work, deadline, exchange).await? {
                    Some(worked) => self.session.worked(worked),
                    None => Answer::Cancel(Refusal::Slow),
                },
                Answer::Cancel(refusal) => return Err(self.cancel(&refusal, deadline, write, exchange).await),
            };
        }
    }

    /// Has the password hashed. None when that took too long.
    async fn work(&mut self, work: Work, deadline: Instant, exchange: &mut Exchange) -> Result<Option<Worked>, Fault> {
        let asked = clock::now();
        let until = (asked + HASHING).min(deadline);
        let hashing = async {
            let place = PLACES.clone().acquire_owned().await.ok();
            let began = clock::now();
            // It runs to its end, whoever waits for it, and keeps its place for as long.
            let worked = tokio::task::spawn_blocking(move || {
                let worked = work.run();
                drop(place);
                worked
            });
            (began, worked.await)
        };
        match self.watch.until(until, hashing).await {
            Waited::Done((began, worked)) => {
                exchange.dawdled |= began.saturating_duration_since(asked) >= DAWDLED;
                worked.map(Some).map_err(|_| Fault::new(ErrorType::Internal, clock::now()))
            }
            Waited::TimeUp if until == deadline => Err(Fault::new(ErrorType::TimeoutCommand, clock::now())),
            Waited::TimeUp => Ok(None),
            Waited::Cancelled => Err(Fault::new(ErrorType::Cancelled, clock::now())),
        }
    }

    /// Says `*`, which a BAD should answer (RFC 9051 §6.2.2): then LOGOUT can follow. Whatever comes of it, what the server
    /// did before is the class.
    async fn cancel(
        &mut self,
        refusal: &Refusal,
        deadline: Instant,
        write: Duration,
        exchange: &mut Exchange,
    ) -> Fault {
        let mut fault = breach(refusal.to_string().into_bytes());
        let line = self.session.cancel();
        if self.send(line, (clock::now() + write).min(deadline)).await.is_ok() {
            exchange.sent += line.len() as u64;
            fault.speaking = matches!(self.until_go_or_end(deadline, exchange).await, Ok(Some(_)));
        }
        fault.at = clock::now();
        fault
    }

    /// A refusal that the mechanism itself explains, and not by the password, is no refusal of the password.
    pub(super) fn with_complaint(&self, said: Said) -> Result<Said, Fault> {
        let complaint = self.session.complaint().filter(|_| said.condition == Condition::Bad || said.code.is_none());
        let Some(complaint) = complaint else { return Ok(said) };
        let text = [b"the server ended SCRAM with the error ".as_slice(), complaint].concat();
        Err(Fault { speaking: true, ..breach(text) })
    }
}

fn breach(text: Vec<u8>) -> Fault {
    let said = Said { condition: Condition::Bad, code: None, text };
    Fault::new(ErrorType::AuthProtocol, clock::now()).with(Some(said))
}
