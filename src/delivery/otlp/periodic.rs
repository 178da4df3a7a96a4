//! The task that exports metrics: on a timer, message after message, and once more at the end.
//!
//! A collection is read just before it is sent, so a failed one is not kept: the next round sends newer values. A round ends
//! with the first message that the receiver cannot take now, and the next one begins an interval later, so that a receiver
//! that hangs or throttles costs the memory of one message. Does not know series. Called by [`Delivery`](crate::delivery::Delivery).

use std::time::Duration;

use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior},
};

use super::{error::ExportError, health::ReceiverHealth, metrics::MetricsExporter};
use crate::{clock, telemetry::Metrics};

/// A round's messages are spread over at most this part of the interval, so that they do not delay probes in a burst.
const SPREAD: u32 = 3;
/// Between two messages at most.
const LONGEST_GAP: Duration = Duration::from_millis(200);

type FinalOutcome = oneshot::Sender<Result<(), String>>;

/// The handle of the task.
pub(in crate::delivery) struct PeriodicMetricsExporter(mpsc::Sender<FinalOutcome>);

impl PeriodicMetricsExporter {
    /// Starts the task. The first export is an interval away.
    pub(in crate::delivery) fn start(
        metrics: Metrics,
        wire: MetricsExporter,
        interval: Duration,
        runtime: &Handle,
    ) -> Self {
        let (asks, asked) = mpsc::channel(1);
        // The timer panics at 0.
        let interval = interval.max(Duration::from_millis(1));
        runtime.spawn(Task { metrics, wire, interval, health: ReceiverHealth::default(), first: 0 }.run(asked));
        Self(asks)
    }

    /// Exports everything once more and ends the task. An export under way is cancelled: this one has newer values.
    pub(in crate::delivery) async fn finish(&self) -> Result<(), String> {
        let (answer, outcome) = oneshot::channel();
        let gone = || "the task that exports metrics has ended".to_owned();
        self.0.send(answer).await.map_err(|_| gone())?;
        outcome.await.map_err(|_| gone())?
    }
}

struct Task {
    metrics: Metrics,
    wire: MetricsExporter,
    interval: Duration,
    health: ReceiverHealth,
    /// Where the next round begins: behind the message that the receiver could not take.
    first: usize,
}

impl Task {
    async fn run(mut self, mut asked: mpsc::Receiver<FinalOutcome>) {
        let mut ticks = tokio::time::interval_at(Instant::from_std(clock::now()) + self.interval, self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let turn = async {
                ticks.tick().await;
                // A failure is logged; the next round sends newer values.
                let _ = self.round(self.interval / SPREAD).await;
            };
            let ask = tokio::select! {
                biased;
                ask = asked.recv() => ask,
                () = turn => continue,
            };
            // Without a handle, delivery has ended.
            let Some(answer) = ask else { return };
            let outcome = self.round(Duration::ZERO).await;
            let _ = answer.send(outcome.map_err(ExportError::into_reason));
            return;
        }
    }

    /// Sends every collection once. One that is refused permanently does not end the round.
    async fn round(&mut self, spread: Duration) -> Result<(), ExportError> {
        let mut collections = self.metrics.collections();
        // Retired series go first, always: later ones begin at 0 under the same attributes.
        let retired = collections.iter().take_while(|collection| collection.is_retired()).count();
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
            match self.wire.export(&found).await {
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
            self.health.note("metrics", self.wire.endpoint(), outcome.as_ref().copied());
        }
        outcome
    }
}
