//! `[metrics]`: what series there are and how often they are exported.
//!
//! Reads the table into plain values; nothing is done with them here. Called by `load`.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    config::sources::{readers::Table, schema::TableKeys},
    plan::{Per, Target},
    telemetry::MetricsSettings,
};

pub(crate) static KEYS: TableKeys =
    TableKeys::new("metrics", &["labels", "per", "series_limit", "export_interval", "histogram", "timing"]);

/// Which series there are, and when they are exported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsOptions {
    /// Which measurements are kept. A configuration with more series than its limit is refused.
    pub series: MetricsSettings,
    /// What a series is for.
    pub per: Per,
    /// How often metrics are exported.
    pub export_interval: Duration,
}

impl MetricsOptions {
    /// How often metrics are exported unless set.
    pub const EXPORT_INTERVAL: Duration = Duration::from_secs(15);
}

const PER: &[(&str, Per)] = &[("target", Per::Target), ("group", Per::Group)];

/// Reads `[metrics]`.
pub(crate) fn read(table: &Table<'_>, targets: &[Target]) -> MetricsOptions {
    let mut labels = BTreeSet::new();
    for (field, label) in table.get("labels").and_then(|field| field.list()).unwrap_or_default() {
        if !targets.is_empty() && !targets.iter().any(|target| target.labels.contains_key(&label)) {
            field.warn("no target has this label", "give a target the label, or take it out of the list");
        }
        labels.insert(label);
    }
    let per = table.get("per").and_then(|field| Some((field.choice(PER)?, field)));
    if let Some((Per::Group, field)) = &per
        && !targets.is_empty()
        && targets.iter().all(|target| target.group.is_none())
    {
        field.warn("no target is in a group", "add [[groups]], or take it out");
    }
    let kinds = [("explicit", false), ("exponential", true)];
    let default = MetricsSettings::default();
    let limit = table.get("series_limit").and_then(|field| field.number(1, u64::MAX));
    MetricsOptions {
        series: MetricsSettings {
            labels,
            exponential: table.get("histogram").and_then(|field| field.choice(&kinds)).unwrap_or(default.exponential),
            series_limit: limit.unwrap_or(default.series_limit),
            timing: table.get("timing").and_then(|field| field.bool()).unwrap_or(default.timing),
            one_shot: false,
        },
        per: per.map_or(Per::Target, |(per, _)| per),
        export_interval: table
            .get("export_interval")
            .and_then(|field| field.duration())
            .unwrap_or(MetricsOptions::EXPORT_INTERVAL),
    }
}
