//! Minimum, median and maximum per step over several runs, and which run was the slowest.

use unicode_width::UnicodeWidthStr as _;

use super::{
    Style,
    table::label,
    text::{Line, Tone, clip, duration},
};
use crate::record::{Run, RunOutcome, Seconds, Step, StepOutcome};

/// The run whose waterfall is worth a look: the largest First Loading Latency, else the longest run. None of none.
pub fn slowest(runs: &[Run]) -> Option<&Run> {
    runs.iter().max_by_key(|run| (run.first_loading_latency_s, run.duration_s))
}

/// How many runs passed, and minimum, median and maximum of each step that passed, of First Loading Latency and of the
/// first row. A step that came twice in a run has a row for each time.
pub fn summary(runs: &[Run], style: Style) -> String {
    let mut page = String::new();
    let count = |outcome| runs.iter().filter(|run| run.outcome == outcome).count();
    let mut line = Line::default();
    line.push(Tone::Bold, format!("{} runs: ", runs.len()));
    line.push(Tone::Good, format!("{} passed", count(RunOutcome::Passed)));
    for (outcome, tone) in [(RunOutcome::Failed, Tone::Bad), (RunOutcome::Void, Tone::Warn)] {
        let count = count(outcome);
        line.push(Tone::Plain, ", ");
        line.push(if count > 0 { tone } else { Tone::Plain }, format!("{count} {}", outcome.as_str()));
    }
    line.write(style, &mut page);
    page.push('\n');

    let mut rows = Vec::new();
    let latency = runs.iter().filter_map(|run| run.first_loading_latency_s).collect();
    rows.push((Tone::Bold, "First Loading Latency".to_owned(), latency));
    let first_row = runs.iter().filter_map(|run| run.first_row_s).collect();
    rows.push((Tone::Plain, "first row".to_owned(), first_row));
    rows.extend(steps(runs, style).into_iter().map(|(name, times)| (Tone::Plain, name, times)));
    rows.retain(|(_, _, times): &(Tone, String, Vec<Seconds>)| !times.is_empty());

    // Four figures of 7 columns with a space each stand to the right.
    let widest = rows.iter().map(|(_, name, _)| name.width()).max().unwrap_or_default();
    let name_width = widest.min(style.width.saturating_sub(32));
    let mut figures = |tone: Tone, name: &str, figures: [String; 4]| {
        let mut line = Line::default();
        line.push(tone, clip(name, name_width, style)).pad_to(name_width);
        for figure in figures {
            let gap = " ".repeat(8_usize.saturating_sub(figure.width()));
            line.push(tone, format!("{gap}{figure}"));
        }
        line.write(style, &mut page);
    };
    if !rows.is_empty() {
        figures(Tone::Dim, "", ["min", "median", "max", "runs"].map(str::to_owned));
    }
    for (tone, name, mut times) in rows {
        times.sort_unstable();
        let [least, middle, most] = [times[0], median(&times), times[times.len() - 1]];
        let [least, middle, most] = [least, middle, most].map(|time| duration(time, style));
        figures(tone, &name, [least, middle, most, times.len().to_string()]);
    }
    page
}

/// The durations of each step that passed, in order of first appearance.
fn steps(runs: &[Run], style: Style) -> Vec<(String, Vec<Seconds>)> {
    let mut rows: Vec<(String, Vec<Seconds>)> = Vec::new();
    for run in runs {
        let mut seen: Vec<String> = Vec::new();
        let last = run.steps.iter().filter(|step| step.name == Step::LOGOUT);
        let passed = run.loading_steps().chain(last).filter(|step| step.outcome == StepOutcome::Passed);
        for step in passed {
            let label = label(step, style);
            let times = seen.iter().filter(|other| **other == label).count() + 1;
            seen.push(label.clone());
            let name = if times > 1 { format!("{label} #{times}") } else { label };
            match rows.iter_mut().find(|(other, _)| *other == name) {
                Some((_, durations)) => durations.push(step.duration_s),
                None => rows.push((name, vec![step.duration_s])),
            }
        }
    }
    rows
}

/// Of an even number of values the mean of the two in the middle. `sorted` holds at least one.
fn median(sorted: &[Seconds]) -> Seconds {
    let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
    low.saturating_add(Seconds::from_micros(high.saturating_sub(low).as_micros() / 2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::samples::{self, us};

    #[test]
    fn the_table_has_a_row_per_step_and_the_latency_on_top() {
        let runs = [samples::passed(), samples::slow_fetch(), samples::login_refused(), samples::empty_mailbox()];
        insta::assert_snapshot!(summary(&runs, Style { width: 80, colour: false, ascii: true }));
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        assert_eq!(median(&[us(1), us(3), us(9)]), us(3));
        assert_eq!(median(&[us(1), us(3), us(9), us(30)]), us(6));
    }

    #[test]
    fn the_slowest_run_is_by_latency_and_a_run_without_one_is_shown_only_among_its_like() {
        let runs = [samples::passed(), samples::slow_fetch(), samples::login_refused()];
        assert_eq!(slowest(&runs), Some(&runs[1]));
        assert_eq!(slowest(&runs[2..]), Some(&runs[2]));
        assert_eq!(slowest(&[]), None);
    }
}
