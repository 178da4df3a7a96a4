//! The pieces of all texts: lines of limited width, tones, units, escaping.

use imaptrace_record::{Seconds, escape};
use unicode_width::UnicodeWidthStr as _;

use super::Style;

/// The meaning of a piece of text, which determines its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Bold,
    Dim,
    Good,
    Warn,
    Bad,
    Bar,
    Server,
    Network,
    Transfer,
}

impl Tone {
    /// Parameters of SELECT GRAPHIC RENDITION (ECMA-48 §8.3.117).
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "0",
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Good => "32",
            Self::Warn => "33",
            Self::Bad => "31",
            Self::Bar | Self::Transfer => "36",
            Self::Server => "35",
            Self::Network => "34",
        }
    }
}

/// One line under construction.
#[derive(Debug, Default)]
pub(super) struct TextLine(Vec<(Tone, String)>);

impl TextLine {
    /// A line of one piece.
    pub(super) fn of(tone: Tone, text: impl Into<String>) -> Self {
        Self(vec![(tone, text.into())])
    }

    pub(super) fn push(&mut self, tone: Tone, text: impl Into<String>) -> &mut Self {
        self.0.push((tone, text.into()));
        self
    }

    /// Adds spaces up to `column`; at least one after other text.
    pub(super) fn pad_to(&mut self, column: usize) -> &mut Self {
        let gap = column.saturating_sub(self.width()).max(usize::from(!self.0.is_empty()));
        self.push(Tone::Plain, " ".repeat(gap))
    }

    pub(super) fn width(&self) -> usize {
        self.0.iter().map(|(_, text)| text.width()).sum()
    }

    /// Writes the line with a line feed, without trailing spaces, clipped to the style's width.
    pub(super) fn write(&self, style: Style, page: &mut String) {
        let whole: String = self.0.iter().map(|(_, text)| text.as_str()).collect();
        let whole = whole.trim_end();
        let fits = whole.width() <= style.width;
        let mut left = if fits { whole.len() } else { prefix(whole, style.width.saturating_sub(1)).len() };
        for (tone, text) in &self.0 {
            let shown = text.get(..left.min(text.len())).unwrap_or_default();
            paint(*tone, shown, style, page);
            left -= shown.len();
        }
        if !fits {
            page.push_str(ellipsis(style));
        }
        page.push('\n');
    }
}

fn paint(tone: Tone, text: &str, style: Style, page: &mut String) {
    let painted = style.colour && tone != Tone::Plain && !text.trim().is_empty();
    let [begin, end] = if painted { [&format!("\x1b[{}m", tone.code()), "\x1b[0m"] } else { [""; 2] };
    page.extend([begin, text, end]);
}

/// Escapes text of others for this style.
pub fn safe(text: &str, style: Style) -> String {
    let text = escape(text);
    if !style.ascii || text.is_ascii() {
        return text;
    }
    let spell = |character: char| match character {
        '…' => "...".to_owned(),
        ascii if ascii.is_ascii() => ascii.to_string(),
        other => other.escape_unicode().to_string(),
    };
    text.chars().map(spell).collect()
}

/// Cuts `text` to at most `width` columns; an ellipsis replaces the rest.
pub(super) fn clip(text: &str, width: usize, style: Style) -> String {
    match width {
        _ if text.width() <= width => text.to_owned(),
        0 => String::new(),
        _ => format!("{}{}", prefix(text, width - 1), ellipsis(style)),
    }
}

/// Cuts `text` to its last `width` columns at most; an ellipsis replaces what is before them.
pub(super) fn clip_start(text: &str, width: usize, style: Style) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let starts = text.char_indices().map(|(at, _)| text.get(at..).unwrap_or_default());
    let rest = starts.skip(1).find(|rest| rest.width() < width).unwrap_or_default();
    if width == 0 { String::new() } else { format!("{}{rest}", ellipsis(style)) }
}

fn ellipsis(style: Style) -> &'static str {
    if style.ascii { "~" } else { "…" }
}

/// The longest prefix of at most `width` columns. The width of an emoji sequence is not the sum of its characters.
fn prefix(text: &str, width: usize) -> &str {
    let ends = text.char_indices().map(|(at, character)| at + character.len_utf8());
    let fitting = ends.map(|end| text.get(..end).unwrap_or_default()).take_while(|part| part.width() <= width);
    fitting.last().unwrap_or_default()
}

/// Breaks `text` at spaces into lines of at most `width` columns; a longer word is broken, too.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for mut word in text.split(' ') {
        if !line.is_empty() && line.width() + 1 + word.width() > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        while word.width() > width {
            let part = prefix(word, width);
            if part.is_empty() {
                break;
            }
            lines.push(part.to_owned());
            word = word.get(part.len()..).unwrap_or_default();
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}

/// A duration in three digits and the unit that fits, at most 7 columns: `310 µs`, `2.90 ms`, `23.3 ms`, `1.20 s`.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub fn duration(seconds: Seconds, style: Style) -> String {
    let micros = seconds.as_micros();
    let (ms, s) = (micros as f64 / 1e3, micros as f64 / 1e6);
    // Each limit is where rounding would add a digit.
    match micros {
        0..1_000 => format!("{micros} {}", if style.ascii { "us" } else { "µs" }),
        1_000..9_995 => format!("{ms:.2} ms"),
        9_995..99_950 => format!("{ms:.1} ms"),
        99_950..999_500 => format!("{ms:.0} ms"),
        999_500..9_995_000 => format!("{s:.2} s"),
        9_995_000..99_950_000 => format!("{s:.1} s"),
        99_950_000..9_999_500_000 => format!("{s:.0} s"),
        _ => ">9999 s".to_owned(),
    }
}

/// A duration over its baseline, at most 6 columns: `8.2×`, `>999×`.
pub(super) fn times(ratio: f64, style: Style) -> String {
    let times = if style.ascii { "x" } else { "×" };
    if ratio < 999.0 { format!("{ratio:.1}{times}") } else { format!(">999{times}") }
}

/// A size in three digits and a decimal unit, at most 7 columns: `88 B`, `48.2 kB`.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub fn size(bytes: u64) -> String {
    if bytes < 1_000 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64, "B");
    for larger in ["kB", "MB", "GB", "TB", "PB", "EB"] {
        if value < 999.5 {
            break;
        }
        value /= 1e3;
        unit = larger;
    }
    let digits = match value {
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WIDE: Style = Style { width: 120, colour: true, ascii: false };
    const PLAIN: Style = Style { width: 12, colour: false, ascii: true };

    #[test]
    fn durations_have_three_digits_and_the_unit_that_fits() {
        let text = |micros| duration(Seconds::from_micros(micros), WIDE);
        let cases = [
            (0, "0 µs"),
            (999, "999 µs"),
            (1_000, "1.00 ms"),
            (9_994, "9.99 ms"),
            (9_995, "10.0 ms"),
            (99_949, "99.9 ms"),
            (99_950, "100 ms"),
            (999_499, "999 ms"),
            (999_500, "1.00 s"),
            (9_995_000, "10.0 s"),
            (30_000_000, "30.0 s"),
            (u64::MAX, ">9999 s"),
        ];
        for (micros, expected) in cases {
            assert_eq!(text(micros), expected, "{micros}");
        }
        assert_eq!(duration(Seconds::from_micros(7), PLAIN), "7 us");
    }

    #[test]
    fn sizes_have_three_digits_and_a_decimal_unit() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.00 kB"),
            (48_211, "48.2 kB"),
            (999_500, "1.00 MB"),
            (u64::MAX, "18.4 EB"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(size(bytes), expected);
        }
    }

    #[test]
    fn a_line_is_clipped_inside_its_pieces_and_keeps_their_tones() {
        let mut page = String::new();
        let mut line = TextLine::default();
        line.push(Tone::Bad, "0123456789").push(Tone::Plain, "abc").push(Tone::Good, "   ");
        line.write(Style { width: 12, ..WIDE }, &mut page);
        assert_eq!(page, "\x1b[31m0123456789\x1b[0ma…\n");
    }

    #[test]
    fn ascii_spells_out_what_is_not_ascii() {
        assert_eq!(safe("Entwürfe…\x1b", PLAIN), "Entw\\u{fc}rfe...\\x1b");
        assert_eq!(safe("Entwürfe", WIDE), "Entwürfe");
    }

    #[test]
    fn wrapping_breaks_at_spaces_and_only_then_inside_words() {
        assert_eq!(wrap("check the name, abcdefghijklmnop", 10), ["check the", "name,", "abcdefghij", "klmnop"]);
    }

    proptest! {
        #[test]
        fn no_piece_is_wider_than_asked(text in any::<String>(), width in 2_usize..50) {
            let text = safe(&text, WIDE);
            prop_assert!(clip(&text, width, WIDE).width() <= width);
            prop_assert!(clip_start(&text, width, WIDE).width() <= width);
            for line in wrap(&text, width) {
                prop_assert!(line.width() <= width, "{line:?}");
            }
        }

        #[test]
        fn durations_and_sizes_take_at_most_seven_columns(number in any::<u64>()) {
            prop_assert!(duration(Seconds::from_micros(number), WIDE).width() <= 7);
            prop_assert!(size(number).width() <= 7);
        }
    }
}
