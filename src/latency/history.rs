//! The series of all accounts, and the comparison of a run with them.
//!
//! No input or output, no clock; `saved` turns it into text and back. `agent` keeps one [`History`].
//!
//! Memory: 368 bytes for the values of a series (a step of one account, with `address = "each"` over one family; and First Loading
//! Latency), some 700 beside them for what else is usual. A run has 7 to 12 steps.

mod saved;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::UNIX_EPOCH,
};

use imaptrace_record::{AddressFamily, Run, RunOutcome, Seconds, StepName, StepOutcome};
use serde::{Deserialize, Serialize};

pub use self::saved::{HEAD, UnknownFormat};
use super::{
    baseline::{Baseline, Levels},
    day_baseline::Hour,
    slow_rule::{Settings, micros, ratio, standing_out},
    usual::UsualValues,
};

/// The series of all accounts.
#[derive(Debug)]
pub struct History {
    settings: Settings,
    /// In boxes: a map has more places than entries.
    accounts: HashMap<Arc<HistoryKey>, Box<AccountBaselines>>,
    names: Names,
}

/// One copy of each name of a step or mailbox.
#[derive(Debug, Default)]
struct Names(BTreeSet<Arc<str>>);

/// What is known of one account.
#[derive(Debug)]
pub(super) struct AccountBaselines {
    steps: StepBaselines,
    /// First Loading Latency.
    latency: Baseline,
    usual: UsualValues,
    /// Its present was accepted as usual since the last run.
    accepted: bool,
}

/// The series of an account's steps, in the order of their first appearance.
type StepBaselines = Vec<(Arc<str>, Baseline)>;

/// What a history belongs to: an account of a target, one journey and, with `address = "each"`, one address family.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HistoryKey {
    target: Box<str>,
    account: Box<str>,
    journey: Box<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    family: Option<Box<str>>,
}

impl HistoryKey {
    /// The names as in the record. The address family is that of a run, given only with `address = "each"`.
    pub fn new(target: &str, account: &str, journey: &str, family: Option<AddressFamily>) -> Self {
        Self {
            target: target.into(),
            account: account.into(),
            journey: journey.into(),
            family: family.map(AddressFamily::as_str).map(Into::into),
        }
    }

    fn of(run: &Run) -> Self {
        Self::new(&run.target, &run.account, run.journey.as_str(), run.family)
    }
}

/// A series has moved to another level for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shift {
    /// The step's name; none for First Loading Latency.
    pub step: Option<StepName>,
    /// The level that was reported last, or the first one.
    pub from: Seconds,
    /// The new one: the median of the newest 31 values.
    pub to: Seconds,
}

impl History {
    /// An empty history.
    pub fn new(settings: Settings) -> Self {
        Self { settings, accounts: HashMap::new(), names: Names::default() }
    }

    /// Compares a finished run with the history: sets the baselines and ratios of its steps and of the run, `slow` of both,
    /// `slowest_step`, and `usual` of a run that is slow or failed. Then adds its times to the series if it passed. Returns the
    /// shifts that it completed, each once.
    ///
    /// Steps that passed are compared, and First Loading Latency, except those of a void run. Fixed limits apply to every step
    /// that was started. A run that pauses of this process delayed is neither compared nor added.
    pub fn evaluate(&mut self, run: &mut Run) -> Vec<Shift> {
        if run.is_latency_delayed() {
            return Vec::new();
        }
        let (key, hour) = (HistoryKey::of(run), hour(run));
        let known = self.accounts.get(&key).map(Box::as_ref);
        let (settings, min_runs) = (&self.settings, self.settings.min_runs);
        let is_void = run.outcome == RunOutcome::Void;
        for step in run.steps.iter_mut().filter(|step| step.was_started()) {
            let comparable = step.outcome == StepOutcome::Passed && !is_void;
            let baseline = known.filter(|_| comparable).and_then(|known| known.step(step.name.as_str()));
            let levels = baseline.map(|baseline| baseline.levels(hour, min_runs)).unwrap_or_default();
            let compared = Compared::new(step.duration_s, levels);
            (step.baseline_s, step.ratio) = compared.running;
            (step.baseline_day_s, step.ratio_day) = compared.day;
            let by_history = step.lower_baseline().is_some_and(|usual| settings.is_slow(step.duration_s, usual));
            step.slow = (by_history || settings.over_limit(step).is_some()).then_some(true);
        }
        let latency = run.first_loading_latency_s.filter(|_| !is_void);
        let levels = latency.and(known).map(|known| known.latency.levels(hour, min_runs)).unwrap_or_default();
        let compared = Compared::new(latency.unwrap_or_default(), levels);
        (run.baseline_s, run.ratio) = compared.running;
        (run.baseline_day_s, run.ratio_day) = compared.day;
        let is_slow = settings.is_latency_slow(run) || run.steps.iter().any(|step| step.slow == Some(true));
        run.slow = is_slow.then_some(true);
        let loading = run.loading_steps().filter(|step| step.was_started());
        run.slowest_step = standing_out(loading, settings).map(|step| step.name.clone());
        let explains = is_slow || run.outcome == RunOutcome::Failed;
        run.usual = known.filter(|_| explains).and_then(|known| known.usual.facts(run, min_runs)).map(Box::new);
        if run.outcome == RunOutcome::Passed { self.add(key, run, hour) } else { Vec::new() }
    }

    /// The usual number of messages in a mailbox of the account: the running median of its last 63 passed runs. None before
    /// [`Settings::min_runs`] of them.
    pub fn usual_messages(&self, key: &HistoryKey, mailbox: &str) -> Option<u64> {
        self.accounts.get(key)?.usual.messages(mailbox, self.settings.min_runs)
    }

    /// Takes the present as usual after an intended change: of each series of the target's account (or of all its accounts) only
    /// the newest five values stay, and the day begins again; messages, round trip and certificates are learned again. No shift is
    /// reported for it. Returns the number of series.
    pub fn accept(&mut self, target: &str, account: Option<&str>) -> usize {
        let is_meant =
            |key: &HistoryKey| *key.target == *target && account.is_none_or(|account| *key.account == *account);
        let mut series = 0;
        for (_, account) in self.accounts.iter_mut().filter(|(key, _)| is_meant(key)) {
            for baseline in account.steps.iter_mut().map(|(_, baseline)| baseline).chain([&mut account.latency]) {
                baseline.accept();
                series += 1;
            }
            account.usual = UsualValues::new(self.names.shared(""));
            account.accepted = true;
        }
        series
    }

    /// Whether the present of the run's account was accepted before this run, and after the one before: its slow period is over
    /// then. True once.
    pub fn take_accepted(&mut self, run: &Run) -> bool {
        let account = self.accounts.get_mut(&HistoryKey::of(run));
        account.is_some_and(|account| std::mem::take(&mut account.accepted))
    }

    fn add(&mut self, key: HistoryKey, run: &Run, hour: Hour) -> Vec<Shift> {
        let (apart, min_runs) = (self.settings.shift(), self.settings.min_runs);
        let Self { accounts, names, .. } = self;
        let account = accounts.entry(Arc::new(key)).or_insert_with(|| Box::new(AccountBaselines::new(names)));
        let mut shifts = Vec::new();
        let mut enter = |baseline: &mut Baseline, time, counts, step: Option<&StepName>| {
            baseline.enter(micros(time), hour, counts);
            if let Some((from, to)) = baseline.shift(apart, min_runs) {
                let [from, to] = [from, to].map(|micros| Seconds::from_micros(micros.into()));
                shifts.push(Shift { step: step.cloned(), from, to });
            }
        };
        let mut counted: Vec<&str> = Vec::with_capacity(run.steps.len());
        // A LOGOUT may fail in a run that passed.
        let passed = run.steps.iter().filter(|step| step.was_started() && step.outcome == StepOutcome::Passed);
        if account.steps.is_empty() {
            account.steps.reserve_exact(passed.clone().count());
        }
        for step in passed {
            let name = step.name.as_str();
            enter(account.series(names, name), step.duration_s, !counted.contains(&name), Some(&step.name));
            counted.push(name);
        }
        if let Some(latency) = run.first_loading_latency_s {
            enter(&mut account.latency, latency, true, None);
        }
        account.usual.enter(run, hour, |name| names.shared(name));
        shifts
    }
}

/// The hour in which a run started.
fn hour(run: &Run) -> Hour {
    let since = run.started_at.to_system_time().duration_since(UNIX_EPOCH).unwrap_or_default();
    Hour::try_from(since.as_secs() / 3_600).unwrap_or(Hour::MAX)
}

/// A time beside its baselines.
struct Compared {
    running: (Option<Seconds>, Option<f64>),
    day: (Option<Seconds>, Option<f64>),
}

impl Compared {
    fn new(took: Seconds, levels: Levels) -> Self {
        let with = |level: Option<u32>| {
            (level.map(|level| Seconds::from_micros(level.into())), level.and_then(|level| ratio(micros(took), level)))
        };
        Self { running: with(levels.running), day: with(levels.day) }
    }
}

impl AccountBaselines {
    fn new(names: &mut Names) -> Self {
        Self { steps: Vec::new(), latency: Baseline::new(), usual: UsualValues::new(names.shared("")), accepted: false }
    }

    fn step(&self, step: &str) -> Option<&Baseline> {
        self.steps.iter().find(|(name, _)| **name == *step).map(|(_, baseline)| baseline)
    }

    /// The series of a step, which is added if it is missing.
    fn series(&mut self, names: &mut Names, step: &str) -> &mut Baseline {
        let at = self.steps.iter().position(|(name, _)| **name == *step).unwrap_or_else(|| {
            // After the first run a new step is rare: doubled capacity would never be used.
            self.steps.reserve_exact(1);
            self.steps.push((names.shared(step), Baseline::new()));
            self.steps.len() - 1
        });
        &mut self.steps[at].1
    }
}

impl Names {
    fn shared(&mut self, name: &str) -> Arc<str> {
        self.0.get(name).cloned().unwrap_or_else(|| {
            let name: Arc<str> = name.into();
            self.0.insert(name.clone());
            name
        })
    }
}
