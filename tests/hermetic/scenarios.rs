//! Every scenario of `tests/scenarios`: the run ends with the class that it should, within its bounds, and gives nothing
//! away. What a scenario is stands in `tests/support/scenario`.

use std::sync::Arc;

use tokio::{sync::Semaphore, task::JoinSet};

use crate::support::{
    run::run,
    scenario::{Credentials, Over, Scenario},
};

/// As many are played at once: their waiting overlaps, and their deadlines are not passed for want of a processor.
const AT_ONCE: usize = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_scenario_comes_out_as_its_file_says() {
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let only = std::env::var("SCENARIO").unwrap_or_default();
    let mut playing = JoinSet::new();
    for scenario in Scenario::all().into_iter().filter(|scenario| scenario.file.contains(&only)) {
        for over in scenario.over.clone() {
            let (scenario, turns) = (scenario.clone(), Arc::clone(&turns));
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
    let served = scenario.serve(over, &who).await;
    let run = run(served.target()).await;
    let heard = served.heard().await;
    scenario.judge(over, &run, &heard, &who)
}
