//! One line per run, for `--count`.

use super::{
    Style,
    failure::verdict,
    text::{Line, Tone, duration, safe},
};
use crate::record::{Run, RunOutcome};

/// `11:42:40  passed  FLL 53.4 ms  slowest FETCH 23.3 ms`, or what failed it. The time of day is in UTC.
pub fn line(run: &Run, style: Style) -> String {
    let mut line = Line::default();
    line.push(Tone::Dim, run.started_at.time_of_day()).push(Tone::Plain, "  ");
    line.push(tone(run.outcome), run.outcome.as_str()).pad_to(18);
    if let Some(family) = &run.family {
        line.push(Tone::Plain, format!("{}  ", safe(family, style)));
    }
    if let Some(latency) = run.first_loading_latency_s {
        line.push(Tone::Bold, format!("FLL {:>7}  ", duration(latency, style)));
    }
    if let Some(name) = &run.slowest_step {
        let longest = run.loading_steps().filter(|step| &step.name == name).map(|step| step.duration_s).max();
        let took = longest.map(|took| format!(" {}", duration(took, style))).unwrap_or_default();
        line.push(Tone::Plain, format!("slowest {}{took}  ", safe(name, style)));
    }
    if run.slow == Some(true) {
        line.push(Tone::Warn, "slow  ");
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
        assert_eq!(line(&samples::passed(), PLAIN), "11:42:40  passed  FLL 53.4 ms  slowest FETCH 23.3 ms\n");
    }

    #[test]
    fn a_failed_run_shows_step_class_and_the_servers_words() {
        assert_eq!(
            line(&samples::login_refused(), PLAIN),
            "11:42:40  failed  LOGIN failed: auth_failed: NO [AUTHENTICATIONFAILED] Authentication failed.\n"
        );
    }
}
