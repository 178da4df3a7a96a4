//! The present is accepted as usual.

use super::{usual::usual_run, *};

fn key() -> HistoryKey {
    HistoryKey::new("mail01", "default", "first-load", None)
}

/// Runs with so many messages, whose steps take this times their usual time.
fn runs(history: &mut History, many: usize, factor: u64, hour: u64) -> Vec<Run> {
    let one = |_| {
        let mut run = usual_run(5_000 / factor, 300 * factor, Some(u8::try_from(factor).unwrap()), hour);
        for step in &mut run.steps {
            step.duration_s = Seconds::from_micros(step.duration_s.as_micros() * factor);
        }
        run.first_loading_latency_s =
            run.first_loading_latency_s.map(|it| Seconds::from_micros(it.as_micros() * factor));
        history.evaluate(&mut run);
        run
    };
    (0..many).map(one).collect()
}

#[test]
fn after_an_intended_change_the_present_is_usual_at_once_and_the_day_begins_again() {
    let mut history = History::new(Settings::default());
    (0..24).for_each(|hour| drop(runs(&mut history, 20, 1, hour)));
    let slow = runs(&mut history, 5, 10, 24);
    assert!(slow.iter().all(|run| run.slow.is_some()));
    assert_eq!(history.usual_messages(&key(), "INBOX"), Some(5_000));
    assert_eq!(history.accept("mail01", None), 4, "three steps, and First Loading Latency");
    let after = runs(&mut history, 40, 10, 24);
    assert!(after.iter().all(|run| run.slow.is_none() && run.baseline_s == slow[0].first_loading_latency_s));
    assert!(after.iter().all(|run| run.baseline_day_s.is_none()));
    // Messages and certificate are learned again, by the new ones alone.
    assert_eq!(history.usual_messages(&key(), "INBOX"), Some(500));
    let mut failed = Run { outcome: RunOutcome::Failed, ..after[0].clone() };
    history.evaluate(&mut failed);
    assert_eq!(failed.usual.and_then(|usual| usual.certificate_changed), Some(false));
    // The hour in which it was accepted is the first of the day.
    (25..30).for_each(|hour| drop(runs(&mut history, 20, 10, hour)));
    let day = runs(&mut history, 1, 10, 30).remove(0).baseline_day_s;
    assert_eq!(day, slow[0].first_loading_latency_s);
    // What is slow against the new usual is slow.
    assert!(runs(&mut history, 1, 100, 30)[0].slow.is_some());
}

#[test]
fn nothing_is_logged_of_a_change_that_was_accepted() {
    let mut history = History::new(Settings::default());
    let mut period = SlowPeriod::default();
    runs(&mut history, 63, 1, 0);
    for run in runs(&mut history, 10, 10, 0) {
        period.observe(&run, &Settings::default());
    }
    history.accept("mail01", Some("default"));
    let mut accepted = Vec::new();
    for _ in 0..100 {
        let mut run = usual_run(500, 3_000, Some(10), 0);
        for step in &mut run.steps {
            step.duration_s = Seconds::from_micros(step.duration_s.as_micros() * 10);
        }
        run.first_loading_latency_s = Some(Seconds::from_micros(310_000));
        assert_eq!(history.evaluate(&mut run), [], "no shift");
        accepted.push(history.take_accepted(&run));
        if accepted.last() == Some(&true) {
            period = SlowPeriod::default();
        }
        assert_eq!(period.observe(&run, &Settings::default()), SlowPeriodChange::Nothing);
    }
    assert_eq!(accepted.iter().filter(|accepted| **accepted).count(), 1);
    assert!(accepted[0], "the first run after it");
}

#[test]
fn only_the_named_account_is_accepted_and_before_enough_runs_there_is_no_verdict_still() {
    let mut history = History::new(Settings::default());
    for (target, account) in [("mail01", "default"), ("mail01", "second"), ("mail02", "default")] {
        for _ in 0..30 {
            let mut run = run(target, &[("FETCH", 1_000)]);
            account.clone_into(&mut run.account);
            history.evaluate(&mut run);
        }
    }
    for (target, account, series) in
        [("mail01", Some("second"), 2), ("mail01", None, 4), ("mail02", Some("second"), 0), ("mail0", None, 0)]
    {
        assert_eq!(history.accept(target, account), series, "{target} {account:?}");
    }
    let other = saved(&history).lines().filter(|line| line.contains("mail02")).map(str::to_owned).collect::<Vec<_>>();
    assert!(other[0].contains(&["1000"; 30].join(",")), "{other:?}");
    let mut young = after(19, 1_000);
    young.accept("mail01", None);
    assert!(!slow(&mut young, "FETCH", 1_000_000));
    assert!(slow(&mut young, "FETCH", 1_000_000));
}
