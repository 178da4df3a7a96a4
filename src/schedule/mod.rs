//! When each run starts, and how many are under way at once.
//!
//! Every slot has a phase of its own, spread over its interval by a stable hash of its name, and starts on a fixed grid
//! from there. Runs of one slot never overlap; a start that cannot happen is skipped and told of, never made up for in a
//! burst. It knows no probe: it starts what it is handed, and a panic in there touches no other slot. Called by `agent`.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{Semaphore, watch},
    time::sleep_until,
};

use crate::clock;

/// Something to start again and again.
#[derive(Debug)]
pub struct Slot<T> {
    /// Tells the phase; stable over restarts.
    pub name: String,
    /// Start to start.
    pub interval: Duration,
    /// What to start.
    pub work: Arc<T>,
}

/// Why a start was skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// The slot's last run was still under way.
    Running,
    /// As many runs as allowed were under way.
    Limit,
    /// This process did not get to run in time.
    Overload,
}

/// Keeps all slots going until `stop` is true, and comes back when every run that was started has ended.
///
/// `run` gets the work and how late it starts; `skipped` the work, why, and how many starts.
pub async fn keep<T, R, F, S>(slots: Vec<Slot<T>>, in_flight: usize, stop: watch::Receiver<bool>, run: R, skipped: S)
where
    T: Send + Sync + 'static,
    R: Fn(Arc<T>, Duration) -> F,
    F: Future<Output = ()> + Send + 'static,
    S: Fn(&T, Skip, u64),
{
    let begin = clock::now();
    let places = Arc::new(Semaphore::new(in_flight));
    let (run, skipped) = (&run, &skipped);
    join_all(slots.into_iter().map(|slot| {
        let (places, mut stop) = (places.clone(), stop.clone());
        async move {
            let mut planned = begin + phase(&slot.name, slot.interval);
            while until(planned, &mut stop).await {
                // A whole interval late: this process did not get to run at all (the machine slept, or is swamped).
                let missed = passed(planned + slot.interval, slot.interval);
                if missed > 0 {
                    skipped(&slot.work, Skip::Overload, missed.into());
                    planned += slot.interval * missed;
                }
                match places.clone().try_acquire_owned() {
                    Err(_) => skipped(&slot.work, Skip::Limit, 1),
                    Ok(place) => {
                        let lag = clock::now().saturating_duration_since(planned);
                        // A task of its own, so that a panic ends there.
                        if let Err(error) = tokio::spawn(run(slot.work.clone(), lag)).await {
                            tracing::error!(slot = slot.name, "a run ended by a fault of imaptrace: {error}");
                        }
                        drop(place);
                    }
                }
                planned += slot.interval;
                let missed = passed(planned, slot.interval);
                if missed > 0 {
                    skipped(&slot.work, Skip::Running, missed.into());
                    planned += slot.interval * missed;
                }
            }
        }
    }))
    .await;
}

/// Waits for a time; false when it is over before that.
async fn until(planned: Instant, stop: &mut watch::Receiver<bool>) -> bool {
    tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop) => false,
        () = sleep_until(planned.into()) => true,
    }
}

/// How many starts of a grid lie behind, the first of them at `from`.
fn passed(from: Instant, interval: Duration) -> u32 {
    match clock::now().checked_duration_since(from) {
        Some(late) => u32::try_from(late.as_nanos() / interval.as_nanos().max(1)).unwrap_or(u32::MAX).saturating_add(1),
        None => 0,
    }
}

/// Where in its interval a slot starts.
fn phase(name: &str, interval: Duration) -> Duration {
    let digest = Sha256::digest(name.as_bytes());
    let place = digest.iter().take(4).fold(0u32, |place, byte| place << 8 | u32::from(*byte));
    interval.mul_f64(f64::from(place) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Seen {
        starts: Mutex<Vec<(u64, Duration)>>,
        skips: Mutex<Vec<(Skip, u64)>>,
    }

    fn slot(name: &str, seconds: u64, work: &Arc<Seen>) -> Slot<Seen> {
        Slot { name: name.into(), interval: Duration::from_secs(seconds), work: work.clone() }
    }

    /// Runs slots for a minute of paused time; each run takes `takes`, panics when it is 13 s.
    async fn minute(slots: Vec<Slot<Seen>>, in_flight: usize, takes: Duration) {
        let (stop, stopped) = watch::channel(false);
        let begin = clock::now();
        let run = move |seen: Arc<Seen>, lag| async move {
            seen.starts.lock().unwrap().push(((clock::now() - begin).as_secs(), lag));
            assert_ne!(takes, Duration::from_secs(13), "a panic on purpose");
            tokio::time::sleep(takes).await;
        };
        let skipped = |seen: &Seen, why, count| seen.skips.lock().unwrap().push((why, count));
        let end = async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            stop.send(true).unwrap();
        };
        tokio::join!(keep(slots, in_flight, stopped, run, skipped), end);
    }

    #[tokio::test(start_paused = true)]
    async fn starts_stand_on_a_grid_whatever_a_run_takes() {
        let seen = Arc::new(Seen::default());
        minute(vec![slot("a", 10, &seen)], 9, Duration::from_millis(700)).await;
        let starts: Vec<_> = seen.starts.lock().unwrap().iter().map(|(at, _)| *at).collect();
        assert_eq!(starts.len(), 6);
        assert!(starts.windows(2).all(|pair| pair[1] - pair[0] == 10), "{starts:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_hangs_over_its_interval_skips_starts_and_says_so() {
        let seen = Arc::new(Seen::default());
        minute(vec![slot("a", 10, &seen)], 9, Duration::from_secs(25)).await;
        assert_eq!(seen.starts.lock().unwrap().len(), 2);
        assert_eq!(seen.skips.lock().unwrap().first(), Some(&(Skip::Running, 2)));
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_runs_than_allowed_are_under_way() {
        let seen = Arc::new(Seen::default());
        let names: Vec<String> = (0..5).map(|number| format!("same{number}")).collect();
        minute(names.iter().map(|name| slot(name, 30, &seen)).collect(), 1, Duration::from_secs(29)).await;
        assert!(seen.skips.lock().unwrap().iter().any(|(why, _)| *why == Skip::Limit));
        assert!(seen.starts.lock().unwrap().len() <= 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_in_one_run_does_not_end_the_slot() {
        let seen = Arc::new(Seen::default());
        minute(vec![slot("a", 10, &seen)], 9, Duration::from_secs(13)).await;
        assert_eq!(seen.starts.lock().unwrap().len(), 6);
    }

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
}
