//! Records the end of a batch on disk, and writes dead letters. While the disk hangs, delivery continues. Called by [`Queue`].

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use imaptrace_record::Run;
use tokio::time::timeout;

use super::{
    Queue, SETTLE_TIMEOUT,
    state::{Completed, Settlement},
};
use crate::clock;

impl Queue {
    /// Keeps the runs as dead letters if `refused`, and records on disk that they need not be sent again. Returns when that is
    /// done, or earlier when the disk hangs.
    pub(super) async fn settle(&self, completed: Completed, refused: bool) {
        let Completed { runs, mut settlement, .. } = completed;
        if !refused && settlement.runs.is_empty() {
            self.update(|state| state.settling -= 1);
            return;
        }
        // The end of an earlier batch is not recorded yet.
        let hangs = self.0.state.borrow().settling > 1;
        if hangs {
            // An earlier batch may still have to be written as a dead letter.
            settlement.through = None;
        }
        let this = self.clone();
        let noted = tokio::spawn(async move {
            if refused {
                this.keep_dead_letters(runs).await;
            }
            this.note_settlement(settlement).await;
            this.update(|state| state.settling -= 1);
        });
        let _ = timeout(if hangs { Duration::ZERO } else { SETTLE_TIMEOUT }, noted).await;
    }

    /// Records on disk that runs there are delivered or refused.
    async fn note_settlement(&self, settlement: Settlement) {
        // An earlier call that still waits for the disk records this, too: one thread at a time is enough.
        if !self.update_silently(|state| state.add_due(settlement)) {
            return;
        }
        self.on_disk(|queue, spool| {
            let due = queue.update_silently(|state| std::mem::take(&mut state.due));
            spool.settle(&due.runs, due.through);
            queue.update_silently(|state| {
                state.settled(&due.runs);
                queue.measure_disk(state, spool);
            });
        })
        .await;
    }

    async fn keep_dead_letters(&self, runs: Vec<Arc<Run>>) {
        let now = clock::wall();
        match self.on_disk(move |_, spool| spool.keep_dead_letters(&runs, now)).await {
            Some(Ok(path)) if self.update_silently(|state| state.note_dead_letters(path.parent())) => {
                let file = path.display();
                tracing::warn!(%file, "refused runs are kept as dead letters; `imaptrace replay` sends them again");
            }
            Some(Err(error)) => {
                if let Some(repeated) = self.may_log(|logged| &mut logged.unkept) {
                    let repeated = NonZeroU64::new(repeated);
                    tracing::warn!(%error, repeated, "refused runs cannot be kept as dead letters and are lost");
                }
            }
            Some(Ok(_)) | None => {}
        }
    }
}
