//! Where the time of a command, a TLS handshake or a greeting went: server + network + transfer, which add up to its duration
//! (docs/measurement.md).
//!
//! The server's part is the gaps in which it owed us bytes: from our last byte to its first, between its arrivals, and after each
//! continuation; each less one round trip, and less the time that the bytes at its end need on this line.
//!
//! Pure arithmetic on stamps: reads no clock and no socket. Called by `accounting`; `uncertainty` uses the same gaps.

use std::time::{Duration, Instant};

use imaptrace_record::{Seconds, ServerWait};

use crate::net::WireEvent;

/// The three parts of a step's duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct TimeSplit {
    /// The server owed us bytes and none came.
    pub(super) server: Seconds,
    /// Round trips.
    pub(super) network: Seconds,
    /// The rest: bytes on their way.
    pub(super) transfer: Seconds,
}

/// One step to be split. Stamps are monotonic.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span<'a> {
    /// The command's first byte left.
    pub(super) start: Instant,
    /// The server responds to what we sent, or to the connection, so that a round trip passes before its first byte. False for
    /// what it sends after its own bytes.
    pub(super) asked: bool,
    /// Its tagged line was whole, or the command was abandoned.
    pub(super) end: Instant,
    /// What was sent and received meanwhile, in order.
    pub(super) events: &'a [WireEvent],
    /// The duration as the record has it, which the parts add up to.
    pub(super) duration: Seconds,
    /// Smallest round trip of the connection; without one nothing is subtracted for it.
    pub(super) round_trip: Option<Duration>,
}

/// The rate of the line, learned from a connection's own traffic.
///
/// A segment that follows a full one waited behind it, so the distance between the two is due to the line and not to the server.
/// The upper quartile per byte counts: a line with a token bucket passes the first bytes faster than it can sustain.
#[derive(Debug, Default)]
pub(super) struct LineRate {
    /// Picoseconds per byte; the newest replace the oldest.
    samples: Vec<u32>,
    next: usize,
}

/// Fewer distances give no rate.
const LEAST: usize = 8;
const KEPT: usize = 128;

impl LineRate {
    /// Learns from one step. `segment`: payload of a full segment, in bytes.
    pub(super) fn learn(&mut self, events: &[WireEvent], segment: u32) {
        if segment == 0 {
            return;
        }
        for pair in events.windows(2) {
            let [before, after] = pair else { continue };
            // Several segments at once waited together; a read may have cut one short, and proves nothing.
            if before.sent || after.sent || before.bytes % segment != 0 || after.bytes == 0 {
                continue;
            }
            let distance = after.at.saturating_duration_since(before.at).as_nanos() * 1_000 / u128::from(after.bytes);
            let sample = u32::try_from(distance).unwrap_or(u32::MAX);
            if self.samples.len() < KEPT {
                self.samples.push(sample);
            } else {
                self.samples[self.next] = sample;
                self.next = (self.next + 1) % KEPT;
            }
        }
    }

    /// The time of these bytes on the line; zero while its rate is unknown.
    fn needs(per_byte: u32, bytes: u32) -> Duration {
        Duration::from_nanos(u64::from(per_byte) * u64::from(bytes) / 1_000)
    }

    /// The time of a byte, in picoseconds; 0 while it is unknown.
    pub(super) fn per_byte(&self) -> u32 {
        if self.samples.len() < LEAST {
            return 0;
        }
        let mut sorted = self.samples.clone();
        let quartile = sorted.len() * 3 / 4;
        *sorted.select_nth_unstable(quartile).1
    }
}

/// A time in which the server owed us bytes and none came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gap<'a> {
    /// When it began: our last bytes left, or the server's arrived.
    pub(super) since: Instant,
    /// When it ended.
    pub(super) until: Instant,
    /// What ended it; none if nothing did and the step was abandoned.
    pub(super) arrival: Option<&'a WireEvent>,
    /// All of it but one round trip.
    pub(super) wait: Duration,
    /// The server's part: the wait less the time of the bytes that ended it.
    pub(super) server: Duration,
    /// How much of it may be delay: all, but for the round trip of a response to what we sent.
    pub(super) delay: Duration,
}

impl Gap<'_> {
    /// The rest: the bytes that ended it were on their way.
    pub(super) fn needed(&self) -> Duration {
        self.wait.saturating_sub(self.server)
    }
}

/// The gaps of a step, in order.
pub(super) fn gaps(span: Span<'_>, per_byte: u32) -> impl Iterator<Item = Gap<'_>> {
    let round_trip = span.round_trip.unwrap_or_default();
    let inside = span.events.iter().filter(move |event| (span.start..=span.end).contains(&event.at));
    let (mut owed_since, mut asked) = (span.start, span.asked);
    // Without a response the server owed it until the end. Else the last arrival is the end itself.
    inside.map(Some).chain([None]).filter_map(move |event| {
        let until = event.map_or(span.end, |event| event.at);
        let since = std::mem::replace(&mut owed_since, until);
        let answers = std::mem::replace(&mut asked, event.is_some_and(|event| event.sent));
        if asked {
            return None;
        }
        let whole = until.saturating_duration_since(since);
        let wait = whole.saturating_sub(round_trip);
        let needs = event.map_or(Duration::ZERO, |event| LineRate::needs(per_byte, event.bytes));
        let delay = if answers { wait } else { whole };
        Some(Gap { since, until, arrival: event, wait, server: wait.saturating_sub(needs), delay })
    })
}

/// The gaps that are worth a span of their own: the longest by the server's part, in order ([`ServerWait`]).
pub(super) fn waits(span: Span<'_>, per_byte: u32) -> Vec<Gap<'_>> {
    let mut longest: Vec<_> =
        gaps(span, per_byte).filter(|gap| Seconds::from(gap.server) >= ServerWait::SHORTEST).collect();
    longest.sort_by_key(|gap| std::cmp::Reverse(gap.server));
    longest.truncate(ServerWait::MOST);
    longest.sort_by_key(|gap| gap.since);
    longest
}

/// Splits a step's duration.
pub(super) fn split(span: Span<'_>, per_byte: u32) -> TimeSplit {
    let server: Duration = gaps(span, per_byte).map(|gap| gap.server).sum();
    let (mut turns, mut asked) = (0_u32, span.asked);
    for event in span.events.iter().filter(|event| (span.start..=span.end).contains(&event.at)) {
        turns += u32::from(!event.sent && asked);
        asked = event.sent;
    }
    let server = Seconds::from(server).min(span.duration);
    let rest = span.duration.saturating_sub(server);
    // A response that never came takes a round trip, too.
    let turns = turns.max(span.asked.into());
    let network = Seconds::from(span.round_trip.unwrap_or_default() * turns).min(rest);
    TimeSplit { server, network, transfer: rest.saturating_sub(network) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock;

    const RTT: Duration = Duration::from_millis(40);

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// A step that begins now, of `(after how many ms, bytes)`; ours are negative.
    fn details(events: &[(u64, i64)], end: u64, round_trip: Duration, pace: &LineRate) -> [u64; 3] {
        let start = clock::now();
        let events: Vec<_> = events
            .iter()
            .map(|(at, bytes)| WireEvent::new(start + ms(*at), usize::try_from(bytes.abs()).unwrap(), *bytes < 0))
            .collect();
        let duration = Seconds::from(ms(end));
        let round_trip = Some(round_trip);
        let span = Span { start, asked: true, end: start + ms(end), events: &events, duration, round_trip };
        let parts = split(span, pace.per_byte());
        [parts.server, parts.network, parts.transfer].map(|part| part.as_micros() / 1_000)
    }

    #[test]
    fn a_quick_answer_is_one_round_trip_of_network() {
        assert_eq!(details(&[(0, -20), (40, 100)], 40, RTT, &LineRate::default()), [0, 40, 0]);
    }

    #[test]
    fn a_pause_is_the_servers_wherever_it_comes() {
        let none = LineRate::default();
        assert_eq!(details(&[(0, -20), (340, 100)], 340, RTT, &none), [300, 40, 0]);
        assert_eq!(details(&[(0, -20), (40, 100), (380, 10)], 380, RTT, &none), [300, 40, 40]);
        assert_eq!(details(&[(0, -20), (40, 100), (45, 10)], 45, RTT, &none), [0, 40, 5]);
        // Two turns: a continuation, and the answer to what followed it.
        assert_eq!(details(&[(0, -20), (340, 4), (340, -9), (580, 10)], 580, RTT, &none), [500, 80, 0]);
        // A second part that did not wait for anything is no turn of its own.
        assert_eq!(details(&[(0, -20), (1, -9), (341, 10)], 341, RTT, &none), [300, 40, 1]);
    }

    #[test]
    fn a_handshake_is_a_round_trip_for_each_flight_and_a_greeting_one_only_if_our_bytes_came_last() {
        let none = LineRate::default();
        // TLS 1.3: the ClientHello, the server's flight after 5 ms of its own, and ours.
        assert_eq!(details(&[(0, -300), (45, 3_000), (46, -80)], 46, RTT, &none), [5, 40, 1]);
        // TLS 1.2: two flights of each.
        assert_eq!(details(&[(0, -300), (45, 3_000), (46, -120), (90, 60)], 90, RTT, &none), [9, 80, 1]);
        let start = clock::now();
        let events = [WireEvent::new(start + ms(45), 100, false)];
        let greeting = |asked| {
            let (end, duration) = (start + ms(45), Seconds::from(ms(45)));
            let parts = split(Span { start, asked, end, events: &events, duration, round_trip: Some(RTT) }, 0);
            [parts.server, parts.network, parts.transfer].map(|part| part.as_micros() / 1_000)
        };
        assert_eq!(greeting(true), [5, 40, 0]);
        assert_eq!(greeting(false), [5, 0, 40], "it followed other bytes of the server's");
    }

    #[test]
    fn a_server_that_never_answered_owed_us_the_answer_all_the_time() {
        assert_eq!(details(&[(0, -20)], 1000, RTT, &LineRate::default()), [960, 40, 0]);
        assert_eq!(details(&[(0, -20), (40, 7)], 1000, RTT, &LineRate::default()), [920, 40, 40]);
    }

    #[test]
    fn the_longest_pauses_of_the_server_are_waits_in_the_order_of_time() {
        let start = clock::now();
        let event = |at, bytes: i64| WireEvent::new(start + ms(at), usize::try_from(bytes.abs()).unwrap(), bytes < 0);
        let waits_of = |events: &[WireEvent], end, round_trip| {
            let (end, duration) = (start + ms(end), Seconds::from(ms(end)));
            let span = Span { start, asked: true, end, events, duration, round_trip: Some(round_trip) };
            let since = |at: Instant| at.duration_since(start).as_millis();
            let of = |gap: &Gap<'_>| [since(gap.since), since(gap.until), gap.server.as_millis()];
            waits(span, 0).iter().map(of).collect::<Vec<_>>()
        };
        let near = ms(1);
        // Ten milliseconds and the round trip are just long enough.
        let events = [event(0, -20), event(11, 100), event(21, 100), event(121, 9)];
        assert_eq!(waits_of(&events, 121, near), [[0, 11, 10], [21, 121, 99]]);
        // On a long line the round trip is none.
        assert_eq!(waits_of(&events[..2], 11, RTT), Vec::<[u128; 3]>::new());
        assert_eq!(waits_of(&[event(0, -20), event(340, 100)], 340, RTT), [[0, 340, 300]]);
        // Seven, of which the two shortest are left out.
        let mut events = vec![event(0, -20)];
        let mut at = 0;
        for pause in [30, 20, 40, 11, 50, 60, 70] {
            at += pause;
            events.push(event(at, 100));
        }
        let found: Vec<_> = waits_of(&events, at, Duration::ZERO).iter().map(|[_, _, server]| *server).collect();
        assert_eq!(found, [30, 40, 50, 60, 70]);
        // No byte ended it.
        assert_eq!(waits_of(&[event(0, -20)], 900, near), [[0, 900, 899]]);
        // Our turn after a continuation is none.
        let turn = [event(0, -20), event(5, 4), event(305, -9), event(320, 20)];
        assert_eq!(waits_of(&turn, 320, near), [[305, 320, 14]]);
    }

    /// Full segments on a line of 8 Mbit/s: one each 1.5 ms, the first `burst` at once.
    fn full_line(burst: u64, count: u64) -> Vec<WireEvent> {
        let start = clock::now();
        let mut events = vec![WireEvent::new(start, 20, true)];
        events.extend((0..count).map(|number| {
            WireEvent::new(start + Duration::from_micros(1_500 * number.saturating_sub(burst)), 1_448, false)
        }));
        events
    }

    fn split_of(events: &[WireEvent], pace: &LineRate) -> TimeSplit {
        let (start, end) = (events[0].at, events.last().unwrap().at);
        let duration = Seconds::from(end - start);
        let round_trip = Some(Duration::from_micros(50));
        split(Span { start, asked: true, end, events, duration, round_trip }, pace.per_byte())
    }

    #[test]
    fn a_full_line_is_transfer_also_when_its_first_bytes_come_at_once() {
        for burst in [0, 20] {
            let events = full_line(burst, 200);
            let mut pace = LineRate::default();
            pace.learn(&events, 1_448);
            let parts = split_of(&events, &pace);
            assert!(parts.server < Seconds::from_micros(100), "{burst}: {parts:?}");
            assert!(parts.transfer > Seconds::from(ms(250)), "{burst}: {parts:?}");
        }
    }

    #[test]
    fn a_server_that_writes_slowly_is_not_taken_for_a_slow_line() {
        let start = clock::now();
        let mut events = vec![WireEvent::new(start, 20, true)];
        // Twenty rows, each a full segment and a rest, 10 ms apart.
        for row in 1..=20 {
            events.push(WireEvent::new(start + ms(10 * row), 1_448, false));
            events.push(WireEvent::new(start + ms(10 * row) + Duration::from_micros(12), 700, false));
        }
        let mut pace = LineRate::default();
        pace.learn(&events, 1_448);
        let parts = split_of(&events, &pace);
        assert!(parts.server > Seconds::from(ms(190)), "{parts:?}");
    }

    proptest! {
        #[test]
        fn the_parts_always_add_up_and_none_is_longer_than_the_whole(
            steps in proptest::collection::vec((0_u64..5_000, 1_usize..100_000, any::<bool>()), 0..40),
            tail in 0_u64..5_000, round_trip in 0_u64..100_000, segment in 0_u32..2_000, asked in any::<bool>(),
        ) {
            let start = clock::now();
            let mut at = start;
            let mut events = Vec::new();
            for (after, bytes, sent) in steps {
                at += Duration::from_micros(after);
                events.push(WireEvent::new(at, bytes, sent));
            }
            let end = at + Duration::from_micros(tail);
            let duration = Seconds::from(end - start);
            let mut pace = LineRate::default();
            pace.learn(&events, segment);
            let round_trip = Some(Duration::from_micros(round_trip));
            let parts = split(Span { start, asked, end, events: &events, duration, round_trip }, pace.per_byte());
            let sum = parts.server.saturating_add(parts.network).saturating_add(parts.transfer);
            prop_assert_eq!(sum, duration);
        }

        #[test]
        fn a_longer_pause_never_makes_less_of_the_server(pause in 0_u64..10_000, more in 0_u64..10_000) {
            let none = LineRate::default();
            let details = |pause| details(&[(0, -20), (40 + pause, 100)], 40 + pause, RTT, &none)[0];
            prop_assert!(details(pause) <= details(pause + more));
        }
    }
}
