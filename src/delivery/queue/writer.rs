//! The tasks that write runs to disk when they wait too long.
//!
//! Deliveries go on from memory whatever the disk does: nothing waits for these tasks. They decide nothing about order or
//! budgets; [`state`](super::state) does. Started by [`Delivery`](crate::delivery::Delivery).

use std::time::Duration;

use tokio::time::timeout;

use super::{HOLD, Queue};
use crate::{clock, delivery::backoff::Backoff};

/// How long new runs wait until those that an earlier process left are counted.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a first attempt that hangs is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Counts what an earlier process left, then starts the tasks. Returns at the latest after [`PATIENCE`]: what is new does not
/// wait for a disk that hangs.
pub(in crate::delivery) async fn start(queue: &Queue) {
    let counted = queue.on_disk(|queue, spool| queue.write_and_log(spool).is_ok());
    let _ = timeout(PATIENCE, counted).await;
    tokio::spawn(attend(queue.clone()));
}

/// Retries until what an earlier process left is counted, then writes what waits too long. Never returns; ends with its
/// runtime.
async fn attend(queue: Queue) {
    let mut backoff = Backoff::default();
    loop {
        let counted = queue.on_disk(|queue, spool| {
            let _ = queue.write_and_log(spool);
            (spool.loaded, spool.unanswered().is_some())
        });
        match counted.await {
            Some((true, _)) => break,
            // Asking again costs nothing while the first attempt hangs.
            Some((false, true)) => tokio::time::sleep(LOOK).await,
            Some((false, false)) | None => tokio::time::sleep(backoff.next()).await,
        }
    }
    run(queue).await;
}

/// Writes runs that wait too long. Never returns; ends with its runtime.
pub(super) async fn run(queue: Queue) {
    let mut watch = queue.0.state.subscribe();
    let mut backoff = Backoff::default();
    loop {
        // The sender half lives in `queue`, so waiting cannot fail.
        let waiting = watch.wait_for(|state| state.unwritten > 0).await;
        let oldest = waiting.ok().and_then(|state| state.oldest_unwritten());
        let left = oldest.map_or(HOLD, |oldest| (oldest + HOLD).saturating_duration_since(clock::now()));
        // Most are delivered before that, and the next oldest then has more time.
        let urgent = timeout(left, watch.wait_for(|state| state.urgent)).await.is_ok();
        let due = queue.0.state.borrow().oldest_unwritten().is_some_and(|oldest| oldest + HOLD <= clock::now());
        if !urgent && !due {
            continue;
        }
        let stored = queue.0.state.borrow().stored.runs;
        match queue.on_disk(Queue::write_and_log).await {
            // A panic is no reason to retry at once.
            Some(Err(_)) | None => {
                // A disk that has taken a part may soon have room for more.
                if queue.0.state.borrow().stored.runs > stored {
                    backoff.reset();
                }
                tokio::time::sleep(backoff.next()).await;
            }
            Some(Ok(())) => backoff.reset(),
        }
    }
}
