//! Arrivals and departures of bytes, kept by the stamped stream for one step. `probe` divides a step's time by them.

use std::time::{Duration, Instant};

use crate::clock;

/// The number of events of a step that are kept; later ones are merged.
pub(super) const KEPT: usize = 512;
/// A delay up to this is ignored: for a read, and for a wait that is examined for losses.
pub const LATE: Duration = Duration::from_millis(1);

/// Bytes that were sent, or received, together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WireEvent {
    /// When they left, or when the last of them arrived.
    pub at: Instant,
    /// How many, TLS included.
    pub bytes: u32,
    /// Microseconds from their arrival to the read; 0 without a stamp of the kernel.
    pub unread_us: u32,
    /// We sent them.
    pub sent: bool,
    /// During the wait for them a segment was retransmitted or arrived out of order. Only known for a wait over [`LATE`].
    pub lost: bool,
    /// Several events merged into one, with the time of the last in `at`.
    pub merged: bool,
}

impl WireEvent {
    /// Bytes at one time, without flags.
    pub fn new(at: Instant, bytes: usize, sent: bool) -> Self {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        Self { at, bytes, unread_us: 0, sent, lost: false, merged: false }
    }

    /// The time from their arrival to the read.
    pub fn unread_for(&self) -> Duration {
        Duration::from_micros(self.unread_us.into())
    }

    /// They were read so late that their stamp may be that of later bytes.
    pub fn is_late(&self) -> bool {
        self.unread_for() > LATE
    }
}

/// The events since [`StampedStream::begin_step`](super::StampedStream::begin_step).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Traffic {
    /// In order.
    pub events: Vec<WireEvent>,
    /// Every arrival has the kernel's stamp.
    pub kernel: bool,
    /// The stream had ended when the last bytes were read: their stamp may be that of the end.
    pub closed: bool,
}

/// Adds an event; merges it with the last one if they have the same time, or after [`KEPT`] events.
pub(super) fn keep(events: &mut Vec<WireEvent>, new: WireEvent) {
    let length = events.len();
    match events.last_mut() {
        Some(last) if last.sent == new.sent && (last.at == new.at || length >= KEPT) => {
            last.merged |= last.at != new.at;
            last.lost |= new.lost;
            last.unread_us = last.unread_us.max(new.unread_us);
            (last.at, last.bytes) = (new.at, last.bytes.saturating_add(new.bytes));
        }
        // Only a hostile peer causes so many turns in one step.
        Some(last) if length >= 2 * KEPT => last.merged = true,
        _ => events.push(new),
    }
}

/// Records that bytes were unread from their arrival to the read.
pub(super) fn note_unread(unread: &mut Vec<(Instant, Instant)>, came: Instant, read: Instant) {
    match unread.last_mut() {
        Some((_, until)) if came <= *until => *until = read,
        _ => unread.push((came, read)),
    }
}

/// A turn of ours: bytes arrived, we read them, and sent an answer.
pub(super) struct OwnTurn {
    /// The arrival, or our last read or write if that is later: in an endless stream some bytes always wait.
    pub(super) from: Instant,
    read: Instant,
    pub(super) answered: Instant,
}

pub(super) fn own_turns(events: &[WireEvent]) -> impl Iterator<Item = OwnTurn> {
    let mut busy_until = None;
    events.iter().zip(events.iter().skip(1)).filter_map(move |(arrival, answer)| {
        let read = arrival.at + arrival.unread_for();
        let busy = busy_until.replace(read).unwrap_or(arrival.at);
        let from = arrival.at.max(busy).min(read);
        (!arrival.sent && answer.sent).then_some(OwnTurn { from, read, answered: answer.at })
    })
}

/// How long the peer waited for us in our turns: for a read, or in a pause of this process before the answer. Work in between,
/// such as hashing a password, does not count.
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
    fn a_turn_is_ours_from_the_arrival_on_and_an_endless_stream_is_no_wait() {
        let begin = clock::now();
        let at = |millis: u64| begin + Duration::from_millis(millis);
        let sent = |millis| WireEvent::new(at(millis), 9, true);
        let came = |millis, ms: u32| WireEvent { unread_us: ms * 1_000, ..WireEvent::new(at(millis), 9, false) };
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
    fn times_of_unread_bytes_are_joined_where_they_meet() {
        let begin = clock::now();
        let at = |millis: u64| begin + Duration::from_millis(millis);
        let mut unread = Vec::new();
        for (came, read) in [(0, 100), (50, 150), (400, 500)] {
            note_unread(&mut unread, at(came), at(read));
        }
        assert_eq!(unread, [(at(0), at(150)), (at(400), at(500))]);
    }
}
