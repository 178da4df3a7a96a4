//! Permits, first come first served. Waiting for one ends when all are held by calls that should have returned.

use std::{
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::wait::Wait;
use crate::clock::{self, Deadline};

#[derive(Debug)]
pub(super) struct Limit {
    free: Arc<Semaphore>,
    /// How long a call usually takes at most; nothing waits longer for it.
    overdue_after: Duration,
    /// When each running call should have returned: at its deadline, or after `overdue_after`.
    due: Mutex<Vec<Deadline>>,
}

/// A running call, until this is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    limit: Arc<Limit>,
    due: Deadline,
    // Dropped after `drop` below: a permit is free when it is not on the list.
    _free: OwnedSemaphorePermit,
}

impl Limit {
    pub(super) fn new(most: usize, overdue_after: Duration) -> Self {
        Self { free: Arc::new(Semaphore::new(most)), overdue_after, due: Mutex::default() }
    }

    /// Waits for a permit until `deadline`; none when that has passed, or when all running calls should have returned: what has
    /// not returned in time will not return for the next caller either.
    pub(super) async fn acquire(self: &Arc<Self>, wait: Wait, deadline: Deadline) -> Option<Permit> {
        let mut acquired = pin!(self.free.clone().acquire_owned());
        loop {
            // A free permit is acquired even past the deadline.
            if let Some(permit) = wait.until(self.until(deadline), acquired.as_mut()).await {
                return permit.ok().map(|permit| self.permit(permit, deadline));
            }
            if self.until(deadline) <= clock::now() {
                return None;
            }
        }
    }

    /// When waiting for a permit ends.
    fn until(&self, deadline: Deadline) -> Instant {
        let end = deadline.lengthened();
        self.due().iter().map(Deadline::lengthened).max().unwrap_or(end).min(end)
    }

    fn permit(self: &Arc<Self>, permit: OwnedSemaphorePermit, deadline: Deadline) -> Permit {
        let due = deadline.part(self.overdue_after);
        self.due().push(due);
        Permit { limit: self.clone(), due, _free: permit }
    }

    fn due(&self) -> MutexGuard<'_, Vec<Deadline>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut all = self.limit.due();
        if let Some(at) = all.iter().position(|due| *due == self.due) {
            all.swap_remove(at);
        }
    }
}
