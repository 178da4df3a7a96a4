//! How a step that went wrong ends the conversation: what the record says of it, and whether LOGOUT can follow.
//!
//! Which class a failure has is `classify`'s matter. Called by the steps of a journey.

use std::{borrow::Cow, time::Duration};

use imaptrace_imap::CommandName;
use imaptrace_record::{ErrorType, ServerText, Step, StepName, StepOutcome};

use super::{
    classify,
    driver::Fault,
    journey::{Journey, Stop},
};
use crate::clock::{self, Deadline};

impl Journey<'_> {
    /// When this step must end; when the run's time is up already, the step is listed and the run over.
    pub(super) fn deadline_for(&mut self, step: impl Into<StepName>, own: Duration) -> Result<Deadline, Stop> {
        let (now, mut end) = (clock::now(), self.deadline.end());
        let deadline = Deadline::after(now, own);
        if deadline.end() <= end {
            return Ok(deadline);
        }
        end = self.deadline.lengthened();
        let owed = self.recorder.owed();
        if now >= end {
            let class = self.deadline.own_delay_of(owed).map_or(ErrorType::TimeoutRun, classify::of_own_delay);
            let step = step.into();
            self.recorder.refuse(step.clone(), class, None);
            self.recorder.fail(step, class);
            return Err(Stop::Close);
        }
        // What we took ourselves of the run's time is not taken from the step: what is left would say nothing about a server.
        let pauses = end.saturating_duration_since(self.deadline.end());
        let ours = now.saturating_duration_since(self.deadline.begin()).saturating_sub(pauses).saturating_sub(owed);
        let more = if ours > self.deadline.tenth() { ours.min(self.target.deadlines.run) } else { Duration::ZERO };
        let left = end.saturating_duration_since(now) + more;
        Ok(Deadline::after(now, own.min(left)))
    }

    /// A step that cannot even start ends the conversation.
    pub(super) fn refuse(&mut self, name: impl Into<StepName>, class: ErrorType) -> Stop {
        let name = name.into();
        self.recorder.refuse(name.clone(), class, None);
        self.recorder.fail(name, class);
        Stop::Logout
    }

    pub(super) fn fail(&mut self, mut step: Step, class: ErrorType) -> Stop {
        step.outcome = StepOutcome::Failed;
        step.error_type = Some(class);
        self.recorder.fail(step.name.clone(), class);
        self.recorder.push(step);
        Stop::Close
    }

    /// The step that was pushed last turns out to be the one that fails the run; why, in our own words.
    pub(super) fn fail_last(&mut self, class: ErrorType, words: Option<&str>) {
        if let Some(mut step) = self.recorder.pop() {
            step.text = words.map(|words| ServerText::new(words.as_bytes(), ServerText::STATUS)).or(step.text);
            self.fail(step, class);
        }
    }

    pub(super) fn fault(&mut self, mut step: Step, fault: &Fault) -> Stop {
        self.describe(&mut step, fault);
        // A server that ended the session before the login was sent said nothing of it.
        let command = step.name.command().filter(|_| step.sent_bytes != Some(0));
        let class = match (fault.class, &fault.said) {
            (ErrorType::Bye, Some(said)) => classify::of_refusal(command, said),
            // One challenge more than the mechanism has.
            (ErrorType::ProtocolContinuation, _) if step.name == CommandName::Authenticate => ErrorType::AuthProtocol,
            (class, _) => class,
        };
        // What was said untagged counts where nothing else was said of the login.
        let warning =
            fault.warning.as_ref().filter(|_| class == fault.class && command.is_some_and(CommandName::is_login));
        let by_warning = warning.and_then(|said| Some((said, classify::of_code(command, said.code)?)));
        let class = match by_warning {
            Some((said, class)) => {
                step.status = Some(said.condition);
                step.code = said.code;
                class
            }
            None => class,
        };
        self.fail(step, class);
        if fault.can_logout { Stop::Logout } else { Stop::Close }
    }

    pub(super) fn describe(&self, step: &mut Step, fault: &Fault) {
        step.close_notify = fault.close_notify;
        step.tls_fault = fault.tls;
        let bye = fault.said.as_ref().filter(|_| fault.class == ErrorType::Bye);
        if let Some(said) = bye.or(fault.warning.as_ref()) {
            step.status = Some(said.condition);
            step.code = said.code;
        }
        let words = [&fault.warning, &fault.said].map(|said| said.as_ref().map(|said| said.text.as_slice()));
        let words = match words {
            [Some(warning), Some(said)] => Some(Cow::Owned([warning, said].join(b" | ".as_slice()))),
            [one, other] => one.or(other).map(Cow::Borrowed),
        };
        step.text = words.map(|words| self.redactor.text(&words, ServerText::STATUS));
    }
}
