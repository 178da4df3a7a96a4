//! Collects the steps of a run and makes the [`Run`] of them; and the record of a run that never ends by itself.

use std::time::{Duration, Instant};

use imaptrace_imap::Secret;
use imaptrace_record::{
    AddressFamily, ClockSource, ErrorType, Run, RunOutcome, SCHEMA, Seconds, Server, ServerText, SpanId, Step,
    StepName, StepOutcome,
};
use tokio::sync::watch;

use super::{
    job::{CurrentStep, Ids, Job},
    uncertainty::Uncertainty,
};
use crate::{
    clock::{self, Anchor},
    net::Family,
    plan::{AddressChoice, Target},
};

/// The address family in the record of a run over `family`: only of a target with a run for each.
pub fn recorded_family(target: &Target, family: Family) -> Option<AddressFamily> {
    match (target.address, family) {
        (AddressChoice::Each, Family::V4) => Some(AddressFamily::Ipv4),
        (AddressChoice::Each, Family::V6) => Some(AddressFamily::Ipv6),
        _ => None,
    }
}

/// What is known of a run before it begins: its record if it never ends by itself.
#[derive(Debug)]
pub struct RunStub<'a>(Job<'a>, Anchor);

impl<'a> Job<'a> {
    /// The record if the run never ends by itself. To be called right before it.
    pub fn stub(&self) -> RunStub<'a> {
        let secret = Ok(Secret::new(String::new()));
        RunStub(Job { secret, hold_login: None, ..*self }, Anchor::now())
    }
}

impl RunStub<'_> {
    /// A run of this class, up to now, without a step.
    pub fn end(self, class: ErrorType) -> Run {
        Recorder::new(&self.0, self.1).abandon(class)
    }
}

/// A run under way.
pub(super) struct Recorder {
    anchor: Anchor,
    pub(super) run: Run,
    /// When the connection that counts began, for the second one.
    loading_from: Seconds,
    connection: Option<u32>,
    /// The error bound of the steps that count, in all.
    off_by: Seconds,
    /// Receives each step as it begins.
    pub(super) watcher: Option<watch::Sender<Option<CurrentStep>>>,
}

impl Recorder {
    pub(super) fn new(job: &Job<'_>, anchor: Anchor) -> Self {
        let target = job.target.target();
        let Ids { trace, root, parent } = job.ids;
        let server = Server {
            address: target.endpoint.host.to_string(),
            port: target.endpoint.port,
            security: target.security,
            ..Server::default()
        };
        let run = Run {
            schema: SCHEMA,
            trace_id: trace,
            span_id: root,
            parent_span_id: parent,
            target: target.name.clone(),
            account: job.account.alias.clone(),
            journey: target.journey.name().clone(),
            labels: target.labels.clone(),
            started_at: anchor.wall().into(),
            outcome: RunOutcome::Passed,
            error_type: None,
            failed_step: None,
            first_loading_latency_s: None,
            first_row_s: None,
            duration_s: Seconds::ZERO,
            agent_s: None,
            uncertain: None,
            uncertainty_s: None,
            delayed_s: None,
            slowest_step: None,
            slow: None,
            ratio: None,
            baseline_s: None,
            ratio_day: None,
            baseline_day_s: None,
            usual: None,
            start_lag_s: job.start_lag.map(Seconds::from),
            auth_backoff: job.hold_login.map(|_| true),
            suggested_mailbox: None,
            family: recorded_family(target, job.family),
            server,
            wire_sent_bytes: 0,
            wire_received_bytes: 0,
            steps: Vec::new(),
            notes: Vec::new(),
            server_events: None,
            verdict: None,
        };
        Self { anchor, run, loading_from: Seconds::ZERO, connection: None, off_by: Seconds::ZERO, watcher: None }
    }

    pub(super) fn start(&self) -> Instant {
        self.anchor.mono()
    }

    pub(super) fn at(&self, stamp: Instant) -> Seconds {
        self.anchor.since(stamp).into()
    }

    /// From here on the steps are those of a second connection, and First Loading Latency counts from now.
    pub(super) fn second_connection(&mut self) {
        self.connection = Some(2);
        self.loading_from = self.at(clock::now());
        self.run.first_row_s = None;
        // What came before counts no longer.
        self.off_by = Seconds::ZERO;
        for step in &mut self.run.steps {
            (step.uncertain, step.uncertainty_s) = (None, None);
        }
    }

    pub(super) fn is_second_connection(&self) -> bool {
        self.connection.is_some()
    }

    /// A step that is about to begin, with a span id of its own.
    pub(super) fn open(&self, name: impl Into<StepName>) -> Step {
        let name = name.into();
        if let Some(watcher) = &self.watcher {
            watcher.send_replace(Some(CurrentStep { name: name.clone(), since: clock::now() }));
        }
        Step { name, span_id: Some(SpanId::random()), connection: self.connection, ..Step::default() }
    }

    /// Sets when a step began and ended. Both ends are rounded, not the difference: steps never overlap by rounding.
    pub(super) fn time(&self, step: &mut Step, start: Instant, end: Instant) {
        step.start_s = self.at(start);
        step.duration_s = self.at(end).saturating_sub(step.start_s);
    }

    /// Notes the error bound of a step's times.
    pub(super) fn note_uncertainty(&mut self, step: &mut Step, uncertainty: Uncertainty) {
        uncertainty.note(step);
        if !step.is_logout() {
            self.off_by = self.off_by.saturating_add(uncertainty.duration.into());
        }
    }

    pub(super) fn push(&mut self, step: Step) {
        // A few at a time: while a run waits, what it has recorded is most of what it holds.
        if self.run.steps.len() == self.run.steps.capacity() {
            self.run.steps.reserve_exact(2);
        }
        self.run.steps.push(step);
    }

    /// A step whose turn came and that was not needed.
    pub(super) fn skip(&mut self, name: impl Into<StepName>) {
        let (name, start_s, connection) = (name.into(), self.at(clock::now()), self.connection);
        self.push(Step { name, start_s, outcome: StepOutcome::Skipped, connection, ..Step::default() });
    }

    /// The run ended over a step that could not even start.
    pub(super) fn refuse(&mut self, name: impl Into<StepName>, class: ErrorType, text: Option<ServerText>) {
        let mut step = self.open(name);
        step.start_s = self.at(clock::now());
        step.text = text;
        self.fail(step, class);
    }

    /// The run ended over this step.
    pub(super) fn fail(&mut self, mut step: Step, class: ErrorType) {
        self.end(class);
        self.run.failed_step = Some(step.name.clone());
        (step.outcome, step.error_type) = (StepOutcome::Failed, Some(class));
        self.push(step);
    }

    fn end(&mut self, class: ErrorType) {
        self.run.outcome = if class.is_void() { RunOutcome::Void } else { RunOutcome::Failed };
        self.run.error_type = Some(class);
    }

    /// The first FETCH response was whole.
    pub(super) fn first_row(&mut self, stamp: Instant) {
        self.run.first_row_s = Some(self.at(stamp).saturating_sub(self.loading_from));
    }

    /// The message list is there as of the end of the last step.
    pub(super) fn loaded(&mut self) {
        let end = self.run.steps.last().map_or(Seconds::ZERO, Step::end_s);
        self.run.first_loading_latency_s = Some(end.saturating_sub(self.loading_from));
    }

    /// For how long name servers and servers were in their turn, in the steps so far.
    pub(super) fn owed(&self) -> Duration {
        let owed = |step: &Step| step.duration_s.saturating_sub(step.delayed_s.unwrap_or_default());
        self.run.steps.iter().map(owed).fold(Seconds::ZERO, Seconds::saturating_add).to_duration()
    }

    /// The run so far, when it is abandoned from outside.
    pub(super) fn abandon(mut self, class: ErrorType) -> Run {
        self.end(class);
        let now = clock::now();
        self.run.duration_s = self.at(now);
        let paused = Seconds::from(clock::paused(self.start(), now, Duration::ZERO));
        self.run.delayed_s = Some(paused).filter(|paused| self.run.duration_s.is_delayed_by(*paused));
        self.run
    }

    /// The whole run.
    pub(super) fn finish(mut self) -> Run {
        let run = &mut self.run;
        run.duration_s = run.steps.iter().map(Step::end_s).max().unwrap_or_default();
        let deviations: u64 = run.steps.iter().filter_map(|step| step.deviations).sum();
        run.server.deviations = (deviations > 0).then_some(deviations);
        if let Some(latency) = run.first_loading_latency_s {
            let steps = run.loading_steps().fold(Seconds::ZERO, |sum, step| sum.saturating_add(step.duration_s));
            run.agent_s = Some(latency.saturating_sub(steps));
        }
        let slowest = run.loading_steps().filter(|step| step.was_started()).max_by_key(|step| step.duration_s);
        run.slowest_step = slowest.map(|step| step.name.clone());
        let sources = || run.steps.iter().filter_map(|step| step.clock_source);
        run.server.clock_source = sources().find(|source| *source == ClockSource::User).or_else(|| sources().next());
        let off_by = self.off_by.saturating_add(run.agent_s.unwrap_or_default());
        let figure = run.first_loading_latency_s.unwrap_or(run.duration_s);
        run.uncertainty_s = figure.is_uncertain_by(off_by).then_some(off_by);
        let step = run.loading_steps().any(|step| step.uncertain == Some(true));
        run.uncertain = (step || run.uncertainty_s.is_some()).then_some(true);
        // A step that we ended has no stamp of the kernel's for its end: pauses are in its duration.
        let ended_by_us = |class: ErrorType| class.is_void() || class.as_str().starts_with("timeout_");
        for step in run.steps.iter_mut().filter(|step| step.error_type.is_some_and(ended_by_us)) {
            let begin = self.anchor.mono() + step.start_s.to_duration();
            let paused = clock::paused(begin, begin + step.duration_s.to_duration(), Duration::ZERO);
            step.delayed_s = step.delayed_s.max(Some(Seconds::from(paused)));
        }
        note_delays(run, self.loading_from);
        if self.anchor.was_suspended() {
            suspended(run);
        }
        self.run
    }
}

/// A step that was delayed by less is not noted.
const NOTED: Seconds = Seconds::from_micros(1_000);

/// Notes how long our own pauses delayed the run and its steps, if by much: `delayed_s` of a step has so far the delay inside it,
/// and the gap before it is added. In a delayed run, steps with a smaller part in it are noted, too.
fn note_delays(run: &mut Run, from: Seconds) {
    let last = run.steps.iter().filter_map(|step| step.connection).max();
    let (mut before, mut loading, mut all) = (from, Seconds::ZERO, Seconds::ZERO);
    let mut alone = Vec::with_capacity(run.steps.len());
    for step in &mut run.steps {
        let inside = step.delayed_s.take().unwrap_or_default();
        if step.connection != last || !step.was_started() {
            alone.push(false);
            continue;
        }
        let gap = step.start_s.saturating_sub(before);
        let delay = gap.saturating_add(inside);
        before = step.end_s();
        all = all.saturating_add(delay);
        if !step.is_logout() {
            loading = loading.saturating_add(delay);
        }
        step.delayed_s = Some(delay).filter(|delay| *delay >= NOTED);
        alone.push(gap.saturating_add(step.duration_s).is_delayed_by(delay));
    }
    let latency = run.first_loading_latency_s.is_some_and(|latency| latency.is_delayed_by(loading));
    run.delayed_s = Some(all).filter(|all| latency || run.duration_s.is_delayed_by(*all));
    if run.delayed_s.is_none() {
        for (step, alone) in run.steps.iter_mut().zip(alone) {
            step.delayed_s = step.delayed_s.filter(|_| alone);
        }
    }
}

/// The machine slept meanwhile. What the server and the line did in that time cannot be known; the last step fails over it.
fn suspended(run: &mut Run) {
    let class = ErrorType::Suspended;
    run.outcome = RunOutcome::Void;
    run.error_type = Some(class);
    (run.first_loading_latency_s, run.first_row_s, run.agent_s) = (None, None, None);
    let failed = run.failed_step.take();
    let is_last = |step: &&mut Step| failed.as_ref().map_or_else(|| step.was_started(), |name| step.name == *name);
    if let Some(step) = run.steps.iter_mut().rev().find(is_last) {
        step.outcome = StepOutcome::Failed;
        step.error_type = Some(class);
        run.failed_step = Some(step.name.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The steps that say they were delayed, and whether the run is, of one whose steps follow each other without a gap but for
    /// these, in milliseconds: what is shown, and whether its latency counts.
    fn delays(gaps: &[(&str, u64)]) -> (Vec<String>, Option<u64>, bool) {
        let mut run: Run = serde_json::from_str(imaptrace_testkit::PASSED_RUN).unwrap();
        let mut at = Seconds::ZERO;
        for step in run.steps.iter_mut().filter(|step| step.was_started()) {
            let gap = gaps.iter().find(|(name, _)| step.name == *name).map_or(0, |(_, gap)| *gap);
            step.start_s = at.saturating_add(Seconds::from_micros(gap * 1_000));
            step.duration_s = Seconds::from_micros(50_000);
            (step.delayed_s, at) = (None, step.end_s());
        }
        let logout = run.steps.iter().find(|step| step.is_logout()).unwrap();
        let gap = gaps.iter().find(|(name, _)| *name == logout.name.as_str()).map_or(0, |(_, gap)| gap * 1_000);
        run.first_loading_latency_s = Some(logout.start_s.saturating_sub(Seconds::from_micros(gap)));
        run.duration_s = at;
        note_delays(&mut run, Seconds::ZERO);
        let steps =
            run.steps.iter().filter(|step| step.delayed_s.is_some()).map(|step| step.name.to_string()).collect();
        (steps, run.delayed_s.map(|all| all.as_micros() / 1_000), run.counted_latency().is_some())
    }

    #[test]
    fn a_pause_is_noted_on_a_run_wherever_it_was_and_on_a_step_alone() {
        assert_eq!(delays(&[]), (vec![], None, true));
        assert_eq!(
            delays(&[("SELECT", 700), ("LOGIN", 2)]),
            (vec!["LOGIN".to_owned(), "SELECT".into()], Some(702), false)
        );
        // The message list was there.
        assert_eq!(delays(&[("LOGOUT", 700)]), (vec!["LOGOUT".to_owned()], Some(700), true));
        // Much for the step, and little for the run.
        assert_eq!(delays(&[("SELECT", 12)]), (vec!["SELECT".to_owned()], None, true));
        assert_eq!(delays(&[("SELECT", 9)]), (vec![], None, true));
    }
}
