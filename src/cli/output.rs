//! The two streams: how each looks, what is written to them, and what happens when one cannot be written.
//!
//! Called by every command of this module. What a reader of standard output that went away means is decided here, once:
//! the program ends early, with the exit code of what it found, and says nothing. Any other fault of that stream is an
//! error of the program ([`Output::conclude`]).

use std::{
    io::{self, IsTerminal},
    os::fd::AsFd,
    time::Duration,
};

use imaptrace_record::printable::escape_lines;
use nix::errno::Errno;

use super::exit_code::{FAILED, NAGIOS_UNKNOWN, PASSED};
use crate::{
    telemetry::logs,
    terminal::{ColorChoice, Style, Surroundings},
};

/// What a result waits for messages that were written before it, if they are read at all.
const BEFORE: Duration = Duration::from_secs(5);

/// Standard output and standard error.
pub(super) struct Output {
    result: Style,
    error: Style,
    sink: Sink,
    deaf: bool,
    /// Columns of the terminal on standard error, where what is under way can be shown.
    progress: Option<usize>,
    one_place: bool,
}

/// What has become of standard output.
enum Sink {
    Open,
    /// The process began without one.
    Missing,
    /// Its reader has gone.
    Unread,
    /// It could not be written.
    Failed(io::Error),
}

impl Output {
    /// `missing` says that the process began without a standard output: what is open in its place now is not one.
    pub(super) fn new(color: ColorChoice, missing: bool) -> Self {
        let error = style(color, &io::stderr());
        // A log that was asked for is written in between.
        let quiet = std::env::var_os("RUST_LOG").is_none_or(|filter| filter.is_empty());
        let progress = (quiet && io::stderr().is_terminal()).then_some(error.width);
        Self {
            result: style(color, &io::stdout()),
            error,
            sink: if missing { Sink::Missing } else { Sink::Open },
            deaf: false,
            progress,
            one_place: one_place(),
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

    /// How wide a line may be that shows what is under way; none without a terminal, where a file would keep it.
    pub(super) fn progress_width(&self) -> Option<usize> {
        self.progress
    }

    /// Writes to standard output.
    pub(super) fn print(&mut self, text: &str) {
        // On a terminal they are in this order.
        logs::flush(BEFORE);
        let written = match self.sink {
            Sink::Open => logs::write_all(&io::stdout(), text.as_bytes()),
            Sink::Missing => Err(Errno::EBADF.into()),
            Sink::Unread | Sink::Failed(_) => return,
        };
        if let Err(error) = written {
            let unread = error.kind() == io::ErrorKind::BrokenPipe;
            self.sink = if unread { Sink::Unread } else { Sink::Failed(error) };
        }
    }

    /// Whether nothing that is printed arrives any more: the reader has gone (`imaptrace … | head`), or the disk is full.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self.sink, Sink::Unread | Sink::Failed(_))
    }

    /// Writes whole lines to standard error, behind what was logged. Where that is gone, they are dropped; where a command
    /// has begun to do what it is for, also when nobody reads: no message holds up a run, or the end.
    pub(super) fn errors(&mut self, text: &str) {
        if self.deaf {
            return;
        }
        let text = if text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") };
        if !logs::write(text.as_bytes()) {
            self.deaf |= logs::write_all(&io::stderr(), text.as_bytes()).is_err();
        }
    }

    pub(super) fn error(&mut self, text: &str) {
        self.errors(&format!("error: {}", escape_lines(text)));
    }

    pub(super) fn warn(&mut self, text: &str) {
        self.errors(&format!("warning: {}", escape_lines(text)));
    }

    /// Whether both streams end at the same place, a terminal mostly: what the one shows need not be on the other.
    pub(super) fn is_one_place(&self) -> bool {
        self.one_place
    }

    /// The exit code, given that of what was found: a result that could not be written was not given.
    pub(super) fn conclude(&mut self, code: u8, nagios: bool) -> u8 {
        let Sink::Failed(failure) = &self.sink else { return code };
        let problem = format!("cannot write to standard output: {failure}");
        self.error(&problem);
        match code {
            _ if nagios => NAGIOS_UNKNOWN,
            PASSED => FAILED,
            code => code,
        }
    }
}

/// Whether standard output and standard error are the same file, pipe or terminal.
fn one_place() -> bool {
    let place = |stream: &dyn AsFd| {
        let stat = nix::sys::stat::fstat(stream.as_fd()).ok()?;
        Some((stat.st_dev, stat.st_ino))
    };
    place(&io::stdout()).is_some_and(|out| Some(out) == place(&io::stderr()))
}

fn style(color: ColorChoice, stream: &(impl IsTerminal + AsFd)) -> Style {
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
