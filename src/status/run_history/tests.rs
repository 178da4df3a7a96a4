use imaptrace_imap::ResponseCode;
use imaptrace_record::{AddressFamily, ErrorType, RunOutcome};

use super::*;
use crate::status::page::print_account;

const PASSED: &str = imaptrace_testkit::PASSED_RUN;
const FAILED: &str = imaptrace_testkit::FAILED_RUN;

/// A run of mail01 that started this many seconds after a fixed time.
pub(in crate::status) fn run(outcome: RunOutcome, second: i64) -> Run {
    let text = if outcome == RunOutcome::Failed { FAILED } else { PASSED };
    let mut run: Run = serde_json::from_str(text).unwrap();
    (run.target, run.account) = ("mail01".into(), "default".into());
    run.started_at = Timestamp::from_epoch_seconds(1_795_434_000 + second).unwrap();
    run.outcome = outcome;
    if outcome == RunOutcome::Void {
        (run.error_type, run.failed_step) = (Some(ErrorType::Cancelled), Some("FETCH".into()));
    }
    run
}

pub(in crate::status) fn plan(names: &[&str]) -> Vec<(String, Vec<String>)> {
    let planned = |name: &&str| ((*name).to_owned(), vec!["default".to_owned()]);
    names.iter().map(planned).collect()
}

pub(in crate::status) fn history(names: &[&str]) -> RunHistory {
    let history = RunHistory::new(HistoryDepth { runs: 3, failed_runs: 2 });
    history.plan(plan(names));
    history
}

fn printer(filter: &Filter) -> impl Fn(&str, &AccountRuns, &mut Vec<u8>) {
    let runs = filter.runs;
    move |target, account, out| print_account(target, account, runs, out)
}

/// Everything that is printed of the accounts that pass a filter.
fn printed(history: &RunHistory, filter: &Filter) -> serde_json::Value {
    let (mut out, mut cursor) = (Vec::new(), Cursor::default());
    loop {
        let mut batch = Vec::new();
        let more = history.print(&mut cursor, filter, &mut batch, printer(filter));
        out.extend(batch);
        if !more {
            break;
        }
    }
    serde_json::from_slice(&[b"[", &*out, b"]"].concat()).unwrap()
}

fn all(history: &RunHistory) -> serde_json::Value {
    printed(history, &Filter::default())
}

fn starts(list: &serde_json::Value) -> Vec<String> {
    let runs = list.as_array().unwrap().iter();
    runs.map(|run| second(&run["started_at"])).collect()
}

/// Of the minute.
fn second(at: &serde_json::Value) -> String {
    at.as_str().unwrap().get(17..19).unwrap().to_owned()
}

#[test]
fn failed_runs_are_kept_when_they_are_no_longer_among_the_last() {
    let history = history(&["mail01"]);
    let (failed, passed, void) = (RunOutcome::Failed, RunOutcome::Passed, RunOutcome::Void);
    for (second, outcome) in [failed, failed, void, failed, passed, passed, passed].into_iter().enumerate() {
        history.record(&run(outcome, i64::try_from(second).unwrap()));
    }
    let account = &all(&history)[0];
    assert_eq!(starts(&account["runs"]), ["06", "05", "04"]);
    assert_eq!(starts(&account["failed_runs"]), ["03", "01"], "the void one is not, and the oldest was removed");
    assert_eq!((&account["state"], second(&account["since"])), (&"passed".into(), "04".into()));
}

#[test]
fn a_run_is_shown_as_the_record_has_it() {
    let history = history(&["mail01"]);
    let mut bad = run(RunOutcome::Failed, 0);
    (bad.family, bad.auth_backoff) = (Some(AddressFamily::Ipv6), Some(true));
    history.record(&bad);
    let mut good = run(RunOutcome::Passed, 1);
    (good.slow, good.uncertain) = (Some(true), Some(true));
    history.record(&good);
    let shown = all(&history);
    let [shown_good, shown_bad] = &shown[0]["runs"].as_array().unwrap()[..] else { panic!("{shown}") };
    for (run, shown) in [(&good, shown_good), (&bad, shown_bad)] {
        let mut expected = serde_json::to_value(run).unwrap();
        expected["code"] =
            run.failing_step().map_or(serde_json::Value::Null, |step| step.code.map(ResponseCode::as_str).into());
        for (key, value) in shown.as_object().unwrap() {
            assert_eq!(*value, expected[key], "{key}");
        }
    }
    let shown = ["trace_id", "first_loading_latency_s", "slowest_step", "slow", "uncertain"];
    assert!(shown.iter().all(|key| shown_good.get(key).is_some()), "{shown_good}");
    assert_eq!(shown_bad["code"], "AUTHENTICATIONFAILED");
    assert_eq!((&shown_bad["family"], &shown_bad["auth_backoff"]), (&"ipv6".into(), &true.into()));
}

#[test]
fn an_account_fails_while_it_fails_over_one_of_its_families() {
    let history = history(&["mail01"]);
    let over = |family: Option<AddressFamily>, outcome, second| {
        let mut run = run(outcome, second);
        run.family = family;
        history.record(&run);
        all(&history)[0]["state"].as_str().unwrap().to_owned()
    };
    assert_eq!(over(Some(AddressFamily::Ipv4), RunOutcome::Failed, 0), "failed");
    assert_eq!(over(Some(AddressFamily::Ipv6), RunOutcome::Passed, 1), "failed");
    assert_eq!(over(Some(AddressFamily::Ipv4), RunOutcome::Passed, 2), "passed");
    assert_eq!(over(Some(AddressFamily::Ipv6), RunOutcome::Failed, 3), "failed");
    assert_eq!(over(None, RunOutcome::Passed, 4), "passed", "there is no run for each family any more");
}

#[test]
fn a_new_plan_removes_only_missing_accounts_and_ignores_their_late_runs() {
    let history = history(&["mail01", "mail02"]);
    history.record(&run(RunOutcome::Failed, 0));
    history.plan(plan(&["mail00", "mail01"]));
    assert_eq!(all(&history)[1]["state"], "failed");
    history.plan(plan(&["mail02"]));
    history.record(&run(RunOutcome::Failed, 1));
    let shown = all(&history);
    assert_eq!((shown.as_array().unwrap().len(), &shown[0]["target"]), (1, &"mail02".into()));
    assert_eq!(
        history.counts(),
        AccountCounts {
            targets: 1,
            accounts: 1,
            states: StateCounts { never: 1, ..StateCounts::default() },
            failing_targets: 0
        }
    );
}

#[test]
fn filters_leave_only_what_they_name() {
    let history = history(&["mail00", "mail01", "mail02"]);
    history.record(&run(RunOutcome::Failed, 0));
    let names = |filter: &Filter| {
        let shown = printed(&history, filter);
        shown.as_array().unwrap().iter().map(|one| one["target"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&Filter::default()), ["mail00", "mail01", "mail02"]);
    let only = |name: &str| Filter { target: Some(name.to_owned()), ..Filter::default() };
    assert_eq!(names(&only("mail01")), ["mail01"]);
    assert_eq!(names(&only("mail")), [""; 0]);
    assert_eq!(names(&Filter { state: Some(AccountState::Failed), ..Filter::default() }), ["mail01"]);
    assert_eq!(names(&Filter { state: Some(AccountState::Never), ..Filter::default() }), ["mail00", "mail02"]);
    let none = printed(&history, &Filter { runs: Some(0), ..only("mail01") });
    assert_eq!((&none[0]["runs"], &none[0]["state"]), (&serde_json::json!([]), &"failed".into()));
}

#[test]
fn printing_continues_after_a_change_of_the_plan() {
    let names: Vec<String> = (0..2_000).map(|number| format!("mail{number:04}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let history = history(&names);
    let (mut out, mut cursor, all) = (Vec::new(), Cursor::default(), Filter::default());
    assert!(history.print(&mut cursor, &all, &mut out, printer(&all)));
    let first = out.split(|byte| *byte == b'\n').count() - 1;
    assert!(first > 10 && out.len() < BATCH + 1_000, "{}", out.len());
    // All that was printed is gone, and the one that would have been next.
    history.plan(plan(&names[first + 1..]));
    let mut batches = 1;
    while history.print(&mut cursor, &all, &mut { std::mem::take(&mut out) }, printer(&all)) {
        batches += 1;
    }
    assert!(batches > 5, "{batches}");
    let mut cursor = Cursor::default();
    let failed = Filter { state: Some(AccountState::Failed), ..Filter::default() };
    while history.print(&mut cursor, &failed, &mut out, printer(&failed)) {}
    assert!(out.is_empty());
}

#[test]
fn ten_thousand_accounts_that_have_failed_for_long_take_less_than_eight_mebibytes() {
    let names: Vec<String> = (0..10_000).map(|number| format!("mail{number:05}.example.org")).collect();
    let history = RunHistory::new(HistoryDepth::default());
    history.plan(plan(&names.iter().map(String::as_str).collect::<Vec<_>>()));
    let fresh = history.held_bytes();
    let mut run = run(RunOutcome::Failed, 0);
    for name in &names {
        run.target.clone_from(name);
        for _ in 0..12 {
            history.record(&run);
        }
    }
    let (fresh, full) = (fresh / names.len(), history.held_bytes() / names.len());
    assert!(fresh <= 250 && full <= 700, "{fresh} and {full} bytes an account");
}
