use imaptrace_record::{Seconds, ServerText, SetupStep, Step, StepOutcome, UsualFacts};
use proptest::prelude::*;

use super::*;
use crate::server_events::{assemble, parse};

fn ms(millis: u64) -> Seconds {
    Seconds::from_micros(millis * 1_000)
}

/// The usual run: each step with what it usually takes, and a baseline for each.
fn usual_run() -> Run {
    let mut run: Run = serde_json::from_str(imaptrace_testkit::PASSED_RUN).unwrap();
    run.server_events = None;
    run.verdict = None;
    (run.slow, run.uncertain, run.uncertainty_s) = (None, None, None);
    run.baseline_s = run.first_loading_latency_s;
    run.baseline_day_s = None;
    for step in &mut run.steps {
        (step.slow, step.uncertain, step.uncertainty_s) = (None, None, None);
        step.baseline_s = Some(step.duration_s);
        step.baseline_day_s = None;
        step.reported_s = None;
    }
    run
}

/// The usual run in which these steps took so many milliseconds more, all of it waits for the server.
fn slow_run(steps: &[(&str, u64)]) -> Run {
    let mut run = usual_run();
    for (name, more) in steps {
        let step = step_mut(&mut run, name);
        step.duration_s = step.duration_s.saturating_add(ms(*more));
        step.server_s = Some(step.server_s.unwrap_or_default().saturating_add(ms(*more)));
        step.first_byte_s = step.first_byte_s.map(|first| first.saturating_add(ms(*more)));
        step.slow = Some(true);
        run.first_loading_latency_s = run.first_loading_latency_s.map(|all| all.saturating_add(ms(*more)));
        run.duration_s = run.duration_s.saturating_add(ms(*more));
    }
    run.slow = Some(true);
    run
}

fn step_mut<'a>(run: &'a mut Run, name: &str) -> &'a mut Step {
    run.steps.iter_mut().find(|step| step.name.as_str() == name).unwrap()
}

/// The run with the server's report about a command, in milliseconds.
fn reported(mut run: Run, name: &str, running: u64, lock: u64) -> Run {
    let id = step_mut(&mut run, name).span_id.unwrap();
    let body = format!(
        r#"{{"event":"imap_command_finished","hostname":"mail01","start_time":"2026-11-23T11:42:40.216000Z",
        "end_time":"2026-11-23T11:42:40.216001Z","fields":{{"cmd_tag":"{id}","cmd_name":"{name}","running_usecs":{},
        "lock_wait_usecs":{}}}}}"#,
        running * 1_000,
        lock * 1_000
    );
    run.server_events = assemble(&[parse(body.as_bytes()).unwrap()], &run).map(Box::new);
    run
}

fn cause(run: &Run) -> Option<Cause> {
    diagnose(run).map(|verdict| verdict.cause)
}

#[test]
fn a_usual_run_has_no_verdict_and_neither_has_a_refused_login() {
    assert_eq!(diagnose(&usual_run()), None);
    let mut refused: Run = serde_json::from_str(imaptrace_testkit::FAILED_RUN).unwrap();
    assert_eq!(diagnose(&refused), None);
    refused.error_type = Some(ErrorType::LimitServer);
    let verdict = diagnose(&refused).unwrap();
    assert_eq!((verdict.cause, verdict.share), (Cause::Limit, 1.0));
}

#[test]
fn a_void_run_has_this_machine_as_its_cause_or_none() {
    let mut run = usual_run();
    run.outcome = RunOutcome::Void;
    for (class, expected) in [
        (ErrorType::Suspended, Some(Cause::Prober)),
        (ErrorType::Cancelled, None),
        (ErrorType::SecretUnavailable, None),
    ] {
        run.error_type = Some(class);
        assert_eq!(cause(&run), expected, "{class}");
    }
}

#[test]
fn inside_a_command_only_the_server_can_tell() {
    let run = slow_run(&[("SELECT", 900)]);
    let verdict = diagnose(&run).unwrap();
    assert_eq!((verdict.cause, verdict.second), (Cause::Server, None));
    assert!(verdict.evidence[0].contains("its events would tell"), "{verdict:?}");
    assert_eq!(verdict.step.as_ref().map(StepName::as_str), Some("SELECT"));
    for (running, lock, expected) in [(917, 900, Cause::Lock), (917, 0, Cause::Disk), (10, 0, Cause::ServerCpu)] {
        assert_eq!(cause(&reported(run.clone(), "SELECT", running, lock)), Some(expected), "{running} {lock}");
    }
}

/// The run with these further events of its session, as JSON.
fn with_events(mut run: Run, bodies: &[String]) -> Run {
    let events: Vec<_> = bodies.iter().map(|body| parse(body.as_bytes()).unwrap_or_else(|| panic!("{body}"))).collect();
    run.server_events = assemble(&events, &run).map(Box::new);
    run
}

fn event(name: &str, (from, until): (u64, u64), fields: &str) -> String {
    format!(
        r#"{{"event":"{name}","hostname":"mail01","start_time":"2026-11-23T11:42:4{}.{:03}Z","end_time":"2026-11-23T11:42:4{}.{:03}Z",
        "fields":{{"session":"s"{fields}}}}}"#,
        from / 1_000,
        from % 1_000,
        until / 1_000,
        until % 1_000
    )
}

#[test]
fn a_command_without_an_event_of_its_own_is_not_put_down_to_lock_disk_or_cpu() {
    let of_command = |run: &Run, name: &str| {
        let id = run.steps.iter().find(|step| step.name.as_str() == name).unwrap().span_id.unwrap();
        event(
            "imap_command_finished",
            (210, 211),
            &format!(r#","cmd_tag":"{id}","cmd_name":"{name}","running_usecs":1000"#),
        )
    };
    // Given up: the server posts its event when the command ends. The others are late by little.
    let mut given_up = slow_run(&[("SELECT", 3_900), ("FETCH", 3)]);
    step_mut(&mut given_up, "SELECT").outcome = StepOutcome::Failed;
    let events = [of_command(&given_up, "FETCH")];
    let verdict = diagnose(&with_events(given_up, &events)).unwrap();
    assert_eq!(verdict.cause, Cause::Server, "{verdict:?}");
    assert!(verdict.evidence[0].contains("the server sent no event"), "{verdict:?}");
    // Its own time is in the tagged line, and whether that was a lock is not known.
    let mut lost = slow_run(&[("SELECT", 900)]);
    step_mut(&mut lost, "SELECT").reported_s = Some(ms(915));
    let events = [of_command(&lost, "FETCH")];
    let verdict = diagnose(&with_events(lost, &events)).unwrap();
    assert_eq!(verdict.cause, Cause::Server, "{verdict:?}");
    assert!(verdict.evidence[0].contains("in the command, and the server sent no event"), "{verdict:?}");
}

#[test]
fn a_slow_start_of_a_session_is_a_limit_only_where_a_lookup_of_its_process_shows_it() {
    let client = event("auth_client_request_finished", (200, 210), "");
    let late = event("auth_userdb_request_finished", (1_600, 1_601), r#","result":"ok""#);
    let run = slow_run(&[("LOGIN", 1_500)]);
    assert_eq!(cause(&with_events(run.clone(), &[client.clone(), late])), Some(Cause::Limit));
    assert_eq!(cause(&with_events(run, &[client])), Some(Cause::Server));
}

#[test]
fn other_servers_than_dovecot_are_diagnosed_by_the_same_rules() {
    for name in [Some("Cyrus IMAP"), Some("Courier-IMAP"), None] {
        let named = |mut run: Run| {
            run.server.id_name = name.map(|name| ServerText::new(name.as_bytes(), 64));
            run
        };
        assert_eq!(cause(&named(slow_run(&[("SELECT", 900)]))), Some(Cause::Server), "{name:?}");
        assert_eq!(cause(&named(slow_run(&[("resolve", 900)]))), Some(Cause::Dns), "{name:?}");
        // Cyrus reports its own time in the tagged line.
        let mut slow = named(slow_run(&[("FETCH", 900)]));
        step_mut(&mut slow, "FETCH").reported_s = Some(ms(900));
        assert_eq!(cause(&slow), Some(Cause::Server), "{name:?}");
        // A slow login of another server is no delay of Dovecot's.
        let verdict = diagnose(&named(slow_run(&[("LOGIN", 4_000)]))).unwrap();
        let penalty = verdict.cause == Cause::AuthPenalty;
        assert_eq!(penalty, name.is_none(), "{verdict:?}");
    }
}

#[test]
fn a_login_alone_has_two_causes_without_the_servers_report() {
    let verdict = diagnose(&slow_run(&[("LOGIN", 1_500)])).unwrap();
    assert_eq!((verdict.cause, verdict.second), (Cause::AuthBackend, Some(Cause::Limit)));
    assert!(verdict.share < Verdict::HALF && verdict.is_probable());
}

#[test]
fn transfer_is_bandwidth_and_segments_sent_again_are_loss() {
    let mut slow = slow_run(&[("FETCH", 0)]);
    let fetch = step_mut(&mut slow, "FETCH");
    fetch.duration_s = fetch.duration_s.saturating_add(ms(800));
    fetch.transfer_s = Some(ms(800));
    assert_eq!(cause(&slow), Some(Cause::Bandwidth));
    step_mut(&mut slow, "FETCH").retransmits = Some(4);
    assert_eq!(cause(&slow), Some(Cause::Loss));
}

#[test]
fn a_longer_round_trip_of_all_steps_is_distance_and_an_uneven_one_a_queue() {
    let far = |uneven: u64| {
        let mut run = slow_run(&[]);
        run.usual = Some(Box::new(UsualFacts { rtt_min_s: Some(Seconds::from_micros(300)), ..Default::default() }));
        run.server.rtt_min_s = Some(ms(60));
        for (number, step) in run.steps.iter_mut().enumerate().filter(|(_, step)| step.outcome == StepOutcome::Passed) {
            let more = if step.name == SetupStep::Resolve { Seconds::ZERO } else { ms(60) };
            let more = more.saturating_add(ms(uneven * (number as u64 % 3)));
            step.duration_s = step.duration_s.saturating_add(more);
            step.first_byte_s = step.first_byte_s.map(|first| first.saturating_add(more));
            (step.network_s, step.rtt_min_s) = (Some(ms(60)), Some(ms(60)));
        }
        run.first_loading_latency_s = Some(ms(600));
        run
    };
    assert_eq!(cause(&far(0)), Some(Cause::Distance));
    assert_eq!(cause(&far(40)), Some(Cause::Bandwidth));
}

#[test]
fn a_handshake_that_waits_is_a_limit_and_one_with_a_new_certificate_is_not() {
    let mut slow = slow_run(&[("tls", 900)]);
    assert_eq!(cause(&slow), Some(Cause::Limit));
    slow.usual = Some(Box::new(UsualFacts { certificate_changed: Some(true), ..Default::default() }));
    assert_eq!(cause(&slow), Some(Cause::Tls));
}

#[test]
fn pauses_between_the_steps_are_our_own_even_where_no_step_is_slow() {
    let mut paused = usual_run();
    paused.agent_s = Some(ms(200));
    paused.first_loading_latency_s = Some(ms(253));
    let verdict = diagnose(&paused).unwrap();
    assert_eq!((verdict.cause, verdict.share), (Cause::Prober, 1.0));
    paused.agent_s = Some(ms(20));
    assert_eq!(diagnose(&paused), None);
}

#[test]
fn evidence_has_at_most_five_texts_of_120_bytes() {
    let all = ["tls", "greeting", "LOGIN", "SELECT", "FETCH"].map(|name| (name, 300));
    let mut run = slow_run(&all);
    let long = StepName::Other("ä".repeat(200));
    let more: Vec<Step> = (0..9).map(|_| Step { name: long.clone(), ..step_mut(&mut run, "SELECT").clone() }).collect();
    run.steps.extend(more);
    let verdict = diagnose(&run).unwrap();
    assert!(verdict.evidence.len() <= Verdict::MAX_TEXTS && verdict.against.len() <= Verdict::MAX_TEXTS);
    let texts = verdict.evidence.iter().chain(&verdict.against);
    assert!(
        texts.clone().count() > 1 && texts.clone().all(|text| text.len() <= Verdict::MAX_TEXT_BYTES),
        "{verdict:?}"
    );
}

/// What a step may be like, and which of its fields an old record lacks.
type Odd = (u64, u64, u64, u8);

proptest! {
    #[test]
    fn no_record_breaks_it_and_shares_are_parts_of_one(
        steps in prop::collection::vec((0u64..5_000_000, 0u64..5_000_000, 0u64..5_000_000, any::<u8>()), 12),
        pauses in proptest::option::of(0u64..3_000_000), round_trip in proptest::option::of(0u64..200_000),
        has_baseline in any::<bool>(), running in 0u64..2_000, lock in 0u64..2_000,
    ) {
        let mut run = usual_run();
        run.agent_s = pauses.map(Seconds::from_micros);
        run.server.rtt_min_s = round_trip.map(Seconds::from_micros);
        if !has_baseline {
            run.baseline_s = None;
        }
        run.slow = Some(true);
        for (step, odd) in run.steps.iter_mut().zip(&steps) {
            bend(step, *odd);
        }
        for run in [run.clone(), reported(run, "SELECT", running, lock)] {
            let Some(verdict) = diagnose(&run) else { continue };
            prop_assert!((0.0..=1.0).contains(&verdict.share), "{verdict:?}");
            prop_assert_eq!(verdict.second.is_some(), verdict.share < Verdict::HALF, "{:?}", verdict);
            prop_assert!(verdict.second != Some(verdict.cause));
            prop_assert_eq!(diagnose(&run), Some(verdict), "the same run");
        }
    }

    #[test]
    fn the_order_of_events_and_processes_does_not_matter(
        first in 0u64..900, second in 0u64..900, swapped in any::<bool>(),
    ) {
        let run = slow_run(&[("SELECT", 900), ("FETCH", 500)]);
        let mut both = reported(run.clone(), "SELECT", 917, first);
        let fetch = reported(run, "FETCH", second, 0).server_events.unwrap();
        let server = both.server_events.as_mut().unwrap();
        server.events.extend(fetch.events);
        let expected = diagnose(&both);
        if swapped {
            both.server_events.as_mut().unwrap().events.reverse();
        }
        prop_assert_eq!(diagnose(&both), expected);
    }
}

fn bend(step: &mut Step, (took, usual, part, lacks): Odd) {
    let seconds = Seconds::from_micros;
    step.duration_s = seconds(took);
    step.baseline_s = (lacks & 1 == 0).then(|| seconds(usual));
    step.transfer_s = (lacks & 2 == 0).then(|| seconds(part.min(took)));
    step.network_s = (lacks & 4 == 0).then(|| seconds(part / 3));
    step.rtt_min_s = (lacks & 8 == 0).then(|| seconds(part / 9));
    step.first_byte_s = (lacks & 16 == 0).then(|| seconds(took / 2));
    step.reported_s = (lacks & 32 != 0).then(|| seconds(part));
    step.retransmits = (lacks & 64 != 0).then_some(1);
    step.delayed_s = (lacks & 128 != 0).then(|| seconds(part / 5));
}
