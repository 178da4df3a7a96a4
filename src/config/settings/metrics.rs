//! `[metrics]`: the series and their export. Called by `load`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use opentelemetry_sdk::metrics::Temporality;

use crate::{
    config::{
        sources::{
            readers::{Field, Table},
            schema::TableKeys,
        },
        targets::labels::check_prometheus_labels,
    },
    plan::{SeriesPer, Target},
    telemetry::{MetricsDetail, MetricsSettings},
};

pub(crate) static KEYS: TableKeys = TableKeys::new(
    "metrics",
    &["labels", "per", "series_limit", "export_interval", "detail", "histogram", "temporality", "timing"],
);

/// The series, and when they are exported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsOptions {
    /// The measurements that are kept. A configuration with more series than the limit is refused.
    pub series: MetricsSettings,
    /// The subject of a series.
    pub per: SeriesPer,
    /// The interval of exports.
    pub export_interval: Duration,
    /// The temporality of counters and histograms; none: that of OpenTelemetry's variable, otherwise cumulative.
    pub temporality: Option<Temporality>,
}

impl MetricsOptions {
    /// The default interval of exports.
    pub const EXPORT_INTERVAL: Duration = Duration::from_secs(15);
}

/// The values of `histogram`, for [`MetricsSettings::exponential`].
pub(crate) const HISTOGRAM: &[(&str, bool)] = &[("explicit", false), ("exponential", true)];

/// The values of `detail`.
pub(crate) const DETAIL: &[(&str, MetricsDetail)] =
    &[("standard", MetricsDetail::Standard), ("full", MetricsDetail::Full)];

/// The values of `temporality`.
pub(crate) const TEMPORALITY: &[(&str, Temporality)] =
    &[("cumulative", Temporality::Cumulative), ("delta", Temporality::Delta)];

pub(crate) fn read(table: &Table<'_>, targets: &[Target]) -> MetricsOptions {
    let mut labels = BTreeSet::new();
    for (field, label) in table.read("labels", Field::list).unwrap_or_default() {
        if !targets.is_empty()
            && !targets.iter().any(|target| target.probed().any(|(_, probed)| probed.labels.contains_key(&label)))
        {
            field.warn("no target has this label", "give a target the label, or take it out of the list");
        }
        labels.insert(label);
    }
    if let Some(field) = table.get("labels") {
        check_prometheus_labels(&field, labels.iter());
    }
    let per = table.read("per", Field::choice).unwrap_or(SeriesPer::Target);
    if per == SeriesPer::Group && !targets.is_empty() && targets.iter().all(|target| target.group.is_none()) {
        table.warn("per", "no target is in a group", "add [[groups]], or take it out");
    }
    let default = MetricsSettings::default();
    MetricsOptions {
        series: MetricsSettings {
            labels,
            exponential: table.read("histogram", |field| field.one_of(HISTOGRAM)).unwrap_or(default.exponential),
            series_limit: table
                .read("series_limit", |field| field.number(1..=u64::MAX))
                .unwrap_or(default.series_limit),
            detail: table.read("detail", |field| field.one_of(DETAIL)).unwrap_or(default.detail),
            timing: table.read("timing", Field::bool).unwrap_or(default.timing),
            agent_labels: BTreeMap::new(),
            one_shot: false,
        },
        per,
        export_interval: table.read("export_interval", Field::duration).unwrap_or(MetricsOptions::EXPORT_INTERVAL),
        temporality: table.read("temporality", |field| field.one_of(TEMPORALITY)),
    }
}
