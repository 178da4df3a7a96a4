//! The metrics of the agent itself: its schedule, delivery, CPU, configuration and servers, each with `[agent] labels`.
//!
//! Has no series of an account. Called by the agent and `delivery`, through [`Metrics::agent`](super::Metrics::agent).

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use imaptrace_record::Seconds;
use opentelemetry::{
    KeyValue,
    metrics::{AsyncInstrument, Counter, Gauge, Histogram, Meter, ObservableCounter, ObservableGauge, UpDownCounter},
};

use super::partition::{counter, gauge, histogram, int_gauge, time_counter, up_down_counter};
use crate::telemetry::{
    logs,
    names::{self, DropReason, EventOutcome},
};

/// Instruments of the agent itself.
pub struct AgentMetrics {
    /// `[agent] labels`, which each series has.
    labels: Arc<[KeyValue]>,
    /// The hash of the configuration in use; empty before one is.
    config_hash: Arc<Mutex<String>>,
    start_lag: Histogram<f64>,
    active: UpDownCounter<i64>,
    queue_size: UpDownCounter<i64>,
    queue_capacity: UpDownCounter<i64>,
    dropped: Counter<u64>,
    delivery: Histogram<f64>,
    server_events: Counter<u64>,
    cpu_wait: Counter<f64>,
    cpu_throttled: Counter<f64>,
    paused: Counter<f64>,
    cpu_short: Gauge<u64>,
    overflow: Counter<u64>,
    up: Gauge<u64>,
    copies: Gauge<u64>,
    servers: Gauge<u64>,
    servers_unreachable: Gauge<u64>,
    reload_time: Gauge<f64>,
    reload_success: Gauge<u64>,
    _log_dropped: ObservableCounter<u64>,
    _config_info: ObservableGauge<u64>,
}

impl AgentMetrics {
    pub(super) fn new(meter: &Meter, labels: Arc<[KeyValue]>) -> Self {
        let config_hash: Arc<Mutex<String>> = Arc::default();
        Self {
            start_lag: histogram(meter, names::SCHEDULER_START_LAG),
            active: up_down_counter(meter, names::PROBE_ACTIVE),
            queue_size: up_down_counter(meter, names::DELIVERY_QUEUE_SIZE),
            queue_capacity: up_down_counter(meter, names::DELIVERY_QUEUE_CAPACITY),
            dropped: counter(meter, names::DELIVERY_DROPPED),
            delivery: histogram(meter, names::DELIVERY_DURATION),
            server_events: counter(meter, names::SERVER_EVENTS),
            cpu_wait: time_counter(meter, names::AGENT_CPU_WAIT),
            cpu_throttled: time_counter(meter, names::AGENT_CPU_THROTTLED),
            paused: time_counter(meter, names::AGENT_PAUSED),
            cpu_short: int_gauge(meter, names::AGENT_CPU_SHORT),
            overflow: counter(meter, names::METRICS_OVERFLOW),
            up: int_gauge(meter, names::AGENT_UP),
            copies: int_gauge(meter, names::AGENT_COPIES),
            servers: int_gauge(meter, names::AGENT_SERVERS),
            servers_unreachable: int_gauge(meter, names::AGENT_SERVERS_UNREACHABLE),
            reload_time: gauge(meter, names::CONFIG_LAST_RELOAD_TIME),
            reload_success: int_gauge(meter, names::CONFIG_LAST_RELOAD_SUCCESS),
            _log_dropped: log_dropped(meter, labels.clone()),
            _config_info: config_info(meter, labels.clone(), config_hash.clone()),
            labels,
            config_hash,
        }
    }

    /// The labels, and an attribute.
    fn with(&self, more: impl IntoIterator<Item = KeyValue>) -> Vec<KeyValue> {
        self.labels.iter().cloned().chain(more).collect()
    }

    pub(super) fn start_lag(&self, lag: Seconds) {
        self.start_lag.record(lag.as_f64(), &self.labels);
    }

    /// Counts measurements that are in no series.
    pub(super) fn overflow(&self, measurements: u64) {
        self.overflow.add(measurements, &self.labels);
    }

    /// The agent runs, or it was stopped and exports for the last time.
    pub fn up(&self, up: bool) {
        self.up.record(up.into(), &self.labels);
    }

    /// The agents that are configured to probe each target of this one.
    pub fn copies(&self, copies: u64) {
        self.copies.record(copies, &self.labels);
    }

    /// The servers that are probed, and those of them that are unreachable.
    pub fn servers(&self, all: u64, unreachable: u64) {
        self.servers.record(all, &self.labels);
        self.servers_unreachable.record(unreachable, &self.labels);
    }

    /// A run began (1) or ended (-1).
    pub fn active(&self, change: i64) {
        self.active.add(change, &self.labels);
    }

    /// The queue grew by this number of bytes, or shrank when it is negative.
    pub fn queue_size(&self, change: i64) {
        self.queue_size.add(change, &self.labels);
    }

    /// The budget of the queue in bytes. To be called once, at the start.
    pub fn queue_capacity(&self, bytes: i64) {
        self.queue_capacity.add(bytes, &self.labels);
    }

    /// Counts runs whose trace was dropped.
    pub fn delivery_dropped(&self, reason: DropReason, runs: u64) {
        self.dropped.add(runs, &self.with([KeyValue::new(names::DROP_REASON, reason.as_str())]));
    }

    /// Records one attempt to export a batch of traces.
    pub fn delivery_duration(&self, took: Seconds) {
        self.delivery.record(took.as_f64(), &self.labels);
    }

    /// Counts events of mail servers. An unknown `sender` has no name.
    pub fn server_events(&self, sender: Option<&str>, outcome: EventOutcome, events: u64) {
        let sender = sender.unwrap_or(names::OTHER).to_owned();
        let attributes = [KeyValue::new(names::SENDER, sender), KeyValue::new(names::OUTCOME, outcome.as_str())];
        self.server_events.add(events, &self.with(attributes));
    }

    /// Time lost since the last call to waiting for a processor, to the cgroup's CPU limit, and to pauses of the whole process; and
    /// whether that is too much.
    pub fn cpu(&self, waited: Seconds, throttled: Seconds, paused: Seconds, short: bool) {
        self.cpu_wait.add(waited.as_f64(), &self.labels);
        self.paused.add(paused.as_f64(), &self.labels);
        self.cpu_short.record(short.into(), &self.labels);
        self.cpu_throttled.add(throttled.as_f64(), &self.labels);
    }

    /// The configuration of this hash is in use.
    pub fn configured(&self, hash: &str) {
        hash.clone_into(&mut self.config_hash.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The configuration was loaded, at the start or again; `success`: it is in use.
    pub fn reloaded(&self, success: bool, at: SystemTime) {
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.reload_time.record(since.as_secs_f64(), &self.labels);
        self.reload_success.record(success.into(), &self.labels);
    }
}

/// A counter that is read when it is exported; absent while it is 0.
fn log_dropped(meter: &Meter, labels: Arc<[KeyValue]>) -> ObservableCounter<u64> {
    let metric = names::LOG_DROPPED;
    let observe = move |observer: &dyn AsyncInstrument<u64>| match logs::dropped() {
        0 => {}
        count => observer.observe(count, &labels),
    };
    let counter = meter.u64_observable_counter(metric.name).with_unit(metric.unit).with_description(metric.description);
    counter.with_callback(observe).build()
}

/// The hash in use alone: a recorded gauge would keep the series of the hash before.
fn config_info(meter: &Meter, labels: Arc<[KeyValue]>, hash: Arc<Mutex<String>>) -> ObservableGauge<u64> {
    let metric = names::CONFIG_INFO;
    let observe = move |observer: &dyn AsyncInstrument<u64>| {
        let hash = hash.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if !hash.is_empty() {
            let own = [
                KeyValue::new(names::CONFIG_HASH, hash),
                KeyValue::new(names::CONFIG_VERSION, env!("CARGO_PKG_VERSION")),
            ];
            observer.observe(1, &labels.iter().cloned().chain(own).collect::<Vec<_>>());
        }
    };
    let gauge = meter.u64_observable_gauge(metric.name).with_unit(metric.unit).with_description(metric.description);
    gauge.with_callback(observe).build()
}
