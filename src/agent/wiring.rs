//! Makes delivery, the latency store and replay from the configuration. It decides nothing; `otlp_files` reads the files.
//! Called by the agent, and by `cli` for the export of single runs.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use opentelemetry_sdk::metrics::Temporality;

use super::{
    baseline_requests::BaselineRequests,
    error::AgentError,
    latency_store::LatencyStore,
    otlp_files::{self, FixedHeaders},
    runner::MaintenanceCheck,
    server_states::ServerStates,
    target_set::AccountWork,
};
use crate::{
    clock,
    config::{Config, Exports},
    delivery::{self, Delivery, DeliveryStartError, Replay},
    follow::FileFollower,
    plan::Target,
    schedule::Slot,
    state::StateDir,
    telemetry::{Metrics, MetricsSettings, ResourceSettings},
};

/// Starts delivery. Waiting runs are kept in the state directory, if there is one. `follower` follows the files that it needs;
/// without one it is the delivery of a one-shot command, and its metrics are marked so. Needs a runtime.
pub async fn delivery(
    config: &Config,
    state: Option<StateDir>,
    follower: Option<&FileFollower>,
) -> Result<Delivery, AgentError> {
    let mut settings = delivery::DeliverySettings {
        server_service_name: config.server_events.service_name.clone(),
        metric_interval: config.metrics.export_interval,
        temporality: config.metrics.temporality.unwrap_or_else(temporality),
        state,
        queue_memory: usize::try_from(config.state.queue_memory).unwrap_or(usize::MAX),
        queue_disk: config.state.queue_disk,
        ..delivery::DeliverySettings::default()
    };
    let (traces, metrics) = (config.otlp.traces.as_ref(), config.otlp.metrics.as_ref());
    let start_limit = follower.map(|_| otlp_files::START_LIMIT);
    let headers = FixedHeaders::default();
    let (traces_files, metrics_files) = tokio::try_join!(
        otlp_files::begin("traces", traces, &headers, start_limit),
        otlp_files::begin("metrics", metrics, &headers, start_limit),
    )?;
    settings.traces = traces_files.as_ref().zip(traces).map(|(files, exporter)| otlp_files::current(files, exporter));
    settings.metrics =
        metrics_files.as_ref().zip(metrics).map(|(files, exporter)| otlp_files::current(files, exporter));
    let agent_labels = config.agent.labels.clone();
    let metrics = MetricsSettings { one_shot: follower.is_none(), agent_labels, ..config.metrics.series.clone() };
    let delivery = Delivery::start(&settings, &with_host_name(&config.resource), &metrics)?;
    if let Some(follower) = follower {
        let both = [(traces_files, &config.otlp.traces), (metrics_files, &config.otlp.metrics)];
        for ((files, exporter), client) in both.into_iter().zip(delivery.clients()) {
            if let (Some(files), Some(exporter), Some(client)) = (files, exporter, client) {
                follower.add(&files);
                tokio::spawn(otlp_files::forward_changes(files, exporter.clone(), client));
            }
        }
    }
    Ok(delivery)
}

/// Records what is known of the agent at its start. Returns the servers that it probes.
pub(super) fn start_metrics(config: &Config, slots: &[Slot<AccountWork>], metrics: &Metrics) -> ServerStates {
    let agent = metrics.agent();
    agent.reloaded(true, clock::wall());
    agent.configured(&config.hash);
    agent.copies(config.agent.copies);
    agent.up(true);
    let servers = ServerStates::default();
    servers.set(slots, metrics);
    servers
}

/// The temporality of OpenTelemetry's variable, otherwise cumulative.
fn temporality() -> Temporality {
    let preference = std::env::var("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE").ok();
    preference.and_then(|word| word.to_ascii_lowercase().parse().ok()).unwrap_or_default()
}

/// An empty latency store, the requests that change it, if there is a state directory, and a function that loads the saved
/// history of the configured accounts, takes the requests left for it, and waits for the disk.
pub(super) fn latency_store(
    config: &Config,
    state: Option<StateDir>,
) -> (Arc<LatencyStore>, Option<Arc<BaselineRequests>>, impl FnOnce() + Send + 'static) {
    let store = Arc::new(LatencyStore::new(config.latency.clone(), state.clone()));
    let requests = state.map(|state| Arc::new(BaselineRequests::new(store.clone(), state)));
    let accounts = |target: &Target| target.accounts.iter().map(|account| account.alias.clone()).collect();
    let known: HashMap<String, HashSet<String>> =
        config.targets.iter().map(|target| (target.name.clone(), accounts(target))).collect();
    let wanted = move |target: &str, account: &str| known.get(target).is_some_and(|known| known.contains(account));
    let (reading, left) = (store.clone(), requests.clone());
    let read = move || {
        reading.load(wanted);
        if let Some(requests) = left {
            requests.take_left();
        }
    };
    (store, requests, read)
}

/// The maintenance windows.
pub(super) fn maintenance(config: &Config) -> MaintenanceCheck {
    let windows: Vec<_> =
        config.windows.iter().map(|window| (Arc::from(window.name.as_str()), window.clone())).collect();
    Arc::new(move |target, at| {
        windows.iter().find(|(_, window)| window.covers(target, at)).map(|(name, _)| Arc::clone(name))
    })
}

/// Sends runs again, if there is an endpoint for traces.
pub async fn replay(exports: &Exports) -> Result<Option<Replay>, AgentError> {
    let exporter = exports.otlp.traces.as_ref();
    let files = otlp_files::begin("traces", exporter, &FixedHeaders::default(), None).await?;
    let Some((files, exporter)) = files.zip(exporter) else { return Ok(None) };
    let signal = otlp_files::current(&files, exporter);
    Ok(Some(
        Replay::new(&signal, &with_host_name(&exports.resource), exports.server_service_name.clone())
            .map_err(DeliveryStartError::from)?,
    ))
}

fn with_host_name(resource: &ResourceSettings) -> ResourceSettings {
    let host_name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    ResourceSettings { host_name, ..resource.clone() }
}
