//! Whether a receiver accepts what it gets, and the log lines about a change of that.
//!
//! A receiver that changes back and forth makes at most one line a minute. Does not decide about retries. Used by the sender
//! of traces and by the exporter of metrics.

use std::num::NonZeroU64;

use super::error::Failure;
use crate::{clock, delivery::log_throttle::LogThrottle};

/// How the receiver fares, and what the log has of it: a change, and one that comes and goes once a minute.
#[derive(Debug, Default)]
pub(in crate::delivery) struct Health {
    logged: Fares,
    repeats: LogThrottle,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Fares {
    /// It takes what it gets.
    #[default]
    Good,
    /// It cannot be reached, or asks to come again.
    Away,
    /// It refuses what it gets.
    Refusing,
}

impl Health {
    /// Notes the outcome of an export of `what` to `endpoint`, and logs it when it is news.
    pub(in crate::delivery) fn note(&mut self, what: &str, endpoint: &str, outcome: Result<(), &Failure>) {
        let new = match outcome {
            Ok(()) => Fares::Good,
            Err(Failure::Later(_)) => Fares::Away,
            Err(Failure::Refused(_) | Failure::TooMuch(_)) => Fares::Refusing,
        };
        if self.logged == new {
            return;
        }
        // What gets better is no more often than what gets worse.
        let passed = if new == Fares::Good { Some(0) } else { self.repeats.pass(clock::now()) };
        let Some(repeated) = passed.map(NonZeroU64::new) else { return };
        self.logged = new;
        match outcome {
            Ok(()) => tracing::info!("{what} are delivered to {endpoint} again"),
            Err(Failure::Later(reason)) => {
                tracing::warn!(repeated, "cannot deliver {what} to {endpoint}: {reason}; imaptrace goes on trying");
            }
            Err(Failure::Refused(reason) | Failure::TooMuch(reason)) => {
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
    async fn a_receiver_that_comes_and_goes_is_two_lines_a_minute_and_one_that_stays_away_is_said_to() {
        let mut health = Health::default();
        let away = Failure::Later("HTTP 503".to_owned());
        let mut changes = 0;
        for second in 0..120 {
            let outcome = if second % 2 == 0 { Err(&away) } else { Ok(()) };
            let before = health.logged;
            health.note("traces", "there", outcome);
            changes += u32::from(before != health.logged);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!((changes, health.logged), (4, Fares::Good));
        for _ in 0..60 {
            health.note("traces", "there", Err(&away));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(health.logged, Fares::Away);
    }
}
