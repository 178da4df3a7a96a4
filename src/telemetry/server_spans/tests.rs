use std::time::{Duration, SystemTime};

use imaptrace_record::{SignedSeconds, SpanId};
use opentelemetry::Value;

use super::*;
use crate::telemetry::samples::passed;

/// A run with a SELECT of its server's, which began this many microseconds behind the step by the server's clock and took as many
/// as given, and a login with two levels.
fn reported(behind: i64, took: u64, offset: Option<i64>) -> Run {
    let mut run = passed();
    let select = run.steps.iter().find(|step| step.name.as_str() == "SELECT").unwrap().clone();
    let at = run.started_at.epoch_micros() + i64::try_from(select.start_s.as_micros()).unwrap() + behind;
    let started_at =
        imaptrace_record::Timestamp::from(SystemTime::UNIX_EPOCH + Duration::from_micros(at.unsigned_abs()));
    let event = ServerEvent {
        host: 0,
        name: ServerEventName::ImapCommandFinished,
        span_id: SpanId::random(),
        parent_span_id: select.span_id.unwrap(),
        started_at,
        duration_s: Seconds::from_micros(took),
        reported_s: None,
        command: Some(CommandName::Select),
        status: Some(Condition::Ok),
        running_s: Some(Seconds::from_micros(900)),
        lock_wait_s: Some(Seconds::from_micros(300)),
        in_bytes: Some(10),
        out_bytes: Some(20),
        mail_opened: Some(2),
        reasons: Vec::new(),
        success: None,
    };
    let auth = |name, parent| ServerEvent {
        name,
        span_id: SpanId::random(),
        parent_span_id: parent,
        command: None,
        status: None,
        success: Some(true),
        ..event.clone()
    };
    let outer = auth(ServerEventName::AuthClientRequestFinished, run.span_id);
    let inner = auth(ServerEventName::AuthRequestFinished, outer.span_id);
    let host = ServerHost {
        name: imaptrace_record::ServerText::new(b"mail01", 64),
        clock_offset_s: offset.map(SignedSeconds::from_micros),
        uncertain: offset.is_none().then_some(true),
    };
    // The parent comes behind its child.
    let events = vec![inner, event, outer];
    run.server_events = Some(Box::new(ServerEvents { hosts: vec![host], events, ..ServerEvents::default() }));
    run
}

fn named(run: &Run, name: &str) -> SpanData {
    let spans = server_spans(run);
    assert!(spans.iter().all(|(host, _)| *host == "mail01"));
    spans.into_iter().find(|(_, span)| span.name == name).unwrap().1
}

/// Begin and end behind those of the step, in microseconds.
fn times(run: &Run) -> (i64, i64) {
    let span = named(run, "SELECT");
    let step = run.steps.iter().find(|step| step.name.as_str() == "SELECT").unwrap();
    let begin = run.started_at.to_system_time() + step.start_s.to_duration();
    let end = run.started_at.to_system_time() + step.end_s().to_duration();
    let micros = |at: SystemTime, from: SystemTime| match at.duration_since(from) {
        Ok(later) => i64::try_from(later.as_micros()).unwrap(),
        Err(earlier) => -i64::try_from(earlier.duration().as_micros()).unwrap(),
    };
    (micros(span.start_time, begin), micros(span.end_time, end))
}

fn attribute(span: &SpanData, key: &str) -> Option<Value> {
    span.attributes.iter().find(|pair| pair.key.as_str() == key).map(|pair| pair.value.clone())
}

#[test]
fn a_span_is_shifted_by_its_hosts_clock_and_cut_to_its_parent() {
    let run = passed();
    let select = run.steps.iter().find(|step| step.name.as_str() == "SELECT").unwrap();
    let length = select.duration_s.as_micros();
    let inside = length - 300;
    for (behind, took, offset, expected) in [
        (100, inside, Some(0), (100, -200)),
        (3_600_000_100, inside, Some(3_600_000_000), (100, -200)),
        (-3_599_999_900, inside, Some(-3_600_000_000), (100, -200)),
        (100, length, Some(0), (100, 0)),
        (-100, length, Some(0), (0, -100)),
        // Without an offset it is cut to nothing, at the nearer end.
        (3_600_000_000, inside, None, (i64::try_from(length).unwrap(), 0)),
        (-3_600_000_000, inside, None, (0, -i64::try_from(length).unwrap())),
    ] {
        assert_eq!(times(&reported(behind, took, offset)), expected, "{behind} {took} {offset:?}");
    }
}

#[test]
fn a_span_of_a_server_has_its_figures_and_what_was_reported() {
    let run = reported(100, 1_000, Some(0));
    let span = named(&run, "SELECT");
    assert_eq!((span.span_kind.clone(), span.parent_span_is_remote), (SpanKind::Server, true));
    assert_eq!(span.span_context.trace_id().to_string(), run.trace_id.to_string());
    assert_eq!(attribute(&span, "dovecot.running"), Some(0.0009.into()));
    assert_eq!(attribute(&span, "dovecot.lock_wait"), Some(0.0003.into()));
    assert_eq!(attribute(&span, "dovecot.duration"), Some(0.001.into()));
    assert_eq!(attribute(&span, "dovecot.bytes_out"), Some(20_i64.into()));
    assert_eq!(attribute(&span, "imap.response.status"), Some("OK".into()));
    assert_eq!(attribute(&span, "imaptrace.timing.uncertain"), None);
    let uncertain = named(&reported(100, 1_000, None), "SELECT");
    assert_eq!(attribute(&uncertain, "imaptrace.timing.uncertain"), Some(true.into()));
    for span in server_spans(&run) {
        let keys: Vec<_> = span.1.attributes.iter().map(|pair| pair.key.clone()).collect();
        let once: std::collections::HashSet<_> = keys.iter().collect();
        assert_eq!(once.len(), keys.len(), "{keys:?}");
    }
}

#[test]
fn what_is_below_another_event_is_internal_and_within_it() {
    let run = reported(100, 1_000, Some(0));
    let (outer, inner) = (named(&run, "auth client"), named(&run, "auth"));
    assert_eq!((&outer.span_kind, &inner.span_kind), (&SpanKind::Server, &SpanKind::Internal));
    assert_eq!(inner.parent_span_id, outer.span_context.span_id());
    assert!(outer.start_time <= inner.start_time && inner.end_time <= outer.end_time);
    assert_eq!(attribute(&inner, "dovecot.auth.success"), Some(true.into()));
}

#[test]
fn an_event_without_a_known_parent_or_host_is_below_the_root() {
    let mut run = reported(100, 1_000, Some(0));
    let server = run.server_events.as_mut().unwrap();
    server.events.truncate(2);
    server.events[1].host = 7;
    let spans = server_spans(&run);
    assert_eq!(spans.len(), 2);
    assert_eq!(spans[0].1.parent_span_id.to_string(), run.span_id.to_string());
    assert_eq!(spans[1].0, names::OTHER);
}
