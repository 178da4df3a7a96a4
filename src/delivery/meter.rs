//! The exporter of metrics, made to end.
//!
//! The SDK's reader runs on a thread of its own, sets no limit to an export, and says Ok at its end whether or not the
//! last one arrived. This wrapper runs the real exporter on delivery's runtime, cuts each export at the signal's
//! timeout and at the closing time, and writes every outcome down on the [`Desk`], where the report finds it.

use std::{
    future::{Future, ready},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use opentelemetry_sdk::{
    error::{OTelSdkError, OTelSdkResult},
    metrics::{Temporality, data::ResourceMetrics, exporter::PushMetricExporter},
};
use tokio::{runtime::Handle, sync::watch};

use super::{
    sender::Health,
    wire::{Failure, MetricsWire},
};
use crate::clock;

/// Shared by the exporter and its owner.
#[derive(Clone, Default)]
pub(super) struct Desk(Arc<Board>);

#[derive(Default)]
struct Board {
    closing: watch::Sender<Option<Instant>>,
    /// The reader's thread may be waiting on the runtime.
    busy: AtomicBool,
    /// Why the last export failed.
    failure: Mutex<Option<String>>,
}

impl Desk {
    /// From `at` on nothing is exported any more, and what is under way is cut off.
    pub(super) fn close_at(&self, at: Instant) {
        self.0.closing.send_replace(Some(at));
    }

    /// Whether an export is under way. After closing, none begins.
    pub(super) fn is_busy(&self) -> bool {
        self.0.busy.load(Ordering::SeqCst)
    }

    /// Why the last export failed, if it did.
    pub(super) fn failure(&self) -> Option<String> {
        self.0.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_closed(&self) -> bool {
        self.0.closing.borrow().is_some_and(|at| at <= clock::now())
    }

    async fn closed(&self) {
        let mut watch = self.0.closing.subscribe();
        let at = watch.wait_for(Option::is_some).await.ok().and_then(|at| *at);
        if let Some(at) = at {
            tokio::time::sleep_until(at.into()).await;
        }
    }
}

/// The wrapper.
pub(super) struct MeteredExporter {
    wire: MetricsWire,
    runtime: Handle,
    desk: Desk,
    health: Mutex<Health>,
}

impl MeteredExporter {
    pub(super) fn new(wire: MetricsWire, runtime: Handle, desk: Desk) -> Self {
        Self { wire, runtime, desk, health: Mutex::new(Health::Good) }
    }

    fn send(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        // Before the look at the closing time: who closes and then finds nobody busy may take the runtime down.
        self.desk.0.busy.store(true, Ordering::SeqCst);
        let outcome = (!self.desk.is_closed()).then(|| {
            self.runtime.block_on(async {
                tokio::select! {
                    outcome = self.wire.export(metrics) => Some(outcome),
                    () = self.desk.closed() => None,
                }
            })
        });
        self.desk.0.busy.store(false, Ordering::SeqCst);
        let failure = match outcome.flatten() {
            Some(outcome) => {
                let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
                health.note("metrics", self.wire.endpoint(), outcome.as_ref().copied());
                outcome.err().map(Failure::into_reason)
            }
            // No news of the receiver: the report tells it.
            None => Some("no answer before the deadline of the shutdown".to_owned()),
        };
        self.desk.0.failure.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&failure);
        failure.map_or(Ok(()), |reason| Err(OTelSdkError::InternalFailure(reason)))
    }
}

impl PushMetricExporter for MeteredExporter {
    fn export(&self, metrics: &ResourceMetrics) -> impl Future<Output = OTelSdkResult> + Send {
        // On the reader's own plain thread, so that blocking is right.
        ready(self.send(metrics))
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }

    fn temporality(&self) -> Temporality {
        self.wire.temporality()
    }
}
