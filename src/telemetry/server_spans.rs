//! Maps the events that mail servers reported about a run to spans of these servers (docs/telemetry.md). Ids and parents are those
//! of the record.
//!
//! Begin and end are by our clock ([`ServerTimes`]). The times as they were reported are attributes. Called by `delivery` at each
//! attempt to export.

use std::borrow::Cow;

use imaptrace_imap::{CommandName, Condition};
use imaptrace_record::{Run, Seconds, ServerEvent, ServerEventName, ServerEvents, ServerHost, ServerTimes};
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
    let times = ServerTimes::of(run);
    let scope = InstrumentationScope::builder(names::SCOPE).with_version(env!("CARGO_PKG_VERSION")).build();
    let span = |event: &ServerEvent| {
        let host = host(server, event);
        let name = host.map_or(names::OTHER, |host| host.name.as_str());
        Some((name, span(run, event, host, &scope, &times)?))
    };
    server.events.iter().filter_map(span).collect()
}

fn host<'a>(server: &'a ServerEvents, event: &ServerEvent) -> Option<&'a ServerHost> {
    server.hosts.get(usize::try_from(event.host).ok()?)
}

fn span(
    run: &Run,
    event: &ServerEvent,
    host: Option<&ServerHost>,
    scope: &InstrumentationScope,
    times: &ServerTimes,
) -> Option<SpanData> {
    let (begin, end) = times.get(event.span_id)?;
    let at = |since: Seconds| run.started_at.to_system_time() + since.to_duration();
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
    let parent = if times.get(event.parent_span_id).is_some() { event.parent_span_id } else { run.span_id };
    let failed = event.success == Some(false) || matches!(event.status, Some(Condition::No | Condition::Bad));
    Some(SpanData {
        span_context: context(run, event.span_id),
        parent_span_id: otel_id(parent),
        parent_span_is_remote: !is_inner,
        span_kind: if is_inner { SpanKind::Internal } else { SpanKind::Server },
        name: span_name(event),
        start_time: at(begin),
        end_time: at(end),
        attributes: with.into_inner(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: if failed { Status::error("") } else { Status::Unset },
        instrumentation_scope: scope.clone(),
    })
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
