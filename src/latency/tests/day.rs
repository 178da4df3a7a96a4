//! The day's baseline, and First Loading Latency.

use std::time::UNIX_EPOCH;

use imaptrace_record::Timestamp;

use super::*;

/// A full hour in 2026.
const START: u64 = 495_000;

/// A run of FETCH alone that began so many seconds after [`START`].
fn fetch_at(second: u64, micros: u64) -> Run {
    let mut run = run("mail01", &[("FETCH", micros)]);
    run.started_at = Timestamp::from(UNIX_EPOCH + Duration::from_secs(START * 3_600 + second));
    run
}

/// Evaluates FETCH, and gives its day's baseline in microseconds, and whether it is slow. First Loading Latency is the same.
fn evaluate(history: &mut History, second: u64, micros: u64) -> (Option<u64>, bool) {
    let mut run = fetch_at(second, micros);
    history.evaluate(&mut run);
    let step = &run.steps[0];
    assert_eq!((run.baseline_day_s, run.ratio_day, run.slow), (step.baseline_day_s, step.ratio_day, step.slow));
    assert_eq!((run.baseline_s, run.ratio), (step.baseline_s, step.ratio));
    (step.baseline_day_s.map(Seconds::as_micros), step.slow.is_some())
}

/// The same for a series of hours, with this many runs in each.
fn hours(history: &mut History, hours: std::ops::Range<u64>, runs: u64, micros: u64) -> Vec<(Option<u64>, bool)> {
    let times = hours.flat_map(|hour| (0..runs).map(move |number| hour * 3_600 + number * (3_600 / runs)));
    times.map(|second| evaluate(history, second, micros)).collect()
}

#[test]
fn a_day_has_a_baseline_from_six_whole_hours_on() {
    let mut history = History::new(Settings::default());
    let found = hours(&mut history, 0..7, 20, 20_000);
    let first = found.iter().position(|(day, _)| day.is_some());
    assert_eq!(first, Some(6 * 20), "the first run of the seventh hour");
    assert_eq!(found[120].0, Some(20_000));
    // Six hours with fewer runs in all than there must be.
    let mut history = History::new(Settings::default());
    let found = hours(&mut history, 0..20, 2, 20_000);
    assert_eq!(found.iter().position(|(day, _)| day.is_some()), Some(20));
}

#[test]
fn a_step_that_became_slow_is_slow_for_half_a_day_and_its_running_baseline_has_long_followed() {
    let mut history = History::new(Settings::default());
    hours(&mut history, 0..24, 20, 20_000);
    let found = hours(&mut history, 24..60, 20, 200_000);
    // While eleven hours of 24 are slow, the median is what it was. At twelve it is the mean of both levels.
    let slow: Vec<_> = found.iter().take_while(|(_, slow)| *slow).map(|(day, _)| *day).collect();
    assert_eq!(slow, [Some(20_000); 240]);
    assert_eq!(found[240], (Some(110_000), false));
    assert!(!found[240..].iter().any(|(_, slow)| *slow));
    assert_eq!(found[260].0, Some(200_000));
    // And on the way back nothing is slow.
    let found = hours(&mut history, 60..90, 20, 20_000);
    assert!(!found.iter().any(|(_, slow)| *slow));
    assert_eq!(found.last().unwrap().0, Some(20_000));
}

#[test]
fn the_slow_period_of_a_chronic_change_is_one_and_ends_with_a_warning_when_the_day_has_followed() {
    let mut history = History::new(Settings::default());
    let mut period = SlowPeriod::default();
    hours(&mut history, 0..24, 20, 20_000);
    let mut reported = Vec::new();
    for number in 0..600 {
        let mut run = fetch_at(24 * 3_600 + number * 180, 200_000);
        history.evaluate(&mut run);
        match period.observe(&run, &Settings::default()) {
            SlowPeriodChange::Nothing => {}
            SlowPeriodChange::Began(step) => reported.push((number, format!("{} began", step.unwrap().name))),
            SlowPeriodChange::Over => reported.push((number, "over".to_owned())),
            SlowPeriodChange::BaselineMoved(moved) => reported.extend(moved.iter().map(|it| {
                let name = it.step.map_or("FLL", |step| step.name.as_str());
                (number, format!("{name} {} {}", it.from.as_micros(), it.to.as_micros()))
            })),
        }
    }
    let expected = [(0, "FETCH began"), (240, "FETCH 20000 110000"), (240, "FLL 20000 110000")];
    assert_eq!(reported, expected.map(|(at, what)| (at, what.to_owned())));
}

#[test]
fn what_is_slow_by_the_day_alone_has_both_ratios_and_can_be_the_slowest_step() {
    let mut history = History::new(Settings::default());
    let usual = [("SELECT", 60_000), ("FETCH", 20_000)];
    let at =
        |second: u64, steps: &[(&str, u64)]| Run { started_at: fetch_at(second, 0).started_at, ..run("mail01", steps) };
    for number in 0..24 * 20 {
        history.evaluate(&mut at(number * 180, &usual));
    }
    let chronic = [("SELECT", 100_000), ("FETCH", 90_000)];
    for number in 0..60 {
        history.evaluate(&mut at(24 * 3_600 + number * 180, &chronic));
    }
    let mut run = at(28 * 3_600, &chronic);
    history.evaluate(&mut run);
    let [select, fetch] = &run.steps[..] else { panic!() };
    assert_eq!((fetch.baseline_s, fetch.ratio), (Some(Seconds::from_micros(90_000)), Some(1.0)));
    assert_eq!((fetch.baseline_day_s, fetch.ratio_day), (Some(Seconds::from_micros(20_000)), Some(4.5)));
    assert_eq!((fetch.highest_ratio(), fetch.lower_baseline()), (Some(4.5), Some(Seconds::from_micros(20_000))));
    assert_eq!((select.slow, fetch.slow, run.slow), (None, Some(true), Some(true)));
    assert_eq!(run.slowest_step.as_ref().map(StepName::as_str), Some("FETCH"));
}

#[test]
fn hours_without_runs_and_a_stop_of_the_agent_are_left_out() {
    let mut history = History::new(Settings::default());
    // Each hour has its own level, so that the baseline shows which of them are in it.
    for hour in 0..8 {
        hours(&mut history, hour..hour + 1, 10, 1_000 * (hour + 1));
    }
    // A week later the eight hours are all that is known.
    let week = 7 * 24;
    assert_eq!(evaluate(&mut history, week * 3_600, 50_000).0, Some(4_500));
    hours(&mut history, week..week + 1, 9, 50_000);
    assert_eq!(evaluate(&mut history, (week + 1) * 3_600, 50_000).0, Some(5_000));
}

#[test]
fn with_runs_rarer_than_hourly_each_is_an_hour_of_its_own() {
    let mut history = History::new(Settings { min_runs: 5, ..Settings::default() });
    let times: Vec<_> =
        (0..30).map(|number| evaluate(&mut history, number * 6 * 3_600, 1_000 * (number + 1)).0).collect();
    assert_eq!(times[..6], [None; 6]);
    assert_eq!(times[6], Some(3_500));
    // The newest 24 of the 29 before.
    assert_eq!(times[29], Some(17_500));
}

#[test]
fn a_clock_that_is_set_neither_ends_the_hours_nor_makes_one_of_a_second() {
    // At a full hour it steps back and forth by a second: the hours are the same as without that.
    let mut steady = History::new(Settings::default());
    let mut unsteady = History::new(Settings::default());
    for hour in 0..8 {
        for (number, late) in [(0, 1), (1, 0), (2, 2), (3, 1), (30, 30), (59, 59)] {
            let micros = 1_000 * (hour + 1) + number;
            evaluate(&mut steady, hour * 3_600 + number, micros);
            evaluate(&mut unsteady, (hour * 3_600 + late).saturating_sub(u64::from(late == 0)), micros);
        }
    }
    assert_eq!(evaluate(&mut steady, 8 * 3_600, 1), evaluate(&mut unsteady, 8 * 3_600, 1));
    // It was a year ahead, and is set right: six hours later there are six more hours.
    let mut history = History::new(Settings::default());
    hours(&mut history, 9_000..9_002, 20, 1_000);
    let found = hours(&mut history, 0..6, 20, 50_000);
    assert_eq!(found.iter().position(|(day, _)| day.is_some()), Some(4 * 20));
    assert_eq!(found.last().unwrap().0, Some(50_000));
    // A clock before 1970, and one at the end of its range.
    for at in [UNIX_EPOCH - Duration::from_secs(9), UNIX_EPOCH + Duration::from_secs(u64::from(u32::MAX) * 7_200)] {
        let mut run = fetch_at(0, 1_000);
        run.started_at = Timestamp::from(at);
        history.evaluate(&mut run);
    }
}

#[test]
fn first_loading_latency_can_be_slow_where_no_step_is() {
    let mut history = History::new(Settings::default());
    let names = ["CAPABILITY", "ID", "LOGIN", "NAMESPACE", "LIST", "SELECT", "FETCH"];
    for _ in 0..30 {
        history.evaluate(&mut run("mail01", &names.map(|name| (name, 4_000))));
    }
    // Each is past three times its baseline and less than 10 ms over it.
    let mut slow = run("mail01", &names.map(|name| (name, 13_000)));
    history.evaluate(&mut slow);
    assert!(slow.steps.iter().all(|step| step.slow.is_none()));
    assert_eq!((slow.slow, slow.baseline_s, slow.ratio), (Some(true), Some(Seconds::from_micros(28_000)), Some(3.25)));
    let mut period = SlowPeriod::default();
    assert_eq!(period.observe(&slow, &Settings::default()), SlowPeriodChange::Began(None));
    // Without First Loading Latency there is nothing to compare, and it is no step: no limit of steps is for it.
    let mut none = Run { first_loading_latency_s: None, ..slow.clone() };
    history.evaluate(&mut none);
    assert_eq!((none.slow, none.baseline_s, none.ratio), (None, None, None));
    let mut limited = History::new(Settings { slow_limit: Some(Duration::from_millis(20)), ..Settings::default() });
    limited.evaluate(&mut slow);
    assert_eq!((slow.slow, slow.baseline_s), (None, None));
}

#[test]
fn a_file_of_a_version_without_a_day_is_read_and_one_with_it_has_what_that_version_needs() {
    let old = r#"{"target":"mail01","account":"default","journey":"first-load","steps":[{"name":"FETCH","runs":25,"settled_us":0,"values_us":[V]}]}"#;
    let old = old.replace('V', &["1000"; 25].join(","));
    let (mut history, damaged) = History::load(Settings::default(), &format!("{HEAD}\n{old}"), |_, _| true).unwrap();
    assert_eq!(damaged, 0);
    let mut run = fetch_at(0, 100_000);
    history.evaluate(&mut run);
    assert_eq!((run.steps[0].slow, run.steps[0].baseline_s), (Some(true), Some(Seconds::from_micros(1_000))));
    assert_eq!((run.steps[0].baseline_day_s, run.baseline_s), (None, None));
    // A version without a day reads these fields, and no others.
    (0..80).for_each(|number| drop(history.evaluate(&mut fetch_at(number * 400, 2_000))));
    let new: serde_json::Value = serde_json::from_str(&history.line(&history.keys()[0]).unwrap()).unwrap();
    for key in ["target", "account", "journey"] {
        assert!(new[key].is_string(), "{key}");
    }
    let step = &new["steps"][0];
    assert!(step["name"].is_string() && step["runs"].is_u64() && step["settled_us"].is_u64());
    assert_eq!(step["values_us"].as_array().unwrap().len(), 63);
}

#[test]
fn impossible_hours_are_damage() {
    let mut history = History::new(Settings::default());
    hours(&mut history, 0..8, 20, 1_000);
    let line = history.line(&history.keys()[0]).unwrap();
    let good = format!("{HEAD}\n{line}");
    assert_eq!(History::load(Settings::default(), &good, |_, _| true).unwrap().1, 0);
    for (from, to) in [
        ("\"hours_us\":[1000,", &*format!("\"hours_us\":[{}", "1000,".repeat(20))),
        ("\"hour_values\":20", "\"hour_values\":64"),
        ("\"hour\":", "\"hour\":-"),
    ] {
        assert!(line.contains(from), "{from} in {line}");
        let text = format!("{HEAD}\n{}", line.replace(from, to));
        assert_eq!(History::load(Settings::default(), &text, |_, _| true).unwrap().1, 1, "{from}");
    }
}

/// The day's baseline by its definition: all values, with the seconds at which they came.
fn naive_day(values: &[(u64, u32)], now: u64) -> Option<u64> {
    let mut hours: Vec<(u64, Vec<u32>)> = Vec::new();
    for (second, value) in values {
        let hour = second / 3_600;
        match hours.last_mut() {
            Some((current, values)) if hour == *current || hour + 1 == *current => values.push(*value),
            _ => hours.push((hour, vec![*value])),
        }
    }
    let now = now / 3_600;
    if hours.last().is_some_and(|(current, _)| now == *current || now + 1 == *current) {
        hours.pop();
    }
    let mut medians: Vec<u32> = hours.iter().rev().take(24).map(|(_, values)| naive(values)).collect();
    (medians.len() >= 6).then(|| {
        medians.sort_unstable();
        let [low, high] = [medians[(medians.len() - 1) / 2], medians[medians.len() / 2]].map(u64::from);
        u64::midpoint(low, high)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_days_baseline_is_the_median_of_the_medians_of_its_hours(
        // Mostly forward by some minutes, at times by hours, and back.
        gaps in vec((prop_oneof![8 => 0i64..1_500, 1 => 3_600i64..90_000, 1 => -9_000i64..0], 0u32..300_000), 1..400),
        restart in any::<prop::sample::Index>(),
    ) {
        let settings = Settings { min_runs: 5, ..Settings::default() };
        let mut history = History::new(settings.clone());
        let (mut second, mut values) = (1_000_000u64, Vec::new());
        let restart = restart.index(gaps.len());
        for (number, (gap, value)) in gaps.into_iter().enumerate() {
            second = second.saturating_add_signed(gap);
            let expected = naive_day(&values, START * 3_600 + second).filter(|_| values.len() >= 5);
            prop_assert_eq!(evaluate(&mut history, second, value.into()).0, expected, "{} {}", number, second);
            values.push((START * 3_600 + second, value));
            if number == restart {
                history = History::load(settings.clone(), &saved(&history), |_, _| true).unwrap().0;
            }
        }
    }
}
