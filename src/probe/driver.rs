//! Carries bytes between a connection and a session, and gives every event the stamp of the read that brought it.
//!
//! It enforces deadlines and cancellation. Not here: which command comes next, and what a response means (`conversation`).

use std::{
    future::poll_fn,
    io,
    task::Poll,
    time::{Duration, Instant},
};

use imaptrace_imap::{Command, CommandName, Event, Limits, OffendingLine, ResponseCode, Session, StatusResponse};
use imaptrace_record::{CloseNotify, ErrorType};
use tokio::time::timeout_at;

use super::{
    classify,
    exchange::{Awaited, Exchange, Fault, SecureError},
    job::Cancel,
    split::LineRate,
    transcript::Transcript,
    wait::{Waited, Watch},
};
use crate::{
    clock::{self, Deadline},
    net::{Buffer, Handshake, MaybeTlsStream, StampedStream, TcpInfo, TlsCause, TlsFailure},
};

/// A connection and the session on it.
pub(super) struct Driver {
    line: Option<MaybeTlsStream>,
    /// The handshake that is still to come.
    prepared: Option<Handshake>,
    pub(super) wire: StampedStream,
    pub(super) session: Session,
    /// The last read, while a part of it is unprocessed.
    buffer: Option<Buffer>,
    unread: std::ops::Range<usize>,
    /// When the last and the first of the bytes in the buffer arrived.
    stamp: Instant,
    first_stamp: Instant,
    /// Plain bytes of the last read.
    last_read: usize,
    /// Plain bytes read since the last yield.
    turn: usize,
    /// When the last step's last bytes came, or the connection was established: the server has been idle since.
    pub(super) idle_since: Instant,
    pub(super) info: TcpInfo,
    /// The first untagged NO or BAD during the command, or the first whose code gives a class.
    warning: Option<StatusResponse>,
    /// The rate of the line.
    pub(super) rate: LineRate,
    pub(super) watch: Watch,
    /// How long the hashing of a password may take.
    pub(super) hashing: Duration,
    pub(super) transcript: Option<Box<Transcript>>,
}

/// The most continuations of a command that are kept.
const KEPT: usize = 16;
/// Bytes after which the task yields: five thousand responses, and half a millisecond. The runtime counts reads, and its 128
/// are 8 MiB; a server that never pauses would keep the thread.
const TURN: usize = 64 << 10;
/// Hashing may take this long, or what is left of the step; waiting for a permit to hash, as long again. The most
/// iterations accepted take a tenth of it, or some tenths on a processor without instructions for SHA-256.
const HASHING: Duration = Duration::from_secs(5);
/// How long the last responses of a broken connection are read: they are there already.
const LAST_RESPONSES: Duration = Duration::from_secs(1);

impl Driver {
    pub(super) fn new(wire: StampedStream, prepared: Option<Handshake>, limits: Limits, cancel: Cancel) -> Self {
        let now = clock::now();
        Self {
            line: Some(MaybeTlsStream::Plain(wire.clone())),
            prepared,
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
            rate: LineRate::default(),
            watch: Watch::new(cancel, now),
            hashing: HASHING,
            transcript: None,
        }
    }

    /// The connection is established, and the server idle from now on.
    pub(super) fn connected(&mut self) {
        self.stamp = clock::now();
        (self.first_stamp, self.idle_since) = (self.stamp, self.stamp);
    }

    /// Whether bytes were read that belong to no step yet.
    pub(super) fn has_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    /// Puts TLS over the connection. The stamped stream stays readable, also after a failure.
    pub(super) async fn secure(&mut self, deadline: Deadline) -> Result<(), SecureError> {
        self.line = None;
        let failed = |cause, text: &str| SecureError::Failed(TlsFailure::new(cause, text.to_owned()));
        let Some(prepared) = self.prepared.take() else {
            return Err(failed(TlsCause::Handshake, "no handshake was prepared"));
        };
        let wire = &self.wire;
        wire.watch_unread(deadline.tenth());
        let stream = match self.watch.until(deadline, || wire.read_unreported(), prepared.complete()).await {
            Waited::Done(Ok(stream)) => stream,
            Waited::Done(Err(failure)) => {
                let ended = matches!(failure.cause, TlsCause::Eof | TlsCause::Reset);
                return Err(match self.kept_idle(deadline).filter(|_| ended) {
                    Some(class) => SecureError::Own(class),
                    None => SecureError::Failed(failure),
                });
            }
            Waited::TimeUp => {
                let own = self.own_delay(deadline, Awaited::Response).map(SecureError::Own);
                return Err(own.unwrap_or_else(|| failed(TlsCause::Timeout, "")));
            }
            Waited::Cancelled => return Err(SecureError::Own(ErrorType::Cancelled)),
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

    /// Waits for the greeting. Returns it and the stamp of its last byte.
    pub(super) async fn greeting(&mut self, deadline: Deadline) -> Result<(StatusResponse, Instant), Fault> {
        self.wire.watch_unread(deadline.tenth());
        loop {
            let next = self.next(deadline, ErrorType::TimeoutGreeting).await;
            if let Event::Greeting(response) = next.map_err(|fault| self.excused(fault, deadline))? {
                return Ok((response, self.stamp));
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
        let mut exchange = Exchange::new(deadline, write);
        let result = match early {
            Ok(()) => {
                let result = self.converse(tag, command, &mut exchange).await;
                result.map_err(|fault| self.excused(fault, deadline))
            }
            Err(fault) => Err(Fault { at: exchange.start, ..fault }),
        };
        exchange.start = self.wire.first_write().unwrap_or(exchange.start);
        exchange.end = match &result {
            Ok(_) => self.stamp,
            Err(fault) => fault.at,
        };
        exchange.result = result.map_err(|fault| self.explained(fault));
        exchange.traffic = self.wire.traffic();
        exchange.more = self.has_unread() || self.wire.has_waiting();
        exchange.sasl_messages = self.session.sasl_messages().to_vec();
        exchange.progress = self.session.take_progress();
        if !self.session.trusts_untagged() {
            // They came while rows were cut wrongly, and may be mail.
            (exchange.alert, exchange.progress.referral) = (None, None);
        }
        exchange
    }

    /// A fault with what the session and the connection show of it.
    fn explained(&mut self, mut fault: Fault) -> Fault {
        use ErrorType::{Bye, Cancelled, Eof, Reset, TimeoutCommand, TimeoutWrite, TlsAlert, TlsProtocol};
        // The command was sent whole, or not at all.
        if fault.class == Cancelled && (self.session.is_between_commands() || self.wire.first_write().is_none()) {
            self.session.abandon();
            fault.can_logout = true;
        }
        // The server, the connection or the deadline ended the command: an untagged response is its answer, if it is no mail.
        if matches!(fault.class, Bye | Eof | Reset | TlsAlert | TlsProtocol | TimeoutCommand | TimeoutWrite)
            && self.session.trusts_untagged()
        {
            fault.warning = self.warning.take();
        }
        // A wait that ended in the middle of a literal: the server, or the path from it, owes the rest of it.
        if matches!(fault.class, TimeoutCommand | Eof | Reset)
            && fault.response.is_none()
            && let Some((left, size)) = self.session.awaited()
        {
            fault = fault.with_text(format!("{left} octets of a literal of {size} are still awaited").into_bytes());
        }
        if let Some(transcript) = &mut self.transcript {
            transcript.incomplete(self.session.partial().len(), fault.at);
            transcript.event(fault.class.as_str(), fault.at);
        }
        fault
    }

    /// Processes what was read behind the last tagged line: it counts among the next command's bytes, but does not answer it.
    fn settle(&mut self) -> Result<(), Fault> {
        while !self.unread.is_empty() {
            if let Some(Event::Bye(response)) = self.process()? {
                return Err(Fault::bye(response, self.stamp));
            }
        }
        Ok(())
    }

    async fn converse(
        &mut self,
        tag: &str,
        command: &Command<'_>,
        exchange: &mut Exchange,
    ) -> Result<StatusResponse, Fault> {
        let parts = self.session.begin(tag, command).parts;
        let last = parts.len().saturating_sub(1);
        for (number, part) in parts.into_iter().enumerate() {
            if let Some(transcript) = &mut self.transcript {
                transcript.sending(tag, command, &part.bytes, number == 0);
            }
            self.send(&part.bytes, exchange).await?;
            self.session.sent(part.then_wait, number == last);
            if part.then_wait
                && let Some(response) = self.until_continuation_or_tagged(exchange).await?
            {
                return Ok(response);
            }
        }
        loop {
            if let Some(response) = self.until_continuation_or_tagged(exchange).await? {
                return self.with_complaint(response);
            }
            // Boxed: what only a login needs is not held while another command waits.
            Box::pin(self.reply(exchange)).await?;
        }
    }

    /// Waits for a `+` (none) or the tagged line.
    pub(super) async fn until_continuation_or_tagged(
        &mut self,
        exchange: &mut Exchange,
    ) -> Result<Option<StatusResponse>, Fault> {
        loop {
            match self.next(exchange.deadline, ErrorType::TimeoutCommand).await? {
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
                Event::Bye(response) => return Err(Fault::bye(response, self.stamp)),
                Event::Alert(_) | Event::Greeting(_) => {}
            }
        }
    }

    /// Whether time is up; an error if the run is cancelled. The timer alone would not end a read from a server that never pauses.
    fn is_over(&self, deadline: Deadline) -> Result<bool, Fault> {
        let now = clock::now();
        if self.watch.is_cancelled() {
            return Err(Fault::new(ErrorType::Cancelled, now));
        }
        Ok(now >= deadline.end() && now >= deadline.lengthened())
    }

    /// Sends bytes of a command, and counts them.
    pub(super) async fn send(&mut self, bytes: &[u8], exchange: &mut Exchange) -> Result<(), Fault> {
        let Exchange { deadline, write, .. } = *exchange;
        if self.is_over(deadline)? {
            return Err(self.time_up(deadline, ErrorType::TimeoutWrite, Awaited::Nothing));
        }
        let own = deadline.part(write);
        let Some(line) = &mut self.line else { return Err(Fault::now(ErrorType::Internal)) };
        match self.watch.until(own, || (), line.write_all(bytes)).await {
            Waited::Done(Ok(())) => {
                exchange.sent += bytes.len() as u64;
                Ok(())
            }
            Waited::TimeUp => {
                // If little of the step was left for the write, the whole step is judged.
                let whole = if own.end() < own.begin() + write { deadline } else { own };
                Err(self.time_up(whole, ErrorType::TimeoutWrite, Awaited::SendBuffer(own.begin())))
            }
            Waited::Cancelled => Err(Fault::now(ErrorType::Cancelled)),
            Waited::Done(Err(error)) => {
                let fault = classify::fault_of_io(&error);
                // A local fault: the server sends nothing because of it.
                if fault.class != ErrorType::Reset {
                    return Err(fault);
                }
                // The server may have sent the reason before it closed.
                let ended = error.kind() == io::ErrorKind::BrokenPipe;
                Err(self.last_responses(own.part(LAST_RESPONSES), ended).await.unwrap_or(fault))
            }
        }
    }

    /// Keeps an untagged NO or BAD, in case that no tagged line follows.
    fn warn(&mut self, response: StatusResponse) {
        let has_class =
            |response: &StatusResponse| classify::of_code(Some(CommandName::Login), response.code).is_some();
        if self.warning.as_ref().is_none_or(|known| !has_class(known) && has_class(&response)) {
            self.warning = Some(response);
        }
    }

    /// The BYE that came before the connection broke, or that the server closed it, if it did.
    async fn last_responses(&mut self, deadline: Deadline, ended: bool) -> Option<Fault> {
        loop {
            match self.next(deadline, ErrorType::TimeoutCommand).await {
                Ok(Event::Bye(response)) => return Some(Fault::bye(response, self.stamp)),
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
            if let Some(event) = self.process()? {
                return Ok(event);
            }
        }
    }

    /// Passes unread bytes to the session, up to the next event.
    fn process(&mut self) -> Result<Option<Event>, Fault> {
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
                    // The line is not shown, so the violation is named.
                    withheld @ OffendingLine::Withheld { .. } => format!("{violation}: {withheld}").into_bytes(),
                };
                self.unread = 0..0;
                let fault = Fault::new(classify::of_violation(violation), self.stamp);
                Err(if text.is_empty() { fault } else { fault.with_text(text) })
            }
        }
    }

    async fn read(&mut self, deadline: Deadline, timeout: ErrorType) -> Result<(), Fault> {
        if self.is_over(deadline)? {
            self.wire.read_unreported();
        }
        self.buffer = None;
        if self.turn >= TURN {
            self.turn = 0;
            tokio::task::yield_now().await;
        }
        let Some(line) = &mut self.line else { return Err(Fault::now(ErrorType::Internal)) };
        self.wire.begin_read();
        let (held, wire) = (&mut self.buffer, &self.wire);
        let reading = poll_fn(|context| {
            // Taken at each poll: a waiting connection holds none.
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
        let awaited = if timeout == ErrorType::TimeoutGreeting { Awaited::Greeting } else { Awaited::Response };
        let read = self.watch.until(deadline, || wire.read_unreported(), reading).await;
        (self.first_stamp, self.stamp) = self.wire.last_arrival().unwrap_or_else(|| (clock::now(), clock::now()));
        match read {
            Waited::TimeUp => Err(self.time_up(deadline, timeout, awaited)),
            Waited::Cancelled => Err(Fault::now(ErrorType::Cancelled)),
            Waited::Done(Err(error)) => Err(classify::fault_of_io(&error)),
            Waited::Done(Ok(0)) => {
                Err(Fault { close_notify: self.close_notify(), ..Fault::new(ErrorType::Eof, self.stamp) })
            }
            // Too late, though it has arrived by now.
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

    /// When the next unread byte arrived, as far as is known: a read has a stamp for its first byte, and one for the others.
    fn stamp_of_next(&self) -> Instant {
        if self.unread.start == 0 { self.first_stamp } else { self.stamp }
    }

    /// Closes the transport, in no more time than this. Nothing measured depends on its result.
    pub(super) async fn close(&mut self, deadline: Instant) {
        if let Some(mut line) = self.line.take() {
            drop(timeout_at(deadline.into(), line.close()).await);
        }
    }

    /// Whether the TLS connection that just ended was closed as it should be (RFC 8446 §6.1).
    fn close_notify(&self) -> Option<CloseNotify> {
        self.tls()?;
        Some(match self.wire.last_record() {
            // In TLS 1.3 two bytes of data look the same from outside.
            Some(last) if last.may_be_alert() && self.last_read == 2 => CloseNotify::Unknown,
            Some(last) if last.may_be_alert() => CloseNotify::True,
            Some(_) => CloseNotify::False,
            None => CloseNotify::Unknown,
        })
    }
}

#[cfg(test)]
mod tests;
