//! One IMAP session: its state (RFC 9051 §3), the command under way, and the events that a client acts on.
//!
//! The caller begins a command, passes bytes in as they come, and gets events. An event belongs to the bytes taken in the same
//! call. One command at a time: nothing is pipelined. Not here: what a response changes (`response_handler`).

use zeroize::Zeroizing;

use self::response_handler::{RunningCommand, SessionData};
use crate::{
    Capabilities, ChallengeReply, Command, CommandName, Encoded, Event, Frame, Framer, HashResult, Hierarchy, Limits,
    OffendingLine, ProtocolViolation, Response, SaslError, SessionProgress, SessionState, Syntax, sasl::SaslExchange,
};

mod response_handler;

/// A client's session.
#[derive(Debug)]
pub struct Session {
    framer: Framer,
    /// Bytes received.
    received: u64,
    data: SessionData,
}

impl Session {
    /// A session before its greeting.
    pub fn new(limits: Limits) -> Self {
        Self { framer: Framer::new(limits), received: 0, data: SessionData { limits, ..SessionData::default() } }
    }

    /// The state.
    pub fn state(&self) -> SessionState {
        self.data.state
    }

    /// The capabilities, if the server has listed them since the last STARTTLS or login.
    pub fn capabilities(&self) -> Option<&Capabilities> {
        self.data.capabilities.as_ref()
    }

    /// Name and version from the server's ID answer.
    pub fn id(&self) -> (Option<&[u8]>, Option<&[u8]>) {
        (self.data.id.0.as_deref(), self.data.id.1.as_deref())
    }

    /// How mailbox names are built, by the first NAMESPACE or LIST response that has it.
    pub fn hierarchy(&self) -> Option<Hierarchy> {
        self.data.hierarchy
    }

    /// What the present step has received.
    pub fn progress(&self) -> &SessionProgress {
        &self.data.progress
    }

    /// Takes what a step has received and starts to count for the next.
    pub fn take_progress(&mut self) -> SessionProgress {
        (self.data.current, self.data.exchange, self.data.answer) = (None, None, None);
        std::mem::take(&mut self.data.progress)
    }

    /// The beginning of a response that never became whole.
    pub fn partial(&self) -> &[u8] {
        self.framer.partial()
    }

    /// Of a literal that is under way: how many octets are still awaited, and its size.
    pub fn awaited(&self) -> Option<(u64, u64)> {
        self.framer.awaited()
    }

    /// Whether messages have left the mailbox since SELECT counted them: EXPUNGE, VANISHED, a lower EXISTS, or a status
    /// response with EXPUNGEISSUED (RFC 5530 §3), since EXPUNGE itself must not come in a FETCH (RFC 9051 §7.5.1).
    pub fn has_shrunk(&self) -> bool {
        self.data.shrunk
    }

    /// Whether the text of untagged responses is the server's own. False once a row was cut so that mail may be read as responses:
    /// then an ALERT or a referral earlier in the same command must be ignored, too.
    pub fn trusts_untagged(&self) -> bool {
        self.data.guard.trusts_untagged()
    }

    /// The line with the violation, as far as it came and may be shown: from FETCH on it may be mail.
    pub fn offending_line(&self) -> OffendingLine<'_> {
        let tag = self.data.current.as_ref().map(|current| current.tag.as_str());
        let framer = &self.framer;
        self.data.guard.offending(framer.frame().text, framer.last_line(), framer.is_in_row(), tag)
    }

    /// The response completed by the last call of [`Session::receive`] that took bytes, and whether its text is surely no mail.
    pub fn completed(&self) -> Option<(Frame<'_>, bool)> {
        let frame = self.framer.is_between_responses().then(|| self.framer.frame())?;
        let untagged = frame.text.first() == Some(&b'*');
        let fetching = self.data.current.as_ref().is_some_and(|current| current.name == CommandName::Fetch);
        let shown =
            if untagged { self.data.guard.trusts_untagged() && !fetching } else { self.data.guard.trusts_tagged() };
        Some((frame, shown))
    }

    /// Begins a command and returns the parts to send. The caller reports each as sent with [`Session::sent`].
    pub fn begin(&mut self, tag: &str, command: &Command<'_>) -> Encoded {
        let rows = match command {
            Command::Fetch { from, to, .. } => {
                (*from, vec![false; (to.saturating_sub(*from) as usize).saturating_add(1)])
            }
            _ => (0, Vec::new()),
        };
        match command {
            Command::Fetch { .. } => self.data.guard.fetch_begins(),
            Command::Select { .. } => (self.data.exists, self.data.shrunk) = (None, false),
            _ => {}
        }
        self.data.current = Some(RunningCommand {
            tag: tag.to_owned(),
            name: command.name(),
            sent: false,
            waiting: false,
            first_byte: false,
            rows,
            relisted: false,
        });
        let mut encoded = match &self.data.capabilities {
            Some(capabilities) => command.encode(tag, capabilities),
            None => command.encode(tag, &Capabilities::default()),
        };
        (self.data.exchange, self.data.answer) = (encoded.exchange.take(), None);
        encoded
    }

    /// A part was sent. `then_wait` as in the part; `last` for the last one.
    pub fn sent(&mut self, then_wait: bool, last: bool) {
        if let Some(current) = &mut self.data.current {
            // In a SASL exchange the next turn is the server's.
            current.waiting = then_wait || (last && self.data.exchange.is_some());
            current.sent = last;
        }
    }

    /// The reply to the last challenge. The caller reports the line as sent with [`Session::sent`].
    pub fn answer(&mut self) -> Option<ChallengeReply> {
        self.data.answer.take()
    }

    /// The reply to a challenge once its password is hashed.
    pub fn hashed(&mut self, result: HashResult) -> ChallengeReply {
        match &mut self.data.exchange {
            Some(exchange) => exchange.hashed(result),
            None => ChallengeReply::Cancel(SaslError::Computation),
        }
    }

    /// Cancels the SASL exchange; with the line that does so, which a BAD should answer (RFC 9051 §6.2.2).
    pub fn cancel(&mut self) -> &'static [u8] {
        if let Some(exchange) = &mut self.data.exchange {
            exchange.cancel();
        }
        b"*\r\n"
    }

    /// Why the server refuses the login, in the mechanism's word, if that is not the password. Untrusted.
    pub fn complaint(&self) -> Option<&[u8]> {
        self.data.exchange.as_ref().and_then(SaslExchange::complaint)
    }

    /// Messages of the SASL exchange that must not be shown when the server repeats them, beside names and password.
    pub fn sasl_messages(&self) -> &[Zeroizing<Vec<u8>>] {
        self.data.exchange.as_ref().map(SaslExchange::messages).unwrap_or_default()
    }

    /// Whether the next command may be sent: the one under way, if any, was sent whole.
    pub fn is_between_commands(&self) -> bool {
        let is_over = self.data.exchange.as_ref().is_none_or(SaslExchange::is_over);
        self.data.current.as_ref().is_none_or(|current| current.sent && is_over)
    }

    /// Abandons the command under way, so that LOGOUT can follow it. Its tagged response is ignored.
    pub fn abandon(&mut self) {
        self.data.abandoned = self.data.current.take().map(|current| current.tag);
        (self.data.exchange, self.data.answer) = (None, None);
    }

    /// After the TLS handshake: all that was received in clear text is void (RFC 9051 §6.2.1).
    pub fn secured(&mut self) {
        self.data.capabilities = None;
        self.data.id = (None, None);
        self.framer = Framer::new(self.data.limits);
    }

    /// Takes some of `input`; returns how much, and the event. To be called until all of it is taken.
    pub fn receive(&mut self, input: &[u8]) -> Result<(usize, Option<Event>), ProtocolViolation> {
        if let Some(current) = &mut self.data.current
            && !current.first_byte
            && self.framer.is_between_responses()
            && input.first().is_some_and(|byte| *byte != b'+')
        {
            current.first_byte = true;
            return Ok((0, Some(Event::FirstByte)));
        }
        // At most one byte over the limits, so that it ends at the same byte however many came at once.
        let room = (self.data.limits.command_bytes.saturating_sub(self.data.progress.received))
            .min(self.data.limits.session_bytes.saturating_sub(self.received));
        let most = usize::try_from(room).unwrap_or(usize::MAX).saturating_add(1);
        let before = self.framer.passed();
        let pushed = self.framer.push(input.get(..most).unwrap_or(input));
        let passed = self.framer.passed() - before;
        self.data.progress.received += passed;
        self.received += passed;
        let (taken, whole) = pushed.map_err(|syntax| match self.data.state {
            // A line without end that begins with a star may be a greeting; any other is none.
            SessionState::Connected if syntax != Syntax::Line || self.framer.partial().first() != Some(&b'*') => {
                ProtocolViolation::Greeting
            }
            _ => ProtocolViolation::Syntax(syntax),
        })?;
        if self.data.progress.received > self.data.limits.command_bytes
            || self.received > self.data.limits.session_bytes
        {
            return Err(ProtocolViolation::Bytes);
        }
        if !whole {
            return Ok((taken, None));
        }
        let frame = self.framer.frame();
        self.data.progress.literals += frame.literals;
        self.data.progress.literal_bytes += frame.literal_bytes;
        self.data.progress.deviations += u64::from(frame.deviates);
        if frame.text.is_empty() && self.data.state != SessionState::Connected {
            self.data.progress.deviations += 1;
            return Ok((taken, None));
        }
        let (response, loose) = Response::parse(&frame);
        self.data.progress.deviations += u64::from(loose);
        self.data.guard.look_at(&frame, &response);
        let event = self.data.handle(response)?;
        Ok((taken, event))
    }
}

#[cfg(test)]
mod tests;
