//! The task that takes batches off the queue and exports them, again and again until each is delivered or refused.

use std::{num::NonZeroU64, time::Duration};

use imaptrace_record::Seconds;

use super::{failure::Failure, queue::Queue, repeats::Repeats, wire::Traces};
use crate::{clock, telemetry::Metrics};

/// The first pause after a failure; each next one is twice as long, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What a receiver may ask for: no shorter than our own first pause, no longer than this.
const LONGEST_REQUEST: Duration = Duration::from_secs(300);

/// The pause when somebody waits for the queue to empty.
pub(super) const HURRIED_PAUSE: Duration = Duration::from_millis(250);

/// So many batches in a row that are refused for good are no fault of each: what waits is kept, and each next one goes out
/// after a pause.
const REFUSED_IN_A_ROW: u32 = 3;

/// How the receiver fares, and what the log has of it: a change, and one that comes and goes once a minute.
#[derive(Debug, Default)]
pub(super) struct Health {
    logged: Fares,
    repeats: Repeats,
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
    pub(super) fn note(&mut self, what: &str, endpoint: &str, outcome: Result<(), &Failure>) {
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

/// The pauses between attempts at one batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pauses(Duration);

impl Pauses {
    pub(super) fn new() -> Self {
        Self(FIRST_PAUSE)
    }

    /// The next pause: what the receiver asks for, else twice the one before.
    pub(super) fn next(&mut self, asked: Option<Duration>) -> Duration {
        if let Some(asked) = asked {
            return asked.clamp(FIRST_PAUSE, LONGEST_REQUEST);
        }
        let longer = (self.0 * 2).min(LONGEST_PAUSE);
        std::mem::replace(&mut self.0, longer)
    }
}

/// Never ends; goes with its runtime.
pub(super) async fn run(queue: Queue, traces: Traces, metrics: Metrics) {
    let mut health = Health::default();
    let (mut warnings, mut rows) = (Repeats::default(), Repeats::default());
    let (mut refused, mut between) = (0_u32, Pauses::new());
    loop {
        let mut batch = queue.batch().await;
        let mut pauses = Pauses::new();
        loop {
            let began = clock::now();
            let answer = traces.export(&batch).await;
            metrics.delivery_duration(Seconds::from(clock::now().saturating_duration_since(began)));
            // A part of it may be taken: no news yet.
            if batch.len() > 1 && matches!(answer.outcome, Err(Failure::TooMuch(_))) {
                batch = queue.halve();
                continue;
            }
            health.note("traces", traces.endpoint(), answer.outcome.as_ref().map(|_| ()));
            match answer.outcome {
                Ok(accepted) => {
                    accepted.log(traces.endpoint(), &mut warnings);
                    queue.delivered(accepted.rejected).await;
                    (refused, between) = (0, Pauses::new());
                }
                Err(Failure::Refused(reason) | Failure::TooMuch(reason)) => {
                    queue.refused(reason.clone()).await;
                    refused = refused.saturating_add(1);
                    if refused >= REFUSED_IN_A_ROW && rows.pass(clock::now()).is_some() {
                        let endpoint = traces.endpoint();
                        tracing::warn!(
                            "{endpoint} has refused {refused} batches of traces in a row: what waits is kept, and one batch \
                             is tried after each pause"
                        );
                    }
                    if refused >= REFUSED_IN_A_ROW {
                        queue.pause(reason, between.next(answer.retry_after), HURRIED_PAUSE).await;
                    }
                }
                Err(Failure::Later(reason)) => {
                    queue.pause(reason, pauses.next(answer.retry_after), HURRIED_PAUSE).await;
                    continue;
                }
            }
            break;
        }
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn pauses_double_up_to_a_minute_and_a_receivers_wish_is_obeyed_up_to_five() {
        let mut pauses = Pauses::new();
        let seconds: Vec<_> = (0..8).map(|_| pauses.next(None).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60]);
        for (asked, waited) in [(0, 1), (7, 7), (299, 299), (3600, 300)] {
            assert_eq!(pauses.next(Some(Duration::from_secs(asked))).as_secs(), waited);
        }
        assert_eq!(pauses.next(None).as_secs(), 60);
    }
}
