//! Maps a [`Run`] to the spans of its trace (docs/telemetry.md). Ids, parents and times are those of the record. Called by
//! `delivery` at each attempt to export.

use std::{borrow::Cow, net::SocketAddr, sync::Arc};

use imaptrace_imap::{CommandName, Condition, LoginMethod, ResponseCode};
use imaptrace_record::{
    Cause, ClockSource, CloseNotify, CommandState, ErrorType, EventName, Run, RunOutcome, Seconds, ServerText,
    ServerWait, SignedSeconds, SpanId, Step, StepName, StepOutcome, TlsFacts, TlsFault, Verdict,
};
use opentelemetry::{
    Array, InstrumentationScope, KeyValue, StringValue, Value,
    trace::{Event, SpanContext, SpanKind, Status, TraceFlags, TraceState},
};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use serde::Serialize;

use super::names;

/// The spans of `run`, root first, then one for each step that has one, each followed by those of its waits.
pub fn spans(run: &Run) -> Vec<SpanData> {
    let common = SharedAttributes::of(run);
    let mut spans = Vec::with_capacity(run.exported_spans());
    spans.push(root(run, &common));
    for step in run.steps.iter().filter(|step| step.has_span()) {
        if let Some(id) = step.span_id {
            spans.push(child(run, step, id, &common));
            spans.extend(step.waits.iter().map(|one| wait(run, one, id, &common)));
        }
    }
    spans
}

/// What the spans of a run have in common: the exporter copies each span, so texts are shared.
struct SharedAttributes {
    scope: InstrumentationScope,
    protocol: Option<StringValue>,
    target: StringValue,
    account: StringValue,
    server: StringValue,
    peer: Option<(StringValue, i64)>,
    local: Option<(StringValue, i64)>,
}

impl SharedAttributes {
    fn of(run: &Run) -> Self {
        let end = |end: SocketAddr| (shared(&end.ip().to_string()), i64::from(end.port()));
        Self {
            scope: InstrumentationScope::builder(names::SCOPE).with_version(env!("CARGO_PKG_VERSION")).build(),
            protocol: run.server.protocol.as_deref().map(shared),
            target: shared(&run.target),
            account: shared(&run.account),
            server: shared(&run.server.address),
            peer: run.server.peer.map(end),
            local: run.server.local.map(end),
        }
    }
}

fn shared(text: &str) -> StringValue {
    Arc::<str>::from(text).into()
}

fn root(run: &Run, common: &SharedAttributes) -> SpanData {
    let server = &run.server;
    let mut with = Attributes::of(common);
    with.server(run, common);
    with.put(names::NETWORK_TRANSPORT, "tcp");
    with.some(names::NETWORK_TYPE, server.peer.map(|peer| if peer.is_ipv4() { "ipv4" } else { "ipv6" }));
    with.connection(common);
    with.put(names::JOURNEY_NAME, run.journey.to_string());
    for (label, value) in &run.labels {
        with.0.push(KeyValue::new(format!("{}{label}", names::LABEL_PREFIX), value.clone()));
    }
    with.error(run.error_type);
    with.seconds(names::FIRST_LOADING_LATENCY, run.first_loading_latency_s);
    with.seconds(names::FIRST_ROW, run.first_row_s);
    with.some(names::SLOWEST_STEP, run.slowest_step.as_ref().map(ToString::to_string));
    with.seconds(names::LATENCY_BASELINE, run.baseline_s);
    with.some(names::LATENCY_RATIO, run.ratio);
    with.seconds(names::LATENCY_BASELINE_DAY, run.baseline_day_s);
    with.some(names::LATENCY_RATIO_DAY, run.ratio_day);
    with.some(names::LATENCY_SLOW, run.slow);
    with.verdict(run.verdict.as_deref());
    with.seconds(names::TIMING_AGENT, run.agent_s);
    with.some(names::TIMING_UNCERTAIN, run.uncertain);
    with.seconds(names::TIMING_UNCERTAINTY, run.uncertainty_s);
    with.seconds(names::TIMING_DELAYED, run.delayed_s);
    with.seconds(names::START_LAG, run.start_lag_s);
    with.some(names::AUTH_BACKOFF, run.auth_backoff);
    with.count(names::CONNECTION_BYTES_SENT, Some(run.wire_sent_bytes));
    with.count(names::CONNECTION_BYTES_RECEIVED, Some(run.wire_received_bytes));
    with.put(names::IMAP_SECURITY, server.security.as_str());
    with.text(names::IMAP_SERVER_ID_NAME, server.id_name.as_ref());
    with.text(names::IMAP_SERVER_ID_VERSION, server.id_version.as_ref());
    with.some(names::IMAP_CAPABILITY_HASH, server.capability_hash.clone());
    with.some(names::IMAP_PREAUTH, server.preauth);
    with.count(names::IMAP_LENIENT, server.deviations);
    with.text(names::IMAP_REFERRAL_HOST, server.referral_host.as_ref());
    with.seconds(names::NETWORK_RTT_MIN, server.rtt_min_s);
    with.count(names::NETWORK_RETRANSMITS, server.retransmits);
    with.count(names::NETWORK_OUT_OF_ORDER, server.out_of_order);
    with.some(names::TCP_QUICKACK, server.quickack);
    with.some(names::CLOCK_SOURCE, server.clock_source.map(ClockSource::as_str));
    with.put(names::SYNTHETIC_TYPE, "test");

    let notes = run.notes.iter().map(|note| {
        let attributes = vec![
            KeyValue::new(names::NOTE_LEVEL, json_text(note.level).unwrap_or_default()),
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
        instrumentation_scope: common.scope.clone(),
    }
}

fn child(run: &Run, step: &Step, id: SpanId, common: &SharedAttributes) -> SpanData {
    let mut with = Attributes::of(common);
    if step.is_command() {
        with.put(names::IMAP_COMMAND_NAME, step.name.command().map_or(names::OTHER, CommandName::as_str));
        with.server(run, common);
        // For a service graph, the peer is what the configuration calls a target: a name of the operator's own choice, that the
        // server cannot change, and one node for each service that is probed.
        with.put(names::SERVICE_PEER_NAME, common.target.clone());
        with.put(names::PEER_SERVICE, common.target.clone());
        with.connection(common);
    }
    with.error(step.error_type);
    with.some(names::IMAP_RESPONSE_STATUS, step.status.map(Condition::as_str));
    with.some(names::IMAP_RESPONSE_CODE, step.code.map(ResponseCode::as_str));
    with.text(names::IMAP_RESPONSE_TEXT, step.text.as_ref());
    with.count(names::IMAP_REQUEST_SIZE, step.sent_bytes);
    with.count(names::IMAP_RESPONSE_SIZE, step.received_bytes);
    with.count(names::IMAP_RESPONSE_LITERAL_SIZE, step.literal_bytes);
    with.count(names::IMAP_RESPONSE_LITERAL_COUNT, step.literals);
    with.count(names::IMAP_RESPONSE_UNTAGGED_COUNT, step.untagged);
    with.seconds(names::IMAP_RESPONSE_FIRST_BYTE_DURATION, step.first_byte_s);
    with.seconds(names::IMAP_SERVER_REPORTED_DURATION, step.reported_s);
    with.seconds(names::IMAP_SERVER_REPORTED_WAIT, step.reported_wait_s);
    with.seconds(names::TIMING_SERVER, step.server_s);
    with.seconds(names::TIMING_NETWORK, step.network_s);
    with.seconds(names::TIMING_TRANSFER, step.transfer_s);
    with.some(names::TIMING_UNCERTAIN, step.uncertain);
    with.seconds(names::TIMING_UNCERTAINTY, step.uncertainty_s);
    with.seconds(names::TIMING_DELAYED, step.delayed_s);
    with.some(names::CLOCK_SOURCE, step.clock_source.map(ClockSource::as_str));
    with.seconds(names::LATENCY_BASELINE, step.baseline_s);
    with.some(names::LATENCY_RATIO, step.ratio);
    with.seconds(names::LATENCY_BASELINE_DAY, step.baseline_day_s);
    with.some(names::LATENCY_RATIO_DAY, step.ratio_day);
    with.some(names::LATENCY_SHARE, step.share);
    with.some(names::LATENCY_SLOW, step.slow);
    with.verdict(run.verdict.as_deref().filter(|verdict| verdict.step.as_ref() == Some(&step.name)));
    with.count(names::IMAP_FETCH_MESSAGES, step.messages);
    with.some(names::IMAP_MAILBOX_NAME, step.mailbox.clone());
    with.count(names::IMAP_MAILBOX_MESSAGES, step.mailbox_messages);
    with.count(names::MAILBOX_USUAL_MESSAGES, step.usual_messages);
    with.some(names::IMAP_STATE, step.state.map(CommandState::as_str));
    with.some(names::IMAP_AUTH_MECHANISM, step.mechanism.map(LoginMethod::as_str));
    with.count(names::IMAP_LENIENT, step.deviations);
    with.text(names::IMAP_REFERRAL_HOST, step.referral_host.as_ref());
    with.some(names::IMAP_CONNECTION_ATTEMPT, step.connection.map(i64::from));
    with.seconds(names::NETWORK_RTT_MIN, step.rtt_min_s);
    with.count(names::NETWORK_RETRANSMITS, step.retransmits);
    with.count(names::NETWORK_OUT_OF_ORDER, step.out_of_order);
    with.some(names::TLS_FAULT, step.tls_fault.map(TlsFault::as_str));
    with.some(names::TLS_CLOSE_NOTIFY, step.close_notify.map(CloseNotify::as_str));
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

    let step_events = step.events.iter().map(|it| {
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
        events: events(step_events),
        links: SpanLinks::default(),
        status: match step.outcome {
            StepOutcome::Failed => Status::error(step.text.as_ref().map(ToString::to_string).unwrap_or_default()),
            StepOutcome::Passed | StepOutcome::Skipped => Status::Unset,
        },
        instrumentation_scope: common.scope.clone(),
    }
}

/// The span of a wait, below that of its step.
fn wait(run: &Run, wait: &ServerWait, step: SpanId, common: &SharedAttributes) -> SpanData {
    let mut with = Attributes::with_room(common, 5);
    with.seconds(names::TIMING_SERVER, Some(wait.server_s));
    SpanData {
        span_context: context(run, wait.span_id),
        parent_span_id: otel_id(step),
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name: names::WAIT_SPAN.into(),
        start_time: at(run, wait.start_s),
        end_time: at(run, wait.start_s.saturating_add(wait.duration_s)),
        attributes: with.0,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: common.scope.clone(),
    }
}

/// Low cardinality: words from closed lists, and mailboxes of the configuration.
fn span_name(step: &Step) -> Cow<'static, str> {
    match (&step.name, &step.mailbox) {
        (StepName::Setup(step), _) => step.as_str().into(),
        (StepName::Command(command), Some(mailbox)) => format!("{command} {mailbox}").into(),
        (StepName::Command(command), None) => command.as_str().into(),
        (StepName::Other(_), _) => names::UNNAMED_SPAN.into(),
    }
}

/// Attributes under construction. Each key is put once: the SDK removes no duplicates.
pub(super) struct Attributes(Vec<KeyValue>);

impl Attributes {
    pub(super) fn empty() -> Self {
        Self(Vec::with_capacity(16))
    }

    pub(super) fn into_inner(self) -> Vec<KeyValue> {
        self.0
    }

    /// The attributes of every span of the run.
    fn of(common: &SharedAttributes) -> Self {
        Self::with_room(common, 40)
    }

    /// The same with room for so many in all.
    fn with_room(common: &SharedAttributes, room: usize) -> Self {
        let mut all = Self(Vec::with_capacity(room));
        all.put(names::NETWORK_PROTOCOL_NAME, "imap");
        all.some(names::NETWORK_PROTOCOL_VERSION, common.protocol.clone());
        all.put(names::TARGET_NAME, common.target.clone());
        all.put(names::ACCOUNT_NAME, common.account.clone());
        all
    }

    /// The server as configured.
    fn server(&mut self, run: &Run, common: &SharedAttributes) {
        self.put(names::SERVER_ADDRESS, common.server.clone());
        self.put(names::SERVER_PORT, i64::from(run.server.port));
    }

    /// Both ends of the connection.
    fn connection(&mut self, common: &SharedAttributes) {
        let ends = [
            (&common.peer, names::NETWORK_PEER_ADDRESS, names::NETWORK_PEER_PORT),
            (&common.local, names::NETWORK_LOCAL_ADDRESS, names::NETWORK_LOCAL_PORT),
        ];
        for (end, address, port) in ends {
            if let Some((ip, number)) = end {
                self.put(address, ip.clone());
                self.put(port, *number);
            }
        }
    }

    fn tls(&mut self, tls: &TlsFacts) {
        self.some(names::TLS_PROTOCOL_VERSION, tls.version.clone());
        self.some(names::TLS_CIPHER, tls.cipher.clone());
        self.some(names::TLS_NEXT_PROTOCOL, tls.alpn.clone());
        self.seconds(names::TLS_SERVER_HELLO, tls.server_hello_s);
        self.some(names::TLS_VERIFIED, json_text(tls.verified));
        self.some(names::TLS_SERVER_NOT_AFTER, tls.not_after.and_then(json_text));
        self.text(names::TLS_SERVER_SUBJECT, tls.subject.as_ref());
        self.text(names::TLS_SERVER_ISSUER, tls.issuer.as_ref());
        self.some(names::TLS_SERVER_HASH_SHA256, tls.sha256.clone());
        self.some(names::CERTIFICATE_KEY, tls.key.clone());
        self.some(names::TLS_SERVER_NOT_BEFORE, tls.not_before.and_then(json_text));
        if !tls.chain.is_empty() {
            self.put(names::CERTIFICATE_CHAIN, strings(tls.chain.iter().map(|entry| entry.subject.as_str())));
        }
        self.some(names::CERTIFICATE_REFUSED_DEPTH, tls.refused_depth.map(i64::from));
        self.some(names::CERTIFICATE_READ_AT, tls.read_at.and_then(json_text));
    }

    pub(super) fn put(&mut self, key: &'static str, value: impl Into<Value>) {
        self.0.push(KeyValue::new(key, value.into()));
    }

    pub(super) fn some(&mut self, key: &'static str, value: Option<impl Into<Value>>) {
        self.0.extend(value.map(|value| KeyValue::new(key, value.into())));
    }

    /// On the root, and on the step that the cause made slow.
    fn verdict(&mut self, verdict: Option<&Verdict>) {
        let Some(verdict) = verdict else { return };
        self.put(names::CAUSE, verdict.cause.as_str());
        self.put(names::CAUSE_SHARE, verdict.share);
        self.some(names::CAUSE_SECOND, verdict.second.map(Cause::as_str));
        if !verdict.evidence.is_empty() {
            self.put(names::CAUSE_EVIDENCE, strings(verdict.evidence.iter()));
        }
    }

    fn text(&mut self, key: &'static str, value: Option<&ServerText>) {
        self.some(key, value.map(ToString::to_string));
    }

    pub(super) fn seconds(&mut self, key: &'static str, value: Option<Seconds>) {
        self.some(key, value.map(Seconds::as_f64));
    }

    pub(super) fn seconds_signed(&mut self, key: &'static str, value: Option<SignedSeconds>) {
        self.some(key, value.map(SignedSeconds::as_f64));
    }

    pub(super) fn count(&mut self, key: &'static str, value: Option<u64>) {
        self.some(key, value.map(|value| i64::try_from(value).unwrap_or(i64::MAX)));
    }

    fn error(&mut self, class: Option<ErrorType>) {
        self.some(names::ERROR_TYPE, class.map(ErrorType::as_str));
    }
}

pub(super) fn strings(all: impl Iterator<Item = impl ToString>) -> Value {
    Value::Array(Array::String(all.map(|one| StringValue::from(one.to_string())).collect()))
}

/// The text of a value in the record's JSON.
pub(super) fn json_text(value: impl Serialize) -> Option<String> {
    serde_json::to_value(value).ok()?.as_str().map(ToOwned::to_owned)
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

pub(super) fn otel_id(id: SpanId) -> opentelemetry::SpanId {
    opentelemetry::SpanId::from_bytes(id.to_bytes())
}

pub(super) fn context(run: &Run, id: SpanId) -> SpanContext {
    let trace = opentelemetry::TraceId::from_bytes(run.trace_id.to_bytes());
    SpanContext::new(trace, otel_id(id), TraceFlags::SAMPLED, false, TraceState::default())
}

#[cfg(test)]
mod tests;
