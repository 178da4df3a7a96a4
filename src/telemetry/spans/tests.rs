use std::{collections::BTreeSet, time::Duration};

use super::*;
use crate::telemetry::samples;

fn attribute(span: &SpanData, key: &str) -> Option<String> {
    span.attributes.iter().find(|one| one.key.as_str() == key).map(|one| one.value.to_string())
}

fn micros(run: &Run, micros: u64) -> std::time::SystemTime {
    run.started_at.to_system_time() + Duration::from_micros(micros)
}

#[test]
fn a_passed_run_is_a_root_and_one_span_for_each_step_that_ran() {
    let run = samples::passed();
    let spans = spans(&run);
    let text: Vec<_> = spans
        .iter()
        .map(|span| (span.name.as_ref(), span.span_kind.clone(), span.span_context.span_id().to_string()))
        .collect();
    let (inside, client) = (SpanKind::Internal, SpanKind::Client);
    let expected = [
        ("probe first-load", &inside, "b7ad6b7169203331"),
        ("resolve", &inside, "1000000000000001"),
        ("connect", &inside, "1000000000000002"),
        ("tls", &inside, "1000000000000003"),
        ("greeting", &inside, "1000000000000004"),
        ("LOGIN", &client, "1000000000000005"),
        ("SELECT INBOX", &client, "1000000000000006"),
        ("FETCH INBOX", &client, "1000000000000007"),
        ("LOGOUT", &client, "1000000000000008"),
    ];
    assert_eq!(text, expected.map(|(name, kind, id)| (name, kind.clone(), id.to_owned())));
    for span in &spans {
        assert_eq!(span.span_context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(span.span_context.is_sampled());
        assert_eq!(span.status, Status::Unset);
        assert_eq!(span.instrumentation_scope.name(), "imaptrace");
        assert_eq!(span.instrumentation_scope.version(), Some(env!("CARGO_PKG_VERSION")));
    }
    assert_eq!(spans[0].parent_span_id.to_string(), "00f067aa0ba902b7");
    assert!(spans[0].parent_span_is_remote);
    assert!(spans[1..].iter().all(|span| span.parent_span_id.to_string() == "b7ad6b7169203331"));
    assert!(spans[1..].iter().all(|span| !span.parent_span_is_remote));
}

#[test]
fn times_are_those_of_the_record() {
    let run = samples::passed();
    let spans = spans(&run);
    assert_eq!((spans[0].start_time, spans[0].end_time), (micros(&run, 0), micros(&run, 56_100)));
    assert_eq!((spans[7].start_time, spans[7].end_time), (micros(&run, 30_100), micros(&run, 53_400)));
    let events: Vec<_> = spans[6].events.iter().map(|event| (event.name.as_ref(), event.timestamp)).collect();
    assert_eq!(events, [("imap.first_byte", micros(&run, 28_500)), ("imap.alert", micros(&run, 28_600))]);
    assert_eq!(spans[6].events[1].attributes, [KeyValue::new("imap.response.text", "disk almost full")]);
    assert_eq!(spans[0].events[0].name, "imaptrace.note");
    assert_eq!(spans[0].events[0].timestamp, micros(&run, 28_600));
    assert_eq!(spans[0].events[0].attributes[1].value.as_str(), "the server has an alert");
}

#[test]
fn a_wait_is_a_span_below_its_command_with_its_own_begin_and_end() {
    let mut run = samples::passed();
    let wait = |id: u8, start: u64, took: u64, server: u64| ServerWait {
        span_id: SpanId::from_bytes([id; 8]).unwrap(),
        start_s: Seconds::from_micros(start),
        duration_s: Seconds::from_micros(took),
        server_s: Seconds::from_micros(server),
    };
    let fetch = run.steps.iter_mut().find(|step| step.name == CommandName::Fetch).unwrap();
    fetch.waits = vec![wait(8, 30_100, 11_000, 10_700), wait(9, 41_500, 10_000, 10_000)];
    let spans = spans(&run);
    assert_eq!(spans.len(), run.exported_spans());
    let fetch = spans.iter().position(|span| span.name == "FETCH INBOX").unwrap();
    let waits: Vec<_> = spans.iter().filter(|span| span.name == "wait").collect();
    assert_eq!(waits, spans[fetch + 1..=fetch + 2].iter().collect::<Vec<_>>());
    for (span, (id, start, end, server)) in
        waits.iter().zip([("0808080808080808", 30_100, 41_100, "0.0107"), ("0909090909090909", 41_500, 51_500, "0.01")])
    {
        assert_eq!(span.span_context.span_id().to_string(), id);
        assert_eq!(span.parent_span_id, spans[fetch].span_context.span_id());
        assert_eq!((span.start_time, span.end_time), (micros(&run, start), micros(&run, end)));
        assert_eq!((&span.span_kind, &span.status), (&SpanKind::Internal, &Status::Unset));
        assert_eq!(attribute(span, "imaptrace.timing.server").as_deref(), Some(server));
        assert_eq!(attribute(span, "imaptrace.target.name").as_deref(), Some("mail01"));
    }
    // One that was skipped has no span, and so have its waits.
    let capability = run.steps.iter_mut().find(|step| step.outcome == StepOutcome::Skipped).unwrap();
    capability.waits = vec![wait(7, 7_000, 10, 10)];
    assert_eq!(super::spans(&run).len(), run.exported_spans());
    let again: Run = serde_json::from_str(&serde_json::to_string(&run).unwrap()).unwrap();
    assert_eq!(super::spans(&again), super::spans(&run));
}

#[test]
fn attributes_are_on_the_spans_that_the_documentation_names() {
    let spans = spans(&samples::passed());
    let (root, resolve, connect, tls, fetch) = (&spans[0], &spans[1], &spans[2], &spans[3], &spans[7]);
    for (span, key, value) in [
        (root, "server.address", "mail01.example.org"),
        (root, "server.port", "993"),
        (root, "network.transport", "tcp"),
        (root, "network.type", "ipv4"),
        (root, "network.peer.address", "192.0.2.7"),
        (root, "network.protocol.version", "4rev1"),
        (root, "imaptrace.journey.name", "first-load"),
        (root, "imaptrace.label.rack", "a3"),
        (root, "imaptrace.first_loading_latency", "0.0534"),
        (root, "imaptrace.first_row", "0.0519"),
        (root, "imaptrace.slowest.step", "FETCH"),
        (root, "imaptrace.start_lag", "0.002"),
        (root, "imaptrace.connection.bytes_received", "61022"),
        (root, "imap.server.id.name", "Dovecot"),
        (root, "imap.capability.hash", "9f86d081884c7d65"),
        (root, "imap.security", "tls"),
        (root, "imaptrace.clock.source", "kernel"),
        (root, "imaptrace.latency.slow", "true"),
        (root, "imaptrace.latency.baseline", "0.0335"),
        (root, "imaptrace.latency.ratio", "1.59"),
        (root, "imaptrace.latency.baseline_day", "0.0314"),
        (root, "imaptrace.latency.ratio_day", "1.7"),
        (root, "imaptrace.timing.agent", "0.0004"),
        (root, "imaptrace.timing.uncertain", "true"),
        (root, "imaptrace.timing.uncertainty", "0.0031"),
        (root, "imaptrace.tcp.quickack", "true"),
        (root, "imaptrace.network.rtt_min", "0.00031"),
        (root, "user_agent.synthetic.type", "test"),
        (resolve, "dns.question.name", "mail01.example.org"),
        (resolve, "dns.answers", "[\"2001:db8::7\",\"192.0.2.7\"]"),
        (connect, "imap.connect.attempts", "2"),
        (connect, "imap.connect.failed_addresses", "[\"[2001:db8::7]:993\"]"),
        (tls, "tls.protocol.version", "1.3"),
        (tls, "imaptrace.tls.verified", "yes"),
        (tls, "imaptrace.latency.ratio", "1.02"),
        (tls, "tls.server.not_after", "2027-01-31T00:00:00Z"),
        (tls, "tls.server.issuer", "CN=Example CA"),
        (tls, "imaptrace.tls.certificate.key", "EC 256"),
        (tls, "imaptrace.tls.server_hello", "0.0018"),
        (tls, "tls.next_protocol", "imap"),
        (tls, "imaptrace.timing.server", "0.0021"),
        (tls, "imaptrace.timing.network", "0.0003"),
        (tls, "imaptrace.timing.transfer", "0.0016"),
        (fetch, "server.address", "mail01.example.org"),
        (fetch, "server.port", "993"),
        (fetch, "service.peer.name", "mail01"),
        (fetch, "peer.service", "mail01"),
        (fetch, "imap.command.name", "FETCH"),
        (fetch, "imap.mailbox.name", "INBOX"),
        (fetch, "imap.fetch.messages", "20"),
        (fetch, "imaptrace.timing.server", "0.0219"),
        (fetch, "imaptrace.timing.network", "0.0003"),
        (fetch, "imaptrace.timing.transfer", "0.0011"),
        (fetch, "imaptrace.timing.uncertain", "true"),
        (fetch, "imaptrace.timing.uncertainty", "0.0027"),
        (fetch, "imaptrace.clock.source", "kernel"),
        (fetch, "imaptrace.latency.baseline", "0.002841"),
        (fetch, "imaptrace.latency.ratio", "8.2"),
        (fetch, "imaptrace.latency.share", "0.4363"),
        (fetch, "imaptrace.latency.slow", "true"),
        (fetch, "imap.request.size", "88"),
        (fetch, "imap.response.size", "48211"),
        (fetch, "imap.response.literal.size", "47000"),
        (fetch, "imap.response.first_byte.duration", "0.0218"),
        (fetch, "imap.state", "selected"),
        (fetch, "network.peer.port", "993"),
        (fetch, "imaptrace.target.name", "mail01"),
        (fetch, "imaptrace.account.name", "default"),
        (&spans[6], "imap.mailbox.messages", "4711"),
        (&spans[6], "imap.server.reported_duration", "0.016"),
        (&spans[6], "imap.server.reported_wait", "0.002"),
        (&spans[5], "imap.auth.mechanism", "LOGIN"),
    ] {
        assert_eq!(attribute(span, key).as_deref(), Some(value), "{key} of {}", span.name);
    }
    // A peer is that of a request: only commands are edges of a service graph.
    for span in &spans {
        let is_command = span.span_kind == SpanKind::Client;
        assert_eq!(attribute(span, "peer.service").is_some(), is_command, "{}", span.name);
        let keys: BTreeSet<_> = span.attributes.iter().map(|one| one.key.as_str()).collect();
        assert_eq!(keys.len(), span.attributes.len(), "each key once on {}", span.name);
        assert_eq!(attribute(span, "error.type"), None);
    }
}

#[test]
fn exactly_the_slow_spans_and_their_root_have_slow_as_a_boolean() {
    let slow = |run: &Run| -> Vec<(Cow<'static, str>, Value)> {
        let of = |span: &SpanData| {
            let marks = span.attributes.iter().filter(|one| one.key.as_str() == names::LATENCY_SLOW);
            marks.map(|one| (span.name.clone(), one.value.clone())).collect::<Vec<_>>()
        };
        spans(run).iter().flat_map(of).collect()
    };
    let yes = Value::Bool(true);
    assert_eq!(slow(&samples::passed()), [("probe first-load".into(), yes.clone()), ("FETCH INBOX".into(), yes)]);
    assert_eq!(slow(&samples::failed()), []);
}

#[test]
fn only_the_failing_step_and_the_root_are_errors() {
    let spans = spans(&samples::failed());
    let text: Vec<_> =
        spans.iter().map(|span| (span.name.as_ref(), span.status.clone(), attribute(span, "error.type"))).collect();
    let class = Some("auth_failed".to_owned());
    assert_eq!(
        text,
        [
            ("probe first-load", Status::error(""), class.clone()),
            ("connect", Status::Unset, None),
            ("greeting", Status::Unset, None),
            ("LOGIN", Status::error("wrong user or password"), class),
            ("LOGOUT", Status::Unset, None),
        ]
    );
    assert_eq!(spans[0].parent_span_id, opentelemetry::SpanId::INVALID);
    assert_eq!(attribute(&spans[3], "imap.response.code").as_deref(), Some("AUTHENTICATIONFAILED"));
}

#[test]
fn a_step_that_could_not_start_has_a_span_of_length_zero() {
    let mut run = samples::failed();
    run.steps[2].duration_s = Seconds::ZERO;
    let spans = spans(&run);
    assert_eq!(spans[3].name, "LOGIN");
    assert_eq!(spans[3].start_time, spans[3].end_time);
}

#[test]
fn words_outside_the_closed_lists_are_not_names() {
    let mut run = samples::failed();
    run.steps[2].name = "XEVIL".into();
    run.steps[2].code = Some(ResponseCode::Other);
    let span = &spans(&run)[3];
    assert_eq!(span.name, "imap");
    for key in ["imap.command.name", "imap.response.code"] {
        assert_eq!(attribute(span, key).as_deref(), Some("_OTHER"));
    }
}

#[test]
fn a_run_read_back_from_the_queue_has_the_same_spans() {
    for run in [samples::passed(), samples::failed()] {
        let again: Run = serde_json::from_str(&serde_json::to_string(&run).unwrap()).unwrap();
        assert_eq!(spans(&again), spans(&run));
    }
}

#[test]
fn every_attribute_is_on_the_list() {
    for span in [samples::passed(), samples::failed()].iter().flat_map(spans) {
        let events = span.events.iter().flat_map(|event| &event.attributes);
        for one in span.attributes.iter().chain(events) {
            let key = one.key.as_str();
            assert!(names::ATTRIBUTES.contains(&key) || key.starts_with(names::LABEL_PREFIX), "{key}");
        }
    }
}

proptest::proptest! {
    #[test]
    fn any_times_survive_the_queue(
        started in 0i64..4_000_000_000,
        start in 0u64..10_000_000_000,
        took in 0u64..10_000_000_000,
        text in "\\PC{0,80}",
    ) {
        let mut run = samples::passed();
        run.started_at = imaptrace_record::Timestamp::from_epoch_seconds(started).unwrap();
        run.steps[7].start_s = Seconds::from_micros(start);
        run.steps[7].duration_s = Seconds::from_micros(took);
        run.steps[7].text = Some(ServerText::new(text.as_bytes(), ServerText::STATUS));
        let again: Run = serde_json::from_str(&serde_json::to_string(&run).unwrap()).unwrap();
        proptest::prop_assert_eq!(spans(&again), spans(&run));
    }
}
