//! The task that exports metrics on a timer, one message after the other, and once more at the end.
//!
//! A collection is read just before it is sent, so a failed one is not kept. A round ends at the first message that the
//! receiver cannot accept now, so a receiver that hangs costs the memory of one message. Called by
//! [`Delivery`](crate::delivery::Delivery).

use std::time::Duration;

use tokio::{
    runtime::Handle,
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior},
};

use super::{error::ExportError, health::ReceiverHealth, metrics::MetricsExporter};
use crate::{clock, telemetry::Metrics};

/// A round's messages are spread over at most this part of the interval, so that a burst does not delay probes.
const SPREAD: u32 = 3;
/// The longest pause between two messages.
const LONGEST_GAP: Duration = Duration::from_millis(200);

/// The handle of the task, which ends when this is dropped.
pub(in crate::delivery) struct PeriodicMetricsExporter {
    finish: oneshot::Sender<()>,
    task: JoinHandle<Result<(), String>>,
}

impl PeriodicMetricsExporter {
    /// Starts the task. The first export is an interval away.
    pub(in crate::delivery) fn start(
        metrics: Metrics,
        exporter: MetricsExporter,
        interval: Duration,
        runtime: &Handle,
    ) -> Self {
        let (finish, finishing) = oneshot::channel();
        // The timer panics at 0.
        let interval = interval.max(Duration::from_millis(1));
        let task = Task { metrics, exporter, interval, health: ReceiverHealth::default(), first: 0 };
        Self { finish, task: runtime.spawn(task.run(finishing)) }
    }

    /// Exports everything once more and ends the task. An export in progress is cancelled: this one has newer values.
    pub(in crate::delivery) async fn finish(self) -> Result<(), String> {
        let _ = self.finish.send(());
        self.task.await.unwrap_or_else(|_| Err("the task that exports metrics has ended".to_owned()))
    }
}

struct Task {
    metrics: Metrics,
    exporter: MetricsExporter,
    interval: Duration,
    health: ReceiverHealth,
    /// Where the next round begins: behind the message that the receiver could not accept.
    first: usize,
}

impl Task {
    async fn run(mut self, mut finishing: oneshot::Receiver<()>) -> Result<(), String> {
        let mut ticks = tokio::time::interval_at(Instant::from_std(clock::now()) + self.interval, self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let round = async {
                ticks.tick().await;
                // A failure is logged; the next round sends newer values.
                let _ = self.round(self.interval / SPREAD).await;
            };
            tokio::select! {
                biased;
                finish = &mut finishing => {
                    // An error: delivery was dropped.
                    let last = if finish.is_ok() { self.round(Duration::ZERO).await } else { Ok(()) };
                    return last.map_err(ExportError::into_reason);
                }
                () = round => {}
            }
        }
    }

    /// Sends every collection once. One that is refused permanently does not end the round.
    async fn round(&mut self, spread: Duration) -> Result<(), ExportError> {
        let mut collections = self.metrics.collections();
        // Retired series go first, always: later ones begin at 0 under the same attributes.
        let retired = collections.iter().take_while(|collection| collection.is_retired).count();
        let staying = collections.get_mut(retired..).unwrap_or_default();
        let first = std::mem::take(&mut self.first) % staying.len().max(1);
        staying.rotate_left(first);
        let gap = (spread / u32::try_from(collections.len().max(1)).unwrap_or(u32::MAX)).min(LONGEST_GAP);
        let (mut outcome, mut sent) = (Ok(()), false);
        for (number, collection) in collections.iter().enumerate() {
            let Some(found) = collection.collect() else {
                self.metrics.settled(collection);
                continue;
            };
            if sent && !gap.is_zero() {
                tokio::time::sleep(gap).await;
            }
            sent = true;
            match self.exporter.export(&found).await {
                Ok(()) => self.metrics.settled(collection),
                Err(failure @ ExportError::Permanent(_)) => {
                    self.metrics.settled(collection);
                    outcome = Err(failure);
                }
                Err(failure @ (ExportError::Retryable(_) | ExportError::TooLarge(_))) => {
                    outcome = Err(failure);
                    self.first = number.checked_sub(retired).map_or(first, |number| first + number + 1);
                    break;
                }
            }
        }
        if sent {
            self.health.note("metrics", &self.exporter.client.endpoint, outcome.as_ref().copied());
        }
        outcome
    }
}
