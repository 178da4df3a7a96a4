//! The line that shows, on a terminal, that something is under way: what, and for how many seconds.
//!
//! Made by a thread of its own, and written by the log's: a terminal that is held (Ctrl-S) must not hold a run. Erased when it
//! is over.
//! No escape sequence is used, so it is the same without colour. Called by `probe`.

use std::{
    sync::mpsc::{self, RecvTimeoutError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{clock, probe::CurrentStep, telemetry::logs};

/// What takes less is over before anybody has wondered.
const FIRST: Duration = Duration::from_millis(300);
const EACH: Duration = Duration::from_millis(100);
/// From here on it is worth saying how to end it.
const LONG: Duration = Duration::from_secs(3);
/// What a terminal shows for Ctrl-C behind the line.
const ECHOED: usize = 4;

/// Shows the line for as long as it lives.
pub(super) struct ProgressLine {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ProgressLine {
    /// Shows how far a run is, on a terminal of this width. `run` says which of several it is, and may be empty.
    pub(super) fn of_run(width: usize, run: String, steps: watch::Receiver<Option<CurrentStep>>) -> Self {
        Self::start(width, move || {
            let current = steps.borrow().clone();
            current.map(|step| (format!("{run}{}", step.name), step.since, "  Ctrl-C ends it and shows what there is"))
        })
    }

    /// Shows that something else takes its time.
    pub(super) fn of(width: usize, what: &'static str) -> Self {
        let since = clock::now();
        Self::start(width, move || Some((what.to_owned(), since, "")))
    }

    fn start(
        width: usize,
        mut state: impl FnMut() -> Option<(String, Instant, &'static str)> + Send + 'static,
    ) -> Self {
        let (stop, stopped) = mpsc::channel::<()>();
        let thread = thread::Builder::new().name("progress".to_owned()).spawn(move || {
            let mut shown = 0_usize;
            let mut wait = FIRST;
            while stopped.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                wait = EACH;
                let Some((what, since, hint)) = state() else { continue };
                let text = line(&what, clock::now().saturating_duration_since(since), hint, width);
                let padding = " ".repeat(shown.saturating_sub(text.len()));
                shown = text.len();
                logs::write_at_once(format!("\r{text}{padding}").as_bytes());
            }
            if shown > 0 {
                let room = (shown + ECHOED).min(width.saturating_sub(1));
                logs::write_at_once(format!("\r{}\r", " ".repeat(room)).as_bytes());
            }
        });
        Self { stop: Some(stop), thread: thread.ok() }
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// `FETCH 12.3 s`, in ASCII and a column less than the terminal has, lest it goes on to the next line.
fn line(what: &str, lasts: Duration, hint: &str, width: usize) -> String {
    let hint = if lasts >= LONG { hint } else { "" };
    let text = format!("{what} {:.1} s{hint}", lasts.as_secs_f64());
    text.chars().take(width.saturating_sub(1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_and_how_long_and_never_reaches_the_last_column() {
        assert_eq!(line("FETCH", Duration::from_millis(2_340), "  Ctrl-C", 80), "FETCH 2.3 s");
        assert_eq!(line("FETCH", Duration::from_secs(3), "  Ctrl-C", 80), "FETCH 3.0 s  Ctrl-C");
        assert_eq!(line("run 3 of 10: AUTHENTICATE", Duration::from_secs(3), "", 12), "run 3 of 10");
    }
}
