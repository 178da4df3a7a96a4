//! The task that exports metrics: on a timer, message after message, and once more at the end.
//!
//! A collection is read just before it is sent, so what fails is not kept: the next round sends what is newest then. A
//! round ends with the first message that the receiver cannot take now, and the next one comes an interval later, so
//! that a receiver which hangs or throttles costs one message's memory and is left alone meanwhile. Knows nothing of
//! series. Called by [`super::Delivery`].

use std::time::Duration;

use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior},
};

use super::{error::ExportError, health::ReceiverHealth, metrics::MetricsExporter};
use crate::{clock, telemetry::Metrics};

/// Of an interval, what a round's messages are spread over at most: one thread's work is nobody's pause.
const SPREAD: u32 = 3;
/// Between two messages at most.
const LONGEST_GAP: Duration = Duration::from_millis(200);

type Answer = oneshot::Sender<Result<(), String>>;

/// The way to the task.
pub(in crate::delivery) struct PeriodicMetricsExporter(mpsc::Sender<Answer>);

impl PeriodicMetricsExporter {
    /// Starts the task. The first export is an interval away.
    pub(in crate::delivery) fn start(
        metrics: Metrics,
        wire: MetricsExporter,
        interval: Duration,
        runtime: &Handle,
    ) -> Self {
        let (asks, asked) = mpsc::channel(1);
        // The timer takes no 0.
        let interval = interval.max(Duration::from_millis(1));
        runtime.spawn(Task { metrics, wire, interval, health: ReceiverHealth::default(), first: 0 }.run(asked));
        Self(asks)
    }

    /// Exports all there is now, at once, and ends the task. An export under way is cut off: this one has newer values.
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
    /// Where the next round begins: behind what the receiver could not take, which may be that one message.
    first: usize,
}

impl Task {
    async fn run(mut self, mut asked: mpsc::Receiver<Answer>) {
        let mut ticks = tokio::time::interval_at(Instant::from_std(clock::now()) + self.interval, self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let turn = async {
                ticks.tick().await;
                // A failure is in the log; the next turn makes up for it.
                drop(self.round(self.interval / SPREAD).await);
            };
            let ask = tokio::select! {
                biased;
                ask = asked.recv() => ask,
                () = turn => continue,
            };
            // Without anybody who asks, delivery is gone.
            let Some(answer) = ask else { return };
            let outcome = self.round(Duration::ZERO).await;
            drop(answer.send(outcome.map_err(ExportError::into_reason)));
            return;
        }
    }

    /// Sends every collection once. What is refused for good stops nobody behind it.
    async fn round(&mut self, spread: Duration) -> Result<(), ExportError> {
        let mut collections = self.metrics.collections();
        // What leaves goes first, always: those who follow it begin anew under the same attributes, and what it holds would
        // look like a leap of theirs.
        let leaving = collections.iter().take_while(|collection| collection.leaves()).count();
        let staying = collections.get_mut(leaving..).unwrap_or_default();
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
                    self.first = number.checked_sub(leaving).map_or(first, |number| first + number + 1);
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
