//! Maps a run to measurements: the series and the value of each. A series is a [`SeriesKey`] of four bytes within its account,
//! so that it takes little memory. Called by [`Metrics`](super::Metrics).

use imaptrace_imap::{CommandName, Condition};
use imaptrace_record::{
    Cause, ErrorType, Run, RunOutcome, Seconds, SetupStep, SkipReason, Step, StepName, StepOutcome,
};
use opentelemetry::KeyValue;

use super::settings::{MetricsDetail, MetricsSettings};
use crate::telemetry::names::{self, Metric, MetricKind};

/// The metrics of runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RunMetric {
    FirstLoading,
    Duration,
    Operation,
    Timing,
    Setup,
    Io,
    Up,
    LastRun,
    Interval,
    Failures,
    Certificate,
    Messages,
    Slow,
    Shrunk,
    Skipped,
}

impl RunMetric {
    /// `Skipped` is the last variant: one before it without a row of `ALL` does not compile.
    pub(super) const COUNT: usize = Self::Skipped as usize + 1;

    /// In the order of the variants: the metric, and the series of an account that there is room for at once: those of passed
    /// runs and of some failures. An account that needs more shares its partition with fewer others.
    pub(super) const ALL: [(Self, Metric, usize); Self::COUNT] = [
        (Self::FirstLoading, names::PROBE_FIRST_LOADING_DURATION, 1),
        (Self::Duration, names::PROBE_DURATION, 3),
        (Self::Operation, names::OPERATION_DURATION, 12),
        (Self::Timing, names::TIMING_DURATION, 27),
        (Self::Setup, names::SETUP_DURATION, 6),
        (Self::Io, names::CLIENT_IO, 22),
        (Self::Up, names::PROBE_UP, 1),
        (Self::LastRun, names::PROBE_LAST_RUN_TIME, 1),
        (Self::Interval, names::PROBE_INTERVAL, 1),
        (Self::Failures, names::PROBE_FAILURES, 1),
        (Self::Certificate, names::CERTIFICATE_NOT_AFTER, 1),
        (Self::Messages, names::MAILBOX_MESSAGES, 1),
        (Self::Slow, names::PROBE_SLOW, 2),
        (Self::Shrunk, names::MAILBOX_SHRUNK, 1),
        (Self::Skipped, names::PROBE_SKIPPED, 2),
    ];

    pub(super) fn metric(self) -> Metric {
        Self::ALL[self as usize].1
    }

    pub(super) fn allowance(self, settings: &MetricsSettings) -> usize {
        let standard = settings.detail == MetricsDetail::Standard;
        match self {
            Self::Timing if !settings.timing => 0,
            Self::Io if standard => 0,
            Self::Timing if standard => 12,
            Self::Operation if standard => 8,
            _ => Self::ALL[self as usize].2,
        }
    }

    /// Whether it is a gauge of an account: its last value goes into a new partition.
    pub(super) fn is_gauge(self) -> bool {
        self.metric().kind == MetricKind::Gauge
    }

    /// Whether its histograms have [`names::BUCKETS`].
    pub(super) fn has_buckets(self, settings: &MetricsSettings) -> bool {
        settings.detail == MetricsDetail::Full || !matches!(self, Self::Duration | Self::Setup)
    }

    /// The series that Prometheus makes of one of its series: each bucket, the sum and the count are one.
    pub(super) fn prometheus_series(self, settings: &MetricsSettings) -> usize {
        match self.metric().kind {
            MetricKind::Histogram if settings.exponential || !self.has_buckets(settings) => WITHOUT_BUCKETS,
            MetricKind::Histogram => names::BUCKETS.len() + WITHOUT_BUCKETS,
            _ => 1,
        }
    }
}

/// The bucket without a bound, the sum and the count: also what an exponential histogram is as text.
const WITHOUT_BUCKETS: usize = 3;

/// The commands with series of their own in [`MetricsDetail::Standard`]: until they end, a mail program shows nothing.
const STANDARD_COMMANDS: [CommandName; 6] = [
    CommandName::Login,
    CommandName::Authenticate,
    CommandName::List,
    CommandName::Select,
    CommandName::Examine,
    CommandName::Fetch,
];

/// The interval of an account, and its recent failures.
#[derive(Debug, Clone, Copy)]
pub struct ProbeState {
    /// From the planned start of a run to that of the next.
    pub interval: Seconds,
    /// Failed runs since the last passed one; void runs do not count.
    pub failures: u64,
}

/// A value to record.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Measurement {
    /// Into a histogram or a gauge.
    Number(f64),
    /// Into a counter or a gauge of whole numbers.
    Count(u64),
}

/// A series of an account: its metric, and its attributes that are not the account's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SeriesKey {
    pub(super) what: RunMetric,
    /// Index of the command, phase, cause or reason in its list.
    name: u8,
    /// Index of the status, part or direction in its list.
    more: u8,
    error: Option<ErrorType>,
}

/// No [`SeriesKey::name`] or [`SeriesKey::more`].
const NONE: u8 = u8::MAX;

const DIRECTIONS: &[&str] = &["transmit", "receive"];

impl SeriesKey {
    fn of(what: RunMetric) -> Self {
        Self { what, name: NONE, more: NONE, error: None }
    }

    /// A run that was due and not started.
    pub(super) fn skipped(reason: SkipReason) -> Self {
        Self { name: place(SkipReason::ALL, Some(reason)), ..Self::of(RunMetric::Skipped) }
    }

    /// `base`, the attributes of the account, and those of the series, sorted by key.
    pub(super) fn attributes(self, base: &[KeyValue]) -> Vec<KeyValue> {
        let mut all = Vec::with_capacity(base.len() + 3);
        all.extend_from_slice(base);
        let mut insert = |one: KeyValue| all.insert(all.partition_point(|other| other.key < one.key), one);
        if self.name != NONE {
            insert(match self.what {
                RunMetric::Setup => listed(names::IMAP_SETUP_PHASE, SetupStep::ALL, SetupStep::as_str, self.name),
                RunMetric::Slow => listed(names::CAUSE, Cause::ALL, Cause::as_str, self.name),
                RunMetric::Skipped => listed(names::SKIP_REASON, SkipReason::ALL, SkipReason::as_str, self.name),
                _ => listed(names::IMAP_COMMAND_NAME, CommandName::ALL, CommandName::as_str, self.name),
            });
        }
        if self.more != NONE {
            insert(match self.what {
                RunMetric::Timing => listed(names::TIMING_PART, &names::PARTS, |part| part, self.more),
                RunMetric::Io => listed(names::NETWORK_IO_DIRECTION, DIRECTIONS, |direction| direction, self.more),
                _ => listed(names::IMAP_RESPONSE_STATUS, Condition::ALL, Condition::as_str, self.more),
            });
        }
        if let Some(class) = self.error {
            insert(KeyValue::new(names::ERROR_TYPE, class.as_str()));
        }
        all
    }
}

fn listed<T: Copy>(key: &'static str, list: &[T], text: fn(T) -> &'static str, place: u8) -> KeyValue {
    KeyValue::new(key, list.get(usize::from(place)).map_or(names::OTHER, |one| text(*one)))
}

/// The index of a name in its closed list; the length of the list for an unknown one.
fn place<T: Copy + PartialEq>(list: &[T], name: Option<T>) -> u8 {
    let place = list.iter().position(|known| name == Some(*known)).unwrap_or(list.len());
    u8::try_from(place).unwrap_or(NONE)
}

/// All measurements of a run, in a fixed order. A void run has no `up`: it does not show the target's state.
pub(super) fn measure(
    run: &Run,
    state: Option<ProbeState>,
    settings: &MetricsSettings,
    mut enter: impl FnMut(SeriesKey, Measurement),
) {
    match run.outcome {
        RunOutcome::Passed => enter(SeriesKey::of(RunMetric::Up), Measurement::Count(1)),
        RunOutcome::Failed => enter(SeriesKey::of(RunMetric::Up), Measurement::Count(0)),
        RunOutcome::Void => {}
    }
    let end = run.started_at.epoch_seconds() + run.duration_s.as_f64();
    enter(SeriesKey::of(RunMetric::LastRun), Measurement::Number(end));
    if let Some(state) = state {
        enter(SeriesKey::of(RunMetric::Interval), Measurement::Number(state.interval.as_f64()));
        enter(SeriesKey::of(RunMetric::Failures), Measurement::Count(state.failures));
    }
    let duration = SeriesKey { error: run.error_type, ..SeriesKey::of(RunMetric::Duration) };
    enter(duration, Measurement::Number(run.duration_s.as_f64()));
    if let Some(latency) = run.counted_latency() {
        enter(SeriesKey::of(RunMetric::FirstLoading), Measurement::Number(latency.as_f64()));
    }
    if let Some(verdict) = &run.verdict {
        let name = place(Cause::ALL, Some(verdict.cause));
        enter(SeriesKey { name, ..SeriesKey::of(RunMetric::Slow) }, Measurement::Count(1));
    }
    let shook_hands = run.steps.iter().any(|step| step.name == SetupStep::Tls && step.outcome == StepOutcome::Passed);
    if let (true, Some(end)) = (shook_hands, run.server.certificate_not_after) {
        enter(SeriesKey::of(RunMetric::Certificate), Measurement::Number(end.epoch_seconds()));
    }
    for step in run.steps.iter().filter(|step| step.was_started() && step.outcome != StepOutcome::Skipped) {
        measure_step(step, settings, &mut enter);
    }
}

fn measure_step(step: &Step, settings: &MetricsSettings, enter: &mut impl FnMut(SeriesKey, Measurement)) {
    let took = Measurement::Number(step.duration_s.as_f64());
    let command = if step.is_command() { place(CommandName::ALL, step.name.command()) } else { NONE };
    if let StepName::Setup(setup) = step.name {
        let name = place(SetupStep::ALL, Some(setup));
        enter(SeriesKey { name, error: step.error_type, ..SeriesKey::of(RunMetric::Setup) }, took);
    } else if settings.detail == MetricsDetail::Full
        || step.name.command().is_some_and(|name| STANDARD_COMMANDS.contains(&name))
    {
        let more = step.status.map_or(NONE, |status| place(Condition::ALL, Some(status)));
        enter(SeriesKey { what: RunMetric::Operation, name: command, more, error: step.error_type }, took);
        // Not of a command that failed: a deadline is not the time of a part.
        if settings.timing && step.outcome == StepOutcome::Passed {
            for (more, took) in (0..).zip([step.server_s, step.network_s, step.transfer_s]) {
                if let Some(took) = took {
                    let key = SeriesKey { name: command, more, ..SeriesKey::of(RunMetric::Timing) };
                    enter(key, Measurement::Number(took.as_f64()));
                }
            }
        }
    }
    for (more, bytes) in (0..).zip([step.sent_bytes, step.received_bytes]) {
        if let Some(bytes) = bytes.filter(|bytes| *bytes > 0 && settings.detail == MetricsDetail::Full) {
            enter(SeriesKey { name: command, more, ..SeriesKey::of(RunMetric::Io) }, Measurement::Count(bytes));
        }
    }
    if let Some(messages) = step.mailbox_messages {
        enter(SeriesKey::of(RunMetric::Messages), Measurement::Count(messages));
    }
    if step.usual_messages.is_some() {
        enter(SeriesKey::of(RunMetric::Shrunk), Measurement::Count(1));
    }
}
