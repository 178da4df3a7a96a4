//! The exporter of metrics, made to end.
//!
//! The SDK's reader runs on a thread of its own, sets no limit to an export, and says Ok at its end whether or not the
//! last one arrived. This wrapper runs the real exporter on delivery's runtime, cuts each export at the signal's
//! timeout and at the closing time, and writes every outcome down on the [`Desk`], where the report finds it.

use std::{
    future::{Future, ready},
    sync::{Arc, Mutex, PoisonError},
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
    /// How many exports ended, and how the last one did.
    last: Mutex<(u64, Option<String>)>,
}

impl Desk {
    /// From `at` on nothing is exported any more, and what is under way is cut off.
    pub(super) fn close_at(&self, at: Instant) {
        self.0.closing.send_replace(Some(at));
    }

    /// How many exports ended so far.
    pub(super) fn exports(&self) -> u64 {
        self.0.last.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// How the last export ended, provided that one did after the first `before`.
    pub(super) fn since(&self, before: u64) -> Result<(), String> {
        let last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            (ended, _) if *ended <= before => Err("the metrics' export did not end in time".to_owned()),
            (_, Some(reason)) => Err(reason.clone()),
            (_, None) => Ok(()),
        }
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
        let outcome = if self.desk.is_closed() {
            Err(Failure::Later("shutting down".to_owned()))
        } else {
            self.runtime.block_on(async {
                tokio::select! {
                    outcome = self.wire.export(metrics) => outcome,
                    () = self.desk.closed() => Err(Failure::Later("no answer before the shutdown's deadline".to_owned())),
                }
            })
        };
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        health.note("metrics", self.wire.endpoint(), outcome.as_ref().copied());
        let mut last = self.desk.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.0 += 1;
        last.1 = outcome.err().map(Failure::into_reason);
        last.1.clone().map_or(Ok(()), |reason| Err(OTelSdkError::InternalFailure(reason)))
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
