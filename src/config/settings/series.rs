//! The number of a configuration's samples in a scrape of Prometheus, each of which is a series there (docs/configuration.md).
//!
//! A histogram, which is one series in OpenTelemetry, has a sample for each bucket, one for its sum and one for its count. Called
//! by `load` and `describe`.

use std::{collections::HashMap, ops::Add};

use imaptrace_record::JourneyName;

use crate::{
    config::Config,
    plan::{AddressChoice, Host, Security, Target},
    telemetry::{
        MetricsDetail, MetricsSettings,
        names::{self, DiscoveryRefusal},
    },
};

/// Commands that every run sends once: CAPABILITY, ID, LOGIN or AUTHENTICATE, NAMESPACE, LIST, SELECT or EXAMINE,
/// FETCH, LOGOUT. STARTTLS comes on top.
const COMMANDS: u64 = 8;

/// Those of them that have a histogram in [`MetricsDetail::Standard`]: LOGIN or AUTHENTICATE, LIST, SELECT or EXAMINE, FETCH.
const STANDARD_COMMANDS: u64 = 4;

/// The parts of a command's time in `imaptrace.timing.duration`.
const TIMING_PARTS: u64 = 3;

/// The allowance of error types for each account: each adds a series for the run and one for the step.
const FAILURES: u64 = 5;

/// `imaptrace.probe.skipped` has this many reasons.
const SKIP_REASONS: u64 = 4;

/// The allowance of causes of `imaptrace.probe.slow` for each account.
const CAUSES: u64 = 3;

/// Samples of a histogram with the fixed bounds: 16 buckets, the one without a bound, sum and count.
pub const EXPLICIT_SAMPLES: u64 = names::BUCKETS.len() as u64 + SAMPLES_WITHOUT_BUCKETS;
/// Samples of one without bounds, and of an exponential one as text: the bucket without a bound, sum and count. With native
/// histograms an exponential one is one sample.
pub const SAMPLES_WITHOUT_BUCKETS: u64 = 3;
/// Samples of a span name in the span metrics of otel-collector.yaml: 14 buckets, the one without a bound, sum, count, and the
/// number of calls.
pub const SPAN_SAMPLES: u64 = 14 + 4;

/// Numbers of series of OpenTelemetry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct SeriesCount {
    /// Histograms with buckets.
    bucketed: u64,
    /// Histograms that have the bucket without a bound alone.
    unbucketed: u64,
    /// Counters and gauges.
    others: u64,
}

impl SeriesCount {
    const fn new(bucketed: u64, unbucketed: u64, others: u64) -> Self {
        Self { bucketed, unbucketed, others }
    }

    fn samples(self, exponential: bool) -> u64 {
        let each = if exponential { SAMPLES_WITHOUT_BUCKETS } else { EXPLICIT_SAMPLES };
        each * self.bucketed + SAMPLES_WITHOUT_BUCKETS * self.unbucketed + self.others
    }

    fn times(self, factor: u64) -> Self {
        Self::new(factor * self.bucketed, factor * self.unbucketed, factor * self.others)
    }
}

impl Add for SeriesCount {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self::new(self.bucketed + other.bucketed, self.unbucketed + other.unbucketed, self.others + other.others)
    }
}

/// Of the agent itself: start lag and delivery duration; whether it is up, copies, servers and those unreachable, the
/// configuration, active runs, queue size and limit, time and success of the last reload, and CPU shortage (four).
const AGENT: SeriesCount = SeriesCount::new(2, 0, 14);
/// Dropped runs by reason.
const AGENT_FAILING: SeriesCount = SeriesCount::new(0, 0, 3);

/// Of a source of targets: its targets, whether it fails, and its last success.
const SOURCE: u64 = 3;
/// Its refused targets, by the reason.
const SOURCE_FAILING: u64 = DiscoveryRefusal::ALL.len() as u64;

/// Of events of a sender that are not joined: late, unmatched, rejected, full.
const FAILING_JOINS: u64 = 4;
/// Of those that are not forwarded: late, rejected, full.
const FAILING_FORWARDS: u64 = 3;

/// A number of samples without failures, and with an allowance for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampleEstimate {
    /// While all runs start and pass.
    pub passing: u64,
    /// When each account has had five error types, three causes of slow runs and all reasons for a skipped run.
    pub failing: u64,
}

/// The number of this agent's samples in a scrape of the Collector, which are its series in Prometheus: with `target_info` but
/// without Prometheus's own, such as `up`.
pub fn samples(config: &Config) -> SampleEstimate {
    let kind = config.metrics.series.exponential;
    let (passing, failing) = all(config);
    SampleEstimate { passing: 1 + passing.samples(kind), failing: 1 + (passing + failing).samples(kind) }
}

/// The number of additional samples from the span metrics of otel-collector.yaml: for each target and name of a span.
pub fn span_samples(config: &Config) -> SampleEstimate {
    let passing = config.targets.iter().map(|target| 1 + phases(target) + commands(target));
    // Slow commands add the name of their waits.
    let failing = passing.clone().map(|names| names + 2 * FAILURES + 1);
    SampleEstimate { passing: SPAN_SAMPLES * passing.sum::<u64>(), failing: SPAN_SAMPLES * failing.sum::<u64>() }
}

/// The attributes of an account's series: the name, the account, the journey, and labels. Targets of a group share them when
/// series are for groups.
type AccountKey<'a> = (&'a str, &'a str, JourneyName, Vec<Option<String>>);

/// The series without failures, and those that failures add.
fn all(config: &Config) -> (SeriesCount, SeriesCount) {
    let mut accounts: HashMap<AccountKey<'_>, (u64, SeriesCount)> = HashMap::new();
    for target in &config.targets {
        let families = if target.address == AddressChoice::Each { 2 } else { 1 };
        let one = (families, per_account(target, &config.metrics.series).times(families));
        for (account, probed) in target.probed() {
            let labels = config.metrics.series.labels.iter().map(|label| probed.labels.get(label).cloned()).collect();
            let name = target.series_name(config.metrics.per);
            let known = accounts.entry((name, &account.alias, probed.journey.name().clone(), labels)).or_default();
            // Of targets that share series, the one with the most has all.
            if (one.0, one.1.samples(false)) > (known.0, known.1.samples(false)) {
                *known = one;
            }
        }
    }
    // Of events each sender has an outcome, and more where something is wrong; unknown senders have one together, and so have
    // the samples that this agent forwards.
    let events = &config.server_events;
    let (senders, receives, forwards) =
        (events.senders.len() as u64, events.listen.is_some(), events.forward.is_some());
    let samples = u64::from(forwards && events.accounting.is_some());
    let failing = if forwards { FAILING_FORWARDS } else { FAILING_JOINS };
    let sources = config.sources.len() as u64;
    let agent = AGENT + SeriesCount::new(0, 0, senders + samples + SOURCE * sources);
    let refused = SOURCE_FAILING * sources;
    let agent_failing =
        AGENT_FAILING + SeriesCount::new(0, 0, failing * (senders + samples) + u64::from(receives) + refused);
    let account_failing = failures_of_account(config.metrics.series.detail);
    let each = accounts.into_values().map(|(families, series)| (series, account_failing.times(families)));
    each.fold((agent, agent_failing), |sum, one| (sum.0 + one.0, sum.1 + one.1))
}

fn commands(target: &Target) -> u64 {
    COMMANDS + u64::from(target.security == Security::StartTls)
}

/// Setup steps: connect, greeting, and possibly tls and resolve.
fn phases(target: &Target) -> u64 {
    let tls = target.security != Security::None;
    2 + u64::from(tls) + u64::from(matches!(target.endpoint.host, Host::Name(_)))
}

fn per_account(target: &Target, settings: &MetricsSettings) -> SeriesCount {
    let tls = target.security != Security::None;
    // Up, last run, interval, failures, messages, the certificate's end.
    let gauges = 5 + u64::from(tls);
    let timing = |commands| if settings.timing { TIMING_PARTS * commands } else { 0 };
    // First loading has buckets always; the run's duration and the phases in full.
    match settings.detail {
        MetricsDetail::Standard => {
            SeriesCount::new(1 + STANDARD_COMMANDS + timing(STANDARD_COMMANDS), 1 + phases(target), gauges)
        }
        MetricsDetail::Full => {
            let commands = commands(target);
            // Two directions of bytes; the greeting has one.
            SeriesCount::new(2 + phases(target) + commands + timing(commands), 0, gauges + 1 + 2 * commands)
        }
    }
}

/// Of each account: a run and a step for each error type; slow runs by cause, skipped runs by reason, and runs with too few
/// messages.
fn failures_of_account(detail: MetricsDetail) -> SeriesCount {
    let others = CAUSES + SKIP_REASONS + 1;
    match detail {
        MetricsDetail::Standard => SeriesCount::new(FAILURES, FAILURES, others),
        MetricsDetail::Full => SeriesCount::new(2 * FAILURES, 0, others),
    }
}
