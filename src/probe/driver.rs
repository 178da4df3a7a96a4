//! Carries bytes between a connection and a session, and gives every event the stamp of the read that brought it.
//!
//! It holds the deadlines and the wish to cancel; which command comes next, and what an answer means, is `journey`'s. Over
//! 500 lines, since stamps, deadlines, session and kernel counters are one state that each read changes.

use std::{
    future::poll_fn,
    io,
    task::Poll,
    time::{Duration, Instant},
};

use tokio::time::timeout_at;

pub(super) use super::exchange::{CoarseMoment, Exchange, Fault, Said, SecureError, TcpInfoDelta};
use super::{
    Cancel,
    exchange::{Happened, broken, is_end},
    split::Pace,
    transcript::Transcript,
    verdict,
    wait::{Waited, Watch},
};
use crate::{
    clock,
    imap::{Command, Condition, Limits, OffendingLine, Progress, Session},
    net::{Armed, Buffer, Line, Meter, TcpInfo, TlsFailure, Traffic, tick},
    record::{CloseNotify, ErrorType},
};

/// A connection and the session on it.
pub(super) struct Driver {
    line: Option<Line>,
    /// The handshake that is still to come.
    armed: Option<Armed>,
    meter: Meter,
    pub(super) session: Session,
    /// What was read last, while something of it is unread.
    buffer: Option<Buffer>,
    unread: std::ops::Range<usize>,
    /// When the last of the bytes in the buffer arrived.
    stamp: Instant,
    /// When the first of them did.
    first_stamp: Instant,
    /// Plain bytes that the last read gave.
    last_read: usize,
    /// Plain bytes that were read since others had their turn.
    turn: usize,
    info: TcpInfo,
    /// The first untagged NO or BAD to the command under way, or the first whose code gives a class.
    warning: Option<Said>,
    /// How fast the line is.
    pub(super) pace: Pace,
    pub(super) watch: Watch,
    /// Where the conversation is shown, if it is.
    pub(super) transcript: Option<Box<Transcript>>,
}

/// As many continuations of a command are kept; the rest only count.
const KEPT: usize = 16;
/// After so many bytes all other runs on this thread have a turn: they may be five thousand responses, and half a
/// millisecond. The runtime counts reads, and its 128 are 8 MiB; whoever never pauses would have the thread to himself.
const TURN: usize = 64 << 10;
/// On a connection that is no more, whatever was said is there at once.
const LAST_WORDS: Duration = Duration::from_secs(1);

impl Driver {
    pub(super) fn new(meter: Meter, armed: Option<Armed>, limits: Limits, cancel: Cancel) -> Self {
        let now = clock::now();
        Self {
            line: Some(Line::Plain(meter.clone())),
            armed,
            meter,
            session: Session::new(limits),
            buffer: None,
            unread: 0..0,
            stamp: now,
            first_stamp: now,
            last_read: 0,
            turn: 0,
            info: TcpInfo::default(),
            warning: None,
            pace: Pace::default(),
            watch: Watch::new(cancel, now),
            transcript: None,
        }
    }

    pub(super) fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Whether bytes wait that no step has asked for.
    pub(super) fn has_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    /// Puts TLS over the connection. The handle on the meter stays, whatever comes of it.
    pub(super) async fn secure(&mut self, deadline: Instant) -> Result<(), SecureError> {
        self.line = None;
        let Some(armed) = self.armed.take() else { return Err(SecureError::Failed(TlsFailure::unprepared())) };
        let stream = match self.watch.until(deadline, armed.shake()).await {
            Waited::Done(result) => result.map_err(SecureError::Failed)?,
            Waited::TimeUp => return Err(SecureError::Failed(TlsFailure::timeout())),
            Waited::Cancelled => return Err(SecureError::Cancelled),
        };
        self.line = Some(Line::Tls(Box::new(stream)));
        self.session.secured();
        Ok(())
    }

    /// The TLS stream, for its certificate.
    pub(super) fn tls(&self) -> Option<&async_native_tls::TlsStream<Meter>> {
        match &self.line {
            Some(Line::Tls(stream)) => Some(stream),
            _ => None,
        }
    }

    /// Waits for the greeting. Returns it with the stamp of its last byte.
    pub(super) async fn greeting(&mut self, deadline: Instant) -> Result<(Said, Instant), Fault> {
        loop {
            match self.next(deadline, ErrorType::TimeoutGreeting).await? {
                Happened::Greeting(said) => return Ok((said, self.stamp)),
                Happened::Bye(_)
                | Happened::Tagged(_)
                | Happened::Continuation
                | Happened::FirstByte
                | Happened::FirstRow
                | Happened::Alert(_)
                | Happened::Warning(_) => {}
            }
        }
    }

    /// Sends a command and waits for its end.
    pub(super) async fn exchange(
        &mut self,
        tag: &str,
        command: &Command<'_>,
        deadline: Instant,
        write: Duration,
    ) -> Exchange {
        let early = self.settle();
        self.warning = None;
        self.meter.mark();
        let now = clock::now();
        let mut exchange = Exchange {
            start: now,
            end: now,
            first_byte: None,
            first_row: None,
            continuations: Vec::new(),
            spoken: Vec::new(),
            waited: Duration::ZERO,
            alert: None,
            sent: 0,
            traffic: Traffic::default(),
            more: false,
            progress: Progress::default(),
            // Replaced below; a command that nobody answers has this.
            result: Err(Fault::new(ErrorType::Internal, now)),
        };
        let mut result = match early {
            Ok(()) => self.converse(tag, command, deadline, write, &mut exchange).await,
            Err(fault) => Err(Fault { at: now, ..fault }),
        };
        exchange.start = self.meter.first_write().unwrap_or(now);
        exchange.end = match &result {
            Ok(_) => self.stamp,
            Err(fault) => fault.at,
        };
        if let Err(fault) = &mut result
            && fault.class == ErrorType::Cancelled
            // The command stands whole on the line, or none of it does.
            && (self.session.is_between_commands() || self.meter.first_write().is_none())
        {
            self.session.abandon();
            fault.speaking = true;
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
        exchange.traffic = self.meter.traffic();
        exchange.more = self.has_unread() || self.meter.has_waiting();
        exchange.spoken = self.session.spoken().to_vec();
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
            && fault.said.is_none()
            && let Some((left, size)) = self.session.awaited()
        {
            let text = format!("{left} octets of a literal of {size} are still awaited").into_bytes();
            fault.said = Some(Said { condition: Condition::Bad, code: None, text });
        }
    }

    /// Takes in what stood behind the last command's end before the next one is sent: it counts among the next one's
    /// bytes, but is no answer to it.
    fn settle(&mut self) -> Result<(), Fault> {
        while !self.unread.is_empty() {
            if let Some(Happened::Bye(said)) = self.understand()? {
                return Err(Fault::new(ErrorType::Bye, self.stamp).with(Some(said)));
            }
        }
        Ok(())
    }

    async fn converse(
        &mut self,
        tag: &str,
        command: &Command<'_>,
        deadline: Instant,
        write: Duration,
        exchange: &mut Exchange,
    ) -> Result<Said, Fault> {
        let parts = self.session.begin(tag, command).parts;
        let last = parts.len().saturating_sub(1);
        for (number, part) in parts.into_iter().enumerate() {
            if let Some(transcript) = &mut self.transcript {
                transcript.sending(tag, command, &part.bytes, number == 0);
            }
            self.send(&part.bytes, (clock::now() + write).min(deadline)).await?;
            exchange.sent += part.bytes.len() as u64;
            self.session.sent(part.then_wait, number == last);
            if part.then_wait
                && let Some(said) = self.until_go_or_end(deadline, exchange).await?
            {
                return Ok(said);
            }
        }
        loop {
            if let Some(said) = self.until_go_or_end(deadline, exchange).await? {
                return self.with_complaint(said);
            }
            // Boxed: what only a login needs is not held while another command waits.
            Box::pin(self.reply(deadline, write, exchange)).await?;
        }
    }

    /// Waits for a `+` (none) or the command's end.
    pub(super) async fn until_go_or_end(
        &mut self,
        deadline: Instant,
        exchange: &mut Exchange,
    ) -> Result<Option<Said>, Fault> {
        loop {
            match self.next(deadline, ErrorType::TimeoutCommand).await? {
                Happened::Tagged(said) => return Ok(Some(said)),
                Happened::Continuation => {
                    if exchange.continuations.len() < KEPT {
                        exchange.continuations.push(self.stamp);
                    }
                    return Ok(None);
                }
                Happened::FirstByte => exchange.first_byte = Some(self.stamp_of_next()),
                Happened::FirstRow => exchange.first_row = Some(self.stamp),
                Happened::Alert(text) if exchange.alert.is_none() => exchange.alert = Some((self.stamp, text)),
                Happened::Warning(said) => {
                    if said.code == Some("ALERT") && exchange.alert.is_none() {
                        exchange.alert = Some((self.stamp, said.text.clone()));
                    }
                    self.warn(said);
                }
                Happened::Bye(said) => {
                    return Err(Fault::new(ErrorType::Bye, self.stamp).with(Some(said)));
                }
                Happened::Alert(_) | Happened::Greeting(_) => {}
            }
        }
    }

    /// A server that never pauses must not keep the clock from being looked at: a timer is polled after what it guards.
    fn on_time(&self, deadline: Instant, timeout: ErrorType) -> Result<(), Fault> {
        let now = clock::now();
        if self.watch.is_cancelled() {
            return Err(Fault::new(ErrorType::Cancelled, now));
        }
        if now >= deadline { Err(Fault::new(timeout, now)) } else { Ok(()) }
    }

    pub(super) async fn send(&mut self, bytes: &[u8], deadline: Instant) -> Result<(), Fault> {
        self.on_time(deadline, ErrorType::TimeoutWrite)?;
        let Some(line) = &mut self.line else { return Err(Fault::new(ErrorType::Internal, clock::now())) };
        match self.watch.until(deadline, line.write_all(bytes)).await {
            Waited::Done(Ok(())) => Ok(()),
            Waited::TimeUp => Err(Fault::new(ErrorType::TimeoutWrite, clock::now())),
            Waited::Cancelled => Err(Fault::new(ErrorType::Cancelled, clock::now())),
            Waited::Done(Err(error)) => {
                let fault = broken(&error);
                // What is wrong here, the server knows nothing of, and may be silent for long.
                if fault.class != ErrorType::Reset {
                    return Err(fault);
                }
                // The server may have said why before it hung up: what came first is what happened.
                let ended = error.kind() == io::ErrorKind::BrokenPipe;
                Err(self.last_words(deadline.min(clock::now() + LAST_WORDS), ended).await.unwrap_or(fault))
            }
        }
    }

    /// Keeps an untagged NO or BAD, in case that no tagged line follows.
    fn warn(&mut self, said: Said) {
        let tells = |said: &Said| verdict::of_code("LOGIN", said.code).is_some();
        if self.warning.as_ref().is_none_or(|known| !tells(known) && tells(&said)) {
            self.warning = Some(said);
        }
    }

    /// What the server said before its connection was found to be broken; that it had ended it, if it had.
    async fn last_words(&mut self, deadline: Instant, ended: bool) -> Option<Fault> {
        loop {
            match self.next(deadline, ErrorType::TimeoutCommand).await {
                Ok(Happened::Bye(said)) => {
                    return Some(Fault::new(ErrorType::Bye, self.stamp).with(Some(said)));
                }
                Ok(Happened::Warning(said)) => self.warn(said),
                Ok(_) => {}
                Err(fault) => return (ended && fault.class == ErrorType::Eof).then_some(fault),
            }
        }
    }

    async fn next(&mut self, deadline: Instant, timeout: ErrorType) -> Result<Happened, Fault> {
        loop {
            if self.unread.is_empty() {
                self.read(deadline, timeout).await?;
            }
            if let Some(happened) = self.understand()? {
                return Ok(happened);
            }
        }
    }

    /// Hands the session some of the bytes that wait.
    fn understand(&mut self) -> Result<Option<Happened>, Fault> {
        let read = self.buffer.as_ref().map(Buffer::filled).unwrap_or_default();
        let bytes = read.get(self.unread.clone()).unwrap_or_default();
        match self.session.receive(bytes) {
            Ok((taken, event)) => {
                let happened = event.map(Happened::from);
                self.unread.start += taken;
                if let Some(transcript) = self.transcript.as_mut().filter(|_| taken > 0)
                    && let Some((frame, shown)) = self.session.completed()
                {
                    transcript.received(&frame, shown, self.stamp);
                }
                Ok(happened)
            }
            Err(breach) => {
                let line = self.session.offending_line();
                if let Some(transcript) = &mut self.transcript {
                    transcript.offending(&line, self.stamp);
                }
                let text = match line {
                    OffendingLine::Text(text) => text.to_vec(),
                    // What is wrong with it cannot be seen, and is said.
                    withheld @ OffendingLine::Withheld { .. } => format!("{breach}: {withheld}").into_bytes(),
                };
                let said = (!text.is_empty()).then_some(Said { condition: Condition::Bad, code: None, text });
                self.unread = 0..0;
                Err(Fault::new(verdict::of_breach(breach), self.stamp).with(said))
            }
        }
    }

    async fn read(&mut self, deadline: Instant, timeout: ErrorType) -> Result<(), Fault> {
        self.on_time(deadline, timeout)?;
        self.buffer = None;
        if self.turn >= TURN {
            self.turn = 0;
            tokio::task::yield_now().await;
        }
        let Some(line) = &mut self.line else { return Err(Fault::new(ErrorType::Internal, clock::now())) };
        self.meter.listen();
        let (held, meter) = (&mut self.buffer, &self.meter);
        let reading = poll_fn(|context| {
            // Taken at each look: whoever waits has none.
            let mut buffer = Buffer::take();
            let polled = line.poll_read(context, buffer.room());
            match polled {
                Poll::Ready(Ok(count)) => {
                    buffer.fill(count);
                    *held = Some(buffer);
                }
                Poll::Ready(Err(_)) => {}
                Poll::Pending => meter.pass_over(),
            }
            polled
        });
        let read = self.watch.until(deadline, reading).await;
        (self.first_stamp, self.stamp) = self.meter.heard().unwrap_or_else(|| (clock::now(), clock::now()));
        match read {
            Waited::TimeUp => Err(Fault::new(timeout, clock::now())),
            Waited::Cancelled => Err(Fault::new(ErrorType::Cancelled, clock::now())),
            Waited::Done(Err(error)) => Err(broken(&error)),
            Waited::Done(Ok(0)) => {
                Err(Fault { close_notify: self.close_notify(), ..Fault::new(ErrorType::Eof, self.stamp) })
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

    /// Whether the TLS connection that just ended was closed as it should be (RFC 8446 §6.1).
    fn close_notify(&self) -> Option<CloseNotify> {
        self.tls()?;
        Some(match self.meter.last_record() {
            // In TLS 1.3 two bytes of data look the same from outside.
            Some(last) if last.may_be_alert() && self.last_read == 2 => CloseNotify::Unknown,
            Some(last) if last.may_be_alert() => CloseNotify::True,
            Some(_) => CloseNotify::False,
            None => CloseNotify::Unknown,
        })
    }

    /// What the kernel has seen since it was last asked.
    pub(super) fn weather(&mut self) -> Option<TcpInfoDelta> {
        let info = self.meter.tcp_info()?;
        // Behind the kernel's answer: should this thread lose its core in between, data seems younger than it is, and no
        // doubt is made of that.
        let now = clock::now();
        let before = std::mem::replace(&mut self.info, info);
        let count = |now: u32, before: u32| u64::from(now.saturating_sub(before));
        let since = |now: Option<u32>, before: Option<u32>| now.map(|now| count(now, before.unwrap_or_default()));
        let unacknowledged =
            info.unacknowledged.map(|time| time.saturating_sub(before.unacknowledged.unwrap_or_default()));
        let last_data = now.checked_sub(Duration::from_millis(info.data_age_ms.into())).and_then(|latest| {
            let earliest = latest.checked_sub(tick())?;
            Some(CoarseMoment { earliest, latest })
        });
        Some(TcpInfoDelta {
            rtt_min: info.rtt_min,
            retransmits: count(info.retransmits, before.retransmits),
            out_of_order: since(info.out_of_order, before.out_of_order),
            segment: info.segment,
            data_segments: since(info.data_segments, before.data_segments),
            unacknowledged: unacknowledged.map(|time| time + tick()),
            last_data,
        })
    }

    /// What the kernel has seen in all.
    pub(super) fn weather_in_all(&self) -> TcpInfo {
        self.info
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
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
        sync::watch,
    };

    use super::*;
    use crate::plan::Timing;

    #[tokio::test]
    async fn a_command_that_was_cancelled_before_its_first_byte_leaves_the_line_to_logout() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let meter = Meter::default();
        meter.attach(stream.into_std().unwrap(), clock::now(), false, Timing::default()).unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let (cancel, cancelled) = watch::channel(false);
        let mut driver = Driver::new(meter, None, Limits::default(), cancelled);
        let long = Duration::from_secs(30);
        server.write_all(b"* OK hi\r\n").await.unwrap();
        assert!(driver.greeting(clock::now() + long).await.is_ok());
        cancel.send_replace(true);
        let exchange = driver.exchange("t1", &Command::List, clock::now() + long, long).await;
        let fault = exchange.result.unwrap_err();
        assert_eq!((fault.class, fault.speaking, exchange.sent), (ErrorType::Cancelled, true, 0));

        driver.ignore_cancel();
        let answering = tokio::spawn(async move {
            let mut heard = [0; 11];
            server.read_exact(&mut heard).await.unwrap();
            server.write_all(b"* BYE\r\nt2 OK\r\n").await.unwrap();
            heard
        });
        let exchange = driver.exchange("t2", &Command::Logout, clock::now() + long, long).await;
        assert_eq!(exchange.result.unwrap().condition, Condition::Ok);
        assert_eq!(&answering.await.unwrap(), b"t2 LOGOUT\r\n");
    }
}
