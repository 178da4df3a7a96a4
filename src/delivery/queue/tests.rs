use std::path::Path;

use imaptrace_record::Step;
use opentelemetry_sdk::metrics::{
    InMemoryMetricExporter, SdkMeterProvider,
    data::{AggregatedMetrics, MetricData, ScopeMetrics},
};

use super::*;
use crate::{
    delivery::Dropped,
    telemetry::{
        names::{self, Metric},
        spans,
    },
};

mod held;
mod property;

/// Longer than anything that is waited for here; the clock is paused.
const YEAR: Duration = Duration::from_secs(365 * 86_400);

fn passed() -> Run {
    serde_json::from_str(imaptrace_testkit::PASSED_RUN).unwrap()
}

fn named(number: impl std::fmt::Display) -> Run {
    Run { target: number.to_string(), ..passed() }
}

fn metrics() -> Metrics {
    Metrics::off()
}

fn queue(budget: usize) -> Queue {
    Queue::new(budget, None, true, metrics())
}

/// One with a backlog in this directory, and its writer.
fn stored(directory: &Path, memory: usize, disk: u64) -> Queue {
    let queue = Queue::new(memory, Some((StateDir::open(directory).unwrap(), disk)), true, metrics());
    queue.write_and_log(&mut queue.spool().unwrap()).unwrap();
    tokio::spawn(writer::run(queue.clone()));
    queue
}

fn targets(runs: &[Arc<Run>]) -> Vec<String> {
    runs.iter().map(|run| run.target.clone()).collect()
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

/// Takes batches off until so many runs have come.
async fn take(queue: &Queue, count: usize) -> Vec<String> {
    let mut taken = Vec::new();
    while taken.len() < count {
        taken.extend(targets(&queue.batch().await));
        queue.delivered(0).await;
    }
    taken
}

fn disk_failure(state: &QueueState) -> Option<String> {
    state.disk_failure.clone()
}

/// Lets the writer write what is here.
async fn written(queue: &Queue) {
    let mut watch = queue.0.state.subscribe();
    drop(timeout(YEAR, watch.wait_for(|state| state.unwritten == 0)).await.unwrap().unwrap());
}

fn files(directory: &Path) -> usize {
    let entries = std::fs::read_dir(directory.join("queue")).unwrap();
    entries.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().ends_with(".gz")).count()
}

/// The dead letters, as replay reads them; all are in one segment.
fn dead_letters(directory: &Path) -> Vec<String> {
    let aside: Vec<_> = std::fs::read_dir(directory.join("refused")).unwrap().map(Result::unwrap).collect();
    let [segment] = &aside[..] else { panic!("{aside:?}") };
    let runs = Lines::new(std::fs::File::open(segment.path()).unwrap()).unwrap();
    runs.map(|run| run.unwrap().target).collect()
}

#[test]
fn the_load_of_a_run_is_that_of_its_spans_and_of_what_it_holds() {
    let run = passed();
    let load = Load::of(&run);
    assert_eq!(load.spans, spans(&run).len());
    let steps = run.steps.len() * size_of::<Step>();
    assert!((steps..2 * steps).contains(&load.bytes), "{} for {steps}", load.bytes);
    let longer = Run { target: "x".repeat(run.target.len() + 1_000), ..run };
    assert_eq!(Load::of(&longer).bytes, load.bytes + 1_000);
}

#[tokio::test(start_paused = true)]
async fn a_batch_holds_512_spans_in_order_of_arrival() {
    let queue = queue(usize::MAX);
    for number in 0..60 {
        queue.push(named(number));
    }
    let first = queue.batch().await;
    assert_eq!(first.len(), 512 / 9);
    queue.delivered(0).await;
    let second = queue.batch().await;
    assert_eq!(second.len(), 60 - 512 / 9);
    assert_eq!(targets(&[first, second].concat()), numbers(0..60));
}

#[tokio::test(start_paused = true)]
async fn over_the_budget_the_oldest_waiting_runs_are_dropped_and_none_in_flight() {
    let queue = queue(3 * Load::of(&passed()).bytes);
    queue.push(named("mail01"));
    let in_flight = queue.batch().await;
    for name in ["mail02", "mail03", "mail04"] {
        queue.push(named(name));
    }
    assert_eq!(targets(&in_flight), ["mail01"]);
    queue.delivered(0).await;
    assert_eq!(targets(&queue.batch().await), ["mail03", "mail04"]);
    let report = queue.drain(Duration::ZERO).await;
    assert_eq!((report.delivered_runs, report.undelivered_runs, report.dropped.total()), (1, 2, 1));
    assert_eq!(queue.status().dropped_runs, Dropped { budget: 1, ..Dropped::default() });
}

#[tokio::test(start_paused = true)]
async fn the_size_is_that_of_waiting_runs_and_those_in_flight() {
    let exporter = InMemoryMetricExporter::default();
    let provider = SdkMeterProvider::builder().with_periodic_exporter(exporter.clone()).build();
    let sum = |metric: Metric| {
        provider.force_flush().unwrap();
        let all = exporter.get_finished_metrics().unwrap().pop().unwrap();
        let found = all.scope_metrics().flat_map(ScopeMetrics::metrics).find(|it| it.name() == metric.name).unwrap();
        let AggregatedMetrics::I64(MetricData::Sum(sum)) = found.data() else { panic!("{found:?}") };
        assert!(!sum.is_monotonic());
        usize::try_from(sum.data_points().next().unwrap().value()).unwrap()
    };
    let bytes = Load::of(&passed()).bytes;
    let queue = Queue::new(2 * bytes, None, true, Metrics::of(&provider));
    assert_eq!(sum(names::DELIVERY_QUEUE_CAPACITY), 2 * bytes);
    queue.push(passed());
    drop(queue.batch().await);
    assert_eq!(sum(names::DELIVERY_QUEUE_SIZE), bytes, "what is on its way counts");
    queue.push(passed());
    queue.push(passed());
    assert_eq!(sum(names::DELIVERY_QUEUE_SIZE), 2 * bytes, "what is over the budget went");
    queue.delivered(0).await;
    assert_eq!(sum(names::DELIVERY_QUEUE_SIZE), bytes);
    drop(queue.batch().await);
    queue.refused("never".to_owned()).await;
    assert_eq!(sum(names::DELIVERY_QUEUE_SIZE), 0);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_drain_ends_draining() {
    let queue = queue(usize::MAX);
    queue.push(passed());
    let given_up = timeout(Duration::from_millis(1), queue.drain(Duration::from_secs(60))).await;
    assert!(given_up.is_err());
    assert!(queue.0.state.borrow().draining == 0);
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_a_pause() {
    let queue = queue(usize::MAX);
    queue.push(passed());
    drop(queue.batch().await);
    let pausing = queue.pause("away".to_owned(), YEAR);
    let sender = async {
        pausing.await;
        queue.delivered(0).await;
    };
    let ((), report) = tokio::join!(sender, queue.drain(Duration::from_secs(5)));
    assert_eq!((report.delivered_runs, report.undelivered_runs, report.reason), (1, 0, None));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_delivered_at_once_is_not_written_to_disk() {
    let directory = tempfile::tempdir().unwrap();
    let queue = stored(directory.path(), usize::MAX, 1 << 20);
    for number in 0..20 {
        queue.push(named(number));
        assert_eq!(take(&queue, 1).await, [number.to_string()]);
        tokio::time::sleep(Duration::from_millis(70)).await;
    }
    assert_eq!(files(directory.path()), 0);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_run_is_on_disk_within_200_ms_and_its_file_is_deleted_after_delivery() {
    let directory = tempfile::tempdir().unwrap();
    let queue = stored(directory.path(), usize::MAX, 1 << 20);
    let began = clock::now();
    queue.push(named(0));
    // A batch on its way waits as well.
    let batch = queue.batch().await;
    queue.push(named(1));
    written(&queue).await;
    assert!(clock::now() - began < Duration::from_millis(200));
    let began = clock::now();
    queue.push(named(2));
    written(&queue).await;
    assert!(clock::now() - began < Duration::from_millis(200));
    let status = queue.status();
    assert_eq!((status.queued_runs, status.stored_runs.unwrap(), files(directory.path())), (3, 3, 1));
    assert!(
        status.disk_bytes.unwrap() > 500 && status.oldest_s >= Some(Duration::from_millis(200).into()),
        "{status:?}"
    );
    assert_eq!(targets(&batch), numbers(0..1));
    queue.delivered(0).await;
    assert_eq!(take(&queue, 2).await, numbers(1..3));
    let report = queue.drain(Duration::from_secs(5)).await;
    queue.close().await;
    assert_eq!(report, Report { delivered_runs: 3, ..Report::default() });
    assert_eq!((files(directory.path()), queue.status().disk_bytes.unwrap(), queue.status().memory_bytes), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn runs_over_the_memory_budget_are_on_disk_and_read_back_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let queue = stored(directory.path(), 5 * Load::of(&passed()).bytes, 8 << 20);
    // The first batch stays on its way for the whole outage.
    queue.push(named(0));
    let first = queue.batch().await;
    for number in 1..400 {
        queue.push(named(number));
        if number % 50 == 0 {
            written(&queue).await;
        }
    }
    written(&queue).await;
    let status = queue.status();
    assert!(Some(status.memory_bytes) <= status.memory_limit_bytes, "{status:?}");
    assert_eq!((status.queued_runs, status.dropped_runs), (400, Dropped::default()));
    assert_eq!(targets(&first), ["0"]);
    queue.delivered(0).await;
    assert_eq!(take(&queue, 399).await, numbers(1..400));
    let report = queue.drain(Duration::from_secs(5)).await;
    queue.close().await;
    assert_eq!(report, Report { delivered_runs: 400, ..Report::default() });
    assert_eq!(files(directory.path()), 0);
}

#[tokio::test(start_paused = true)]
async fn undelivered_runs_are_sent_by_the_next_process_before_new_ones() {
    let directory = tempfile::tempdir().unwrap();
    let queue = stored(directory.path(), usize::MAX, 8 << 20);
    (0..100).for_each(|number| queue.push(named(number)));
    assert_eq!(queue.batch().await.len(), 56);
    queue.delivered(0).await;
    drop(queue.batch().await);
    let report = queue.drain(Duration::from_secs(3)).await;
    assert_eq!((report.delivered_runs, report.stored_runs, report.undelivered_runs), (56, 44, 0), "{report}");
    assert!(report.to_string().contains("44 runs kept on disk for the next start"), "{report}");
    queue.close().await;

    let queue = stored(directory.path(), usize::MAX, 8 << 20);
    queue.push(named(100));
    assert_eq!(queue.status().queued_runs, 45);
    assert_eq!(take(&queue, 45).await, numbers(56..101));
}

#[tokio::test(start_paused = true)]
async fn over_the_disk_budget_dropped_and_delivered_runs_add_up() {
    let directory = tempfile::tempdir().unwrap();
    let queue = stored(directory.path(), 20 * Load::of(&passed()).bytes, 64 << 10);
    let mut sent = 0;
    queue.push(named(sent));
    let in_flight = queue.batch().await;
    while queue.status().dropped_runs.budget < 100 {
        for _ in 0..10 {
            sent += 1;
            queue.push(named(sent));
        }
        written(&queue).await;
    }
    let status = queue.status();
    assert!(status.disk_bytes.unwrap() <= 64 << 10, "{status:?}");
    let dropped = usize::try_from(status.dropped_runs.budget).unwrap();
    queue.delivered(0).await;
    let arrived = [targets(&in_flight), take(&queue, sent - dropped).await].concat();
    assert_eq!(arrived, [numbers(0..1), numbers(dropped + 1..sent + 1)].concat(), "the oldest went");
    assert_eq!(queue.status().queued_runs, 0);
}

#[tokio::test(start_paused = true)]
async fn refused_runs_are_counted_and_dead_letters_also_when_some_spans_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let queue = stored(directory.path(), usize::MAX, 1 << 20);
    for (rejected, refused) in [(None, 4), (Some(1), 1), (Some(18), 2), (Some(1_000), 4)] {
        let before = queue.status();
        (0..4).for_each(|number| queue.push(named(number)));
        drop(queue.batch().await);
        match rejected {
            None => queue.refused("never".to_owned()).await,
            Some(spans) => queue.delivered(spans).await,
        }
        let after = queue.status();
        assert_eq!(after.dropped_runs.refused - before.dropped_runs.refused, refused, "{rejected:?}");
        assert_eq!(after.delivered_runs - before.delivered_runs, 4 - refused, "{rejected:?}");
    }
    assert_eq!(dead_letters(directory.path()), vec![numbers(0..4); 4].concat());
    assert_eq!(queue.status().queued_runs, 0);
}

#[tokio::test(start_paused = true)]
async fn runs_wait_in_memory_while_the_disk_fails_and_are_written_when_it_works_again() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("state");
    let queue = stored(&directory, 50 * Load::of(&passed()).bytes, 1 << 20);
    // A file in the way stands for every reason that the directory cannot be written to.
    std::fs::remove_dir_all(&directory).unwrap();
    std::fs::write(&directory, "in the way").unwrap();
    (0..10).for_each(|number| queue.push(named(number)));
    let mut watch = queue.0.state.subscribe();
    drop(timeout(YEAR, watch.wait_for(|state| disk_failure(state).is_some())).await.unwrap().unwrap());
    let text = queue.status().disk_failure.unwrap();
    assert!(text.contains(&directory.display().to_string()), "{text}");
    // In memory the budget holds now as without a disk.
    (10..60).for_each(|number| queue.push(named(number)));
    assert_eq!(queue.status().dropped_runs.budget, 10);
    std::fs::remove_file(&directory).unwrap();
    drop(timeout(YEAR, watch.wait_for(|state| disk_failure(state).is_none())).await.unwrap().unwrap());
    let status = queue.status();
    assert_eq!((status.disk_failure, status.stored_runs.unwrap()), (None, 50));
    assert_eq!(take(&queue, 50).await, numbers(10..60));
}

/// A queue whose oldest runs are on disk alone, in one segment; and its file.
async fn backlog(directory: &Path) -> (Queue, std::path::PathBuf) {
    let queue = stored(directory, 5 * Load::of(&passed()).bytes, 8 << 20);
    for number in 0..20 {
        queue.push(named(number));
    }
    written(&queue).await;
    let entries = std::fs::read_dir(directory.join("queue")).unwrap().map(|entry| entry.unwrap().path());
    let [file] = entries.collect::<Vec<_>>().try_into().unwrap();
    (queue, file)
}

#[tokio::test(start_paused = true)]
async fn runs_that_cannot_be_read_now_are_delivered_in_order_later() {
    let directory = tempfile::tempdir().unwrap();
    let (queue, file) = backlog(directory.path()).await;
    queue.spool().unwrap().fail_reads(Some(std::io::ErrorKind::PermissionDenied));
    let began = clock::now();
    let mend = async {
        tokio::time::sleep(Duration::from_secs(100)).await;
        let status = queue.status();
        assert_eq!((status.queued_runs, status.dropped_runs), (20, Dropped::default()));
        assert!(status.failure.unwrap().contains(&file.display().to_string()));
        queue.spool().unwrap().fail_reads(None);
    };
    let (taken, ()) = tokio::join!(take(&queue, 20), mend);
    assert_eq!(taken, numbers(0..20));
    assert!(clock::now() - began >= Duration::from_secs(100));
    assert_eq!((queue.status().failure, queue.status().queued_runs), (None, 0));
}

#[tokio::test(start_paused = true)]
async fn a_missing_file_costs_the_runs_that_are_not_in_memory() {
    let directory = tempfile::tempdir().unwrap();
    let (queue, file) = backlog(directory.path()).await;
    std::fs::remove_file(&file).unwrap();
    assert_eq!(take(&queue, 5).await, numbers(15..20));
    let status = queue.status();
    assert_eq!((status.queued_runs, status.dropped_runs), (0, Dropped { corrupt: 15, ..Dropped::default() }));
}

#[tokio::test(start_paused = true)]
async fn a_too_large_batch_is_sent_in_halves_and_each_run_once_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let queue = stored(directory.path(), 20 * Load::of(&passed()).bytes, 8 << 20);
    (0..70).for_each(|number| queue.push(named(number)));
    written(&queue).await;
    // Some are on disk alone, some in memory as well, and these not on disk.
    (70..75).for_each(|number| queue.push(named(number)));
    let mut taken = Vec::new();
    while taken.len() < 75 {
        let mut batch = queue.batch().await;
        while batch.len() > 3 {
            batch = queue.halve();
        }
        taken.extend(targets(&batch));
        queue.delivered(0).await;
    }
    assert_eq!(taken, numbers(0..75));
    let report = queue.drain(Duration::from_secs(5)).await;
    queue.close().await;
    assert_eq!(report, Report { delivered_runs: 75, ..Report::default() });
    assert_eq!((files(directory.path()), queue.status().memory_bytes), (0, 0));
}

#[tokio::test]
async fn a_hanging_disk_delays_no_run_in_memory() {
    let directory = tempfile::tempdir().unwrap();
    let queue = stored(directory.path(), usize::MAX, 1 << 20);
    (0..4).for_each(|number| queue.push(named(number)));
    let first = queue.batch().await;
    written(&queue).await;
    // Whoever wants something from the disk now waits for this lock.
    let (let_go, held) = std::sync::mpsc::channel::<()>();
    let (hangs, hanging) = tokio::sync::oneshot::channel();
    let holder = queue.clone();
    let hung = std::thread::spawn(move || {
        let spool = holder.spool();
        hangs.send(()).unwrap();
        drop((held.recv(), spool));
    });
    hanging.await.unwrap();
    assert_eq!(targets(&first), numbers(0..4));
    queue.delivered(0).await;
    for number in 4..8 {
        queue.push(named(number));
        assert_eq!(targets(&queue.batch().await), [number.to_string()]);
        queue.refused("never".to_owned()).await;
    }
    assert_eq!((queue.status().delivered_runs, queue.status().stored_runs.unwrap()), (4, 4));
    drop(let_go);
    hung.join().unwrap();
    let report = queue.drain(YEAR).await;
    assert_eq!((report.delivered_runs, report.stored_runs, report.dropped.total()), (4, 0, 4));
    // Which of those that wait for a disk gets it first is not promised.
    let mut aside = dead_letters(directory.path());
    aside.sort();
    assert_eq!(aside, numbers(4..8));
}
