//! The two streams: how each looks, and what happens when nobody reads them any more.

use std::io::{IsTerminal, Write};

use crate::terminal::{ColorChoice, Style, Surroundings};

/// Standard output and standard error.
pub(super) struct Output {
    result: Style,
    error: Style,
    closed: bool,
    deaf: bool,
}

impl Output {
    pub(super) fn new(color: ColorChoice) -> Self {
        Self {
            result: style(color, &std::io::stdout()),
            error: style(color, &std::io::stderr()),
            closed: false,
            deaf: false,
        }
    }

    /// How results look.
    pub(super) fn style(&self) -> Style {
        self.result
    }

    /// How all else looks.
    pub(super) fn error_style(&self) -> Style {
        self.error
    }

    /// Writes to standard output.
    pub(super) fn print(&mut self, text: &str) {
        let mut stream = std::io::stdout().lock();
        self.closed |= stream.write_all(text.as_bytes()).and_then(|()| stream.flush()).is_err();
    }

    /// Whether the reader of standard output has gone (`imaptrace … | head`).
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Writes whole lines to standard error. If that is gone, there is nobody left to tell.
    pub(super) fn errors(&mut self, text: &str) {
        if self.deaf {
            return;
        }
        let text = if text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") };
        self.deaf |= std::io::stderr().lock().write_all(text.as_bytes()).is_err();
    }

    pub(super) fn error(&mut self, text: &str) {
        self.errors(&format!("error: {text}"));
    }

    pub(super) fn warn(&mut self, text: &str) {
        self.errors(&format!("warning: {text}"));
    }
}

fn style(color: ColorChoice, stream: &(impl IsTerminal + std::os::fd::AsFd)) -> Style {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(variable).unwrap_or_default().to_ascii_lowercase();
    Style::choose(&Surroundings {
        color,
        no_color: variable("NO_COLOR").as_deref(),
        term: variable("TERM").as_deref(),
        is_terminal: stream.is_terminal(),
        width: terminal_size::terminal_size_of(stream).map(|(width, _)| width.0.into()),
        utf8: locale.contains("utf-8") || locale.contains("utf8"),
    })
}
