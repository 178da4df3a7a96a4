//! What only root can make of a host: a disk that is full or turns read-only, and a file that is somebody else's.

use std::{
    fs::{self, File, Permissions},
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::Duration,
};

use imaptrace::{
    delivery::{Delivery, DeliverySettings, Protocol, Signal, Status},
    secret::SecretSource,
    state::StateDir,
    telemetry::{MetricsSettings, ResourceSettings},
};
use imaptrace_record::{Run, SpanId, TraceId};

use crate::support::{
    otlp::{ClosedPort, block_on, passed_run},
    program::wait_until,
    small_disk::{command, with_small_disk},
};

const LONG: Duration = Duration::from_secs(20);

/// Delivery to where nobody listens, which keeps what waits in the directory.
fn delivery(port: &ClosedPort, directory: &Path) -> Delivery {
    let settings = DeliverySettings {
        traces: Some(Signal::new(&port.url(), Protocol::Grpc)),
        state: Some(StateDir::open(directory).unwrap()),
        ..DeliverySettings::default()
    };
    Delivery::start(&settings, &ResourceSettings::default(), &MetricsSettings::default()).unwrap()
}

fn deliver(delivery: &Delivery, count: usize) {
    for _ in 0..count {
        delivery.deliver(Run { trace_id: TraceId::random(), span_id: SpanId::random(), ..passed_run() });
    }
}

fn wait_for(delivery: &Delivery, what: &str, enough: impl Fn(&Status) -> bool) -> Status {
    wait_until(what, || Some(delivery.status()).filter(&enough))
}

/// Nothing can be written, which costs nothing but safety; and it is made good when it can be.
fn bears(delivery: Delivery, says: &str, mend: impl FnOnce()) {
    deliver(&delivery, 50);
    let status = wait_for(&delivery, "the disk's failure is told", |status| status.disk_failure.is_some());
    assert!(status.disk_failure.as_ref().unwrap().contains(says), "{status:?}");
    assert_eq!(
        (status.queued_runs, status.stored_runs.unwrap(), status.dropped_runs.total()),
        (50, 0, 0),
        "{status:?}"
    );
    mend();
    let mended = |status: &Status| status.stored_runs.unwrap() == 50 && status.disk_failure.is_none();
    wait_for(&delivery, "they are on disk after all", mended);
    let report = block_on(delivery.shutdown(LONG));
    assert_eq!((report.stored_runs, report.undelivered_runs, report.dropped.total()), (50, 0, 0), "{report}");
}

#[test]
fn a_full_disk_loses_nothing_that_memory_holds_and_is_used_again_when_there_is_room() {
    with_small_disk("256k", |directory| {
        let port = ClosedPort::take();
        let delivery = delivery(&port, directory);
        let filler = directory.join("filler");
        let mut file = File::create(&filler).unwrap();
        while file.write_all(&[0; 512]).is_ok() {}
        drop(file);
        bears(delivery, "No space left on device", || fs::remove_file(&filler).unwrap());
        let left: Vec<_> =
            fs::read_dir(directory.join("queue")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        let segments = left.iter().filter(|name| name.to_string_lossy().ends_with(".jsonl.gz"));
        assert_eq!(segments.count(), 1, "what could not be written whole is not left behind: {left:?}");
    });
}

#[test]
fn a_disk_that_turns_read_only_loses_nothing_and_is_used_again_when_it_can_be_written_to() {
    with_small_disk("256k", |directory| {
        let port = ClosedPort::take();
        let delivery = delivery(&port, directory);
        command(&format!("mount -o remount,ro {}", directory.display()));
        bears(delivery, "Read-only file system", || command(&format!("mount -o remount,rw {}", directory.display())));
    });
}

#[test]
fn a_password_in_somebody_elses_file_is_not_taken() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("password");
    fs::write(&path, "planted").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::chown(&path, Some(65_534), None)
        .unwrap_or_else(|error| panic!("this test needs root, to give a file away: {error}"));
    for insecure_mode in [false, true] {
        let source = SecretSource::File { path: path.clone(), insecure_mode };
        let (checked, loaded) = (source.check(), block_on(source.load()));
        if insecure_mode {
            assert!(checked.is_ok() && loaded.is_ok(), "the operator said so");
            continue;
        }
        for error in [checked.unwrap_err(), loaded.unwrap_err()] {
            let error = error.to_string();
            assert!(error.contains("belongs to user 65534") && !error.contains("planted"), "{error}");
        }
    }
}
