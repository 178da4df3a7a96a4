//! One run under a live root of its own, whatever comes of it: a panic or a hang in the probe is a void run, too.
//!
//! Asks no history. Called by `shared` for the agent and by `cli` for single runs.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt as _;
use tokio::time::sleep;
use tracing::{Instrument as _, error};

use crate::{
    latency,
    plan::{Journey, Target},
    probe::{Cancel, Ids, Job, Prober},
    record::{ErrorType, Run},
    telemetry::{LiveRoot, RemoteParent},
};

/// A run that is cancelled says LOGOUT for a second; one that has not ended by then never will.
const GRACE: Duration = Duration::from_secs(2);
/// What a run may take over its deadline and LOGOUT, on a machine that has much to do, before it counts as hanging.
const MARGIN: Duration = Duration::from_secs(5);

/// The longest that a run may take, by its own deadlines.
pub(super) fn longest(target: &Target) -> Duration {
    target.deadlines.run + target.deadlines.logout + MARGIN
}

/// Runs the journey once under a live root of its own. No history is asked.
pub async fn once<'a>(
    prober: &Prober,
    journey: &Journey,
    parent: Option<&RemoteParent>,
    cancel: Cancel,
    job: impl FnOnce(Ids) -> Job<'a>,
) -> Run {
    let root = LiveRoot::open(journey.name(), parent);
    let job = job(Ids { trace: root.trace_id, root: root.span_id, parent: root.parent_span_id });
    let mut run = whatever_comes(prober, job, cancel).instrument(root.span()).await;
    run.notes = root.close();
    latency::share(&mut run);
    run
}

async fn whatever_comes(prober: &Prober, job: Job<'_>, cancel: Cancel) -> Run {
    let (unfinished, longest) = (job.unfinished(), longest(job.target.target()));
    let stopping = cancel.clone();
    // What it leaves behind is its own: the connection is dropped with it.
    let run = AssertUnwindSafe(prober.run(job, cancel)).catch_unwind();
    let class = tokio::select! {
        biased;
        run = run => {
            if let Ok(run) = run {
                return run;
            }
            error!("a fault in imaptrace ended the run: please report it with the message before this one");
            ErrorType::Internal
        }
        () = stopped(stopping) => ErrorType::Cancelled,
        () = sleep(longest) => {
            error!(after_s = longest.as_secs_f64(), "the run passed all its deadlines and is given up: please report it");
            ErrorType::Internal
        }
    };
    unfinished.end(class)
}

/// Comes back when a run that was cancelled must have ended.
async fn stopped(mut cancel: Cancel) {
    match cancel.wait_for(|stop| *stop).await.map(drop) {
        Ok(()) => sleep(GRACE).await,
        // Nobody is left who could stop it.
        Err(_) => std::future::pending().await,
    }
}
