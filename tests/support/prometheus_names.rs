//! What the Collector's Prometheus exporters and Prometheus's own OTLP receiver make of the names of metrics.

use imaptrace::telemetry::names::{Metric, MetricKind};

/// The name of a metric, and of an explicit histogram also those of its series.
pub(crate) fn prometheus_names(metric: &Metric) -> Vec<String> {
    let unit = match metric.unit {
        "s" => "_seconds",
        "By" => "_bytes",
        "" => "",
        unit if unit.starts_with('{') => "",
        unit => panic!("no Prometheus suffix is known for the unit {unit:?} of {}", metric.name),
    };
    let name = metric.name.replace('.', "_") + unit;
    match metric.kind {
        MetricKind::Counter => vec![name + "_total"],
        MetricKind::Histogram => ["", "_bucket", "_count", "_sum"].map(|part| format!("{name}{part}")).into(),
        MetricKind::UpDownCounter | MetricKind::Gauge => vec![name],
    }
}
