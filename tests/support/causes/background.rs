//! A thread that works beside a test and ends with its owner.

use std::{
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread::{self, JoinHandle},
    time::Duration,
};

/// The thread, for as long as it is held.
pub struct Background {
    held: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Starts it. The work ends soon after [`Stop::pause`] is false.
    pub fn start(work: impl FnOnce(&Stop) + Send + 'static) -> Self {
        let (held, stop) = mpsc::channel();
        let thread = thread::spawn(move || work(&Stop(stop)));
        Self { held: Some(held), thread: Some(thread) }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.held.take());
        let ended = self.thread.take().unwrap().join();
        // A second panic while a first one unwinds would hide it.
        if !thread::panicking() {
            ended.unwrap();
        }
    }
}

/// What the thread waits on.
pub struct Stop(Receiver<()>);

impl Stop {
    /// Waits this long, or until the end; false at the end.
    pub fn pause(&self, time: Duration) -> bool {
        self.0.recv_timeout(time) == Err(RecvTimeoutError::Timeout)
    }
}
