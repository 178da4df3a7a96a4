//! The two streams: how each looks, what is written to them, and what happens when one cannot be written.
//!
//! Called by every command. When the reader of standard output has gone, the program ends early and silently, with the exit
//! code of its findings; any other fault of that stream is an error ([`Output::conclude`]).

use std::{
    io::{self, IsTerminal},
    os::fd::AsFd,
    time::Duration,
};

use imaptrace_record::printable::escape_lines;
use nix::errno::Errno;

use super::exit_code::{FAILED, NAGIOS_UNKNOWN, PASSED};
use crate::{
    telemetry::logs::{self, LogSettings},
    terminal::{ColorChoice, StreamProperties, Style},
};

/// How long a result waits until the messages before it are written.
const BEFORE: Duration = Duration::from_secs(5);

/// Standard output and standard error.
pub(super) struct Output {
    /// How results look.
    pub(super) style: Style,
    /// How everything else looks.
    pub(super) error_style: Style,
    /// The width of a progress line; none without a terminal on standard error.
    pub(super) progress_width: Option<usize>,
    /// Both streams are the same file, pipe or, mostly, terminal: text on one need not be repeated on the other.
    pub(super) is_one_place: bool,
    sink: Sink,
    /// Standard error cannot be written.
    error_failed: bool,
}

/// The state of standard output.
enum Sink {
    Open,
    /// The process began without one.
    Missing,
    /// Its reader has gone.
    Unread,
    Failed(io::Error),
}

impl Output {
    /// `missing`: the process began without a standard output, and the descriptor in its place is another file.
    pub(super) fn new(color: ColorChoice, missing: bool) -> Self {
        let error_style = style(color, &io::stderr());
        // A log would be written between two versions of the line.
        let quiet = std::env::var_os("RUST_LOG").is_none_or(|filter| filter.is_empty());
        Self {
            style: style(color, &io::stdout()),
            error_style,
            progress_width: (quiet && io::stderr().is_terminal()).then_some(error_style.width),
            is_one_place: is_one_place(),
            sink: if missing { Sink::Missing } else { Sink::Open },
            error_failed: false,
        }
    }

    /// Sets up the log of a one-shot command: `RUST_LOG`, or `filter` without it.
    pub(super) fn start_log(&self, filter: &str) -> Result<(), String> {
        let filter = Some(std::env::var("RUST_LOG").unwrap_or_else(|_| filter.to_owned()));
        let settings = LogSettings { color: self.error_style.colour, filter, ..LogSettings::default() };
        logs::init(&settings).map_err(|error| format!("error: {error}"))
    }

    /// Writes to standard output, after earlier messages.
    pub(super) fn print(&mut self, text: &str) {
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

    /// Whether printed text is lost: the reader has gone (`imaptrace … | head`), or the disk is full.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self.sink, Sink::Unread | Sink::Failed(_))
    }

    /// Writes whole lines to standard error, after what was logged. Lines that cannot be written, or that are not read while
    /// a command is at work, are dropped: no message delays a run or the end.
    pub(super) fn errors(&mut self, text: &str) {
        if self.error_failed {
            return;
        }
        let text = if text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") };
        if !logs::write(text.as_bytes()) {
            self.error_failed = logs::write_all(&io::stderr(), text.as_bytes()).is_err();
        }
    }

    pub(super) fn error(&mut self, text: &str) {
        self.errors(&format!("error: {}", escape_lines(text)));
    }

    pub(super) fn warn(&mut self, text: &str) {
        self.errors(&format!("warning: {}", escape_lines(text)));
    }

    /// The exit code, given that of the findings: a result that could not be written is a failure.
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

fn is_one_place() -> bool {
    let place = |stream: &dyn AsFd| {
        let stat = nix::sys::stat::fstat(stream.as_fd()).ok()?;
        Some((stat.st_dev, stat.st_ino))
    };
    place(&io::stdout()).is_some_and(|out| Some(out) == place(&io::stderr()))
}

fn style(color: ColorChoice, stream: &(impl IsTerminal + AsFd)) -> Style {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(variable).unwrap_or_default().to_ascii_lowercase();
    Style::choose(&StreamProperties {
        color,
        no_color: variable("NO_COLOR").as_deref(),
        term: variable("TERM").as_deref(),
        is_terminal: stream.is_terminal(),
        width: terminal_size::terminal_size_of(stream).map(|(width, _)| width.0.into()),
        utf8: locale.contains("utf-8") || locale.contains("utf8"),
    })
}
