//! A [`Run`] as the spans of its trace (contract §4).
//!
//! A pure mapping: ids, parents and times are the record's own, so a run that was queued and read back gives the very
//! same spans. Called by `delivery` at each attempt to export.

use std::borrow::Cow;

use opentelemetry::{
    Array, InstrumentationScope, KeyValue, StringValue, Value,
    trace::{Event, SpanContext, SpanKind, Status, TraceFlags, TraceState},
};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::names;
use crate::record::{
    ErrorType, EventName, NoteLevel, Run, RunOutcome, Seconds, ServerText, SpanId, Step, StepOutcome, TlsFacts,
    Verified,
};

/// The spans of `run`, root first, then one for each step that has one.
pub fn spans(run: &Run) -> Vec<SpanData> {
    let scope = InstrumentationScope::builder(names::SCOPE).with_version(env!("CARGO_PKG_VERSION")).build();
    let steps = run.steps.iter().filter(|step| step.outcome != StepOutcome::Skipped);
    let mut spans = vec![root(run, &scope)];
    spans.extend(steps.filter_map(|step| step.span_id.map(|id| child(run, step, id, &scope))));
    spans
}

fn root(run: &Run, scope: &InstrumentationScope) -> SpanData {
    let server = &run.server;
    let mut with = Attributes::of(run);
    with.put(names::SERVER_ADDRESS, server.address.clone());
    with.put(names::SERVER_PORT, i64::from(server.port));
    with.put(names::NETWORK_TRANSPORT, "tcp");
    with.some(names::NETWORK_TYPE, server.peer.map(|peer| if peer.is_ipv4() { "ipv4" } else { "ipv6" }));
    with.connection(run);
    with.put(names::JOURNEY_NAME, run.journey.clone());
    for (label, value) in &run.labels {
        with.0.push(KeyValue::new(format!("{}{label}", names::LABEL_PREFIX), value.clone()));
    }
    with.error(run.error_type);
    with.seconds(names::FIRST_LOADING_LATENCY, run.first_loading_latency_s);
    with.seconds(names::FIRST_ROW, run.first_row_s);
    with.some(names::SLOWEST_STEP, run.slowest_step.clone());
    with.seconds(names::START_LAG, run.start_lag_s);
    with.some(names::AUTH_BACKOFF, run.auth_backoff);
    with.count(names::CONNECTION_BYTES_SENT, Some(run.wire_sent_bytes));
    with.count(names::CONNECTION_BYTES_RECEIVED, Some(run.wire_received_bytes));
    with.put(names::IMAP_SECURITY, server.security.as_str());
    with.text(names::IMAP_SERVER_ID_NAME, server.id_name.as_ref());
    with.text(names::IMAP_SERVER_ID_VERSION, server.id_version.as_ref());
    with.some(names::IMAP_CAPABILITY_HASH, server.capability_hash.clone());
    with.some(names::IMAP_PREAUTH, server.preauth);
    with.count(names::IMAP_LENIENT, server.lenient);
    with.text(names::IMAP_REFERRAL_HOST, server.referral_host.as_ref());
    with.seconds(names::NETWORK_RTT_MIN, server.rtt_min_s);
    with.count(names::NETWORK_RETRANSMITS, server.retransmits);
    with.count(names::NETWORK_OUT_OF_ORDER, server.out_of_order);
    with.some(names::TCP_QUICKACK, server.quickack);
    with.some(names::CLOCK_SOURCE, server.clock_source.clone());
    with.put(names::SYNTHETIC_TYPE, "test");

    let notes = run.notes.iter().map(|note| {
        let attributes = vec![
            KeyValue::new(names::NOTE_LEVEL, level(note.level)),
            KeyValue::new(names::NOTE_TEXT, note.text.clone()),
        ];
        event(run, names::EVENT_NOTE, note.at_s, attributes)
    });
    SpanData {
        span_context: context(run, run.span_id),
        parent_span_id: run.parent_span_id.map_or(opentelemetry::SpanId::INVALID, otel_id),
        parent_span_is_remote: run.parent_span_id.is_some(),
        span_kind: SpanKind::Internal,
        name: format!("{} {}", names::ROOT_SPAN, run.journey).into(),
        start_time: at(run, Seconds::ZERO),
        end_time: at(run, run.duration_s),
        attributes: with.0,
        dropped_attributes_count: 0,
        events: events(notes),
        links: SpanLinks::default(),
        status: if run.outcome == RunOutcome::Passed { Status::Unset } else { Status::error("") },
        instrumentation_scope: scope.clone(),
    }
}

fn child(run: &Run, step: &Step, id: SpanId, scope: &InstrumentationScope) -> SpanData {
    let mut with = Attributes::of(run);
    if step.is_command() {
        with.put(names::IMAP_COMMAND_NAME, names::closed(names::COMMANDS, &step.name));
        with.connection(run);
    }
    with.error(step.error_type);
    with.some(names::IMAP_RESPONSE_STATUS, step.status.as_deref().map(|it| names::closed(names::STATUSES, it)));
    with.some(names::IMAP_RESPONSE_CODE, step.code.as_deref().map(|it| names::closed(names::CODES, it)));
    with.text(names::IMAP_RESPONSE_TEXT, step.text.as_ref());
    with.count(names::IMAP_REQUEST_SIZE, step.sent_bytes);
    with.count(names::IMAP_RESPONSE_SIZE, step.received_bytes);
    with.count(names::IMAP_RESPONSE_LITERAL_SIZE, step.literal_bytes);
    with.count(names::IMAP_RESPONSE_LITERAL_COUNT, step.literals);
    with.count(names::IMAP_RESPONSE_UNTAGGED_COUNT, step.untagged);
    with.seconds(names::IMAP_RESPONSE_FIRST_BYTE_DURATION, step.first_byte_s);
    with.seconds(names::IMAP_SERVER_REPORTED_DURATION, step.reported_s);
    with.count(names::IMAP_FETCH_MESSAGES, step.messages);
    with.some(names::IMAP_MAILBOX_NAME, step.mailbox.clone());
    with.count(names::IMAP_MAILBOX_MESSAGES, step.mailbox_messages);
    with.some(names::IMAP_STATE, step.state.map(|state| state.as_str()));
    with.some(names::IMAP_AUTH_MECHANISM, step.mechanism.clone());
    with.count(names::IMAP_LENIENT, step.lenient);
    with.text(names::IMAP_REFERRAL_HOST, step.referral_host.as_ref());
    with.some(names::IMAP_CONNECTION_ATTEMPT, step.connection.map(i64::from));
    with.seconds(names::NETWORK_RTT_MIN, step.rtt_min_s);
    with.count(names::NETWORK_RETRANSMITS, step.retransmits);
    with.count(names::NETWORK_OUT_OF_ORDER, step.out_of_order);
    with.some(names::TLS_CLOSE_NOTIFY, step.close_notify.map(|how| how.as_str()));
    if let Some(dns) = &step.dns {
        with.put(names::DNS_QUESTION_NAME, dns.question.clone());
        with.put(names::DNS_ANSWERS, strings(dns.answers.iter()));
    }
    if let Some(connect) = &step.connect {
        let failed = connect.attempts.iter().filter(|attempt| attempt.outcome == StepOutcome::Failed);
        with.count(names::IMAP_CONNECT_ATTEMPTS, u64::try_from(connect.attempts.len()).ok());
        with.put(names::IMAP_CONNECT_FAILED_ADDRESSES, strings(failed.map(|attempt| attempt.peer)));
    }
    if let Some(tls) = &step.tls {
        with.tls(tls);
    }

    let told = step.events.iter().map(|it| {
        let name = match it.name {
            EventName::Continuation => names::EVENT_CONTINUATION,
            EventName::FirstByte => names::EVENT_FIRST_BYTE,
            EventName::Alert => names::EVENT_ALERT,
        };
        let text = it.text.iter().map(|text| KeyValue::new(names::IMAP_RESPONSE_TEXT, text.to_string()));
        event(run, name, it.at_s, text.collect())
    });
    SpanData {
        span_context: context(run, id),
        parent_span_id: otel_id(run.span_id),
        parent_span_is_remote: false,
        span_kind: if step.is_command() { SpanKind::Client } else { SpanKind::Internal },
        name: span_name(step),
        start_time: at(run, step.start_s),
        end_time: at(run, step.end_s()),
        attributes: with.0,
        dropped_attributes_count: 0,
        events: events(told),
        links: SpanLinks::default(),
        status: match step.outcome {
            StepOutcome::Failed => Status::error(step.text.as_ref().map(ToString::to_string).unwrap_or_default()),
            StepOutcome::Passed | StepOutcome::Skipped => Status::Unset,
        },
        instrumentation_scope: scope.clone(),
    }
}

/// Low cardinality: words from closed lists, and a mailbox only because somebody configured it.
fn span_name(step: &Step) -> Cow<'static, str> {
    match step.name.as_str() {
        Step::RESOLVE => Step::RESOLVE.into(),
        Step::CONNECT => Step::CONNECT.into(),
        Step::TLS => Step::TLS.into(),
        Step::GREETING => Step::GREETING.into(),
        command => match (names::closed(names::COMMANDS, command), &step.mailbox) {
            (names::OTHER, _) => names::UNNAMED_SPAN.into(),
            (command, Some(mailbox)) => format!("{command} {mailbox}").into(),
            (command, None) => command.into(),
        },
    }
}

/// Attributes under construction. Each key is put once: the SDK removes no duplicates.
struct Attributes(Vec<KeyValue>);

impl Attributes {
    /// What every span of the run has.
    fn of(run: &Run) -> Self {
        let mut all = Self(Vec::with_capacity(40));
        all.put(names::NETWORK_PROTOCOL_NAME, "imap");
        all.some(names::NETWORK_PROTOCOL_VERSION, run.server.protocol.clone());
        all.put(names::TARGET_NAME, run.target.clone());
        all.put(names::ACCOUNT_NAME, run.account.clone());
        all
    }

    /// Both ends of the connection.
    fn connection(&mut self, run: &Run) {
        self.some(names::NETWORK_PEER_ADDRESS, run.server.peer.map(|peer| peer.ip().to_string()));
        self.some(names::NETWORK_PEER_PORT, run.server.peer.map(|peer| i64::from(peer.port())));
        self.some(names::NETWORK_LOCAL_ADDRESS, run.server.local.map(|local| local.ip().to_string()));
        self.some(names::NETWORK_LOCAL_PORT, run.server.local.map(|local| i64::from(local.port())));
    }

    fn tls(&mut self, tls: &TlsFacts) {
        self.some(names::TLS_PROTOCOL_VERSION, tls.version.clone());
        self.some(names::TLS_CIPHER, tls.cipher.clone());
        self.put(
            names::TLS_VERIFIED,
            match tls.verified {
                Verified::Yes => "yes",
                Verified::No => "no",
                Verified::Insecure => "insecure",
            },
        );
        self.some(names::TLS_SERVER_NOT_AFTER, tls.not_after.and_then(rfc3339));
        self.text(names::TLS_SERVER_SUBJECT, tls.subject.as_ref());
        self.text(names::TLS_SERVER_ISSUER, tls.issuer.as_ref());
        self.some(names::TLS_SERVER_HASH_SHA256, tls.sha256.clone());
    }

    fn put(&mut self, key: &'static str, value: impl Into<Value>) {
        self.0.push(KeyValue::new(key, value.into()));
    }

    fn some(&mut self, key: &'static str, value: Option<impl Into<Value>>) {
        self.0.extend(value.map(|value| KeyValue::new(key, value.into())));
    }

    fn text(&mut self, key: &'static str, value: Option<&ServerText>) {
        self.some(key, value.map(ToString::to_string));
    }

    fn seconds(&mut self, key: &'static str, value: Option<Seconds>) {
        self.some(key, value.map(Seconds::as_f64));
    }

    fn count(&mut self, key: &'static str, value: Option<u64>) {
        self.some(key, value.map(|value| i64::try_from(value).unwrap_or(i64::MAX)));
    }

    fn error(&mut self, class: Option<ErrorType>) {
        self.some(names::ERROR_TYPE, class.map(ErrorType::as_str));
    }
}

fn strings(all: impl Iterator<Item = impl ToString>) -> Value {
    Value::Array(Array::String(all.map(|one| StringValue::from(one.to_string())).collect()))
}

/// The same text as in the JSON line.
fn rfc3339(at: crate::record::Timestamp) -> Option<String> {
    serde_json::to_value(at).ok()?.as_str().map(ToOwned::to_owned)
}

fn level(level: NoteLevel) -> &'static str {
    match level {
        NoteLevel::Info => "info",
        NoteLevel::Warn => "warn",
        NoteLevel::Error => "error",
    }
}

fn at(run: &Run, since_start: Seconds) -> std::time::SystemTime {
    run.started_at.to_system_time() + since_start.to_duration()
}

fn event(run: &Run, name: &'static str, since_start: Seconds, attributes: Vec<KeyValue>) -> Event {
    Event::new(name, at(run, since_start), attributes, 0)
}

fn events(all: impl Iterator<Item = Event>) -> SpanEvents {
    let mut events = SpanEvents::default();
    events.events.extend(all);
    events
}

fn otel_id(id: SpanId) -> opentelemetry::SpanId {
    opentelemetry::SpanId::from_bytes(id.to_bytes())
}

fn context(run: &Run, id: SpanId) -> SpanContext {
    let trace = opentelemetry::TraceId::from_bytes(run.trace_id.to_bytes());
    SpanContext::new(trace, otel_id(id), TraceFlags::SAMPLED, false, TraceState::default())
}
