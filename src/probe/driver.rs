//! Carries bytes between a connection and a session, and gives every event the stamp of the read that brought it.
//!
//! It holds the deadlines and cancelling. Not here: which command comes next, and what a response means (`conversation` and the
//! scripts above it).

use std::{
    future::poll_fn,
    io,
    task::Poll,
    time::{Duration, Instant},
};

use tokio::time::timeout_at;

use imaptrace_imap::{
    Command, CommandName, Condition, Event, Limits, OffendingLine, ResponseCode, Session, SessionProgress,
    StatusResponse,
};
use imaptrace_record::ErrorType;

use super::{
    classify,
    exchange::{Awaited, Exchange, Fault, SecureError, is_end},
    job::Cancel,
    split::Pace,
    transcript::Transcript,
    wait::{Waited, Watch},
};
use crate::{
    clock::{self, Deadline},
    net::{Armed, Buffer, MaybeTlsStream, StampedStream, TcpInfo, TlsCause, TlsFailure, Traffic},
};

/// A connection and the session on it.
pub(super) struct Driver {
    line: Option<MaybeTlsStream>,
    /// The handshake that is still to come.
    armed: Option<Armed>,
    wire: StampedStream,
    pub(super) session: Session,
    /// What was read last, while something of it is unread.
    buffer: Option<Buffer>,
    unread: std::ops::Range<usize>,
    /// When the last of the bytes in the buffer arrived.
    stamp: Instant,
    /// When the first of them did.
    first_stamp: Instant,
    /// Plain bytes that the last read gave.
    pub(super) last_read: usize,
    /// Plain bytes that were read since others had their turn.
    turn: usize,
    /// When the last step's last bytes came, or the connection stood: since then the server has had nothing to do.
    pub(super) idle_since: Instant,
    pub(super) info: TcpInfo,
    /// The first untagged NO or BAD to the command under way, or the first whose code gives a class.
    warning: Option<StatusResponse>,
    /// How fast the line is.
    pub(super) pace: Pace,
    pub(super) watch: Watch,
    /// Where the conversation is shown, if it is.
    pub(super) transcript: Option<Box<Transcript>>,
}

/// As many continuations of a command are kept; the rest only count.
const KEPT: usize = 16;
/// After so many bytes all other runs on this thread have a turn: they may be five thousand responses, and half a
/// millisecond. The runtime counts reads, and its 128 are 8 MiB; a server that never pauses would keep the thread.
const TURN: usize = 64 << 10;
/// On a connection that is no more, whatever was said is there at once.
const LAST_WORDS: Duration = Duration::from_secs(1);

impl Driver {
    pub(super) fn new(wire: StampedStream, armed: Option<Armed>, limits: Limits, cancel: Cancel) -> Self {
        let now = clock::now();
        Self {
            line: Some(MaybeTlsStream::Plain(wire.clone())),
            armed,
            wire,
            session: Session::new(limits),
            buffer: None,
            unread: 0..0,
            stamp: now,
            first_stamp: now,
            last_read: 0,
            turn: 0,
            idle_since: now,
            info: TcpInfo::default(),
            warning: None,
            pace: Pace::default(),
            watch: Watch::new(cancel, now),
            transcript: None,
        }
    }

    pub(super) fn wire(&self) -> &StampedStream {
        &self.wire
    }

    /// Whether bytes wait that no step has asked for.
    pub(super) fn has_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    /// Puts TLS over the connection. The handle on the stamped stream stays, whatever comes of it.
    pub(super) async fn secure(&mut self, deadline: Deadline) -> Result<(), SecureError> {
        self.line = None;
        let Some(armed) = self.armed.take() else {
            return Err(SecureError::Failed(TlsFailure::new(
                TlsCause::Handshake,
                "no handshake was prepared".to_owned(),
            )));
        };
        let wire = &self.wire;
        wire.watch_unread(deadline.tenth());
        let stream = match self.watch.until(deadline, || wire.look(), armed.shake()).await {
            Waited::Done(Ok(stream)) => stream,
            Waited::Done(Err(failure)) => {
                let ended = matches!(failure.cause, TlsCause::Eof | TlsCause::Reset);
                return Err(match self.kept_idle(deadline).filter(|_| ended) {
                    Some(class) => SecureError::OwnDelay(class),
                    None => SecureError::Failed(failure),
                });
            }
            Waited::TimeUp => {
                return Err(match self.own_delay(deadline, Awaited::Answer) {
                    Some(class) => SecureError::OwnDelay(class),
                    None => SecureError::Failed(TlsFailure::new(TlsCause::Timeout, String::new())),
                });
            }
            Waited::Cancelled => return Err(SecureError::Cancelled),
        };
        self.line = Some(MaybeTlsStream::Tls(Box::new(stream)));
        self.session.secured();
        Ok(())
    }

    /// The TLS stream, for its certificate.
    pub(super) fn tls(&self) -> Option<&async_native_tls::TlsStream<StampedStream>> {
        match &self.line {
            Some(MaybeTlsStream::Tls(stream)) => Some(stream),
            _ => None,
        }
    }

    /// Waits for the greeting. Returns it with the stamp of its last byte.
    pub(super) async fn greeting(&mut self, deadline: Deadline) -> Result<(StatusResponse, Instant), Fault> {
        self.wire.watch_unread(deadline.tenth());
        loop {
            let next = self.next(deadline, ErrorType::TimeoutGreeting).await;
            match next.map_err(|fault| self.excused(fault, deadline))? {
                Event::Greeting(response) => return Ok((response, self.stamp)),
                Event::Bye(_)
                | Event::Tagged(_)
                | Event::Continuation
                | Event::FirstByte
                | Event::FirstRow
                | Event::Alert(_)
                | Event::Warning(_) => {}
            }
        }
    }

    /// Sends a command and waits for its end.
    pub(super) async fn exchange(
        &mut self,
        tag: &str,
        command: &Command<'_>,
        deadline: Deadline,
        write: Duration,
    ) -> Exchange {
        self.idle_since = self.stamp;
        let early = self.settle();
        self.warning = None;
        self.wire.begin_step();
        self.wire.watch_unread(deadline.tenth());
        let now = clock::now();
        let mut exchange = Exchange {
            start: now,
            end: now,
            first_byte: None,
            first_row: None,
            continuations: Vec::new(),
            sasl_messages: Vec::new(),
            waited: Duration::ZERO,
            alert: None,
            sent: 0,
            traffic: Traffic::default(),
            more: false,
            progress: SessionProgress::default(),
            // Replaced below; a command without a response keeps this.
            result: Err(Fault::new(ErrorType::Internal, now)),
        };
        let mut result = match early {
            Ok(()) => {
                let result = self.converse(tag, command, deadline, write, &mut exchange).await;
                result.map_err(|fault| self.excused(fault, deadline))
            }
            Err(fault) => Err(Fault { at: now, ..fault }),
        };
        exchange.start = self.wire.first_write().unwrap_or(now);
        exchange.end = match &result {
            Ok(_) => self.stamp,
            Err(fault) => fault.at,
        };
        if let Err(fault) = &mut result
            && fault.class == ErrorType::Cancelled
            // The command stands whole on the line, or none of it does.
            && (self.session.is_between_commands() || self.wire.first_write().is_none())
        {
            self.session.abandon();
            fault.can_logout = true;
        }
        // The tagged line did not come: what came in its place is what the server had to say.
        if let Err(fault) = &mut result
            && is_end(fault.class)
        {
            fault.warning = self.warning.take();
        }
        self.warning = None;
        if let Err(fault) = &mut result {
            self.explain(fault);
            if let Some(transcript) = &mut self.transcript {
                transcript.incomplete(self.session.partial().len(), fault.at);
                transcript.event(fault.class.as_str(), fault.at);
            }
        }
        exchange.traffic = self.wire.traffic();
        exchange.more = self.has_unread() || self.wire.has_waiting();
        exchange.sasl_messages = self.session.sasl_messages().to_vec();
        exchange.progress = self.session.take_progress();
        if !self.session.trusts_untagged() {
            // They came while rows were cut wrongly, and may be mail.
            (exchange.alert, exchange.progress.referral) = (None, None);
            if let Err(fault) = &mut result {
                fault.warning = None;
            }
        }
        exchange.result = result;
        exchange
    }

    /// A wait that ended in the middle of a literal: the server, or the path from it, owes the rest of it.
    fn explain(&self, fault: &mut Fault) {
        let waited = matches!(fault.class, ErrorType::TimeoutCommand | ErrorType::Eof | ErrorType::Reset);
        if waited
            && fault.response.is_none()
            && let Some((left, size)) = self.session.awaited()
        {
            let text = format!("{left} octets of a literal of {size} are still awaited").into_bytes();
            fault.response = Some(StatusResponse { condition: Condition::Bad, code: None, text });
        }
    }

    /// Takes in what stood behind the last command's end before the next one is sent: it counts among the next one's
    /// bytes, but is no answer to it.
    fn settle(&mut self) -> Result<(), Fault> {
        while !self.unread.is_empty() {
            if let Some(Event::Bye(response)) = self.understand()? {
                return Err(Fault::new(ErrorType::Bye, self.stamp).with(Some(response)));
            }
        }
        Ok(())
    }

    async fn converse(
        &mut self,
        tag: &str,
        command: &Command<'_>,
        deadline: Deadline,
        write: Duration,
        exchange: &mut Exchange,
    ) -> Result<StatusResponse, Fault> {
        let parts = self.session.begin(tag, command).parts;
        let last = parts.len().saturating_sub(1);
        for (number, part) in parts.into_iter().enumerate() {
            if let Some(transcript) = &mut self.transcript {
                transcript.sending(tag, command, &part.bytes, number == 0);
            }
            self.send(&part.bytes, deadline, write).await?;
            exchange.sent += part.bytes.len() as u64;
            self.session.sent(part.then_wait, number == last);
            if part.then_wait
                && let Some(response) = self.until_go_or_end(deadline, exchange).await?
            {
                return Ok(response);
            }
        }
        loop {
            if let Some(response) = self.until_go_or_end(deadline, exchange).await? {
                return self.with_complaint(response);
            }
            // Boxed: what only a login needs is not held while another command waits.
            Box::pin(self.reply(deadline, write, exchange)).await?;
        }
    }

    /// Waits for a `+` (none) or the command's end.
    pub(super) async fn until_go_or_end(
        &mut self,
        deadline: Deadline,
        exchange: &mut Exchange,
    ) -> Result<Option<StatusResponse>, Fault> {
        loop {
            match self.next(deadline, ErrorType::TimeoutCommand).await? {
                Event::Tagged(response) => return Ok(Some(response)),
                Event::Continuation => {
                    if exchange.continuations.len() < KEPT {
                        exchange.continuations.push(self.stamp);
                    }
                    return Ok(None);
                }
                Event::FirstByte => exchange.first_byte = Some(self.stamp_of_next()),
                Event::FirstRow => exchange.first_row = Some(self.stamp),
                Event::Alert(text) if exchange.alert.is_none() => exchange.alert = Some((self.stamp, text)),
                Event::Warning(response) => {
                    if response.code == Some(ResponseCode::Alert) && exchange.alert.is_none() {
                        exchange.alert = Some((self.stamp, response.text.clone()));
                    }
                    self.warn(response);
                }
                Event::Bye(response) => {
                    return Err(Fault::new(ErrorType::Bye, self.stamp).with(Some(response)));
                }
                Event::Alert(_) | Event::Greeting(_) => {}
            }
        }
    }

    /// Whether time is up; with an error when the run is cancelled. A server that never pauses must not keep the clock from
    /// being looked at: a timer is polled after what it guards.
    fn is_over(&self, deadline: Deadline) -> Result<bool, Fault> {
        let now = clock::now();
        if self.watch.is_cancelled() {
            return Err(Fault::new(ErrorType::Cancelled, now));
        }
        Ok(now >= deadline.end() && now >= deadline.lengthened())
    }

    /// Sends bytes of a command that must be over by `deadline`; the kernel takes them within `write`.
    pub(super) async fn send(&mut self, bytes: &[u8], deadline: Deadline, write: Duration) -> Result<(), Fault> {
        if self.is_over(deadline)? {
            return Err(self.time_up(deadline, ErrorType::TimeoutWrite, Awaited::Us));
        }
        let own = deadline.part(write);
        let Some(line) = &mut self.line else { return Err(Fault::new(ErrorType::Internal, clock::now())) };
        match self.watch.until(own, || (), line.write_all(bytes)).await {
            Waited::Done(Ok(())) => Ok(()),
            Waited::TimeUp => {
                // When little time was left to it, the rest of the step shows why.
                let whole = if own.end() < own.begin() + write { deadline } else { own };
                Err(self.time_up(whole, ErrorType::TimeoutWrite, Awaited::Room(own.begin())))
            }
            Waited::Cancelled => Err(Fault::new(ErrorType::Cancelled, clock::now())),
            Waited::Done(Err(error)) => {
                let fault = classify::fault_of_io(&error);
                // What is wrong here, the server knows nothing of, and may be silent for long.
                if fault.class != ErrorType::Reset {
                    return Err(fault);
                }
                // The server may have said why before it hung up: what came first is what happened.
                let ended = error.kind() == io::ErrorKind::BrokenPipe;
                Err(self.last_words(own.part(LAST_WORDS), ended).await.unwrap_or(fault))
            }
        }
    }

    /// Keeps an untagged NO or BAD, in case that no tagged line follows.
    fn warn(&mut self, response: StatusResponse) {
        let tells = |response: &StatusResponse| classify::of_code(Some(CommandName::Login), response.code).is_some();
        if self.warning.as_ref().is_none_or(|known| !tells(known) && tells(&response)) {
            self.warning = Some(response);
        }
    }

    /// What the server said before its connection was found to be broken; that it had ended it, if it had.
    async fn last_words(&mut self, deadline: Deadline, ended: bool) -> Option<Fault> {
        loop {
            match self.next(deadline, ErrorType::TimeoutCommand).await {
                Ok(Event::Bye(response)) => {
                    return Some(Fault::new(ErrorType::Bye, self.stamp).with(Some(response)));
                }
                Ok(Event::Warning(response)) => self.warn(response),
                Ok(_) => {}
                Err(fault) => return (ended && fault.class == ErrorType::Eof).then_some(fault),
            }
        }
    }

    async fn next(&mut self, deadline: Deadline, timeout: ErrorType) -> Result<Event, Fault> {
        loop {
            if self.unread.is_empty() {
                self.read(deadline, timeout).await?;
            }
            if let Some(event) = self.understand()? {
                return Ok(event);
            }
        }
    }

    /// Hands the session some of the bytes that wait.
    fn understand(&mut self) -> Result<Option<Event>, Fault> {
        let read = self.buffer.as_ref().map(Buffer::filled).unwrap_or_default();
        let bytes = read.get(self.unread.clone()).unwrap_or_default();
        match self.session.receive(bytes) {
            Ok((taken, event)) => {
                self.unread.start += taken;
                if let Some(transcript) = self.transcript.as_mut().filter(|_| taken > 0)
                    && let Some((frame, shown)) = self.session.completed()
                {
                    transcript.received(&frame, shown, self.stamp);
                }
                Ok(event)
            }
            Err(violation) => {
                let line = self.session.offending_line();
                if let Some(transcript) = &mut self.transcript {
                    transcript.offending(&line, self.stamp);
                }
                let text = match line {
                    OffendingLine::Text(text) => text.to_vec(),
                    // What is wrong with it cannot be seen, and is said.
                    withheld @ OffendingLine::Withheld { .. } => format!("{violation}: {withheld}").into_bytes(),
                };
                let response =
                    (!text.is_empty()).then_some(StatusResponse { condition: Condition::Bad, code: None, text });
                self.unread = 0..0;
                Err(Fault::new(classify::of_violation(violation), self.stamp).with(response))
            }
        }
    }

    async fn read(&mut self, deadline: Deadline, timeout: ErrorType) -> Result<(), Fault> {
        if self.is_over(deadline)? {
            self.wire.look();
        }
        self.buffer = None;
        if self.turn >= TURN {
            self.turn = 0;
            tokio::task::yield_now().await;
        }
        let Some(line) = &mut self.line else { return Err(Fault::new(ErrorType::Internal, clock::now())) };
        self.wire.begin_read();
        let (held, wire) = (&mut self.buffer, &self.wire);
        let reading = poll_fn(|context| {
            // Taken at each poll: a connection that waits has none.
            let mut buffer = Buffer::take();
            let polled = line.poll_read(context, buffer.room());
            match polled {
                Poll::Ready(Ok(count)) => {
                    buffer.fill(count);
                    *held = Some(buffer);
                }
                Poll::Ready(Err(_)) => {}
                Poll::Pending => wire.ignore_tls_records(),
            }
            polled
        });
        let awaited = if timeout == ErrorType::TimeoutGreeting { Awaited::Greeting } else { Awaited::Answer };
        let read = self.watch.until(deadline, || wire.look(), reading).await;
        (self.first_stamp, self.stamp) = self.wire.last_arrival().unwrap_or_else(|| (clock::now(), clock::now()));
        match read {
            Waited::TimeUp => Err(self.time_up(deadline, timeout, awaited)),
            Waited::Cancelled => Err(Fault::new(ErrorType::Cancelled, clock::now())),
            Waited::Done(Err(error)) => Err(classify::fault_of_io(&error)),
            Waited::Done(Ok(0)) => {
                Err(Fault { close_notify: self.close_notify(), ..Fault::new(ErrorType::Eof, self.stamp) })
            }
            // Too late, though it has come by now.
            Waited::Done(Ok(_)) if self.stamp > deadline.end() && self.stamp > deadline.lengthened() => {
                self.buffer = None;
                Err(self.time_up(deadline, timeout, awaited))
            }
            Waited::Done(Ok(count)) => {
                self.unread = 0..count;
                self.last_read = count;
                self.turn += count;
                Ok(())
            }
        }
    }

    /// When the next byte that waits arrived, as far as it is known: the first of a read is told from the others.
    fn stamp_of_next(&self) -> Instant {
        if self.unread.start == 0 { self.first_stamp } else { self.stamp }
    }

    /// Says good-bye to the transport. Nothing depends on it, so it gets no more time than this.
    pub(super) async fn close(&mut self, deadline: Instant) {
        if let Some(mut line) = self.line.take() {
            // Whether the peer still listens makes no difference to anything that was measured.
            drop(timeout_at(deadline.into(), line.close()).await);
        }
    }

    /// From here on a cancelled run may still finish what it does, for LOGOUT.
    pub(super) fn ignore_cancel(&mut self) {
        self.watch.ignore_cancel();
    }
}

#[cfg(test)]
mod tests;
