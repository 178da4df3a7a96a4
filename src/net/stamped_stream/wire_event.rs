//! The bytes that a connection sent and received, and when: kept by the stamped stream for one step at a time. `probe` divides a
//! step's time by them.

use std::time::{Duration, Instant};

use crate::clock;

/// The most events of a step that are kept one by one.
pub(super) const KEPT: usize = 512;
/// A read that comes no later than this is prompt, and a wait that is no longer is not looked into: a doubt of so little is
/// none.
pub const LATE: Duration = Duration::from_millis(1);

/// Bytes that were sent, or received, together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WireEvent {
    /// When they left, or when the last of them came.
    pub at: Instant,
    /// How many, TLS included.
    pub bytes: u32,
    /// For how many microseconds they lay in the socket before they were read; 0 where imaptrace stamped them itself.
    pub lay_us: u32,
    /// They were ours.
    pub sent: bool,
    /// While they were waited for, the kernel sent something again or something came out of order. Only looked at where the
    /// wait passed [`LATE`].
    pub lost: bool,
    /// They came at several times, of which `at` is the last: there were more pieces than are kept one by one.
    pub merged: bool,
}

impl WireEvent {
    /// Bytes of one moment, without further marks.
    pub fn new(at: Instant, bytes: usize, sent: bool) -> Self {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        Self { at, bytes, lay_us: 0, sent, lost: false, merged: false }
    }

    /// For how long the bytes lay in the socket before they were read.
    pub fn lay(&self) -> Duration {
        Duration::from_micros(self.lay_us.into())
    }

    /// They lay there for so long that what came behind them in the meantime may have left its own stamp on them.
    pub fn is_late(&self) -> bool {
        self.lay() > LATE
    }
}

/// What was sent and received since [`StampedStream::begin_step`](super::StampedStream::begin_step).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Traffic {
    /// In order. A server that sends more pieces than are kept has the rest of them in the last one.
    pub events: Vec<WireEvent>,
    /// Every arrival bears the kernel's stamp.
    pub kernel: bool,
    /// The end of the stream had come when the last bytes were read: their stamp may be that of the end.
    pub closed: bool,
}

/// Adds an event; to the one before it if they came together, or beyond the number that is kept one by one.
pub(super) fn keep(events: &mut Vec<WireEvent>, new: WireEvent) {
    let length = events.len();
    match events.last_mut() {
        Some(last) if last.sent == new.sent && (last.at == new.at || length >= KEPT) => {
            last.merged |= last.at != new.at;
            last.lost |= new.lost;
            last.lay_us = last.lay_us.max(new.lay_us);
            (last.at, last.bytes) = (new.at, last.bytes.saturating_add(new.bytes));
        }
        // Only a hostile peer makes us write that often in one step.
        Some(last) if length >= 2 * KEPT => last.merged = true,
        _ => events.push(new),
    }
}

/// Notes that bytes lay unread from when they came until they were read.
pub(super) fn note_unread(unread: &mut Vec<(Instant, Instant)>, came: Instant, read: Instant) {
    match unread.last_mut() {
        Some((_, until)) if came <= *until => *until = read,
        _ => unread.push((came, read)),
    }
}

/// A turn that was ours: something came, we read it, and sent something next.
pub(super) struct OwnTurn {
    /// When it came, or when we had last read or sent something, if that was later: what comes without end always lies there.
    pub(super) from: Instant,
    read: Instant,
    pub(super) answered: Instant,
}

/// The turns that were ours.
pub(super) fn own_turns(events: &[WireEvent]) -> impl Iterator<Item = OwnTurn> {
    let mut busy_until = None;
    events.iter().zip(events.iter().skip(1)).filter_map(move |(arrival, answer)| {
        let read = arrival.at + arrival.lay();
        let busy = busy_until.replace(read).unwrap_or(arrival.at);
        let from = arrival.at.max(busy).min(read);
        (!arrival.sent && answer.sent).then_some(OwnTurn { from, read, answered: answer.at })
    })
}

/// For how long we kept the peer waiting in our turns: what it sent lay unread, or this process did not get to run before
/// it answered. What it works at in between, such as a password's hash, is no waiting.
pub fn kept_waiting(events: &[WireEvent]) -> Duration {
    let kept = |turn: OwnTurn| {
        turn.read.saturating_duration_since(turn.from) + clock::paused(turn.read, turn.answered, Duration::ZERO)
    };
    own_turns(events).map(kept).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_ours_from_the_arrival_on_and_what_comes_without_end_is_nobodys_wait() {
        let begin = clock::now();
        let at = |millis: u64| begin + Duration::from_millis(millis);
        let sent = |millis| WireEvent::new(at(millis), 9, true);
        let came = |millis, lay: u32| WireEvent { lay_us: lay * 1_000, ..WireEvent::new(at(millis), 9, false) };
        let turns = |events: &[WireEvent]| {
            own_turns(events)
                .map(|turn| turn.answered.saturating_duration_since(turn.from).as_millis())
                .collect::<Vec<_>>()
        };
        // A challenge that lay there for 300 ms and took 20 ms to be answered, and an answer that asks for nothing.
        let one = [sent(0), came(10, 300), sent(330), came(340, 500)];
        assert_eq!((turns(&one), kept_waiting(&one)), (vec![320], Duration::from_millis(300)));
        // A flood: each piece lay for 300 ms, for we were busy with those before it.
        let flood = [sent(0), came(1, 300), sent(302), came(3, 300), sent(304), came(5, 300), sent(306)];
        assert_eq!(turns(&flood), [301, 2, 2]);
    }

    #[test]
    fn stretches_in_which_bytes_lay_unread_are_joined_where_they_meet() {
        let begin = clock::now();
        let at = |millis: u64| begin + Duration::from_millis(millis);
        let mut unread = Vec::new();
        for (came, read) in [(0, 100), (50, 150), (400, 500)] {
            note_unread(&mut unread, at(came), at(read));
        }
        assert_eq!(unread, [(at(0), at(150)), (at(400), at(500))]);
    }
}
