//! One run under its own live root. A panic or a hang in the probe results in a void run.
//!
//! It uses no latency history. Called by `runner` for the agent and by `cli` for single runs.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    time::Duration,
};

use futures_util::FutureExt as _;
use imaptrace_imap::Secret;
use imaptrace_record::{ErrorType, Run};
use tokio::time::{sleep, sleep_until};
use tracing::{Instrument as _, error};

use crate::{
    clock, latency,
    plan::{Account, Journey, Target},
    probe::{Cancel, Ids, Job, Prober, TargetContext},
    secret::SecretError,
    telemetry::{LiveRoot, RemoteParent},
};

/// A cancelled run has a second for LOGOUT; one that has not ended after this time hangs.
const GRACE: Duration = Duration::from_secs(2);
/// How much longer than its deadline and LOGOUT a run may take on a busy machine before it counts as hanging.
const MARGIN: Duration = Duration::from_secs(5);

/// The longest that a run may take, by its own deadlines.
pub(super) fn longest(target: &Target) -> Duration {
    target.deadlines.run + target.deadlines.logout + MARGIN
}

/// The password, and a check of the target's TLS files. Both may take seconds that are no part of the run.
pub async fn load_password(target: &TargetContext, account: &Account) -> Result<Secret, SecretError> {
    target.tls_ready().await?;
    account.password.load().await
}

/// Runs the journey once under its own live root.
pub async fn run_once<'a>(
    prober: &Prober,
    journey: &Journey,
    parent: Option<&RemoteParent>,
    cancel: Cancel,
    job: impl FnOnce(Ids) -> Job<'a>,
) -> Run {
    let root = LiveRoot::open(journey.name().as_str(), parent);
    let job = job(Ids { trace: root.trace_id, root: root.span_id, parent: root.parent_span_id });
    let (stub, longest) = (job.stub(), longest(job.target.target()));
    // Pinned here and lent, so that the future of a run is stored once.
    let run = pin!(prober.run(job, cancel.clone()));
    let run = run_guarded(run, longest, cancel).instrument(root.span()).await;
    let mut run = run.unwrap_or_else(|class| stub.end(class));
    run.notes = root.close();
    latency::share(&mut run);
    run
}

/// The run, or the class of the void run that it is instead.
async fn run_guarded(
    run: Pin<&mut impl Future<Output = Run>>,
    longest: Duration,
    cancel: Cancel,
) -> Result<Run, ErrorType> {
    tokio::select! {
        biased;
        // A panic leaves nothing shared behind: the connection is dropped with the run.
        run = AssertUnwindSafe(run).catch_unwind() => run.map_err(|_| {
            error!("a fault in imaptrace ended the run: please report it with the message before this one");
            ErrorType::Internal
        }),
        () = stopped(cancel) => Err(ErrorType::Cancelled),
        () = has_overrun(longest) => {
            error!(after_s = longest.as_secs_f64(), "the run passed all its deadlines and is given up: please report it");
            Err(ErrorType::Internal)
        }
    }
}

/// Returns when a run has had its time, which pauses of this process lengthen.
async fn has_overrun(longest: Duration) {
    let begin = clock::now();
    let mut next = Some(begin + longest);
    while let Some(due) = next {
        sleep_until(due.into()).await;
        next = clock::extended(begin, longest, due, clock::now(), MARGIN);
    }
}

/// Returns when a cancelled run must have ended.
async fn stopped(mut cancel: Cancel) {
    match cancel.wait_for(|stop| *stop).await.map(drop) {
        Ok(()) => sleep(GRACE).await,
        // It can no longer be cancelled.
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::sync::watch;

    use super::*;

    const LONGEST: Duration = Duration::from_secs(36);

    fn passed() -> Run {
        serde_json::from_str(imaptrace_testkit::PASSED_RUN).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_and_a_hang_end_as_internal_and_a_run_that_ends_is_left_alone() {
        let (_keep, cancel) = watch::channel(false);
        let panics = async { panic!("a panic on purpose") };
        assert_eq!(run_guarded(pin!(panics), LONGEST, cancel.clone()).await, Err(ErrorType::Internal));
        let begin = clock::now();
        assert_eq!(run_guarded(pin!(pending()), LONGEST, cancel.clone()).await, Err(ErrorType::Internal));
        assert!(clock::now() - begin >= LONGEST);
        let late = async {
            sleep(LONGEST).await;
            passed()
        };
        assert_eq!(run_guarded(pin!(late), LONGEST, cancel).await, Ok(passed()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_whose_process_was_stopped_ends_by_its_own_deadlines() {
        let (_keep, cancel) = watch::channel(false);
        let mut run = pin!(async {
            sleep(LONGEST / 2).await;
            // LOGOUT.
            sleep(Duration::from_secs(1)).await;
            passed()
        });
        let ending = run_guarded(run.as_mut(), LONGEST, cancel);
        let mut ending = pin!(ending);
        assert!(futures_util::poll!(ending.as_mut()).is_pending());
        tokio::time::advance(10 * LONGEST).await;
        assert_eq!(ending.await, Ok(passed()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_does_not_heed_the_stop_is_cancelled_all_the_same() {
        let (stop, cancel) = watch::channel(false);
        stop.send_replace(true);
        let begin = clock::now();
        let heeds = async {
            sleep(GRACE / 2).await;
            passed()
        };
        assert_eq!(run_guarded(pin!(heeds), LONGEST, cancel.clone()).await, Ok(passed()));
        assert_eq!(run_guarded(pin!(pending()), LONGEST, cancel).await, Err(ErrorType::Cancelled));
        assert!(clock::now() - begin < LONGEST);
    }
}
