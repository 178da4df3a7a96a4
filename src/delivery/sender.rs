//! The task that takes batches off the queue and exports them, again and again until each is delivered or refused.

use std::time::Duration;

use super::{
    queue::Queue,
    wire::{Failure, Traces},
};
use crate::{clock, record::Seconds, telemetry::Metrics};

/// The first pause after a failure; each next one is twice as long, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The pause when somebody waits for the queue to empty.
const HURRIED_PAUSE: Duration = Duration::from_millis(250);

/// How the receiver fares. Only a change is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    /// It takes what it gets.
    Good,
    /// It cannot be reached, or asks to come again.
    Away,
    /// It refuses what it gets.
    Refusing,
}

impl Health {
    /// Notes the outcome of an export of `what` to `endpoint`, and logs it when it is news.
    pub(super) fn note(&mut self, what: &str, endpoint: &str, outcome: Result<(), &Failure>) {
        let new = match outcome {
            Ok(()) => Self::Good,
            Err(Failure::Later(_)) => Self::Away,
            Err(Failure::Refused(_)) => Self::Refusing,
        };
        if std::mem::replace(self, new) == new {
            return;
        }
        match outcome {
            Ok(()) => tracing::info!("{what} are delivered to {endpoint} again"),
            Err(Failure::Later(reason)) => {
                tracing::warn!("cannot deliver {what} to {endpoint}: {reason}; imaptrace goes on trying");
            }
            Err(Failure::Refused(reason)) => {
                tracing::warn!("{endpoint} refuses {what}: {reason}; what it refuses is dropped and counted");
            }
        }
    }
}

/// Never ends; goes with its runtime.
pub(super) async fn run(queue: Queue, traces: Traces, metrics: Metrics) {
    let mut health = Health::Good;
    loop {
        let batch = queue.batch().await;
        let mut pause = FIRST_PAUSE;
        loop {
            let began = clock::now();
            let outcome = traces.export(&batch).await;
            metrics.delivery_duration(Seconds::from(clock::now().saturating_duration_since(began)));
            health.note("traces", traces.endpoint(), outcome.as_ref().copied());
            match outcome {
                Ok(()) => queue.delivered(),
                Err(Failure::Refused(reason)) => queue.refused(reason),
                Err(Failure::Later(reason)) => {
                    queue.pause(reason, pause, HURRIED_PAUSE).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    continue;
                }
            }
            break;
        }
    }
}
