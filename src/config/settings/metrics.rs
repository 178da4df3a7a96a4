//! `[metrics]`: what series there are and how often they are exported.
//!
//! Reads the table into plain values; nothing is done with them here. Called by `load`.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    config::sources::{readers::Table, schema::TableKeys},
    plan::{Per, Target},
};

pub(crate) static KEYS: TableKeys =
    TableKeys::new("metrics", &["labels", "per", "series_limit", "export_interval", "histogram", "timing"]);

/// What metrics look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsOptions {
    /// Labels of targets that metrics bear; traces bear all.
    pub labels: BTreeSet<String>,
    /// What a series is for.
    pub per: Per,
    /// A configuration with more series than this is refused.
    pub series_limit: u64,
    /// How often metrics are exported.
    pub export_interval: Duration,
    /// Which buckets histograms have.
    pub histogram: Histogram,
    /// Whether the parts of each command's time are a metric too.
    pub timing: bool,
}

impl MetricsOptions {
    /// How often metrics are exported unless set.
    pub const EXPORT_INTERVAL: Duration = Duration::from_secs(15);
}

/// Which buckets histograms have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Histogram {
    /// The fixed ones of the documentation.
    Explicit,
    /// Base-2 exponential ones.
    Exponential,
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
    let kinds = [("explicit", Histogram::Explicit), ("exponential", Histogram::Exponential)];
    let number = |key| table.get(key).and_then(|field| field.number(1, u64::MAX));
    MetricsOptions {
        labels,
        per: per.map_or(Per::Target, |(per, _)| per),
        series_limit: number("series_limit").unwrap_or(100_000),
        export_interval: table
            .get("export_interval")
            .and_then(|field| field.duration())
            .unwrap_or(MetricsOptions::EXPORT_INTERVAL),
        histogram: table.get("histogram").and_then(|field| field.choice(&kinds)).unwrap_or(Histogram::Explicit),
        timing: table.get("timing").and_then(|field| field.bool()).unwrap_or(false),
    }
}
