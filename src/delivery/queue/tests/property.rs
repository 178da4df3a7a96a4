//! Whatever happens to a queue: each run is delivered once and in order, or counted.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Turn {
    /// So many runs come.
    Push(usize),
    /// So much time passes.
    Wait(u64),
    /// The next batch arrives.
    Deliver,
    /// The next batch starts its way and is refused for good.
    Refuse,
    /// The process ends in order, with a batch on its way, and the next one starts.
    Restart,
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        5 => (1..40_usize).prop_map(Turn::Push),
        4 => (1..400_u64).prop_map(Turn::Wait),
        3 => Just(Turn::Deliver),
        1 => Just(Turn::Refuse),
        1 => Just(Turn::Restart),
    ]
}

/// Runs in memory, bytes on disk, and what happens. Gives the runs that arrived.
async fn live(memory: usize, disk: u64, turns: Vec<Turn>) {
    let directory = tempfile::tempdir().unwrap();
    let memory = memory * Load::of(&passed()).bytes;
    let mut queue = stored(directory.path(), memory, disk);
    let (mut next, mut arrived, mut refused, mut dropped) = (0, Vec::new(), 0, 0);
    for turn in turns.into_iter().chain([Turn::Restart]) {
        match turn {
            Turn::Push(count) => {
                (next..next + count).for_each(|number| queue.push(named(number)));
                next += count;
            }
            Turn::Wait(millis) => tokio::time::sleep(Duration::from_millis(millis)).await,
            Turn::Deliver | Turn::Refuse if queue.status().queued_runs == 0 => {}
            Turn::Deliver => {
                arrived.extend(targets(&queue.batch().await));
                queue.delivered(0).await;
            }
            Turn::Refuse => {
                queue.batch().await;
                refused += queue.halve().len() as u64;
                queue.refused("never".to_owned()).await;
            }
            Turn::Restart => {
                if queue.status().queued_runs > 0 {
                    drop(queue.batch().await);
                }
                let report = queue.drain(Duration::from_secs(3)).await;
                assert_eq!(report.undelivered_runs, 0, "{report}");
                queue.close().await;
                dropped += queue.status().dropped_runs.budget;
                assert_eq!(queue.status().dropped_runs.corrupt, 0);
                queue = stored(directory.path(), memory, disk);
                assert_eq!(queue.status().queued_runs, report.stored_runs);
            }
        }
    }
    while queue.status().queued_runs > 0 {
        arrived.extend(targets(&queue.batch().await));
        queue.delivered(0).await;
    }
    dropped += queue.status().dropped_runs.budget;
    assert_eq!(arrived.len() as u64 + refused + dropped, next as u64, "{refused} refused, {dropped} dropped");
    let mut numbers: Vec<usize> = arrived.iter().map(|target| target.parse().unwrap()).collect();
    if dropped == 0 {
        assert!(numbers.is_sorted(), "{numbers:?}");
    }
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), arrived.len(), "none came twice");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn whatever_happens_each_run_arrives_once_and_in_order_or_is_counted(
        memory in 1..60_usize,
        disk in prop_oneof![Just(1_u64 << 20), Just(32_u64 << 10)],
        turns in proptest::collection::vec(turn(), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(live(memory, disk, turns));
    }
}
