//! Runs that may be replaced.

use super::*;

fn with_more(run: &Run) -> Arc<Run> {
    Arc::new(Run { account: "more".to_owned(), ..run.clone() })
}

fn accounts(runs: &[Arc<Run>]) -> Vec<String> {
    runs.iter().map(|run| format!("{} {}", run.target, run.account)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_held_run_and_all_behind_it_wait_and_go_in_order_with_what_was_learnt() {
    let queue = queue(usize::MAX);
    queue.push(named(0));
    let held: Vec<_> = (1..3).map(|number| queue.push_held(Arc::new(named(number)))).collect();
    queue.push(named(3));
    assert_eq!(targets(&queue.batch().await), ["0"]);
    queue.delivered(0).await;
    let [first, second] = <[HeldRun; 2]>::try_from(held).unwrap();
    // The second is complete first.
    queue.release(second, Some(with_more(&named(2))));
    assert!(timeout(YEAR, queue.batch()).await.is_err(), "it passed the first");
    queue.release(first, None);
    let account = passed().account;
    assert_eq!(accounts(&queue.batch().await), [format!("1 {account}"), "2 more".into(), format!("3 {account}")]);
    queue.delivered(0).await;
    assert_eq!((queue.status().delivered_runs, queue.status().memory_bytes), (4, 0));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_grows_counts_with_its_new_size() {
    let queue = queue(usize::MAX);
    let held = queue.push_held(Arc::new(passed()));
    let larger = Run { account: "x".repeat(passed().account.len() + 1_000), ..passed() };
    let before = queue.status().memory_bytes;
    queue.release(held, Some(Arc::new(larger)));
    assert_eq!(queue.status().memory_bytes, before + 1_000);
    queue.batch().await;
    queue.delivered(0).await;
    assert_eq!(queue.status().memory_bytes, 0);
}

#[tokio::test(start_paused = true)]
async fn it_is_on_disk_in_time_without_what_is_learnt_later_and_delivered_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let queue = stored(directory.path(), usize::MAX, u64::MAX);
    let held = queue.push_held(Arc::new(named(0)));
    written(&queue).await;
    assert_eq!(queue.status().stored_runs, Some(1));
    queue.release(held, Some(with_more(&named(0))));
    assert_eq!(accounts(&queue.batch().await), ["0 more"]);
    queue.delivered(0).await;
    assert_eq!(queue.status().stored_runs, Some(0));
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_it_goes_out_as_it_was_written() {
    let directory = tempfile::tempdir().unwrap();
    let queue = stored(directory.path(), usize::MAX, u64::MAX);
    let held = queue.push_held(Arc::new(named(0)));
    written(&queue).await;
    queue.release(held, Some(with_more(&named(0))));
    queue.close().await;
    drop(queue);
    let next = stored(directory.path(), usize::MAX, u64::MAX);
    assert_eq!(accounts(&next.batch().await), [format!("0 {}", passed().account)]);
}

#[tokio::test(start_paused = true)]
async fn a_held_run_that_has_left_memory_goes_out_as_it_was_written() {
    let directory = tempfile::tempdir().unwrap();
    let queue = stored(directory.path(), 2 * Load::of(&passed()).bytes, u64::MAX);
    let held = queue.push_held(Arc::new(named(0)));
    written(&queue).await;
    (1..4).for_each(|number| queue.push(named(number)));
    written(&queue).await;
    // It is the next, and no longer held: what replaces it comes too late.
    queue.release(held, Some(with_more(&named(0))));
    assert_eq!(take(&queue, 4).await, numbers(0..4));
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_no_held_run() {
    let queue = queue(usize::MAX);
    let held = queue.push_held(Arc::new(named(0)));
    let sender = queue.clone();
    tokio::spawn(async move {
        loop {
            sender.batch().await;
            sender.delivered(0).await;
        }
    });
    let report = queue.drain(YEAR).await;
    assert_eq!((report.delivered_runs, report.undelivered_runs), (1, 0));
    queue.release(held, Some(with_more(&named(0))));
    assert_eq!(queue.status().queued_runs, 0);
}
