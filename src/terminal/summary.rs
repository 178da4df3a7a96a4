//! Minimum, median and maximum of each step over several runs, and the slowest run. Called by `cli`.

use imaptrace_record::{Run, RunOutcome, Seconds, StepOutcome};
use unicode_width::UnicodeWidthStr as _;

use super::{
    Style,
    parts::{TimePart, TimeParts},
    spread::Spread,
    table::label,
    text::{TextLine, Tone, clip, duration},
};

/// The results of all runs, in memory that does not grow with their number.
#[derive(Debug, Default)]
pub struct Summary {
    /// The number of runs.
    pub runs: u64,
    passed: u64,
    failed: u64,
    void: u64,
    latency: Row,
    first_row: Row,
    steps: Vec<Row>,
    /// The run with the largest First Loading Latency, else the longest. None if all are void.
    pub slowest: Option<Run>,
    /// The last void run.
    pub void_run: Option<Run>,
}

impl Summary {
    /// Adds a run, with its steps named in this style. A void run is only counted: it is no evidence about the server.
    pub fn add(&mut self, run: &Run, style: Style) {
        self.runs += 1;
        *match run.outcome {
            RunOutcome::Passed => &mut self.passed,
            RunOutcome::Failed => &mut self.failed,
            RunOutcome::Void => &mut self.void,
        } += 1;
        if run.outcome == RunOutcome::Void {
            self.void_run = Some(run.clone());
            return;
        }
        if let Some(latency) = run.first_loading_latency_s {
            self.latency.add(latency, TimeParts::sum(run.loading_steps()));
        }
        if let Some(first_row) = run.first_row_s {
            self.first_row.add(first_row, None);
        }
        steps(run, style, &mut self.steps);
        let weight = |run: &Run| (run.first_loading_latency_s, run.duration_s);
        if self.slowest.as_ref().is_none_or(|slowest| weight(run) >= weight(slowest)) {
            self.slowest = Some(run.clone());
        }
    }

    /// The counts of outcomes, and minimum, median and maximum of First Loading Latency, of the first row and of each passed
    /// step; if it fits, the median of the server's share. A step that occurs twice in a run has two rows. The median of
    /// more than 1,000 values has an error of at most a thousandth.
    pub fn text(&self, style: Style) -> String {
        let mut page = String::new();
        let mut line = TextLine::of(Tone::Bold, format!("{} runs: ", self.runs));
        line.push(Tone::Good, format!("{} passed", self.passed));
        for (outcome, count, tone) in
            [(RunOutcome::Failed, self.failed, Tone::Bad), (RunOutcome::Void, self.void, Tone::Warn)]
        {
            line.push(Tone::Plain, ", ");
            line.push(if count > 0 { tone } else { Tone::Plain }, format!("{count} {}", outcome.as_str()));
        }
        line.write(style, &mut page);
        page.push('\n');
        self.table(style, &mut page);
        page
    }

    fn table(&self, style: Style, page: &mut String) {
        let first = [(Tone::Bold, "First Loading Latency", &self.latency), (Tone::Plain, "first row", &self.first_row)];
        let steps = self.steps.iter().map(|row| (Tone::Plain, row.name.as_str(), row));
        let rows: Vec<_> = first.into_iter().chain(steps).filter(|(_, _, row)| row.micros.count > 0).collect();

        // Each figure has 7 columns and a space. The server's share is shown only if it shortens no name.
        let widest = rows.iter().map(|(_, name, _)| name.width()).max().unwrap_or_default();
        let shares = rows.iter().any(|(_, _, row)| row.percents.count > 0) && widest + 40 <= style.width;
        let name_width = widest.min(style.width.saturating_sub(32));
        let mut figures = |tone: Tone, name: &str, [least, median, most, server, runs]: [&str; 5]| {
            let mut line = TextLine::of(tone, clip(name, name_width, style));
            line.pad_to(name_width);
            for figure in
                [Some(least), Some(median), Some(most), shares.then_some(server), Some(runs)].into_iter().flatten()
            {
                let gap = " ".repeat(8_usize.saturating_sub(figure.width()));
                line.push(tone, format!("{gap}{figure}"));
            }
            line.write(style, page);
        };
        if !rows.is_empty() {
            figures(Tone::Dim, "", ["min", "median", "max", "server", "runs"]);
        }
        for (tone, name, row) in rows {
            let [least, middle, most] =
                row.micros.figures().map(|micros| duration(Seconds::from_micros(micros), style));
            let [_, percent, _] = row.percents.figures();
            let server = if row.percents.count == 0 { String::new() } else { format!("{percent} %") };
            figures(tone, name, [&least, &middle, &most, &server, &row.micros.count.to_string()]);
        }
    }
}

/// More than the steps of different names in any run.
const MOST_ROWS: usize = 100;

/// A row of the table, over several runs.
#[derive(Debug, Default)]
struct Row {
    name: String,
    /// Each duration.
    micros: Spread,
    /// The server's share of each that is divided.
    percents: Spread,
}

impl Row {
    fn add(&mut self, time: Seconds, parts: Option<TimeParts>) {
        self.micros.add(time.as_micros());
        let server = parts.map(|parts| u128::from(parts.get(TimePart::Server).as_micros()));
        let percent = server.and_then(|server| (server * 100).checked_div(time.as_micros().into()));
        // In a replayed record a part may be larger than the whole.
        if let Some(percent @ 0..=100) = percent.and_then(|percent| u64::try_from(percent).ok()) {
            self.percents.add(percent);
        }
    }
}

/// Adds each step of `run` that passed to its row, or as a new one.
fn steps(run: &Run, style: Style, rows: &mut Vec<Row>) {
    let mut seen: Vec<String> = Vec::new();
    let last = run.steps.iter().filter(|step| step.is_logout());
    let passed = run.loading_steps().chain(last).filter(|step| step.outcome == StepOutcome::Passed);
    for step in passed {
        let label = label(step, style);
        let times = seen.iter().filter(|other| **other == label).count() + 1;
        seen.push(label.clone());
        let name = if times > 1 { format!("{label} #{times}") } else { label };
        let at = rows.iter().position(|row| row.name == name).unwrap_or(rows.len());
        if at == rows.len() && at < MOST_ROWS {
            rows.push(Row { name, ..Row::default() });
        }
        if let Some(row) = rows.get_mut(at) {
            row.add(step.duration_s, TimeParts::of(step));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::samples;

    fn of(runs: &[Run], style: Style) -> Summary {
        let mut summary = Summary::default();
        for run in runs {
            summary.add(run, style);
        }
        summary
    }

    fn summary(runs: &[Run], style: Style) -> String {
        of(runs, style).text(style)
    }

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
    fn the_slowest_run_is_by_latency_and_a_run_without_one_is_shown_only_among_its_like() {
        let runs = [samples::passed(), samples::slow_fetch(), samples::login_refused()];
        let style = Style { width: 80, colour: false, ascii: true };
        assert_eq!(of(&runs, style).slowest.as_ref(), Some(&runs[1]));
        assert_eq!(of(&runs[2..], style).slowest.as_ref(), Some(&runs[2]));
        assert_eq!(of(&[], style).slowest, None);
    }

    #[test]
    fn a_void_run_is_counted_and_is_in_no_row_and_never_the_slowest() {
        let mut cut_off = samples::far_away();
        cut_off.outcome = RunOutcome::Void;
        let style = Style { width: 80, colour: false, ascii: true };
        let summary = of(&[samples::passed(), cut_off.clone()], style);
        assert_eq!(summary.slowest.as_ref(), Some(&samples::passed()));
        let text = summary.text(style);
        let alone = of(&[samples::passed()], style).text(style);
        assert!(text.starts_with("2 runs: 1 passed, 0 failed, 1 void\n"), "{text}");
        assert_eq!(text.lines().skip(1).collect::<Vec<_>>(), alone.lines().skip(1).collect::<Vec<_>>());
        assert_eq!(of(&[cut_off], style).slowest, None);
    }
}
