//! One command of the journey: its tag, its exchange, and the step that tells of it.
//!
//! Which command comes next, and what its failure skips, is `journey`'s matter.

use std::time::Instant;

use super::{
    driver::{Driver, Exchange, Said, Weather},
    journey::{Answer, Journey, Stop},
    split::{Span, split},
    verdict,
};
use crate::{
    imap::{self, Command, Condition, Progress},
    plan::TagStyle,
    record::{ClockSource, EventName, Seconds, ServerText, State, Step, StepEvent},
};

impl Journey<'_> {
    /// Sends a command; anything but OK ends the conversation.
    pub(super) async fn command(&mut self, driver: &mut Driver, command: &Command<'_>) -> Result<Answer, Stop> {
        let (mut step, exchange) = self.perform(driver, command).await?;
        let Exchange { result, progress, first_row, .. } = exchange;
        match result {
            Err(fault) => Err(self.fault(step, &fault)),
            Ok(Said { condition: Condition::Ok, .. }) => {
                self.recorder.push(step);
                Ok(Answer { progress, first_row })
            }
            Ok(said) => {
                step.text = Some(self.redactor.text(&said.text, ServerText::STATUS));
                self.fail(step, verdict::of_refusal(command.name(), said.condition, said.code));
                Err(Stop::Speaking)
            }
        }
    }

    /// Sends a command and fills its step, without a verdict.
    pub(super) async fn perform(
        &mut self,
        driver: &mut Driver,
        command: &Command<'_>,
    ) -> Result<(Step, Exchange), Stop> {
        let name = command.name();
        let deadline = self.deadline_for(name, self.target.deadlines.command).map_err(|_| Stop::Speaking)?;
        let mut step = self.recorder.open(name);
        step.state = Some(state(driver));
        match command {
            Command::Select { mailbox, .. } => step.mailbox = Some((*mailbox).to_owned()),
            Command::Fetch { .. } => step.mailbox = Some(self.target.journey.mailbox.as_str().to_owned()),
            Command::Login { .. } => step.mechanism = Some("LOGIN".to_owned()),
            Command::Authenticate { mechanism, .. } => step.mechanism = Some(mechanism.as_str().to_owned()),
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
        step.lenient = (progress.lenient > 0).then_some(progress.lenient);
        self.refer(step, progress);
        let weather = weather(step, driver);
        account(step, exchange, weather.as_ref(), driver);
        // No more than these: while a run waits, its steps are most of what it holds.
        let alerts = if self.trusted { exchange.alerts.len() } else { 0 };
        step.events.reserve_exact(usize::from(exchange.first_byte.is_some()) + exchange.continuations.len() + alerts);
        if let Some(stamp) = exchange.first_byte {
            let at_s = self.recorder.at(stamp);
            step.first_byte_s = Some(at_s.saturating_sub(step.start_s));
            step.events.push(StepEvent { name: EventName::FirstByte, at_s, text: None });
        }
        for stamp in &exchange.continuations {
            step.events.push(StepEvent { name: EventName::Continuation, at_s: self.recorder.at(*stamp), text: None });
        }
        // Words for a person that anybody on the way may have put there are nobody's words (RFC 9051 §11.3).
        for (stamp, text) in exchange.alerts.iter().filter(|_| self.trusted) {
            let text = Some(self.redactor.text(text, ServerText::STATUS));
            step.events.push(StepEvent { name: EventName::Alert, at_s: self.recorder.at(*stamp), text });
        }
        if let Ok(said) = &exchange.result {
            step.status = Some(said.condition.as_str().to_owned());
            step.code = said.code.map(str::to_owned);
            self.alert(step, said, exchange.end);
        }
        step.events.sort_by_key(|event| event.at_s);
        step.events.truncate(Step::MAX_EVENTS);
    }

    pub(super) fn alert(&self, step: &mut Step, said: &Said, stamp: Instant) {
        if self.trusted && said.code == Some("ALERT") {
            let text = Some(self.redactor.text(&said.text, ServerText::STATUS));
            step.events.push(StepEvent { name: EventName::Alert, at_s: self.recorder.at(stamp), text });
        }
    }

    /// Records a referral's host. Nobody goes there.
    pub(super) fn refer(&mut self, step: &mut Step, progress: &Progress) {
        if let Some(host) = &progress.referral {
            let host = self.redactor.text(host, ServerText::ID);
            self.recorder.server().referral_host = Some(host.clone());
            step.referral_host = Some(host);
        }
    }
}

pub(super) fn state(driver: &Driver) -> State {
    match driver.session.state() {
        imap::State::Connected | imap::State::NotAuthenticated => State::NotAuthenticated,
        imap::State::Authenticated => State::Authenticated,
        imap::State::Selected => State::Selected,
        imap::State::Logout => State::Logout,
    }
}

/// Notes on a step what the kernel saw of the line meanwhile.
pub(super) fn weather(step: &mut Step, driver: &mut Driver) -> Option<Weather> {
    let weather = driver.weather()?;
    step.rtt_min_s = weather.rtt_min.map(Seconds::from);
    step.retransmits = (weather.retransmits > 0).then_some(weather.retransmits);
    step.out_of_order = weather.out_of_order.filter(|count| *count > 0);
    if step.retransmits.is_some() || step.out_of_order.is_some() {
        step.uncertain = Some(true);
    }
    Some(weather)
}

/// Notes on a command's step where its time went, and how sure that is.
fn account(step: &mut Step, exchange: &Exchange, weather: Option<&Weather>, driver: &mut Driver) {
    let Exchange { start, end, traffic, .. } = exchange;
    driver.pace.learn(&traffic.crossings, weather.map_or(0, |weather| weather.segment));
    let crossings = &traffic.crossings;
    let round_trip = weather.and_then(|weather| weather.rtt_min);
    let span = Span { start: *start, end: *end, crossings, duration: step.duration_s, round_trip };
    let parts = split(span, &driver.pace);
    step.server_s = Some(parts.server);
    step.network_s = Some(parts.network);
    step.transfer_s = Some(parts.transfer);
    if crossings.iter().any(|crossing| !crossing.sent) {
        step.clock_source = Some(if traffic.kernel { ClockSource::Kernel } else { ClockSource::User });
    }
    if traffic.late || exchange.dawdled {
        step.uncertain = Some(true);
    }
    if let Ok(said) = &exchange.result {
        let reported = imap::reported(&said.text);
        let reported = reported.filter(|told| told.time <= step.duration_s.to_duration() + told.resolution);
        step.reported_s = reported.map(|told| Seconds::from(told.time));
    }
}
