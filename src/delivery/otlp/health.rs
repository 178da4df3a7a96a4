//! Logs when a receiver begins to fail and when it recovers: at most one failure a minute. Does not decide about retries.
//! Called by the sender of traces and the exporter of metrics.

use std::num::NonZeroU64;

use super::error::ExportError;
use crate::{clock, delivery::log_throttle::LogThrottle};

/// The state of a receiver that was logged last.
#[derive(Debug, Default)]
pub(in crate::delivery) struct ReceiverHealth {
    logged: HealthState,
    repeats: LogThrottle,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum HealthState {
    #[default]
    Healthy,
    /// It cannot be reached, or requests a later retry.
    Unreachable,
    /// It refuses requests permanently.
    Rejecting,
}

impl ReceiverHealth {
    /// Takes the outcome of an export of `what` to `endpoint`, and logs a change.
    pub(in crate::delivery) fn note(&mut self, what: &str, endpoint: &str, outcome: Result<(), &ExportError>) {
        let new = match outcome {
            Ok(()) => HealthState::Healthy,
            Err(ExportError::Retryable(_)) => HealthState::Unreachable,
            Err(ExportError::Permanent(_) | ExportError::TooLarge(_)) => HealthState::Rejecting,
        };
        if self.logged == new {
            return;
        }
        // A recovery is always logged: it follows a logged failure.
        let passed = if new == HealthState::Healthy { Some(0) } else { self.repeats.pass(clock::now()) };
        let Some(repeated) = passed.map(NonZeroU64::new) else { return };
        self.logged = new;
        match outcome {
            Ok(()) => tracing::info!("{what} are delivered to {endpoint} again"),
            Err(ExportError::Retryable(reason)) => {
                tracing::warn!(repeated, "cannot deliver {what} to {endpoint}: {reason}; imaptrace goes on trying");
            }
            Err(ExportError::Permanent(reason) | ExportError::TooLarge(reason)) => {
                tracing::warn!(
                    repeated,
                    "{endpoint} refuses {what}: {reason}; what it refuses is counted and not sent again"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_receiver_that_changes_is_two_lines_a_minute_and_one_that_stays_unreachable_is_logged() {
        let mut health = ReceiverHealth::default();
        let away = ExportError::Retryable("HTTP 503".to_owned());
        let mut changes = 0;
        for second in 0..120 {
            let outcome = if second % 2 == 0 { Err(&away) } else { Ok(()) };
            let before = health.logged;
            health.note("traces", "there", outcome);
            changes += u32::from(before != health.logged);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!((changes, health.logged), (4, HealthState::Healthy));
        for _ in 0..60 {
            health.note("traces", "there", Err(&away));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(health.logged, HealthState::Unreachable);
    }
}
