//! A [`History`] as lines of text, so that it outlives the process: one line for each account, in JSON, behind a line
//! that says what it is. A damaged line costs one account its history and no other.
//!
//! Reads and writes no file. Called by `agent`.

use std::sync::Arc;

use imaptrace_record::{AddressFamily, Run};
use serde::{Deserialize, Serialize};

use super::{
    Account, History, Settings,
    baseline::{Baseline, WINDOW},
    series,
};

/// The first line: the form that follows, and its version.
pub const HEAD: &str = r#"{"format":"imaptrace latency","version":1}"#;

/// Steps read for an account, at most. A journey has a dozen, so more are damage.
const STEPS: usize = 64;

/// Whose history: an account of a target, in one journey and, with a run for each, over one family.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Key {
    target: Box<str>,
    account: Box<str>,
    journey: Box<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    family: Option<Box<str>>,
}

impl Key {
    pub(super) fn of(run: &Run) -> Self {
        Self {
            target: run.target.as_str().into(),
            account: run.account.as_str().into(),
            journey: run.journey.as_str().into(),
            family: run.family.map(AddressFamily::as_str).map(Into::into),
        }
    }
}

/// The text does not begin with [`HEAD`]: it is something else, or of another version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it does not begin as a latency history of this version does")]
pub struct UnknownFormat;

#[derive(Serialize, Deserialize)]
struct Line {
    #[serde(flatten)]
    key: Key,
    steps: Vec<Saved>,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    name: String,
    runs: u32,
    settled_us: u32,
    /// Oldest first.
    values_us: Vec<u32>,
}

impl History {
    /// Reads what [`HEAD`] and [`Self::line`] gave, for the accounts that are still `wanted` (by target and account).
    /// Says how many lines were damaged and left out.
    pub fn load(
        settings: Settings,
        text: &str,
        wanted: impl Fn(&str, &str) -> bool,
    ) -> Result<(Self, usize), UnknownFormat> {
        let mut lines = text.lines();
        if lines.next() != Some(HEAD) {
            return Err(UnknownFormat);
        }
        let (mut history, mut damaged) = (Self::new(settings), 0);
        for line in lines {
            match history.read(line) {
                Some((key, _)) if !wanted(&key.target, &key.account) => {}
                Some((key, account)) => drop(history.accounts.insert(Arc::new(key), account)),
                None => damaged += 1,
            }
        }
        Ok((history, damaged))
    }

    /// Takes up what was `saved` before. An account of which both know something keeps what goes further back, within
    /// the window.
    pub fn take_up(&mut self, saved: Self) {
        let reach = |account: &Account| account.iter().map(|(_, baseline)| baseline.newest_first().count()).max();
        for (key, account) in saved.accounts {
            if self.accounts.get(&key).is_none_or(|known| reach(known) < reach(&account)) {
                self.accounts.insert(key, account);
            }
        }
        self.names.extend(saved.names);
    }

    fn read(&mut self, line: &str) -> Option<(Key, Account)> {
        let Line { key, steps } = serde_json::from_str(line).ok().filter(|line: &Line| line.steps.len() <= STEPS)?;
        let mut account = Account::with_capacity(steps.len());
        for Saved { name, runs, settled_us, values_us } in steps {
            *series(&mut account, &mut self.names, &name) = Baseline::restore(runs, settled_us, &values_us)?;
        }
        Some((key, account))
    }

    /// All that something is known of. A line for each is the whole state; they can be had one by one, so that nobody
    /// who judges waits for all.
    pub fn keys(&self) -> Vec<Arc<Key>> {
        self.accounts.keys().cloned().collect()
    }

    /// What is known of one, without the end of the line.
    pub fn line(&self, key: &Key) -> Option<String> {
        let steps = self.accounts.get(key)?.iter().map(|(name, baseline)| {
            let mut values_us = Vec::with_capacity(WINDOW);
            values_us.extend(baseline.newest_first());
            values_us.reverse();
            Saved { name: name.to_string(), runs: baseline.runs(), settled_us: baseline.settled(), values_us }
        });
        serde_json::to_string(&Line { key: key.clone(), steps: steps.collect() }).ok()
    }
}
