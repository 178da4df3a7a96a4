//! Waits for a future on a thread that may block, until a deadline. The future must not need a runtime.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Instant,
};

use crate::clock;

/// The future's output, or none at `deadline`. The future is polled at least once.
pub(super) fn block_until<F: Future>(future: Pin<&mut F>, deadline: Instant) -> Option<F::Output> {
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
