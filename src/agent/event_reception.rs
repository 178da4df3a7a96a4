//! Starts what receives the events of mail servers, as `[server_events]` describes it. Called at the start of the agent.

use std::{sync::Arc, time::Duration};

use imaptrace_record::ServerText;
use tokio::{task::JoinSet, time::sleep};
use tracing::{info, warn};

use super::{
    error::AgentError,
    event_files::EventSenders,
    event_forwarding::{self, host_name},
    run_once::longest,
    waiting_runs::WaitingRuns,
};
use crate::{
    config::Config,
    follow::FileFollower,
    plan::Target,
    process_accounting::ProcessAccounting,
    server_events::{EventCounts, EventReceiver, EventRelay, EventSink, EventStore, host_text},
    telemetry::Metrics,
};

/// How long samples are kept at least: an agent that forwards them has no runs, and so no longest run.
const KEPT: Duration = Duration::from_secs(60);
/// The time between two checks for sessions that have ended without a last event.
const ENDED_CHECK: Duration = Duration::from_millis(500);

/// What mail servers report: what receives it, and where it goes.
#[derive(Default)]
pub(super) struct Reception {
    /// Receives until it is dropped.
    pub(super) receiver: Option<EventReceiver>,
    /// What became of the events; none where nothing is received.
    pub(super) counts: Option<EventCounts>,
    /// Who may send; none where nothing is received.
    pub(super) senders: Option<EventSenders>,
    /// Runs that wait for what is received.
    pub(super) waiting: Option<WaitingRuns>,
    /// The processes of a Dovecot on this host.
    pub(super) local: Option<LocalProcesses>,
}

/// The processes of a Dovecot on this host.
pub(super) struct LocalProcesses {
    pub(super) accounting: Arc<ProcessAccounting>,
    /// The name of this host.
    pub(super) host: ServerText,
}

/// Starts what is configured. An address that cannot be used is logged, and nothing is received then. `follower` follows the files
/// of senders.
pub(super) async fn start(
    config: &Config,
    metrics: Metrics,
    follower: &FileFollower,
    tasks: &mut JoinSet<()>,
) -> Result<Reception, AgentError> {
    let settings = &config.server_events;
    let age = event_age(config, settings.wait);
    let mut reception = Reception::default();
    if let Some(accounting) = settings.accounting.clone() {
        let keep = if settings.forward.is_some() { age.max(KEPT) } else { age };
        let accounting = Arc::new(ProcessAccounting::start(accounting, keep).map_err(AgentError::Thread)?);
        reception.local = Some(LocalProcesses { accounting, host: host_text(&host_name()) });
    }
    let counts = EventCounts::new(&settings.senders, metrics);
    let sink = if let Some(forward) = &settings.forward {
        let forwarder = event_forwarding::start(forward, counts.clone(), follower).await?;
        let accounting = reception.local.as_ref().map(|local| local.accounting.clone());
        let relay = EventRelay::new(counts.clone(), forwarder, accounting, host_text(&host_name()));
        let relay = Arc::new(relay);
        tasks.spawn(send_ended(relay.clone()));
        info!(to = forward.endpoint, "forwarding events of mail servers");
        EventSink::Relay(relay)
    } else {
        EventSink::Store(Arc::new(EventStore::new(settings.senders.clone(), counts.clone(), age)))
    };
    let Some(listen) = settings.listen else { return Ok(reception) };
    let (senders, credentials) = EventSenders::start(settings, follower).await?;
    let receiver = EventReceiver::start(listen, credentials, sink.clone());
    let receiver = receiver.inspect_err(|error| {
        warn!("no events of mail servers are received; probing continues: cannot listen on {listen}: {error}");
    });
    let Ok(receiver) = receiver else { return Ok(reception) };
    info!(address = %receiver.address(), senders = settings.senders.len(), "receiving events of mail servers");
    reception.receiver = Some(receiver);
    reception.counts = Some(counts);
    reception.senders = Some(senders);
    if let EventSink::Store(store) = sink {
        reception.waiting = Some(WaitingRuns::new(store, settings.wait));
    }
    Ok(reception)
}

/// Forwards what the processes of ended sessions used, if their last event does not come, for as long as it is polled.
async fn send_ended(relay: Arc<EventRelay>) {
    loop {
        sleep(ENDED_CHECK).await;
        relay.send_ended();
    }
}

/// How long an event is kept: it may come at the start of the longest run, which then waits.
pub(super) fn event_age(config: &Config, wait: Duration) -> Duration {
    wait + longest_run(&config.targets)
}

fn longest_run(targets: &[Target]) -> Duration {
    targets.iter().map(longest).max().unwrap_or_default()
}
