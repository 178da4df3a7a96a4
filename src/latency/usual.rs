//! What else is usual for an account: the messages in its mailbox, the round trip to its server, and the certificate.
//!
//! A run is compared with it in the record ([`UsualFacts`]); whether a difference explains anything is not decided here. Called
//! by `history`.

use std::sync::Arc;

use imaptrace_record::{Run, Seconds, UsualFacts};

use super::{
    certificates::{self, CertificateHash, Certificates},
    day_baseline::Hour,
    running_median::RunningMedian,
    slow_rule::micros,
};

/// What passed runs of an account showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UsualValues {
    /// The mailbox whose messages were counted; empty before the first.
    pub(super) mailbox: Arc<str>,
    pub(super) messages: RunningMedian,
    /// In microseconds.
    pub(super) rtt: RunningMedian,
    pub(super) certificates: Certificates,
}

impl UsualValues {
    /// `mailbox` is the empty name.
    pub(super) fn new(mailbox: Arc<str>) -> Self {
        Self {
            mailbox,
            messages: RunningMedian::new(),
            rtt: RunningMedian::new(),
            certificates: Certificates::default(),
        }
    }

    /// The usual number of messages in this mailbox; none of another one, and before `min_runs` runs.
    pub(super) fn messages(&self, mailbox: &str, min_runs: u32) -> Option<u64> {
        median(&self.messages, min_runs).filter(|_| *self.mailbox == *mailbox).map(u64::from)
    }

    /// What a run is compared with; none if nothing is known.
    pub(super) fn facts(&self, run: &Run, min_runs: u32) -> Option<UsualFacts> {
        let opened = run.steps.iter().filter_map(|step| step.mailbox.as_deref()).next_back();
        let certificate = certificate(run);
        let changed = certificate.and_then(|hash| self.certificates.is_new(&hash, min_runs));
        let other = || self.certificates.other_than(&certificate?).map(certificates::to_hex);
        let facts = UsualFacts {
            messages: self.messages(opened.unwrap_or(&self.mailbox), min_runs),
            rtt_min_s: median(&self.rtt, min_runs).map(|rtt| Seconds::from_micros(rtt.into())),
            certificate_changed: changed,
            certificate_sha256: changed.filter(|changed| *changed).and_then(|_| other()),
        };
        (facts != UsualFacts::default()).then_some(facts)
    }

    /// Adds a passed run of this hour. `name` gives one copy of a mailbox's name.
    pub(super) fn enter(&mut self, run: &Run, hour: Hour, name: impl FnOnce(&str) -> Arc<str>) {
        let counted = |step: &imaptrace_record::Step| Some((step.mailbox.clone()?, step.mailbox_messages?));
        if let Some((mailbox, messages)) = run.steps.iter().rev().find_map(counted) {
            if *self.mailbox != *mailbox {
                (self.mailbox, self.messages) = (name(&mailbox), RunningMedian::new());
            }
            self.messages.push(u32::try_from(messages).unwrap_or(u32::MAX));
        }
        if let Some(rtt) = run.server.rtt_min_s {
            self.rtt.push(micros(rtt));
        }
        if let Some(hash) = certificate(run) {
            self.certificates.enter(&hash, hour);
        }
    }
}

/// The median of at least this many runs, which enter with a value each.
fn median(values: &RunningMedian, min_runs: u32) -> Option<u32> {
    values.median().filter(|_| values.len() >= min_runs as usize)
}

/// The certificate of the run's last connection.
fn certificate(run: &Run) -> Option<CertificateHash> {
    let hash = |step: &imaptrace_record::Step| certificates::parse(step.tls.as_ref()?.sha256.as_deref()?);
    run.steps.iter().rev().find_map(hash)
}
