//! Waits for a future until a deadline: as a task, or with its thread parked. Then the future must not need a runtime.
//! Called by [`run`](super::run) and its like, and by `limit`.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Instant,
};

use tokio::time::timeout_at;

use crate::clock::{self, Deadline};

/// How a caller waits.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wait {
    /// As a task of a runtime.
    Await,
    /// Its thread is parked.
    Park,
}

impl Wait {
    /// The future's output, or none at `deadline`. The future is polled first.
    pub(super) async fn until<F: Future>(self, deadline: Instant, future: Pin<&mut F>) -> Option<F::Output> {
        match self {
            Self::Await => timeout_at(deadline.into(), future).await.ok(),
            Self::Park => block_until(future, deadline),
        }
    }

    /// The same for a deadline that pauses of this process lengthen.
    pub(super) async fn within<F: Future + Unpin>(self, deadline: Deadline, mut future: F) -> Option<F::Output> {
        loop {
            let end = deadline.lengthened();
            if let Some(output) = self.until(end, Pin::new(&mut future)).await {
                return Some(output);
            }
            if deadline.lengthened() <= end {
                return None;
            }
        }
    }
}

/// The future's output, or none at `deadline`. The future is polled at least once.
fn block_until<F: Future>(future: Pin<&mut F>, deadline: Instant) -> Option<F::Output> {
    // A task that does not yield to its runtime uses up its budget (`tokio::task::coop`); then nothing would be ready.
    let mut future = pin!(tokio::task::unconstrained(future));
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
        let left = deadline.saturating_duration_since(clock::now());
        if left.is_zero() {
            return None;
        }
        thread::park_timeout(left);
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn a_task_that_waits_often_without_yielding_still_gets_a_free_permit() {
        let free = Semaphore::new(1);
        let deadline = clock::now() + Duration::from_secs(60);
        for _ in 0..1_000 {
            drop(block_until(pin!(free.acquire()), deadline).unwrap().unwrap());
        }
    }
}
