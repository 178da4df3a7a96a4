//! The body of the fuzz target `segments`: whatever the files of the queue hold, they are read to the end, and whole members
//! come back.
//!
//! Called by `fuzz/` with made-up input, and by the tests below with the corpus and proptest; in no other build. An input is a
//! script that composes files (see [`Files::act`]), since random bytes have no valid checksum.

use std::{
    cell::OnceCell,
    collections::BTreeMap,
    fs,
    io::{self, Read, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::{Duration, UNIX_EPOCH},
};

use imaptrace_record::Run;
use tempfile::TempDir;

use super::{
    lines::{BadLine, Lines},
    segment,
    spool::{SegmentPosition, Spool},
};
use crate::state::StateDir;

/// As the agent's queue, small.
const BUDGET: u64 = 1 << 20;
/// Groups that are whole and known.
const GROUPS: usize = 4;

/// A script.
pub fn segments(input: &[u8]) {
    let mut files = Files::default();
    let mut rest = input;
    while let Some((what, behind)) = rest.split_first() {
        rest = files.act(*what, behind);
    }
    replay(&files);
    in_directory(|directory| spool(directory, &files));
}

#[derive(Default)]
struct Files {
    segments: Vec<Vec<u8>>,
    /// What of the known groups is whole, in order.
    whole: Vec<Arc<Run>>,
    cursor: Option<Vec<u8>>,
}

impl Files {
    /// Adds to the files what `what` stands for: a group that is whole, damaged or another's, a new file, the cursor.
    /// Gives what it has not used.
    fn act<'a>(&mut self, what: u8, rest: &'a [u8]) -> &'a [u8] {
        if self.segments.is_empty() {
            self.segments.push(Vec::new());
        }
        let Some(segment) = self.segments.last_mut() else { return &[] };
        let number = usize::from(what >> 4) % GROUPS;
        let (group, runs) = &groups()[number];
        // Where something is done to it.
        let place = |rest: &[u8]| {
            let at = [0, 1].map(|at| usize::from(rest.get(at).copied().unwrap_or_default()));
            (at[0] << 8 | at[1]) % group.len()
        };
        let text = |rest: &'a [u8]| {
            let length = usize::from(rest.first().copied().unwrap_or_default()).min(rest.len().saturating_sub(1));
            rest.get(1..).unwrap_or_default().split_at(length)
        };
        match what & 0x0f {
            0..=3 => {
                segment.extend_from_slice(group);
                self.whole.extend(runs.iter().cloned());
                rest
            }
            4 => {
                let (mut damaged, at) = (group.clone(), place(rest));
                if let Some(byte) = damaged.get_mut(at) {
                    *byte ^= 1 << (what >> 5);
                }
                segment.extend_from_slice(&damaged);
                // Not all of a header is under a checksum: it may be whole all the same.
                self.may_be(number, &damaged);
                rest.get(2..).unwrap_or_default()
            }
            5 => {
                segment.extend_from_slice(group.get(..place(rest)).unwrap_or_default());
                rest.get(2..).unwrap_or_default()
            }
            6 => {
                let (text, rest) = text(rest);
                segment.extend_from_slice(&packed(text, None));
                rest
            }
            7 => {
                let (text, rest) = text(rest);
                segment.extend_from_slice(&packed(text, Some(what)));
                rest
            }
            8 => {
                let (text, rest) = text(rest);
                segment.extend_from_slice(text);
                rest
            }
            9 => {
                // What is small and unpacks to much.
                let byte = rest.first().copied().unwrap_or(b'\n');
                segment.extend_from_slice(&packed(&vec![byte; 1 << (10 + (what >> 4) / 2)], None));
                rest.get(1..).unwrap_or_default()
            }
            10 if self.segments.len() < 4 => {
                self.segments.push(Vec::new());
                rest
            }
            11 => {
                let (text, rest) = text(rest);
                self.cursor = Some(text.to_vec());
                rest
            }
            _ => rest,
        }
    }

    fn may_be(&mut self, number: usize, damaged: &[u8]) {
        if segment::part(damaged, 0).is_some_and(|part| part.text.is_some() && part.next == damaged.len()) {
            self.whole.extend(groups()[number].1.iter().cloned());
        }
    }
}

/// A group's bytes and runs.
type Group = (Vec<u8>, Vec<Arc<Run>>);

/// The groups that are known.
fn groups() -> &'static [Group; GROUPS] {
    static KNOWN: OnceLock<[Group; GROUPS]> = OnceLock::new();
    KNOWN.get_or_init(|| {
        std::array::from_fn(|number| {
            let sample = imaptrace_testkit::PASSED_RUN;
            let Ok(run) = serde_json::from_str::<Run>(sample) else { panic!("the sample is no run") };
            let named = |index| Arc::new(Run { target: format!("{number}.{index}"), ..run.clone() });
            let runs: Vec<_> = (0..=number).map(named).collect();
            let now = UNIX_EPOCH + Duration::from_secs(1_795_434_160);
            let Ok(group) = segment::pack(runs.iter().map(AsRef::as_ref), now) else { panic!("it cannot be packed") };
            (group, runs)
        })
    })
}

/// A gzip member of any text; with a header as ours, which tells of so many runs.
fn packed(text: &[u8], runs: Option<u8>) -> Vec<u8> {
    let mut gzip = flate2::GzBuilder::new();
    if runs.is_some() {
        gzip = gzip.extra([&b"iT\x0c\0"[..], &[0; 12]].concat());
    }
    let mut gzip = gzip.write(Vec::new(), flate2::Compression::fast());
    let done = gzip.write_all(text).and_then(|()| gzip.finish());
    let Ok(mut member) = done else { panic!("memory takes all") };
    let length = u32::try_from(member.len()).unwrap_or_default();
    if let (Some(runs), Some(place)) = (runs, member.get_mut(16..24)) {
        place.copy_from_slice(&[length.to_le_bytes(), u32::from(runs >> 4).to_le_bytes()].concat());
    }
    member
}

/// As `imaptrace replay` reads a file: the same however its bytes come.
fn replay(files: &Files) {
    let all = files.segments.concat();
    let read = |most: usize| -> Vec<Result<Run, BadLine>> {
        let Ok(lines) = Lines::new(Slow { bytes: all.clone(), at: 0, most }) else { return Vec::new() };
        lines.collect()
    };
    let whole = read(usize::MAX);
    assert!(read(1 + all.len() % 7) == whole, "it is read otherwise when it comes in pieces");
    // What begins as a record does is read as lines, whatever comes then; and one header at least tells whose file it is.
    let ours = (0..all.len()).any(|at| all.get(at..).is_some_and(|rest| segment::head(rest).is_some()));
    if ours && !all.starts_with(b"{") {
        holds(&files.whole, whole.iter().filter_map(|line| line.as_ref().ok()));
    }
}

/// Gives a few bytes at a time.
struct Slow {
    bytes: Vec<u8>,
    at: usize,
    most: usize,
}

impl Read for Slow {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let size = rest.len().min(self.most).min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..size), rest.get(..size)) {
            to.copy_from_slice(from);
        }
        self.at += size;
        Ok(size)
    }
}

/// As an agent takes up what another has left.
fn spool(directory: &Path, files: &Files) {
    let queue = directory.join("queue");
    let _ = fs::remove_dir_all(directory);
    assert!(fs::create_dir_all(&queue).is_ok());
    for (number, segment) in (1..).zip(&files.segments) {
        assert!(fs::write(queue.join(format!("{number:020}.jsonl.gz")), segment).is_ok());
    }
    if let Some(cursor) = &files.cursor {
        assert!(fs::write(queue.join("cursor"), cursor).is_ok());
    }
    let Ok(state) = StateDir::open(directory) else { panic!("the directory is held") };
    let mut spool = Spool::new(state, BUDGET);
    let Ok(begin) = spool.load() else { panic!("it cannot be looked at") };
    let (mut found, mut next) = (Vec::new(), begin.unwrap_or_else(|| SegmentPosition::start(1)));
    // A step of the walk takes a byte at least, or ends a segment.
    let most = files.segments.iter().map(|segment| segment.len() + 2).sum::<usize>() + 2;
    let mut steps = 0;
    while next < spool.end() {
        let back = spool.read(next, None, 1);
        assert!(back.failure.is_none(), "{:?}", back.failure);
        assert!(back.next > next, "it stands still");
        next = back.next;
        steps += 1;
        assert!(steps <= most, "it goes on and on");
        let mut places = BTreeMap::new();
        back.runs.iter().for_each(|(place, _)| *places.entry(place.segment).or_default() += 1);
        let through = back.runs.last().map(|(place, _)| *place);
        found.extend(back.runs.into_iter().map(|(_, run)| run));
        spool.settle(&places, through);
    }
    assert_eq!(spool.figures().runs, 0, "runs are left behind the end");
    spool.close();
    if files.cursor.is_none() {
        holds(&files.whole, found.iter());
    }
}

/// Whether all of these are among what was found, in order.
fn holds<'a>(expected: &[Arc<Run>], mut found: impl Iterator<Item = &'a Run>) {
    for run in expected {
        assert!(found.any(|found| found == &**run), "the run {} is whole and does not come back", run.target);
    }
}

/// A directory of this thread's, in memory where the system has such.
fn in_directory(what: impl FnOnce(&Path)) {
    thread_local!(static DIRECTORY: OnceCell<TempDir> = const { OnceCell::new() });
    let memory = PathBuf::from("/dev/shm");
    let make = || {
        let made = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
        made.unwrap_or_else(|error| panic!("no directory: {error}"))
    };
    DIRECTORY.with(|directory| what(&directory.get_or_init(make).path().join("state")));
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn scripts() -> impl Strategy<Value = Vec<u8>> {
        let what = prop_oneof![
            4 => any::<u8>().prop_map(|what| vec![what & 0xf3]),
            2 => (any::<u8>(), any::<[u8; 2]>()).prop_map(|(what, at)| vec![what & 0xf0 | 4, at[0] & 7, at[1]]),
            2 => (any::<u8>(), any::<[u8; 2]>()).prop_map(|(what, at)| vec![what & 0xf0 | 5, at[0] & 7, at[1]]),
            2 => (6..=8_u8, vec(any::<u8>(), 0..40)).prop_map(|(what, text)| {
                [vec![what, u8::try_from(text.len()).unwrap_or_default()], text].concat()
            }),
            1 => Just(vec![10]),
            1 => (0..12_u8).prop_map(|more| vec![more << 4 | 9, b'\n']),
        ];
        vec(what, 0..8).prop_map(|script| script.concat())
    }

    #[test]
    fn what_was_found_by_fuzzing_holds() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/segments");
        let files: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(files.len() > 3, "{} holds next to nothing", directory.display());
        for path in files {
            segments(&fs::read(path).unwrap());
        }
    }

    #[test]
    #[should_panic(expected = "does not come back")]
    fn a_missing_run_is_detected() {
        let known = &groups()[2].1;
        holds(known, [&*known[0], &*known[2]].into_iter());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn whatever_the_files_hold_what_is_whole_comes_back(script in scripts()) {
            segments(&script);
        }
    }
}
