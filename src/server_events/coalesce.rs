//! When the receiver's thread sleeps before it waits for more requests.
//!
//! A wake-up of the thread for each event costs as much CPU as reading it. So the thread sleeps after it has served a request, and
//! one wake-up serves what many connections have sent meanwhile, as network drivers coalesce interrupts. A connection that sends
//! request after request would be held up by each sleep: while there is one, the thread does not sleep. Reads no clock and does
//! not sleep itself. Called by `receiver`.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::rate::TokenBucket;

/// How long the thread sleeps after it has served a request.
const SLEEP: Duration = Duration::from_millis(2);
/// Requests a second of one connection from which on it is busy; fewer than one that waits for [`SLEEP`] each time can send.
const BUSY_A_SECOND: u32 = 200;
/// Requests that one connection may send at once without being busy: the events of two or three runs.
const BUSY_AT_ONCE: u32 = 30;
/// How long a connection is busy after the last request above these limits.
const BUSY: Duration = Duration::from_millis(100);

/// Decides when the thread sleeps.
#[derive(Debug, Default)]
pub(super) struct WakeUpCoalescing {
    /// Whether a request has been served since the thread last waited.
    has_served: AtomicBool,
    busy_until: Mutex<Option<Instant>>,
}

/// How fast the requests of one connection come.
#[derive(Debug)]
pub(super) struct ConnectionRate(Mutex<TokenBucket>);

impl ConnectionRate {
    pub(super) fn new() -> Self {
        Self(Mutex::new(TokenBucket::new(BUSY_A_SECOND, BUSY_AT_ONCE)))
    }
}

impl WakeUpCoalescing {
    /// A request has come over the connection with this rate.
    pub(super) fn request(&self, rate: &ConnectionRate, now: Instant) {
        self.has_served.store(true, Ordering::Relaxed);
        if !rate.0.lock().unwrap_or_else(PoisonError::into_inner).take(now) {
            *self.busy_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(now + BUSY);
        }
    }

    /// How long the thread has to sleep before it waits for more requests; `None` if it has served none, or a connection is busy.
    pub(super) fn sleep(&self, now: Instant) -> Option<Duration> {
        let has_served = self.has_served.swap(false, Ordering::Relaxed);
        let busy_until = *self.busy_until.lock().unwrap_or_else(PoisonError::into_inner);
        (has_served && busy_until.is_none_or(|until| until <= now)).then_some(SLEEP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thread_sleeps_once_after_requests_of_many_slow_connections() {
        let coalescing = WakeUpCoalescing::default();
        let start = crate::clock::now();
        assert_eq!(coalescing.sleep(start), None, "nothing was served");
        let rates: Vec<_> = (0..60).map(|_| ConnectionRate::new()).collect();
        for round in 0..100 {
            let now = start + Duration::from_millis(round * 20);
            for rate in &rates {
                coalescing.request(rate, now);
            }
            assert_eq!(coalescing.sleep(now), Some(SLEEP), "round {round}");
            assert_eq!(coalescing.sleep(now), None, "nothing was served since");
        }
    }

    #[test]
    fn a_connection_that_sends_request_after_request_is_soon_no_longer_held_up() {
        let (coalescing, rate) = (WakeUpCoalescing::default(), ConnectionRate::new());
        let mut now = crate::clock::now();
        let mut slept = Duration::ZERO;
        for _ in 0..3_000 {
            now += Duration::from_micros(100);
            coalescing.request(&rate, now);
            let sleep = coalescing.sleep(now).unwrap_or_default();
            slept += sleep;
            now += sleep;
        }
        assert!((SLEEP * 10..SLEEP * 60).contains(&slept), "{slept:?}");
        now += BUSY;
        coalescing.request(&ConnectionRate::new(), now);
        assert_eq!(coalescing.sleep(now), Some(SLEEP), "after it");
    }
}
