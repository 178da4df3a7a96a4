//! How late runs started in the last minutes: a histogram for each minute, with buckets an eighth of an octave wide, so a
//! quantile is at most that much too large. Called by `run_history`.

use std::time::Duration;

use imaptrace_record::Seconds;
use serde::Serialize;

/// Minutes that count, including the current one.
const MINUTES: usize = 5;

/// Buckets of an octave.
const PER_OCTAVE: u32 = 8;
/// Up to 2³² µs, more than an hour: no run starts later.
const BUCKETS: usize = (32 * PER_OCTAVE) as usize;

pub(super) struct Lags {
    minutes: [Minute; MINUTES],
}

struct Minute {
    /// Minutes since the epoch.
    number: u64,
    runs: u64,
    max: u32,
    buckets: Box<[u32; BUCKETS]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct StartLag {
    minutes: usize,
    runs: u64,
    /// Half of them started no later than this.
    p50_s: Seconds,
    p99_s: Seconds,
    /// All of them.
    max_s: Seconds,
}

impl Lags {
    pub(super) fn new() -> Self {
        let minute = || Minute { number: 0, runs: 0, max: 0, buckets: Box::new([0; BUCKETS]) };
        Self { minutes: std::array::from_fn(|_| minute()) }
    }

    /// A run started this late; `at` is since the epoch.
    pub(super) fn record(&mut self, at: Duration, lag: Seconds) {
        let number = at.as_secs() / 60;
        let minute = &mut self.minutes[index(number)];
        if minute.number != number {
            minute.buckets.fill(0);
            (minute.number, minute.runs, minute.max) = (number, 0, 0);
        }
        let micros = u32::try_from(lag.as_micros()).unwrap_or(u32::MAX);
        minute.runs += 1;
        minute.max = minute.max.max(micros);
        minute.buckets[bucket(micros)] += 1;
    }

    /// The quantiles at a time since the epoch; none if no run has started in the last minutes.
    pub(super) fn quantiles(&self, at: Duration) -> Option<StartLag> {
        let now = at.as_secs() / 60;
        let recent = |minute: &&Minute| minute.number <= now && minute.number + MINUTES as u64 > now;
        let minutes: Vec<&Minute> = self.minutes.iter().filter(recent).filter(|minute| minute.runs > 0).collect();
        let runs = minutes.iter().map(|minute| minute.runs).sum::<u64>();
        let max = minutes.iter().map(|minute| minute.max).max()?;
        let quantile = |percent: u64| {
            let mut left = (runs * percent).div_ceil(100);
            for number in 0..BUCKETS {
                let here = minutes.iter().map(|minute| u64::from(minute.buckets[number])).sum::<u64>();
                if here >= left {
                    return Seconds::from_micros(upper(number).min(max.into()));
                }
                left -= here;
            }
            Seconds::from_micros(max.into())
        };
        Some(StartLag {
            minutes: MINUTES,
            runs,
            p50_s: quantile(50),
            p99_s: quantile(99),
            max_s: Seconds::from_micros(max.into()),
        })
    }
}

fn index(minute: u64) -> usize {
    usize::try_from(minute % MINUTES as u64).unwrap_or_default()
}

/// The bucket of a lag in microseconds: the octave, and the three bits below the highest.
fn bucket(micros: u32) -> usize {
    if micros < PER_OCTAVE {
        return micros as usize;
    }
    let octave = micros.ilog2();
    let part = (micros >> (octave - 3)) & (PER_OCTAVE - 1);
    ((octave - 2) * PER_OCTAVE + part) as usize
}

/// The largest number of microseconds in a bucket.
fn upper(bucket: usize) -> u64 {
    let (bucket, parts) = (bucket as u64, u64::from(PER_OCTAVE));
    if bucket < parts {
        return bucket;
    }
    let (octave, part) = (bucket / parts + 2, bucket % parts);
    ((parts + part + 1) << (octave - 3)) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(value: u64) -> Seconds {
        Seconds::from_micros(value)
    }

    #[test]
    fn every_lag_lies_in_its_bucket_and_no_bucket_is_wider_than_an_eighth() {
        for octave in 0..32 {
            for lag in [1_u32 << octave, (1 << octave) + (1 << octave) / 3, (1 << octave) - 1] {
                let number = bucket(lag);
                let below = if number == 0 { 0 } else { upper(number - 1) + 1 };
                assert!((below..=upper(number)).contains(&lag.into()), "{lag} in {number}");
                assert!(upper(number) - below <= u64::from(lag) / 8, "{lag} in {number}");
            }
        }
        assert!(bucket(u32::MAX) < BUCKETS);
    }

    #[test]
    fn quantiles_are_those_of_the_last_minutes_alone() {
        let mut lags = Lags::new();
        let minute = Duration::from_secs(60);
        lags.record(minute * 1000, Seconds::from(minute));
        for number in 1..=100 {
            lags.record(minute * 1004 + Duration::from_secs(number / 2), micros(number * 100));
        }
        let lag = lags.quantiles(minute * 1004 + Duration::from_secs(59)).unwrap();
        assert_eq!((lag.runs, lag.max_s), (101, Seconds::from(minute)));
        let lag = lags.quantiles(minute * 1005).unwrap();
        assert_eq!((lag.runs, lag.max_s), (100, micros(10_000)), "the oldest minute is over");
        assert!((5_000..5_650).contains(&lag.p50_s.as_micros()), "{lag:?}");
        assert!((9_900..=10_000).contains(&lag.p99_s.as_micros()), "{lag:?}");
        assert_eq!(lags.quantiles(minute * 1009), None);
    }

    #[test]
    fn a_minute_whose_index_is_used_again_starts_empty() {
        let mut lags = Lags::new();
        lags.record(Duration::from_secs(60), micros(7_000));
        lags.record(Duration::from_secs(60 * (1 + MINUTES as u64)), micros(3));
        let lag = lags.quantiles(Duration::from_secs(60 * (1 + MINUTES as u64))).unwrap();
        assert_eq!(lag, StartLag { minutes: MINUTES, runs: 1, p50_s: micros(3), p99_s: micros(3), max_s: micros(3) });
    }
}
