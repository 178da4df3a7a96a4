//! One run under a live root of its own, whatever comes of it: a panic or a hang in the probe is a void run, too.
//!
//! Asks no history. Called by `shared` for the agent and by `cli` for single runs.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    time::Duration,
};

use futures_util::FutureExt as _;
use imaptrace_record::{ErrorType, Run};
use tokio::time::{sleep, sleep_until};
use tracing::{Instrument as _, error};

use crate::{
    clock, latency,
    plan::{Journey, Target},
    probe::{Cancel, Ids, Job, Prober},
    telemetry::{LiveRoot, RemoteParent},
};

/// A run that is cancelled says LOGOUT for a second; one that has not ended by then never will.
const GRACE: Duration = Duration::from_secs(2);
/// What a run may take over its deadline and LOGOUT, on a machine that has much to do, before it counts as hanging.
const MARGIN: Duration = Duration::from_secs(5);

/// A timer that rings so late tells of a process that did not get to run.
const LATE: Duration = Duration::from_secs(1);

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
    let root = LiveRoot::open(journey.name().as_str(), parent);
    let job = job(Ids { trace: root.trace_id, root: root.span_id, parent: root.parent_span_id });
    let (stub, longest) = (job.stub(), longest(job.target.target()));
    // Pinned here and lent, so that a waiting run is held once.
    let run = pin!(prober.run(job, cancel.clone()));
    let run = whatever_comes(run, longest, cancel).instrument(root.span()).await;
    let mut run = run.unwrap_or_else(|class| stub.end(class));
    run.notes = root.close();
    latency::share(&mut run);
    run
}

/// The run, or the class of the void run that it is instead.
async fn whatever_comes(
    run: Pin<&mut impl Future<Output = Run>>,
    longest: Duration,
    cancel: Cancel,
) -> Result<Run, ErrorType> {
    tokio::select! {
        biased;
        // What it leaves behind is its own: the connection is dropped with it.
        run = AssertUnwindSafe(run).catch_unwind() => run.map_err(|_| {
            error!("a fault in imaptrace ended the run: please report it with the message before this one");
            ErrorType::Internal
        }),
        () = stopped(cancel) => Err(ErrorType::Cancelled),
        () = overstayed(longest) => {
            error!(after_s = longest.as_secs_f64(), "the run passed all its deadlines and is given up: please report it");
            Err(ErrorType::Internal)
        }
    }
}

/// Comes back when a run has had its time. While this process did not get to run (SIGSTOP, a paused machine, no CPU) it had
/// none, and gets as much more; and a moment after a timer that rang late, to end by its own deadlines.
async fn overstayed(longest: Duration) {
    let begin = clock::now();
    let mut due = begin + longest;
    loop {
        sleep_until(due.into()).await;
        let now = clock::now();
        let late = now.saturating_duration_since(due);
        let next = begin + longest + clock::paused(begin, now, Duration::ZERO);
        due = if late > LATE { next.max(now + MARGIN) } else { next };
        if due <= now {
            return;
        }
    }
}

/// Comes back when a run that was cancelled must have ended.
async fn stopped(mut cancel: Cancel) {
    match cancel.wait_for(|stop| *stop).await.map(drop) {
        Ok(()) => sleep(GRACE).await,
        // Nobody is left who could stop it.
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
        assert_eq!(whatever_comes(pin!(panics), LONGEST, cancel.clone()).await, Err(ErrorType::Internal));
        let begin = clock::now();
        assert_eq!(whatever_comes(pin!(pending()), LONGEST, cancel.clone()).await, Err(ErrorType::Internal));
        assert!(clock::now() - begin >= LONGEST);
        let late = async {
            sleep(LONGEST).await;
            passed()
        };
        assert_eq!(whatever_comes(pin!(late), LONGEST, cancel).await, Ok(passed()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_whose_process_was_stopped_ends_by_its_own_deadlines() {
        let (_keep, cancel) = watch::channel(false);
        let mut run = pin!(async {
            sleep(LONGEST / 2).await;
            // It says good-bye.
            sleep(Duration::from_secs(1)).await;
            passed()
        });
        let ending = whatever_comes(run.as_mut(), LONGEST, cancel);
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
        assert_eq!(whatever_comes(pin!(heeds), LONGEST, cancel.clone()).await, Ok(passed()));
        assert_eq!(whatever_comes(pin!(pending()), LONGEST, cancel).await, Err(ErrorType::Cancelled));
        assert!(clock::now() - begin < LONGEST);
    }
}
