//! How many metric series a configuration makes, and how many samples Prometheus sees of them at each scrape
//! (docs/configuration.md), so that it can be refused before it costs anything.
//!
//! A histogram counts as one series for each set of attributes, as OpenTelemetry counts; in Prometheus it is one sample
//! for each bucket, one for its sum and one for its count. Called by `load` and `describe`.

use std::{
    collections::HashMap,
    ops::{Add, Mul},
};

use crate::{
    config::Config,
    plan::{AddressChoice, Host, Security, Target},
};

/// Commands that every run sends once: CAPABILITY, ID, LOGIN or AUTHENTICATE, NAMESPACE, LIST, SELECT or EXAMINE,
/// FETCH, LOGOUT. STARTTLS comes on top.
const COMMANDS: u64 = 8;

/// `imaptrace.timing.duration` parts the time of a command into so many.
const TIMING_PARTS: u64 = 3;

/// Ways of failing that an account is reckoned to show in its life: each adds a series for the run and one for the step.
const FAILURES: u64 = 5;

/// `imaptrace.probe.skipped` has this many reasons.
const SKIP_REASONS: u64 = 4;

/// Samples of a histogram with the fixed bounds: 16 buckets, the one without a bound, sum and count.
pub const EXPLICIT_SAMPLES: u64 = 16 + 3;
/// Samples of an exponential one as text, which has no buckets but the one without a bound: that, sum and count.
/// Prometheus that reads native histograms counts it as one.
pub const EXPONENTIAL_SAMPLES: u64 = 3;
/// Samples of one span's name in the span metrics of otel-collector.yaml: 14 buckets, the one without a bound, sum, count,
/// and the number of calls.
pub const SPAN_SAMPLES: u64 = 14 + 4;

/// Numbers of series of both kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct SeriesCount {
    histograms: u64,
    /// Counters and gauges.
    others: u64,
}

impl SeriesCount {
    const fn new(histograms: u64, others: u64) -> Self {
        Self { histograms, others }
    }

    fn count(self) -> u64 {
        self.histograms + self.others
    }

    fn samples(self, exponential: bool) -> u64 {
        let each = if exponential { EXPONENTIAL_SAMPLES } else { EXPLICIT_SAMPLES };
        each * self.histograms + self.others
    }
}

impl Add for SeriesCount {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self::new(self.histograms + other.histograms, self.others + other.others)
    }
}

impl Mul<SeriesCount> for u64 {
    type Output = SeriesCount;

    fn mul(self, series: SeriesCount) -> SeriesCount {
        SeriesCount::new(self * series.histograms, self * series.others)
    }
}

/// Of the agent itself: start lag and delivery duration; active runs, queue size and limit, time and success of the last
/// reload, and how short of CPU it is (four).
const AGENT: SeriesCount = SeriesCount::new(2, 9);
/// And what it has when runs were dropped, by reason.
const AGENT_FAILING: SeriesCount = SeriesCount::new(0, 3);

/// The same for each account: a run and a step for each way of failing; runs that were skipped.
const ACCOUNT_FAILING: SeriesCount = SeriesCount::new(2 * FAILURES, SKIP_REASONS);

/// Something that is counted, while all runs pass and with an allowance for failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampleEstimate {
    /// While all runs start and pass.
    pub passing: u64,
    /// When each account has failed in five ways, and been skipped for each reason.
    pub failing: u64,
}

/// The number of series, with an allowance for failures.
pub fn series(config: &Config) -> u64 {
    let (passing, failing) = all(config);
    (passing + failing).count()
}

/// The number of samples that a scrape of the Collector finds of this agent. The description of the agent, `target_info`,
/// is one of them; what Prometheus adds for each of its own targets (`up` and the like) is not.
pub fn samples(config: &Config) -> SampleEstimate {
    let exponential = config.metrics.series.exponential;
    let (passing, failing) = all(config);
    SampleEstimate { passing: 1 + passing.samples(exponential), failing: 1 + (passing + failing).samples(exponential) }
}

/// The number of samples that come on top from the span metrics of otel-collector.yaml, which are made of the traces: for
/// each target and name of a span.
pub fn span_samples(config: &Config) -> SampleEstimate {
    let names = |target: &Target| 1 + phases(target) + commands(target);
    let passing: u64 = config.targets.iter().map(names).sum();
    let targets: u64 = config.targets.iter().map(|_| 1).sum();
    let samples = |names: u64| SPAN_SAMPLES * names;
    SampleEstimate { passing: samples(passing), failing: samples(passing + 2 * FAILURES * targets) }
}

/// What tells an account's series from those of others: the name, the account, the journey, and the labels that metrics
/// bear. Targets of one group share them when series are for groups.
type AccountKey<'a> = (&'a str, &'a str, &'a str, Vec<Option<&'a String>>);

/// The series while all runs pass, and those that failures add.
fn all(config: &Config) -> (SeriesCount, SeriesCount) {
    let mut accounts: HashMap<AccountKey<'_>, (u64, SeriesCount)> = HashMap::new();
    for target in &config.targets {
        let families = if target.address == AddressChoice::Each { 2 } else { 1 };
        let one = (families, families * per_account(target, config.metrics.series.timing));
        for account in &target.accounts {
            let labels = config.metrics.series.labels.iter().map(|label| target.labels.get(label)).collect();
            let name = target.series_name(config.metrics.per);
            let known = accounts.entry((name, &account.alias, target.journey.name().as_str(), labels)).or_default();
            // Of targets that share them, the one with the most has those of the others too.
            if (one.0, one.1.count()) > (known.0, known.1.count()) {
                *known = one;
            }
        }
    }
    let each = accounts.into_values().map(|(families, series)| (series, families * ACCOUNT_FAILING));
    each.fold((AGENT, AGENT_FAILING), |sum, one| (sum.0 + one.0, sum.1 + one.1))
}

fn commands(target: &Target) -> u64 {
    COMMANDS + u64::from(target.security == Security::StartTls)
}

/// Steps that are no command: connect, greeting, and as the case may be tls and resolve.
fn phases(target: &Target) -> u64 {
    let tls = target.security != Security::None;
    2 + u64::from(tls) + u64::from(matches!(target.endpoint.host, Host::Name(_)))
}

fn per_account(target: &Target, timing: bool) -> SeriesCount {
    let tls = target.security != Security::None;
    // First loading and the run's duration; up, last run, messages, bytes of the greeting, the certificate's end.
    let single = SeriesCount::new(2, 4 + u64::from(tls));
    // One duration and two directions of bytes for each command.
    let of_command = SeriesCount::new(1 + if timing { TIMING_PARTS } else { 0 }, 2);
    single + SeriesCount::new(phases(target), 0) + commands(target) * of_command
}
