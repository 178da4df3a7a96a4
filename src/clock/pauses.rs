//! Pauses, in which this process did not get to run, and deadlines that they lengthen.
//!
//! A task of the runtime, the heartbeat, wakes every [`BEAT`]. If it wakes late, the time in between is a pause: the process
//! was stopped (SIGSTOP, the freezer, a suspended virtual machine), had no CPU, or had too much to do. The agent and `probe`
//! start the heartbeat; without it there are no pauses.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{task::JoinHandle, time::sleep_until};

use super::now;

const BEAT: Duration = Duration::from_millis(25);
/// A delay up to this is no pause: timers have a resolution of a millisecond, and a task waits for others.
const NO_PAUSE: Duration = Duration::from_millis(5);
/// The number of pauses that are kept: ten a second (a cgroup period of 100 ms) for some minutes.
const KEPT: usize = 4096;

static PAUSES: Mutex<PauseLog> = Mutex::new(PauseLog::new());

/// From when to when this process did not get to run.
type Pause = (Instant, Instant);

#[derive(Debug)]
struct PauseLog {
    /// Ordered by their ends.
    known: VecDeque<Pause>,
    /// The last beat; none without a heartbeat.
    last: Option<Instant>,
    totals: PauseTotals,
}

/// All pauses of this process so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PauseTotals {
    /// Their number.
    pub count: u64,
    /// Their sum.
    pub time: Duration,
}

/// The heartbeat, which ends when this is dropped.
#[derive(Debug)]
pub struct Heartbeat(JoinHandle<()>);

impl Heartbeat {
    /// Starts it on the present runtime.
    pub fn start() -> Self {
        pauses().beat(now());
        Self(tokio::spawn(async {
            loop {
                sleep_until((now() + BEAT).into()).await;
                pauses().beat(now());
            }
        }))
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.0.abort();
        pauses().last = None;
    }
}

/// All pauses so far.
pub fn pause_totals() -> PauseTotals {
    pauses().totals
}

/// The sum of pauses between these moments; only those longer than `over` count.
pub fn paused(begin: Instant, end: Instant, over: Duration) -> Duration {
    length_of_union(pauses_between(begin, end, over))
}

/// A timer that fires this late means that the process did not get to run.
const LATE: Duration = Duration::from_secs(1);

/// The new deadline of work that began at `begin`, may take `allowed`, and had the deadline `due`; none if it has had its time.
/// Pauses of this process (SIGSTOP, a paused machine, no CPU) are added, and after a late timer `extension`, in which the work
/// can end by its own deadlines.
pub fn extended(begin: Instant, allowed: Duration, due: Instant, now: Instant, extension: Duration) -> Option<Instant> {
    let until = begin + allowed + paused(begin, now, Duration::ZERO);
    let is_late = now.saturating_duration_since(due) > LATE;
    Some(if is_late { until.max(now + extension) } else { until }).filter(|until| *until > now)
}

fn pauses() -> MutexGuard<'static, PauseLog> {
    PAUSES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The parts between these moments of pauses longer than `over`.
fn pauses_between(begin: Instant, end: Instant, over: Duration) -> Vec<Pause> {
    let cut = |(from, to): Pause| (from.max(begin), to.min(end));
    touching(begin, over).into_iter().map(cut).filter(|(from, to)| from < to).collect()
}

/// The pauses longer than `over` that end after this moment, in order.
fn touching(begin: Instant, over: Duration) -> Vec<Pause> {
    #[cfg(test)]
    return super::injected::pauses().into_iter().filter(|pause| length(*pause) > over && pause.1 > begin).collect();
    #[cfg(not(test))]
    pauses().touching(begin, now(), over)
}

fn length((begin, end): Pause) -> Duration {
    end.saturating_duration_since(begin)
}

impl PauseLog {
    const fn new() -> Self {
        Self { known: VecDeque::new(), last: None, totals: PauseTotals { count: 0, time: Duration::ZERO } }
    }

    /// Records a beat, and the pause before it if it is late.
    fn beat(&mut self, now: Instant) {
        let pause = self.open(now);
        self.last = Some(now);
        let Some(pause) = pause else { return };
        self.totals.count += 1;
        self.totals.time += length(pause);
        if self.known.len() == KEPT {
            self.known.pop_front();
        }
        self.known.push_back(pause);
    }

    /// The pause that the next beat will record, for callers that run before it.
    fn open(&self, now: Instant) -> Option<Pause> {
        let pause = (self.last? + BEAT, now);
        (length(pause) > NO_PAUSE).then_some(pause)
    }

    fn touching(&self, begin: Instant, now: Instant, over: Duration) -> Vec<Pause> {
        let known = self.known.iter().rev().take_while(|pause| pause.1 > begin).copied();
        let mut all: Vec<_> = self.open(now).into_iter().chain(known).filter(|pause| length(*pause) > over).collect();
        all.reverse();
        all
    }
}

/// The length of these times together; overlaps count once.
fn length_of_union(mut times: Vec<(Instant, Instant)>) -> Duration {
    times.sort_unstable();
    let mut reached: Option<Instant> = None;
    let mut sum = Duration::ZERO;
    for (begin, end) in times {
        sum += length((reached.map_or(begin, |reached| begin.max(reached)), end));
        reached = reached.max(Some(end));
    }
    sum
}

/// A deadline of a peer, with the moment from which it owes us something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    begin: Instant,
    end: Instant,
}

/// A delay of this process, for which the peer is not to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnDelay {
    /// There was a pause longer than a tenth of the deadline.
    Stopped,
    /// This process was too slow.
    Slow,
}

impl From<Instant> for Deadline {
    /// From now until that moment.
    fn from(end: Instant) -> Self {
        Self { begin: now().min(end), end }
    }
}

impl Deadline {
    /// This long after a moment.
    pub fn after(begin: Instant, length: Duration) -> Self {
        Self { begin, end: begin + length }
    }

    /// Its beginning.
    pub fn begin(&self) -> Instant {
        self.begin
    }

    /// Its end, without pauses.
    pub fn end(&self) -> Instant {
        self.end
    }

    /// A part of it that begins now and lasts this long, or to the end of the whole.
    #[must_use]
    pub fn part(&self, length: Duration) -> Self {
        let begin = now();
        let end = if begin < self.end { self.end } else { self.lengthened() };
        Self { begin, end: begin.checked_add(length).map_or(end, |part| part.min(end)) }
    }

    /// A tenth of it, and at least a beat: shorter pauses are ignored.
    pub fn tenth(&self) -> Duration {
        (self.length() / 10).max(BEAT)
    }

    fn length(&self) -> Duration {
        length((self.begin, self.end))
    }

    /// Its end, later by each pause that began before it and is longer than a tenth of it.
    pub fn lengthened(&self) -> Instant {
        touching(self.begin, self.tenth()).into_iter().fold(self.end, |end, (began, ended)| {
            let began = began.max(self.begin);
            if began < end { end + length((began, ended)) } else { end }
        })
    }

    /// After the end: whether the peer owed us something for less than nine tenths of it. `away` are the times in which it did
    /// not, with or without the pauses.
    pub fn own_delay(&self, mut away: Vec<(Instant, Instant)>) -> Option<OwnDelay> {
        let end = self.lengthened();
        away.extend(pauses_between(self.begin, end, self.tenth()));
        for (from, to) in &mut away {
            (*from, *to) = ((*from).max(self.begin), (*to).min(end));
        }
        away.retain(|(from, to)| from < to);
        let owed = length((self.begin, end)).saturating_sub(length_of_union(away));
        self.own_delay_of(owed)
    }

    /// The same, given how long peers owed us something.
    pub fn own_delay_of(&self, owed: Duration) -> Option<OwnDelay> {
        (owed + self.tenth() < self.length()).then(|| self.kind())
    }

    /// The kind of a delay of this process in this time.
    pub fn kind(&self) -> OwnDelay {
        let stopped = !pauses_between(self.begin, self.lengthened(), self.tenth()).is_empty();
        if stopped { OwnDelay::Stopped } else { OwnDelay::Slow }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::injected, *};

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_beat_that_is_late_is_a_pause_and_one_that_is_to_come_is_known_before() {
        let begin = now();
        let mut pauses = PauseLog::new();
        let at = |millis: u32| begin + millis * MS;
        let between = |pauses: &PauseLog, from, over: u32| pauses.touching(at(from), at(9_000), over * MS).len();
        assert_eq!(between(&pauses, 0, 0), 0, "no heartbeat");
        for beat in [0, 26, 52, 177, 203, 1_228] {
            pauses.beat(at(beat));
        }
        let known = [(77, 177), (228, 1_228)].map(|(from, to)| (at(from), at(to)));
        assert_eq!(pauses.known, known);
        assert_eq!(pauses.totals, PauseTotals { count: 2, time: 1_100 * MS });
        // And the one that is under way.
        assert_eq!([between(&pauses, 0, 0), between(&pauses, 200, 0), between(&pauses, 2_000, 0)], [3, 2, 1]);
        assert_eq!([between(&pauses, 0, 100), between(&pauses, 0, 1_000)], [2, 1]);
    }

    #[test]
    fn the_number_of_pauses_is_bounded() {
        let (begin, mut pauses) = (now(), PauseLog::new());
        for beat in 0..2 * KEPT {
            pauses.beat(begin + u32::try_from(beat).unwrap() * 100 * MS);
        }
        assert_eq!((pauses.known.len(), pauses.totals.count), (KEPT, 2 * KEPT as u64 - 1));
    }

    #[test]
    fn a_pause_over_a_tenth_lengthens_a_deadline_and_a_shorter_one_does_not() {
        let begin = now();
        let at = |millis: u32| begin + millis * MS;
        let deadline = Deadline::after(begin, 1_000 * MS);
        injected::pause(at(100), at(200));
        assert_eq!(deadline.lengthened(), at(1_000));
        injected::pause(at(900), at(5_000));
        assert_eq!(deadline.lengthened(), at(5_100), "what was left is left");
        injected::pause(at(5_050), at(6_050));
        injected::pause(at(7_000), at(9_000));
        assert_eq!(deadline.lengthened(), at(6_100), "it was over before the last one");
        // Of one that had begun before only the part counts that lies in it.
        assert_eq!(Deadline::after(at(1_000), 1_000 * MS).lengthened(), at(7_000));
    }

    #[test]
    fn a_peer_that_owed_us_nine_tenths_is_to_blame_and_pauses_and_unread_bytes_are_not_its_time() {
        let begin = now();
        let at = |millis: u32| begin + millis * MS;
        let away = |times: &[(u32, u32)]| times.iter().map(|(from, to)| (at(*from), at(*to))).collect::<Vec<_>>();
        let deadline = Deadline::after(begin, 1_000 * MS);
        assert_eq!(deadline.own_delay(Vec::new()), None);
        assert_eq!(deadline.own_delay(away(&[(0, 100), (950, 9_000)])), Some(OwnDelay::Slow));
        assert_eq!(deadline.own_delay(away(&[(0, 60), (30, 90), (95, 100)])), None, "each moment counts once");
        // The pause itself lengthens it: a peer that is silent all the time after it is to blame.
        injected::pause(at(10), at(60_010));
        assert_eq!(deadline.own_delay(away(&[(0, 20), (5_000, 6_000)])), None);
        assert_eq!(deadline.own_delay(away(&[(60_010, 60_210)])), Some(OwnDelay::Stopped));
        assert_eq!(deadline.own_delay_of(900 * MS), None);
        assert_eq!(deadline.own_delay_of(899 * MS), Some(OwnDelay::Stopped));
    }
}
