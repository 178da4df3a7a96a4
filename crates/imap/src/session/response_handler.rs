//! What one response changes in a session, and the event that it is. Called by `session` alone.

use crate::{
    Capabilities, ChallengeReply, CommandName, Condition, Event, Hierarchy, Limits, ProtocolViolation, Response,
    ResponseCode, SessionProgress, SessionState, StatusLine,
    mail_guard::{MailGuard, WITHHELD},
    referral_host,
    sasl::SaslExchange,
};

/// The command under way.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "four independent facts about one command")]
pub(super) struct RunningCommand {
    pub(super) tag: String,
    pub(super) name: CommandName,
    /// All parts are with the kernel.
    pub(super) sent: bool,
    /// A `+` is awaited.
    pub(super) waiting: bool,
    pub(super) first_byte: bool,
    /// Which of the messages asked for have come, and the number of the first.
    pub(super) rows: (u32, Vec<bool>),
    /// A capability list came while the command ran.
    pub(super) relisted: bool,
}

pub(super) fn greeting<'a>(
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

/// Keeps the data of a status response's code. True when it was a capability list.
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
pub(super) struct ResponseHandler<'s> {
    pub(super) limits: &'s Limits,
    pub(super) state: &'s mut SessionState,
    pub(super) capabilities: &'s mut Option<Capabilities>,
    pub(super) id: &'s mut (Option<Vec<u8>>, Option<Vec<u8>>),
    pub(super) hierarchy: &'s mut Option<Hierarchy>,
    pub(super) current: &'s mut Option<RunningCommand>,
    pub(super) abandoned: &'s mut Option<String>,
    pub(super) exchange: &'s mut Option<SaslExchange>,
    pub(super) answer: &'s mut Option<ChallengeReply>,
    pub(super) progress: &'s mut SessionProgress,
    pub(super) exists: &'s mut Option<u32>,
    pub(super) shrunk: &'s mut bool,
    pub(super) guard: MailGuard,
}

impl ResponseHandler<'_> {
    pub(super) fn take(mut self, response: Response<'_>) -> Result<Option<Event<'_>>, ProtocolViolation> {
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

    /// Keeps the data of a status response's code. True when it was a capability list.
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
        let RunningCommand { name, sent, first_byte, relisted, .. } = *current;
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
