//! The facts of an exchange, a handshake or a greeting for its step: state, the kernel's figures, where its time went. Called by
//! `conversation`.

use std::time::{Duration, Instant};

use imaptrace_imap as imap;
use imaptrace_record::{ClockSource, CommandState, Seconds, ServerWait, SpanId, Step};

use super::{
    driver::Driver,
    exchange::{CoarseMoment, Exchange, TcpInfoDelta},
    split::{Gap, Span, split, waits},
    uncertainty::{Evidence, Uncertainty},
};
use crate::{
    clock,
    net::{Traffic, kept_waiting, tick},
};

/// The state of the session before a command (RFC 9051 §3).
pub(super) fn state(driver: &Driver) -> CommandState {
    match driver.session.state() {
        imap::SessionState::Connected | imap::SessionState::NotAuthenticated => CommandState::NotAuthenticated,
        imap::SessionState::Authenticated => CommandState::Authenticated,
        imap::SessionState::Selected => CommandState::Selected,
        imap::SessionState::Logout => CommandState::Logout,
    }
}

/// What the kernel has counted on the connection since the step before, which is noted on this one.
pub(super) fn tcp_delta(step: &mut Step, driver: &mut Driver) -> Option<TcpInfoDelta> {
    let info = driver.wire.tcp_info()?;
    // After TCP_INFO: if this thread loses its core in between, data seems younger than it is, and the error bound stays 0.
    let now = clock::now();
    let before = std::mem::replace(&mut driver.info, info);
    let count = |now: u32, before: u32| u64::from(now.saturating_sub(before));
    let since = |now: Option<u32>, before: Option<u32>| now.map(|now| count(now, before.unwrap_or_default()));
    let unacknowledged = info.unacknowledged.map(|time| time.saturating_sub(before.unacknowledged.unwrap_or_default()));
    let last_data = now.checked_sub(Duration::from_millis(info.data_age_ms.into())).and_then(|latest| {
        let earliest = latest.checked_sub(tick())?;
        Some(CoarseMoment { earliest, latest })
    });
    let tcp = TcpInfoDelta {
        rtt_min: info.rtt_min,
        retransmits: count(info.retransmits, before.retransmits),
        out_of_order: since(info.out_of_order, before.out_of_order),
        segment: info.segment,
        data_segments: since(info.data_segments, before.data_segments),
        unacknowledged: unacknowledged.map(|time| time + tick()),
        last_data,
    };
    step.rtt_min_s = tcp.rtt_min.map(Seconds::from);
    step.retransmits = Some(tcp.retransmits).filter(|count| *count > 0);
    step.out_of_order = tcp.out_of_order.filter(|count| *count > 0);
    Some(tcp)
}

/// Notes on a command's step where its time went, with the times in which the server was waited for; `at` is the time of a moment
/// since the start of the run. Returns the error bound.
pub(super) fn account(
    step: &mut Step,
    exchange: &Exchange,
    tcp: Option<&TcpInfoDelta>,
    driver: &mut Driver,
    at: impl Fn(Instant) -> Seconds,
) -> Uncertainty {
    let Exchange { start, end, traffic, .. } = exchange;
    driver.rate.learn(&traffic.events, tcp.map_or(0, |tcp| tcp.segment));
    let (events, per_byte) = (&traffic.events, driver.rate.per_byte());
    let round_trip = tcp.and_then(|tcp| tcp.rtt_min);
    let span = Span { start: *start, asked: true, end: *end, events, duration: step.duration_s, round_trip };
    divide(step, span, per_byte);
    // Whether the command is slow is known later: those of one that is not are dropped then (`latency`).
    let wait = |gap: Gap<'_>| {
        let start_s = at(gap.since);
        let duration_s = at(gap.until).saturating_sub(start_s);
        ServerWait { span_id: SpanId::random(), start_s, duration_s, server_s: gap.server.into() }
    };
    step.waits = waits(span, per_byte).into_iter().map(wait).collect();
    if events.iter().any(|event| !event.sent) {
        step.clock_source = Some(if traffic.kernel { ClockSource::Kernel } else { ClockSource::User });
    }
    step.delayed_s = Some(Seconds::from(kept_waiting(events))).filter(|kept| *kept > Seconds::ZERO);
    if let Ok(response) = &exchange.result
        && let Some(reported) = reported(&response.text, step.duration_s.to_duration())
    {
        step.reported_s = Some(reported.time.into());
        step.reported_wait_s = reported.waited.map(Seconds::from).filter(|waited| *waited > Seconds::ZERO);
    }
    let Exchange { more, waited, .. } = *exchange;
    let evidence = Evidence { tcp, kernel: traffic.kernel, closed: traffic.closed, more, waited };
    Uncertainty::of_command(span, per_byte, &evidence)
}

/// The time of a TLS handshake or a greeting, on the line.
#[derive(Debug, Clone, Copy)]
pub(super) struct SetupTime<'a> {
    pub(super) start: Instant,
    pub(super) end: Instant,
    /// See [`Span::asked`].
    pub(super) asked: bool,
    pub(super) traffic: &'a Traffic,
}

/// Notes on the step of a TLS handshake or a greeting where its time went. Returns the error bound.
pub(super) fn account_setup(
    step: &mut Step,
    time: SetupTime<'_>,
    tcp: Option<&TcpInfoDelta>,
    driver: &Driver,
) -> Uncertainty {
    let SetupTime { start, end, asked, traffic } = time;
    let round_trip = tcp.and_then(|tcp| tcp.rtt_min);
    let span = Span { start, asked, end, events: &traffic.events, duration: step.duration_s, round_trip };
    let per_byte = driver.rate.per_byte();
    divide(step, span, per_byte);
    let Traffic { kernel, closed, .. } = *traffic;
    Uncertainty::of_command(span, per_byte, &Evidence { tcp, kernel, closed, more: false, waited: Duration::ZERO })
}

fn divide(step: &mut Step, span: Span<'_>, per_byte: u32) {
    let parts = split(span, per_byte);
    step.server_s = Some(parts.server);
    step.network_s = Some(parts.network);
    step.transfer_s = Some(parts.transfer);
}

/// The times that the server reports for a command, less those that are longer than it was here. Its clock may be slewed, by a
/// thousandth at most.
fn reported(text: &[u8], duration: Duration) -> Option<imap::Reported> {
    let reported = imap::reported(text)?;
    let most = duration + reported.resolution + duration / 1_000;
    let waited = reported.waited.filter(|waited| *waited <= most);
    (reported.time <= most).then_some(imap::Reported { waited, ..reported })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_reports_is_its_time_in_the_command_on_quick_and_slow_ones_alike() {
        for (text, millis, expected) in [
            ("Fetch completed (0.036 + 0.000 + 0.035 secs).", 40, Some(36)),
            // Rounded up by the server.
            ("List completed (0.001 + 0.000 secs).", 0, Some(1)),
            // The last term overlaps the first: the sum of all is twice what the command took.
            ("Select completed (1.020 + 0.000 + 1.019 secs).", 1_021, Some(1_020)),
            ("Select completed (29.020 + 0.000 + 29.019 secs).", 29_000, Some(29_020)),
            ("Select completed (30.020 + 0.000 + 29.019 secs).", 29_000, None),
            ("Fetch completed (0.050 secs).", 40, None),
            ("Fetch completed.", 40, None),
        ] {
            let reported = reported(text.as_bytes(), Duration::from_millis(millis));
            assert_eq!(reported.map(|reported| reported.time.as_millis()), expected, "{text}");
        }
    }

    #[test]
    fn the_servers_wait_for_us_is_apart_and_never_longer_than_the_command() {
        for (text, expected) in [
            ("Fetch completed (0.036 + 0.412 + 0.447 secs).", Some(412)),
            ("Fetch completed (0.036 + 0.000 + 0.035 secs).", Some(0)),
            ("Fetch completed (0.036 + 9.412 + 0.035 secs).", None),
            ("Completed (0.036 secs).", None),
        ] {
            let reported = reported(text.as_bytes(), Duration::from_millis(450)).unwrap();
            assert_eq!(reported.waited.map(|waited| waited.as_millis()), expected, "{text}");
        }
    }
}
