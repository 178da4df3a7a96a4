//! Width, colour, and Unicode or ASCII: decided once, from facts that the caller collects.
//!
//! A stream without a terminal, or with `NO_COLOR` set, gets plain ASCII without colour: its text may go to a file, a mail or a
//! screen reader. `--color always` overrules both the missing terminal and `TERM=dumb`, but not `NO_COLOR`.

/// The value of `--color`. The comments are the help text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ColorChoice {
    /// On a terminal that can show it
    #[default]
    Auto,
    /// In a pipe, too (less -R)
    Always,
    /// Not at all
    Never,
}

/// The properties of the stream that the text is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StreamProperties<'a> {
    /// `--color`.
    pub color: ColorChoice,
    /// The variable `NO_COLOR`; an empty value counts as unset, as its authors define it.
    pub no_color: Option<&'a str>,
    /// The variable `TERM`.
    pub term: Option<&'a str>,
    /// Whether the stream is a terminal.
    pub is_terminal: bool,
    /// The terminal's width in columns.
    pub width: Option<usize>,
    /// Whether the locale's encoding is UTF-8.
    pub utf8: bool,
}

/// The look of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// The most columns of a line.
    pub width: usize,
    /// Colour sequences are used.
    pub colour: bool,
    /// The text is ASCII; other characters are escaped or replaced.
    pub ascii: bool,
}

impl Style {
    /// The width without a terminal.
    pub const UNKNOWN_WIDTH: usize = 100;
    /// The least width; a narrower terminal wraps.
    pub const LEAST_WIDTH: usize = 40;

    /// The style for a stream.
    pub fn choose(stream: &StreamProperties<'_>) -> Self {
        let no_color = stream.no_color.is_some_and(|value| !value.is_empty());
        let plain = no_color || !(stream.is_terminal || stream.color == ColorChoice::Always);
        let dumb = stream.term.is_none_or(|term| term.is_empty() || term == "dumb");
        let chosen = match stream.color {
            ColorChoice::Auto => !dumb,
            ColorChoice::Always => true,
            ColorChoice::Never => false,
        };
        Self {
            width: match stream.width {
                Some(width) if stream.is_terminal => width.max(Self::LEAST_WIDTH),
                _ => Self::UNKNOWN_WIDTH,
            },
            colour: chosen && !plain,
            ascii: plain || !stream.utf8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMINAL: StreamProperties<'_> = StreamProperties {
        color: ColorChoice::Auto,
        no_color: None,
        term: Some("xterm-256color"),
        is_terminal: true,
        width: Some(132),
        utf8: true,
    };

    #[test]
    fn a_terminal_gets_colour_unicode_and_its_own_width() {
        assert_eq!(Style::choose(&TERMINAL), Style { width: 132, colour: true, ascii: false });
    }

    #[test]
    fn always_alone_brings_colour_where_there_is_no_terminal_and_nothing_does_where_no_color_is_set() {
        for color in [ColorChoice::Auto, ColorChoice::Always, ColorChoice::Never] {
            let piped = StreamProperties { color, is_terminal: false, ..TERMINAL };
            let always = color == ColorChoice::Always;
            assert_eq!(Style::choose(&piped), Style { width: 100, colour: always, ascii: !always }, "{color:?}");
            let both = StreamProperties { no_color: Some("1"), ..piped };
            assert_eq!(Style::choose(&both), Style { width: 100, colour: false, ascii: true }, "{color:?}");
            let forbidden = StreamProperties { color, no_color: Some("1"), ..TERMINAL };
            assert_eq!(Style::choose(&forbidden), Style { width: 132, colour: false, ascii: true }, "{color:?}");
        }
        assert!(Style::choose(&StreamProperties { no_color: Some(""), ..TERMINAL }).colour);
    }

    #[test]
    fn always_overrules_a_dumb_terminal_and_never_leaves_unicode() {
        let dumb = StreamProperties { term: Some("dumb"), ..TERMINAL };
        assert!(!Style::choose(&dumb).colour);
        assert!(Style::choose(&StreamProperties { color: ColorChoice::Always, ..dumb }).colour);
        let never = Style::choose(&StreamProperties { color: ColorChoice::Never, ..TERMINAL });
        assert!(!never.colour && !never.ascii);
    }

    #[test]
    fn a_locale_without_utf8_gets_ascii_and_a_tiny_terminal_the_least_width() {
        let style = Style::choose(&StreamProperties { utf8: false, width: Some(7), ..TERMINAL });
        assert_eq!(style, Style { width: Style::LEAST_WIDTH, colour: true, ascii: true });
    }
}
