//! Every scenario of `tests/scenarios`: the run ends with the class that it should, within its bounds, and gives nothing
//! away. What a scenario is stands in `tests/support/scenario`.

use std::sync::Arc;

use tokio::{sync::Semaphore, task::JoinSet};

use crate::support::{
    run::run,
    scenario::{Credentials, Over, Scenario},
};

/// As many are played at once of those that keep a processor busy.
const BUSY: usize = 6;
/// Of those that come to an end at a deadline, all: they wait.
const WAITING: usize = 200;
/// How many times as long as a scenario sets them its deadlines are at most.
const MOST_PATIENCE: u32 = 64;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_scenario_comes_out_as_its_file_says() {
    let (busy, waiting) = (Arc::new(Semaphore::new(BUSY)), Arc::new(Semaphore::new(WAITING)));
    let only = std::env::var("SCENARIO").unwrap_or_default();
    let mut playing = JoinSet::new();
    for scenario in Scenario::all().into_iter().filter(|scenario| scenario.file.contains(&only)) {
        for over in scenario.over.clone() {
            let turns = Arc::clone(if scenario.waits() { &waiting } else { &busy });
            let scenario = scenario.clone();
            playing.spawn(async move {
                let turn = turns.acquire().await.unwrap();
                let differs = play(&scenario, over).await;
                drop(turn);
                let told = differs.iter().map(|one| format!("\n    {one}")).collect::<String>();
                (!differs.is_empty()).then(|| format!("{} over {over}:{told}", scenario.file))
            });
        }
    }
    let mut failed: Vec<_> = playing.join_all().await.into_iter().flatten().collect();
    failed.sort();
    assert!(failed.is_empty(), "{} did not come out as their files say:\n{}", failed.len(), failed.join("\n"));
}

async fn play(scenario: &Scenario, over: Over) -> Vec<String> {
    let who = Credentials::default();
    let mut patience = 1;
    loop {
        let served = scenario.serve(over, &who).await.with_patience(patience);
        let run = run(served.target()).await;
        let heard = served.heard().await;
        let differs = scenario.judge(over, &run, &heard, &who);
        // A busy machine lets a deadline pass before the server has done its part, or before the client could look at it.
        // With more patience that goes away; a fault stays.
        if differs.is_empty() || !scenario.waits() || patience >= MOST_PATIENCE {
            return differs;
        }
        patience *= 4;
    }
}
