//! When the server's events of a run began and ended, by our clock (docs/server-events.md#clocks).
//!
//! A server's clock is another one than ours: its times are shifted by the host's clock offset and cut to those of the parent span.
//! Called by `telemetry` for its spans, and by `terminal` for its bars.

use std::collections::HashMap;

use super::{Run, Seconds, ServerEvent, ServerHost, SignedSeconds, SpanId};

/// Begin and end of a run's spans, since its start: of the root, the steps, and the server's events.
#[derive(Debug)]
pub struct ServerTimes(HashMap<SpanId, (Seconds, Seconds)>);

impl ServerTimes {
    /// Those of `run`. An event without a known parent is below the root.
    pub fn of(run: &Run) -> Self {
        let root = (Seconds::ZERO, run.duration_s);
        let mut known = HashMap::from([(run.span_id, root)]);
        let steps = run.steps.iter().filter(|step| step.has_span());
        known.extend(steps.filter_map(|step| Some((step.span_id?, (step.start_s, step.end_s())))));
        let Some(server) = run.server_events.as_deref() else { return Self(known) };
        let host = |event: &ServerEvent| server.hosts.get(usize::try_from(event.host).ok()?);
        // A parent may come behind its children; each round gets one level further.
        let mut left: Vec<&ServerEvent> = server.events.iter().collect();
        loop {
            let before = left.len();
            left.retain(|event| {
                let Some(parent) = known.get(&event.parent_span_id) else { return true };
                known.insert(event.span_id, within(*parent, run, event, host(event)));
                false
            });
            if left.len() == before {
                break;
            }
        }
        known.extend(left.into_iter().map(|event| (event.span_id, within(root, run, event, host(event)))));
        Self(known)
    }

    /// Begin and end of a span since the start of the run; none if the run does not have it.
    pub fn get(&self, span: SpanId) -> Option<(Seconds, Seconds)> {
        self.0.get(&span).copied()
    }
}

/// The times of an event by our clock, cut to those of its parent.
fn within(
    (begin, end): (Seconds, Seconds),
    run: &Run,
    event: &ServerEvent,
    host: Option<&ServerHost>,
) -> (Seconds, Seconds) {
    let offset = host.and_then(|host| host.clock_offset_s).map_or(0, SignedSeconds::as_micros);
    let since = i128::from(event.started_at.epoch_micros()) - i128::from(offset);
    let since = since - i128::from(run.started_at.epoch_micros());
    let from = Seconds::from_micros(u64::try_from(since.max(0)).unwrap_or(u64::MAX));
    // What began before the run did has a part of its time in front of it.
    let until = since + i128::from(event.duration_s.as_micros());
    let until = Seconds::from_micros(u64::try_from(until.max(0)).unwrap_or(u64::MAX));
    let end = end.max(begin);
    let from = from.clamp(begin, end);
    (from, until.clamp(from, end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ServerEventName, ServerEvents, ServerText, Timestamp};

    /// A passed run with an event of its server's below `parent`, which began this many microseconds behind the start of the run by
    /// the server's clock.
    fn reported(parent: Option<SpanId>, behind: i64, took: u64, offset: Option<i64>) -> Run {
        let mut run: Run = serde_json::from_str(imaptrace_testkit::PASSED_RUN).unwrap();
        let at = run.started_at.epoch_micros() + behind;
        let since = std::time::Duration::from_micros(at.unsigned_abs());
        let event = ServerEvent {
            host: 0,
            name: ServerEventName::AuthRequestFinished,
            span_id: SpanId::random(),
            parent_span_id: parent.unwrap_or(run.span_id),
            started_at: Timestamp::from(std::time::UNIX_EPOCH + since),
            duration_s: Seconds::from_micros(took),
            reported_s: None,
            command: None,
            status: None,
            running_s: None,
            lock_wait_s: None,
            in_bytes: None,
            out_bytes: None,
            mail_opened: None,
            reasons: Vec::new(),
            success: None,
        };
        let host = ServerHost {
            name: ServerText::new(b"mail01", 64),
            clock_offset_s: offset.map(SignedSeconds::from_micros),
            uncertain: None,
        };
        run.server_events =
            Some(Box::new(ServerEvents { hosts: vec![host], events: vec![event], ..ServerEvents::default() }));
        run
    }

    /// Begin and end of the first event, in microseconds since the start of the run.
    fn times(run: &Run) -> (u64, u64) {
        let id = run.server_events.as_ref().unwrap().events[0].span_id;
        let (from, until) = ServerTimes::of(run).get(id).unwrap();
        (from.as_micros(), until.as_micros())
    }

    #[test]
    fn an_event_is_shifted_by_its_hosts_clock_and_cut_to_the_root() {
        let length = reported(None, 0, 0, None).duration_s.as_micros();
        for (behind, took, offset, expected) in [
            (100, 200, None, (100, 300)),
            (100, 200, Some(60), (40, 240)),
            (100, 200, Some(-60), (160, 360)),
            (-50, 200, Some(0), (0, 150)),
            (-500, 200, Some(0), (0, 0)),
            (100, u64::MAX, Some(0), (100, length)),
            (i64::try_from(length).unwrap() + 1, 200, None, (length, length)),
        ] {
            assert_eq!(times(&reported(None, behind, took, offset)), expected, "{behind} {took} {offset:?}");
        }
    }

    #[test]
    fn an_event_is_cut_to_its_step_or_to_the_event_that_it_is_below_in_any_order() {
        let mut run = reported(None, 0, 1_000_000, None);
        let select = run.steps.iter().find(|step| step.name == "SELECT").unwrap().clone();
        let (begin, end) = (select.start_s.as_micros(), select.end_s().as_micros());
        let server = run.server_events.as_mut().unwrap();
        let outer = ServerEvent {
            span_id: SpanId::random(),
            parent_span_id: select.span_id.unwrap(),
            ..server.events[0].clone()
        };
        // The parent comes behind its child.
        server.events[0].parent_span_id = outer.span_id;
        server.events.push(outer);
        assert_eq!(times(&run), (begin, end));
        // One that is nowhere in the run, and two that are below each other, are below the root.
        let server = run.server_events.as_mut().unwrap();
        server.events.truncate(1);
        assert_eq!(times(&run), (0, run.duration_s.as_micros().min(1_000_000)));
        let server = run.server_events.as_mut().unwrap();
        server.events[0].parent_span_id = server.events[0].span_id;
        assert_eq!(times(&run), (0, run.duration_s.as_micros().min(1_000_000)));
        assert_eq!(ServerTimes::of(&run).get(SpanId::random()), None);
    }
}
