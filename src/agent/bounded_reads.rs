//! Reads that a file system may not answer: on a few threads, with a deadline, which a pause of this process lengthens.
//!
//! One read is of many files on any number of mounts, and parses them, so it is none of the short calls of `blocking`. There are
//! no more threads that hang than places. Called by `reload`.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;

use crate::{
    blocking,
    clock::{self, Deadline},
};

/// Places for reads of one kind.
pub(super) struct BoundedReads {
    places: Arc<Semaphore>,
    within: Duration,
}

/// A failed read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// It took too long.
    #[error(
        "the configuration and its files were not read within {0:?}: a file system that one of them is on does not answer"
    )]
    Deadline(Duration),
    /// All places are taken by reads that hang.
    #[error("the configuration is not read again: earlier attempts still wait for a file system that does not answer")]
    Busy,
    /// It panicked.
    #[error("a fault in imaptrace: {0}")]
    Fault(tokio::task::JoinError),
}

impl BoundedReads {
    pub(super) fn new(places: usize, within: Duration) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), within }
    }

    /// Reads, and drops the result when its caller has gone.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ReadError> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| ReadError::Busy)?;
        let reading = blocking::work(move || {
            let _place = place;
            read()
        });
        let read = blocking::within(Deadline::after(clock::now(), self.within), reading).await;
        read.ok_or(ReadError::Deadline(self.within))?.map_err(ReadError::Fault)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn reads_that_hang_hold_their_places_until_they_return() {
        let reads = BoundedReads::new(2, Duration::from_secs(30));
        let mut hung = Vec::new();
        for _ in 0..2 {
            let (answer, answered) = mpsc::channel::<()>();
            hung.push(answer);
            let read = reads.run(move || answered.recv().is_ok());
            // A paused clock does not advance by itself while a thread is at work.
            let (read, ()) = tokio::join!(read, tokio::time::advance(Duration::from_secs(31)));
            assert!(matches!(read, Err(ReadError::Deadline(_))), "{read:?}");
        }
        assert!(matches!(reads.run(|| ()).await, Err(ReadError::Busy)));
        drop(hung);
        while reads.places.available_permits() < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(reads.run(|| 1).await.unwrap(), 1);
    }
}
