//! Whether the agent gets enough CPU: how long the threads that probe waited for a processor, how long a cgroup's quota
//! throttled them, and how long the whole process did not get to run.
//!
//! A thread of its own reads `/proc` and `/sys/fs/cgroup` every few seconds, updates the metrics, and provides a warning for
//! `/ready` while there is a shortage. It changes nothing about a run: `probe` decides to whom a missed deadline is
//! attributed. Started by the agent; `cli` enters the threads.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError, mpsc},
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tracing::{info, warn};

use crate::{
    clock::{self, PauseTotals},
    telemetry::Metrics,
};

/// The time between two samples.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(5);
/// The part of the time between two samples that may be lost to one cause: one in this number.
const PART: u32 = 10;
/// The number of samples without a shortage that end it, so that it does not flap.
const QUIET_SAMPLES: u32 = 3;

static THREADS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// Enters the calling thread among those that probe.
pub fn enter_thread() {
    threads().extend(this_thread());
}

/// Removes the calling thread, when it ends.
pub fn leave_thread() {
    threads().retain(|known| Some(*known) != this_thread());
}

#[cfg(target_os = "linux")]
#[expect(clippy::unnecessary_wraps, reason = "elsewhere there is none")]
fn this_thread() -> Option<i32> {
    Some(nix::unistd::gettid().as_raw())
}

/// Other systems do not report how long a thread waited.
#[cfg(not(target_os = "linux"))]
fn this_thread() -> Option<i32> {
    None
}

fn threads() -> MutexGuard<'static, BTreeSet<i32>> {
    THREADS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A sentence about the last sample with a shortage of CPU; none while there is no shortage.
pub(super) type Shortage = watch::Sender<Option<String>>;

/// Starts the thread that samples until the returned value is dropped. None when no thread could be started.
pub(super) fn start(metrics: Metrics, shortage: Shortage) -> Option<mpsc::Sender<()>> {
    let (keep, ends) = mpsc::channel();
    let watch = move || {
        let (mut before, mut quiet) = (Sample::take(), 0);
        let start = Sample { waited: BTreeMap::new(), throttled: None, pauses: PauseTotals::default(), ..before };
        update(&metrics, &start, &before, false);
        while ends.recv_timeout(SAMPLE_INTERVAL) == Err(mpsc::RecvTimeoutError::Timeout) {
            let now = Sample::take();
            let found = now.shortage_since(&before);
            quiet = if found.is_some() { 0 } else { quiet + 1 };
            let was = shortage.borrow().clone();
            match (&found, &was) {
                (Some(why), None) => warn!("the agent is short of CPU: {why}"),
                (None, Some(_)) if quiet == QUIET_SAMPLES => info!("the agent is no longer short of CPU"),
                _ => {}
            }
            let is = found.or_else(|| was.filter(|_| quiet < QUIET_SAMPLES));
            update(&metrics, &before, &now, is.is_some());
            shortage.send_replace(is);
            before = now;
        }
    };
    let started = std::thread::Builder::new().name("cpu-watch".to_owned()).spawn(watch);
    let started =
        started.inspect_err(|error| warn!("cannot start the thread that watches for a shortage of CPU: {error}"));
    started.ok().map(|_| keep)
}

fn update(metrics: &Metrics, before: &Sample, now: &Sample, short: bool) {
    let throttled = now.throttled_since(before);
    let paused = now.pauses.time.saturating_sub(before.pauses.time);
    metrics.agent().cpu(now.waited_since(before).1.into(), throttled.into(), paused.into(), short);
}

/// One sample. All sums are since the start of the process or the cgroup.
#[derive(Debug, Clone)]
struct Sample {
    at: Instant,
    /// How long each of the threads waited for a processor.
    waited: BTreeMap<i32, Duration>,
    /// How long the cgroup's quota throttled it; none without a quota.
    throttled: Option<Duration>,
    pauses: PauseTotals,
}

impl Sample {
    #[expect(clippy::disallowed_methods, reason = "on a thread of its own, which watches the CPU")]
    fn take() -> Self {
        let known: Vec<i32> = threads().iter().copied().collect();
        let waited = known.into_iter().filter_map(|thread| {
            let text = fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).ok()?;
            Some((thread, run_queue_wait(&text)?))
        });
        Self {
            at: clock::now(),
            waited: waited.collect(),
            throttled: throttled(Path::new("/")),
            pauses: clock::pause_totals(),
        }
    }

    /// How long the cgroup's quota throttled the agent; zero without one.
    fn throttled_since(&self, before: &Self) -> Duration {
        self.throttled.unwrap_or_default().saturating_sub(before.throttled.unwrap_or_default())
    }

    /// The longest wait of a thread, and the sum of all waits.
    fn waited_since(&self, before: &Self) -> (Duration, Duration) {
        let since = |(thread, waited): (&i32, &Duration)| {
            waited.saturating_sub(before.waited.get(thread).copied().unwrap_or_default())
        };
        let all = || self.waited.iter().map(since);
        (all().max().unwrap_or_default(), all().sum())
    }

    /// Why there was too little CPU since another sample, if there was.
    fn shortage_since(&self, before: &Self) -> Option<String> {
        let time = self.at.saturating_duration_since(before.at);
        let throttled = self.throttled_since(before);
        let paused = self.pauses.time.saturating_sub(before.pauses.time);
        let causes = [
            (throttled, "its cgroup's CPU limit held it for"),
            (self.waited_since(before).0, "a thread that probes waited for a processor for"),
            (paused, "it did not get to run for"),
        ];
        let much = causes.into_iter().filter(|(lost, _)| *lost > time / PART);
        let words: Vec<_> = much
            .map(|(lost, what)| format!("{what} {:.1} s of the last {:.1} s", lost.as_secs_f64(), time.as_secs_f64()))
            .collect();
        (!words.is_empty()).then(|| words.join(", "))
    }
}

/// The second number of a thread's `schedstat` (the kernel's scheduler/sched-stats.rst): nanoseconds on a run queue.
fn run_queue_wait(text: &str) -> Option<Duration> {
    text.split_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

/// How long the CPU limits of the process's cgroup and its ancestors throttled it, by the files below `root`, if there are any.
#[expect(clippy::disallowed_methods, reason = "on a thread of its own, which watches the CPU")]
fn throttled(root: &Path) -> Option<Duration> {
    let known = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mounts = cgroups(&known);
    let stats = mounts.into_iter().flat_map(|(mount, path)| {
        let mount = root.join("sys/fs/cgroup").join(mount);
        let path = path.trim_matches('/').to_owned();
        // In a container the path may be the host's, and the mount the container's own.
        let directories: Vec<PathBuf> = Path::new(&path).ancestors().map(|above| mount.join(above)).collect();
        directories.into_iter().filter_map(|directory| read_throttled(&directory.join("cpu.stat")))
    });
    stats.reduce(|one, other| one + other)
}

/// Where the cgroups of `/proc/self/cgroup` that limit CPU are mounted below `/sys/fs/cgroup`, and their paths there.
fn cgroups(text: &str) -> Vec<(String, String)> {
    let line = |line: &str| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        // Version 2 has one hierarchy, and no names in it.
        let is_ours = controllers.is_empty() || controllers.split(',').any(|name| name == "cpu");
        is_ours.then(|| (controllers.to_owned(), path.to_owned()))
    };
    text.lines().filter_map(line).collect()
}

/// `throttled_usec` of version 2, `throttled_time` in nanoseconds of version 1; none without a limit.
#[expect(clippy::disallowed_methods, reason = "on a thread of its own, which watches the CPU")]
fn read_throttled(file: &Path) -> Option<Duration> {
    let text = fs::read_to_string(file).ok()?;
    let number = |name: &str| -> Option<u64> {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?.trim().parse().ok()
    };
    let micros = number("throttled_usec").map(Duration::from_micros);
    micros.or_else(|| number("throttled_time").map(Duration::from_nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn sample(at: Instant, waited: &[(i32, u64)], throttled: Option<u64>, paused: u64) -> Sample {
        let millis = Duration::from_millis;
        Sample {
            at,
            waited: waited.iter().map(|(thread, waited)| (*thread, millis(*waited))).collect(),
            throttled: throttled.map(millis),
            pauses: PauseTotals { count: 1, time: millis(paused) },
        }
    }

    #[test]
    fn more_than_a_tenth_of_the_time_lost_to_any_cause_is_a_shortage_and_each_is_named() {
        let begin = clock::now();
        let before = sample(begin, &[(1, 5_000), (2, 0)], Some(9_000), 7_000);
        let since = |waited: &[(i32, u64)], throttled, paused| {
            sample(begin + 10 * SECOND, waited, throttled, paused).shortage_since(&before)
        };
        assert_eq!(since(&[(1, 6_000), (2, 1_000)], Some(10_000), 8_000), None);
        let all = since(&[(1, 5_000), (2, 1_001), (3, 50)], Some(10_001), 17_000).unwrap();
        assert_eq!(
            all,
            "its cgroup's CPU limit held it for 1.0 s of the last 10.0 s, a thread that probes waited for a processor \
             for 1.0 s of the last 10.0 s, it did not get to run for 10.0 s of the last 10.0 s"
        );
    }

    #[test]
    fn kernel_figures_are_read_in_both_versions_of_cgroups() {
        assert_eq!(run_queue_wait("123 4500000000 17\n"), Some(4_500 * SECOND / 1_000));
        assert_eq!(run_queue_wait("nothing"), None);
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(throttled(root.path()), None);
        write("proc/self/cgroup", "0::/a/b\n");
        assert_eq!(throttled(root.path()), None);
        write("sys/fs/cgroup/a/b/cpu.stat", "usage_usec 9\nnr_throttled 2\nthrottled_usec 1500000\n");
        write("sys/fs/cgroup/a/cpu.stat", "usage_usec 9\nthrottled_usec 500000\n");
        write("sys/fs/cgroup/cpu.stat", "usage_usec 9\n");
        assert_eq!(throttled(root.path()), Some(2 * SECOND));
        write("proc/self/cgroup", "4:memory:/x\n3:cpu,cpuacct:/x\n");
        write("sys/fs/cgroup/cpu,cpuacct/x/cpu.stat", "nr_periods 1\nnr_throttled 1\nthrottled_time 3000000000\n");
        assert_eq!(throttled(root.path()), Some(3 * SECOND));
    }

    #[test]
    fn a_thread_that_probes_is_sampled_until_it_ends() {
        let me = nix::unistd::gettid().as_raw();
        enter_thread();
        assert!(Sample::take().waited.contains_key(&me));
        leave_thread();
        assert!(!Sample::take().waited.contains_key(&me));
    }
}
