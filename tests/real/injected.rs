//! Causes of slowness that need no file system and no control group of their own, injected one after the other into one Dovecot.
//! `make test-causes` has all of them.

use imaptrace_record::RunOutcome;

use crate::causes::{agent::Probe, injections::PLAIN, testbed::Testbed, verdicts::RightVerdicts};

const RUNS: usize = 5;

#[test]
fn the_verdict_names_the_cause_that_was_injected() {
    let bed = Testbed::start(&[Probe::FirstLoad], false);
    for (name, inject) in PLAIN {
        let recording = inject(&bed, RUNS);
        assert!(recording.usable() * 2 > RUNS, "{name}: {} runs, {} slow", recording.runs.len(), recording.usable());
        for recorded in recording.runs.iter().filter(|recorded| recorded.run.outcome == RunOutcome::Passed) {
            let ids: Vec<String> =
                recorded.run.steps.iter().filter_map(|step| Some(step.span_id?.to_string())).collect();
            let tags = recorded.events.iter().filter_map(|event| event["fields"]["cmd_tag"].as_str());
            // Each command after the login.
            let joined = tags.filter(|tag| ids.iter().any(|id| id == tag)).count();
            assert!(joined >= 4, "{name}: {joined} commands are known to the server: {:?}", recorded.events);
        }
        let verdicts = RightVerdicts::of(&recording);
        assert!(verdicts.by_majority(), "{name}: {:?} of {} right: {:#?}", verdicts.right, verdicts.of, verdicts.named);
    }
}
