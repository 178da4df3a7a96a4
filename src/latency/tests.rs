//! Slow steps, and the baselines that show them.

mod accept;
mod day;
mod slow_period;
mod usual;

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use imaptrace_record::{AddressFamily, JourneyName, RunOutcome, SpanId, Step, StepName, StepOutcome};
use proptest::{collection::vec, prelude::*};

use super::{
    baseline::Baseline,
    day_baseline::DayBaseline,
    history::AccountBaselines,
    running_median::{RunningMedian, WINDOW},
    slow_rule::ratio,
    *,
};

/// A run of these steps: name, microseconds.
fn run(target: &str, steps: &[(&str, u64)]) -> Run {
    static EMPTY: LazyLock<Run> = LazyLock::new(|| {
        let run: Run = serde_json::from_str(imaptrace_testkit::PASSED_RUN).unwrap();
        Run { steps: Vec::new(), notes: Vec::new(), ..run }
    });
    let mut run = EMPTY.clone();
    target.clone_into(&mut run.target);
    let step = |(name, micros): &(&str, u64)| Step {
        name: (*name).into(),
        span_id: Some(SpanId::random()),
        duration_s: Seconds::from_micros(*micros),
        ..Step::default()
    };
    run.steps = steps.iter().map(step).collect();
    let all = steps.iter().map(|(_, micros)| micros).sum();
    run.first_loading_latency_s = Some(Seconds::from_micros(all));
    run
}

/// A history of so many runs with FETCH at this.
fn after(runs: usize, micros: u64) -> History {
    let mut history = History::new(Settings::default());
    for _ in 0..runs {
        history.evaluate(&mut run("mail01", &[("FETCH", micros)]));
    }
    history
}

/// Whether a step of this length is slow to it.
fn slow(history: &mut History, name: &str, micros: u64) -> bool {
    let mut run = run("mail01", &[(name, micros)]);
    history.evaluate(&mut run);
    assert_eq!(run.slow, run.steps[0].slow);
    assert_ne!(run.slow, Some(false), "only what is slow says so");
    run.slow.is_some()
}

fn naive(values: &[u32]) -> u32 {
    let mut newest: Vec<u64> = values.iter().rev().take(WINDOW).map(|value| u64::from(*value)).collect();
    newest.sort_unstable();
    let twice = newest[(newest.len() - 1) / 2] + newest[newest.len() / 2];
    u32::try_from(twice / 2).unwrap()
}

#[test]
fn a_series_takes_no_more_memory_than_documented() {
    assert!(size_of::<DayBaseline>() <= 120, "{}", size_of::<DayBaseline>());
    assert_eq!((size_of::<DayBaseline>(), size_of::<Baseline>()), (104, 368));
    assert_eq!(size_of::<(Arc<str>, Baseline)>(), 384);
    // A map doubles before it is 7/8 full, so it has 16/7 places an account at worst. Allocations are rounded up to 16
    // bytes, with 16 of their own: the key, its three texts of up to 16 bytes, the account, its lists of steps and of two
    // certificates.
    let place = (size_of::<(Arc<HistoryKey>, Box<AccountBaselines>)>() + 1) * 16 / 7;
    let account = place + size_of::<HistoryKey>() + 16 + 16 + 3 * 32 + size_of::<AccountBaselines>() + 16 + 16 + 2 * 48;
    assert!(7 * 384 + account <= 4_100, "with 7 steps at worst: {account}");
    assert!(12 * 384 + account <= 6_000, "with 12 steps at worst: {account}");
}

#[test]
fn no_step_is_slow_before_twenty_passed_runs() {
    assert!(!slow(&mut after(19, 1_000), "FETCH", 1_000_000));
    assert!(slow(&mut after(20, 1_000), "FETCH", 1_000_000));
    let mut run = run("mail01", &[("FETCH", 1_000_000)]);
    after(19, 1_000).evaluate(&mut run);
    assert_eq!((run.steps[0].baseline_s, run.steps[0].ratio), (None, None));
}

#[test]
fn slow_is_past_three_times_the_baseline_and_at_least_ten_milliseconds_over_it() {
    for (baseline, took, is_slow) in [
        (20_000, 60_000, false),
        (20_000, 60_001, true),
        (1_000, 10_999, false),
        (1_000, 11_000, true),
        (0, 9_999, false),
        (0, 10_000, true),
        (20_000, 1, false),
    ] {
        assert_eq!(slow(&mut after(25, baseline), "FETCH", took), is_slow, "{took} at {baseline}");
    }
}

#[test]
fn a_step_has_its_baseline_and_ratio_and_the_run_is_marked_slow() {
    let mut history = after(30, 20_000);
    let mut run = run("mail01", &[("FETCH", 164_000), ("SEARCH", 9)]);
    history.evaluate(&mut run);
    let [fetch, search] = &run.steps[..] else { panic!() };
    assert_eq!(
        (fetch.baseline_s, fetch.ratio, fetch.slow),
        (Some(Seconds::from_micros(20_000)), Some(8.2), Some(true))
    );
    assert_eq!((search.baseline_s, search.ratio, search.slow), (None, None, None));
    assert_eq!(run.slow, Some(true));
}

#[test]
fn a_ratio_is_rounded_for_people() {
    for (duration, baseline, expected) in [
        (2_345, 1_000, Some(2.35)),
        (23_456, 1_000, Some(23.5)),
        (2_345_678, 1_000, Some(2_346.0)),
        (1, 1_000, Some(0.0)),
        (5, 0, None),
    ] {
        assert_eq!(ratio(duration, baseline), expected);
    }
}

#[test]
fn a_run_is_judged_before_it_enters_and_a_slow_one_enters_like_any_other() {
    let mut history = after(63, 1_000);
    // At 32 of 63 the slow ones are what is usual.
    let findings: Vec<_> = (0..40).map(|_| slow(&mut history, "FETCH", 50_000)).collect();
    assert_eq!(findings.iter().take_while(|slow| **slow).count(), 32);
    assert!(!findings[32..].contains(&true));
}

#[test]
fn only_passed_steps_of_passed_runs_enter() {
    let mut history = after(20, 20_000);
    for _ in 0..100 {
        let mut failed = run("mail01", &[("FETCH", 1_000)]);
        failed.outcome = RunOutcome::Failed;
        let mut void = Run { outcome: RunOutcome::Void, ..failed.clone() };
        let mut logout = run("mail01", &[("FETCH", 20_000), ("LOGOUT", 1_000_000)]);
        logout.steps[1].outcome = StepOutcome::Failed;
        for run in [&mut failed, &mut void, &mut logout] {
            history.evaluate(run);
        }
    }
    let mut run = run("mail01", &[("FETCH", 20_000), ("LOGOUT", 1)]);
    history.evaluate(&mut run);
    assert_eq!(run.steps[0].baseline_s, Some(Seconds::from_micros(20_000)));
    assert_eq!(run.steps[1].baseline_s, None);
}

#[test]
fn in_a_run_that_failed_what_passed_is_held_against_its_history_and_what_failed_is_not() {
    let mut failed = run("mail01", &[("FETCH", 100_000), ("FETCH", 100_000)]);
    failed.outcome = RunOutcome::Failed;
    failed.steps[1].outcome = StepOutcome::Failed;
    let mut void = Run { outcome: RunOutcome::Void, ..failed.clone() };
    let mut history = after(20, 1_000);
    history.evaluate(&mut failed);
    assert_eq!(failed.steps.iter().map(|step| step.slow).collect::<Vec<_>>(), [Some(true), None]);
    assert_eq!(failed.steps[1].baseline_s, None);
    history.evaluate(&mut void);
    assert_eq!(void.slow, None);
}

#[test]
fn fixed_limits_hold_without_history_and_in_every_run_and_the_one_by_name_beats_the_one_for_all() {
    let settings = Settings {
        slow_limit: Some(Duration::from_millis(50)),
        slow_limits: [("FETCH".to_owned(), Duration::from_millis(200))].into(),
        ..Settings::default()
    };
    for outcome in [RunOutcome::Passed, RunOutcome::Failed, RunOutcome::Void] {
        let mut run = run("mail01", &[("SELECT", 50_000), ("SELECT", 50_001), ("FETCH", 200_000), ("FETCH", 200_001)]);
        run.outcome = outcome;
        run.steps[1].outcome = StepOutcome::Failed;
        History::new(settings.clone()).evaluate(&mut run);
        let slow: Vec<_> = run.steps.iter().map(|step| step.slow.is_some()).collect();
        assert_eq!(slow, [false, true, false, true], "{outcome:?}");
        assert_eq!(run.slow, Some(true));
    }
}

#[test]
fn a_step_that_was_not_started_is_not_slow_and_has_no_share() {
    let settings = Settings { slow_limit: Some(Duration::ZERO), ..Settings::default() };
    let mut run = run("mail01", &[("FETCH", 10), ("LOGIN", 0), ("LIST", 5)]);
    run.steps[1].outcome = StepOutcome::Failed;
    run.steps[2].outcome = StepOutcome::Skipped;
    run.steps[2].span_id = None;
    History::new(settings).evaluate(&mut run);
    share(&mut run);
    let reported: Vec<_> = run.steps.iter().map(|step| (step.slow.is_some(), step.share.is_some())).collect();
    assert_eq!(reported, [(true, true), (false, false), (false, false)]);
}

#[test]
fn the_slowest_of_slow_steps_is_the_one_most_over_its_baseline_and_never_logout() {
    let mut history = History::new(Settings::default());
    let usual = [("SELECT", 5_000), ("FETCH", 90_000), ("LOGOUT", 1_000)];
    let mut first = run("mail01", &usual);
    history.evaluate(&mut first);
    assert_eq!(first.slowest_step.as_ref().map(StepName::as_str), Some("FETCH"), "without a baseline the longest");
    (0..20).for_each(|_| drop(history.evaluate(&mut run("mail01", &usual))));
    let mut run = run("mail01", &[("SELECT", 80_000), ("FETCH", 91_000), ("LOGOUT", 700_000)]);
    history.evaluate(&mut run);
    assert_eq!(run.slowest_step.as_ref().map(StepName::as_str), Some("SELECT"));
    assert_eq!(run.steps.iter().map(|step| step.slow.is_some()).collect::<Vec<_>>(), [true, false, true]);
}

#[test]
fn when_no_step_is_slow_the_slowest_is_the_longest_that_counts_however_far_over_its_baseline_another_is() {
    let mut history = History::new(Settings::default());
    let usual = [("connect", 300), ("FETCH", 2_000_000), ("LOGOUT", 3_000_000)];
    (0..40).for_each(|_| drop(history.evaluate(&mut run("mail01", &usual))));
    // As slow as ever, and a little quicker: connect is the one that is most over its baseline.
    let mut chronic = run("mail01", &[("connect", 9_000), ("FETCH", 1_999_000), ("LOGOUT", 3_000_000)]);
    history.evaluate(&mut chronic);
    assert_eq!((chronic.slow, chronic.slowest_step.as_ref().map(StepName::as_str)), (None, Some("FETCH")));
    // LOGOUT alone is slow, and does not count.
    let mut logout = run("mail01", &[("connect", 9_000), ("FETCH", 1_999_000), ("LOGOUT", 30_000_000)]);
    history.evaluate(&mut logout);
    assert_eq!((logout.slow, logout.slowest_step.as_ref().map(StepName::as_str)), (Some(true), Some("FETCH")));
    // A step that is slow beats one that is longer, and one that is more over its baseline without being slow.
    let mut slow = run("mail01", &[("connect", 90_000), ("FETCH", 2_900_000), ("LOGOUT", 3_000_000)]);
    history.evaluate(&mut slow);
    assert_eq!((slow.slow, slow.slowest_step.as_ref().map(StepName::as_str)), (Some(true), Some("connect")));
}

#[test]
fn a_step_past_its_fixed_limit_is_the_slowest_before_all_others_and_of_several_the_one_most_past_its_own() {
    let limits = [("LIST", 50), ("SELECT", 200), ("LOGOUT", 1)];
    let settings = Settings {
        slow_limits: limits.map(|(name, limit)| (name.to_owned(), Duration::from_millis(limit))).into(),
        ..Settings::default()
    };
    let mut history = History::new(settings);
    let usual = [("LIST", 60_000), ("SELECT", 5_000), ("FETCH", 5_000), ("LOGOUT", 500)];
    (0..40).for_each(|_| drop(history.evaluate(&mut run("mail01", &usual))));
    for (list, select, fetch, expected) in [
        // As always, and past its limit; FETCH is slow by far more.
        (60_000, 5_000, 900_000, "LIST"),
        // Both past their limits: SELECT takes longer, LIST is 30 ms past and SELECT 20 ms.
        (80_000, 220_000, 5_000, "LIST"),
        (80_000, 231_000, 5_000, "SELECT"),
        // Within the limits what is slow counts.
        (50_000, 200_000, 5_000, "SELECT"),
        (50_000, 5_000, 5_000, "LIST"),
    ] {
        let mut run = run("mail01", &[("LIST", list), ("SELECT", select), ("FETCH", fetch), ("LOGOUT", 700_000)]);
        history.evaluate(&mut run);
        assert_eq!(run.slowest_step.as_ref().map(StepName::as_str), Some(expected), "{list} {select} {fetch}");
    }
}

#[test]
fn each_target_account_journey_family_and_step_has_a_history_of_its_own() {
    let mut history = after(40, 1_000);
    let same = run("mail01", &[("FETCH", 100_000)]);
    let cold = Run { journey: JourneyName::FIRST_LOAD_COLD, ..same.clone() };
    let family = Run { family: Some(AddressFamily::Ipv6), ..same.clone() };
    let account = Run { account: "other".into(), ..same.clone() };
    let target = Run { target: "mail02".into(), ..same.clone() };
    let step = Run { first_loading_latency_s: None, ..run("mail01", &[("SELECT", 100_000)]) };
    for mut other in [cold, family, account, target, step] {
        history.evaluate(&mut other);
        assert_eq!((other.slow, other.steps[0].baseline_s), (None, None), "{other:?}");
    }
    // A step of a second connection is the same step.
    let mut second = same;
    second.steps[0].connection = Some(2);
    history.evaluate(&mut second);
    assert_eq!(second.slow, Some(true));
}

#[test]
fn a_step_that_comes_twice_in_a_run_does_not_make_two_runs() {
    let mut history = History::new(Settings::default());
    let twice = [("CAPABILITY", 1_000), ("CAPABILITY", 1_200)];
    (0..19).for_each(|_| drop(history.evaluate(&mut run("mail01", &twice))));
    assert!(!slow(&mut history, "CAPABILITY", 100_000));
    assert!(slow(&mut history, "CAPABILITY", 100_000));
}

#[test]
fn shares_are_of_first_loading_latency_and_only_of_steps_that_make_it_up() {
    let mut loaded = run("mail01", &[("connect", 500), ("connect", 250), ("FETCH", 750), ("LOGOUT", 9_000)]);
    loaded.steps[1..].iter_mut().for_each(|step| step.connection = Some(2));
    loaded.first_loading_latency_s = Some(Seconds::from_micros(1_200));
    share(&mut loaded);
    let shares: Vec<_> = loaded.steps.iter().map(|step| step.share).collect();
    assert_eq!(shares, [None, Some(0.2083), Some(0.625), None]);
    loaded.first_loading_latency_s = None;
    loaded.steps.iter_mut().for_each(|step| step.share = None);
    share(&mut loaded);
    assert!(loaded.steps.iter().all(|step| step.share.is_none()));
}

#[test]
fn a_lasting_change_is_reported_once_in_each_direction() {
    let mut history = after(63, 20_000);
    let mut shifts = Vec::new();
    for micros in [[90_000; 150], [20_000; 150]].concat() {
        shifts.extend(history.evaluate(&mut run("mail01", &[("FETCH", micros)])));
    }
    let step = |shift: &Shift| shift.step.as_ref().map_or("FLL", StepName::as_str).to_owned();
    let reported: Vec<_> = shifts.iter().map(|it| (step(it), it.from.as_micros(), it.to.as_micros())).collect();
    let both = |from, to| ["FETCH", "FLL"].map(|step| (step.to_owned(), from, to));
    assert_eq!(reported, [both(20_000, 90_000), both(90_000, 20_000)].concat());
}

#[test]
fn what_is_no_lasting_change_is_not_reported() {
    // Thirty slow runs and back; less than twice; twice and less than 10 ms.
    for (from, to, runs) in [(20_000, 500_000, 30), (20_000, 39_000, 300), (1_000, 9_000, 300)] {
        let mut history = after(63, from);
        for micros in std::iter::repeat_n(to, runs).chain([from; 100]) {
            let shifts = history.evaluate(&mut run("mail01", &[("FETCH", micros)]));
            assert_eq!(shifts, [], "{from} to {to}");
        }
    }
}

#[test]
fn a_step_that_is_now_quick_and_now_slow_has_no_shifts() {
    let mut history = after(63, 20_000);
    for micros in [20_000, 500_000].repeat(200) {
        assert_eq!(history.evaluate(&mut run("mail01", &[("FETCH", micros)])), []);
    }
}

#[test]
fn a_damaged_line_is_left_out_and_counted() {
    let history = after(25, 1_000);
    let line = history.line(&history.keys()[0]).unwrap();
    let empty = line.replace("1000,", "").replace("1000", "");
    let endless = line.replace("[1000,", &format!("[{}", "1000,".repeat(40)));
    let wide = line.replace("[1000,", "[1099511627776,");
    let text = [HEAD, &line, &empty, &endless, &wide, "", "{}", "\u{0}"].join("\n");
    let (mut read, damaged) = History::load(Settings::default(), &text, |_, _| true).unwrap();
    assert_eq!(damaged, 6);
    assert!(slow(&mut read, "FETCH", 100_000));
    for text in ["", "{}", &line] {
        assert_eq!(History::load(Settings::default(), text, |_, _| true).unwrap_err(), UnknownFormat);
    }
}

fn saved(history: &History) -> String {
    let mut lines = vec![HEAD.to_owned()];
    lines.extend(history.keys().iter().map(|key| history.line(key).unwrap()));
    lines.join("\n")
}

proptest! {
    // Each case of some is hundreds of runs.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_median_is_that_of_the_newest_values(values in vec(any::<u32>(), 1..200)) {
        prop_assert_eq!(RunningMedian::of(&values).median(), Some(naive(&values)));
    }

    #[test]
    fn one_outlier_never_moves_the_baseline_past_its_neighbours(
        values in vec(1_000u32..2_000, 3..=WINDOW), at in any::<prop::sample::Index>(), outlier in any::<u32>(),
    ) {
        let mut with = values.clone();
        with[at.index(values.len())] = outlier;
        let mut sorted = values;
        sorted.sort_unstable();
        let (middle, odd) = (sorted.len() / 2, sorted.len() % 2);
        let moved = RunningMedian::of(&with).median().unwrap();
        let below = sorted[(middle - 1).saturating_sub(1 - odd)];
        let above = sorted[(middle + 1).min(sorted.len() - 1)];
        prop_assert!((below..=above).contains(&moved), "{moved} is not in {below}..={above}");
    }

    #[test]
    fn thirty_one_outliers_leave_the_baseline_among_the_good_values(
        outliers in vec(any::<u32>(), 31), good in vec(10_000u32..20_000, 32), turn in 0usize..WINDOW,
    ) {
        let mut values = [outliers, good].concat();
        values.rotate_left(turn);
        prop_assert!((10_000..20_000).contains(&RunningMedian::of(&values).median().unwrap()));
    }

    #[test]
    fn a_step_is_slow_by_the_documented_rule(usual in vec(0u64..200_000, 20..80), took in 0u64..800_000) {
        let mut history = History::new(Settings::default());
        for micros in &usual {
            history.evaluate(&mut run("mail01", &[("FETCH", *micros)]));
        }
        let values: Vec<_> = usual.iter().map(|value| u32::try_from(*value).unwrap()).collect();
        let baseline = u64::from(naive(&values));
        prop_assert_eq!(slow(&mut history, "FETCH", took), took > 3 * baseline && took >= baseline + 10_000);
    }

    #[test]
    fn after_a_lasting_change_the_baseline_follows_within_a_hundred_runs_and_that_is_reported_once(
        before in vec(80_000u64..125_000, 63..150), after in vec(80_000u64..125_000, 100), up in any::<bool>(),
    ) {
        let mut history = History::new(Settings::default());
        let factor = |late| if late == up { 4 } else { 1 };
        let mut shifts = Vec::new();
        for (micros, factor) in before.iter().map(|it| (it, factor(false))).chain(after.iter().map(|it| (it, factor(true)))) {
            shifts.extend(history.evaluate(&mut run("mail01", &[("FETCH", micros * factor)])));
        }
        let mut last = run("mail01", &[("FETCH", 0)]);
        history.evaluate(&mut last);
        let range = 80_000 * factor(true)..=125_000 * factor(true);
        prop_assert!(range.contains(&last.steps[0].baseline_s.unwrap().as_micros()));
        // The step's, and that of First Loading Latency, which is the same.
        prop_assert_eq!(shifts.iter().map(|it| it.step.is_some()).collect::<Vec<_>>(), [true, false]);
        prop_assert!(shifts.iter().all(|it| range.contains(&it.to.as_micros())), "{:?}", shifts);
    }

    #[test]
    fn a_spread_of_times_is_no_shift(values in vec(40_000u64..100_000, 400)) {
        let mut history = History::new(Settings::default());
        for micros in values {
            prop_assert_eq!(history.evaluate(&mut run("mail01", &[("FETCH", micros)])), []);
        }
    }

    #[test]
    fn a_history_that_was_saved_and_read_back_judges_alike(
        early in vec(0u64..300_000, 1..150), late in vec(0u64..300_000, 80),
    ) {
        let mut history = History::new(Settings::default());
        for micros in early {
            history.evaluate(&mut run("mail\n01\"", &[("FETCH", micros), ("tls", micros / 7)]));
        }
        let (mut again, damaged) = History::load(Settings::default(), &saved(&history), |_, _| true).unwrap();
        prop_assert_eq!(damaged, 0);
        prop_assert_eq!(saved(&again), saved(&history));
        for micros in late {
            let mut one = run("mail\n01\"", &[("FETCH", micros), ("tls", micros / 7)]);
            let mut other = one.clone();
            prop_assert_eq!(history.evaluate(&mut one), again.evaluate(&mut other));
            prop_assert_eq!(one, other);
        }
    }

    #[test]
    fn targets_never_touch_each_other_in_whatever_order_they_come(
        runs in vec((0usize..3, 0u64..300_000), 1..200),
    ) {
        let names = ["mail01", "mail02", "mail03"];
        let findings = |history: &mut History, runs: &[(usize, u64)], wanted: usize| -> Vec<_> {
            runs.iter()
                .filter_map(|(target, micros)| {
                    let mut run = run(names[*target], &[("FETCH", *micros)]);
                    let shifts = history.evaluate(&mut run);
                    (*target == wanted).then(|| (run.slow, run.steps[0].ratio, shifts))
                })
                .collect()
        };
        for wanted in 0..3 {
            let alone: Vec<_> = runs.iter().copied().filter(|(target, _)| *target == wanted).collect();
            let mixed = findings(&mut History::new(Settings::default()), &runs, wanted);
            prop_assert_eq!(mixed, findings(&mut History::new(Settings::default()), &alone, wanted));
        }
    }
}
