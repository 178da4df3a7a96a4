//! The series of all accounts, and the comparison of a run with them.
//!
//! No input or output, no clock; `saved` turns it into text and back. `agent` keeps one [`History`].
//!
//! Memory: 264 bytes for the values of a series (a step of one account, with `address = "each"` over one family), 300 to 320 with
//! its part of the maps. A run has 7 to 12. Resident memory of 10,000 accounts: 410 bytes a series at 7 steps, 350 at 12.

mod saved;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use imaptrace_record::{AddressFamily, Run, RunOutcome, Seconds, StepName, StepOutcome};
use serde::{Deserialize, Serialize};

pub use self::saved::{HEAD, UnknownFormat};
use super::{
    baseline::Baseline,
    slow_rule::{Settings, micros, ratio, standing_out},
};

/// The series of all accounts.
#[derive(Debug)]
pub struct History {
    settings: Settings,
    accounts: HashMap<Arc<HistoryKey>, StepBaselines>,
    /// One copy of each step's name.
    names: BTreeSet<Arc<str>>,
}

/// The series of one account, by step, in the order of their first appearance.
pub(super) type StepBaselines = Vec<(Arc<str>, Baseline)>;

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
    fn of(run: &Run) -> Self {
        Self {
            target: run.target.as_str().into(),
            account: run.account.as_str().into(),
            journey: run.journey.as_str().into(),
            family: run.family.map(AddressFamily::as_str).map(Into::into),
        }
    }
}

/// A series has moved to another level for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shift {
    /// The step's name.
    pub step: StepName,
    /// The level that was reported last, or the first one.
    pub from: Seconds,
    /// The new one: the median of the newest 31 values.
    pub to: Seconds,
}

impl History {
    /// An empty history.
    pub fn new(settings: Settings) -> Self {
        Self { settings, accounts: HashMap::new(), names: BTreeSet::new() }
    }

    /// Sets `baseline_s`, `ratio` and `slow` of the steps of a finished run, and `slow` and `slowest_step` of the run, then
    /// adds its times to the series if it passed. Returns the shifts that it completed, each once.
    ///
    /// Steps that passed are compared with their history, except those of a void run. Fixed limits apply to every step that was
    /// started. A run that pauses of this process delayed is neither compared nor added.
    pub fn evaluate(&mut self, run: &mut Run) -> Vec<Shift> {
        if run.is_latency_delayed() {
            return Vec::new();
        }
        let key = HistoryKey::of(run);
        let known = self.accounts.get(&key).map_or(&[][..], Vec::as_slice);
        for step in run.steps.iter_mut().filter(|step| step.was_started()) {
            let usual = known.iter().find(|(name, _)| **name == *step.name.as_str()).map(|(_, baseline)| baseline);
            let usual = usual.filter(|it| it.runs >= self.settings.min_runs).and_then(Baseline::median);
            let comparable = step.outcome == StepOutcome::Passed && run.outcome != RunOutcome::Void;
            let usual = usual.filter(|_| comparable);
            let took = micros(step.duration_s);
            step.baseline_s = usual.map(|usual| Seconds::from_micros(usual.into()));
            step.ratio = usual.and_then(|usual| ratio(took, usual));
            let by_history = usual.is_some_and(|usual| self.settings.slow().between(took, usual));
            step.slow = (by_history || self.settings.over_limit(step).is_some()).then_some(true);
        }
        run.slow = run.steps.iter().any(|step| step.slow == Some(true)).then_some(true);
        let loading = run.loading_steps().filter(|step| step.was_started());
        run.slowest_step = standing_out(loading, &self.settings).map(|step| step.name.clone());
        if run.outcome == RunOutcome::Passed { self.add(key, run) } else { Vec::new() }
    }

    fn add(&mut self, key: HistoryKey, run: &Run) -> Vec<Shift> {
        let (apart, min_runs) = (self.settings.shift(), self.settings.min_runs);
        let account = self.accounts.entry(Arc::new(key)).or_default();
        let mut shifts = Vec::new();
        let mut counted: Vec<&str> = Vec::with_capacity(run.steps.len());
        // A LOGOUT may fail in a run that passed.
        let passed = run.steps.iter().filter(|step| step.was_started() && step.outcome == StepOutcome::Passed);
        if account.is_empty() {
            account.reserve_exact(passed.clone().count());
        }
        for step in passed {
            let baseline = series(account, &mut self.names, step.name.as_str());
            baseline.enter(micros(step.duration_s), !counted.contains(&step.name.as_str()));
            counted.push(step.name.as_str());
            if let Some((from, to)) = baseline.shift(apart, min_runs) {
                let [from, to] = [from, to].map(|micros| Seconds::from_micros(micros.into()));
                shifts.push(Shift { step: step.name.clone(), from, to });
            }
        }
        shifts
    }
}

/// The series of a step, which is added if it is missing.
fn series<'a>(account: &'a mut StepBaselines, names: &mut BTreeSet<Arc<str>>, step: &str) -> &'a mut Baseline {
    let at = account.iter().position(|(name, _)| **name == *step).unwrap_or_else(|| {
        let name = names.get(step).cloned().unwrap_or_else(|| step.into());
        names.insert(name.clone());
        // After the first run a new step is rare: doubled capacity would never be used.
        account.reserve_exact(1);
        account.push((name, Baseline::new()));
        account.len() - 1
    });
    &mut account[at].1
}
