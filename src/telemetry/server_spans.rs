//! Maps the events that mail servers reported about a run to spans of these servers (docs/telemetry.md). Ids and parents are those
//! of the record.
//!
//! A server's clock is another one than ours: its times are shifted by the host's clock offset and cut to the time of the parent
//! span. The times as they were reported are attributes. Called by `delivery` at each attempt to export.

use std::{
    borrow::Cow,
    collections::HashMap,
    time::{Duration, SystemTime},
};

use imaptrace_imap::{CommandName, Condition};
use imaptrace_record::{Run, Seconds, ServerEvent, ServerEventName, ServerEvents, ServerHost, SignedSeconds, SpanId};
use opentelemetry::{
    InstrumentationScope,
    trace::{SpanKind, Status},
};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::{
    names,
    spans::{Attributes, context, json_text, otel_id, strings},
};

/// The spans that mail servers reported about `run`, each with the name of its host.
pub fn server_spans(run: &Run) -> Vec<(&str, SpanData)> {
    let Some(server) = run.server_events.as_deref() else { return Vec::new() };
    let times = SpanTimes::of(run, server);
    let scope = InstrumentationScope::builder(names::SCOPE).with_version(env!("CARGO_PKG_VERSION")).build();
    let span = |event: &ServerEvent| {
        let host = host(server, event);
        let name = host.map_or(names::OTHER, |host| host.name.as_str());
        Some((name, span(run, event, host, *times.0.get(&event.span_id)?, &scope, &times)))
    };
    server.events.iter().filter_map(span).collect()
}

fn host<'a>(server: &'a ServerEvents, event: &ServerEvent) -> Option<&'a ServerHost> {
    server.hosts.get(usize::try_from(event.host).ok()?)
}

/// Begin and end of spans.
struct SpanTimes(HashMap<SpanId, (SystemTime, SystemTime)>);

impl SpanTimes {
    /// Those of the root, the steps and the events of a run.
    fn of(run: &Run, server: &ServerEvents) -> Self {
        let at = |since: Seconds| run.started_at.to_system_time() + since.to_duration();
        let mut known = HashMap::from([(run.span_id, (at(Seconds::ZERO), at(run.duration_s)))]);
        let steps = run.steps.iter().filter(|step| step.has_span());
        known.extend(steps.filter_map(|step| Some((step.span_id?, (at(step.start_s), at(step.end_s()))))));
        // A parent may come behind its children; each round gets one level further.
        let mut left: Vec<&ServerEvent> = server.events.iter().collect();
        loop {
            let before = left.len();
            left.retain(|event| {
                let Some(parent) = known.get(&event.parent_span_id) else { return true };
                known.insert(event.span_id, within(*parent, event, host(server, event)));
                false
            });
            if left.len() == before {
                break;
            }
        }
        // Those without a known parent hang under the root.
        let root = (at(Seconds::ZERO), at(run.duration_s));
        known.extend(left.into_iter().map(|event| (event.span_id, within(root, event, host(server, event)))));
        Self(known)
    }
}

/// The times of an event by our clock, cut to those of its parent.
fn within(
    (begin, end): (SystemTime, SystemTime),
    event: &ServerEvent,
    host: Option<&ServerHost>,
) -> (SystemTime, SystemTime) {
    let offset = host.and_then(|host| host.clock_offset_s).map_or(0, SignedSeconds::as_micros);
    let shift = Duration::from_micros(offset.unsigned_abs());
    let reported = event.started_at.to_system_time();
    let shifted = if offset < 0 { reported.checked_add(shift) } else { reported.checked_sub(shift) };
    let from = shifted.unwrap_or(begin).clamp(begin, end.max(begin));
    let until = shifted.unwrap_or(begin).checked_add(event.duration_s.to_duration()).unwrap_or(end);
    (from, until.clamp(from, end.max(from)))
}

fn span(
    run: &Run,
    event: &ServerEvent,
    host: Option<&ServerHost>,
    (start_time, end_time): (SystemTime, SystemTime),
    scope: &InstrumentationScope,
    times: &SpanTimes,
) -> SpanData {
    let mut with = Attributes::empty();
    with.put(names::NETWORK_PROTOCOL_NAME, "imap");
    with.put(names::TARGET_NAME, run.target.clone());
    with.put(names::ACCOUNT_NAME, run.account.clone());
    with.put(names::DOVECOT_EVENT, event.name.as_str());
    with.some(names::DOVECOT_START_TIME, json_text(event.started_at));
    with.seconds(names::DOVECOT_DURATION, Some(event.duration_s));
    if event.name == ServerEventName::ImapCommandFinished {
        with.put(names::IMAP_COMMAND_NAME, event.command.map_or(names::OTHER, CommandName::as_str));
    }
    with.some(names::IMAP_RESPONSE_STATUS, event.status.map(Condition::as_str));
    with.seconds(names::DOVECOT_RUNNING, event.running_s);
    with.seconds(names::DOVECOT_LOCK_WAIT, event.lock_wait_s);
    with.count(names::DOVECOT_BYTES_IN, event.in_bytes);
    with.count(names::DOVECOT_BYTES_OUT, event.out_bytes);
    with.count(names::DOVECOT_MAIL_OPENED, event.mail_opened);
    if !event.reasons.is_empty() {
        with.put(names::DOVECOT_MAIL_OPENED_REASONS, strings(event.reasons.iter()));
    }
    with.some(names::DOVECOT_AUTH_SUCCESS, event.success);
    with.seconds_signed(names::DOVECOT_CLOCK_OFFSET, host.and_then(|host| host.clock_offset_s));
    with.some(names::TIMING_UNCERTAIN, host.and_then(|host| host.uncertain));
    // Below another event of the same server it is work inside that server.
    let events = run.server_events.iter().flat_map(|server| &server.events);
    let is_inner = events.map(|other| other.span_id).any(|other| other == event.parent_span_id);
    let parent = if times.0.contains_key(&event.parent_span_id) { event.parent_span_id } else { run.span_id };
    let failed = event.success == Some(false) || matches!(event.status, Some(Condition::No | Condition::Bad));
    SpanData {
        span_context: context(run, event.span_id),
        parent_span_id: otel_id(parent),
        parent_span_is_remote: !is_inner,
        span_kind: if is_inner { SpanKind::Internal } else { SpanKind::Server },
        name: span_name(event),
        start_time,
        end_time,
        attributes: with.into_inner(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: if failed { Status::error("") } else { Status::Unset },
        instrumentation_scope: scope.clone(),
    }
}

fn span_name(event: &ServerEvent) -> Cow<'static, str> {
    match event.name {
        ServerEventName::ImapCommandFinished => event.command.map_or(names::UNNAMED_SPAN, CommandName::as_str),
        ServerEventName::AuthPassdbRequestFinished => names::PASSDB_SPAN,
        ServerEventName::AuthUserdbRequestFinished => names::USERDB_SPAN,
        ServerEventName::AuthRequestFinished => names::AUTH_SPAN,
        ServerEventName::AuthClientRequestFinished => names::AUTH_CLIENT_SPAN,
        ServerEventName::MailUserSessionFinished => names::SESSION_SPAN,
    }
    .into()
}

#[cfg(test)]
mod tests;
