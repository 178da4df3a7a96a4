//! Series of many accounts, spread over partitions.

use super::*;

#[test]
fn every_series_of_many_targets_is_kept_once_and_none_overflows() {
    for exponential in [false, true] {
        let bench = Bench::new(&MetricsSettings { exponential, ..Default::default() });
        let run = samples::passed();
        for _ in 0..2 {
            of_targets(300, &run).for_each(|run| bench.metrics.record(&run));
        }
        let up = bench.series(names::PROBE_UP);
        assert_eq!(up.len(), 300);
        let operations = bench.series(names::OPERATION_DURATION);
        assert_eq!(operations.len(), 300 * 3);
        assert!(operations.iter().all(|(_, count)| is(*count, 2)), "each command entered twice");
        let all = words_of_all(&bench);
        let mut distinct = all.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), all.len());
        assert!(all.iter().all(|(_, words)| words.iter().all(|word| !word.contains("overflow"))));
        assert_eq!(prometheus_series(&bench), bench.metrics.series());
    }
}

#[test]
fn a_target_that_is_not_retained_is_exported_once_more_and_its_late_runs_are_not_counted() {
    let bench = Bench::new(&MetricsSettings::default());
    let run = samples::passed();
    of_targets(100, &run).for_each(|run| bench.metrics.record(&run));
    let before = bench.metrics.series();
    bench.metrics.retain(|subject| subject.target != "mail007");
    assert_eq!(
        bench.metrics.series() + 3 * (before / 100 - 4),
        before - before / 100,
        "three begin anew: gauges alone"
    );
    let of_seven = |bench: &Bench| {
        words_of_all(bench)
            .into_iter()
            .filter(|(_, words)| words.contains(&"imaptrace.target.name=mail007".into()))
            .count()
    };
    // What leaves is text once more.
    bench.collected();
    assert_eq!(of_seven(&bench), 0);
    bench.metrics.record(&Run { target: "mail007".into(), ..run.clone() });
    assert_eq!(of_seven(&bench), 0, "a run that was under way");
    assert_eq!(overflows(&bench), 0);

    // Its neighbours' gauges are still there, and their sums begin anew; all others go on.
    assert_eq!(bench.series(names::PROBE_UP).len(), 99);
    assert_eq!(bench.series(names::MAILBOX_MESSAGES).len(), 99);
    of_targets(100, &run).for_each(|run| bench.metrics.record(&run));
    let counts = bench.series(names::PROBE_FIRST_LOADING_DURATION);
    assert_eq!(counts.len(), 99);
    let anew = counts.iter().filter(|(_, count)| is(*count, 1)).count();
    assert_eq!((anew, counts.iter().filter(|(_, count)| is(*count, 2)).count()), (3, 96));
}

#[test]
fn runs_that_end_while_targets_are_removed_are_counted_for_their_targets() {
    let bench = Bench::new(&MetricsSettings::default());
    let run = samples::passed();
    of_targets(400, &run).for_each(|run| bench.metrics.record(&run));
    let goes = |target: &str| target.ends_with('7');
    std::thread::scope(|scope| {
        // Of targets that are known, and of others that come meanwhile and share their messages.
        let ending = scope.spawn(|| of_targets(800, &run).for_each(|run| bench.metrics.record(&run)));
        bench.metrics.retain(move |subject| !goes(subject.target));
        ending.join().unwrap();
    });
    bench.collected();
    of_targets(800, &run).for_each(|run| bench.metrics.record(&run));
    let up = bench.series(names::PROBE_UP);
    assert_eq!(up.len(), 720);
    assert!(up.iter().flat_map(|(words, _)| words).all(|word| !goes(word)), "{up:?}");
    assert_eq!(overflows(&bench), 0);
    let collections = bench.metrics.collections();
    assert_eq!(collections.iter().filter(|it| it.is_retired).count(), 0);
    bench.metrics.retain(|_| false);
    assert_eq!(bench.metrics.series(), 0, "no series is counted twice, or not at all");
}

#[test]
fn a_removed_series_is_exported_until_it_is_delivered() {
    let bench = Bench::new(&MetricsSettings::default());
    bench.metrics.record(&samples::passed());
    bench.metrics.retain(|subject| subject.target != "mail01");
    assert_eq!(bench.metrics.series(), 0);
    let text = || bench.metrics.collections().iter().filter_map(Collection::collect).count();
    assert_eq!((text(), text()), (2, 2), "the receiver was away: what left, and the agent's own");
    bench.collected();
    assert_eq!(text(), 1);
    // A later plan may contain it again.
    bench.metrics.retain(|_| true);
    bench.metrics.record(&samples::passed());
    assert_eq!(bench.series(names::PROBE_UP).len(), 1);
}

#[test]
fn a_changed_label_makes_a_new_account_and_the_old_one_can_be_removed() {
    let settings = MetricsSettings { labels: ["rack".into()].into(), ..Default::default() };
    let bench = Bench::new(&settings);
    let mut run = samples::passed();
    bench.metrics.record(&run);
    run.labels.insert("rack".into(), "b1".into());
    bench.metrics.record(&run);
    assert_eq!(bench.series(names::PROBE_UP).len(), 2);
    bench.metrics.retain(|subject| subject.labels.get("rack") == Some(&"b1"));
    bench.collected();
    bench.metrics.record(&run);
    let up = bench.series(names::PROBE_UP);
    assert_eq!(up.len(), 1);
    assert!(up[0].0.contains(&"imaptrace.label.rack=b1".into()), "{up:?}");
}

#[test]
fn accounts_that_fail_in_many_ways_are_spread_and_nothing_is_lost() {
    let bench = Bench::new(&MetricsSettings::default());
    let run = samples::failed();
    // Four share a message that has room for three ways each.
    for class in &ErrorType::ALL[..20] {
        for run in of_targets(4, &run) {
            bench.metrics.record(&Run { error_type: Some(*class), ..run });
        }
    }
    assert_eq!(overflows(&bench), 0);
    bench.collected();
    let up = bench.series(names::PROBE_UP);
    assert_eq!(up.len(), 4, "gauges move along");
    let partitions = bench.collected().len() - 1;
    assert!(partitions > 1, "{partitions}");
}

#[test]
fn an_account_alone_may_fail_in_every_way_there_is() {
    let bench = Bench::new(&MetricsSettings::default());
    for _ in 0..3 {
        for class in ErrorType::ALL {
            bench.metrics.record(&Run { error_type: Some(*class), ..samples::failed() });
        }
        assert_eq!(overflows(&bench), 0);
        bench.collected();
    }
    assert_eq!(bench.series(names::PROBE_DURATION).len(), ErrorType::ALL.len());
    assert_eq!(bench.series(names::PROBE_UP).len(), 1);
}

#[test]
fn a_too_long_message_is_split_and_an_account_too_long_for_one_is_reported() {
    let bench = Bench::new(&MetricsSettings { labels: ["rack".into()].into(), ..full() });
    let mut run = samples::failed();
    // Two accounts of few series fit, until they have all of theirs.
    run.labels.insert("rack".into(), "x".repeat(70_000));
    of_targets(3, &run).for_each(|run| bench.metrics.record(&run));
    let long = Run { labels: run.labels.clone(), ..samples::passed() };
    of_targets(3, &long).for_each(|run| bench.metrics.record(&run));
    assert_eq!(overflows(&bench), 0);
    bench.collected();
    let sizes: Vec<usize> = bench.collected().iter().map(bytes).collect();
    assert!(sizes.len() > 3 && sizes.iter().all(|bytes| *bytes < 4 << 20), "{sizes:?}");

    run.labels.insert("rack".into(), "x".repeat(400_000));
    bench.metrics.record(&Run { labels: run.labels, ..samples::passed() });
    assert!(overflows(&bench) > 0);
}

/// What a message takes as protobuf.
fn bytes(all: &ResourceMetrics) -> usize {
    ExportMetricsServiceRequest::from(all).encoded_len()
}

#[test]
fn over_the_limit_new_series_are_counted_as_overflow_and_old_ones_continue() {
    let bench = Bench::new(&MetricsSettings { series_limit: 100, ..Default::default() });
    let run = samples::passed();
    of_targets(10, &run).for_each(|run| bench.metrics.record(&run));
    assert_eq!(bench.metrics.series(), 100);
    let lost = overflows(&bench);
    assert!(lost > 0);
    bench.metrics.record(&Run { target: "mail000".into(), ..run.clone() });
    assert_eq!(overflows(&bench), lost, "an account that has its series loses nothing");
    assert!(words_of_all(&bench).iter().all(|(_, words)| words.iter().all(|word| !word.contains("otel"))));
    // What a removal sets free is there for others.
    bench.metrics.retain(|subject| subject.target == "mail009");
    bench.collected();
    bench.metrics.record(&Run { target: "mail009".into(), ..run });
    assert_eq!(overflows(&bench), lost);
    assert_eq!(bench.series(names::OPERATION_DURATION).len(), 3);
}
