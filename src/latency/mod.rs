//! What is usual for each step of each account, and which step of a run was not (docs/measurement.md).
//!
//! Pure: it is handed runs, adds its verdicts to them and keeps what it learned in memory, or as lines of text for
//! whoever has a disk. No clock, no input or output; what the server, the line and the transfer took is the probe's to
//! say. `agent` keeps a [`History`]; every run passes [`share`], one-shot ones too.
//!
//! Memory: 264 bytes for the values of a series (a step of one account of one target, with `address = "each"` over one
//! family), 280 with its name, 300 to 320 with its part of the maps. A run makes 7 to 12 of them. Measured as resident
//! memory of 10,000 accounts, with the allocator's gaps: 410 bytes a series at 7 steps, 350 at 12.

mod baseline;
mod spell;
mod state;
mod verdict;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use imaptrace_record::{Run, RunOutcome, Seconds, Step, StepName, StepOutcome};

use self::{
    baseline::Baseline,
    verdict::{micros, ratio},
};

pub use spell::{SlowSpell, SpellChange, UsualMoved};
pub use state::{HEAD, Key, UnknownFormat};
pub use verdict::Settings;

/// What is known of all accounts.
#[derive(Debug)]
pub struct History {
    settings: Settings,
    accounts: HashMap<Arc<Key>, Account>,
    /// One copy of each step's name.
    names: BTreeSet<Arc<str>>,
}

/// The series of one account, by step, in the order in which they first came.
type Account = Vec<(Arc<str>, Baseline)>;

/// A series has settled on another level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shift {
    /// The step's name.
    pub step: StepName,
    /// The level that was told last, or the first one.
    pub from: Seconds,
    /// The new one: the median of the newest 31 values.
    pub to: Seconds,
}

impl History {
    /// One that knows nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self { settings, accounts: HashMap::new(), names: BTreeSet::new() }
    }

    /// Adds the verdicts to a finished run (`baseline_s`, `ratio` and `slow` of its steps, `slow` and `slowest_step` of
    /// its own), then learns from it if it passed. Gives the shifts that it completed; each is given once.
    ///
    /// Steps that passed are held against their history, except those of a void run, in which imaptrace itself was in
    /// the way. Fixed limits hold for every step that was started. A run that our own pauses delayed is held against
    /// nothing, and nothing is learned from it.
    pub fn judge(&mut self, run: &mut Run) -> Vec<Shift> {
        if run.is_latency_delayed() {
            return Vec::new();
        }
        let key = Key::of(run);
        let known = self.accounts.get(&key).map_or(&[][..], Vec::as_slice);
        for step in run.steps.iter_mut().filter(|step| step.was_started()) {
            let usual = known.iter().find(|(name, _)| **name == *step.name.as_str()).map(|(_, baseline)| baseline);
            let usual = usual.filter(|it| it.runs() >= self.settings.min_runs).and_then(Baseline::median);
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
        if run.outcome == RunOutcome::Passed { self.learn(key, run) } else { Vec::new() }
    }

    fn learn(&mut self, key: Key, run: &Run) -> Vec<Shift> {
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

/// The series of a step; a new one when there is none.
fn series<'a>(account: &'a mut Account, names: &mut BTreeSet<Arc<str>>, step: &str) -> &'a mut Baseline {
    let at = account.iter().position(|(name, _)| **name == *step).unwrap_or_else(|| {
        let name = names.get(step).cloned().unwrap_or_else(|| step.into());
        names.insert(name.clone());
        // A new step is rare after the first run: room for as many again would never be used.
        account.reserve_exact(1);
        account.push((name, Baseline::new()));
        account.len() - 1
    });
    &mut account[at].1
}

/// Of these steps the one to look at: past its fixed limit, by the most; else slow, by the most over its baseline (a step
/// without one counts with all of its time); else the longest.
fn standing_out<'a>(steps: impl Iterator<Item = &'a Step>, settings: &Settings) -> Option<&'a Step> {
    steps.max_by_key(|step| {
        let over_baseline = step.duration_s.saturating_sub(step.baseline_s.unwrap_or_default());
        (settings.over_limit(step), (step.slow == Some(true)).then_some(over_baseline), step.duration_s)
    })
}

/// Fills in what part of First Loading Latency each step was, in a run that has one.
pub fn share(run: &mut Run) {
    let Some(all) = run.first_loading_latency_s.filter(|all| *all > Seconds::ZERO) else { return };
    let loading: Vec<_> = run.loading_steps().filter(|step| step.was_started()).map(|step| step.span_id).collect();
    for step in run.steps.iter_mut().filter(|step| loading.contains(&step.span_id)) {
        step.share = Some((step.duration_s.as_f64() / all.as_f64() * 1e4).round() / 1e4);
    }
}

#[cfg(test)]
mod tests;
