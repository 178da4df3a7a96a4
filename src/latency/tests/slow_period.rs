//! Slow periods: when one begins, and whether it ends or moves the baseline.

use super::*;

/// What each run of a series of FETCH times changes, by its number; a run that changes nothing is left out.
fn changes(history: &mut History, times: impl IntoIterator<Item = u64>) -> Vec<(usize, String)> {
    let mut period = SlowPeriod::default();
    let mut reported = Vec::new();
    for (number, micros) in times.into_iter().enumerate() {
        let mut run = run("mail01", &[("FETCH", micros), ("LIST", 1_000)]);
        history.evaluate(&mut run);
        match period.observe(&run, &Settings::default()) {
            SlowPeriodChange::Nothing => {}
            SlowPeriodChange::Began(step) => {
                reported.push((number, format!("{} began", step.map_or("FLL", |step| step.name.as_str()))));
            }
            SlowPeriodChange::Over => reported.push((number, "over".to_owned())),
            SlowPeriodChange::BaselineMoved(moved) => reported.extend(moved.iter().map(|it| {
                let name = it.step.map_or("FLL", |step| step.name.as_str());
                (number, format!("{name} {} {}", it.from.as_micros(), it.to.as_micros()))
            })),
        }
    }
    reported
}

#[test]
fn a_slow_period_that_ends_only_since_the_baseline_came_up_to_it_is_not_over_but_has_moved_what_is_usual() {
    let lasting = [vec![500_000; 40], vec![500_000; 40]].concat();
    // LIST is 1 ms of First Loading Latency, which had no LIST in it before.
    let moved = |at, step: &str, latency: &str| {
        [(0, "FETCH began".to_owned()), (at, format!("FETCH {step}")), (at, format!("FLL {latency}"))]
    };
    assert_eq!(changes(&mut after(63, 20_000), lasting), moved(32, "20000 500000", "20000 501000"));
    // The same with a spread, and with a short history, whose median goes through the middle of both.
    let spread: Vec<_> = (0..60).map(|number| 450_000 + number % 7 * 9_000).collect();
    let reported = changes(&mut after(63, 20_000), spread);
    assert!(reported.len() == 3 && reported[1].1.starts_with("FETCH 20000 4"), "{reported:?}");
    let reported = changes(&mut after(20, 20_000), vec![500_000; 40]);
    assert_eq!(reported, moved(20, "20000 260000", "20000 260500"));
}

#[test]
fn a_slow_period_is_over_when_the_step_takes_what_it_took_before() {
    let expected = [(0, "FETCH began".to_owned()), (10, "over".to_owned())];
    assert_eq!(changes(&mut after(63, 20_000), [vec![500_000; 10], vec![21_000; 80]].concat()), expected);
    // Also when the baseline has crept up meanwhile: 40 ms would not have been slow before either.
    let mixed = [vec![500_000; 30], vec![40_000; 80]].concat();
    assert_eq!(changes(&mut after(63, 20_000), mixed), [(0, "FETCH began".to_owned()), (30, "over".to_owned())]);
}

#[test]
fn a_run_that_did_not_pass_ends_no_slow_period_and_a_step_by_its_fixed_limit_alone_has_no_baseline_to_move() {
    let settings = Settings { slow_limit: Some(Duration::from_millis(100)), ..Settings::default() };
    let (mut history, mut period) = (History::new(settings.clone()), SlowPeriod::default());
    let mut observed = |micros, outcome| {
        let mut run = run("mail01", &[("FETCH", micros)]);
        run.outcome = outcome;
        history.evaluate(&mut run);
        format!("{:?}", period.observe(&run, &settings)).split(['(', '{']).next().unwrap().trim().to_owned()
    };
    assert_eq!(observed(200_000, RunOutcome::Passed), "Began");
    assert_eq!(observed(10_000, RunOutcome::Failed), "Nothing");
    assert_eq!(observed(10_000, RunOutcome::Void), "Nothing");
    assert_eq!(observed(200_000, RunOutcome::Passed), "Nothing", "it never ended");
    assert_eq!(observed(10_000, RunOutcome::Passed), "Over");
    assert_eq!(observed(10_000, RunOutcome::Passed), "Nothing");
}
