//! A [`History`] as lines of text, to be kept over restarts: one JSON object for each account, after a line that names the format.
//! A damaged line loses the history of one account. `agent::latency_store` reads and writes the file.
//!
//! Versions before the day's baselines have `steps` alone, with less in them. They read these lines too, and leave out the rest.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{AccountBaselines, History, HistoryKey};
use crate::latency::{
    baseline::Baseline,
    certificates::{self, Certificates, SeenCertificate},
    day_baseline::{DayBaseline, Hour},
    running_median::{RunningMedian, WINDOW},
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first_loading_latency: Option<SavedSeries>,
    /// Oldest first, like all values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    messages: Vec<u32>,
    /// The mailbox of `messages`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mailbox: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    rtt_us: Vec<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certificates: Option<SavedCertificates>,
}

#[derive(Serialize, Deserialize)]
struct SavedSeries {
    /// The step; empty for First Loading Latency.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    name: String,
    runs: u32,
    settled_us: u32,
    values_us: Vec<u32>,
    /// Hourly medians.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    hours_us: Vec<u32>,
    /// The hour that has not ended, since 1970, and the number of its values.
    #[serde(default)]
    hour: Hour,
    #[serde(default)]
    hour_values: u8,
}

#[derive(Serialize, Deserialize)]
struct SavedCertificates {
    runs: u8,
    hours: u8,
    hour: Hour,
    seen: Vec<SavedCertificate>,
}

/// A bit for each run and hour that saw it.
#[derive(Serialize, Deserialize)]
struct SavedCertificate {
    sha256: String,
    runs: u64,
    hours: u32,
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
                Some((key, account)) => drop(history.accounts.insert(Arc::new(key), Box::new(account))),
                None => damaged += 1,
            }
        }
        Ok((history, damaged))
    }

    /// Adds a history that was saved before. Of an account that is in both, the longer series are kept.
    pub fn merge(&mut self, saved: Self) {
        let reach = |account: &AccountBaselines| account.steps.iter().map(|(_, baseline)| baseline.running.len()).max();
        for (key, account) in saved.accounts {
            if self.accounts.get(&key).is_none_or(|known| reach(known) < reach(&account)) {
                self.accounts.insert(key, account);
            }
        }
        self.names.0.extend(saved.names.0);
    }

    fn read(&mut self, line: &str) -> Option<(HistoryKey, AccountBaselines)> {
        let saved: SavedAccount =
            serde_json::from_str(line).ok().filter(|line: &SavedAccount| line.steps.len() <= STEPS)?;
        let mut account = AccountBaselines::new(&mut self.names);
        account.steps.reserve_exact(saved.steps.len());
        for step in saved.steps {
            let name = Some(step.name.as_str()).filter(|name| !name.is_empty())?;
            *account.series(&mut self.names, name) = step.restore()?;
        }
        if let Some(latency) = saved.first_loading_latency {
            account.latency = latency.restore()?;
        }
        let usual = &mut account.usual;
        usual.mailbox = self.names.shared(&saved.mailbox.unwrap_or_default());
        (usual.messages, usual.rtt) = (few(&saved.messages)?, few(&saved.rtt_us)?);
        if let Some(certificates) = saved.certificates {
            usual.certificates = certificates.restore()?;
        }
        Some((saved.key, account))
    }

    /// The keys of all accounts. A line for each is the whole state; they are read one by one, so that no run waits for all.
    pub fn keys(&self) -> Vec<Arc<HistoryKey>> {
        self.accounts.keys().cloned().collect()
    }

    /// The line of one account, without its line end.
    pub fn line(&self, key: &HistoryKey) -> Option<String> {
        let AccountBaselines { steps, latency, usual, .. } = &**self.accounts.get(key)?;
        let steps = steps.iter().map(|(name, baseline)| SavedSeries::of(name, baseline)).collect();
        let saved = SavedAccount {
            key: key.clone(),
            steps,
            first_loading_latency: (latency.running.len() > 0).then(|| SavedSeries::of("", latency)),
            messages: usual.messages.oldest_first(),
            mailbox: Some(usual.mailbox.to_string()).filter(|_| usual.messages.len() > 0),
            rtt_us: usual.rtt.oldest_first(),
            certificates: SavedCertificates::of(&usual.certificates),
        };
        serde_json::to_string(&saved).ok()
    }
}

/// These values, if there are not too many.
fn few(values: &[u32]) -> Option<RunningMedian> {
    (values.len() <= WINDOW).then(|| RunningMedian::of(values))
}

impl SavedSeries {
    fn of(name: &str, baseline: &Baseline) -> Self {
        let mut hours_us: Vec<_> = baseline.day.newest_first().collect();
        hours_us.reverse();
        let (hour, hour_values) = baseline.day.current();
        let values_us = baseline.running.oldest_first();
        Self {
            name: name.to_owned(),
            runs: baseline.runs,
            settled_us: baseline.settled,
            values_us,
            hours_us,
            hour,
            hour_values,
        }
    }

    fn restore(&self) -> Option<Baseline> {
        let day = DayBaseline::restore(&self.hours_us, self.hour, self.hour_values)?;
        Baseline::restore(self.runs, self.settled_us, &self.values_us, day)
    }
}

impl SavedCertificates {
    fn of(certificates: &Certificates) -> Option<Self> {
        let Certificates { seen, runs, hours, hour } = certificates;
        let saved = |one: &SeenCertificate| SavedCertificate {
            sha256: certificates::to_hex(&one.sha256),
            runs: one.runs,
            hours: one.hours,
        };
        (*runs > 0).then(|| Self { runs: *runs, hours: *hours, hour: *hour, seen: seen.iter().map(saved).collect() })
    }

    fn restore(self) -> Option<Certificates> {
        let seen = self.seen.into_iter().map(|one| {
            Some(SeenCertificate { sha256: certificates::parse(&one.sha256)?, runs: one.runs, hours: one.hours })
        });
        let seen = seen.collect::<Option<_>>()?;
        Certificates { seen, runs: self.runs, hours: self.hours, hour: self.hour }.restore()
    }
}
