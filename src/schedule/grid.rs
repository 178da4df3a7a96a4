//! The starts of a slot: a phase by its name, on a grid that begins once per process.
//!
//! The same name and interval give the same starts over all reloads. The time is an argument.

use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

/// The first start after `now`; the grid begins at `origin`.
pub(super) fn after(origin: Instant, now: Instant, name: &str, interval: Duration) -> Instant {
    let first = origin + phase(name, interval);
    match now.checked_duration_since(first) {
        None => first,
        Some(since) => first + times(interval, whole(since, interval) + 1),
    }
}

/// The number of whole intervals in a time.
pub(super) fn whole(time: Duration, interval: Duration) -> u64 {
    u64::try_from(time.as_nanos() / interval.as_nanos().max(1)).unwrap_or(u64::MAX)
}

/// A number of intervals, to the nanosecond.
pub(super) fn times(interval: Duration, count: u64) -> Duration {
    let nanos = interval.as_nanos().saturating_mul(count.into());
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// The first start of a slot, from the start of its interval.
fn phase(name: &str, interval: Duration) -> Duration {
    let digest = Sha256::digest(name.as_bytes());
    let place = digest.iter().take(4).fold(0u32, |place, byte| place << 8 | u32::from(*byte));
    interval.mul_f64(f64::from(place) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn phases_are_stable_and_spread() {
        let minute = Duration::from_secs(60);
        assert_eq!(phase("mail01", minute), phase("mail01", minute));
        let mut thirds = [0; 3];
        for number in 0..300 {
            thirds[(phase(&format!("mail{number:03}"), minute).as_secs() / 20).min(2) as usize] += 1;
        }
        assert!(thirds.iter().all(|count| *count > 60), "{thirds:?}");
    }

    #[test]
    fn a_start_is_the_same_to_the_nanosecond_at_any_time_of_the_call() {
        let origin = clock::now();
        let interval = Duration::from_nanos(7_000_000_003);
        let first = after(origin, origin, "mail01", interval);
        assert!(first <= origin + interval);
        let thousandth = first + times(interval, 1000);
        let nano = Duration::from_nanos(1);
        for now in [first + times(interval, 999), first + times(interval, 999) + interval / 2] {
            assert_eq!(after(origin, now, "mail01", interval), thousandth);
        }
        assert_eq!(after(origin, thousandth.checked_sub(nano).unwrap(), "mail01", interval), thousandth);
        assert_eq!(after(origin, thousandth, "mail01", interval), thousandth + interval);
    }
}
