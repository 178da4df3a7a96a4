//! The task that brings to disk what waits too long, and tells when the disk does not take it.
//!
//! Whatever the disk does, runs go on from memory: nobody waits for this task. Decides nothing about order or budgets;
//! that is [`queue`](super::queue).

use std::{io, time::Duration};

use tokio::time::timeout;

use super::{
    order::State,
    queue::{HOLD, Queue},
};
use crate::clock;

/// The first pause after a failed write; each next one is twice as long, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Never ends; goes with its runtime.
pub(super) async fn run(queue: Queue) {
    let mut watch = queue.0.state.subscribe();
    let mut pause = FIRST_PAUSE;
    loop {
        // The sender half lives in `queue`, so waiting cannot fail.
        let oldest = watch.wait_for(|state| state.fresh > 0).await.ok().and_then(|state| state.oldest_fresh());
        let left = oldest.map_or(HOLD, |oldest| (oldest + HOLD).saturating_duration_since(clock::now()));
        // Most are delivered before their time comes, and the next in line then has more time.
        let hurried = timeout(left, watch.wait_for(|state| state.urgent)).await.is_ok();
        let due = queue.0.state.borrow().oldest_fresh().is_some_and(|oldest| oldest + HOLD <= clock::now());
        if !hurried && !due {
            continue;
        }
        let stored = queue.0.state.borrow().stored.runs;
        match queue.on_disk(Queue::write_and_tell).await {
            // A panic is no reason to try again at once.
            Some(Err(_)) | None => {
                // A disk that has taken a part may soon have room for more.
                if queue.0.state.borrow().stored.runs > stored {
                    pause = FIRST_PAUSE;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Some(Ok(())) => pause = FIRST_PAUSE,
        }
    }
}

impl State {
    /// Notes how a write went. Gives whether that is news.
    pub(super) fn note_disk(&mut self, outcome: &io::Result<()>) -> bool {
        let worked = std::mem::replace(&mut self.disk_works, outcome.is_ok());
        self.urgent &= outcome.is_ok();
        self.disk_failure = outcome.as_ref().err().map(ToString::to_string);
        worked != outcome.is_ok()
    }
}
