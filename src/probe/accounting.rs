//! One command of the journey: its tag, its exchange, and the step that tells of it.
//!
//! Which command comes next, and what its failure skips, is `journey`'s matter.

use std::time::{Duration, Instant};

use imaptrace_imap as imap;
use imaptrace_imap::{Command, Condition, LoginMethod, ResponseCode, SessionProgress};
use imaptrace_record::{ClockSource, CommandState, EventName, Seconds, ServerText, Step, StepEvent};

use super::{
    classify,
    driver::{Driver, Exchange, StatusResponse, TcpInfoDelta},
    journey::{Answer, Journey, Stop},
    split::{Span, split},
    uncertainty::{Evidence, Uncertainty},
};
use crate::{net::kept_waiting, plan::TagStyle};

impl Journey<'_> {
    /// Sends a command; anything but OK ends the conversation.
    pub(super) async fn command(&mut self, driver: &mut Driver, command: &Command<'_>) -> Result<Answer, Stop> {
        let (step, exchange) = self.perform(driver, command).await?;
        self.judge(step, exchange)
    }

    /// What an exchange comes to; anything but OK ends the conversation.
    pub(super) fn judge(&mut self, mut step: Step, exchange: Exchange) -> Result<Answer, Stop> {
        let Exchange { result, progress, first_row, .. } = exchange;
        match result {
            Err(fault) => Err(self.fault(step, &fault)),
            Ok(StatusResponse { condition: Condition::Ok, .. }) => {
                self.recorder.push(step);
                Ok(Answer { progress, first_row })
            }
            Ok(said) => {
                step.text = Some(self.redactor.text(&said.text, ServerText::STATUS));
                let class = classify::of_refusal(step.name.command(), &said);
                self.fail(step, class);
                Err(Stop::Logout)
            }
        }
    }

    /// Sends a command and fills its step, without classifying it.
    pub(super) async fn perform(
        &mut self,
        driver: &mut Driver,
        command: &Command<'_>,
    ) -> Result<(Step, Exchange), Stop> {
        let name = command.name();
        let deadline = self.deadline_for(name, self.target.deadlines.command).map_err(|_| Stop::Logout)?;
        let mut step = self.recorder.open(name);
        step.state = Some(state(driver));
        match command {
            Command::Select { mailbox, .. } => step.mailbox = Some((*mailbox).to_owned()),
            Command::Fetch { .. } => step.mailbox = Some(self.target.journey.mailbox.as_str().to_owned()),
            Command::Login { .. } => step.mechanism = Some(LoginMethod::Login),
            Command::Authenticate { mechanism, .. } => step.mechanism = Some(LoginMethod::Sasl(*mechanism)),
            _ => {}
        }
        let tag = self.tag(&step);
        let exchange = driver.exchange(&tag, command, deadline, self.target.deadlines.write).await;
        for message in &exchange.spoken {
            self.redactor.learn(message);
        }
        self.fill(&mut step, &exchange, driver);
        match command {
            Command::Select { .. } => step.mailbox_messages = exchange.progress.exists.map(u64::from),
            Command::Fetch { .. } => step.messages = Some(exchange.progress.rows),
            _ => {}
        }
        Ok((step, exchange))
    }

    pub(super) fn tag(&self, step: &Step) -> String {
        let id = step.span_id.map(|id| id.to_string()).unwrap_or_default();
        match self.target.journey.tag {
            TagStyle::SpanId => id,
            TagStyle::Short => format!("T{}", id.get(..6).unwrap_or_default()),
        }
    }

    pub(super) fn fill(&mut self, step: &mut Step, exchange: &Exchange, driver: &mut Driver) {
        self.recorder.time(step, exchange.start, exchange.end);
        let progress = &exchange.progress;
        step.sent_bytes = Some(exchange.sent);
        step.received_bytes = Some(progress.received);
        step.untagged = Some(progress.untagged);
        step.literals = (progress.literals > 0).then_some(progress.literals);
        step.literal_bytes = (progress.literals > 0).then_some(progress.literal_bytes);
        step.deviations = (progress.deviations > 0).then_some(progress.deviations);
        self.refer(step, progress);
        let tcp = tcp_delta(step, driver);
        let uncertainty = account(step, exchange, tcp.as_ref(), driver);
        self.recorder.doubt(step, uncertainty);
        // No more than these: while a run waits, its steps are most of what it holds.
        // Words for a person that anybody on the way may have put there are nobody's words (RFC 9051 §11.3).
        let alert = exchange.alert.as_ref().filter(|_| self.trusted);
        let known = [exchange.first_byte.is_some(), alert.is_some()].map(usize::from);
        step.events.reserve_exact(known.into_iter().sum::<usize>() + exchange.continuations.len());
        if let Some(stamp) = exchange.first_byte {
            let at_s = self.recorder.at(stamp);
            step.first_byte_s = Some(at_s.saturating_sub(step.start_s));
            step.events.push(StepEvent { name: EventName::FirstByte, at_s, text: None });
        }
        for stamp in &exchange.continuations {
            step.events.push(StepEvent { name: EventName::Continuation, at_s: self.recorder.at(*stamp), text: None });
        }
        if let Some((stamp, text)) = alert {
            let text = Some(self.redactor.text(text, ServerText::STATUS));
            step.events.push(StepEvent { name: EventName::Alert, at_s: self.recorder.at(*stamp), text });
        }
        if let Ok(said) = &exchange.result {
            step.status = Some(said.condition);
            step.code = said.code;
            self.alert(step, said, exchange.end);
        }
        step.events.sort_by_key(|event| event.at_s);
        step.events.truncate(Step::MAX_EVENTS);
    }

    /// Notes on a step that is no command what the kernel saw of the line meanwhile, and what that makes uncertain.
    pub(super) fn note_tcp(&mut self, step: &mut Step, driver: &mut Driver) {
        if let Some(tcp) = tcp_delta(step, driver) {
            self.recorder.doubt(step, Uncertainty::of_setup(step.duration_s.to_duration(), &tcp));
        }
    }

    pub(super) fn alert(&self, step: &mut Step, said: &StatusResponse, stamp: Instant) {
        let first = step.events.iter().all(|event| event.name != EventName::Alert);
        if self.trusted && first && said.code == Some(ResponseCode::Alert) {
            let text = Some(self.redactor.text(&said.text, ServerText::STATUS));
            step.events.push(StepEvent { name: EventName::Alert, at_s: self.recorder.at(stamp), text });
        }
    }

    /// Records a referral's host. Nobody goes there. Before TLS it is nobody's word either.
    pub(super) fn refer(&mut self, step: &mut Step, progress: &SessionProgress) {
        if let Some(host) = progress.referral.as_ref().filter(|_| self.trusted) {
            let host = self.redactor.text(host, ServerText::ID);
            self.recorder.server().referral_host = Some(host.clone());
            step.referral_host = Some(host);
        }
    }
}

pub(super) fn state(driver: &Driver) -> CommandState {
    match driver.session.state() {
        imap::SessionState::Connected | imap::SessionState::NotAuthenticated => CommandState::NotAuthenticated,
        imap::SessionState::Authenticated => CommandState::Authenticated,
        imap::SessionState::Selected => CommandState::Selected,
        imap::SessionState::Logout => CommandState::Logout,
    }
}

/// Notes on a step what the kernel saw of the line meanwhile.
fn tcp_delta(step: &mut Step, driver: &mut Driver) -> Option<TcpInfoDelta> {
    let tcp = driver.tcp_delta()?;
    step.rtt_min_s = tcp.rtt_min.map(Seconds::from);
    step.retransmits = (tcp.retransmits > 0).then_some(tcp.retransmits);
    step.out_of_order = tcp.out_of_order.filter(|count| *count > 0);
    Some(tcp)
}

/// Notes on a command's step where its time went. Gives how far off that can be.
fn account(step: &mut Step, exchange: &Exchange, tcp: Option<&TcpInfoDelta>, driver: &mut Driver) -> Uncertainty {
    let Exchange { start, end, traffic, .. } = exchange;
    driver.pace.learn(&traffic.events, tcp.map_or(0, |tcp| tcp.segment));
    let (events, per_byte) = (&traffic.events, driver.pace.per_byte());
    let round_trip = tcp.and_then(|tcp| tcp.rtt_min);
    let span = Span { start: *start, end: *end, events, duration: step.duration_s, round_trip };
    let parts = split(span, per_byte);
    step.server_s = Some(parts.server);
    step.network_s = Some(parts.network);
    step.transfer_s = Some(parts.transfer);
    if events.iter().any(|event| !event.sent) {
        step.clock_source = Some(if traffic.kernel { ClockSource::Kernel } else { ClockSource::User });
    }
    step.delayed_s = Some(Seconds::from(kept_waiting(events))).filter(|kept| *kept > Seconds::ZERO);
    if let Ok(said) = &exchange.result {
        step.reported_s = reported(&said.text, step.duration_s.to_duration());
    }
    let Exchange { more, waited, .. } = *exchange;
    let evidence = Evidence { tcp, kernel: traffic.kernel, closed: traffic.closed, more, waited };
    Uncertainty::of_command(span, per_byte, &evidence)
}

/// What the server says that a command took, unless it took less here: then it speaks of something else, or is wrong.
/// Its clock may be slewed, by a thousandth at most.
fn reported(text: &[u8], duration: Duration) -> Option<Seconds> {
    let reported = imap::reported(text)?;
    (reported.time <= duration + reported.resolution + duration / 1_000).then(|| Seconds::from(reported.time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_reports_is_its_time_in_the_command_on_quick_and_slow_ones_alike() {
        for (text, millis, expected) in [
            ("Fetch completed (0.036 + 0.000 + 0.035 secs).", 40, Some(36)),
            // Rounded up by the server.
            ("List completed (0.001 + 0.000 secs).", 0, Some(1)),
            // The last term overlaps the first: the sum of all is twice what the command took.
            ("Select completed (1.020 + 0.000 + 1.019 secs).", 1_021, Some(1_020)),
            ("Select completed (29.020 + 0.000 + 29.019 secs).", 29_000, Some(29_020)),
            ("Select completed (30.020 + 0.000 + 29.019 secs).", 29_000, None),
            ("Fetch completed (0.050 secs).", 40, None),
            ("Fetch completed.", 40, None),
        ] {
            let reported = reported(text.as_bytes(), Duration::from_millis(millis));
            assert_eq!(reported.map(|time| time.as_micros() / 1_000), expected, "{text}");
        }
    }
}
