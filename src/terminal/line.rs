//! One line per run, for `--count`.

use imaptrace_record::{Run, RunOutcome};

use super::{
    Style,
    failure::verdict,
    parts::{TimePart, TimeParts},
    table::doubtful,
    text::{TextLine, Tone, duration, safe, times},
};

/// `11:42:40  passed  FLL  465 ms  slowest FETCH 435 ms (server 432 ms)  slow 18.7×`, or what failed it. `~` before a
/// latency says that it may be wrong. The time of day is in UTC.
pub fn line(run: &Run, style: Style) -> String {
    let mut line = TextLine::default();
    line.push(Tone::Dim, run.started_at.time_of_day()).push(Tone::Plain, "  ");
    line.push(tone(run.outcome), run.outcome.as_str()).pad_to(18);
    if let Some(family) = run.family {
        line.push(Tone::Plain, format!("{}  ", family.as_str()));
    }
    if let Some(latency) = run.first_loading_latency_s {
        let latency = duration(latency, style);
        let latency = if run.is_latency_uncertain() { doubtful(&latency) } else { latency };
        line.push(Tone::Bold, format!("FLL {latency:>8}  "));
    }
    // Of a run that failed it is the failure that counts, and nobody waited for the rest.
    let passed = run.outcome == RunOutcome::Passed;
    let named = run.loading_steps().filter(|_| passed).filter(|step| Some(&step.name) == run.slowest_step.as_ref());
    let slowest = named.max_by_key(|step| step.duration_s);
    if let Some(step) = slowest {
        line.push(
            Tone::Plain,
            format!("slowest {} {}", safe(step.name.as_str(), style), duration(step.duration_s, style)),
        );
        if let Some(parts) = TimeParts::of(step) {
            line.push(Tone::Plain, format!(" (server {})", duration(parts.get(TimePart::Server), style)));
        }
        line.push(Tone::Plain, "  ");
    }
    if run.slow == Some(true) {
        let ratio = slowest.filter(|step| step.slow == Some(true)).and_then(|step| step.ratio);
        let ratio = ratio.map(|ratio| format!(" {}", times(ratio, style)));
        line.push(Tone::Warn, format!("slow{}  ", ratio.unwrap_or_default()));
    }
    if run.outcome != RunOutcome::Passed {
        line.push(tone(run.outcome), verdict(run, style));
    }
    let mut page = String::new();
    line.write(style, &mut page);
    page
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
    fn a_slow_run_says_how_much_and_a_doubtful_latency_is_marked_in_its_own_column() {
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
    fn a_failed_run_shows_step_class_and_the_servers_words() {
        assert_eq!(
            line(&samples::login_refused(), PLAIN),
            "11:42:40  failed  LOGIN failed: auth_failed: NO [AUTHENTICATIONFAILED] Authentication failed.\n"
        );
        let slowest = Run { slowest_step: Some("tls".into()), ..samples::login_refused() };
        assert_eq!(line(&slowest, PLAIN), line(&samples::login_refused(), PLAIN));
    }
}
