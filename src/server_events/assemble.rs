//! The events of one session as the record holds them: hosts, spans with their parents, and mails opened, against a run.
//!
//! A command's event belongs to the step with its tag, else to the step of the same command at the same time. Events of the
//! authentication are below the step of the login: auth client, auth, passdb. An event without a place is below the root.
//! Pure; called by the agent with what the store has of a run.

use std::cmp::Reverse;

use imaptrace_imap::CommandName;
use imaptrace_record::{
    Run, Seconds, ServerEvent, ServerEventName, ServerEvents, ServerHost, ServerText, SignedSeconds, SpanId, Step,
    StepName,
};

use super::{
    clock_offset::{Pair, clock_offset},
    dovecot_event::{ReportedEvent, ReportedKind},
};

/// A reported duration that differs by less from begin to end is not kept beside it.
const SAME: Seconds = Seconds::from_micros(1_000);

/// The record of these events, which are those of the run's session, in any order; none without one that has a span.
pub fn assemble(events: &[ReportedEvent], run: &Run) -> Option<ServerEvents> {
    let mut sorted: Vec<&ReportedEvent> = events.iter().collect();
    sorted.sort_by_key(|event| (event.started_at, Reverse(event.ended_at), kind_order(event)));
    let mut hosts: Vec<ServerHost> = Vec::new();
    for event in sorted.iter().filter(|event| span_name(event).is_some()) {
        if hosts.len() < ServerEvents::MAX_HOSTS && !hosts.iter().any(|host| host.name == event.host) {
            hosts.push(ServerHost { name: event.host.clone(), clock_offset_s: None, uncertain: None });
        }
    }
    for host in &mut hosts {
        set_offset(host, &sorted, run);
    }
    let all = sorted.iter().filter(|event| span_name(event).is_some()).count();
    let mut spans = Vec::new();
    for event in &sorted {
        let Some(name) = span_name(event) else { continue };
        let Some(host) = hosts.iter().position(|host| host.name == event.host) else { continue };
        let micros = hosts[host].clock_offset_s.map_or(0, SignedSeconds::as_micros);
        let step = step_of(event, name, micros, run);
        let parent = step.and_then(|step| step.span_id).unwrap_or(run.span_id);
        spans.push((*event, record(event, name, u32::try_from(host).unwrap_or_default(), parent)));
    }
    nest(&mut spans);
    count_opened(&sorted, &mut spans);
    let events = within_bounds(spans.into_iter().map(|(_, event)| event));
    let dropped = (events.len() < all).then(|| (all - events.len()) as u64);
    (!events.is_empty()).then_some(ServerEvents { hosts, events, dropped, processes: Vec::new() })
}

fn span_name(event: &ReportedEvent) -> Option<ServerEventName> {
    match event.what {
        ReportedKind::Span(name) => Some(name),
        ReportedKind::MailOpened => None,
    }
}

/// Of events that begin at once, the outer one first.
fn kind_order(event: &ReportedEvent) -> u8 {
    match span_name(event) {
        Some(ServerEventName::MailUserSessionFinished | ServerEventName::AuthClientRequestFinished) => 0,
        Some(ServerEventName::AuthRequestFinished) => 1,
        _ => 2,
    }
}

fn record(event: &ReportedEvent, name: ServerEventName, host: u32, parent: SpanId) -> ServerEvent {
    let duration_s = event.duration();
    ServerEvent {
        host,
        name,
        span_id: SpanId::random(),
        parent_span_id: parent,
        started_at: event.started_at,
        duration_s,
        reported_s: event.reported.filter(|reported| reported.saturating_add(SAME) <= duration_s),
        command: event.command.filter(|_| name == ServerEventName::ImapCommandFinished),
        status: event.status,
        running_s: event.running,
        lock_wait_s: event.lock_wait,
        in_bytes: event.in_bytes,
        out_bytes: event.out_bytes,
        mail_opened: None,
        reasons: Vec::new(),
        success: event.success,
    }
}

/// The step whose span is the parent of an event's.
fn step_of<'a>(event: &ReportedEvent, name: ServerEventName, offset: i64, run: &'a Run) -> Option<&'a Step> {
    let overlap = |step: &Step| {
        let (begin, end) = client_times(step, run);
        let (from, until) = (
            event.started_at.epoch_micros().saturating_sub(offset),
            event.ended_at.epoch_micros().saturating_sub(offset),
        );
        end.min(until).saturating_sub(begin.max(from))
    };
    let best = |is: fn(CommandName) -> bool| {
        let steps = run.steps.iter().filter(|step| step.has_span() && step.name.command().is_some_and(is));
        steps.max_by_key(|step| overlap(step))
    };
    match name {
        ServerEventName::ImapCommandFinished => with_tag(event, run).or_else(|| {
            let same = |step: &&Step| step.has_span() && step.name.command() == event.command;
            run.steps.iter().filter(same).max_by_key(|step| overlap(step))
        }),
        ServerEventName::MailUserSessionFinished => None,
        ServerEventName::AuthPassdbRequestFinished
        | ServerEventName::AuthUserdbRequestFinished
        | ServerEventName::AuthRequestFinished
        | ServerEventName::AuthClientRequestFinished => best(CommandName::is_login),
    }
}

/// The step that was sent with the event's tag, in either form of tags.
fn with_tag<'a>(event: &ReportedEvent, run: &'a Run) -> Option<&'a Step> {
    let tag = event.tag.as_deref()?;
    run.steps.iter().find(|step| {
        let id = step.span_id.filter(|_| step.has_span() && matches!(step.name, StepName::Command(_)));
        id.is_some_and(|id| {
            let id = id.to_string();
            tag == id || tag.strip_prefix('T').is_some_and(|short| short.len() == 6 && id.starts_with(short))
        })
    })
}

/// Begin and end of a step by our clock.
fn client_times(step: &Step, run: &Run) -> (i64, i64) {
    let micros = |since: Seconds| i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
    let from = run.started_at.epoch_micros();
    (from.saturating_add(micros(step.start_s)), from.saturating_add(micros(step.end_s())))
}

fn set_offset(host: &mut ServerHost, events: &[&ReportedEvent], run: &Run) {
    let pairs: Vec<Pair> = events
        .iter()
        .filter(|event| event.host == host.name && span_name(event) == Some(ServerEventName::ImapCommandFinished))
        // A server may go on after the last byte of a LOGOUT.
        .filter(|event| event.command != Some(CommandName::Logout))
        .filter_map(|event| {
            let step = with_tag(event, run)?;
            // It reports the end when its process runs again, which can be after the answer has arrived.
            let duration = event.reported.unwrap_or_else(|| event.duration()).min(event.duration());
            let start = event.started_at.epoch_micros();
            let end = start.saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX));
            Some(Pair { server: (start, end), client: client_times(step, run) })
        })
        .collect();
    if pairs.is_empty() {
        return;
    }
    host.clock_offset_s = clock_offset(&pairs);
    host.uncertain = host.clock_offset_s.is_none().then_some(true);
}

/// Makes a request of the auth process the parent of its lookups, and the request of the login process the parent of that.
fn nest(spans: &mut [(&ReportedEvent, ServerEvent)]) {
    let outer = |inner: ServerEventName| match inner {
        ServerEventName::AuthPassdbRequestFinished => Some(ServerEventName::AuthRequestFinished),
        ServerEventName::AuthRequestFinished => Some(ServerEventName::AuthClientRequestFinished),
        _ => None,
    };
    let places: Vec<_> = spans
        .iter()
        .map(|(_, span)| (span.name, span.host, span.started_at, span.duration_s, span.span_id, span.parent_span_id))
        .collect();
    for (event, span) in spans {
        let Some(outer) = outer(span.name) else { continue };
        let holds = |at: &&(ServerEventName, u32, _, Seconds, SpanId, SpanId)| {
            at.0 == outer && at.1 == span.host && at.2 <= event.started_at && at.5 == span.parent_span_id
        };
        if let Some(parent) = places.iter().filter(holds).max_by_key(|at| at.2) {
            span.parent_span_id = parent.4;
        }
    }
}

/// Counts the mails that were opened with the command in which they were.
fn count_opened(events: &[&ReportedEvent], spans: &mut [(&ReportedEvent, ServerEvent)]) {
    for opened in events.iter().filter(|event| event.what == ReportedKind::MailOpened) {
        let command = spans.iter_mut().filter(|(_, span)| span.name == ServerEventName::ImapCommandFinished);
        let inside = command.filter(|(event, _)| match (&opened.tag, &event.tag) {
            (Some(of_mail), Some(of_command)) => of_mail == of_command,
            _ => {
                event.host == opened.host
                    && event.started_at <= opened.started_at
                    && opened.started_at <= event.ended_at
            }
        });
        let Some((_, span)) = inside.max_by_key(|(event, _)| event.started_at) else { continue };
        span.mail_opened = Some(span.mail_opened.unwrap_or_default().saturating_add(1 + opened.further));
        let reasons = &mut span.reasons;
        if let Some(reason) = &opened.reason
            && reasons.len() < ServerEvents::MAX_REASONS
            && !reasons.contains(reason)
        {
            reasons.push(ServerText::clone(reason));
        }
    }
}

/// The most bytes of JSON of an event without reasons, and of one byte of a reason.
const EVENT_JSON: usize = 640;
const REASON_JSON: usize = 6;

/// As many events as the record has room for: of too many the shortest are left out.
fn within_bounds(events: impl Iterator<Item = ServerEvent>) -> Vec<ServerEvent> {
    let events: Vec<ServerEvent> = events.collect();
    let reasons = |event: &ServerEvent| event.reasons.iter().map(|reason| reason.as_str().len() + 1).sum::<usize>();
    let most: usize = events.iter().map(|event| EVENT_JSON + REASON_JSON * reasons(event)).sum();
    // Those of an ordinary run: their exact size need not be known.
    if events.len() <= ServerEvents::MAX_EVENTS && most <= ServerEvents::MAX_BYTES {
        return events;
    }
    let size = |event: &ServerEvent| serde_json::to_string(event).map_or(usize::MAX, |json| json.len() + 1);
    let mut by_length: Vec<(usize, ServerEvent)> = events.into_iter().enumerate().collect();
    by_length.sort_by_key(|(at, event)| (Reverse(event.duration_s), *at));
    let mut room = ServerEvents::MAX_BYTES;
    let mut kept: Vec<(usize, ServerEvent)> = Vec::new();
    for (at, event) in by_length {
        let takes = size(&event);
        if kept.len() == ServerEvents::MAX_EVENTS || takes > room {
            break;
        }
        room -= takes;
        kept.push((at, event));
    }
    kept.sort_by_key(|(at, _)| *at);
    kept.into_iter().map(|(_, event)| event).collect()
}

#[cfg(test)]
mod tests;
