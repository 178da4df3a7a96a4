//! The end of runs: refused ones are put aside, and that they were delivered is noted on disk.
//!
//! Waits for the disk on its threads; when the disk hangs, delivery goes on. Called by [`queue`](super) alone.

use std::{collections::BTreeMap, num::NonZeroU64, path::Path, sync::Arc, time::Duration};

use imaptrace_record::Run;
use tokio::time::timeout;

use super::{PATIENCE, Place, Queue};
use crate::clock;

impl Queue {
    /// Puts runs aside if there are any, and notes on disk that those in `places` have ended their way. It is done when this
    /// comes back, unless the disk hangs: then it is done whenever it can be, and delivery goes on.
    pub(super) async fn note_end(
        &self,
        aside: Option<Vec<Arc<Run>>>,
        places: BTreeMap<u64, u64>,
        through: Option<Place>,
    ) {
        if aside.is_none() && places.is_empty() {
            self.0.state.send_modify(|state| state.settling -= 1);
            return;
        }
        let hangs = self.0.state.borrow().settling > 1;
        // One that still waits to be put aside may be before it: nothing is known of all up to here.
        let through = through.filter(|_| !hangs);
        let this = self.clone();
        let noted = tokio::spawn(async move {
            if let Some(runs) = aside {
                this.put_aside(runs).await;
            }
            this.settle(places, through).await;
            this.0.state.send_modify(|state| state.settling -= 1);
        });
        let _in_time = timeout(if hangs { Duration::ZERO } else { PATIENCE }, noted).await.is_ok();
    }

    /// Notes on disk that runs have ended their way there.
    async fn settle(&self, places: BTreeMap<u64, u64>, through: Option<Place>) {
        let mut first = false;
        self.0.state.send_if_modified(|state| {
            first = state.due.0.is_empty();
            for (segment, runs) in places {
                *state.due.0.entry(segment).or_default() += runs;
            }
            state.due.1 = through.or(state.due.1);
            false
        });
        // Who came before waits for the disk, and takes this along: one thread at a time is enough.
        if !first {
            return;
        }
        self.on_disk(|queue, spool| {
            let (mut due, mut through) = (BTreeMap::new(), None);
            queue.0.state.send_if_modified(|state| {
                (due, through) = std::mem::take(&mut state.due);
                false
            });
            spool.settle(&due, through);
            queue.0.state.send_if_modified(|state| {
                state.settled(&due);
                state.stored = spool.figures();
                queue.tell_size(state);
                false
            });
        })
        .await;
    }

    async fn put_aside(&self, runs: Vec<Arc<Run>>) {
        let now = clock::wall();
        match self.on_disk(move |_, spool| spool.put_aside(&runs, now)).await {
            Some(Ok(path)) => {
                let mut first = false;
                self.0.state.send_if_modified(|state| {
                    first = state.refused_in.is_none();
                    state.refused_in = path.parent().map(Path::to_owned);
                    false
                });
                if first {
                    let file = path.display();
                    tracing::warn!(%file, "runs that were refused are put aside; `imaptrace replay` sends them again");
                }
            }
            Some(Err(error)) => {
                if let Some(repeated) = self.pass(|told| &mut told.unkept) {
                    let repeated = NonZeroU64::new(repeated);
                    tracing::warn!(%error, repeated, "refused runs cannot be put aside and are gone");
                }
            }
            None => {}
        }
    }
}
