//! What ends a wait early: the step's deadline, or the cancellation of the run.
//!
//! Called by `driver`, for every read and write of a connection, so a timer is reset only when it must be.

use std::{
    pin::Pin,
    task::Poll,
    time::{Duration, Instant},
};

use tokio::time::{Sleep, sleep_until};

use super::job::Cancel;
use crate::clock::{self, Deadline};

/// The timer and the cancellation of a connection.
pub(super) struct Watch {
    /// One for the life of the connection, reset only when it would fire too late.
    timer: Pin<Box<Sleep>>,
    /// When it fires.
    fires: Instant,
    /// None once cancellation is ignored.
    cancel: Option<Cancel>,
    cancelled: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// Resetting a timer to an earlier time wakes its own thread by way of the kernel. Hardly any deadline is shorter than this,
/// and most connections end before: they set their timer once.
const FIRST_FIRE: Duration = Duration::from_secs(1);

/// How a wait ended.
pub(super) enum Waited<T> {
    Done(T),
    TimeUp,
    Cancelled,
}

impl Watch {
    pub(super) fn new(cancel: Cancel, now: Instant) -> Self {
        let fires = now + FIRST_FIRE;
        let mut waiting = cancel.clone();
        Self {
            timer: Box::pin(sleep_until(fires.into())),
            fires,
            cancel: Some(cancel),
            cancelled: Box::pin(async move { cancelled(&mut waiting).await }),
        }
    }

    /// Whether the run is to be cancelled. [`Watch::until`] does not check while a server never pauses.
    pub(super) fn is_cancelled(&self) -> bool {
        self.cancel.as_ref().is_some_and(|cancel| *cancel.borrow())
    }

    /// From here on only the deadline ends a wait.
    pub(super) fn ignore_cancel(&mut self) {
        self.cancel = None;
        self.cancelled = Box::pin(std::future::pending());
    }

    /// Waits for `future` until `deadline`, and by the pauses that lengthen it. A future that is ready wins over the deadline:
    /// when time is up, `at_deadline` is called and the future polled once more.
    pub(super) async fn until<T>(
        &mut self,
        deadline: Deadline,
        at_deadline: impl Fn(),
        future: impl Future<Output = T>,
    ) -> Waited<T> {
        let mut future = std::pin::pin!(future);
        let mut end = deadline.end();
        if end < self.fires {
            self.timer.as_mut().reset(end.into());
            self.fires = end;
        }
        std::future::poll_fn(move |context| {
            if let Poll::Ready(done) = future.as_mut().poll(context) {
                return Poll::Ready(Waited::Done(done));
            }
            if self.cancelled.as_mut().poll(context).is_ready() {
                // Reported once: what waits after that checks for itself.
                self.cancelled = Box::pin(std::future::pending());
                return Poll::Ready(Waited::Cancelled);
            }
            while self.timer.as_mut().poll(context).is_ready() {
                let now = clock::now();
                if now >= end {
                    end = deadline.lengthened();
                }
                if now >= end {
                    at_deadline();
                    return match future.as_mut().poll(context) {
                        Poll::Ready(done) => Poll::Ready(Waited::Done(done)),
                        Poll::Pending => Poll::Ready(Waited::TimeUp),
                    };
                }
                // It fired for an earlier step, or this process did not run meanwhile.
                self.timer.as_mut().reset(end.into());
                self.fires = end;
            }
            Poll::Pending
        })
        .await
    }
}

/// Ends when the run is cancelled; never after the sender was dropped.
pub(super) async fn cancelled(cancel: &mut Cancel) {
    if cancel.wait_for(|cancelled| *cancelled).await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::sync::watch::channel;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_future_that_became_ready_without_a_wake_up_is_polled_once_more_at_the_deadline() {
        let (_tell, cancel) = channel(false);
        let begin = clock::now();
        let mut watch = Watch::new(cancel, begin);
        let deadline = Deadline::after(begin, Duration::from_secs(5));
        let called = Cell::new(false);
        // As a socket whose readiness the runtime reports after its timer: no waker is kept.
        let held = || std::future::poll_fn(|_| if called.get() { Poll::Ready(()) } else { Poll::Pending });
        assert!(matches!(watch.until(deadline, || called.set(true), held()).await, Waited::Done(())));
        assert!(clock::now() >= deadline.end(), "not before");
        called.set(false);
        assert!(matches!(watch.until(deadline, || (), held()).await, Waited::TimeUp));
    }
}
