use std::net::{Ipv4Addr, SocketAddr};

use imaptrace_record::{ServerEventName, SpanId};
use opentelemetry_sdk::metrics::{
    InMemoryMetricExporter, SdkMeterProvider,
    data::{AggregatedMetrics, MetricData, ScopeMetrics},
};

use super::*;
use crate::{
    clock,
    plan::Propagation,
    server_events::assemble,
    server_events::samples::{AGE, SampleSession, passed, sender, store},
    telemetry::{Metrics, names},
};

const SECOND: Duration = Duration::from_secs(1);

/// The keys of a run that ends now and began before any event came.
fn keys(run: &imaptrace_record::Run, now: Instant) -> RunKeys {
    RunKeys { began: now.checked_sub(SECOND).unwrap(), ..RunKeys::of(run, Propagation::Off, now) }
}

fn joined(store: &EventStore, run: &imaptrace_record::Run, now: Instant) -> usize {
    store.take(&keys(run, now), now).events.len()
}

fn receive(store: &EventStore, sender: &str, body: &[u8], now: Instant) {
    store.receive(&sender.into(), body, now);
}

/// Another run, with ids and a port of its own.
fn other(run: &imaptrace_record::Run, port: u16) -> imaptrace_record::Run {
    let mut run = run.clone();
    run.server.local = Some(SocketAddr::from((Ipv4Addr::new(192, 0, 2, 9), port)));
    run.steps.iter_mut().for_each(|step| step.span_id = Some(SpanId::random()));
    run
}

#[test]
fn a_run_takes_the_events_with_its_tags_and_those_of_the_same_session() {
    let (store, run, now) = (store(&[("one", &["*"])]), passed(), clock::now());
    let session = SampleSession { run: &run, session: "s1" };
    // From behind a translator of addresses: the connection is another one there.
    let behind = other(&run, 5);
    let translated = SampleSession { run: &behind, session: "s1" };
    receive(&store, "one", &translated.auth(), now);
    receive(&store, "one", &session.command("SELECT"), now);
    assert_eq!(store.complete_at(&keys(&run, now)), None);
    receive(&store, "one", &translated.end(), now);
    assert!(store.complete_at(&keys(&run, now)).is_some());
    assert_eq!(joined(&store, &run, now), 3);
    assert_eq!(joined(&store, &run, now), 0, "they are taken");
}

#[test]
fn a_run_is_complete_with_the_end_of_its_session_and_of_all_its_commands_or_a_moment_later() {
    let (store, run, now) = (store(&[("one", &["*"])]), passed(), clock::now());
    let session = SampleSession { run: &run, session: "s1" };
    let complete = || store.complete_at(&keys(&run, now));
    // Those before the login have no events.
    let commands: Vec<_> = run.steps.iter().filter_map(|step| step.name.command()).collect();
    let after_login = commands.iter().position(|name| name.is_login()).unwrap() + 1;
    let names: Vec<_> = commands[after_login..].iter().map(|name| name.as_str()).collect();
    assert_eq!(names, ["SELECT", "FETCH", "LOGOUT"]);
    for name in &names[..2] {
        receive(&store, "one", &session.command(name), now);
    }
    let logout = run.steps.iter().find(|step| step.name.as_str() == "LOGOUT").unwrap().span_id.unwrap().to_string();
    receive(&store, "one", &session.opened("LOGOUT", &logout), now);
    assert_eq!(complete(), None, "its session has not ended");
    receive(&store, "one", &session.end(), now + SECOND);
    assert_eq!(complete(), Some(now + SECOND + AFTER_END), "LOGOUT is not reported");
    receive(&store, "one", &session.command("LOGOUT"), now + SECOND + Duration::from_millis(20));
    assert_eq!(complete(), Some(now + SECOND));
}

/// The keys of a run whose target sends the trace id as the name of its session.
fn propagated(run: &imaptrace_record::Run, now: Instant) -> RunKeys {
    RunKeys { began: now.checked_sub(SECOND).unwrap(), ..RunKeys::of(run, Propagation::SessionId, now) }
}

#[test]
fn a_session_with_the_name_of_the_trace_is_taken_where_the_target_sends_it_and_from_its_senders() {
    let (run, now) = (passed(), clock::now());
    let (name, far) = (run.trace_id.to_string(), other(&run, 5));
    // Neither its tags nor its connection are those of the run.
    let session = SampleSession { run: &far, session: &name };
    let (store, counts) = counted(&[("one", &["mail*"]), ("two", &["other"])]);
    receive(&store, "two", &session.auth(), now);
    receive(&store, "one", &session.auth(), now);
    assert!(store.complete_at(&propagated(&run, now)).is_none());
    receive(&store, "one", &session.end(), now);
    assert!(store.complete_at(&propagated(&run, now)).is_some());
    assert_eq!(joined(&store, &run, now), 0, "the target of this one does not send it");
    assert_eq!(store.take(&propagated(&run, now), now).events.len(), 2);
    receive(&store, "one", &session.auth(), now);
    let expected = [("one joined", 2), ("one late", 1), ("two rejected", 1)];
    assert_eq!(counts(), expected.map(|(words, count)| (words.to_owned(), count)));
}

#[test]
fn what_comes_under_the_name_of_a_trace_is_late_though_nothing_came_before() {
    let (store, counts) = counted(&[("one", &["mail*"])]);
    let (run, now) = (passed(), clock::now());
    let name = run.trace_id.to_string();
    assert_eq!(store.take(&propagated(&run, now), now).events.len(), 0);
    receive(&store, "one", &SampleSession { run: &other(&run, 5), session: &name }.auth(), now);
    assert_eq!(counts(), [("one late".to_owned(), 1)]);
}

#[test]
fn short_tags_are_known() {
    let (store, run, now) = (store(&[("one", &["*"])]), passed(), clock::now());
    let id = run.steps.iter().find(|step| step.name.as_str() == "SELECT").unwrap().span_id.unwrap().to_string();
    let far = other(&run, 5);
    receive(
        &store,
        "one",
        &SampleSession { run: &far, session: "s1" }.tagged("SELECT", &format!("T{}", id.get(..6).unwrap())),
        now,
    );
    assert_eq!(joined(&store, &run, now), 1);
}

#[test]
fn without_a_tag_all_four_of_the_connection_count_and_the_time() {
    let (store, run, now) = (store(&[("one", &["*"])]), passed(), clock::now());
    // A session over the same connection, before the run began, and one over another port.
    receive(
        &store,
        "one",
        &SampleSession { run: &run, session: "before" }.auth(),
        now.checked_sub(2 * SECOND).unwrap(),
    );
    receive(&store, "one", &SampleSession { run: &other(&run, 6), session: "beside" }.auth(), now);
    assert_eq!(joined(&store, &run, now), 0);
    receive(&store, "one", &SampleSession { run: &run, session: "own" }.auth(), now);
    assert_eq!(joined(&store, &run, now), 1);
}

#[test]
fn a_session_with_tags_of_another_run_is_not_taken_over_the_same_connection() {
    let (store, run, now) = (store(&[("one", &["*"])]), passed(), clock::now());
    receive(&store, "one", &SampleSession { run: &run, session: "s1" }.tagged("SELECT", "0123456789abcdef"), now);
    assert_eq!(joined(&store, &run, now), 0);
}

#[test]
fn a_run_that_still_waits_does_not_take_the_session_of_a_later_connection_with_the_same_ports() {
    let (store, run, now) = (store(&[("one", &["*"])]), passed(), clock::now());
    receive(&store, "one", &SampleSession { run: &run, session: "own" }.auth(), now);
    let later = now + SECOND;
    receive(&store, "one", &SampleSession { run: &run, session: "later" }.auth(), later);
    assert_eq!(store.take(&keys(&run, now), later).session_names(), ["own"]);
    assert_eq!(store.take(&keys(&run, later), later).session_names(), ["later"]);
}

#[test]
fn a_proxy_and_its_back_end_join_one_run() {
    let (store, run, now) = (store(&[("proxy", &["*"]), ("back", &["*"])]), passed(), clock::now());
    receive(&store, "proxy", &SampleSession { run: &run, session: "p" }.auth(), now);
    // The back end sees the proxy as the client, and the tags as they were sent.
    let behind = imaptrace_record::Run { server: other(&run, 7).server, ..run.clone() };
    receive(&store, "back", &SampleSession { run: &behind, session: "b" }.command("FETCH"), now);
    assert_eq!(joined(&store, &run, now), 2);
}

/// A store with counters.
fn counted(senders: &[(&str, &[&str])]) -> (EventStore, impl Fn() -> Vec<(String, u64)>) {
    let exporter = InMemoryMetricExporter::default();
    let provider = SdkMeterProvider::builder().with_periodic_exporter(exporter.clone()).build();
    let senders = senders.iter().map(|(name, targets)| sender(name, targets)).collect::<Vec<_>>();
    let counts = EventCounts::new(&senders, Metrics::of(&provider));
    let store = EventStore::new(senders, counts, AGE);
    let counts = move || {
        provider.force_flush().unwrap();
        let all = exporter.get_finished_metrics().unwrap().pop().unwrap();
        let found =
            all.scope_metrics().flat_map(ScopeMetrics::metrics).find(|it| it.name() == names::SERVER_EVENTS.name);
        let AggregatedMetrics::U64(MetricData::Sum(sum)) = found.unwrap().data() else { panic!("no sum") };
        let words = |point: &opentelemetry_sdk::metrics::data::SumDataPoint<u64>| {
            let mut words: Vec<_> =
                point.attributes().map(|pair| (pair.key.to_string(), pair.value.to_string())).collect();
            words.sort_by(|one, other| other.cmp(one));
            words.into_iter().map(|(_, value)| value).collect::<Vec<_>>().join(" ")
        };
        let mut counts: Vec<_> = sum.data_points().map(|point| (words(point), point.value())).collect();
        counts.sort();
        counts
    };
    (store, counts)
}

#[test]
fn a_sender_takes_no_name_of_a_session_from_another() {
    let (store, run, now) = (store(&[("one", &["mail01"]), ("two", &["other"])]), passed(), clock::now());
    let of_other = imaptrace_record::Run { target: "other".into(), ..other(&run, 9) };
    // Reported with a tag of its own run: the name of the other's session.
    receive(&store, "one", &SampleSession { run: &run, session: "of the other" }.command("SELECT"), now);
    let mut own = run.clone();
    own.target = "mail01".into();
    assert_eq!(joined(&store, &own, now), 1);
    receive(&store, "two", &SampleSession { run: &of_other, session: "of the other" }.command("SELECT"), now);
    assert_eq!(joined(&store, &of_other, now), 1);
}

#[test]
fn what_arrived_about_a_run_of_no_senders_target_is_rejected() {
    let (store, counts) = counted(&[("one", &["mail02"])]);
    let (run, now) = (passed(), clock::now());
    receive(&store, "one", &SampleSession { run: &run, session: "s1" }.command("SELECT"), now);
    store.reject(&keys(&run, now), now);
    assert_eq!(counts(), [("one rejected".to_owned(), 1)]);
}

#[test]
fn a_run_takes_no_more_events_than_it_can_use_and_a_tag_has_few_sessions() {
    let (store, run, now) = (store(&[("one", &["*"])]), passed(), clock::now());
    for session in 0..100 {
        let name = format!("s{session}");
        let session = SampleSession { run: &run, session: &name };
        receive(&store, "one", &session.command("SELECT"), now);
        for number in 0..100 {
            receive(&store, "one", &session.mail("SELECT", number), now);
        }
    }
    let taken = joined(&store, &run, now);
    assert!((1_000..=EVENTS_OF_A_RUN).contains(&taken), "{taken}");
}

#[test]
fn what_becomes_of_each_event_is_counted() {
    let (store, counts) = counted(&[("one", &["mail*"]), ("two", &["other"])]);
    let (run, now) = (passed(), clock::now());
    let own = SampleSession { run: &run, session: "s1" };
    receive(&store, "one", &own.command("SELECT"), now);
    receive(&store, "one", &own.command("SELECT"), now);
    receive(&store, "one", b"{", now);
    // Another sender's target: with a tag, and over the connection.
    receive(&store, "two", &SampleSession { run: &run, session: "s2" }.command("FETCH"), now);
    receive(&store, "two", &SampleSession { run: &run, session: "s3" }.auth(), now);
    store.refused(None);
    store.over_rate("two");
    assert_eq!(joined(&store, &run, now), 1);
    // What comes now is late: by its session, and by its tag.
    receive(&store, "one", &own.end(), now);
    receive(&store, "one", &SampleSession { run: &run, session: "s4" }.command("LOGOUT"), now);
    let later = now + AGE + SECOND;
    joined(&store, &other(&run, 8), later);
    let expected = [
        ("_OTHER rejected", 1),
        ("one joined", 1),
        ("one late", 2),
        ("one rejected", 2),
        ("two full", 1),
        ("two rejected", 1),
        ("two unmatched", 1),
    ];
    assert_eq!(counts(), expected.map(|(words, count)| (words.to_owned(), count)));
}

#[test]
fn mails_that_a_command_opens_leave_room_for_its_end_and_are_all_counted() {
    let (store, counts) = counted(&[("one", &["*"])]);
    let (run, now) = (passed(), clock::now());
    let session = SampleSession { run: &run, session: "s1" };
    for number in 0..3_000 {
        receive(&store, "one", &session.mail("FETCH", number), now);
    }
    // One that came before.
    receive(&store, "one", &session.mail("FETCH", 2_999), now);
    receive(&store, "one", &session.command("FETCH"), now);
    for number in 3_000..3_010 {
        receive(&store, "one", &session.mail("FETCH", number), now);
    }
    receive(&store, "one", &session.end(), now);
    assert!(store.complete_at(&keys(&run, now)).is_some());
    let report = store.take(&keys(&run, now), now);
    let mails: Vec<_> =
        report.events.iter().filter(|event| event.keys().tag.is_none() && !event.keys().finishes).collect();
    // Those behind the end of the command are of another.
    let further: Vec<_> = mails.iter().map(|mail| mail.further).filter(|further| *further > 0).collect();
    assert_eq!((mails.len(), further), (513, vec![2_488, 9]));
    let commands = assemble(&report.events, &run).unwrap().events;
    let fetch = commands.iter().find(|event| event.name == ServerEventName::ImapCommandFinished).unwrap();
    assert_eq!(fetch.mail_opened, Some(3_010), "all have one time here");
    assert_eq!(counts(), [("one joined".to_owned(), 3_012), ("one rejected".to_owned(), 1)]);
    let state = store.state();
    assert!(state.sessions.is_empty());
}

#[test]
fn over_the_memory_the_oldest_go() {
    let (store, counts) = counted(&[("one", &["*"])]);
    let (run, now) = (passed(), clock::now());
    store.state().most_bytes = 64 << 10;
    for number in 0..200 {
        receive(&store, "one", &SampleSession { run: &run, session: &format!("s{number}") }.auth(), now);
    }
    let bytes = store.state().sessions.bytes;
    assert!(bytes <= 64 << 10 && bytes > 32 << 10, "{bytes}");
    assert!(counts().iter().any(|(words, count)| words == "one full" && *count > 0));
    let newest = store.state().sessions.named("s199").count();
    let oldest = store.state().sessions.named("s0").count();
    assert_eq!((newest, oldest), (1, 0));
}

#[test]
fn nothing_is_left_of_what_was_taken_or_has_expired() {
    let (store, run, now) = (store(&[("one", &["*"])]), passed(), clock::now());
    receive(&store, "one", &SampleSession { run: &run, session: "s1" }.command("SELECT"), now);
    receive(&store, "one", &SampleSession { run: &other(&run, 5), session: "s2" }.tagged("LIST", "T123456"), now);
    joined(&store, &run, now);
    joined(&store, &other(&run, 9), now + AGE + SECOND);
    let state = store.state();
    assert!(state.sessions.is_empty(), "the indices are not empty");
}

#[test]
fn a_run_waits_for_its_sender_until_ten_runs_had_none_and_again_after_an_event() {
    let (store, now) = (store(&[("one", &["mail*"]), ("two", &["other"])]), clock::now());
    let run = passed();
    let waits = || store.should_wait(&keys(&run, now));
    for _ in 0..10 {
        assert!(waits());
        joined(&store, &run, now);
    }
    assert!(!waits());
    receive(&store, "two", &SampleSession { run: &run, session: "s1" }.auth(), now);
    assert!(!waits(), "it was another sender");
    receive(&store, "one", &SampleSession { run: &other(&run, 5), session: "s2" }.auth(), now);
    assert!(waits());
}

#[test]
fn a_run_that_did_not_log_in_says_nothing_about_its_sender() {
    let (store, now) = (store(&[("one", &["*"])]), clock::now());
    let failed: imaptrace_record::Run = serde_json::from_str(imaptrace_testkit::FAILED_RUN).unwrap();
    for _ in 0..20 {
        joined(&store, &failed, now);
    }
    assert!(store.should_wait(&keys(&failed, now)));
}

#[test]
fn events_of_a_sender_that_is_replaced_join_by_what_it_may_report_now_and_of_one_that_is_gone_not_at_all() {
    let (store, counts) = counted(&[("one", &["*"]), ("two", &["other"])]);
    let (run, now) = (passed(), clock::now());
    receive(&store, "one", &SampleSession { run: &run, session: "s1" }.command("SELECT"), now);
    receive(&store, "two", &SampleSession { run: &run, session: "s2" }.command("FETCH"), now);
    store.set_senders(vec![sender("two", &["*"]), sender("three", &["*"])]);
    assert_eq!(joined(&store, &run, now), 1);
    assert_eq!(counts(), [("one rejected".to_owned(), 1), ("two joined".to_owned(), 1)]);
    assert!(store.is_for(&run.target));
    store.set_senders(Vec::new());
    assert!(!store.is_for(&run.target));
}

#[test]
fn runs_wait_again_for_a_silent_sender_that_has_changed_and_not_for_one_that_is_as_before() {
    let (store, run, now) = (store(&[("one", &["*"])]), passed(), clock::now());
    let waits = || store.should_wait(&keys(&run, now));
    for _ in 0..10 {
        joined(&store, &run, now);
    }
    store.set_senders(vec![sender("one", &["*"]), sender("two", &["other"])]);
    assert!(!waits());
    store.set_senders(vec![sender("one", &["m*"])]);
    assert!(waits());
}
