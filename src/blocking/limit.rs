//! Permits, first come first served. Waiting for one is given up when all are held by calls that should have returned.

use std::{
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep_until,
};

use super::park::block_until;
use crate::clock::{self, Deadline};

/// So many calls at a time.
#[derive(Debug)]
pub(super) struct Limit {
    free: Arc<Semaphore>,
    /// How long a call may usually take: past that, none waits for it any more.
    overdue_after: Duration,
    /// When each call under way should have returned: after its deadline, or `overdue_after`.
    due: Mutex<Vec<Deadline>>,
}

/// A call's place, until this is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    limit: Arc<Limit>,
    due: Deadline,
    // Dropped after `drop` below: a permit is free again when it is off the list.
    _free: OwnedSemaphorePermit,
}

impl Limit {
    pub(super) fn new(most: usize, overdue_after: Duration) -> Self {
        Self { free: Arc::new(Semaphore::new(most)), overdue_after, due: Mutex::default() }
    }

    /// Waits for a permit until `deadline`; none when that has passed, or as soon as all calls under way should have returned:
    /// what did not return in time will not return for the next caller either.
    pub(super) async fn acquire(self: &Arc<Self>, deadline: Deadline) -> Option<Permit> {
        if let Ok(permit) = self.free.clone().try_acquire_owned() {
            return Some(self.permit(permit, deadline));
        }
        let mut acquired = pin!(self.free.clone().acquire_owned());
        loop {
            let until = self.until(deadline);
            if until <= clock::now() {
                return None;
            }
            tokio::select! {
                biased;
                permit = &mut acquired => return permit.ok().map(|permit| self.permit(permit, deadline)),
                () = sleep_until(until.into()) => {}
            }
        }
    }

    /// [`acquire`](Self::acquire) for a caller that may block.
    pub(super) fn acquire_sync(self: &Arc<Self>, deadline: Deadline) -> Option<Permit> {
        let mut acquired = pin!(self.free.clone().acquire_owned());
        loop {
            let until = self.until(deadline);
            // Before the clock is asked: one that is free is had, whenever.
            if let Some(permit) = block_until(acquired.as_mut(), until) {
                return permit.ok().map(|permit| self.permit(permit, deadline));
            }
            if self.until(deadline) <= clock::now() {
                return None;
            }
        }
    }

    /// How long waiting may be of use.
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
