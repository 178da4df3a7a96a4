//! The only file that reads a clock; `pauses` has the times in which this process did not get to run.
//!
//! A run takes one [`Anchor`] at its start. Every later stamp is monotonic, and every exported time is the anchor plus a
//! difference of stamps, so a step of the wall clock has no effect. [`Kernel`] converts a stamp of the kernel, which is wall
//! clock, at the receive that brought it.

#![expect(clippy::disallowed_methods, reason = "the one place where clocks may be read")]

use std::time::{Duration, Instant, SystemTime};

use nix::time::{ClockId, clock_gettime};

mod pauses;

pub use pauses::{Deadline, Heartbeat, OwnDelay, PauseTotals, extended, pause_totals, paused};

/// The monotonic clock, for every duration. In tests it follows a paused tokio clock.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The wall clock, for anchors and for the age of things outside this process.
pub fn wall() -> SystemTime {
    #[cfg(test)]
    return injected::wall();
    #[cfg(not(test))]
    SystemTime::now()
}

/// The monotonic clock as `CLOCK_MONOTONIC` counts it (for systemd).
pub fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// The time since boot, with the time in which the machine was suspended: the clock of a process's start in `/proc`.
pub fn since_boot() -> Duration {
    monotonic() + slept()
}

/// How long the machine has been suspended since boot: the monotonic clock excludes it.
#[cfg(target_os = "linux")]
fn slept() -> Duration {
    let (Ok(awake), Ok(all)) = (clock_gettime(ClockId::CLOCK_MONOTONIC), clock_gettime(ClockId::CLOCK_BOOTTIME)) else {
        return Duration::ZERO;
    };
    let slept = Duration::from(all).saturating_sub(Duration::from(awake));
    #[cfg(test)]
    let slept = slept + injected::slept();
    slept
}

#[cfg(not(target_os = "linux"))]
fn slept() -> Duration {
    Duration::ZERO
}

/// One moment by both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Anchor {
    mono: Instant,
    wall: SystemTime,
    slept: Duration,
}

/// A smaller difference of two readings has other reasons than a suspended machine.
const SLEPT: Duration = Duration::from_millis(100);

impl Anchor {
    /// This moment.
    pub fn now() -> Self {
        Self { slept: slept(), wall: wall(), mono: now() }
    }

    /// The moment by the wall clock.
    pub fn wall(self) -> SystemTime {
        self.wall
    }

    /// The moment by the monotonic clock.
    pub fn mono(self) -> Instant {
        self.mono
    }

    /// The time from the anchor to `at`; zero when `at` is earlier.
    pub fn since(self, at: Instant) -> Duration {
        at.saturating_duration_since(self.mono)
    }

    /// Whether the machine has been suspended since: then the run does not measure the server.
    pub fn was_suspended(self) -> bool {
        slept().saturating_sub(self.slept) > SLEPT
    }
}

/// Converts stamps of the kernel, which are wall clock, into monotonic ones, by the last reading of both clocks. If the wall
/// clock was set since that reading, stamps are rejected.
#[derive(Debug, Clone, Copy)]
pub struct Kernel {
    mono: Instant,
    wall: SystemTime,
}

/// The two clocks are read within this time.
const READ_WITHIN: Duration = Duration::from_micros(5);
/// Two readings may differ by this much, when the thread lost its core between the two clocks; a slewed clock adds a thousandth.
const TOLERANCE: Duration = Duration::from_micros(200);

/// One reading of both clocks.
#[derive(Debug, Clone, Copy)]
pub struct ClockReading {
    now: Kernel,
    is_steady: bool,
}

impl Kernel {
    /// Reads both clocks for the first time.
    pub fn new() -> Self {
        // Repeated if the thread lost its core between the readings: every stamp would be off by that.
        let mut both = Self { mono: now(), wall: wall() };
        for _ in 0..4 {
            if now().saturating_duration_since(both.mono) <= READ_WITHIN {
                break;
            }
            both = Self { mono: now(), wall: wall() };
        }
        both
    }

    /// Reads both clocks again, right after stamps have arrived.
    pub fn read(&mut self) -> ClockReading {
        let before = std::mem::take(self);
        let elapsed = self.mono.saturating_duration_since(before.mono);
        let expected = before.wall + elapsed;
        let apart = self.wall.duration_since(expected).unwrap_or_else(|error| error.duration());
        ClockReading { now: *self, is_steady: apart <= TOLERANCE + elapsed / 1_000 }
    }
}

impl ClockReading {
    /// When a stamp was taken; none if it is rejected: it is in the future or before `earliest`, or the wall clock was set since
    /// the reading before.
    pub fn place(&self, stamp: Duration, earliest: Instant) -> Option<Instant> {
        let age = self.now.wall.duration_since(SystemTime::UNIX_EPOCH + stamp).ok().filter(|_| self.is_steady)?;
        let at = self.now.mono.checked_sub(age)?;
        // Two readings place the same stamp at slightly different times.
        (at + TOLERANCE >= earliest).then(|| at.max(earliest))
    }

    /// The moment of the reading.
    pub fn moment(&self) -> Instant {
        self.now.mono
    }
}

impl Default for Kernel {
    fn default() -> Self {
        Self::new()
    }
}

/// Clocks that a test can set, for its thread.
#[cfg(test)]
pub(crate) mod injected {
    use std::{
        cell::{Cell, RefCell},
        time::{Duration, Instant, SystemTime},
    };

    thread_local! {
        static PAUSES: RefCell<Vec<(Instant, Instant)>> = const { RefCell::new(Vec::new()) };
        static STEP: Cell<i64> = const { Cell::new(0) };
        static SLEPT: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    pub(super) fn wall() -> SystemTime {
        let step = Duration::from_secs(STEP.get().unsigned_abs());
        if STEP.get() < 0 { SystemTime::now() - step } else { SystemTime::now() + step }
    }

    pub(super) fn slept() -> Duration {
        SLEPT.get()
    }

    pub(super) fn pauses() -> Vec<(Instant, Instant)> {
        PAUSES.with_borrow(Clone::clone)
    }

    /// This process does not get to run between these moments, which come in order.
    pub(crate) fn pause(begin: Instant, end: Instant) {
        PAUSES.with_borrow_mut(|pauses| pauses.push((begin, end)));
    }

    /// Sets the wall clock forward or back.
    pub(crate) fn step(seconds: i64) {
        STEP.set(STEP.get() + seconds);
    }

    /// Puts the machine to sleep for as long, after the fact.
    pub(crate) fn sleep(time: Duration) {
        SLEPT.set(SLEPT.get() + time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn since_epoch() -> Duration {
        wall().duration_since(SystemTime::UNIX_EPOCH).unwrap()
    }

    #[test]
    fn a_stamp_of_the_kernel_is_placed_where_it_was_taken() {
        let mut kernel = Kernel::new();
        let before = now();
        let stamp = since_epoch();
        let after = now();
        let at = kernel.read().place(stamp, before.checked_sub(TOLERANCE).unwrap()).unwrap();
        assert!(at + TOLERANCE >= before && at <= after + TOLERANCE, "{:?}", at.saturating_duration_since(before));
    }

    #[test]
    fn a_stamp_from_the_future_or_from_before_there_was_anything_is_thrown_away() {
        let mut kernel = Kernel::new();
        assert_eq!(kernel.read().place(since_epoch() + Duration::from_secs(1), now()), None);
        let second = Duration::from_secs(1);
        let old = since_epoch().checked_sub(second).unwrap();
        assert_eq!(kernel.read().place(old, now()), None);
        assert!(kernel.read().place(old, now().checked_sub(2 * second).unwrap()).is_some());
    }

    #[test]
    fn no_stamp_is_accepted_across_a_step_of_the_wall_clock_and_the_next_one_is_again() {
        for step in [3600, -3600, 1, -1] {
            let mut kernel = Kernel::new();
            let long_ago = now().checked_sub(Duration::from_secs(7200)).unwrap();
            let stamp = since_epoch();
            injected::step(step);
            assert_eq!(kernel.read().place(stamp, long_ago), None, "{step}");
            let stamp = since_epoch();
            assert!(kernel.read().place(stamp, long_ago).is_some(), "{step}");
        }
    }

    #[test]
    fn sleep_shows_and_bends_no_duration() {
        let anchor = Anchor::now();
        assert!(!anchor.was_suspended());
        injected::sleep(Duration::from_secs(3600));
        injected::step(3600);
        assert!(anchor.was_suspended());
        assert!(anchor.since(now()) < Duration::from_secs(60));
    }
}
