//! A disk that is full, and of which a part is free again: what fits is written, the oldest first.
//!
//! The disk is a small tmpfs in a mount namespace of the test's own, for which it must be root.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use imaptrace::{
    clock,
    delivery::{Delivery, DeliverySettings, Lines, Protocol, Signal, Status},
    state::StateDir,
    telemetry::{MetricsSettings, ResourceSettings},
};
use imaptrace_record::{Run, SpanId, TraceId};
use nix::sys::statvfs::statvfs;

use crate::support::{
    otlp::{ClosedPort, passed_run},
    small_disk::with_small_disk,
};

/// Many times as long as anything here takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// Of the disk.
const SIZE: u64 = 512 << 10;
/// A third of what all runs take.
const ROOM: u64 = 48 << 10;
/// Less than any two groups take.
const LITTLE: u64 = 8 << 10;

fn wait_for(delivery: &Delivery, what: &str, enough: impl Fn(&Status) -> bool) -> Status {
    let begun = clock::now();
    loop {
        let status = delivery.status();
        if enough(&status) {
            return status;
        }
        assert!(clock::now() - begun < PATIENCE, "{what}: {status:?}");
        thread::sleep(Duration::from_millis(50));
    }
}

fn free(disk: &Path) -> u64 {
    let found = statvfs(disk).unwrap();
    found.blocks_available() * found.fragment_size()
}

/// The runs in the segments, in order.
fn stored(state: &Path) -> Vec<TraceId> {
    let files = fs::read_dir(state.join("queue")).unwrap().map(|entry| entry.unwrap().path());
    let segments: BTreeSet<PathBuf> = files.filter(|path| path.to_string_lossy().ends_with(".jsonl.gz")).collect();
    let runs = segments.iter().flat_map(|path| Lines::new(File::open(path).unwrap()).unwrap());
    // What is being written just now is no run yet.
    runs.flatten().map(|run| run.trace_id).collect()
}

#[test]
fn of_what_waits_for_a_full_disk_as_much_is_written_as_fits_the_oldest_first() {
    with_small_disk(&SIZE.to_string(), |disk| {
        let (state, ballast) = (disk.join("state"), disk.join("ballast"));
        let settings = DeliverySettings {
            traces: Some(Signal::new(&ClosedPort::take().url(), Protocol::Grpc)),
            state: Some(StateDir::open(&state).unwrap()),
            ..DeliverySettings::default()
        };
        fs::write(&ballast, vec![0; usize::try_from(free(disk) - ROOM).unwrap()]).unwrap();
        let runs: Vec<_> =
            std::iter::repeat_with(|| Run { trace_id: TraceId::random(), span_id: SpanId::random(), ..passed_run() })
                .take(2_000)
                .collect();
        let ids: Vec<_> = runs.iter().map(|run| run.trace_id).collect();
        let delivery = Delivery::start(&settings, &ResourceSettings::default(), &MetricsSettings::default()).unwrap();
        for run in runs {
            delivery.deliver(run);
        }

        let full = |status: &Status| status.disk_failure.is_some();
        let settled =
            |status: &Status| free(disk) < LITTLE && status.stored_runs.unwrap() == stored(&state).len() as u64;
        wait_for(&delivery, "the disk is full", |status| full(status) && settled(status));
        let first = stored(&state);
        assert!(first.len() > 20, "{} fitted", first.len());
        assert_eq!(first, ids[..first.len()], "the oldest, in order");

        let shorter = File::options().write(true).open(&ballast).unwrap();
        shorter.set_len(shorter.metadata().unwrap().len() - ROOM).unwrap();
        let counted = wait_for(&delivery, "what fits is written", settled);
        let more = stored(&state);
        assert!(more.len() > first.len() * 3 / 2 && more.len() < ids.len(), "{} and then {}", first.len(), more.len());
        assert_eq!(more, ids[..more.len()], "the oldest, in order");
        assert_eq!((counted.queued_runs, counted.dropped_runs.total()), (2_000, 0));

        drop(shorter);
        fs::remove_file(&ballast).unwrap();
        wait_for(&delivery, "all is written", |status| status.stored_runs.unwrap() == 2_000 && !full(status));
        assert_eq!(stored(&state), ids);
    });
}
