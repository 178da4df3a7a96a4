//! Minimum, median and maximum per step over several runs, and which run was the slowest.

use unicode_width::UnicodeWidthStr as _;

use super::{
    Style,
    parts::{Part, Parts},
    table::label,
    text::{Line, Tone, clip, duration},
};
use crate::record::{Run, RunOutcome, Seconds, Step, StepOutcome};

/// The run whose waterfall is worth a look: the largest First Loading Latency, else the longest run. None of none.
pub fn slowest(runs: &[Run]) -> Option<&Run> {
    runs.iter().max_by_key(|run| (run.first_loading_latency_s, run.duration_s))
}

/// How many runs passed, and minimum, median and maximum of each step that passed, of First Loading Latency and of the
/// first row; where there is room, the median of the server's share of each. A step that came twice in a run has a row for
/// each time.
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

    let mut of_steps = Vec::new();
    let mut rows = vec![Row::new(Tone::Bold, "First Loading Latency"), Row::new(Tone::Plain, "first row")];
    for run in runs {
        if let Some(latency) = run.first_loading_latency_s {
            rows[0].add(latency, Parts::sum(run.loading_steps()));
        }
        if let Some(first_row) = run.first_row_s {
            rows[1].add(first_row, None);
        }
        steps(run, style, &mut of_steps);
    }
    rows.extend(of_steps);
    rows.retain(|row| !row.micros.is_empty());

    // Figures of 7 columns with a space each stand to the right; the server's share only where it shortens no name.
    let widest = rows.iter().map(|row| row.name.width()).max().unwrap_or_default();
    let shares = rows.iter().any(|row| !row.percents.is_empty()) && widest + 40 <= style.width;
    let name_width = widest.min(style.width.saturating_sub(32));
    let mut figures = |tone: Tone, name: &str, [least, median, most, server, runs]: [&str; 5]| {
        let mut line = Line::default();
        line.push(tone, clip(name, name_width, style)).pad_to(name_width);
        for figure in
            [Some(least), Some(median), Some(most), shares.then_some(server), Some(runs)].into_iter().flatten()
        {
            let gap = " ".repeat(8_usize.saturating_sub(figure.width()));
            line.push(tone, format!("{gap}{figure}"));
        }
        line.write(style, &mut page);
    };
    if !rows.is_empty() {
        figures(Tone::Dim, "", ["min", "median", "max", "server", "runs"]);
    }
    for mut row in rows {
        row.micros.sort_unstable();
        row.percents.sort_unstable();
        let micros = [row.micros[0], median(&row.micros), row.micros[row.micros.len() - 1]];
        let [least, middle, most] = micros.map(|micros| duration(Seconds::from_micros(micros), style));
        let server = if row.percents.is_empty() { String::new() } else { format!("{} %", median(&row.percents)) };
        figures(row.tone, &row.name, [&least, &middle, &most, &server, &row.micros.len().to_string()]);
    }
    page
}

/// A row of the table, over several runs.
struct Row {
    tone: Tone,
    name: String,
    /// Each duration.
    micros: Vec<u64>,
    /// The server's share of each that is divided.
    percents: Vec<u64>,
}

impl Row {
    fn new(tone: Tone, name: &str) -> Self {
        Self { tone, name: name.to_owned(), micros: Vec::new(), percents: Vec::new() }
    }

    fn add(&mut self, time: Seconds, parts: Option<Parts>) {
        self.micros.push(time.as_micros());
        let server = parts.map(|parts| u128::from(parts.get(Part::Server).as_micros()));
        let percent = server.and_then(|server| (server * 100).checked_div(time.as_micros().into()));
        // A part that is larger than the whole is of no run that was measured.
        self.percents.extend(percent.and_then(|percent| u64::try_from(percent).ok()).filter(|percent| *percent <= 100));
    }
}

/// Adds each step of `run` that passed to its row, or as a new one.
fn steps(run: &Run, style: Style, rows: &mut Vec<Row>) {
    let mut seen: Vec<String> = Vec::new();
    let last = run.steps.iter().filter(|step| step.name == Step::LOGOUT);
    let passed = run.loading_steps().chain(last).filter(|step| step.outcome == StepOutcome::Passed);
    for step in passed {
        let label = label(step, style);
        let times = seen.iter().filter(|other| **other == label).count() + 1;
        seen.push(label.clone());
        let name = if times > 1 { format!("{label} #{times}") } else { label };
        let at = rows.iter().position(|row| row.name == name).unwrap_or(rows.len());
        if at == rows.len() {
            rows.push(Row::new(Tone::Plain, &name));
        }
        rows[at].add(step.duration_s, Parts::of(step));
    }
}

/// Of an even number of values the mean of the two in the middle. `sorted` holds at least one.
fn median(sorted: &[u64]) -> u64 {
    let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
    low + (high - low) / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::samples;

    #[test]
    fn the_table_has_a_row_per_step_and_the_latency_on_top() {
        let runs = [samples::passed(), samples::slow_fetch(), samples::login_refused(), samples::empty_mailbox()];
        insta::assert_snapshot!(summary(&runs, Style { width: 80, colour: false, ascii: true }));
    }

    #[test]
    fn the_servers_share_has_a_column_only_where_it_shortens_no_name() {
        let runs = [samples::passed(), samples::slow_fetch()];
        let narrow = summary(&runs, Style { width: 60, colour: false, ascii: true });
        assert!(!narrow.contains("server") && !narrow.contains('%'), "{narrow}");
        let runs = [samples::connect_refused()];
        let undivided = summary(&runs, Style { width: 120, colour: false, ascii: true });
        assert!(undivided.contains("resolve") && !undivided.contains("server"), "{undivided}");
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        assert_eq!(median(&[1, 3, 9]), 3);
        assert_eq!(median(&[1, 3, 9, 30]), 6);
    }

    #[test]
    fn the_slowest_run_is_by_latency_and_a_run_without_one_is_shown_only_among_its_like() {
        let runs = [samples::passed(), samples::slow_fetch(), samples::login_refused()];
        assert_eq!(slowest(&runs), Some(&runs[1]));
        assert_eq!(slowest(&runs[2..]), Some(&runs[2]));
        assert_eq!(slowest(&[]), None);
    }
}
