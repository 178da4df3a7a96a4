//! What else is usual for an account: messages, round trip, certificate.

use std::time::UNIX_EPOCH;

use imaptrace_record::{Timestamp, TlsFacts, UsualFacts};

use super::*;

/// A run with so many messages, a round trip, and a certificate, in this hour.
pub(super) fn usual_run(messages: u64, rtt: u64, certificate: Option<u8>, hour: u64) -> Run {
    let mut run = run("mail01", &[("tls", 20_000), ("SELECT", 2_000), ("FETCH", 9_000)]);
    let tls = certificate
        .map(|number| Box::new(TlsFacts { sha256: Some(format!("{number:02X}").repeat(32)), ..TlsFacts::default() }));
    run.steps[0].tls = tls;
    (run.steps[1].mailbox, run.steps[1].mailbox_messages) = (Some("INBOX".to_owned()), Some(messages));
    run.server.rtt_min_s = Some(Seconds::from_micros(rtt));
    run.started_at = Timestamp::from(UNIX_EPOCH + Duration::from_secs((495_000 + hour) * 3_600));
    run
}

/// What a slow run with this certificate is compared with; it does not enter, since it failed.
fn usual(history: &mut History, certificate: Option<u8>, hour: u64) -> Option<UsualFacts> {
    let mut run = usual_run(0, 9_000, certificate, hour);
    run.outcome = RunOutcome::Failed;
    history.evaluate(&mut run);
    run.usual.map(|usual| *usual)
}

fn is_new(history: &mut History, certificate: u8, hour: u64) -> Option<bool> {
    usual(history, Some(certificate), hour).and_then(|usual| usual.certificate_changed)
}

fn key() -> HistoryKey {
    HistoryKey::new("mail01", "default", "first-load", None)
}

#[test]
fn the_usual_facts_are_running_medians_of_passed_runs_and_stand_on_slow_and_failed_runs_alone() {
    let mut history = History::new(Settings::default());
    for number in 0..20 {
        assert_eq!(usual(&mut history, Some(1), 0), None, "{number}");
        assert_eq!(history.usual_messages(&key(), "INBOX"), None);
        let mut quick = usual_run(1_000 + number, 300 + number, Some(1), 0);
        history.evaluate(&mut quick);
        assert_eq!(quick.usual, None);
    }
    let expected = UsualFacts {
        messages: Some(1_009),
        rtt_min_s: Some(Seconds::from_micros(309)),
        certificate_changed: Some(false),
        certificate_sha256: None,
    };
    assert_eq!(usual(&mut history, Some(1), 0), Some(expected.clone()));
    let changed =
        UsualFacts { certificate_changed: Some(true), certificate_sha256: Some("01".repeat(32)), ..expected.clone() };
    assert_eq!(usual(&mut history, Some(2), 0), Some(changed));
    let unseen = UsualFacts { certificate_changed: None, ..expected };
    assert_eq!(usual(&mut history, None, 0), Some(unseen));
    // A slow run that passed has them, and enters.
    let mut slow = usual_run(1_000, 300, Some(1), 0);
    slow.steps[2].duration_s = Seconds::from_micros(900_000);
    history.evaluate(&mut slow);
    assert_eq!((slow.slow, slow.usual.unwrap().messages), (Some(true), Some(1_009)));
}

#[test]
fn the_usual_number_of_messages_is_of_one_mailbox_and_a_failed_run_does_not_move_it() {
    let mut history = History::new(Settings::default());
    (0..63).for_each(|_| drop(history.evaluate(&mut usual_run(5_000_000_000, 300, None, 0))));
    assert_eq!(history.usual_messages(&key(), "INBOX"), Some(u32::MAX.into()));
    (0..63).for_each(|_| drop(history.evaluate(&mut usual_run(200, 300, None, 0))));
    (0..63).for_each(|_| drop(usual(&mut history, None, 0)));
    assert_eq!(history.usual_messages(&key(), "INBOX"), Some(200));
    assert_eq!(history.usual_messages(&key(), "Archive"), None);
    let other = HistoryKey::new("mail01", "default", "first-load", Some(AddressFamily::Ipv6));
    assert_eq!(history.usual_messages(&other, "INBOX"), None);
    // Another mailbox is configured: it has a history of its own.
    for number in 0..20 {
        assert_eq!(history.usual_messages(&key(), "Archive"), None, "{number}");
        let mut run = usual_run(7, 300, None, 0);
        run.steps[1].mailbox = Some("Archive".to_owned());
        history.evaluate(&mut run);
    }
    assert_eq!(history.usual_messages(&key(), "Archive"), Some(7));
    assert_eq!(history.usual_messages(&key(), "INBOX"), None);
}

#[test]
fn a_certificate_is_new_until_the_running_baseline_has_followed() {
    let mut history = History::new(Settings::default());
    (0..63).for_each(|_| drop(history.evaluate(&mut usual_run(200, 300, Some(1), 0))));
    for number in 0..63 {
        assert_eq!(is_new(&mut history, 2, 0), Some(number < 32), "{number}");
        assert_eq!(is_new(&mut history, 1, 0), Some(false), "{number}");
        history.evaluate(&mut usual_run(200, 300, Some(2), 0));
    }
    // The old one again: no run of the baseline saw it.
    assert_eq!(is_new(&mut history, 1, 0), Some(true));
}

#[test]
fn a_certificate_is_new_until_the_days_baseline_has_followed() {
    let mut history = History::new(Settings::default());
    let hours = |history: &mut History, hours: std::ops::Range<u64>, certificate| {
        for hour in hours {
            (0..40).for_each(|_| drop(history.evaluate(&mut usual_run(200, 300, Some(certificate), hour))));
        }
    };
    hours(&mut history, 0..24, 1);
    for hour in 24..40 {
        // Before its last hour has ended, 23 hours are in the day.
        assert_eq!(is_new(&mut history, 2, hour), Some(hour <= 24 + 12), "{hour}");
        hours(&mut history, hour..hour + 1, 2);
    }
    hours(&mut history, 40..60, 2);
    assert_eq!(is_new(&mut history, 1, 60), Some(true));
}

#[test]
fn a_farm_of_servers_with_a_certificate_each_changes_none() {
    let mut history = History::new(Settings::default());
    for number in 0..40u64 * 30 {
        let (certificate, hour) = (u8::try_from(number * 7 % 5).unwrap(), number / 40);
        let mut run = usual_run(200, 300, Some(certificate), hour);
        run.outcome = RunOutcome::Failed;
        history.evaluate(&mut run);
        let changed = run.usual.as_ref().and_then(|usual| usual.certificate_changed);
        assert!(number < 63 || changed == Some(false), "{number}: {changed:?}");
        run.outcome = RunOutcome::Passed;
        history.evaluate(&mut run);
    }
    // However many there are, no more than eight are remembered.
    for number in 0..200u8 {
        history.evaluate(&mut usual_run(200, 300, Some(number), 31));
    }
    let line = history.line(&history.keys()[0]).unwrap();
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    let seen = line["certificates"]["seen"].as_array().unwrap();
    assert_eq!(seen.len(), 8);
    assert!(seen.iter().any(|one| one["sha256"] == "C7".repeat(32)), "{seen:?}");
}

#[test]
fn what_is_usual_outlives_a_restart_and_what_is_impossible_is_damage() {
    let mut history = History::new(Settings::default());
    for number in 0..100 {
        history.evaluate(&mut usual_run(1_000 + number, 300 + number, Some(u8::from(number > 70)), number / 10));
    }
    let text = saved(&history);
    let (mut again, damaged) = History::load(Settings::default(), &text, |_, _| true).unwrap();
    assert_eq!((damaged, saved(&again) == text), (0, true));
    for certificate in [0, 1, 2] {
        assert_eq!(usual(&mut again, Some(certificate), 10), usual(&mut history, Some(certificate), 10));
    }
    assert_eq!(again.usual_messages(&key(), "INBOX"), Some(1_068));
    let many = format!("\"messages\":[{}", "7,".repeat(9));
    for (from, to) in [
        ("\"messages\":[", many.as_str()),
        ("\"rtt_us\":[", "\"rtt_us\":[-1,"),
        ("\"sha256\":\"00", "\"sha256\":\"0"),
        ("\"sha256\":\"00", "\"sha256\":\"+0"),
        ("\"certificates\":{\"runs\":63", "\"certificates\":{\"runs\":12"),
        ("\"certificates\":{\"runs\":63", "\"certificates\":{\"runs\":64"),
        ("\"hours\":10,\"hour\"", "\"hours\":2,\"hour\""),
    ] {
        assert!(text.contains(from), "{from} in {text}");
        let (_, damaged) = History::load(Settings::default(), &text.replace(from, to), |_, _| true).unwrap();
        assert_eq!(damaged, 1, "{from} to {to}");
    }
}
