//! The signals that stop a process in order: which count, and when a second one means "exit now".
//!
//! It ends nothing itself. Called by [`run`](super::run) and by the one-shot commands of `cli`.

use std::{
    io,
    time::{Duration, Instant},
};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::clock;

/// Signals within this time of the first are one request: `timeout -s INT` sends two, a terminal and a supervisor one each.
const SAME_REQUEST: Duration = Duration::from_secs(1);

/// SIGTERM and SIGINT, caught from now on.
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Catches them. Needs a runtime.
    pub fn catch() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next signal, and returns it with the moment.
    pub async fn next(&mut self) -> (SignalKind, Instant) {
        let kind = tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.interrupt.recv() => SignalKind::interrupt(),
        };
        (kind, clock::now())
    }

    /// Returns at the first signal that is a new request after the one at `first`.
    pub(super) async fn next_request(&mut self, first: Instant) {
        while !is_new_request(first, self.next().await.1) {}
    }
}

fn is_new_request(first: Instant, next: Instant) -> bool {
    next.saturating_duration_since(first) > SAME_REQUEST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_a_new_request_only_after_a_second() {
        let first = clock::now();
        for (after, new) in [(0, false), (1, false), (999, false), (1_000, false), (1_001, true), (60_000, true)] {
            assert_eq!(is_new_request(first, first + Duration::from_millis(after)), new, "{after} ms");
        }
    }
}
