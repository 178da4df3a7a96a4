//! The schedule through its public interface, on a paused clock.

use std::{
    future::Future,
    num::NonZeroU32,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

use imaptrace_record::SkipReason;
use tokio::time::sleep;

use super::*;

/// What a piece of work does, and what was recorded of it.
#[derive(Default)]
struct Seen {
    takes: Duration,
    panics: bool,
    in_maintenance: AtomicBool,
    starts: Mutex<Vec<(Instant, Duration)>>,
    skips: Mutex<Vec<(SkipReason, u64)>>,
    lost: Mutex<Vec<Lost>>,
    running: AtomicUsize,
    overlapped: AtomicBool,
}

struct TestRunner {
    running: Arc<AtomicUsize>,
    most: AtomicUsize,
}

/// Counts down however a run ends.
struct Running(Arc<Seen>, Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
        self.1.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Runner for TestRunner {
    type Work = Seen;

    fn run(&self, work: Arc<Seen>, lag: Duration) -> impl Future<Output = ()> + Send + 'static {
        work.starts.lock().unwrap().push((clock::now(), lag));
        let most = self.running.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(most, Ordering::Relaxed);
        if work.running.fetch_add(1, Ordering::Relaxed) > 0 {
            work.overlapped.store(true, Ordering::Relaxed);
        }
        let running = Running(work.clone(), self.running.clone());
        async move {
            let _running = running;
            assert!(!work.panics, "a panic on purpose");
            sleep(work.takes).await;
        }
    }

    fn is_in_maintenance(&self, work: &Seen) -> bool {
        work.in_maintenance.load(Ordering::Relaxed)
    }

    fn skipped(&self, work: &Seen, reason: SkipReason, count: u64) {
        work.skips.lock().unwrap().push((reason, count));
    }

    fn lost(&self, work: &Seen, how: Lost) {
        work.lost.lock().unwrap().push(how);
    }
}

impl Seen {
    fn taking(takes: Duration) -> Arc<Self> {
        Arc::new(Self { takes, ..Self::default() })
    }

    fn starts(&self) -> usize {
        self.starts.lock().unwrap().len()
    }

    /// Planned starts, by real start and lag.
    fn planned(&self) -> Vec<Instant> {
        self.starts.lock().unwrap().iter().map(|(at, lag)| at.checked_sub(*lag).unwrap()).collect()
    }

    fn skips(&self, reason: SkipReason) -> u64 {
        self.skips.lock().unwrap().iter().filter(|(known, _)| *known == reason).map(|(_, count)| count).sum()
    }
}

const SECOND: Duration = Duration::from_secs(1);
/// Timers go by whole milliseconds, also on a paused clock; a longer delay is a real one.
const TICK: Duration = Duration::from_millis(2);

fn slot(name: &str, server: &str, interval: Duration, work: &Arc<Seen>) -> Slot<Seen> {
    Slot {
        name: name.into(),
        server: server.into(),
        interval,
        max_run_time: Duration::from_secs(120),
        logins: 1,
        work: work.clone(),
    }
}

fn schedule() -> (Schedule<Seen>, Arc<TestRunner>) {
    let runner = Arc::new(TestRunner { running: Arc::default(), most: AtomicUsize::new(0) });
    (Schedule::start(runner.clone()), runner)
}

fn free() -> RunLimits {
    RunLimits {
        in_flight: 1000,
        in_flight_per_server: 1000,
        logins_per_second_per_server: None,
        ..RunLimits::default()
    }
}

/// Runs slots for a minute.
async fn minute(slots: Vec<Slot<Seen>>, limits: RunLimits) -> Arc<TestRunner> {
    let (schedule, runner) = schedule();
    schedule.apply(slots, limits);
    sleep(60 * SECOND).await;
    schedule.stop(60 * SECOND).await;
    runner
}

#[tokio::test(start_paused = true)]
async fn starts_are_on_a_grid_whatever_a_run_takes() {
    let seen = Seen::taking(Duration::from_millis(700));
    minute(vec![slot("a", "s", 10 * SECOND, &seen)], free()).await;
    let planned = seen.planned();
    assert_eq!(planned.len(), 6);
    assert!(planned.windows(2).all(|pair| pair[1] - pair[0] == 10 * SECOND), "{planned:?}");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_hangs_over_its_interval_skips_starts_which_are_reported() {
    let seen = Seen::taking(25 * SECOND);
    minute(vec![slot("a", "s", 10 * SECOND, &seen)], free()).await;
    assert_eq!((seen.starts(), seen.skips(SkipReason::Running)), (2, 4));
    assert!(!seen.overlapped.load(Ordering::Relaxed));
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_one_run_is_reported_and_does_not_end_the_slot() {
    let seen = Arc::new(Seen { panics: true, ..Seen::default() });
    minute(vec![slot("a", "s", 10 * SECOND, &seen)], free()).await;
    assert_eq!(seen.starts(), 6);
    assert_eq!(*seen.lost.lock().unwrap(), [Lost::Panicked; 6]);
}

#[tokio::test(start_paused = true)]
async fn a_run_whose_process_was_stopped_is_not_given_up_at_once() {
    let seen = Seen::taking(12 * SECOND);
    let (schedule, _) = schedule();
    schedule.apply(vec![Slot { max_run_time: 5 * SECOND, ..slot("a", "s", 60 * SECOND, &seen) }], free());
    while seen.starts() == 0 {
        sleep(SECOND / 10).await;
    }
    // As after SIGSTOP: its time is over, and no task has been polled meanwhile.
    tokio::time::advance(10 * SECOND).await;
    sleep(5 * SECOND).await;
    assert_eq!((seen.running.load(Ordering::Relaxed), seen.lost.lock().unwrap().len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_takes_too_long_is_given_up_and_the_slot_goes_on() {
    let seen = Seen::taking(3600 * SECOND);
    let stuck = Slot { max_run_time: 5 * SECOND, ..slot("a", "s", 10 * SECOND, &seen) };
    minute(vec![stuck], RunLimits { in_flight: 1, ..free() }).await;
    assert_eq!((seen.starts(), seen.skips(SkipReason::Running)), (6, 0));
    assert!(seen.lost.lock().unwrap().iter().all(|how| *how == Lost::Overran));
}

#[tokio::test(start_paused = true)]
async fn no_more_runs_than_allowed_are_in_flight_and_the_others_are_skipped() {
    let all: Vec<_> = (0..5).map(|_| Seen::taking(29 * SECOND)).collect();
    let slots = all.iter().enumerate().map(|(number, seen)| slot(&format!("same{number}"), "s", 30 * SECOND, seen));
    let runner = minute(slots.collect(), RunLimits { in_flight: 2, ..free() }).await;
    assert_eq!(runner.most.load(Ordering::Relaxed), 2);
    let (starts, skips): (Vec<_>, Vec<_>) =
        all.iter().map(|seen| (seen.starts(), seen.skips(SkipReason::Limit))).collect::<Vec<_>>().into_iter().unzip();
    assert_eq!(starts.iter().sum::<usize>() as u64 + skips.iter().sum::<u64>(), 10, "{starts:?} {skips:?}");
    assert!(skips.iter().sum::<u64>() >= 5);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_waits_for_a_place_takes_it_and_its_lag_is_reported() {
    // Of many names, at least two have phases that are closer than the run takes.
    let seen: Vec<_> = (0..40).map(|_| Seen::taking(SECOND / 2)).collect();
    let slots = seen.iter().enumerate().map(|(number, seen)| slot(&format!("m{number}"), "s", 60 * SECOND, seen));
    minute(slots.collect(), RunLimits { in_flight: 1, ..free() }).await;
    let waited: Vec<_> =
        seen.iter().flat_map(|seen| seen.starts.lock().unwrap().clone()).filter(|(_, lag)| *lag >= TICK).collect();
    assert!(!waited.is_empty());
    assert!(waited.iter().all(|(_, lag)| *lag <= SECOND), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_dead_server_takes_no_place_from_the_others_and_delays_none() {
    let dead: Vec<_> = (0..50).map(|_| Seen::taking(28 * SECOND)).collect();
    let well: Vec<_> = (0..50).map(|_| Seen::taking(SECOND / 20)).collect();
    let mut slots = Vec::new();
    for (number, seen) in dead.iter().enumerate() {
        slots.push(slot(&format!("dead{number}"), "dead", 30 * SECOND, seen));
    }
    for (number, seen) in well.iter().enumerate() {
        slots.push(slot(&format!("well{number}"), &format!("well{number}"), 30 * SECOND, seen));
    }
    minute(slots, RunLimits { in_flight: 12, in_flight_per_server: 4, ..free() }).await;
    for seen in well {
        assert_eq!(seen.starts(), 2);
        assert!(seen.starts.lock().unwrap().iter().all(|(_, lag)| *lag < TICK));
    }
    assert!(dead.iter().map(|seen| seen.skips(SkipReason::Limit)).sum::<u64>() >= 80);
}

#[tokio::test(start_paused = true)]
async fn logins_have_an_even_distance_and_what_cannot_wait_so_long_is_skipped() {
    let all: Vec<_> = (0..100).map(|_| Seen::taking(Duration::ZERO)).collect();
    let slots: Vec<_> =
        all.iter().enumerate().map(|(number, seen)| slot(&format!("m{number}"), "s", 10 * SECOND, seen)).collect();
    // Ten a second are due.
    minute(slots, RunLimits { logins_per_second_per_server: NonZeroU32::new(4), ..free() }).await;
    let mut at: Vec<_> = all.iter().flat_map(|seen| seen.starts.lock().unwrap().clone()).map(|(at, _)| at).collect();
    at.sort();
    assert!(at.windows(2).all(|pair| pair[1] - pair[0] >= SECOND / 4));
    assert!(at.len() > 200, "{}", at.len());
    let skipped: u64 = all.iter().map(|seen| seen.skips(SkipReason::Limit)).sum();
    assert_eq!(at.len() as u64 + skipped, 600);
}

#[tokio::test(start_paused = true)]
async fn nothing_starts_in_a_maintenance_window_and_it_is_reported() {
    let seen = Seen::taking(SECOND);
    let (schedule, _) = schedule();
    schedule.apply(vec![slot("a", "s", 10 * SECOND, &seen)], free());
    sleep(20 * SECOND).await;
    seen.in_maintenance.store(true, Ordering::Relaxed);
    sleep(30 * SECOND).await;
    assert_eq!((seen.starts(), seen.skips(SkipReason::Window)), (2, 3));
    seen.in_maintenance.store(false, Ordering::Relaxed);
    sleep(10 * SECOND).await;
    assert_eq!(seen.starts(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_does_not_get_to_run_counts_what_it_missed() {
    let seen = Seen::taking(SECOND);
    let (schedule, _) = schedule();
    schedule.apply(vec![slot("a", "s", 10 * SECOND, &seen)], free());
    sleep(20 * SECOND).await;
    // No task is polled meanwhile.
    tokio::time::advance(60 * SECOND).await;
    sleep(SECOND / 100).await;
    assert_eq!((seen.starts(), seen.skips(SkipReason::Overload)), (3, 5));
    let planned = seen.planned();
    assert_eq!(planned[2] - planned[1], 60 * SECOND, "it stays on its grid");
}

#[tokio::test(start_paused = true)]
async fn a_reload_each_second_for_a_minute_neither_loses_nor_doubles_a_start_nor_moves_one() {
    let intervals = [SECOND, SECOND * 7 / 10, 3 * SECOND, 10 * SECOND, SECOND / 3];
    let kept: Vec<_> = intervals.iter().map(|_| Seen::taking(SECOND / 10)).collect();
    let slots = || -> Vec<_> {
        let all = kept.iter().zip(intervals).enumerate();
        all.map(|(number, (seen, interval))| slot(&format!("kept{number}"), "s", interval, seen)).collect()
    };
    let (schedule, _) = schedule();
    schedule.apply(slots(), free());
    // New work in each reload, as when a password is changed: its starts stay where they are, too.
    let mut changed = Vec::new();
    for second in 0..60 {
        let work = Seen::taking(SECOND / 10);
        changed.push(work.clone());
        let mut slots = slots();
        slots.push(slot("changed", "s", 3 * SECOND, &work));
        slots.push(slot(&format!("brief{second}"), "s", SECOND / 2, &Seen::taking(SECOND)));
        schedule.apply(slots, free());
        sleep(SECOND).await;
    }
    for (seen, interval) in kept.iter().zip(intervals) {
        let planned = seen.planned();
        assert!(planned.windows(2).all(|pair| pair[1] - pair[0] == interval), "{interval:?} {planned:?}");
        let count = usize::try_from(60_000 / interval.as_millis()).unwrap();
        assert!(planned.len().abs_diff(count) <= 1, "{interval:?} {}", planned.len());
        assert!(seen.skips.lock().unwrap().is_empty());
    }
    let planned: Vec<_> = changed.iter().flat_map(|seen| seen.planned()).collect();
    assert_eq!(planned.len(), 20);
    assert!(planned.windows(2).all(|pair| pair[1] - pair[0] == 3 * SECOND), "{planned:?}");
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_changed_does_not_start_beside_its_old_run() {
    let (old, new) = (Seen::taking(25 * SECOND), Seen::taking(SECOND));
    let (schedule, runner) = schedule();
    schedule.apply(vec![slot("a", "s", 10 * SECOND, &old)], free());
    sleep(10 * SECOND).await;
    assert_eq!(old.starts(), 1);
    // Gone and back, with other work.
    schedule.apply(Vec::new(), free());
    sleep(SECOND).await;
    schedule.apply(vec![slot("a", "s", 10 * SECOND, &new)], free());
    sleep(59 * SECOND).await;
    assert_eq!((old.starts(), runner.most.load(Ordering::Relaxed)), (1, 1));
    assert!(new.skips(SkipReason::Running) >= 2, "{:?}", new.skips);
    assert!(new.starts() >= 3);
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_is_removed_starts_no_more_and_its_run_goes_on_to_its_end() {
    let seen = Seen::taking(5 * SECOND);
    let (schedule, _) = schedule();
    schedule.apply(vec![slot("a", "s", 10 * SECOND, &seen)], free());
    while seen.starts() == 0 {
        sleep(SECOND / 10).await;
    }
    schedule.apply(Vec::new(), free());
    sleep(2 * SECOND).await;
    assert_eq!(seen.running.load(Ordering::Relaxed), 1);
    sleep(60 * SECOND).await;
    assert_eq!((seen.starts(), seen.running.load(Ordering::Relaxed)), (1, 0));
    assert!(seen.lost.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn it_stops_when_all_runs_have_ended_or_its_time_is_up() {
    for (takes, all) in [(3 * SECOND, true), (50 * SECOND, false)] {
        let seen = Seen::taking(takes);
        let (schedule, _) = schedule();
        schedule.apply(vec![slot("a", "s", 10 * SECOND, &seen)], free());
        while seen.starts() == 0 {
            sleep(SECOND / 10).await;
        }
        assert_eq!(schedule.stop(5 * SECOND).await, all);
        sleep(60 * SECOND).await;
        assert_eq!((seen.starts(), seen.running.load(Ordering::Relaxed)), (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn the_heartbeat_shows_a_schedule_that_hangs_and_not_one_that_is_late() {
    let (schedule, _) = schedule();
    let heartbeat = schedule.heartbeat();
    sleep(90 * SECOND).await;
    assert!(heartbeat.age() <= SECOND, "{:?}", heartbeat.age());
    tokio::time::advance(30 * SECOND).await;
    sleep(SECOND).await;
    assert!(heartbeat.age() <= SECOND, "{:?}", heartbeat.age());
    schedule.task.abort();
    sleep(30 * SECOND).await;
    assert!(heartbeat.age() >= 29 * SECOND);
}
