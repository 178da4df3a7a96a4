use std::{fs, io::Write as _, path::Path};

use proptest::prelude::*;

use super::*;
use crate::delivery::queue::{
    segment::HEAD,
    segment_files::{ENDING, QUEUE},
};

mod planted;

/// Segments of some three groups, and room for thirty.
const BUDGET: u64 = 64 << 10;
const ALL: usize = usize::MAX;

fn run(number: u64) -> Arc<Run> {
    let passed = imaptrace_testkit::PASSED_RUN;
    Arc::new(Run { target: number.to_string(), ..serde_json::from_str(passed).unwrap() })
}

fn numbers(back: &ReadBack) -> Vec<u64> {
    back.runs.iter().map(|(_, run)| run.target.parse().unwrap()).collect()
}

fn open(directory: &Path) -> (Spool, SegmentPosition) {
    let mut spool = Spool::new(StateDir::open(directory).unwrap(), BUDGET);
    let from = spool.load().unwrap().unwrap_or_else(|| spool.end());
    (spool, from)
}

fn append(spool: &mut Spool, numbers: std::ops::Range<u64>) -> Written {
    let written = spool.append(&numbers.map(run).collect::<Vec<_>>(), SystemTime::UNIX_EPOCH);
    assert!(written.failure.is_none(), "{written:?}");
    written
}

/// Notes all that was read as delivered.
fn settle(spool: &mut Spool, back: &ReadBack) {
    let mut places = BTreeMap::new();
    back.runs.iter().for_each(|(place, _)| *places.entry(place.segment).or_default() += 1);
    spool.settle(&places, back.runs.last().map(|(place, _)| *place));
}

fn segments(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory.join(QUEUE)).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = entries.filter(|path| path.to_string_lossy().ends_with(ENDING)).collect();
    paths.sort();
    paths
}

#[test]
fn a_segment_is_what_zcat_shows_one_json_line_a_run() {
    let directory = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(directory.path());
    append(&mut spool, 0..2);
    append(&mut spool, 2..3);
    let [segment] = segments(directory.path()).try_into().unwrap();
    let mut text = String::new();
    let file = File::open(&segment).unwrap();
    io::Read::read_to_string(&mut flate2::read::MultiGzDecoder::new(file), &mut text).unwrap();
    let targets: Vec<_> = text.lines().map(|line| serde_json::from_str::<Run>(line).unwrap().target).collect();
    assert_eq!(targets, ["0", "1", "2"]);
}

#[test]
fn a_restart_continues_after_delivered_runs_and_repeats_them_without_the_cursor() {
    for lost in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let (mut spool, from) = open(directory.path());
        append(&mut spool, 0..5);
        append(&mut spool, 5..9);
        let until = Some(SegmentPosition { index: 2, ..from });
        let first = spool.read(from, until, ALL);
        assert_eq!(numbers(&first), [0, 1]);
        settle(&mut spool, &first);
        assert_eq!(spool.figures().runs, 7);
        let mode = fs::metadata(directory.path().join("queue/cursor")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(spool);
        if lost {
            fs::write(directory.path().join("queue/cursor"), "1 0 8 00000000\n").unwrap();
        }
        let (mut spool, from) = open(directory.path());
        let expected: Vec<u64> = if lost { (0..9).collect() } else { (2..9).collect() };
        assert_eq!(spool.figures().runs, expected.len() as u64);
        let all = spool.read(from, None, ALL);
        assert_eq!((numbers(&all), all.corrupt), (expected, 0));
        settle(&mut spool, &all);
        spool.close();
        assert_eq!(segments(directory.path()), [""; 0].map(PathBuf::from));
    }
}

#[test]
fn a_line_of_a_newer_version_is_left_out_and_its_segment_is_a_dead_letter() {
    let directory = tempfile::tempdir().unwrap();
    let (mut spool, from) = open(directory.path());
    let newer = Arc::new(Run { schema: 2, ..(*run(7)).clone() });
    assert!(spool.append(&[run(1), newer, run(2)], SystemTime::UNIX_EPOCH).failure.is_none());
    let back = spool.read(from, None, ALL);
    assert_eq!((numbers(&back), back.corrupt), (vec![1, 2], 1));
    let text = back.damage.clone().unwrap();
    assert!(text.contains("a newer imaptrace wrote this run: its schema is 2"), "{text}");
    settle(&mut spool, &back);
    spool.close();
    let aside: Vec<_> =
        fs::read_dir(directory.path().join("refused")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(aside.len(), 1);
    assert!(aside[0].to_string_lossy().ends_with(".jsonl.gz.damaged"), "{aside:?}");
}

#[test]
fn a_missing_segment_costs_only_its_own_runs() {
    let directory = tempfile::tempdir().unwrap();
    let (mut spool, from) = open(directory.path());
    let mut numbers_in = Vec::new();
    while segments(directory.path()).len() < 4 {
        let next = numbers_in.len() as u64;
        append(&mut spool, next..next + 4);
        let segment = segments(directory.path()).len();
        numbers_in.extend([segment; 4]);
    }
    let [_, second, third, _] = segments(directory.path()).try_into().unwrap();
    fs::remove_file(second).unwrap();
    fs::write(third, "").unwrap();
    let back = spool.read(from, None, ALL);
    let kept = numbers_in.iter().zip(0..).filter(|(segment, _)| [1, 4].contains(*segment)).map(|(_, number)| number);
    assert_eq!(numbers(&back), kept.collect::<Vec<u64>>());
    assert_eq!(back.gone.values().sum::<u64>(), numbers_in.len() as u64 - back.runs.len() as u64);
    settle(&mut spool, &back);
    assert_eq!(spool.figures().runs, 0);
    // One that is deleted under the writer is not written to any more.
    fs::remove_file(segments(directory.path()).pop().unwrap()).unwrap();
    let from = append(&mut spool, 900..901).places[0];
    assert_eq!(numbers(&spool.read(from, None, ALL)), [900]);
}

#[test]
fn a_segment_that_cannot_be_read_now_stays_and_is_read_when_it_can_be() {
    for restarted in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let (mut spool, mut from) = open(directory.path());
        append(&mut spool, 0..3);
        let [segment] = segments(directory.path()).try_into().unwrap();
        let all = numbers(&spool.read(from, None, ALL));
        assert_eq!(all, [0, 1, 2]);
        if restarted {
            drop(spool);
            spool = Spool::new(StateDir::open(directory.path()).unwrap(), BUDGET);
            spool.fail_reads(Some(io::ErrorKind::PermissionDenied));
            from = spool.load().unwrap().unwrap();
        }
        spool.fail_reads(Some(io::ErrorKind::PermissionDenied));
        for _ in 0..3 {
            let back = spool.read(from, None, ALL);
            assert_eq!((numbers(&back), back.corrupt, back.gone.len(), back.next), (vec![], 0, 0, from));
            let text = back.failure.unwrap().to_string();
            assert!(text.starts_with(&segment.display().to_string()), "{text}");
        }
        spool.fail_reads(None);
        let back = spool.read(from, None, ALL);
        assert_eq!((numbers(&back), spool.figures().runs), (all, 3));
    }
}

#[test]
fn a_flipped_bit_costs_at_most_the_runs_of_its_group() {
    let directory = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(directory.path());
    let groups: Vec<_> = (0..4).map(|group| group * 3..group * 3 + 3).collect();
    for group in &groups {
        append(&mut spool, group.clone());
    }
    drop(spool);
    let [segment] = segments(directory.path()).try_into().unwrap();
    let whole = fs::read(&segment).unwrap();
    for at in (0..whole.len()).step_by(37).chain(0..HEAD) {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        fs::write(&segment, damaged).unwrap();
        let (mut spool, from) = open(directory.path());
        let back = spool.read(from, None, ALL);
        let got = numbers(&back);
        assert!(got.is_sorted());
        let missing: Vec<u64> = (0..12).filter(|number| !got.contains(number)).collect();
        let group = missing.first().map_or(0, |first| first / 3);
        assert!(missing.iter().all(|number| number / 3 == group), "{at}: {missing:?}");
        assert_eq!(back.corrupt > 0, !missing.is_empty(), "{at}");
    }
}

#[test]
fn a_header_that_leads_over_whole_groups_costs_none_of_them() {
    let directory = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(directory.path());
    // Alike, so that they are of one length.
    for _ in 0..4 {
        append(&mut spool, 0..1);
    }
    drop(spool);
    let [segment] = segments(directory.path()).try_into().unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    let length = segment::head(&bytes).unwrap().length;
    let first = usize::try_from(length).unwrap();
    // The second is damaged, and its header leads to where the fourth begins.
    bytes[first + 16..first + 20].copy_from_slice(&u32::try_from(2 * length).unwrap().to_le_bytes());
    bytes[first + first / 2] ^= 0xff;
    fs::write(&segment, bytes).unwrap();
    let (mut spool, mut from) = open(directory.path());
    let mut got = Vec::new();
    while from < spool.end() {
        let back = spool.read(from, None, 1);
        settle(&mut spool, &back);
        got.extend(numbers(&back));
        from = back.next;
    }
    assert_eq!(got, [0, 0, 0]);
}

#[test]
fn a_member_of_millions_of_lines_counts_as_one_damaged_run() {
    let directory = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(directory.path());
    append(&mut spool, 0..1);
    append(&mut spool, 1..2);
    drop(spool);
    let [segment] = segments(directory.path()).try_into().unwrap();
    let whole = fs::read(&segment).unwrap();
    let first = usize::try_from(segment::head(&whole).unwrap().length).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&vec![b'\n'; 4 << 20]).unwrap();
    let bomb = gzip.finish().unwrap();
    fs::write(&segment, [&whole[..first], &bomb, &whole[first..]].concat()).unwrap();
    let (mut spool, from) = open(directory.path());
    assert_eq!(spool.figures().runs, 3);
    let back = spool.read(from, None, ALL);
    assert_eq!((numbers(&back), back.corrupt), (vec![0, 1], 1));
    assert!(back.damage.unwrap().contains("no group of runs"));
    assert_eq!(spool.figures().runs, 2);
}

#[derive(Debug, Clone)]
enum Step {
    /// A group of so many runs is written.
    Write(u64),
    /// So many spans are read and delivered.
    Deliver(usize),
    /// So many spans are read, and the process is killed before they are delivered, with so many bytes of the next group
    /// written, with or without its cursor.
    Crash { read: usize, torn: usize, cursor: bool },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..6_u64).prop_map(Step::Write),
        3 => (1..60_usize).prop_map(Step::Deliver),
        2 => (0..60_usize, 0..2500_usize, any::<bool>())
            .prop_map(|(read, torn, cursor)| Step::Crash { read, torn, cursor }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn whatever_is_written_delivered_and_cut_off_every_run_comes_back_in_order(
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let (mut spool, mut from) = open(directory.path());
        // What is on disk and not delivered, and what may come again since nothing says that it was.
        let (mut waiting, mut again) = (VecDeque::new(), VecDeque::new());
        let mut next = 0;
        for step in steps.into_iter().chain([Step::Crash { read: 0, torn: 0, cursor: true }, Step::Deliver(ALL)]) {
            match step {
                Step::Write(count) => {
                    let written = append(&mut spool, next..next + count);
                    waiting.extend(next..next + count);
                    next += count;
                    for (segment, left) in written.dropped {
                        // What may come again counts as well: it is on disk and nothing says that it was delivered.
                        for _ in 0..left {
                            again.pop_front().or_else(|| waiting.pop_front());
                        }
                        if from.segment == segment {
                            from = SegmentPosition::start(segment + 1);
                        }
                    }
                }
                Step::Deliver(spans) => {
                    let back = spool.read(from, None, spans);
                    for number in numbers(&back) {
                        let expected = again.pop_front().or_else(|| waiting.pop_front());
                        prop_assert_eq!(Some(number), expected);
                    }
                    settle(&mut spool, &back);
                    from = back.next;
                }
                Step::Crash { read, torn, cursor } => {
                    drop(spool.read(from, None, read));
                    drop(spool);
                    if !cursor {
                        drop(fs::remove_file(directory.path().join("queue/cursor")));
                        // All of the oldest segment that is left comes again.
                        let oldest = segments(directory.path()).into_iter().next();
                        let content = oldest.map(|oldest| fs::read(oldest).unwrap()).unwrap_or_default();
                        if let Some(text) = segment::part(&content, 0).and_then(|part| part.text) {
                            let first = segment::line(segment::lines(&text).next().unwrap()).unwrap();
                            let first: u64 = first.target.parse().unwrap();
                            let until = waiting.front().copied().unwrap_or(next);
                            again = (first..until).collect();
                        }
                    }
                    if let Some(newest) = segments(directory.path()).pop() {
                        let group: Vec<_> = (next..next + 3).map(run).collect();
                        let group = segment::pack(group.iter().map(AsRef::as_ref), SystemTime::UNIX_EPOCH).unwrap();
                        let torn = &group[..torn.min(group.len() - 1)];
                        let whole = [&fs::read(&newest).unwrap()[..], torn].concat();
                        fs::write(&newest, whole).unwrap();
                    }
                    (spool, from) = open(directory.path());
                }
            }
            let sorted: Vec<_> = segments(directory.path());
            let size: u64 = sorted.iter().map(|path| fs::metadata(path).unwrap().len()).sum();
            prop_assert!(size <= BUDGET + 2500, "{} bytes", size);
        }
        prop_assert_eq!((waiting, again), (VecDeque::new(), VecDeque::new()));
    }
}
