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
                (!differs.is_empty()).then(|| format!("{} over {over}:\n    {}", scenario.file, differs.join("\n    ")))
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

/// Else a search that finds nothing would say nothing.
#[tokio::test]
async fn what_is_searched_for_on_the_wire_is_found_where_it_may_leave() {
    let who = Credentials::default();
    for (file, forms) in [("23-login-refused", 2), ("21-endless-challenges", 3)] {
        let scenario = Scenario::all().into_iter().find(|scenario| scenario.file == file).unwrap();
        let served = scenario.serve(Over::None, &who).await;
        run(served.target()).await;
        let wire = String::from_utf8(served.heard().await.wire).unwrap();
        let found = who.forms().into_iter().filter(|form| wire.contains(form)).count();
        assert!(found >= forms, "{file}: {found} forms of {:?} are in {wire:?}", who.forms());
    }
}

#[test]
fn a_file_with_an_unknown_key_is_an_error() {
    let good = "rows = [1]\nname = \"x\"\nover = [\"none\"]\noutcome = \"passed\"\nscript = \"\"\n";
    assert_eq!(Scenario::parse(good).map(|scenario| scenario.rows), Ok(vec![1]));
    for wrong in
        ["bound = 3\n", "[set]\nlimit = 3\n", "[expect]\nmost = 3\n", "error = \"no_such_class\"\nstep = \"LIST\"\n"]
    {
        let error = Scenario::parse(&format!("{good}{wrong}")).map(|_| ()).unwrap_err();
        assert!(error.contains("unknown") || error.contains("no error type"), "{wrong}: {error}");
    }
}
