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
    /// The number of the first requested message, and which of them have come.
    pub(super) rows: (u32, Vec<bool>),
    /// A capability list came while the command ran.
    pub(super) relisted: bool,
}

/// What responses change in a session: all of it but the framer, which lends them.
#[derive(Debug, Default)]
pub(super) struct SessionData {
    pub(super) limits: Limits,
    pub(super) state: SessionState,
    pub(super) capabilities: Option<Capabilities>,
    pub(super) id: (Option<Vec<u8>>, Option<Vec<u8>>),
    pub(super) hierarchy: Option<Hierarchy>,
    pub(super) current: Option<RunningCommand>,
    /// Tag of a command that was abandoned.
    pub(super) abandoned: Option<String>,
    /// The SASL exchange of AUTHENTICATE, until the next command.
    pub(super) exchange: Option<SaslExchange>,
    /// The reply to its last challenge.
    pub(super) answer: Option<ChallengeReply>,
    pub(super) progress: SessionProgress,
    /// EXISTS of the mailbox that is open.
    pub(super) exists: Option<u32>,
    /// Messages have left that mailbox since.
    pub(super) shrunk: bool,
    pub(super) guard: MailGuard,
}

impl SessionData {
    /// What a response changes, and the event that it is.
    pub(super) fn handle(&mut self, response: Response<'_>) -> Result<Option<Event>, ProtocolViolation> {
        if self.state == SessionState::Connected {
            return self.greeting(response).map(Some);
        }
        match response {
            Response::Tagged(tag, _)
                if self.abandoned.as_ref().is_some_and(|abandoned| abandoned.as_bytes() == tag) =>
            {
                self.abandoned = None;
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
                self.list_capabilities(list);
            }
            Response::Namespace(arguments) if self.hierarchy.is_none() && self.guard.may_learn() => {
                self.hierarchy = Hierarchy::of_namespace(arguments);
            }
            Response::List(arguments) if self.hierarchy.is_none() && self.guard.may_learn() => {
                self.hierarchy = Hierarchy::of_list(arguments);
            }
            Response::Exists(number) if self.current.as_ref().is_some_and(|current| current.name.opens_mailbox()) => {
                self.progress.exists = Some(number);
                (self.exists, self.shrunk) = (Some(number), false);
            }
            Response::Exists(number) => self.shrunk |= self.exists.is_some_and(|before| number < before),
            Response::Expunge | Response::Vanished => self.shrunk |= self.exists.is_some(),
            Response::Fetch { number, only_flags: false } => return Ok(self.row(number)),
            // A result may come in several responses.
            Response::Found(number) if self.runs(CommandName::Search) => {
                self.progress.found = Some(self.progress.found.unwrap_or_default().saturating_add(number));
            }
            Response::Id(name, version) if self.runs(CommandName::Id) => self.id = (name, version),
            Response::Broken => self.progress.deviations += 1,
            _ => {}
        }
        Ok(None)
    }

    fn greeting(&mut self, response: Response<'_>) -> Result<Event, ProtocolViolation> {
        let Response::Status(status) = response else { return Err(ProtocolViolation::Greeting) };
        self.state = match status.condition {
            Condition::Ok => SessionState::NotAuthenticated,
            Condition::Preauth => SessionState::Authenticated,
            Condition::Bye => SessionState::Logout,
            Condition::No | Condition::Bad => return Err(ProtocolViolation::Greeting),
        };
        self.learn(&status);
        Ok(Event::Greeting(status.into()))
    }

    fn list_capabilities(&mut self, list: &[u8]) {
        self.capabilities = Some(Capabilities::parse(list));
        if let Some(current) = &mut self.current {
            current.relisted = true;
        }
    }

    fn runs(&self, name: CommandName) -> bool {
        self.current.as_ref().is_some_and(|current| current.name == name)
    }

    /// Counts a row of FETCH; no other command expects rows.
    fn row(&mut self, number: u32) -> Option<Event> {
        let (first, rows) = &mut self.current.as_mut()?.rows;
        let row = rows.get_mut(number.checked_sub(*first)? as usize)?;
        if std::mem::replace(row, true) {
            return None; // the rest of a message that came in pieces (RFC 9051 §7.5.2)
        }
        self.progress.rows += 1;
        (self.progress.rows == 1).then_some(Event::FirstRow)
    }

    fn untagged_status(&mut self, mut status: StatusLine<'_>) -> Option<Event> {
        if !self.guard.trusts_untagged() {
            (status.code, status.text) = (None, WITHHELD);
        }
        let is_list = status.code.is_some_and(|code| code.name == ResponseCode::Capability);
        if !is_list || self.guard.may_learn() {
            self.learn(&status);
        }
        match status.condition {
            Condition::Bye if self.runs(CommandName::Logout) => None,
            Condition::Bye => {
                self.state = SessionState::Logout;
                Some(Event::Bye(status.into()))
            }
            Condition::No | Condition::Bad => Some(Event::Warning(status.into())),
            Condition::Ok | Condition::Preauth => {
                let is_alert = status.code.is_some_and(|code| code.name == ResponseCode::Alert);
                is_alert.then(|| Event::Alert(status.text.to_vec()))
            }
        }
    }

    /// Keeps the data of a status response's code.
    fn learn(&mut self, status: &StatusLine<'_>) {
        let Some(code) = status.code else { return };
        match code.name {
            ResponseCode::Capability => self.list_capabilities(code.argument),
            ResponseCode::Referral => self.progress.referral = Some(referral_host(code.argument).to_vec()),
            ResponseCode::ExpungeIssued => self.shrunk |= self.exists.is_some(),
            _ => {}
        }
    }

    fn continuation(&mut self, text: &[u8]) -> Result<Event, ProtocolViolation> {
        match &mut self.current {
            Some(current) if current.waiting => {
                current.waiting = false;
                if current.sent
                    && let Some(exchange) = &mut self.exchange
                {
                    self.answer = Some(exchange.challenge(text));
                    current.sent = false;
                }
                Ok(Event::Continuation)
            }
            _ => Err(ProtocolViolation::Continuation),
        }
    }

    fn tagged(&mut self, tag: &[u8], status: Option<StatusLine<'_>>) -> Result<Event, ProtocolViolation> {
        let Some(current) = self.current.as_ref().filter(|current| current.tag.as_bytes() == tag) else {
            let out_of_place = self.guard.is_out_of_place(status.is_some());
            return Err(if out_of_place { ProtocolViolation::OutOfPlace } else { ProtocolViolation::Tag });
        };
        let RunningCommand { name, sent, first_byte, relisted, .. } = *current;
        let mut status = status.ok_or(ProtocolViolation::Status)?;
        if status.condition == Condition::Ok && self.exchange.as_ref().is_some_and(|exchange| !exchange.is_proven()) {
            return Err(ProtocolViolation::Unproven);
        }
        let ok = status.condition == Condition::Ok;
        // No response precedes its command, and no OK the command's end (RFC 9051 §11.1); an error may.
        if !first_byte || (ok && !sent) {
            return Err(ProtocolViolation::Tag);
        }
        let is_trusted = self.guard.trusts_tagged();
        if !is_trusted {
            status.text = WITHHELD;
        }
        match status.condition {
            Condition::Ok | Condition::No | Condition::Bad => {}
            Condition::Preauth => return Err(ProtocolViolation::Status),
            // BYE has no tag (RFC 9051 §7.1.5); its meaning is plain all the same.
            Condition::Bye => {
                self.progress.deviations += 1;
                self.state = SessionState::Logout;
                return Ok(Event::Bye(status.into()));
            }
        }
        self.current = None;
        if name.is_login() && ok && !relisted {
            self.capabilities = None;
        }
        if is_trusted {
            self.learn(&status);
        }
        match name {
            // There is no way back from a BYE.
            _ if self.state == SessionState::Logout => {}
            CommandName::Login | CommandName::Authenticate if ok => self.state = SessionState::Authenticated,
            CommandName::Select | CommandName::Examine if ok => self.state = SessionState::Selected,
            CommandName::Select | CommandName::Examine => self.state = SessionState::Authenticated,
            CommandName::Logout if ok => self.state = SessionState::Logout,
            _ => {}
        }
        Ok(Event::Tagged(status.into()))
    }
}
