use super::*;
use crate::clock;

fn entry(number: u64, place: Option<SegmentPosition>) -> QueuedRun {
    let run: Run = serde_json::from_str(imaptrace_testkit::PASSED_RUN).unwrap();
    QueuedRun { number, load: Load::of(&run), run: Arc::new(run), arrived: clock::now(), place, is_held: false }
}

/// What waits, by its place, and so many behind it that are on no disk.
fn state(in_flight: &[Option<u64>], recent: &[Option<u64>]) -> QueueState {
    let mut state = QueueState::default();
    for (number, segment) in (0..).zip(in_flight.iter().chain(recent)) {
        let entry = entry(number, segment.map(SegmentPosition::start));
        state.load.add(entry.load);
        state.unwritten += usize::from(segment.is_none());
        if number < in_flight.len() as u64 {
            state.in_flight.push_back(entry);
        } else {
            state.recent_spans += entry.load.spans;
            state.recent.push_back(entry);
        }
    }
    state
}

#[test]
fn runs_that_left_during_a_write_settle_no_older_ones() {
    let written = || BTreeMap::from([(7, SegmentPosition::start(7)), (8, SegmentPosition::start(8))]);
    for (in_flight, recent, unread, through) in [
        // All that was older has left: 7 was delivered, and 8 too.
        (vec![], vec![], None, Some(8)),
        (vec![Some(1)], vec![], None, None),
        (vec![], vec![Some(1)], None, None),
        (vec![], vec![], Some(1), None),
    ] {
        let mut state = QueueState { unread: unread.map(SegmentPosition::start), ..state(&in_flight, &recent) };
        let gone = state.place(written());
        assert_eq!(gone.runs, BTreeMap::from([(7, 1), (8, 1)]));
        assert_eq!(gone.through, through.map(SegmentPosition::start), "{in_flight:?} {recent:?} {unread:?}");
    }
    // 0 waits on no disk and is written now: what left behind it settles nothing before it.
    let mut state = state(&[None], &[]);
    let gone = state.place(BTreeMap::from([(0, SegmentPosition::start(6)), (7, SegmentPosition::start(7))]));
    assert_eq!((gone.runs, gone.through, state.unwritten), (BTreeMap::from([(7, 1)]), None, 0));
}

#[test]
fn delivered_runs_are_not_lost_with_a_segment_that_still_counts_them() {
    let mut state = state(&[Some(3), Some(3), Some(4)], &[Some(4)]);
    let places = state.complete(0).settlement.runs;
    assert_eq!(state.forget(3, 5), 3);
    assert_eq!(state.forget(4, 2), 1);
    state.settled(&places);
    assert_eq!(state.forget(3, 5), 5);
}

#[test]
fn a_batch_that_was_written_again_behind_newer_runs_settles_only_itself() {
    let Settlement { runs, through } = state(&[Some(3), Some(4)], &[Some(5)]).complete(0).settlement;
    assert_eq!((runs, through), (BTreeMap::from([(3, 1), (4, 1)]), Some(SegmentPosition::start(4))));
    let Settlement { runs, through } = state(&[Some(9)], &[Some(5)]).complete(0).settlement;
    assert_eq!((runs, through), (BTreeMap::from([(9, 1)]), None));
}

#[test]
fn a_batch_is_ready_when_it_is_full_or_the_queue_drains_and_never_without_a_run() {
    let ready = |runs: usize, recent_spans, draining| {
        QueueState { recent_spans, draining, ..state(&[], &vec![None; runs]) }.is_ready()
    };
    assert!(!ready(1, BATCH_SPANS - 1, 0));
    assert!(ready(1, BATCH_SPANS, 0) && ready(1, BATCH_SPANS + 1, 0));
    assert!(ready(1, 1, 1) && !ready(0, 0, 1));
}
