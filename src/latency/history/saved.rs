//! A [`History`] as lines of text, to be kept over restarts: one JSON object for each account, after a line that names the format.
//! A damaged line loses the history of one account. `agent::latency_store` reads and writes the file.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{History, HistoryKey, StepBaselines, series};
use crate::latency::{
    baseline::{Baseline, WINDOW},
    slow_rule::Settings,
};

/// The first line: the format of those that follow, and its version.
pub const HEAD: &str = r#"{"format":"imaptrace latency","version":1}"#;

/// The most steps read for an account. A journey has a dozen, so a line with more is damaged.
const STEPS: usize = 64;

/// The text does not begin with [`HEAD`]: it has another format or version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it does not begin as a latency history of this version does")]
pub struct UnknownFormat;

#[derive(Serialize, Deserialize)]
struct SavedAccount {
    #[serde(flatten)]
    key: HistoryKey,
    steps: Vec<SavedSeries>,
}

#[derive(Serialize, Deserialize)]
struct SavedSeries {
    name: String,
    runs: u32,
    settled_us: u32,
    /// Oldest first.
    values_us: Vec<u32>,
}

impl History {
    /// Reads the text of [`HEAD`] and [`Self::line`], for `wanted` targets and accounts. Also returns the number of damaged lines.
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

    /// Adds a history that was saved before. Of an account that is in both, the longer series are kept.
    pub fn merge(&mut self, saved: Self) {
        let reach = |account: &StepBaselines| account.iter().map(|(_, baseline)| baseline.newest_first().count()).max();
        for (key, account) in saved.accounts {
            if self.accounts.get(&key).is_none_or(|known| reach(known) < reach(&account)) {
                self.accounts.insert(key, account);
            }
        }
        self.names.extend(saved.names);
    }

    fn read(&mut self, line: &str) -> Option<(HistoryKey, StepBaselines)> {
        let SavedAccount { key, steps } =
            serde_json::from_str(line).ok().filter(|line: &SavedAccount| line.steps.len() <= STEPS)?;
        let mut account = StepBaselines::with_capacity(steps.len());
        for SavedSeries { name, runs, settled_us, values_us } in steps {
            *series(&mut account, &mut self.names, &name) = Baseline::restore(runs, settled_us, &values_us)?;
        }
        Some((key, account))
    }

    /// The keys of all accounts. A line for each is the whole state; they are read one by one, so that no run waits for all.
    pub fn keys(&self) -> Vec<Arc<HistoryKey>> {
        self.accounts.keys().cloned().collect()
    }

    /// The line of one account, without its line end.
    pub fn line(&self, key: &HistoryKey) -> Option<String> {
        let steps = self.accounts.get(key)?.iter().map(|(name, baseline)| {
            let mut values_us = Vec::with_capacity(WINDOW);
            values_us.extend(baseline.newest_first());
            values_us.reverse();
            SavedSeries { name: name.to_string(), runs: baseline.runs, settled_us: baseline.settled, values_us }
        });
        serde_json::to_string(&SavedAccount { key: key.clone(), steps: steps.collect() }).ok()
    }
}
