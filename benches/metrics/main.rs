//! What metrics cost: the measurements of a run, the memory of a series, reading and encoding all.
//!
//! `make bench-metrics`. It needs nothing but this machine, sends nothing, prints figures and judges none.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a program that measures: a fault ends it, and what it finds goes to standard output"
)]

use std::{fmt::Write as _, fs, time::Instant};

use imaptrace::telemetry::{Collection, Metrics, MetricsDetail, MetricsSettings, ResourceSettings, resource};
use imaptrace_record::Run;
use opentelemetry_proto::tonic::{collector::metrics::v1::ExportMetricsServiceRequest, metrics::v1::metric::Data};
use opentelemetry_sdk::metrics::{Temporality, data::ResourceMetrics};
use prost::Message as _;

/// Accounts, as many as give some 100,000 series.
const ACCOUNTS: [(bool, u32); 2] = [(false, 2_900), (true, 1_700)];
const ROUNDS: u32 = 5;
/// Runs of one account, whose series stay in the cache.
const HOT: u32 = 50_000;

fn main() {
    // Which of the two: each in a process of its own, since the allocator keeps what the first one freed.
    let Ok(which) = std::env::var("METRICS_TIMING") else {
        for timing in ["no", "yes"] {
            let program = std::env::current_exe().unwrap();
            assert!(std::process::Command::new(program).env("METRICS_TIMING", timing).status().unwrap().success());
        }
        return;
    };
    let (timing, accounts) = ACCOUNTS[usize::from(which == "yes")];
    let mut run: Run = serde_json::from_str(include_str!("run.json")).unwrap();
    let settings =
        MetricsSettings { timing, series_limit: 10_000_000, detail: MetricsDetail::Full, ..Default::default() };
    let metrics = Metrics::new(&settings, resource(&ResourceSettings::default()), Temporality::Cumulative);
    let before = resident();
    let mut once = |metrics: &Metrics| {
        for number in 0..accounts {
            run.target.clear();
            write!(run.target, "mail{number:05}.example.org").unwrap();
            metrics.record(&run);
        }
    };
    once(&metrics);
    let bytes = resident() - before;
    let series = points(&metrics.collections().iter().filter_map(Collection::collect).collect::<Vec<_>>());
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let (of_series, count) = (bytes / series as f64, series as f64);
    println!("timing {which}: {accounts} accounts, {series} series, {of_series:.0} B a series");
    let began = Instant::now();
    for _ in 0..ROUNDS {
        once(&metrics);
    }
    let took = began.elapsed().as_secs_f64() / f64::from(ROUNDS * accounts);
    println!("timing {which}: {:.2} us a run, each of another account", took * 1e6);
    let began = Instant::now();
    for _ in 0..HOT {
        metrics.record(&run);
    }
    let took = began.elapsed().as_secs_f64() / f64::from(HOT);
    println!("timing {which}: {:.2} us a run of one account over and over", took * 1e6);
    let began = Instant::now();
    let collections = metrics.collections();
    let found: Vec<_> = collections.iter().filter_map(Collection::collect).collect();
    let took = began.elapsed().as_secs_f64();
    println!("timing {which}: {} messages, read in {:.2} us a series", found.len(), took * 1e6 / count);
    let began = Instant::now();
    let bytes: Vec<_> = found.iter().map(|all| ExportMetricsServiceRequest::from(all).encode_to_vec().len()).collect();
    let took = began.elapsed().as_secs_f64();
    let (all, largest) = (bytes.iter().sum::<usize>(), bytes.iter().max().unwrap());
    println!(
        "timing {which}: {} B a series on the wire, the largest message {largest} B, encoded in {:.2} us a series",
        all / series,
        took * 1e6 / count
    );
}

/// Series as OpenTelemetry counts them: a histogram is one.
fn points(collected: &[ResourceMetrics]) -> usize {
    let requests = collected.iter().map(ExportMetricsServiceRequest::from).flat_map(|request| request.resource_metrics);
    let metrics = requests.flat_map(|resource| resource.scope_metrics).flat_map(|scope| scope.metrics);
    let points = metrics.map(|metric| match metric.data.unwrap() {
        Data::Histogram(data) => data.data_points.len(),
        Data::ExponentialHistogram(data) => data.data_points.len(),
        Data::Gauge(data) => data.data_points.len(),
        Data::Sum(data) => data.data_points.len(),
        Data::Summary(data) => data.data_points.len(),
    });
    points.sum()
}

/// Resident memory in bytes.
fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0
}
