//! The rows of a waterfall, and the columns that fit.
//!
//! Name, bar and duration are always shown; the other columns are added in the order of their use, while the bar keeps
//! [`LEAST_BAR`] columns.

use imaptrace_imap::{Condition, ResponseCode};
use imaptrace_record::{Run, RunOutcome, Seconds, Step, StepOutcome};
use unicode_width::UnicodeWidthStr as _;

use super::{
    Style,
    bar::Axis,
    failure::finding,
    hints::failure_hint,
    inner_rows::{InnerRow, InnerRows, WAIT},
    parts::{TimePart, TimeParts},
    text::{TextLine, Tone, clip, duration, safe, size, times, wrap},
};

/// The bar's width below which no column is added.
const LEAST_BAR: usize = 24;
/// Width of a duration or size.
const FIGURE: usize = 7;

/// A column of figures: its title, and the figure of a step.
type Figure = (&'static str, fn(&Step, Style) -> Option<String>);

/// The most useful first.
const FIGURES: [Figure; 5] = [
    ("server", |step, style| step.server_s.map(|time| duration(time, style))),
    ("first", |step, style| first_byte(step).map(|time| duration(time, style))),
    ("recv", |step, _| step.received_bytes.map(size)),
    ("sent", |step, _| step.sent_bytes.map(size)),
    ("reports", |step, style| step.reported_s.map(|time| duration(time, style))),
];

/// When the server began to answer: of a handshake by its ServerHello.
fn first_byte(step: &Step) -> Option<Seconds> {
    step.first_byte_s.or_else(|| step.tls.as_ref()?.server_hello_s)
}

/// The columns of this run at this width.
pub(super) struct TextTable<'a> {
    run: &'a Run,
    style: Style,
    name: usize,
    bar_at: usize,
    axis: Axis,
    /// Width of the durations: a column more if one is marked as uncertain.
    took: usize,
    figures: Vec<Figure>,
    status: usize,
    code: usize,
    inner: InnerRows,
}

impl<'a> TextTable<'a> {
    pub(super) fn new(run: &'a Run, style: Style) -> Self {
        let most = |text: &dyn Fn(&Step) -> String, limit: usize| {
            run.steps.iter().map(|step| text(step).width()).max().unwrap_or_default().min(limit)
        };
        let inner = InnerRows::of(run, style);
        let longest = (style.width / 5).max(12);
        let inner_name = inner.all().map(|row| row.label().width()).max().unwrap_or_default().min(longest);
        let name = most(&|step| label(step, style), longest).max(inner_name);
        let status = most(&|step| step.status.map(|status| status.to_string()).unwrap_or_default(), FIGURE);
        let code = most(&|step| step.code.map(|code| code.to_string()).unwrap_or_default(), 20);
        let doubtful = run.uncertain == Some(true) || run.steps.iter().any(|step| step.uncertain == Some(true));
        let took = FIGURE + usize::from(doubtful);
        let mut table = Self {
            run,
            style,
            name,
            bar_at: name + 1,
            axis: Axis { columns: 0, end: Seconds::ZERO },
            took,
            figures: Vec::new(),
            status: 0,
            code: 0,
            inner,
        };
        let mark = most(&|step| table.mark(step), 16);
        let mut space = style.width.saturating_sub(name + 1 + 1 + took + if mark > 0 { mark + 1 } else { 0 });
        let mut admit = |width: usize| {
            let fits = width > 0 && space > LEAST_BAR + width;
            if fits {
                space -= width + 1;
            }
            fits
        };
        table.status = if admit(status) { status } else { 0 };
        let filled = FIGURES.into_iter().filter(|(_, of)| run.steps.iter().any(|step| of(step, style).is_some()));
        table.figures = filled.filter(|_| admit(FIGURE)).collect();
        table.code = if admit(code) { code } else { 0 };
        let ends = run.steps.iter().map(Step::end_s).chain(run.first_loading_latency_s);
        table.axis = Axis { columns: space, end: ends.max().unwrap_or_default().max(run.duration_s) };
        table
    }

    pub(super) fn titles(&self, page: &mut String) {
        let end = duration(self.axis.end, self.style);
        let gap = self.axis.columns.saturating_sub(1 + end.width());
        let scale = clip(&format!("0{}{end}", " ".repeat(gap)), self.axis.columns, self.style);
        let mut line = TextLine::of(
            Tone::Dim,
            format!("{:bar_at$}{scale} {:>took$}", "", "took", bar_at = self.bar_at, took = self.took),
        );
        for (title, _) in &self.figures {
            line.push(Tone::Dim, format!(" {title:>FIGURE$}"));
        }
        line.write(self.style, page);
    }

    pub(super) fn step(&self, step: &Step, page: &mut String) {
        let style = self.style;
        let mark = self.mark(step);
        let (text, bar) = match step.outcome {
            _ if self.failed_the_run(step) => (Tone::Bad, Tone::Bad),
            StepOutcome::Failed => (Tone::Warn, Tone::Warn),
            StepOutcome::Skipped => (Tone::Dim, Tone::Dim),
            StepOutcome::Passed if !mark.is_empty() && !self.has_failed() => (Tone::Bold, Tone::Warn),
            StepOutcome::Passed => (Tone::Plain, Tone::Bar),
        };
        let took = match step.outcome {
            StepOutcome::Skipped => "skipped".to_owned(),
            StepOutcome::Failed if !step.was_started() => "unsent".to_owned(),
            _ => doubtful(step.duration_s, step.uncertain == Some(true), style),
        };
        let mut line = TextLine::of(text, clip(&label(step, style), self.name, style));
        line.pad_to(self.bar_at);
        for (part, cells) in self.axis.bar(step.start_s, step.end_s(), TimeParts::of(step), style) {
            // A failed step has one colour; a passed one has those of its parts, even if it is slow.
            let part = part.filter(|_| step.outcome == StepOutcome::Passed);
            line.push(part.map_or(bar, TimePart::tone), cells);
        }
        line.push(text, format!(" {took:>width$}", width = self.took));
        for (_, of) in &self.figures {
            let figure = of(step, style).unwrap_or_default();
            line.push(if text == Tone::Plain { Tone::Dim } else { text }, format!(" {}{figure}", gap(&figure, FIGURE)));
        }
        let [status, code] = [step.status.map(Condition::as_str), step.code.map(ResponseCode::as_str)];
        for (width, words) in [(self.status, status), (self.code, code)] {
            if width > 0 {
                let words = clip(words.unwrap_or_default(), width, style);
                line.push(text, format!(" {words}{}", gap(&words, width)));
            }
        }
        if !mark.is_empty() {
            let tone = match text {
                _ if self.failed_the_run(step) => Tone::Bad,
                _ if self.has_failed() => Tone::Dim,
                _ => Tone::Warn,
            };
            line.push(tone, format!(" {mark}"));
        }
        line.write(style, page);
    }

    /// What is known of the inside of the step with this index, and behind the login of the session: a line each.
    pub(super) fn inside(&self, index: usize, page: &mut String) {
        for row in self.inner.behind(index) {
            self.inner_row(row, page);
        }
    }

    fn inner_row(&self, row: &InnerRow, page: &mut String) {
        let tone = if row.refused { Tone::Warn } else { Tone::Dim };
        let mut line = TextLine::of(tone, clip(&row.label(), self.name, self.style));
        line.pad_to(self.bar_at);
        if let Some((begin, end)) = row.times {
            for (_, cells) in self.axis.bar(begin, end, None, self.style) {
                line.push(if row.refused { Tone::Warn } else { TimePart::Server.tone() }, cells);
            }
            line.push(tone, format!(" {:>width$}  ", duration(row.took, self.style), width = self.took));
            // Of several waits in a command the bars may look alike.
            let from = format!("from {}, ", duration(begin, self.style));
            line.push(tone, if row.name == WAIT { from } else { String::new() });
        }
        line.push(tone, row.facts.join(", ")).write(self.style, page);
    }

    /// The finding of a failed step and, for the one that failed the run, what to try.
    pub(super) fn error(&self, step: &Step, page: &mut String) {
        if step.outcome != StepOutcome::Failed {
            return;
        }
        let decisive = self.failed_the_run(step);
        let class = step.error_type.or_else(|| self.run.error_type.filter(|_| decisive));
        let sign = if self.style.ascii { "x" } else { "✗" };
        self.indented(sign, if decisive { Tone::Bad } else { Tone::Warn }, &finding(step, class, self.style), page);
        if let Some(class) = class.filter(|_| decisive) {
            let sign = if self.style.ascii { ">" } else { "→" };
            self.indented(sign, Tone::Plain, &failure_hint(self.run, class, self.style), page);
        }
    }

    /// Indented lines after a sign.
    pub(super) fn indented(&self, sign: &str, tone: Tone, text: &str, page: &mut String) {
        for (index, part) in wrap(text, self.style.width.saturating_sub(4)).into_iter().enumerate() {
            let sign = if index == 0 { sign } else { " " };
            TextLine::of(tone, format!("  {sign} {part}")).write(self.style, page);
        }
    }

    /// The ruler below the steps of First Loading Latency.
    pub(super) fn latency(&self, page: &mut String) {
        let Some(latency) = self.run.first_loading_latency_s else { return };
        let mut line = TextLine::default();
        line.pad_to(self.bar_at).push(Tone::Bold, self.axis.ruler(self.run.first_row_s, latency, self.style));
        let latency = doubtful(latency, self.run.is_latency_uncertain(), self.style);
        line.push(Tone::Bold, format!(" {latency:>took$}", took = self.took));
        let left = self.style.width.saturating_sub(line.width() + 1);
        let name = "First Loading Latency";
        line.push(Tone::Bold, format!(" {}", if left >= name.len() { name } else { "FLL" }));
        line.write(self.style, page);
    }

    /// The marks of the parts, with their sums over all steps that have them.
    pub(super) fn legend(&self, page: &mut String) {
        let Some(parts) = TimeParts::sum(&self.run.steps) else { return };
        let at = self.bar_at;
        let mut line = TextLine::of(Tone::Dim, clip("all steps", self.name, self.style));
        line.pad_to(at);
        for part in TimePart::ALL {
            let words = format!(" {} {}", part.name(), duration(parts.get(part), self.style));
            if line.width() > at && line.width() + 3 + words.width() > self.style.width {
                std::mem::take(&mut line).write(self.style, page);
                line.pad_to(at);
            } else if line.width() > at {
                line.push(Tone::Plain, "  ");
            }
            line.push(part.tone(), part.mark(self.style)).push(Tone::Dim, words);
        }
        line.write(self.style, page);
    }

    fn failed_the_run(&self, step: &Step) -> bool {
        self.run.failing_step().is_some_and(|failing| std::ptr::eq(failing, step))
    }

    /// Whether a step failed the run: then that step is marked, not the slowest.
    fn has_failed(&self) -> bool {
        self.run.failing_step().is_some()
    }

    /// `◀ slowest`, `◀ slow 8.2×`, `◀ slowest 8.2×` for both, or nothing; `◀ failed` for the step that failed the run.
    fn mark(&self, step: &Step) -> String {
        let sign = if self.style.ascii { "<" } else { "◀" };
        if self.failed_the_run(step) {
            let word = if self.run.outcome == RunOutcome::Void { "ended here" } else { "failed" };
            return format!("{sign} {word}");
        }
        let slowest = slowest(self.run).is_some_and(|other| std::ptr::eq(other, step)) && !self.has_failed();
        let slow = step.slow == Some(true);
        let word = if slowest { "slowest" } else { "slow" };
        match step.highest_ratio().filter(|_| slow) {
            None if !slowest && !slow => String::new(),
            None if slowest && slow => format!("{sign} slowest, slow"),
            None => format!("{sign} {word}"),
            Some(ratio) => format!("{sign} {word} {}", times(ratio, self.style)),
        }
    }
}

/// A duration, marked if it may be wrong.
pub(super) fn doubtful(time: Seconds, uncertain: bool, style: Style) -> String {
    format!("{}{}", if uncertain { "~" } else { "" }, duration(time, style))
}

/// The slowest step of First Loading Latency.
pub(super) fn slowest(run: &Run) -> Option<&Step> {
    let named = run.loading_steps().filter(|step| Some(&step.name) == run.slowest_step.as_ref());
    named.max_by_key(|step| step.duration_s)
}

fn gap(text: &str, width: usize) -> String {
    " ".repeat(width.saturating_sub(text.width()))
}

/// `FETCH INBOX`.
pub(super) fn label(step: &Step, style: Style) -> String {
    match &step.mailbox {
        Some(mailbox) => format!("{} {}", safe(step.name.as_str(), style), safe(mailbox, style)),
        None => safe(step.name.as_str(), style),
    }
}
