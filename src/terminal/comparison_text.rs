//! A comparison of two runs for a terminal. [`comparison`](super::comparison) has what differs.

use imaptrace_record::Seconds;
use unicode_width::UnicodeWidthStr as _;

use super::{
    Style,
    comparison::{ComparedRun, ComparedTime, Comparison},
    line::tone,
    text::{TextLine, Tone, clip, duration, safe, times, wrap},
};

/// Width of a time; a difference has a sign more.
const FIGURE: usize = 8;
/// Width of a ratio.
const RATIO: usize = 6;
/// The least difference in microseconds, and the least ratio, that are coloured.
const NOTICED: u64 = 1_000;
const MUCH: f64 = 1.5;

/// Both runs, their times side by side, and what else differs.
pub fn comparison_text(comparison: &Comparison, style: Style) -> String {
    let mut page = String::new();
    for (name, run) in [("A", &comparison.a), ("B", &comparison.b)] {
        head(name, run, style, &mut page);
    }
    page.push('\n');
    let labels: Vec<_> = comparison.times.iter().map(|time| safe(&time.label(), style)).collect();
    let widest = labels.iter().map(|label| label.width()).max().unwrap_or_default();
    let name = widest.min((style.width / 4).max(10));
    let mut line = TextLine::of(Tone::Dim, format!("{:name$}", ""));
    for (title, width) in [("A", FIGURE), ("B", FIGURE), ("B - A", FIGURE), ("B / A", RATIO)] {
        line.push(Tone::Dim, format!(" {title:>width$}"));
    }
    line.write(style, &mut page);
    for (time, label) in comparison.times.iter().zip(labels) {
        row(time, &clip(&label, name, style), name, style, &mut page);
    }
    if !comparison.changed.is_empty() {
        page.push('\n');
    }
    let arrow = if style.ascii { "->" } else { "→" };
    for change in &comparison.changed {
        let of = |side: &Option<String>| side.as_deref().map_or_else(|| "none".to_owned(), |text| safe(text, style));
        let text = format!("{} {arrow} {}", of(&change.a), of(&change.b));
        for (index, part) in wrap(&text, style.width.saturating_sub(24).max(16)).into_iter().enumerate() {
            let what = if index == 0 { change.what } else { "" };
            TextLine::of(Tone::Dim, format!("{what:<23} ")).push(Tone::Plain, part).write(style, &mut page);
        }
    }
    page
}

fn head(name: &str, run: &ComparedRun, style: Style, page: &mut String) {
    let mut line = TextLine::of(Tone::Dim, format!("{name}  "));
    let who = format!("{}/{}", safe(&run.target, style), safe(&run.account, style));
    line.push(Tone::Bold, clip(&who, style.width / 3, style));
    line.push(Tone::Plain, format!("  {} {} UTC  ", run.started_at.date(), run.started_at.time_of_day()));
    line.push(tone(run.outcome), run.outcome.as_str());
    line.push(Tone::Dim, format!("  {}", run.trace_id)).write(style, page);
}

fn row(time: &ComparedTime, label: &str, name: usize, style: Style, page: &mut String) {
    let by = time.difference();
    let noticed = by.is_some_and(|by| by.unsigned_abs() >= NOTICED);
    let marked = match time.ratio {
        Some(ratio) if noticed && ratio >= MUCH => Tone::Warn,
        Some(ratio) if noticed && ratio <= 1.0 / MUCH => Tone::Good,
        None if time.a_s.is_none() != time.b_s.is_none() => Tone::Dim,
        _ => Tone::Plain,
    };
    let mut line = TextLine::of(marked, label);
    line.push(Tone::Plain, " ".repeat(name.saturating_sub(label.width())));
    for side in [time.a_s, time.b_s] {
        let text = side.map_or_else(|| "-".to_owned(), |time| duration(time, style));
        line.push(Tone::Plain, format!(" {}{text}", " ".repeat(FIGURE.saturating_sub(text.width()))));
    }
    let texts = [(by.map(|by| difference(by, style)), FIGURE), (time.ratio.map(|by| ratio(by, style)), RATIO)];
    for (text, width) in texts {
        let text = text.unwrap_or_default();
        line.push(marked, format!(" {}{text}", " ".repeat(width.saturating_sub(text.width()))));
    }
    if let Some((part, by)) = time.mostly() {
        line.push(part.tone(), format!("  {} {}", part.name(), difference(by, style)));
    }
    line.write(style, page);
}

/// Microseconds with their sign: `+412 ms`.
pub(super) fn difference(micros: i64, style: Style) -> String {
    let sign = match micros {
        1.. => "+",
        0 => "",
        _ => "-",
    };
    format!("{sign}{}", duration(Seconds::from_micros(micros.unsigned_abs()), style))
}

/// A ratio with two digits where one would hide it.
pub(super) fn ratio(ratio: f64, style: Style) -> String {
    let sign = if style.ascii { "x" } else { "×" };
    if ratio < 0.95 { format!("{ratio:.2}{sign}") } else { times(ratio, style) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::terminal::samples;

    #[test]
    fn the_cases_that_users_meet_look_like_this() {
        let mut other = samples::slow_fetch();
        other.server.tls_version = Some("1.2".to_owned());
        other.server.peer = Some("192.0.2.8:993".parse().unwrap());
        let pairs = [("slower", samples::passed(), other), ("refused", samples::passed(), samples::login_refused())];
        for (name, a, b) in pairs {
            let comparison = Comparison::new(a, b);
            let mut pages = String::new();
            for (width, colour, ascii) in [(60, false, true), (100, true, false)] {
                let page = comparison_text(&comparison, Style { width, colour, ascii });
                pages.push_str(&["--- ", &width.to_string(), " columns\n", &page.replace('\x1b', "\\e")].concat());
            }
            insta::assert_snapshot!(name, pages);
        }
    }

    #[test]
    fn differences_have_a_sign_and_small_ratios_two_digits() {
        let style = Style { width: 80, colour: false, ascii: true };
        let texts = [412_000, -3_100, 0, i64::MIN].map(|micros| difference(micros, style));
        assert_eq!(texts, ["+412 ms", "-3.10 ms", "0 us", "->9999 s"]);
        assert_eq!([0.054, 1.0, 18.67, f64::MAX].map(|by| ratio(by, style)), ["0.05x", "1.0x", "18.7x", ">999x"]);
    }

    proptest! {
        #[test]
        fn whatever_two_runs_hold_no_line_passes_the_width_and_no_control_character_leaves(
            a in samples::any_run(), b in samples::any_run(), width in 40_usize..140, ascii in any::<bool>(),
        ) {
            let style = Style { width, colour: false, ascii };
            let page = comparison_text(&Comparison::new(a, b), style);
            prop_assert!(!ascii || page.is_ascii(), "{page}");
            for line in page.split('\n') {
                prop_assert!(line.width() <= width, "{} columns: {line:?}", line.width());
                prop_assert!(!line.contains(char::is_control), "{line:?}");
            }
        }
    }
}
