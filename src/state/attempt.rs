//! Attempts to open the state directory, each on a thread of its own: a file system that does not respond blocks that thread
//! and no caller.
//!
//! Opens nothing itself. Used by [`state_dir`](super::state_dir).

use std::{
    io,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{directory::about, error::OpenError};
use crate::clock;

#[derive(Debug, Default)]
pub(super) struct OpenAttempts {
    pub(super) under_way: usize,
    pub(super) newest: Option<Arc<OpenAttempt>>,
    /// One was late, and none has succeeded since.
    pub(super) was_late: bool,
}

#[derive(Debug)]
pub(super) struct OpenAttempt {
    began: Instant,
    /// What was mounted on the way to the directory at that time.
    pub(super) mounts: String,
    state: Mutex<AttemptState>,
    done: Condvar,
}

#[derive(Debug)]
enum AttemptState {
    Begun,
    /// Not finished, and a caller's wait has timed out.
    Late,
    Done(Result<(), OpenError>),
}

impl OpenAttempt {
    pub(super) fn new(mounts: String) -> Self {
        Self { began: clock::now(), mounts, state: Mutex::new(AttemptState::Begun), done: Condvar::new() }
    }

    /// Waits for the end, at most `timeout`; not at all after an earlier wait has timed out.
    pub(super) fn wait(&self, path: &Path, timeout: Duration) -> Result<(), OpenError> {
        let begun = |state: &mut AttemptState| matches!(state, AttemptState::Begun);
        let waited = self.done.wait_timeout_while(self.state(), timeout, begun);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match &*state {
            AttemptState::Done(outcome) => return outcome.as_ref().copied().map_err(OpenError::duplicate),
            AttemptState::Late => {}
            AttemptState::Begun => *state = AttemptState::Late,
        }
        let waited = clock::now().saturating_duration_since(self.began);
        let text = format!("it has not answered within {:.1} s", waited.as_secs_f64());
        Err(about(path, io::Error::other(text)).into())
    }

    /// Stores the outcome. Returns whether a caller's wait has timed out before.
    pub(super) fn end(&self, outcome: Result<(), OpenError>) -> bool {
        let before = std::mem::replace(&mut *self.state(), AttemptState::Done(outcome));
        self.done.notify_all();
        matches!(before, AttemptState::Late)
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(*self.state(), AttemptState::Done(_))
    }

    pub(super) fn is_late(&self) -> bool {
        matches!(*self.state(), AttemptState::Late)
    }

    fn state(&self) -> MutexGuard<'_, AttemptState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
