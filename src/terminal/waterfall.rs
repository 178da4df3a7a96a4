//! The waterfall: one run, its steps on one time axis, what was slow, what failed and what to try.
//!
//! The name, the bar and the duration always have their place; the other columns come in as far as the width lets the
//! bar keep [`LEAST_BAR`] columns. What does not fit is clipped by [`Line`], so no line passes the width.

use unicode_width::UnicodeWidthStr as _;

use super::{
    Style,
    bar::Axis,
    failure::{endpoint, finding},
    hint,
    line::tone,
    text::{Line, Tone, clip, duration, safe, size, wrap},
};
use crate::record::{Run, RunOutcome, Seconds, Security, Step, StepOutcome, TlsFacts, Verified};

/// A column to the right of the bar is shown only while the bar keeps this width.
const LEAST_BAR: usize = 24;
/// Width of a duration or size.
const FIGURE: usize = 7;
/// Days before a certificate's end from which it is coloured.
const CERTIFICATE_SOON: i64 = 21;

/// Draws `run`.
pub fn waterfall(run: &Run, style: Style) -> String {
    let mut page = String::new();
    head(run, style, &mut page);
    page.push('\n');
    let table = Table::new(run, style);
    if !run.steps.is_empty() {
        table.titles(&mut page);
    }
    let latency_row = run.steps.iter().rposition(|step| step.name != Step::LOGOUT);
    let mut connection = None;
    for (index, step) in run.steps.iter().enumerate() {
        if step.connection > connection {
            connection = step.connection;
            let mut line = Line::default();
            line.push(Tone::Dim, format!("connection {}", connection.unwrap_or_default()));
            line.write(style, &mut page);
        }
        table.step(step, &mut page);
        table.error(step, &mut page);
        if Some(index) == latency_row {
            table.latency(&mut page);
        }
    }
    page.push('\n');
    sum(run, style, &mut page);
    details(run, style, &mut page);
    page
}

/// Target, address, security, outcome: the address gives way first.
fn head(run: &Run, style: Style, page: &mut String) {
    let mut who = safe(&run.target, style);
    if run.account != "default" {
        who = format!("{who}/{}", safe(&run.account, style));
    }
    let endpoint = endpoint(run, style);
    let peer = run
        .server
        .peer
        .map(|peer| format!(" ({})", peer.ip()))
        .filter(|peer| !endpoint.contains(&peer[2..peer.len() - 1]));
    let family = run.family.as_deref().map(|family| format!("  {}", safe(family, style))).unwrap_or_default();
    let right = format!("  {}{family}  ", security(run, style));
    let room = style.width.saturating_sub(right.width() + run.outcome.as_str().width());
    let mut place = if run.target == run.server.address { String::new() } else { "  ".to_owned() };
    if run.target == run.server.address {
        who = endpoint;
    } else {
        place.push_str(&endpoint);
    }
    if let Some(peer) = peer.filter(|peer| who.width() + place.width() + peer.width() <= room) {
        place.push_str(&peer);
    }
    let mut line = Line::default();
    let who = clip(&who, room, style);
    let place = clip(&place, room.saturating_sub(who.width()), style);
    line.push(Tone::Bold, who).push(Tone::Plain, place).push(Tone::Plain, right);
    line.push(tone(run.outcome), run.outcome.as_str());
    line.write(style, page);
}

fn security(run: &Run, style: Style) -> String {
    let version = run.server.tls_version.as_deref().map(|version| format!(" {}", safe(version, style)));
    let version = clip(&version.unwrap_or_default(), 8, style);
    match run.server.security {
        Security::Tls => format!("TLS{version}"),
        Security::Starttls => format!("STARTTLS{version}"),
        Security::None => "no TLS".to_owned(),
    }
}

/// The columns of this run at this width.
struct Table<'a> {
    run: &'a Run,
    style: Style,
    name: usize,
    axis: Axis,
    first_byte: bool,
    received: bool,
    sent: bool,
    status: usize,
    code: usize,
}

impl<'a> Table<'a> {
    fn new(run: &'a Run, style: Style) -> Self {
        let most = |text: &dyn Fn(&Step) -> String, limit: usize| {
            run.steps.iter().map(|step| text(step).width()).max().unwrap_or_default().min(limit)
        };
        let name = most(&|step| label(step, style), (style.width / 5).max(12));
        let status = most(&|step| step.status.as_deref().map(|status| safe(status, style)).unwrap_or_default(), FIGURE);
        let code = most(&|step| step.code.as_deref().map(|code| safe(code, style)).unwrap_or_default(), 20);
        let mut table = Self {
            run,
            style,
            name,
            axis: Axis { columns: 0, end: Seconds::ZERO },
            first_byte: false,
            received: false,
            sent: false,
            status: 0,
            code: 0,
        };
        let mark = most(&|step| table.mark(step), 16);
        let mut room = style.width.saturating_sub(name + 1 + 1 + FIGURE + if mark > 0 { mark + 1 } else { 0 });
        let mut admit = |width: usize| {
            let fits = width > 0 && room >= LEAST_BAR + width + 1;
            if fits {
                room -= width + 1;
            }
            fits
        };
        table.status = if admit(status) { status } else { 0 };
        table.first_byte = admit(FIGURE);
        table.received = admit(FIGURE);
        table.sent = admit(FIGURE);
        table.code = if admit(code) { code } else { 0 };
        let ends = run.steps.iter().map(Step::end_s).chain(run.first_loading_latency_s);
        table.axis = Axis { columns: room, end: ends.max().unwrap_or_default().max(run.duration_s) };
        table
    }

    fn bar_at(&self) -> usize {
        self.name + 1
    }

    fn titles(&self, page: &mut String) {
        let mut line = Line::default();
        let end = duration(self.axis.end, self.style);
        let gap = self.axis.columns.saturating_sub(1 + end.width());
        line.push(Tone::Dim, format!("{}0{}{end}", " ".repeat(self.bar_at()), " ".repeat(gap)));
        line.to_column(self.bar_at() + self.axis.columns);
        line.push(Tone::Dim, format!(" {:>FIGURE$}", "took"));
        for (shown, title) in [(self.first_byte, "1st"), (self.received, "recv"), (self.sent, "sent")] {
            if shown {
                line.push(Tone::Dim, format!(" {title:>FIGURE$}"));
            }
        }
        line.write(self.style, page);
    }

    fn step(&self, step: &Step, page: &mut String) {
        let style = self.style;
        let mark = self.mark(step);
        let (text, bar) = match step.outcome {
            _ if self.failed_the_run(step) => (Tone::Bad, Tone::Bad),
            StepOutcome::Failed => (Tone::Warn, Tone::Warn),
            StepOutcome::Skipped => (Tone::Dim, Tone::Dim),
            StepOutcome::Passed if !mark.is_empty() => (Tone::Bold, Tone::Warn),
            StepOutcome::Passed => (Tone::Plain, Tone::Bar),
        };
        let took = match step.outcome {
            StepOutcome::Skipped => "skipped".to_owned(),
            StepOutcome::Failed if !step.was_started() => "unsent".to_owned(),
            _ => duration(step.duration_s, style),
        };
        let mut line = Line::default();
        line.push(text, clip(&label(step, style), self.name, style)).to_column(self.bar_at());
        line.push(bar, self.axis.bar(step.start_s, step.end_s(), style));
        line.push(text, format!(" {took:>FIGURE$}"));
        let figures = [
            (self.first_byte, step.first_byte_s.map(|at| duration(at, style))),
            (self.received, step.received_bytes.map(size)),
            (self.sent, step.sent_bytes.map(size)),
        ];
        for (_, figure) in figures.iter().filter(|(shown, _)| *shown) {
            let figure = figure.as_deref().unwrap_or_default();
            line.push(if text == Tone::Plain { Tone::Dim } else { text }, format!(" {}{figure}", gap(figure, FIGURE)));
        }
        for (width, words) in [(self.status, &step.status), (self.code, &step.code)] {
            if width > 0 {
                let words = clip(&safe(words.as_deref().unwrap_or_default(), style), width, style);
                line.push(text, format!(" {words}{}", gap(&words, width)));
            }
        }
        if !mark.is_empty() {
            line.push(Tone::Warn, format!(" {mark}"));
        }
        line.write(style, page);
    }

    /// What a failed step found and, for the one that failed the run, what to try.
    fn error(&self, step: &Step, page: &mut String) {
        if step.outcome != StepOutcome::Failed {
            return;
        }
        let decisive = self.failed_the_run(step);
        let class = step.error_type.or(self.run.error_type.filter(|_| decisive));
        let sign = if self.style.ascii { "x" } else { "✗" };
        self.indented(sign, if decisive { Tone::Bad } else { Tone::Warn }, &finding(step, class, self.style), page);
        if let Some(class) = class.filter(|_| decisive) {
            let sign = if self.style.ascii { ">" } else { "→" };
            self.indented(sign, Tone::Plain, hint(class), page);
        }
    }

    fn indented(&self, sign: &str, tone: Tone, text: &str, page: &mut String) {
        for (index, part) in wrap(text, self.style.width.saturating_sub(4)).into_iter().enumerate() {
            let mut line = Line::default();
            line.push(tone, format!("  {} {part}", if index == 0 { sign } else { " " }));
            line.write(self.style, page);
        }
    }

    /// The ruler under the steps that the user waits for.
    fn latency(&self, page: &mut String) {
        let Some(latency) = self.run.first_loading_latency_s else { return };
        let mut line = Line::default();
        line.push(Tone::Plain, " ".repeat(self.bar_at()));
        line.push(Tone::Bold, self.axis.ruler(self.run.first_row_s, latency, self.style));
        line.push(Tone::Bold, format!(" {:>FIGURE$}", duration(latency, self.style)));
        let left = self.style.width.saturating_sub(line.width() + 1);
        let name = "First Loading Latency";
        line.push(Tone::Bold, format!(" {}", if left >= name.len() { name } else { "FLL" }));
        line.write(self.style, page);
    }

    fn failed_the_run(&self, step: &Step) -> bool {
        self.run.failing_step().is_some_and(|failing| std::ptr::eq(failing, step))
    }

    /// `◀ slowest 8.2×`, `◀ slow 8.2×`, or nothing.
    fn mark(&self, step: &Step) -> String {
        let longest = self.run.loading_steps().filter(|other| Some(&other.name) == self.run.slowest_step.as_ref());
        let slowest = longest.max_by_key(|other| other.duration_s).is_some_and(|other| std::ptr::eq(other, step));
        let slow = step.slow == Some(true);
        if !slowest && !slow {
            return String::new();
        }
        let (arrow, times) = if self.style.ascii { ("<", "x") } else { ("◀", "×") };
        let ratio = match step.ratio.filter(|_| slow) {
            Some(ratio) if ratio < 999.0 => format!(" {ratio:.1}{times}"),
            Some(_) => format!(" >999{times}"),
            None => String::new(),
        };
        format!("{arrow} {}{ratio}", if slowest { "slowest" } else { "slow" })
    }
}

fn gap(text: &str, width: usize) -> String {
    " ".repeat(width.saturating_sub(text.width()))
}

/// `FETCH INBOX`.
pub(super) fn label(step: &Step, style: Style) -> String {
    match &step.mailbox {
        Some(mailbox) => format!("{} {}", safe(&step.name, style), safe(mailbox, style)),
        None => safe(&step.name, style),
    }
}

/// The numbers in words.
fn sum(run: &Run, style: Style, page: &mut String) {
    let mut line = Line::default();
    if let Some(latency) = run.first_loading_latency_s {
        line.push(Tone::Bold, format!("First Loading Latency {}", duration(latency, style)));
        if let Some(row) = run.first_row_s {
            line.push(Tone::Plain, format!(", first row {}", duration(row, style)));
        }
        line.push(Tone::Plain, format!(", run {}", duration(run.duration_s, style)));
    } else {
        line.push(Tone::Bold, "no First Loading Latency");
        line.push(Tone::Plain, format!(": the run ended after {}", duration(run.duration_s, style)));
    }
    if run.outcome == RunOutcome::Void {
        line.push(Tone::Warn, "; void: it says nothing about the server");
    }
    line.write(style, page);
}

/// Facts beside the times, a line each.
fn details(run: &Run, style: Style, page: &mut String) {
    let mut detail = |tone: Tone, name: &str, text: String| {
        let mut line = Line::default();
        line.push(Tone::Dim, format!("{name:<9}")).push(tone, text);
        line.write(style, page);
    };
    let attempts = run.steps.iter().filter_map(|step| step.connect.as_ref()).flat_map(|facts| &facts.attempts);
    for attempt in attempts.filter(|attempt| attempt.outcome != StepOutcome::Passed) {
        let why = attempt.error_type.map_or("given up, another was first", |class| class.as_str());
        let text = format!("{} after {}: {why}", attempt.peer, duration(attempt.duration_s, style));
        detail(Tone::Warn, "attempt", text);
    }
    let facts = run.steps.iter().filter_map(|step| step.tls.as_ref()).next_back();
    let (tone, words) = tls(run, facts, style);
    if !words.is_empty() {
        detail(tone, "tls", words.join(", "));
    }
    let words = [run.server.id_name.as_ref(), run.server.id_version.as_ref()];
    let mut words: Vec<_> = words.into_iter().flatten().map(|text| safe(text.as_str(), style)).collect();
    if let Some(rtt) = run.server.rtt_min_s {
        words.push(format!("{}round trip {}", if words.is_empty() { "" } else { "- " }, duration(rtt, style)));
    }
    if !words.is_empty() {
        detail(Tone::Dim, "server", words.join(" "));
    }
    let opened = run.steps.iter().rfind(|step| step.mailbox_messages.is_some());
    if let Some((opened, messages)) = opened.and_then(|step| Some((step, step.mailbox_messages?))) {
        let fetched = run.steps.iter().rev().find_map(|step| step.messages);
        let fetched = fetched.map(|count| format!(", {count} fetched")).unwrap_or_default();
        let name = opened.mailbox.as_deref().unwrap_or("mailbox");
        detail(Tone::Dim, "mailbox", format!("{}: {messages} messages{fetched}", safe(name, style)));
    }
    detail(Tone::Dim, "trace", run.trace_id.to_string());
}

fn tls(run: &Run, facts: Option<&TlsFacts>, style: Style) -> (Tone, Vec<String>) {
    let mut tone = Tone::Dim;
    let mut words = Vec::new();
    if facts.is_some_and(|facts| facts.verified == Verified::Insecure) {
        tone = Tone::Bad;
        words.push("certificate NOT verified (--insecure)".to_owned());
    }
    words.extend(run.server.tls_cipher.as_deref().map(|cipher| safe(cipher, style)));
    let not_after = run.server.certificate_not_after.or(facts.and_then(|facts| facts.not_after));
    if let Some(not_after) = not_after {
        let days = days(run, not_after);
        if days < CERTIFICATE_SOON && tone == Tone::Dim {
            tone = Tone::Warn;
        }
        words.push(match days {
            0.. => format!("certificate good for {days} days, to {}", not_after.date()),
            _ => format!("certificate expired on {}", not_after.date()),
        });
    }
    (tone, words)
}

/// Whole days from the start of the run, since nothing here reads a clock.
#[expect(clippy::cast_possible_truncation, reason = "no calendar has so many days")]
fn days(run: &Run, not_after: crate::record::Timestamp) -> i64 {
    ((not_after.epoch_seconds() - run.started_at.epoch_seconds()) / 86_400.0).floor() as i64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::terminal::samples;

    const STYLES: [(bool, bool, &str); 2] = [(true, false, "colour"), (false, true, "ascii")];

    #[test]
    fn the_cases_that_users_meet_look_like_this() {
        for (name, run) in samples::all() {
            let mut pages = String::new();
            for (colour, ascii, kind) in STYLES {
                for width in [60, 80, 120] {
                    let page = waterfall(&run, Style { width, colour, ascii });
                    pages.push_str(&format!("--- {width} columns, {kind}\n{}", page.replace('\x1b', "\\e")));
                }
            }
            insta::assert_snapshot!(name, pages);
        }
    }

    #[test]
    fn an_insecure_handshake_is_said_loudly() {
        let mut run = samples::passed();
        run.steps[2].tls.as_mut().unwrap().verified = Verified::Insecure;
        let page = waterfall(&run, Style { width: 80, colour: false, ascii: true });
        assert!(page.contains("NOT verified (--insecure)"), "{page}");
    }

    /// Takes away the style's own sequences.
    fn bare(page: &str) -> String {
        let mut pieces = page.split("\x1b[");
        let mut bare = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            let (parameters, rest) = piece.split_once('m').unwrap();
            assert!(parameters.chars().all(|digit| digit.is_ascii_digit()), "{parameters:?}");
            bare.push_str(rest);
        }
        bare
    }

    proptest! {
        #[test]
        fn whatever_a_run_holds_no_line_passes_the_width_and_no_control_character_leaves(
            run in samples::any_run(), width in 40_usize..140, colour in any::<bool>(), ascii in any::<bool>(),
        ) {
            let style = Style { width, colour, ascii };
            for page in [waterfall(&run, style), super::super::line(&run, style), super::super::summary(&[run.clone(), run.clone()], style)] {
                prop_assert!(colour || !page.contains('\x1b'));
                let page = bare(&page);
                prop_assert!(!ascii || page.is_ascii(), "{page}");
                for line in page.split('\n') {
                    prop_assert!(line.width() <= width, "{} columns: {line:?}", line.width());
                    prop_assert!(!line.contains(char::is_control), "{line:?}");
                }
            }
            if let Some(line) = super::super::failure(&run, style) {
                prop_assert!(!line.trim_end_matches('\n').contains(char::is_control), "{line:?}");
            }
        }
    }
}
