//! The task that takes batches from the queue and exports them, until each is delivered or refused.
//!
//! Decides nothing about order or what an error means. Started by [`Delivery`](super::Delivery).

use imaptrace_record::Seconds;

use super::{
    backoff::Backoff,
    log_throttle::LogThrottle,
    otlp::{ExportError, ReceiverHealth, TracesExporter},
    queue::Queue,
};
use crate::{clock, telemetry::Metrics};

/// After this many permanent refusals in a row, the cause is not the batches: each next batch is sent after a pause.
const REFUSED_IN_A_ROW: u32 = 3;

/// Ends with its runtime.
pub(super) async fn run(queue: Queue, mut traces: TracesExporter, metrics: Metrics) {
    let client = traces.client.clone();
    let endpoint = &client.endpoint;
    let mut health = ReceiverHealth::default();
    let (mut warnings, mut rejections) = (LogThrottle::default(), LogThrottle::default());
    let (mut refused, mut rejected_backoff) = (0_u32, Backoff::default());
    loop {
        let mut batch = queue.batch().await;
        let mut backoff = Backoff::default();
        loop {
            let began = clock::now();
            let outcome = traces.export(&batch).await;
            metrics.agent().delivery_duration(Seconds::from(clock::now().saturating_duration_since(began)));
            // A part of it may be accepted, so the health is not known yet.
            if batch.len() > 1 && matches!(outcome.result, Err(ExportError::TooLarge(_))) {
                batch = queue.halve();
                continue;
            }
            health.note("traces", endpoint, outcome.result.as_ref().map(|_| ()));
            match outcome.result {
                Ok(accepted) => {
                    accepted.log(endpoint, &mut warnings);
                    queue.delivered(accepted.rejected).await;
                    (refused, rejected_backoff) = (0, Backoff::default());
                }
                Err(ExportError::Permanent(reason) | ExportError::TooLarge(reason)) => {
                    queue.refused(reason.clone()).await;
                    refused = refused.saturating_add(1);
                    if refused >= REFUSED_IN_A_ROW && rejections.pass(clock::now()).is_some() {
                        tracing::warn!(
                            "{endpoint} has refused {refused} batches of traces in a row: what waits is kept, and one batch \
                             is tried after each pause"
                        );
                    }
                    if refused >= REFUSED_IN_A_ROW {
                        queue.pause(reason, rejected_backoff.next_or(outcome.retry_after)).await;
                    }
                }
                Err(ExportError::Retryable(reason)) => {
                    queue.pause(reason, backoff.next_or(outcome.retry_after)).await;
                    continue;
                }
            }
            break;
        }
    }
}
