//! What ends a wait before its time: the step's deadline, or the wish to cancel the run.
//!
//! Knows nothing of what is waited for. Called by `driver`, for every read and write of a connection, so it sets no timer
//! anew that can stay as it is.

use std::{
    pin::Pin,
    task::Poll,
    time::{Duration, Instant},
};

use tokio::time::{Sleep, sleep_until};

use super::job::Cancel;
use crate::clock::{self, Deadline};

/// What ends a wait before its time.
pub(super) struct Watch {
    /// One for the life of the connection, set anew only when it would ring too late.
    timer: Pin<Box<Sleep>>,
    /// When it rings.
    rings: Instant,
    /// None once that has no meaning any more.
    cancel: Option<Cancel>,
    cancelled: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// A timer that is set to an earlier time goes through the kernel to wake its own thread. No deadline is shorter than this
/// unless somebody wants it so, and most connections are over before: they set their timer once.
const FIRST_RING: Duration = Duration::from_secs(1);

/// How a wait ended.
pub(super) enum Waited<T> {
    Done(T),
    TimeUp,
    Cancelled,
}

impl Watch {
    pub(super) fn new(cancel: Cancel, now: Instant) -> Self {
        let rings = now + FIRST_RING;
        let mut waiting = cancel.clone();
        Self {
            timer: Box::pin(sleep_until(rings.into())),
            rings,
            cancel: Some(cancel),
            cancelled: Box::pin(async move { cancelled(&mut waiting).await }),
        }
    }

    /// Whether the run is to be cancelled. A server that never pauses keeps [`Watch::until`] from looking.
    pub(super) fn is_cancelled(&self) -> bool {
        self.cancel.as_ref().is_some_and(|cancel| *cancel.borrow())
    }

    /// From here on nothing but the deadline ends a wait.
    pub(super) fn ignore_cancel(&mut self) {
        self.cancel = None;
        self.cancelled = Box::pin(std::future::pending());
    }

    /// Waits for `future`, no longer than until `deadline`, and by the pauses longer that lengthen it. What is done is never
    /// overlooked for the time. Before time is up, `look` is called and the future asked once more.
    pub(super) async fn until<T>(
        &mut self,
        deadline: Deadline,
        look: impl Fn(),
        future: impl Future<Output = T>,
    ) -> Waited<T> {
        let mut future = std::pin::pin!(future);
        let mut end = deadline.end();
        if end < self.rings {
            self.timer.as_mut().reset(end.into());
            self.rings = end;
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
                    look();
                    return match future.as_mut().poll(context) {
                        Poll::Ready(done) => Poll::Ready(Waited::Done(done)),
                        Poll::Pending => Poll::Ready(Waited::TimeUp),
                    };
                }
                // It rang for an earlier step that is over, or this process did not get to run meanwhile.
                self.timer.as_mut().reset(end.into());
                self.rings = end;
            }
            Poll::Pending
        })
        .await
    }
}

/// Ends when the run is cancelled; never once the sender is gone.
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
    async fn what_is_there_when_time_is_up_and_nobody_was_told_of_is_looked_for_before_the_wait_is_over() {
        let (_tell, cancel) = channel(false);
        let begin = clock::now();
        let mut watch = Watch::new(cancel, begin);
        let deadline = Deadline::after(begin, Duration::from_secs(5));
        let looked = Cell::new(false);
        // As a socket of which the runtime's timer comes to be known before its readiness does: no waker is kept.
        let held = || std::future::poll_fn(|_| if looked.get() { Poll::Ready(()) } else { Poll::Pending });
        assert!(matches!(watch.until(deadline, || looked.set(true), held()).await, Waited::Done(())));
        assert!(clock::now() >= deadline.end(), "not before");
        looked.set(false);
        assert!(matches!(watch.until(deadline, || (), held()).await, Waited::TimeUp));
    }
}
