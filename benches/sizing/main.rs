//! What the metrics of many accounts cost behind the agent: samples and bytes of a scrape, memory of the Collector and of
//! Prometheus, and the evaluation of the shipped rules.
//!
//! `make bench-sizing`. A real Collector and a real Prometheus, the files as they are shipped but for an interval of 5 s. The runs are
//! recorded, not made: each account has one every 5 s. It prints a table for docs/performance.md and judges nothing but the
//! samples of an account.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    unreachable_pub,
    reason = "a program that measures: a fault ends it, and what it finds goes to standard output"
)]

#[path = "../../tests/support/mod.rs"]
mod support;

use std::{fmt::Write as _, time::Duration};

use imaptrace::{
    delivery::{Delivery, DeliverySettings, Protocol, Signal},
    telemetry::{MetricsDetail, MetricsSettings, ProbeState, ResourceSettings},
};
use imaptrace_record::{Run, Seconds};
use support::{backends::Backends, otlp::block_on};

const ACCOUNTS: [u32; 4] = [120, 600, 1_200, 2_400];
const INTERVAL: Duration = Duration::from_secs(5);
/// The promise: samples of a healthy account.
const SAMPLES_GOAL: f64 = 120.0;
const MIB: f64 = (1 << 20) as f64;

fn main() {
    let rounds = std::env::var("ROUNDS").map_or(24, |text| text.parse().unwrap());
    println!(
        "| accounts | detail | samples | of an account | bytes a scrape | Collector, MiB | Prometheus, MiB | all rules, ms | \n\
         |--:|---|--:|--:|--:|--:|--:|--:|"
    );
    let mut before = None;
    for (accounts, detail) in
        ACCOUNTS.map(|accounts| (accounts, MetricsDetail::Standard)).into_iter().chain([(600, MetricsDetail::Full)])
    {
        let measured = measure(accounts, detail, rounds);
        let each = match before.filter(|_| detail == MetricsDetail::Standard) {
            Some((fewer, samples)) => (measured.samples - samples) / f64::from(accounts - fewer),
            None => measured.samples / f64::from(accounts),
        };
        println!(
            "| {accounts} | {} | {:.0} | {each:.1} | {} | {:.0} | {:.0} | {:.1} |",
            if detail == MetricsDetail::Full { "full" } else { "standard" },
            measured.samples,
            measured.bytes,
            measured.collector / MIB,
            measured.prometheus / MIB,
            measured.rules * 1e3,
        );
        if detail == MetricsDetail::Standard {
            assert!(each <= SAMPLES_GOAL || before.is_none(), "an account has {each} samples");
            before = Some((accounts, measured.samples));
        }
    }
}

struct Measured {
    samples: f64,
    bytes: usize,
    collector: f64,
    prometheus: f64,
    /// Seconds of one evaluation of all groups.
    rules: f64,
}

fn measure(accounts: u32, detail: MetricsDetail, rounds: u32) -> Measured {
    eprintln!("{accounts} accounts, {detail:?}");
    let backends = Backends::start();
    let settings = DeliverySettings {
        metrics: Some(Signal::new(&backends.otlp_grpc(), Protocol::Grpc)),
        metric_interval: INTERVAL,
        ..DeliverySettings::default()
    };
    let series = MetricsSettings { detail, series_limit: u64::MAX, ..MetricsSettings::default() };
    let delivery = Delivery::start(&settings, &ResourceSettings::default(), &series).unwrap();
    let metrics = delivery.metrics();
    // Five accounts of each server.
    let mut run: Run = serde_json::from_str(include_str!("../metrics/run.json")).unwrap();
    let state = ProbeState { interval: Seconds::from(INTERVAL), failures: 0 };
    for _ in 0..rounds {
        for number in 0..accounts {
            run.target.clear();
            run.account.clear();
            write!(run.target, "mail{:03}.example.org", number / 5).unwrap();
            write!(run.account, "vol{}", number % 5 + 1).unwrap();
            run.started_at = imaptrace::clock::wall().into();
            metrics.record_as(&run.target, &run, Some(state));
        }
        std::thread::sleep(INTERVAL);
    }
    let page = backends.scrape();
    let samples = page.lines().filter(|line| line.starts_with("imap")).count() as f64;
    let (collector, prometheus) = backends.memory();
    let measured = Measured { samples, bytes: page.len(), collector, prometheus, rules: backends.rule_seconds() };
    assert!(block_on(delivery.shutdown(Duration::from_secs(30))).metrics_delivered);
    measured
}
