//! The error bound of a step's times: the sum of a bound for each cause of error (docs/measurement.md). Whether a bound is marked
//! is the record's rule ([`Seconds::is_uncertain_by`]).
//!
//! Pure arithmetic on stamps and on what the kernel counted. Called by `accounting`; `split` divides a command's time.

use std::time::{Duration, Instant};

use imaptrace_record::{Seconds, Step};

use super::{
    exchange::TcpInfoDelta,
    split::{Gap, Span, gaps},
};
use crate::net::{LATE, WireEvent};

/// The error bounds of a step's figures. The network's part is a count of round trips, and always exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Uncertainty {
    /// Its duration.
    pub(super) duration: Duration,
    /// The server's part of it.
    pub(super) server: Duration,
    /// The transfer's part of it.
    pub(super) transfer: Duration,
}

/// What bounds the errors of a command's times, beside its [`Span`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Evidence<'a> {
    /// What the kernel counted meanwhile, if it reports that.
    pub(super) tcp: Option<&'a TcpInfoDelta>,
    /// The kernel stamped every arrival.
    pub(super) kernel: bool,
    /// The server had ended the stream when its last bytes were read.
    pub(super) closed: bool,
    /// More than the tagged line had come when it was read.
    pub(super) more: bool,
    /// How long the server waited for us.
    pub(super) waited: Duration,
}

/// Bytes of a response that fit into one packet. They are written at once, even if in several segments.
const ONE_PACKET: u32 = 1460;

impl Uncertainty {
    /// That of a command, a TLS handshake or a greeting.
    pub(super) fn of_command(span: Span<'_>, per_byte: u32, evidence: &Evidence<'_>) -> Self {
        let late = span.events.iter().any(|event| event.merged || event.is_late());
        let lost = evidence.tcp.map_or(0, TcpInfoDelta::lost);
        // The server waited for imaptrace: the time is in the step, and in none of the server's gaps.
        let mut sum = Self { duration: evidence.waited, server: Duration::ZERO, transfer: evidence.waited };
        // Nearly every step.
        if !late && lost == 0 && evidence.kernel {
            return sum;
        }
        let gaps: Vec<Gap<'_>> = gaps(span, per_byte).collect();
        let hidden = hidden(span, evidence, &gaps);
        sum.add(Self::joined(&gaps, hidden, span.round_trip.unwrap_or_default()));
        sum.add(Self::of_end(span.end, &gaps, hidden, evidence));
        if let Some(tcp) = evidence.tcp.filter(|_| lost > 0) {
            sum.add(Self::of_loss(&gaps, tcp));
        }
        sum
    }

    /// That of connecting: all but one round trip can be due to a lost segment.
    pub(super) fn of_connect(duration: Duration, tcp: &TcpInfoDelta) -> Self {
        let waited = duration.saturating_sub(tcp.rtt_min.unwrap_or_default());
        Self { duration: if tcp.lost() > 0 { waited } else { Duration::ZERO }, ..Self::default() }
    }

    /// Arrivals that the kernel merged have the stamp of the last. Stamped one by one, each would have subtracted a round trip
    /// from the server's time; and what was subtracted for all bytes together may be the server's.
    fn joined(gaps: &[Gap<'_>], hidden: u64, round_trip: Duration) -> Self {
        let merged = || gaps.iter().filter(|gap| gap.arrival.is_some_and(may_be_merged));
        let less = merged().map(|gap| gap.server).sum::<Duration>();
        let less = less.min(round_trip.saturating_mul(u32::try_from(hidden).unwrap_or(u32::MAX)));
        let more = if hidden > 0 { merged().map(Gap::needed).sum() } else { Duration::ZERO };
        let moved = less.max(more);
        Self { duration: Duration::ZERO, server: moved, transfer: moved }
    }

    /// The stamp of the tagged line is that of data behind it, or our own and late: the end was earlier.
    fn of_end(end: Instant, gaps: &[Gap<'_>], hidden: u64, evidence: &Evidence<'_>) -> Self {
        let Some((last, arrival)) = gaps.iter().rev().find_map(|gap| Some((gap, gap.arrival?))) else {
            return Self::default();
        };
        let data = evidence.tcp.and_then(|tcp| tcp.last_data);
        let since_data = data.map_or(last.delay, |data| end.saturating_duration_since(data.earliest));
        let late = evidence.kernel && arrival.is_late();
        let ours_and_late = !evidence.kernel && data.is_some_and(|data| end > data.latest + LATE);
        let by = if late && evidence.more && hidden > 0 {
            last.delay
        } else if (late && evidence.closed) || ours_and_late {
            since_data
        } else {
            Duration::ZERO
        };
        Self::of_gap(last, by)
    }

    /// Lost or reordered segments came late: at most by the waits in which they came, and by the time our data was unacknowledged.
    fn of_loss(gaps: &[Gap<'_>], tcp: &TcpInfoDelta) -> Self {
        let reordered = tcp.out_of_order.is_some_and(|count| count > 0);
        let seen = |gap: &&Gap<'_>| gap.arrival.map_or(gap.delay > LATE, |arrival| arrival.lost);
        let (mut sum, mut early) = (Self::default(), Duration::ZERO);
        for gap in gaps.iter().filter(seen) {
            sum.add(Self::of_gap(gap, gap.delay));
            // Data that waited for the lost segment has the stamp of its own arrival: too early, not too late.
            early = gap.arrival.filter(|_| reordered).map_or(early, |arrival| early.max(arrival.unread_for()));
        }
        sum.duration = sum.duration.max(early);
        sum.transfer = sum.transfer.max(early);
        if sum == Self::default() {
            // In waits too short to be examined one by one.
            let short = LATE.saturating_mul(u32::try_from(tcp.lost()).unwrap_or(u32::MAX));
            let all = |of: fn(&Gap<'_>) -> Duration| gaps.iter().map(of).sum::<Duration>().min(short);
            sum =
                Self { duration: all(|gap| gap.delay), server: all(|gap| gap.server), transfer: all(|gap| gap.delay) };
        }
        match tcp.unacknowledged.filter(|_| !reordered) {
            Some(most) => sum.at_most(most),
            None => sum,
        }
    }

    /// By how much a gap could have been shorter.
    fn of_gap(gap: &Gap<'_>, by: Duration) -> Self {
        let duration = by.min(gap.delay);
        let line = gap.delay.saturating_sub(gap.server);
        Self { duration, server: duration.min(gap.server), transfer: duration.min(line) }
    }

    fn add(&mut self, other: Self) {
        self.duration += other.duration;
        self.server += other.server;
        self.transfer += other.transfer;
    }

    fn at_most(self, most: Duration) -> Self {
        Self { duration: self.duration.min(most), server: self.server.min(most), transfer: self.transfer.min(most) }
    }

    /// Marks a step as uncertain if a bound is large enough for its figure. LOGOUT counts for no figure, and is never marked.
    pub(super) fn note(self, step: &mut Step) {
        if step.is_logout() {
            return;
        }
        let figures =
            [(Some(step.duration_s), self.duration), (step.server_s, self.server), (step.transfer_s, self.transfer)];
        let in_doubt = figures.into_iter().filter_map(|(figure, by)| {
            let by = Seconds::from(by);
            figure.filter(|figure| figure.is_uncertain_by(by)).map(|_| by)
        });
        step.uncertainty_s = in_doubt.max();
        step.uncertain = step.uncertainty_s.map(|_| true);
    }
}

/// Arrivals without a stamp of their own, at most: the kernel counts the segments with data.
fn hidden(span: Span<'_>, evidence: &Evidence<'_>, gaps: &[Gap<'_>]) -> u64 {
    let stamped = span.events.iter().filter(|event| !event.sent).count() as u64;
    if let Some(segments) = evidence.tcp.and_then(|tcp| tcp.data_segments) {
        return segments.saturating_sub(stamped);
    }
    if gaps.iter().any(|gap| gap.arrival.is_some_and(may_be_merged)) { u64::MAX } else { 0 }
}

/// Whether the bytes may have come at several times, the stamp being the last.
fn may_be_merged(arrival: &WireEvent) -> bool {
    arrival.merged || (arrival.is_late() && arrival.bytes > ONE_PACKET)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::exchange::CoarseMoment, *};
    use crate::clock;

    const MS: Duration = Duration::from_millis(1);

    /// So many milliseconds before.
    fn ago(at: Instant, millis: u32) -> Instant {
        at.checked_sub(millis * MS).unwrap()
    }

    /// A step that is under way: its stamps are put in.
    struct Case {
        start: Instant,
        events: Vec<WireEvent>,
        round_trip: Duration,
        per_byte: u32,
        tcp: TcpInfoDelta,
    }

    impl Case {
        /// A command of 20 bytes on a line of this round trip.
        fn new(round_trip: Duration) -> Self {
            let start = clock::now();
            let events = vec![WireEvent::new(start, 20, true)];
            Self { start, events, round_trip, per_byte: 0, tcp: TcpInfoDelta::default() }
        }

        /// Bytes that came so many milliseconds after the start, in so many segments.
        fn arrives(mut self, at: u32, bytes: usize, segments: u64) -> Self {
            self.events.push(WireEvent::new(self.start + at * MS, bytes, false));
            self.tcp.data_segments = Some(self.tcp.data_segments.unwrap_or_default() + segments);
            self
        }

        /// The last of them lay for so many milliseconds.
        fn read_after(mut self, millis: u32) -> Self {
            self.events.last_mut().unwrap().unread_us = millis * 1_000;
            self
        }

        /// Something was lost while they were waited for.
        fn lost(mut self, retransmits: u64, out_of_order: u64) -> Self {
            self.events.last_mut().unwrap().lost = true;
            (self.tcp.retransmits, self.tcp.out_of_order) = (retransmits, Some(out_of_order));
            self
        }

        fn span(&self) -> Span<'_> {
            let end = self.events.last().unwrap().at;
            let duration = Seconds::from(end - self.start);
            let (events, round_trip) = (&self.events, Some(self.round_trip));
            Span { start: self.start, asked: true, end, events, duration, round_trip }
        }

        fn evidence(&self) -> Evidence<'_> {
            Evidence { tcp: Some(&self.tcp), kernel: true, closed: false, more: false, waited: Duration::ZERO }
        }

        /// Milliseconds by which duration, server and transfer can be off.
        fn bounds(&self, evidence: &Evidence<'_>) -> [u128; 3] {
            let Uncertainty { duration, server, transfer } =
                Uncertainty::of_command(self.span(), self.per_byte, evidence);
            [duration, server, transfer].map(|by| by.as_millis())
        }

        /// What its step bears.
        fn noted(&self, name: &str, evidence: &Evidence<'_>) -> Option<Seconds> {
            let parts = super::super::split::split(self.span(), self.per_byte);
            let mut step = Step {
                name: name.into(),
                duration_s: self.span().duration,
                server_s: Some(parts.server),
                network_s: Some(parts.network),
                transfer_s: Some(parts.transfer),
                ..Step::default()
            };
            Uncertainty::of_command(self.span(), self.per_byte, evidence).note(&mut step);
            assert_eq!(step.uncertain, step.uncertainty_s.map(|_| true));
            step.uncertainty_s
        }
    }

    const NEAR: Duration = Duration::from_micros(50);
    const FAR: Duration = Duration::from_millis(40);

    #[test]
    fn an_answer_that_was_read_late_is_in_doubt_by_a_round_trip_for_each_arrival_that_has_no_stamp() {
        // Ten segments with one stamp: nine round trips could have been taken off.
        let case = Case::new(FAR).arrives(700, 14_000, 10).read_after(5);
        assert_eq!(case.bounds(&case.evidence()), [0, 360, 360]);
        assert_eq!(case.noted("FETCH", &case.evidence()), Some(Seconds::from_micros(360_000)));
        // No more than the server's time can become the line's.
        let case = Case::new(FAR).arrives(70, 14_000, 10).read_after(5);
        assert_eq!(case.bounds(&case.evidence()), [0, 30, 30]);
        // On loopback that is nothing, beside a wait of seconds and of milliseconds alike.
        for wait in [3, 2_000] {
            let case = Case::new(NEAR).arrives(wait, 14_000, 10).read_after(5);
            assert_eq!(case.noted("FETCH", &case.evidence()), None, "{wait}");
        }
        // The kernel counted as many segments as have stamps: each has its own.
        let case = Case::new(FAR).arrives(70, 14_000, 1).read_after(5);
        assert_eq!(case.bounds(&case.evidence()), [0, 0, 0]);
        // A read that came at once.
        let case = Case::new(FAR).arrives(70, 14_000, 10).read_after(1);
        assert_eq!(case.bounds(&case.evidence()), [0, 0, 0]);
    }

    #[test]
    fn a_response_of_one_packet_came_at_once_and_a_larger_one_did_not_where_segments_are_not_counted() {
        for (bytes, segments, expected) in [
            (1_460, Some(3), [0, 0, 0]),
            (1_461, Some(3), [0, 30, 30]),
            (1_460, None, [0, 0, 0]),
            (1_461, None, [0, 30, 30]),
        ] {
            let mut case = Case::new(FAR).arrives(70, bytes, 1).read_after(5);
            case.tcp.data_segments = segments;
            assert_eq!(case.bounds(&case.evidence()), expected, "{bytes} in {segments:?}");
        }
    }

    #[test]
    fn the_time_subtracted_for_bytes_may_be_the_servers_if_their_arrivals_are_unknown() {
        // 14 kB at 1 µs a byte are 14 ms of 30 ms; with one stamp for all the server could have had them too.
        let mut case = Case::new(NEAR).arrives(30, 14_000, 10).read_after(5);
        case.per_byte = 1_000_000;
        assert_eq!(case.bounds(&case.evidence()), [0, 14, 14]);
    }

    #[test]
    fn more_pieces_than_are_kept_are_in_doubt_however_soon_they_were_read() {
        let mut case = Case::new(FAR).arrives(70, 900_000, 700);
        case.events.last_mut().unwrap().merged = true;
        assert_eq!(case.bounds(&case.evidence()), [0, 30, 30]);
    }

    #[test]
    fn the_end_of_the_stream_beside_a_late_answer_is_bounded_by_when_the_last_data_came() {
        let case = Case::new(NEAR).arrives(2_000, 60, 1).read_after(5);
        let mut tcp = case.tcp;
        let end = case.start + 2_000 * MS;
        // The kernel's tick is 4 ms.
        tcp.last_data = Some(CoarseMoment { earliest: ago(end, 4), latest: end });
        let closed = Evidence { tcp: Some(&tcp), closed: true, ..case.evidence() };
        assert_eq!(case.bounds(&closed), [4, 4, 0]);
        assert_eq!(case.noted("LOGIN", &closed), None, "4 ms of 2 s");
        tcp.last_data = Some(CoarseMoment { earliest: ago(end, 904), latest: ago(end, 900) });
        let closed = Evidence { tcp: Some(&tcp), closed: true, ..case.evidence() };
        assert_eq!(case.noted("LOGIN", &closed), Some(Seconds::from_micros(904_000)));
        assert_eq!(case.noted("LOGOUT", &closed), None, "no user waits for it");
        // It was read at once.
        let prompt = Case::new(NEAR).arrives(20, 60, 1).read_after(1);
        let closed = Evidence { tcp: Some(&tcp), closed: true, ..prompt.evidence() };
        assert_eq!(prompt.bounds(&closed), [0, 0, 0]);
    }

    #[test]
    fn what_came_behind_a_tagged_line_that_was_read_late_may_have_left_its_stamp_on_it() {
        let case = Case::new(NEAR).arrives(30, 200, 2).read_after(5);
        let more = Evidence { more: true, ..case.evidence() };
        assert_eq!(case.bounds(&more), [29, 29, 0]);
        let one = Case::new(NEAR).arrives(30, 200, 1).read_after(5);
        let more = Evidence { more: true, ..one.evidence() };
        assert_eq!(one.bounds(&more), [0, 0, 0], "they came in one segment");
    }

    #[test]
    fn a_stamp_of_our_own_is_in_doubt_when_the_kernel_had_the_data_long_before() {
        let case = Case::new(NEAR).arrives(100, 200, 1);
        let end = case.start + 100 * MS;
        for (latest, expected) in [(0, [0, 0, 0]), (1, [0, 0, 0]), (40, [44, 44, 0]), (500, [99, 99, 0])] {
            let latest = ago(end, latest);
            let tcp = TcpInfoDelta { last_data: Some(CoarseMoment { earliest: ago(latest, 4), latest }), ..case.tcp };
            let ours = Evidence { tcp: Some(&tcp), kernel: false, ..case.evidence() };
            assert_eq!(case.bounds(&ours), expected);
        }
    }

    #[test]
    fn a_segment_of_ours_that_was_sent_again_is_in_doubt_by_as_long_as_our_data_was_unacknowledged() {
        let mut case = Case::new(FAR).arrives(2_240, 200, 1).lost(1, 0);
        assert_eq!(case.bounds(&case.evidence()), [2_200, 2_200, 0], "by the wait in which it happened");
        case.tcp.unacknowledged = Some(250 * MS);
        assert_eq!(case.bounds(&case.evidence()), [250, 250, 0]);
        assert_eq!(case.noted("FETCH", &case.evidence()), Some(Seconds::from_micros(250_000)));
        // The same beside a wait of 20 s is too little to say anything.
        let mut case = Case::new(FAR).arrives(20_000, 200, 1).lost(1, 0);
        case.tcp.unacknowledged = Some(250 * MS);
        assert_eq!(case.noted("FETCH", &case.evidence()), None);
    }

    #[test]
    fn a_segment_of_the_servers_that_was_lost_is_in_doubt_by_the_wait_in_which_it_happened_alone() {
        let case = Case::new(FAR).arrives(2_040, 1_400, 1).arrives(2_100, 12_600, 9).lost(0, 8);
        // All of those 60 ms, of which 20 ms are the server's part: the rows before them asked for nothing.
        assert_eq!(case.bounds(&case.evidence()), [60, 20, 40]);
        assert_eq!(case.noted("FETCH", &case.evidence()), Some(Seconds::from_micros(40_000)), "all of the transfer");
        // The same before the first row: 60 ms of 100 ms are no round trip.
        let case = Case::new(FAR).arrives(100, 1_400, 1).lost(0, 8).arrives(2_000, 12_600, 9);
        assert_eq!(case.bounds(&case.evidence()), [60, 60, 0]);
        assert_eq!(case.noted("FETCH", &case.evidence()), None, "60 ms of 2 s");
        // What waited for it in the kernel bears stamps of before.
        let case = Case::new(NEAR).arrives(5, 1_400, 1).arrives(6, 12_600, 9).read_after(43).lost(0, 8);
        let [duration, ..] = case.bounds(&case.evidence());
        assert_eq!(duration, 43, "too early");
        assert!(case.noted("FETCH", &case.evidence()).is_some());
    }

    #[test]
    fn a_loss_in_waits_too_short_to_be_looked_at_is_in_doubt_by_as_many_milliseconds() {
        let mut case = Case::new(NEAR).arrives(1, 1_400, 1).arrives(2, 1_400, 1).arrives(3, 1_400, 1);
        case.tcp.out_of_order = Some(2);
        let [duration, ..] = case.bounds(&case.evidence());
        assert_eq!(duration, 2);
        // The command was lost for good: nothing ended the wait.
        let mut case = Case::new(NEAR);
        case.tcp.retransmits = 3;
        let span = Span { end: case.start + 900 * MS, duration: Seconds::from(900 * MS), ..case.span() };
        let by = Uncertainty::of_command(span, 0, &case.evidence());
        assert_eq!(by.duration + NEAR, 900 * MS);
    }

    #[test]
    fn a_wait_for_a_processor_to_hash_the_password_is_in_doubt_as_transfer() {
        let case = Case::new(NEAR).arrives(60, 200, 1);
        let waited = Evidence { waited: 6 * MS, ..case.evidence() };
        assert_eq!(case.bounds(&waited), [6, 0, 6]);
        assert_eq!(case.noted("AUTHENTICATE", &waited), Some(Seconds::from_micros(6_000)));
    }

    #[test]
    fn a_connection_over_which_a_segment_was_lost_is_in_doubt_by_all_but_a_round_trip() {
        let mut tcp = TcpInfoDelta { rtt_min: Some(FAR), ..TcpInfoDelta::default() };
        assert_eq!(Uncertainty::of_connect(1_040 * MS, &tcp), Uncertainty::default());
        tcp.retransmits = 1;
        assert_eq!(Uncertainty::of_connect(1_040 * MS, &tcp).duration, 1_000 * MS);
    }

    proptest! {
        #[test]
        fn no_bound_of_one_cause_passes_the_step(
            waits in proptest::collection::vec((0_u32..3_000, 1_usize..60_000, 0_u64..40, 0_u32..50, any::<bool>()), 1..20),
            round_trip in 0_u32..200, per_byte in 0_u32..2_000_000, unacknowledged in proptest::option::of(0_u32..500),
            retransmits in 0_u64..4, out_of_order in 0_u64..4,
        ) {
            let mut case = Case::new(round_trip * MS);
            let mut at = 0;
            for (wait, bytes, segments, lay, lost) in waits {
                at += wait;
                case = case.arrives(at, bytes, segments).read_after(lay);
                case.events.last_mut().unwrap().lost = lost;
            }
            case.per_byte = per_byte;
            (case.tcp.retransmits, case.tcp.out_of_order) = (retransmits, Some(out_of_order));
            case.tcp.unacknowledged = unacknowledged.map(|millis| millis * MS);
            let by = Uncertainty::of_command(case.span(), per_byte, &case.evidence());
            let lay = case.events.iter().map(WireEvent::unread_for).max().unwrap();
            prop_assert!(by.duration <= lay.max(case.span().duration.to_duration()), "{by:?}");
            prop_assert!(by.server <= 2 * case.span().duration.to_duration(), "{by:?}");
        }
    }
}
