//! A directory into which somebody put what he liked: nothing of it is followed, waited for or believed, all of it is
//! counted, and delivery goes on.

use std::{fs::File, os::unix::fs::symlink};

use nix::{sys::stat::Mode, unistd::mkfifo};
use proptest::sample::select;

use super::*;
use crate::delivery::queue::segment_files::{LARGEST, name_of};

/// What has a segment's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plant {
    /// Two runs in a whole group.
    Whole,
    Empty,
    Garbage,
    Link,
    Dangling,
    Fifo,
    Directory,
    /// Of a size that no memory holds, and next to nothing on disk.
    Sparse,
}

impl Plant {
    const ALL: [Self; 8] = [
        Self::Whole,
        Self::Empty,
        Self::Garbage,
        Self::Link,
        Self::Dangling,
        Self::Fifo,
        Self::Directory,
        Self::Sparse,
    ];

    /// Puts it there.
    fn make(self, path: &Path, victim: &Path) {
        match self {
            Self::Whole => {
                let runs = [run(1), run(2)];
                let group = segment::pack(runs.iter().map(AsRef::as_ref), SystemTime::UNIX_EPOCH).unwrap();
                fs::write(path, group).unwrap();
            }
            Self::Empty => fs::write(path, "").unwrap(),
            Self::Garbage => fs::write(path, "nothing that was ever packed").unwrap(),
            Self::Link => symlink(victim, path).unwrap(),
            Self::Dangling => symlink("nowhere", path).unwrap(),
            Self::Fifo => mkfifo(path, Mode::S_IRWXU).unwrap(),
            Self::Directory => fs::create_dir(path).unwrap(),
            Self::Sparse => File::create(path).unwrap().set_len(1 << 40).unwrap(),
        }
    }

    /// Runs that come out of it, or are counted.
    fn runs(self) -> u64 {
        if self == Self::Whole { 2 } else { 1 }
    }
}

/// A cursor with a checksum that is right.
fn cursor(segment: u64, offset: u64, index: u64) -> String {
    let text = format!("{segment} {offset} {index}");
    let mut sum = flate2::Crc::new();
    sum.update(text.as_bytes());
    format!("{text} {:08x}\n", sum.sum())
}

/// Takes up what is there, reads all of it and gives how many runs came and how many were counted as corrupt.
fn drain(directory: &Path) -> (u64, u64) {
    let mut spool = Spool::new(StateDir::open(directory).unwrap(), BUDGET);
    let mut from = spool.load().unwrap().unwrap_or_else(|| spool.end());
    let (mut came, mut corrupt) = (0, spool.damage.take().map_or(0, |(runs, _)| runs));
    while from < spool.end() {
        let back = spool.read(from, None, 1);
        assert!(back.failure.is_none(), "{:?}", back.failure);
        assert!(back.next > from, "it stands still at {from:?}");
        from = back.next;
        came += back.runs.len() as u64;
        corrupt += back.corrupt + back.gone.values().sum::<u64>();
        settle(&mut spool, &back);
    }
    assert_eq!(spool.figures().runs, 0);
    // Delivery goes on.
    let place = append(&mut spool, 7..8).places[0];
    let back = spool.read(place, None, ALL);
    assert_eq!(numbers(&back), [7]);
    settle(&mut spool, &back);
    spool.close();
    (came, corrupt)
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn files_with_the_name_of_a_segment_are_quarantined_and_counted() {
    for plant in Plant::ALL {
        let home = tempfile::tempdir().unwrap();
        let (state, victim) = (home.path().join("state"), home.path().join("victim"));
        fs::create_dir_all(state.join(QUEUE)).unwrap();
        fs::write(&victim, "another's").unwrap();
        Plant::Whole.make(&state.join(QUEUE).join(name_of(3)), &victim);
        plant.make(&state.join(QUEUE).join(name_of(4)), &victim);
        Plant::Whole.make(&state.join(QUEUE).join(name_of(5)), &victim);
        let expected = if plant == Plant::Whole { (6, 0) } else { (4, 1) };
        assert_eq!(drain(&state), expected, "{plant:?}");
        let aside = if plant == Plant::Whole { vec![] } else { vec![format!("{}.damaged", name_of(4))] };
        assert_eq!(names(&state.join("refused")), aside, "{plant:?}");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "another's");
    }
}

#[test]
fn numbers_that_no_segment_has_are_corrupt_and_those_that_follow_do_not_wrap() {
    let home = tempfile::tempdir().unwrap();
    let queue = home.path().join(QUEUE);
    fs::create_dir(&queue).unwrap();
    let names_of_none = [
        name_of(u64::MAX),
        name_of(u64::MAX - 1),
        name_of(LIMIT),
        format!("99999999999999999999{ENDING}"),
        format!("7{ENDING}"),
        format!("{:030}{ENDING}", 7),
        ENDING.to_owned(),
    ];
    for name in &names_of_none {
        Plant::Whole.make(&queue.join(name), home.path());
    }
    Plant::Whole.make(&queue.join(name_of(7)), home.path());
    assert_eq!(drain(home.path()), (2, 2 * names_of_none.len() as u64));
    assert!(names(&queue).iter().all(|name| !name.ends_with(ENDING)));
    // The last number that may be is read; behind it they begin anew once nothing is left.
    for number in [LIMIT - 1, LIMIT - 2] {
        Plant::Whole.make(&queue.join(name_of(number)), home.path());
        assert_eq!(drain(home.path()), (2, 0), "{number}");
    }
}

#[test]
fn segments_before_the_cursor_are_corrupt_and_an_invalid_cursor_costs_nothing() {
    // Where the cursor points, what comes, and what is counted of three segments of two runs.
    for (text, came, corrupt) in [
        (cursor(5, 0, 0), 3, 2),
        (cursor(6, 0, 1), 0, 4),
        (cursor(u64::MAX, 0, 0), 6, 0),
        (cursor(LIMIT, 0, 0), 6, 0),
        (cursor(LIMIT - 1, 0, 0), 6, 0),
        (cursor(4, u64::MAX, 0), 6, 0),
        (cursor(4, 1 << 20, 0), 6, 0),
        (cursor(4, 0, u64::MAX), 4, 0),
        ("99999999999999999999 0 0 00000000\n".to_owned(), 6, 0),
        ("5".repeat(1 << 20), 6, 0),
    ] {
        let home = tempfile::tempdir().unwrap();
        let queue = home.path().join(QUEUE);
        fs::create_dir(&queue).unwrap();
        for number in 4..=6 {
            Plant::Whole.make(&queue.join(name_of(number)), home.path());
        }
        fs::write(queue.join("cursor"), &text).unwrap();
        let shown: String = text.chars().take(60).collect();
        assert_eq!(drain(home.path()), (came, corrupt), "{shown}");
        assert_eq!(names(&home.path().join("refused")).len() as u64, corrupt / 2, "{shown}");
    }
}

#[test]
fn foreign_cursors_segments_and_directories_prevent_nothing() {
    for plant in [Plant::Link, Plant::Dangling, Plant::Fifo, Plant::Directory, Plant::Sparse] {
        for name in ["queue/cursor", "queue/cursor.new", "queue/segment.new", "queue", "refused"] {
            if plant == Plant::Directory && !name.contains('/') {
                continue;
            }
            let home = tempfile::tempdir().unwrap();
            let (state, victim) = (home.path().join("state"), home.path().join("victim"));
            fs::create_dir(&state).unwrap();
            fs::write(&victim, "another's").unwrap();
            if name.contains('/') {
                fs::create_dir(state.join(QUEUE)).unwrap();
            }
            plant.make(&state.join(name), &victim);
            assert_eq!(drain(&state), (0, 0), "{name} {plant:?}");
            let mut spool = Spool::new(StateDir::open(&state).unwrap(), BUDGET);
            spool.keep_dead_letters(&[run(1)], SystemTime::UNIX_EPOCH).unwrap();
            assert!(fs::symlink_metadata(state.join("refused")).unwrap().is_dir());
            assert_eq!(fs::read_to_string(&victim).unwrap(), "another's");
        }
    }
}

#[test]
fn a_file_one_byte_too_large_is_quarantined_unread() {
    let home = tempfile::tempdir().unwrap();
    let queue = home.path().join(QUEUE);
    fs::create_dir(&queue).unwrap();
    File::create(queue.join(name_of(1))).unwrap().set_len(LARGEST + 1).unwrap();
    assert_eq!(drain(home.path()), (0, 1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn planted_files_are_counted_or_read_and_followed_nowhere(
        plants in proptest::collection::btree_map(
            prop_oneof![4 => 1..12_u64, 1 => (LIMIT - 3)..(LIMIT + 3), 1 => (u64::MAX - 3)..=u64::MAX],
            select(&Plant::ALL[..]),
            0..8,
        ),
        at in proptest::option::of((any::<u64>(), any::<u64>(), 0..3_u64, any::<bool>())),
    ) {
        let home = tempfile::tempdir().unwrap();
        let (state, victim) = (home.path().join("state"), home.path().join("victim"));
        let queue = state.join(QUEUE);
        fs::create_dir_all(&queue).unwrap();
        fs::write(&victim, "another's").unwrap();
        for (number, plant) in &plants {
            plant.make(&queue.join(name_of(*number)), &victim);
        }
        let mut behind = 0;
        if let Some((segment, offset, index, near)) = at {
            let (segment, offset) = if near { (segment % 12, offset % 3) } else { (segment, offset) };
            fs::write(queue.join("cursor"), cursor(segment, offset, index)).unwrap();
            // What it says of the segment that it points into was delivered.
            behind = plants.get(&segment).map_or(0, |plant| plant.runs());
        }
        let (came, corrupt) = drain(&state);
        let all: u64 = plants.values().map(|plant| plant.runs()).sum();
        prop_assert!(came + corrupt <= all + 1, "{} and {} of {}", came, corrupt, all);
        prop_assert!(came + corrupt + behind >= all, "{} and {} of {}", came, corrupt, all);
        prop_assert_eq!(fs::read_to_string(&victim).unwrap(), "another's");
        prop_assert_eq!(names(&queue).iter().filter(|name| name.ends_with(ENDING)).count(), 0);
    }
}
