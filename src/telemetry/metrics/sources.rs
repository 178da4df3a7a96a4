//! What is known of the sources of targets, as gauges that are read at each export: the series of a source ends with it.
//! Makes no request: `discovery` writes the reports. Called by [`Metrics`](super::Metrics).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use opentelemetry::{
    KeyValue,
    metrics::{Meter, ObservableGauge},
};

use crate::telemetry::names::{self, DiscoveryRefusal, Metric};

/// What is known of one source.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SourceReport {
    /// The targets of its last good answer.
    pub targets: u64,
    /// Those of its last answer that were refused, by the reason.
    pub refused: BTreeMap<DiscoveryRefusal, u64>,
    /// Those of its last good answer that the configuration refuses.
    pub invalid: u64,
    /// When it last gave or confirmed targets that were taken.
    pub last_success: Option<SystemTime>,
    /// Whether its last question failed, or its answer was not taken.
    pub failing: bool,
}

/// The reports of all sources, by group and name; clones share them.
#[derive(Debug, Clone, Default)]
pub struct SourceReports(Arc<Mutex<BTreeMap<(String, String), SourceReport>>>);

impl SourceReports {
    /// Changes the report of a source, which begins empty.
    pub fn update(&self, group: &str, source: &str, change: impl FnOnce(&mut SourceReport)) {
        change(self.all().entry((group.to_owned(), source.to_owned())).or_default());
    }

    /// Keeps the sources for which `keep` returns true, by group and name.
    pub fn retain(&self, keep: impl Fn(&str, &str) -> bool) {
        self.all().retain(|(group, source), _| keep(group, source));
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<(String, String), SourceReport>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `observe` with the attributes of each source, which has these labels too.
    fn each(&self, labels: &[KeyValue], mut observe: impl FnMut(&SourceReport, &[KeyValue])) {
        for ((group, source), report) in &*self.all() {
            let group = KeyValue::new(names::DISCOVERY_GROUP, group.clone());
            let source = KeyValue::new(names::DISCOVERY_SOURCE, source.clone());
            let attributes: Vec<_> = labels.iter().cloned().chain([group, source]).collect();
            observe(report, &attributes);
        }
    }
}

/// The instruments, which hold their callbacks.
pub(super) struct SourceInstruments {
    _counts: [ObservableGauge<u64>; 3],
    _time: ObservableGauge<f64>,
}

impl SourceInstruments {
    /// `labels`: of the agent, on each series.
    pub(super) fn new(meter: &Meter, reports: &SourceReports, labels: &Arc<[KeyValue]>) -> Self {
        let counts = |metric: Metric| {
            meter.u64_observable_gauge(metric.name).with_unit(metric.unit).with_description(metric.description)
        };
        let (all, own) = (reports.clone(), labels.clone());
        let targets = counts(names::DISCOVERY_TARGETS).with_callback(move |observer| {
            all.each(&own, |report, source| observer.observe(report.targets, source));
        });
        let (all, own) = (reports.clone(), labels.clone());
        let failing = counts(names::DISCOVERY_FAILING).with_callback(move |observer| {
            all.each(&own, |report, source| observer.observe(report.failing.into(), source));
        });
        let (all, own) = (reports.clone(), labels.clone());
        let refused = counts(names::DISCOVERY_REFUSED).with_callback(move |observer| {
            all.each(&own, |report, source| {
                let mut counts = report.refused.clone();
                *counts.entry(DiscoveryRefusal::Invalid).or_default() += report.invalid;
                for (refusal, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
                    let refusal = KeyValue::new(names::DISCOVERY_REFUSAL, refusal.as_str());
                    observer.observe(count, &[source, &[refusal]].concat());
                }
            });
        });
        let (all, own) = (reports.clone(), labels.clone());
        let metric = names::DISCOVERY_LAST_SUCCESS_TIME;
        let time = meter.f64_observable_gauge(metric.name).with_unit(metric.unit).with_description(metric.description);
        let time = time.with_callback(move |observer| {
            all.each(&own, |report, source| {
                let since = report.last_success.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
                if let Some(since) = since {
                    observer.observe(since.as_secs_f64(), source);
                }
            });
        });
        Self { _counts: [targets.build(), failing.build(), refused.build()], _time: time.build() }
    }
}
