//! Starts what receives the events of mail servers, as `[server_events]` describes it. Called at the start of the agent.

use std::{sync::Arc, time::Duration};

use tracing::{info, warn};

use super::{error::AgentError, event_files, run_once::longest, waiting_runs::WaitingRuns};
use crate::{
    config::Config,
    follow::FileFollower,
    plan::Target,
    server_events::{EventReceiver, EventStore},
    telemetry::Metrics,
};

/// The receiver, which receives until it is dropped, and the runs that wait for what it receives.
pub(super) struct Reception {
    pub(super) receiver: EventReceiver,
    pub(super) waiting: WaitingRuns,
}

/// Starts receiving, if an address is configured; none also if the address cannot be used, which is logged. `follower` follows the
/// files of senders.
pub(super) async fn start(
    config: &Config,
    metrics: Metrics,
    follower: &FileFollower,
) -> Result<Option<Reception>, AgentError> {
    let settings = &config.server_events;
    let Some(listen) = settings.listen else { return Ok(None) };
    let files = event_files::begin(settings).await?;
    follower.add(&files);
    let (credentials, forward) = event_files::forward_changes(files, settings);
    tokio::spawn(forward);
    let store = Arc::new(EventStore::new(settings.senders.clone(), metrics, event_age(config, settings.wait)));
    let receiver = EventReceiver::start(listen, settings.clone(), credentials, store.clone());
    let receiver = receiver.inspect_err(|error| {
        warn!("no events of mail servers are received; probing continues: cannot listen on {listen}: {error}");
    });
    let Ok(receiver) = receiver else { return Ok(None) };
    info!(address = %receiver.address(), senders = settings.senders.len(), "receiving events of mail servers");
    Ok(Some(Reception { receiver, waiting: WaitingRuns::new(store, settings.wait) }))
}

/// How long an event is kept: it may come at the start of the longest run, which then waits.
pub(super) fn event_age(config: &Config, wait: Duration) -> Duration {
    wait + longest_run(&config.targets)
}

fn longest_run(targets: &[Target]) -> Duration {
    targets.iter().map(longest).max().unwrap_or_default()
}
