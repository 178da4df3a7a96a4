//! Permits, first come first served. Waiting for one is given up when all are held by calls past their deadlines.

use std::{
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep_until,
};

use super::park::block_until;
use crate::clock;

/// So many calls at a time.
#[derive(Debug)]
pub(super) struct Limit {
    free: Arc<Semaphore>,
    /// Until when each call under way was to end.
    deadlines: Mutex<Vec<Instant>>,
}

/// A call's place, until this is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    limit: Arc<Limit>,
    deadline: Instant,
    // Dropped after `drop` below: a permit is free again when its deadline is off the list.
    _free: OwnedSemaphorePermit,
}

impl Limit {
    pub(super) fn new(most: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(most)), deadlines: Mutex::default() }
    }

    /// Waits for a permit until `deadline`; none when that has passed, or as soon as the deadlines of all calls under way
    /// have: what did not return in time will not return for the next caller either.
    pub(super) async fn acquire(self: &Arc<Self>, deadline: Instant) -> Option<Permit> {
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
    pub(super) fn acquire_sync(self: &Arc<Self>, deadline: Instant) -> Option<Permit> {
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

    /// Whether a call is past its deadline.
    pub(super) fn has_overdue(&self) -> bool {
        let now = clock::now();
        self.deadlines().iter().any(|deadline| *deadline <= now)
    }

    /// How long waiting may be of use.
    fn until(&self, deadline: Instant) -> Instant {
        self.deadlines().iter().max().copied().unwrap_or(deadline).min(deadline)
    }

    fn permit(self: &Arc<Self>, permit: OwnedSemaphorePermit, deadline: Instant) -> Permit {
        self.deadlines().push(deadline);
        Permit { limit: self.clone(), deadline, _free: permit }
    }

    fn deadlines(&self) -> MutexGuard<'_, Vec<Instant>> {
        self.deadlines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut deadlines = self.limit.deadlines();
        if let Some(at) = deadlines.iter().position(|deadline| *deadline == self.deadline) {
            deadlines.swap_remove(at);
        }
    }
}
