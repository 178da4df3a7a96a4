//! The tasks that write runs to disk when they wait too long.
//!
//! No delivery waits for these tasks. [`state`](super::state) decides about order and budgets. Started by
//! [`Delivery`](crate::delivery::Delivery).

use std::time::Duration;

use tokio::time::timeout;

use super::{HOLD, Queue};
use crate::{clock, delivery::backoff::Backoff};

/// How long new runs wait until those of an earlier process are counted.
const LOAD_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause between two checks of a first attempt that hangs.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Counts the runs of an earlier process, then starts the tasks. Returns after [`LOAD_TIMEOUT`] at most: new runs do not wait
/// for a disk that hangs.
pub(in crate::delivery) async fn start(queue: &Queue) {
    let counted = queue.on_disk(|queue, spool| queue.write_and_log(spool).is_ok());
    let _ = timeout(LOAD_TIMEOUT, counted).await;
    tokio::spawn(load_then_write(queue.clone()));
}

/// Retries until the runs of an earlier process are counted, then writes runs that wait too long.
async fn load_then_write(queue: Queue) {
    let mut backoff = Backoff::default();
    loop {
        let counted = queue.on_disk(|queue, spool| {
            let _ = queue.write_and_log(spool);
            (spool.loaded, spool.pending_error().is_some())
        });
        match counted.await {
            Some((true, _)) => break,
            // A call costs nothing while the first attempt hangs.
            Some((false, true)) => tokio::time::sleep(CHECK_INTERVAL).await,
            Some((false, false)) | None => tokio::time::sleep(backoff.next()).await,
        }
    }
    run(queue).await;
}

/// Writes runs that wait too long. Ends with its runtime.
pub(super) async fn run(queue: Queue) {
    let mut watch = queue.0.state.subscribe();
    let mut backoff = Backoff::default();
    loop {
        // `queue` has the sender half, so waiting cannot fail.
        let waiting = watch.wait_for(|state| state.unwritten > 0).await;
        let oldest = waiting.ok().and_then(|state| state.oldest_unwritten());
        let left = oldest.map_or(HOLD, |oldest| (oldest + HOLD).saturating_duration_since(clock::now()));
        // Most runs are delivered before that.
        let urgent = timeout(left, watch.wait_for(|state| state.urgent)).await.is_ok();
        let due = queue.0.state.borrow().oldest_unwritten().is_some_and(|oldest| oldest + HOLD <= clock::now());
        if !urgent && !due {
            continue;
        }
        let stored = queue.0.state.borrow().stored.runs;
        match queue.on_disk(Queue::write_and_log).await {
            Some(Err(_)) | None => {
                // A disk that accepted some runs may soon have room for more.
                if queue.0.state.borrow().stored.runs > stored {
                    backoff = Backoff::default();
                }
                tokio::time::sleep(backoff.next()).await;
            }
            Some(Ok(())) => backoff = Backoff::default(),
        }
    }
}
