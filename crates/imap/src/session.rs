//! One IMAP session: its state (RFC 9051 §3), the command under way, and what of the server's talk matters to it.
//!
//! `probe` begins a command, hands in bytes as they come, and gets events. An event belongs to the bytes that were
//! taken in the same call. One command at a time: nothing is pipelined.

use zeroize::Zeroizing;

use super::{
    ChallengeReply, Capabilities, Command, CommandName, Condition, Encoded, Frame, Framer, Hierarchy, OffendingLine, SaslError,
    Response, ResponseCode, StatusLine, Syntax, HashResult,
    mail_guard::{MailGuard, WITHHELD},
    referral_host,
    sasl::SaslExchange,
};

/// How much is read before the session gives up. Sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A line without its literals.
    pub line: usize,
    /// All that comes for one command.
    pub command_bytes: u64,
    /// All that comes in the session.
    pub session_bytes: u64,
    /// Untagged responses for one command.
    pub responses: u64,
    /// Parentheses inside each other.
    pub depth: u32,
    /// A literal that is kept where a name can stand.
    pub literal_kept: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            line: 64 << 10,
            command_bytes: 64 << 20,
            session_bytes: 256 << 20,
            responses: 100_000,
            depth: 32,
            literal_kept: 4 << 10,
        }
    }
}

/// SessionState of the session (RFC 9051 §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionState {
    /// No greeting yet.
    Connected,
    /// Before login.
    NotAuthenticated,
    /// After login.
    Authenticated,
    /// A mailbox is open.
    Selected,
    /// LOGOUT was answered, or BYE came.
    Logout,
}

/// A violation after which the stream cannot be trusted. The connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolViolation {
    /// Framing broke.
    #[error(transparent)]
    Syntax(#[from] Syntax),
    /// The first line is no greeting.
    #[error("the first line is no IMAP greeting")]
    Greeting,
    /// A tagged line with a tag that is not the running command's, or before the command was written.
    #[error("a line bears a tag that is not the running command's")]
    Tag,
    /// A line between or behind the rows of a FETCH that is no response: a row or a literal was cut wrongly.
    #[error("what came among the rows of FETCH is no response")]
    OutOfPlace,
    /// Our tag, and then no status.
    #[error("a tagged line holds no status")]
    Status,
    /// A `+` that nobody waits for.
    #[error("a continuation that nobody waits for")]
    Continuation,
    /// AUTHENTICATE succeeded before the server had proved what its mechanism makes it prove, or after we gave it up.
    #[error("the server let us in without the proof that it knows the password")]
    Unproven,
    /// More bytes than the limit.
    #[error("more bytes than the limit")]
    Bytes,
    /// More untagged responses than the limit.
    #[error("more untagged responses than the limit")]
    Responses,
}

/// What happened. Each belongs to the bytes taken in the same call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// The greeting: OK, PREAUTH or BYE.
    Greeting(StatusLine<'a>),
    /// The first byte of an untagged or tagged response to the command. The bytes themselves are still to be handed in.
    FirstByte,
    /// The first FETCH response that holds data of a message that was asked for is whole.
    FirstRow,
    /// `+`: the next part may be sent, or [`Session::answer`] says what to.
    Continuation,
    /// An untagged OK with `[ALERT]`. Later rows may show that its words were mail: see [`Session::trusts_untagged`].
    Alert(&'a [u8]),
    /// An untagged NO or BAD: a warning, or a error that may stay the server's only word (RFC 9051 §7.1). The
    /// same goes for its words.
    Warning(StatusLine<'a>),
    /// BYE outside LOGOUT: the server is going away.
    Bye(StatusLine<'a>),
    /// The command's end.
    Tagged(StatusLine<'a>),
}

/// What a step has seen so far.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SessionProgress {
    /// Bytes received since the previous step's last one.
    pub received: u64,
    /// Untagged responses.
    pub untagged: u64,
    /// Literals.
    pub literals: u64,
    /// Bytes in literals.
    pub literal_bytes: u64,
    /// Messages that were asked for and of which data came, beside flags.
    pub rows: u64,
    /// Deviations from the grammar that were tolerated.
    pub deviations: u64,
    /// EXISTS while SELECT ran; the last one that could be read.
    pub exists: Option<u32>,
    /// How many messages a SEARCH found; none when it did not say.
    pub found: Option<u64>,
    /// Host of a referral.
    pub referral: Option<Vec<u8>>,
}

/// See the module's head.
#[derive(Debug)]
pub struct Session {
    limits: Limits,
    framer: Framer,
    state: SessionState,
    capabilities: Option<Capabilities>,
    id: (Option<Vec<u8>>, Option<Vec<u8>>),
    hierarchy: Option<Hierarchy>,
    current: Option<Current>,
    /// Tag of a command that nobody waits for any more.
    abandoned: Option<String>,
    /// The SASL exchange of AUTHENTICATE, until the next command.
    exchange: Option<SaslExchange>,
    /// What to do about its last challenge.
    answer: Option<ChallengeReply>,
    progress: SessionProgress,
    received: u64,
    /// EXISTS of the mailbox that is open.
    exists: Option<u32>,
    /// Messages have left that mailbox since.
    shrunk: bool,
    guard: MailGuard,
}

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "four independent facts about one command")]
struct Current {
    tag: String,
    name: CommandName,
    /// All parts are with the kernel.
    sent: bool,
    /// A `+` is awaited.
    waiting: bool,
    first_byte: bool,
    /// Which of the messages asked for have come, and the number of the first.
    rows: (u32, Vec<bool>),
    /// A capability list came while the command ran.
    relisted: bool,
}

impl Session {
    /// A session before its greeting.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            framer: Framer::new(limits),
            state: SessionState::Connected,
            capabilities: None,
            id: (None, None),
            hierarchy: None,
            current: None,
            abandoned: None,
            exchange: None,
            answer: None,
            progress: SessionProgress::default(),
            received: 0,
            exists: None,
            shrunk: false,
            guard: MailGuard::new(),
        }
    }

    /// Where the session stands.
    pub fn state(&self) -> SessionState {
        self.state
    }

    /// What the server can do, as far as it has told since the last STARTTLS or login.
    pub fn capabilities(&self) -> Option<&Capabilities> {
        self.capabilities.as_ref()
    }

    /// Name and version from the server's ID answer.
    pub fn id(&self) -> (Option<&[u8]>, Option<&[u8]>) {
        (self.id.0.as_deref(), self.id.1.as_deref())
    }

    /// How mailbox names are built, by the first NAMESPACE or LIST response that said so.
    pub fn hierarchy(&self) -> Option<Hierarchy> {
        self.hierarchy
    }

    /// What the present step has seen.
    pub fn progress(&self) -> &SessionProgress {
        &self.progress
    }

    /// Takes what a step has seen and starts to count for the next.
    pub fn take_progress(&mut self) -> SessionProgress {
        (self.current, self.exchange, self.answer) = (None, None, None);
        std::mem::take(&mut self.progress)
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
        self.shrunk
    }

    /// Whether untagged words are the server's own. False once a row was cut in a way that lets mail be read as responses:
    /// then an ALERT or a referral that came before in the same command counts for nothing.
    pub fn trusts_untagged(&self) -> bool {
        self.guard.trusts_untagged()
    }

    /// The line that a violation was found in, as far as it came and may be shown. From FETCH on it may be mail.
    pub fn offending_line(&self) -> OffendingLine<'_> {
        let tag = self.current.as_ref().map(|current| current.tag.as_str());
        let framer = &self.framer;
        self.guard.offending(framer.frame().text, framer.last_line(), framer.is_in_row(), tag)
    }

    /// The response that the last call of [`Session::receive`] completed, and whether its words are the server's and no mail.
    /// To be asked only after a call that took bytes.
    pub fn completed(&self) -> Option<(Frame<'_>, bool)> {
        let frame = self.framer.is_between_responses().then(|| self.framer.frame())?;
        let untagged = frame.text.first() == Some(&b'*');
        let fetching = self.current.as_ref().is_some_and(|current| current.name == CommandName::Fetch);
        let shown = if untagged { self.guard.trusts_untagged() && !fetching } else { self.guard.trusts_tagged() };
        Some((frame, shown))
    }

    /// Begins a command and gives the parts to send. Whoever sends them says so with [`Session::sent`].
    pub fn begin(&mut self, tag: &str, command: &Command<'_>) -> Encoded {
        let rows = match command {
            Command::Fetch { from, to, .. } => {
                (*from, vec![false; (to.saturating_sub(*from) as usize).saturating_add(1)])
            }
            _ => (0, Vec::new()),
        };
        match command {
            Command::Fetch { .. } => self.guard.fetch_begins(),
            Command::Select { .. } => (self.exists, self.shrunk) = (None, false),
            _ => {}
        }
        self.current = Some(Current {
            tag: tag.to_owned(),
            name: command.name(),
            sent: false,
            waiting: false,
            first_byte: false,
            rows,
            relisted: false,
        });
        let mut encoded = match &self.capabilities {
            Some(capabilities) => command.encode(tag, capabilities),
            None => command.encode(tag, &Capabilities::default()),
        };
        (self.exchange, self.answer) = (encoded.exchange.take(), None);
        encoded
    }

    /// A part is with the kernel. `then_wait` as in the part; `last` for the last one.
    pub fn sent(&mut self, then_wait: bool, last: bool) {
        if let Some(current) = &mut self.current {
            // In a SASL exchange the server has the next word.
            current.waiting = then_wait || (last && self.exchange.is_some());
            current.sent = last;
        }
    }

    /// What to do about the challenge that came last. Whoever sends the line says so with [`Session::sent`].
    pub fn answer(&mut self) -> Option<ChallengeReply> {
        self.answer.take()
    }

    /// What to do now that the work is done that a challenge made.
    pub fn worked(&mut self, worked: HashResult) -> ChallengeReply {
        match &mut self.exchange {
            Some(exchange) => exchange.worked(worked),
            None => ChallengeReply::Cancel(SaslError::Computation),
        }
    }

    /// Gives the SASL exchange up; the line that says so, which a BAD should answer (RFC 9051 §6.2.2).
    pub fn cancel(&mut self) -> &'static [u8] {
        if let Some(exchange) = &mut self.exchange {
            exchange.cancel();
        }
        b"*\r\n"
    }

    /// Why the server refuses, in its mechanism's own word, if that is not the password's fault. Untrusted.
    pub fn complaint(&self) -> Option<&[u8]> {
        self.exchange.as_ref().and_then(SaslExchange::complaint)
    }

    /// What was said in the SASL exchange and must not be repeated, beside names and password.
    pub fn spoken(&self) -> &[Zeroizing<Vec<u8>>] {
        self.exchange.as_ref().map(SaslExchange::spoken).unwrap_or_default()
    }

    /// Whether the next command may be sent: the one under way, if any, stands whole on the line.
    pub fn is_between_commands(&self) -> bool {
        let is_over = self.exchange.as_ref().is_none_or(SaslExchange::is_over);
        self.current.as_ref().is_none_or(|current| current.sent && is_over)
    }

    /// Stops to wait for the command under way, so that LOGOUT can follow it. Its tagged answer will be read past.
    pub fn abandon(&mut self) {
        self.abandoned = self.current.take().map(|current| current.tag);
        (self.exchange, self.answer) = (None, None);
    }

    /// After the TLS handshake: whatever was learned in clear text is void (RFC 9051 §6.2.1).
    pub fn secured(&mut self) {
        self.capabilities = None;
        self.id = (None, None);
        self.framer = Framer::new(self.limits);
    }

    /// Takes some of `input`; returns how much, and what happened. To be called until all of it is taken.
    pub fn receive(&mut self, input: &[u8]) -> Result<(usize, Option<Event<'_>>), ProtocolViolation> {
        if let Some(current) = &mut self.current
            && !current.first_byte
            && self.framer.is_between_responses()
            && input.first().is_some_and(|byte| *byte != b'+')
        {
            current.first_byte = true;
            return Ok((0, Some(Event::FirstByte)));
        }
        // No further than one byte over the limits, so that all ends at the same one however many came at once.
        let room = (self.limits.command_bytes.saturating_sub(self.progress.received))
            .min(self.limits.session_bytes.saturating_sub(self.received));
        let most = usize::try_from(room).unwrap_or(usize::MAX).saturating_add(1);
        let before = self.framer.passed();
        let pushed = self.framer.push(input.get(..most).unwrap_or(input));
        let passed = self.framer.passed() - before;
        self.progress.received += passed;
        self.received += passed;
        let (taken, whole) = pushed.map_err(|syntax| match self.state {
            // One that begins well and has no end may still be a greeting; whatever else it is, it is none.
            SessionState::Connected if syntax != Syntax::Line || self.framer.partial().first() != Some(&b'*') => {
                ProtocolViolation::Greeting
            }
            _ => ProtocolViolation::Syntax(syntax),
        })?;
        if self.progress.received > self.limits.command_bytes || self.received > self.limits.session_bytes {
            return Err(ProtocolViolation::Bytes);
        }
        if !whole {
            return Ok((taken, None));
        }
        let frame = self.framer.frame();
        self.progress.literals += frame.literals;
        self.progress.literal_bytes += frame.literal_bytes;
        self.progress.deviations += u64::from(frame.deviates);
        if frame.text.is_empty() && self.state != SessionState::Connected {
            self.progress.deviations += 1;
            return Ok((taken, None));
        }
        let (response, loose) = Response::parse(&frame);
        self.progress.deviations += u64::from(loose);
        self.guard.look_at(&frame, &response);
        if self.state == SessionState::Connected {
            return greeting(response, &mut self.state, &mut self.capabilities, &mut self.progress)
                .map(|event| (taken, Some(event)));
        }
        let event = ResponseHandler {
            limits: &self.limits,
            state: &mut self.state,
            capabilities: &mut self.capabilities,
            id: &mut self.id,
            hierarchy: &mut self.hierarchy,
            current: &mut self.current,
            abandoned: &mut self.abandoned,
            exchange: &mut self.exchange,
            answer: &mut self.answer,
            progress: &mut self.progress,
            exists: &mut self.exists,
            shrunk: &mut self.shrunk,
            guard: self.guard,
        }
        .take(response)?;
        Ok((taken, event))
    }
}

fn greeting<'a>(
    response: Response<'a>,
    state: &mut SessionState,
    capabilities: &mut Option<Capabilities>,
    progress: &mut SessionProgress,
) -> Result<Event<'a>, ProtocolViolation> {
    let Response::Status(status) = response else { return Err(ProtocolViolation::Greeting) };
    *state = match status.condition {
        Condition::Ok => SessionState::NotAuthenticated,
        Condition::Preauth => SessionState::Authenticated,
        Condition::Bye => SessionState::Logout,
        Condition::No | Condition::Bad => return Err(ProtocolViolation::Greeting),
    };
    learn(&status, capabilities, progress);
    Ok(Event::Greeting(status))
}

/// Keeps what a status response's code tells. True when it was a capability list.
fn learn(status: &StatusLine<'_>, capabilities: &mut Option<Capabilities>, progress: &mut SessionProgress) -> bool {
    let Some(code) = status.code else { return false };
    match code.name {
        ResponseCode::Capability => *capabilities = Some(Capabilities::parse(code.argument)),
        ResponseCode::Referral => progress.referral = Some(referral_host(code.argument).to_vec()),
        _ => {}
    }
    code.name == ResponseCode::Capability
}

/// The parts of a session that a response can change, while the framer lends the response.
struct ResponseHandler<'s> {
    limits: &'s Limits,
    state: &'s mut SessionState,
    capabilities: &'s mut Option<Capabilities>,
    id: &'s mut (Option<Vec<u8>>, Option<Vec<u8>>),
    hierarchy: &'s mut Option<Hierarchy>,
    current: &'s mut Option<Current>,
    abandoned: &'s mut Option<String>,
    exchange: &'s mut Option<SaslExchange>,
    answer: &'s mut Option<ChallengeReply>,
    progress: &'s mut SessionProgress,
    exists: &'s mut Option<u32>,
    shrunk: &'s mut bool,
    guard: MailGuard,
}

impl ResponseHandler<'_> {
    fn take(mut self, response: Response<'_>) -> Result<Option<Event<'_>>, ProtocolViolation> {
        match response {
            Response::Tagged(tag, _)
                if self.abandoned.as_ref().is_some_and(|abandoned| abandoned.as_bytes() == tag) =>
            {
                *self.abandoned = None;
                return Ok(None);
            }
            Response::Tagged(tag, status) => return self.tagged(tag, status).map(Some),
            Response::Continuation(text) => return self.continuation(text).map(Some),
            _ => {}
        }
        self.progress.untagged += 1;
        if self.progress.untagged > self.limits.responses {
            return Err(ProtocolViolation::Responses);
        }
        match response {
            Response::Status(status) => return Ok(self.untagged_status(status)),
            Response::Capability(list) if self.guard.may_learn() => {
                *self.capabilities = Some(Capabilities::parse(list));
                if let Some(current) = self.current {
                    current.relisted = true;
                }
            }
            Response::Namespace(arguments) if self.hierarchy.is_none() && self.guard.may_learn() => {
                *self.hierarchy = Hierarchy::of_namespace(arguments);
            }
            Response::List(arguments) if self.hierarchy.is_none() && self.guard.may_learn() => {
                *self.hierarchy = Hierarchy::of_list(arguments);
            }
            Response::Exists(number) if self.current.as_ref().is_some_and(|current| current.name.opens_mailbox()) => {
                self.progress.exists = Some(number);
                (*self.exists, *self.shrunk) = (Some(number), false);
            }
            Response::Exists(number) => *self.shrunk |= self.exists.is_some_and(|before| number < before),
            Response::Expunge | Response::Vanished => *self.shrunk |= self.exists.is_some(),
            Response::Fetch { number, only_flags: false } if self.runs(CommandName::Fetch) => {
                return Ok(self.row(number));
            }
            // An answer may come in pieces.
            Response::Found(number) if self.runs(CommandName::Search) => {
                self.progress.found = Some(self.progress.found.unwrap_or_default().saturating_add(number));
            }
            Response::Id(name, version) if self.runs(CommandName::Id) => *self.id = (name, version),
            Response::Broken => self.progress.deviations += 1,
            _ => {}
        }
        Ok(None)
    }

    fn runs(&self, name: CommandName) -> bool {
        self.current.as_ref().is_some_and(|current| current.name == name)
    }

    fn row<'a>(&mut self, number: u32) -> Option<Event<'a>> {
        let (first, rows) = &mut self.current.as_mut()?.rows;
        let row = rows.get_mut(number.checked_sub(*first)? as usize)?;
        if std::mem::replace(row, true) {
            return None; // the rest of a message that came in pieces (RFC 9051 §7.5.2)
        }
        self.progress.rows += 1;
        (self.progress.rows == 1).then_some(Event::FirstRow)
    }

    fn untagged_status<'a>(&mut self, status: StatusLine<'a>) -> Option<Event<'a>> {
        let trusted = self.guard.trusts_untagged();
        let status = if trusted { status } else { StatusLine { code: None, text: WITHHELD, ..status } };
        let is_list = status.code.is_some_and(|code| code.name == ResponseCode::Capability);
        if (!is_list || self.guard.may_learn())
            && self.learn(&status)
            && let Some(current) = self.current
        {
            current.relisted = true;
        }
        if status.condition == Condition::Bye {
            if self.runs(CommandName::Logout) {
                return None;
            }
            *self.state = SessionState::Logout;
            return Some(Event::Bye(status));
        }
        if matches!(status.condition, Condition::No | Condition::Bad) {
            return Some(Event::Warning(status));
        }
        status.code.filter(|code| code.name == ResponseCode::Alert).map(|_| Event::Alert(status.text))
    }

    /// Keeps what a status response's code tells. True when it was a capability list.
    fn learn(&mut self, status: &StatusLine<'_>) -> bool {
        *self.shrunk |=
            status.code.is_some_and(|code| code.name == ResponseCode::ExpungeIssued) && self.exists.is_some();
        learn(status, self.capabilities, self.progress)
    }

    fn continuation<'a>(&mut self, text: &[u8]) -> Result<Event<'a>, ProtocolViolation> {
        match self.current {
            Some(current) if current.waiting => {
                current.waiting = false;
                if current.sent
                    && let Some(exchange) = self.exchange
                {
                    *self.answer = Some(exchange.challenge(text));
                    current.sent = false;
                }
                Ok(Event::Continuation)
            }
            _ => Err(ProtocolViolation::Continuation),
        }
    }

    fn tagged<'a>(&mut self, tag: &[u8], status: Option<StatusLine<'a>>) -> Result<Event<'a>, ProtocolViolation> {
        let Some(current) = self.current.as_ref().filter(|current| current.tag.as_bytes() == tag) else {
            let out_of_place = self.guard.is_out_of_place(status.is_some());
            return Err(if out_of_place { ProtocolViolation::OutOfPlace } else { ProtocolViolation::Tag });
        };
        let Current { name, sent, first_byte, relisted, .. } = *current;
        let status = status.ok_or(ProtocolViolation::Status)?;
        if status.condition == Condition::Ok && self.exchange.as_ref().is_some_and(|exchange| !exchange.is_proven()) {
            return Err(ProtocolViolation::Unproven);
        }
        // No answer begins before its command does.
        if !first_byte {
            return Err(ProtocolViolation::Tag);
        }
        // Success before the whole command was written is a guess (RFC 9051 §11.1); a error is not.
        if status.condition == Condition::Ok && !sent {
            return Err(ProtocolViolation::Tag);
        }
        // BYE has no tag (RFC 9051 §7.1.5); what it says is plain all the same.
        if status.condition == Condition::Bye {
            self.progress.deviations += 1;
            *self.state = SessionState::Logout;
            let text = if self.guard.trusts_tagged() { status.text } else { WITHHELD };
            return Ok(Event::Bye(StatusLine { text, ..status }));
        }
        if !matches!(status.condition, Condition::Ok | Condition::No | Condition::Bad) {
            return Err(ProtocolViolation::Status);
        }
        *self.current = None;
        let ok = status.condition == Condition::Ok;
        if name.is_login() && ok && !relisted {
            *self.capabilities = None;
        }
        let status = if self.guard.trusts_tagged() {
            self.learn(&status);
            status
        } else {
            StatusLine { text: WITHHELD, ..status }
        };
        match name {
            // There is no way back from a BYE.
            _ if *self.state == SessionState::Logout => {}
            CommandName::Login | CommandName::Authenticate if ok => *self.state = SessionState::Authenticated,
            CommandName::Select | CommandName::Examine if ok => *self.state = SessionState::Selected,
            CommandName::Select | CommandName::Examine => *self.state = SessionState::Authenticated,
            CommandName::Logout if ok => *self.state = SessionState::Logout,
            _ => {}
        }
        Ok(Event::Tagged(status))
    }
}

#[cfg(test)]
mod tests;
