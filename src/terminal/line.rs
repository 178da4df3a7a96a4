//! One line per run, for `--count` and for lists of kept runs.

use imaptrace_record::{Run, RunOutcome, Step};

use super::{
    Style,
    failure::outcome_text,
    parts::{TimePart, TimeParts},
    table::{doubtful, slowest},
    text::{TextLine, Tone, clip, duration, safe, times},
};

/// `11:42:40  passed  FLL  465 ms  slowest FETCH 435 ms (server 432 ms)  slow 18.7×`, or the failure. The time is in UTC.
pub fn line(run: &Run, style: Style) -> String {
    let mut line = TextLine::of(Tone::Dim, run.started_at.time_of_day());
    line.push(Tone::Plain, "  ");
    result(run, true, style, &mut line);
    let mut page = String::new();
    line.write(style, &mut page);
    page
}

/// `4bf92f35  2026-11-30 11:42:40  mail01/default  passed  FLL …`: the trace id's first digits, the start in UTC, target and
/// account, and the same.
pub(super) fn dated_line(run: &Run, style: Style) -> String {
    let id: String = run.trace_id.to_string().chars().take(8).collect();
    let mut line = TextLine::of(Tone::Dim, id);
    line.push(Tone::Dim, format!("  {} {}  ", run.started_at.date(), run.started_at.time_of_day()));
    let who = format!("{}/{}", safe(&run.target, style), safe(&run.account, style));
    // The result is worth more than the end of a name.
    line.push(Tone::Bold, clip(&who, style.width / 4, style)).push(Tone::Plain, "  ");
    result(run, false, style, &mut line);
    let mut page = String::new();
    line.write(style, &mut page);
    page
}

/// The result of a run; `with_server` adds the server's part of the slowest step.
fn result(run: &Run, with_server: bool, style: Style, line: &mut TextLine) {
    let column = line.width() + 8;
    line.push(tone(run.outcome), run.outcome.as_str()).pad_to(column);
    if let Some(family) = run.family {
        line.push(Tone::Plain, format!("{}  ", family.as_str()));
    }
    if let Some(latency) = run.first_loading_latency_s {
        line.push(Tone::Bold, format!("FLL {:>8}  ", doubtful(latency, run.is_latency_uncertain(), style)));
    }
    // A failed run shows its failure, not its slowest step.
    let slowest = slowest(run).filter(|_| run.outcome == RunOutcome::Passed);
    if let Some(step) = slowest {
        let server =
            TimeParts::of(step).filter(|_| with_server).map(|parts| duration(parts.get(TimePart::Server), style));
        let server = server.map(|server| format!(" (server {server})")).unwrap_or_default();
        let (name, took) = (safe(step.name.as_str(), style), duration(step.duration_s, style));
        line.push(Tone::Plain, format!("slowest {name} {took}{server}  "));
    }
    if run.slow == Some(true) {
        let ratio = slowest.filter(|step| step.slow == Some(true)).and_then(Step::highest_ratio);
        let ratio = ratio.map(|ratio| format!(" {}", times(ratio, style))).unwrap_or_default();
        line.push(Tone::Warn, format!("slow{ratio}  "));
    }
    if run.outcome != RunOutcome::Passed {
        line.push(tone(run.outcome), outcome_text(run, style));
    }
}

/// The tone of an outcome, here and in the waterfall's head.
pub(super) fn tone(outcome: RunOutcome) -> Tone {
    match outcome {
        RunOutcome::Passed => Tone::Good,
        RunOutcome::Failed => Tone::Bad,
        RunOutcome::Void => Tone::Warn,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::samples;

    const PLAIN: Style = Style { width: 100, colour: false, ascii: true };

    #[test]
    fn a_passed_run_shows_its_latency_and_what_took_longest() {
        assert_eq!(
            line(&samples::passed(), PLAIN),
            "11:42:40  passed  FLL  53.4 ms  slowest FETCH 23.3 ms (server 21.8 ms)\n"
        );
    }

    #[test]
    fn a_slow_run_has_its_ratio_and_a_doubtful_latency_is_marked_in_its_own_column() {
        assert_eq!(
            line(&samples::slow_fetch(), PLAIN),
            "11:42:40  passed  FLL   465 ms  slowest FETCH 435 ms (server 434 ms)  slow 18.7x\n"
        );
        assert_eq!(
            line(&samples::uncertain(), PLAIN),
            "11:42:40  passed  FLL ~53.4 ms  slowest FETCH 23.3 ms (server 21.8 ms)\n"
        );
        let mut run = samples::slow_fetch();
        // A fixed limit, without any history.
        run.steps[8].ratio = None;
        assert!(line(&run, PLAIN).ends_with("  slow\n"));
    }

    #[test]
    fn a_line_of_a_list_has_the_trace_id_the_day_and_the_account() {
        assert_eq!(
            dated_line(&samples::login_refused(), PLAIN),
            "4b4b4b4b  2026-11-23 11:42:40  mail01/default  failed  LOGIN failed: auth_failed: NO [AUTHENTICATIO~\n"
        );
        let long = Run { target: "m".repeat(200), ..samples::passed() };
        let line = dated_line(&long, PLAIN);
        assert!(line.contains("mmm~  passed  FLL  53.4 ms") && line.len() <= 101, "{line}");
    }

    #[test]
    fn a_failed_run_shows_step_class_and_the_servers_words() {
        assert_eq!(
            line(&samples::login_refused(), PLAIN),
            "11:42:40  failed  LOGIN failed: auth_failed: NO [AUTHENTICATIONFAILED] Authentication failed.\n"
        );
        let slowest = Run { slowest_step: Some("tls".into()), ..samples::login_refused() };
        assert_eq!(line(&slowest, PLAIN), line(&samples::login_refused(), PLAIN));
    }
}
